"""Face models: our own and those that others publish.

makehuman   our model, built from MakeHuman's CC0 targets: head (the mesh), shapes (random heads and
            their modes), attributes (what a renderer knows about a vertex), arkit (expressions)
assembly    a published model made whole: registration lays our head over its mean;
            its readers: basel2009, basel2017, flame, ict, surrey
anthropometry, traits, figures    are our people shaped like people, and which looks have shapes
"""

import zipfile
from importlib import import_module
from pathlib import Path

from e2far.files import reading
from e2far.morphable import SHIPPED, MorphableModel

READERS = {".npz": "flame", ".pkl": "flame", ".mat": "basel2009", ".bin": "surrey"}
READERS |= {".h5": "basel2017", ".hdf5": "basel2017"}
FORMATS = (
    ".npz (ours or FLAME's), .mat (Basel 2009), .h5 (Basel 2017, 2019), .pkl (FLAME), "
    ".bin (Surrey, eos) or ICT-FaceKit's folder FaceXModel"
)


def load_face_model(name_or_path: str | Path = "makehuman") -> MorphableModel:
    """The MorphableModel called "makehuman" (ours, CC0, shipped) or stored at a path, as in `read`.

    Raises FileNotFoundError or ValueError with one line that says what to do.
    """
    return read(SHIPPED if str(name_or_path) == "makehuman" else name_or_path)


def read(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel (float32, mm, head frame) stored at `path`, in any of FORMATS.

    n_identity, n_expression: at most so many of the first modes; None: all
    landmarks: 68 vertices counted from 0 in iBUG order, or a file of them; None: the file's own

    What a published model lacks is carried over from ours: see `assembly`. Expressions that are
    principal modes without names (FLAME, Basel 2017) leave `unit_names` empty.
    Raises FileNotFoundError or ValueError with one line that says what the file should be.
    """
    for name, count in dict(n_identity=n_identity, n_expression=n_expression).items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: give at least 1, or None for all modes")
    path = Path(path)
    if landmarks is not None:
        landmarks = import_module("e2far.facemodels.assembly").read_landmarks(landmarks)
    suffix = path.suffix.lower()
    if suffix == ".npz" and not is_flame(path):
        return truncate(MorphableModel.load(path), n_identity, n_expression, landmarks)
    kind = "ict" if path.is_dir() else READERS.get(suffix)
    if kind is None:
        error = ValueError if path.exists() else FileNotFoundError
        raise error(f"{path} is not a face model that can be read: give {FORMATS}")
    reader = import_module(f"e2far.facemodels.{kind}")
    assemble = import_module("e2far.facemodels.assembly").assemble
    with reading(path, reader.WHAT):
        return assemble(reader.read(path), n_identity, n_expression, landmarks)


def is_flame(path):
    """Whether an .npz is FLAME's, by its content."""
    try:
        with zipfile.ZipFile(path) as file:
            return "v_template.npy" in file.namelist()
    except Exception:  # damaged zip files fail in too many ways to list
        return False


def truncate(model, n_identity=None, n_expression=None, landmarks=None):
    """`model` with its first modes alone, and other landmarks (68,) if given."""
    landmarks = model.landmarks if landmarks is None else model.landmarks.new_tensor(landmarks)
    shorter = MorphableModel(
        model.mean,
        model.identity_basis[:, :, :n_identity].contiguous(),
        model.expression_basis[:, :, :n_expression].contiguous(),
        model.triangles,
        landmarks,
        model.region,
        dict(zip(model.unit_names, model.units.unbind(2))),
        model.attributes,
    )
    shorter.name = model.name
    return shorter


def build(source="makehuman", sizes=None):
    """The MorphableModel of params.yaml's block `facemodel`.

    "makehuman" is built with all of `sizes`, any other source is a path, of which `sizes` gives
    n_identity and n_expression.
    """
    sizes = dict(sizes or {})
    if str(source) == "makehuman":
        return import_module("e2far.facemodels.makehuman").build(**sizes)
    return read(source, sizes.get("n_identity"), sizes.get("n_expression"))
