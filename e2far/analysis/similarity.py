"""How alike features are: what changes move, which layers agree, which faces a layer confuses."""

from typing import NamedTuple

import numpy as np

from e2far.evaluation import bootstrap_ratio
from e2far.files import extra

with extra("study"):
    from sklearn.metrics.pairwise import euclidean_distances


def relative_change(original, changed, reference):
    """Mean |original - changed|² over mean |original - reference|²: (value, low, high).

    All (n, d), row by row features of a picture, of the same picture with one factor changed, and
    of what to compare with: unrelated pictures (0: the features ignore the factor; 1: they see
    nothing else), or another factor. The interval is a bootstrap over pairs.
    Choice: features as they are, not standardised, so that a unit counts by how much it says.
    """
    return bootstrap_ratio(
        _squared_distance(original, changed), _squared_distance(original, reference)
    )


def _squared_distance(x, y):
    return np.square(np.asarray(x, np.float64) - np.asarray(y, np.float64)).sum(1)


def cka(x, y):
    r"""Linear CKA of features (n, d1) and (n, d2) of the same n > 3 pictures.

    1 if they agree up to rotation and scale, about 0 if they have nothing in common:
    $\mathrm{HSIC}(x, y) / \sqrt{\mathrm{HSIC}(x, x)\, \mathrm{HSIC}(y, y)}$ (Kornblith et al.,
    2019). Choice: with the unbiased HSIC of Song et al. (2012), as Nguyen et al. (2021) do: the
    plain one calls noise alike when n is not much larger than d. It can fall a little below 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    x, y = x - x.mean(0), y - y.mean(0)
    return float(_hsic(x, y) / np.sqrt(_hsic(x, x) * _hsic(y, y)))


def _hsic(x, y):
    r"""Unbiased HSIC of centred features, times n (n - 3).

    Of the Gram matrices $K = XX^\top$ and $L$ without their diagonals it is
    $\mathrm{tr} KL + 1^\top K 1\, 1^\top L 1 / (n-1)(n-2) - 2\, 1^\top K L 1 / (n-2)$. Rows of the
    centred $K$ sum to 0 with the diagonal, so to minus it without.
    """
    n, k, l = len(x), np.square(x).sum(1), np.square(y).sum(1)
    if x.shape[1] * y.shape[1] < n * n:
        whole = np.square(x.T @ y).sum()
    else:
        whole = ((x @ x.T) * (y @ y.T)).sum()
    return whole - k @ l + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l) / (n - 2)


class ConfusedPair(NamedTuple):
    """Two pictures, and how far apart they are, in mean distances of all pairs."""

    rows: tuple[int, int]
    features: float
    labels: float


def confused_pairs(features, labels, count, quantile=0.9):
    """Up to `count` ConfusedPairs, alike to the features though their labels are far apart.

    Nearest in features first, of the pairs whose distance of labels is above its `quantile`; no
    picture is used twice.

    features: (n, d)    labels: (n, L), e.g. expression, weighted as its distance should be
    """
    one, other = np.triu_indices(len(features), 1)
    near, far = (
        euclidean_distances(np.asarray(x, np.float64))[one, other] for x in (features, labels)
    )
    apart = np.flatnonzero(far > np.quantile(far, quantile))
    found, used = [], set()
    for pair in apart[np.argsort(near[apart], kind="stable")]:
        rows = int(one[pair]), int(other[pair])
        if len(found) < count and used.isdisjoint(rows):
            found.append(ConfusedPair(rows, near[pair] / near.mean(), far[pair] / far.mean()))
            used.update(rows)
    return found
