"""Killed at random moments, the disk full, the folder read-only: nothing finished is lost, and the
next run ends with the bytes of an undisturbed one. `interrupt.py` does it to whole runs."""

import multiprocessing
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from functools import partial, update_wrapper
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest
import torch
from interrupt import contents, disturb
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
    context.set_forkserver_preload(["e2far.pipeline.jobs", "test_interruption"])
    return context


# Processes that are killed --------------------------------------------------------------------


class SlowStudio(FakeStudio):
    def photograph(self, *place):
        time.sleep(0.004)
        return super().photograph(*place)


def write_and_train(folder, root):
    shards.Studio = SlowStudio
    options = dict(size=48, seed=0, shard_size=6, n_jobs=1)
    shards.write_split(root / "toy.npz", folder, "train", 60, 2, **options)
    longer = RECIPE | dict(phases=[FROZEN | dict(steps=10), WHOLE | dict(steps=25)])
    trainings.train_job(**job(root, folder / "trained", training=longer))


@pytest.mark.slow
def test_what_is_killed_goes_on(root, tmp_path, processes):
    part = update_wrapper(partial(write_and_train, root=root), write_and_train)
    faults, kills = disturb(part, 5, tmp_path)
    assert not faults and kills >= 2


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
    patch.setattr(Run, "save", lambda run: (save(run), stop(run)))


def interrupt(run):
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


def write_split(root, folder, split="restyled", people=2):
    options = dict(size=48, seed=0, shard_size=20, n_jobs=1)
    return shards.write_split(root / "toy.npz", folder, split, people, 2, **options)


FULL = """
import sys
from pathlib import Path
from test_interruption import build, job, trainings, weights, write_split
root, folder = map(Path, sys.argv[1:])
for write in (
    lambda: write_split(root, folder, people=30),
    lambda: weights.save_network(build(), folder / "network.safetensors"),
    lambda: trainings.train_job(**job(root, folder / "trained")),
):
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
    assert len(told) == 3 and all(re.search(one_line, line) for line in told), said


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
    write_split(folder, folder)
    before = contents(folder)
    lock()
    again = lambda: write_split(folder, folder)
    network = lambda: weights.save_network(build(), folder / "network.safetensors")
    train = lambda: trainings.train_job(**job(folder, folder / "trained"))
    side_by_side = lambda: jobs.run_many(
        dict(a=job(folder, folder / "trained")), function=trainings.train_job
    )
    other = lambda: write_split(folder, folder, "repeated")
    one_line = rf"^\[Errno 13\] Permission denied: '{folder}[^\n]*'$"
    for write in (again, other, side_by_side, network, train):
        with pytest.raises(PermissionError, match=one_line):
            write()
    assert len(data.Faces(folder / "restyled").person) == 4 and contents(folder) == before


# One process and two --------------------------------------------------------------------------

# What a process finds in its environment, started as one of `count` by ...
STARTERS = dict(
    torchrun=(
        "RANK={rank} LOCAL_RANK={rank} WORLD_SIZE={count} LOCAL_WORLD_SIZE={count} GROUP_RANK=0 "
        "GROUP_WORLD_SIZE=1 ROLE_RANK={rank} MASTER_ADDR=127.0.0.1 MASTER_PORT={port} "
        "TORCHELASTIC_RUN_ID=x"
    ),
    slurm=(
        "SLURM_JOB_ID=1 SLURM_JOB_NAME=x SLURM_NNODES=1 SLURM_NODEID=0 SLURM_NODELIST=127.0.0.1 "
        "SLURM_NTASKS={count} SLURM_NTASKS_PER_NODE={count} SLURM_PROCID={rank} "
        "SLURM_LOCALID={rank} MASTER_PORT={port}"
    ),
)


def part_of_a_training(environment, count, config, killed):
    os.environ |= dict(pair.split("=") for pair in environment.split())
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        if killed:
            after_each_checkpoint(patch, lambda run: os.kill(os.getpid(), signal.SIGKILL))
        trainings.train_job(**config, devices=count)


def train_together(processes, starter, count, config, killed=False):
    """`count` processes that share each batch; killed: once the first checkpoint is written"""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    told = [STARTERS[starter].format(rank=rank, count=count, port=port) for rank in range(count)]
    arguments = [(environment, count, config, killed) for environment in told]
    running = [processes.Process(target=part_of_a_training, args=args) for args in arguments]
    for process in running:
        process.start()
    running[0].join(60)
    for process in running[1:] if killed else []:
        process.kill()
    for process in running:
        process.join(60)
    assert killed or [process.exitcode for process in running] == [0] * count


@pytest.mark.slow
@pytest.mark.parametrize("starter, first, then", [("torchrun", 1, 2), ("slurm", 2, 1)])
def test_one_process_and_two_train_alike_from_one_checkpoint(
    root, tmp_path, processes, starter, first, then
):
    """But for rounding, since sums are in another order; without BatchNorm, whose statistics are
    each process's own. The checkpoint lies between two rows of the log."""
    recipe = RECIPE | dict(ema=None, phases=[FROZEN | dict(steps=2), WHOLE | dict(steps=4)])
    config = dict(network=SIZES | dict(batch_norm=False), training=recipe)
    alone, moved = (job(root, tmp_path / name, **config) for name in ("alone", "moved"))
    trainings.train_job(**alone)
    train_together(processes, starter, first, moved, killed=True)
    assert torch.load(moved["folder"] / "checkpoint.pt", weights_only=True)["step"] == 4
    assert not (moved["folder"] / "network.safetensors").exists()
    train_together(processes, starter, then, moved)
    folders = alone["folder"], moved["folder"]
    nets = [weights.load_network(folder / "network.safetensors") for folder in folders]
    torch.testing.assert_close(*(net.state_dict() for net in nets), rtol=1e-3, atol=1e-5)
    one, two = (pd.read_csv(folder / "log.csv") for folder in folders)
    assert list(one.images) == list(two.images) and np.allclose(two.loss, one.loss, rtol=1e-4)
