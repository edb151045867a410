"""Face models: our own (`makehuman`) and readers of those that others publish."""

import zipfile
from pathlib import Path

from e2far.morphable import SHIPPED, MorphableModel

FORMATS = ".npz (ours or FLAME's), .mat (Basel 2009), .h5 (Basel 2017, 2019), .pkl (FLAME), .bin (Surrey, eos) or ICT-FaceKit's folder FaceXModel"


def load_face_model(name_or_path: str | Path = "makehuman") -> MorphableModel:
    """The MorphableModel called "makehuman" (ours, CC0, shipped) or stored at a path: .npz as written by `MorphableModel.save`, or any format that `read` knows.

    Raises FileNotFoundError or ValueError with one line that says what to do.
    """
    path = SHIPPED if str(name_or_path) == "makehuman" else Path(name_or_path)
    if path.suffix.lower() != ".npz" or is_flame(path):
        return read(path)
    return MorphableModel.load(path)


def read(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel (float32, mm, head frame, coefficients in standard deviations) stored at `path`, in any of FORMATS.

    n_identity, n_expression: at most so many of the first modes; None: all
    landmarks: 68 vertices counted from 0 in iBUG order, or a file of them; default: the file's own, and those that it lacks carried over from our model
    The face region, what a renderer must know and, where the file has none, expressions with their named units are carried over from our model too (see registration.assemble).
    Expressions that are principal modes without names (FLAME, Basel 2017) leave `unit_names` empty. Raises FileNotFoundError or ValueError with one line that says what the file should be.
    """
    from e2far.facemodels import basel, flame, ict, surrey
    from e2far.facemodels.registration import read_landmarks

    for name, count in dict(n_identity=n_identity, n_expression=n_expression).items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: give at least 1, or None for all modes")
    landmarks = None if landmarks is None else read_landmarks(landmarks)
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir() and suffix != ".npz":
        reader = ict.read
    elif suffix == ".npz" and not is_flame(path):
        return truncate(MorphableModel.load(path), n_identity, n_expression, landmarks)
    else:
        reader = {
            ".npz": flame.read,
            ".pkl": flame.read,
            ".mat": basel.read_mat,
            ".h5": basel.read_h5,
            ".hdf5": basel.read_h5,
            ".bin": surrey.read,
        }.get(suffix)
    if reader is None:
        raise (ValueError if path.exists() else FileNotFoundError)(
            f"{path} is not a face model that can be read: give {FORMATS}"
        )
    return reader(path, n_identity, n_expression, landmarks)


def is_flame(path):
    """Whether an .npz is FLAME's, by its content."""
    try:
        with zipfile.ZipFile(path) as file:
            return "v_template.npy" in file.namelist()
    except Exception:  # damaged zip files fail in too many ways to list
        return False


def truncate(model, n_identity, n_expression, landmarks):
    """`model` with the first modes and other landmarks."""
    import torch

    vertices = model.landmarks if landmarks is None else torch.from_numpy(landmarks)
    return MorphableModel(
        model.mean,
        model.identity_basis[:, :, :n_identity].contiguous(),
        model.expression_basis[:, :, :n_expression].contiguous(),
        model.triangles,
        vertices,
        model.region,
        model.units,
        model.unit_names,
        model.attributes,
        model.name,
    )


def build(source="makehuman", sizes=None):
    """The MorphableModel of params.yaml's block `facemodel`: "makehuman" is built with all of `sizes`, any other source is a path, read with their n_identity and n_expression."""
    from e2far.facemodels import makehuman

    sizes = dict(sizes or {})
    if str(source) == "makehuman":
        return makehuman.build(**sizes)
    return read(source, sizes.get("n_identity"), sizes.get("n_expression"))
