"""FLAME (2017 to 2023, .pkl or .npz), without running any code that a pickle asks for."""

from pathlib import Path

from e2far import files
from e2far.facemodels.registration import as_modes, as_vertices, assemble
from e2far.files import Unpickler, plain, reading

WHAT = "a FLAME model, generic_model.pkl, flame2023.pkl or an .npz of it (v_template, shapedirs, f), requested from the Max Planck Institute for Intelligent Systems (flame.is.tue.mpg.de)"
METRE, N_IDENTITY = 1000.0, 300


def read(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel of a FLAME file: metres, head frame; modes are in standard deviations already, 300 of identity, then those of expression (PCA, no named units).

    Jaw, neck and eyes stay at rest: their rotations are not linear.
    """
    with reading(path, WHAT):
        if Path(path).suffix.lower() == ".npz":
            stored = files.read_npz(path, ("v_template", "shapedirs", "f"))
        else:
            with open(path, "rb") as file:
                stored = Unpickler(file, encoding="latin1").load()
            if not isinstance(stored, dict):
                raise ValueError(f"it holds a {type(stored).__name__}, not a dict")
        mean = as_vertices(plain(stored["v_template"]), "v_template") * METRE
        modes = as_modes(plain(stored["shapedirs"]), len(mean), None, "shapedirs") * METRE
        expression = (
            modes[:, :, N_IDENTITY:][:, :, :n_expression] if modes.shape[2] > N_IDENTITY else None
        )
        return assemble(
            "flame",
            mean,
            modes[:, :, :N_IDENTITY][:, :, :n_identity],
            plain(stored["f"]),
            expression,
            landmarks=landmarks,
            n_expression=n_expression,
        )
