"""Measures of faces, known by hand and on the shipped model."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from e2far.facemodels import anthropometry, checks, makehuman
from e2far.facemodels.anthropometry import GROUP_NORMS, INDICES, NORMS, measure

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def people(face_model):
    generator = torch.Generator().manual_seed(0)
    return face_model.neutral(torch.randn(200, face_model.n_identity, generator=generator))


def test_size_and_place_change_lengths_but_no_index(face_model, people):
    one = measure(people[:5], face_model)
    two = measure(1.2 * people[:5] + torch.tensor([3.0, -20.0, 7.0]), face_model)
    assert set(NORMS) <= set(one) and all(values.shape == (5,) for values in one.values())
    for name in one:
        assert_close(two[name], one[name] * (1 if name in INDICES else 1.2), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    "name, landmark, sign",
    [("mouth breadth", 54, 1), ("outer canthal distance", 36, -1), ("lower face breadth", 4, -1)],
)
def test_a_landmark_moved_aside_widens_one_measure(face_model, name, landmark, sign):
    moved = face_model.mean.clone()
    moved[face_model.landmarks[landmark], 0] += sign * 5
    found = measure(torch.stack((face_model.mean, moved)), face_model)
    growth = {name: float(after - before) for name, (before, after) in found.items()}
    assert abs(growth[name] - 5) < 0.1
    assert [n for n in found if n not in INDICES and abs(growth[n]) > 0.01] == [name]


def test_eyeballs_moved_apart_widen_their_distance(face_model):
    ball = face_model.attributes["eye"] > 0.5
    moved = face_model.mean + 2 * ball[:, None] * face_model.mean.sign() * torch.eye(3)[0]
    found = measure(torch.stack((face_model.mean, moved)), face_model)["interpupillary distance"]
    assert abs(found[1] - found[0] - 4) < 1e-3


def test_the_wings_of_the_nose_are_its_widest_points(face_model):
    right, left = face_model.mean[anthropometry.alare(face_model)]
    tip, nostril, base, other = face_model.mean[face_model.landmarks[[30, 31, 33, 35]]]
    assert (right * MIRROR - left).norm() < 1
    assert left[0] > other[0] + 2 and right[0] < nostril[0] - 2
    assert base[1] < left[1] < tip[1] + 10 and left[2] < tip[2]


def test_the_breadth_of_the_face_is_taken_before_the_ears(face_model):
    cheek = anthropometry.cheeks(face_model)
    assert torch.isin(cheek, face_model.region).all()
    assert face_model.attributes["ear"][cheek].max() < 0.5
    found, ears = measure(face_model.mean[None], face_model), np.ptp(face_model.mean[:, 0])
    assert found["lower face breadth"] < found["face breadth"] < ears - 5


def test_norms_agree_with_each_other():
    for name, norm in NORMS.items():
        # two men and two women of just this mean and deviation
        both = np.ravel([(mean - sd, mean + sd) for mean, sd in norm.values()])
        np.testing.assert_allclose(anthropometry.population(name), (both.mean(), both.std()))
        assert name in INDICES or norm["male"][0] > norm["female"][0]
    for sex in ("male", "female"):
        mean = {name: NORMS[name][sex][0] for name in NORMS}
        for name, (above, below) in INDICES.items():
            assert abs(mean[name] / (mean[above] / mean[below]) - 1) < 0.02
        for name, groups in GROUP_NORMS.items():
            means = [groups[sex, group][0] for group in ("Black", "White", "Other")]
            assert min(means) < mean[name] < max(means)


def test_the_ratio_of_spreads_is_free_of_size():
    mean, sd = anthropometry.population("face height")
    faces = torch.tensor([-1.0, 1.0], dtype=torch.float64) * sd / math.sqrt(2) + mean
    (small,) = anthropometry.compare({"face height": 0.5 * faces})
    (wide,) = anthropometry.compare({"face height": 2 * (faces - mean) + mean})
    assert abs(small["spread_ratio"] - 1) < 1e-9 and abs(wide["spread_ratio"] - 2) < 1e-9
    assert (small["norm_mean"], small["norm_sd"]) == (mean, sd)


def test_our_people_are_shaped_like_people(face_model, people):
    """Their indices are near those of people in mean and in spread."""
    found = measure(people, face_model)
    for row in anthropometry.compare({name: found[name] for name in INDICES}):
        assert abs(row["mean"] / row["norm_mean"] - 1) < 0.15, row
        assert 0.6 < row["spread_ratio"] < 1.5, row


def test_a_spread_table_has_the_model_then_each_setting_and_its_typical_ratio(face_model):
    found = checks.measure_people(face_model, 20, seed=0)
    table = checks.spread_table(face_model, found, makehuman.read_targets(), (0.1, 0.4), seed=0)
    assert list(table.columns) == checks.COLUMNS
    assert list(table.people) == ["the model's"] * len(NORMS) + ["MakeHuman's"] * 2 * len(NORMS)
    little, much = checks.typical_ratio(table)
    assert little < 0.9 < 1.1 < much


def test_men_are_larger_in_every_length_as_in_the_survey(face_model):
    effects = checks.group_effects(face_model, makehuman.read_targets(), 60, seed=0)
    assert len(effects) == 3 * len(GROUP_NORMS)
    men = effects[effects.group == "male"]
    assert (men[["ours", "survey"]] > 0).all(axis=None)


def test_modes_lose_little_of_what_units_do(face_model):
    moved_mm, lost_mm = checks.lost_by_modes(face_model, np.random.default_rng(0), count=10)
    assert 0 < lost_mm < 0.1 * moved_mm
