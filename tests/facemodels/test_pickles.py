"""Pickles of others (FLAME's): arrays are read, code never runs."""

import functools
import os
import pickle

import numpy as np
import pytest
import scipy.io
from numpy.testing import runstring
from test_readers import flame_arrays, write_flame_pkl

from e2far import files
from e2far.facemodels import load_face_model


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {  # code that leaves a file behind, and where it is hidden
    "a function": lambda code, mark: Runs(os.system, f"touch {mark}"),
    "in a list in a dict": lambda code, mark: dict(v_template=[1, dict(x=Runs(exec, code))]),
    "in another call": lambda code, mark: Runs(getattr, Runs(__import__, "os"), "system"),
    "in an array": lambda code, mark: dict(v_template=np.array([Runs(eval, code)], dtype=object)),
    "numpy's": lambda code, mark: Runs(runstring, code, {}),
    "numpy's loader": lambda code, mark: Runs(np.load, mark),
    "scipy's": lambda code, mark: Runs(scipy.io.loadmat, mark),
    "partial": lambda code, mark: Runs(functools.partial, eval, code),
    "a new class": lambda code, mark: Runs(type, "Evil", (object,), {}),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_no_pickle_is_obeyed(tmp_path, kind):
    mark, path = tmp_path / "sprung", tmp_path / "generic_model.pkl"
    hostile = HOSTILE[kind](f"open({str(mark)!r}, 'w').write('x')", str(mark))
    for protocol in (0, 2, 4):
        path.write_bytes(pickle.dumps(hostile, protocol))
        with pytest.raises(ValueError, match=r"generic_model.pkl.*asks for"):
            load_face_model(path)
        assert not mark.exists()
    if kind in ("a function", "in an array"):  # the trap is real: Python's own loader springs it
        pickle.loads(path.read_bytes())
        assert mark.exists()


# An array whose type is eight-byte numbers by name and objects by its flags: their bytes would be
# taken for addresses.
FORGED = (
    b"(dS'v_template'\n"
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
    b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb"
    b"I0\nS'\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08'\ntbs."
)
TRICKS = {
    "forged array": FORGED,
    # a state set on a class or function would change it for every later file
    "class changed": b"cnumpy\nndarray\n(N}X\x03\x00\x00\x00abcK\x01stb.",
    "function changed": b"ccopy_reg\n_reconstructor\n(N}X\x0c\x00\x00\x00__defaults__K\x01stb.",
    "built from a class": b"ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\nNNtR.",
    "raw memory": b"cnumpy\ndtype\n(S'V8'\ntR.",
    "objects": b"cnumpy\ndtype\n(S'O'\ntR.",
    "dotted name": b"cbuiltins\nobject.__subclasses__\n.",
    "dotted name in numpy": b"\x80\x04\x8c\x05numpy\x8c\x12core.os.path.exists\x93.",
    "persistent name": b"Pabc\n.",
    "extension": b"\x82\x01.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_of_the_pickle_machine_is_obeyed(tmp_path, trick):
    def state():
        return {k: dict(vars(v)) for k, v in vars(files).items() if isinstance(v, type)}

    before = state()
    (tmp_path / "generic_model.pkl").write_bytes(TRICKS[trick])
    with pytest.raises(ValueError, match="FLAME"):
        load_face_model(tmp_path / "generic_model.pkl")
    assert state() == before


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_read(tmp_path, protocol):
    rng = np.random.default_rng(0)
    shapes = dict(mean=(9, 3), identity=(9, 3, 5), expression=(9, 3, 3), triangles=(4, 3))
    few = {key: rng.integers(0, 9, shape) for key, shape in shapes.items()}
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    change = dict(scale=np.float64(3), big=big, columns=np.asfortranarray(big))
    write_flame_pkl(tmp_path / "flame.pkl", few, protocol, **change)
    with open(tmp_path / "flame.pkl", "rb") as file:
        stored = files.Unpickler(file, encoding="latin1").load()
    for name, wanted in (flame_arrays(few) | dict(big=big, columns=big)).items():
        np.testing.assert_array_equal(files.plain(stored[name]), wanted)
    assert stored["bs_style"] == "lbs" and stored["scale"] == 3
