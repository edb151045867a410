"""Broken and hostile files: what is read is sound or refused in one line that names the file; no code of a file runs, and memory stays bounded. tests/fuzz.py does the same by the thousand."""

import ast
import functools
import json
import os
import pickle
import re
import struct
import zlib
from pathlib import Path

import fuzz
import nbformat
import numpy as np
import pytest
import torch
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from safetensors.torch import save
from skimage.data import astronaut
from typer.testing import CliRunner

from e2far import morphable, network, weights
from e2far.cli import app
from e2far.facemodels import surrey
from e2far.photo import pictures

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="forks, and measures memory as Linux does"
)
few = settings(max_examples=30, deadline=None, derandomize=True, database=None)


def become(tag, files):
    """What becomes of files of a kind, name -> files, read in a process of their own: name -> outcome, or the fault."""
    files = dict(files)
    outcomes = {}
    for name, outcome, why in fuzz.run(fuzz.kinds()[tag], files.__getitem__, files)[2]:
        outcomes[name] = why if outcome == "fault" else outcome
    return outcomes


# Damage of all kinds ------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tag", fuzz.kinds())
def test_a_damaged_file_gives_something_sound_or_one_line(tag):
    kind, make = fuzz.kinds()[tag], fuzz.cases(tag, seed=1)
    good = {f"good {number}": files for number, files in enumerate(kind.files)}
    outcomes = become(tag, good | {number: make(number) for number in range(20)})
    assert set(outcomes.values()) <= {"loaded", "refused"} and len(outcomes) == 20 + len(good)
    assert [outcomes[name] for name in good].count("loaded") >= (
        len(good) if tag != "picture" else 13
    )


@pytest.mark.parametrize(
    "read, why",
    [
        (lambda path: {}["x"], "KeyError"),
        (lambda path: pickle.loads(path.read_bytes()), "it ran code"),
        (lambda path: os.abort(), "died"),
        (lambda path: float("nan"), "not sound"),
        (lambda path: int("x"), "it says ValueError"),
        (lambda path: weights.load_network(f"{path}\n"), "it says FileNotFoundError"),
        (lambda path: np.ones(450 * 2**20, np.uint8).any(), "it took .* MB"),
        (lambda path: bytes(10**13), "MemoryError"),
    ],
)
def test_the_judge_sees_every_kind_of_fault(read, why, monkeypatch):
    monkeypatch.setitem(fuzz.kinds(), "faulty", fuzz.Kind("x.bin", [], read, fuzz.finite))
    assert re.search(why, become("faulty", {"x": {"": pickle.dumps(fuzz.Canary())}})["x"])


leaves = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["speed", "pool4", "small", 10**12, 1e-40, -1])
)
trees = st.recursive(
    leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=8,
)


@st.composite
def changed(draw, tree):
    """`tree` with another value somewhere."""
    if isinstance(tree, dict) and tree and draw(st.integers(0, 5)):
        key = draw(st.sampled_from(list(tree)))
        return tree | {key: draw(changed(tree[key]))}
    if isinstance(tree, list) and tree and draw(st.booleans()):
        at = draw(st.integers(0, len(tree) - 1))
        return tree[:at] + [draw(changed(tree[at]))] + tree[at + 1 :]
    return draw(trees)


STRUCTURED = {
    "params.yaml": (
        lambda: yaml.safe_load(fuzz.PARAMS),
        lambda tree: {"": yaml.safe_dump(tree).encode()},
    ),
    "calibration .json": (
        lambda: fuzz.kinds()["calibration .json"].parts,
        lambda tree: {"": json.dumps(tree).encode()},
    ),
    "network .safetensors": (
        lambda: fuzz.kinds()["network .safetensors"].parts["header"],
        lambda tree: {
            "": save(
                fuzz.kinds()["network .safetensors"].parts["tensors"],
                metadata={"e2far": json.dumps(tree)},
            )
        },
    ),
    "face model .npz": (
        lambda: dict(name="toy", unit_names=["jawOpen", "mouthSmileLeft", "mouthSmileRight"]),
        lambda tree: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts | dict(header=np.array(json.dumps(tree)))
        ),
    ),
}


@pytest.mark.parametrize("tag", STRUCTURED)
def test_any_other_contents_of_a_header_give_something_sound_or_one_line(
    tag, tmp_path, monkeypatch
):
    good, store = STRUCTURED[tag]
    kind, path = fuzz.kinds()[tag], tmp_path / fuzz.kinds()[tag].name
    monkeypatch.chdir(tmp_path)

    @few
    @given(changed(good()))
    def check(tree):
        try:
            files = store(tree)
        except TypeError:  # JSON has no such keys
            return
        fuzz.lay(files, path)
        outcome, why = fuzz.judge(kind, path)
        assert outcome != "fault", why

    check()


@pytest.mark.parametrize("tag", ["params.yaml", "calibration .json", "landmarks .txt"])
def test_any_text_gives_something_sound_or_one_line(tag, tmp_path, monkeypatch):
    kind, path = fuzz.kinds()[tag], tmp_path / fuzz.kinds()[tag].name
    monkeypatch.chdir(tmp_path)

    @few
    @given(
        st.binary(max_size=40)
        | st.text("{}[]:,&*!|>-\n a1'\"#%@`<?=.~", max_size=40).map(str.encode)
    )
    def check(text):
        path.write_bytes(text)
        outcome, why = fuzz.judge(kind, path)
        assert outcome != "fault", why

    check()


# Bombs: small files that ask for much memory, or much time --------------------------------------------------------------------------------------------

DEEP = b"[" * 20_000
MANY = 10**12


def npy_header(shape, kind="<f4"):
    text = repr(dict(descr=kind, fortran_order=False, shape=shape)).encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


@functools.cache
def zeros(megabytes):
    """`megabytes` of zeros as a zlib stream of a thousandth, of equal blocks."""
    packer = zlib.compressobj(9)
    block = packer.compress(bytes(2**20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return (
        block
        + block[2:] * (megabytes - 1)
        + b"\x03\x00"
        + struct.pack(">I", 1 | (megabytes * 2**20 % 65521) << 16)
    )


def many_merges():
    lines = ["a0: &a0 {k: 1}"] + [
        f"a{k}: &a{k}\n  <<: [{', '.join([f'*a{k - 1}'] * 20)}]" for k in range(1, 9)
    ]
    return "\n".join(lines).encode() + b"\n" + fuzz.PARAMS.encode()


def nested_pickle():
    """A list of lists of lists ..., each the same one ten times: 10^12 zeros in 200 bytes."""
    content = b"\x80\x02K\x00q\x000"
    for k in range(12):
        content += b"](" + (b"h" + bytes([k])) * 10 + b"eq" + bytes([k + 1]) + b"0"
    return content + b"}(X\x0a\x00\x00\x00v_templateh\x0cu."


def header_of(**config):
    kind = fuzz.kinds()["network .safetensors"]
    return fuzz.safetensors_of(
        kind.parts | dict(header=dict(config=kind.parts["header"]["config"] | config))
    )


def png(width, height, *chunks):
    piece = lambda kind, content: (
        struct.pack(">I", len(content))
        + kind
        + content
        + struct.pack(">I", zlib.crc32(kind + content))
    )
    return {
        "": b"\x89PNG\r\n\x1a\n"
        + piece(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
        + b"".join(piece(*chunk) for chunk in chunks)
        + piece(b"IDAT", zlib.compress(bytes(999)))
        + piece(b"IEND", b"")
    }


def surrey_bomb():
    """The good file with the count of its triangles, a uint64 before them, made huge."""
    files = dict(fuzz.kinds()["face model, Surrey .bin"].files[0])
    count = struct.pack("<Q", len(morphable.toy_model().triangles))
    assert files["sfm_shape_1.bin"].count(count) == 1
    files["sfm_shape_1.bin"] = files["sfm_shape_1.bin"].replace(
        count, struct.pack("<Q", 100_000_000)
    )
    return files


BOMBS = {
    "npz with a deep header": (
        "face model .npz",
        lambda: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts | dict(header=np.array(DEEP.decode()))
        ),
    ),
    "npy that claims terabytes": ("landmarks .npy", lambda: {"": npy_header((MANY,))}),
    "pickle that claims terabytes": (
        "face model, FLAME .pkl",
        lambda: {"": b"\x80\x05\x8e" + struct.pack("<Q", 2**42) + b"."},
    ),
    "pickle of lists of one list": ("face model, FLAME .pkl", lambda: {"": nested_pickle()}),
    "pickle nested deep": (
        "face model, FLAME .pkl",
        lambda: {"": b"\x80\x02" + b"]" * 200_000 + b"a" * 199_999 + b"."},
    ),
    "pickle of an array that is its own": (
        "face model, FLAME .pkl",
        lambda: {
            "": b"\x80\x02}X\x0a\x00\x00\x00v_templatecchumpy.ch\nCh\n)\x81q\x00}X\x01\x00\x00\x00xh\x00sbs."
        },
    ),
    "safetensors that claims terabytes": (
        "network .safetensors",
        lambda: {
            "": (
                h := json.dumps(
                    dict(x=dict(dtype="F32", shape=[MANY], data_offsets=[0, 4 * MANY]))
                ).encode(),
                struct.pack("<Q", len(h)) + h,
            )[1]
        },
    ),
    "safetensors with a header of terabytes": (
        "network .safetensors",
        lambda: {"": struct.pack("<Q", 2**42) + b"{}"},
    ),
    "network as wide as the sea": ("network .safetensors", lambda: header_of(width=3e3)),
    "network of people without number": (
        "network .safetensors",
        lambda: header_of(n_identity=MANY),
    ),
    "network of many layers": ("network .safetensors", lambda: header_of(fused=["pool4"] * 20000)),
    "network with a deep header": (
        "network .safetensors",
        lambda: {
            "": save(
                fuzz.kinds()["network .safetensors"].parts["tensors"],
                metadata={"e2far": DEEP.decode()},
            )
        },
    ),
    "Surrey with triangles without number": ("face model, Surrey .bin", surrey_bomb),
    "a picture of 900 megapixels": ("picture", lambda: png(30000, 30000)),
    "a picture with gigabytes of text": (
        "picture",
        lambda: png(9, 9, (b"zTXt", b"Comment\0\0" + zeros(450))),
    ),
    "a picture with gigabytes of colour profile": (
        "picture",
        lambda: png(9, 9, (b"iCCP", b"icc\0\0" + zeros(450))),
    ),
    "yaml of merges": ("params.yaml", lambda: {"": many_merges()}),
    "yaml nested deep": ("params.yaml", lambda: {"": DEEP}),
    "yaml that holds itself": (
        "params.yaml",
        lambda: {"": fuzz.PARAMS.replace("[1, 2, 3]", "&x [*x]").encode()},
    ),
    "json nested deep": ("calibration .json", lambda: {"": DEEP}),
    "ICT with a deep list": (
        "face model, ICT folder",
        lambda: fuzz.kinds()["face model, ICT folder"].files[0] | {"vertex_indices.json": DEEP},
    ),
}


@pytest.mark.parametrize("kind", sorted({tag for tag, _ in BOMBS.values()}))
def test_a_bomb_is_refused_within_bounds(kind):
    outcomes = become(kind, {name: files() for name, (tag, files) in BOMBS.items() if tag == kind})
    assert outcomes == dict.fromkeys(outcomes, "refused")


def test_a_pipe_in_place_of_a_picture_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "photo.jpg")
    with pytest.raises(ValueError, match=r"photo\.jpg"):
        pictures.load_image(tmp_path / "photo.jpg")


# Code ---------------------------------------------------------------------------------------------------------------------------------------------


def poisoned():
    """Files of all kinds that can hold code: (kind, files)."""
    trap = fuzz.Canary()
    pickled = {"": pickle.dumps(trap)}
    poisoned_pth = lambda legacy: {
        "": fuzz.in_memory(
            lambda file: torch.save(dict(x=trap), file, _use_new_zipfile_serialization=not legacy)
        )
    }
    arrays = fuzz.kinds()["face model .npz"].parts
    eps = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    return [
        ("face model .npz", fuzz.stored_npz(arrays | dict(mean=np.array([trap], object)))),
        ("face model .npz", pickled),
        ("face model, FLAME .npz", fuzz.stored_npz(dict(v_template=np.array([trap], object)))),
        ("face model, FLAME .pkl", pickled),
        ("face model, FLAME .pkl", {"": pickle.dumps(dict(v_template=trap), 4)}),
        (
            "landmarks .npy",
            {"": fuzz.in_memory(lambda file: np.save(file, np.array([trap], object)))},
        ),
        ("VGG .pth", poisoned_pth(False)),
        ("VGG .pth", poisoned_pth(True)),
        ("VGG .pth", pickled),
        ("params.yaml", {"": f"!!python/object/apply:os.system ['touch {fuzz.CANARY}']".encode()}),
        (
            "params.yaml",
            {
                "": fuzz.PARAMS.replace(
                    "pool4", f"!!python/object/apply:os.system ['touch {fuzz.CANARY}']"
                ).encode()
            },
        ),
        ("picture", {"": eps}),
        ("network .safetensors", pickled),
    ]


def test_no_code_of_a_file_runs(tmp_path, monkeypatch):
    (tmp_path / "gs").write_text(
        f"#!/bin/sh\ntouch {fuzz.CANARY}\n"
    )  # what Pillow would start for PostScript
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setattr("PIL.EpsImagePlugin.gs_binary", None)
    cases = poisoned()
    for kind in {tag for tag, _ in cases}:
        outcomes = become(
            kind, {number: files for number, (tag, files) in enumerate(cases) if tag == kind}
        )
        assert outcomes == dict.fromkeys(outcomes, "refused"), kind


DANGEROUS = {
    "eval",
    "exec",
    "compile",
    "__import__",
    "os.system",
    "os.popen",
    "pandas.read_pickle",
    "joblib.load",
    "shelve.open",
    "marshal.load",
    "marshal.loads",
    "runpy.run_path",
    *(
        f"{module}.{name}"
        for module in ("pickle", "_pickle", "dill", "cloudpickle")
        for name in ("load", "loads", "Unpickler", "_Unpickler")
    ),
    *(
        f"yaml.{name}"
        for name in (
            "load",
            "load_all",
            "full_load",
            "full_load_all",
            "unsafe_load",
            "unsafe_load_all",
            "Loader",
            "UnsafeLoader",
            "FullLoader",
        )
    ),
}
ALLOWED = {
    ("e2far/files.py", "pickle.Unpickler"),  # the inert one: it refuses all but a few names
    ("e2far/synthesis/live.py", "pickle.loads"),
}  # what a process has from the one that started it, in memory: no file


def dangers(source):
    """What in a Python source could run code of a file, or load it unsafely: full names."""
    tree, aliases, found = ast.parse(source), {}, []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            aliases |= {
                (name.asname or name.name.split(".")[0]): (
                    name.name if name.asname else name.name.split(".")[0]
                )
                for name in node.names
            }
        elif isinstance(node, ast.ImportFrom):
            aliases |= {
                (name.asname or name.name): f"{node.module}.{name.name}" for name in node.names
            }

    def full(node):
        if isinstance(node, ast.Attribute):
            return f"{full(node.value)}.{node.attr}"
        return aliases.get(node.id, node.id) if isinstance(node, ast.Name) else "?"

    option = lambda call, name: next(
        (keyword.value for keyword in call.keywords if keyword.arg == name), None
    )
    is_constant = lambda node, value: isinstance(node, ast.Constant) and node.value is value
    for node in ast.walk(tree):
        if isinstance(node, (ast.Attribute, ast.Name)) and full(node) in DANGEROUS:
            found.append(full(node))
        if isinstance(node, ast.Call):
            name = full(node.func)
            if name in ("torch.load", "torch.serialization.load") and not is_constant(
                option(node, "weights_only"), True
            ):
                found.append(name)
            if name == "numpy.load" and (
                len(node.args) > 2
                or option(node, "allow_pickle") is not None
                and not is_constant(option(node, "allow_pickle"), False)
                or any(k.arg is None for k in node.keywords)
            ):
                found.append(name)
            if name.startswith("subprocess.") and option(node, "shell") is not None:
                found.append(name)
    return found


@pytest.mark.parametrize(
    "source",
    [
        "eval('1')",
        "exec('x')",
        "import torch\ntorch.load(p)",
        "import torch as t\nt.load(p, weights_only=False)",
        "import torch\ntorch.load(p, weights_only=w)",
        "from torch import load\nload(p)",
        "import numpy as np\nnp.load(p, allow_pickle=True)",
        "import numpy as np\nnp.load(p, None, True)",
        "import numpy as np\nnp.load(p, **o)",
        "import pickle\npickle.load(f)",
        "from pickle import loads as l\nl(b)",
        "import pickle\nclass A(pickle.Unpickler): pass",
        "import yaml\nyaml.load(f, Loader=yaml.SafeLoader)",
        "from yaml import unsafe_load as y\ny(f)",
        "import os\nos.system('x')",
        "import subprocess\nsubprocess.run('x', shell=True)",
        "import pandas as pd\npd.read_pickle(p)",
        "import joblib\njoblib.load(p)",
    ],
)
def test_dangerous_sources_are_seen(source):
    assert dangers(source)


def test_harmless_sources_are_not():
    assert not dangers(
        "import torch, re, pickle, yaml\nimport numpy as np\nnet.eval()\ntorch.load(p, weights_only=True)\nnp.load(p)\nnp.load(p, allow_pickle=False)\nre.compile('x')\npickle.dumps(1)\nyaml.safe_load(t)"
    )


def test_no_source_can_run_code_of_a_file():
    sources = {
        path.relative_to(ROOT).as_posix(): path.read_text()
        for path in (ROOT / "e2far").rglob("*.py")
    }
    sources |= {
        path.name: "\n".join(
            cell.source for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"
        )
        for path in (ROOT / "notebooks").glob("*.ipynb")
    }
    found = {(name, danger) for name, source in sources.items() for danger in dangers(source)}
    assert found == ALLOWED and len(sources) > 40


# Each fault that was found --------------------------------------------------------------------------------------------------------------------------


def test_the_command_line_tells_each_broken_photo_in_one_line(tmp_path):
    torch.manual_seed(0)
    morphable.toy_model(dtype=torch.float32).save(tmp_path / "toy.npz")
    weights.save_network(
        network.E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32),
        tmp_path / "tiny.safetensors",
    )
    Image.fromarray(astronaut()).save(tmp_path / "good.png")
    make, broken = fuzz.cases("picture", seed=3), []
    for number in range(40):
        fuzz.lay(make(number), tmp_path / "photo.jpg")
        if fuzz.judge(fuzz.kinds()["picture"], tmp_path / "photo.jpg")[0] == "refused":
            broken.append((tmp_path / "photo.jpg").rename(tmp_path / f"broken{number}.jpg"))
    result = CliRunner().invoke(
        app,
        [
            "reconstruct",
            *map(str, broken),
            str(tmp_path / "good.png"),
            "--out",
            str(tmp_path / "out"),
            "--box",
            "150,70,280,200",
            "--only",
            "json",
            "--weights",
            str(tmp_path / "tiny.safetensors"),
            "--face-model",
            str(tmp_path / "toy.npz"),
        ],
    )
    assert (
        len(broken) > 9
        and result.exit_code == 1
        and isinstance(result.exception, SystemExit)
        and "Traceback" not in result.output
    )
    assert (
        all(
            sum(
                line.startswith("e2far: ") and path.name in line
                for line in result.stderr.splitlines()
            )
            == 1
            for path in broken
        )
        and (tmp_path / "out" / "good.json").exists()
    )


def test_a_surrey_model_is_read_as_eos_reads_it(tmp_path):
    part, rng = pytest.importorskip("eos").morphablemodel, np.random.default_rng(0)
    pca = lambda modes: part.PcaModel(
        rng.normal(size=(60, 1)).astype("f4"),
        np.asfortranarray(rng.normal(size=(60, modes)).astype("f4")),
        rng.random((modes, 1)).astype("f4"),
        rng.integers(0, 20, (7, 3)).tolist(),
    )
    shape, colour, expression, smile = pca(4), pca(2), pca(3), part.Blendshape()
    smile.name, smile.deformation = "ß", rng.normal(size=60).astype("f4")
    for kind in (expression, [smile]):
        part.save_model(part.MorphableModel(shape, kind, colour), str(tmp_path / "x.bin"))
        archive = surrey.Archive(tmp_path / "x.bin")
        assert archive.number("<u4") == 4
        for model in (shape, colour):
            mean, modes, variances, triangles = archive.model()
            assert np.array_equal(mean.ravel(), model.get_mean()) and np.array_equal(
                triangles, model.get_triangle_list()
            )
            np.testing.assert_allclose(
                modes * np.sqrt(variances.ravel()), model.get_rescaled_pca_basis(), rtol=1e-6
            )
        assert archive.number("u1") == 0 and archive.number("<i4") == (
            0 if kind is expression else 1
        )
    [(name, offsets)] = archive.blendshapes()
    assert name == "ß" and np.array_equal(offsets.ravel(), smile.deformation)


TENSORS = lambda: fuzz.kinds()["network .safetensors"].parts["tensors"]
HEADER = lambda: fuzz.kinds()["network .safetensors"].parts["header"]
FOUND = {  # each got past, or through, what read it before
    "negative variance": (
        "network .safetensors",
        lambda: fuzz.safetensors_of(
            dict(
                header=HEADER(),
                tensors=TENSORS() | {"trunk.blocks.0.0.1.running_var": torch.tensor([-1.0, 1.0])},
            )
        ),
    ),
    "complex weights": (
        "network .safetensors",
        lambda: fuzz.safetensors_of(
            dict(
                header=HEADER(),
                tensors=TENSORS() | {"pose_head.1.bias": torch.ones(8, dtype=torch.complex64)},
            )
        ),
    ),
    "a header that is a list": (
        "network .safetensors",
        lambda: fuzz.safetensors_of(dict(header=[1], tensors=TENSORS())),
    ),
    "a size that is no number": ("network .safetensors", lambda: header_of(width="wide")),
    "a network that predicts nothing": (
        "network .safetensors",
        lambda: header_of(n_identity=0, n_expression=0, width=1e-9),
    ),
    "a size below zero": ("network .safetensors", lambda: header_of(n_identity=-3)),
    "weights that overflow by 255": (
        "VGG .safetensors",
        lambda: {
            "": save(
                fuzz.kinds()["VGG .safetensors"].parts
                | {"conv1_1.weight": torch.full((2, 3, 3, 3), 3e38)}
            )
        },
    ),
    "text for numbers": (
        "face model .npz",
        lambda: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts | dict(mean=np.full((224, 3), "x"))
        ),
    ),
    "fractions for vertices": (
        "face model .npz",
        lambda: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts | dict(triangles=np.full((9, 3), 1.5))
        ),
    ),
    "whole numbers for the mean": (
        "face model .npz",
        lambda: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts | dict(mean=np.ones((224, 3), int))
        ),
    ),
    "an attribute that is not a number": (
        "face model .npz",
        lambda: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts | {"attribute.eye": np.full(224, np.nan)}
        ),
    ),
    "names that are no text": (
        "face model .npz",
        lambda: fuzz.stored_npz(
            fuzz.kinds()["face model .npz"].parts
            | dict(header=np.array('{"name": 3, "unit_names": [1, 2, 3]}'))
        ),
    ),
    "an array's header cut short": (
        "landmarks .npy",
        lambda: {"": npy_header((68,)).replace(b"}", b"(")},
    ),
    "a picture cut short": ("picture", lambda: {"": fuzz.pictures()[1][""][:700]}),
    "yaml that is none": ("params.yaml", lambda: {"": b"a: b: c"}),
    "yaml of one number": ("params.yaml", lambda: {"": b"3"}),
    "yaml with infinity": (
        "params.yaml",
        lambda: {"": fuzz.PARAMS.replace("1.0e-3", ".inf").encode()},
    ),
    "a seed that is a text": (
        "params.yaml",
        lambda: {"": fuzz.PARAMS.replace("seed: 7", "seed: x").encode()},
    ),
    "curves that are text": ("calibration .json", lambda: calibration(score=["1"] * 12)),
    "curves that are not numbers": (
        "calibration .json",
        lambda: calibration(score=[float("nan")] * 12),
    ),
    "curves out of sight": (
        "calibration .json",
        lambda: calibration(vertex_error_mm=[1e308, *[1.0] * 11]),
    ),
    "curves of other lengths": ("calibration .json", lambda: calibration(score=[1.0, 0.5])),
    "curves that fall": (
        "calibration .json",
        lambda: calibration(disagreement_percent=[12.0 - k for k in range(12)]),
    ),
}


def calibration(**entries):
    return {"": json.dumps(fuzz.kinds()["calibration .json"].parts | entries).encode()}


@pytest.mark.parametrize("kind", sorted({tag for tag, _ in FOUND.values()}))
def test_what_was_found_once_is_refused(kind):
    outcomes = become(kind, {name: files() for name, (tag, files) in FOUND.items() if tag == kind})
    assert outcomes == dict.fromkeys(outcomes, "refused")
