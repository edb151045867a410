"""Reading files from others within bounds, and writing our own whole or not at all."""

import hashlib
import mmap
import pickle
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from tqdm import tqdm

EXPECTED = (
    ValueError,
    OSError,
)  # errors of the input, which the library words in one line; anything else is a bug and shows its traceback


def complain(text):
    """One line on stderr, above a progress bar if there is one."""
    tqdm.write("e2far: " + " ".join(str(text).split()), file=sys.stderr)


@contextmanager
def replacing(path, writer=""):
    """A path to write to, renamed to `path` when the block ends without an error: a reader never meets half a file. An OSError, as of a full disk, names `path`.

    writer: what tells this writer's partial file from that of another who may be writing the same `path` at the same time
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}{writer}.partial")
    try:
        yield partial
        partial.replace(path)
    except OSError as error:
        if error.errno and error.filename is None:
            error.filename = str(path)
        raise
    finally:
        partial.unlink(missing_ok=True)


def source_version(*modules):
    """Sixteen hexadecimal digits that change when the source of a module does: what was made by other code is not taken for finished."""
    return hashlib.sha256(
        b"".join(Path(module.__file__).read_bytes() for module in modules)
    ).hexdigest()[:16]


LARGEST = (
    2**31
)  # bytes that a packed file, or an array of one, may unpack to: four times the largest that is published. A megabyte can hold a gigabyte of zeros


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
        if end not in (
            b"\x00\x01IM",
            b"\x01\x00MI",
        ):  # scipy knows the other levels, or refuses them
            return
        order, size = "<" if end[2:] == b"IM" else ">", 0
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            for kind, start, stop in _elements(content, 128, len(content), order):
                if kind != 15:
                    continue
                unpacker, unpacked = zlib.decompressobj(), bytearray()
                for at in range(start, stop, 2**16):
                    unpacked += unpacker.decompress(content[at : min(at + 2**16, stop)])
                    if size + len(unpacked) > LARGEST:
                        raise ValueError(f"it unpacks to more than {LARGEST:,} bytes")
                size += len(unpacked)
                list(_elements(unpacked, 0, len(unpacked), order))


def _elements(content, at, end, order):
    """Kind, start and end of the elements of a MATLAB file from `at` on, those within matrices checked too: of a known kind, none longer than what it is in."""
    while at + 8 <= end:
        kind, size = struct.unpack_from(order + "II", content, at)
        start = at + 4 if kind >> 16 else at + 8  # four bytes or fewer lie in the tag
        kind, size = (kind & 0xFFFF, kind >> 16) if kind >> 16 else (kind, size)
        if (
            kind not in (1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 14, 15, 16, 17, 18)
            or start + size > end
            or start == at + 4
            and size > 4
        ):
            raise ValueError("it is cut short or damaged")
        if kind == 14:
            list(_elements(content, start, start + size, order))
        yield kind, start, start + size
        at = (
            at + 8 if start == at + 4 else start + size if kind == 15 else start + -(-size // 8) * 8
        )


class Inert:
    """Stands in for an object of a pickle: keeps its state, does nothing."""

    def __init__(self, *args):
        self.state = {}

    def __setstate__(self, state):
        self.state = state if isinstance(state, dict) else {}


class Dtype(Inert):
    """numpy.dtype of plain numbers or text."""

    def __init__(self, code, *flags):
        self.dtype = np.dtype(code if isinstance(code, str) else "O")
        if self.dtype.kind not in "biufcSU":
            raise pickle.UnpicklingError(f"an array of {self.dtype}, not of plain numbers")

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1] if state[1] in ("<", ">") else "=")


class Array(Inert):
    """numpy.ndarray, filled from its raw bytes alone."""

    def __setstate__(self, state):
        _, shape, kind, fortran, raw = state
        if not isinstance(raw, (bytes, str)):
            raise pickle.UnpicklingError("an array of objects, not of plain numbers")
        self.array = np.frombuffer(
            raw.encode("latin1") if isinstance(raw, str) else raw, kind.dtype
        ).reshape(shape, order="F" if fortran else "C")


def from_buffer(raw, kind, shape, order):
    array = Array()
    array.array = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
    return array


def blank(kind, *args):
    """For copyreg._reconstructor and numpy's _reconstruct: an empty object of one of the classes above."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise pickle.UnpicklingError(f"it would build {kind}")
    return kind()


NUMPY = {
    "_reconstruct": blank,
    "scalar": lambda kind, raw=b"": Inert(),
    "_frombuffer": from_buffer,
    "ndarray": Array,
    "dtype": Dtype,
}
COMMON = {
    ("copy_reg", "_reconstructor"): blank,
    ("copyreg", "_reconstructor"): blank,
    ("__builtin__", "object"): Inert,
    ("builtins", "object"): Inert,
    ("collections", "OrderedDict"): dict,
    ("_codecs", "encode"): lambda text, *_: text.encode("latin1"),
}


class Unpickler(pickle._Unpickler):
    """Reads arrays, scipy's sparse matrices and chumpy's objects as the inert stand-ins above; refuses every other global by its name. No code of the file's choice runs.

    The interpreter in Python, not the one in C, so that BUILD can be kept from setting attributes of anything else than these stand-ins.
    """

    stack: list
    read: Callable[[int], bytes]

    def load_build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError(
                f"the pickle would change a {type(self.stack[-1]).__name__}"
            )
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self):
        self.stack.append(
            bytearray(self.read(int.from_bytes(self.read(8), "little")))
        )  # Python's own makes room for as many bytes as the file claims

    dispatch = pickle._Unpickler.dispatch | {
        pickle.BUILD[0]: load_build,
        pickle.BYTEARRAY8[0]: load_bytearray8,
    }  # ty: ignore[invalid-assignment]

    def find_class(self, module, name):
        package = module.split(".")[0]
        if package == "numpy" and name in NUMPY:
            return NUMPY[name]
        if package in ("chumpy", "scipy") and (
            package == "chumpy" or module.startswith("scipy.sparse")
        ):
            return type(name, (Inert,), {})
        if (module, name) in COMMON:
            return COMMON[module, name]
        raise pickle.UnpicklingError(
            f"the pickle asks for {module}.{name}, which is neither an array nor a sparse matrix nor a chumpy object and is not loaded"
        )


def plain(value):
    """The array behind a stand-in; chumpy keeps it as `x`."""
    for _ in range(9):  # one that is its own `x` has no end
        if not isinstance(value, Inert) or hasattr(value, "array"):
            break
        if "x" not in getattr(value, "state", {}):
            raise ValueError(f"a {type(value).__name__} object that holds no array")
        value = value.state["x"]
    if not isinstance(
        value, (Array, np.ndarray)
    ):  # lists of one list again and again would be many numbers
        raise ValueError(f"a {type(value).__name__} where an array should be")
    return value.array if isinstance(value, Array) else value


@contextmanager
def reading(path, what):
    """Around the reading of a file: any way in which it can be bad becomes a ValueError of one line, "PATH: reason; it should be WHAT"; FileNotFoundError where there is none."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no file at {path}: it should be {what}")
    try:
        yield
    except FileNotFoundError:
        raise
    except Exception as error:  # parsers of foreign formats fail in too many ways to list
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"{path}: {'a part is missing: ' * isinstance(error, KeyError)}{reason[:300]}; it should be {what}"
        ) from error


def leaves(tree):
    """All that is neither dict, list nor tuple in `tree`, once each."""
    waiting, seen = [tree], {}
    while waiting:
        one = waiting.pop()
        if id(one) not in seen:
            seen[id(one)] = one
            if isinstance(one, (dict, list, tuple)):
                waiting.extend(one.values() if isinstance(one, dict) else one)
            else:
                yield one


def read_pickled(path, device="cpu"):
    """What torch.save wrote to `path`, if it is tensors and plain values: no code of the file runs. Raises ValueError where it would take more memory than the file has bytes, else whatever torch does."""
    import torch

    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as file:
            if sum(member.file_size for member in file.infolist()) > Path(path).stat().st_size:
                raise ValueError("it is packed, as torch.save packs no file")
    state = torch.load(path, map_location=device, weights_only=True)
    if any(
        isinstance(value, torch.Tensor)
        and value.numel() * value.itemsize > value.untyped_storage().nbytes()
        for value in leaves(state)
    ):
        raise ValueError("a tensor in it claims more numbers than are stored")
    return state
