"""Killed at random moments, the disk full, the folder read-only: nothing finished is lost, and the
next run ends with the bytes of an undisturbed one. `interrupt.py` does it to whole runs."""

import multiprocessing
import os
import random
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from interrupt import contents, finished
from small_jobs import FROZEN, RECIPE, SIZES, WHOLE, job
from test_shards import FakeStudio
from test_training import build, model, root  # noqa: F401 (fixtures)

from e2far import data, weights
from e2far.pipeline import jobs, trainings
from e2far.synthesis import shards
from e2far.training import Run


@pytest.fixture(scope="module")
def processes():
    """Where processes come from that have imported torch already."""
    context = multiprocessing.get_context("forkserver")
    modules = ["e2far.pipeline.jobs", "interrupt", "test_shards", "test_training"]
    context.set_forkserver_preload(modules)
    return context


# Processes that are killed --------------------------------------------------------------------


class SlowStudio(FakeStudio):
    def photograph(self, *place):
        time.sleep(0.004)
        return super().photograph(*place)


def write_slowly(folder, toy):
    shards.Studio = SlowStudio
    shards.write_split(toy, folder, "train", 60, 2, size=24, seed=0, shard_size=6, n_jobs=1)


@pytest.mark.slow
def test_a_data_set_whose_writer_is_killed(root, tmp_path, processes):
    """Six times, each a random while after none, one or two more shards are finished."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"

    def start(folder):
        process = processes.Process(target=write_slowly, args=(folder, root / "toy.npz"))
        process.start()
        return process

    start(whole).join()
    rng, kept = random.Random(0), {}
    for kill in range(6):
        process = start(killed)
        while process.is_alive() and len([*killed.rglob("*.safetensors")]) < len(kept) + kill % 3:
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = finished(killed)
        assert all(shards.read_header(path) for path in now) and now.items() >= kept.items()
        with pytest.raises(FileNotFoundError, match="no finished data set"):
            data.Faces(killed / "train")
        kept = now
    assert 3 <= len(kept) < 20
    start(killed).join()
    assert finished(killed).items() >= kept.items() and contents(killed) == contents(whole)


@pytest.mark.slow
def test_trainings_that_are_killed(root, tmp_path):
    """Of two side by side one is killed after a few more rows of the logs, four times; the other
    is stopped with it."""
    longer = RECIPE | dict(phases=[FROZEN | dict(steps=10), WHOLE | dict(steps=25)])
    both = lambda folder: {
        name: job(root, folder / name, seed=seed, training=longer) for seed, name in enumerate("ab")
    }
    killed, rng, kept, kills = tmp_path / "killed", random.Random(1), {}, 0
    whole = jobs.run_many(both(tmp_path / "whole"))
    written = lambda: {path.stat().st_mtime_ns for path in killed.glob("*/log.csv")}

    def kill_one(before, more, over):
        nonlocal kills
        seen = set(before)
        while not over.wait(0.002) and len(seen) < len(before) + more:
            with suppress(FileNotFoundError):
                seen |= written()
        workers = multiprocessing.active_children()
        workers = [worker for worker in workers if worker.name.startswith("ForkServerProcess")]
        if workers and not over.is_set():
            rng.choice(workers).kill()
            kills += 1

    for _ in range(4):
        over = threading.Event()
        killer = threading.Thread(target=kill_one, args=(written(), rng.randint(1, 4), over))
        killer.start()
        try:
            jobs.run_many(both(killed), resume=True)
        except RuntimeError as error:
            assert "its process was killed" in str(error)
        over.set()
        killer.join()
        now = finished(killed)
        assert now.items() >= kept.items()
        kept = now
    assert kills >= 2
    assert jobs.run_many(both(killed), resume=True) == whole
    assert finished(killed).items() >= kept.items()
    assert contents(killed) == contents(tmp_path / "whole")


def train_and_tell(folder, **config):
    (folder / "pid").write_text(str(os.getpid()))
    trainings.train_job(folder=folder, **config)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_trainings_end_with_the_process_that_started_them(root, tmp_path, processes, how):
    """Killed, or by Ctrl-C; else they would write beside those of the next run."""
    forever = RECIPE | dict(log_every=1, phases=[FROZEN | dict(steps=10**6)])
    long = dict(long=job(root, tmp_path, training=forever))
    parent = processes.Process(
        target=jobs.run_many, args=(long,), kwargs=dict(function=train_and_tell)
    )
    parent.start()
    while not (tmp_path / "log.csv").exists():
        assert parent.is_alive()
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    os.kill(parent.pid, how)
    parent.join(60)
    assert parent.exitcode == (1 if how == signal.SIGINT else -how)
    assert not psutil.wait_procs([worker], timeout=20)[1]


# Disks that are full, folders that are read-only ----------------------------------------------


@contextmanager
def files_up_to(size):
    """Writing past `size` bytes fails, in the middle of the file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def after_each_checkpoint(patch, stop):
    save = Run.save
    patch.setattr(Run, "save", lambda run: (save(run), stop()))


def interrupt():
    raise KeyboardInterrupt


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, trainings.train_job(**job(root, folder))


@pytest.mark.parametrize(
    "file, size", [("log.csv", 100), ("checkpoint.pt", 50_000), ("network.safetensors", 50_000)]
)
def test_a_training_on_a_full_disk_names_the_file_and_goes_on_later(
    root, undisturbed, tmp_path, file, size
):
    folder, whole = undisturbed
    config = job(root, tmp_path)
    if file == "network.safetensors":
        config["training"] = RECIPE | dict(checkpoint_every=None)
    one_line = rf"^\[Errno 27\] File too large: '{tmp_path}/{file}'$"
    with files_up_to(size), pytest.raises(OSError, match=one_line):
        trainings.train_job(**config)
    assert not list(tmp_path.rglob("*.partial")) and not (tmp_path / file).exists()
    assert trainings.train_job(**config) == whole and contents(tmp_path) == contents(folder)


def test_a_full_disk_keeps_the_last_checkpoint(root, tmp_path):
    config = job(root, tmp_path)
    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        after_each_checkpoint(patch, interrupt)
        trainings.train_job(**config)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with files_up_to(50_000), pytest.raises(OSError, match="checkpoint.pt"):
        trainings.train_job(**config)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def write_split(root, folder, split="restyled", people=400):
    shards.Studio = FakeStudio
    options = dict(size=48, seed=0, shard_size=20, n_jobs=1)
    return shards.write_split(root / "toy.npz", folder, split, people, 2, **options)


def writers(root, folder):
    """All that writes to `folder`."""
    never = RECIPE | dict(checkpoint_every=None)
    return [
        lambda: write_split(root, folder),
        lambda: weights.save_network(build(), folder / "network.safetensors"),
        lambda: trainings.train_job(**job(root, folder / "trained")),
        lambda: trainings.train_job(**job(root, folder / "quickly", training=never)),
    ]


FULL = """
import sys
from pathlib import Path
from test_interruption import writers
for write in writers(*map(Path, sys.argv[1:])):
    try:
        write()
    except (OSError, RuntimeError) as error:
        print(error)
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(root, tmp_path):
    """A small disk in memory, where the system lets us mount one: what writes to it says so in one
    line that names the file, and leaves no half of one."""
    alone = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    mount = f"mount -t tmpfs -o size=256k none {tmp_path}"
    tried = shutil.which("unshare") and subprocess.run([*alone, mount], capture_output=True)
    if not tried or tried.returncode:
        pytest.skip("no disk may be mounted here")
    fill = f"{sys.executable} -c '{FULL}' {root} {tmp_path}; find {tmp_path} -name '*.partial'"
    done = subprocess.run(
        [*alone, f"{mount} && {fill}"], capture_output=True, text=True, cwd=Path(__file__).parent
    )
    told, said = done.stdout.splitlines(), done.stdout + done.stderr[-2000:]
    one_line = rf"\[Errno 28\] No space left on device: '{tmp_path}/[^']+'"
    assert len(told) == 4 and all(re.search(one_line, line) for line in told), said


@pytest.fixture
def read_only(root, monkeypatch):
    """A copy of `root`, and what forbids to write to it; root, who may write everywhere, becomes
    nobody meanwhile."""
    monkeypatch.setattr(shards, "Studio", FakeStudio)
    me = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:  # tmp_path lies where nobody may not read
        folder = Path(shutil.copytree(root, folder, dirs_exist_ok=True))

        def change(file, directory, user):
            if user == me:
                os.seteuid(me)
            for path in (*folder.rglob("*"), folder):
                path.chmod(directory if path.is_dir() else file)
            if me == 0:
                os.seteuid(user)

        yield folder, lambda: change(0o444, 0o555, 65534)
        change(0o644, 0o755, me)


def test_a_read_only_folder_is_named_and_keeps_what_it_holds(read_only):
    folder, lock = read_only
    write_split(folder, folder, people=2)
    before = contents(folder)
    lock()
    again = lambda: write_split(folder, folder, people=2)
    side_by_side = lambda: jobs.run_many(dict(a=job(folder, folder / "trained")))
    other = lambda: write_split(folder, folder, "repeated", people=2)
    one_line = rf"^\[Errno 13\] Permission denied: '{folder}[^\n]*'$"
    for write in (again, other, side_by_side, *writers(folder, folder)[1:3]):
        with pytest.raises(PermissionError, match=one_line):
            write()
    assert len(data.Faces(folder / "restyled").person) == 4 and contents(folder) == before


# One process and two --------------------------------------------------------------------------

# What a process finds in its environment, started as one of `count` by ...
STARTERS = dict(
    torchrun=lambda rank, count, port: (
        f"RANK={rank} LOCAL_RANK={rank} WORLD_SIZE={count} LOCAL_WORLD_SIZE={count} GROUP_RANK=0 "
        f"GROUP_WORLD_SIZE=1 ROLE_RANK={rank} MASTER_ADDR=127.0.0.1 MASTER_PORT={port} "
        "TORCHELASTIC_RUN_ID=x"
    ),
    slurm=lambda rank, count, port: (
        f"SLURM_JOB_ID=1 SLURM_JOB_NAME=x SLURM_NNODES=1 SLURM_NODEID=0 SLURM_NODELIST=127.0.0.1 "
        f"SLURM_NTASKS={count} SLURM_NTASKS_PER_NODE={count} SLURM_PROCID={rank} "
        f"SLURM_LOCALID={rank} MASTER_PORT={port}"
    ),
)


def part_of_a_training(environment, count, config, killed):
    os.environ |= dict(pair.split("=") for pair in environment.split())
    torch.set_num_threads(1)
    if killed:
        with pytest.MonkeyPatch.context() as patch:
            after_each_checkpoint(patch, lambda: os.kill(os.getpid(), signal.SIGKILL))
            trainings.train_job(**config, devices=count)
    trainings.train_job(**config, devices=count)


def train_together(processes, starter, count, config, killed=False):
    """`count` processes that share each batch; killed: once the first checkpoint is written"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [(STARTERS[starter](rank, count, port), count, config, killed) for rank in range(count)]
    running = [processes.Process(target=part_of_a_training, args=args) for args in told]
    for process in running:
        process.start()
    running[0].join(60)
    for process in running[1:] if killed else []:
        process.kill()
    for process in running:
        process.join(60)
    assert killed or [process.exitcode for process in running] == [0] * count


def assert_trained_alike(one, two):
    """But for rounding, since sums are in another order."""
    nets = [weights.load_network(folder / "network.safetensors") for folder in (one, two)]
    torch.testing.assert_close(*(net.state_dict() for net in nets), rtol=1e-3, atol=1e-5)
    one, two = (pd.read_csv(folder / "log.csv") for folder in (one, two))
    assert list(one.images) == list(two.images) and np.allclose(two.loss, one.loss, rtol=1e-4)


@pytest.fixture(scope="module")
def alone(root, tmp_path_factory):
    """A config without BatchNorm, whose statistics are each process's own; and its training in one
    process. Its checkpoint lies between two rows of the log."""
    recipe = RECIPE | dict(ema=None, phases=[FROZEN | dict(steps=2), WHOLE | dict(steps=4)])
    config = dict(network=SIZES | dict(batch_norm=False), training=recipe)
    folder = tmp_path_factory.mktemp("alone")
    trainings.train_job(**job(root, folder, **config))
    return folder, config


def test_two_processes_train_as_one_does(root, tmp_path, processes, alone):
    folder, config = alone
    train_together(processes, "torchrun", 2, job(root, tmp_path, **config))
    assert_trained_alike(folder, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("starter, first, then", [("torchrun", 1, 2), ("slurm", 2, 1)])
def test_a_checkpoint_moves_between_one_process_and_two(
    root, tmp_path, processes, alone, starter, first, then
):
    folder, config = alone
    moved = job(root, tmp_path, **config)
    train_together(processes, starter, first, moved, killed=True)
    assert torch.load(tmp_path / "checkpoint.pt", weights_only=True)["step"] == 4
    assert not (tmp_path / "network.safetensors").exists()
    train_together(processes, starter, then, moved)
    assert_trained_alike(folder, tmp_path)
