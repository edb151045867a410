"""Figures of the face model."""

import matplotlib.pyplot as plt
import numpy as np

from e2far.facemodels import anthropometry


def face_measures(found, spread, used):
    """Measures of our people beside a survey's: their means and deviations, and how much they vary.

    found: `anthropometry.measure` of people of the model    used: the model's local_sd
    spread: rows of local_sd, measure, spread_ratio (data frame), the last to the survey's
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1), layout="constrained"
    )
    _draw_means(left, found)
    _draw_spread(right, spread, used)
    left.legend(fontsize=7, loc="lower right")
    right.legend(fontsize=7, loc="upper left")
    return figure


def _draw_means(axis, found):
    """People (dots), means and deviations, mm from the survey's mean of men and women."""
    names = [name for name in anthropometry.NORMS if name not in anthropometry.INDICES]
    rows, middles = np.arange(len(names)), [anthropometry.population(name)[0] for name in names]
    people = np.array([np.asarray(found[name]) for name in names])  # (measures, n)
    jitter = np.random.default_rng(0).uniform(-0.09, 0.09, people.shape[1])
    away, height = people - np.array(middles)[:, None], rows[:, None] + jitter
    dots = dict(ms=3, color="#999999", alpha=0.5, mec="none", label="our people, each one")
    axis.plot(away.ravel(), height.ravel(), ".", **dots)
    women, men = (
        np.transpose([anthropometry.NORMS[name][sex] for name in names])
        for sex in ("female", "male")
    )
    ours = people.mean(1), people.std(1, ddof=1)
    for (mean, sd), label, shift, colour, marker in (
        (ours, "our people", 0, "#000000", "o"),
        (women, "women, survey", -0.27, "#D55E00", "^"),
        (men, "men, survey", 0.27, "#0072B2", "s"),
    ):
        look = dict(color=colour, fmt=marker, ms=4, capsize=2, lw=1.3)
        axis.errorbar(mean - middles, rows + shift, xerr=sd, label=label, **look)
    axis.axvline(0, color="#666666", lw=0.8)
    ticks = [f"{name}\n{middle:.0f} mm" for name, middle in zip(names, middles)]
    axis.set_yticks(rows, ticks, fontsize=8)
    axis.set_ylim(len(names) - 0.4, -0.6)
    axis.set_xlabel("difference from the survey's mean of men and women (mm)")
    axis.set(ylabel="measure, and the survey's mean", title="Mean and standard deviation")
    axis.grid(axis="x", alpha=0.3)


def _draw_spread(axis, spread, used):
    colours = dict(zip(anthropometry.INDICES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7")))
    for name, rows in spread.groupby("measure", sort=False):
        look = dict(color="#BBBBBB", lw=0.8)
        if name in colours:
            look = dict(color=colours[name], label=name, marker="o", ms=4)
        axis.plot(rows["local_sd"], rows["spread_ratio"], **look)
    typical = spread.assign(log=np.log(spread["spread_ratio"])).groupby("local_sd")["log"].mean()
    axis.plot([], [], lw=0.8, color="#BBBBBB", label="measures in mm")
    axis.plot(typical.index, np.exp(typical), "k--", lw=2, label="geometric mean of all")
    axis.axhline(1, color="#666666", lw=0.8)
    axis.axvline(used, color="#666666", lw=0.8, linestyle=":", label="the model's")
    axis.set(xlabel="spread of the local targets (local_sd)", ylim=(0, None))
    axis.set(
        ylabel="coefficient of variation, ratio to the survey's", title="How much people differ"
    )
    axis.grid(alpha=0.3)
