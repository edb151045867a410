"""Damaged and hostile files: what is read is sound, or refused in one line; no code of a file runs.

The quick tests damage each kind of file a few times. The slow ones do it by the hundred, in a
process with little memory, so that a crash, a hang or a bomb would be seen too.
"""

import io
import json
import multiprocessing
import pickle
import resource
import warnings
from importlib import import_module

import numpy as np
import pytest
import test_readers
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from test_vggface import dag

from e2far import data, files, morphable, network, vggface, weights
from e2far.photo import confidence
from e2far.photo.pictures import load_image

MEMORY_BYTES, SECONDS = 2**31, 120  # that a slow test may take beyond what it has, for one kind


def small_network():
    torch.manual_seed(0)
    return network.E2FAR(6, 4, image_size=48, width=1 / 32, batch_norm=True)


def small_face():
    """The mean, modes and units of a small grid bent as a face, as `test_readers` writes them."""
    toy = morphable.toy_model(dtype=torch.float32)
    names = ["jawOpen", "eyeBlinkLeft", "eyeBlinkRight", "mouthSmileLeft", "browInnerUp"]
    return dict(
        mean=toy.mean.numpy(),
        identity=toy.identity_basis.numpy()[:, :, :5],
        expression=toy.expression_basis.numpy()[:, :, :3],
        triangles=toy.triangles.numpy(),
        landmarks=toy.landmarks.numpy(),
        names=names,
        units=np.repeat(toy.units.numpy(), 2, 2)[:, :, :5],
    )


def write_shard(path):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(identity=(6,), expression=(4,), pose=(9,), landmarks=(68, 2))
    columns = {name: torch.rand(4, *s, generator=generator) for name, s in shapes.items()}
    image = torch.randint(0, 256, (4, 8, 8, 3), generator=generator, dtype=torch.uint8)
    data.write_shard(path, columns | dict(image=image, person=torch.arange(4)))
    data.write_index(path.parents[1], 4, 4)


def write_calibration(path):
    falling, rising = np.linspace(1, 0, 12).tolist(), np.linspace(0.1, 9, 12).tolist()
    curves = dict(score=falling, landmark_error_percent=rising, vertex_error_mm=rising)
    known = dict(version="0" * 16, disagreement_percent=rising, unlike_above_percent=4.5)
    path.write_text(json.dumps(known | curves))


def write_picture(path):
    colours = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(colours).save(path)


def read_published(kind):
    return lambda path: import_module(f"e2far.facemodels.{kind}").read(path)


# The name of a file -> how a good one is written there, and how it is read.
KINDS = {
    "network.safetensors": (
        lambda path: weights.save_network(small_network(), path),
        lambda path: weights.load_network(path).state_dict(),
    ),
    "vgg_face_dag.pth": (lambda path: torch.save(dag(), path), vggface.read),
    "vgg16.safetensors": (lambda path: save_file(dag(), path), vggface.read),
    "model.npz": (
        lambda path: morphable.toy_model(dtype=torch.float32).save(path),
        lambda path: morphable.MorphableModel.load(path).state_dict(),
    ),
    "000/shard-000000.safetensors": (
        write_shard,
        lambda path: data.Faces(path.parents[1]).gather([0, 3])["image"],
    ),
    "net.confidence.json": (write_calibration, confidence.load),
    **{f"photo{ending}": (write_picture, load_image) for ending in (".png", ".jpg", ".tif")},
    **{
        name: (
            lambda path, write=test_readers.WRITERS[name]: write(path, small_face()),
            read_published(kind),
        )
        for name, kind in {
            "01_MorphableModel.mat": "basel2009",
            "model2017-1.h5": "basel2017",
            "flame2023.npz": "flame",
            "generic_model.pkl": "flame",
            "sfm_shape_3448.bin": "surrey",
        }.items()
    },
}


def damaged(content, rng):
    """`content` cut, with bits flipped, bytes replaced, left out or repeated, or a huge number."""
    content, size = bytearray(content), len(content)
    at = int(rng.integers(min(size, 600) if rng.random() < 0.5 else size))  # headers are short
    length = int(rng.integers(1, 64))
    way = rng.integers(6)
    if way == 0:
        del content[at:]
    elif way == 1:
        for place in rng.integers(size, size=4):
            content[place] ^= 1 << int(rng.integers(8))
    elif way == 2:
        content[at : at + length] = rng.bytes(length)
    elif way == 3:
        del content[at : at + length]
    elif way == 4:
        content[at:at] = content[at : at + length] * int(rng.integers(1, 40))
    else:
        huge = [np.int64(2**62), np.int32(-1), np.float32(np.nan), np.float64(np.inf)]
        number = huge[rng.integers(4)].tobytes()
        content[at : at + len(number)] = number
    return bytes(content)


def finite(found):
    """Whether all numbers in `found`, a tree, are finite; `assembly.Published` is judged later."""
    if isinstance(found, dict):
        return all(map(finite, found.values()))
    if isinstance(found, (list, tuple)):
        return all(map(finite, found))
    if isinstance(found, (torch.Tensor, np.ndarray, float)):
        return bool(np.isfinite(np.asarray(found)).all())
    return True


def fault(read, path):
    """What is wrong with how `path` is read, or None: it is sound, or refused in one line."""
    try:
        with warnings.catch_warnings(), files.reading(path, "a good file"):
            warnings.simplefilter("ignore")
            found = read(path)
    except (ValueError, OSError) as error:
        text = str(error)
        return None if path.name in text and "\n" not in text else f"it says {text[:300]!r}"
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return None if finite(found) else "what it reads is not finite"


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    """Bytes of one good file of each kind."""
    folder, content = tmp_path_factory.mktemp("good"), {}
    for name, (write, _) in KINDS.items():
        path = folder / name
        path.parent.mkdir(exist_ok=True)
        write(path)
        content[name] = path.read_bytes()
    return content


def put(name, content, folder):
    """A file of the kind `name` with other content, and what belongs beside it."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    if name.startswith("000/"):
        write_shard(path)
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_sound_or_refused_in_one_line(name, good, tmp_path):
    read, rng = KINDS[name][1], np.random.default_rng(1)
    path = put(name, good[name], tmp_path)
    assert finite(read(path))
    for content in (b"", good[name][: len(good[name]) // 2], b"\0" * 300):
        path.write_bytes(content)
        with pytest.raises((ValueError, OSError)), files.reading(path, "a good file"):
            read(path)
    for number in range(12):
        path.write_bytes(damaged(good[name], rng))
        assert fault(read, path) is None, number


def read_many(name, content, folder, count, faults):
    """Read `count` damaged files of a kind in little memory; the first fault goes to `faults`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)
    for number in range(count):
        rng = np.random.default_rng([2, number])
        found = fault(KINDS[name][1], put(name, damaged(content, rng), folder))
        if found:
            faults.put(f"file {number}: {found}")
            return


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_hundreds_of_damaged_files_crash_nothing(name, good, tmp_path):
    context = multiprocessing.get_context("fork")
    faults = context.SimpleQueue()
    arguments = (name, good[name], tmp_path, 600, faults)
    process = context.Process(target=read_many, args=arguments)
    process.start()
    process.join(SECONDS)
    process.kill()
    assert process.exitcode == 0 and faults.empty(), faults.empty() or faults.get()


# Code ---------------------------------------------------------------------------------------------


class Canary:
    """Pickles as code that leaves a file behind."""

    def __reduce__(self):
        return exec, ("open('sprung', 'w').close()",)


def poisoned(name):
    """A file of the kind `name` that holds code, where such a file can hold any."""
    buffer = io.BytesIO()
    objects = np.array([Canary()], object)
    if name.endswith(".pkl"):
        pickle.dump(dict(v_template=Canary()), buffer)
    elif name.endswith(".pth"):
        torch.save({"conv1_1.weight": Canary()}, buffer)
    elif name == "model.npz":
        np.savez(buffer, mean=objects)
    elif name == "flame2023.npz":
        np.savez(buffer, v_template=objects, shapedirs=objects, f=objects)
    elif name == "01_MorphableModel.mat":
        savemat(buffer, dict(shapeMU=np.ones((9, 1)), shapePC=objects.astype("U")))
    return buffer.getvalue()


@pytest.mark.parametrize("name", [name for name in KINDS if poisoned(name)])
def test_no_code_of_a_file_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = put(name, poisoned(name), tmp_path)
    with pytest.raises(ValueError, match=name), files.reading(path, "a good file"):
        KINDS[name][1](path)
    assert not (tmp_path / "sprung").exists()
