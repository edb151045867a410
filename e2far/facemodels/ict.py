"""The ICT Face Model (ICT-FaceKit's folder FaceXModel of .obj files)."""

import json
from pathlib import Path

import numpy as np

from e2far.facemodels.registration import assemble, check_landmarks
from e2far.files import reading

WHAT = "ICT-FaceKit's folder FaceXModel (generic_neutral_mesh.obj, identity000.obj ..., vertex_indices.json), from the project ICT-FaceKit of USC's Institute for Creative Technologies"
CENTIMETRE = 10.0
WHOLE, SOLID = (
    26719,
    24591,
)  # vertices of the published mesh; those after the eyeballs are tear films, blends, occlusion shells and lashes, which are drawn transparent: left out
MERGED = {
    "browInnerUp": ("browInnerUp_L", "browInnerUp_R"),
    "cheekPuff": ("cheekPuff_L", "cheekPuff_R"),
}  # one unit in ARKit


def read_obj(path, faces=False):
    """Vertices (V, 3) of a Wavefront file, and with `faces` its polygons as a list of lists of vertices."""
    vertices, polygons = [], []
    with open(path) as file:
        for line in file:
            if line.startswith("v "):
                vertices.append(line.split()[1:4])
            elif faces and line.startswith("f "):
                polygons.append([int(corner.split("/")[0]) for corner in line.split()[1:]])
    vertices = np.array(vertices, np.float32).reshape(-1, 3)
    return (
        (vertices, [[i - 1 if i > 0 else i + len(vertices) for i in p] for p in polygons])
        if faces
        else vertices
    )


def unit_name(name):
    """ARKit's name of an expression: eyeBlink_L -> eyeBlinkLeft."""
    return (
        name[:-2] + {"_L": "Left", "_R": "Right"}[name[-2:]]
        if name.endswith(("_L", "_R"))
        else name
    )


def read(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel of the folder: centimetres, head frame; identity modes are in standard deviations (ICT-FaceKit itself draws their weights from N(0, 1)).

    Its expressions become named units (ARKit's names where they are ARKit's); expression modes are principal modes of random mixtures of them, as in our own model.
    """
    path = Path(path)
    with reading(path, WHAT):
        if not (path / "generic_neutral_mesh.obj").is_file():
            raise ValueError("it has no generic_neutral_mesh.obj")
        neutral, polygons = read_obj(path / "generic_neutral_mesh.obj", faces=True)
        n = SOLID if len(neutral) == WHOLE else len(neutral)

        def mode(file):
            vertices = read_obj(file)
            if vertices.shape != neutral.shape:
                raise ValueError(
                    f"{file.name} has {len(vertices)} vertices, the neutral mesh {len(neutral)}"
                )
            return (vertices - neutral)[:n] * CENTIMETRE

        config = (
            json.loads((path / "vertex_indices.json").read_text())
            if (path / "vertex_indices.json").is_file()
            else {}
        )
        people = sorted(path.glob("identity[0-9]*.obj"))[:n_identity]
        if not people:
            raise ValueError("it has no identity000.obj")
        files = {
            f.stem: f
            for f in sorted(path.glob("*.obj"))
            if not f.stem.startswith(("identity", "generic_neutral"))
        }
        moves = {name: mode(file) for name, file in files.items()}
        for whole, sides in MERGED.items():
            if all(side in moves for side in sides):
                moves[whole] = sum(moves.pop(side) for side in sides)
        given = (
            check_landmarks(config["idx_to_landmark_verts"])
            if "idx_to_landmark_verts" in config
            else None
        )
        triangles = np.array(
            [
                (p[0], p[k], p[k + 1])
                for p in polygons
                for k in range(1, len(p) - 1)
                if n == len(neutral) or max(p) < n
            ]
        )
        return assemble(
            "ict",
            neutral[:n] * CENTIMETRE,
            np.stack([mode(file) for file in people], -1),
            triangles,
            units=np.stack(list(moves.values()), -1) if moves else None,
            unit_names=[unit_name(k) for k in moves],
            landmarks=given if landmarks is None else landmarks,
            n_expression=n_expression,
        )
