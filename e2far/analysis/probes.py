"""What each layer knows: linear probes on its features, explained variance in vertex space, who is it, occlusion maps, receptive fields."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
from scipy import stats
from sklearn.decomposition import PCA
from sklearn.discriminant_analysis import LinearDiscriminantAnalysis
from sklearn.model_selection import GroupKFold, StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from e2far.evaluation import bootstrap_ratio

ALPHAS = tuple(np.logspace(-1, 6, 8))


def many_people(person, n):
    """Rows of `n` pictures of as many people as possible: one of everybody, in order, before a second one of anybody. person: (N,)"""
    turn = pd.Series(np.asarray(person)).groupby(np.asarray(person)).cumcount()
    return np.sort(np.argsort(turn.to_numpy(), kind="stable")[:n])


# ---- probes ------------------------------------------------------------------------------------------------------


def fit_probe(
    features_train,
    targets_train,
    features_test,
    targets_test=None,
    groups=None,
    groups_test=None,
    dimension=128,
    alphas=ALPHAS,
    folds=5,
    seed=0,
):
    """Ridge regression from features to targets: SimpleNamespace(prediction (n_test, T), alpha, dimension, score, readout).

    features (n, d), targets (n, T). Features are standardised and cut to `dimension` principal components, the same for
    every layer, so that no layer wins by its size. alpha is chosen by cross-validation whose folds share no person.
    groups, groups_test: person of each row. A person on both sides raises a ValueError. score: plain R^2 of all targets.
    readout: (weight (d, T), bias (T,)), the whole probe on raw features: prediction = features @ weight + bias.
    """
    features_train, targets_train, features_test = (
        np.asarray(x, np.float64) for x in (features_train, targets_train, features_test)
    )
    groups = np.arange(len(features_train)) if groups is None else np.asarray(groups)
    if groups_test is not None and len(shared := np.intersect1d(groups, groups_test)):
        raise ValueError(
            f"{len(shared)} people are in both sets, e.g. {shared[0]}: a probe must be tested on new people"
        )
    weight, bias, (alpha,) = _fit_readout(
        features_train,
        [targets_train.reshape(len(features_train), -1)],
        groups,
        dimension,
        alphas,
        folds,
        seed,
    )
    prediction = features_test @ weight + bias
    score = (
        None
        if targets_test is None
        else explained_variance(
            prediction, np.asarray(targets_test).reshape(len(prediction), -1), samples=1
        )[0]
    )
    return SimpleNamespace(
        prediction=prediction,
        alpha=alpha,
        dimension=min(dimension, *features_train.shape),
        score=score,
        readout=(weight, bias),
    )


def nested_predictions(
    features, targets, groups, dimension=256, alphas=ALPHAS, folds=4, inner=3, seed=0
):
    """Ridge predictions of every picture by probes that met neither it nor its person: SimpleNamespace(prediction: dict name -> (n, T), alpha: dict name -> one value an outer fold).

    features: (n, d)    targets: dict name -> (n, T), whose columns share an alpha    groups: (n,) persons
    Nested cross-validation: `folds` outer parts give the predictions; in what is left of each, `inner` parts, again without a common person, choose alpha by squared error.
    Features are standardised and cut to `dimension` principal components, the same for every layer, on the training part alone.
    """
    features, groups = np.asarray(features, np.float64), np.asarray(groups)
    targets = {
        name: np.asarray(target, np.float64).reshape(len(features), -1)
        for name, target in targets.items()
    }
    if (people := len(np.unique(groups))) < folds:
        raise ValueError(
            f"{people} people cannot be split into {folds} folds: give more people or fewer folds"
        )
    prediction, alpha = (
        {name: np.empty_like(target) for name, target in targets.items()},
        {name: [] for name in targets},
    )
    borders = np.cumsum([target.shape[1] for target in targets.values()])[:-1]
    for train, test in GroupKFold(folds).split(features, groups=groups):
        weight, bias, chosen = _fit_readout(
            features[train],
            [target[train] for target in targets.values()],
            groups[train],
            dimension,
            alphas,
            inner,
            seed,
        )
        for name, part, value in zip(
            targets, np.split(features[test] @ weight + bias, borders, 1), chosen
        ):
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
    shrunk = 1 / (np.maximum(values, 0) + np.asarray(alphas)[:, None])  # (A, d)
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
    x, y, block = (
        projection.transform(features),
        np.hstack(blocks),
        np.repeat(np.arange(len(blocks)), [part.shape[1] for part in blocks]),
    )
    error = np.zeros((len(alphas), len(blocks)))
    for train, test in GroupKFold(folds).split(x, groups=groups):
        weight, bias = ridge_path(x[train], y[train], alphas)
        squared = np.square(x[test] @ weight + bias[:, None] - y[test]).sum(1)  # (A, T)
        error += squared @ np.eye(len(blocks))[block]
    best = error.argmin(0)
    weight, bias = (
        part[best[block], ..., np.arange(len(block))].T for part in ridge_path(x, y, alphas)
    )
    rotation, origin = (
        projection[1].components_.T / projection[0].scale_[:, None],
        projection.transform(np.zeros((1, features.shape[1])))[0],
    )
    return rotation @ weight, bias + origin @ weight, [float(alphas[i]) for i in best]


def _pca(features, dimension, seed):
    """Choice: the covariance's eigenvectors, exact and fast, while the features are few; scikit-learn's own choice, a randomised decomposition, when they are many."""
    return PCA(
        min(dimension, *features.shape),
        svd_solver="covariance_eigh" if features.shape[1] <= 1000 else "auto",
        random_state=seed,
    )


def recognise(features, person, dimension=256, folds=4, seed=0):
    """Which pictures' person is named rightly by a classifier that learned from other pictures of the same people: (n,) bool.

    features: (n, d)    person: (n,), each with `folds` pictures or more: each part of a stratified split is left out once, so that everybody stays known
    Standardised, cut to `dimension` principal components, then linear discriminants whose covariance within people is shrunk (Ledoit and Wolf 2004).
    """
    features, person = np.asarray(features, np.float64), np.asarray(person)
    if (fewest := np.unique(person, return_counts=True)[1].min()) < folds:
        raise ValueError(f"someone has {fewest} pictures: {folds} folds need {folds} of everybody")
    right = np.zeros(len(person), bool)
    for train, test in StratifiedKFold(folds, shuffle=True, random_state=seed).split(
        features, person
    ):
        classifier = make_pipeline(
            StandardScaler(),
            _pca(features[train], dimension, seed),
            LinearDiscriminantAnalysis(solver="lsqr", shrinkage="auto"),
        )
        right[test] = (
            classifier.fit(features[train], person[train]).predict(features[test]) == person[test]
        )
    return right


def explained_variance(pred, target, basis_factor=None, clusters=None, samples=2000, seed=0):
    r"""$1 - \sum \lVert R(p - t) \rVert^2 / \sum \lVert R(t - \bar t) \rVert^2$ and its interval: (value, low, high).

    pred, target: (n, T)    basis_factor: R (T, T) of losses.gram_factor, which weighs coefficients by the vertices they
    move; None weighs all alike    clusters: (n,) persons, drawn whole by the bootstrap. The mean target scores 0.
    """
    pred, target = np.asarray(pred, np.float64), np.asarray(target, np.float64)
    if pred.shape != target.shape:
        raise ValueError(f"prediction {pred.shape} and target {target.shape} differ in shape")
    factor = (
        np.eye(target.shape[1]) if basis_factor is None else np.asarray(basis_factor, np.float64)
    )
    energy = lambda x: np.square(x @ factor.T).sum(1)
    value, low, high = bootstrap_ratio(
        energy(pred - target), energy(target - target.mean(0)), clusters, samples, seed=seed
    )
    return 1 - value, 1 - high, 1 - low


def seed_interval(values, level=0.95):
    """Mean of one value a seed and its Student-t interval: (mean, low, high). With few seeds it is wide: for 3 it is the mean +- 2.5 standard deviations."""
    values = np.asarray(values, np.float64)
    if values.ndim != 1 or len(values) < 2:
        raise ValueError(
            f"an interval over seeds needs two or more values, got shape {values.shape}"
        )
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), values.mean() - half, values.mean() + half


def share(right, person, samples=2000, seed=0):
    """Share of `right` (n,) bool, and its bootstrap interval over persons: (value, low, high)."""
    right = np.asarray(right, np.float64)
    return bootstrap_ratio(right, np.ones_like(right), person, samples, seed=seed)
