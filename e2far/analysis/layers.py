"""What each layer of a subject knows: scores with intervals over people, in tables.

Every score is a ratio of sums over pictures, so its interval is a bootstrap over people of that
ratio, and two layers, judged on the same pictures, are compared pair by pair. With E the squared
error of a picture and S its squared distance from the mean answer:

    explained variance           1 - sum E / sum S
    layer a less layer b         sum (E_b - E_a) / sum S
    kept at a of what b has      the ratio of the two
"""

import itertools

import numpy as np

from e2far.analysis import probes
from e2far.analysis.subjects import RECOGNISER, TWIN
from e2far.evaluation import bootstrap_ratio
from e2far.files import extra

with extra("study"):
    import pandas as pd

DRAWS = 5  # of random mixtures


def squared_errors(features, targets, factors, person, components):
    """Target -> (E (n,), S (n,)) of probes that read targets (n, T) in features (n, d), nested over
    people. factors: target -> R of `losses.gram_factor`, for errors in mm² on the face"""
    # A probe is asked in mm, so that it chooses its penalty by the error that it is judged by.
    asked = {
        name: truth @ factors[name].double().numpy().T if name in factors else truth
        for name, truth in targets.items()
    }
    guess = probes.nested_predictions(features, asked, person, components)
    offsets = {name: (guess[name] - truth, truth - truth.mean(0)) for name, truth in asked.items()}
    return {name: tuple(np.square(x).sum(1) for x in pair) for name, pair in offsets.items()}


def size_controls(features):
    """What the recogniser's last steps would keep if only their size counted: layer -> draw ->
    (n, 128 or 256). features: of `Subject.features`"""
    wanted = [("stage5", 256), ("stage5", 128), ("average", 128)]
    return {
        f"{layer}, {count} of it at random": {
            draw: probes.random_mixtures(features[layer], count, draw) for draw in range(DRAWS)
        }
        for layer, count in wanted
    }


def naming_errors(features, person, components):
    """For "who is it": E (n,) is 1 where the wrong person is named, S (n,) is 1."""
    right = probes.recognise(features, person, components) == person
    return {"who is it": (1.0 - right, np.ones(len(person)))}


class Scores:
    """Errors of many subjects, layers and targets on the same people, and tables of them.

    Networks of one kind (seeds) are averaged, picture by picture.
    """

    def __init__(self):
        self.errors = {}  # (view, trunk, readout, layer, target) -> {seed: (E, S)}
        self.people = {}  # view -> (n,)

    def add(self, view, person, trunk, seed, readout, layer, found):
        """Take in what `squared_errors` or `naming_errors` found in one layer."""
        self.people[view] = person
        for target, pair in found.items():
            key = view, trunk, readout, layer, target
            self.errors.setdefault(key, {})[seed] = pair

    def mean(self, key):
        """E (n,), S (n,), averaged over the seeds."""
        return np.mean([*self.errors[key].values()], 0)

    def table(self, depths, samples):
        """Explained variance of every target in every layer (data frame).

        depths: trunk -> layer -> depth    samples: of the bootstrap; single units have a tenth
        """
        rows = []
        for key, by_seed in self.errors.items():
            view, trunk, readout, layer, target = key
            E, S = self.mean(key)
            count = samples // 10 if target.startswith("unit ") else samples
            value, low, high = bootstrap_ratio(S - E, S, self.people[view], count)
            each = [1 - e.sum() / s.sum() for e, s in by_seed.values()]
            rows.append(
                dict(view=view, readout=readout, trunk=trunk, layer=layer)
                | dict(
                    depth=depths[trunk].get(layer), target=target, value=value, low=low, high=high
                )
                | dict(seeds=len(each), lowest_seed=min(each), highest_seed=max(each))
            )
        return pd.DataFrame(rows)

    def difference(self, key, layer, other, samples):
        """Explained variance in `layer` less that in `other`: value, low, high.

        key: view, trunk, readout, target
        """
        view, trunk, readout, target = key
        E, S = self.mean((view, trunk, readout, layer, target))
        E_other, _ = self.mean((view, trunk, readout, other, target))
        return bootstrap_ratio(E_other - E, S, self.people[view], samples)

    def contrast(self, where, trunks, layers, samples):
        """How much more one trunk gains from `layers[0]` than from `layers[1]` than another does:
        value, low, high of the difference of their `difference`s.

        where: view, readout, target    trunks, layers: pairs
        """
        (view, readout, target), gains = where, []
        for trunk in trunks:
            E, other = (self.mean((view, trunk, readout, layer, target))[0] for layer in layers)
            gains.append(other - E)
        _, S = self.mean((view, trunks[0], readout, layers[0], target))
        return bootstrap_ratio(gains[0] - gains[1], S, self.people[view], samples)

    def resampled(self, key, layers, samples):
        """Explained variance in each of `layers`, in samples of people drawn anew: (samples, L)."""
        view, trunk, readout, target = key
        person = np.unique(self.people[view], return_inverse=True)[1]
        pairs = [self.mean((view, trunk, readout, layer, target)) for layer in layers]
        E = np.stack([np.bincount(person, E) for E, _ in pairs], 1)  # (people, L)
        S = np.bincount(person, pairs[0][1])
        n = len(S)
        drawn = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), samples)
        return 1 - drawn @ E / (drawn @ S)[:, None]


def summarise_peaks(scores, table, tops, samples):
    """Where each target peaks and how much of the peak is kept at the top (data frame).

    tops: trunk -> its last layer. Rows: kept, share of the peak, which says little where `at_peak`
    is near zero; fall, peak less top, with intervals. The peak is sought anew in every sample of
    the bootstrap, so the intervals say that it had to be found; `sure` is the share of samples that
    found the same.
    """
    rows = []
    # Choice: pixels are no layer, and cannot be the peak.
    table = table[table.depth.notna() & (table.layer != "pixels")]
    names = ["view", "readout", "trunk", "target"]
    for (view, readout, trunk, target), part in table.groupby(names, sort=False):
        known, top = [*part.layer], tops[trunk]
        if top not in known:
            continue
        drawn = scores.resampled((view, trunk, readout, target), known, samples)
        peak, last = drawn.max(1), drawn[:, known.index(top)]
        best = part.value.argmax()
        at_peak, at_top = part.value.iloc[best], part.value.iloc[known.index(top)]
        row = dict(view=view, readout=readout, trunk=trunk, target=target)
        row |= dict(
            peak=known[best], top=top, at_peak=at_peak, sure=(drawn.argmax(1) == best).mean()
        )
        spreads = dict(kept=(at_top / at_peak, last / peak), fall=(at_peak - at_top, peak - last))
        for name, (value, values) in spreads.items():
            low, high = np.quantile(values, [0.025, 0.975])
            row |= {name: value, f"{name}_low": low, f"{name}_high": high}
        rows.append(row)
    return pd.DataFrame(rows)


def compare_heads(scores, table, samples):
    """What linear heads on one or several layers gain (data frame): each less the last layer alone,
    and those on several layers less the best one of them.

    table: of `Scores.table`, whose layers are called "a" or "a + b"
    """
    rows = []
    for (view, readout, trunk, target), part in table.groupby(
        ["view", "readout", "trunk", "target"], sort=False
    ):
        key, values = (view, trunk, readout, target), part.set_index("layer").value
        last = max(name for name in values.index if "+" not in name and name != "descriptor")
        for layer, row in zip(values.index, part.to_dict("records")):
            singles = layer.split(" + ")
            others = {"last": last, "best": max(singles, key=values.get)}
            for name, other in others.items():
                found = scores.difference(key, layer, other, samples)
                names = (f"less_{name}", f"less_{name}_low", f"less_{name}_high")
                row |= dict(zip(names, found))
            rows.append(row | dict(best_single=others["best"]))
    return pd.DataFrame(rows).drop(columns="depth")


def relative_changes(moves, depths):
    """How far a factor moves each layer, as a share of the distance between unrelated pictures: 0
    where a layer ignores it, 1 where it sees nothing else; and expression beside identity (data
    frame). The intervals are bootstraps over pictures.

    moves: trunk -> `layer_study.measure_moves` of each seed    depths: trunk -> layer -> depth
    """
    rows = []
    for trunk, by_seed in moves.items():
        mean = {key: np.mean([found[key] for found in by_seed], 0) for key in by_seed[0]}
        factors = {factor: "another" for _, factor in mean if factor != "another"}
        asked = {name: (name, other) for name, other in factors.items()}
        asked["expression / identity"] = "expression", "identity"
        for (layer, depth), (target, pair) in itertools.product(
            depths[trunk].items(), asked.items()
        ):
            found = bootstrap_ratio(*(mean[layer, name] for name in pair))
            row = dict(trunk=trunk, layer=layer, depth=depth, target=target)
            rows.append(row | dict(zip(("value", "low", "high"), found)))
    return pd.DataFrame(rows)


def beyond_size(scores, samples):
    """What the recogniser's last steps explain, what as many random mixtures of a layer before
    explain, and the difference, in all poses (data frame)."""
    rows, steps = [], {"average": ("stage5, 256 of it",)}
    steps["descriptor"] = "stage5, 128 of it", "average, 128 of it"
    for target, layer in itertools.product(("expression", "identity"), steps):
        for mixtures in (f"{name} at random" for name in steps[layer]):
            key = "all poses", RECOGNISER, "pooled", target
            row = dict(target=target, layer=layer, mixtures=mixtures)
            for column, name in dict(explained=layer, mixtures_explain=mixtures).items():
                E, S = scores.mean((*key[:3], name, target))
                row[column] = 1 - E.sum() / S.sum()
            found = scores.difference(key, layer, mixtures, samples)
            rows.append(row | dict(zip(("value", "low", "high"), found)))
    return pd.DataFrame(rows)


def contrast_with_twin(scores, samples):
    """What the recogniser gains from one layer over another, less what its untrained twin gains,
    in all poses (data frame)."""
    rows = []
    for readout in ("pooled", "heads", "heads, one grid"):
        pairs = [(f"stage{i}", "stage5") for i in (2, 3, 4)]
        pairs += [("stage3", "descriptor")] * (readout == "pooled")
        pairs += [("stage3 + stage4 + stage5", "stage3")] * (readout != "pooled")
        for target, pair in itertools.product(("expression", "identity"), pairs):
            where = "all poses", readout, target
            found = scores.contrast(where, (RECOGNISER, TWIN), pair, samples)
            row = dict(zip(("view", "readout", "target"), where)) | dict(contrast=" - ".join(pair))
            rows.append(row | dict(zip(("value", "low", "high"), found)))
    return pd.DataFrame(rows)
