"""The Surrey Face Model, and any other model in the binary format of the library eos (its MorphableModel, versions 1 to 4, as the library cereal writes it, little-endian).

version u32; shape and colour, each: mean, modes, variances; u64 and as many triangles 3 x i32    a matrix: rows, columns i32, f32 column by column
from version 2 on: u8, 0 where expressions follow; i32, 0 where these are a model as of shape, 1 where u64 and as many blendshapes: u64 and a name, a matrix
"""

from pathlib import Path

import numpy as np

from e2far.facemodels.basel import deviations
from e2far.facemodels.registration import as_modes, as_vertices, assemble
from e2far.files import reading

WHAT = "a Surrey Face Model as eos writes it, e.g. sfm_shape_3448.bin of the project eos (patrikhuber/eos), in mm; larger ones are requested from the University of Surrey (CVSSP)"


class Archive:
    """The bytes of a file, front to back. Choice: not eos, which makes room for whatever a damaged file claims, and crashes where its sizes disagree."""

    def __init__(self, path):
        self.content, self.at = Path(path).read_bytes(), 0

    def take(self, kind, count):
        size = int(count) * np.dtype(kind).itemsize
        if not 0 <= size <= len(self.content) - self.at:
            raise ValueError("it is cut short or damaged")
        self.at += size
        return np.frombuffer(self.content, kind, int(count), self.at - size)

    def number(self, kind):
        return int(self.take(kind, 1)[0])

    def matrix(self):
        rows, columns = self.take("<i4", 2).tolist()
        return (
            self.take("<f4", max(rows, 0) * max(columns, 0))
            .reshape(max(columns, 0), max(rows, 0))
            .T
        )

    def model(self):
        """Mean (3N, 1), modes (3N, K), variances (K, 1), triangles (F, 3)."""
        return (
            self.matrix(),
            self.matrix(),
            self.matrix(),
            self.take("<i4", 3 * self.number("<u8")).reshape(-1, 3),
        )

    def blendshapes(self):
        """List of (name, offsets (3N, 1))."""
        return [
            (self.take("u1", self.number("<u8")).tobytes().decode(), self.matrix())
            for _ in range(self.number("<u8"))
        ]


def read(path, n_identity=None, n_expression=None, landmarks=None, blendshapes=None):
    """The MorphableModel of an eos .bin: mm, head frame; eos holds variances, which it returns rescaled.

    blendshapes: an eos file of expressions, which become named units; default: expression_blendshapes*.bin beside a sfm_shape*.bin. Without one, our own expressions are carried over.
    """
    with reading(path, WHAT):
        path, archive = Path(path), Archive(path)
        if (version := archive.number("<u4")) not in (1, 2, 3, 4):
            raise ValueError(f"version {version} of the format is not known")
        mean, modes, variances, triangles = archive.model()
        archive.model()  # colours
        mean = as_vertices(mean, "the mean")
        expression, units, names = None, None, ()
        beside = (
            sorted(
                path.parent.glob(path.stem.replace("sfm_shape", "expression_blendshapes") + ".bin")
            )
            if path.stem.startswith("sfm_shape")
            else []
        )
        blendshapes = blendshapes or next(iter(beside), None)
        if blendshapes is not None:
            names, offsets = zip(*Archive(blendshapes).blendshapes())
            units = as_modes(
                np.concatenate(offsets, 1), len(mean), None, f"{Path(blendshapes).name}"
            )
        elif version > 1 and archive.number("u1") == 0 and archive.number("<i4") == 0:
            offset, basis, spread, _ = archive.model()
            mean, expression = (
                mean + as_vertices(offset, "the mean expression"),
                as_modes(
                    basis, len(mean), deviations(spread), "the expression basis", n_expression
                ),
            )
        return assemble(
            "surrey",
            mean,
            as_modes(modes, len(mean), deviations(variances), count=n_identity),
            triangles,
            expression,
            units,
            names,
            landmarks,
            n_expression=n_expression,
        )
