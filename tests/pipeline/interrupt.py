"""Kills runs at random moments and looks whether anything is lost, in ten to twenty minutes:
`python tests/pipeline/interrupt.py [FOLDER]`. test_interruption.py holds the short ones.

Each part (synthesis, trainings, reconstruction of a folder of photos, the study under the smoke
profile by `dvc repro`) first runs undisturbed. Then it runs in another folder, is killed with
SIGKILL at random moments, and runs on each time. At each kill, every file that has its final name
must be whole. At the end, what was finished at a kill must be the same file still (inode and time),
and all files must equal those of the undisturbed run byte for byte, but for the times that are
noted down. Leave e2far/ alone meanwhile: a job knows the code that made it.
"""

import argparse
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import torch
from PIL import Image
from safetensors import safe_open
from skimage import data as pictures

ROOT = Path(__file__).resolve().parents[2]
TIMINGS = ["images_per_s", "seconds", "remaining_s"]
# All but speed, whose numbers are times.
STAGES = "facemodel synthesis training layers benchmark quickstart".split()


# What is killed -------------------------------------------------------------------------------


def synthesis(folder):
    from e2far.synthesis import shards

    options = dict(size=48, seed=0, shard_size=10, n_jobs=2)
    for split, people in dict(train=300, test=100).items():
        shards.write_split("makehuman", folder, split, people, 2, **options)


def training(folder):
    """Two trainings side by side, each measured on the split test, and a recogniser."""
    from e2far.pipeline import jobs, trainings
    from e2far.synthesis import shards

    options = dict(size=48, seed=0, shard_size=40, n_jobs=1)
    for split in ("train", "validation", "test"):
        shards.write_split("makehuman", folder / "faces", split, 40, 2, **options)
    both = dict(batch_size=16, weight_decay=0.0, clip=5.0, augment=0.5)
    both |= dict(log_every=5, checkpoint_every=4, validate_every=20)
    phases = [dict(steps=30, heads_rate=1e-3), dict(steps=50, heads_rate=1e-3, trunk_rate=1e-3)]
    fit = both | dict(expression_weight=5.0, pose_weight=1.0, ema=0.9, phases=phases)
    pretrain = both | dict(steps=60, learning_rate=1e-3)

    def job(name, **config):
        network = dict(image_size=48, width=1 / 8, batch_norm=True)
        place = dict(folder=folder / "models" / name, faces=folder / "faces")
        return {name: dict(network=network) | place | config}

    regressors = job("0", model="makehuman", training=fit, seed=0)
    regressors |= job("1", model="makehuman", training=fit, seed=1)
    recogniser = job("recogniser", training=pretrain, seed=0, people="train")
    jobs.run_many(regressors, 2, resume=True)
    jobs.run_many(recogniser, 1, function=trainings.pretrain_job, resume=True)


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


def open_whole(path):
    """Reads a file to its end; whatever error its reader has if it is half a file."""
    if path.suffix == ".safetensors":
        with safe_open(path, "pt") as file:
            [file.get_tensor(name) for name in file.keys()]
    elif path.suffix == ".json":
        json.loads(path.read_text())
    elif path.suffix == ".csv":
        assert not pd.read_csv(path).isna().all(axis=1).any()
    elif path.suffix == ".npz":
        with np.load(path) as file:
            [file[name] for name in file.files]
    elif path.suffix == ".pt":
        torch.load(path, weights_only=True)
    elif path.suffix in (".png", ".jpg"):
        Image.open(path).load()


def files(folder):
    """Files of `folder` that have their final names; not DVC's own, nor what a stage of its writes
    and would write anew."""
    left_out = {"__pycache__"}
    if (folder / "dvc.yaml").exists():
        left_out |= {".dvc", ".git", "reports"}

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
        if record.name == "job.json" and "result" in json.loads(record.read_text()):
            beside = (record.parent.glob(f"*.{kind}") for kind in ("safetensors", "npz"))
            paths += [record, *(path for found in beside for path in found)]
        elif record.parent.name == "faces" and record.name[0].isdigit():
            paths += record.parent.glob(f"{record.stem}[._]*")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def contents(folder):
    """Path -> bytes of all that a run made, without the times that a training notes down and
    without the folder's own name."""
    found = {}
    for path in sorted(Path(folder).rglob("*")):
        if path.suffix == ".partial" or not path.is_file():
            continue
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


def has_changed(folder, since):
    paths = (path for path in (folder, *folder.rglob("*")) if path.exists())
    return any(path.lstat().st_mtime > since for path in paths)


def run(part, folder, log, kill_after=None, orphans=False):
    """Run a part in `folder`.

    If it ends by itself: the seconds from its first change of a file to its first finished file,
    and from there to its end. If it is killed, `kill_after` seconds after that change: its
    descendants.

    orphans: its process group alone is killed; what has left the group, as Jupyter's kernels do,
        must see it and end by itself
    """
    with open(log, "a") as file:
        command, began = [sys.executable, __file__, str(folder), "--run", part], time.time()
        options = dict(stdout=file, stderr=file, start_new_session=True, env=environment())
        process = subprocess.Popen(command, **options)
        while process.poll() is None and not has_changed(folder, began):
            time.sleep(0.05)
        began, first = time.monotonic(), None
        while process.poll() is None and kill_after is None:
            first = first or (time.monotonic() if finished(folder) else None)
            time.sleep(0.2)
        try:
            code = process.wait(kill_after)
        except subprocess.TimeoutExpired:
            everything = psutil.Process(process.pid).children(recursive=True)
            os.killpg(process.pid, signal.SIGKILL)
            for child in [] if orphans else everything:
                with suppress(psutil.NoSuchProcess):
                    child.kill()
            process.wait()
            return everything
    if code:
        raise RuntimeError(f"{part} failed: see {log}")
    ended = time.monotonic()
    return (first or ended) - began, ended - (first or ended)


def writes_on(process):
    """Whether a process lives that should not. joblib's may: they finish the shards that they have
    been given, whole and as any other would, and end after five minutes without work."""
    with suppress(psutil.NoSuchProcess):
        words = " ".join(process.cmdline()).replace(".", " ").split()
        # A zombie has been killed, and nobody has asked yet how it ended.
        is_zombie = process.status() == psutil.STATUS_ZOMBIE
        return not is_zombie and not {"loky", "resource_tracker"} & set(words)
    return False


def environment():
    """Ours without what would choose other sizes, and with what the Makefile sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("E2FAR_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    fixed = dict(OMP_NUM_THREADS="1", PYTHONHASHSEED="0", DVC_NO_ANALYTICS="1")
    return kept | fixed | dict(PYTHONPATH=str(ROOT), PATH=path)


def faults_of(path):
    try:
        open_whole(path)
    except Exception as error:
        return [f"{path} is not whole: {error}"]
    return []


def results(folder):
    """`contents` that must equal those of another run."""
    other = (".dvc/", "dvc.lock", "data/timings/")
    found = {name: one for name, one in contents(folder).items() if not name.startswith(other)}
    return {name: one for name, one in found.items() if "__pycache__" not in name}


def say(text):
    print(text, flush=True)


def disturb(part, kills, folder, rng):
    """Undisturbed, then killed `kills` times; True if nothing is lost and all ends alike."""
    whole, killed, log = folder / f"{part}_whole", folder / f"{part}_killed", folder / f"{part}.log"
    for path in (whole, killed):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    start, work = run(part, whole, log)
    say(f"{part}: {start:.0f} s to the first finished file, {work:.0f} s more, undisturbed")

    done, faults, kept = 0, [], {}

    def look_what_is_kept():
        nonlocal kept, faults
        now = finished(killed)
        faults += [f"{path} was made again" for path in kept if now.get(path) != kept[path]]
        kept = now

    while done < kills:
        moment = rng.uniform(0.8, 1.1) * start + rng.uniform(0, 2) * work / (kills + 1)
        orphans = rng.random() < 0.5
        left = run(part, killed, log, moment, orphans)
        if isinstance(left, tuple):  # it was too quick: once more from nothing
            shutil.rmtree(killed)
            killed.mkdir()
            kept = {}
            continue
        done += 1
        time.sleep(1 + 4 * orphans)
        faults += [f"{process} lives on" for process in left if writes_on(process)]
        faults += [fault for path in files(killed) for fault in faults_of(path)]
        look_what_is_kept()
        partial = len([*killed.rglob("*.partial")])
        who = "group" if orphans else "all"
        say(f"  kill {done} after {moment:.1f} s ({who}): {len(kept)} finished, {partial} partial")
    run(part, killed, log)
    look_what_is_kept()
    one, other = results(whole), results(killed)
    names = sorted({*one, *other})
    faults += [f"{name} differs" for name in names if one.get(name) != other.get(name)]
    faults += [f"{path} is left" for path in killed.rglob("*.partial")]
    for fault in faults:
        say(f"  FAULT: {fault}")
    say(f"{part}: {done} kills, {len(kept)} files kept, {len(one)} compared, {len(faults)} faults")
    return not faults


PARTS = dict(synthesis=5, training=5, reconstruction=3, study=7)  # kills


def main():
    raw = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=raw)
    default = ROOT / ".scratch" / "interrupt"
    parser.add_argument("folder", nargs="?", type=Path, default=default, help="where to work")
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    folder = asked.folder.resolve()
    if asked.run:
        return globals()[asked.run](folder)
    seeded = {part: random.Random(f"{asked.seed} {part}") for part in asked.parts.split(",")}
    fine = [disturb(part, PARTS[part], folder, rng) for part, rng in seeded.items()]
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
