"""BU-3DFE (Yin, Wei, Sun, Wang, Rosato, "A 3D facial expression database for facial behavior research", FG 2006): 100 people, neutral and six expressions at four levels.

Folder, as several public readers of it agree: `F0001/` ... `F0056/`, `M0001/` ... `M0044/`, in each `F0001_AN01WH_F3D.wrl` (face, VRML 2.0 with triangles or larger polygons), `_F3D.bnd` (83
points on it: index and x y z a line), `_F2D.bmp` (frontal picture), `_F3D.bmp` (texture of two views), `_RAW.*` (uncropped). AN is the expression, 01 its level (00 for NE), WH a code of
ethnicity.
Not verified from a source: that coordinates are mm (faces span about +-100) and which of the 83 points are NoW's 7 (readers disagree on their order), so `scan_landmarks7` is None unless you pick
them.
"""

import re
from functools import partial
from pathlib import Path

import numpy as np

from e2far.benchmark.datasets.records import Item, Samples, as_mesh, names, reading, require
from e2far.benchmark.metrics import as_points

WHAT = "BU-3DFE, a folder of F0001 ... M0044 with *_F3D.wrl, *_F3D.bnd and *_F2D.bmp, requested from Lijun Yin at Binghamton University (cs.binghamton.edu/~lijun/Research/3DFE)"
EXPRESSIONS = {
    "NE": "neutral",
    "AN": "angry",
    "DI": "disgust",
    "FE": "fear",
    "HA": "happy",
    "SA": "sad",
    "SU": "surprise",
}
NAME = re.compile(r"([FM]\d{4})_(NE|AN|DI|FE|HA|SA|SU)(\d\d)([A-Z]{2})_F3D\.wrl")


def read(folder):
    """A `Samples` of all faces with their frontal pictures."""
    keys, missing = [], []
    for person in [n for n in names(folder) if re.fullmatch(r"[FM]\d{4}", n)]:
        listed = set(names(folder / person))
        found = [n for n in sorted(listed) if NAME.fullmatch(n)]
        missing += [
            f"{person}/{n.replace('_F3D.wrl', '_F2D.bmp')}"
            for n in found
            if n.replace("_F3D.wrl", "_F2D.bmp") not in listed
        ]
        keys += [
            (f"{person}/{n.removesuffix('_F3D.wrl')}", n.replace(".wrl", ".bnd") in listed)
            for n in found
        ]
    require(folder, WHAT, missing, len(keys), "frontal pictures of faces")
    return Samples(folder, keys, partial(build, folder))


def build(folder, key):
    name, marked = key
    person, expression, level, ethnicity = NAME.fullmatch(f"{Path(name).name}_F3D.wrl").groups()  # ty: ignore[missing-union-attribute]
    sources = {"scan": partial(read_wrl, folder / f"{name}_F3D.wrl")} | (
        {"scan_points": partial(read_bnd, folder / f"{name}_F3D.bnd")} if marked else {}
    )
    return Item(
        name,
        person,
        folder / f"{name}_F2D.bmp",
        dict(
            expression=EXPRESSIONS[expression],
            level=int(level),
            ethnicity_code=ethnicity,
            sex="female" if person[0] == "F" else "male",
        ),
        sources,
    )


def read_wrl(path):
    """Vertices (N, 3) and triangles (F, 3) of the first face set of a VRML 2.0 file; polygons become fans of triangles. trimesh reads no VRML."""
    with reading(path, WHAT):
        text = re.sub(r"#[^\n]*", "", Path(path).read_text(errors="replace"))
        point = re.search(r"(?<!Texture)Coordinate\s*\{\s*point\s*\[([^\]]*)\]", text)
        index = re.search(r"\bcoordIndex\s*\[([^\]]*)\]", text)
        if not (point and index):
            raise ValueError(
                "it has no Coordinate { point [...] } or no coordIndex [...], or ends before they do"
            )
        points = np.array(point[1].replace(",", " ").split(), np.float64)
        if points.size % 3:
            raise ValueError(f"its points are {points.size} numbers, not 3 for each vertex")
        flat = np.array(index[1].replace(",", " ").split(), np.int64)
        polygons = np.split(flat, np.flatnonzero(flat < 0))
        triangles = [
            (p[0], p[i], p[i + 1])
            for p in (p[p >= 0] for p in polygons)
            for i in range(1, len(p) - 1)
        ]
        return as_mesh(points.reshape(-1, 3), np.array(triangles, np.int64).reshape(-1, 3))


def read_bnd(path):
    """The 83 points (83, 3) of a .bnd file."""
    with reading(path, WHAT):
        return as_points(np.loadtxt(path, ndmin=2), (83, 4), "the table of points")[:, 1:]
