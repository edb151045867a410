"""How published benchmarks judge a face: Feng, REALY, landmarks by yaw; NoW is in metrics.py."""

from typing import NamedTuple

import numpy as np
from scipy.sparse import coo_array, diags_array
from scipy.sparse.linalg import splu
from scipy.spatial import cKDTree

from e2far.benchmark import anatomy, metrics
from e2far.benchmark.metrics import NOW_LANDMARKS, similarity_of_arrays

REALY_KEYPOINTS = {
    "nose": range(27, 36),
    "mouth": range(48, 68),
    "forehead": range(17, 27),
    "cheeks": (36, 40, 41, 45, 46, 47, 31, 35, 48, 54),
}  # iBUG
YAW_BINS = ("0-30", "30-60", "60-90")  # degrees


class MarkedMesh(NamedTuple):
    """A surface with keypoints marked on it."""

    vertices: np.ndarray  # (N, 3) mm
    triangles: np.ndarray  # (F, 3) int
    keypoints: np.ndarray  # (K, 3) mm: NOW_LANDMARKS, of `realy_error` iBUG's 68


def feng_error(prediction, scan_vertices, scan_landmarks7):
    """`now_error` of Feng et al. 2018: no refinement, a smaller ball. Their table is its RMS."""
    return metrics.now_error(prediction, scan_vertices, scan_landmarks7, iterations=0, factor=1.2)


def scan_errors(prediction, scan_vertices, scan_landmarks7):
    """Dict of now, metrical, feng: distances (M',) mm of the scan's points in each crop."""
    arguments = prediction, scan_vertices, scan_landmarks7  # of now_error
    return dict(
        now=metrics.now_error(*arguments),
        metrical=metrics.now_error(*arguments, metrical=True),
        feng=feng_error(*arguments),
    )


def judge_neutral(model, pred, true, regional=False):
    """The protocols' errors of a neutral shape `pred` (N, 3) mm if `true` (N, 3) were the scan.

    returns `scan_errors`; regional=True: also realy, name -> mm, of REALY's four regions (slow)
    """
    skin, landmarks = model.region_triangles.numpy(), model.landmarks.numpy()
    pred, true, seven = pred.numpy(), true.numpy(), landmarks[list(NOW_LANDMARKS)]
    mesh = MarkedMesh(pred, skin, pred[seven])
    errors = scan_errors(mesh, true[model.region.numpy()], true[seven])
    if regional:
        parts = anatomy.regions(model)
        errors["realy"] = realy_error(
            MarkedMesh(pred, skin, pred[landmarks]),
            MarkedMesh(true, model.triangles.numpy(), true[landmarks]),
            {name: parts[name].numpy() for name in parts if name in REALY_KEYPOINTS},
        )
    return errors


def realy_error(prediction, scan, regions, region_keypoints=REALY_KEYPOINTS, seven=NOW_LANDMARKS):
    """Mean distance in mm of a scan's regions from their match on the prediction: REALY.

    Chai et al. 2022, and its evaluation code. The prediction, placed by the seven, is moved rigidly
    onto each region (`regional_icp`), which is then bent onto it (`bend`). Between faces of our
    model it shows 65 to 85 % of the error under true correspondence, and ranks them alike
    (correlation .99; NoW .93).

    prediction, scan: MarkedMesh with the same keypoints; of the prediction the outer skin only
    regions: name -> indices of scan vertices    region_keypoints: name -> rows of the keypoints
    seven: rows that place the prediction    returns name -> mm, and "all", their plain mean
    """
    vertices, scan_vertices = (np.asarray(x.vertices, np.float64) for x in (prediction, scan))
    keypoints, scan_keypoints = (np.asarray(x.keypoints, np.float64) for x in (prediction, scan))
    s, R, t = similarity_of_arrays(keypoints[list(seven)], scan_keypoints[list(seven)])
    surface = metrics.Surface(s * vertices @ R.T + t, prediction.triangles)
    keypoints = s * keypoints @ R.T + t
    errors = {}
    for name, chosen in regions.items():
        rows, inside = list(region_keypoints[name]), np.zeros(len(scan_vertices), bool)
        inside[chosen] = True
        region, own_marks, scan_marks = scan_vertices[inside], keypoints[rows], scan_keypoints[rows]
        whole = inside[scan.triangles].all(1)
        triangles = (np.cumsum(inside) - 1)[scan.triangles[whole]]
        R, t = regional_icp(surface, region, own_marks, scan_marks)
        # The scan is moved instead of the prediction, so that one surface serves all regions.
        region, scan_marks = (region - t) @ R, (scan_marks - t) @ R
        matched = bend(region, triangles, surface, scan_marks, own_marks)
        errors[name] = float(np.linalg.norm(matched - region, axis=1).mean())
    return errors | {"all": float(np.mean(list(errors.values())))}


def regional_icp(surface, region, keypoints, region_keypoints, iterations=50):
    """Rotation R (3, 3) and translation t (3,) that lay a Surface and its keypoints on a region.

    Closest points and a rigid fit in turns. region: (n, 3)    keypoints, region_keypoints: (K, 3)
    """
    n, K = len(region), len(keypoints)
    weights = np.r_[np.ones(n), np.full(K, n / K)]  # Choice: keypoints weigh as much as the region
    R, t, fixed = np.eye(3), np.zeros(3), np.concatenate((region, region_keypoints))
    for _ in range(iterations):
        moving = np.concatenate((surface.closest((region - t) @ R)[0], keypoints))
        _, R_new, t_new = similarity_of_arrays(moving, fixed, scale=False, weights=weights)
        step_mm = np.abs(moving @ (R_new - R).T + t_new - t).max()
        R, t = R_new, t_new
        if step_mm < 1e-3:
            break
    return R, t


def bend(region, triangles, surface, keypoints, targets, lengths_mm=(30.0, 10.0, 3.0), rounds=4):
    r"""Points (n, 3) of a Surface that match those of a `region` (n, 3), bent onto it.

    Displacements $d$ minimise $\sum_i |x_i + d_i - c_i|^2 + \frac nK \sum_k |d_{i(k)} - (y_k -
    x_k)|^2 + \ell^2 \sum_{ij} |d_i - d_j|^2 / |x_i - x_j|^2$: c closest points, found anew in each
    of the `rounds`; ij edges of the region's `triangles` (T, 3); i(k) the point nearest to keypoint
    k, which goes to target k, both (K, 3). The length $\ell$ over which d is smooth falls through
    `lengths_mm`, so that large shifts come first.
    """
    n, anchors = len(region), cKDTree(region).query(keypoints)[1]
    edges = np.sort(triangles[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    one, two = np.unique(edges, axis=0).T
    squared = np.square(region[one] - region[two]).sum(1)
    stiffness = 1 / np.maximum(squared, 1e-4 * np.median(squared) + 1e-12)
    adjacency = coo_array((stiffness, (one, two)), shape=(n, n))
    adjacency = (adjacency + adjacency.T).tocsc()
    laplacian, weight = diags_array(adjacency.sum(0)) - adjacency, n / len(keypoints)
    pull, pulled = np.zeros((n, 3)), np.ones(n)
    np.add.at(pull, anchors, weight * (targets - keypoints))
    np.add.at(pulled, anchors, weight)
    moved = region
    for length in lengths_mm:
        system = (diags_array(pulled) + length**2 * laplacian).tocsc()
        factors = splu(system, permc_spec="MMD_AT_PLUS_A")
        for _ in range(rounds):
            moved = region + factors.solve(surface.closest(moved)[0] - region + pull)
    return surface.closest(moved)[0]


class BinError(NamedTuple):
    """`metrics.nme` of the pictures of a bin of yaw, and its 95 % bootstrap interval."""

    percent: float
    low: float
    high: float
    pictures: int


def nme_by_yaw(pred, true, yaw_deg, clusters=None, samples=2000, seed=0):
    """AFLW2000-3D's table: bin of |yaw| -> BinError, and "mean", the plain mean of the bins.

    pred, true: (B, 68, 2) px    yaw_deg: (B,)
    clusters: (B,) labels, e.g. the person, drawn whole (None: pictures)
    An empty bin is nan, and so is the mean then; draws that leave a filled bin empty do not count.
    """
    pred, true, yaw_deg = (np.asarray(x, np.float64) for x in (pred, true, yaw_deg))
    bins = np.digitize(np.abs(yaw_deg), (30, 60), right=True)
    inside = bins[:, None] == np.arange(len(YAW_BINS))
    clusters = np.arange(len(yaw_deg)) if clusters is None else np.asarray(clusters)
    labels, cluster = np.unique(clusters, return_inverse=True)
    count, total = np.zeros((2, len(labels), len(YAW_BINS)))
    np.add.at(count, cluster, inside)
    np.add.at(total, cluster, inside * metrics.nme(pred, true)[:, None])
    times = metrics.draw_people(len(labels), samples, seed)
    with np.errstate(invalid="ignore"):  # an empty bin is 0 / 0
        drawn = (times @ total) / (times @ count)
        percent = total.sum(0) / count.sum(0)
    draws = (*drawn.T, drawn.mean(1))
    values, pictures = (*percent, percent.mean()), (*inside.sum(0), len(yaw_deg))
    return {
        name: BinError(float(value), *metrics.interval(ends), int(n))
        for name, value, ends, n in zip((*YAW_BINS, "mean"), values, draws, pictures)
    }
