import numpy as np
import pytest
import torch

from e2far import camera, morphable, raster
from e2far.synthesis.boxes import box
from e2far.synthesis.figures import one_more_each
from e2far.synthesis.studio import SPLITS, VARIATIONS, Studio

SIZE = 48
SHAPES = dict(identity=(80,), expression=(29,), pose=(9,), landmarks=(68, 2))
# A camera that does next to nothing to its picture.
PLAIN = dict(exposure=0.2, automatic=1.0, balance=np.ones(3), blur=np.full(2, 0.01), gamma=2.2)
PLAIN |= dict(contrast=1.0, saturation=1.0, sharpen=0.0, noise=0.0, coarse=1, hash=0, quality=0)


@pytest.fixture(scope="module")
def rows(studio):
    return [studio.photograph(0, "train", *divmod(number, 2)) for number in range(24)]


def same(one, other):
    return {name for name in one if np.array_equal(one[name], other[name])}


def stack(rows, name):
    return torch.from_numpy(np.stack([row[name] for row in rows]))


def angles_deg(pose):
    return torch.rad2deg(camera.matrix_to_euler(camera.sixd_to_matrix(pose[..., :6])))


def draw_scene(studio, person, yaw_deg=0.0, seed=0):
    """The recipe of a person at rest."""
    angles = np.deg2rad([yaw_deg, 0.0, 0.0])
    return studio.draw_scene(person, np.zeros(29, np.float32), angles, np.random.default_rng(seed))


def seen_triangles(studio, recipe, size=SIZE):
    """Corners (S, 3) of the triangles that the samples of a picture see, for those that see one."""
    points, nearness, *_ = studio.scene(recipe)
    seen, _ = raster.zbuffer(points * np.float32(size / SIZE), nearness, studio.triangles, size)
    return studio.triangles[seen[seen >= 0]]


def test_a_picture_is_a_function_of_seed_split_person_and_number(studio, rows):
    one = rows[7]  # person 3, picture 1
    assert one["image"].shape == (SIZE, SIZE, 3) and one["image"].dtype == np.uint8
    for name, shape in SHAPES.items():
        assert one[name].shape == shape and one[name].dtype == np.float32
    for other in ((1, "train", 3, 1), (0, "test", 3, 1), (0, "train", 4, 1)):
        assert not same(one, studio.photograph(*other)) - {"person"}
    # The same person alone keeps their identity.
    assert same(one, studio.photograph(0, "train", 3, 2)) == {"identity", "person"}


def test_order_and_memory_of_people_change_no_picture(face_model, studio):
    """A picture shows neither what a studio made before nor which studio it is: shards, workers
    and reruns rely on that."""
    numbers = [(0, 0), (5, 1), (0, 1), (3, 0), (5, 0)]
    other = Studio(face_model, SIZE)
    there = {number: studio.photograph(1, "test", *number) for number in numbers}
    back = {number: other.photograph(1, "test", *number) for number in numbers[::-1]}
    assert all(same(there[n], back[n]) == set(there[n]) for n in numbers)


def test_the_draws_are_what_they_were(rows, studio):
    """Known numbers: who changes the order of draws changes every data set, and should mean to."""
    first = rows[0]
    identity = [0.10296768, -0.98052716, -0.8174783]
    np.testing.assert_allclose(first["identity"][:3], identity, atol=1e-5)
    assert studio.draw_person(0, "train", 0)[1]["tone"] == pytest.approx(0.142679142)
    pose = angles_deg(torch.from_numpy(first["pose"]))
    np.testing.assert_allclose(pose, [1.01107, 7.13960, -0.44650], atol=1e-3)
    # To what other processors and JPEG libraries round.
    np.testing.assert_allclose(first["image"].mean((0, 1)), [163.7, 127.0, 106.8], atol=1.5)


def test_labels_fit_the_picture(rows, face_model):
    """The model of the stored coefficients under the stored camera, a weak-perspective one, falls
    on the stored landmarks, seen in perspective."""
    shapes = face_model(stack(rows, "identity"), stack(rows, "expression"))
    for shape, row in zip(shapes[:, face_model.landmarks], rows):
        pose = camera.decode_pose(torch.from_numpy(row["pose"]), SIZE)
        seen = camera.weak_perspective(shape, *pose)
        distance = (seen - torch.from_numpy(row["landmarks"])).norm(dim=-1)
        assert distance.mean() < 0.03 * SIZE and distance.max() < 0.08 * SIZE


def test_poses_and_crops_keep_to_their_ranges(rows):
    angles = angles_deg(stack(rows, "pose"))
    assert (angles.abs() <= torch.tensor([80.01, 35.01, 60.01])).all()
    assert angles[:, 0].min() < -45 and angles[:, 0].max() > 45
    box = camera.crop_box(stack(rows, "landmarks"))
    side, centre = box[:, 2] - box[:, 0], (box[:, :2] + box[:, 2:]) / 2
    assert (side > SIZE / 1.151).all() and (side < SIZE / 0.879).all()
    assert ((centre / SIZE - 0.5).abs() <= 0.101).all()


def test_loose_boxes_miss_the_face_by_up_to_a_fifth(toy):
    def places(share):
        studio = Studio(toy, 8, loose_boxes=share, antialias=1)
        recipes = [studio.recipe(0, "train", person, 0) for person in range(40)]
        box = camera.crop_box(stack(recipes, "landmarks")) / 8
        return ((box[:, :2] + box[:, 2:]) / 2 - 0.5).abs().amax(1), box[:, 2] - box[:, 0]

    (tight, tight_side), (loose, loose_side) = places(0.0), places(1.0)
    assert tight.max() <= 0.101 and 0.15 < loose.max() < 0.35
    assert loose_side.min() < tight_side.min() and loose_side.max() > tight_side.max()


def test_the_face_is_where_its_landmarks_are(studio):
    """Before a green wall, without hair and obstacles: no green at the inner landmarks of faces
    seen from the front, and green in some corner."""
    for person in range(8):
        identity, looks = studio.draw_person(0, "train", person)
        bare = studio.dress(identity, looks | dict(shell=0.0, glasses=0.0))
        wall = box(centre=SIZE / 2, half=99, start=(0, 1, 0), end=(0, 1, 0))[None]
        green = dict(background=wall, obstacles=wall[:0], shot=PLAIN)
        row = studio.expose(draw_scene(studio, bare, seed=person) | green)
        green = row["image"][..., 1].astype(int) - row["image"][..., 0]
        x, y = row["landmarks"][17:].astype(int).T
        assert (green[y, x] < 25).all() and green[[0, 0, -1, -1], [0, -1, 0, -1]].max() > 60


def test_people_of_all_splits_differ_and_are_standard_normal(studio):
    people = [(split, person) for split in SPLITS for person in range(40)]
    identities = torch.from_numpy(np.stack([studio.draw_person(0, *one)[0] for one in people]))
    assert torch.cdist(identities, identities).fill_diagonal_(np.inf).min() > 5
    assert identities.abs().max() <= 3 and abs(identities.mean()) < 0.05
    assert abs(identities.std() - 1) < 0.05


def test_a_person_looks_new_in_every_picture_where_restyled(studio):
    one, first = studio.draw_person(0, "restyled", 7, 0)
    other, second = studio.draw_person(0, "restyled", 7, 1)
    assert np.array_equal(one, other)
    assert not {"tone", "hair"} & same(first, second)
    looks = studio.recipe(0, "restyled", 7, 1)["person"]["looks"]
    assert looks["tone"] == np.float32(second["tone"])


def test_any_face_model_can_sit(toy):
    """Models without hair, eyes and names of units: still a picture with brows, and clothes."""
    parts = toy.mean, toy.identity_basis, toy.expression_basis, toy.triangles, toy.landmarks
    for model in (toy, morphable.MorphableModel(*parts)):
        row = Studio(model, SIZE).photograph(0, "train", 0, 0)
        assert row["expression"].shape == (4,) and row["image"].std() > 5


def test_labels_depend_neither_on_looks_nor_on_antialiasing(face_model, rows):
    """Shape and expression stay whatever is left out, and the camera too for all but poses."""
    take = lambda **settings: Studio(face_model, SIZE, **settings).photograph(0, "train", 0, 0)
    bare, front, plain = take(without=VARIATIONS[1:]), take(without=["poses"]), take(antialias=1)
    assert same(bare, rows[0]) == same(plain, rows[0]) == {*SHAPES, "person"}
    assert same(front, rows[0]) == {"identity", "expression", "person"}
    assert abs(plain["image"].astype(float) - rows[0]["image"]).mean() < 10


def test_steps_end_with_the_photo(studio):
    identity, looks = studio.draw_person(0, "train", 0)
    expression, angles = studio.draw_expression(np.random.default_rng(1)), np.deg2rad([25, 5, -4])
    steps = [*one_more_each(studio, identity, looks, expression, angles, seed=3).values()]
    assert all(step.shape == (SIZE, SIZE, 3) and step.dtype == np.uint8 for step in steps)
    assert not any(np.array_equal(a, b) for a, b in zip(steps, steps[1:]))


@pytest.mark.parametrize("part, look", [("hair", "shell"), ("glasses", "glasses")])
def test_what_is_worn_is_seen_and_what_is_not_is_not(studio, part, look):
    identity, looks = studio.draw_person(0, "train", 1)
    recipe = draw_scene(studio, studio.dress(identity, looks), seed=1)
    part, n = studio.wardrobe.parts[part], len(studio.template)

    def share(worn):
        """Of the picture, what sees the part."""
        person = studio.dress(identity, looks | {"lens_dark": 1.0, look: worn})
        corner = seen_triangles(studio, recipe | dict(person=person))[:, 0] - n
        return ((corner >= part.start) & (corner < part.stop)).sum() / SIZE**2

    assert share(1.0) > 0.02 and share(0.0) == 0


def test_teeth_and_tongue_stay_behind_closed_lips(studio, head):
    """From five sides, faces at rest show neither teeth nor tongue but for a few samples."""
    inner = np.zeros(len(studio.eyes), bool)
    inner[: len(head[0])] = np.maximum(head[3]["teeth"], head[3]["tongue"]) > 0.5
    shown = []
    for person in range(6):
        dressed = studio.person(3, "train", person)
        for yaw in (-70, -35, 0, 35, 70):
            scene = draw_scene(studio, dressed, yaw, person)
            shown.append(inner[seen_triangles(studio, scene, 2 * SIZE)].all(1))
    assert np.concatenate(shown).mean() < 2e-4
