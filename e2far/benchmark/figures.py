"""Figures of the benchmark."""

import numpy as np

from e2far import evaluation
from e2far.files import extra
from e2far.plots import COLOURS, STYLES, colour_of

with extra("study"):
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter


def cumulative_errors(errors, limit_mm, title):
    """Share of points within a distance, one curve per method, as NoW draws it.

    errors: dict method -> distances (any shape), mm
    """
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    thresholds = np.linspace(0, limit_mm, 161)
    for i, (method, values) in enumerate(errors.items()):
        found = evaluation.summarise(values, thresholds)
        look = dict(color=colour_of(method), linestyle=STYLES[i % len(STYLES)][0])
        label = f"{method}: median {found['median']:.2f} mm"
        axis.plot(thresholds, 100 * found["curve"], label=label, **look)
    axis.set(xlim=(0, limit_mm), ylim=(0, 100), title=title)
    axis.set(xlabel="distance, mm", ylabel="points within the distance, %")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="lower right")
    return figure


def error_curves(table, cost, label):
    """Error of the expressive shape against its cost, a curve per method; of one row, a point.

    table: columns method, `cost`, ratio, low, high: error by the mean face's, and its interval
    The axis is logarithmic where costs spread over a factor of 30 or more, and then leaves out a
    cost of zero. Errors above 1.3 are cut off.
    """
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    some = table[cost][table[cost] > 0]
    wide = some.max() >= 30 * some.min()
    for i, (method, part) in enumerate(table.groupby("method", sort=False)):
        part = part[part[cost] > 0] if wide else part
        line, marker = STYLES[i % len(STYLES)]
        line = line if len(part) > 1 else "none"
        look = dict(linestyle=line, marker=marker, color=colour_of(method))
        sizes = dict(markersize=4, linewidth=1.4, elinewidth=0.7, capsize=2)
        axis.errorbar(part[cost], part.ratio, _around(part, "ratio"), label=method, **look, **sizes)
    axis.axhline(1, color=COLOURS["mean face"], linewidth=1)
    axis.set(xlabel=label, ylabel="expressive shape,\nratio to the mean face's error")
    axis.set(xscale="log" if wide else "linear", ylim=(None, min(1.3, axis.get_ylim()[1])))
    if wide:
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_minor_formatter(NullFormatter())
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=9, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def _around(table, middle):
    """Distances (2, n) of low and high from the column `middle`."""
    return np.stack([table[middle] - table["low"], table["high"] - table[middle]])
