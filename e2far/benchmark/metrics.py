"""How far a reconstruction is from the truth: true correspondence, NoW-style scan distances, 68 points on photos.

Where the true correspondence is known, `vertex_error` is the measure. Distances to the nearest surface, as on NoW, flatter
a mesh that has slid along the face (arXiv 2505.18025); they are reported beside it.
"""

import itertools

import numpy as np
import torch
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation


NOW_LANDMARKS = (
    36,
    39,
    42,
    45,
    33,
    48,
    54,
)  # iBUG: eye corners from right to left, nose base, mouth corners
YAW_BINS = ("0-30", "30-60", "60-90")  # degrees


def as_points(values, shape, name):
    """`values` as a float64 array of `shape` (None: any length), all finite; ValueError if it is not."""
    values = np.asarray(values, np.float64)
    if values.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape)):
        raise ValueError(
            f"{name} has shape {values.shape}, not {tuple('N' if n is None else n for n in shape)}".replace(
                "'", ""
            )
        )
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return values


# ---- true correspondence -----------------------------------------------------------------------------------------


def vertex_error(pred, true):
    """Distance of every vertex to its true place, mm. pred, true: (..., N, 3) mm; returns (..., N)."""
    if pred.shape[-2:] != true.shape[-2:]:
        raise ValueError(f"the meshes differ: {tuple(pred.shape)} and {tuple(true.shape)} vertices")
    return (pred - true).norm(dim=-1)


def similarity_transform(moving, fixed, scale=True, weights=None):
    r"""Scale, rotation, translation that minimise $\sum_n w_n \lVert s R x_n + t - y_n \rVert^2$ (Umeyama 1991).

    moving, fixed: (..., N, 3)    weights: (..., N) >= 0    returns s (...), R (..., 3, 3) with det R = +1, t (..., 3)
    scale=False keeps s = 1.
    """
    if moving.shape[-2:] != fixed.shape[-2:] or moving.shape[-2] < 3:
        raise ValueError(
            f"need the same three or more points twice, got {tuple(moving.shape)} and {tuple(fixed.shape)}"
        )
    weights = (
        torch.ones_like(moving[..., 0])
        if weights is None
        else weights.to(moving).expand(moving.shape[:-1])
    )
    weights = (weights / weights.sum(-1, keepdim=True)).unsqueeze(-1)
    moving_mean, fixed_mean = (weights * moving).sum(-2), (weights * fixed).sum(-2)
    x, y = moving - moving_mean.unsqueeze(-2), fixed - fixed_mean.unsqueeze(-2)
    left, singular, right = torch.linalg.svd((weights * y).mT @ x)
    sign = torch.ones_like(singular)
    sign[..., 2] = torch.det(left @ right).sign()  # the best rotation, never a reflection
    rotation = left * sign.unsqueeze(-2) @ right
    factor = torch.ones_like(singular[..., 0])
    if scale:
        factor = (singular * sign).sum(-1) / (weights * x.square()).sum((-2, -1))
    translation = fixed_mean - factor.unsqueeze(-1) * (
        rotation @ moving_mean.unsqueeze(-1)
    ).squeeze(-1)
    return factor, rotation, translation


def similarity_align(pred, true, scale=True, weights=None, subset=None):
    """`pred` (..., N, 3) laid on `true` (..., N, 3) by the best similarity (scale=False: rigid motion).

    weights: (..., N)    subset: vertex indices that alone decide the motion; weights are then theirs, (..., len(subset))
    """
    points = (pred, true) if subset is None else (pred[..., subset, :], true[..., subset, :])
    s, rotation, t = similarity_transform(*points, scale=scale, weights=weights)
    return s[..., None, None] * pred @ rotation.mT + t.unsqueeze(-2)


def aligned_error(pred, true, scale=True, weights=None, subset=None):
    """`vertex_error` (..., N) mm after `similarity_align`."""
    return vertex_error(similarity_align(pred, true, scale, weights, subset), true)


# ---- distance to a surface ---------------------------------------------------------------------------------------


class Surface:
    """A triangle mesh that answers closest-point queries, exactly.

    The triangle whose centre is nearest gives a distance d that can only shrink. A triangle with its corners at most r from
    its centre can be nearer only if that centre is within d + r. One k-d tree of centres for each octave of r finds those,
    so that a few large triangles do not widen the search among the small ones.
    """

    def __init__(self, vertices, triangles):
        self.corners = np.asarray(vertices, np.float64)[np.asarray(triangles)]  # (F, 3, 3)
        a, b, c = self.corners.transpose(1, 0, 2)
        normals = np.cross(b - a, c - a)
        self.normals = normals / np.maximum(np.linalg.norm(normals, axis=1, keepdims=True), 1e-12)
        self.centres = self.corners.mean(1)
        self.radius = np.linalg.norm(self.corners - self.centres[:, None], axis=2).max(1)
        self.tree = cKDTree(self.centres)
        octave = np.floor(np.log2(np.maximum(self.radius, 1e-6)))
        groups = [np.flatnonzero(octave == value) for value in np.unique(octave)]
        self.octaves = [
            (group, self.radius[group].max(), cKDTree(self.centres[group])) for group in groups
        ]

    def closest(self, points):
        """Closest points (M, 3) on the mesh to `points` (M, 3), and their triangles (M,)."""
        points = np.asarray(points, np.float64)
        first = self.tree.query(points)[1]
        bound = np.linalg.norm(points - closest_on_triangles(points, self.corners[first]), axis=1)
        rows, triangles = [np.arange(len(points))], [first]
        for group, radius, tree in self.octaves:
            found = tree.query_ball_point(points, bound + radius)
            row = np.repeat(
                np.arange(len(points)), np.fromiter(map(len, found), np.int64, len(found))
            )
            triangle = group[np.fromiter(itertools.chain.from_iterable(found), np.int64, len(row))]
            near = (
                np.linalg.norm(points[row] - self.centres[triangle], axis=1)
                <= bound[row] + self.radius[triangle]
            )
            rows.append(row[near])
            triangles.append(triangle[near])
        row, triangle = np.concatenate(rows), np.concatenate(triangles)
        place = closest_on_triangles(points[row], self.corners[triangle])
        order = np.lexsort((np.linalg.norm(points[row] - place, axis=1), row))
        best = order[
            np.searchsorted(row[order], np.arange(len(points)))
        ]  # the nearest of each point's
        return place[best], triangle[best]


def closest_on_triangles(points, corners):
    """Closest point (M, 3) of triangle corners[m] (3, 3) to points[m]: inside it, or on the nearest of its edges."""
    a, b, c = corners[:, 0], corners[:, 1], corners[:, 2]
    ab, ac, ap = b - a, c - a, points - a
    dot = lambda x, y: np.einsum("md,md->m", x, y)
    bb, bc, cc, pb, pc = dot(ab, ab), dot(ab, ac), dot(ac, ac), dot(ap, ab), dot(ap, ac)
    area = np.maximum(bb * cc - bc * bc, 1e-18)
    v, w = (cc * pb - bc * pc) / area, (bb * pc - bc * pb) / area
    inside = (v >= 0) & (w >= 0) & (v + w <= 1) & (area > 1e-18)
    result = a + v[:, None] * ab + w[:, None] * ac
    out = np.nonzero(~inside)[0]
    best = np.full(len(out), np.inf)
    for start, edge in ((a, ab), (a, ac), (b, c - b)):
        start, edge, point = start[out], edge[out], points[out]
        along = np.clip(dot(point - start, edge) / np.maximum(dot(edge, edge), 1e-18), 0, 1)
        place = start + along[:, None] * edge
        squared = dot(point - place, point - place)
        nearer = squared < best
        result[out[nearer]], best[nearer] = place[nearer], squared[nearer]
    return result


# ---- NoW ---------------------------------------------------------------------------------------------------------


def now_crop(scan_vertices, scan_landmarks7, factor=1.4):
    """Which scan vertices (M,) are measured: a ball around the nose, its size from the eyes and the nose. factor: 1.4 in NoW, 1.2 in Feng's."""
    outer_right, inner_right, inner_left, outer_left, nose = scan_landmarks7[:5]
    up = (inner_right + inner_left) / 2 - nose
    radius = factor * (np.linalg.norm(outer_right - outer_left) + np.linalg.norm(up)) / 2
    return np.linalg.norm(scan_vertices - (nose + 0.3 * up), axis=1) <= radius


def now_error(
    vertices,
    triangles,
    landmarks7,
    scan_vertices,
    scan_landmarks7,
    metrical=False,
    iterations=20,
    factor=1.4,
):
    """Distances (M',) mm of the cropped scan's vertices to the aligned mesh: the NoW protocol (Sanyal et al. 2019, and its evaluation code).

    vertices (N, 3), triangles (F, 3), landmarks7 (7, 3): the prediction    scan_vertices (M, 3) mm, scan_landmarks7 (7, 3)
    The 7 points are NOW_LANDMARKS in that order. Procrustes on them, then scale, rotation and translation refined by least
    squares on the scan-to-surface distances. metrical=True: the prediction is in mm already and keeps its scale. factor: see `now_crop`
    """
    arrays = [
        np.asarray(x, np.float64) for x in (vertices, landmarks7, scan_vertices, scan_landmarks7)
    ]
    vertices, landmarks7, scan, scan_landmarks7 = arrays
    if landmarks7.shape != (7, 3) or scan_landmarks7.shape != (7, 3):
        raise ValueError(
            f"NoW needs 7 landmarks each, got {landmarks7.shape} and {scan_landmarks7.shape}"
        )
    if not all(np.isfinite(x).all() for x in (vertices, landmarks7, scan, scan_landmarks7)):
        raise ValueError(
            "mesh, scan and landmarks must hold finite numbers: leave out the scan's missing points"
        )
    if np.min(triangles) < 0 or np.max(triangles) >= len(vertices):
        raise ValueError(
            f"triangles name vertices {np.min(triangles)} to {np.max(triangles)} of a mesh of {len(vertices)}"
        )
    scan = scan[now_crop(scan, scan_landmarks7, factor)]
    if len(scan) == 0:
        raise ValueError(
            "the NoW crop holds no scan vertex: check that scan and scan landmarks share one frame"
        )
    surface = Surface(vertices, triangles)
    start = similarity_transform(
        *(torch.from_numpy(x) for x in (landmarks7, scan_landmarks7)), scale=not metrical
    )
    return _refine(
        surface, scan, *(x.numpy() for x in start), scale=not metrical, iterations=iterations
    )


def _refine(surface, scan, s, rotation, t, scale, iterations):
    r"""Unsigned distances after Levenberg-Marquardt on $\sum_i d_i^2$, d_i from scan vertex i to the moved mesh.

    The scan is taken into the mesh's frame, so that one tree serves. The distance's gradient is the unit vector n from
    the mesh to the vertex, the closest point held fixed: d(d_i) = -n . (ds c + omega x c + dt), c from the mesh's middle.
    """

    def measure(s, rotation, t):
        local = (scan - t) @ rotation / s
        place, triangle = surface.closest(local)
        offset = local - place
        distance = np.linalg.norm(offset, axis=1)
        normal = np.where(
            distance[:, None] > 1e-6,
            offset / np.maximum(distance, 1e-6)[:, None],
            surface.normals[triangle],
        )
        return s * distance, s * place @ rotation.T + t, normal @ rotation.T

    distance, place, normal = measure(s, rotation, t)
    damping = 1e-4
    for _ in range(iterations):
        middle = place.mean(0)
        arm = place - middle
        jacobian = -np.concatenate(
            [np.cross(arm, normal), normal, (arm * normal).sum(1, keepdims=True)], 1
        )
        jacobian = jacobian if scale else jacobian[:, :6]
        hessian, gradient = jacobian.T @ jacobian, jacobian.T @ distance
        step = np.zeros(7)
        step[: jacobian.shape[1]] = -np.linalg.solve(
            hessian + damping * np.diag(hessian.diagonal() + 1e-9 * hessian.trace()), gradient
        )
        turn, factor = Rotation.from_rotvec(step[:3]).as_matrix(), np.exp(step[6])
        trial = s * factor, turn @ rotation, factor * turn @ (t - middle) + middle + step[3:6]
        measured = measure(*trial)
        before, after = (distance**2).mean(), (measured[0] ** 2).mean()
        if after < before:
            (s, rotation, t), (distance, place, normal), damping = trial, measured, damping / 10
            if before - after < 1e-4 * before:
                break
        else:
            damping *= 10
            if damping > 1e2:
                break
    return distance


# ---- photos ------------------------------------------------------------------------------------------------------


def nme(pred, true, points=slice(None)):
    """Mean 2-D distance / sqrt(w h) of the true landmarks' box, in percent, (...). pred, true: (..., 68, 2) px    points: which landmarks count, e.g. slice(17, None) leaves out the jaw"""
    return (
        100
        * np.linalg.norm(pred - true, axis=-1)[..., points].mean(-1)
        / np.sqrt(np.ptp(true, axis=-2).prod(-1))
    )


def yaw_bin(yaw_deg):
    """Which of YAW_BINS |yaw| is in, (B,): 0, 1, 2."""
    return np.digitize(np.abs(yaw_deg), (30, 60), right=True)


def nme_68(pred, true, yaw_deg, points=slice(None)):
    """AFLW2000-3D: `nme` by |yaw| and the bins' plain mean.

    pred, true: (B, 68, 2) px    yaw_deg: (B,)    points: as there
    returns {"0-30": ..., "30-60": ..., "60-90": ..., "mean": ...}; an empty bin is nan, and so is the mean then.
    """
    pred, true, yaw = (np.asarray(x, np.float64) for x in (pred, true, yaw_deg))
    if pred.shape != true.shape or pred.shape[1:] != (68, 2) or yaw.shape != (len(pred),):
        raise ValueError(
            f"expected (B, 68, 2) twice and (B,), got {pred.shape}, {true.shape}, {yaw.shape}"
        )
    error, bins = nme(pred, true, points), yaw_bin(yaw)
    means = [error[bins == i].mean() if (bins == i).any() else np.nan for i in range(len(YAW_BINS))]
    return dict(zip(YAW_BINS, map(float, means)), mean=float(np.mean(means)))


def identity_consistency(shapes, person, samples=2000, level=0.95, seed=0):
    r"""How close the neutral shapes predicted from pictures of one person lie, beside those of different people: 0 where a person always gets the same face, 1 where the face does not depend on the person.

    shapes: (n, N, 3) mm    person: (n,) labels, equally often each; a person's k-th row is their picture k

    The distance of two shapes is the mean over vertices. `within_mm` is its mean over all pairs of pictures of one person, `between_mm` over all pairs of people in their pictures of the same number.
    Returns these, `ratio` = within / between, which no common scale of the shapes changes, and its percentile bootstrap interval `low`, `high` over people (who, drawn twice, are no pair).
    """
    shapes, (people, index) = (
        torch.as_tensor(shapes),
        np.unique(np.asarray(person), return_inverse=True),
    )
    pictures = len(index) // len(people)
    if (
        shapes.shape[0] != len(index)
        or len(people) < 2
        or pictures < 2
        or (np.bincount(index) != pictures).any()
    ):
        raise ValueError(
            f"expected two or more people with the same number of pictures, two or more: got {len(shapes)} shapes of {len(people)} people in {np.unique(np.bincount(index))} pictures"
        )
    by_vertex = (
        shapes[torch.from_numpy(np.argsort(index, kind="stable"))]
        .unflatten(0, (len(people), pictures))
        .permute(2, 0, 1, 3)
        .contiguous()
    )  # (N, people, pictures, 3)
    one, two = torch.zeros(2, dtype=torch.double)
    for points in by_vertex:  # Choice: vertex by vertex, and only pictures of the same number, so that memory is people² x pictures whatever the mesh
        distance = lambda x: torch.cdist(x, x, compute_mode="donot_use_mm_for_euclid_dist")
        one = one + distance(points).sum((1, 2)).double()
        two = two + distance(points.transpose(0, 1)).mean(0).double()
    within, between = (
        one.numpy() / (len(by_vertex) * pictures * (pictures - 1)),
        two.numpy() / len(by_vertex),
    )  # (people,) and (people, people), whose diagonal is 0
    drawn = np.random.default_rng(seed).multinomial(
        len(people), np.full(len(people), 1 / len(people)), size=samples
    )  # how often each person
    drawn = drawn[(drawn > 0).sum(1) > 1]  # one person alone is no pair
    ratio = lambda times: (
        (times @ within / times.sum(-1))
        / (((times @ between) * times).sum(-1) / (times.sum(-1) ** 2 - (times**2).sum(-1)))
    )
    low, high = np.quantile(ratio(drawn), [(1 - level) / 2, (1 + level) / 2])
    everyone = np.ones(len(people))
    return dict(
        ratio=float(ratio(everyone)),
        low=float(low),
        high=float(high),
        within_mm=float(within.mean()),
        between_mm=float(between.sum() / (len(people) * (len(people) - 1))),
    )
