"""Figures of the face model."""

import matplotlib.pyplot as plt
import numpy as np

from e2far.facemodels import anthropometry


def face_measures(found, spread, used):
    """Left: measures of our people (dots, mean, standard deviation) about the mean of men and women of the norms, mm. Right: their spread as a ratio to the norms', against that of the targets.

    found: `anthropometry.measure` of people of the model    spread: rows of local_sd, measure, spread_ratio (data frame)    used: the model's local_sd
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1), layout="constrained"
    )
    names = [name for name in anthropometry.NORMS if name not in anthropometry.INDICES]
    jitter = np.random.default_rng(0).uniform(-0.09, 0.09, len(found[names[0]]))
    for row, name in enumerate(names):
        middle, values = anthropometry.population(name)[0], np.asarray(found[name])
        left.plot(
            values - middle,
            row + jitter,
            ".",
            ms=3,
            color="#999999",
            alpha=0.5,
            mec="none",
            label="our people, each one" if row == 0 else None,
        )
        women, men = (anthropometry.NORMS[name][sex] for sex in ("female", "male"))
        for place, label, colour, marker, (mean, sd) in (
            (0, "our people", "#000000", "o", (values.mean(), values.std(ddof=1))),
            (-0.27, "women, survey", "#D55E00", "^", women),
            (0.27, "men, survey", "#0072B2", "s", men),
        ):
            left.errorbar(
                mean - middle,
                row + place,
                xerr=sd,
                fmt=marker,
                ms=4,
                capsize=2,
                lw=1.3,
                color=colour,
                label=label if row == 0 else None,
            )
    left.axvline(0, color="#666666", lw=0.8)
    left.set_yticks(
        range(len(names)),
        [f"{name}\n{anthropometry.population(name)[0]:.0f} mm" for name in names],
        fontsize=8,
    )
    left.set(
        ylim=(len(names) - 0.4, -0.6),
        xlabel="difference from the survey's mean of men and women (mm)",
        ylabel="measure, and the survey's mean",
        title="Mean and standard deviation",
    )
    left.grid(axis="x", alpha=0.3)
    colours = dict(zip(anthropometry.INDICES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7")))
    for name, rows in spread.groupby("measure", sort=False):
        style = (
            dict(color=colours[name], label=name, marker="o", ms=4)
            if name in colours
            else dict(color="#BBBBBB", lw=0.8)
        )
        right.plot(rows["local_sd"], rows["spread_ratio"], **style)
    typical = spread.assign(log=np.log(spread["spread_ratio"])).groupby("local_sd")["log"].mean()
    right.plot([], [], lw=0.8, color="#BBBBBB", label="measures in mm")
    right.plot(typical.index, np.exp(typical), "k--", lw=2, label="geometric mean of all")
    right.axhline(1, color="#666666", lw=0.8)
    right.axvline(used, color="#666666", lw=0.8, linestyle=":", label="the model's")
    right.set(
        xlabel="spread of the local targets (local_sd)",
        ylabel="coefficient of variation, ratio to the survey's",
        ylim=(0, None),
        title="How much people differ",
    )
    right.grid(alpha=0.3)
    left.legend(fontsize=7, loc="lower right")
    right.legend(fontsize=7, loc="upper left")
    return figure
