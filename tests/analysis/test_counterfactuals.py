import numpy as np
import pytest
import torch

from e2far import morphable
from e2far.analysis import counterfactuals
from e2far.analysis.counterfactuals import FACTORS
from e2far.synthesis import scenes
from e2far.synthesis.studio import Studio

SIZE, SEED, PAIRS = 48, 3, 6
LABELS = {"identity", "expression", "pose", "landmarks"}


@pytest.fixture(scope="module")
def studio(face_model):
    return Studio(face_model, SIZE, yaw_deg=20.0)


def draw(studio, numbers=range(PAIRS)):
    return [counterfactuals.counterfactuals(studio, SEED, number) for number in numbers]


@pytest.fixture(scope="module")
def pairs(studio):
    return draw(studio)


def same(one, other):
    arrays = {name: value for name, value in one.items() if not isinstance(value, dict)}
    return {name for name, value in arrays.items() if np.array_equal(value, other[name])}


def test_a_pair_starts_and_ends_with_two_plain_pictures_and_depends_on_no_order(studio, pairs):
    numbers = (4, 1)
    for number, again in zip(numbers, draw(studio, numbers)):
        pair = pairs[number]
        for name, person in (("original", 2 * number), ("another", 2 * number + 1)):
            plain = studio.photograph(SEED, "test", person, 0)
            assert same(pair[name], plain) == {"image", *LABELS}
        assert list(again) == ["original", *FACTORS, "another"]
        assert all(same(again[name], pair[name]) == {"image", *LABELS} for name in again)
    elsewhere = counterfactuals.counterfactuals(studio, SEED, 1, split="train")["original"]
    assert not same(elsewhere, pairs[1]["original"])


def test_each_factor_changes_its_own_labels_alone(pairs):
    moves_crop = {"expression", "identity", "pose", "camera"}
    for pair in pairs:
        original, another = pair["original"], pair["another"]
        assert not same(original, another)
        for name in FACTORS:
            changed = {name, "pose", "landmarks"} if name in moves_crop else {"landmarks"}
            assert same(pair[name], original) - {"landmarks"} == LABELS - changed
            if name in ("expression", "identity"):
                assert np.array_equal(pair[name][name], another[name])
            rotation = (another if name == "pose" else original)["pose"][:6]
            assert np.array_equal(pair[name]["pose"][:6], rotation)


def test_the_factors_are_all_there_is(studio):
    """Each changes the picture, none leaves a trace in the next, and the original with all of them
    changed is the other picture."""
    draw_factors = lambda person: counterfactuals.draw_factors(studio, SEED, "test", person)
    mixed, another = draw_factors(0), draw_factors(1)
    before = counterfactuals.photograph(studio, mixed)
    for name in FACTORS:
        mixed |= {name: another[name]}
        after, again = (counterfactuals.photograph(studio, mixed) for _ in range(2))
        assert same(after, again) == {"image", *LABELS}
        assert abs(after["image"].astype(float) - before["image"]).mean() > 1
        before = after
    assert same(before, studio.photograph(SEED, "test", 1, 0)) == {"image", *LABELS}


def test_what_is_not_the_factor_is_kept(studio, monkeypatch):
    monkeypatch.setattr(studio, "expose", lambda recipe: recipe)
    owner = dict.fromkeys(("harmonics", "lamps", "shade"), "light")
    owner |= dict(distance="camera", obstacles="camera", rotation="pose")
    owner |= dict(background="background", expression="expression")
    places = ["centre", "half", "corner", "angle", "softness", "opacity"]
    for pair in draw(studio):
        for name in FACTORS:
            for key, factor in owner.items():
                found = pair[name][key]
                kept = pair["another" if name == factor else "original"][key]
                if key == "obstacles":  # a hand has its owner's skin and sleeve
                    found, kept = found[places], kept[places]
                assert np.array_equal(found, kept), (name, key)
            noise, other = (pair[one]["shot"]["hash"] for one in (name, "another"))
            assert (noise == other) == (name == "camera")


def test_another_albedo_repaints_the_same_shape_and_a_bare_neck_with_it(studio, monkeypatch):
    monkeypatch.setattr(studio, "expose", lambda recipe: recipe["person"])
    is_bare = lambda looks: np.array_equal(looks["collar"], looks["skin"])
    bare = []
    for pair in draw(studio, range(12)):
        original, albedo, styling = (pair[name] for name in ("original", "albedo", "styling"))
        assert {"neutral", "worn"} <= same(albedo, original)
        assert "neutral" in same(styling, original)
        own, another = original["looks"], pair["another"]["looks"]
        for mixed, skin, hair in ((albedo, another, own), (styling, own, another)):
            looks = mixed["looks"]
            assert "skin" in same(looks, skin) and "hair" in same(looks, hair)
            assert is_bare(looks) == is_bare(hair)  # as bare as whose clothes they are
        bare.append(is_bare(own))
    assert 0 < sum(bare) < 12


@pytest.mark.parametrize("n_jobs", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_pairs_are_stacked_whatever_processes_make_them(n_jobs):
    model = morphable.toy_model(dtype=torch.float32)
    pairs = counterfactuals.draw_pairs(model, 3, 24, SEED, n_jobs=n_jobs, yaw_deg=30.0)
    assert list(pairs) == ["original", *FACTORS, "another"]
    alone = draw(Studio(model, 24, yaw_deg=30.0), range(3))
    for name, columns in pairs.items():
        assert columns["image"].dtype == torch.uint8
        columns["image"] = columns["image"].permute(0, 2, 3, 1)
        for label, values in columns.items():
            assert np.array_equal(values, np.stack([pair[name][label] for pair in alone]))


def test_a_sample_holds_the_numbers_of_its_pictures(face_model):
    found = counterfactuals.draw_sample(face_model, 3, 24, 5, yaw_deg=15.0)
    studio = Studio(face_model, 24, yaw_deg=15.0)
    assert found["person"].tolist() == [0, 0, 1, 1, 2, 2] and found["image"].shape == (6, 3, 24, 24)
    for row in range(6):
        number = (5, "test", *divmod(row, 2))
        picture, recipe = studio.photograph(*number), studio.recipe(*number)
        np.testing.assert_array_equal(found["image"][row].permute(1, 2, 0), picture["image"])
        np.testing.assert_array_equal(found["identity"][row], picture["identity"])
        expression = face_model.units_to_modes @ found["units"][row]
        np.testing.assert_allclose(expression, picture["expression"], atol=1e-5)
        np.testing.assert_allclose(found["light"][row], recipe["harmonics"][:4].mean(1), rtol=1e-6)


def test_people_of_the_split_repeated_keep_their_looks(face_model):
    found = counterfactuals.draw_sample(face_model, 2, 24, 5, split="repeated", pictures=3)
    assert found["person"].tolist() == [0, 0, 0, 1, 1, 1] and len(found["image"].unique(dim=0)) == 6
    for name in ("identity", "albedo"):
        one, other = found[name].split(3)
        assert (one == one[0]).all() and (other == other[0]).all() and (one != other).any()
    elsewhere = counterfactuals.draw_sample(face_model, 1, 24, 5, pictures=1)
    assert not torch.equal(elsewhere["identity"][0], found["identity"][0])


@pytest.fixture(scope="module")
def samples(face_model):
    """Two people as in training (None), and with each shift."""
    shifts = {None: (), **{shift: (shift,) for shift in counterfactuals.SHIFTS}}
    draw = lambda shifts: counterfactuals.draw_sample(face_model, 2, SIZE, 5, shifts=shifts)
    return {name: draw(shifts) for name, shifts in shifts.items()}


@pytest.mark.parametrize("shift", counterfactuals.SHIFTS)
def test_another_world_changes_the_picture_and_none_of_its_labels(samples, shift):
    plain, shifted = samples[None], samples[shift]
    assert {*LABELS, "person", "units"} <= same(plain, shifted)
    change = (plain["image"].float() - shifted["image"].float()).abs().mean((1, 2, 3))
    assert change.min() > 8  # of 255, in every picture


def test_other_worlds_lie_beyond_all_that_training_draws(studio):
    recipe = studio.recipe(SEED, "test", 0, 0)
    other = counterfactuals.shift_domain(recipe, ("light", "camera"), np.random.default_rng(0))
    drawn = [scenes.draw_camera(SIZE, np.random.default_rng(k)) for k in range(500)]
    for name, side in dict(noise=1, coarse=1, contrast=1, gamma=-1).items():
        worst = max(side * shot[name] for shot in drawn)
        assert side * other["shot"][name] > worst, name
    assert other["shot"]["quality"] < min(s["quality"] for s in drawn if s["quality"])
    assert other["lamps"][0, 1] < -0.7
    for k in range(500):
        harmonics, lamps = scenes.draw_light(np.random.default_rng(k))
        from_below = lamps.any(1).sum() == 1 and lamps[0, 1] < -0.7
        assert not (from_below and harmonics[0].mean() < 0.1)


def test_identity_bias_is_the_average_persons_and_no_single_ones():
    """A network that reads each picture's brightness as one coefficient of identity."""
    model = morphable.toy_model(dtype=torch.float32)
    values = torch.tensor([0, 51, 102, 255], dtype=torch.uint8)
    images = values[:, None, None, None].expand(4, 3, 8, 8)
    first = torch.eye(model.n_identity)[0]
    read = (values / 255.0)[:, None] * first
    network = lambda crops: dict(identity=crops.mean((1, 2, 3))[:, None] * first)
    bias = lambda *truth: counterfactuals.identity_bias(network, model, images, *truth)
    basis = model.identity_basis[model.region][..., 0]
    expected = 0.4 * basis.square().sum(-1).mean().sqrt().item()
    assert bias() == pytest.approx(expected, rel=1e-4)
    assert counterfactuals.identity_bias(network, model, images, batch_size=3) == bias()
    assert max(bias(read), bias(read.flip(0))) < 1e-5
