import numpy as np
import pytest
import torch

from e2far import camera, morphable, raster
from e2far.synthesis.develop import box
from e2far.synthesis.figures import one_more_each
from e2far.synthesis.studio import SPLITS, VARIATIONS, Studio

SIZE = 48


@pytest.fixture(scope="module")
def studio(face_model):
    return Studio(face_model, SIZE)


@pytest.fixture(scope="module")
def rows(studio):
    return [
        studio.photograph(0, "train", person, picture)
        for person in range(12)
        for picture in range(2)
    ]


def test_a_picture_is_a_function_of_seed_split_person_and_number(studio):
    one = studio.photograph(0, "train", 3, 1)
    assert {k: (v.shape, v.dtype.name) for k, v in one.items() if k != "person"} == dict(
        image=((SIZE, SIZE, 3), "uint8"),
        identity=((80,), "float32"),
        expression=((29,), "float32"),
        pose=((9,), "float32"),
        landmarks=((68, 2), "float32"),
    )
    studio.photograph(5, "test", 0, 0)
    again = studio.photograph(0, "train", 3, 1)
    assert all(np.array_equal(one[k], again[k]) for k in one)
    for other in ((1, "train", 3, 1), (0, "test", 3, 1), (0, "train", 4, 1), (0, "train", 3, 2)):
        picture = studio.photograph(*other)
        assert not np.array_equal(picture["image"], one["image"]) and not np.array_equal(
            picture["pose"], one["pose"]
        )
        assert np.array_equal(picture["identity"], one["identity"]) == (
            other == (0, "train", 3, 2)
        )  # the same person alone keeps their identity


def test_the_draws_are_what_they_were(rows, studio):
    """Known numbers: whoever changes the order of the draws changes every data set, and should mean to."""
    first = rows[0]
    np.testing.assert_allclose(
        first["identity"][:3], [0.10296768, -0.98052716, -0.8174783], atol=1e-5
    )
    assert studio.draw_person(0, "train", 0)[1]["tone"] == pytest.approx(0.142679142)
    angles = torch.rad2deg(
        camera.matrix_to_euler(camera.sixd_to_matrix(torch.from_numpy(first["pose"][:6])))
    )
    np.testing.assert_allclose(angles, [1.01107, 7.13960, -0.44650], atol=1e-3)
    np.testing.assert_allclose(
        first["image"].mean((0, 1)), [163.7, 127.0, 106.8], atol=1.5
    )  # to what other processors and JPEG libraries round


def test_labels_fit_the_picture(rows, face_model):
    """The model of the stored coefficients under the stored camera, a weak-perspective one, falls on the stored landmarks, seen in perspective."""
    for row in rows:
        shape = face_model(
            torch.from_numpy(row["identity"])[None], torch.from_numpy(row["expression"])[None]
        )[0, face_model.landmarks]
        seen = camera.weak_perspective(
            shape, *camera.decode_pose(torch.from_numpy(row["pose"]), SIZE)
        )
        distance = (seen - torch.from_numpy(row["landmarks"])).norm(dim=-1)
        assert distance.mean() < 0.03 * SIZE and distance.max() < 0.08 * SIZE


def test_poses_and_crops_keep_to_their_ranges(rows):
    angles = torch.rad2deg(
        camera.matrix_to_euler(
            camera.sixd_to_matrix(torch.from_numpy(np.stack([r["pose"][:6] for r in rows])))
        )
    )
    assert (
        (angles.abs() <= torch.tensor([80.01, 35.01, 60.01])).all()
        and angles[:, 0].min() < -45
        and angles[:, 0].max() > 45
    )
    box = camera.crop_box(torch.from_numpy(np.stack([r["landmarks"] for r in rows])))
    side, centre = box[:, 2] - box[:, 0], (box[:, :2] + box[:, 2:]) / 2
    assert (side > SIZE / 1.151).all() and (side < SIZE / 0.879).all()
    assert ((centre / SIZE - 0.5).abs() <= 0.101).all()


def test_the_face_is_where_its_landmarks_are(studio):
    """Before a green wall, without hair and obstacles: no green at the inner landmarks of faces seen from the front, and green in some corner."""
    found = []
    for person in range(8):
        identity, looks = studio.draw_person(0, "train", person)
        recipe = studio.draw_scene(
            studio.dress(identity, looks | dict(shell=0.0, glasses=0.0)),
            np.zeros(29, np.float32),
            np.zeros(3),
            np.random.default_rng(person),
        )
        wall = np.zeros_like(recipe["background"])
        wall[0] = box(centre=SIZE / 2, half=99, start=(0, 1, 0), end=(0, 1, 0))
        plain = dict(
            exposure=0.2,
            automatic=1.0,
            balance=np.ones(3),
            blur=np.full(2, 0.01),
            gamma=2.2,
            contrast=1.0,
            saturation=1.0,
            sharpen=0.0,
            noise=0.0,
            coarse=1,
            hash=0,
            quality=0,
        )
        bare = dict(background=wall, obstacles=np.zeros_like(recipe["obstacles"]), shot=plain)
        row = studio.expose(recipe | bare)
        green = row["image"][..., 1].astype(int) - row["image"][..., 0]
        x, y = row["landmarks"][17:].astype(int).T
        found.append((green[y, x] < 25).all() and green[[0, 0, -1, -1], [0, -1, 0, -1]].max() > 60)
    assert all(found)


def test_loose_boxes_miss_the_face_by_up_to_a_fifth(face_model):
    def places(share):
        studio = Studio(face_model, 8, loose_boxes=share, antialias=1)
        box = (
            camera.crop_box(
                torch.from_numpy(
                    np.stack(
                        [studio.recipe(0, "train", person, 0)["landmarks"] for person in range(40)]
                    )
                )
            )
            / 8
        )
        return ((box[:, :2] + box[:, 2:]) / 2 - 0.5).abs().amax(1), box[:, 2] - box[:, 0]

    tight, loose = places(0.0), places(1.0)
    assert tight[0].max() <= 0.101 and 0.15 < loose[0].max() < 0.35
    assert loose[1].min() < tight[1].min() and loose[1].max() > tight[1].max()


def test_yaw_shows_in_the_picture(studio):
    """Turned towards the subject's left, the nose tip lies to the right of the middle between the ears."""
    identity, looks = studio.draw_person(0, "train", 1)
    for yaw in (-0.6, 0.6):
        scene = studio.draw_scene(
            studio.dress(identity * 0, looks),
            np.zeros(29, np.float32),
            np.array([yaw, 0.0, 0.0]),
            np.random.default_rng(0),
        )
        row = studio.expose(scene)
        nose, ears = row["landmarks"][30, 0], row["landmarks"][[0, 16], 0].mean()
        assert np.sign(nose - ears) == np.sign(yaw)


def test_a_person_looks_the_same_in_every_picture_and_unlike_others(studio):
    identity, looks = studio.draw_person(0, "train", 7)
    again, same = studio.draw_person(0, "train", 7)
    assert np.array_equal(identity, again) and all(
        np.array_equal(looks[k], same[k]) for k in looks if not isinstance(looks[k], dict)
    )
    (one, first), (other, second) = (
        studio.draw_person(0, "restyled", 7, picture) for picture in (0, 1)
    )
    assert (
        np.array_equal(one, other)
        and first["tone"] != second["tone"]
        and not np.array_equal(first["hair"], second["hair"])
    )  # but there
    assert np.array_equal(
        studio.recipe(0, "restyled", 7, 1)["person"]["looks"]["tone"], np.float32(second["tone"])
    )
    everyone = np.stack(
        [studio.draw_person(0, split, person)[0] for split in SPLITS for person in range(40)]
    )
    distance = torch.cdist(torch.from_numpy(everyone), torch.from_numpy(everyone)).fill_diagonal_(
        np.inf
    )
    assert distance.min() > 5  # no split knows a person of another
    assert (
        abs(everyone).max() <= 3 and abs(everyone.std() - 1) < 0.05 and abs(everyone.mean()) < 0.05
    )


def test_identities_and_expressions_are_not_tied(rows):
    assert len({row["expression"].tobytes() for row in rows}) > 15


def test_a_model_that_names_no_units_draws_normal_expressions():
    toy = morphable.toy_model(dtype=torch.float32)
    bare = morphable.MorphableModel(
        toy.mean,
        toy.identity_basis,
        toy.expression_basis,
        toy.triangles,
        toy.landmarks,
        name="bare",
    )
    row = Studio(bare, SIZE).photograph(0, "train", 0, 0)
    assert row["expression"].shape == (4,) and row["image"].std() > 5


def test_antialiasing_changes_the_picture_but_not_the_labels(face_model, rows):
    plain = Studio(face_model, SIZE, antialias=1).photograph(0, "train", 0, 0)
    for name in ("identity", "expression", "pose", "landmarks"):
        assert np.array_equal(plain[name], rows[0][name])
    assert 0 < abs(plain["image"].astype(float) - rows[0]["image"]).mean() < 10


def test_steps_end_with_the_photo(studio):
    identity, looks = studio.draw_person(0, "train", 0)
    expression = studio.draw_expression(np.random.default_rng(1))
    angles = np.deg2rad([25.0, 5.0, -4.0])
    steps = one_more_each(studio, identity, looks, expression, angles, seed=3)
    assert all(
        picture.shape == (SIZE, SIZE, 3) and picture.dtype == np.uint8 for picture in steps.values()
    )
    pictures = list(steps.values())
    assert all(not np.array_equal(a, b) for a, b in zip(pictures, pictures[1:]))


def test_a_recipe_gives_its_picture_again(studio):
    recipe = studio.draw_scene(
        studio.person(0, "train", 2),
        np.zeros(29, np.float32),
        np.array([0.3, 0.0, 0.0]),
        np.random.default_rng(5),
    )
    one, two = studio.expose(recipe), studio.expose(recipe)
    assert all(np.array_equal(one[k], two[k]) for k in one)


def test_order_and_memory_of_people_change_no_picture(face_model, studio):
    """Neither what a studio made before nor which studio it is shows in a picture: what shards, workers and reruns rely on."""
    numbers = [(0, 0), (5, 1), (0, 1), (3, 0), (5, 0)]
    other = Studio(face_model, SIZE)
    there = {number: studio.photograph(1, "test", *number) for number in numbers}
    back = {number: other.photograph(1, "test", *number) for number in numbers[::-1]}
    assert all(np.array_equal(there[n][k], back[n][k]) for n in numbers for k in there[n])


def green_share(studio, part, person, recipe):
    """Share of the picture that sees the worn part."""
    start = len(studio.template) + studio.wardrobe.parts[part].start
    stop = len(studio.template) + studio.wardrobe.parts[part].stop
    points, nearness, *_ = studio.scene(recipe | dict(person=person))
    seen, _ = raster.zbuffer(points, nearness, studio.triangles, SIZE)
    corner = studio.triangles[seen[seen >= 0]][:, 0]
    return ((corner >= start) & (corner < stop)).sum() / seen.size


@pytest.mark.parametrize(
    "part, worn, bare",
    [
        ("hair", dict(shell=1.0), dict(shell=0.0)),
        ("glasses", dict(glasses=1.0, lens_dark=1.0), dict(glasses=0.0)),
    ],
)
def test_what_is_worn_is_seen_and_what_is_not_is_not(studio, part, worn, bare):
    identity, looks = studio.draw_person(0, "train", 1)
    recipe = studio.draw_scene(
        studio.dress(identity, looks),
        np.zeros(29, np.float32),
        np.zeros(3),
        np.random.default_rng(1),
    )
    assert green_share(studio, part, studio.dress(identity, looks | worn), recipe) > 0.02
    assert green_share(studio, part, studio.dress(identity, looks | bare), recipe) == 0


def test_labels_do_not_depend_on_looks(face_model, rows):
    """Every variation can be left out; shape and expression stay, and for all but poses the camera too."""
    for name in VARIATIONS:
        row = Studio(face_model, SIZE, without=(name,)).photograph(0, "train", 0, 0)
        same = [
            k
            for k in ("identity", "expression", "pose", "landmarks")
            if np.array_equal(row[k], rows[0][k])
        ]
        assert (
            same == ["identity", "expression"]
            if name == "poses"
            else same == ["identity", "expression", "pose", "landmarks"]
        )
    with pytest.raises(ValueError, match="hat"):
        Studio(face_model, SIZE, without=("hat",))


def test_teeth_and_tongue_stay_behind_closed_lips(studio, face_model):
    """From five sides, faces at rest show neither teeth nor tongue but for a few samples."""
    n = len(studio.template)
    inner = np.zeros(len(studio.eyes), bool)
    inner[:n] = (
        np.max([face_model.attributes[k].numpy() for k in ("teeth", "tongue")], axis=0) > 0.5
    )
    shown = total = 0
    for person in range(6):
        dressed = studio.person(3, "train", person)
        for yaw in (-70, -35, 0, 35, 70):
            points, nearness, *_ = studio.scene(
                studio.draw_scene(
                    dressed,
                    np.zeros(29, np.float32),
                    np.deg2rad([yaw, 0.0, 0.0]),
                    np.random.default_rng(person),
                )
            )
            seen, _ = raster.zbuffer(points * np.float32(2), nearness, studio.triangles, 2 * SIZE)
            shown, total = (
                shown + inner[studio.triangles[seen[seen >= 0]]].all(1).sum(),
                total + (seen >= 0).sum(),
            )
    assert shown / total < 2e-4


def test_any_face_model_can_sit(rows):
    """A model that knows only triangles and landmarks: no hair, no eyes, and still a picture with brows, glasses and clothes."""
    toy = morphable.toy_model(dtype=torch.float32)
    row = Studio(toy, SIZE).photograph(0, "train", 0, 0)
    assert row["image"].shape == (SIZE, SIZE, 3) and row["image"].std() > 5
