"""What a foreign face model's file lacks (68 landmarks, the face region, the renderer's attributes, expressions) is carried over from our own model, laid over its mean face.

The registration is an iterated closest point fit (Besl & McKay 1992) of a similarity and our identity coefficients, point to plane (Chen & Medioni 1991), solved by Gauss-Newton steps;
correspondences are nearest in position and normal together, so that an upper lip does not meet the lower one.

Measured on 24 random people remeshed, cut, bent up to 10 degrees and deformed by smooth random fields of 2.5 mm: landmarks inside the face 1.8 mm off (mean), those of the jaw 2.8 mm.
"""

from pathlib import Path

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from scipy.sparse import coo_matrix, csr_matrix
from scipy.sparse.csgraph import connected_components
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from e2far.facemodels.arkit import draw_units
from e2far.facemodels.makehuman import eye_directions
from e2far.morphable import SHIPPED, MorphableModel
from e2far.raster import vertex_normals

NORMAL_MM = 12.0  # how many mm of distance opposite normals are worth
INNER = ("eye", "teeth", "tongue", "mouth")


def as_vertices(values, name="the mean"):
    """An (N, 3) float32 array from any array of 3N numbers, x y z vertex after vertex."""
    values = np.asarray(values, np.float32)
    if values.size == 0 or values.size % 3:
        raise ValueError(f"{name} has {values.size} numbers, not 3 for each vertex")
    return values.reshape(-1, 3)


def as_modes(values, n, scale=None, name="the identity basis", count=None):
    """The first `count` modes (N, 3, K), times `scale` (K,), of an array (3N, K) or (N, 3, K)."""
    values = np.asarray(values)
    if values.ndim < 2 or values.size // values.shape[-1] != 3 * n:
        raise ValueError(
            f"{name} has shape {values.shape}: expected ({3 * n}, modes) for {n} vertices"
        )
    modes = values.reshape(n, 3, -1)[:, :, :count].astype(np.float32)
    if scale is not None:
        scale = np.asarray(scale, np.float32).ravel()
        if len(scale) != values.shape[-1] or not (scale >= 0).all():
            raise ValueError(
                f"{name} has {values.shape[-1]} modes but {len(scale)} standard deviations or variances, which must not be negative"
            )
        modes *= scale[:count]
    return modes


def read_landmarks(landmarks):
    """68 vertex numbers (68,), counted from 0, from a sequence or a file of them (.npy, or text with spaces, commas or brackets)."""
    if isinstance(landmarks, (str, Path)):
        path = Path(landmarks)
        if not path.is_file():
            raise FileNotFoundError(
                f"no landmarks at {path}: give a file of 68 vertex numbers in iBUG order"
            )
        try:
            values = (
                np.load(path, allow_pickle=False)
                if path.suffix == ".npy"
                else [
                    int(word)
                    for word in path.read_text().translate(str.maketrans(",;[]", "    ")).split()
                ]
            )
        except Exception as error:  # damaged arrays fail in too many ways to list
            raise ValueError(
                f"{path} is not a list of vertex numbers ({' '.join(str(error).split())[:300]}): give 68, counted from 0, in iBUG order"
            ) from error
        return check_landmarks(values, path)
    return check_landmarks(landmarks, "landmarks")


def check_landmarks(values, name="the file's landmarks"):
    """`values` as (68,) int64 where they are 68 different whole numbers, else ValueError."""
    values = np.asarray(values).ravel()
    if (
        values.shape != (68,)
        or not np.issubdtype(values.dtype, np.number)
        or (values != values.round()).any()
        or len(set(values.tolist())) != 68
    ):
        raise ValueError(
            f"{name}: {len(set(values.tolist()))} different numbers of {len(values)}, where 68 vertex numbers in iBUG order are expected"
        )
    return values.astype(np.int64)


# Registration -----------------------------------------------------------------------------------------------------------------------------------


def sample_surface(vertices, triangles, count):
    """Points (count, 3) spread evenly over a surface, and its unit normals there (count, 3); the same points each time."""
    rng = np.random.default_rng(0)
    a, b, c = (vertices[triangles[:, k]] for k in range(3))
    cross = np.cross(b - a, c - a)
    area = np.linalg.norm(cross, axis=1)
    chosen = np.searchsorted(
        np.cumsum(area) / area.sum(), (np.arange(count) + rng.random(count)) / count
    ).clip(0, len(area) - 1)
    u, v = rng.random((2, count, 1))
    u, v = np.where(u + v > 1, 1 - u, u), np.where(u + v > 1, 1 - v, v)
    return a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen], cross[chosen] / area[
        chosen, None
    ].clip(1e-12)


def normals_of(vertices, triangles):
    return vertex_normals(
        np.ascontiguousarray(vertices, np.float64), np.ascontiguousarray(triangles, np.int32)
    )


def turn_outward(vertices, triangles):
    """`triangles` all turned over if most of the surface faces inward, judged by the signed volume of the cone from the middle of its back."""
    tip = vertices.mean(0) * [1, 1, 0] + [0, 0, vertices[:, 2].min()]
    a, b, c = (vertices[triangles[:, k]] - tip for k in range(3))
    return (
        triangles
        if np.einsum("fi,fi->", a, np.cross(b, c)) > 0
        else np.ascontiguousarray(triangles[:, ::-1])
    )


class Registration:
    """Our head laid over a foreign mesh (vertices (N, 3) mm, triangles (F, 3) facing outward): `placed` (M, 3) our vertices in the foreign frame, `turn` (3, 3) rotation times scale.

    known: iBUG number -> place (3,) in the foreign frame, where landmarks are known    Raises ValueError where the mesh is not a face in millimetres in the head frame.
    """

    MODES, RIDGE = (
        80,
        5.0,
    )  # Choice: of our identity coefficients, and their weight beside 2,900 squared mm; of 2 to 40 the best on heads bent by smooth random fields of 2.5 mm

    def __init__(self, vertices, triangles, known=None):
        width, height, depth = np.ptp(vertices, axis=0)
        if not 90 < width < 700 or not 90 < height < 900:
            raise ValueError(
                f"its mean face is {width:.3g} x {height:.3g} x {depth:.3g} mm, but a face or bust is 100 to 500 mm wide and high: is it in another unit?"
            )
        self.model, self.vertices, self.triangles, self.known = (
            MorphableModel.load(SHIPPED),
            vertices,
            triangles,
            {},
        )
        whole = self.model.region.numpy()
        self.region = whole[::3]  # enough for the first, rigid fits
        near = np.linalg.norm(vertices - vertices[vertices[:, 2].argmax()], axis=1) < 300
        points, normals = sample_surface(vertices, triangles[near[triangles].all(1)], 40000)
        self.surface = cKDTree(np.hstack((points, NORMAL_MM * normals))), points, normals
        starts = []
        bent = [
            np.array(
                [[1, 0, 0], [0, np.cos(pitch), -np.sin(pitch)], [0, np.sin(pitch), np.cos(pitch)]]
            )
            for pitch in np.deg2rad([0, -12, 12])
        ]
        for turn in (
            *bent,
            *(np.diag(signs) for signs in ([-1.0, -1, 1], [-1.0, 1, -1], [1.0, -1, -1])),
        ):
            tip = vertices[
                (vertices @ turn)[:, 2].argmax()
            ]  # of the nose, if this is how the head is turned
            state = (
                turn,
                tip - turn @ self.model.mean[self.model.landmarks[30]].numpy(),
                np.zeros(self.MODES),
            )
            for limit in (40, 40, 30, 30, 25, 20, 20, 15):
                state = self.step(*state, limit, 0, resize=limit < 30)
            starts.append((self.place(*state, 15)[0], state))
        state = min(starts, key=lambda s: s[0])[1]
        self.region = whole
        if state[0][1, 1] < 0 or state[0][2, 2] < 0:
            raise ValueError(
                "its mean face is upside down or looks backward: expected x to the subject's left, y up, z out of the face"
            )
        for limit, modes in [(15, 0)] * 4 + [(15, 10)] * 4 + [(12, 30)] * 6 + [(8, self.MODES)] * 8:
            state = self.step(*state, limit, modes)
        residual, placed, matched = self.place(
            *state, 8
        )  # residual: mm, the median distance from our face region to the foreign surface
        scale, strange = np.cbrt(np.linalg.det(state[0])), np.sqrt(np.square(state[2]).mean())
        if not 0.75 < scale < 1.35 or residual > 2 or matched < 0.5 or strange > 1.5:
            raise ValueError(
                f"its mean does not look like a face in mm, x to the subject's left, y up, z out of the face (our face fits at {scale:.2f} of its size, "
                f"{matched:.0%} of it within 8 mm, median {residual:.1f} mm off, {strange:.1f} times as unusual as a person)"
            )
        self.known = dict(known or {})
        off = [
            np.linalg.norm(placed[self.model.landmarks[i]] - place)
            for i, place in self.known.items()
        ]
        if off and np.median(off) > 12:
            raise ValueError(
                f"its landmarks lie {np.median(off):.0f} mm (median) from where a face has them: they should be vertices, counted from 0, in iBUG order"
            )
        for _ in range(4 * bool(off)):
            state = self.step(*state, 8, self.MODES)
        self.turn, self.placed = state[0], self.place(*state, 8)[1]

    def match(self, placed, limit):
        """Of each vertex of our region: the gap to the surface (R, 3) mm, the surface's normal (R, 3), a weight (R,)."""
        tree, points, normals = self.surface
        own = normals_of(placed, self.model.triangles.numpy())[self.region]
        far, nearest = tree.query(
            np.hstack((placed[self.region], NORMAL_MM * own)),
            distance_upper_bound=np.hypot(limit, NORMAL_MM),
        )
        nearest[np.isinf(far)] = 0  # nothing in reach: too far to weigh, whichever point stands in
        gap, normal = points[nearest] - placed[self.region], normals[nearest]
        distance = np.linalg.norm(gap, axis=1)
        return (
            gap,
            normal,
            ((own * normal).sum(1) > 0.5)
            * (distance < limit)
            * np.isfinite(far)
            / (1 + (3 * distance / limit) ** 2) ** 2,
        )

    def shape(self, coefficients):
        return (
            self.model.mean.numpy().astype(float)
            + self.model.identity_basis[:, :, : self.MODES].numpy() @ coefficients
        )

    def place(self, turn, shift, coefficients, limit):
        """Median distance mm to the surface, our placed vertices, and the share of the region that found a match."""
        placed = self.shape(coefficients) @ turn.T + shift
        gap, normal, weight = self.match(placed, limit)
        off = np.where(weight > 0, abs((gap * normal).sum(1)), limit)
        return np.median(off), placed, (weight > 0).mean()

    def step(self, turn, shift, coefficients, limit, modes, resize=True):
        """One Gauss-Newton step of rotation, shift, scale if `resize`, and the first `modes` identity coefficients."""
        shape = self.shape(coefficients)
        placed = shape @ turn.T + shift
        gap, normal, weight = self.match(placed, limit)
        numbers = sorted(self.known)
        at = np.concatenate((self.region, self.model.landmarks.numpy()[numbers])).astype(int)
        gap = (
            np.concatenate(
                (gap, [self.known[i] - placed[self.model.landmarks[i]] for i in numbers])
            )
            if numbers
            else gap
        )
        metric = weight[:, None, None] * (
            normal[:, :, None] * normal[:, None] + 0.02 * np.eye(3)
        )  # a little of point to point, against sliding
        metric = np.concatenate((metric, np.broadcast_to(10 * np.eye(3), (len(numbers), 3, 3))))
        arm = placed[at] - shift
        zero = np.zeros(len(at))
        spin = np.stack(
            (
                np.stack((zero, arm[:, 2], -arm[:, 1]), 1),
                np.stack((-arm[:, 2], zero, arm[:, 0]), 1),
                np.stack((arm[:, 1], -arm[:, 0], zero), 1),
            ),
            1,
        )
        basis = np.einsum("ij,njk->nik", turn, self.model.identity_basis.numpy()[at][:, :, :modes])
        jacobian = np.concatenate(
            (spin, np.broadcast_to(np.eye(3), (len(at), 3, 3)), arm[:, :, None], basis), 2
        )
        weighted = np.einsum("nij,njp->nip", metric, jacobian)
        ridge = np.diag(
            np.r_[np.full(6, 1e-6), 1e-6 if resize else 1e12, np.full(modes, self.RIDGE)]
        )
        push = np.einsum("nip,ni->p", weighted, gap)
        push[7:] -= self.RIDGE * coefficients[:modes]
        move = np.linalg.solve(
            weighted.reshape(-1, 7 + modes).T @ jacobian.reshape(-1, 7 + modes) + ridge, push
        )
        after = coefficients.copy()
        after[:modes] += move[7:]
        return (
            Rotation.from_rotvec(move[:3]).as_matrix() @ turn * np.exp(move[6].clip(-0.2, 0.2)),
            shift + move[3:6],
            after,
        )

    def landmarks(self):
        """68 different vertices (68,) of the foreign mesh nearest to our landmarks, and how far (68,) mm they are."""
        goal = self.placed[self.model.landmarks.numpy()]
        own = normals_of(self.placed, self.model.triangles.numpy())[self.model.landmarks.numpy()]
        tree = cKDTree(
            np.hstack((self.vertices, NORMAL_MM / 3 * normals_of(self.vertices, self.triangles)))
        )
        _, near = tree.query(np.hstack((goal, NORMAL_MM / 3 * own)), k=min(20, len(self.vertices)))
        candidates = np.unique(near)
        if len(candidates) < 68:
            raise ValueError(f"it has {len(self.vertices)} vertices, too few for 68 landmarks")
        distance = np.linalg.norm(goal[:, None] - self.vertices[candidates], axis=2)
        row, column = linear_sum_assignment(distance**2)
        return candidates[column], distance[row, column]

    def carry(self):
        """Weights (N, M), sparse, that interpolate a field over our vertices at each foreign vertex, and the distance (N,) mm between the two surfaces there."""
        corners = self.model.triangles.numpy()
        lattice = np.array([(i, j, 3 - i - j) for i in range(4) for j in range(4 - i)]) / 3.0
        normals = normals_of(self.placed, corners)
        points, directions = (
            np.einsum("sk,fkd->fsd", lattice, field[corners]).reshape(-1, 3)
            for field in (self.placed, normals)
        )
        directions /= np.linalg.norm(directions, axis=1, keepdims=True).clip(1e-9)
        _, nearest = cKDTree(np.hstack((points, NORMAL_MM / 4 * directions))).query(
            np.hstack((self.vertices, NORMAL_MM / 4 * normals_of(self.vertices, self.triangles)))
        )
        n, columns = len(self.vertices), corners[nearest // len(lattice)]
        a, b, c = (self.placed[columns[:, k]] for k in range(3))
        ab, ac, ap = b - a, c - a, self.vertices - a
        dot = lambda x, y: (x * y).sum(1)
        area = (dot(ab, ab) * dot(ac, ac) - dot(ab, ac) ** 2).clip(1e-12)
        u = (
            dot(ac, ac) * dot(ab, ap) - dot(ab, ac) * dot(ac, ap)
        ) / area  # barycentric coordinates of the nearest point of that triangle's plane
        v = (dot(ab, ab) * dot(ac, ap) - dot(ab, ac) * dot(ab, ap)) / area
        weights = np.stack((1 - u - v, u, v), 1).clip(0)
        weights /= weights.sum(1, keepdims=True)
        return (
            csr_matrix(
                (weights.ravel(), (np.repeat(np.arange(n), 3), columns.ravel())),
                (n, len(self.placed)),
            ).astype(np.float32),
            np.linalg.norm(
                np.einsum("nk,nkd->nd", weights, self.placed[columns]) - self.vertices, axis=1
            ),
        )


# A whole model from what a file gives --------------------------------------------------------------------------------------------------------------


def modes_of_units(units, names, region, count):
    """Expression modes (N, 3, L), in standard deviations, of random mixtures of named units (N, 3, J): principal and uncentred, so that expression 0 stays the neutral face."""
    rng = np.random.default_rng(0)
    strengths = np.stack([draw_units(names, rng) for _ in range(3000)]).astype(float)
    value, vector = np.linalg.eigh(strengths.T @ strengths / len(strengths))
    root = (
        vector * np.sqrt(value.clip(0)) @ vector.T
    )  # units @ root has unit coefficients, as the mixtures have
    flat = units[region].reshape(-1, len(names)).astype(float)
    value, vector = np.linalg.eigh(root @ flat.T @ flat @ root)
    keep = np.flatnonzero(value > 1e-6 * value[-1])[::-1][:count]
    return (units @ (root @ vector[:, keep])).astype(np.float32)


def carry_attributes(model, weights, distance, vertices, triangles):
    """Attributes name -> (N,) of a foreign mesh, from ours; and which vertices (N,) are skin.

    An eyeball, a tooth, a tongue that is a piece of its own is one as a whole. Elsewhere what lies farther than 5 mm (hair 40, ears 12) from ours keeps none of it.
    """
    n = len(vertices)
    own = {name: weights @ values.numpy() for name, values in model.attributes.items()}
    corners = np.concatenate((triangles[:, :2], triangles[:, 1:]))
    count, piece = connected_components(
        coo_matrix((np.ones(len(corners)), corners.T), (n, n)), directed=False
    )
    used = np.isin(np.arange(n), triangles)
    main = np.bincount(piece[used & (sum(own[k] for k in INNER) < 0.5)], minlength=count).argmax()
    kinds = np.stack([own[k] for k in INNER], 1)
    inner = np.zeros((n, len(INNER)), np.float32)
    for label in np.unique(piece[used & (piece != main)]):
        at = piece == label
        shares = kinds[at].mean(0)
        if np.median(distance[at]) < 8 and shares.sum() > 0.5:
            inner[at, shares.argmax()] = 1
    on_main = (piece == main) & (distance < 5)
    apart = inner.max(0) > 0  # parts that the foreign mesh has as pieces are nowhere else
    inner[on_main] = kinds[on_main] * ~apart
    skin = 1 - inner.sum(1).clip(0, 1)
    result = dict(zip(INNER, inner.T))
    for name, values in own.items():
        if name not in INNER + ("eye_x", "eye_y", "hairline"):
            result[name] = values * (distance < (12 if name == "ear" else 5)) * (skin > 0.5)
    result["hairline"] = np.where((distance < 40) & (skin > 0.5), own["hairline"], -99.0)
    result["eye_x"], result["eye_y"] = (
        own["eye_x"] * (inner[:, 0] > 0.5),
        own["eye_y"] * (inner[:, 0] > 0.5),
    )
    for label in np.unique(piece[(inner[:, 0] > 0.5) & (piece != main)]):
        at = piece == label
        result["eye_x"][at], result["eye_y"][at] = eye_directions(vertices[at])
    return result, (skin > 0.5) & (piece == main)


def assemble(
    name,
    mean,
    identity_basis,
    triangles,
    expression_basis=None,
    units=None,
    unit_names=(),
    landmarks=None,
    known=None,
    n_expression=None,
):
    """The MorphableModel (float32) of what a file gives, in mm and the head frame; the rest is carried over from ours.

    mean: (N, 3)    identity_basis: (N, 3, K)    triangles: (F, 3), either way round    expression_basis: (N, 3, L), or None: from `units` (N, 3, J), or, without these, ours with our units
    landmarks: (68,) vertices, or None: carried over    known: iBUG number -> vertex, for some    Raises ValueError where this cannot be a face.
    """
    n, triangles = len(mean), np.ascontiguousarray(triangles, np.int64)
    if triangles.ndim != 2 or triangles.shape[1] != 3 or not len(triangles):
        raise ValueError(f"its triangles have shape {triangles.shape}: expected (triangles, 3)")
    known = dict(enumerate(landmarks)) if landmarks is not None else dict(known or {})
    for what, index in (
        ("triangles name", triangles),
        ("landmarks name", np.array(list(known.values()), int)),
    ):
        if index.size and not 0 <= index.min() <= index.max() < n:
            raise ValueError(
                f"its {what} vertex {index.min() if index.min() < 0 else index.max()} of {n}"
            )
    for what, values in dict(
        mean=mean, identity_basis=identity_basis, expression_basis=expression_basis, units=units
    ).items():
        if values is not None and not np.isfinite(values).all():
            raise ValueError(f"its {what} holds numbers that are not finite")
    vertices = mean.astype(float)
    triangles = turn_outward(vertices, triangles)
    laid = Registration(
        vertices, triangles, {i: vertices[v] for i, v in known.items() if i > 16}
    )  # contour points slide along the contour: each author's are elsewhere
    ours = laid.model
    found, _ = laid.landmarks()
    found[list(known)] = list(known.values())

    weights, distance = laid.carry()
    attributes, skin = carry_attributes(ours, weights, distance, vertices, triangles)
    flag = np.zeros(ours.n_vertices, np.float32)
    flag[ours.region] = 1
    whole = ((weights @ flag > 0.99) & (distance < 15) & skin)[triangles].all(1)
    region = np.unique(triangles[whole])
    if len(region) < 68:
        raise ValueError(f"only {len(region)} of its {n} vertices lie on a face")
    if expression_basis is None and units is None:
        carried = lambda field: np.einsum(
            "ij,njk->nik",
            laid.turn.astype(np.float32),
            (weights @ field.numpy().reshape(len(flag), -1)).reshape(n, 3, -1),
        )
        expression_basis, units, unit_names = (
            carried(ours.expression_basis)[:, :, :n_expression],
            carried(ours.units),
            ours.unit_names,
        )
    elif expression_basis is None:
        expression_basis = modes_of_units(units, unit_names, region, n_expression)
    tensor = lambda x: torch.from_numpy(np.ascontiguousarray(x, np.float32))
    return MorphableModel(
        tensor(mean - mean[region].mean(0)),
        tensor(identity_basis),
        tensor(expression_basis),
        torch.from_numpy(triangles),
        torch.from_numpy(found),
        torch.from_numpy(region),
        None if units is None else tensor(units),
        unit_names,
        {k: tensor(v) for k, v in attributes.items()},
        name=name,
    )
