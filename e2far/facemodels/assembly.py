"""A MorphableModel of what a file of a published face model holds.

What it lacks (68 landmarks, the face region, the renderer's attributes, expressions) is carried
over from our own model, laid over its mean face.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from e2far.facemodels.arkit import draw_units
from e2far.facemodels.attributes import carry_attributes
from e2far.facemodels.registration import Registration, turn_outward
from e2far.morphable import MorphableModel


@dataclass(frozen=True)
class Published:
    """What a file holds, in mm and the head frame; modes in standard deviations.

    Without expression modes these are made from `units` or, without units either, they are ours.
    """

    name: str
    mean: np.ndarray  # (N, 3)
    identity_basis: np.ndarray  # (N, 3, K)
    triangles: np.ndarray  # (F, 3), either way round
    expression_basis: np.ndarray | None = None  # (N, 3, L)
    units: np.ndarray | None = None  # (N, 3, J), named expressions
    unit_names: Sequence[str] = ()
    landmarks: Mapping[int, int] = field(default_factory=dict)  # iBUG number -> vertex, of some

    def assembled(self):
        """The MorphableModel; see `assemble`."""
        return assemble(self)


def as_vertices(values, name="the mean"):
    """An (N, 3) float32 array from any array of 3N numbers, x y z vertex after vertex."""
    values = np.asarray(values, np.float32)
    if values.size == 0 or values.size % 3:
        raise ValueError(f"{name} has {values.size} numbers, not 3 for each vertex")
    return values.reshape(-1, 3)


def as_modes(values, n, scale=None, name="the identity basis"):
    """Modes (N, 3, K), float32, times `scale` (K,), of an array (3N, K) or (N, 3, K)."""
    shape = np.shape(values)
    if len(shape) < 2 or not shape[-1] or np.size(values) // shape[-1] != 3 * n:
        raise ValueError(f"{name} has shape {shape}: expected ({3 * n}, modes) for {n} vertices")
    modes = np.reshape(values, (n, 3, -1)).astype(np.float32)
    if scale is None:
        return modes
    scale = np.asarray(scale, np.float32).ravel()
    if len(scale) != modes.shape[2] or not (scale >= 0).all():
        found = f"{modes.shape[2]} modes but {len(scale)} standard deviations or variances"
        raise ValueError(f"{name} has {found}, which must not be negative")
    return modes * scale


def deviations(variances):
    """Standard deviations; they are negative where a variance is, for `as_modes` to refuse."""
    return np.sign(variances) * np.sqrt(abs(variances))


def as_triangles(values):
    """Triangles (F, 3) int64 from an array of them or its transpose."""
    values = np.asarray(values).astype(np.int64)
    return values.T if values.shape[0] == 3 < values.shape[1] else values


def as_landmarks(values, first=0):
    """iBUG number -> vertex, from 68 different whole numbers, counted from `first`."""
    values = np.asarray(values).ravel()
    different = len(set(values.tolist()))
    numbers = np.issubdtype(values.dtype, np.number)
    if values.shape != (68,) or different != 68 or not numbers or (values != values.round()).any():
        found = f"{different} different numbers of {len(values)}"
        raise ValueError(f"its landmarks are {found}: expected 68 vertices in iBUG order")
    return dict(enumerate(values.astype(int) - first))


def modes_of_units(units, names, region):
    """Expression modes (N, 3, L), in standard deviations, of mixtures of units (N, 3, J).

    Principal components over the region, not centred, so that expression 0 stays the neutral face.
    """
    rng = np.random.default_rng(0)
    strengths = np.stack([draw_units(names, rng) for _ in range(3000)]).astype(float)
    value, vector = np.linalg.eigh(strengths.T @ strengths / len(strengths))  # second moment
    root = vector * np.sqrt(value.clip(0)) @ vector.T  # strengths are like root @ white noise
    flat = units[region].reshape(-1, len(names)).astype(float)
    value, vector = np.linalg.eigh(root @ flat.T @ flat @ root)
    keep = np.flatnonzero(value > 1e-6 * value[-1])[::-1]
    return (units @ (root @ vector[:, keep])).astype(np.float32)


def assemble(published):
    """The MorphableModel (float32) of a Published. Raises ValueError where it cannot be a face."""
    mean, n, known = published.mean, len(published.mean), published.landmarks
    triangles = np.ascontiguousarray(published.triangles, np.int64)
    if triangles.ndim != 2 or triangles.shape[1] != 3:
        raise ValueError(f"its triangles have shape {triangles.shape}: expected (triangles, 3)")
    for what, index in (("triangles", triangles), ("landmarks", np.array([*known.values()], int))):
        strays = index[(index < 0) | (index >= n)]
        if strays.size:
            raise ValueError(f"its {what} name vertex {strays[0]} of {n}")
    exact = mean.astype(float)
    triangles = turn_outward(exact, triangles)
    laid = Registration(exact, triangles, known)
    ours, landmarks = laid.model, laid.landmarks()
    weights, distance = laid.interpolation()

    def carried(values):
        return (weights @ values.numpy().reshape(len(values), -1)).reshape(n, *values.shape[1:])

    def turned(basis):
        return np.einsum("ij,njk->nik", laid.turn.astype(np.float32), carried(basis))

    carried_attributes = {name: carried(values) for name, values in ours.attributes.items()}
    attributes, skin = carry_attributes(carried_attributes, distance, exact, triangles)
    on_face = torch.zeros(ours.n_vertices)
    on_face[ours.region] = 1
    whole = ((carried(on_face) > 0.99) & (distance < 15) & skin)[triangles].all(1)
    region = np.unique(triangles[whole])
    if len(region) < 68:
        raise ValueError(f"only {len(region)} of its {n} vertices lie on a face")

    expression, units, names = published.expression_basis, published.units, published.unit_names
    if expression is None and units is None:
        expression, units = turned(ours.expression_basis), turned(ours.units)
        names = ours.unit_names
    elif expression is None:
        expression = modes_of_units(units, names, region)
    model = MorphableModel(
        mean=tensor(mean - mean[region].mean(0)),
        identity_basis=tensor(published.identity_basis),
        expression_basis=tensor(expression),
        triangles=torch.from_numpy(triangles),
        landmarks=torch.from_numpy(landmarks),
        region=torch.from_numpy(region),
        units=None if units is None else dict(zip(names, tensor(units).unbind(2))),
        attributes={name: tensor(values) for name, values in attributes.items()},
    )
    model.name = published.name
    return model


def tensor(values):
    return torch.from_numpy(np.ascontiguousarray(values, np.float32))
