import time

import numpy as np
import pytest
import torch
import trimesh
from torch.testing import assert_close

from e2far import evaluation
from e2far.benchmark import metrics
from e2far.camera import euler_to_matrix
from e2far.morphable import toy_model


def faces(n, seed=0, points=30):
    return (
        torch.randn(
            n, points, 3, generator=torch.Generator().manual_seed(seed), dtype=torch.float64
        )
        * 50
    )


def moved(points, scale=1.3, angles=(0.4, -0.2, 0.3), shift=(5.0, -80.0, 300.0)):
    as_tensor = lambda x: torch.tensor(x, dtype=torch.float64)
    return scale * points @ euler_to_matrix(as_tensor(angles)).mT + as_tensor(shift)


def test_vertex_error_is_the_length_of_a_known_offset():
    true = faces(2)
    assert_close(
        metrics.vertex_error(true + torch.tensor([3.0, 0.0, 4.0]), true),
        torch.full((2, 30), 5.0, dtype=torch.float64),
    )


def test_alignment_undoes_a_similarity_and_says_which():
    true = faces(3)
    s, rotation, _ = metrics.similarity_transform(true, moved(true))
    angles = torch.tensor([0.4, -0.2, 0.3], dtype=torch.float64)
    assert_close(s, torch.full((3,), 1.3, dtype=torch.float64))
    assert_close(rotation, euler_to_matrix(angles).expand(3, 3, 3))
    assert_close(metrics.similarity_align(true, moved(true)), moved(true))
    assert metrics.aligned_error(true, moved(true, 1.0), scale=False).max() < 1e-9
    assert (
        metrics.aligned_error(true, moved(true), scale=False).mean() > 1
    )  # a rigid motion cannot undo a scale


def test_alignment_never_reflects():
    true = faces(2)
    mirrored = true * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    for flat in (1.0, 0.0):  # a plane, too, leaves the reflection open
        s, rotation, _ = metrics.similarity_transform(
            mirrored * torch.tensor([1.0, 1.0, flat]), true
        )
        assert_close(torch.det(rotation), torch.ones(2, dtype=torch.float64))
        assert (s > 0).all()


def test_alignment_is_the_minimum_and_weights_choose_points():
    pred, true = faces(1), faces(1, seed=1)
    weights = torch.rand(1, 30, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    s, rotation, t = metrics.similarity_transform(pred, true, weights=weights)
    energy = lambda s, rotation, t: (
        weights * (s * pred @ rotation.mT + t - true).square().sum(-1)
    ).sum()
    for i in range(20):
        turn = euler_to_matrix(
            1e-3 * torch.randn(3, generator=torch.Generator().manual_seed(i), dtype=torch.float64)
        )
        assert energy(s, rotation, t) <= energy(
            s * (1 + 1e-3 * (i - 10)), turn @ rotation, t + 1e-3 * i
        )
    mask = (torch.arange(30) < 8).double()
    chosen = metrics.similarity_transform(pred, true, weights=mask[None])
    few = metrics.similarity_transform(pred[:, :8], true[:, :8])
    for one, two in zip(chosen, few):
        assert_close(one, two)
    assert_close(
        metrics.similarity_align(pred, true, subset=torch.arange(8))[:, :8],
        metrics.similarity_align(pred[:, :8], true[:, :8]),
    )


# ---- surfaces ------------------------------------------------------------------------------------------------


def test_closest_points_are_trimesh_s():
    """Near points, far ones, and a mesh with one triangle far larger than the rest."""
    model = toy_model()
    vertices, triangles = model.mean.numpy(), model.triangles.numpy()
    rng = np.random.default_rng(0)
    big = np.array([[-200.0, -150.0, -90.0], [220.0, -150.0, -90.0], [0.0, 250.0, -95.0]])
    vertices, triangles = (
        np.concatenate([vertices, big]),
        np.concatenate([triangles, len(vertices) + np.arange(3)[None]]),
    )
    points = np.concatenate(
        [
            vertices[rng.integers(len(vertices), size=60)] + rng.normal(0, 4, (60, 3)),
            rng.normal(0, 200, (40, 3)),
        ]
    )
    place, triangle = metrics.Surface(vertices, triangles).closest(points)
    expected, distance, _ = trimesh.proximity.closest_point_naive(
        trimesh.Trimesh(vertices, triangles, process=False), points
    )
    np.testing.assert_allclose(np.linalg.norm(points - place, axis=1), distance, atol=1e-8)
    np.testing.assert_allclose(place, expected, atol=1e-6)
    on_it = trimesh.triangles.closest_point(vertices[triangles][triangle], place)
    np.testing.assert_allclose(on_it, place, atol=1e-8)


def test_closest_point_on_a_triangle_with_no_area():
    needle = metrics.Surface([[0.0, 0, 0], [1, 0, 0], [2, 0, 0]], [[0, 1, 2]])
    place, _ = needle.closest(np.array([[1.5, 3.0, 0.0]]))
    np.testing.assert_allclose(place, [[1.5, 0.0, 0.0]])


# ---- NoW -----------------------------------------------------------------------------------------------------


def now_face(step_mm=4.0):
    """A smooth head-like surface with 7 plausible points on it, and the same surface sampled elsewhere as a scan."""

    def grid(step):
        x, y = np.meshgrid(np.arange(-90, 90.01, step), np.arange(-110, 110.01, step))
        z = (
            60 * np.sqrt(np.clip(1 - (x / 120) ** 2 - (y / 150) ** 2, 0, 1))
            + 25 * np.exp(-((x / 15) ** 2) - ((y + 10) / 25) ** 2)
            - 6 * np.cos(x / 14) * np.sin(y / 17)
        )
        corner = (
            np.arange(x.shape[0] - 1)[:, None] * x.shape[1] + np.arange(x.shape[1] - 1)
        ).ravel()
        triangles = np.concatenate(
            [
                np.stack([corner, corner + 1, corner + x.shape[1]], 1),
                np.stack([corner + 1, corner + x.shape[1] + 1, corner + x.shape[1]], 1),
            ]
        )
        return np.stack([x, y, z], -1).reshape(-1, 3), triangles

    vertices, triangles = grid(step_mm)
    targets = np.array(
        [[-45, 30], [-15, 28], [15, 28], [45, 30], [0, -20], [-25, -50], [25, -50.0]]
    )
    landmarks = vertices[
        [np.linalg.norm(vertices[:, :2] - target, axis=1).argmin() for target in targets]
    ]
    return vertices, triangles, landmarks


def test_now_error_of_a_mesh_with_itself_is_zero_whatever_its_place_and_size():
    vertices, triangles, landmarks = now_face()
    other, other_landmarks = (moved(torch.from_numpy(x)).numpy() for x in (vertices, landmarks))
    assert metrics.now_error((vertices, triangles, landmarks), vertices, landmarks).max() < 1e-6
    assert metrics.now_error((other, triangles, other_landmarks), vertices, landmarks).max() < 1e-6
    assert (
        metrics.now_error(
            (other, triangles, other_landmarks), vertices, landmarks, metrical=True
        ).mean()
        > 1
    )
    rigid, rigid_landmarks = (
        moved(torch.from_numpy(x), scale=1.0).numpy() for x in (vertices, landmarks)
    )
    assert (
        metrics.now_error(
            (rigid, triangles, rigid_landmarks), vertices, landmarks, metrical=True
        ).max()
        < 1e-6
    )


def test_refinement_mends_wrong_landmarks():
    vertices, triangles, landmarks = now_face()
    wrong = landmarks + np.random.default_rng(0).normal(0, 4, (7, 3))
    other, wrong = (moved(torch.from_numpy(x)).numpy() for x in (vertices, wrong))
    rough = metrics.now_error((other, triangles, wrong), vertices, landmarks, iterations=0)
    fine = metrics.now_error((other, triangles, wrong), vertices, landmarks)
    assert rough.mean() > 0.5 and fine.mean() < 0.02 * rough.mean()


def test_refinement_ends_where_a_general_solver_ends():
    """The slow obvious twin: scipy's least squares with numerical derivatives on brute-force distances."""
    from scipy.optimize import least_squares
    from scipy.spatial.transform import Rotation

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


def test_a_shifted_plane_is_off_by_the_shift():
    """Without refinement the landmarks alone place the mesh: the unsigned distances are the shift."""
    x, y = np.meshgrid(np.arange(-100, 101, 10.0), np.arange(-100, 101, 10.0))
    plane = np.stack([x, y, 0 * x], -1).reshape(-1, 3)
    corner = (np.arange(20)[:, None] * 21 + np.arange(20)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + 21], 1),
            np.stack([corner + 1, corner + 22, corner + 21], 1),
        ]
    )
    landmarks = now_face()[2] * [1, 1, 0]
    shift = np.array([0, 0, 2.5])
    error = metrics.now_error((plane, triangles, landmarks), plane + shift, landmarks, iterations=0)
    np.testing.assert_allclose(error, 2.5)
    assert (
        metrics.now_error((plane, triangles, landmarks), plane + shift, landmarks).max() < 1e-6
    )  # refined away


def test_now_crop_is_the_ball_of_the_protocol():
    landmarks = np.array(
        [
            [-45.0, 30, 0],
            [-15, 30, 0],
            [15, 30, 0],
            [45, 30, 0],
            [0, -10, 0],
            [-25, -40, 0],
            [25, -40, 0],
        ]
    )
    radius = 1.4 * (90 + 40) / 2  # centre: 0.3 of the way up from the nose base, at y = 2
    scan = np.array(
        [
            [radius - 0.01, 2, 0],
            [radius + 0.01, 2, 0],
            [0, 2 - radius + 0.01, 0],
            [0, 2, radius + 0.01],
        ]
    )
    assert metrics.now_crop(scan, landmarks).tolist() == [True, False, True, False]


def test_now_error_says_what_is_wrong():
    vertices, triangles, landmarks = now_face(20.0)
    with pytest.raises(ValueError, match="frame"):
        metrics.now_error((vertices, triangles, landmarks), vertices + 1000, landmarks)


def test_now_error_of_ten_thousand_vertices_takes_a_second():
    vertices, triangles, landmarks = now_face(2.0)
    assert len(vertices) > 9000
    dented = vertices + 2 * np.sin(vertices[:, [1, 2, 0]] / 15)
    start = time.perf_counter()
    metrics.now_error((dented, triangles, landmarks), vertices, landmarks)
    assert time.perf_counter() - start < 10  # measured under 1 s; the machine may be busy


# ---- tables ---------------------------------------------------------------------------------------


def test_bootstrap_interval_covers_the_mean_as_often_as_it_says():
    rng = np.random.default_rng(0)
    hits = sum(
        low <= 1 <= high
        for _, low, high in (
            evaluation.bootstrap_interval(rng.exponential(size=100), samples=300, seed=i)
            for i in range(200)
        )
    )
    assert 0.88 < hits / 200 < 0.99


def test_repeated_pictures_of_a_person_do_not_narrow_the_interval():
    values = np.random.default_rng(0).normal(5, 1, 40)
    mean, low, high = evaluation.bootstrap_interval(values)
    repeated, person = np.repeat(values, 10), np.repeat(np.arange(40) + 7, 10)
    assert evaluation.bootstrap_interval(repeated, person) == pytest.approx((mean, low, high))
    _, naive_low, naive_high = evaluation.bootstrap_interval(repeated)
    assert high - low > 2.5 * (naive_high - naive_low)
    assert evaluation.bootstrap_interval(values) == evaluation.bootstrap_interval(values)


def test_bootstrap_of_a_ratio_keeps_pairs_together():
    baseline = np.random.default_rng(0).uniform(1, 10, 60)
    assert evaluation.bootstrap_ratio(0.8 * baseline, baseline) == pytest.approx((0.8, 0.8, 0.8))
    with pytest.raises(ValueError, match="same shape"):
        evaluation.bootstrap_ratio(baseline, baseline[1:])


def test_summary_and_curve():
    result = evaluation.summarise([[1, 2], [3, 10]], thresholds=np.array([0, 1, 2.5, 8, 10]))
    assert (result["median"], result["mean"]) == (2.5, 4)
    assert result["curve"].tolist() == [0, 0.25, 0.5, 0.75, 1]


# ---- the same person again and again ---------------------------------------------------------------------------


def test_identity_consistency_by_hand():
    """One vertex on a line, two people, two pictures; rows in any order of people."""
    x = torch.tensor([10.0, 0.0, 1.0, 13.0])
    result = metrics.identity_consistency(
        torch.stack((x, 0 * x, 0 * x), -1)[:, None], ["b", "a", "a", "b"]
    )
    assert (result["within_mm"], result["between_mm"]) == pytest.approx(
        ((1 + 3) / 2, (10 + 12) / 2)
    ) and result["ratio"] == pytest.approx(2 / 11)


def test_identity_consistency_of_answers_that_depend_on_the_person_alone_or_not_at_all():
    person, shapes = np.repeat(np.arange(30), 4), faces(30).float()
    sure = metrics.identity_consistency(shapes[person] + 1000, person)
    assert sure["ratio"] == sure["low"] == sure["high"] == 0 and sure["between_mm"] > 50
    nearly = (
        shapes[person]
        + 1000
        + torch.tensor([0.0, 0.125, 0.0, 0.125]).repeat(30)[:, None, None]
        * torch.tensor([1.0, 0.0, 0.0])
    )  # a metre away, in single precision
    assert metrics.identity_consistency(nearly, person)["within_mm"] == pytest.approx(
        0.125 * 4 / 6, rel=1e-2
    )
    blind = metrics.identity_consistency(faces(120, seed=1, points=2), person)
    assert blind["low"] < 1 < blind["high"] and blind["ratio"] == pytest.approx(1, abs=0.05)
    assert metrics.identity_consistency(1e-2 * faces(120, seed=1, points=2), person)[
        "ratio"
    ] == pytest.approx(blind["ratio"])


def test_identity_consistency_is_that_of_a_loop_over_pairs():
    person, shapes = np.tile(np.arange(5), 3), faces(15)
    pairs = [
        (i, j, float((shapes[i] - shapes[j]).norm(dim=-1).mean()))
        for i in range(15)
        for j in range(i)
    ]
    result = metrics.identity_consistency(shapes, person)
    assert result["within_mm"] == pytest.approx(
        np.mean([d for i, j, d in pairs if person[i] == person[j]])
    )
    assert result["between_mm"] == pytest.approx(
        np.mean([d for i, j, d in pairs if person[i] != person[j] and i // 5 == j // 5])
    )  # rows of five are pictures 0, 1, 2


def test_identity_consistency_interval_covers_the_truth_as_often_as_it_says():
    """On one vertex in three dimensions with normal noise, distances go as standard deviations: sqrt(1 / (1 + 4))."""
    rng, person, hits = np.random.default_rng(0), np.repeat(np.arange(25), 4), 0
    for i in range(100):
        shapes = torch.from_numpy(
            rng.normal(0, 2, (25, 1, 3))[person] + rng.normal(0, 1, (100, 1, 3))
        )
        result = metrics.identity_consistency(shapes, person, samples=300, seed=i)
        hits += result["low"] <= 1 / np.sqrt(5) <= result["high"]
    assert 0.86 <= hits / 100 <= 1
    assert metrics.identity_consistency(shapes, person) == metrics.identity_consistency(
        shapes, person
    )


def test_identity_consistency_says_what_is_wrong():
    for person in ([0, 0, 0, 1, 1], [0, 0, 0, 0, 0], [0, 1, 2, 3, 4], [0, 0, 1, 1]):
        with pytest.raises(ValueError, match="same number of pictures"):
            metrics.identity_consistency(faces(5), person)
