"""What each layer knows: linear probes on its features, explained variance in vertex space, occlusion maps."""
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import GridSearchCV, GroupKFold
from sklearn.preprocessing import StandardScaler

from e2far.metrics import bootstrap_ratio

LAYERS = ("pool1", "pool2", "pool3", "pool4", "pool5")


@torch.no_grad()
def layer_features(network, faces, layers=LAYERS, grid=2, limit=None, pixel_grid=16, batch_size=64):
    """What the layers say of the first `limit` faces: dict "pixels" and layer -> (n, d) float32 arrays.

    faces: a data set whose batches hold "image" (B, 3, S, S)    grid: maps are average-pooled to grid x grid and flattened; or a dict of `matched_grids`.
    A global average (grid 1) would hide what early layers know: they say where, not only what.
    # Choice: raw pixels, the layer before the first, keep 16 x 16, so that their count is that of a layer's features.
    """
    n = len(faces) if limit is None else min(limit, len(faces))
    device, was_training = next(network.parameters()).device, network.training
    network.eval()
    found = {name: [] for name in ("pixels", *layers)}
    grids = grid if isinstance(grid, dict) else dict.fromkeys(layers, grid) | dict(pixels=pixel_grid)
    for start in range(0, n, batch_size):
        image = _images(faces, range(start, min(start + batch_size, n))).to(device)
        maps = network.features(image)
        if missing := [layer for layer in layers if layer not in maps]:
            raise ValueError(f"the network has no layer {missing[0]}; it has {', '.join(maps)}")
        found["pixels"].append(F.adaptive_avg_pool2d(image, grids["pixels"]))
        for layer in layers:
            found[layer].append(F.adaptive_avg_pool2d(maps[layer], grids[layer]))
    network.train(was_training)
    return {name: torch.cat(parts).flatten(1).float().cpu().numpy() for name, parts in found.items()}


def matched_grids(network):
    """Grids at which every layer of an E2FAR, and the pixels, have at least as many features (channels x grid²) as all of pool5, as nearly as squares allow.

    Early layers have few channels but large maps, so they keep more places and lose no comparison for lack of numbers.
    """
    side, channels = network.image_size, dict(pixels=3) | network.trunk.channels
    total = channels["pool5"] * (side // 32) ** 2
    return {layer: min(side // 2 ** level, int(np.ceil(np.sqrt(total / channels[layer])))) for level, layer in enumerate(("pixels", *LAYERS))}


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
        network.features(_images(faces, rows[start:start + batch_size]))
    for norm in norms:
        norm.momentum = .1
    network.eval()


def _images(faces, indices):
    if hasattr(faces, "__getitems__"):
        return faces.__getitems__(list(indices))["image"]
    return torch.stack([faces[i]["image"] for i in indices])


def fit_probe(features_train, targets_train, features_test, targets_test=None, groups=None, groups_test=None,
              dimension=128, alphas=tuple(np.logspace(-1, 6, 8)), folds=5, seed=0):
    """Ridge regression from features to targets: SimpleNamespace(prediction (n_test, T), alpha, dimension, score).

    features (n, d), targets (n, T). Features are standardised and cut to `dimension` principal components, the same for
    every layer, so that no layer wins by its size. alpha is chosen by cross-validation whose folds share no person.
    groups, groups_test: person of each row. A person on both sides raises a ValueError. score: plain R^2 of all targets.
    """
    features_train, targets_train, features_test = (np.asarray(x, np.float64) for x in (features_train, targets_train, features_test))
    groups = np.arange(len(features_train)) if groups is None else np.asarray(groups)
    if groups_test is not None and len(shared := np.intersect1d(groups, groups_test)):
        raise ValueError(f"{len(shared)} people are in both sets, e.g. {shared[0]}: a probe must be tested on new people")
    folds = min(folds, len(np.unique(groups)))
    if folds < 2:
        raise ValueError("a probe needs at least two people to choose its regularisation")
    dimension = min(dimension, *features_train.shape)
    scaler = StandardScaler().fit(features_train)
    pca = PCA(dimension, random_state=seed).fit(scaler.transform(features_train))
    project = lambda x: pca.transform(scaler.transform(x))
    search = GridSearchCV(Ridge(), dict(alpha=alphas), scoring="neg_mean_squared_error", cv=GroupKFold(folds))
    search.fit(project(features_train), targets_train, groups=groups)
    prediction = search.predict(project(features_test)).reshape(len(features_test), -1)
    score = None if targets_test is None else explained_variance(
        prediction, np.asarray(targets_test).reshape(len(prediction), -1), samples=1)[0]
    return SimpleNamespace(prediction=prediction, alpha=float(search.best_params_["alpha"]), dimension=dimension, score=score)


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


@torch.no_grad()
def occlusion_map(network, image, target="expression", patch=16, stride=8, factor=None, grey=0.5, batch_size=64):
    r"""How much the answer moves when a grey patch hides a place: (H', W') RMS vertex displacement, mm.

    image: (3, S, S) in [0, 1]    target: "identity" or "expression"    patch, stride: px
    factor: R of losses.gram_factor, so that $\lVert R \Delta \rVert$ is in mm (None: plain length of the change)
    Entry (i, j) is for the patch whose corner is at row i * stride, column j * stride.
    """
    side = image.shape[-1]
    if image.ndim != 3 or patch > side:
        raise ValueError(f"expected one image (3, S, S) larger than the patch of {patch} px, got {tuple(image.shape)}")
    corners = [(y, x) for y in range(0, image.shape[-2] - patch + 1, stride) for x in range(0, side - patch + 1, stride)]
    was_training = network.training
    network.eval()
    reference = network(image[None])[target]
    changes = []
    for start in range(0, len(corners), batch_size):
        part = corners[start:start + batch_size]
        hidden = image.repeat(len(part), 1, 1, 1)
        for picture, (y, x) in zip(hidden, part):
            picture[:, y:y + patch, x:x + patch] = grey
        change = network(hidden)[target] - reference
        changes.append((change if factor is None else change @ factor.to(change).T).norm(dim=1))
    network.train(was_training)
    return torch.cat(changes).reshape(-1, len(range(0, side - patch + 1, stride)))
