r"""How like a photo of a face a square looks, whatever the network reads in it.

The network reads a face in a circle with two eyes, and agrees with itself. What gives the circle
away are its colours and edges, and what the trunk sees: the signs of a square, by which
`calibration` tells synthetic faces from pictures made of them that are no photo of a face; and,
likewise, faces whose landmarks are found from others.

    likeness $p = \sigma(b + w \cdot (z, z_i z_j))$

z: the signs, standardised on the kind    z_i z_j: products of two of the first N_PIXEL of them
"""

from dataclasses import dataclass

import numpy as np
import torch

QUANTILES = (0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98)
N_PIXEL = 4 * len(QUANTILES)
LEAST = 8  # squares of a kind, and of the others
FAR = 6.0  # standard deviations; further off is as strange as this


def signs(crops, disagreement_percent, features):
    """Signs (B, N_PIXEL + 1 + D) of crops (B, 3, S, S) in [0, 1] and what the network sees there.

    From the middle two thirds of the crops: quantiles of brightness, of red less green, of yellow
    less blue, and of the logarithm of the edges' strength. Then the logarithm of the disagreement
    (B,) and the trunk's features (B, ...).
    """
    margin = crops.shape[-1] // 6
    red, green, blue = crops[..., margin:-margin, margin:-margin].unbind(1)
    grey = (red + green + blue) / 3
    down, right = (grey[:, 1:, :-1] - grey[:, :-1, :-1]), (grey[:, :-1, 1:] - grey[:, :-1, :-1])
    maps = grey, red - green, (red + green) / 2 - blue, (torch.hypot(down, right) + 0.002).log()
    levels = crops.new_tensor(QUANTILES)
    found = [one.flatten(1).quantile(levels, 1).mT for one in maps]
    doubt = disagreement_percent.clamp(min=1e-3).log()[:, None].to(crops)
    return torch.cat((*found, doubt, features.flatten(1)), 1)


def terms(z):
    """Standardised signs (B, D) and the products of the first of them, (B, D + ...)."""
    z = z.clip(-FAR, FAR)
    first, second = np.triu_indices(N_PIXEL)
    return np.concatenate((z, z[:, first] * z[:, second]), 1)


@dataclass(frozen=True)
class Likeness:
    """Probability that a square with given signs is of a kind, as a photo of a face is one."""

    mean: tuple  # of the signs of that kind
    spread: tuple  # their standard deviations
    weights: tuple  # of the `terms`
    bias: float

    @classmethod
    def checked(cls, stored):
        """That of a dict read from JSON. Raises ValueError where it does not fit."""
        mean, spread, weights = (np.array(stored[k], float) for k in ("mean", "spread", "weights"))
        shapes = mean.shape == spread.shape == (len(mean),)
        if not shapes or weights.shape != (len(mean) + len(np.triu_indices(N_PIXEL)[0]),):
            raise ValueError("its likeness has lists of lengths that do not fit")
        numbers = np.concatenate((mean, spread, weights, [float(stored["bias"])]))
        if not np.isfinite(numbers).all() or not (spread > 0).all():
            raise ValueError("its likeness holds what is not a number")
        lists = (tuple(one.tolist()) for one in (mean, spread, weights))
        return cls(*lists, float(stored["bias"]))

    def __call__(self, found):
        """Probabilities (B,) of signs (B, D)."""
        z = (np.asarray(found, float) - self.mean) / self.spread
        return 1 / (1 + np.exp(-(terms(z) @ self.weights + self.bias).clip(-30, 30)))


def fit(found, those, weight):
    """The Likeness that tells signs (B, D) of one kind (where `those` (B,)) from the others.

    How far its weights are held back is chosen on the data, by cross-validated log loss. Where one
    side has fewer than LEAST squares, as with a network that finds no landmarks, nothing is learnt:
    it says the share of `those` of every square.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV, KFold

    few = min(those.sum(), (~those).sum()) < LEAST
    kind = found if few else found[those]
    mean, spread = kind.mean(0), kind.std(0) + 1e-3
    x = terms((found - mean) / spread)
    if few:
        share = np.average(those, weights=weight).clip(0.01, 0.99)
        rows = (tuple(row.round(6).tolist()) for row in (mean, spread, np.zeros(x.shape[1])))
        return Likeness(*rows, round(float(np.log(share / (1 - share))), 6))
    size = x.std(0) + 1e-6
    how = dict(scoring="neg_log_loss", cv=KFold(4, shuffle=True, random_state=0))
    search = GridSearchCV(LogisticRegression(max_iter=500), dict(C=[0.001, 0.01, 0.1, 1.0]), **how)
    model = search.fit(x / size, those, sample_weight=weight).best_estimator_
    numbers = mean, spread, model.coef_[0] / size
    return Likeness(
        *(tuple(row.round(6).tolist()) for row in numbers), round(float(model.intercept_[0]), 6)
    )
