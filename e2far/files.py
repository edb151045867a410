"""Reading files of others without running them, and writing our own whole or not at all."""

import hashlib
import pickle
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np

# What users can mend, said in one line; other errors are bugs
EXPECTED = (ValueError, OSError, ModuleNotFoundError)


def complain(text):
    """One line on stderr, above a progress bar if there is one; text: or an error."""
    from tqdm import tqdm

    if isinstance(text, OSError) and text.strerror and text.filename:
        text = f"{text.filename}: {text.strerror}"  # without its number
    tqdm.write("e2far: " + " ".join(str(text).split()), file=sys.stderr)


def as_path(name) -> Path:
    """The name of a file as a Path; TypeError where it is none."""
    if not isinstance(name, (str, Path)):
        given = "None" if name is None else f"this {type(name).__name__}"
        raise TypeError(f"{given} names no file: give one path, as a str or pathlib.Path")
    return Path(name)


def progress(items, text):
    """`items`, with a bar called `text` on stderr while they last if that is a terminal."""
    from tqdm import tqdm

    return tqdm(items, text, leave=False, disable=None)


@contextmanager
def extra(name):
    """Around imports that the extra `name` of pyproject.toml brings: what is missing says so."""
    try:
        yield
    except ModuleNotFoundError as error:
        remedy = f"`pip install '.[{name}]'` in the clone, or 'FILE.whl[{name}]' of the wheel"
        text = f"{error.name} is not installed: {remedy}"
        raise ModuleNotFoundError(text, name=error.name) from None


@contextmanager
def replacing(path, writer=""):
    """A path to write to, renamed to `path` when the block ends without an error, so that a reader
    never meets half a file. An OSError, as of a full disk, names `path`.

    writer: tells this partial file from that of others who write the same `path` at the same time
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


def digest(*parts, digits=16):
    """Hexadecimal digits that change with the contents of `parts`: files, folders, or bytes.

    They are for one rule, by which all work is kept or made anew: what is made says what it was
    `made_with` (settings, digests of the code and of what is read) in a record that is written
    last, a shard in its header, a job in its job.json, a photo's faces in their JSON. It
    `is_finished` if its record says what would be said now.
    """
    found = hashlib.sha256()
    for part in parts:
        if isinstance(part, bytes):
            found.update(part)
            continue
        for path in sorted(part.rglob("*")) if part.is_dir() else [part]:
            if path.is_file():
                found.update(path.read_bytes())
    return found.hexdigest()[:digits]


@contextmanager
def reading(path, what):
    """Around the reading of a file: whatever is wrong with it becomes a ValueError of one line,
    "PATH: reason; it should be WHAT"; FileNotFoundError where there is none."""
    if not Path(path).exists():
        raise FileNotFoundError(f"no file at {path}: it should be {what}")
    try:
        yield
    except (FileNotFoundError, ModuleNotFoundError):
        raise
    except Exception as error:  # parsers of foreign formats fail in too many ways to list
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        reason = re.split(r"\. If you trust| when allow_pickle", reason)[0]  # numpy's advice
        if isinstance(error, OSError) and Path(path).is_dir():
            reason = "it is a folder"
        if isinstance(error, KeyError):
            reason = f"a part is missing: {reason}"
        raise ValueError(f"{path}: {reason}; it should be {what}") from error


def read_npz(path, names=None):
    """The arrays `names` (None: all) of an .npz as a dict; pickled ones are refused."""
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in names or stored.files}


class Inert:
    """Stands in for an object of a pickle: keeps its state, does nothing."""

    def __init__(self, *args):
        self.state = None

    def __setstate__(self, state):
        self.state = state


class Dtype(Inert):
    """numpy.dtype. Choice: not the real one, whose state can declare any bytes to be objects."""

    def __init__(self, code, *flags):
        self.dtype = np.dtype(str(code))

    def __setstate__(self, state):
        self.dtype = self.dtype.newbyteorder(state[1])


class Array(np.ndarray):
    """numpy.ndarray of a `Dtype`."""

    def __setstate__(self, state):
        version, shape, kind, fortran, content = state
        super().__setstate__((version, shape, kind.dtype, fortran, content))


def _number(kind, raw):
    raw = raw.encode("latin1") if isinstance(raw, str) else raw  # of Python 2
    return np.frombuffer(raw, kind.dtype)[0]


ALLOWED = {  # (package, name) -> what does its work; copy_reg and __builtin__ are Python 2's
    ("numpy", "ndarray"): Array,
    ("numpy", "_reconstruct"): lambda *_: Array(0),
    ("numpy", "_frombuffer"): lambda raw, kind, shape, order: np.frombuffer(
        raw, kind.dtype
    ).reshape(shape, order=order),
    ("numpy", "dtype"): Dtype,
    ("numpy", "scalar"): _number,
    ("_codecs", "encode"): str.encode,
    ("collections", "OrderedDict"): dict,
    **dict.fromkeys((("builtins", "set"), ("__builtin__", "set")), set),
    **dict.fromkeys((("builtins", "object"), ("__builtin__", "object")), Inert),
    **dict.fromkeys((("copyreg", "_reconstructor"), ("copy_reg", "_reconstructor")), Inert),
}


class Unpickler(pickle.Unpickler):
    """Reads numpy's arrays, and objects of chumpy and scipy.sparse as Inert. Every other name is
    refused, so that no code of the file's choice runs."""

    def find_class(self, module, name):
        package = module.split(".")[0]
        if package == "chumpy" or module.startswith("scipy.sparse."):
            return Inert
        if (package, name) in ALLOWED:
            return ALLOWED[package, name]
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is not loaded")


def plain(value):
    """The array `value`, or that of an object of chumpy: the `x` of a Ch, a Select's part of it."""
    if isinstance(value, Inert) and "idxs" in value.state:
        part = plain(value.state["a"]).ravel()[plain(value.state["idxs"])]
        return part.reshape(value.state["preferred_shape"])
    value = value.state["x"] if isinstance(value, Inert) else value
    if not isinstance(value, np.ndarray):
        raise ValueError(f"a {type(value).__name__} where an array should be")
    return np.asarray(value)
