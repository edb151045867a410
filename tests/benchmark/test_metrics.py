import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from test_protocols import SEVEN, bumpy, moved, sheet
from torch.testing import assert_close

from e2far import evaluation
from e2far.benchmark import metrics
from e2far.camera import euler_to_matrix


def random(*shape, seed=0):
    draw = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=draw, dtype=torch.float64)


def faces(n, seed=0, points=30):
    return 50 * random(n, points, 3, seed=seed)


ROTATION = euler_to_matrix(torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64))


def turned(points, scale=1.3):
    return scale * points @ ROTATION.mT + torch.tensor([5.0, -80.0, 300.0])


def test_alignment_undoes_a_similarity_and_says_which():
    true = faces(3)
    s, rotation, _ = metrics.similarity_transform(true, turned(true))
    assert_close(s, torch.full((3,), 1.3, dtype=torch.float64))
    assert_close(rotation, ROTATION.expand(3, 3, 3))
    assert_close(metrics.similarity_align(true, turned(true)), turned(true))
    s, rigid, _ = metrics.similarity_transform(true, turned(true), scale=False)
    assert_close(s, torch.ones(3, dtype=torch.float64))
    assert_close(rigid, rotation)


@pytest.mark.parametrize("flat", [1.0, 0.0])  # a plane, too, leaves the reflection open
def test_alignment_never_reflects(flat):
    true = faces(2)
    s, rotation, _ = metrics.similarity_transform(true * torch.tensor([-1.0, 1.0, flat]), true)
    assert_close(torch.det(rotation), torch.ones(2, dtype=torch.float64))
    assert (s > 0).all()


def test_alignment_is_the_minimum_over_weighted_points_and_a_subset_decides_alone():
    pred, true, weights = faces(1), faces(1, seed=1), random(1, 30, seed=3).abs()
    s, rotation, t = metrics.similarity_transform(pred, true, weights=weights)

    def energy(s, rotation, t):
        return (weights * (s * pred @ rotation.mT + t - true).square().sum(-1)).sum()

    for i in range(20):
        turn, step = euler_to_matrix(1e-3 * random(3, seed=i)), 1e-3 * (i - 10)
        assert energy(s, rotation, t) <= energy(s * (1 + step), turn @ rotation, t + 1e-3 * i)
    aligned = metrics.similarity_align(pred, true, subset=torch.arange(8))
    assert_close(aligned[:, :8], metrics.similarity_align(pred[:, :8], true[:, :8]))


def now_face(step_mm=4.0):
    """A smooth surface like a face, and its seven landmarks."""
    vertices, triangles = sheet(step_mm)
    x, y = vertices.T[:2]
    vertices[:, 2] = 60 * np.sqrt(np.clip(1 - (x / 120) ** 2 - (y / 150) ** 2, 0, 1)) + bumpy(x, y)
    offsets = np.linalg.norm(vertices[:, None, :2] - SEVEN, axis=-1)
    return vertices, triangles, vertices[offsets.argmin(0)]


def test_now_error_ignores_place_and_counts_size_only_if_it_is_metrical():
    vertices, triangles, landmarks = now_face()
    mesh = lambda scale: (moved(vertices, scale), triangles, moved(landmarks, scale))
    assert metrics.now_error(mesh(1.3), vertices, landmarks).max() < 1e-6
    assert metrics.now_error(mesh(1.0), vertices, landmarks, metrical=True).max() < 1e-6
    assert metrics.now_error(mesh(1.3), vertices, landmarks, metrical=True).mean() > 0.5
    with pytest.raises(ValueError, match="frame"):
        metrics.now_error(mesh(1.3), vertices + 1000, landmarks)


def test_refinement_mends_wrong_landmarks():
    vertices, triangles, landmarks = now_face()
    wrong = landmarks + np.random.default_rng(0).normal(0, 4, (7, 3))
    other = moved(vertices), triangles, moved(wrong)
    rough = metrics.now_error(other, vertices, landmarks, iterations=0)
    fine = metrics.now_error(other, vertices, landmarks)
    assert rough.mean() > 0.5 and fine.mean() < 0.02 * rough.mean()


def test_refinement_ends_where_a_general_solver_ends():
    """The slow obvious twin: scipy's least squares with numerical derivatives."""
    vertices, triangles, landmarks = now_face(12.0)
    rng = np.random.default_rng(1)
    dented = vertices + 3 * np.sin(vertices[:, [1, 2, 0]] / 20)
    scan = vertices[rng.permutation(len(vertices))[:120]] + rng.normal(0, 0.5, (120, 3))
    found = metrics.now_error((dented, triangles, landmarks), scan, landmarks, iterations=50)
    inside = scan[metrics.now_crop(scan, landmarks)]
    surface = metrics.Surface(dented, triangles)

    def distances(p):
        local = (inside - p[4:]) @ Rotation.from_rotvec(p[1:4]).as_matrix() / p[0]
        return p[0] * np.linalg.norm(local - surface.closest(local)[0], axis=1)

    twin = least_squares(distances, np.r_[1, np.zeros(6)])
    assert np.square(found).sum() < 1.01 * np.square(twin.fun).sum()


@pytest.mark.parametrize("factor", [1.4, 1.2])  # NoW's, Feng's
def test_now_crop_is_the_ball_of_the_protocol(factor):
    eyes, nose, mouth = [[x, 30] for x in (-45, -15, 15, 45)], [[0, -10]], [[-25, -40], [25, -40]]
    landmarks = np.c_[eyes + nose + mouth, np.zeros(7)]
    radius = factor * (90 + 40) / 2  # centre: 0.3 of the way up from the nose base, at y = 2
    less, more = radius - 0.01, radius + 0.01
    scan = np.array([[less, 2, 0], [more, 2, 0], [0, 2 - less, 0], [0, 2, more]])
    assert metrics.now_crop(scan, landmarks, factor).tolist() == [True, False, True, False]


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng, hits = np.random.default_rng(0), 0
    for i in range(200):
        values = rng.exponential(size=100)
        _, low, high = evaluation.bootstrap_interval(values, samples=300, seed=i)
        hits += low <= 1 <= high
    assert 0.88 < hits / 200 < 0.99


def test_repeated_pictures_of_a_person_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(5, 1, 40)
    once = _, low, high = evaluation.bootstrap_interval(values)
    repeated, person = np.repeat(values, 10), np.repeat(np.arange(40) + 7, 10)
    assert evaluation.bootstrap_interval(repeated, person) == pytest.approx(once)
    _, naive_low, naive_high = evaluation.bootstrap_interval(repeated)
    assert high - low > 2.5 * (naive_high - naive_low)
    assert evaluation.bootstrap_interval(values) == once


def test_bootstrap_of_a_ratio_keeps_pairs_together():
    baseline = np.random.default_rng(0).uniform(1, 10, 60)
    assert evaluation.bootstrap_ratio(0.8 * baseline, baseline) == pytest.approx((0.8, 0.8, 0.8))
    with pytest.raises(ValueError, match="same shape"):
        evaluation.bootstrap_ratio(baseline, baseline[1:])


def test_summary_and_curve():
    result = evaluation.summarise([[1, 2], [3, 10]], thresholds=np.array([0, 1, 2.5, 8, 10]))
    assert (result["median"], result["mean"]) == (2.5, 4)
    assert result["curve"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_identity_consistency_of_answers_that_depend_on_the_person_alone():
    person = np.repeat(np.arange(30), 4)
    shapes = faces(30).float()[person] + 1000  # a metre away, in single precision
    sure = metrics.identity_consistency(shapes, person)
    assert sure["ratio"] == sure["low"] == sure["high"] == 0 and sure["between_mm"] > 50
    shapes[1::2, :, 0] += 0.125  # four of the six pairs of a person's pictures differ by that
    nearly = metrics.identity_consistency(shapes, person)
    assert nearly["within_mm"] == pytest.approx(0.125 * 4 / 6, rel=1e-2)


def test_identity_consistency_of_answers_that_do_not_depend_on_the_person():
    person, shapes = np.repeat(np.arange(30), 4), faces(120, seed=1, points=2)
    blind = metrics.identity_consistency(shapes, person)
    assert blind["low"] < 1 < blind["high"] and blind["ratio"] == pytest.approx(1, abs=0.05)
    smaller = metrics.identity_consistency(1e-2 * shapes, person)
    assert smaller["ratio"] == pytest.approx(blind["ratio"])


def test_identity_consistency_is_that_of_a_loop_over_pairs():
    person, shapes, within, between = np.tile(list("badec"), 3), faces(15), [], []
    for i in range(15):
        for j in range(i):
            distance = float((shapes[i] - shapes[j]).norm(dim=-1).mean())
            if person[i] == person[j]:
                within.append(distance)
            elif i // 5 == j // 5:  # rows of five are pictures 0, 1, 2
                between.append(distance)
    result = metrics.identity_consistency(shapes, person)
    assert result["within_mm"] == pytest.approx(np.mean(within))
    assert result["between_mm"] == pytest.approx(np.mean(between))


def test_identity_consistency_interval_covers_the_truth_as_often_as_it_says():
    """On one vertex in three dimensions with normal noise, distances go as standard deviations:
    sqrt(1 / (1 + 4))."""
    rng, person, hits = np.random.default_rng(0), np.repeat(np.arange(25), 4), 0
    for i in range(100):
        people, noise = rng.normal(0, 2, (25, 1, 3)), rng.normal(0, 1, (100, 1, 3))
        shapes = torch.from_numpy(people[person] + noise)
        result = metrics.identity_consistency(shapes, person, samples=300, seed=i)
        hits += result["low"] <= 1 / np.sqrt(5) <= result["high"]
    assert 0.86 <= hits / 100 <= 1
    again = metrics.identity_consistency(shapes, person, samples=300, seed=99)
    assert again == result


def test_identity_consistency_says_what_is_wrong():
    for person in ([0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [0, 0, 1, 1]):
        with pytest.raises(ValueError, match="same number of pictures"):
            metrics.identity_consistency(faces(5), person)
