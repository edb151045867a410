"""FLAME (2017 to 2023, .pkl or .npz), without running any code that a pickle asks for."""
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np

from e2far import facemodels
from e2far.facemodels.registration import as_modes, as_vertices, assemble, reading

WHAT = "a FLAME model, generic_model.pkl, flame2023.pkl or an .npz of it (v_template, shapedirs, f), requested from the Max Planck Institute for Intelligent Systems (flame.is.tue.mpg.de)"
METRE, N_IDENTITY = 1000., 300


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
        self.array = np.frombuffer(raw.encode("latin1") if isinstance(raw, str) else raw, kind.dtype).reshape(shape, order="F" if fortran else "C")


def from_buffer(raw, kind, shape, order):
    array = Array()
    array.array = np.frombuffer(raw, kind.dtype).reshape(shape, order=order)
    return array


def blank(kind, *args):
    """For copyreg._reconstructor and numpy's _reconstruct: an empty object of one of the classes above."""
    if not (isinstance(kind, type) and issubclass(kind, Inert)):
        raise pickle.UnpicklingError(f"it would build {kind}")
    return kind()


NUMPY = {"_reconstruct": blank, "scalar": lambda kind, raw=b"": Inert(), "_frombuffer": from_buffer, "ndarray": Array, "dtype": Dtype}
COMMON = {("copy_reg", "_reconstructor"): blank, ("copyreg", "_reconstructor"): blank, ("__builtin__", "object"): Inert, ("builtins", "object"): Inert,
          ("collections", "OrderedDict"): dict, ("_codecs", "encode"): lambda text, *_: text.encode("latin1")}


class Unpickler(pickle._Unpickler):
    """Reads arrays, scipy's sparse matrices and chumpy's objects as the inert stand-ins above; refuses every other global by its name. No code of the file's choice runs.

    The interpreter in Python, not the one in C, so that BUILD can be kept from setting attributes of anything else than these stand-ins.
    """

    stack: list; read: Callable[[int], bytes]

    def load_build(self):
        state = self.stack.pop()
        if not isinstance(self.stack[-1], Inert):
            raise pickle.UnpicklingError(f"the pickle would change a {type(self.stack[-1]).__name__}")
        self.stack[-1].__setstate__(state)

    def load_bytearray8(self):
        self.stack.append(bytearray(self.read(int.from_bytes(self.read(8), "little"))))       # Python's own makes room for as many bytes as the file claims

    dispatch = pickle._Unpickler.dispatch | {pickle.BUILD[0]: load_build, pickle.BYTEARRAY8[0]: load_bytearray8}  # ty: ignore[invalid-assignment]

    def find_class(self, module, name):
        package = module.split(".")[0]
        if package == "numpy" and name in NUMPY:
            return NUMPY[name]
        if package in ("chumpy", "scipy") and (package == "chumpy" or module.startswith("scipy.sparse")):
            return type(name, (Inert,), {})
        if (module, name) in COMMON:
            return COMMON[module, name]
        raise pickle.UnpicklingError(f"the pickle asks for {module}.{name}, which is neither an array nor a sparse matrix nor a chumpy object and is not loaded")


def plain(value):
    """The array behind a stand-in; chumpy keeps it as `x`."""
    for _ in range(9):                                      # one that is its own `x` has no end
        if not isinstance(value, Inert) or hasattr(value, "array"):
            break
        if "x" not in getattr(value, "state", {}):
            raise ValueError(f"a {type(value).__name__} object that holds no array")
        value = value.state["x"]
    if not isinstance(value, (Array, np.ndarray)):         # lists of one list again and again would be many numbers
        raise ValueError(f"a {type(value).__name__} where an array should be")
    return value.array if isinstance(value, Array) else value


def read(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel of a FLAME file: metres, head frame; modes are in standard deviations already, 300 of identity, then those of expression (PCA, no named units).

    Jaw, neck and eyes stay at rest: their rotations are not linear.
    """
    with reading(path, WHAT):
        if Path(path).suffix.lower() == ".npz":
            stored = facemodels.read_npz(path, ("v_template", "shapedirs", "f"))
        else:
            with open(path, "rb") as file:
                stored = Unpickler(file, encoding="latin1").load()
            if not isinstance(stored, dict):
                raise ValueError(f"it holds a {type(stored).__name__}, not a dict")
        mean = as_vertices(plain(stored["v_template"]), "v_template") * METRE
        modes = as_modes(plain(stored["shapedirs"]), len(mean), None, "shapedirs") * METRE
        expression = modes[:, :, N_IDENTITY:][:, :, :n_expression] if modes.shape[2] > N_IDENTITY else None
        return assemble("flame", mean, modes[:, :, :N_IDENTITY][:, :, :n_identity], plain(stored["f"]), expression, landmarks=landmarks, n_expression=n_expression)
