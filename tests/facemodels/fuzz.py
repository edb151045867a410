"""Broken files by the thousand: python tests/fuzz.py [--cases 12000] [--seed 0] [--only KIND] [--case NUMBER]

Every file that the package reads from others (weights, face models, pictures, parameters) is damaged in its bytes (cut, bits flipped, sizes made huge, blocks moved) or in its contents
(not a number, another shape or type, entries missing, pickles with code, deep nesting) and read. Allowed is: it LOADS something sound (finite, of the right shapes), or it is REFUSED with a ValueError or
OSError of one line that names the file. All else is a FAULT: another exception, a crash, a hang, code run (a canary appears), more than MEMORY_MB, more than SECONDS. Files are read in forked processes,
so that a crash is one fault. The same seed gives the same files; --case writes one of them out and shows what became of it. tests/test_hostile.py runs a few of each kind.
"""

import argparse
import faulthandler
import io
import json
import math
import multiprocessing
import os
import pickle
import re
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import scipy.io
import torch
import yaml
from PIL import Image
from safetensors.torch import save
from test_readers import (
    flame_arrays,
    write_basel_2009,
    write_basel_2017,
    write_basel_front,
    write_flame_pkl,
    write_ict,
    write_surrey,
)
from test_vggface import save_mat

from e2far import facemodels, morphable, network, vggface, weights
from e2far.facemodels import registration
from e2far.photo import confidence
from e2far.photo.pictures import load_image
from e2far.pipeline import params

SECONDS, HANGS, MEMORY_MB = (
    5.0,
    60.0,
    400.0,
)  # of the processor, of one case; after so many by the clock a process is ended; of a case, beyond what the process had
CANARY = "sprung"


class Canary:
    """Pickles as code that leaves a file behind."""

    def __reduce__(self):
        return exec, (f"open({CANARY!r}, 'w').close()",)


class Laid(BaseException):
    """A face model's reader has found all its arrays sound and begins to lay our head over them, which takes seconds."""


@dataclass
class Kind:
    """How files of one kind are made, damaged and read. The good file, or folder of files, is `files`: name within `name` ("" for a file) -> bytes."""

    name: str  # of the file, or folder, in the place where it is read
    files: list  # good ones to start from
    read: object  # path -> value
    sound: object  # value -> bool
    parts: object = None  # contents to damage, a nested dict, or None
    write: object = None  # parts -> files
    names: tuple = ()  # other words that name the file well enough


# Damage -------------------------------------------------------------------------------------------------------------------------------------------

WORDS = [
    word
    for value in (0, -1, 1, 2**31 - 1, -(2**31), 2**32 - 1, 2**40, 2**62, -(2**63))
    for word in (
        (value & (2**64 - 1)).to_bytes(8, "little"),
        (value & (2**32 - 1)).to_bytes(4, "little"),
        (value & (2**32 - 1)).to_bytes(4, "big"),
    )
]
WORDS += [
    np.array(value, kind).tobytes()
    for value in (np.nan, np.inf, -np.inf, 6e4)
    for kind in ("<f4", "<f8", ">f4", "<f2")
]


def damage_bytes(content, rng):
    """`content` damaged in one to three ways."""
    content = bytearray(content)
    for _ in range(rng.integers(1, 4)):
        size = len(content)
        at = int(
            rng.integers(size + 1) if rng.random() < 0.5 else rng.integers(min(size, 600) + 1)
        )  # headers are short
        length = int(rng.integers(1, 1 + min(64, max(1, size))))
        kind = rng.integers(9)
        if kind == 0:
            del content[at:]
        elif kind == 1:
            for place in rng.integers(max(1, size), size=rng.integers(1, 9)) if size else ():
                content[place] ^= 1 << int(rng.integers(8))
        elif kind == 2:
            content[at : at + length] = rng.bytes(length)
        elif kind == 3:
            content[at : at + length] = bytes([int(rng.choice([0, 255, 32, 57]))]) * length
        elif kind == 4:
            word = WORDS[rng.integers(len(WORDS))]
            content[at : at + len(word)] = word
        elif kind == 5:
            del content[at : at + length]
        elif kind == 6:
            content[at:at] = content[at : at + length] * int(rng.integers(1, 40))
        elif kind == 7:  # numbers in text, their length kept or not
            found = list(re.finditer(rb"-?\d[\d.]*", bytes(content[:20000])))
            if found:
                one = found[rng.integers(len(found))]
                value = [
                    b"9" * (one.end() - one.start()),
                    b"9" * 18,
                    b"-1",
                    b"0",
                    b"nan",
                    b"1e999",
                    b"1e-4",
                    b"9" * 5000,
                    b"[" * 3000,
                ][rng.integers(9)]
                content[one.start() : one.end()] = value
        elif size:  # two blocks change places
            other = int(rng.integers(size))
            content[at : at + length], content[other : other + length] = (
                content[other : other + length],
                content[at : at + length],
            )
    return bytes(content)


def deep(levels=3000):
    value = []
    for _ in range(levels):
        value = [value]
    return value


def damage_value(value, rng):
    """Another value in the place of an array, a number, a text, a list."""
    if isinstance(value, (np.ndarray, torch.Tensor)):
        tensor = isinstance(value, torch.Tensor)
        if tensor and rng.random() < 0.1:
            return [
                value.bfloat16,
                lambda: value.to(torch.float8_e4m3fn),
                value.bool,
                lambda: value.to(torch.complex64),
                lambda: value.new_ones(1).expand(5000, 5000),
            ][rng.integers(5)]()
        array = np.array(value)
        if rng.random() < 0.4 and array.size:  # one number, or all
            numbers = [np.nan, np.inf, -np.inf, 1e38, -1, 2**62, 0]
            whole = array.dtype.kind not in "fc"
            chosen = numbers[4 * whole + rng.integers(len(numbers) - 4 * whole)]
            array = array.astype(np.int64) if whole and array.dtype.kind in "biu" else array
            if array.dtype.kind in "biufc":
                if rng.random() < 0.5:
                    array.flat[rng.integers(array.size)] = chosen
                else:
                    array = np.full_like(array, chosen)
        else:
            ways = [
                lambda: array[:0],
                lambda: array[:-1],
                lambda: array.reshape(-1),
                lambda: array[None],
                lambda: array.T,
                lambda: array.ravel()[:1].reshape(()),
                lambda: np.repeat(array, 2, 0),
                lambda: array[..., :1],
                lambda: array[..., None],
                lambda: -array,
                lambda: array[::-1],
                *(
                    lambda kind=kind: array.astype(kind)
                    for kind in ("f2", "f8", "i1", "u2", "u8", "i8", "c8", "?")
                ),
            ]
            if not tensor:
                ways += [
                    lambda: array.astype("U"),
                    lambda: np.array([Canary(), None], object),
                    lambda: np.array("x" * 300),
                    lambda: array.astype(">f8"),
                    lambda: array.astype("S"),
                ]
            try:
                array = ways[rng.integers(len(ways))]()
            except (IndexError, ValueError, TypeError):  # not of this shape or type
                pass
        if not tensor:
            return array
        array = np.ascontiguousarray(array)
        return torch.from_numpy(array.astype(np.int64) if array.dtype.kind == "u" else array)
    menu = [
        None,
        -1,
        0,
        7,
        2**63,
        -(2**70),
        1.5,
        1e308,
        math.nan,
        math.inf,
        True,
        "",
        "x",
        "x" * 10000,
        "\n",
        [],
        [1],
        {},
        {"a": 1},
        deep(),
        [[1, 2], [3]],
        ["x"] * 300,
        [0.0] * 300,
    ]
    if isinstance(value, list) and value and rng.random() < 0.5:
        changed = list(value)
        changed[rng.integers(len(value))] = damage_value(0, rng)
        return changed
    return menu[rng.integers(len(menu))]


def damage_parts(parts, rng):
    """A nested dict with a leaf changed, left out, or added."""
    parts = dict(parts)
    key = list(parts)[rng.integers(len(parts))] if parts else "x"
    way = rng.random()
    if isinstance(parts.get(key), dict) and way < 0.9:
        parts[key] = damage_parts(parts[key], rng)
    elif way < 0.08:
        parts.pop(key, None)
    elif way < 0.14:
        parts[
            ["x", "blocks", "step", "name", "network", "__class__", "attribute.eye"][
                rng.integers(7)
            ]
        ] = damage_value(parts.get(key), rng)
    else:
        parts[key] = damage_value(parts.get(key), rng)
    return parts


def cases(tag, seed=0):
    """Function of a number that makes the files of that case of the kind called `tag`."""
    return lambda number: damaged(
        kinds()[tag], np.random.default_rng((seed, zlib.crc32(tag.encode()), number))
    )


def damaged(kind, rng):
    """Files of `kind`, damaged: name -> bytes."""
    # Choice: not the bytes of .mat files, over some of which scipy crashes.
    matlab = kind.name.endswith(".mat")
    while kind.parts is not None and (matlab or rng.random() < 0.5):
        parts = kind.parts
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                for _ in range(rng.integers(1, 3)):
                    parts = damage_parts(parts, rng)
                files = kind.write(parts)
                if sum(map(len, files.values())) < 2**22:
                    return files
            except Exception:  # what cannot be written is drawn again
                continue
    files = dict(kind.files[rng.integers(len(kind.files))])
    name = list(files)[rng.integers(len(files))]
    files[name] = damage_bytes(files[name], rng)
    return files


# Judgement ----------------------------------------------------------------------------------------------------------------------------------------


def lay(files, path):
    """Write `files` as the file or folder `path`."""
    for name, content in files.items():
        place = path / name if name else path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content)


def judge(kind, path):
    """("loaded" | "refused" | "fault", why) of the file or folder at `path`, read with its folder as the working directory."""
    began, names = (
        time.process_time(),
        (path.name, *kind.names, *(file.name for file in path.rglob("*.*"))),
    )
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        try:
            found = "loaded", "" if kind.sound(kind.read(path)) else "what it loads is not sound"
        except (ValueError, OSError) as error:
            text = str(error)
            found = (
                "refused",
                ""
                if "\n" not in text and any(name in text for name in names) and len(text) < 20000
                else f"it says {type(error).__name__}: {text[:300]!r}",
            )
        except BaseException as error:
            last = traceback.extract_tb(error.__traceback__)[-1]
            found = (
                "fault",
                f"{type(error).__name__}: {str(error)[:200]!r} at {Path(last.filename).name}:{last.lineno}",
            )
    if Path(CANARY).exists():
        Path(CANARY).unlink()
        return "fault", "it ran code"
    if time.process_time() - began > SECONDS:
        return "fault", f"it took {time.process_time() - began:.0f} s"
    if len(told) > 3:
        return "fault", f"{len(told)} warnings, as {told[0].message}"
    return ("fault", found[1]) if found[1] else found


def status_mb(key):
    return int(re.search(rf"{key}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def child(kind, make, numbers, folder, pipe):
    """Reads the files make(number) of `kind` in a process of its own and tells what became of each."""
    faulthandler.disable()  # pytest's: a crash is told by the parent
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(
        resource.RLIMIT_AS, (int((status_mb("VmSize") + 4 * MEMORY_MB) * 2**20),) * 2
    )  # a seat belt: MemoryError, not a machine without memory
    os.chdir(folder)
    sys.stderr = open(os.devnull, "w")
    for number in numbers:
        path = folder / kind.name
        lay(make(number), path)
        Path("/proc/self/clear_refs").write_text("5")  # the peak is of this case's reading
        before = status_mb("VmRSS")
        outcome, why = judge(kind, path)
        grown = status_mb("VmHWM") - before
        if grown > MEMORY_MB and outcome != "fault":
            outcome, why = "fault", f"it took {grown:.0f} MB"
        pipe.send((number, outcome, why, grown))
        if grown > MEMORY_MB:
            break  # go on in a fresh process
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    pipe.send(None)
    os._exit(0)


def run(kind, make, numbers):
    """What becomes of the files make(number) of `kind`, for all `numbers`: a Counter of outcomes, the most memory in MB, and each [(number, outcome, why)]."""
    left, found, peak = list(numbers), [], 0.0
    context = multiprocessing.get_context("fork")
    with tempfile.TemporaryDirectory() as folder:
        while left:
            mine, theirs = context.Pipe(False)
            process = context.Process(target=child, args=(kind, make, left, Path(folder), theirs))
            process.start()
            theirs.close()
            while True:
                try:
                    told = (
                        mine.recv()
                        if mine.poll(HANGS)
                        else (left[0], "fault", f"it did not end within {HANGS:.0f} s", 0)
                    )
                except EOFError:
                    process.join()
                    told = (
                        left[0],
                        "fault",
                        f"the process died with exit code {process.exitcode}",
                        0,
                    )
                if told is None:
                    break
                number, outcome, why, grown = told
                left.remove(number)
                found.append((number, outcome, why))
                peak = max(peak, grown)
                if outcome == "fault" and ("did not end" in why or "died" in why):
                    process.kill()
                    break
            process.join()
    return Counter(outcome for _, outcome, _ in found), peak, found


# Kinds --------------------------------------------------------------------------------------------------------------------------------------------


def finite(tree):
    """Whether all numbers in tensors, arrays, dicts and lists are finite."""
    if isinstance(tree, dict):
        return all(finite(value) for value in tree.values())
    if isinstance(tree, (list, tuple)):
        return all(finite(value) for value in tree)
    if isinstance(tree, torch.Tensor):
        return bool(tree.isfinite().all())
    return bool(np.isfinite(tree).all()) if isinstance(tree, (np.ndarray, float)) else True


def written(write, name="x"):
    """Files of what `write(path)` makes."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return (
            {
                str(file.relative_to(path)): file.read_bytes()
                for file in path.rglob("*")
                if file.is_file()
            }
            if path.is_dir()
            else {"": path.read_bytes()}
        )


def in_memory(write):
    file = io.BytesIO()
    write(file)
    return file.getvalue()


def stored_npz(parts):
    return {
        "": in_memory(
            lambda file: (np.savez if len(parts) % 2 else np.savez_compressed)(file, **parts)
        )
    }


def of_face_models():
    """Readers of published face models, up to where our head is laid over the mean: a small grid bent as a face stands in for the head."""
    toy = morphable.toy_model(dtype=torch.float32)
    names = [
        "jawOpen",
        "eyeBlinkLeft",
        "eyeBlinkRight",
        "mouthSmileLeft",
        "mouthSmileRight",
        "browInnerUp",
    ]
    face = dict(
        mean=toy.mean.numpy(),
        identity=toy.identity_basis.numpy()[:, :, :5],
        expression=toy.expression_basis.numpy()[:, :, :3],
        triangles=toy.triangles.numpy(),
        landmarks=toy.landmarks.numpy(),
        names=names,
        units=np.repeat(toy.units.numpy(), 2, 2),
    )

    def read(path):
        class Registration:
            def __init__(self, vertices, triangles, known=None):
                raise Laid(vertices, triangles, *(known or {}).values())

        kept, registration.Registration = registration.Registration, Registration
        try:
            facemodels.read(path)
        except Laid as laid:
            return laid.args
        finally:
            registration.Registration = kept

    def sound(laid):
        vertices, triangles, *known = laid
        return (
            finite(vertices)
            and vertices.ndim == 2
            and vertices.shape[1] == 3
            and triangles.dtype == np.int64
            and 0 <= triangles.min()
            and triangles.max() < len(vertices)
            and finite(known)
        )

    def mat(write):
        files = written(lambda path: write(path, face), "x.mat")
        parts = {
            key: value
            for key, value in scipy.io.loadmat(io.BytesIO(files[""])).items()
            if not key.startswith("__")
        }
        return dict(
            files=[
                files,
                {"": in_memory(lambda file: scipy.io.savemat(file, parts, do_compression=True))},
            ],
            parts=parts,
            write=lambda parts: {
                "": in_memory(
                    lambda file: scipy.io.savemat(file, parts, do_compression=len(parts) % 2 == 0)
                )
            },
        )

    def h5_parts(files):
        import h5py

        parts = {}
        with h5py.File(io.BytesIO(files[""])) as file:
            file.visititems(
                lambda name, node: (
                    parts.update({name: node[()]}) if isinstance(node, h5py.Dataset) else None
                )
            )
        return parts

    def h5_write(parts):
        import h5py

        file = io.BytesIO()
        with h5py.File(file, "w") as stored:
            for name, value in parts.items():
                stored[name] = value
        return {"": file.getvalue()}

    h5 = written(lambda path: write_basel_2017(path, face))
    pkl = [
        written(lambda path, protocol=protocol: write_flame_pkl(path, face, protocol))
        for protocol in (0, 2, 4, 5)
    ]

    def surrey(path):
        path.mkdir()
        write_surrey(path / "sfm_shape_1.bin", face, blendshapes=True)

    readers = dict(read=read, sound=sound)
    return {
        "face model, Basel 2009 .mat": Kind(
            "01_MorphableModel.mat", **mat(write_basel_2009), **readers
        ),
        "face model, Basel front .mat": Kind(
            "BFM_model_front.mat", **mat(write_basel_front), **readers
        ),
        "face model, Basel 2017 .h5": Kind(
            "model2017-1.h5", [h5], parts=h5_parts(h5), write=h5_write, **readers
        ),
        "face model, FLAME .npz": Kind(
            "flame2023.npz",
            [stored_npz(flame_arrays(face))],
            parts=flame_arrays(face),
            write=stored_npz,
            **readers,
        ),
        "face model, FLAME .pkl": Kind(
            "generic_model.pkl",
            pkl,
            parts=flame_arrays(face),
            write=lambda parts: {"": pickle.dumps(parts, 2 + len(parts) % 4)},
            **readers,
        ),
        "face model, Surrey .bin": Kind(
            "surrey",
            [written(surrey)],
            read=lambda path: read(path / "sfm_shape_1.bin"),
            sound=sound,
        ),
        "face model, ICT folder": Kind(
            "FaceXModel", [written(lambda path: write_ict(path, face))], **readers
        ),
    }


def pictures():
    rng = np.random.default_rng(0)
    colour = Image.fromarray(rng.integers(0, 256, (24, 20, 3), np.uint8))
    grey = colour.convert("L")
    turned = Image.Exif()
    turned[0x0112] = 6
    save_as = lambda image, form, **options: {
        "": in_memory(lambda file: image.save(file, form, **options))
    }
    return [
        save_as(colour, "PNG"),
        save_as(colour, "JPEG", exif=turned),
        save_as(colour, "JPEG", progressive=True),
        save_as(colour, "TIFF", compression="tiff_lzw"),
        save_as(colour, "TIFF"),
        save_as(colour, "GIF"),
        save_as(colour, "BMP"),
        save_as(colour, "WEBP"),
        save_as(colour.convert("CMYK"), "JPEG"),
        save_as(colour.convert("RGBA"), "PNG"),
        save_as(colour.quantize(8), "PNG", transparency=2),
        save_as(grey, "TIFF"),
        save_as(colour.convert("LAB"), "TIFF"),
        save_as(Image.fromarray(np.array(grey).astype(np.uint16)), "PNG"),
        save_as(Image.fromarray(np.array(grey).astype(np.float32)), "TIFF"),
        save_as(colour, "EPS"),
        save_as(colour, "PPM"),
        save_as(grey, "ICO"),
    ]


def safetensors_of(parts):
    return {"": save(parts["tensors"], metadata={"e2far": json.dumps(parts["header"])})}


PARAMS = """profile: small
seed: 7
profiles:
  small: &s
    speed: {n: 1, rate: 1.0e-3, sizes: [1, 2, 3], text: pool4, nothing: null}
    layers: &l {seeds: [0, 1], size: 48}
  large:
    <<: *s
    speed: {n: 9, rate: 1.0e-3}
    layers: {<<: *l, size: 80}
"""


def read_params(path):
    kept, params.ROOT = params.ROOT, path.parent
    try:
        return params.load("speed"), params.load("layers")
    finally:
        params.ROOT = kept


MADE = {}


def kinds():
    """All kinds, by name; made once."""
    if MADE:
        return MADE
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net, recognizer, toy = (
        network.E2FAR(6, 4, image_size=48, width=1 / 32, batch_norm=True),
        network.Recognizer(3, image_size=48, width=1 / 32),
        morphable.toy_model(dtype=torch.float32),
    )
    of_net = dict(
        tensors=dict(net.state_dict()),
        header=dict(config=net.config | dict(fused=list(net.fused)), metadata=dict(seed=3)),
    )
    of_trunk = dict(
        tensors=dict(recognizer.trunk.state_dict()),
        header=dict(config=dict(width=1 / 32, batch_norm=False)),
    )
    vgg = {
        f"conv{block + 1}_{place + 1}.{part}": getattr(
            recognizer.trunk.blocks[block][place][0], part
        ).detach()
        for block, place in vggface.PLAN
        for part in ("weight", "bias")
    }
    vgg |= {"fc6.weight": torch.ones(4, 4), "fc6.bias": torch.zeros(4)}
    pth = lambda parts, legacy=False: {
        "": in_memory(
            lambda file: torch.save(parts, file, _use_new_zipfile_serialization=not legacy)
        )
    }
    mats = [
        written(
            lambda path, layout=layout: save_mat(path, vgg, layout, np.array([129.0, 104.0, 93.0])),
            "x.mat",
        )
        for layout in ("release", "current", "old")
    ]
    npz = written(toy.save)
    with np.load(io.BytesIO(npz[""])) as file:
        arrays = {name: file[name] for name in file.files}
    disagreement = [0.1 * 1.5**k for k in range(12)]
    calibration = dict(
        version="0" * 16,
        disagreement_percent=disagreement,
        score=[1 - k / 12 for k in range(12)],
        landmark_error_percent=disagreement,
        vertex_error_mm=disagreement,
        unlike_above_percent=4.5,
    )
    sound_module = lambda module: finite(dict(module.state_dict()))

    def fill_trunk(path):
        module = network.Recognizer(3, image_size=48, width=1 / 32)
        weights.load_trunk(module, path)
        return module

    def sound_trunk(tensors):
        shapes = [
            tensors[f"blocks.{block}.{place}.0.weight"].shape for block, place in vggface.PLAN
        ]
        return finite(tensors) and all(
            shape[2:] == (3, 3) and value.dtype in (torch.float32, torch.int64)
            for shape, value in zip(shapes, tensors.values())
        )

    def sound_model(model):
        return (
            finite(dict(model.state_dict()))
            and finite(model.attributes)
            and model(torch.ones(1, model.n_identity), torch.ones(1, model.n_expression)).shape
            == (1, *model.mean.shape)
            and model.mean[model.triangles].shape[1:] == (3, 3)
            and all(isinstance(name, str) for name in (model.name, *model.unit_names))
        )

    def sound_calibration(found):
        return finite(
            [value for x in (0.0, 0.5, 3.0, 1e9) for value in found(x).to_dict().values()]
        )

    MADE.update(
        {
            "network .safetensors": Kind(
                "net.safetensors",
                [safetensors_of(of_net)],
                weights.load_network,
                sound_module,
                of_net,
                safetensors_of,
            ),
            "trunk .safetensors": Kind(
                "trunk.safetensors",
                [safetensors_of(of_trunk)],
                fill_trunk,
                sound_module,
                of_trunk,
                safetensors_of,
            ),
            "VGG .mat": Kind(
                "vgg_face.mat",
                mats,
                vggface.read,
                sound_trunk,
                vgg,
                lambda parts: written(
                    lambda path: save_mat(path, parts, "old", np.ones(3)), "x.mat"
                ),
            ),
            "VGG .pth": Kind(
                "vgg_face_dag.pth",
                [pth(vgg), pth(vgg, legacy=True)],
                vggface.read,
                sound_trunk,
                vgg | dict(more=[1]),
                lambda parts: pth(parts, len(parts) % 2 == 0),
            ),
            "VGG .safetensors": Kind(
                "vgg16.safetensors",
                [{"": save(vgg)}],
                vggface.read,
                sound_trunk,
                vgg,
                lambda parts: {"": save(parts)},
            ),
            "face model .npz": Kind(
                "model.npz",
                [
                    npz,
                    stored_npz(arrays),
                    stored_npz(arrays | {"attribute.eye": np.zeros(len(toy.mean))}),
                ],
                facemodels.load_face_model,
                sound_model,
                arrays,
                stored_npz,
            ),
            "landmarks .npy": Kind(
                "landmarks.npy",
                [{"": in_memory(lambda file: np.save(file, np.arange(68)))}],
                registration.read_landmarks,
                lambda found: found.shape == (68,),
                dict(x=np.arange(68)),
                lambda parts: {"": in_memory(lambda file: np.save(file, parts["x"]))},
            ),
            "landmarks .txt": Kind(
                "landmarks.txt",
                [{"": " ".join(map(str, range(68))).encode()}],
                registration.read_landmarks,
                lambda found: found.shape == (68,),
            ),
            "picture": Kind(
                "photo.jpg",
                pictures(),
                load_image,
                lambda found: (
                    found.dtype == np.uint8
                    and found.ndim == 3
                    and found.shape[2] == 3
                    and found.size > 0
                ),
            ),
            "params.yaml": Kind(
                "params.yaml",
                [{"": PARAMS.encode()}],
                read_params,
                lambda found: all(finite(vars(one)) for one in found),
                yaml.safe_load(PARAMS),
                lambda parts: {"": yaml.safe_dump(parts).encode()},
            ),
            "calibration .json": Kind(
                "net.confidence.json",
                [{"": json.dumps(calibration).encode()}],
                confidence.load,
                sound_calibration,
                calibration,
                lambda parts: {"": json.dumps(parts).encode()},
            ),
            **of_face_models(),
        }
    )
    return MADE


def main():
    parser = argparse.ArgumentParser(description="Broken files by the thousand.")
    parser.add_argument("--cases", type=int, default=12000, help="of all kinds together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one kind: " + ", ".join(kinds()))
    parser.add_argument("--case", type=int, help="write out this case of --only, and read it here")
    given = parser.parse_args()
    if given.case is not None:
        path = Path(tempfile.mkdtemp()) / kinds()[given.only].name
        lay(cases(given.only, given.seed)(given.case), path)
        os.chdir(path.parent)
        print(path, *judge(kinds()[given.only], path))
        return
    tags, total = [given.only] if given.only else list(kinds()), Counter()
    each = -(-given.cases // len(tags))
    print(
        "| kind | cases | loaded | refused | faults | most MB | s |\n|---|---:|---:|---:|---:|---:|---:|"
    )
    told = []
    for tag in tags:
        began = time.perf_counter()
        counts, peak, found = run(kinds()[tag], cases(tag, given.seed), range(each))
        print(
            f"| {tag} | {sum(counts.values())} | {counts['loaded']} | {counts['refused']} | {counts['fault']} | {peak:.0f} | {time.perf_counter() - began:.0f} |",
            flush=True,
        )
        total += counts
        told += [
            f"{tag}, case {number}: {why}" for number, outcome, why in found if outcome == "fault"
        ]
    print(
        f"| all | {sum(total.values())} | {total['loaded']} | {total['refused']} | {total['fault']} | | |"
    )
    print(*told, sep="\n")
    sys.exit(bool(told))


if __name__ == "__main__":
    main()
