"""Whole trainings as jobs: built, trained, measured and saved, several side by side, each in a process of one thread."""

import functools
import hashlib
import json
import multiprocessing.connection
import os
import sys
import threading
import traceback
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from lightning_fabric import Fabric
from lightning_fabric.strategies import DDPStrategy
from safetensors.torch import load_file

from e2far import (
    augmentation,
    camera,
    data,
    evaluation,
    facemodels,
    files,
    losses,
    morphable,
    network,
    raster,
    trunks,
    vggface,
    weights,
)
from e2far import training as trainer
from e2far.network import E2FAR, Recognizer
from e2far.synthesis import live as live_faces
from e2far.synthesis import shards
from e2far.synthesis.live import LiveFaces
from e2far.recipes import auto_precision
from e2far.training import fit, pretrain
from e2far.weights import begin, fill_trunk, save_network, save_trunk


def settings(p, faces):
    """What the blocks `training` of params.yaml (`params.load`) say, as arguments: dicts `network` of E2FAR, `training` of `fit`, `recognition` of `pretrain`. faces: data.Faces, for the size of pictures"""
    common = {
        name: getattr(p, name)
        for name in (
            "batch_size",
            "optimizer",
            "weight_decay",
            "clip",
            "precision",
            "log_every",
            "validate_every",
            "checkpoint_every",
        )
    } | dict(augment=p.augmentation)
    return SimpleNamespace(
        network=dict(
            image_size=faces.image_size,
            width=p.width,
            batch_norm=p.batch_norm,
            fused=p.fused,
            trunk=p.trunk,
        ),
        training=common
        | dict(ema=p.ema, expression_weight=p.expression_weight, pose_weight=p.pose_weight),
        recognition=common
        | dict(
            steps=p.pretrain["steps"], learning_rate=p.pretrain["rate"], warmup=p.pretrain["warmup"]
        ),
    )


def live_settings(p, synthesis):
    """Arguments of `live.LiveFaces` for the blocks `training` and `synthesis` of params.yaml."""
    return dict(
        seed=p.seed,
        **{name: getattr(synthesis, name) for name in ("yaw_deg", "pitch_deg", "roll_deg")},
        **(p.live or {}),
    )


def train_job(
    *,
    folder,
    faces,
    model,
    network,
    training,
    seed,
    trunk=None,
    start=None,
    live=None,
    accelerator="cpu",
    devices=1,
    progress=False,
    test="test",
):
    """Build, train and measure one E2FAR; a job for `run_many`. Returns the `summary` on the split `test` (None in all processes but the first).

    folder: gets network.safetensors, log.csv and evaluation.npz (arrays of `evaluate`)    faces: folder of the splits, whose pictures are reduced to the network's size    model: name or path of a face model
    network: arguments of E2FAR but for the numbers of coefficients    training: arguments of `fit`    seed: of weights and of the order of pictures
    trunk: file of `save_trunk`, or of VGG-16 (`vggface`), to start from    start: file of `save_network` to start from, all of it    live: None, or arguments of `live.LiveFaces`, which then takes the place of the split "train"
    accelerator, devices: of lightning_fabric.Fabric; "auto" takes what there is    progress: show a bar
    """
    origin = _inputs(dict(faces=faces, model=model, trunk=trunk, start=start))
    folder, faces, model = Path(folder), Path(faces), facemodels.load_face_model(model)
    fabric, size = (
        open_fabric(accelerator, devices, training.get("precision", "32-true")),
        network["image_size"],
    )
    torch.manual_seed(seed)
    net = E2FAR(model.n_identity, model.n_expression, **network)
    if start:
        net.load_state_dict(begin(start, net).state_dict())
    elif trunk:
        fill_trunk(net, trunk)
    checkpoint, options = (
        folder / "checkpoint.pt",
        {key: value for key, value in training.items() if key != "precision"},
    )
    pictures = LiveFaces(model, size, **live) if live else data.Faces(faces / "train", size)
    with pictures if live else nullcontext():  # ty: ignore[invalid-context-manager]
        fit(
            net,
            model,
            pictures,
            data.Faces(faces / "validation", size),
            seed=seed,
            log=folder / "log.csv",
            checkpoint=checkpoint,
            fabric=fabric,
            origin=origin,
            progress=progress,
            **options,
        )
    if not fabric.is_global_zero:
        return None
    errors = evaluation.evaluate(net, model, data.Faces(faces / test, size))
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=seed)
    with files.replacing(folder / "evaluation.npz") as partial, open(partial, "wb") as file:
        np.savez(file, **errors)
    checkpoint.unlink(missing_ok=True)
    return evaluation.summary(errors)


def open_fabric(accelerator, devices, precision):
    """A launched Fabric on `devices` of this machine ("auto": all GPUs, or one process on a CPU), or in the processes that torchrun or SLURM has started; they share each batch (DDP)."""
    if accelerator not in ("auto", "cpu", "cuda", "gpu"):
        raise ValueError(f"accelerator {accelerator!r}: choose auto, cpu or cuda")
    kind = (
        "cuda"
        if accelerator in ("cuda", "gpu") or accelerator == "auto" and torch.cuda.is_available()
        else "cpu"
    )
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError("torch finds no CUDA device here: choose accelerator cpu, or auto")
    nodes = int(os.environ.get("GROUP_WORLD_SIZE", os.environ.get("SLURM_NNODES", "1")))
    count = int(os.environ.get("LOCAL_WORLD_SIZE", "0")) or (
        int(devices) if devices != "auto" else torch.cuda.device_count() if kind == "cuda" else 1
    )
    # Choice: a frozen trunk takes no part in a step, which DDP has to be told.
    fabric = Fabric(
        accelerator=kind,
        devices=count,
        num_nodes=nodes,
        precision=auto_precision(precision, kind),
        strategy=DDPStrategy(find_unused_parameters=True) if count * nodes > 1 else "auto",
    )
    fabric.launch()
    return fabric


def variant_job(
    *, folder, faces, model, network, trunk, phases, training, seed, features=None, test="test"
):
    """Heads on the trunk of the file `trunk`: first alone, on a frozen trunk, then on from there with the trunk tuned in several ways; a job for `run_many`. Returns a `summary` after each of `phases`.

    phases: name -> Phase or dict of its fields; the first has no trunk rate, each of the others starts where the first ended    features: file of `store_features` for the first, None to compute them again and again
    Writes a network of each, `folder`/name.safetensors. Others as for `train_job`.
    """
    folder, faces, model, size = (
        Path(folder),
        Path(faces),
        facemodels.load_face_model(model),
        network["image_size"],
    )
    torch.manual_seed(seed)
    net, train, judged, found, begun = (
        E2FAR(model.n_identity, model.n_expression, **network),
        data.Faces(faces / "train", size),
        data.Faces(faces / test, size),
        {},
        None,
    )
    fill_trunk(net, trunk)
    stored = (
        {
            layer: values
            for layer, values in load_file(features).items()
            if layer in {"pool5", *(net.fused or ())}
        }
        if features
        else None
    )
    for name, phase in phases.items():
        if begun:
            net.load_state_dict(begun)
        fit(
            net,
            model,
            train,
            None,
            phases=[phase],
            features=None if begun else stored,
            seed=seed,
            progress=False,
            **training,
        )
        found[name] = evaluation.summary(evaluation.evaluate(net, model, judged))
        save_network(
            net, folder / f"{name}.safetensors", half=True, face_model=model.name, seed=seed
        )
        begun = begun or {key: value.clone() for key, value in net.state_dict().items()}
    return found


def features_job(*, folder, faces, network, trunk, path, layers, limit=None):
    """Write what `layers` of the trunk of the file `trunk` answer for the first `limit` of the split "train" to `path` (`evaluation.store_features`), which it returns; a job for `run_many`."""
    net = E2FAR(**network)
    fill_trunk(net, trunk)
    evaluation.store_features(
        net, data.Faces(Path(faces) / "train", network["image_size"]), path, layers, limit
    )
    return str(path)


def pretrain_job(
    *,
    folder,
    faces,
    network,
    training,
    seed,
    people="people",
    trunk=None,
    accelerator="cpu",
    devices=1,
    progress=False,
):
    """Train a Recognizer on the split `people`; a job for `run_many`. Writes network.safetensors, trunk.safetensors and log.csv to `folder`; returns the last row of the log.

    network: arguments of Recognizer but for the number of people    training: arguments of `pretrain`    others as for `train_job`
    """
    origin, folder, people = (
        _inputs(dict(faces=faces, trunk=trunk)),
        Path(folder),
        data.Faces(Path(faces) / people, network["image_size"]),
    )
    fabric = open_fabric(accelerator, devices, training.get("precision", "32-true"))
    torch.manual_seed(seed)
    recognizer = Recognizer(len(people.person.unique()), **network)
    if trunk:
        fill_trunk(recognizer, trunk)
    checkpoint, options = (
        folder / "checkpoint.pt",
        {key: value for key, value in training.items() if key != "precision"},
    )
    log = pretrain(
        recognizer,
        people,
        seed=seed,
        log=folder / "log.csv",
        checkpoint=checkpoint,
        fabric=fabric,
        origin=origin,
        progress=progress,
        **options,
    )
    if not fabric.is_global_zero:
        return None
    save_network(recognizer, folder / "network.safetensors", seed=seed)
    save_trunk(recognizer, folder / "trunk.safetensors")
    checkpoint.unlink(missing_ok=True)
    return log.iloc[-1].to_dict()


def run_many(jobs, n_jobs=2, on_progress=None, *, function=train_job, resume=False):
    """Run `function(**config)` for each of `jobs`, name -> config, `n_jobs` at a time, each in a process of one thread; returns name -> result.

    On CPUs two such processes train faster than one with two threads. Every config has its own `folder`; job.json there keeps config and result (JSON values).
    on_progress: called every ten seconds with name -> DataFrame of the log so far    resume: skip finished jobs of the same config, go on with unfinished ones
    Raises RuntimeError with the message of a job that failed; the others are then stopped.
    """
    context = multiprocessing.get_context(
        "forkserver" if "forkserver" in multiprocessing.get_all_start_methods() else "spawn"
    )
    if context.get_start_method() == "forkserver":
        context.set_forkserver_preload([__name__])  # torch is imported once, not by every job
    folders = {name: Path(config["folder"]) for name, config in jobs.items()}
    if len(set(folders.values())) < len(jobs):
        raise ValueError("two jobs have the same folder: give each its own")
    waiting = [name for name in jobs if not (resume and finished(jobs[name], function))]
    running = {}

    def report():
        if on_progress:
            on_progress(
                {
                    name: pd.read_csv(folder / "log.csv")
                    for name, folder in folders.items()
                    if (folder / "log.csv").exists()
                }
            )

    try:
        while waiting or running:
            while waiting and len(running) < n_jobs:
                name = waiting.pop(0)
                _prepare(jobs[name], resume, function)
                # One that makes its faces as it goes has workers, which a daemon may not have.
                running[name] = context.Process(
                    target=_run_job, args=(function, jobs[name]), daemon=not jobs[name].get("live")
                )  # ty: ignore[missing-attribute]
                running[name].start()
            multiprocessing.connection.wait(
                [process.sentinel for process in running.values()], timeout=10
            )
            report()
            for name in [name for name, process in running.items() if not process.is_alive()]:
                if running.pop(name).exitcode:
                    details = folders[name] / "error.txt"
                    reason = (details.read_text() if details.exists() else "").split("\n")[
                        0
                    ] or "its process was killed, perhaps for lack of memory, or its disk is full"
                    raise RuntimeError(f"job {name} failed: {reason} (details in {details})")
    finally:
        for process in running.values():
            process.terminate()
            process.join()
    report()
    return {name: _result(config, function) for name, config in jobs.items()}


def _as_json(config, function):
    """What a job is known by: its config, what is in the files that it starts from, and the code that runs it."""
    code = files.source_version(
        sys.modules[function.__module__],
        sys.modules[__name__],
        augmentation,
        camera,
        data,
        evaluation,
        files,
        live_faces,
        losses,
        morphable,
        network,
        raster,
        trainer,
        trunks,
        vggface,
        weights,
    )
    return json.loads(
        json.dumps(
            config
            | dict(inputs=_inputs(config), code=code)
            | (dict(pictures=shards.code_version()) if config.get("live") else {}),
            default=str,
        )
    )


def _inputs(config):
    """Sixteen hexadecimal digits that change with what is in the files of a config, whose paths may stay while a stage before it runs anew: networks, face model, settings of the shards."""
    found = []
    for path in (
        morphable.SHIPPED if config[name] == "makehuman" else Path(config[name])
        for name in ("faces", "model", "trunk", "start")
        if config.get(name)
    ):
        found += (
            [_digest(path, path.stat().st_mtime_ns)]
            if path.is_file()
            else [
                [index.read_text(), shards.read_header(data.shard_path(index.parent, 0))]
                for index in sorted(path.glob(f"*/{data.INDEX}"))
            ]
        )
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()[:16]


@functools.lru_cache(100)
def _digest(path, _):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def finished(config, function=train_job):
    """Whether a job `function` of this config, and of today's code, has been done: `run_many` with `resume` would read it and not run it."""
    return _result(config, function) is not None


def _result(config, function):
    """Result of a finished job of this config, else None."""
    path = Path(config["folder"]) / "job.json"
    stored = json.loads(path.read_text()) if path.exists() else {}
    return stored.get("result") if stored.get("config") == _as_json(config, function) else None


def _prepare(config, resume, function):
    """Clear what another run of the job left, unless it is of the same config and to be resumed; note the config."""
    folder = Path(config["folder"])
    path = folder / "job.json"
    same = (
        resume
        and path.exists()
        and json.loads(path.read_text())["config"] == _as_json(config, function)
    )
    for name in (
        ("error.txt",) if same else ("job.json", "error.txt", "checkpoint.pt", "log.csv")
    ):  # job.json first: killed in between, nothing says that it is finished
        (folder / name).unlink(missing_ok=True)
    with files.replacing(path) as partial:
        partial.write_text(json.dumps(dict(config=_as_json(config, function))))


def _run_job(function, config):
    """In a process of its own: one thread, the result to job.json, or the error to error.txt."""
    # Choice: one that outlived its parent would write beside that of the next run.
    if parent := multiprocessing.parent_process():
        threading.Thread(target=lambda: (parent.join(), os._exit(1)), daemon=True).start()
    torch.set_num_threads(1)
    folder = Path(config["folder"])
    try:
        result = function(**config)
        with files.replacing(folder / "job.json") as partial:
            partial.write_text(
                json.dumps(dict(config=_as_json(config, function), result=result), default=float)
            )
    except Exception as error:
        (folder / "error.txt").write_text(
            f"{type(error).__name__}: {error}\n\n{traceback.format_exc()}"
        )
        sys.exit(1)
