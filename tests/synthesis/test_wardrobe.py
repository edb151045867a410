import numpy as np
import pytest

from e2far.synthesis.wardrobe import COLUMNS, ROWS, Wardrobe, grid_triangles

STYLE = dict(thickness=10.0, lift=0.2, opening=1.2, waves=np.zeros(COLUMNS))
STYLE |= dict.fromkeys(("recede", "fringe", "side", "parting", "flare", "brim", "peak"), 0.0)


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
    parts = sorted((part.start, part.stop) for part in wardrobe.parts.values())
    starts, stops = zip(*parts)
    assert (*starts, wardrobe.count) == (0, *stops)
    assert set(wardrobe.triangles.ravel()) == set(range(wardrobe.count))
    assert len(wardrobe.surface) < len(wardrobe.triangles)


def test_hair_lies_on_the_scalp_and_leaves_the_face_free(wardrobe, head):
    mean, face = head[0], head[0][head[1]]
    place, bind, along = wardrobe.hair(**STYLE)
    assert place.shape == (COLUMNS * ROWS, 3)
    assert (np.diff(along.reshape(ROWS, COLUMNS), axis=0) > 0).all()
    distance = np.linalg.norm(place[:, None] - mean[::3], axis=2).min(1)
    assert 1 < np.median(distance) < 20 and distance.max() < 45
    assert (np.linalg.norm(mean[bind] - place, axis=1) < 45).all()
    front = place[place[:, 2] > face[:, 2].mean()]
    assert (front[:, 1] > face[17:27, 1].max() + 10).all()  # nothing hangs over the brows


def test_styles_do_what_their_names_say(wardrobe, head):
    style = lambda **change: wardrobe.hair(**STYLE | change)[0]
    face, plain = head[0][head[1]], style()
    chin, eye = face[8], face[36]
    forehead = lambda place: place[(place[:, 2] > 0) & (abs(place[:, 0]) < 25), 1].min(initial=999)
    assert forehead(style(fringe=40.0)) < forehead(plain) - 20
    assert forehead(style(recede=25.0)) > forehead(plain) + 5
    long = style(side=150.0)
    assert long[:, 1].min() < chin[1] - 25 and plain[:, 1].min() > chin[1] - 20
    # Long hair leaves the window of the face open.
    assert not ((long[:, 1] < eye[1]) & (long[:, 2] > eye[2])).any()
    width = lambda place: np.ptp(place[:, 0])
    assert width(style(thickness=40.0)) > width(plain) + 40
    brim, peak = style(brim=50.0), style(brim=50.0, peak=1.0)
    # A peak stands out in front alone.
    assert width(brim) > width(plain) + 50 and peak[:, 2].max() > plain[:, 2].max() + 30
    np.testing.assert_allclose(peak[:, 2].min(), plain[:, 2].min(), atol=1)


def test_brows_lie_on_the_skin_along_their_landmarks(wardrobe, head):
    part, (mean, landmarks, *_) = wardrobe.parts["brows"], head
    share, corners = wardrobe.share[part], mean[wardrobe.bind[part]]
    np.testing.assert_allclose(share.sum(1), 1, atol=1e-6)
    brows = np.einsum("bk,bkd->bd", share, corners).reshape(2, 3, -1, 3)
    for brow, line in zip(brows, (landmarks[17:22], landmarks[22:27])):
        points = mean[line]
        assert np.linalg.norm(brow[1][:, None] - points, axis=2).min(0).max() < 8
        assert (abs(brow[..., 1] - points[:, 1].mean()) < 14).all()
    # Both from the temple inwards.
    np.testing.assert_allclose(brows[0, 1, :, 0], -brows[1, 1, :, 0], atol=4)


def test_glasses_sit_before_the_eyes_and_reach_the_ears(wardrobe, head):
    anchors = np.array([head[0][list(v)].mean(0) for v in wardrobe.glasses_anchors])
    shape = dict(half_width=24.0, half_height=18.0, roundness=2.0, rim=2.0, drop=0.0)
    place, part = wardrobe.glasses(anchors, **shape), wardrobe.parts["glasses"]
    assert place.shape == (part.stop - part.start, 3)
    rims = place[:72].reshape(2, 36, 3)
    np.testing.assert_allclose(rims.mean(1)[:, :2], anchors[:2, :2], atol=1)
    assert (rims[..., 2].mean(1) > anchors[:2, 2] + 8).all()
    assert rims[0, :, 0].max() < rims[1, :, 0].min()
    assert place[-12:][:, 2].min() < anchors[3:, 2].mean() - 25


def test_clothes_go_round_the_neck_and_widen(wardrobe, head):
    rings = wardrobe.clothes(width=200.0, slope=10.0, collar=10.0, depth=90.0).reshape(6, 24, 3)
    assert (np.diff(np.ptp(rings[..., 0], axis=1)[1:]) > 0).all()
    chin = head[0][head[1][8]]
    assert rings[2:, :, 1].max() < chin[1]


def test_a_model_without_a_hairline_goes_without_hair(head):
    assert not Wardrobe(*head[:3], {}).has_hair
