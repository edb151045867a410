import numpy as np
import pytest
import torch
from scipy.ndimage import binary_erosion

from e2far import morphable
from e2far.analysis import counterfactuals
from e2far.analysis.counterfactuals import FACTORS
from e2far.synthesis import develop, scenes
from e2far.synthesis.studio import Studio

SIZE, SEED, PAIRS = 48, 3, 6
SHAPE = {"expression", "identity", "pose"}  # what the crop follows


@pytest.fixture(scope="module")
def studio(face_model):
    return Studio(face_model, SIZE, yaw_deg=20.0)


@pytest.fixture(scope="module")
def pairs(studio):
    return [counterfactuals.counterfactuals(studio, SEED, number) for number in range(PAIRS)]


def same(one, other):
    return {label for label in one if np.array_equal(one[label], other[label])}


def test_a_pair_starts_and_ends_with_two_plain_pictures_and_depends_on_no_order(studio, pairs):
    for number in (4, 1):
        for name, person in (("original", 2 * number), ("another", 2 * number + 1)):
            assert same(pairs[number][name], studio.photograph(SEED, "test", person, 0)) == {
                "image",
                "identity",
                "expression",
                "pose",
                "landmarks",
            }
        again = counterfactuals.counterfactuals(studio, SEED, number)
        assert list(again) == ["original", *FACTORS, "another"] and all(
            len(same(again[name], pairs[number][name])) == 5 for name in again
        )
    elsewhere = counterfactuals.counterfactuals(studio, SEED, 1, split="train")["original"]
    assert not same(elsewhere, pairs[1]["original"])


def test_each_factor_changes_its_own_labels_alone(pairs):
    for pair in pairs:
        original, another = pair["original"], pair["another"]
        assert not same(original, another)
        for name in FACTORS:
            labels = same(pair[name], original) - {"landmarks"}
            assert labels == {"identity", "expression", "pose"} - (
                {name, "pose"} if name in SHAPE | {"camera"} else set()
            )
            if name in ("expression", "identity"):
                assert np.array_equal(pair[name][name], another[name])
            assert np.array_equal(
                pair[name]["pose"][:6], (another if name == "pose" else original)["pose"][:6]
            )  # the rotation


def test_the_factors_are_all_there_is(studio):
    """Each changes the picture, none leaves a trace in the next, and the original with all of them changed is the other picture."""
    mixed, another = (
        counterfactuals.draw_factors(studio, SEED, "test", person) for person in (0, 1)
    )
    before = counterfactuals.photograph(studio, mixed)
    for name in FACTORS:
        mixed |= {name: another[name]}
        after = counterfactuals.photograph(studio, mixed)
        assert (
            abs(after["image"].astype(float) - before["image"]).mean() > 1
            and len(same(after, counterfactuals.photograph(studio, mixed))) == 5
        )
        before = after
    assert len(same(before, studio.photograph(SEED, "test", 1, 0))) == 5


def test_light_and_paint_stay_on_the_person_and_the_background_behind(studio, monkeypatch):
    """Before the camera, whose automatic exposure would spread every change over the whole picture."""
    monkeypatch.setattr(develop, "develop", lambda picture, shot: picture)
    for number in range(PAIRS):
        pair = counterfactuals.counterfactuals(studio, SEED, number)
        moved = {
            name: (row["image"] != pair["original"]["image"]).any(-1) for name, row in pair.items()
        }
        x, y = pair["original"]["landmarks"][27:].astype(int).T  # nose, eyes, mouth
        assert (
            not moved["background"][y, x].any()
            and moved["light"][y, x].mean() > 0.8
            and moved["background"].mean() > 0.05
        )
        wall = binary_erosion(moved["background"], iterations=2)
        assert not moved["light"][wall].any()


def test_what_is_not_the_factor_is_kept(studio, monkeypatch):
    monkeypatch.setattr(studio, "expose", lambda recipe: recipe)
    owner = dict(
        harmonics="light",
        lamps="light",
        shade="light",
        background="background",
        distance="camera",
        obstacles="camera",
        expression="expression",
        rotation="pose",
    )
    for number in range(PAIRS):
        pair = counterfactuals.counterfactuals(studio, SEED, number)
        for name in FACTORS:
            for key, factor in owner.items():
                found, kept = (
                    pair[name][key],
                    pair["another" if name == factor else "original"][key],
                )
                if key == "obstacles":  # a hand has its owner's skin and sleeve
                    places = ["centre", "half", "corner", "angle", "softness", "opacity"]
                    found, kept = found[places], kept[places]
                assert np.array_equal(found, kept), (name, key)
            assert (pair[name]["shot"]["hash"] == pair["another"]["shot"]["hash"]) == (
                name == "camera"
            )


def test_another_albedo_repaints_the_same_shape_and_a_bare_neck_with_it(studio, monkeypatch):
    monkeypatch.setattr(studio, "expose", lambda recipe: recipe["person"])
    bare = []
    for number in range(12):
        pair = counterfactuals.counterfactuals(studio, SEED, number)
        own, painted, styled, another = (
            pair[name]["looks"] for name in ("original", "albedo", "styling", "another")
        )
        assert all(
            np.array_equal(pair["albedo"][place], pair["original"][place])
            for place in ("neutral", "worn")
        ) and np.array_equal(pair["styling"]["neutral"], pair["original"]["neutral"])
        for looks, skin, hair in ((painted, another, own), (styled, own, another)):
            assert np.array_equal(looks["skin"], skin["skin"]) and np.array_equal(
                looks["hair"], hair["hair"]
            )
            assert np.array_equal(looks["collar"], looks["skin"]) == np.array_equal(
                hair["collar"], hair["skin"]
            )  # as bare as whose clothes they are
        bare.append(np.array_equal(own["collar"], own["skin"]))
    assert 0 < sum(bare) < 12


def test_pairs_are_stacked_and_the_same_for_any_number_of_processes():
    model = morphable.toy_model(dtype=torch.float32)
    one, two = (
        counterfactuals.draw_pairs(model, 3, 24, SEED, n_jobs=n_jobs, yaw_deg=30.0)
        for n_jobs in (1, 2)
    )
    of_one = counterfactuals.counterfactuals(Studio(model, 24, yaw_deg=30.0), SEED, 2)
    assert list(one) == ["original", *FACTORS, "another"]
    for name in one:
        assert (
            one[name]["image"].dtype == torch.uint8
            and one[name]["image"].shape == (3, 3, 24, 24)
            and one[name]["pose"].shape == (3, 9)
        )
        for label, values in one[name].items():
            expected = of_one[name][label]
            expected = expected.transpose(2, 0, 1) if label == "image" else expected
            assert torch.equal(values, two[name][label]) and np.array_equal(values[2], expected)


def test_a_sample_holds_the_numbers_of_its_pictures(face_model):
    found, studio = (
        counterfactuals.draw_sample(face_model, 3, 24, 5, yaw_deg=15.0),
        Studio(face_model, 24, yaw_deg=15.0),
    )
    assert found["person"].tolist() == [0, 0, 1, 1, 2, 2] and found["image"].shape == (6, 3, 24, 24)
    for row, (who, which) in enumerate([(0, 0), (0, 1), (1, 0), (1, 1), (2, 0), (2, 1)]):
        picture, recipe = (
            studio.photograph(5, "test", who, which),
            studio.recipe(5, "test", who, which),
        )
        np.testing.assert_array_equal(found["image"][row].permute(1, 2, 0), picture["image"])
        np.testing.assert_array_equal(found["identity"][row], picture["identity"])
        np.testing.assert_allclose(
            face_model.units_to_modes @ found["units"][row], picture["expression"], atol=1e-5
        )
        np.testing.assert_allclose(found["light"][row], recipe["harmonics"][:4].mean(1), rtol=1e-6)
    assert torch.equal(found["albedo"][0], found["albedo"][1]) and not torch.equal(
        found["albedo"][0], found["albedo"][2]
    )


@pytest.mark.parametrize("shift", counterfactuals.SHIFTS)
def test_another_world_changes_the_picture_and_none_of_its_labels(face_model, shift):
    as_in_training, shifted = (
        counterfactuals.draw_sample(face_model, 2, 32, 5, shifts=shifts)
        for shifts in ((), (shift,))
    )
    for label in ("identity", "expression", "pose", "landmarks", "person", "units"):
        assert torch.equal(as_in_training[label], shifted[label])
    change = (as_in_training["image"].float() - shifted["image"].float()).abs().mean((1, 2, 3))
    assert change.min() > 8  # of 255, in every picture


def test_a_bad_camera_knows_no_colour_and_clay_is_grey(face_model):
    camera, clay = (
        counterfactuals.draw_sample(face_model, 2, 48, 5, shifts=(shift,))
        for shift in ("camera", "clay")
    )
    spread = lambda image: (image.float().amax(1) - image.float().amin(1)).mean()
    assert (
        spread(camera["image"])
        < 12
        < spread(counterfactuals.draw_sample(face_model, 2, 48, 5)["image"])
    )
    assert torch.equal(clay["albedo"][:, 0], clay["albedo"][:, 1]) and torch.equal(
        clay["albedo"][:, 1], clay["albedo"][:, 2]
    )


def test_other_worlds_lie_beyond_all_that_training_draws(studio):
    recipe = studio.recipe(SEED, "test", 0, 0)
    other = counterfactuals.shift_domain(recipe, ("light", "camera"), np.random.default_rng(0))
    drawn = [scenes.draw_camera(SIZE, np.random.default_rng(k)) for k in range(500)]
    for name, side in dict(noise=1, coarse=1, contrast=1, gamma=-1).items():
        worst = max(side * shot[name] for shot in drawn)
        assert side * other["shot"][name] > worst, name
    assert other["shot"]["quality"] < min(s["quality"] for s in drawn if s["quality"])
    lights = [scenes.draw_light(np.random.default_rng(k)) for k in range(500)]
    below = [
        lamps.any(1).sum() == 1 and lamps[0, 1] < -0.7 and harmonics[0].mean() < 0.1
        for harmonics, lamps in lights
    ]
    assert other["lamps"][0, 1] < -0.7 and not any(below)


def test_identity_bias_is_the_average_persons_and_no_single_ones():
    """A network that reads each picture's brightness as one coefficient of identity."""
    model = morphable.toy_model(dtype=torch.float32)
    values = torch.tensor([0, 51, 102, 255], dtype=torch.uint8)
    images = values[:, None, None, None].expand(4, 3, 8, 8)
    read = torch.zeros(4, model.n_identity)
    read[:, 0] = values / 255.0

    def network(crops):
        identity = torch.zeros(len(crops), model.n_identity)
        identity[:, 0] = crops.mean((1, 2, 3))
        return dict(identity=identity)

    found = counterfactuals.identity_bias(network, model, images, batch_size=3)
    basis = model.identity_basis[model.region][..., 0]
    assert found == pytest.approx(0.4 * basis.square().sum(-1).mean().sqrt().item(), rel=1e-4)
    assert counterfactuals.identity_bias(network, model, images, read) == pytest.approx(0, abs=1e-5)
    assert counterfactuals.identity_bias(network, model, images, read.flip(0)) < 1e-5
