"""Which trunk learns most in the same CPU time? `make trunks` asks.

Each candidate of params.yaml's `trunk_trial` trains on the same pictures, alone on one thread. The
number of steps follows from what a step costs, measured first, so that the cosine schedule of each
ends with its time. Everything else is profile `weights`, but for the schedule.
"""

import copy
import time

import torch

from e2far import data, evaluation
from e2far.network import E2FAR
from e2far.pipeline import params
from e2far.training import fit
from e2far.weights import save_network

TABLE = params.ROOT / "reports" / "metrics" / "trunks.csv"


def race(name, candidate, folder, model, cpu_seconds, profile):
    """Train one candidate, arguments of E2FAR, for `cpu_seconds` of CPU time on `folder`/faces;
    returns its row of the table."""
    p = params.load("training", profile)
    train, validation = (
        data.Faces(folder / "faces" / split, candidate["image_size"])
        for split in ("train", "validation")
    )
    settings = params.settings(p, train)
    torch.manual_seed(p.seed)
    net = E2FAR(model.n_identity, model.n_expression, **settings.network | candidate)
    place = folder / name.replace(" ", "_").replace("/", "by").replace(",", "")
    options = settings.training | dict(seed=p.seed, progress=False)
    options |= dict(log_every=200, checkpoint_every=None)
    rates = {key: p.tuned[key] for key in ("heads_rate", "trunk_rate")}

    def cpu_time(network, steps, validation=None, **more):
        began = time.process_time()
        phase = rates | dict(steps=steps, warmup=steps // 15)
        fit(network, model, train, validation, phases=[phase], **options | more)
        return time.process_time() - began

    trial = copy.deepcopy(net)
    cpu_time(trial, 5)  # the first steps compile
    cost = cpu_time(trial, 30) / 30
    steps = round(cpu_seconds / cost)
    every = max(1, steps // 12)
    cpu_time(net, steps, validation, validate_every=every, log=place / "log.csv")
    save_network(net, place / "network.safetensors", face_model=model.name, seed=p.seed)
    row = dict(
        trunk=name,
        size_px=candidate["image_size"],
        parameters=sum(x.numel() for x in net.parameters()),
        ms_a_picture=round(1e3 * cost / p.batch_size, 2),
        pictures=steps * p.batch_size,
    )
    errors = evaluation.evaluate(net, model, validation)
    for kind in ("neutral", "expression", "expressive"):
        interval = evaluation.bootstrap_ratio(
            errors[f"{kind}_mm"], errors[f"{kind}_mean_face_mm"], clusters=errors["person"]
        )
        names = (f"{kind}_ratio", f"{kind}_low", f"{kind}_high")
        row |= {name: round(float(value), 4) for name, value in zip(names, interval)}
    return row
