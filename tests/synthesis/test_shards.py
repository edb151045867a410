import hashlib
import importlib
import inspect
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import ExitStack, closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from interrupt import contents
from joblib.externals.loky.process_executor import TerminatedWorkerError

from e2far import data, facemodels, morphable
from e2far.synthesis import shards, studio

SIZE = 24
LABELS = dict(identity=(6,), expression=(4,), pose=(9,), landmarks=(68, 2))


class FakeStudio:
    """Random pictures at no cost, a function of seed, split, person and number as the Studio's."""

    def __init__(self, model, size, tint=0):
        self.size, self.tint = size, tint

    def photograph(self, seed, split, person, picture):
        rng = np.random.default_rng([seed, studio.SPLITS.index(split), person, picture, self.tint])
        image = rng.integers(0, 256, (self.size, self.size, 3), np.uint8)
        labels = {name: rng.random(shape, np.float32) for name, shape in LABELS.items()}
        return dict(image=image, person=person) | labels


@pytest.fixture
def fake(monkeypatch):
    monkeypatch.setattr(shards, "Studio", FakeStudio)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    path = tmp_path_factory.mktemp("model") / "toy.npz"
    morphable.toy_model().save(path)
    return path


@pytest.fixture
def write(model):
    def write(folder, split="train", people=8, pictures=3, model=model, **settings):
        settings = dict(size=SIZE, seed=0, shard_size=5, n_jobs=1) | settings
        return shards.write_split(model, folder, split, people, pictures, **settings)

    return write


def digest(folder):
    """One number for all that a split holds, whatever its shards."""
    faces = data.Faces(folder / "train")
    columns = faces.gather(range(len(faces))).values()
    return hashlib.sha256(b"".join(column.numpy().tobytes() for column in columns)).hexdigest()


def numbers(paths):
    return [int(path.name[6:12]) for path in paths]


def after_the_first(action):
    """A `progress` that does something once a shard is made."""

    def progress(jobs, total):
        for number, job in enumerate(jobs):
            if number == 0:
                action()
            yield job

    return progress


def test_shard_size_changes_no_picture_and_the_split_reads_as_written(tmp_path, write, fake, model):
    for folder, size in (("a", 5), ("b", 100), ("c", 1)):
        write(tmp_path / folder, shard_size=size)
    assert digest(tmp_path / "a") == digest(tmp_path / "b") == digest(tmp_path / "c")
    faces = data.Faces(tmp_path / "a/train")
    assert faces.person.tolist() == [n // 3 for n in range(24)] and faces.image_size == SIZE
    found = faces.gather([14])
    alone = FakeStudio(None, SIZE).photograph(0, "train", 4, 2)
    assert np.array_equal(found["image"][0].permute(1, 2, 0), alone["image"])
    assert all(np.array_equal(found[name][0], alone[name]) for name in data.LABELS)
    kept = facemodels.load_face_model(tmp_path / "a/train" / shards.MODEL)
    assert shards.model_version(kept) == shards.model_version(facemodels.load_face_model(model))


@pytest.mark.parametrize("survive", [2, 0])
def test_others_make_what_a_killed_process_leaves_unless_all_are_killed(
    tmp_path, write, fake, monkeypatch, survive
):
    asked = []

    def run(jobs):
        """Makes `survive` shards and then raises what joblib does when a process is killed."""
        jobs = list(jobs)
        asked.append(numbers(path for _, (path, _), _ in jobs))
        for function, arguments, _ in jobs[:survive]:
            yield function(*arguments)
        if len(jobs) > survive:
            raise TerminatedWorkerError("killed")

    monkeypatch.setattr(shards.joblib, "Parallel", lambda *_, **__: run)
    if survive:
        assert numbers(write(tmp_path)) == [0, 1, 2, 3, 4]
        assert asked == [[0, 1, 2, 3, 4], [2, 3, 4], [4]]
        assert len(data.Faces(tmp_path / "train")) == 24
    else:
        with pytest.raises(RuntimeError, match="shard-000000.*lower shard_size or n_jobs"):
            write(tmp_path)
        assert 1 < len(asked) < 10 and not list(tmp_path.rglob("shard*"))


@pytest.fixture
def cluster():
    """A function that starts a Dask cluster, closed when the test ends, and returns its address."""
    distributed = pytest.importorskip("dask.distributed")
    quiet = dict(dashboard_address=None, silence_logs="CRITICAL", threads_per_worker=1)
    with ExitStack() as stack:
        start = lambda **settings: distributed.LocalCluster(**quiet, **settings)
        yield lambda **settings: stack.enter_context(start(**settings)).scheduler_address


@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_bytes_whatever_happens_to_its_workers(
    tmp_path, write, cluster
):
    from dask.distributed import Client

    write(tmp_path / "alone", people=20)
    address = cluster(n_workers=2, processes=True)
    with Client(address) as client:
        worker = next(iter(client.run(os.getpid).values()))
    kill = after_the_first(lambda: os.kill(worker, signal.SIGKILL))
    made = write(tmp_path / "cluster", people=20, scheduler=address, progress=kill)
    assert sorted(numbers(made)) == list(range(12))
    assert contents(tmp_path / "cluster") == contents(tmp_path / "alone")
    assert write(tmp_path / "cluster", people=20, scheduler=address) == []
    with pytest.raises(RuntimeError, match=r"bad/train/000/shard-00000\d.*unexpected keyword"):
        write(tmp_path / "bad", scheduler=address, not_a_setting=1)  # the error of the task itself


def test_on_a_cluster_few_tasks_wait_and_one_that_kills_its_workers_is_named(cluster, monkeypatch):
    address, told = cluster(n_workers=1, processes=False), []

    def job(number):
        told.append(number)
        return Path(str(number)), {}

    monkeypatch.setattr(shards, "make_shard", lambda path, job: path)
    with closing(shards.on_cluster(job, range(100_000), address)) as made:
        assert len({next(made) for _ in range(60)}) == 60
    assert len(told) == len(set(told)) < 60 + 32

    from dask.distributed import KilledWorker

    def kill(path, job):
        raise KilledWorker(str(path), SimpleNamespace(address="tcp://dead"), 3)

    monkeypatch.setattr(shards, "make_shard", kill)
    with pytest.raises(RuntimeError, match="^7 could .*killed.*finished shards are kept"):
        next(shards.on_cluster(job, [7], address))


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("dask.distributed")
    ask = lambda: next(shards.on_cluster(None, [0], "tcp://127.0.0.1:1", timeout_s=0.3))
    with pytest.raises(OSError, match="at tcp://127.0.0.1:1: start one .* scheduler: null"):
        ask()
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ImportError, match=r"pip install '.\[cluster\]'"):
        ask()


def test_a_full_disk_stops_the_run_and_keeps_what_is_finished(tmp_path, write, fake, monkeypatch):
    write(tmp_path / "whole")
    write(tmp_path, seed=1)  # and another run's data set is not taken for the unfinished one
    true_fsync, calls = os.fsync, []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        true_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    message = "shard-000002.safetensors could .*No space left.*finished shards are kept"
    with pytest.raises(RuntimeError, match=message):
        write(tmp_path)
    assert not list(tmp_path.rglob("*.partial"))
    assert all(data.read_header(path) for path in tmp_path.rglob("train/*/*"))
    with pytest.raises(FileNotFoundError, match="of a finished split"):
        data.Faces(tmp_path / "train")
    assert numbers(write(tmp_path)) == [2, 3, 4]
    assert digest(tmp_path) == digest(tmp_path / "whole")


def test_a_rerun_makes_only_what_is_missing(tmp_path, write, fake):
    paths = write(tmp_path)
    before, times = contents(tmp_path), [path.stat().st_mtime_ns for path in paths]
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    paths[2].unlink()
    assert write(tmp_path) == paths[1:3]
    assert contents(tmp_path) == before
    untouched = [path.stat().st_mtime_ns == then for path, then in zip(paths, times)]
    assert untouched == [True, False, False, True, True]
    assert write(tmp_path) == []


def test_a_run_clears_what_others_left_and_what_its_killed_workers_leave(tmp_path, write, fake):
    write(tmp_path / "clean")
    folder = tmp_path / "train/000"
    partial = folder / "shard-000002.safetensors.0a1b.partial"
    left = ["shard-000009.safetensors", "shard-00003.safetensors", "../shard-00000.safetensors"]
    left = [partial, *(folder / name for name in [*left, "../001/shard-000004.safetensors"])]
    for path in left:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"left by another run")
    write(tmp_path, progress=after_the_first(lambda: partial.write_bytes(b"half")))
    assert contents(tmp_path / "train") == contents(tmp_path / "clean/train")


@pytest.mark.parametrize(
    "change",
    [dict(seed=1), dict(size=20), dict(tint=1), dict(pictures=2, people=12), dict(shard_size=6)]
    + [dict(people=2), dict(code="other"), dict(model="other.npz")],
)
def test_other_settings_code_or_face_model_write_anew(tmp_path, write, fake, monkeypatch, change):
    write(tmp_path)
    if "code" in change:
        monkeypatch.setattr(shards, "code_version", lambda: "other")
        change = {}
    if "model" in change:
        change = dict(model=tmp_path / "other.npz")
        morphable.toy_model(seed=1).save(change["model"])
    write(tmp_path, **change)
    write(tmp_path / "fresh", **change)
    assert contents(tmp_path / "train") == contents(tmp_path / "fresh" / "train")


def test_the_code_version_covers_all_that_draws(monkeypatch):
    """The face model, synthesis, and every module of ours that these import, and so on."""
    drawing, found = set(), {"e2far.synthesis.studio", "e2far.morphable"}
    while found - drawing:
        name = min(found - drawing)
        drawing.add(name)
        for value in vars(importlib.import_module(name)).values():
            module = value if inspect.ismodule(value) else inspect.getmodule(value)
            found |= {module.__name__} if module and module.__name__.startswith("e2far.") else set()
    drawing -= {"e2far.data", "e2far.files"}  # they write down what others have drawn
    assert {"e2far.synthesis.people", "e2far.facemodels.arkit", "e2far.raster"} < drawing
    version, read = shards.code_version(), Path.read_bytes
    for name in drawing:
        source = Path(importlib.import_module(name).__file__)
        monkeypatch.setattr(Path, "read_bytes", lambda path: read(path) + b"#" * (path == source))
        assert shards.code_version() != version, name


def test_a_worker_refuses_another_folder_version_or_model(tmp_path, write, fake):
    path = write(tmp_path)[0]
    version = shards.model_version(facemodels.load_face_model(path.parent.parent / shards.MODEL))
    job = dict(model=version, code=shards.code_version(), size=SIZE, studio={})
    job |= dict(seed=0, split="train", pictures=3, first=0, count=2)
    for where, change, message in (
        (path, dict(code="0"), "same on all machines"),
        (path, dict(model="0"), "one run at a time"),
        (tmp_path / "elsewhere/000" / path.name, {}, "folder that all workers share"),
    ):
        with pytest.raises(RuntimeError, match=f"shard-000000.*{message}"):
            shards.make_shard(where, job | change)


def test_an_unknown_split_is_refused(tmp_path, write):
    with pytest.raises(ValueError, match="choose one of people, train"):
        write(tmp_path, split="trian")


def test_no_folder_holds_more_than_a_thousand_shards():
    paths = [data.shard_path("train", number) for number in range(20_000)]
    assert max(Counter(path.parent for path in paths).values()) <= 1000
    assert paths == sorted(set(paths))


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_shards(tmp_path, model):
    """A process that keeps shards of 5 MB would grow by 60 MB."""
    script = """
import resource, sys
from e2far.synthesis import shards
from test_shards import FakeStudio
shards.Studio = FakeStudio
model, folder = sys.argv[1:]
for people in (400, 1600):
    settings = dict(size=128, seed=people, shard_size=100, n_jobs=1)
    shards.write_split(model, folder, "train", people, 1, **settings)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    run = [sys.executable, "-c", script, model, tmp_path]
    few, many = map(int, subprocess.check_output(run, text=True).split())
    unit = 1024 if sys.platform == "linux" else 1024**2
    assert len(list(tmp_path.rglob("shard-*"))) == 16 and (many - few) / unit < 20
