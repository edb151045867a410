import gc
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from multiprocessing import active_children

import numpy as np
import pytest
import torch

from e2far import data
from e2far.synthesis import live


@pytest.fixture
def make(toy):
    """LiveFaces of a toy model, closed when the test ends."""
    made = []

    def make(model=toy, size=24, **settings):
        settings = dict(seed=3, block=4, window=3) | settings
        made.append(live.LiveFaces(model, size, **settings))
        return made[-1]

    yield make
    for faces in made:
        faces.close()


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def gone(pids, seconds=10):
    """Whether processes have ended, or do within some seconds."""

    def alive(pid):
        try:
            return open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    end = time.monotonic() + seconds
    while any(map(alive, pids)) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(map(alive, pids))


def test_pictures_are_the_studios(make, face_model, studio):
    """A batch as large as the window has each of its pictures once; step 2 is where its second
    block is the third."""
    faces = make(face_model, 48, split="validation", window=2, first_person=7)
    batch = faces.batch(2, 8)
    image, person = batch["image"], batch["person"].tolist()
    assert list(batch) == ["image", *data.LABELS] and faces.image_size == 48
    assert image.shape == (8, 3, 48, 48) and image.dtype == torch.uint8
    assert image.is_contiguous(memory_format=torch.channels_last)
    assert sorted(person) == [11, 11, 12, 12, 13, 13, 14, 14]
    seen = set()
    for k, who in enumerate(person):
        rows = [studio.photograph(3, "validation", who, picture) for picture in range(2)]
        picture = [np.array_equal(row["pose"], batch["pose"][k]) for row in rows].index(True)
        seen.add((who, picture))
        assert np.array_equal(rows[picture]["image"], image[k].permute(1, 2, 0))
        for name in data.LABELS:
            assert np.array_equal(rows[picture][name], batch[name][k])
            assert batch[name].dtype == (torch.int64 if name == "person" else torch.float32)
            assert batch[name].shape[1:] == faces.shapes[name]
    assert len(seen) == 8


def test_a_batch_depends_on_step_and_settings_alone(make, monkeypatch):
    """Not on workers, batches before, where a training goes on, or how blocks are divided."""
    settings = dict(block=6, pictures=3)
    one = make(**settings)
    expected = {step: one.batch(step, 5) for step in (0, 1, 2, 7, 40, 41)}
    images = [batch["image"] for batch in expected.values()]
    assert not any(torch.equal(a, b) for k, a in enumerate(images) for b in images[:k])
    assert same(make(**settings).batch(40, 5), expected[40])
    assert not same(make(**settings | dict(seed=4)).batch(0, 5), expected[0])
    monkeypatch.setattr(live, "PART", 4)  # one person at a time, and one is left
    other = make(n_jobs=2, **settings)
    assert all(same(other.batch(step, 5), expected[step]) for step in [41, 0, 7, 40, 2, 1, 1])


@pytest.mark.parametrize("uses", [3, 1.5])
def test_a_picture_is_used_so_often_on_average_and_leaves_with_its_block(make, uses):
    block, window, size, steps = 4, 3, 5, 96
    faces, counts = make(block=block, pictures=1, uses=uses), Counter()
    for step in range(steps):
        persons = faces.batch(step, size)["person"].tolist()
        first = int(step * size / (block * uses))
        assert len(set(persons)) == size
        assert first * block <= min(persons) and max(persons) < (first + window) * block
        in_memory = sum(len(part["person"]) for part in faces.held.values())
        assert in_memory <= (window + 1) * block + 2 * live.PART
        counts.update(persons)
    # Those that had their full time.
    whole = [counts[person] for person in range((window - 1) * block, first * block)]
    assert np.mean(whole) == pytest.approx(uses, rel=0.1) and min(whole) < uses < max(whole)


def test_closed_or_forgotten_faces_leave_no_process(make, toy):
    before = set(active_children())
    with make(n_jobs=2) as faces:
        faces.batch(0, 4)
        workers = set(active_children()) - before
        assert len(workers) == 2
    assert not any(worker.is_alive() for worker in workers)
    faces.close()  # twice does no harm
    with pytest.raises(RuntimeError, match="are closed"):
        faces.batch(0, 4)
    forgotten = live.LiveFaces(toy, 24, seed=0, block=4)
    forgotten.batch(0, 4)
    workers = [process.pid for process in set(active_children()) - before]
    assert workers and not gone(workers, 0)
    del forgotten
    gc.collect()
    assert gone(workers)


@pytest.mark.slow
@pytest.mark.parametrize("end, code", [("exit", 0), ("killed", -signal.SIGKILL)])
def test_no_worker_outlives_its_training(end, code):
    """One that ends without closing, with work under way, and one that is killed."""
    script = """
import os, signal, sys, torch
from multiprocessing import active_children
from e2far import morphable
from e2far.synthesis import live
if __name__ == "__main__":
    model = morphable.toy_model(dtype=torch.float32)
    faces = live.LiveFaces(model, 400, seed=0, pictures=1, block=1, window=1, uses=1)
    faces.batch(0, 1)
    print(*[process.pid for process in active_children()], flush=True)
    if sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
"""
    run = [sys.executable, "-c", script, end]
    with subprocess.Popen(run, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as run:
        pids = [int(pid) for pid in run.stdout.readline().split()]
        assert len(pids) == 1 and run.wait(30) == code
        assert gone(pids)
        assert end == "killed" or run.stderr.read() == ""


@pytest.mark.slow
def test_a_worker_survives_an_interrupt_and_is_missed_when_killed(make):
    before = set(active_children())
    faces = make()
    faces.batch(0, 4)
    (worker,) = set(active_children()) - before
    os.kill(worker.pid, signal.SIGINT)  # as Ctrl-C sends to all processes of a terminal
    faces.batch(100, 4)
    os.kill(worker.pid, signal.SIGKILL)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="^a process that .* has ended.*; lower n_jobs"):
            faces.batch(200, 4)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(split="trian"), "choose one of people, train"),
        (dict(block=5), "block 5 is no multiple of pictures 2"),
        (dict(window=0), "window is 0"),
        (dict(uses=0), "make uses positive"),
        (dict(first_person=-1), "first_person 0 or more"),
        (dict(without=["hats"]), "no variation is called hats"),
    ],
)
def test_settings_that_make_no_sense(make, settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("uses, largest", [(2, 8), (9, 12)])
def test_batches_larger_than_a_stride_or_the_window(make, uses, largest):
    faces = make(uses=uses)
    for size in (0, largest + 1):
        with pytest.raises(ValueError, match=f"make it 1 to {largest}, or block larger"):
            faces.batch(0, size)
    assert len(faces.batch(0, largest)["person"]) == largest
