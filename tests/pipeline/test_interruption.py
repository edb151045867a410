"""Killed at random moments, the disk full, the folder read-only: nothing finished is lost, and the next run ends with the bytes of one that was never disturbed. `interrupt.py` does it to whole runs."""

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
from test_shards import FakeStudio
from test_training import build, model, root  # noqa: F401 (fixtures)

from e2far import data, weights
from e2far.morphable import toy_model
from e2far.pipeline import jobs, trainings
from e2far.synthesis import shards, studio
from e2far.training import Run

SIZES = dict(image_size=48, width=1 / 16, batch_norm=True)
RECIPE = dict(
    batch_size=8,
    expression_weight=1.0,
    pose_weight=0.1,
    weight_decay=1e-3,
    clip=5.0,
    ema=0.9,
    augment=0.5,
    log_every=3,
    checkpoint_every=4,
    phases=[dict(steps=5, heads_rate=1e-3), dict(steps=10, heads_rate=1e-3, trunk_rate=1e-3)],
)
LONGER = RECIPE | dict(
    phases=[dict(steps=10, heads_rate=1e-3), dict(steps=25, heads_rate=1e-3, trunk_rate=1e-3)]
)


@pytest.fixture(scope="module")
def processes():
    """Where processes come from that have imported torch already."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(
        ["e2far.pipeline.jobs", "interrupt", "test_shards", "test_training"]
    )
    return context


def job(root, folder, **changes):
    return (
        dict(
            folder=folder,
            faces=root,
            model=root / "toy.npz",
            network=SIZES,
            training=RECIPE,
            seed=0,
        )
        | changes
    )


class SlowStudio(FakeStudio):
    def photograph(self, *place):
        time.sleep(0.004)
        return super().photograph(*place)


def write_slowly(folder, toy):
    studio.Studio = SlowStudio
    shards.write_split(toy, folder, "train", 60, 2, size=24, seed=0, shard_size=6, n_jobs=1)


@pytest.mark.slow
def test_a_data_set_whose_writer_is_killed(root, tmp_path, processes):
    """Six times, each a random while after one more shard, or none, is finished."""

    def start(folder):
        process = processes.Process(target=write_slowly, args=(folder, root / "toy.npz"))
        process.start()
        return process

    start(tmp_path / "whole").join()
    rng, kept = random.Random(0), {}
    for kill in range(6):
        process = start(tmp_path / "killed")
        while (
            process.is_alive()
            and len(list((tmp_path / "killed").rglob("*.safetensors"))) < len(kept) + kill % 3
        ):
            time.sleep(0.001)
        time.sleep(rng.uniform(0, 0.03))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
        now = finished(tmp_path / "killed")
        assert all(shards.read_header(path) for path in now) and now.items() >= kept.items()
        with pytest.raises(FileNotFoundError, match="no finished data set"):
            data.Faces(tmp_path / "killed" / "train")
        kept = now
    assert 3 <= len(kept) < 20
    start(tmp_path / "killed").join()
    assert finished(tmp_path / "killed").items() >= kept.items()
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


@pytest.mark.slow
def test_trainings_that_are_killed(root, tmp_path):
    """Two side by side, of which one is killed after a few more rows of the logs, four times; the other is stopped with it."""
    both = lambda place: {
        name: job(root, tmp_path / place / name, seed=seed, training=LONGER)
        for seed, name in enumerate("ab")
    }
    whole, rng, kept, kills = jobs.run_many(both("whole")), random.Random(1), {}, 0
    written = lambda: [path.stat().st_mtime_ns for path in (tmp_path / "killed").glob("*/log.csv")]
    for _ in range(4):
        over = threading.Event()

        def kill(before, more):
            nonlocal kills
            seen = set(before)
            while not over.wait(0.002) and len(seen) < len(before) + more:
                with suppress(FileNotFoundError):
                    seen |= set(written())
            running = [
                process
                for process in multiprocessing.active_children()
                if process.name.startswith("ForkServerProcess")
            ]
            if running and not over.is_set():
                rng.choice(running).kill()
                kills += 1

        killer = threading.Thread(target=kill, args=(written(), rng.randint(1, 4)))
        killer.start()
        try:
            jobs.run_many(both("killed"), resume=True)
        except RuntimeError as error:
            assert "its process was killed" in str(error)
        over.set()
        killer.join()
        now = finished(tmp_path / "killed")
        assert now.items() >= kept.items()
        kept = now
    assert kills >= 2
    found = jobs.run_many(both("killed"), resume=True)
    assert finished(tmp_path / "killed").items() >= kept.items()
    assert found == whole and contents(tmp_path / "killed") == contents(tmp_path / "whole")


def train_and_tell(folder, **config):
    (folder / "pid").write_text(str(os.getpid()))
    trainings.train_job(folder=folder, **config)


@pytest.mark.slow
def test_trainings_end_with_the_process_that_started_them(root, tmp_path, processes):
    """Else they would write beside those of the next run."""
    forever = RECIPE | dict(log_every=1, phases=[dict(steps=10**6, heads_rate=1e-3)])
    config, log = job(root, tmp_path, training=forever), tmp_path / "log.csv"
    parent = processes.Process(
        target=jobs.run_many, args=(dict(long=config),), kwargs=dict(function=train_and_tell)
    )
    parent.start()
    while not log.exists():
        assert parent.is_alive()
        time.sleep(0.05)
    worker = psutil.Process(int((tmp_path / "pid").read_text()))
    parent.kill()
    parent.join()
    assert not psutil.wait_procs([worker], timeout=20)[1]


def interrupt_once_trained(config):
    """Ctrl-C, as soon as the training has written its log."""

    def interrupt():
        while not (config["folder"] / "log.csv").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    try:
        jobs.run_many(dict(long=config), function=train_and_tell)
    except KeyboardInterrupt:
        (config["folder"] / "interrupted").touch()


@pytest.mark.slow
def test_trainings_end_with_an_interrupt(root, tmp_path, processes):
    forever = RECIPE | dict(log_every=1, phases=[dict(steps=10**6, heads_rate=1e-3)])
    config = job(root, tmp_path, training=forever)
    parent = processes.Process(target=interrupt_once_trained, args=(config,))
    parent.start()
    parent.join(60)
    assert parent.exitcode == 0 and (tmp_path / "interrupted").exists()
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))


@pytest.fixture(scope="module")
def undisturbed(root, tmp_path_factory):
    folder = tmp_path_factory.mktemp("undisturbed")
    return folder, trainings.train_job(**job(root, folder))


@contextmanager
def files_up_to(size):
    """Writing past `size` bytes fails, in the middle of the file, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    "file, size", [("log.csv", 100), ("checkpoint.pt", 50_000), ("network.safetensors", 50_000)]
)
def test_a_training_on_a_full_disk_names_the_file_and_goes_on_later(
    root, undisturbed, tmp_path, file, size
):
    """The error is one line; what was there stays, and the next run goes on from it."""
    folder, whole = undisturbed
    config = job(root, tmp_path / "full")
    config["folder"].mkdir()
    if file == "network.safetensors":
        config["training"] = RECIPE | dict(checkpoint_every=None)
    with (
        files_up_to(size),
        pytest.raises(OSError, match=rf"^\[Errno 27\] File too large: '{tmp_path}/full/{file}'$"),
    ):
        trainings.train_job(**config)
    assert not list(tmp_path.rglob("*.partial")) and not (config["folder"] / file).exists()
    assert trainings.train_job(**config) == whole
    assert contents(tmp_path / "full") == contents(folder)


def test_a_full_disk_keeps_the_last_checkpoint(root, tmp_path):
    config = job(root, tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "save", once(Run.save))
        with pytest.raises(KeyboardInterrupt):
            trainings.train_job(**config)
    before = (tmp_path / "checkpoint.pt").read_bytes()
    with files_up_to(50_000), pytest.raises(OSError, match="checkpoint.pt"):
        trainings.train_job(**config)
    assert (tmp_path / "checkpoint.pt").read_bytes() == before


def once(save):
    def save_and_stop(run):
        save(run)
        raise KeyboardInterrupt

    return save_and_stop


FULL = """
import sys
from pathlib import Path
from e2far import weights
from e2far.pipeline import trainings
from e2far.synthesis import shards
from test_interruption import RECIPE, FakeStudio, build, job
root, full = map(Path, sys.argv[1:])
shards.Studio = FakeStudio
never = RECIPE | dict(checkpoint_every=None)
for action in (lambda: shards.write_split(root / "toy.npz", full, "restyled", 400, 2, size=48, seed=0, shard_size=20, n_jobs=1), lambda: weights.save_network(build(), full / "network.safetensors"),
               lambda: trainings.train_job(**job(root, full / "trained")), lambda: trainings.train_job(**job(root, full / "quickly", training=never))):
    try:
        action()
    except (OSError, RuntimeError) as error:
        print(error)
"""


@pytest.mark.slow
def test_a_disk_that_is_really_full(root, tmp_path):
    """A small disk in memory, where the system lets us mount one: what writes to it says so in one line that names the file, and leaves no half of one."""
    disk = ["unshare", "--user", "--map-root-user", "--mount", "sh", "-c"]
    if (
        not shutil.which("unshare")
        or subprocess.run(
            [*disk, f"mount -t tmpfs -o size=256k none {tmp_path}"], capture_output=True
        ).returncode
    ):
        pytest.skip("no disk may be mounted here")
    command = f"mount -t tmpfs -o size=256k none {tmp_path} && {sys.executable} -c '{FULL}' {root} {tmp_path}; find {tmp_path} -name '*.partial'"
    done = subprocess.run(
        [*disk, command], capture_output=True, text=True, cwd=Path(__file__).parent, timeout=120
    )
    told = done.stdout.splitlines()
    assert len(told) == 4 and all(
        re.search(rf"\[Errno 28\] No space left on device: '{tmp_path}/[^']+'", line)
        for line in told
    ), done.stdout + done.stderr[-2000:]


@pytest.fixture
def read_only(root):
    """A folder that may be read, not written to; root, who may write everywhere, becomes nobody meanwhile."""
    with tempfile.TemporaryDirectory() as folder:
        folder, me = Path(folder), os.geteuid()
        subprocess.run(["cp", "-r", f"{root}/.", folder], check=True)
        yield (
            folder,
            lambda: (
                [
                    path.chmod(0o555 if path.is_dir() else 0o444)
                    for path in (*folder.rglob("*"), folder)
                ]
                and me == 0
                and os.seteuid(65534)
            ),
        )
        os.seteuid(me)
        for path in (folder, *folder.rglob("*")):
            path.chmod(0o755)


def test_a_read_only_folder_is_named_and_keeps_what_it_holds(read_only):
    folder, lock = read_only
    write = lambda split: shards.write_split(
        folder / "toy.npz", folder, split, 2, 2, size=48, seed=0, shard_size=2, n_jobs=1
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(studio, "Studio", FakeStudio)
        write("restyled")
        before = contents(folder)
        lock()
        for action in (
            lambda: write("restyled"),
            lambda: write("repeated"),
            lambda: trainings.train_job(**job(folder, folder / "trained")),
            lambda: jobs.run_many(dict(a=job(folder, folder / "trained"))),
            lambda: weights.save_network(build(), folder / "network.safetensors"),
        ):
            with pytest.raises(
                PermissionError, match=rf"^\[Errno 13\] Permission denied: '{folder}[^\n]*'$"
            ):
                action()
        assert len(data.Faces(folder / "restyled").person) == 4 and contents(folder) == before


def test_a_finished_training_is_done_anew_when_what_it_starts_from_has_changed(root, tmp_path):
    """The paths stay, what is in the files does not: as when a stage before it has run with other parameters."""
    subprocess.run(["cp", "-r", root, tmp_path / "faces"], check=True)
    weights.save_trunk(build(), tmp_path / "trunk.safetensors")
    config = job(tmp_path / "faces", tmp_path / "job", trunk=tmp_path / "trunk.safetensors")
    jobs.run_many(dict(job=config))
    other, shard = build(), data.shard_path(config["faces"] / "train", 0)
    torch.nn.init.zeros_(next(other.trunk.parameters()))
    columns = {key: torch.from_numpy(value.copy()) for key, value in data._read(shard).items()}
    for path, change in (
        (config["trunk"], lambda path: weights.save_trunk(other, path)),
        (config["model"], toy_model(seed=1).save),
        (shard, lambda path: data.write_shard(path, columns, shards.header(dict(seed=1)))),
    ):
        assert jobs.finished(config)
        before = path.read_bytes()
        change(path)
        assert not jobs.finished(config)
        path.write_bytes(before)
    assert jobs.finished(config)


# One process and two -----------------------------------------------------------------------------------------------------------------------------

# What a process finds in its environment, started as one of `count` by ...
STARTERS = dict(
    torchrun=lambda rank, count, port: dict(
        RANK=rank,
        LOCAL_RANK=rank,
        WORLD_SIZE=count,
        LOCAL_WORLD_SIZE=count,
        GROUP_RANK=0,
        GROUP_WORLD_SIZE=1,
        ROLE_RANK=rank,
        MASTER_ADDR="127.0.0.1",
        MASTER_PORT=port,
        TORCHELASTIC_RUN_ID="x",
    ),
    slurm=lambda rank, count, port: dict(
        SLURM_JOB_ID=1,
        SLURM_JOB_NAME="x",
        SLURM_NNODES=1,
        SLURM_NODEID=0,
        SLURM_NODELIST="127.0.0.1",
        SLURM_NTASKS=count,
        SLURM_NTASKS_PER_NODE=count,
        SLURM_PROCID=rank,
        SLURM_LOCALID=rank,
        MASTER_PORT=port,
    ),
)


def part_of_a_training(environment, count, config, killed):
    """One of `count` processes that share each batch; killed: the first one ends them all once the checkpoint is written"""
    os.environ |= {name: str(value) for name, value in environment.items()}
    torch.set_num_threads(1)
    if killed:
        save = Run.save

        def save_and_end(run):
            save(run)
            os.kill(os.getpid(), signal.SIGKILL)

        Run.save = save_and_end
    trainings.train_job(**config, devices=count)


def train_together(processes, starter, count, config, killed=False):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    running = [
        processes.Process(
            target=part_of_a_training,
            args=(STARTERS[starter](rank, count, port), count, config, killed),
        )
        for rank in range(count)
    ]
    for process in running:
        process.start()
    running[0].join(60)
    for process in running[1:] if killed else []:
        process.kill()
    for process in running:
        process.join(60)
    assert killed or [process.exitcode for process in running] == [0] * count


@pytest.mark.parametrize("starter, first, then", [("torchrun", 1, 2), ("slurm", 2, 1)])
@pytest.mark.slow
def test_a_checkpoint_moves_between_one_process_and_two(
    root, tmp_path, processes, starter, first, then
):
    """Without BatchNorm, whose statistics are each process's own, only the order of sums differs. The checkpoint lies between two rows of the log."""
    recipe = RECIPE | dict(
        ema=None,
        phases=[dict(steps=2, heads_rate=1e-3), dict(steps=4, heads_rate=1e-3, trunk_rate=1e-3)],
        log_every=3,
    )
    config = dict(network=SIZES | dict(batch_norm=False), training=recipe)
    trainings.train_job(**job(root, tmp_path / "one", **config))
    moved = job(root, tmp_path / "moved", **config)
    train_together(processes, starter, first, moved, killed=True)
    assert (
        torch.load(tmp_path / "moved" / "checkpoint.pt", weights_only=True)["step"] == 4
        and not (tmp_path / "moved" / "network.safetensors").exists()
    )
    train_together(processes, starter, then, moved)
    one, other = (
        weights.load_network(tmp_path / name / "network.safetensors").state_dict()
        for name in ("one", "moved")
    )
    for name in one:
        torch.testing.assert_close(other[name], one[name], rtol=1e-3, atol=1e-5)
    logs = [pd.read_csv(tmp_path / name / "log.csv") for name in ("one", "moved")]
    assert list(logs[1].images) == list(logs[0].images) == [24, 48] and np.allclose(
        logs[1].loss, logs[0].loss, rtol=1e-4
    )
