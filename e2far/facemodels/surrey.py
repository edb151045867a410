"""The Surrey Face Model, and others in the binary format of the library eos (versions 1 to 4).

Its MorphableModel as the library cereal writes it, little-endian: version u32; shape and colour,
each: mean, modes, variances, then u64 and as many triangles 3 x i32. A matrix: rows, columns i32,
f32 column by column. From version 2 on: u8, 0 where expressions follow; i32, 0 where these are a
model as of shape, 1 where u64 and as many blendshapes: u64 and a name, a matrix.
"""

import re
from pathlib import Path

import numpy as np

from e2far.facemodels.assembly import Published, as_modes, as_vertices, deviations

WHAT = (
    "a Surrey Face Model as eos writes it, e.g. sfm_shape_3448.bin of the project eos "
    "(patrikhuber/eos), in mm; larger ones are requested from the University of Surrey (CVSSP)"
)


class Archive:
    """The bytes of a file, front to back.

    # Choice: not eos, which makes room for whatever a damaged file claims, and crashes where its
    sizes disagree.
    """

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
        rows, columns = self.take("<i4", 2).clip(0).tolist()
        return self.take("<f4", rows * columns).reshape(columns, rows).T

    def model(self):
        """Mean (3N, 1), modes (3N, K), variances (K, 1), triangles (F, 3)."""
        mean, modes, variances = self.matrix(), self.matrix(), self.matrix()
        return mean, modes, variances, self.take("<i4", 3 * self.number("<u8")).reshape(-1, 3)

    def blendshapes(self):
        """List of (name, offsets (3N, 1))."""
        count = self.number("<u8")
        return [
            (self.take("u1", self.number("<u8")).tobytes().decode(), self.matrix())
            for _ in range(count)
        ]


def read_landmarks(path, n):
    """iBUG number, from 0 -> vertex of a mesh of n, from eos's ibug_to_sfm.txt, old (its lines are
    `9 33 ; chin`) or new (`9 = 33 # chin`). Vertices that only larger meshes have are left out.
    """
    lines = re.findall(r"^[ \t]*(\d+)[ \t=]+(\d+)", path.read_text(encoding="utf-8-sig"), re.M)
    found = {int(number) - 1: int(vertex) for number, vertex in lines}
    if not found or not set(found) <= set(range(68)):
        raise ValueError(f"{path.name} beside it has no lines `iBUG number 1 to 68 = vertex`")
    return {number: vertex for number, vertex in found.items() if vertex < n}


def read(path):
    """The Published of an eos .bin, in mm; eos holds variances, which it returns rescaled.

    Beside a sfm_shape*.bin, expression_blendshapes*.bin become named units and ibug_to_sfm.txt
    gives landmarks, as eos has them in its folder share.
    """
    path, archive = Path(path), Archive(path)
    if (version := archive.number("<u4")) not in (1, 2, 3, 4):
        raise ValueError(f"version {version} of the format is not known")
    mean, modes, variances, triangles = archive.model()
    archive.model()  # colours
    mean = as_vertices(mean)
    n = len(mean)
    identity = as_modes(modes, n, deviations(variances))
    expression, units, names, landmarks = None, None, (), {}
    surreys = path.name.startswith("sfm_shape")
    if surreys and (marks := path.with_name("ibug_to_sfm.txt")).exists():
        landmarks = read_landmarks(marks, n)
    beside = path.with_name(path.name.replace("sfm_shape", "expression_blendshapes"))
    if surreys and beside.exists():
        names, offsets = zip(*Archive(beside).blendshapes())
        units = as_modes(np.concatenate(offsets, 1), n, None, beside.name)
    elif version > 1 and archive.number("u1") == 0 and archive.number("<i4") == 0:
        offset, basis, spread, _ = archive.model()
        mean = mean + as_vertices(offset, "the mean expression")
        expression = as_modes(basis, n, deviations(spread), "the expression basis")
    return Published("surrey", mean, identity, triangles, expression, units, names, landmarks)
