"""Writing data sets: shards of synthetic pictures, made by processes of this machine or by a Dask cluster, the same bytes either way.

A shard is a pure function of its settings (`job`), which its header holds: a rerun reads headers alone, and makes what is missing or was made with other settings or other code.
"""

import functools
import hashlib
import itertools
import json
import platform
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from uuid import uuid4

import joblib
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from e2far import camera, data, files, morphable, raster
from e2far.facemodels import arkit, load_face_model
from e2far.synthesis import colour, develop, painter, people, scenes, studio, wardrobe
from e2far.synthesis.studio import SPLITS, Studio

MODEL = "model.npz"  # the face model of a split, in its folder


def write_split(
    model,
    folder,
    split,
    people,
    pictures,
    *,
    size,
    seed,
    shard_size=1000,
    n_jobs=2,
    scheduler=None,
    progress=lambda jobs, total: jobs,
    **studio,
):
    """Write `people` x `pictures` photos of one split to `folder`/`split`, for `data.Faces`; finished shards of the same settings are kept.

    model: name or path of a face model; the split keeps a copy, which is what workers read    size: px    studio: other settings of `studio.Studio`
    scheduler: None for `n_jobs` processes of this machine, or the address of a Dask scheduler, "tcp://host:port", for all its workers; `folder` is then one that they share
    progress: wraps the iterator of shards as they are made, e.g. tqdm    returns: paths of the shards that were made, those kept left out

    Raises RuntimeError naming the shard that could not be made; finished shards stay, and no file has a shard's name before it is whole.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    folder, total, model = (
        (Path(folder) / split).resolve(),
        people * pictures,
        load_face_model(model),
    )
    count = -(-total // shard_size)
    (folder / data.INDEX).unlink(missing_ok=True)  # unfinished from here on
    sweep(folder, count)
    # Choice: the face model travels through the shared folder, neither with each task nor through the cluster's memory, which forgets when a worker dies.
    model.save(folder / MODEL)
    settings = dict(
        model=fingerprint(load_face_model(folder / MODEL)),
        code=code_version(),
        seed=seed,
        split=split,
        pictures=pictures,
        size=size,
        studio=studio,
    )

    def job(number):
        """Path and settings of one shard: all that a worker needs to be told."""
        first = number * shard_size
        return data.shard_path(folder, number), settings | dict(
            first=first, count=min(shard_size, total - first)
        )

    missing = [number for number in range(count) if not finished(*job(number))]
    made = on_cluster(job, missing, scheduler) if scheduler else here(job, missing, n_jobs)
    made = list(progress(made, len(missing)))
    sweep(folder, count)
    data.write_index(folder, total, shard_size)
    return made


def make_shard(path, job):
    """Make the shard that `job` describes, whole or not at all; runs on workers. Returns its path."""
    try:
        if not finished(path, job):
            studio = open_studio(
                path.parent.parent / MODEL,
                json.dumps({key: job[key] for key in ("model", "code", "size", "studio")}),
            )
            numbers = range(job["first"], job["first"] + job["count"])
            rows = [
                studio.photograph(
                    job["seed"], job["split"], number // job["pictures"], number % job["pictures"]
                )
                for number in numbers
            ]
            data.write_shard(
                path,
                {
                    name: torch.from_numpy(np.array([row[name] for row in rows]))
                    for name in ("image", *data.LABELS)
                },
                header(job),
            )
    except Exception as error:
        raise RuntimeError(
            f"{path} could not be made on {platform.node()} ({type(error).__name__}: {error}); finished shards are kept: remove the cause and run again"
        ) from error
    return path


@functools.lru_cache(maxsize=2)
def open_studio(path, settings):
    """The Studio of `settings` (JSON), one a process, from the face model at `path`; refuses another model or other code than the shards' headers will name."""
    settings = json.loads(settings)
    if not path.exists():
        raise FileNotFoundError(
            f"{path} is not seen here: write to a folder that all workers share"
        )
    model = load_face_model(path)
    if settings["model"] != fingerprint(model):
        raise ValueError(f"{path} has changed meanwhile: let one run at a time write to a folder")
    if settings["code"] != code_version():
        raise ValueError(
            "the worker's e2far is another version than yours: install the same on all machines"
        )
    torch.set_num_threads(1)
    return Studio(model, settings["size"], **settings["studio"])


def here(job, numbers, n_jobs):
    """Paths of the shards `numbers` as processes of this machine finish them; when one is killed, new ones make what is left."""
    left, failures = {job(number)[0]: number for number in numbers}, 0
    while left:
        before = len(left)
        try:
            # Jobs are drawn from the generator as processes come free: few wait at a time.
            for path in joblib.Parallel(n_jobs, return_as="generator_unordered")(
                joblib.delayed(make_shard)(*job(number)) for number in list(left.values())
            ):
                del left[path]
                yield path
        except BrokenProcessPool as error:
            failures = 1 if len(left) < before else failures + 1
            if failures > 3:
                raise RuntimeError(
                    f"processes were killed {failures} times in a row, perhaps for lack of memory, at {next(iter(left))} or soon after it; "
                    "finished shards are kept: lower n_jobs or shard_size and run again"
                ) from error


def on_cluster(job, numbers, scheduler, timeout_s=10):
    """Paths of the shards `numbers` as the workers of a Dask cluster finish them; workers may come and go meanwhile."""
    try:
        from dask.distributed import Client, KilledWorker, as_completed
    except ImportError:
        raise ImportError(
            f"scheduler {scheduler} needs Dask: `pip install -e '.[cluster]'` in e2far's folder, or set scheduler: null to work on this machine"
        ) from None
    try:
        client = Client(scheduler, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError) as error:
        raise OSError(
            f"no Dask scheduler answers at {scheduler}: start one with `dask scheduler`, or set scheduler: null to work on this machine"
        ) from error

    def submit(number):
        path, settings = job(number)
        return client.submit(make_shard, path, settings, key=f"{path} {uuid4().hex}")

    def room():
        """Tasks in flight: enough that workers that join find some, few enough for any number of shards."""
        return max(16, 2 * sum(client.ncores().values()))

    # Choice: not joblib's Dask back-end, which waits for ever when a task has killed all workers that tried it, and uses no worker that joins later.
    with client:
        try:
            waiting = iter(numbers)
            running = as_completed(
                [submit(number) for number in itertools.islice(waiting, room())], loop=client.loop
            )
            for future in running:
                yield future.result()
                running.update(
                    [
                        submit(number)
                        for number in itertools.islice(waiting, max(0, room() - running.count()))
                    ]
                )
        except KilledWorker as error:
            raise RuntimeError(
                f"{future.key.rsplit(' ', 1)[0]} could not be made: all workers that tried were killed, perhaps for lack of memory; "
                "finished shards are kept: lower shard_size and run again"
            ) from error
        except (CancelledError, OSError) as error:
            raise RuntimeError(
                f"the Dask scheduler at {scheduler} was lost; finished shards are kept: start it and run again"
            ) from error


def header(job):
    return dict(settings=json.dumps(job, sort_keys=True))


def read_header(path):
    """The settings a finished shard was made with, or None where there is no whole shard at `path`."""
    try:
        with safe_open(path, "pt") as shard:
            return shard.metadata()
    except (SafetensorError, OSError):
        return None


def finished(path, job):
    return read_header(path) == header(job)


def sweep(folder, count):
    """Remove what other runs left: shards past the first `count`, unfinished files, the flat layout of old."""
    for path in itertools.chain(folder.glob("shard-*"), folder.glob("*/shard-*")):
        number = path.name.removeprefix("shard-").removesuffix(".safetensors")
        if not (
            number.isdigit()
            and int(number) < count
            and path == data.shard_path(folder, int(number))
        ):
            path.unlink(missing_ok=True)


def fingerprint(model):
    """Sixteen hexadecimal digits that change with any number of the face model."""
    return hashlib.sha256(
        b"".join(
            values.numpy().tobytes() for values in [*model.buffers(), *model.attributes.values()]
        )
    ).hexdigest()[:16]


def code_version():
    """`files.source_version` of all that draws a picture."""
    return files.source_version(
        arkit, camera, colour, develop, morphable, painter, people, raster, scenes, studio, wardrobe
    )
