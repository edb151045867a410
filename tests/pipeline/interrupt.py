"""Kills runs at random moments and looks whether anything is lost, in ten to twenty minutes:
`python tests/pipeline/interrupt.py [FOLDER]`. test_interruption.py kills a small one.

The reconstruction of a folder of photos, and the study under the smoke profile by `dvc repro`,
first run undisturbed. Then each runs in another folder, is killed with SIGKILL at
random moments, and runs on each time. At each kill, every file that has its final name
must be whole. At the end, what was finished at a kill must be the same file still (inode and time),
and all files must equal those of the undisturbed run byte for byte, but for the times that are
noted down. Leave e2far/ alone meanwhile: a job knows the code that made it.
"""

import io
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pandas as pd
import psutil
import torch
from PIL import Image
from safetensors.torch import load_file
from skimage import data as pictures

from e2far.files import read_npz

ROOT = Path(__file__).resolve().parents[2]
# All but speed, whose numbers are times.
STAGES = "facemodel synthesis training layers benchmark quickstart".split()


# What is killed -------------------------------------------------------------------------------


def reconstruction(folder):
    """The face of one photo, at twelve sizes."""
    from e2far import cli

    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for side in range(280, 520, 20):
        if not (photos / f"{side}.png").exists():
            Image.fromarray(pictures.astronaut()).resize((side, side)).save(photos / "new", "PNG")
            (photos / "new").rename(photos / f"{side}.png")
    cli.app(["reconstruct", str(photos), "--out", str(folder / "faces")], standalone_mode=False)


def study(folder):
    """`dvc repro`, as `make resume` calls it, in a copy of this repository."""

    def python(*words):
        ours = os.environ | dict(PYTHONPATH=str(folder))
        subprocess.run([sys.executable, *words], check=True, cwd=folder, env=ours)

    if not (folder / "ready").exists():
        listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.check_output(listed, cwd=ROOT, text=True).split("\0")[:-1]:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        python("-m", "dvc", "config", "--local", "core.no_scm", "true")
        python("-c", "from e2far.pipeline import params; params.choose('smoke')")
        (folder / "ready").touch()
    python("-m", "dvc", "repro", *STAGES)


# What must hold -------------------------------------------------------------------------------

READERS = {  # how a file is read to its end, which fails if it is half a file
    ".safetensors": load_file,
    ".json": lambda path: json.loads(path.read_text()),
    ".csv": pd.read_csv,
    ".npz": read_npz,
    ".pt": lambda path: torch.load(path, weights_only=True),
    ".png": lambda path: Image.open(path).load(),
    ".jpg": lambda path: Image.open(path).load(),
}
TIMINGS = ["images_per_s", "seconds", "remaining_s"]
OTHER = {"__pycache__", ".git", ".dvc", "dvc.lock", "timings"}
WRITTEN_ANEW = OTHER | {"reports"}  # by a stage that was interrupted


def faults_of(path):
    try:
        READERS.get(path.suffix, Path.read_bytes)(path)
    except Exception as error:
        return [f"{path} is not whole: {error}"]
    return []


def files(folder, left_out=WRITTEN_ANEW):
    """Files of `folder` that have their final names."""

    def is_ours(path):
        parts = path.relative_to(folder).parts
        is_temporary = any(part.startswith(".e2far-") for part in parts)
        return path.suffix != ".partial" and not left_out & set(parts) and not is_temporary

    return [path for path in sorted(folder.rglob("*")) if path.is_file() and is_ours(path)]


def finished(folder):
    """Inode and time of each shard, of what finished trainings have written, and of what belongs to
    finished photos."""
    paths = [path for path in files(folder) if path.name.startswith("shard-")]
    for record in (path for path in files(folder) if path.suffix == ".json"):
        told = json.loads(record.read_text())
        if record.name == "job.json" and "result" in told:
            beside = (record.parent.glob(f"*.{kind}") for kind in ("safetensors", "npz"))
            paths += [record, *(path for found in beside for path in found)]
        elif record.name != "job.json" and "made_with" in told:
            paths += record.parent.glob(f"{record.stem}[._]*")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def contents(folder):
    """Path -> bytes of all that a run made, without the times that a training notes down and
    without the folder's own name."""
    found = {}
    for path in files(folder, OTHER):
        content = path.read_bytes()
        if path.name == "log.csv":
            log = pd.read_csv(io.BytesIO(content)).drop(columns=TIMINGS)
            content = log.to_csv(index=False).encode()
        elif path.name == "job.json":
            record = json.loads(content.decode().replace(str(folder), ""))
            for name in TIMINGS:
                if isinstance(record.get("result"), dict):
                    record["result"].pop(name, None)
            content = json.dumps(record).encode()
        found[path.relative_to(folder).as_posix()] = content
    return found


# Killing --------------------------------------------------------------------------------------


def alone(part, folder, log):
    """Run a part in a session of its own."""
    os.setsid()
    with open(log, "a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    part(folder)


def start(part, folder):
    """A process that runs a part, which is importable, in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    process = multiprocessing.get_context("forkserver").Process(
        target=alone, args=(part, folder, f"{folder}.log")
    )
    process.start()
    return process


def kill(process, orphans):
    """Kill a process of `start` and its descendants; returns those that live on all the same.

    orphans: kill its process group alone; what has left it, as Jupyter's kernels do, must see that
        and end by itself, in five seconds
    """
    everything = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    for child in [] if orphans else everything:
        with suppress(psutil.NoSuchProcess):
            child.kill()
    process.join()
    until = time.monotonic() + 5
    while any(map(lives, everything)) and time.monotonic() < until:
        time.sleep(0.1)
    return [child for child in everything if lives(child)]


def lives(process):
    """Whether a process lives that should not. joblib's may: they finish the shards that they have
    been given, whole and as any other would, and end after five minutes without work."""
    with suppress(psutil.NoSuchProcess):
        words = " ".join(process.cmdline()).replace(".", " ").split()
        # A zombie has been killed, and nobody has asked yet how it ended.
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return not is_zombie and not {"loky", "resource_tracker"} & set(words)
    return False


def wait_for_change(process, folder):
    """Until a process of `start` has written a file, or has ended."""
    times = lambda: {path: path.stat().st_mtime_ns for path in files(folder)}
    before = times()
    while process.is_alive():
        with suppress(OSError):  # something was removed while we looked
            if times().items() - before.items():
                return
        time.sleep(0.02)


def end(process, folder):
    """The seconds that a process of `start` takes to its end."""
    began = time.monotonic()
    process.join()
    if process.exitcode:
        raise RuntimeError(f"it failed: see {folder}.log")
    return time.monotonic() - began


def disturb(part, kills, folder, seed=0):
    """Run a part undisturbed, then killed up to `kills` times; returns what is lost or differs, a
    line each, and how many kills there were."""
    whole, killed = folder / f"{part.__name__}_whole", folder / f"{part.__name__}_killed"
    for place in (whole, killed):
        shutil.rmtree(place, ignore_errors=True)
    process = start(part, whole)
    wait_for_change(process, whole)
    work = end(process, whole)
    rng, faults, kept, done, over = random.Random(f"{seed} {part.__name__}"), [], {}, 0, False
    while not over:
        process = start(part, killed)
        if done < kills:
            wait_for_change(process, killed)
            process.join(rng.uniform(0, 2) * work / (kills + 1))
        over = done == kills or not process.is_alive()
        if over:
            end(process, killed)
        else:
            faults += [f"{one} lives on" for one in kill(process, orphans=rng.random() < 0.5)]
            faults += [fault for path in files(killed) for fault in faults_of(path)]
            done += 1
        now = finished(killed)
        faults += [f"{path} was made again" for path in kept if now.get(path) != kept[path]]
        kept = now
        print(f"{part.__name__}: {done} kills, {len(kept)} files are finished", flush=True)
    one, other = contents(whole), contents(killed)
    names = sorted({*one, *other})
    faults += [f"{name} differs" for name in names if one.get(name) != other.get(name)]
    return faults + [f"{path} is left" for path in killed.rglob("*.partial")], done


if __name__ == "__main__":
    import interrupt  # by the name that its processes know it by

    # What the Makefile sets, and nothing that would choose other sizes.
    for name in [name for name in os.environ if name.startswith("E2FAR_")]:
        del os.environ[name]
    here = f"{ROOT}:{Path(__file__).parent}"
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    os.environ |= dict(OMP_NUM_THREADS="1", PYTHONHASHSEED="0", DVC_NO_ANALYTICS="1")
    os.environ |= dict(PYTHONPATH=here, PATH=path)
    default = ROOT / ".scratch" / "interrupt"
    folder = Path(sys.argv[1] if sys.argv[1:] else default).resolve()
    lost, _ = interrupt.disturb(interrupt.reconstruction, 3, folder)
    lost += interrupt.disturb(interrupt.study, 9, folder)[0]
    sys.exit("\n".join(lost) or 0)
