"""How published benchmarks judge a face, and where on the face it errs: Feng, REALY, regions, normals, ARKit units, landmarks by yaw.

metrics.py holds what these share: alignments, closest points, NoW, intervals, and `summarise` for cumulative curves.
"""

import numpy as np
import torch
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from e2far import raster
from e2far.benchmark import metrics
from e2far.benchmark.metrics import as_points
from e2far.facemodels import anthropometry

REALY_KEYPOINTS = {
    "nose": range(27, 36),
    "mouth": range(48, 68),
    "forehead": range(17, 27),
    "cheeks": (36, 40, 41, 45, 46, 47, 31, 35, 48, 54),
}  # iBUG


def _mesh(name, vertices, triangles):
    vertices, triangles = as_points(vertices, (None, 3), f"{name} vertices"), np.asarray(triangles)
    if (
        triangles.ndim != 2
        or triangles.shape[1] != 3
        or len(triangles) == 0
        or not 0 <= triangles.min() <= triangles.max() < len(vertices)
    ):
        raise ValueError(
            f"{name} triangles {triangles.shape} must be (F, 3), at least one, and name vertices 0 to {len(vertices) - 1}"
        )
    return vertices, triangles


def _index(name, rows, n, least=1):
    rows = np.asarray(rows)
    if (
        rows.ndim != 1
        or len(rows) < least
        or rows.dtype.kind not in "iu"
        or not 0 <= rows.min() <= rows.max() < n
    ):
        raise ValueError(
            f"{name} must be {least} or more whole numbers from 0 to {n - 1}, not a mask: got {rows.dtype} {rows.shape}"
        )
    return rows


def _shapes(**meshes):
    """Refuses tensors (..., N, 3) that differ in shape or hold numbers that are not finite."""
    if (
        len({tuple(x.shape) for x in meshes.values()}) > 1
        or next(iter(meshes.values())).shape[-1] != 3
    ):
        raise ValueError(
            f"the meshes must have one shape (..., N, 3): {', '.join(f'{name} {tuple(x.shape)}' for name, x in meshes.items())}"
        )
    for name, x in meshes.items():
        if not x.isfinite().all():
            raise ValueError(f"{name} holds numbers that are not finite")


# ---- scans -------------------------------------------------------------------------------------------------------------------------------------------------


def feng_error(vertices, triangles, landmarks7, scan_vertices, scan_landmarks7):
    """Distances (M',) mm of the cropped scan's vertices to the aligned mesh: Feng et al., FG 2018, whose table is their root mean square.

    Arguments as in `metrics.now_error`. The similarity of the 7 landmarks alone places the mesh, and the ball that is measured is smaller.
    """
    return metrics.now_error(
        vertices, triangles, landmarks7, scan_vertices, scan_landmarks7, iterations=0, factor=1.2
    )


def judge_neutral(model, pred, true, regional=False):
    """What the protocols for scans say of the neutral shape `pred` (N, 3) mm if the mesh `true` (N, 3) mm were the scan, at the model's region, whose triangles alone are the predicted surface:

    dict of now, metrical, feng: distances (M',) mm of the scan's points in each protocol's crop; regional=True: also realy, name -> mm, of REALY's four regions (`regions`; slow)
    """
    skin = model.region_triangles.numpy()
    pred, true, seven, landmarks = (
        pred.numpy(),
        true.numpy(),
        model.landmarks[list(metrics.NOW_LANDMARKS)].numpy(),
        model.landmarks.numpy(),
    )
    arguments = pred, skin, pred[seven], true[model.region.numpy()], true[seven]
    found = dict(
        now=metrics.now_error(*arguments),
        metrical=metrics.now_error(*arguments, metrical=True),
        feng=feng_error(*arguments),
    )
    if regional:
        parts = {
            name: rows.numpy() for name, rows in regions(model).items() if name in REALY_KEYPOINTS
        }
        found["realy"] = realy_error(
            pred, skin, pred[landmarks], true, model.triangles.numpy(), true[landmarks], parts
        )
    return found


def realy_error(
    vertices,
    triangles,
    keypoints,
    scan_vertices,
    scan_triangles,
    scan_keypoints,
    regions,
    region_keypoints=REALY_KEYPOINTS,
    seven=metrics.NOW_LANDMARKS,
):
    """Mean distance in mm between the points of a scan's regions and those that correspond to them on the prediction: REALY (Chai et al. 2022, and its evaluation code).

    vertices (N, 3), triangles (F, 3): the prediction, outer skin only    keypoints, scan_keypoints: (K, 3), the same points on both    scan_vertices (M, 3) mm, scan_triangles (G, 3)
    regions: name -> indices of scan vertices    region_keypoints: name -> rows of the keypoints (default: iBUG)    seven: rows that place the prediction by a similarity
    returns name -> mm, and "all", their plain mean

    For each region the prediction, placed by the seven, is moved rigidly onto the region (`regional_icp`); then the region is bent onto it (`bend`), which says what corresponds to what.
    With iBUG keypoints it shows 65 to 85 % of the error under true correspondence between faces of our model, and ranks them alike (correlation .99, NoW's .93).
    """
    (vertices, triangles), (scan, scan_triangles) = (
        _mesh("predicted", vertices, triangles),
        _mesh("scan", scan_vertices, scan_triangles),
    )
    keypoints = as_points(keypoints, (None, 3), "keypoints")
    scan_keypoints = as_points(scan_keypoints, (len(keypoints), 3), "scan_keypoints")
    seven = _index("seven", seven, len(keypoints), 3)
    if not regions:
        raise ValueError("regions names no region: pass name -> indices of scan vertices")
    s, rotation, t = _similarity(keypoints[seven], scan_keypoints[seven])
    place = lambda x: s * x @ rotation.T + t
    surface, keypoints, errors = metrics.Surface(place(vertices), triangles), place(keypoints), {}
    for name, chosen in regions.items():
        inside, rows = (
            np.zeros(len(scan), bool),
            _index(
                f"region_keypoints[{name!r}]", region_keypoints.get(name, ()), len(keypoints), 3
            ),
        )
        inside[_index(f"regions[{name!r}]", chosen, len(scan), 3)] = True
        turn, shift = regional_icp(surface, scan[inside], keypoints[rows], scan_keypoints[rows])
        region, its_keypoints = (
            (x - shift) @ turn for x in (scan[inside], scan_keypoints[rows])
        )  # the scan is moved instead, so that one surface serves
        corners = (np.cumsum(inside) - 1)[scan_triangles[inside[scan_triangles].all(1)]]
        errors[name] = float(
            np.linalg.norm(
                bend(region, corners, surface, its_keypoints, keypoints[rows]) - region, axis=1
            ).mean()
        )
    return errors | {"all": float(np.mean(list(errors.values())))}


def _similarity(moving, fixed, **arguments):
    """`metrics.similarity_transform` of numpy points."""
    return tuple(
        x.numpy()
        for x in metrics.similarity_transform(
            torch.from_numpy(moving), torch.from_numpy(fixed), **arguments
        )
    )


def regional_icp(surface, region, keypoints, region_keypoints, iterations=50):
    """Rotation (3, 3) and translation (3,) that lay a Surface and its `keypoints` (K, 3) on the points `region` (n, 3) and `region_keypoints` (K, 3): closest points and a rigid fit in turns.

    # Choice: each keypoint counts n / K times, so that all keypoints weigh as much as all points of the region.
    """
    weights = torch.from_numpy(
        np.r_[np.ones(len(region)), np.full(len(keypoints), len(region) / len(keypoints))]
    )
    rotation, t, fixed = np.eye(3), np.zeros(3), np.concatenate((region, region_keypoints))
    for _ in range(iterations):
        moving = np.concatenate((surface.closest((region - t) @ rotation)[0], keypoints))
        _, turned, shifted = _similarity(moving, fixed, scale=False, weights=weights)
        step = np.abs(moving @ (turned - rotation).T + shifted - t).max()
        rotation, t = turned, shifted
        if step < 1e-3:  # mm
            break
    return rotation, t


def bend(region, triangles, surface, keypoints, targets, lengths_mm=(30.0, 10.0, 3.0), rounds=4):
    r"""Points (n, 3) of a Surface that correspond to the points `region` (n, 3) with `triangles` (T, 3): the region is bent onto the surface, `keypoints` (K, 3) onto `targets` (K, 3).

    Displacements $d$ minimise $\sum_i |x_i + d_i - c_i|^2 + \frac nK \sum_k |d_{i(k)} - (y_k - x_k)|^2 + \ell^2 \sum_{ij} |d_i - d_j|^2 / |x_i - x_j|^2$: c closest points, ij edges, i(k) the
    point nearest to keypoint k. The length $\ell$ over which d is smooth falls through `lengths_mm`, so that large shifts come first; c is found anew in each of the `rounds`.
    """
    n, anchors = len(region), cKDTree(region).query(keypoints)[1]
    one, two = np.unique(
        np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), 1), axis=0
    ).T
    squared = np.square(region[one] - region[two]).sum(1)
    stiffness = (
        1 / np.maximum(squared, 1e-4 * np.median(squared) + 1e-12) if len(one) else np.zeros(0)
    )
    edges = coo_array((stiffness, (one, two)), shape=(n, n))
    edges = (edges + edges.T).tocsc()
    laplacian, weight = diags_array(edges.sum(0)) - edges, n / len(keypoints)
    pull, pulled = np.zeros((n, 3)), np.ones(n)
    np.add.at(pull, anchors, weight * (targets - keypoints))
    np.add.at(pulled, anchors, weight)
    moved = region
    for length in lengths_mm:
        factors = splu(
            (diags_array(pulled) + length**2 * laplacian).tocsc(), permc_spec="MMD_AT_PLUS_A"
        )
        for _ in range(rounds):
            moved = region + factors.solve(surface.closest(moved)[0] - region + pull)
    return surface.closest(moved)[0]


# ---- parts of the face -------------------------------------------------------------------------------------------------------------------------------------


def regions(model):
    """Vertex indices of the nose, mouth, eyes, forehead and cheeks, name -> (n,): disjoint, inside `model.region`, the same left and right. Ears, chin, jaw line and neck are in none.

    Decided in the frontal view, from the mean face and its landmarks; the face ends where depth reaches that of the jaw line at the ears, and the forehead at the hairline, here .9 of the
    distance from nose base to brows above these.
    """
    mean, points = model.mean[model.region].double(), model.mean[model.landmarks].double()
    mirrored = mean * mean.new_tensor([-1, 1, 1])
    x, y, z = (
        (mean + mirrored[torch.from_numpy(cKDTree(mirrored.numpy()).query(mean.numpy())[1])])
        .div(2)
        .T
    )  # each with its mirror partner, so that both sides get the same
    x, aside, height = (
        x.abs(),
        lambda *k: float(points[list(k), 0].abs().mean()),
        lambda *k: float(points[list(k), 1].mean()),
    )
    eye, brow, base, corner = (
        height(*range(36, 48)),
        height(*range(17, 27)),
        height(33),
        aside(48, 54),
    )
    inner, outer, wing = (
        aside(39, 42),
        aside(36, 45),
        float(model.mean[anthropometry.alare(model), 0].abs().mean()),
    )
    top, bottom = (
        (eye + brow) / 2,
        height(57) - 0.4 * (height(57) - height(8)),
    )  # of the nose and eyes; of the mouth
    down = ((top - y) / (top - base)).clamp(0, 1)
    front = z > points[[1, 15], 2].mean()
    found = dict(
        nose=(y < top)
        & (y > base - 0.25 * (base - height(51)))
        & (x < 0.6 * inner + (1.1 * wing - 0.6 * inner) * down**2),
        mouth=(x / (1.4 * corner)).square()
        + ((y - (base + bottom) / 2) / ((base - bottom) / 2)).square()
        < 1,
        eyes=((x - (inner + outer) / 2) / (0.75 * (outer - inner))).square()
        + ((y - eye) / (0.5 * (outer - inner))).square()
        < 1,
        forehead=(y >= top) & (y < brow + 0.9 * (brow - base)),
        cheeks=(y < top) & (y > height(57)),
    )
    free = front.clone()
    for name, inside in found.items():
        found[name], free = model.region[inside & free].sort().values, free & ~inside
        if not len(found[name]):
            raise ValueError(
                f"the model has no vertex in the region {name!r}: check its landmarks, and that the face looks along z"
            )
    return found


def regional_errors(pred, true, regions):
    """Mean vertex error in mm of each region, name -> (...,). pred, true: (..., N, 3) mm, aligned as the caller likes    regions: name -> vertex indices, as from `regions`"""
    _shapes(pred=pred, true=true)
    error = metrics.vertex_error(pred, true)
    return {
        name: error[..., _index(f"regions[{name!r}]", index, error.shape[-1])].mean(-1)
        for name, index in regions.items()
    }


def normal_error(vertices, true, triangles, subset=None):
    """Mean angle in degrees between the vertex normals of two meshes (N, 3) with the same `triangles` (F, 3), each normal weighted by area. subset: vertices that count (None: all in a triangle)

    Neither place nor size matters, turns do: align before.
    """
    (vertices, triangles), true = (
        _mesh("predicted", vertices, triangles),
        as_points(true, (len(vertices), 3), "true vertices"),
    )
    subset = np.unique(triangles) if subset is None else _index("subset", subset, len(vertices))
    one, two = (
        raster.vertex_normals(np.ascontiguousarray(x), triangles)[subset] for x in (vertices, true)
    )
    if min(np.linalg.norm(one, axis=1).min(), np.linalg.norm(two, axis=1).min()) < 0.5:
        raise ValueError(
            "a vertex lies in no triangle that has an area, so it has no normal: leave it out by `subset`"
        )
    return float(
        np.degrees(
            np.arctan2(np.linalg.norm(np.cross(one, two), axis=1), (one * two).sum(1))
        ).mean()
    )  # accurate at small angles, unlike arccos


# ---- expression --------------------------------------------------------------------------------------------------------------------------------------------


def unit_errors(errors, strengths, model, active=0.3, share=0.25):
    """Mean of `errors` (B, N) mm over the region's vertices that a unit moves, in pictures in which it is active: (B, J), nan where it is not, and for units that move no such vertex.

    strengths: (B, J), in the order of model.unit_names    active: least strength that counts    share: a unit moves a vertex if by more than this share of its largest movement
    """
    # Choice: active and share, so that what a unit is judged on is a visible movement of the part it moves.
    errors, strengths = torch.as_tensor(errors), torch.as_tensor(strengths)
    wanted = (len(strengths), model.n_vertices), (len(errors), len(model.unit_names))
    if (tuple(errors.shape), tuple(strengths.shape)) != wanted or not (
        errors.isfinite().all() and strengths.isfinite().all()
    ):
        raise ValueError(
            f"expected finite errors (B, {model.n_vertices}) and strengths (B, {len(model.unit_names)}), got {tuple(errors.shape)} and {tuple(strengths.shape)}"
        )
    movement = model.units[model.region].norm(dim=1)
    moves = (movement > share * movement.amax(0)).to(errors)  # (M, J)
    means = errors[:, model.region] @ moves / moves.sum(0)  # nothing moved: 0 / 0, nan
    return means.masked_fill(strengths < active, torch.nan)


# ---- photos ------------------------------------------------------------------------------------------------------------------------------------------------


def nme_by_yaw(
    pred, true, yaw_deg, points=slice(None), clusters=None, samples=2000, level=0.95, seed=0
):
    """The table of `metrics.nme_68`, percent, with percentile bootstrap intervals: bin -> (mean, low, high, n), and "mean", the plain mean of the bins.

    Arguments as there    clusters: (B,) labels, e.g. the person, drawn whole (None: pictures). An empty bin is nan, and so is the mean then; draws that leave a filled bin empty do not count.
    """
    pred, true = (as_points(x, (None, 68, 2), name) for name, x in (("pred", pred), ("true", true)))
    yaw = as_points(yaw_deg, (len(true),), "yaw_deg")
    means = metrics.nme_68(pred, true, yaw, points)
    error = metrics.nme(pred, true, points)
    cluster = np.unique(
        np.arange(len(yaw)) if clusters is None else np.asarray(clusters), return_inverse=True
    )[1]
    inside = metrics.yaw_bin(yaw)[:, None] == np.arange(len(metrics.YAW_BINS))
    count, total = np.zeros((2, cluster.max() + 1, len(metrics.YAW_BINS)))
    np.add.at(count, cluster, inside)
    np.add.at(total, cluster, inside * error[:, None])
    rng, n = np.random.default_rng(seed), len(count)
    with np.errstate(invalid="ignore"):
        drawn = np.stack(
            [
                (times @ total) / (times @ count)
                for times in (rng.multinomial(n, np.full(n, 1 / n)) for _ in range(samples))
            ]
        )  # how often each cluster
    drawn = np.concatenate((drawn, drawn.mean(1, keepdims=True)), 1)
    table = {}
    for name, values, pictures in zip(means, drawn.T, (*inside.sum(0), len(yaw))):
        values = values[np.isfinite(values)]
        low, high = (
            np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
            if len(values)
            else (np.nan, np.nan)
        )
        table[name] = (means[name], float(low), float(high), int(pictures))
    return table
