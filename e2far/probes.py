"""What each layer knows: linear probes on its features, explained variance in vertex space, who is it, occlusion maps, receptive fields."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from e2far.data import to_float
from e2far.metrics import bootstrap_ratio
from e2far.network import map_sizes
from e2far.trunks import BLOCKS, LAYERS

ALPHAS = tuple(np.logspace(-1, 6, 8))


# ---- features ----------------------------------------------------------------------------------------------------

@torch.no_grad()
def layer_features(network, faces, layers=LAYERS, grid=2, limit=None, pixel_grid=16, batch_size=64):
    """What the layers say of the first `limit` faces: dict "pixels" and layer -> (n, d) float32 arrays.

    faces: a data set whose batches hold "image" (B, 3, S, S), or the pictures themselves, uint8 (n, 3, S, S)    layers: pool1 ... pool5, or any name of `network.activations`
    grid: maps are average-pooled to grid x grid and flattened; None keeps them whole. Or a dict of `matched_grids`: maps that it does not name are kept whole.
    A global average (grid 1) would hide what early layers know: they say where, not only what.
    """
    n = len(faces) if limit is None else min(limit, len(faces))
    device, was_training = next(network.parameters()).device, network.training
    network.eval()
    # Choice: raw pixels, the layer before the first, keep 16 x 16, so that their count is that of a layer's features.
    grids = grid if isinstance(grid, dict) else dict.fromkeys(layers, grid) | dict(pixels=pixel_grid)
    found = []
    for start in range(0, n, batch_size):
        image = _images(faces, range(start, min(start + batch_size, n))).to(device)
        found.append({name: x.float().cpu() for name, x in layer_vectors(network, image, ("pixels", *layers), grids).items()})
    network.train(was_training)
    return {name: torch.cat([part[name] for part in found]).numpy() for name in ("pixels", *layers)}


def layer_vectors(network, image, layers, grids):
    """Features of `layers` ("pixels" too) for images (B, 3, S, S): dict layer -> (B, d).

    Maps are pooled to their grid in the dict `grids`, or kept whole if it is None or not there; vectors stay as they are.
    """
    maps = dict(pixels=image) | (network.features if set(layers) <= {"pixels", *LAYERS} else network.activations)(image)
    if missing := [layer for layer in layers if layer not in maps]:
        raise ValueError(f"the network has no layer {missing[0]}; it has {', '.join(maps)}")
    pooled = lambda x, grid: x if x.ndim == 2 or grid is None else F.adaptive_avg_pool2d(x, grid)
    return {layer: pooled(maps[layer], grids.get(layer)).flatten(1) for layer in layers}


def matched_grids(network):
    """Grids at which every layer of an E2FAR, and the pixels, have at least as many features (channels x grid²) as all of pool5, as nearly as squares allow.

    Early layers have few channels but large maps, so they keep more places and lose no comparison for lack of numbers.
    """
    maps = dict(pixels=(3, network.image_size)) | map_sizes(network.trunk, network.image_size)
    total = maps["pool5"][0] * maps["pool5"][1] ** 2
    return {layer: min(side, int(np.ceil(np.sqrt(total / channels)))) for layer, (channels, side) in maps.items()}


def many_people(person, n):
    """Rows of `n` pictures of as many people as possible: one of everybody, in order, before a second one of anybody. person: (N,)"""
    turn = pd.Series(np.asarray(person)).groupby(np.asarray(person)).cumcount()
    return np.sort(np.argsort(turn.to_numpy(), kind="stable")[:n])


@torch.no_grad()
def measure_batch_norm(network, faces, rows, batch_size=64):
    """Set the BatchNorm statistics of an untrained network's trunk, in place, to those of its answers to the faces `rows`, as training would have."""
    norms = [module for module in network.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None                        # a plain average over the batches
    network.train()
    for start in range(0, len(rows), batch_size):
        network.features(_images(faces, rows[start:start + batch_size]).to(next(network.parameters()).device))
    for norm in norms:
        norm.momentum = .1
    network.eval()


def _images(faces, indices):
    if isinstance(faces, torch.Tensor):
        return to_float(faces[list(indices)])
    if hasattr(faces, "__getitems__"):
        return faces.__getitems__(list(indices))["image"]
    return torch.stack([faces[i]["image"] for i in indices])


# ---- probes ------------------------------------------------------------------------------------------------------

def fit_probe(features_train, targets_train, features_test, targets_test=None, groups=None, groups_test=None,
              dimension=128, alphas=ALPHAS, folds=5, seed=0):
    """Ridge regression from features to targets: SimpleNamespace(prediction (n_test, T), alpha, dimension, score, readout).

    features (n, d), targets (n, T). Features are standardised and cut to `dimension` principal components, the same for
    every layer, so that no layer wins by its size. alpha is chosen by cross-validation whose folds share no person.
    groups, groups_test: person of each row. A person on both sides raises a ValueError. score: plain R^2 of all targets.
    readout: (weight (d, T), bias (T,)), the whole probe on raw features: prediction = features @ weight + bias.
    """
    features_train, targets_train, features_test = (np.asarray(x, np.float64) for x in (features_train, targets_train, features_test))
    groups = np.arange(len(features_train)) if groups is None else np.asarray(groups)
    if groups_test is not None and len(shared := np.intersect1d(groups, groups_test)):
        raise ValueError(f"{len(shared)} people are in both sets, e.g. {shared[0]}: a probe must be tested on new people")
    weight, bias, (alpha,) = _fit_readout(features_train, [targets_train.reshape(len(features_train), -1)], groups, dimension, alphas, folds, seed)
    prediction = features_test @ weight + bias
    score = None if targets_test is None else explained_variance(prediction, np.asarray(targets_test).reshape(len(prediction), -1), samples=1)[0]
    return SimpleNamespace(prediction=prediction, alpha=alpha, dimension=min(dimension, *features_train.shape), score=score, readout=(weight, bias))


def nested_predictions(features, targets, groups, dimension=256, alphas=ALPHAS, folds=4, inner=3, seed=0):
    """Ridge predictions of every picture by probes that met neither it nor its person: SimpleNamespace(prediction: dict name -> (n, T), alpha: dict name -> one value an outer fold).

    features: (n, d)    targets: dict name -> (n, T), whose columns share an alpha    groups: (n,) persons
    Nested cross-validation: `folds` outer parts give the predictions; in what is left of each, `inner` parts, again without a common person, choose alpha by squared error.
    Features are standardised and cut to `dimension` principal components, the same for every layer, on the training part alone.
    """
    features, groups = np.asarray(features, np.float64), np.asarray(groups)
    targets = {name: np.asarray(target, np.float64).reshape(len(features), -1) for name, target in targets.items()}
    if (people := len(np.unique(groups))) < folds:
        raise ValueError(f"{people} people cannot be split into {folds} folds: give more people or fewer folds")
    prediction, alpha = {name: np.empty_like(target) for name, target in targets.items()}, {name: [] for name in targets}
    borders = np.cumsum([target.shape[1] for target in targets.values()])[:-1]
    for train, test in GroupKFold(folds).split(features, groups=groups):
        weight, bias, chosen = _fit_readout(features[train], [target[train] for target in targets.values()], groups[train], dimension, alphas, inner, seed)
        for name, part, value in zip(targets, np.split(features[test] @ weight + bias, borders, 1), chosen):
            prediction[name][test] = part
            alpha[name].append(value)
    return SimpleNamespace(prediction=prediction, alpha=alpha)


def ridge_path(features, targets, alphas):
    r"""Ridge regression for every alpha at once: weight (A, d, T) and unpenalised bias (A, T) of features (n, d) to targets (n, T).

    With centred $X$, $Y$ and $X^\top X = V \Lambda V^\top$ the weights are $V (\Lambda + \alpha)^{-1} V^\top X^\top Y$: one eigendecomposition serves all.
    """
    mean, centre = features.mean(0), targets.mean(0)
    centred = features - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    shrunk = 1 / (np.maximum(values, 0) + np.asarray(alphas)[:, None])                   # (A, d)
    weight = vectors @ (shrunk[:, :, None] * (vectors.T @ (centred.T @ (targets - centre))))
    return weight, centre - mean @ weight


def _fit_readout(features, blocks, groups, dimension, alphas, folds, seed):
    """(weight (d, T), bias (T,)) from raw features to the columns of all `blocks` [(n, t), ...], and each block's alpha, chosen by squared error across people."""
    for name, values in (("features", features), *(("targets", part) for part in blocks)):
        if not np.isfinite(values).all():
            raise ValueError(f"{name} hold NaN or infinite numbers: check what made them")
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        raise ValueError("a probe needs at least two people to choose its regularisation")
    projection = make_pipeline(StandardScaler(), _pca(features, dimension, seed)).fit(features)
    x, y, block = projection.transform(features), np.hstack(blocks), np.repeat(np.arange(len(blocks)), [part.shape[1] for part in blocks])
    error = np.zeros((len(alphas), len(blocks)))
    for train, test in GroupKFold(folds).split(x, groups=groups):
        weight, bias = ridge_path(x[train], y[train], alphas)
        squared = np.square(x[test] @ weight + bias[:, None] - y[test]).sum(1)           # (A, T)
        error += squared @ np.eye(len(blocks))[block]
    best = error.argmin(0)
    weight, bias = (part[best[block], ..., np.arange(len(block))].T for part in ridge_path(x, y, alphas))
    rotation, origin = projection[1].components_.T / projection[0].scale_[:, None], projection.transform(np.zeros((1, features.shape[1])))[0]
    return rotation @ weight, bias + origin @ weight, [float(alphas[i]) for i in best]


def _pca(features, dimension, seed):
    """Choice: the covariance's eigenvectors, exact and fast, while the features are few; scikit-learn's own choice, a randomised decomposition, when they are many."""
    return PCA(min(dimension, *features.shape), svd_solver="covariance_eigh" if features.shape[1] <= 1000 else "auto", random_state=seed)


def recognise(features, person, dimension=256, folds=4, seed=0):
    """Which pictures' person is named rightly by a classifier that learned from other pictures of the same people: (n,) bool.

    features: (n, d)    person: (n,), each with `folds` pictures or more: each part of a stratified split is left out once, so that everybody stays known
    Standardised, cut to `dimension` principal components, then linear discriminants whose covariance within people is shrunk (Ledoit and Wolf 2004).
    """
    features, person = np.asarray(features, np.float64), np.asarray(person)
    if (fewest := np.unique(person, return_counts=True)[1].min()) < folds:
        raise ValueError(f"someone has {fewest} pictures: {folds} folds need {folds} of everybody")
    right = np.zeros(len(person), bool)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(features, person):
        classifier = make_pipeline(StandardScaler(), _pca(features[train], dimension, seed), LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"))
        right[test] = classifier.fit(features[train], person[train]).predict(features[test]) == person[test]
    return right


def explained_variance(pred, target, basis_factor=None, clusters=None, samples=2000, seed=0):
    r"""$1 - \sum \lVert R(p - t) \rVert^2 / \sum \lVert R(t - \bar t) \rVert^2$ and its interval: (value, low, high).

    pred, target: (n, T)    basis_factor: R (T, T) of losses.gram_factor, which weighs coefficients by the vertices they
    move; None weighs all alike    clusters: (n,) persons, drawn whole by the bootstrap. The mean target scores 0.
    """
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    if pred.shape != target.shape:
        raise ValueError(f"prediction {pred.shape} and target {target.shape} differ in shape")
    factor = np.eye(target.shape[1]) if basis_factor is None else np.asarray(basis_factor, np.float64)
    energy = lambda x: np.square(x @ factor.T).sum(1)
    value, low, high = bootstrap_ratio(energy(pred - target), energy(target - target.mean(0)), clusters, samples, seed=seed)
    return 1 - value, 1 - high, 1 - low


def seed_interval(values, level=.95):
    """Mean of one value a seed and its Student-t interval: (mean, low, high). With few seeds it is wide: for 3 it is the mean +- 2.5 standard deviations."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(f"an interval over seeds needs two or more values, got shape {values.shape}")
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** .5
    return values.mean(), values.mean() - half, values.mean() + half


def share(right, person, samples=2000, seed=0):
    """Share of `right` (n,) bool, and its bootstrap interval over persons: (value, low, high)."""
    right = np.asarray(right, np.float64)
    return bootstrap_ratio(right, np.ones_like(right), person, samples, seed=seed)


# ---- where -------------------------------------------------------------------------------------------------------

def receptive_field(layer):
    """Side of the square of input pixels that a cell of pool1 ... pool5 of VGG-16 can see, and the distance of neighbouring cells: SimpleNamespace(size_px, stride_px)."""
    if layer not in LAYERS:
        raise ValueError(f"no receptive field for {layer!r}: name one of {', '.join(LAYERS)}")
    size, stride = 1, 1
    for _, convolutions in BLOCKS[:LAYERS.index(layer) + 1]:
        size, stride = size + (2 * convolutions + 1) * stride, 2 * stride                # 3x3 convolutions, then a 2x2 pool
    return SimpleNamespace(size_px=size, stride_px=stride)


def linear_reader(network, layer, grid, readout, factor=None):
    """A probe as an answer to pictures, for `occluded`: callable (B, 3, S, S) -> (B, T).

    layer, grid: as in `layer_features`, where the probe learned; grid is a number or None    readout: of `fit_probe`    factor: R of losses.gram_factor, applied to the answer; None leaves it as it is
    """
    device = next(network.parameters()).device
    weight, bias = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in readout)
    answer = lambda image: layer_vectors(network, image, (layer,), {layer: grid})[layer] @ weight + bias
    return answer if factor is None else lambda image: answer(image) @ factor.to(weight).T


@torch.no_grad()
def occluded(answer, image, patch=16, stride=8, grey=0.5, batch_size=64):
    """How much an answer moves when a grey patch hides a place: (H', W') lengths of answer(hidden) - answer(image).

    answer: callable (B, 3, S, S) -> (B, T), its network in eval mode    image: (3, S, S) in [0, 1]    patch, stride: px
    Entry (i, j) is for the patch whose corner is at row i * stride, column j * stride.
    """
    if image.ndim != 3 or patch > min(image.shape[1:]):
        raise ValueError(f"expected one image (3, S, S) larger than the patch of {patch} px, got {tuple(image.shape)}")
    rows, columns = (range(0, side - patch + 1, stride) for side in image.shape[1:])
    corners, reference, changes = [(y, x) for y in rows for x in columns], answer(image[None]), []
    for start in range(0, len(corners), batch_size):
        part = corners[start:start + batch_size]
        hidden = image.repeat(len(part), 1, 1, 1)
        for picture, (y, x) in zip(hidden, part):
            picture[:, y:y + patch, x:x + patch] = grey
        changes.append((answer(hidden) - reference).norm(dim=1))
    return torch.cat(changes).reshape(len(rows), len(columns))


def occlusion_map(network, image, target="expression", patch=16, stride=8, factor=None, grey=0.5, batch_size=64):
    r"""`occluded` for the network's own answer `target`, "identity" or "expression": (H', W') RMS vertex displacement, mm.

    factor: R of losses.gram_factor, so that $\lVert R \Delta \rVert$ is in mm (None: plain length of the change)
    """
    was_training = network.training
    network.eval()
    answer = lambda hidden: network(hidden)[target] if factor is None else network(hidden)[target] @ factor.to(hidden).T
    found = occluded(answer, image, patch, stride, grey, batch_size)
    network.train(was_training)
    return found
