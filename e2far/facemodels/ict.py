"""The ICT Face Model (ICT-FaceKit's folder FaceXModel of .obj files)."""

import json

import numpy as np

from e2far.facemodels.assembly import Published, check_landmarks
from e2far.facemodels.obj import read_obj

WHAT = (
    "ICT-FaceKit's folder FaceXModel (generic_neutral_mesh.obj, identity000.obj ..., "
    "vertex_indices.json), from the project ICT-FaceKit of USC's Institute for Creative Technologies"
)
CENTIMETRE = 10.0
# vertices of the published mesh; those after the eyeballs are tear films, blends, occlusion shells
# and lashes, which are drawn transparent: left out
WHOLE, SOLID = 26719, 24591
SIDES = {"_L": "Left", "_R": "Right"}
MERGED = {  # one unit in ARKit
    "browInnerUp": ("browInnerUp_L", "browInnerUp_R"),
    "cheekPuff": ("cheekPuff_L", "cheekPuff_R"),
}


def unit_name(name):
    """ARKit's name of an expression: eyeBlink_L -> eyeBlinkLeft."""
    return name[:-2] + SIDES[name[-2:]] if name[-2:] in SIDES else name


def read_vertices(path):
    """Vertices (V, 3) of a Wavefront file: 150 files are read, and one's polygons are enough."""
    with open(path) as file:
        lines = [line.split()[1:4] for line in file if line.startswith("v ")]
    return np.array(lines, np.float32).reshape(-1, 3)


def read(path):
    """The Published of the folder: centimetres, head frame.

    Identity modes are in standard deviations (ICT-FaceKit itself draws their weights from N(0, 1)).
    Expressions become named units, with ARKit's names where they are ARKit's.
    """
    if not (path / "generic_neutral_mesh.obj").is_file():
        raise ValueError("it has no generic_neutral_mesh.obj")
    mesh = read_obj(path / "generic_neutral_mesh.obj")
    neutral = mesh.vertices.astype(np.float32)
    n = SOLID if len(neutral) == WHOLE else len(neutral)

    def mode(file):
        vertices = read_vertices(file)
        if vertices.shape != neutral.shape:
            raise ValueError(
                f"{file.name} has {len(vertices)} vertices, the neutral mesh {len(neutral)}"
            )
        return (vertices - neutral)[:n] * CENTIMETRE

    people = sorted(path.glob("identity[0-9]*.obj"))
    if not people:
        raise ValueError("it has no identity000.obj")
    others = sorted(path.glob("*.obj"))
    others = [f for f in others if not f.stem.startswith(("identity", "generic_neutral"))]
    units = {f.stem: mode(f) for f in others}
    for whole, sides in MERGED.items():
        if all(side in units for side in sides):
            units[whole] = sum(units.pop(side) for side in sides)
    index = path / "vertex_indices.json"
    marks = json.loads(index.read_text()).get("idx_to_landmark_verts") if index.is_file() else None
    solid = [p for p in mesh.polygons if n == len(neutral) or max(p) < n]
    return Published(
        "ict",
        neutral[:n] * CENTIMETRE,
        np.stack([mode(file) for file in people], -1),
        np.array([(p[0], p[k], p[k + 1]) for p in solid for k in range(1, len(p) - 1)]),
        units=np.stack(list(units.values()), -1) if units else None,
        unit_names=[unit_name(name) for name in units],
        landmarks=None if marks is None else check_landmarks(marks),
    )
