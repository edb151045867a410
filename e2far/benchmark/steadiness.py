"""Does a network answer the same of the same face? In other worlds, in other pictures, looked at
again (notebook 5)."""

from types import SimpleNamespace

import numpy as np
import torch

from e2far import data, evaluation
from e2far.analysis import counterfactuals
from e2far.benchmark import landmark_fit, metrics
from e2far.benchmark.tables import ratio, ratios
from e2far.files import extra
from e2far.photo import calibration, confidence

with extra("study"):
    import pandas as pd

WORLDS = {
    "as in training": (),
    **{name: (name,) for name in counterfactuals.SHIFTS},
    "all three": tuple(counterfactuals.SHIFTS),
}


def draw_worlds(model, people, size, seed, n_jobs):
    """World -> `counterfactuals.draw_sample` of the same people, expressions and poses in it."""
    draw = lambda shifts: counterfactuals.draw_sample(
        model, people, size, seed, n_jobs=n_jobs, shifts=shifts
    )
    return {world: draw(shifts) for world, shifts in WORLDS.items()}


def world_table(answers, model, worlds, samples):
    """Ratios of each method in each world.

    answers: method -> f(uint8 images (n, 3, S, S)), what it answers to them
    """
    rows = []
    for world, sample in worlds.items():
        labels = (*data.LABELS, "landmarks", "person")
        size = dict(image_size=sample["image"].shape[-1])
        faces = SimpleNamespace(**size, **{name: sample[name] for name in labels})
        for name, answer_to in answers.items():
            every = torch.arange(len(sample["image"]))
            errors = evaluation.measure(model, faces, answer_to(sample["image"]), every)
            people = len(sample["person"].unique())
            for row in ratios(errors, samples):
                about = dict(method=name, world=world, error=row.pop("error"), people=people)
                rows.append(about | dict(pictures=len(every)) | row)
    return pd.DataFrame(rows)


@torch.no_grad()
def answer(network, images):
    """What a network in eval mode answers to uint8 images (n, 3, S, S): a dict, or one tensor."""
    parts = [network(data.to_float(part)) for part in images.split(200)]
    if torch.is_tensor(parts[0]):
        return torch.cat(parts)
    return {key: torch.cat([part[key] for part in parts]) for key in parts[0]}


def fit_eos(detector, model, weights, images):
    """What eos of such `weights` makes of the landmarks that a detector finds in images."""
    points = answer(detector, images) * images.shape[-1] / 100
    return landmark_fit.fit(model, points, **weights)


def average_person(networks, model, worlds):
    """`counterfactuals.identity_bias`: how far off the average person is, in each world."""
    bias = lambda network, sample: counterfactuals.identity_bias(
        network, model, sample["image"], sample["identity"]
    )
    return pd.DataFrame(
        dict(method=name, world=world, shift_mm=bias(network, sample))
        for name, network in networks.items()
        for world, sample in worlds.items()
    )


# ---- the same person, the same picture -----------------------------------------------------------


def consistency(model, faces, identities, samples):
    """Method -> `metrics.identity_consistency` of its `identities` (n, K), and of the truth."""
    basis = model.identity_basis[model.region]  # the mean face cancels
    shapes = lambda identity: torch.einsum("ndk,bk->bnd", basis, identity)
    every = identities | dict(truth=faces.identity)
    return {
        name: metrics.identity_consistency(shapes(identity), faces.person, samples)
        for name, identity in every.items()
    }


def average_table(model, faces, answers, samples):
    """Errors of the neutral shape that is the mean of the answers to 1, 2, 4 ... pictures of a
    person, each used once; people come one after the other and equally often."""
    pictures, rows = len(faces) // len(faces.person.unique()), []
    for name, guess in answers.items():
        for count in [count for count in (1, 2, 4, 8) if pictures % count == 0]:
            both = {kind: guess[kind] for kind in ("identity", "expression")}
            means = {kind: x.unflatten(0, (-1, count)).mean(1) for kind, x in both.items()}
            where = torch.arange(0, len(faces), count)
            errors = evaluation.measure(model, faces, means, where)
            own, theirs = errors["neutral_mm"], errors["neutral_mean_face_mm"]
            row = dict(method=name, pictures=count, mm=own.mean())
            rows.append(row | ratio(own, theirs, errors["person"], samples))
    return pd.DataFrame(rows)


def look_table(looks, model, faces, rows, samples):
    """Ratios of what different looks at one picture are worth.

    looks: name -> f(pictures, squares), what a `Reconstructor` makes of these
    """
    pixels = list(faces.gather(rows)["image"].permute(0, 2, 3, 1).numpy())
    squares, found = np.tile([0.0, 0.0, *[faces.image_size] * 2], (len(rows), 1)), []
    for name, look in looks.items():
        seen = look(pixels, squares)
        guess = {key: torch.from_numpy(seen[key]) for key in ("identity", "expression")}
        errors = evaluation.measure(model, faces, guess, rows)
        found += [dict(looks=name) | row for row in ratios(errors, samples)]
    return pd.DataFrame(found)


# ---- does it know? -------------------------------------------------------------------------------


def confidence_trials(reconstructor, validation, test, count):
    """`calibration.trials` on test people with what a calibration on validation people says: scores
    and predicted errors, and whether the landmarks are `good`."""
    told = calibration.calibrate(reconstructor, validation, count)
    trials = calibration.trials(reconstructor, test, count, seed=1)
    each = map(told, trials["disagreement_percent"], trials.pop("signs"))
    trials, said = pd.DataFrame(trials), pd.DataFrame([one.to_dict() for one in each])
    said = said.drop(columns="disagreement_percent")
    said = said.rename(columns={name: f"predicted_{name}" for name in confidence.ERRORS})
    trials = pd.concat((trials, said), axis=1)
    return trials.assign(good=trials.landmark_error_percent < confidence.GOOD)


def confidence_table(trials):
    """Of each kind of picture: median score and errors."""
    return trials.groupby("kind", sort=False).agg(
        pictures=("score", "size"),
        score=("score", "median"),
        doubtful=("doubtful", "mean"),
        predicted_percent=("predicted_landmark_error_percent", "median"),
        found_percent=("landmark_error_percent", "median"),
    )


def rank_correlations(trials):
    """Of predicted with found errors, over all faces and over whole ones."""
    whole = trials[trials.kind == "whole"]
    agree = lambda rows, name: rows[[name, f"predicted_{name}"]].corr("spearman").iloc[0, 1]
    return {
        f"{name}, {who}": float(agree(rows, name))
        for name in confidence.ERRORS
        for who, rows in (("all faces", trials), ("whole faces", whole))
    }
