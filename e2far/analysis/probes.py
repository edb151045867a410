"""What a linear reader finds in a layer's features: ridge probes, recognition, their scores."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from e2far.evaluation import bootstrap_ratio
from e2far.files import extra

with extra("study"):
    import pandas as pd
    from sklearn.covariance import LedoitWolf
    from sklearn.decomposition import PCA
    from sklearn.model_selection import GroupKFold, StratifiedKFold
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

# Ridge penalties that a probe chooses from. Choice: four a decade, since with one a decade a layer
# whose best lies between two lost a third of what it explains.
ALPHAS = np.logspace(-1, 6, 29)


class Scaler(StandardScaler):
    """Standardises features, but divides none by less than their median deviation: a channel that
    is nearly always silent would else be 40 deviations off in a few pictures, and ruin them."""

    def partial_fit(self, X, y=None, sample_weight=None):
        super().partial_fit(X, y, sample_weight)
        least = np.median(np.asarray(self.var_)) ** 0.5
        self.scale_ = np.maximum(np.asarray(self.scale_), least)
        return self


def balanced_rows(person, n):
    """Rows of `n` pictures of as many people as possible, in order. person: (N,)

    Nobody's second picture is taken before everybody's first.
    """
    person = pd.Series(np.asarray(person))
    turn = person.groupby(person).cumcount()
    return np.sort(np.argsort(turn.to_numpy(), kind="stable")[:n])


# ---- probes --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Probe:
    """A linear reader of features as they are: features @ weight + bias.

    weight: (d, T)    bias: (T,)    alpha: (T,) ridge penalty of each target
    """

    weight: np.ndarray
    bias: np.ndarray
    alpha: np.ndarray

    def predict(self, features):
        """Targets (n, T) of features (n, d)."""
        return np.asarray(features, np.float64) @ self.weight + self.bias


def fit_probe(features, targets, person=None, dimension=128, folds=5, blocks=None):
    """Ridge regression from features (n, d) to targets (n, T): a Probe.

    Features are standardised (`Scaler`) and cut to `dimension` principal components, the same for
    every layer, so that no layer wins by its size. Cross-validation over people chooses alpha by
    squared error: give coefficients times R of `losses.gram_factor` for errors in mm².

    person: (n,); None: each row is somebody else
    blocks: (T,) number of each target's block, from 0, whose targets share an alpha; None: one
    """
    features, targets = np.asarray(features, np.float64), np.asarray(targets, np.float64)
    person = np.arange(len(features)) if person is None else np.asarray(person)
    blocks = np.zeros(targets.shape[1], int) if blocks is None else blocks
    projection = make_pipeline(Scaler(), _pca(dimension, *features.shape)).fit(features)
    x = projection.transform(features)
    best, each = _best_alphas(x, targets, person, folds, blocks), np.arange(len(blocks))
    weight, bias = ridge_path(x, targets)
    weight, bias = weight[best, :, each].T, bias[best, each]
    # From components back to features as they are.
    scaler, pca = projection
    rotation = pca.components_.T / scaler.scale_[:, None]
    origin = projection.transform(np.zeros((1, features.shape[1])))[0]
    return Probe(rotation @ weight, bias + origin @ weight, ALPHAS[best])


def _best_alphas(x, targets, person, folds, blocks):
    """Number of the alpha (T,) whose squared error over each target's block is least."""
    error = np.zeros((len(ALPHAS), blocks.max() + 1))
    folds = min(folds, len(np.unique(person)))
    for train, test in GroupKFold(folds).split(x, groups=person):
        weight, bias = ridge_path(x[train], targets[train])
        squared = np.square(x[test] @ weight + bias[:, None] - targets[test]).sum(1)  # (A, T)
        error += squared @ np.eye(error.shape[1])[blocks]
    return error.argmin(0)[blocks]


def random_mixtures(features, count, seed):
    """`count` mixtures of features (n, d), standardised, with random weights: (n, count). What is
    left of a layer where few numbers are, whoever chooses them."""
    weights = np.random.default_rng(seed).normal(size=(features.shape[1], count))
    return Scaler().fit_transform(features) @ weights


def nested_predictions(features, targets, person, dimension=256):
    """Predictions by probes that met neither the picture nor its person: dict name -> (n, T).

    features: (n, d)    targets: dict name -> (n, T), whose columns share an alpha    person: (n,)
    Nested cross-validation over people: of each of four folds by probes of the three others, which
    choose alpha by three folds of their own.
    """
    features, person = np.asarray(features, np.float64), np.asarray(person)
    together = np.hstack([*targets.values()])
    widths = [target.shape[1] for target in targets.values()]
    blocks = np.repeat(np.arange(len(widths)), widths)
    prediction = np.empty(together.shape)
    for train, test in GroupKFold(4).split(features, groups=person):
        probe = fit_probe(features[train], together[train], person[train], dimension, 3, blocks)
        prediction[test] = probe.predict(features[test])
    return dict(zip(targets, np.split(prediction, np.cumsum(widths)[:-1], axis=1)))


def ridge_path(features, targets, alphas=ALPHAS):
    r"""Ridge regression of targets (n, T) on features (n, d) for every alpha at once.

    Returns weight (A, d, T) and unpenalised bias (A, T). With centred $X$, $Y$ and
    $X^\top X = V \Lambda V^\top$ the weights are $V (\Lambda + \alpha)^{-1} V^\top X^\top Y$:
    one eigendecomposition serves all. (scikit-learn's grid search takes over four times as long.)
    """
    mean, centre = features.mean(0), targets.mean(0)
    centred = features - mean
    values, vectors = np.linalg.eigh(centred.T @ centred)
    shrunk = 1 / (np.maximum(values, 0) + np.asarray(alphas)[:, None])  # (A, d)
    weight = vectors @ (shrunk[:, :, None] * (vectors.T @ (centred.T @ (targets - centre))))
    return weight, centre - mean @ weight


def recognise(features, person, dimension=256, folds=4):
    """Who is in each picture, told by a classifier that met others of the same people: (n,).

    features: (n, d)    person: (n,), `folds` pictures or more of each, one fold left out in turn
    Standardised, cut to `dimension` principal components, then linear discriminants with one
    covariance within people, shrunk (Ledoit and Wolf 2004). (scikit-learn's discriminants shrink
    one for each person, from a few pictures: they name fewer people, and take twice as long.)
    """
    features = np.asarray(features, np.float64)
    people, number = np.unique(person, return_inverse=True)
    n = len(features) * (folds - 1) // folds  # of the smallest training part
    projection = make_pipeline(Scaler(), _pca(dimension, n, features.shape[1]))
    named = np.empty(len(features), int)
    split = StratifiedKFold(folds, shuffle=True, random_state=0)
    for train, test in split.split(features, number):
        x = projection.fit_transform(features[train])
        means = np.stack([x[number[train] == k].mean(0) for k in range(len(people))])
        within = LedoitWolf(assume_centered=True).fit(x - means[number[train]])
        weight = within.precision_ @ means.T
        scores = projection.transform(features[test]) @ weight - (means.T * weight).sum(0) / 2
        named[test] = scores.argmax(1)
    return people[named]


def _pca(dimension, n, d):
    # Choice: exact by the covariance's eigenvectors, which is fast while features are few; beyond,
    # scikit-learn's own choice, a randomised decomposition.
    solver = "covariance_eigh" if d <= 1000 else "auto"
    return PCA(min(dimension, n, d), svd_solver=solver, random_state=0)


# ---- scores: (value, low, high) ------------------------------------------------------------------


def explained_variance(prediction, target, person=None, samples=2000):
    r"""$1 - \sum \lVert p - t \rVert^2 / \sum \lVert t - \bar t \rVert^2$ and its interval.

    prediction, target: (n, T), coefficients times R of `losses.gram_factor` if they are to count by
    the vertices that they move; the mean target scores 0    person: (n,), drawn whole by the
    bootstrap
    """
    prediction, target = np.asarray(prediction, np.float64), np.asarray(target, np.float64)
    error, spread = (np.square(x).sum(1) for x in (prediction - target, target - target.mean(0)))
    value, low, high = bootstrap_ratio(error, spread, person, samples)
    return 1 - value, 1 - high, 1 - low


def seed_interval(values, level=0.95):
    """Mean of one value a seed, and its Student-t interval: for 3 seeds +- 2.5 deviations."""
    values = np.asarray(values, np.float64)
    half = stats.t.ppf((1 + level) / 2, len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    return values.mean(), values.mean() - half, values.mean() + half
