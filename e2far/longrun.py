"""The long training behind the shipped weights: begun, taken up again, and watched. `make long` runs it.

It learns from faces made as it goes (`live`), at a constant rate, so that it can be ended at any time: `make cooldown`
trains on from what it has reached at a rate that falls to zero, which is the network that is shipped. All settings are
profile `weights` of params.yaml. Two recipes run under it:

    ours     the profile's trunk and size
    before   version 0.7.0's network (VGG-16 at a quarter of its width, 80 px), rate and plain pictures, on the
             same faces, for comparison; at a constant rate too, so that the curves compare at any count of pictures
"""
from pathlib import Path
from typing import Annotated

import numpy as np
import pandas as pd
import typer

from e2far import data, facemodels, jobs, params, shards

JUDGED = dict(validation=1000, test=2000)           # people with two pictures each, made ahead; nobody trains on them
BEFORE = dict(trunk="vgg16", width=.25, image_size=80)
TRAINED_BEFORE = dict(mirror=False)
PHASE_BEFORE = dict(steps=16000, heads_rate=2e-3, trunk_rate=2e-3, warmup=500, schedule="constant")     # a million pictures
RATIOS = ("neutral_ratio", "expression_ratio", "expressive_ratio")
CURVES = params.ROOT / "reports" / "metrics" / "long_training.csv"


def prepare(folder, profile="weights", judged=JUDGED):
    """The face model and the people that networks are judged on, in `folder`; what is there already is kept. Returns the model's path."""
    p, synthesis = params.load("facemodel", profile), params.load("synthesis", profile)
    path = folder / "facemodel.npz"
    if not path.exists():
        facemodels.build(p.source, p.sizes).save(path)
    angles = {name: getattr(synthesis, name) for name in ("yaw_deg", "pitch_deg", "roll_deg")}
    for split, people in judged.items():
        shards.write_split(path, folder / "faces", split, people, 2, size=synthesis.image_size, seed=p.seed,
                           shard_size=synthesis.shard_size, n_jobs=synthesis.n_jobs, **angles)
    return path


def job(folder, recipe="ours", profile="weights", cooldown=False):
    """Arguments of `jobs.train_job` for a recipe, in a folder of its own inside `folder`."""
    p, synthesis = params.load("training", profile), params.load("synthesis", profile)
    found = jobs.settings(p, data.Faces(folder / "faces" / "validation"))
    before = recipe == "before"
    network, training = found.network | (BEFORE if before else {}), found.training | (TRAINED_BEFORE if before else {})
    phase = p.cooldown if cooldown else PHASE_BEFORE if before else p.tuned
    if before:      # it ends sooner, so its augmentation grows less far: as much at each step as in the other
        training["augment"] *= phase["steps"] / p.tuned["steps"]
    start = dict(start=folder / recipe / "reached.safetensors") if cooldown else {}
    return dict(folder=folder / (f"{recipe}-cooldown" if cooldown else recipe), faces=folder / "faces",
                model=folder / "facemodel.npz", network=network, training=training | dict(phases=[phase]), seed=p.seed,
                live=jobs.live_settings(p, synthesis) | (dict(first_person=10_000_000) if cooldown else {})
                | (dict(loose_boxes=0.) if before else {}), **start)


def curves(folder):
    """What the trainings under `folder` measured on validation people: recipe, images, RATIOS; the committed rows where there is no log."""
    found = [pd.read_csv(log).assign(recipe=log.parent.name) for log in sorted(folder.glob("*/log.csv"))]
    measured = [log for log in found if "neutral_ratio" in log]
    known = pd.read_csv(CURVES) if CURVES.exists() else pd.DataFrame(columns=["recipe", "images", *RATIOS])
    if not measured:
        return known
    rows = pd.concat(measured)
    rows = rows.dropna(subset="neutral_ratio")[["recipe", "images", *RATIOS]].round(4)
    others = known[~known.recipe.isin(rows.recipe)]
    return pd.concat([others, rows] if len(others) else [rows]).sort_values(["recipe", "images"], ignore_index=True)


def report(folder, steps, batch_size):
    """A few sentences: how far the long training is, what is left, and how its curve lies beside that of the recipe before."""
    rows = curves(folder)
    ours, before = (rows[rows.recipe == recipe] for recipe in ("ours", "before"))
    if ours.empty:
        return "The long training has not measured anything yet."
    last, total = ours.iloc[-1], steps * batch_size
    text = (f"{last.images / 1e6:.2f} of {total / 1e6:.1f} million pictures seen ({last.images / total:.0%}). On validation people "
            + ", ".join(f"{name.removesuffix('_ratio')} {last[name]:.3f}" for name in RATIOS) + " of the mean face's error.")
    log = folder / "ours" / "log.csv"
    if log.exists():
        text += f" About {pd.read_csv(log).remaining_s.dropna().iloc[-1] / 3600:.1f} hours left."
    if len(before):
        shared = ours[(ours.images <= before.images.max()) & (ours.images >= before.images.min())]
        at = [float(np.interp(row.images, before.images, before.expressive_ratio) - row.expressive_ratio) for row in shared.itertuples()]
        if at:
            side = "below" if at[-1] > 0 else "above"
            text += (f" At {shared.images.max() / 1e6:.2f} million pictures its expressive error lies {abs(at[-1]):.3f} {side}"
                     f" that of version 0.7.0's recipe (on average so far {np.mean(at):.3f} below).")
    return text


def run(folder: Annotated[Path, typer.Argument(help="Where it lives; run again to go on.")] = Path("data/long"),
        recipe: Annotated[str, typer.Option(help="ours, or before: version 0.7.0's.")] = "ours",
        cooldown: Annotated[bool, typer.Option(help="End it: train on from what it has reached, at a falling rate.")] = False,
        status: Annotated[bool, typer.Option(help="Only say how far it is, and write reports/metrics/long_training.csv.")] = False,
        profile: Annotated[str, typer.Option(help="Profile of params.yaml.")] = "weights"):
    """Begin the long training, or go on where it was stopped."""
    if recipe not in ("ours", "before"):
        raise typer.BadParameter(f"recipe {recipe!r}: choose ours or before")
    p = params.load("training", profile)
    if not status:
        prepare(folder, profile)
        config = job(folder, recipe, profile, cooldown)
        Path(config["folder"]).mkdir(parents=True, exist_ok=True)
        if cooldown and not (Path(config["folder"]) / "checkpoint.pt").exists():       # else it goes on from where it began
            reach(folder, recipe, config["network"])
        print(report(folder, p.tuned["steps"], p.batch_size), flush=True)  # noqa: T201 (a command)
        jobs.train_job(**config, progress=True)
    rows = curves(folder)
    CURVES.parent.mkdir(parents=True, exist_ok=True)
    rows.to_csv(CURVES, index=False)
    print(report(folder, p.tuned["steps"], p.batch_size))  # noqa: T201


def reach(folder, recipe, network):
    """Write the weights (not their average) that the last checkpoint of a recipe holds as `reached.safetensors`, for a cooldown to start from.

    Raises FileNotFoundError where there is no checkpoint yet.
    """
    from e2far.morphable import load_face_model
    from e2far.network import E2FAR, read_pickled, save_network
    checkpoint = folder / recipe / "checkpoint.pt"
    if not checkpoint.exists():
        raise FileNotFoundError(f"no checkpoint at {checkpoint}: begin the training first (`make long`)")
    model, state = load_face_model(folder / "facemodel.npz"), read_pickled(checkpoint)
    net = E2FAR(model.n_identity, model.n_expression, **network)
    net.load_state_dict(state["module"])
    save_network(net, folder / recipe / "reached.safetensors", face_model=model.name, images=state["images"])


if __name__ == "__main__":
    from e2far.cli import EXPECTED, complain
    try:
        typer.run(run)
    except EXPECTED as error:
        complain(error)
        raise SystemExit(1) from None
