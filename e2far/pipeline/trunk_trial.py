"""Which trunk learns most in the same CPU time? `make trunks` asks.

Each candidate of params.yaml's `trunk_trial` trains on the same pictures, alone on one thread. The
number of steps follows from what a step costs, measured first, so that the cosine schedule of each
ends with its time. Everything else is profile `weights`, but for the schedule.
"""

import time

import numpy as np

from e2far import data, evaluation
from e2far.pipeline import params, trainings
from e2far.training import fit

TABLE = params.ROOT / "reports" / "metrics" / "trunks.csv"


def config(folder, name, network, cpu_seconds, profile):
    """Arguments of `race` for a candidate. network: arguments of E2FAR"""
    p, faces = params.load("training", profile), folder / "faces"
    settings = params.settings(p, data.Faces(faces / "validation", network["image_size"]))
    rates = {key: p.tuned[key] for key in ("heads_rate", "trunk_rate")}
    return dict(
        folder=folder / name.replace("/", "by"),
        faces=faces,
        model=folder / "facemodel.npz",
        network=settings.network | network,
        training=settings.training | dict(log_every=200, checkpoint_every=None, phases=[rates]),
        seed=p.seed,
        test="validation",
        cpu_seconds=cpu_seconds,
    )


def race(*, cpu_seconds, **config):
    """Train one candidate for so many seconds of CPU time; returns its row of the table.

    config: of `train_job`; its only phase has no steps yet
    """
    job = trainings.Job(**config)
    net, model = trainings.regressor(job)
    train = data.Faces(job.faces / "train", job.network["image_size"])

    def recipe(steps):
        phase = job.training["phases"][0] | dict(steps=steps, warmup=steps // 15)
        return job.training | dict(phases=[phase])

    for steps in (5, 30):  # the first steps compile
        began = time.process_time()
        fit(net, model, train, None, seed=job.seed, progress=False, **recipe(steps))
    cost = (time.process_time() - began) / steps
    steps = round(cpu_seconds / cost)
    training = recipe(steps) | dict(validate_every=max(1, steps // 12))
    trainings.train_job(**config | dict(training=training))
    batch = job.training["batch_size"]
    row = dict(
        size_px=job.network["image_size"],
        parameters=sum(x.numel() for x in net.parameters()),
        ms_a_picture=round(1e3 * cost / batch, 2),
        pictures=steps * batch,
    )
    errors = np.load(job.folder / "evaluation.npz")
    for kind in ("neutral", "expression", "expressive"):
        pair = errors[f"{kind}_mm"], errors[f"{kind}_mean_face_mm"]
        interval = evaluation.bootstrap_ratio(*pair, clusters=errors["person"])
        names = (f"{kind}_ratio", f"{kind}_low", f"{kind}_high")
        row |= {name: round(float(value), 4) for name, value in zip(names, interval)}
    return row
