"""Jobs side by side, each in a process of one thread; finished ones are kept.

A job is a function of keyword arguments, its config, which has a `folder` of its own: `trainings`.
job.json there is its record (`files.digest`): what it is made with, at its end also its result.
"""

import inspect
import json
import multiprocessing
import os
import signal
import threading
from concurrent.futures import FIRST_EXCEPTION, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import torch

from e2far import data, files, morphable

with files.extra("study"):
    import pandas as pd

PACKAGE = Path(files.__file__).parent


def run_many(jobs, n_jobs=2, on_progress=None, *, function, resume=False):
    """Run `function(**config)` for each of `jobs`, name -> config, `n_jobs` at a time; returns
    name -> result. On CPUs two such processes train faster than one with two threads.

    on_progress: called every ten seconds, and at the end, with name -> DataFrame of the log so far
    resume: skip finished jobs, go on with unfinished ones of the same config
    Raises RuntimeError with the message of a job that failed; the others are then stopped.
    """
    folders = {name: config["folder"] for name, config in jobs.items()}
    if len(set(folders.values())) < len(jobs):
        raise ValueError("two jobs have the same folder: give each its own")
    is_done = lambda config: resume and is_finished(config, function)
    waiting = {name: config for name, config in jobs.items() if not is_done(config)}
    for config in waiting.values():
        _prepare(config, function, resume)

    def report():
        logs = {name: folder / "log.csv" for name, folder in folders.items()}
        if on_progress:
            on_progress({name: pd.read_csv(log) for name, log in logs.items() if log.exists()})

    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([function.__module__])  # torch is imported once
    line, held = context.Pipe(duplex=False)
    with ProcessPoolExecutor(n_jobs, context, _serve, (line,), max_tasks_per_child=1) as pool:
        try:
            names = {pool.submit(_run, function, config): name for name, config in waiting.items()}
            left = set(names)
            while left:
                done, left = wait(left, timeout=10, return_when=FIRST_EXCEPTION)
                report()
                for future in done:
                    if error := future.exception():
                        raise RuntimeError(f"job {names[future]} failed: {_told(error)}") from error
        except BaseException:  # Ctrl-C too
            held.close()  # ends the workers, for which the pool would wait
            raise
    report()
    return {name: _read_record(folder)["result"] for name, folder in folders.items()}


def _told(error):
    if isinstance(error, BrokenProcessPool):
        return "its process was killed, or one beside it, perhaps for lack of memory"
    return f"{type(error).__name__}: {error}"


def _serve(line):
    """Begin a worker, which ends with `line`: when its parent closes the other end, or is killed.

    One that outlived its parent would write beside that of the next run.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    torch.set_num_threads(1)
    threading.Thread(target=lambda: line.poll(None) and os._exit(1), daemon=True).start()


def _run(function, config):
    result = function(**config)
    _write_record(config["folder"], **_read_record(config["folder"]), result=result)


def is_finished(config, function):
    """Whether `run_many` with `resume` would read a job's result and not run it."""
    record = _read_record(config["folder"])
    return record.get("result") is not None and record["made_with"] == made_with(config, function)


def made_with(config, function):
    """What a job is known by: config, contents of the files that it starts from, its code."""
    paths = {*PACKAGE.glob("*.py"), Path(inspect.getfile(function))}
    if config.get("live"):
        paths |= {*PACKAGE.glob("synthesis/*.py"), *PACKAGE.glob("facemodels/*.py")}
    known = config | dict(inputs=inputs_digest(config), code=files.digest(*sorted(paths)))
    return json.loads(json.dumps(known, default=str))


def inputs_digest(config):
    """Sixteen hexadecimal digits that change with what is in the files of a config, whose paths may
    stay while a stage before it runs anew: face model, networks, settings of the shards."""
    given = [config[name] for name in ("faces", "model", "trunk", "start") if config.get(name)]
    found = []
    for path in (morphable.SHIPPED if name == "makehuman" else Path(name) for name in given):
        if path.is_file():
            found.append(files.digest(path, digits=64))
        for index in sorted(path.glob(f"*/{data.INDEX}")):
            header = data.read_header(data.shard_path(index.parent, 0))
            found.append([index.read_text(), header])
    return files.digest(json.dumps(found).encode())


def _prepare(config, function, resume):
    """Clear what another run left in a job's folder, unless it is resumed; note the config."""
    folder, now = config["folder"], made_with(config, function)
    if resume and _read_record(folder).get("made_with") == now:
        return
    # job.json first: killed in between, nothing says that it is finished.
    for name in ("job.json", "checkpoint.pt", "log.csv"):
        (folder / name).unlink(missing_ok=True)
    _write_record(folder, made_with=now)


def _read_record(folder):
    path = folder / "job.json"
    return json.loads(path.read_text()) if path.exists() else {}


def _write_record(folder, **record):
    with files.replacing(folder / "job.json") as partial:
        partial.write_text(json.dumps(record, default=float))
