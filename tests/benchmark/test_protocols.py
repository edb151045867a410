"""The benchmarks' protocols on shapes whose error is known by hand, and beside slow obvious twins."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from e2far import evaluation
from e2far.benchmark import anatomy, metrics, protocols
from e2far.morphable import MorphableModel, toy_model

SEVEN = np.array([[-45, 30], [-15, 28], [15, 28], [45, 30], [0, -20], [-25, -50], [25, -50.0]])


def sheet(step_mm=10.0, half_mm=100.0):
    """A square in the plane z = 0, (N, 3) mm and (F, 3)."""
    side = np.arange(-half_mm, half_mm + step_mm / 2, step_mm)
    x, y = np.meshgrid(side, side)
    corner = (np.arange(len(side) - 1)[:, None] * len(side) + np.arange(len(side) - 1)).ravel()
    triangles = np.concatenate(
        [
            np.stack([corner, corner + 1, corner + len(side)], 1),
            np.stack([corner + 1, corner + len(side) + 1, corner + len(side)], 1),
        ]
    )
    return np.stack([x, y, 0 * x], -1).reshape(-1, 3), triangles


def seven(height=lambda x, y: 0 * x):
    return np.c_[SEVEN, height(*SEVEN.T)]


def moved(points, scale=1.3):
    return scale * points @ Rotation.from_rotvec([0.4, -0.2, 0.3]).as_matrix().T + [
        5.0,
        -80.0,
        300.0,
    ]


# ---- Feng ------------------------------------------------------------------------------------------------------------------------------------------------------


def test_feng_error_ignores_place_and_size_but_not_a_shift_of_the_plane():
    vertices, triangles = sheet()
    assert (
        protocols.feng_error((moved(vertices), triangles, moved(seven())), vertices, seven()).max()
        < 1e-6
    )
    lifted = vertices + [0, 0, 2.5]
    np.testing.assert_allclose(
        protocols.feng_error((vertices, triangles, seven()), lifted, seven()), 2.5
    )  # NoW refines this away
    assert metrics.now_error((vertices, triangles, seven()), lifted, seven()).max() < 1e-6


def test_feng_measures_the_scan_within_its_smaller_ball():
    vertices, triangles = sheet(2.0)
    centre, radius = np.array([0, -20 + 0.3 * 48, 0]), 1.2 * (90 + 48) / 2
    expected = sum(np.linalg.norm(v - centre) <= radius for v in vertices)
    found = [
        len(f((vertices, triangles, seven()), vertices, seven()))
        for f in (protocols.feng_error, metrics.now_error)
    ]
    assert (
        found[0] == expected < found[1]
        and metrics.now_crop(vertices, seven(), 1.2).sum() == expected
    )


# ---- REALY -----------------------------------------------------------------------------------------------------------------------------------------------------


def bumpy(x, y):
    return 12 * np.exp(-(x**2 + y**2) / 900) - 5 * np.cos(x / 25) * np.sin(y / 30)


def face_sheet(step_mm=5.0, half_mm=80.0):
    """A bumpy sheet with two regions, and keypoints that are vertices: seven for the whole, nine for each region."""
    vertices, triangles = sheet(step_mm, half_mm)
    vertices[:, 2] = bumpy(*vertices.T[:2])
    x, y = vertices.T[:2]
    regions = {
        "upper": np.flatnonzero((abs(x) < 41) & (y > 4) & (y < 66)),
        "lower": np.flatnonzero((abs(x) < 41) & (y < -4) & (y > -66)),
    }
    nine = lambda middle: [[a, middle + b] for a in (-35, 0, 35) for b in (-25, 0, 25)]
    at = lambda targets: np.array(
        [np.linalg.norm(vertices[:, :2] - target, axis=1).argmin() for target in targets]
    )
    chosen = at(np.concatenate([SEVEN, nine(35), nine(-35)]))
    return vertices, triangles, chosen, regions, dict(upper=range(7, 16), lower=range(16, 25))


def realy(pred, true, triangles, chosen, regions, region_keypoints):
    prediction, scan = (protocols.MarkedMesh(x, triangles, x[chosen]) for x in (pred, true))
    return protocols.realy_error(prediction, scan, regions, region_keypoints, seven=range(7))


def test_realy_error_of_a_mesh_with_itself_is_zero_whatever_its_place_and_size():
    true, *rest = face_sheet()
    error = realy(moved(true), true, *rest)
    assert list(error) == ["upper", "lower", "all"] and max(error.values()) < 1e-6


def test_a_region_moved_as_a_whole_is_no_error_and_all_is_the_plain_mean():
    true, triangles, chosen, regions, rows = face_sheet()
    up = true + np.array([0, 0, 3.0]) * np.clip(
        (true[:, 1:2] + 4) / 8, 0, 1
    )  # the upper region is lifted, the lower is not, the seven keypoints stay
    seven_stay = np.r_[true[chosen[:7]], up[chosen[7:]]]
    scan = protocols.MarkedMesh(true, triangles, true[chosen])
    error = protocols.realy_error(
        protocols.MarkedMesh(up, triangles, seven_stay), scan, regions, rows, seven=range(7)
    )
    assert error["upper"] < 0.02 and error["lower"] < 0.02
    both = {"lower": regions["lower"], "both": np.r_[regions["upper"], regions["lower"]]}
    worse = realy(up, true, triangles, chosen, both, rows | {"both": range(7, 25)})
    assert worse["both"] > 0.5 and worse["all"] == (worse["lower"] + worse["both"]) / 2


def test_a_sphere_around_a_sphere_is_off_by_the_difference_of_radii():
    ball = trimesh.creation.icosphere(4, 50.0)
    scan, triangles = np.asarray(ball.vertices), np.asarray(ball.faces)
    rows = np.arange(12)  # the corners of the icosahedron
    # the seven agree, so that no scale makes up for the radius
    prediction = protocols.MarkedMesh(1.04 * scan, triangles, np.r_[scan[rows] * 1.04, scan[rows]])
    error = protocols.realy_error(
        prediction,
        protocols.MarkedMesh(scan, triangles, np.r_[scan[rows], scan[rows]]),
        {"all of it": range(len(scan))},
        {"all of it": rows},
        seven=range(12, 24),
    )
    assert abs(error["all"] - 2) < 0.03


@pytest.mark.parametrize("everywhere, least, most", [(True, 0.97, 1.03), (False, 0.6, 1.0)])
def test_realy_sees_a_stretch_within_the_surface_that_closest_points_do_not(
    everywhere, least, most
):
    """A plane drawn out by 10 % along x is the same plane; its points have moved by |x| / 10. Keypoints everywhere show all of that, nine most of it."""
    true, triangles, chosen, regions, _ = face_sheet()
    true[:, 2] = 0
    pred = true * [1.1, 1, 1]
    for name, region in regions.items():
        points = region if everywhere else chosen[7:16] if name == "upper" else chosen[16:]
        prediction, scan = (
            protocols.MarkedMesh(x, triangles, np.r_[true[chosen[:7]], x[points]])
            for x in (pred, true)
        )
        its = {name: range(7, 7 + len(points))}
        error = protocols.realy_error(prediction, scan, {name: region}, its, seven=range(7))
        assert least < error[name] / (np.abs(true[region, 0]).mean() / 10) < most
        assert (
            np.linalg.norm(
                metrics.Surface(pred, triangles).closest(true[region])[0] - true[region], axis=1
            ).max()
            < 1e-9
        )


def test_realy_is_near_the_true_correspondence_of_faces(face_model):
    regions = {k: v.numpy() for k, v in anatomy.regions(face_model).items() if k != "eyes"}
    true, other = face_model.neutral(
        torch.randn(2, face_model.n_identity, generator=torch.Generator().manual_seed(2))
    ).double()
    inside = torch.zeros(face_model.n_vertices, dtype=torch.bool).index_fill_(
        0, face_model.region, True
    )
    triangles, landmarks = (
        face_model.triangles[inside[face_model.triangles].all(1)].numpy(),
        face_model.landmarks,
    )
    prediction, scan = (
        protocols.MarkedMesh(x.numpy(), triangles, x[landmarks].numpy()) for x in (other, true)
    )
    found = protocols.realy_error(prediction, scan, regions)
    placed = metrics.similarity_align(other, true, subset=landmarks[list(metrics.NOW_LANDMARKS)])
    for name, region in regions.items():
        best = metrics.aligned_error(placed[region], true[region], scale=False).mean()
        assert 0.4 * best < found[name] < 1.1 * best


def test_a_neutral_shape_is_judged_as_its_protocols_would(face_model):
    true, other = face_model.neutral(
        torch.randn(2, face_model.n_identity, generator=torch.Generator().manual_seed(3))
    )
    itself, found = (
        protocols.judge_neutral(face_model, true, true, regional=True),
        protocols.judge_neutral(face_model, other, true),
    )
    assert (
        max(itself[kind].max() for kind in ("now", "metrical", "feng")) < 0.01
        and itself["realy"]["all"] < 0.01
        and set(itself["realy"]) == {"nose", "mouth", "forehead", "cheeks", "all"}
    )
    assert (
        "realy" not in found
        and np.square(found["now"]).mean() <= np.square(found["metrical"]).mean()
        and len(found["feng"]) < len(found["now"])
    )
    larger = protocols.judge_neutral(face_model, 1.1 * true, true)
    assert (
        larger["now"].max() < 0.01 < 0.5 < larger["metrical"].mean()
    )  # without scale a larger head is an error


def test_regional_icp_ends_where_a_general_solver_ends():
    """The slow obvious twin: scipy's least squares with numerical derivatives."""
    from scipy.optimize import least_squares

    true, triangles, chosen, regions, _ = face_sheet(10.0)
    region, rows = true[regions["upper"]], chosen[7:16]
    rng = np.random.default_rng(0)
    pred = true + 2 * np.sin(true[:, [1, 2, 0]] / 20)
    surface, keypoints, weight = (
        metrics.Surface(pred, triangles),
        pred[rows] + rng.normal(0, 1, (9, 3)),
        np.sqrt(len(region) / 9),
    )

    def residuals(turn, t):
        local = (region - t) @ turn
        return np.r_[
            (surface.closest(local)[0] - local).ravel(),
            weight * (keypoints @ turn.T + t - true[rows]).ravel(),
        ]

    found = residuals(*protocols.regional_icp(surface, region, keypoints, true[rows]))
    twin = least_squares(
        lambda p: residuals(Rotation.from_rotvec(p[:3]).as_matrix(), p[3:]), np.zeros(6)
    )
    start = residuals(np.eye(3), np.zeros(3))
    assert np.square(found).sum() < 1.001 * np.square(twin.fun).sum() < 0.9 * np.square(start).sum()


def test_bending_solves_its_energy():
    """One round beside a dense least squares of the terms as written, on a region whose points repeat and have a loose one."""
    true, triangles, chosen, _, _ = face_sheet(20.0)
    region = np.concatenate([true, true[:1], [[200.0, 0, 0]]])
    surface, targets = (
        metrics.Surface(true + [1.0, 2, 3], triangles),
        true[chosen[:5]] + [4.0, 0, -1],
    )
    triangles = np.r_[triangles, [[0, len(true), 1]]]
    found = protocols.bend(
        region, triangles, surface, true[chosen[:5]], targets, lengths_mm=(10.0,), rounds=1
    )
    n, closest = len(region), surface.closest(region)[0]
    rows, values = [np.eye(n)], [closest - region]
    for k, target in zip(chosen[:5], targets):
        anchor = np.linalg.norm(region - true[k], axis=1).argmin()
        rows.append(np.sqrt(n / 5) * np.eye(n)[[anchor]])
        values.append(np.sqrt(n / 5) * (target - true[k])[None])
    edges = {
        tuple(sorted(e)) for t in triangles for e in ((t[0], t[1]), (t[1], t[2]), (t[2], t[0]))
    }
    lengths = {e: np.linalg.norm(region[e[0]] - region[e[1]]) for e in edges}
    least = np.sqrt(1e-4 * np.median(np.square(list(lengths.values()))))
    for (i, j), length in lengths.items():
        rows.append(10 / max(length, least) * (np.eye(n)[[i]] - np.eye(n)[[j]]))
        values.append(np.zeros((1, 3)))
    d = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    np.testing.assert_allclose(found, surface.closest(region + d)[0], atol=1e-5)


# ---- parts of the face -----------------------------------------------------------------------------------------------------------------------------------------


def test_regions_are_disjoint_parts_of_the_face_and_hold_their_landmarks(face_model):
    found = anatomy.regions(face_model)
    everything = torch.cat(list(found.values()))
    assert (
        list(found) == ["nose", "mouth", "eyes", "forehead", "cheeks"]
        and len(everything.unique()) == len(everything)
        and min(map(len, found.values())) > 100
    )
    assert (
        set(everything.tolist()) <= set(face_model.region.tolist())
        and face_model.attributes["ear"][everything].max() < 0.5
    )
    for name, rows in dict(
        nose=range(27, 36), mouth=range(48, 68), eyes=range(36, 48), forehead=range(17, 27)
    ).items():
        assert set(face_model.landmarks[list(rows)].tolist()) <= set(found[name].tolist()), name
    assert face_model.landmarks[8] not in everything  # the chin
    lips = face_model.region[face_model.attributes["lips"][face_model.region] > 0.5]
    assert set(lips.tolist()) <= set(found["mouth"].tolist())


def test_regions_are_the_same_left_and_right(face_model):
    """The model's mesh is symmetric, its mean to under 1 mm: the mirror image of each vertex of a region falls on one of that region."""
    mean = face_model.mean
    for name, index in anatomy.regions(face_model).items():
        mirrored = mean[index] * torch.tensor([-1.0, 1, 1])
        assert torch.cdist(mirrored, mean[index]).amin(1).max() < 1, name
        assert len({int((mean[index, 0] * side > 0.5).sum()) for side in (-1, 1)}) == 1


def test_regions_follow_the_face_s_size_and_place(face_model):
    parts = {
        key: getattr(face_model, key)
        for key in ("identity_basis", "expression_basis", "triangles", "landmarks", "region")
    }
    other = anatomy.regions(
        MorphableModel(mean=1.3 * face_model.mean + torch.tensor([0.0, 40, -70]), **parts)
    )
    for name, index in anatomy.regions(face_model).items():
        assert set(index.tolist()) == set(other[name].tolist())
    with pytest.raises(ValueError, match="landmarks"):
        anatomy.regions(
            MorphableModel(
                mean=face_model.mean, **{**parts, "landmarks": parts["landmarks"][:1].repeat(68)}
            )
        )


def test_an_offset_shows_in_its_region_alone(face_model):
    true, found = face_model.mean.expand(2, -1, -1), anatomy.regions(face_model)
    pred = true.clone()
    pred[1, found["nose"]] += torch.tensor([3.0, 0, 4])
    error = anatomy.regional_errors(pred, true, found)
    for name in found:
        assert_close(error[name], torch.tensor([0.0, 5.0 if name == "nose" else 0.0]))


def test_normals_of_a_tilted_plane_are_off_by_the_tilt():
    flat, triangles = sheet(20.0)
    for degrees in (0.0, 1e-3, 25.0, 180.0):
        tilted = moved(Rotation.from_rotvec([np.radians(degrees), 0, 0]).apply(flat), 1.0)
        assert abs(anatomy.normal_error(tilted, moved(flat, 1.0), triangles) - degrees) < 1e-5
    assert anatomy.normal_error(3 * flat + [1.0, 2, 3], flat, triangles) < 1e-9


def test_normals_are_those_of_a_loop_over_triangles():
    model = toy_model()
    one, two = model.mean.numpy(), model.neutral(torch.ones(1, 6, dtype=torch.float64))[0].numpy()

    def normals(vertices):
        total = np.zeros_like(vertices)
        for a, b, c in model.triangles.numpy():
            for corner in (a, b, c):
                total[corner] += np.cross(vertices[b] - vertices[a], vertices[c] - vertices[a])
        return total / np.linalg.norm(total, axis=1, keepdims=True)

    angles = np.degrees(np.arccos((normals(one) * normals(two)).sum(1).clip(-1, 1)))
    assert (
        abs(anatomy.normal_error(two, one, model.triangles.numpy()) - angles.mean()) < 1e-5
        and angles.mean() > 1
    )
    assert (
        abs(
            anatomy.normal_error(two, one, model.triangles.numpy(), subset=[3, 70])
            - angles[[3, 70]].mean()
        )
        < 1e-5
    )


def test_a_vertex_without_a_normal_is_named():
    flat, triangles = sheet(20.0)
    alone = np.concatenate([flat, [[0.0, 0, 9]]])
    assert anatomy.normal_error(alone, alone, triangles) == 0  # in no triangle: not counted
    for vertices, subset in (
        (alone, [len(flat)]),
        (0 * flat, None),
    ):
        with pytest.raises(ValueError, match="no triangle with an area"):
            anatomy.normal_error(vertices, vertices, triangles, subset)


# ---- expression ------------------------------------------------------------------------------------------------------------------------------------------------


def test_unit_errors_are_those_of_a_loop(face_model):
    generator = torch.Generator().manual_seed(0)
    errors, strengths = (
        torch.rand(6, face_model.n_vertices, generator=generator),
        torch.rand(6, len(face_model.unit_names), generator=generator),
    )
    found = anatomy.unit_errors(errors, strengths, face_model)
    for j, name in enumerate(face_model.unit_names):
        movement = np.linalg.norm(face_model.units[face_model.region, :, j], axis=1)
        moved = [int(v) for v, mm in zip(face_model.region, movement) if mm > 0.25 * movement.max()]
        assert (name == "tongueOut") == (not moved)
        for b in range(6):
            if moved and strengths[b, j] >= 0.3:
                assert_close(found[b, j], errors[b, moved].mean())
            else:
                assert found[b, j].isnan()
    jaw, brow = (face_model.unit_names.index(k) for k in ("jawOpen", "browInnerUp"))
    chin = torch.zeros(1, face_model.n_vertices).index_fill_(1, face_model.landmarks[8:9], 1.0)
    only = anatomy.unit_errors(chin, torch.ones(1, 52), face_model)
    assert (
        only[0, jaw] > 0 and only[0, brow] == 0
    )  # the chin moves with the jaw, not with the brows


# ---- photos ----------------------------------------------------------------------------------------------------------------------------------------------------


def photos(n=60, seed=0):
    rng = np.random.default_rng(seed)
    true = rng.uniform(0, 100, (n, 68, 2))
    true[:, 0], true[:, 1] = (0, 0), (100, 100)  # a box of 100 px
    return true + rng.normal(0, 1, (n, 1, 1)) * [3.0, 4], true, rng.uniform(-90, 90, n)


def test_nme_is_in_percent_of_the_box_and_bins_weigh_the_same():
    true = np.random.default_rng(0).uniform(0, 1, (4, 68, 2)) * [100, 64]
    true[:, 0], true[:, 1] = [0, 0], [100, 64]  # the box is 100 x 64: sqrt(w h) = 80
    yaw = np.array([0, -30, 40, -80])
    shift = np.array([1, 3, 4, 8.0])
    table = protocols.nme_by_yaw(true + shift[:, None, None] * [1, 0], true, yaw)
    expected = {"0-30": 2.5, "30-60": 5, "60-90": 10, "mean": 17.5 / 3}
    assert {name: row.percent for name, row in table.items()} == pytest.approx(expected)


def test_the_table_by_yaw_has_intervals():
    pred, true, yaw = photos()
    table = protocols.nme_by_yaw(pred, true, yaw)
    assert all(low < mean < high for mean, low, high, _ in table.values()) and [
        row[3] for row in table.values()
    ] == [*np.bincount(np.digitize(abs(yaw), (30, 60))), 60]
    error = np.linalg.norm(pred - true, axis=2).mean(1)  # percent of a box of 100 px
    for name, inside in (("0-30", abs(yaw) <= 30), ("60-90", abs(yaw) > 60)):
        np.testing.assert_allclose(
            table[name][:3], evaluation.bootstrap_interval(error[inside]), rtol=0.05
        )
    known = protocols.nme_by_yaw(true + [3.0, 4], true, yaw)
    np.testing.assert_allclose([row[:3] for row in known.values()], 5)


def test_pictures_of_one_person_are_drawn_together():
    pred, true, yaw = photos(30)
    thrice = [np.repeat(x, 3, axis=0) for x in (pred, true, yaw, np.arange(30))]
    once, cheated, honest = (
        protocols.nme_by_yaw(pred, true, yaw),
        protocols.nme_by_yaw(*thrice[:3]),
        protocols.nme_by_yaw(*thrice[:3], clusters=thrice[3]),
    )
    width = lambda table: table["mean"][2] - table["mean"][1]
    np.testing.assert_allclose(honest["mean"][:3], once["mean"][:3])
    assert width(cheated) < 0.75 * width(honest)


def test_an_empty_bin_is_no_number():
    pred, true, yaw = photos(20)
    table = protocols.nme_by_yaw(pred, true, yaw / 2)
    assert (
        np.isnan(table["60-90"][:3]).all()
        and table["60-90"][3] == 0
        and np.isnan(table["mean"][:3]).all()
        and np.isfinite(table["0-30"][:3]).all()
    )
