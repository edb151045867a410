"""The long training behind the shipped weights: `make long` begins it, or takes it up again.

It learns from faces made as it goes (`live`), at a constant rate, so that it can be ended at any
time: `make cooldown` trains on from what it has reached, at a rate that falls to zero, and makes
the network that is shipped. All settings are the block `long` of profile `weights` in params.yaml;
its `recipes` say where others depart from it:

    ours      the block as it is: begins with the network of version 0.7.0
    scratch   a residual network that begins from nothing
    before    version 0.7.0's network, rate and plain pictures, from nothing, on the same faces; at
              a constant rate too, so that the curves compare at any count of pictures
"""

import numpy as np
import torch

from e2far.facemodels import load_face_model
from e2far.files import extra
from e2far.network import E2FAR
from e2far.pipeline import params
from e2far.weights import load_network, save_network, save_trunk

with extra("study"):
    import pandas as pd

RATIOS = ["neutral_ratio", "expression_ratio", "expressive_ratio"]
CURVES = params.ROOT / "reports" / "metrics" / "long_training.csv"


def config(folder, recipe, profile, cooldown=False):
    """Arguments of `train_job` for a recipe, in a folder of its own inside `folder`."""
    p, synthesis = params.load("long", profile), params.load("synthesis", profile)
    if recipe not in p.recipes:
        raise ValueError(f"recipe {recipe!r}: choose one of {', '.join(p.recipes)}")
    departures = p.recipes[recipe]
    network = p.network | departures.get("network", {})
    training = p.training | departures.get("training", {})
    live = params.live_settings(p, synthesis) | departures.get("live", {})
    if cooldown:
        phase, start = p.cooldown, folder / recipe / "reached.safetensors"
        live["first_person"] = 10_000_000  # nobody whom it has seen
    else:
        phase, start = departures.get("phase", p.phase), departures.get("start", p.start)
        start = start and params.ROOT / start
        # It grows linearly to the last step: a shorter training shall have the same at each step.
        training["augment"] *= phase["steps"] / p.phase["steps"]
    return dict(
        folder=folder / (f"{recipe}-cooldown" if cooldown else recipe),
        faces=folder / "faces",
        model=folder / "facemodel.npz",
        network=network,
        training=training | dict(phases=[phase]),
        seed=p.seed,
        live=live,
        start=start,
    )


def save_reached(folder, recipe, network):
    """Write what a recipe has reached as `reached.safetensors`, for a cooldown to start from.

    The weights of its last checkpoint (not their average), or the network that it ended with.
    network: arguments of E2FAR    Raises FileNotFoundError where there is neither.
    """
    checkpoint, ended = folder / recipe / "checkpoint.pt", folder / recipe / "network.safetensors"
    if not checkpoint.exists() and not ended.exists():
        raise FileNotFoundError(f"no {checkpoint}: begin the training first (`make long`)")
    if checkpoint.exists():
        state = torch.load(checkpoint, map_location="cpu", weights_only=True)
        model = load_face_model(folder / "facemodel.npz")
        net, images = E2FAR(model.n_identity, model.n_expression, **network), state["images"]
        net.load_state_dict(state["module"])
    else:
        net, images = load_network(ended), None
    save_network(net, folder / recipe / "reached.safetensors", images=images)


def detector_config(folder, profile):
    """Arguments of `detector.detector_job`: the cooldown of "ours", the same trunk, pictures and
    steps, with another head, for the rival that fits the landmarks that it finds."""
    cooldown = config(folder, "ours", profile, cooldown=True)
    trunk = folder / "detector" / "trunk.safetensors"
    trunk.parent.mkdir(parents=True, exist_ok=True)
    save_trunk(load_network(cooldown.pop("start")), trunk)
    return cooldown | dict(folder=trunk.parent, trunk=trunk)


def curves(folder):
    """Errors on validation people of the trainings under `folder`: columns recipe, images, RATIOS.
    A recipe without a log there keeps its committed rows."""
    found = dict(list(pd.read_csv(CURVES).groupby("recipe"))) if CURVES.exists() else {}
    for path in folder.glob("*/log.csv"):
        log, recipe = pd.read_csv(path), path.parent.name
        if "neutral_ratio" in log:  # it has validated
            rows = log.dropna(subset="neutral_ratio").assign(recipe=recipe)
            found[recipe] = rows[["recipe", "images", *RATIOS]].round(4)
    if not found:
        return pd.DataFrame(columns=["recipe"])
    return pd.concat(found.values()).sort_values(["recipe", "images"], ignore_index=True)


def report(folder, steps, batch_size):
    """A few sentences: how far the long training is, what is left, and how its curve lies beside
    that of the recipe "before"."""
    path = folder / "ours" / "log.csv"
    if not path.exists():
        return f"The long training (recipe ours) has not begun in {folder}."
    log, rows = pd.read_csv(path), curves(folder)
    ours, before = (rows[rows.recipe == recipe] for recipe in ("ours", "before"))
    if "neutral_ratio" not in log:
        return "The long training has not measured anything yet."
    last = ours.iloc[-1]
    errors = ", ".join(f"{name.removesuffix('_ratio')} {last[name]:.3f}" for name in RATIOS)
    hours = log.remaining_s.dropna().iloc[-1] / 3600
    text = (
        f"{last.images / 1e6:.2f} of {steps * batch_size / 1e6:.1f} million pictures seen."
        f" On validation people {errors} of the mean face's error."
        f" About {hours:.1f} hours left."
    )
    shared = ours[ours.images.between(before.images.min(), before.images.max())]
    if len(shared):
        images, error = shared.iloc[-1][["images", "expressive_ratio"]]
        apart = error - np.interp(images, before.images, before.expressive_ratio)
        text += (
            f" At {images / 1e6:.2f} million pictures its expressive error lies {abs(apart):.3f}"
            f" {'below' if apart < 0 else 'above'} that of version 0.7.0's recipe."
        )
    return text
