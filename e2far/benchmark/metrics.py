"""What the protocols share: distances of vertices and to a scan, landmarks on photos.

`vertex_error` where the true correspondence is known. Distances to the nearest surface, as NoW's,
flatter a mesh that has slid along the face (arXiv 2505.18025), and are reported beside it.
"""

import numpy as np
import torch
from scipy.spatial.transform import Rotation

from e2far.files import extra

with extra("study"):
    import igl
    import roma

# iBUG: eye corners from right to left, nose base, mouth corners
NOW_LANDMARKS = (36, 39, 42, 45, 33, 48, 54)


def draw_people(people, draws, seed):
    """How often each of so many people is in each bootstrap draw, (draws, people) int."""
    rng = np.random.default_rng(seed)
    return rng.multinomial(people, np.full(people, 1 / people), size=draws)


def interval(drawn):
    """Low and high end of the 95 % interval of draws (n,); nan ones do not count."""
    drawn = drawn[np.isfinite(drawn)]
    return np.quantile(drawn, (0.025, 0.975)).tolist() if len(drawn) else [np.nan, np.nan]


def vertex_error(pred, true):
    """Distance of every vertex to its true place, mm. pred, true: (..., N, 3) mm; (..., N)."""
    return (pred - true).norm(dim=-1)


def similarity_transform(moving, fixed, scale=True, weights=None):
    r"""Minimises $\sum_n w_n \lVert s R x_n + t - y_n \rVert^2$ (Umeyama 1991).

    moving, fixed: (..., N, 3)    weights: (..., N) >= 0    scale=False keeps s = 1
    returns s (...), R (..., 3, 3) with det R = +1, t (..., 3)
    """
    R, t, *s = roma.rigid_points_registration(moving, fixed, weights, compute_scaling=scale)
    return (s[0] if scale else torch.ones_like(t[..., 0])), R, t


def similarity_of_arrays(moving, fixed, scale=True, weights=None):
    """`similarity_transform` of numpy points, in double precision."""
    moving, fixed = (torch.as_tensor(x, dtype=torch.double) for x in (moving, fixed))
    weights = None if weights is None else torch.as_tensor(weights, dtype=torch.double)
    return tuple(x.numpy() for x in similarity_transform(moving, fixed, scale, weights))


def similarity_align(pred, true, subset=None):
    """`pred` (..., N, 3) laid on `true` (..., N, 3) by the best similarity.

    subset: vertices that alone decide the motion
    """
    points = (pred, true) if subset is None else (pred[..., subset, :], true[..., subset, :])
    s, R, t = similarity_transform(*points)
    return s[..., None, None] * pred @ R.mT + t.unsqueeze(-2)


class Surface:
    """A triangle mesh that answers closest-point queries exactly, by libigl's tree of boxes."""

    def __init__(self, vertices, triangles):
        self.mesh = np.asarray(vertices, np.float64), np.asarray(triangles, np.int64)
        self.normals = igl.per_face_normals(*self.mesh)
        self.tree = igl.AABB()
        self.tree.init(*self.mesh)

    def closest(self, points):
        """Closest points (M, 3) on the mesh to `points` (M, 3), and their triangles (M,)."""
        _, triangles, places = self.tree.squared_distance(*self.mesh, points)
        return places, triangles


def now_crop(scan_vertices, scan_landmarks7, factor=1.4):
    """Which scan vertices (M,) lie in a ball around the nose; factor: 1.4 in NoW, 1.2 in Feng's."""
    outer_right, inner_right, inner_left, outer_left, nose = scan_landmarks7[:5]
    up = (inner_right + inner_left) / 2 - nose
    radius = factor * (np.linalg.norm(outer_right - outer_left) + np.linalg.norm(up)) / 2
    return np.linalg.norm(scan_vertices - (nose + 0.3 * up), axis=1) <= radius


def now_error(prediction, scan, scan_landmarks7, metrical=False, iterations=20, factor=1.4):
    """Distances (M',) mm of the cropped scan's vertices to the aligned mesh: the NoW protocol.

    Sanyal et al. 2019, and its evaluation code: Procrustes on 7 landmarks, refined by least squares
    on the distances from scan to surface.

    prediction: vertices (N, 3), triangles (F, 3), landmarks7 (7, 3)    scan: vertices (M, 3) mm
    both landmarks7: NOW_LANDMARKS, in that order    factor: see `now_crop`
    metrical=True: the prediction is in mm and keeps its scale    ValueError where the crop is empty
    """
    vertices, triangles, landmarks7 = prediction
    scan = np.asarray(scan, np.float64)
    scan = scan[now_crop(scan, np.asarray(scan_landmarks7, np.float64), factor)]
    if len(scan) == 0:
        raise ValueError("the NoW crop is empty: check that scan and landmarks share one frame")
    start = similarity_of_arrays(landmarks7, scan_landmarks7, scale=not metrical)
    return _refine(Surface(vertices, triangles), scan, *start, not metrical, iterations)


def _refine(surface, scan, s, rotation, t, scale, iterations):
    r"""Unsigned distances after Levenberg-Marquardt on $\sum_i d_i^2$, scan vertex i to mesh.

    The scan is taken into the mesh's frame, so that one tree serves. The gradient is the unit
    vector n from mesh to vertex: d(d_i) = -n . (ds c + omega x c + dt), c from the mesh's middle.
    """

    def measure(s, rotation, t):
        local = (scan - t) @ rotation / s
        place, triangle = surface.closest(local)
        offset = local - place
        distance = np.linalg.norm(offset, axis=1)
        direction = offset / np.maximum(distance, 1e-6)[:, None]
        normal = np.where(distance[:, None] > 1e-6, direction, surface.normals[triangle])
        return s * distance, s * place @ rotation.T + t, normal @ rotation.T

    distance, place, normal = measure(s, rotation, t)
    damping = 1e-4
    for _ in range(iterations):
        middle = place.mean(0)
        arm = place - middle
        growth = (arm * normal).sum(1, keepdims=True)
        jacobian = -np.hstack((np.cross(arm, normal), normal, growth)[: 3 if scale else 2])
        hessian, gradient = jacobian.T @ jacobian, jacobian.T @ distance
        damped = hessian + damping * np.diag(hessian.diagonal() + 1e-9 * hessian.trace())
        step = np.zeros(7)
        step[: len(gradient)] = -np.linalg.solve(damped, gradient)
        turn, factor = Rotation.from_rotvec(step[:3]).as_matrix(), np.exp(step[6])
        trial = s * factor, turn @ rotation, factor * turn @ (t - middle) + middle + step[3:6]
        measured = measure(*trial)
        before, after = (distance**2).mean(), (measured[0] ** 2).mean()
        if after < before:
            (s, rotation, t), (distance, place, normal), damping = trial, measured, damping / 10
        else:
            damping *= 10
        if damping > 1e2 or 0 < before - after < 1e-4 * before:
            break
    return distance


def nme(pred, true):
    """Mean distance of pred, true (..., 68, 2) px, percent of sqrt(w h) of the true ones' box."""
    distance = np.linalg.norm(pred - true, axis=-1).mean(-1)
    return 100 * distance / np.sqrt(np.ptp(true, axis=-2).prod(-1))


def identity_consistency(shapes, person, samples=2000, seed=0):
    """How close the shapes of one person's pictures lie, beside those of different people.

    shapes: (n, N, 3) mm    person: (n,) labels, equally often each; a k-th row is picture k
    returns mean distance of vertices `within_mm` over all pairs of pictures of one person, and
    `between_mm` over pairs of people in pictures of the same number; `ratio` = within / between (0:
    a person always gets the same face), `low` and `high` of its bootstrap over people.
    """
    shapes = torch.as_tensor(shapes)
    people, index, counts = np.unique(person, return_inverse=True, return_counts=True)
    n, pictures = len(people), int(counts[0])
    if len(shapes) != len(index) or n < 2 or pictures < 2 or (counts != pictures).any():
        raise ValueError("give two or more people with the same number of pictures, two or more")
    ordered = shapes[torch.from_numpy(np.argsort(index, kind="stable"))]
    by_vertex = ordered.unflatten(0, (n, pictures)).permute(2, 0, 1, 3).contiguous()
    # Choice: vertex by vertex, and pictures of one number: memory people² x pictures.
    within, between = torch.zeros(n).double(), torch.zeros(n, n).double()
    for points in by_vertex:  # (people, pictures, 3)
        distance = lambda x: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        within += distance(points).sum((1, 2)).double()
        between += distance(points.transpose(0, 1)).mean(0).double()  # its diagonal is 0
    within = within.numpy() / (len(by_vertex) * pictures * (pictures - 1))
    between = between.numpy() / len(by_vertex)

    def ratio(times):
        """within / between where each person is there `times` (..., n); twins are no pair."""
        pairs = times.sum(-1) ** 2 - (times**2).sum(-1)
        apart = ((times @ between) * times).sum(-1) / pairs
        return (times @ within) / times.sum(-1) / apart

    drawn = draw_people(n, samples, seed)
    low, high = interval(ratio(drawn[(drawn > 0).sum(1) > 1]))  # one person alone is no pair
    distances = dict(within_mm=within.mean(), between_mm=between.sum() / (n * (n - 1)))
    found = dict(ratio=ratio(np.ones(n)), low=low, high=high) | distances
    return {name: float(value) for name, value in found.items()}
