"""Whole trainings: built, trained, measured and saved; `jobs.run_many` runs several at a time."""

import copy
import os
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file

from e2far import data, evaluation, facemodels, files
from e2far.network import E2FAR, Recognizer
from e2far.pipeline.jobs import inputs_digest
from e2far.synthesis.live import LiveFaces
from e2far.training import auto_precision, fit, pretrain
from e2far.trunks import map_sizes
from e2far.weights import begin, fill_trunk, save_network, save_trunk

with files.extra("study"):
    from lightning_fabric import Fabric
    from lightning_fabric.strategies import DDPStrategy


@dataclass(frozen=True)
class Job:
    """The config of one training."""

    folder: Path  # gets network.safetensors, log.csv and what else is written
    faces: Path  # folder of the splits, whose pictures are reduced to the network's size
    network: dict  # arguments of the network but for the numbers of coefficients, or of people
    training: dict  # arguments of `fit`, or of `pretrain`
    seed: int  # of weights and of the order of pictures
    model: Path | str | None = None  # path or name of a face model; none for a recogniser
    trunk: Path | None = None  # file of `save_trunk`, or of VGG-16 (`vggface`), to start from
    start: Path | None = None  # file of `save_network` to start from, all of it
    coarse: bool = False  # the fusion-CNN sees no finer grid than the last layer's: `coarsen`
    live: dict | None = None  # arguments of LiveFaces, which then replaces the split "train"
    test: str = "test"  # the split that the network is measured on
    people: str = "people"  # the split that a recogniser learns
    accelerator: str = "cpu"  # of lightning_fabric.Fabric, as devices; "auto" takes what there is
    devices: int | str = 1


def train_job(*, progress=False, **config):
    """Build, train and measure one E2FAR. config: fields of `Job`    progress: show a bar

    Writes network.safetensors, log.csv and evaluation.npz (arrays of `evaluate`). Returns the
    `summary` on the split `test`, None in all of several processes but the first.
    """
    job, options = _begin(config, progress)
    net, model = regressor(job)
    size = job.network["image_size"]
    validation, test = (data.Faces(job.faces / split, size) for split in ("validation", job.test))
    live = job.live and LiveFaces(model, size, **job.live)
    with live or nullcontext(data.Faces(job.faces / "train", size)) as faces:
        fit(net, model, faces, validation, **options)
    if not options["fabric"].is_global_zero:
        return None
    save_network(net, job.folder / "network.safetensors", face_model=model.name, seed=job.seed)
    errors = evaluation.evaluate(net, model, test)
    save_arrays(job.folder / "evaluation.npz", errors)
    options["checkpoint"].unlink(missing_ok=True)
    return evaluation.summary(errors)


def pretrain_job(**config):
    """Train a Recognizer on the split `people`; returns the last row of its log.

    Writes network.safetensors, trunk.safetensors and log.csv. config: fields of `Job`
    """
    job, options = _begin(config)
    people = data.Faces(job.faces / job.people, job.network["image_size"])
    recognizer = Recognizer(len(people.person.unique()), **job.network)
    if job.trunk:
        fill_trunk(recognizer, job.trunk)
    log = pretrain(recognizer, people, **options)
    if not options["fabric"].is_global_zero:
        return None
    save_network(recognizer, job.folder / "network.safetensors", seed=job.seed)
    save_trunk(recognizer, job.folder / "trunk.safetensors")
    options["checkpoint"].unlink(missing_ok=True)
    return log.iloc[-1].to_dict()


def _begin(config, progress=False):
    """The Job of a config and arguments for `fit` or `pretrain`, its generator seeded."""
    job = Job(**config)
    torch.manual_seed(job.seed)
    precision = job.training.get("precision", "32-true")
    return job, job.training | dict(
        seed=job.seed,
        log=job.folder / "log.csv",
        checkpoint=job.folder / "checkpoint.pt",
        fabric=open_fabric(job.accelerator, job.devices, precision),
        origin=inputs_digest(config),
        progress=progress,
    )


def regressor(job):
    """The E2FAR that a job begins with, and its face model."""
    model = facemodels.load_face_model(job.model)
    net = E2FAR(model.n_identity, model.n_expression, **job.network)
    if job.start:
        net.load_state_dict(begin(job.start, net).state_dict())
    elif job.trunk:
        fill_trunk(net, job.trunk)
    if job.coarse:
        coarsen(net)
    return net, model


def coarsen(net):
    """Let the fusion-CNN of `net` see its first layer max-pooled to the last one's grid and blown
    up again: the same weights and kernels, without what the finer grid says."""
    maps = map_sizes(net.trunk, net.image_size)
    (_, own), (_, last) = maps[net.fused[0]], maps[net.top]
    shrink = lambda _, x: F.interpolate(F.adaptive_max_pool2d(x[0], last), size=own)
    net.fusion.branches[0].register_forward_pre_hook(shrink)


def save_arrays(path, arrays):
    with files.replacing(path) as partial, open(partial, "wb") as file:
        np.savez(file, **arrays)


def open_fabric(accelerator, devices, precision):
    """A launched Fabric; its processes share each batch (DDP).

    devices: how many of this machine; "auto": all GPUs, or one process on a CPU. Where torchrun or
        SLURM has started the processes, theirs count.
    """
    gpus = 0 if accelerator == "cpu" else torch.cuda.device_count()
    kind = "cuda" if gpus else "cpu"
    if accelerator not in ("auto", kind):
        raise ValueError(f"accelerator {accelerator!r}: choose auto, cpu, or cuda if there is one")
    own = max(1, gpus) if devices == "auto" else devices
    count = int(os.environ.get("LOCAL_WORLD_SIZE") or own)
    nodes = int(os.environ.get("GROUP_WORLD_SIZE") or os.environ.get("SLURM_NNODES") or 1)
    fabric = Fabric(
        accelerator=kind,
        devices=count,
        num_nodes=nodes,
        precision=auto_precision(precision, kind),
        # Choice: a frozen trunk takes no part in a step, which DDP has to be told.
        strategy=DDPStrategy(find_unused_parameters=True) if count * nodes > 1 else "auto",
    )
    fabric.launch()
    return fabric


def variant_job(*, phases, features=None, **config):
    """Heads on one trunk: first alone, the trunk frozen, then on from there, the trunk tuned in
    several ways. Writes the network of each of `phases`, NAME.safetensors, and what it was measured
    by, NAME.npz (arrays of `evaluate`); returns a `summary` each.

    phases: name -> dict of the fields of a Phase; the first has no trunk rate, each of the others
        starts where the first ended
    features: folder of `features_job` for the first phase; None computes them at every step
    config: fields of `Job`
    """
    job = Job(**config)
    torch.manual_seed(job.seed)
    net, model = regressor(job)
    size = job.network["image_size"]
    train, judged = (data.Faces(job.faces / split, size) for split in ("train", job.test))
    layers = {net.top, *(net.fused or ())}
    options, stored = dict(seed=job.seed, progress=False) | job.training, {}
    for split in ("train", job.test) if features else ():
        whole = load_file(features / f"{split}.safetensors")
        stored[split] = {layer: values for layer, values in whole.items() if layer in layers}
    found, frozen = {}, None
    for name, phase in phases.items():
        if frozen:
            net.load_state_dict(frozen)
        fit(net, model, train, None, phases=[phase], features=stored.get("train"), **options)
        errors = evaluation.evaluate(net, model, judged, features=stored.get(job.test))
        found[name] = evaluation.summary(errors)
        save_arrays(job.folder / f"{name}.npz", errors)
        path = job.folder / f"{name}.safetensors"
        save_network(net, path, half=True, face_model=model.name, seed=job.seed)
        frozen, stored = frozen or copy.deepcopy(net.state_dict()), {}
    return found


def features_job(*, folder, faces, network, trunk, layers, limit=None, test="test"):
    """Write what `layers` of the trunk of the file `trunk` answer (`evaluation.store_features`) to
    `folder`, a file for the first `limit` faces of the split "train" and one for all of `test`."""
    net = E2FAR(**network)
    fill_trunk(net, trunk)
    for split, count in (("train", limit), (test, None)):
        seen = data.Faces(faces / split, network["image_size"])
        evaluation.store_features(net, seen, folder / f"{split}.safetensors", layers, count)
    return str(folder)
