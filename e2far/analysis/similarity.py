"""How alike are features: what a changed factor moves, which layers say the same, which faces a layer confuses."""

from types import SimpleNamespace

import numpy as np
from sklearn.metrics.pairwise import euclidean_distances

from e2far.evaluation import bootstrap_ratio


def feature_change(original, changed, another):
    """How far a factor moves the features, beside an unrelated picture: (value, low, high) of mean |original - changed|² over mean |original - another|².

    All (n, d): a picture, the same picture with one factor changed, and one that shares nothing with it. 0: the features do not mind; 1: they see nothing else.
    The interval is a bootstrap over pairs. # Choice: features as they are, not standardised, so that a unit counts by how much it says.
    """
    return bootstrap_ratio(
        _squared_distance(original, changed), _squared_distance(original, another)
    )


def relative_change(original, expression, identity):
    """Mean squared change of the features (n, d) by another expression, over that by another identity: (value, low, high), the interval as in `feature_change`."""
    return bootstrap_ratio(
        _squared_distance(original, expression), _squared_distance(original, identity)
    )


def _squared_distance(x, y):
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or x.shape != y.shape:
        raise ValueError(f"features {x.shape} and {y.shape} are not pairs: expected (n, d) twice")
    return np.square(x - y).sum(1)


def cka(x, y):
    r"""Linear CKA of features (n, d1) and (n, d2) of the same n > 3 pictures: 1 if they agree up to rotation and scale, about 0 if they have nothing in common.

    $\mathrm{HSIC}(x, y) / \sqrt{\mathrm{HSIC}(x, x)\, \mathrm{HSIC}(y, y)}$ (Kornblith et al. 2019). # Choice: with the unbiased HSIC of Song et al. (2012), as
    Nguyen et al. (2021) do: the plain one calls noise alike when n is not much larger than d. It can fall a little below 0.
    """
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or len(x) != len(y) or len(x) < 4:
        raise ValueError(
            f"expected features (n, d1) and (n, d2) of the same 4 pictures or more, got {x.shape} and {y.shape}"
        )
    x, y = x - x.mean(0), y - y.mean(0)
    return float(_hsic(x, y) / np.sqrt(_hsic(x, x) * _hsic(y, y)))


def _hsic(x, y):
    r"""Unbiased HSIC of centred features, times n (n - 3). Of the Gram matrices $K = XX^\top$ and $L$ without their diagonals:
    $\mathrm{tr} KL + 1^\top K 1\, 1^\top L 1 / (n-1)(n-2) - 2\, 1^\top K L 1 / (n-2)$. Centred rows of $K$ sum to 0 with the diagonal, so to minus it without."""
    n, k, l = len(x), np.square(x).sum(1), np.square(y).sum(1)
    whole = (
        np.square(x.T @ y).sum()
        if x.shape[1] * y.shape[1] < n * n
        else ((x @ x.T) * (y @ y.T)).sum()
    )
    return whole - k @ l + k.sum() * l.sum() / ((n - 1) * (n - 2)) - 2 * (k @ l) / (n - 2)


def near_and_far(near, far, count, quantile=0.9):
    """Pictures that features confuse: of all pairs whose `far` distance is above its `quantile`, the `count` with the smallest `near` distance, no picture used twice.

    near: (n, d) features    far: (n, L), e.g. expression, weighted as its distance should be
    SimpleNamespace(pairs (m, 2) rows, m <= count, nearest first; near, far (m,) their distances; near_share, far_share (m,) the same over the mean distance of all pairs).
    """
    if len(near) != len(far):
        raise ValueError(
            f"{len(near)} rows of features and {len(far)} of what should differ: expected one of each for every picture"
        )
    one, other = np.triu_indices(len(near), 1)
    near, far = (euclidean_distances(np.asarray(x, np.float64))[one, other] for x in (near, far))
    apart = np.flatnonzero(far > np.quantile(far, quantile))
    chosen, used = [], set()
    for pair in apart[np.argsort(near[apart], kind="stable")]:
        if len(chosen) == count:
            break
        if one[pair] not in used and other[pair] not in used:
            chosen.append(pair)
            used |= {one[pair], other[pair]}
    chosen = np.array(chosen, int)
    return SimpleNamespace(
        pairs=np.stack([one[chosen], other[chosen]], 1),
        near=near[chosen],
        far=far[chosen],
        near_share=near[chosen] / near.mean(),
        far_share=far[chosen] / far.mean(),
    )
