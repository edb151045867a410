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
from dataclasses import asdict

import numpy as np
import pytest
import test_readers
import torch
from PIL import Image
from safetensors.torch import save_file
from scipy.io import savemat
from test_vggface import dag
from untrained import faint

from e2far import data, files, morphable, network, vggface, weights
from e2far.photo import confidence
from e2far.photo.likeness import N_PIXEL
from e2far.photo.pictures import load_image

MEMORY_BYTES, SECONDS = 2**31, 120  # that a slow test may take beyond what it has, for one kind


def write_network(path):
    torch.manual_seed(0)
    small = network.E2FAR(6, 4, image_size=48, width=1 / 32, batch_norm=True)
    weights.save_network(small, path)


def write_model(path):
    morphable.toy_model(dtype=torch.float32).save(path)


def write_published(path):
    """The mean, modes and triangles of a small grid bent as a face, as `test_readers` does it."""
    toy = morphable.toy_model(n_identity=5, n_expression=3, dtype=torch.float32)
    bases = dict(identity=toy.identity_basis, expression=toy.expression_basis)
    parts = dict(mean=toy.mean, triangles=toy.triangles, landmarks=toy.landmarks, **bases)
    face = {name: values.numpy() for name, values in parts.items()}
    test_readers.WRITERS[path.name](path, face)


def write_shard(path):
    generator = torch.Generator().manual_seed(0)
    shapes = dict(identity=(6,), expression=(4,), pose=(9,), landmarks=(68, 2))
    columns = {name: torch.rand(4, *s, generator=generator) for name, s in shapes.items()}
    image = torch.randint(0, 256, (4, 8, 8, 3), generator=generator, dtype=torch.uint8)
    data.write_shard(path, columns | dict(image=image, person=torch.arange(4)))
    data.write_index(path.parents[1], 4, 4)


def write_calibration(path):
    rising = np.linspace(0.1, 9, 12).tolist()
    curves = dict(landmark_error_percent=rising, vertex_error_mm=rising)
    known = dict(version="0" * 16, disagreement_percent=rising)
    known["likeness"] = known["placed"] = asdict(faint(N_PIXEL))
    path.write_text(json.dumps(known | curves))


def write_picture(path):
    colours = np.random.default_rng(0).integers(0, 256, (24, 20, 3), np.uint8)
    Image.fromarray(colours).save(path)


def read_published(path):
    return test_readers.READERS[path.name].read(path)


# The name of a file -> how a good one is written there, and how it is read.
KINDS = {
    "network.safetensors": (write_network, lambda path: weights.load_network(path).state_dict()),
    "vgg_face_dag.pth": (lambda path: torch.save(dag(), path), vggface.read),
    "vgg16.safetensors": (lambda path: save_file(dag(), path), vggface.read),
    "model.npz": (write_model, lambda path: morphable.MorphableModel.load(path).state_dict()),
    "000/shard-000000.safetensors": (
        write_shard,
        lambda path: data.Faces(path.parents[1]).gather([0, 3])["image"],
    ),
    "net.confidence.json": (write_calibration, confidence.load),
    **dict.fromkeys(("photo.png", "photo.jpg", "photo.tif"), (write_picture, load_image)),
    **{
        name: (write_published, read_published)
        for name in test_readers.WRITERS
        if name not in ("FaceXModel", "BFM_model_front.mat", "BFM.mat")
    },
}


def written(name, folder):
    """The path of a good file of the kind `name`."""
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    KINDS[name][0](path)
    return path


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
        found = list(found.values())
    if isinstance(found, (list, tuple)):
        return all(map(finite, found))
    known = isinstance(found, (torch.Tensor, np.ndarray, float))
    return not known or bool(np.isfinite(np.asarray(found)).all())


def fault(path, read):
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


@pytest.mark.parametrize("name", KINDS)
def test_a_damaged_file_is_sound_or_refused_in_one_line(name, tmp_path):
    path, read, rng = written(name, tmp_path), KINDS[name][1], np.random.default_rng(1)
    assert finite(read(path))
    good = path.read_bytes()
    for content in (b"", good[: len(good) // 2], b"\0" * 300):
        path.write_bytes(content)
        with pytest.raises((ValueError, OSError)), files.reading(path, "a good file"):
            read(path)
    for number in range(12):
        path.write_bytes(damaged(good, rng))
        assert fault(path, read) is None, number


def read_many(path, read, count, faults):
    """Read `count` damaged files of a kind in little memory; the first fault goes to `faults`."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    mapped = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + MEMORY_BYTES,) * 2)
    good = path.read_bytes()
    for number in range(count):
        path.write_bytes(damaged(good, np.random.default_rng([2, number])))
        if found := fault(path, read):
            faults.put(f"file {number}: {found}")
            return


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_hundreds_of_damaged_files_crash_nothing(name, tmp_path):
    context = multiprocessing.get_context("fork")
    faults = context.SimpleQueue()
    arguments = (written(name, tmp_path), KINDS[name][1], 600, faults)
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


OBJECTS = np.array([Canary()], object)
POISONED = {  # files that hold code, where such a file can hold any
    "generic_model.pkl": lambda file: pickle.dump(dict(v_template=Canary()), file),
    "vgg_face_dag.pth": lambda file: torch.save({"conv1_1.weight": Canary()}, file),
    "model.npz": lambda file: np.savez(file, mean=OBJECTS),
    "flame2023.npz": lambda file: np.savez(file, v_template=OBJECTS, shapedirs=OBJECTS, f=OBJECTS),
    "01_MorphableModel.mat": lambda file: savemat(
        file, dict(shapeMU=np.ones((9, 1)), shapePC=OBJECTS.astype("U"))
    ),
}


@pytest.mark.parametrize("name", POISONED)
def test_no_code_of_a_file_runs(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    buffer, path = io.BytesIO(), tmp_path / name
    POISONED[name](buffer)
    path.write_bytes(buffer.getvalue())
    with pytest.raises(ValueError, match=name), files.reading(path, "a good file"):
        KINDS[name][1](path)
    assert not (tmp_path / "sprung").exists()
