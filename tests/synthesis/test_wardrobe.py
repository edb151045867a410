import numpy as np
import pytest

from e2far.synthesis.wardrobe import COLUMNS, ROWS, Wardrobe, grid_triangles

STYLE = dict(
    thickness=10.0,
    lift=0.2,
    recede=0.0,
    fringe=0.0,
    side=0.0,
    opening=1.2,
    parting=0.0,
    flare=0.0,
    brim=0.0,
    peak=0.0,
    waves=np.zeros(COLUMNS),
)


@pytest.fixture(scope="module")
def head(face_model):
    return (
        face_model.mean.numpy(),
        face_model.landmarks.numpy(),
        face_model.triangles.numpy(),
        {k: v.numpy() for k, v in face_model.attributes.items()},
    )


@pytest.fixture(scope="module")
def wardrobe(head):
    return Wardrobe(*head)


def test_a_grid_has_two_triangles_a_cell_that_look_the_same_way():
    y, x = np.mgrid[:4, :5]
    points = np.stack((x.ravel(), -y.ravel()), 1).astype(float)  # rows from the top down, as seen
    triangles = grid_triangles(4, 5)
    a, b, c = points[triangles].transpose(1, 0, 2)
    cross = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    np.testing.assert_allclose(cross, 1)
    assert len(triangles) == 3 * 4 * 2 and len(grid_triangles(4, 5, closed=True)) == 3 * 5 * 2


def test_parts_make_one_mesh(wardrobe):
    ends = sorted((s.start, s.stop) for s in wardrobe.parts.values())
    assert (
        ends[0][0] == 0
        and ends[-1][1] == wardrobe.count
        and all(a[1] == b[0] for a, b in zip(ends, ends[1:]))
    )
    assert set(wardrobe.triangles.ravel()) == set(range(wardrobe.count)) and len(
        wardrobe.surface
    ) < len(wardrobe.triangles)


def test_hair_lies_on_the_scalp_and_leaves_the_face_free(wardrobe, head):
    place, bind, along = wardrobe.hair(**STYLE)
    assert (
        place.shape == (COLUMNS * ROWS, 3)
        and np.isfinite(place).all()
        and (np.diff(along.reshape(ROWS, COLUMNS), axis=0) > 0).all()
    )
    distance = np.linalg.norm(place[:, None] - head[0][::3], axis=2).min(1)
    assert 1 < np.median(distance) < 20 and distance.max() < 45
    face = head[0][head[1]]
    front = place[place[:, 2] > face[:, 2].mean()]
    assert (front[:, 1] > face[17:27, 1].max() + 10).all()  # nothing hangs over the brows
    assert (np.linalg.norm(head[0][bind] - place, axis=1) < 45).all()


def test_styles_do_what_their_names_say(wardrobe, head):
    face, plain = head[0][head[1]], wardrobe.hair(**STYLE)[0]
    low = lambda **change: wardrobe.hair(**STYLE | change)[0]
    in_front = lambda place: place[(place[:, 2] > 0) & (abs(place[:, 0]) < 25)]
    assert in_front(low(fringe=40.0))[:, 1].min() < in_front(plain)[:, 1].min() - 20
    assert in_front(low(recede=25.0))[:, 1].min() > in_front(plain)[:, 1].min() + 5 or not len(
        in_front(low(recede=25.0))
    )
    long = low(side=150.0)
    assert long[:, 1].min() < face[8, 1] - 25 and plain[:, 1].min() > face[8, 1] - 20
    window = long[(long[:, 1] < face[36, 1]) & (long[:, 2] > face[36, 2])]
    assert not len(window)  # long hair leaves the window of the face open
    assert np.ptp(low(thickness=40.0)[:, 0]) > np.ptp(plain[:, 0]) + 40
    brim, peak = low(brim=50.0), low(brim=50.0, peak=1.0)
    assert (
        np.ptp(brim[:, 0]) > np.ptp(plain[:, 0]) + 50 and peak[:, 2].max() > plain[:, 2].max() + 30
    )
    np.testing.assert_allclose(
        peak[:, 2].min(), plain[:, 2].min(), atol=1
    )  # a peak stands out in front alone


def test_brows_lie_on_the_skin_along_their_landmarks(wardrobe, head):
    part = wardrobe.parts["brows"]
    at = np.einsum("bk,bkd->bd", wardrobe.share[part], head[0][wardrobe.bind[part]]).reshape(
        2, 3, -1, 3
    )
    np.testing.assert_allclose(wardrobe.share[part].sum(1), 1, atol=1e-6)
    for side, line in ((0, range(17, 22)), (1, range(22, 27))):
        points = head[0][head[1][list(line)]]
        assert np.linalg.norm(at[side, 1][:, None] - points, axis=2).min(0).max() < 8
        assert (abs(at[side][..., 1] - points[:, 1].mean()) < 14).all()
    np.testing.assert_allclose(
        at[0, 1, :, 0], -at[1, 1, :, 0], atol=4
    )  # both from the temple inwards


def test_glasses_sit_before_the_eyes_and_reach_the_ears(wardrobe, head):
    anchors = np.array([head[0][list(v)].mean(0) for v in wardrobe.glasses_anchors])
    place = wardrobe.glasses(
        anchors, half_width=24.0, half_height=18.0, roundness=2.0, rim=2.0, drop=0.0
    )
    part = wardrobe.parts["glasses"]
    assert place.shape == (part.stop - part.start, 3)
    rims = place[:72].reshape(2, 36, 3)
    np.testing.assert_allclose(rims.mean(1)[:, :2], anchors[:2, :2], atol=1)
    assert (rims[..., 2].mean(1) > anchors[:2, 2] + 8).all() and rims[0, :, 0].max() < rims[
        1, :, 0
    ].min()
    assert place[-12:][:, 2].min() < anchors[3:, 2].mean() - 25


def test_clothes_go_round_the_neck_and_widen(wardrobe, head):
    rings = wardrobe.clothes(width=200.0, slope=10.0, collar=10.0, depth=90.0).reshape(6, 24, 3)
    assert (np.diff(np.ptp(rings[..., 0], axis=1)[1:]) > 0).all() and rings[2:, :, 1].max() < head[
        0
    ][head[1]][8, 1]


def test_a_model_without_a_hairline_goes_without_hair(head):
    mean, landmarks, triangles, _ = head
    assert not Wardrobe(mean, landmarks, triangles, {}).has_hair
