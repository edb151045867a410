"""Scores of layers, most of them from errors that are made up."""

import numpy as np
import pytest
import torch

from e2far.analysis import layers, probes

PERSON = np.repeat(np.arange(100), 2)
KEY = ("ahead", "net", "pooled", "smile")  # view, trunk, readout, target
POOLED = dict(pixels=0.9, stage1=0.5, stage2=0.75, top=0.5)


def judged(shares, noise=0.0, target="smile"):
    """Scores of layers that explain known shares of a target's variance, one for each seed."""
    rng, found = np.random.default_rng(0), layers.Scores()
    S = rng.uniform(1, 2, 200)
    for layer, values in shares.items():
        for seed, share in enumerate(np.atleast_1d(values)):
            E = (1 - share) * S + noise * rng.normal(size=200)
            found.add("ahead", PERSON, "net", seed, "pooled", layer, {target: (E, S)})
    return found


def table(scores, names):
    return scores.table(dict(net={name: i for i, name in enumerate(names)}), 200)


def test_a_score_is_the_explained_variance_of_nested_probes():
    rng = np.random.default_rng(0)
    features, target = rng.normal(size=(200, 12)), rng.normal(size=(200, 3))
    target += features[:, :3]
    R = torch.tensor(np.triu(rng.normal(size=(3, 3))))
    targets = dict(shape=target, pose=target[:, :2])
    found = layers.squared_errors(features, targets, dict(shape=R), PERSON, 8)
    scores = layers.Scores()
    scores.add("ahead", PERSON, "net", 0, "pooled", "top", found)
    rows = table(scores, ["top"]).set_index("target")
    asked = targets | dict(shape=target @ R.numpy().T)
    guess = probes.nested_predictions(features, asked, PERSON, 8)
    for name, truth in asked.items():
        expected = probes.explained_variance(guess[name], truth, PERSON, 200)
        assert tuple(rows.loc[name, ["value", "low", "high"]]) == pytest.approx(expected)


def test_naming_counts_who_is_not_recognised():
    person, noise = np.tile(np.arange(10), 8), np.random.default_rng(0).normal(size=(80, 10))
    for features, least, most in ((np.eye(10)[person] + noise / 999, 0, 0), (noise, 0.7, 1)):
        errors, sizes = layers.naming_errors(features, person, 9)["who is it"]
        assert least <= errors.mean() <= most and (sizes == 1).all()


def test_layers_are_compared_on_the_same_pictures():
    scores = judged(dict(one=0.75, other=0.5), noise=0.1)
    value, low, high = scores.difference(KEY, "one", "other", 500)
    assert value == pytest.approx(0.25, abs=0.02) and low < 0.25 < high < low + 0.06
    assert scores.difference(KEY, "one", "one", 9) == (0, 0, 0)


def test_trunks_are_contrasted_by_what_each_gains():
    scores = judged(dict(one=0.75, other=0.5), noise=0.1)
    for layer, share in dict(one=0.6, other=0.45).items():
        E, S = scores.errors["ahead", "net", "pooled", layer, "smile"][0]
        E = E + (dict(one=0.75, other=0.5)[layer] - share) * S
        scores.add("ahead", PERSON, "twin", 0, "pooled", layer, dict(smile=(E, S)))
    where, pair = ("ahead", "pooled", "smile"), ("one", "other")
    found = scores.contrast(where, ("net", "twin"), pair, 200)
    assert found == pytest.approx((0.1, 0.1, 0.1), abs=1e-6)
    assert scores.contrast(where, ("net", "net"), pair, 9) == (0, 0, 0)


def test_networks_of_a_kind_are_averaged():
    row = table(judged(dict(top=[0.6, 0.9])), ["top"]).iloc[0]
    seeds = row.seeds, row.lowest_seed, row.highest_seed
    assert (row.value, *seeds) == pytest.approx((0.75, 2, 0.6, 0.9))


def test_a_peak_is_a_layers_and_what_is_kept_of_it_a_share():
    scores = judged(POOLED)
    found = layers.summarise_peaks(scores, table(scores, POOLED), dict(net="top"), 50)
    row = found.iloc[0]
    assert len(found) == 1 and (row.peak, row.top) == ("stage2", "top")
    told = row.at_peak, row.kept, row.kept_low, row.fall, row.fall_high
    assert told == pytest.approx((0.75, 2 / 3, 2 / 3, 0.25, 0.25))
    elsewhere = table(scores, POOLED).query("layer != 'top'")
    assert layers.summarise_peaks(scores, elsewhere, dict(net="top"), 50).empty


def test_a_peak_that_had_to_be_found_makes_the_interval_wider():
    alike = judged(dict(stage1=0.6, stage2=0.601, top=0.3), noise=0.1)
    row = layers.summarise_peaks(
        alike, table(alike, ["stage1", "stage2", "top"]), dict(net="top"), 500
    )
    row = row.iloc[0]
    assert 0.2 < row.sure < 0.95 and row.kept_low < row.kept < row.kept_high
    clear = judged(POOLED, noise=0.1)
    assert layers.summarise_peaks(clear, table(clear, POOLED), dict(net="top"), 500).sure[0] == 1


def test_heads_are_compared_with_the_last_layer_and_with_the_best():
    shares = {"pool4": 0.75, "pool5": 0.5, "pool4 + pool5": 0.8, "descriptor": 0.3}
    scores = judged(shares)
    found = layers.compare_heads(scores, table(scores, shares), 50).set_index("layer")
    less = {"less_last": [0.25, 0, 0.3, -0.2], "less_best": [0, 0, 0.05, 0]}
    for name, values in less.items():
        for column in (name, f"{name}_low", f"{name}_high"):
            np.testing.assert_allclose(found[column], values, atol=1e-9)
    assert found.best_single["pool4 + pool5"] == "pool4"
