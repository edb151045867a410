"""Face models: our own (`makehuman`) and readers of those that others publish."""
import mmap
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np

FORMATS = ".npz (ours or FLAME's), .mat (Basel 2009), .h5 (Basel 2017, 2019), .pkl (FLAME), .bin (Surrey, eos) or ICT-FaceKit's folder FaceXModel"
LARGEST = 2 ** 31       # bytes that a packed file, or an array of one, may unpack to: four times the largest that is published. A megabyte can hold a gigabyte of zeros


def read(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel (float32, mm, head frame, coefficients in standard deviations) stored at `path`, in any of FORMATS.

    n_identity, n_expression: at most so many of the first modes; None: all
    landmarks: 68 vertices counted from 0 in iBUG order, or a file of them; default: the file's own, and those that it lacks carried over from our model
    The face region, what a renderer must know and, where the file has none, expressions with their named units are carried over from our model too (see registration.assemble).
    Expressions that are principal modes without names (FLAME, Basel 2017) leave `unit_names` empty. Raises FileNotFoundError or ValueError with one line that says what the file should be.
    """
    from e2far.facemodels import basel, flame, ict, surrey
    from e2far.facemodels.registration import read_landmarks
    from e2far.morphable import load_face_model
    for name, count in dict(n_identity=n_identity, n_expression=n_expression).items():
        if count is not None and count < 1:
            raise ValueError(f"{name} is {count}: give at least 1, or None for all modes")
    landmarks = None if landmarks is None else read_landmarks(landmarks)
    path = Path(path)
    suffix = path.suffix.lower()
    if path.is_dir() and suffix != ".npz":
        reader = ict.read
    elif suffix == ".npz" and not is_flame(path):
        return truncate(load_face_model(path), n_identity, n_expression, landmarks)
    else:
        reader = {".npz": flame.read, ".pkl": flame.read, ".mat": basel.read_mat, ".h5": basel.read_h5, ".hdf5": basel.read_h5, ".bin": surrey.read}.get(suffix)
    if reader is None:
        raise (ValueError if path.exists() else FileNotFoundError)(f"{path} is not a face model that can be read: give {FORMATS}")
    return reader(path, n_identity, n_expression, landmarks)


def is_flame(path):
    """Whether an .npz is FLAME's, by its content."""
    try:
        with zipfile.ZipFile(path) as file:
            return "v_template.npy" in file.namelist()
    except Exception:               # damaged zip files fail in too many ways to list
        return False


def read_npz(path, names=None):
    """The arrays `names` (None: all) of an .npz, pickled ones never: a dict. Raises ValueError where they are larger than LARGEST, and whatever a damaged file makes numpy raise."""
    with zipfile.ZipFile(path) as file:
        if sum(member.file_size for member in file.infolist()) > LARGEST:
            raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in names or stored.files}


def check_mat(path):
    """Raise ValueError where a MATLAB file (level 5) is damaged so that scipy would crash over it, or where its packed variables are larger than LARGEST."""
    with open(path, "rb") as file:
        end = file.read(128)[124:]
        if end not in (b"\x00\x01IM", b"\x01\x00MI"):         # scipy knows the other levels, or refuses them
            return
        order, size = "<" if end[2:] == b"IM" else ">", 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for kind, start, stop in _elements(content, 128, len(content), order):
                if kind != 15:
                    continue
                unpacker, unpacked = zlib.decompressobj(), bytearray()
                for at in range(start, stop, 2 ** 16):
                    unpacked += unpacker.decompress(content[at:min(at + 2 ** 16, stop)])
                    if size + len(unpacked) > LARGEST:
                        raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
                size += len(unpacked)
                list(_elements(unpacked, 0, len(unpacked), order))


def _elements(content, at, end, order):
    """Kind, start and end of the elements of a MATLAB file from `at` on, those within matrices checked too: of a known kind, none longer than what it is in."""
    while at + 8 <= end:
        kind, size = struct.unpack_from(order + "II", content, at)
        start = at + 4 if kind >> 16 else at + 8            # four bytes or fewer lie in the tag
        kind, size = (kind & 0xffff, kind >> 16) if kind >> 16 else (kind, size)
        if kind not in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14, 15, 16, 17, 18) or start + size > end or start == at + 4 and size > 4:
            raise ValueError("it is cut short or damaged")
        if kind == 14:
            list(_elements(content, start, start + size, order))
        yield kind, start, start + size
        at = at + 8 if start == at + 4 else start + size if kind == 15 else start + -(-size // 8) * 8



def truncate(model, n_identity, n_expression, landmarks):
    """`model` with the first modes and other landmarks."""
    import torch

    from e2far.morphable import MorphableModel
    vertices = model.landmarks if landmarks is None else torch.from_numpy(landmarks)
    return MorphableModel(model.mean, model.identity_basis[:, :, :n_identity].contiguous(), model.expression_basis[:, :, :n_expression].contiguous(), model.triangles, vertices,
                          model.region, model.units, model.unit_names, model.attributes, model.name)


def build(source="makehuman", sizes=None):
    """The MorphableModel of params.yaml's block `facemodel`: "makehuman" is built with all of `sizes`, any other source is a path, read with their n_identity and n_expression."""
    from e2far.facemodels import makehuman
    sizes = dict(sizes or {})
    if str(source) == "makehuman":
        return makehuman.build(**sizes)
    return read(source, sizes.get("n_identity"), sizes.get("n_expression"))
