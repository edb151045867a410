"""The linear face model: a few coefficients in, a face in millimetres out."""

import json
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from torch import nn

from e2far.files import read_npz, replacing

SHIPPED = Path(__file__).resolve().parent.parent / "data" / "weights" / "makehuman.npz"


class MorphableModel(nn.Module):
    r"""Linear face model $S(\alpha, \beta) = \bar S + U\alpha + W\beta$.

    Vertices are in millimetres in the head frame, right-handed: x to the subject's left, y up, z out of the face.
    Coefficients are in standard deviations: an identity drawn from $N(0, I)$ is a plausible neutral face, and expression 0 is exactly the neutral face.

    mean: (N, 3) mm    identity_basis U: (N, 3, K) mm    expression_basis W: (N, 3, L) mm    triangles: (F, 3) int    landmarks: (68,) vertices in iBUG order
    region: (M,) vertices of the face proper, where losses and errors are measured (default: all)
    units: (N, 3, J) mm, named expression units at full strength, `unit_names` their J names    attributes: name -> (N,), what a renderer knows about a vertex
    """

    mean: torch.Tensor
    identity_basis: torch.Tensor
    expression_basis: torch.Tensor
    units: torch.Tensor
    triangles: torch.Tensor
    landmarks: torch.Tensor
    region: torch.Tensor

    def __init__(
        self,
        mean: torch.Tensor,
        identity_basis: torch.Tensor,
        expression_basis: torch.Tensor,
        triangles: torch.Tensor,
        landmarks: torch.Tensor,
        region: torch.Tensor | None = None,
        units: torch.Tensor | None = None,
        unit_names: Sequence[str] = (),
        attributes: Mapping[str, torch.Tensor] | None = None,
        name: str = "",
    ):
        super().__init__()
        n = len(mean)
        region = torch.arange(n) if region is None else region
        units = mean.new_zeros(n, 3, 0) if units is None else units
        for key, value in dict(
            mean=mean,
            identity_basis=identity_basis,
            expression_basis=expression_basis,
            units=units,
            triangles=triangles,
            landmarks=landmarks,
            region=region,
        ).items():
            self.register_buffer(key, value)
        self.unit_names, self.name = tuple(unit_names), name
        self.attributes = dict(attributes or {})
        self._check()

    def _check(self):
        n = len(self.mean)
        for key, shape in dict(
            mean=(n, 3),
            identity_basis=(n, 3, "modes"),
            expression_basis=(n, 3, "modes"),
            units=(n, 3, "units"),
            triangles=("triangles", 3),
            landmarks=(68,),
            region=("vertices",),
        ).items():
            found = tuple(getattr(self, key).shape)
            if len(found) != len(shape) or any(
                isinstance(want, int) and have != want for have, want in zip(found, shape)
            ):
                raise ValueError(
                    f"{key} has shape {found}: expected ({', '.join(map(str, shape))}) for {n} vertices"
                )
        for key, values in self.attributes.items():
            if values.shape != (n,) or not values.isfinite().all():
                raise ValueError(
                    f"attribute {key} has shape {tuple(values.shape)}, or numbers that are not finite: expected ({n},)"
                )
        if len(self.unit_names) != self.units.shape[2]:
            raise ValueError(
                f"{len(self.unit_names)} unit names for {self.units.shape[2]} expression units"
            )
        if not all(isinstance(text, str) for text in (self.name, *self.unit_names)):
            raise ValueError("name and unit_names are not texts")
        for key in ("triangles", "landmarks", "region"):
            index = getattr(self, key)
            if index.is_floating_point():
                raise ValueError(f"{key} holds {index.dtype}, not whole numbers")
            if index.numel() and not (0 <= index.min() and index.max() < n):
                raise ValueError(
                    f"{key} names vertex {int(index.min() if index.min() < 0 else index.max())}, but the model has {n} vertices"
                )
        for key in ("mean", "identity_basis", "expression_basis", "units"):
            if (
                not getattr(self, key).is_floating_point()
                or not getattr(self, key).isfinite().all()
            ):
                raise ValueError(f"{key} holds numbers that are not finite, or whole numbers")

    n_vertices = property(lambda self: len(self.mean))
    n_identity = property(lambda self: self.identity_basis.shape[2])
    n_expression = property(lambda self: self.expression_basis.shape[2])

    @property
    def region_triangles(self) -> torch.Tensor:
        """The triangles (F', 3) whose corners are all in the region."""
        return self.triangles[torch.isin(self.triangles, self.region).all(1)]

    @property
    def recess(self) -> torch.Tensor:
        """How far (N,) mm behind its place a vertex is drawn: teeth, tongue and the mouth's lining must never poke through closed lips."""
        depths = {"teeth": 4.0, "mouth": 7.0, "tongue": 9.0}  # the tongue behind the teeth
        inner = [depth * self.attributes[k] for k, depth in depths.items() if k in self.attributes]
        return torch.stack(inner).amax(0) if inner else torch.zeros(self.n_vertices)

    def forward(self, identity: torch.Tensor, expression: torch.Tensor) -> torch.Tensor:
        """Vertices (B, N, 3) mm of `identity` (B, K) and `expression` (B, L)."""
        return self.neutral(identity) + self.expression_offset(expression)

    def neutral(self, identity: torch.Tensor) -> torch.Tensor:
        """The neutral shape (B, N, 3) mm of `identity` (B, K): a face at rest, which belongs to the person."""
        return self.mean + torch.einsum("ndk,bk->bnd", self.identity_basis, identity)

    def expression_offset(self, expression: torch.Tensor) -> torch.Tensor:
        """What `expression` (B, L) adds to any neutral shape, (B, N, 3) mm."""
        return torch.einsum("ndl,bl->bnd", self.expression_basis, expression)

    @property
    def units_to_modes(self) -> torch.Tensor:
        """Matrix (L, J) that turns strengths of named units into the expression coefficients nearest to them (least squares over the region).

        Solved in double precision and rounded, so that every run and machine has the same numbers.
        """
        basis, units = (
            b[self.region].double().flatten(0, 1) for b in (self.expression_basis, self.units)
        )
        return (
            torch.linalg.solve(basis.mT @ basis, basis.mT @ units)
            .round(decimals=5)
            .to(self.mean.dtype)
        )

    def from_units(self, strengths: torch.Tensor) -> torch.Tensor:
        """Expression coefficients (B, L) nearest to named units at `strengths` (B, J)."""
        return strengths @ self.units_to_modes.mT

    # Mirror images -------------------------------------------------------------------------------

    @cached_property
    def opposite(self) -> torch.Tensor:
        """For each vertex (N,) the one on the face's other side: the nearest of the mirrored mean."""
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
        """Coefficients (B, K), (B, L) of the mirror image of the face with these coefficients.

        Exact where the model is symmetric, else the nearest there is; twice is always none.
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

        Least squares over the region gives a map T that is symmetric in the metric of the vertices,
        with eigenvalues of +1 (symmetric modes), -1 (skewed ones) or, where a mode's mirror image
        is not quite in the span, between them. They are set to their signs: else what a mirror
        image says would shrink, and a picture and its mirror image could get different faces.
        """
        U = basis.double()
        mirrored = self.mirror(U.permute(2, 0, 1)).permute(1, 2, 0)[self.region].flatten(0, 1)
        U = U[self.region].flatten(0, 1)
        square, axes = torch.linalg.eigh(U.mT @ U)
        kept = square > 1e-12 * square.sum()  # no face depends on the others
        root, axes = square[kept].sqrt(), axes[:, kept]
        whiten = axes / root  # U @ whiten is orthonormal
        T = whiten.mT @ (U.mT @ mirrored) @ whiten
        value, vector = torch.linalg.eigh((T + T.mT) / 2)
        sign = torch.where(value < 0, -1.0, 1.0).to(value)
        return whiten @ (vector * sign) @ vector.mT @ (axes * root).mT, whiten @ (U @ whiten).mT

    def save(self, path: str | Path) -> None:
        """Write the model as npz (float16 bases, no pickle)."""
        half = {
            k: getattr(self, k).numpy().astype(np.float16)
            for k in ("identity_basis", "expression_basis", "units")
        }
        integers = {
            k: getattr(self, k).numpy().astype(np.int32)
            for k in ("triangles", "landmarks", "region")
        }
        attributes = {
            f"attribute.{k}": v.numpy().astype(np.float16) for k, v in self.attributes.items()
        }
        header = np.array(json.dumps(dict(name=self.name, unit_names=self.unit_names)))
        with replacing(path) as partial, open(partial, "wb") as file:
            np.savez_compressed(
                file,
                mean=self.mean.numpy().astype(np.float32),
                header=header,
                **half,
                **integers,
                **attributes,
            )

    @classmethod
    def load(cls, path: str | Path) -> "MorphableModel":
        """The model in a file of `save`. Raises FileNotFoundError or ValueError with one line that says what to do."""
        path = Path(path)
        again = f"build it with `e2far build-face-model {path}`, or name another file"
        if not path.exists():
            raise FileNotFoundError(f"no face model at {path}: {again}")
        try:
            arrays = read_npz(path)
            header = dict(json.loads(str(arrays.pop("header"))))
            tensors = {
                k: torch.from_numpy(v.astype(np.int64 if v.dtype.kind == "i" else np.float32))
                for k, v in arrays.items()
            }
        except (
            Exception
        ) as error:  # damaged zip files, arrays and JSON fail in too many ways to list
            raise ValueError(
                f"{path} is not a face model written by e2far, or is truncated ({' '.join(str(error).split())[:300]}): {again}"
            ) from error
        attributes = {
            k.split(".", 1)[1]: tensors.pop(k) for k in list(tensors) if k.startswith("attribute.")
        }
        try:
            return cls(**tensors, attributes=attributes, **header)  # ty: ignore[invalid-argument-type]
        except (TypeError, ValueError, AttributeError) as error:
            raise ValueError(
                f"{path} holds no whole face model ({' '.join(str(error).split())[:300]}): {again}"
            ) from error


def toy_model(
    seed: int = 0, n_identity: int = 6, n_expression: int = 4, dtype: torch.dtype = torch.float64
) -> MorphableModel:
    """A small seeded face for tests: a 14 x 16 grid bent over an ellipsoid, smooth random modes, 68 of its vertices as landmarks, three units."""
    generator = torch.Generator().manual_seed(seed)
    rows, columns = 16, 14
    v, u = torch.meshgrid(
        torch.linspace(-1.2, 1.2, rows, dtype=dtype),
        torch.linspace(-1.2, 1.2, columns, dtype=dtype),
        indexing="ij",
    )
    sphere = torch.stack((u.sin() * v.cos(), v.sin(), u.cos() * v.cos()), -1).reshape(-1, 3)
    nose = torch.exp(-8 * (u.square() + v.square())).reshape(-1, 1) * 20
    mean = sphere * torch.tensor([70.0, 95.0, 80.0], dtype=dtype) + nose * torch.tensor(
        [0.0, 0.0, 1.0], dtype=dtype
    )
    mean = mean - mean.mean(0)

    def modes(count, size_mm):
        wave = torch.randn(count, 3, 3, generator=generator, dtype=dtype) * 1.5
        phase = torch.rand(count, 3, generator=generator, dtype=dtype) * 6.28
        return size_mm * torch.sin(torch.einsum("kdc,nc->nkd", wave, sphere) + phase).permute(
            0, 2, 1
        )

    corner = (torch.arange(rows - 1)[:, None] * columns + torch.arange(columns - 1)).reshape(-1)
    triangles = torch.cat(
        (
            torch.stack((corner, corner + 1, corner + columns), 1),
            torch.stack((corner + 1, corner + columns + 1, corner + columns), 1),
        )
    )
    landmarks = torch.randperm(rows * columns, generator=generator)[:68]
    return MorphableModel(
        mean,
        modes(n_identity, 3.0),
        modes(n_expression, 2.0),
        triangles,
        landmarks,
        units=modes(3, 5.0),
        unit_names=("jawOpen", "mouthSmileLeft", "mouthSmileRight"),
        name="toy",
    )


def landmarks_mm(model, identity, expression):
    """The model's 68 landmarks (B, 68, 3) mm, without computing the other vertices."""
    at = model.landmarks
    return (
        model.mean[at]
        + torch.einsum("ndk,bk->bnd", model.identity_basis[at], identity)
        + torch.einsum("ndl,bl->bnd", model.expression_basis[at], expression)
    )
