"""Which trunk learns most in the same CPU time? `make trunks` asks.

Each candidate of params.yaml's `trunk_trial` trains on the same pictures, alone on one thread. The
number of steps follows from what a step costs, measured first, so that the cosine schedule of each
ends with its time. Everything else is profile `weights`, but for the schedule.
"""

import copy
import time

import torch

from e2far import data, evaluation, facemodels
from e2far.network import E2FAR
from e2far.pipeline import params
from e2far.training import fit
from e2far.weights import save_network

TABLE = params.ROOT / "reports" / "metrics" / "trunks.csv"


def race(*, name, folder, faces, model, network, cpu_seconds, profile):
    """Train one candidate, `network` of E2FAR's arguments, for `cpu_seconds` of CPU time; returns
    its row of the table. For `jobs.run_many`, arguments as of `trainings.Job`."""
    p, model = params.load("training", profile), facemodels.load_face_model(model)
    splits = (faces / split for split in ("train", "validation"))
    train, validation = (data.Faces(split, network["image_size"]) for split in splits)
    settings = params.settings(p, train)
    torch.manual_seed(p.seed)
    net = E2FAR(model.n_identity, model.n_expression, **settings.network | network)
    common = dict(seed=p.seed, progress=False, log_every=200, checkpoint_every=None)
    rates = {key: p.tuned[key] for key in ("heads_rate", "trunk_rate")}

    def cpu_time(net, steps, validation=None, **options):
        began = time.process_time()
        phase = rates | dict(steps=steps, warmup=steps // 15)
        options = settings.training | common | options
        fit(net, model, train, validation, phases=[phase], **options)
        return time.process_time() - began

    trial = copy.deepcopy(net)
    cpu_time(trial, 5)  # the first steps compile
    cost = cpu_time(trial, 30) / 30
    steps = round(cpu_seconds / cost)
    every = max(1, steps // 12)
    cpu_time(net, steps, validation, validate_every=every, log=folder / "log.csv")
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=p.seed)
    row = dict(
        trunk=name,
        size_px=network["image_size"],
        parameters=sum(x.numel() for x in net.parameters()),
        ms_a_picture=round(1e3 * cost / p.batch_size, 2),
        pictures=steps * p.batch_size,
    )
    errors = evaluation.evaluate(net, model, validation)
    for kind in ("neutral", "expression", "expressive"):
        pair = errors[f"{kind}_mm"], errors[f"{kind}_mean_face_mm"]
        interval = evaluation.bootstrap_ratio(*pair, clusters=errors["person"])
        names = (f"{kind}_ratio", f"{kind}_low", f"{kind}_high")
        row |= {name: round(float(value), 4) for name, value in zip(names, interval)}
    return row
