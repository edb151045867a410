"""BU-3DFE (Yin et al., FG 2006): 100 people, neutral and six expressions at four levels.

Folder, as several public readers of it agree: `F0001/` ... `F0056/`, `M0001/` ... `M0044/`, in each
`F0001_AN01WH_F3D.wrl` (face, VRML 2.0 with triangles or larger polygons), `_F2D.bmp` (frontal
picture), `_F3D.bnd` (83 points on the face), `_F3D.bmp` (texture of two views), `_RAW.*`
(uncropped). AN is the expression, 01 its level (00 for NE), WH a code of ethnicity.
Not verified from a source: that coordinates are mm (faces span about +-100) and which of the 83
points are NoW's 7 (readers disagree on their order), so they are not read, and `scan_landmarks7`
is None unless picked.
"""

import re
from functools import partial

import numpy as np

from e2far.benchmark.datasets import records
from e2far.files import reading

WHAT = (
    "BU-3DFE, a folder of F0001 ... M0044 with *_F3D.wrl and *_F2D.bmp, requested "
    "from Lijun Yin at Binghamton University (cs.binghamton.edu/~lijun/Research/3DFE)"
)
CODES, WORDS = "NE AN DI FE HA SA SU", "neutral angry disgust fear happy sad surprise"
EXPRESSIONS = dict(zip(CODES.split(), WORDS.split()))
NAME = rf"([FM]\d{{4}}/([FM]\d{{4}})_({'|'.join(EXPRESSIONS)})(\d\d)([A-Z]{{2}}))_F3D\.wrl"


def read(folder):
    """Items of all faces with their frontal pictures."""
    scans = [match.groups() for match in records.find(folder, "*/*_F3D.wrl", NAME)]
    pictures = [f"{name}_F2D.bmp" for name, *_ in scans]
    records.require(folder, WHAT, pictures, "frontal pictures of faces")
    items = []
    for (name, person, expression, level, ethnicity), picture in zip(scans, pictures):
        facts = dict(expression=EXPRESSIONS[expression], level=int(level))
        facts |= dict(ethnicity_code=ethnicity, sex="female" if person[0] == "F" else "male")
        sources = {"scan": partial(read_wrl, folder / f"{name}_F3D.wrl")}
        items.append(records.Item(name, person, folder / picture, facts, sources))
    return items


def read_wrl(path):
    """Vertices (N, 3) and triangles (F, 3) of a VRML file's first face set, polygons as fans."""
    with reading(path, WHAT):
        text = re.sub(r"#[^\n]*", "", path.read_text(errors="replace"))
        point = re.search(r"(?<!Texture)Coordinate\s*\{\s*point\s*\[([^\]]*)\]", text)
        index = re.search(r"\bcoordIndex\s*\[([^\]]*)\]", text)
        if not (point and index):
            raise ValueError("it has no Coordinate { point [...] } or no coordIndex [...]")
        vertices = np.array(point[1].replace(",", " ").split(), np.float64).reshape(-1, 3)
        corners = np.array(index[1].replace(",", " ").split(), np.int64)
        triangles = []
        for part in np.split(corners, np.flatnonzero(corners < 0)):
            polygon = part[part >= 0]
            triangles += [(polygon[0], *pair) for pair in zip(polygon[1:], polygon[2:])]
        return records.as_mesh(vertices, triangles)
