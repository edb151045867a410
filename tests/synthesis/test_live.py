import gc
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack
from multiprocessing import active_children

import numpy as np
import psutil
import pytest
import torch

from e2far import data
from e2far.synthesis import live


@pytest.fixture
def make(toy):
    """LiveFaces of a toy model, closed when the test ends."""
    with ExitStack() as stack:

        def make(model=toy, size=24, **settings):
            settings = dict(seed=3, block=4, window=3) | settings
            return stack.enter_context(live.LiveFaces(model, size, **settings))

        yield make


def same(one, other):
    return list(one) == list(other) and all(torch.equal(one[name], other[name]) for name in one)


def gone(pids, seconds=10):
    """Whether processes have ended, or do within some seconds."""
    processes = [psutil.Process(pid) for pid in pids if psutil.pid_exists(pid)]
    return not psutil.wait_procs(processes, timeout=seconds)[1]


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
    rows = [studio.photograph(3, "validation", *divmod(n, 2)) for n in range(22, 30)]
    for k in range(8):
        (row,) = [row for row in rows if np.array_equal(row["pose"], batch["pose"][k])]
        assert np.array_equal(row["image"], image[k].permute(1, 2, 0))
        assert all(np.array_equal(row[name], batch[name][k]) for name in data.LABELS)
    kinds = {name: batch[name].dtype for name in data.LABELS}
    assert kinds == dict.fromkeys(data.LABELS, torch.float32) | dict(person=torch.int64)


def test_a_batch_depends_on_step_and_settings_alone(make, monkeypatch):
    """Not on workers, batches before, where a training goes on, or how blocks are divided."""
    settings = dict(block=6, pictures=3)
    one = make(**settings)
    expected = {step: one.batch(step, 5) for step in (0, 1, 2, 7, 40, 41)}
    assert len({batch["image"].numpy().tobytes() for batch in expected.values()}) == 6
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
        in_memory = live.PART * len(faces.held)
        assert in_memory <= (window + 1) * block + (2 + live.AHEAD) * live.PART
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
    with pytest.raises(RuntimeError, match="after shutdown"):
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
    faces = live.LiveFaces(model, 96, seed=0, pictures=1, block=1, window=1, uses=1)
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
        with pytest.raises(RuntimeError, match="^a process that .* was killed.*lower n_jobs"):
            faces.batch(200, 4)


@pytest.mark.parametrize(
    "settings, message",
    [
        (dict(split="trian"), "choose one of people, train"),
        (dict(block=5), "block 5 is no multiple of pictures 2"),
        (dict(window=0), "all must be positive"),
        (dict(uses=0), "all must be positive"),
        (dict(first_person=-1), "all must be positive"),
        (dict(without=["hats"]), "no variation is called hats"),
        (dict(batch_size=0), "make it 1 to 8"),
        (dict(batch_size=9), "make it 1 to 8"),  # more than block * uses
        (dict(batch_size=13, uses=9), "make it 1 to 12"),  # more than the window
    ],
)
def test_settings_that_make_no_sense(make, settings, message):
    settings = dict(settings)
    size = settings.pop("batch_size", 4)
    with pytest.raises(ValueError, match=message):
        make(**settings).batch(0, size)
