"""Figures of the benchmark and of the speed appendix."""

import matplotlib.pyplot as plt
import numpy as np

from e2far import evaluation
from e2far.plots import COLOURS, STYLES


def cumulative_errors(errors, limit_mm=8.0, title=None):
    """Share of points within a distance, one curve per method, as NoW draws it. errors: dict method -> distances (any shape), mm."""
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    thresholds = np.linspace(0, limit_mm, 161)
    for i, (method, values) in enumerate(errors.items()):
        found = evaluation.summarise(values, thresholds)
        axis.plot(
            thresholds,
            100 * found["curve"],
            color=COLOURS.get(method, f"C{i}"),
            linestyle=STYLES[i % len(STYLES)][0],
            label=f"{method}: median {found['median']:.2f} mm",
        )
    axis.set(
        xlim=(0, limit_mm),
        ylim=(0, 100),
        xlabel="distance, mm",
        ylabel="points within the distance, %",
        title=title or "",
    )
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="lower right")
    return figure


def error_curves(table, column, label):
    """Error of the expressive shape against what it costs, a curve for each method. table: columns method, `column` (the cost), ratio, low, high: error by the mean face's, and its interval; a method with one row is a point

    The axis is logarithmic where costs spread over a factor of 30 or more, and then leaves out a cost of zero. Errors above 1.3 are cut off.
    """
    figure, axis = plt.subplots(figsize=(8, 4), layout="constrained")
    spread = table[column][table[column] > 0]
    wide = spread.max() >= 30 * spread.min()
    for i, (method, part) in enumerate(table.groupby("method", sort=False)):
        part = part[part[column] > 0] if wide else part
        line, marker = STYLES[i % len(STYLES)]
        axis.errorbar(
            part[column],
            part.ratio,
            yerr=[part.ratio - part.low, part.high - part.ratio],
            linestyle=line if len(part) > 1 else "none",
            marker=marker,
            markersize=4,
            linewidth=1.4,
            elinewidth=0.7,
            capsize=2,
            color=f"C{i}",
            label=method,
        )
    axis.axhline(1, color=COLOURS["mean face"], linewidth=1)
    axis.set(
        xlabel=label,
        ylabel="expressive shape,\nratio to the mean face's error",
        xscale="log" if wide else "linear",
        ylim=(None, min(1.3, axis.get_ylim()[1])),
    )
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=0.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def time_bars(table, label, title=None):
    """Horizontal bars with a line from the lowest to the highest repeat. table: rows of name, median, low, high (data frame); its order is kept, the first on top."""
    figure, axis = plt.subplots(figsize=(7, 0.6 + 0.36 * len(table)), layout="constrained")
    spread = np.stack([table["median"] - table["low"], table["high"] - table["median"]]).clip(0)
    axis.barh(
        range(len(table)),
        table["median"],
        0.7,
        xerr=spread,
        capsize=2,
        color=COLOURS["fusion"],
        error_kw=dict(lw=1, ecolor="#444444"),
    )
    axis.set_yticks(range(len(table)), table["name"])
    axis.invert_yaxis()
    axis.set(xlabel=label, ylabel="part", title=title or "")
    axis.grid(axis="x", alpha=0.3)
    axis.set_axisbelow(True)
    return figure


def throughput(table, title=None):
    """Images a second against batch size, a line per kind of work and number of threads. table: rows of work, threads, batch_size, median, low, high (data frame)."""
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    colours, styles = (
        dict(zip(dict.fromkeys(table["work"]), (COLOURS["fusion"], COLOURS["expression"]))),
        ("-", "--", ":", "-."),
    )
    for (work, threads), rows in table.groupby(["work", "threads"], sort=False):
        style = styles[list(dict.fromkeys(table["threads"])).index(threads) % len(styles)]
        axis.errorbar(
            rows["batch_size"],
            rows["median"],
            np.stack([rows["median"] - rows["low"], rows["high"] - rows["median"]]).clip(0),
            color=colours[work],
            linestyle=style,
            marker="o",
            ms=4,
            capsize=2,
            label=f"{work}, {threads} thread{'s' if threads > 1 else ''}",
        )
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(set(table["batch_size"])), sorted(set(table["batch_size"])))
    axis.set(xlabel="batch size", ylabel="images a second", ylim=(0, None), title=title or "")
    axis.grid(alpha=0.3)
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return figure


def growth(table):
    """Time and memory against the number of pictures, a colour a stage; dashed: in proportion, from each stage's largest number. table: rows of stage, pictures, seconds, more_gb (data frame)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, (_, marker), (stage, rows) in zip(
        ("fusion", "shared head", "pose", "expression"), STYLES, table.groupby("stage", sort=False)
    ):
        colour = COLOURS[name]
        axes[0].plot(rows["pictures"], rows["seconds"], marker, color=colour, label=stage)
        axes[0].plot(
            rows["pictures"],
            rows["pictures"] * rows["seconds"].iloc[-1] / rows["pictures"].iloc[-1],
            "--",
            color=colour,
            lw=1,
        )
        axes[1].plot(rows["pictures"], rows["more_gb"], f"{marker}-", color=colour, lw=1)
    axes[0].set(
        xscale="log",
        yscale="log",
        ylabel="CPU seconds",
        title="Dashed: in proportion to the pictures",
    )
    axes[1].set(
        xscale="log",
        ylabel="GB more than for the fewest",
        title="Memory at the peak",
        ylim=(min(-0.02, 1.3 * table["more_gb"].min()), max(0.25, 1.1 * table["more_gb"].max())),
    )
    for axis in axes:
        axis.set_xticks(
            sorted(set(table["pictures"])), [f"{n:,}" for n in sorted(set(table["pictures"]))]
        )
        axis.minorticks_off()
        axis.set_xlabel("pictures")
        axis.grid(alpha=0.3)
    figure.legend(
        *axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False
    )
    return figure
