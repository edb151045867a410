"""The ICT Face Model (ICT-FaceKit's folder FaceXModel of .obj files)."""

import json

import numpy as np

from e2far.facemodels.assembly import Published, as_landmarks
from e2far.files import progress

WHAT = (
    "ICT-FaceKit's folder FaceXModel (generic_neutral_mesh.obj, identity000.obj ..., vertex_indices"
    ".json), from the project ICT-FaceKit of USC's Institute for Creative Technologies"
)
CENTIMETRE = 10.0
# vertices of the published mesh; those after the eyeballs are tear films, blends, occlusion shells
# and lashes, which are drawn transparent: left out
WHOLE, SOLID = 26719, 24591
SIDES = {"_L": "Left", "_R": "Right"}  # as ARKit names them
MERGED = ("browInnerUp", "cheekPuff")  # of two sides, one unit in ARKit


def read_vertices(path):
    """Vertices (V, 3) of a Wavefront file."""
    parts = ("\n" + path.read_text()).split("\nv ")[1:]
    lines = [part.split("\n", 1)[0] for part in parts]
    values = np.fromstring(" ".join(lines), np.float32, sep=" ")
    return values.reshape(len(lines), -1)[:, :3] if lines else np.zeros((0, 3))


def read_triangles(path):
    """Triangles (F, 3) of a Wavefront file: fans of its polygons."""
    with open(path) as file:
        lines = [line.split()[1:] for line in file if line.startswith("f ")]
    polygons = [[int(word.split("/")[0]) - 1 for word in line] for line in lines]
    return np.array([(p[0], *side) for p in polygons for side in zip(p[1:], p[2:])])


def read(path):
    """The Published of the folder: centimetres, head frame.

    Identity modes are in standard deviations (ICT-FaceKit itself draws their weights from N(0, 1)).
    Expressions become named units, with ARKit's names where they are ARKit's.
    """
    mesh = path / "generic_neutral_mesh.obj"
    if not mesh.is_file():
        raise ValueError("it has no generic_neutral_mesh.obj")
    neutral = read_vertices(mesh)
    triangles, n = read_triangles(mesh), len(neutral)
    if n == WHOLE:
        triangles, n = triangles[(triangles < SOLID).all(1)], SOLID

    def mode(file):
        vertices = read_vertices(file)
        if vertices.shape != neutral.shape:
            found = f"{file.name} has {len(vertices)} vertices"
            raise ValueError(f"{found}, the neutral mesh {len(neutral)}")
        return (vertices - neutral)[:n] * CENTIMETRE

    people = sorted(path.glob("identity[0-9]*.obj"))
    if not people:
        raise ValueError("it has no identity000.obj")
    known = ("identity", "generic_neutral")
    shown = [f for f in sorted(path.glob("*.obj")) if not f.stem.startswith(known)]
    units = {f.stem: mode(f) for f in progress(people + shown, "reading ICT-FaceKit")}
    identity = np.stack([units.pop(file.stem) for file in people], -1)
    for name in MERGED:
        if f"{name}_L" in units and f"{name}_R" in units:
            units[name] = units.pop(f"{name}_L") + units.pop(f"{name}_R")
    index = path / "vertex_indices.json"
    marks = json.loads(index.read_text()).get("idx_to_landmark_verts") if index.is_file() else None
    return Published(
        "ict",
        neutral[:n] * CENTIMETRE,
        identity,
        triangles,
        units=np.stack(list(units.values()), -1) if units else None,
        unit_names=[name[:-2] + SIDES.get(name[-2:], name[-2:]) for name in units],
        landmarks={} if marks is None else as_landmarks(marks),
    )
