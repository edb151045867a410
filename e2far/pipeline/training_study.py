"""The trainings of notebook 2, and what is read from them: tables, and reports/metrics.

Recognisers learn to tell people apart; regressors start from one of them, or from nothing; short
trainings ask about heads without BatchNorm; a sweep asks about the weight of the expressions.
Finished trainings are kept (`jobs`).
"""

import shutil

import numpy as np
import torch
from torch.utils.data import Subset

from e2far import data, losses
from e2far.analysis import probes
from e2far.analysis.features import layer_features, matched_grids, measure_batch_norm
from e2far.files import extra
from e2far.network import E2FAR
from e2far.pipeline import jobs, params, trainings
from e2far.synthesis.studio import Studio
from e2far.weights import load_network, load_trunk

with extra("study"):
    import pandas as pd

LEARNED, SCRATCH, BARE = "from the recogniser", "from scratch", "heads without BatchNorm"
RECOGNISERS = {  # name -> the split that it learns
    "same looks": "people",
    "restyled": "restyled",
    "same looks, then restyled": "restyled",
}
UNTRAINED = "untrained"
ERRORS = {"neutral": "who it is", "expression": "what the face does"}


def _models(p):
    return p.data / "models"


def _file_name(name):
    return name.replace(" ", "_").replace(",", "")


def _common(p):
    """The settings of a profile, and what all its trainings of regressors have in common."""
    settings = params.settings(p, data.Faces(p.data / "faces" / "train"))
    live = params.live_settings(p, params.load("synthesis", p.profile)) if p.live else None
    shared = dict(faces=p.data / "faces", accelerator=p.accelerator, devices=p.devices)
    own = dict(model=p.data / "facemodel" / "model.npz", test="validation", live=live)
    return settings, shared, shared | own | dict(network=settings.network)


def _run(configs, p, on_progress=None, function=trainings.train_job):
    return jobs.run_many(configs, p.n_jobs, on_progress, function=function, resume=True)


# ---- learning people first -----------------------------------------------------------------------


def train_recognisers(p, on_progress=None):
    """Train the RECOGNISERS; returns name -> dict of `trunk`, a file, `top1` and `people`."""
    settings, shared, _ = _common(p)
    network = {key: value for key, value in settings.network.items() if key != "fused"}
    configs = {
        name: shared
        | dict(network=network, training=settings.recognition, seed=p.seed, people=split)
        | dict(folder=_models(p) / f"recogniser_{_file_name(name)}")
        for name, split in RECOGNISERS.items()
    }
    first, alone, both = RECOGNISERS
    trunks = {name: config["folder"] / "trunk.safetensors" for name, config in configs.items()}
    further = dict(steps=p.pretrain["further"], learning_rate=p.pretrain["rate"] / 2)
    configs[both] |= dict(trunk=trunks[first], training=settings.recognition | further)
    logs = {}
    for names in ((first, alone), (both,)):
        some = {name: configs[name] for name in names}
        logs |= _run(some, p, on_progress, trainings.pretrain_job)
    people = {
        name: len(data.Faces(p.data / "faces" / split).person.unique())
        for name, split in RECOGNISERS.items()
    }
    return {
        name: dict(trunk=trunks[name], top1=logs[name]["top1"], people=people[name])
        for name in RECOGNISERS
    }


def read_recognisers(p, model, trunks):
    """What a linear reader finds in pool5 of each trunk, and of an untrained one, about people whom
    none has met: rows of recogniser, target, value, low, high; explained variance.

    trunks: name -> file
    """
    faces = {split: data.Faces(p.data / "faces" / split) for split in ("train", "validation")}
    rows = {
        split: probes.balanced_rows(faces[split].person, p.probe[key])
        for split, key in (("train", "train"), ("validation", "test"))
    }
    people = {split: faces[split].person[rows[split]].numpy() for split in faces}
    targets = _targets(p, model, faces, rows, people)
    settings, *_ = _common(p)
    found = []
    for name in [*trunks, UNTRAINED]:
        torch.manual_seed(p.seed)
        net = E2FAR(model.n_identity, model.n_expression, **settings.network)
        if name in trunks:
            load_trunk(net, trunks[name])
        else:
            measure_batch_norm(net, faces["train"], 512)
        grids = matched_grids(net)
        x = {
            split: layer_features(
                net, Subset(faces[split], rows[split].tolist()), ["pool5"], grids
            )["pool5"]
            for split in faces
        }
        for target, values in targets.items():
            parts = x["train"], values["train"], people["train"], p.probe["components"]
            answer = probes.fit_probe(*parts).predict(x["validation"])
            of = values["validation"], people["validation"]
            numbers = dict(zip(("value", "low", "high"), probes.explained_variance(answer, *of)))
            found.append(dict(recogniser=name, target=target) | numbers)
    return pd.DataFrame(found)


def _targets(p, model, faces, rows, people):
    """Target -> split -> what a reader has to find (n, d); shapes in mm (`losses.gram_factor`)."""
    studio, found = Studio(model, faces["train"].image_size), {}
    for name, kind in (("neutral shape", "identity"), ("expression", "expression")):
        R = losses.gram_factor(getattr(model, f"{kind}_basis")[model.region])
        found[name] = {
            split: (getattr(faces[split], kind)[rows[split]] @ R.T).numpy() for split in faces
        }
    tone = lambda split, person: studio.draw_person(p.seed, split, int(person))[1]["tone"]
    tones = {split: np.array([[tone(split, one)] for one in people[split]]) for split in faces}
    return found | {"skin tone": tones}


def best_in_shape(read):
    """The recogniser from which the neutral shape is read best; rows of `read_recognisers`."""
    shape = read[(read.target == "neutral shape") & (read.recogniser != UNTRAINED)]
    return shape.loc[shape.value.idxmax()].recogniser


def choose_trunk(p, read, trunks):
    """`best_in_shape`, whose trunk becomes models/trunk.safetensors."""
    chosen = best_in_shape(read)
    shutil.copy(trunks[chosen], _models(p) / "trunk.safetensors")
    return chosen


# ---- regressors ----------------------------------------------------------------------------------


def train_starts(p, on_progress=None):
    """Train a regressor from the chosen trunk and one from nothing, the same number of steps; the
    better one becomes models/default.safetensors. Returns results, a row each, and their logs."""
    settings, _, common = _common(p)
    steps = p.frozen["steps"] + p.tuned["steps"]
    phases = {LEARNED: [p.frozen, p.tuned], SCRATCH: [p.tuned | dict(steps=steps)]}
    configs = {
        name: common
        | dict(folder=_models(p) / _file_name(name), seed=p.seed)
        | dict(training=settings.training | dict(phases=phases[name]))
        for name in phases
    }
    configs[LEARNED]["trunk"] = _models(p) / "trunk.safetensors"
    results = pd.DataFrame(_run(configs, p, on_progress)).T.astype(float)
    best = configs[results.expressive_ratio.idxmin()]["folder"]
    shutil.copy(best / "network.safetensors", _models(p) / "default.safetensors")
    logs = {name: pd.read_csv(one["folder"] / "log.csv") for name, one in configs.items()}
    return results, logs


def train_short(p):
    """Short trainings from the recogniser, from scratch, and from scratch without BatchNorm in the
    heads, of several seeds: rows of start, seed, neutral, expression (errors as shares of the mean
    face's) and, for each hidden layer of the heads, the share of living units."""
    settings, _, common = _common(p)
    phase = {key: value for key, value in p.plateau.items() if key != "seeds"}
    plain = dict(batch_size=32, augment=0.0, ema=None, validate_every=None, phases=[phase])
    plain |= dict(log_every=max(1, p.plateau["steps"] // 100))
    kinds = {LEARNED: {}, SCRATCH: {}, BARE: dict(batch_norm="convolutions")}
    configs = {
        (kind, seed): common
        | dict(folder=_models(p) / "plateau" / f"{_file_name(kind)}_{seed}", seed=seed, live=None)
        | dict(network=settings.network | changed, training=settings.training | plain)
        | (dict(trunk=_models(p) / "trunk.safetensors") if kind == LEARNED else {})
        for seed in p.plateau["seeds"]
        for kind, changed in kinds.items()
    }
    rows = _rows(_run(configs, p), "start")
    faces = data.Faces(p.data / "faces" / "validation")
    images = data.to_float(faces.gather(torch.arange(min(400, len(faces))))["image"])
    alive = [living(one["folder"] / "network.safetensors", images) for one in configs.values()]
    return rows.join(pd.DataFrame(alive))


def living(path, images):
    """Layer -> share of the hidden units of the heads that answer at least one picture."""
    with torch.no_grad():
        found = load_network(path).activations(images)
    return {name: float((x > 0).any(0).float().mean()) for name, x in found.items() if "fc" in name}


def train_sweep(p):
    """Train the kept network on with other weights of the expressions, from several seeds: rows of
    setting, seed, neutral, expression, expressive (errors as shares of the mean face's)."""
    settings, _, common = _common(p)
    weights = {f"lambda {value:g}": dict(expression_weight=value) for value in p.sweep["weights"]}
    weights["expression alone"] = dict(identity_weight=0.0)
    stretch = {key: value for key, value in p.sweep.items() if key not in ("seeds", "weights")}
    training = settings.training | dict(ema=None, augment=0.0, phases=[stretch])
    configs = {
        (name, seed): common
        | dict(folder=_models(p) / "sweep" / f"{_file_name(name)}_{seed}", seed=seed, live=None)
        | dict(start=_models(p) / "default.safetensors", training=training | weight)
        for name, weight in weights.items()
        for seed in p.sweep["seeds"]
    }
    return _rows(_run(configs, p), "setting")


def _rows(results, what):
    """Results by (name, seed) as rows of `what`, seed and errors, shares of the mean face's."""
    return pd.DataFrame(
        {what: name, "seed": seed}
        | {kind: found[f"{kind}_ratio"] for kind in (*ERRORS, "expressive")}
        for (name, seed), found in results.items()
    )
