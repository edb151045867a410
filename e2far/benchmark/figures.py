"""Figures of the benchmark and of the speed appendix."""

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


def time_bars(table, label, title):
    """Horizontal bars with a line from the lowest to the highest repeat, the first on top.

    table: rows of name, median, low, high (data frame)
    """
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.36 * len(table)), layout="constrained")
    look = dict(color=COLOURS["fusion"], capsize=2, error_kw=dict(lw=1, ecolor="#444444"))
    spread = _around(table, "median").clip(0)
    axis.barh(range(len(table)), table["median"], 0.7, xerr=spread, **look)
    axis.set_yticks(range(len(table)), table["name"])
    axis.invert_yaxis()
    axis.set(xlabel=label, ylabel="part", title=title, axisbelow=True)
    axis.grid(axis="x", alpha=0.3)
    return figure


def throughput(table, title):
    """Images a second against batch size, a line per kind of work and number of threads.

    table: rows of work, threads, batch_size, median, low, high (data frame)
    """
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    colours = dict(zip(table["work"].unique(), (COLOURS["fusion"], COLOURS["expression"])))
    lines = dict(zip(table["threads"].unique(), ("-", "--", ":", "-.")))
    for (work, threads), rows in table.groupby(["work", "threads"], sort=False):
        look = dict(color=colours[work], linestyle=lines[threads], marker="o", ms=4, capsize=2)
        label = f"{work}, {threads} thread{'s' if threads > 1 else ''}"
        spread = _around(rows, "median").clip(0)
        axis.errorbar(rows["batch_size"], rows["median"], spread, label=label, **look)
    sizes = sorted(table["batch_size"].unique())
    axis.set_xscale("log", base=2)
    axis.set_xticks(sizes, sizes)
    axis.set(xlabel="batch size", ylabel="images a second", ylim=(0, None), title=title)
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return figure


def growth(table):
    """Time and memory against the number of pictures, a colour a stage.

    Dashed: in proportion, from each stage's largest number.
    table: rows of stage, pictures, seconds, more_gb (data frame)
    """
    figure, (time, memory) = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    methods = ("fusion", "shared head", "pose", "expression")  # four colours
    stages = table.groupby("stage", sort=False)
    for method, (_, marker), (stage, rows) in zip(methods, STYLES, stages):
        colour, pictures, seconds = COLOURS[method], rows["pictures"], rows["seconds"]
        time.plot(pictures, seconds, marker, color=colour, label=stage)
        proportion = pictures * seconds.iloc[-1] / pictures.iloc[-1]
        time.plot(pictures, proportion, "--", color=colour, lw=1)
        memory.plot(pictures, rows["more_gb"], f"{marker}-", color=colour, lw=1)
    time.set(xscale="log", yscale="log", ylabel="CPU seconds")
    time.set_title("Dashed: in proportion to the pictures")
    low, high = 1.3 * table["more_gb"].min(), 1.1 * table["more_gb"].max()
    memory.set(xscale="log", ylabel="GB more than for the fewest", title="Memory at the peak")
    memory.set_ylim(min(-0.02, low), max(0.25, high))
    counts = sorted(table["pictures"].unique())
    for axis in (time, memory):
        axis.set_xticks(counts, [f"{n:,}" for n in counts])
        axis.minorticks_off()
        axis.set_xlabel("pictures")
        axis.grid(alpha=0.3)
    lines = time.get_legend_handles_labels()
    figure.legend(*lines, fontsize=8, loc="outside right upper", frameon=False)
    return figure


def _around(table, middle):
    """Distances (2, n) of low and high from the column `middle`."""
    return np.stack([table[middle] - table["low"], table["high"] - table[middle]])
