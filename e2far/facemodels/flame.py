"""FLAME (2017 to 2023, .pkl or .npz), without running any code that a pickle asks for."""

from e2far import files
from e2far.facemodels.assembly import Published, as_modes, as_vertices

WHAT = (
    "a FLAME model, generic_model.pkl, flame2023.pkl or an .npz of it (v_template, shapedirs, f), "
    "requested from the Max Planck Institute for Intelligent Systems (flame.is.tue.mpg.de)"
)
METRE, N_IDENTITY = 1000.0, 300


def read(path):
    """The Published of a FLAME file: metres, head frame, modes in standard deviations already.

    300 are of identity, then come those of expression (PCA, no named units). Jaw, neck and eyes
    stay at rest: their rotations are not linear.
    """
    if path.suffix.lower() == ".npz":
        stored = files.read_npz(path, ("v_template", "shapedirs", "f"))
    else:
        with open(path, "rb") as file:
            stored = files.Unpickler(file, encoding="latin1").load()
        if not isinstance(stored, dict):
            raise ValueError(f"it holds a {type(stored).__name__}, not a dict")
        stored = {name: files.plain(stored[name]) for name in ("v_template", "shapedirs", "f")}
    mean = as_vertices(stored["v_template"]) * METRE
    modes = as_modes(stored["shapedirs"], len(mean), None, "shapedirs") * METRE
    identity, expression = modes[:, :, :N_IDENTITY], modes[:, :, N_IDENTITY:]
    if not expression.shape[2]:
        expression = None
    return Published("flame", mean, identity, stored["f"], expression)
