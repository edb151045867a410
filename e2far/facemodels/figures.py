"""Figures of the face model."""

import re

import numpy as np

from e2far import plots
from e2far.facemodels.anthropometry import INDICES, NORMS, population
from e2far.facemodels.checks import typical_ratio
from e2far.files import extra

with extra("study"):
    import matplotlib.pyplot as plt

GREY, LIGHT, DARK = "#999999", "#BBBBBB", "#666666"
BLACK, RED, BLUE = "#000000", "#D55E00", "#0072B2"
INDEX_COLOURS = dict(zip(INDICES, (BLUE, "#E69F00", "#009E73", "#CC79A7")))


def head_sheet(rows, titles=(), inch=1.15):
    """Rows of whole heads, {label: uint8 pictures (n, S, S, 3) on white}; titles over the first."""
    pictures = plots.trim(np.concatenate([*rows.values()]))
    columns, height = len(pictures) // len(rows), inch * pictures.shape[1] / pictures.shape[2]
    figure, axes = plots.panels(len(pictures), columns, inch, height, top=0.4 if titles else 0)
    for axis, picture in zip(axes, pictures):
        axis.imshow(picture)
        axis.set(xticks=[], yticks=[])
        axis.spines[:].set_visible(False)
    for axis, label in zip(axes[::columns], rows):
        axis.set_ylabel(label, fontsize=9)
    for axis, title in zip(axes, titles):
        axis.set_title(title, fontsize=9)
    return figure


def unit_maps(model, limit=15):
    """How far each unit at full strength moves the skin, up to `limit` mm, on the face it makes.

    Of a left and a right one the left is shown.
    """
    names, units = list(model.unit_names), model.units.permute(2, 0, 1)
    moved = units.norm(dim=-1).numpy()
    shown = [k for k, name in enumerate(names) if name[-5:] != "Right" and moved[k].max() > 1]
    titles = [re.sub(r"(?<=[a-z])(?=[A-Z])", "\n", names[k], count=1) for k in shown]
    titles = [re.sub(r"(?<=\w\w)Left$", "", title) for title in titles]
    scale = f"movement, mm (dark: {limit} and more)", plots.STILL_TO_MOVED
    look = dict(limit=limit, columns=9, inch=1.0)
    return plots.value_maps(
        (model.mean + units[shown]).numpy(), moved[shown], model, titles, scale, **look
    )


def face_measures(found, spread, local_sd):
    """Our people's measures beside the survey's (left), how much they differ beside it (right).

    found: `anthropometry.measure` of people of the model    local_sd: the model's
    spread: data frame of local_sd, measure, spread_ratio
    """
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(10, 4.9), width_ratios=(1.15, 1), layout="constrained"
    )
    draw_lengths(left, found)
    draw_spread(right, spread, local_sd)
    for axis, place in ((left, "lower right"), (right, "upper left")):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9, loc=place)
    return figure


def draw_lengths(axis, found):
    """Dots, means and standard deviations, mm, about the norms' mean of men and women."""
    names = [name for name in NORMS if name not in INDICES]
    jitter = np.random.default_rng(0).uniform(-0.09, 0.09, len(found[names[0]]))
    dots = dict(ms=3, color=GREY, alpha=0.5, mec="none")
    for row, name in enumerate(names):
        middle, values = population(name)[0], np.asarray(found[name])
        hidden = "_" if row else ""  # before a label: the legend leaves it out
        axis.plot(values - middle, row + jitter, ".", label=hidden + "our people, each one", **dots)
        for place, label, colour, marker, (mean, sd) in (
            (0, "our people", BLACK, "o", (values.mean(), values.std(ddof=1))),
            (-0.27, "women, survey", RED, "^", NORMS[name]["female"]),
            (0.27, "men, survey", BLUE, "s", NORMS[name]["male"]),
        ):
            bar = dict(fmt=marker, ms=4, capsize=2, lw=1.3, color=colour)
            axis.errorbar(mean - middle, row + place, xerr=sd, label=hidden + label, **bar)
    axis.axvline(0, color=DARK, lw=0.8)
    means = [f"{name}\n{population(name)[0]:.0f} mm" for name in names]
    axis.set_yticks(range(len(names)), means, fontsize=9)
    axis.set(
        ylim=(len(names) - 0.4, -0.6),
        xlabel="difference from the survey's mean of men and women (mm)",
        ylabel="measure, and the survey's mean",
        title="Mean and standard deviation",
    )


def draw_spread(axis, spread, local_sd):
    """Coefficients of variation as a ratio to the norms', against that of the local targets."""
    for name, rows in spread.groupby("measure", sort=False):
        index = dict(color=INDEX_COLOURS[name], label=name, marker="o") if name in INDICES else {}
        axis.plot(rows["local_sd"], rows["spread_ratio"], **dict(color=LIGHT, ms=4, lw=1) | index)
    typical = typical_ratio(spread)
    axis.plot([], [], lw=0.8, color=LIGHT, label="measures in mm")
    axis.plot(typical.index, typical, "k--", lw=2, label="geometric mean of all")
    axis.axhline(1, color=DARK, lw=0.8)
    axis.axvline(local_sd, color=DARK, lw=0.8, linestyle=":", label="the model's")
    axis.set(
        xlabel="spread of the local targets (local_sd)",
        ylabel="standard deviation / mean, as a ratio to the survey's",
        ylim=(0, None),
        title="How much people differ",
    )


def group_differences(effects):
    """What sex and ancestry change: a panel a group, ours beside the survey's.

    effects: `checks.group_effects`
    """
    titles = dict(male="men − women", african="african (survey: Black − White)")
    titles["asian"] = "asian (survey: Other − White)"
    figure, axes = plots.panels(3, 3, 3.3, 3.2, sharey=True, sharex=True)
    for axis, (group, rows) in zip(axes, effects.groupby("group", sort=False)):
        y = range(len(rows))
        axis.hlines(y, rows["ours"], rows["survey"], color=LIGHT, lw=1.5)
        axis.plot(rows["ours"], y, "o", color=BLACK, label="our people")
        axis.plot(rows["survey"], y, "D", color=RED, mfc="none", label="survey")
        axis.axvline(0, color=DARK, lw=0.8)
        axis.set_title(titles[group], fontsize=10)
        axis.set_yticks(y, rows["measure"], fontsize=9)
        axis.set(xlabel="change of the length (%)", ylim=(len(rows) - 0.5, -0.5))
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("measure")
    axes[0].legend(fontsize=9)
    return figure
