"""The linear face model: a few coefficients in, a face in millimetres out."""

import json
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

import e2far
from e2far.files import read_npz, reading, replacing

SHIPPED = e2far.SHIPPED / "makehuman.npz"
BASES = ("identity_basis", "expression_basis", "units")
INDICES = ("triangles", "landmarks", "region")


class MorphableModel(nn.Module):
    r"""Linear face model $S(\alpha, \beta) = \bar S + U\alpha + W\beta$.

    Vertices are in millimetres in the head frame, right-handed: x to the subject's left, y up, z
    out of the face. Coefficients are in standard deviations: an identity drawn from $N(0, I)$ is a
    plausible neutral face, and expression 0 is exactly the neutral face.

    mean: (N, 3) mm    identity_basis U: (N, 3, K) mm    expression_basis W: (N, 3, L) mm
    triangles: (F, 3) int    landmarks: (68,) vertices in iBUG order
    region: (M,) vertices of the face proper, where losses and errors are measured (default: all)
    units: name -> (N, 3) mm, expression units at full strength, kept as `units` (N, 3, J) and
        `unit_names`    attributes: name -> (N,), what a renderer knows about a vertex
    Raises ValueError for wrong shapes, vertices that are none and numbers that are not finite.
    """

    mean: torch.Tensor
    identity_basis: torch.Tensor
    expression_basis: torch.Tensor
    units: torch.Tensor
    triangles: torch.Tensor
    landmarks: torch.Tensor
    region: torch.Tensor
    name = ""  # set by those who know it

    def __init__(
        self,
        mean: torch.Tensor,
        identity_basis: torch.Tensor,
        expression_basis: torch.Tensor,
        triangles: torch.Tensor,
        landmarks: torch.Tensor,
        region: torch.Tensor | None = None,
        units: Mapping[str, torch.Tensor] | None = None,
        attributes: Mapping[str, torch.Tensor] | None = None,
    ):
        super().__init__()
        units, n = {} if units is None else units, len(mean)
        if not isinstance(units, Mapping) or any(x.shape != (n, 3) for x in units.values()):
            raise ValueError(f"units are no mapping of names to tensors ({n}, 3)")
        self.attributes, self.unit_names = dict(attributes or {}), tuple(units)
        stacked = torch.stack(list(units.values()), -1) if units else mean.new_zeros(n, 3, 0)
        buffers = dict(mean=mean, identity_basis=identity_basis, expression_basis=expression_basis)
        buffers |= dict(units=stacked, triangles=triangles, landmarks=landmarks)
        buffers |= dict(region=torch.arange(n) if region is None else region)
        for key, value in buffers.items():
            self.register_buffer(key, value)
        self._check()

    def _check(self):
        n = len(self.mean)
        shapes = dict(mean=(n, 3), triangles=("any", 3), landmarks=(68,), region=("any",))
        shapes |= dict.fromkeys(BASES, (n, 3, "any"))
        for key, value in (dict(self.named_buffers()) | self.attributes).items():
            found, shape = tuple(value.shape), shapes.get(key, (n,))  # of an attribute
            if len(found) != len(shape) or any(b not in (a, "any") for a, b in zip(found, shape)):
                raise ValueError(f"{key} has shape {found}: expected {shape} for {n} vertices")
            if key in ("region", "identity_basis") and not value.numel():
                raise ValueError(f"{key} is empty")
            if (key in INDICES) == value.is_floating_point() or value.dtype == torch.bool:
                raise ValueError(f"{key} holds numbers of the wrong type, {value.dtype}")
            if not value.isfinite().all():
                raise ValueError(f"{key} holds numbers that are not finite")
            if key in INDICES and len(outside := value[(value < 0) | (value >= n)]):
                raise ValueError(f"{key} names vertex {outside[0]}, but the model has {n} vertices")

    n_vertices = property(lambda self: len(self.mean))
    n_identity = property(lambda self: self.identity_basis.shape[2])
    n_expression = property(lambda self: self.expression_basis.shape[2])
    extra_repr = lambda self: f"{self.name or 'unnamed'}, {self.n_vertices} vertices"

    @property
    def region_triangles(self) -> torch.Tensor:
        """The triangles (F', 3) whose corners are all in the region."""
        return self.triangles[torch.isin(self.triangles, self.region).all(1)]

    @property
    def recess(self) -> torch.Tensor:
        """How far (N,) mm behind its place a vertex is drawn, so that closed lips stay closed."""
        depths = {"teeth": 4.0, "mouth": 7.0, "tongue": 9.0}  # the tongue behind the teeth
        inner = [depth * self.attributes[k] for k, depth in depths.items() if k in self.attributes]
        return torch.stack(inner).amax(0) if inner else torch.zeros(self.n_vertices)

    def forward(self, identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        """Vertices (B, N, 3) mm of `identity` (B, K) and `expression` (B, L)."""
        return self.neutral(identity) + self.expression_offset(expression)

    def neutral(self, identity: torch.Tensor) -> torch.Tensor:
        """The face at rest (B, N, 3) mm of `identity` (B, K)."""
        return self.mean + torch.einsum("ndk,bk->bnd", self.identity_basis, identity)

    def expression_offset(self, expression: torch.Tensor) -> torch.Tensor:
        """What `expression` (B, L) adds to any neutral shape, (B, N, 3) mm."""
        return torch.einsum("ndl,bl->bnd", self.expression_basis, expression)

    @property
    def units_to_modes(self) -> torch.Tensor:
        """Matrix (L, J) from strengths of named units to the nearest expression coefficients.

        By least squares over the region; rounded, so that every machine has the same numbers.
        """
        W = self.expression_basis[self.region].double().flatten(0, 1)
        units = self.units[self.region].double().flatten(0, 1)
        return torch.linalg.solve(W.mT @ W, W.mT @ units).round(decimals=5).to(self.mean.dtype)

    def from_units(self, strengths: torch.Tensor) -> torch.Tensor:
        """Expression coefficients (B, L) nearest to named units at `strengths` (B, J)."""
        return strengths @ self.units_to_modes.mT

    @cached_property
    def opposite(self) -> torch.Tensor:
        """For each vertex (N,) the one on the other side: the nearest of the mirrored mean."""
        from scipy.spatial import cKDTree  # here, since it takes a while to import

        mean = self.mean.double().cpu().numpy()
        return torch.from_numpy(cKDTree(mean * [-1, 1, 1]).query(mean)[1])

    def mirror(self, vertices: torch.Tensor) -> torch.Tensor:
        """The mirror image (..., N, 3) mm of faces `vertices` (..., N, 3) mm, vertex for vertex."""
        opposite = self.opposite.to(vertices.device)
        return vertices[..., opposite, :] * vertices.new_tensor([-1.0, 1.0, 1.0])

    def mirrored(
        self, identity: torch.Tensor, expression: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Coefficients (B, K), (B, L) of the mirror image of a face; mirrored twice, it is itself.

        Exact where the model is symmetric, else the nearest there is.
        """
        A, offset, B = (part.to(identity) for part in self._mirror_maps)
        return identity @ A.mT + offset, expression @ B.mT

    @cached_property
    def _mirror_maps(self):
        """A (K, K) and offset (K,) with A a + offset the mirrored identity, B (L, L) likewise."""
        A, fit = self._involution(self.identity_basis)
        skew = self.mirror(self.mean.double()) - self.mean.double()
        offset = fit @ skew[self.region].flatten()
        B, _ = self._involution(self.expression_basis)
        return A, (offset - A @ offset) / 2, B  # A offset = -offset: there and back again

    def _involution(self, basis):
        r"""The map A (K, K) of coefficients, A A = 1, nearest to mirroring; and $U^+$ (K, 3 M).

        Least squares over the region gives a map T that is symmetric in the metric of the vertices.
        Its eigenvalues are +1 (symmetric modes), -1 (skewed ones) or, where a mode's mirror image
        is not quite in the span, between them. They are set to their signs: else a mirror image
        would shrink, and a picture and its mirror image could get different faces.
        """
        U = basis.double()
        mirrored = self.mirror(U.permute(2, 0, 1)).permute(1, 2, 0)[self.region].flatten(0, 1)
        U = U[self.region].flatten(0, 1)
        square, axes = torch.linalg.eigh(U.mT @ U)
        kept = square > 1e-12 * square.sum()  # no mode depends on the others
        root, axes = square[kept].sqrt(), axes[:, kept]
        whiten = axes / root  # U @ whiten is orthonormal
        T = whiten.mT @ (U.mT @ mirrored) @ whiten
        value, vector = torch.linalg.eigh((T + T.mT) / 2)
        sign = torch.where(value < 0, -1.0, 1.0).to(value)
        return whiten @ (vector * sign) @ vector.mT @ (axes * root).mT, whiten @ (U @ whiten).mT

    def save(self, path: str | Path) -> None:
        """Write the model as npz (float16 bases, no pickle)."""
        header = json.dumps(dict(name=self.name, unit_names=self.unit_names))
        arrays = dict(mean=self.mean.numpy().astype(np.float32), header=np.array(header))
        arrays |= {key: getattr(self, key).numpy().astype(np.float16) for key in BASES}
        arrays |= {key: getattr(self, key).numpy().astype(np.int32) for key in INDICES}
        for key, value in self.attributes.items():
            arrays[f"attribute.{key}"] = value.numpy().astype(np.float16)
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(file, **arrays)

    @classmethod
    def load(cls, path: str | Path) -> "MorphableModel":
        """The model in a file of `save`; FileNotFoundError or a ValueError of one line."""
        again = f"build it with `e2far build-face-model {path}`, or name another file"
        with reading(path, f"a face model written by e2far: {again}"):
            arrays = read_npz(path)
            header, tensors, attributes = json.loads(str(arrays.pop("header"))), {}, {}
            for key, array in arrays.items():
                dtype = np.int64 if array.dtype.kind == "i" else np.float32
                group = attributes if key.startswith("attribute.") else tensors
                array = array.astype(dtype, casting="same_kind")
                group[key.removeprefix("attribute.")] = torch.from_numpy(array)
            names, units = header["unit_names"], tensors["units"]
            if len(set(names)) != units.shape[2]:
                raise ValueError(f"{len(names)} unit names for {units.shape[2]} units")
            tensors["units"] = dict(zip(map(str, names), units.unbind(2)))
            model = cls(**tensors, attributes=attributes)
            model.name = str(header["name"])
            return model


def toy_model(
    seed: int = 0, n_identity: int = 6, n_expression: int = 4, dtype: torch.dtype = torch.float64
) -> MorphableModel:
    """A small seeded face for tests: a grid bent over an ellipsoid, with smooth random modes."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 16, 14
    angles = (torch.linspace(-1.2, 1.2, count, dtype=dtype) for count in (rows, columns))
    v, u = torch.meshgrid(*angles, indexing="ij")
    sphere = torch.stack((u.sin() * v.cos(), v.sin(), u.cos() * v.cos()), -1).reshape(-1, 3)
    mean = sphere * torch.tensor([70.0, 95.0, 80.0], dtype=dtype)
    mean[:, 2] += torch.exp(-8 * (u.square() + v.square())).flatten() * 20  # the nose
    mean = mean - mean.mean(0)

    def modes(count, size_mm):
        wave = torch.randn(count, 3, 3, generator=generator, dtype=dtype) * 1.5
        phase = torch.rand(count, 3, generator=generator, dtype=dtype) * 6.28
        angle = torch.einsum("kdc,nc->nkd", wave, sphere) + phase
        return size_mm * torch.sin(angle).permute(0, 2, 1)

    grid = torch.arange(rows * columns).view(rows, columns)
    a, b, c, d = (g.flatten() for g in (grid[:-1, :-1], grid[:-1, 1:], grid[1:, :-1], grid[1:, 1:]))
    triangles = torch.cat((torch.stack((a, b, c), 1), torch.stack((b, d, c), 1)))
    landmarks = torch.randperm(rows * columns, generator=generator)[:68]
    bases, names = (modes(n_identity, 3.0), modes(n_expression, 2.0)), modes(3, 5.0)
    units = dict(zip(("jawOpen", "mouthSmileLeft", "mouthSmileRight"), names.unbind(2)))
    model = MorphableModel(mean, *bases, triangles, landmarks, units=units)
    model.name = "toy"
    return model


def landmarks_mm(model, identity, expression):
    """The model's 68 landmarks (B, 68, 3) mm, without computing the other vertices."""
    at = model.landmarks
    return (
        model.mean[at]
        + torch.einsum("ndk,bk->bnd", model.identity_basis[at], identity)
        + torch.einsum("ndl,bl->bnd", model.expression_basis[at], expression)
    )
