import hashlib
import importlib
import inspect
import os
import resource
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from joblib.externals.loky.process_executor import TerminatedWorkerError

from e2far import data, facemodels, morphable
from e2far.synthesis import shards, studio

SIZE = 24


class FakeStudio:
    """Random pictures at no cost; as the true Studio's, a function of seed, split, person and number."""

    def __init__(self, model, size, tint=0):
        self.size, self.tint = size, tint

    def photograph(self, seed, split, person, picture):
        rng = np.random.default_rng([seed, studio.SPLITS.index(split), person, picture, self.tint])
        labels = dict(identity=(6,), expression=(4,), pose=(9,), landmarks=(68, 2))
        return dict(
            image=rng.integers(0, 256, (self.size, self.size, 3), np.uint8), person=person
        ) | {name: rng.random(shape, np.float32) for name, shape in labels.items()}


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
    def write(
        folder,
        split="train",
        people=8,
        pictures=3,
        size=SIZE,
        seed=0,
        shard_size=5,
        n_jobs=1,
        **settings,
    ):
        return shards.write_split(
            model,
            folder,
            split,
            people,
            pictures,
            size=size,
            seed=seed,
            shard_size=shard_size,
            n_jobs=n_jobs,
            **settings,
        )

    return write


def digest(folder):
    """One number for all that a split holds, whatever its shards."""
    faces = data.Faces(folder / "train")
    return hashlib.sha256(
        b"".join(column.numpy().tobytes() for column in faces.gather(range(len(faces))).values())
    ).hexdigest()


def files(folder):
    """Bytes of each file of the split but for the face model's copy."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != shards.MODEL
    }


def names(paths):
    return [path.name.split(".")[0] for path in paths]


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
    faces = data.Faces(tmp_path / "a" / "train")
    assert (
        faces.person.tolist() == [person for person in range(8) for _ in range(3)]
        and faces.image_size == SIZE
    )
    alone = FakeStudio(None, SIZE).photograph(0, "train", 4, 2)
    assert all(
        np.array_equal(faces.gather([14])[name][0].numpy(), alone[name]) for name in data.LABELS
    )
    assert np.array_equal(faces.gather([14])["image"][0].permute(1, 2, 0).numpy(), alone["image"])
    kept, used = (
        facemodels.load_face_model(path)
        for path in (tmp_path / "a" / "train" / shards.MODEL, model)
    )
    assert shards.fingerprint(kept) == shards.fingerprint(used)


def test_local_processes_make_the_same_bytes(tmp_path, write):
    write(tmp_path / "alone", people=5)
    made = write(tmp_path / "two", people=5, n_jobs=2)
    assert sorted(names(made)) == [f"shard-{i:06d}" for i in range(3)]
    assert files(tmp_path / "two") == files(tmp_path / "alone")


def killed_after(count, asked):
    """A joblib.Parallel that makes `count` shards and then raises what joblib does when a process is killed; notes in `asked` the shards of each call."""

    def run(jobs):
        jobs = list(jobs)
        asked.append([int(path.name[6:12]) for _, (path, _), _ in jobs])
        for function, arguments, _ in jobs[:count]:
            yield function(*arguments)
        if len(jobs) > count:
            raise TerminatedWorkerError("killed")

    return lambda *_, **__: run


def test_what_a_killed_process_leaves_is_made_by_others(tmp_path, write, fake, monkeypatch):
    asked = []
    monkeypatch.setattr(shards.joblib, "Parallel", killed_after(2, asked))
    made = write(tmp_path)
    assert asked == [[0, 1, 2, 3, 4], [2, 3, 4], [4]] and names(made) == [
        f"shard-{i:06d}" for i in range(5)
    ]
    assert len(data.Faces(tmp_path / "train")) == 24


def test_processes_that_are_always_killed_end_in_an_error(tmp_path, write, fake, monkeypatch):
    asked = []
    monkeypatch.setattr(shards.joblib, "Parallel", killed_after(0, asked))
    with pytest.raises(RuntimeError, match="shard-000000.*lower n_jobs or shard_size"):
        write(tmp_path)
    assert 1 < len(asked) < 10 and not list(tmp_path.rglob("shard*"))


@pytest.mark.slow
def test_a_dask_cluster_makes_the_same_bytes_whatever_happens_to_its_workers(tmp_path, write):
    distributed = pytest.importorskip("dask.distributed")
    write(tmp_path / "alone", people=20)
    with distributed.LocalCluster(
        n_workers=2,
        processes=True,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs="CRITICAL",
    ) as cluster:
        with distributed.Client(cluster) as client:
            address, workers = cluster.scheduler_address, list(client.run(os.getpid).values())
        made = write(
            tmp_path / "cluster",
            people=20,
            scheduler=address,
            progress=after_the_first(lambda: os.kill(workers[0], signal.SIGKILL)),
        )
        assert sorted(names(made)) == [f"shard-{i:06d}" for i in range(12)]
        assert files(tmp_path / "cluster") == files(tmp_path / "alone")
        assert write(tmp_path / "cluster", people=20, scheduler=address) == []
        with pytest.raises(
            RuntimeError,
            match=r"bad/train/000/shard-00000\d.safetensors could not be made .*unexpected keyword",
        ):  # the error of the task itself
            write(tmp_path / "bad", scheduler=address, not_a_setting=1)


def test_on_a_cluster_few_tasks_wait_and_one_that_kills_its_workers_is_named(monkeypatch):
    distributed = pytest.importorskip("dask.distributed")
    told = []

    def job(number):
        told.append(number)
        return Path(str(number)), {}

    monkeypatch.setattr(shards, "make_shard", lambda path, job: path)
    with distributed.LocalCluster(
        n_workers=1,
        processes=False,
        threads_per_worker=1,
        dashboard_address=None,
        silence_logs="CRITICAL",
    ) as cluster:
        with closing(shards.on_cluster(job, range(100_000), cluster.scheduler_address)) as made:
            first = [next(made) for _ in range(60)]
        assert len(set(first)) == 60 and len(told) == len(set(told)) < 60 + 32

        def kill(path, job):
            raise distributed.KilledWorker(str(path), SimpleNamespace(address="tcp://dead"), 3)

        monkeypatch.setattr(shards, "make_shard", kill)
        with pytest.raises(
            RuntimeError,
            match="^7 could not be made: all workers that tried were killed.*finished shards are kept",
        ):
            next(shards.on_cluster(job, [7], cluster.scheduler_address))


def test_a_cluster_that_is_not_there_is_named(monkeypatch):
    pytest.importorskip("dask.distributed")
    with pytest.raises(
        OSError,
        match="no Dask scheduler answers at tcp://127.0.0.1:1: start one .* scheduler: null",
    ):
        next(shards.on_cluster(None, [0], "tcp://127.0.0.1:1", timeout_s=0.3))
    monkeypatch.setitem(sys.modules, "dask.distributed", None)
    with pytest.raises(ImportError, match=r"pip install -e .*cluster.*scheduler: null"):
        next(shards.on_cluster(None, [0], "tcp://127.0.0.1:1"))


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
    with pytest.raises(
        RuntimeError,
        match="shard-000002.safetensors could not be made .*No space left on device.*finished shards are kept",
    ):
        write(tmp_path)
    assert not list(tmp_path.rglob("*.partial")) and all(
        shards.read_header(path) for path in tmp_path.rglob("train/*/*")
    )
    with pytest.raises(FileNotFoundError, match="no finished data set"):
        data.Faces(tmp_path / "train")
    assert names(write(tmp_path)) == ["shard-000002", "shard-000003", "shard-000004"]
    assert digest(tmp_path) == digest(tmp_path / "whole")


def test_a_write_that_breaks_off_leaves_nothing(tmp_path, write, fake):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(
            resource.RLIMIT_FSIZE, (60_000, hard)
        )  # the face model fits, a shard does not: half of it is written before the error
        with pytest.raises(RuntimeError, match="shard-000000.safetensors .*File too large"):
            write(tmp_path, size=96)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.rglob("shard*"))


def test_a_rerun_makes_only_what_is_missing_and_clears_what_is_left(
    tmp_path, write, fake, monkeypatch
):
    paths = write(tmp_path)
    before, times = files(tmp_path), [path.stat().st_mtime_ns for path in paths]
    paths[1].write_bytes(paths[1].read_bytes()[:-1000])
    paths[2].unlink()
    for left in (
        "000/shard-000003.safetensors.0a1b.partial",
        "000/shard-000009.safetensors",
        "000/shard-00003.safetensors",
        "shard-00000.safetensors",
        "001/shard-000004.safetensors",
    ):
        (tmp_path / "train" / left).parent.mkdir(exist_ok=True)
        (tmp_path / "train" / left).write_bytes(b"left by another run")
    assert write(tmp_path) == paths[1:3]
    assert files(tmp_path) == before
    assert [path.stat().st_mtime_ns == then for path, then in zip(paths, times)] == [
        True,
        False,
        False,
        True,
        True,
    ]
    killed = tmp_path / "killed"  # what a worker leaves that is killed while it writes
    write(
        killed,
        progress=after_the_first(
            lambda: (killed / "train/000/shard-000002.safetensors.0a1b.partial").write_bytes(
                b"half"
            )
        ),
    )
    assert files(killed) == before
    monkeypatch.setattr(shards, "make_shard", None)  # a rerun of a finished split makes nothing
    assert write(killed) == [] and files(killed) == before


@pytest.mark.parametrize(
    "change",
    [dict(seed=1), dict(size=20), dict(tint=1), dict(pictures=2, people=12), dict(shard_size=6)],
)
def test_other_settings_write_anew(tmp_path, write, fake, change):
    write(tmp_path)
    assert write(tmp_path, **change)
    write(tmp_path / "fresh", **change)
    assert files(tmp_path / "train") == files(tmp_path / "fresh" / "train")


def test_other_code_and_another_face_model_write_anew(tmp_path, write, fake, monkeypatch, model):
    count = len(write(tmp_path))
    morphable.toy_model(seed=1).save(tmp_path / "other.npz")
    again = shards.write_split(
        tmp_path / "other.npz", tmp_path, "train", 8, 3, size=SIZE, seed=0, shard_size=5, n_jobs=1
    )
    assert len(again) == count
    monkeypatch.setattr(shards, "code_version", lambda: "other")
    assert len(write(tmp_path)) == count


def test_the_code_version_covers_all_that_draws(monkeypatch):
    """The face model, synthesis, and every module of ours that it imports, and that these import."""
    drawing, found = set(), {"e2far.synthesis.studio", "e2far.morphable"}
    while found - drawing:
        name = min(found - drawing)
        drawing.add(name)
        for value in vars(importlib.import_module(name)).values():
            module = value if inspect.ismodule(value) else inspect.getmodule(value)
            found |= {module.__name__} if module and module.__name__.startswith("e2far.") else set()
    drawing -= {"e2far.data", "e2far.files"}  # they write down what others have drawn
    version, read = shards.code_version(), Path.read_bytes
    for name in drawing:
        source = Path(importlib.import_module(name).__file__)
        changed = lambda path: read(path) + b"#" * (path == source)
        monkeypatch.setattr(Path, "read_bytes", changed)
        assert shards.code_version() != version, name
        monkeypatch.setattr(Path, "read_bytes", read)
    assert {"e2far.synthesis.people", "e2far.facemodels.arkit", "e2far.raster"} < drawing


def test_a_smaller_split_takes_the_place_of_a_larger_one(tmp_path, write, fake):
    write(tmp_path, people=20)
    write(tmp_path, people=2)
    assert data.Faces(tmp_path / "train").person.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(list(tmp_path.rglob("shard-*"))) == 2


def test_a_worker_refuses_another_folder_version_or_model(tmp_path, write, fake):
    path = write(tmp_path)[0]
    version = shards.fingerprint(facemodels.load_face_model(path.parent.parent / shards.MODEL))
    job = dict(
        model=version,
        code=shards.code_version(),
        size=SIZE,
        studio={},
        seed=0,
        split="train",
        pictures=3,
        first=0,
        count=2,
    )
    for wrong, message in (
        (dict(code="0"), "same on all machines"),
        (dict(model="0"), "one run at a time"),
    ):
        with pytest.raises(RuntimeError, match=f"shard-000000.*{message}"):
            shards.make_shard(path, job | wrong)
    with pytest.raises(RuntimeError, match="folder that all workers share"):
        shards.make_shard(tmp_path / "elsewhere" / "000" / path.name, job)
    with pytest.raises(ValueError, match="choose one of people, train"):
        write(tmp_path, split="trian")


def test_no_folder_holds_more_than_a_thousand_shards():
    paths = [data.shard_path("train", number) for number in range(20_000)]
    assert (
        max(Counter(path.parent for path in paths).values()) <= 1000
        and len(set(paths)) == len(paths)
        and paths == sorted(paths)
    )


def test_progress_counts_the_shards_to_be_made(tmp_path, write, fake):
    seen = []

    def progress(jobs, total):
        for job in jobs:
            seen.append((job.name, total))
            yield job

    paths = write(tmp_path)
    paths[3].unlink()
    write(tmp_path, progress=progress)
    assert seen == [("shard-000003.safetensors", 1)]


@pytest.mark.slow
def test_memory_does_not_grow_with_the_number_of_shards(tmp_path, model):
    """A process that keeps shards of 5 MB would grow by 60 MB."""
    script = f"""
import resource, sys
from e2far.synthesis import shards
from test_shards import FakeStudio
shards.Studio = FakeStudio
for people in (400, 1600):
    shards.write_split({str(model)!r}, {str(tmp_path)!r}, "train", people, 1, size=128, seed=people, shard_size=100, n_jobs=1)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""
    few, many = (
        int(peak) / (1024 if sys.platform == "linux" else 1024**2)
        for peak in subprocess.run(
            [sys.executable, "-c", script], check=True, capture_output=True, text=True
        ).stdout.split()
    )
    assert len(list(tmp_path.rglob("shard-*"))) == 16 and many - few < 20
