"""Face models: our own and those that others publish.

makehuman   our model, built from MakeHuman's CC0 targets: head (the mesh), shapes (random heads and
            their modes), attributes (what a renderer knows about a vertex), arkit (expressions)
assembly    a published model made whole: registration lays our head over its mean;
            its readers: basel, flame, ict, surrey
anthropometry, traits, checks, figures    are our people shaped like people, and which looks have
            shapes
"""

import zipfile
from importlib import import_module
from pathlib import Path

from e2far.files import as_path, reading
from e2far.morphable import SHIPPED, MorphableModel

READERS = {".npz": "flame", ".pkl": "flame", ".mat": "basel", ".h5": "basel", ".hdf5": "basel"}
READERS |= {".bin": "surrey"}
FORMATS = (
    ".npz (ours or FLAME's), .mat (Basel 2009), .h5 (Basel 2017, 2019), .pkl (FLAME), "
    ".bin (Surrey, eos) or ICT-FaceKit's folder FaceXModel"
)


def load_face_model(name_or_path: str | Path = "makehuman") -> MorphableModel:
    """The MorphableModel (float32) called "makehuman" (ours, CC0, shipped) or stored at a path.

    The path is of any of FORMATS. What a published model lacks is carried over from ours: see
    `assembly`. Expressions that are modes without names (FLAME, Basel 2017) leave no `units`.
    Raises FileNotFoundError or ValueError with one line that says what the file should be.
    """
    path = SHIPPED if str(name_or_path) == "makehuman" else as_path(name_or_path)
    suffix = path.suffix.lower()
    if suffix == ".npz" and not is_flame(path):
        return MorphableModel.load(path)
    kind = "ict" if path.is_dir() else READERS.get(suffix)
    if kind is None:
        error = ValueError if path.exists() else FileNotFoundError
        raise error(f"{path} is not a face model that can be read: give {FORMATS}")
    reader = import_module(f"e2far.facemodels.{kind}")
    with reading(path, reader.WHAT):
        return reader.read(path).assembled()


def is_flame(path):
    """Whether an .npz is FLAME's, by its content."""
    try:
        with zipfile.ZipFile(path) as file:
            return "v_template.npy" in file.namelist()
    except Exception:  # damaged zip files fail in too many ways to list
        return False


def truncate(model, n_identity=None, n_expression=None):
    """`model` with its first modes alone; None: all."""
    for count in (n_identity, n_expression):
        if count is not None and count < 1:
            raise ValueError(f"{count} modes: give at least 1, or None for all")
    shorter = MorphableModel(
        model.mean,
        model.identity_basis[:, :, :n_identity].contiguous(),
        model.expression_basis[:, :, :n_expression].contiguous(),
        model.triangles,
        model.landmarks,
        model.region,
        dict(zip(model.unit_names, model.units.unbind(2))),
        model.attributes,
    )
    shorter.name = model.name
    return shorter


def build(source="makehuman", sizes=None):
    """The MorphableModel of params.yaml's block `facemodel`.

    "makehuman" is built with all of `sizes`; any other source is a path, as in `load_face_model`,
    and `sizes` gives n_identity and n_expression.
    """
    sizes = sizes or {}
    if str(source) == "makehuman":
        from e2far.facemodels import makehuman

        return makehuman.build(**sizes)
    return truncate(load_face_model(source), sizes.get("n_identity"), sizes.get("n_expression"))
