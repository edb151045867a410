"""How far a network's answers are off, in millimetres, with intervals."""

import copy

import numpy as np
import torch
from safetensors.torch import save_file

from e2far import camera, data, files, losses
from e2far.morphable import landmarks_mm

# ---- numbers for a table -----------------------------------------------------------------------------------------


def bootstrap_interval(values, clusters=None, samples=2000, level=0.95, seed=0):
    """Mean of values (n,) and its percentile bootstrap interval: (mean, low, high).

    clusters: (n,) labels, e.g. the person. Whole clusters are drawn, so that many pictures of one person count once.
    """
    values = np.asarray(values, np.float64)
    return bootstrap_ratio(values, np.ones_like(values), clusters, samples, level, seed)


def bootstrap_ratio(numerator, denominator, clusters=None, samples=2000, level=0.95, seed=0):
    """sum(numerator) / sum(denominator), both (n,), with the interval of `bootstrap_interval`: pairs stay together.

    With a method's errors over the mean face's this is the ratio that the tables print.
    """
    numerator, denominator = np.asarray(numerator, np.float64), np.asarray(denominator, np.float64)
    if numerator.ndim != 1 or numerator.shape != denominator.shape or len(numerator) == 0:
        raise ValueError(
            f"expected one value per item, got {numerator.shape} and {denominator.shape}"
        )
    if clusters is not None:
        index = np.unique(np.asarray(clusters), return_inverse=True)[1]
        numerator, denominator = np.bincount(index, numerator), np.bincount(index, denominator)
    rng, n = np.random.default_rng(seed), len(numerator)
    ratios = []
    for count in np.diff(
        np.linspace(0, samples, -(-samples * n // 4_000_000) + 1).astype(int)
    ):  # bounds the memory
        drawn = rng.integers(n, size=(count, n))
        ratios.append(numerator[drawn].sum(1) / denominator[drawn].sum(1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return float(numerator.sum() / denominator.sum()), float(low), float(high)


def summarise(errors, thresholds=None):
    """Pooled errors (any shape, mm) as on NoW: median, mean, std, root mean square, and the share at or below each threshold (mm; default: 0 to 8 in steps of .05)."""
    thresholds = np.linspace(0, 8, 161) if thresholds is None else thresholds
    errors = np.sort(np.asarray(errors, np.float64).ravel())
    curve = np.searchsorted(errors, thresholds, side="right") / len(errors)
    return dict(
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        std=float(errors.std()),
        rmse=float(np.sqrt(np.square(errors).mean())),
        thresholds=thresholds,
        curve=curve,
    )


def check_sizes(network, model, faces):
    """Network, face model and shards must count the same coefficients."""
    for kind in ("identity", "expression"):
        counts = getattr(network, f"n_{kind}"), getattr(model, f"n_{kind}"), faces.shapes[kind][0]
        if len(set(counts)) > 1:
            raise ValueError(
                f"{kind} coefficients disagree: the network predicts {counts[0]}, the face model has {counts[1]}, {faces.folder} holds {counts[2]}; "
                f"make the network and the shards from this face model"
            )


@torch.no_grad()
def predict(network, faces, rows=None, batch_size=256):
    """What `network`, put in eval mode, returns for the faces `rows` (default: all): a dict of (n, ...) tensors or one tensor, on the CPU."""
    network.eval()
    device = next(network.parameters()).device
    rows = torch.arange(len(faces)) if rows is None else rows
    outputs = [
        network(data.to_float(faces.gather(part)["image"].to(device)))
        for part in rows.split(batch_size)
    ]
    if isinstance(outputs[0], dict):
        return {
            name: torch.cat([output[name] for output in outputs]).float().cpu()
            for name in outputs[0]
        }
    return torch.cat(outputs).float().cpu()


def evaluate(network, model, faces, batch_size=256):
    """Errors of `network` on each of `faces`: `measure` of what it predicts."""
    check_sizes(network, model, faces)
    return measure(
        model, faces, predict(network, faces, batch_size=batch_size), batch_size=batch_size
    )


@torch.no_grad()
def measure(model, faces, guess, rows=None, batch_size=256):
    """Errors of `guess` on the faces `rows` (default: all), at the model's region with the true vertex correspondence: a dict of arrays (n,).

    guess: dict of identity (n, K), expression (n, L) and, if it is to be measured, pose (n, 9)

    neutral_mm, expression_mm, expressive_mm    mean distance to the true neutral shape, expression offset, expressive shape
    *_mean_face_mm                              the same for one constant guess, the average face of `faces` themselves
    pose_deg, pose_percent                      angle between rotations; distance of the true landmarks seen by both cameras, in percent of the crop's side
    landmark_percent                            distance of the reconstruction's landmarks to the picture's, shape, expression and pose together
    person                                      who it is
    """
    rows, side = (
        torch.arange(len(faces)) if rows is None else torch.as_tensor(rows),
        faces.image_size,
    )
    if len(guess["identity"]) != len(rows):
        raise ValueError(
            f"{len(guess['identity'])} guesses for {len(rows)} faces: make one for each"
        )
    model = copy.deepcopy(model).float().cpu()
    U, W = model.identity_basis[model.region], model.expression_basis[model.region]
    average = dict(identity=faces.identity.mean(0), expression=faces.expression.mean(0))
    found = {}
    for places in torch.arange(len(rows)).split(batch_size):
        identity, expression, pose, landmarks = (
            getattr(faces, name)[rows[places]]
            for name in ("identity", "expression", "pose", "landmarks")
        )
        mine, part = {name: value[places] for name, value in guess.items()}, {}
        for suffix, answer in (("mm", mine), ("mean_face_mm", average)):
            neutral = torch.einsum("ndk,bk->bnd", U, answer["identity"] - identity)
            offset = torch.einsum("ndl,bl->bnd", W, answer["expression"] - expression)
            for kind, error in dict(
                neutral=neutral, expression=offset, expressive=neutral + offset
            ).items():
                part[f"{kind}_{suffix}"] = error.norm(dim=-1).mean(-1)
        if "pose" in mine:
            cosine = (
                (
                    camera.sixd_to_matrix(mine["pose"][:, :6]) * camera.sixd_to_matrix(pose[:, :6])
                ).sum((-1, -2))
                - 1
            ) / 2
            part["pose_deg"] = cosine.clamp(-1, 1).acos().rad2deg()
            part["pose_percent"] = (
                losses.pose_offset(mine["pose"], pose, landmarks_mm(model, identity, expression))
                .norm(dim=-1)
                .mean(-1)
            )
            seen = camera.weak_perspective(
                landmarks_mm(model, mine["identity"], mine["expression"]),
                *camera.decode_pose(mine["pose"], side),
            )
            part["landmark_percent"] = (seen - landmarks).norm(dim=-1).mean(-1) * 100 / side
        found = found or {
            name: torch.empty(len(rows), dtype=value.dtype) for name, value in part.items()
        }  # not a list of parts: small pieces between large ones keep memory from being given back
        for name, value in part.items():
            found[name][places] = value
    return {name: values.numpy() for name, values in found.items()} | dict(
        person=faces.person[rows].numpy()
    )


def summary(errors):
    """Means of the arrays of `evaluate`, and the ratio of each mesh error to the mean face's."""
    means = {name: float(values.mean()) for name, values in errors.items() if name != "person"}
    return means | {
        f"{kind}_ratio": means[f"{kind}_mm"] / means[f"{kind}_mean_face_mm"]
        for kind in ("neutral", "expression", "expressive")
    }


@torch.no_grad()
def store_features(network, faces, path, layers=("pool4", "pool5"), limit=None, batch_size=256):
    """Write what `layers` of the trunk answer for the first `limit` (None: all) of `faces`, (n, C, H, W) float16, to the safetensors file `path`, for `fit(features=load_file(path))`."""
    network.eval()
    device, found, n = next(network.parameters()).device, {}, min(limit or len(faces), len(faces))
    for rows in torch.arange(n).split(batch_size):
        features = network.features(data.to_float(faces.gather(rows)["image"].to(device)))
        found = found or {
            layer: torch.empty(n, *features[layer].shape[1:], dtype=torch.float16)
            for layer in layers
        }
        for layer in layers:
            found[layer][rows] = features[layer].half().cpu()
    with files.replacing(path) as partial:
        save_file(found, partial)
