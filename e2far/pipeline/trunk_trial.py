"""Which trunk learns most in the same CPU time? Each candidate of params.yaml's `trunk_trial` trains on the same pictures, alone on one thread.

The number of steps follows from what a step costs, measured first, so that the cosine schedule of each ends with its time.
Everything else is profile `weights`, but for the schedule. `make trunks` runs it and writes reports/metrics/trunks.csv.
"""

import copy
import time
from pathlib import Path
from typing import Annotated

import pandas as pd
import torch
import typer

from e2far import data, evaluation, facemodels, files, training
from e2far.facemodels import load_face_model
from e2far.files import EXPECTED, complain
from e2far.network import E2FAR
from e2far.pipeline import jobs, params
from e2far.synthesis import shards
from e2far.weights import save_network

TABLE = params.ROOT / "reports" / "metrics" / "trunks.csv"
VALIDATION = 1000  # people with two pictures each
KINDS = ("neutral", "expression", "expressive")


def make_faces(folder, trial, profile, validation=VALIDATION):
    """The pictures that all candidates see, and those that they are judged on; what is there already is kept."""
    built, synthesis = params.load("facemodel", profile), params.load("synthesis", profile)
    path = folder / "facemodel.npz"
    if not path.exists():
        facemodels.build(built.source, built.sizes).save(path)
    size = max(candidate["image_size"] for candidate in trial["candidates"].values())
    angles = {name: getattr(synthesis, name) for name in ("yaw_deg", "pitch_deg", "roll_deg")}
    for split, people in dict(train=trial["people"], validation=validation).items():
        shards.write_split(
            path,
            folder / "faces",
            split,
            people,
            2,
            size=size,
            seed=built.seed,
            n_jobs=synthesis.n_jobs,
            **angles,
        )
    return load_face_model(path)


def race(name, candidate, folder, model, cpu_seconds, profile):
    """Train one candidate for `cpu_seconds` of CPU time; returns its row of the table."""
    p, size = params.load("training", profile), candidate["image_size"]
    train, validation = (
        data.Faces(folder / "faces" / split, size) for split in ("train", "validation")
    )
    found = jobs.settings(p, train)
    torch.manual_seed(p.seed)
    net = E2FAR(model.n_identity, model.n_expression, **found.network | candidate)
    place = folder / name.replace(" ", "_").replace("/", "by").replace(",", "")
    place.mkdir(parents=True, exist_ok=True)
    rates = {key: p.tuned[key] for key in ("heads_rate", "trunk_rate")}
    options = {
        key: value for key, value in found.training.items() if not key.endswith("_every")
    } | dict(seed=p.seed, progress=False)

    def timed(network, steps, **more):
        began = time.process_time()
        training.fit(
            network,
            model,
            train,
            phases=[rates | dict(steps=steps, warmup=steps // 15)],
            **options | more,
        )
        return time.process_time() - began

    trial = copy.deepcopy(net)
    timed(trial, 5, validation=None)  # the first steps compile
    cost = timed(trial, 30, validation=None) / 30
    steps = round(cpu_seconds / cost)
    timed(
        net,
        steps,
        validation=validation,
        validate_every=max(1, steps // 12),
        log_every=200,
        log=place / "log.csv",
    )
    save_network(net, place / "network.safetensors", face_model=model.name, seed=p.seed)
    errors, count = (
        evaluation.evaluate(net, model, validation),
        sum(x.numel() for x in net.parameters()),
    )
    row = dict(
        trunk=name,
        size_px=size,
        parameters=count,
        ms_a_picture=round(1e3 * cost / p.batch_size, 2),
        pictures=steps * p.batch_size,
    )
    for kind in KINDS:
        found = evaluation.bootstrap_ratio(
            errors[f"{kind}_mm"], errors[f"{kind}_mean_face_mm"], clusters=errors["person"]
        )
        row |= dict(
            zip(
                (f"{kind}_ratio", f"{kind}_low", f"{kind}_high"),
                (round(float(value), 4) for value in found),
            )
        )
    return row


def run(
    folder: Annotated[Path, typer.Argument(help="Where pictures and networks are kept.")] = Path(
        "data/trunks"
    ),
    profile: Annotated[str, typer.Option(help="Profile of params.yaml.")] = "weights",
):
    """Race the candidates of params.yaml's trunk_trial, one after the other."""
    trial = params.read()["trunk_trial"]
    torch.set_num_threads(1)
    model, rows = make_faces(folder, trial, profile), []
    for name, candidate in trial["candidates"].items():
        rows.append(race(name, candidate, folder, model, trial["cpu_seconds"], profile))
        print(rows[-1], flush=True)  # noqa: T201 (a command)
    with files.replacing(TABLE) as partial:
        pd.DataFrame(rows).to_csv(partial, index=False)


if __name__ == "__main__":
    from e2far.files import EXPECTED, complain

    try:
        typer.run(run)
    except EXPECTED as error:
        complain(error)
        raise SystemExit(1) from None
