"""Whole trainings as jobs: built, trained, measured and saved, several side by side, each in a process of one thread."""
import json
import multiprocessing
import multiprocessing.connection
import sys
import traceback
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from safetensors.torch import load_file

from e2far import camera, data, losses, morphable, training as trainer
from e2far.network import E2FAR, Recognizer, load_trunk, save_network, save_trunk


def train_job(*, folder, faces, model, network, training, seed, trunk=None, pretraining=None, test="test"):
    """Build, train and measure one E2FAR; a job for `run_many`. Returns the `summary` on the split `test`.

    folder: gets network.safetensors, log.csv and evaluation.npz (arrays of `evaluate`)    faces: folder of the splits    model: name or path of a face model
    network: arguments of E2FAR but for the numbers of coefficients    training: arguments of `fit`    trunk: file of `save_trunk` to start from
    pretraining: None, or arguments of `pretrain`: a recogniser is then trained first, in folder/recogniser, and its trunk is the start
    """
    if pretraining:
        trunk = Path(folder) / "recogniser" / "trunk.safetensors"
        if not trunk.exists():
            plain = {key: value for key, value in network.items() if key != "fused"}
            pretrain_job(folder=trunk.parent, faces=faces, network=plain, training=pretraining, seed=seed)
    folder, faces, model = Path(folder), Path(faces), morphable.load_face_model(model)
    torch.manual_seed(seed)
    net = E2FAR(model.n_identity, model.n_expression, **network)
    if trunk:
        load_trunk(net, trunk)
    checkpoint = folder / "checkpoint.pt"
    trainer.fit(net, model, data.Faces(faces / "train"), data.Faces(faces / "validation"), seed=seed, log=folder / "log.csv", checkpoint=checkpoint, progress=False, **training)
    errors = trainer.evaluate(net, model, data.Faces(faces / test))
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=seed)
    with data.replacing(folder / "evaluation.npz") as partial, open(partial, "wb") as file:
        np.savez(file, **errors)
    checkpoint.unlink(missing_ok=True)
    return trainer.summary(errors)


def variant_job(*, folder, faces, model, network, trunk, frozen, tuned, training, seed, features=None, test="test"):
    """An E2FAR on the trunk of the file `trunk`: heads alone, measured, then everything, measured again; a job for `run_many`. Returns a `summary` of each phase.

    frozen, tuned: the two phases    features: file of `store_features` for the frozen phase, None to compute them again and again    others as for `train_job`
    """
    folder, faces, model = Path(folder), Path(faces), morphable.load_face_model(model)
    torch.manual_seed(seed)
    net, found = E2FAR(model.n_identity, model.n_expression, **network), {}
    load_trunk(net, trunk)
    for name, phase, stored in (("frozen", frozen, load_file(features) if features else None), ("tuned", tuned, None)):
        trainer.fit(net, model, data.Faces(faces / "train"), data.Faces(faces / "validation"), phases=[phase], features=stored, seed=seed, log=folder / "log.csv", progress=False, **training)
        found[name] = trainer.summary(trainer.evaluate(net, model, data.Faces(faces / test)))
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=seed)
    return found


def pretrain_job(*, folder, faces, network, training, seed):
    """Train a Recognizer on the split `people`; a job for `run_many`. Writes trunk.safetensors and log.csv to `folder`; returns the last row of the log.

    network: arguments of Recognizer but for the number of people    training: arguments of `pretrain`
    """
    folder, people = Path(folder), data.Faces(Path(faces) / "people")
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    recognizer = Recognizer(len(people.person.unique()), **network)
    checkpoint = folder / "checkpoint.pt"
    log = trainer.pretrain(recognizer, people, seed=seed, log=folder / "log.csv", checkpoint=checkpoint, progress=False, **training)
    save_trunk(recognizer, folder / "trunk.safetensors")
    checkpoint.unlink(missing_ok=True)
    return log.iloc[-1].to_dict()


def run_many(jobs, n_jobs=2, on_progress=None, *, function=train_job, resume=False):
    """Run `function(**config)` for each of `jobs`, name -> config, `n_jobs` at a time, each in a process of one thread; returns name -> result.

    On CPUs two such processes train faster than one with two threads. Every config has its own `folder`; job.json there keeps config and result (JSON values).
    on_progress: called every ten seconds with name -> DataFrame of the log so far    resume: skip finished jobs of the same config, go on with unfinished ones
    Raises RuntimeError with the message of a job that failed; the others are then stopped.
    """
    context = multiprocessing.get_context("forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn")
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])             # torch is imported once, not by every job
    folders = {name: Path(config["folder"]) for name, config in jobs.items()}
    if len(set(folders.values())) < len(jobs):
        raise ValueError("two jobs have the same folder: give each its own")
    waiting = [name for name in jobs if not (resume and _result(jobs[name]) is not None)]
    running = {}

    def report():
        if on_progress:
            on_progress({name: pd.read_csv(folder / "log.csv") for name, folder in folders.items() if (folder / "log.csv").exists()})

    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                name = waiting.pop(0)
                _prepare(jobs[name], resume)
                running[name] = context.Process(target=_run_job, args=(function, jobs[name]), daemon=True)
                running[name].start()
            multiprocessing.connection.wait([process.sentinel for process in running.values()], timeout=10)
            report()
            for name in [name for name, process in running.items() if not process.is_alive()]:
                if running.pop(name).exitcode:
                    details = folders[name] / "error.txt"
                    reason = details.read_text().splitlines()[0] if details.exists() else "its process was killed, perhaps for lack of memory"
                    raise RuntimeError(f"job {name} failed: {reason} (details in {details})")
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    report()
    return {name: _result(config) for name, config in jobs.items()}


def _as_json(config):
    """What a job is known by: its config and the code that runs it."""
    code = data.source_version(sys.modules[__name__], camera, data, losses, morphable, trainer, sys.modules[E2FAR.__module__])
    return json.loads(json.dumps(config | dict(code=code), default=str))


def _result(config):
    """Result of a finished job of this config, else None."""
    path = Path(config["folder"]) / "job.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    return stored.get("result") if stored.get("config") == _as_json(config) else None


def _prepare(config, resume):
    """Clear what another run of the job left, unless it is of the same config and to be resumed; note the config."""
    folder = Path(config["folder"])
    path = folder / "job.json"
    same = resume and path.exists() and json.loads(path.read_text())["config"] == _as_json(config)
    for name in ("error.txt",) if same else ("error.txt", "checkpoint.pt", "log.csv", "recogniser/checkpoint.pt", "recogniser/log.csv", "recogniser/trunk.safetensors"):
        (folder / name).unlink(missing_ok=True)
    with data.replacing(path) as partial:
        partial.write_text(json.dumps(dict(config=_as_json(config))))


def _run_job(function, config):
    """In a process of its own: one thread, the result to job.json, or the error to error.txt."""
    torch.set_num_threads(1)
    folder = Path(config["folder"])
    try:
        result = function(**config)
        with data.replacing(folder / "job.json") as partial:
            partial.write_text(json.dumps(dict(config=_as_json(config), result=result), default=float))
    except Exception as error:
        (folder / "error.txt").write_text(f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}")
        sys.exit(1)
