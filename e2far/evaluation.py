"""How far a network is off on faces of known vertices, as each training logs, with intervals."""

import copy

import numpy as np
import torch
from safetensors.torch import save_file

from e2far import camera, data, files, losses
from e2far.morphable import landmarks_mm


def bootstrap_interval(values, clusters=None, samples=2000, level=0.95, seed=0):
    """Mean of values (n,) and its interval, (mean, low, high): `bootstrap_ratio` to ones."""
    return bootstrap_ratio(values, np.ones(len(values)), clusters, samples, level, seed)


def bootstrap_ratio(numerator, denominator, clusters=None, samples=2000, level=0.95, seed=0):
    """sum(numerator) / sum(denominator), both (n,), and its percentile bootstrap interval (low,
    high); pairs stay together. Of a method's and the mean face's errors: the ratio of the tables.

    clusters: (n,) labels, e.g. the person. Whole clusters are drawn, so that many pictures of one
        person count once.
    """
    numerator, denominator = np.stack((numerator, denominator)).astype(np.float64)
    if clusters is not None:
        index = np.unique(np.asarray(clusters), return_inverse=True)[1]
        numerator, denominator = np.bincount(index, numerator), np.bincount(index, denominator)
    rng, n = np.random.default_rng(seed), len(numerator)
    parts = -(-samples * n // 4_000_000)  # bounds the memory
    ratios = []
    for count in np.diff(np.linspace(0, samples, parts + 1).astype(int)):
        drawn = rng.integers(n, size=(count, n))
        ratios.append(numerator[drawn].sum(1) / denominator[drawn].sum(1))
    low, high = np.quantile(np.concatenate(ratios), [(1 - level) / 2, (1 + level) / 2])
    return float(numerator.sum() / denominator.sum()), float(low), float(high)


def summarise(errors, thresholds=None):
    """Pooled errors (any shape, mm) as on NoW: median, mean, std, root mean square, and the share
    at or below each threshold (mm; default: 0 to 8 in steps of .05)."""
    thresholds = np.linspace(0, 8, 161) if thresholds is None else thresholds
    errors = np.sort(np.asarray(errors, np.float64).ravel())
    return dict(
        median=float(np.median(errors)),
        mean=float(errors.mean()),
        std=float(errors.std()),
        rmse=float(np.sqrt(np.square(errors).mean())),
        thresholds=thresholds,
        curve=np.searchsorted(errors, thresholds, side="right") / len(errors),
    )


def check_sizes(network, model, faces):
    """ValueError unless network, face model and shards count the same coefficients."""
    for kind in ("identity", "expression"):
        predicted, own = (getattr(one, f"n_{kind}") for one in (network, model))
        stored = faces.shapes[kind][0]
        if not predicted == own == stored:
            raise ValueError(
                f"{kind} coefficients disagree: the network predicts {predicted}, the face model "
                f"has {own}, {faces.folder} holds {stored}; make both from this face model"
            )


def _images(network, faces, rows, batch_size):
    """Rows and images, in parts of `batch_size`, for `network` in eval mode on its device."""
    device = next(network.eval().parameters()).device
    for part in rows.split(batch_size):
        yield part, data.to_float(faces.gather(part)["image"].to(device))


@torch.no_grad()
def predict(network, faces, rows=None, batch_size=256, features=None):
    """What `network` returns for the faces `rows` (default: all), on the CPU: a dict of (n, ...)
    tensors, or one tensor. features: what its trunk answers for all faces (`store_features`)"""
    rows = torch.arange(len(faces)) if rows is None else rows
    if features:
        seen = lambda part: {layer: x[part].float() for layer, x in features.items()}
        outputs = [network.eval().heads(seen(part)) for part in rows.split(batch_size)]
    else:
        outputs = [network(image) for _, image in _images(network, faces, rows, batch_size)]
    whole = lambda parts: torch.cat(parts).float().cpu()
    if isinstance(outputs[0], dict):
        return {name: whole([output[name] for output in outputs]) for name in outputs[0]}
    return whole(outputs)


def evaluate(network, model, faces, batch_size=256, features=None):
    """Errors of `network` on each of `faces`: `measure` of what it predicts."""
    check_sizes(network, model, faces)
    guess = predict(network, faces, batch_size=batch_size, features=features)
    return measure(model, faces, guess, batch_size=batch_size)


@torch.no_grad()
def measure(model, faces, guess, rows=None, batch_size=256):
    """Errors of `guess` on the faces `rows` (default: all), at the model's region with the true
    vertex correspondence: a dict of arrays (n,).

    guess: dict of identity (n, K), expression (n, L) and, if it is to be measured, pose (n, 9)

    neutral_mm, expression_mm, expressive_mm
        mean distance to the true neutral shape, expression offset, expressive shape
    *_mean_face_mm      the same for one constant guess, the average face of `faces` themselves
    pose_deg            angle between rotations
    pose_percent        distance of the true landmarks seen by both cameras, in percent of the side
    landmark_percent    distance of all that is guessed's landmarks to the picture's, likewise
    person              who it is
    """
    rows = torch.arange(len(faces)) if rows is None else torch.as_tensor(rows)
    if len(guess["identity"]) != len(rows):
        raise ValueError(f"{len(guess['identity'])} guesses for {len(rows)} faces")
    model = copy.deepcopy(model).float().cpu()
    bases = model.identity_basis[model.region], model.expression_basis[model.region]
    average = dict(identity=faces.identity.mean(0), expression=faces.expression.mean(0))
    found = {}
    for places in torch.arange(len(rows)).split(batch_size):
        truth = {name: getattr(faces, name)[rows[places]] for name in data.LABELS}
        mine = {name: value[places] for name, value in guess.items()}
        part = _mesh_errors(bases, mine, truth, "mm")
        part |= _mesh_errors(bases, average, truth, "mean_face_mm")
        if "pose" in mine:
            part |= _pose_errors(model, mine, truth, faces.image_size)
        # Choice: no list of parts: small pieces between large ones keep memory from being freed
        found = found or {name: torch.empty(len(rows), dtype=x.dtype) for name, x in part.items()}
        for name, value in part.items():
            found[name][places] = value
    found["person"] = faces.person[rows]
    return {name: values.numpy() for name, values in found.items()}


def _mesh_errors(bases, answer, truth, unit):
    U, W = bases
    neutral = torch.einsum("ndk,bk->bnd", U, answer["identity"] - truth["identity"])
    offset = torch.einsum("ndl,bl->bnd", W, answer["expression"] - truth["expression"])
    errors = dict(neutral=neutral, expression=offset, expressive=neutral + offset)
    return {f"{kind}_{unit}": error.norm(dim=-1).mean(-1) for kind, error in errors.items()}


def _pose_errors(model, mine, truth, side):
    R, R_true = (camera.sixd_to_matrix(answer["pose"][:, :6]) for answer in (mine, truth))
    cosine = ((R * R_true).sum((-1, -2)) - 1) / 2
    points = landmarks_mm(model, truth["identity"], truth["expression"])
    apart = losses.pose_offset(mine["pose"], truth["pose"], points)
    points = landmarks_mm(model, mine["identity"], mine["expression"])
    seen = camera.weak_perspective(points, *camera.decode_pose(mine["pose"], side))
    return dict(
        pose_deg=cosine.clamp(-1, 1).acos().rad2deg(),
        pose_percent=apart.norm(dim=-1).mean(-1),
        landmark_percent=(seen - truth["landmarks"]).norm(dim=-1).mean(-1) * 100 / side,
    )


def summary(errors):
    """Means of the arrays of `evaluate`, and the ratio of each mesh error to the mean face's."""
    means = {name: float(values.mean()) for name, values in errors.items() if name != "person"}
    for kind in ("neutral", "expression", "expressive"):
        means[f"{kind}_ratio"] = means[f"{kind}_mm"] / means[f"{kind}_mean_face_mm"]
    return means


@torch.no_grad()
def store_features(network, faces, path, layers=("pool4", "pool5"), limit=None, batch_size=256):
    """Write what `layers` of the trunk answer for the first `limit` (None: all) of `faces`, float16
    (n, C, H, W), to the safetensors file `path`, for `fit(features=load_file(path))`."""
    found, n = {}, min(limit or len(faces), len(faces))
    for rows, image in _images(network, faces, torch.arange(n), batch_size):
        features = network.features(image)
        values = {layer: features[layer].half().cpu() for layer in layers}
        found = found or {layer: x.new_empty(n, *x.shape[1:]) for layer, x in values.items()}
        for layer in layers:
            found[layer][rows] = values[layer]
    with files.replacing(path) as partial:
        save_file(found, partial)
