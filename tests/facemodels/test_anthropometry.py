"""Measures of faces, known by hand and on the shipped model."""

import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from e2far.facemodels import anthropometry
from e2far.facemodels.anthropometry import GROUP_NORMS, INDICES, NORMS
from e2far.morphable import MorphableModel

MIRROR = torch.tensor([-1.0, 1.0, 1.0])


@pytest.fixture(scope="module")
def people(face_model):
    generator = torch.Generator().manual_seed(0)
    return face_model.neutral(torch.randn(200, face_model.n_identity, generator=generator))


def without(model, **changes):
    """The model with some of its parts replaced."""
    names = "mean identity_basis expression_basis triangles landmarks region attributes".split()
    return MorphableModel(**({name: getattr(model, name) for name in names} | changes))


def measure(shape, model):
    found = anthropometry.measure(shape[None], model)
    return {name: float(values) for name, values in found.items()}


def test_size_and_place_change_lengths_but_no_index(face_model, people):
    one = anthropometry.measure(people[:5], face_model)
    moved = 1.2 * people[:5] + torch.tensor([3.0, -20.0, 7.0])
    two = anthropometry.measure(moved, face_model)
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
    before, after = measure(face_model.mean, face_model), measure(moved, face_model)
    assert abs(after[name] - before[name] - 5) < 0.1
    assert [n for n in before if n not in INDICES and abs(after[n] - before[n]) > 0.01] == [name]


def test_eyes_moved_apart_by_their_balls_or_their_corners(face_model):
    mean, ball = face_model.mean, face_model.attributes["eye"] > 0.5
    moved = mean + 2 * ball[:, None] * mean.sign() * torch.tensor([1.0, 0, 0])
    by_corners = without(face_model, attributes={})
    before, after, cornered = (
        measure(shape, model)["interpupillary distance"]
        for shape, model in ((mean, face_model), (moved, face_model), (mean, by_corners))
    )
    assert abs(after - before - 4) < 1e-3 and abs(cornered / before - 1) < 0.05


def test_the_wings_of_the_nose_are_its_widest_points(face_model):
    right, left = face_model.mean[anthropometry.alare(face_model)]
    tip, nostril, base, other = face_model.mean[face_model.landmarks[[30, 31, 33, 35]]]
    assert (right * MIRROR - left).norm() < 1
    assert left[0] > other[0] + 2 and right[0] < nostril[0] - 2
    assert base[1] < left[1] < tip[1] + 10 and left[2] < tip[2]


def test_the_breadth_of_the_face_is_taken_before_the_ears(face_model):
    cheek = anthropometry.cheeks(face_model)
    assert set(cheek.tolist()) <= set(face_model.region.tolist())
    assert face_model.attributes["ear"][cheek].max() < 0.5
    found, ears = measure(face_model.mean, face_model), float(np.ptp(face_model.mean[:, 0]))
    assert found["lower face breadth"] < found["face breadth"] < ears - 5


def test_landmarks_that_leave_no_cheek_are_named(face_model):
    with pytest.raises(ValueError, match="landmarks 1 and 15"):
        anthropometry.cheeks(without(face_model, landmarks=face_model.landmarks[:1].repeat(68)))


def test_a_population_is_half_men_half_women():
    for name, norm in NORMS.items():
        # two men and two women of just this mean and deviation
        both = np.ravel([(mean - sd, mean + sd) for mean, sd in norm.values()])
        np.testing.assert_allclose(anthropometry.population(name), (both.mean(), both.std()))


def test_norms_agree_with_each_other():
    for sex in ("male", "female"):
        mean = {name: NORMS[name][sex][0] for name in NORMS}
        for name, (above, below) in INDICES.items():
            assert abs(mean[name] / (mean[above] / mean[below]) - 1) < 0.02
        for name, groups in GROUP_NORMS.items():
            means = [groups[sex, group][0] for group in ("Black", "White", "Other")]
            assert min(means) < mean[name] < max(means)
    lengths = [norm for name, norm in NORMS.items() if name not in INDICES]
    assert all(norm["male"][0] > norm["female"][0] for norm in lengths)


def test_the_ratio_of_spreads_is_free_of_size():
    mean, sd = anthropometry.population("face height")
    faces = torch.tensor([-1.0, 1.0], dtype=torch.float64) * sd / math.sqrt(2) + mean
    small, wide = (
        anthropometry.compare({"face height": values})[0]
        for values in (0.5 * faces, 2 * (faces - mean) + mean)
    )
    assert abs(small["spread_ratio"] - 1) < 1e-9 and abs(wide["spread_ratio"] - 2) < 1e-9
    assert (small["norm_mean"], small["norm_sd"]) == (mean, sd)


def test_our_people_are_shaped_like_people(face_model, people):
    """Their indices are near those of people in mean and in spread."""
    found = anthropometry.measure(people, face_model)
    rows = anthropometry.compare({name: found[name] for name in INDICES})
    assert len(rows) == len(INDICES)
    for row in rows:
        assert abs(row["mean"] / row["norm_mean"] - 1) < 0.15, row
        assert 0.6 < row["spread_ratio"] < 1.5, row
