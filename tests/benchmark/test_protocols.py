"""The protocols on shapes whose error is known by hand, and beside slow obvious twins."""

import numpy as np
import pytest
import torch
from scipy.optimize import least_squares
from scipy.spatial.transform import Rotation
from torch.testing import assert_close

from e2far import evaluation
from e2far.benchmark import anatomy, metrics, protocols
from e2far.morphable import MorphableModel

SEVEN = np.array([[-45, 30], [-15, 28], [15, 28], [45, 30], [0, -20], [-25, -50], [25, -50.0]])


def sheet(step_mm=10.0, half_mm=100.0):
    """A square in the plane z = 0, (N, 3) mm and (F, 3)."""
    side = np.arange(-half_mm, half_mm + step_mm / 2, step_mm)
    n = len(side)
    x, y = np.meshgrid(side, side)
    corner = (np.arange(n - 1)[:, None] * n + np.arange(n - 1)).reshape(-1, 1)
    triangles = np.concatenate([corner + [0, 1, n], corner + [1, n + 1, n]])
    return np.stack([x, y, 0 * x], -1).reshape(-1, 3), triangles


def moved(points, scale=1.3):
    turn = Rotation.from_rotvec([0.4, -0.2, 0.3])
    return scale * turn.apply(points) + [5.0, -80.0, 300.0]


FLAT_SEVEN = np.c_[SEVEN, np.zeros(7)]


def test_feng_error_ignores_place_and_size_but_not_a_shift_of_the_plane():
    flat, triangles = sheet()
    mesh, placed = (flat, triangles, FLAT_SEVEN), (moved(flat), triangles, moved(FLAT_SEVEN))
    assert protocols.feng_error(placed, flat, FLAT_SEVEN).max() < 1e-6
    lifted = flat + [0, 0, 2.5]
    np.testing.assert_allclose(protocols.feng_error(mesh, lifted, FLAT_SEVEN), 2.5)
    assert metrics.now_error(mesh, lifted, FLAT_SEVEN).max() < 1e-6  # NoW refines this away


def bumpy(x, y):
    return 12 * np.exp(-(x**2 + y**2) / 900) - 5 * np.cos(x / 25) * np.sin(y / 30)


def face_sheet(step_mm=5.0, half_mm=80.0):
    """A bumpy sheet with two regions, and keypoints that are vertices: seven for the whole, nine
    for each region."""
    vertices, triangles = sheet(step_mm, half_mm)
    x, y = vertices.T[:2]
    vertices[:, 2] = bumpy(x, y)
    inside = lambda height: np.flatnonzero((abs(x) < 41) & (height > 4) & (height < 66))
    nine = lambda middle: [[a, middle + b] for a in (-35, 0, 35) for b in (-25, 0, 25)]
    targets = np.concatenate([SEVEN, nine(35), nine(-35)])
    offsets = np.linalg.norm(vertices[:, None, :2] - targets, axis=-1)
    rows = dict(upper=range(7, 16), lower=range(16, 25))
    return vertices, triangles, offsets.argmin(0), dict(upper=inside(y), lower=inside(-y)), rows


def realy(pred, true, triangles, chosen, regions, region_keypoints):
    prediction, scan = (protocols.MarkedMesh(x, triangles, x[chosen]) for x in (pred, true))
    return protocols.realy_error(prediction, scan, regions, region_keypoints, seven=range(7))


def test_realy_error_of_a_mesh_with_itself_is_zero_whatever_its_place_and_size():
    true, *rest = face_sheet()
    error = realy(moved(true), true, *rest)
    assert list(error) == ["upper", "lower", "all"] and max(error.values()) < 1e-6


def test_a_region_moved_as_a_whole_is_no_error_and_all_is_the_plain_mean():
    true, triangles, chosen, regions, rows = face_sheet()
    # The upper region is lifted; the lower is not, and the seven keypoints stay.
    up = true + np.array([0, 0, 3.0]) * np.clip((true[:, 1:2] + 4) / 8, 0, 1)
    prediction = protocols.MarkedMesh(up, triangles, np.r_[true[chosen[:7]], up[chosen[7:]]])
    scan = protocols.MarkedMesh(true, triangles, true[chosen])
    error = protocols.realy_error(prediction, scan, regions, rows, seven=range(7))
    assert error["upper"] < 0.02 and error["lower"] < 0.02
    both = {"lower": regions["lower"], "both": np.r_[regions["upper"], regions["lower"]]}
    worse = realy(up, true, triangles, chosen, both, rows | {"both": range(7, 25)})
    assert worse["both"] > 0.5 and worse["all"] == (worse["lower"] + worse["both"]) / 2


@pytest.mark.parametrize("everywhere, least, most", [(True, 0.97, 1.03), (False, 0.6, 1.0)])
def test_realy_sees_a_stretch_within_the_surface_that_closest_points_do_not(
    everywhere, least, most
):
    """A plane drawn out by 10 % along x is the same plane; its points have moved by |x| / 10.
    Keypoints everywhere show all of that, nine most of it."""
    true, triangles, chosen, regions, rows = face_sheet()
    true[:, 2] = 0
    pred = true * [1.1, 1, 1]
    for name, region in regions.items():
        points = region if everywhere else chosen[rows[name]]
        prediction, scan = (
            protocols.MarkedMesh(x, triangles, np.r_[true[chosen[:7]], x[points]])
            for x in (pred, true)
        )
        its = {name: range(7, 7 + len(points))}
        error = protocols.realy_error(prediction, scan, {name: region}, its, seven=range(7))
        assert least < error[name] / (np.abs(true[region, 0]).mean() / 10) < most
        closest, _ = metrics.Surface(pred, triangles).closest(true[region])
        assert abs(closest - true[region]).max() < 1e-9


def test_a_neutral_shape_is_judged_as_its_protocols_would(face_model):
    draw = torch.Generator().manual_seed(3)
    true, other = face_model.neutral(torch.randn(2, face_model.n_identity, generator=draw))
    itself = protocols.judge_neutral(face_model, true, true, regional=True)
    assert max(itself[kind].max() for kind in ("now", "metrical", "feng")) < 0.01
    assert set(itself["realy"]) == {"nose", "mouth", "forehead", "cheeks", "all"}
    assert itself["realy"]["all"] < 0.01
    found = protocols.judge_neutral(face_model, other, true)
    assert "realy" not in found and len(found["feng"]) < len(found["now"])
    assert np.square(found["now"]).mean() <= np.square(found["metrical"]).mean()
    larger = protocols.judge_neutral(face_model, 1.1 * true, true)
    # Without scale a larger head is an error.
    assert larger["now"].max() < 0.01 < 0.5 < larger["metrical"].mean()


def test_regional_icp_ends_where_a_general_solver_ends():
    """The slow obvious twin: scipy's least squares with numerical derivatives."""
    true, triangles, chosen, regions, rows = face_sheet(10.0)
    region, targets = true[regions["upper"]], true[chosen[rows["upper"]]]
    pred = true + 2 * np.sin(true[:, [1, 2, 0]] / 20)
    noise = np.random.default_rng(0).normal(0, 1, (9, 3))
    surface, keypoints = metrics.Surface(pred, triangles), pred[chosen[rows["upper"]]] + noise
    weight = np.sqrt(len(region) / 9)

    def residuals(turn, t):
        local = (region - t) @ turn
        off = keypoints @ turn.T + t - targets
        return np.r_[(surface.closest(local)[0] - local).ravel(), weight * off.ravel()]

    found = residuals(*protocols.regional_icp(surface, region, keypoints, targets))
    start = residuals(np.eye(3), np.zeros(3))
    by_vector = lambda p: residuals(Rotation.from_rotvec(p[:3]).as_matrix(), p[3:])
    twin = least_squares(by_vector, np.zeros(6)).fun
    assert np.square(found).sum() < 1.001 * np.square(twin).sum() < 0.9 * np.square(start).sum()


def test_bending_solves_its_energy():
    """One round beside a dense least squares of the terms as written, on a region whose points
    repeat and have a loose one."""
    true, triangles, chosen, _, _ = face_sheet(20.0)
    region = np.concatenate([true, true[:1], [[200.0, 0, 0]]])
    surface = metrics.Surface(true + [1.0, 2, 3], triangles)
    triangles = np.r_[triangles, [[0, len(true), 1]]]
    points = true[chosen[:5]]
    targets = points + [4.0, 0, -1]
    found = protocols.bend(
        region, triangles, surface, points, targets, lengths_mm=(10.0,), rounds=1
    )
    n, unit = len(region), np.eye(len(region))
    rows, values = [unit], [surface.closest(region)[0] - region]
    for point, target in zip(points, targets):
        anchor = np.linalg.norm(region - point, axis=1).argmin()
        rows.append(np.sqrt(n / 5) * unit[[anchor]])
        values.append(np.sqrt(n / 5) * (target - point)[None])
    sides = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.unique(np.sort(sides, axis=1), axis=0)
    lengths = np.linalg.norm(region[edges[:, 0]] - region[edges[:, 1]], axis=1)
    least = np.sqrt(1e-4 * np.median(np.square(lengths)))
    for (i, j), length in zip(edges, lengths):
        rows.append(10 / max(length, least) * (unit[[i]] - unit[[j]]))
        values.append(np.zeros((1, 3)))
    d = np.linalg.lstsq(np.concatenate(rows), np.concatenate(values), rcond=None)[0]
    np.testing.assert_allclose(found, surface.closest(region + d)[0], atol=1e-5)


def test_regions_are_disjoint_symmetric_parts_of_the_face_and_hold_their_landmarks(face_model):
    found = anatomy.regions(face_model)
    everything = torch.cat(list(found.values()))
    assert list(found) == ["nose", "mouth", "eyes", "forehead", "cheeks"]
    assert len(everything.unique()) == len(everything) and min(map(len, found.values())) > 100
    assert set(everything.tolist()) <= set(face_model.region.tolist())
    assert face_model.attributes["ear"][everything].max() < 0.5
    rows = dict(nose=(27, 36), mouth=(48, 68), eyes=(36, 48), forehead=(17, 27))
    for name, (first, end) in rows.items():
        assert set(face_model.landmarks[first:end].tolist()) <= set(found[name].tolist()), name
    assert face_model.landmarks[8] not in everything  # the chin
    lips = face_model.region[face_model.attributes["lips"][face_model.region] > 0.5]
    assert set(lips.tolist()) <= set(found["mouth"].tolist())
    for index in found.values():  # the mesh is symmetric, its mean to under 1 mm
        points = face_model.mean[index]
        mirrored = points * torch.tensor([-1.0, 1, 1])
        assert torch.cdist(mirrored, points).amin(1).max() < 1
        assert (points[:, 0] > 0.5).sum() == (points[:, 0] < -0.5).sum()


def test_regions_follow_the_face_s_size_and_place(face_model):
    names = ("identity_basis", "expression_basis", "triangles", "landmarks", "region")
    parts = {name: getattr(face_model, name) for name in names}
    elsewhere = 1.3 * face_model.mean + torch.tensor([0.0, 40, -70])
    other = anatomy.regions(MorphableModel(mean=elsewhere, **parts))
    for name, index in anatomy.regions(face_model).items():
        assert set(index.tolist()) == set(other[name].tolist())
    parts["landmarks"] = parts["landmarks"][:1].repeat(68)
    with pytest.raises(ValueError, match="landmarks"):
        anatomy.regions(MorphableModel(mean=face_model.mean, **parts))


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


def test_a_vertex_without_a_normal_is_named():
    flat, triangles = sheet(20.0)
    alone = np.concatenate([flat, [[0.0, 0, 9]]])
    assert anatomy.normal_error(alone, alone, triangles) == 0  # in no triangle: not counted
    for vertices, subset in ((alone, [len(flat)]), (0 * flat, None)):
        with pytest.raises(ValueError, match="no triangle with an area"):
            anatomy.normal_error(vertices, vertices, triangles, subset)


def test_unit_errors_are_those_of_a_loop(face_model):
    draw = torch.Generator().manual_seed(0)
    errors = torch.rand(6, face_model.n_vertices, generator=draw)
    strengths = torch.rand(6, len(face_model.unit_names), generator=draw)
    found = anatomy.unit_errors(errors, strengths, face_model)
    for j, name in enumerate(face_model.unit_names):
        movement = np.linalg.norm(face_model.units[face_model.region, :, j], axis=1)
        moving = face_model.region[torch.from_numpy(movement > 0.25 * movement.max())]
        assert (name == "tongueOut") == (not len(moving))
        for b in range(6):
            if len(moving) and strengths[b, j] >= 0.3:
                assert_close(found[b, j], errors[b, moving].mean())
            else:
                assert found[b, j].isnan()


def photos(n=60, box=(100, 100)):
    """Landmarks, those of the truth within a `box` px, and yaws."""
    rng = np.random.default_rng(0)
    true = rng.uniform(0, 1, (n, 68, 2)) * box
    true[:, 0], true[:, 1] = (0, 0), box
    return true + rng.normal(0, 1, (n, 1, 1)) * [3.0, 4], true, rng.uniform(-90, 90, n)


def test_nme_is_in_percent_of_the_box_and_bins_weigh_the_same():
    _, true, _ = photos(4, box=(100, 64))  # sqrt(w h) = 80
    shift = np.array([1, 3, 4, 8.0])[:, None, None] * [1, 0]
    table = protocols.nme_by_yaw(true + shift, true, np.array([0, -30, 40, -80]))
    expected = {"0-30": 2.5, "30-60": 5, "60-90": 10, "mean": 17.5 / 3}
    assert {name: row.percent for name, row in table.items()} == pytest.approx(expected)
    table = protocols.nme_by_yaw(true + shift, true, np.array([0, -30, 40, 50]))  # an empty bin
    assert np.isnan(table["60-90"][:3]).all() and table["60-90"].pictures == 0
    assert np.isnan(table["mean"][:3]).all() and np.isfinite(table["0-30"][:3]).all()


def test_the_table_by_yaw_has_intervals_over_people():
    once = pred, true, yaw = photos()
    table = protocols.nme_by_yaw(*once)
    counts = [*np.bincount(np.digitize(abs(yaw), (30, 60))), 60]
    assert [row.pictures for row in table.values()] == counts
    error = np.linalg.norm(pred - true, axis=2).mean(1)  # percent of a box of 100 px
    for name, inside in (("0-30", abs(yaw) <= 30), ("60-90", abs(yaw) > 60)):
        expected = evaluation.bootstrap_interval(error[inside])
        np.testing.assert_allclose(table[name][:3], expected, rtol=0.05)
    thrice = [np.repeat(x, 3, axis=0) for x in once]
    cheated = protocols.nme_by_yaw(*thrice)
    honest = protocols.nme_by_yaw(*thrice, clusters=np.repeat(np.arange(60), 3))
    width = lambda table: table["mean"].high - table["mean"].low
    np.testing.assert_allclose(honest["mean"][:3], table["mean"][:3])
    assert width(cheated) < 0.75 * width(honest)
