"""The long training behind the shipped weights: begun, taken up again, and watched. `make long` runs it.

It learns from faces made as it goes (`live`), at a constant rate, so that it can be ended at any time: `make cooldown`
trains on from what it has reached at a rate that falls to zero, which is the network that is shipped. All settings are
the block `long` of profile `weights` in params.yaml; its `recipes` say where others depart from it:

    ours      the block as it is: begins with the network of version 0.7.0
    scratch   a residual network that begins from nothing
    before    version 0.7.0's network, rate and plain pictures, from nothing, on the same faces; at a constant rate too,
              so that the curves compare at any count of pictures
"""

from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import torch
import typer

from e2far import facemodels
from e2far.facemodels import load_face_model
from e2far.files import EXPECTED, complain
from e2far.network import E2FAR
from e2far.pipeline import jobs, params
from e2far.synthesis import shards
from e2far.weights import load_network, save_network

RATIOS = ("neutral_ratio", "expression_ratio", "expressive_ratio")
CURVES = params.ROOT / "reports" / "metrics" / "long_training.csv"
LONG = "weights"  # the profile


def prepare(folder, profile=LONG):
    """The face model and the people that networks are judged on, in `folder`; what is there already is kept."""
    p, built, synthesis = (
        params.load(section, profile) for section in ("long", "facemodel", "synthesis")
    )
    path = folder / "facemodel.npz"
    if not path.exists():
        facemodels.build(built.source, built.sizes).save(path)
    angles = {name: getattr(synthesis, name) for name in ("yaw_deg", "pitch_deg", "roll_deg")}
    for split, people in p.judged.items():
        shards.write_split(
            path,
            folder / "faces",
            split,
            people,
            2,
            size=p.image_size,
            seed=p.seed,
            shard_size=synthesis.shard_size,
            n_jobs=synthesis.n_jobs,
            **angles,
        )


def job(folder, recipe="ours", profile=LONG, cooldown=False):
    """Arguments of `jobs.train_job` for a recipe, in a folder of its own inside `folder`."""
    p, synthesis = params.load("long", profile), params.load("synthesis", profile)
    other = p.recipes[recipe]
    phase = p.cooldown if cooldown else other.get("phase", p.phase)
    training = p.training | other.get("training", {}) | dict(phases=[phase])
    if not cooldown:
        # One that ends sooner is augmented less in the end: as much at each step as the others.
        training["augment"] *= phase["steps"] / p.phase["steps"]
    live = jobs.live_settings(p, synthesis) | other.get("live", {})
    start = other.get("start", p.start)
    if cooldown:
        live["first_person"], start = (
            10_000_000,
            folder / recipe / "reached.safetensors",
        )  # nobody whom it has seen
    return dict(
        folder=folder / (f"{recipe}-cooldown" if cooldown else recipe),
        faces=folder / "faces",
        model=folder / "facemodel.npz",
        network=p.network | other.get("network", {}),
        training=training,
        seed=p.seed,
        live=live,
        start=start and str(params.ROOT / start),
    )


def read_log(path):
    """The log of a training as a DataFrame; ValueError naming the file where it is none."""
    try:
        return pd.read_csv(path).astype(float)
    except ValueError as error:  # pandas' own are ValueErrors too
        raise ValueError(
            f"{path} is no log, or is cut short ({' '.join(str(error).split())[:100]}): delete it; the next checkpoint writes it again"
        ) from None


def curves(folder):
    """What the trainings under `folder` measured on validation people: recipe, images, RATIOS; the committed rows where there is no log."""
    known = (
        pd.read_csv(CURVES)
        if CURVES.exists()
        else pd.DataFrame(columns=["recipe", "images", *RATIOS])
    )
    logs = [
        read_log(path).assign(recipe=path.parent.name) for path in sorted(folder.glob("*/log.csv"))
    ]
    measured = [log.dropna(subset="neutral_ratio") for log in logs if "neutral_ratio" in log]
    measured = [log[["recipe", "images", *RATIOS]].round(4) for log in measured if len(log)]
    if not measured:
        return known
    rows = pd.concat(measured).astype(dict(images=int))
    others = known[~known.recipe.isin(rows.recipe)]
    return pd.concat([others, rows] if len(others) else [rows]).sort_values(
        ["recipe", "images"], ignore_index=True
    )


def report(folder, steps, batch_size):
    """A few sentences: how far the long training is, what is left, and how its curve lies beside that of the recipe before."""
    rows = curves(folder)
    ours, before = (rows[rows.recipe == recipe] for recipe in ("ours", "before"))
    if ours.empty:
        return "The long training has not measured anything yet."
    last, total = ours.iloc[-1], steps * batch_size
    text = (
        f"{last.images / 1e6:.2f} of {total / 1e6:.1f} million pictures seen ({last.images / total:.0%}). On validation people "
        + ", ".join(f"{name.removesuffix('_ratio')} {last[name]:.3f}" for name in RATIOS)
        + " of the mean face's error."
    )
    log = folder / "ours" / "log.csv"
    remaining = read_log(log).get("remaining_s", pd.Series()).dropna() if log.exists() else ()
    if len(remaining):
        text += f" About {remaining.iloc[-1] / 3600:.1f} hours left."
    shared = ours[ours.images.between(before.images.min(), before.images.max())]
    if len(shared):
        below = (
            np.interp(shared.images, before.images, before.expressive_ratio)
            - shared.expressive_ratio.to_numpy()
        )
        text += (
            f" At {shared.images.max() / 1e6:.2f} million pictures its expressive error lies {abs(below[-1]):.3f}"
            f" {'below' if below[-1] > 0 else 'above'} that of version 0.7.0's recipe."
        )
    return text


def reach(folder, recipe, network):
    """Write the weights that a recipe has reached as `reached.safetensors`, for a cooldown to start from.

    Those of its last checkpoint (not their average), or the network that it ended with. Raises FileNotFoundError where there is neither.
    """
    checkpoint, ended = (
        folder / recipe / name for name in ("checkpoint.pt", "network.safetensors")
    )
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model = load_face_model(folder / "facemodel.npz")
        net, images = E2FAR(model.n_identity, model.n_expression, **network), state["images"]
        net.load_state_dict(state["module"])
    elif ended.exists():
        net, images = load_network(ended), None
    else:
        raise FileNotFoundError(
            f"neither {checkpoint} nor {ended} exists: begin the training first (`make long`)"
        )
    save_network(net, folder / recipe / "reached.safetensors", images=images)


def run(
    folder: Annotated[Path, typer.Argument(help="Where it lives; run again to go on.")] = Path(
        "data/long"
    ),
    recipe: Annotated[str, typer.Option(help="One of the block's `recipes`.")] = "ours",
    cooldown: Annotated[
        bool, typer.Option(help="End it: train on from what it has reached, at a falling rate.")
    ] = False,
    status: Annotated[
        bool,
        typer.Option(help="Only say how far it is, and write reports/metrics/long_training.csv."),
    ] = False,
    profile: Annotated[str, typer.Option(help="Profile of params.yaml.")] = LONG,
):
    """Begin the long training, or go on where it was stopped."""
    p = params.load("long", profile)
    if recipe not in p.recipes:
        raise typer.BadParameter(f"recipe {recipe!r}: choose one of {', '.join(p.recipes)}")
    if not status:
        train(folder, recipe, profile, cooldown)
    rows = curves(folder)
    if len(rows):
        CURVES.parent.mkdir(parents=True, exist_ok=True)
        rows.to_csv(CURVES, index=False)
    print(report(folder, p.phase["steps"], p.training["batch_size"]))  # noqa: T201 (a command)


def train(folder, recipe, profile, cooldown):
    """Train one recipe, or cool it down, from where it was stopped; what has ended is left as it is."""
    config = job(folder, recipe, profile, cooldown)
    place = Path(config["folder"])
    going_on = (place / "checkpoint.pt").exists()
    if not going_on and (place / "network.safetensors").exists():
        print(f"{place} has ended: delete it to train anew")  # noqa: T201
        return
    if cooldown and not going_on:
        reach(folder, recipe, config["network"])
    prepare(folder, profile)
    place.mkdir(parents=True, exist_ok=True)
    jobs.train_job(**config, progress=True)


if __name__ == "__main__":
    from e2far.files import EXPECTED, complain

    try:
        typer.run(run)
    except EXPECTED as error:
        complain(error)
        raise SystemExit(1) from None
