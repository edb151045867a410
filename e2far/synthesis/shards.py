"""Writing data sets: shards of synthetic pictures, by processes of this machine or a Dask cluster.

A shard is a pure function of its settings (`job`), which its header holds: the bytes are the same
either way. A rerun reads headers alone, and makes what is missing or was made with other settings
or other code.
"""

import functools
import itertools
import json
import platform
from collections.abc import Callable
from concurrent.futures import CancelledError
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from pathlib import Path
from uuid import uuid4

import torch

from e2far import camera, data, files, morphable, raster
from e2far.facemodels import arkit, load_face_model
from e2far.synthesis.studio import SPLITS, Studio, photograph_many

with files.extra("study"):
    import joblib

MODEL = "model.npz"  # the face model of a split, in its folder
SHOWING = ("figures", "summary")  # modules that draw no picture of a data set
AGAIN = "finished shards are kept: remove the cause and run again"
MEMORY = "were killed again and again, perhaps for lack of memory: lower shard_size"
LOCAL = "set scheduler: null to work on this machine"


@dataclass(frozen=True)
class Work:
    """How a split is made, which changes none of its pictures."""

    shard_size: int = 1000
    n_jobs: int = 2  # processes of this machine
    scheduler: str | None = None  # or a Dask scheduler, "tcp://host:port", for all its workers
    progress: Callable = lambda shards, total: shards  # wraps their iterator, e.g. tqdm


def write_split(model, folder, split, people, pictures, *, size, seed, **settings):
    """Write `people` x `pictures` photos of one split to `folder`/`split`, for `data.Faces`.

    Finished shards of the same settings are kept. Returns the paths of those that were made.

    model: name or path of a face model; the split keeps a copy, which workers read    size: px
    folder: one that all workers share    settings: fields of `Work`, other arguments of `Studio`

    Raises RuntimeError naming the shard that could not be made; finished shards stay, and no file
    has a shard's name before it is whole.
    """
    if split not in SPLITS:
        raise ValueError(f"split {split!r}: choose one of {', '.join(SPLITS)}")
    names = {field.name for field in fields(Work)} & set(settings)
    work = Work(**{name: settings.pop(name) for name in names})
    model, folder = load_face_model(model), (Path(folder) / split).resolve()
    total = people * pictures
    count = -(-total // work.shard_size)
    (folder / data.INDEX).unlink(missing_ok=True)  # unfinished from here on
    sweep(folder, count)
    # Choice: the face model travels through the shared folder, neither with each task nor through
    # the cluster's memory, which forgets when a worker dies.
    model.save(folder / MODEL)
    kept = model_version(load_face_model(folder / MODEL))
    common = dict(model=kept, code=code_version(), seed=seed, split=split, pictures=pictures)
    common |= dict(size=size, studio=settings)

    def job(number):
        """Path and settings of one shard: all that a worker needs to be told."""
        first = number * work.shard_size
        own = dict(first=first, count=min(work.shard_size, total - first))
        return data.shard_path(folder, number), common | own

    missing = [number for number in range(count) if not is_finished(*job(number))]
    make, workers = (on_cluster, work.scheduler) if work.scheduler else (here, work.n_jobs)
    made = list(work.progress(make(job, missing, workers), len(missing)))
    sweep(folder, count)
    data.write_index(folder, total, work.shard_size)
    return made


def make_shard(path, job):
    """Make the shard that `job` describes, whole or not at all, on a worker. Returns its path."""
    try:
        if not is_finished(path, job):
            settings = {key: job[key] for key in ("model", "code", "size", "studio")}
            studio = open_studio(path.parent.parent / MODEL, json.dumps(settings))
            numbers = range(job["first"], job["first"] + job["count"])
            places = [divmod(number, job["pictures"]) for number in numbers]
            columns = photograph_many(studio, job["seed"], job["split"], places)
            data.write_shard(path, columns, header(job))
    except Exception as error:
        reason = f"{type(error).__name__}: {error}"
        text = f"{path} could not be made on {platform.node()} ({reason}); {AGAIN}"
        raise RuntimeError(text) from error
    return path


@functools.lru_cache(maxsize=2)
def open_studio(path, settings):
    """The Studio of `settings` (JSON), one a process, from the face model at `path`.

    Refuses another model or other code than the shards' headers will name.
    """
    settings = json.loads(settings)
    if not path.exists():
        raise FileNotFoundError(f"no {path} here: write to a folder that all workers share")
    model = load_face_model(path)
    if settings["model"] != model_version(model):
        raise ValueError(f"{path} has changed meanwhile: let one run at a time write to a folder")
    if settings["code"] != code_version():
        raise ValueError("the worker's e2far is not yours: install the same on all machines")
    torch.set_num_threads(1)
    return Studio(model, settings["size"], **settings["studio"])


def here(job, numbers, n_jobs):
    """Paths of the shards `numbers` as processes of this machine finish them.

    When one is killed, new ones make what is left.
    """
    left, failures = {job(number)[0]: number for number in numbers}, 0
    while left:
        before = len(left)
        # Drawn from the generator as processes come free: few wait at a time.
        tasks = (joblib.delayed(make_shard)(*job(number)) for number in list(left.values()))
        try:
            for path in joblib.Parallel(n_jobs, return_as="generator_unordered")(tasks):
                del left[path]
                yield path
        except BrokenProcessPool as error:
            failures = 1 if len(left) < before else failures + 1
            if failures > 3:
                killed = f"{next(iter(left))}, or one soon after it, could not be made: processes"
                raise RuntimeError(f"{killed} {MEMORY} or n_jobs; {AGAIN}") from error


def on_cluster(job, numbers, scheduler, timeout_s=10):
    """Paths of the shards `numbers` as workers of a Dask cluster finish them; they come and go."""
    with files.extra("cluster"):
        from dask.distributed import Client, KilledWorker, as_completed
    try:
        client = Client(scheduler, timeout=timeout_s, set_as_default=False)
    except (OSError, ValueError) as error:
        start = "start one with `dask scheduler`"
        raise OSError(f"no Dask scheduler answers at {scheduler}: {start}, or {LOCAL}") from error
    waiting = iter(numbers)

    def submit(running):
        """Tasks for workers that join, few enough for any number of shards to wait."""
        room = max(16, 2 * sum(client.ncores().values())) - running
        jobs = [job(number) for number in itertools.islice(waiting, max(0, room))]
        return [client.submit(make_shard, *one, key=f"{one[0]} {uuid4().hex}") for one in jobs]

    # Choice: not joblib's Dask back-end, which waits for ever when a task has killed all workers
    # that tried it, and uses no worker that joins later.
    with client:
        try:
            running = as_completed(submit(0), loop=client.loop)
            for future in running:
                yield future.result()
                running.update(submit(running.count()))
        except KilledWorker as error:
            killed = f"{future.key.rsplit(' ', 1)[0]} could not be made: workers"
            raise RuntimeError(f"{killed} {MEMORY}; {AGAIN}") from error
        except (CancelledError, OSError) as error:
            raise RuntimeError(f"the Dask scheduler at {scheduler} was lost; {AGAIN}") from error


def header(job):
    """What a shard's header holds of its `job`: it is the shard's record (`files.digest`)."""
    return dict(made_with=json.dumps(job, sort_keys=True))


def is_finished(path, job):
    """Whether there is a whole shard at `path`, made with the settings `job`."""
    return data.read_header(path) == header(job)


def sweep(folder, count):
    """Remove what other runs left: shards past the first `count`, unfinished and foreign files."""
    wanted = {data.shard_path(folder, number) for number in range(count)}
    for path in folder.rglob("shard-*"):
        if path not in wanted:
            path.unlink(missing_ok=True)


def model_version(model):
    """Sixteen hexadecimal digits that change with any number of the face model."""
    values = [*model.buffers(), *model.attributes.values()]
    return files.digest(*(value.numpy().tobytes() for value in values))


def code_version():
    """Sixteen hexadecimal digits that change with the source of all that draws a picture."""
    core = [Path(module.__file__) for module in (arkit, camera, morphable, raster)]
    own = [path for path in Path(__file__).parent.glob("*.py") if path.stem not in SHOWING]
    return files.digest(*sorted([*own, *core]))
