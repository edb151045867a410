"""Kills runs at random moments and looks whether anything is lost: `python tests/pipeline/interrupt.py [FOLDER]`, ten to twenty minutes. No test of pytest's: test_interruption.py holds the short ones.

Each part (synthesis, training with its evaluation, reconstruction of a folder of photos, the whole study under the smoke profile by `dvc repro`) first runs undisturbed. Then it runs in another folder,
is killed with SIGKILL at random moments, and runs on each time. At each kill, every file that has its final name must be whole. At the end, what was finished at a kill must be the same file still (inode and
time), and all files must equal those of the undisturbed run byte for byte, but for the times that are noted down. Leave e2far/ alone meanwhile: a job knows the code that made it.
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
STAGES = [
    "facemodel",
    "synthesis",
    "training",
    "layers",
    "benchmark",
    "quickstart",
]  # all but speed, whose numbers are times
NETWORK = dict(image_size=48, width=1 / 8, batch_norm=True)


# What is killed ----------------------------------------------------------------------------------------------------------------------------------


def synthesis(folder):
    from e2far.synthesis import shards

    for split, people in dict(train=300, test=100).items():
        shards.write_split(
            "makehuman", folder, split, people, 2, size=48, seed=0, shard_size=10, n_jobs=2
        )


def training(folder):
    """Three trainings, two at a time, each measured on the split test."""
    from e2far.pipeline import jobs, trainings
    from e2far.synthesis import shards

    for split in ("train", "validation", "test"):
        shards.write_split(
            "makehuman", folder / "faces", split, 40, 2, size=48, seed=0, shard_size=40, n_jobs=1
        )
    common = dict(
        batch_size=16,
        weight_decay=0.0,
        clip=5.0,
        augment=0.5,
        log_every=5,
        checkpoint_every=4,
        validate_every=20,
    )
    fit = dict(
        expression_weight=5.0,
        pose_weight=1.0,
        ema=0.9,
        phases=[dict(steps=30, heads_rate=1e-3), dict(steps=50, heads_rate=1e-3, trunk_rate=1e-3)],
    )
    regressors = {
        f"seed {seed}": dict(
            folder=folder / "models" / str(seed),
            faces=folder / "faces",
            model="makehuman",
            network=NETWORK,
            training=common | fit,
            seed=seed,
        )
        for seed in (0, 1)
    }
    recogniser = dict(
        folder=folder / "models" / "recogniser",
        faces=folder / "faces",
        network=NETWORK,
        training=common | dict(steps=60, learning_rate=1e-3),
        seed=0,
        people="train",
    )
    jobs.run_many(regressors, 2, resume=True)
    jobs.run_many(dict(recogniser=recogniser), 1, function=trainings.pretrain_job, resume=True)


def reconstruction(folder):
    """The face of one photo, at twelve sizes."""
    from e2far import cli

    photos = folder / "photos"
    photos.mkdir(parents=True, exist_ok=True)
    for side in range(280, 520, 20):
        if not (photos / f"{side}.png").exists():
            Image.fromarray(pictures.astronaut()).resize((side, side)).save(photos / "new", "PNG")
            (photos / "new").rename(photos / f"{side}.png")
    cli.app(
        ["reconstruct", str(photos), "--out", str(folder / "faces")],
        standalone_mode=False,
    )


def study(folder):
    """`dvc repro`, as `make resume` calls it, in a copy of this repository."""
    if not (folder / "ready").exists():
        for name in subprocess.run(
            ["git", "-C", ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            check=True,
            capture_output=True,
            text=True,
        ).stdout.split("\0")[:-1]:
            if (ROOT / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / name, folder / name)
        subprocess.run(
            [sys.executable, "-m", "dvc", "config", "--local", "core.no_scm", "true"],
            check=True,
            cwd=folder,
        )
        subprocess.run(
            [sys.executable, "-c", "from e2far.pipeline import params; params.choose('smoke')"],
            check=True,
            cwd=folder,
            env=os.environ | dict(PYTHONPATH=str(folder)),
        )
        (folder / "ready").touch()
    subprocess.run(
        [sys.executable, "-m", "dvc", "repro", *STAGES],
        check=True,
        cwd=folder,
        env=os.environ | dict(PYTHONPATH=str(folder)),
    )


# What must hold ----------------------------------------------------------------------------------------------------------------------------------


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
    """Files of `folder` that have their final names; not DVC's own, nor what a stage of its writes and would write anew."""
    left_out = {".dvc", ".git", "reports"} if (folder / "dvc.yaml").exists() else set()
    return [
        path
        for path in sorted(folder.rglob("*"))
        if path.is_file()
        and not path.name.endswith(".partial")
        and not {
            part
            for part in path.relative_to(folder).parts
            if part in left_out or part.startswith(".e2far-") or part == "__pycache__"
        }
    ]


def finished(folder):
    """Inode and time of each shard, of what finished trainings have written, and of what belongs to finished photos."""
    paths = [path for path in files(folder) if path.name.startswith("shard-")]
    for record in (path for path in files(folder) if path.suffix == ".json"):
        if record.name == "job.json" and "result" in json.loads(record.read_text()):
            paths += [
                record,
                *(
                    path
                    for path in record.parent.glob("*.*")
                    if path.suffix in (".safetensors", ".npz")
                ),
            ]
        elif record.parent.name == "faces" and record.name[0].isdigit():
            paths += record.parent.glob(f"{record.stem}[._]*")
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in paths}


def contents(folder):
    """Path -> bytes of all that a run made, without the times that a training notes down and without the folder's own name."""
    found = {}
    for path in sorted(
        path
        for path in Path(folder).rglob("*")
        if path.is_file() and not path.name.endswith(".partial")
    ):
        name, content = path.relative_to(folder).as_posix(), path.read_bytes()
        if path.name == "log.csv":
            content = (
                pd.read_csv(io.BytesIO(content)).drop(columns=TIMINGS).to_csv(index=False).encode()
            )
        elif path.name == "job.json":
            record = json.loads(content.decode().replace(str(folder), ""))
            if isinstance(record.get("result"), dict):
                record["result"] = {
                    key: value for key, value in record["result"].items() if key not in TIMINGS
                }
            content = json.dumps(record).encode()
        found[name] = content
    return found


# Killing -----------------------------------------------------------------------------------------------------------------------------------------


def run(part, folder, log, kill_after=None, orphans=False):
    """Run a part in `folder`. If it ends by itself: the seconds from its first change of a file to its first finished file, and from there to its end. If it is killed, `kill_after` seconds after that change: its descendants.

    orphans: its process group alone is killed; what has left the group, as Jupyter's kernels do, must see it and end by itself
    """
    with open(log, "a") as file:
        began = time.time()
        process = subprocess.Popen(
            [sys.executable, __file__, str(folder), "--run", part],
            stdout=file,
            stderr=file,
            start_new_session=True,
            env=environment(),
        )
        while process.poll() is None and not any(
            path.lstat().st_mtime > began for path in (folder, *folder.rglob("*")) if path.exists()
        ):
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
    """Whether a process lives that should not. joblib's may: they finish the shards that they have been given, whole and as any other would, and end after five minutes without work."""
    with suppress(
        psutil.NoSuchProcess
    ):  # a zombie has been killed, and nobody has asked yet how it ended
        return process.status() != psutil.STATUS_ZOMBIE and not {"loky", "resource_tracker"} & set(
            " ".join(process.cmdline()).replace(".", " ").split()
        )
    return False


def environment():
    """Ours without what would choose other sizes, and with what the Makefile sets."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("E2FAR_")}
    return kept | dict(
        PYTHONPATH=str(ROOT),
        PATH=f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        OMP_NUM_THREADS="1",
        PYTHONHASHSEED="0",
        DVC_NO_ANALYTICS="1",
    )


def disturb(part, kills, folder, rng):
    """Undisturbed, then killed `kills` times; True if nothing is lost and all ends alike."""
    whole, killed, log = folder / f"{part}_whole", folder / f"{part}_killed", folder / f"{part}.log"
    for path in (whole, killed):
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir(parents=True)
    start, work = run(part, whole, log)
    print(
        f"{part}: {start:.0f} s to the first finished file and {work:.0f} s more, undisturbed",
        flush=True,
    )

    done, faults, kept = 0, [], {}
    while done < kills:
        moment, orphans = (
            rng.uniform(0.8, 1.1) * start + rng.uniform(0, 2) * work / (kills + 1),
            rng.random() < 0.5,
        )
        left = run(part, killed, log, moment, orphans)
        if isinstance(left, tuple):  # it was too quick: once more from nothing
            shutil.rmtree(killed)
            killed.mkdir()
            kept = {}
            continue
        done += 1
        time.sleep(1 + 4 * orphans)
        faults += [f"{process} lives on" for process in left if writes_on(process)]
        for path in files(killed):
            try:
                open_whole(path)
            except Exception as error:
                faults.append(f"{path} is not whole: {error}")
        now = finished(killed)
        faults += [f"{path} was made again" for path in kept if now.get(path) != kept[path]]
        kept = now
        print(
            f"  kill {done} after {moment:.1f} s ({'group' if orphans else 'all'}): {len(kept)} files finished, {sum(1 for _ in killed.rglob('*.partial'))} partial",
            flush=True,
        )
    run(part, killed, log)
    now = finished(killed)
    faults += [f"{path} was made again" for path in kept if now.get(path) != kept[path]]
    one, other = (
        {
            name: content
            for name, content in contents(path).items()
            if not name.startswith((".dvc/", "dvc.lock", "data/timings/"))
            and "__pycache__" not in name
        }
        for path in (whole, killed)
    )
    faults += [
        f"{name} differs" for name in sorted({*one, *other}) if one.get(name) != other.get(name)
    ]
    faults += [f"{path} is left" for path in killed.rglob("*.partial")]
    for fault in faults:
        print(f"  FAULT: {fault}", flush=True)
    print(
        f"{part}: {done} kills, {len(kept)} finished files kept, {len(one)} files compared, {len(faults)} faults",
        flush=True,
    )
    return not faults


PARTS = dict(synthesis=5, training=5, reconstruction=3, study=7)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "folder",
        nargs="?",
        type=Path,
        default=ROOT / ".scratch" / "interrupt",
        help="where to work; default: .scratch/interrupt",
    )
    parser.add_argument("--parts", default=",".join(PARTS), help="some of %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--run", choices=PARTS, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.run:
        return globals()[asked.run](asked.folder.resolve())
    fine = [
        disturb(part, PARTS[part], asked.folder.resolve(), random.Random(f"{asked.seed} {part}"))
        for part in asked.parts.split(",")
    ]
    sys.exit(not all(fine))


if __name__ == "__main__":
    main()
