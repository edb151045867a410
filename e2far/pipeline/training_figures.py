"""Figures of notebook 2: what training brings."""

import numpy as np

from e2far import plots
from e2far.files import extra
from e2far.pipeline.training_study import BARE, ERRORS, LEARNED, SCRATCH

with extra("study"):
    import matplotlib.pyplot as plt

COLOURS = plots.COLOURS | {  # Okabe and Ito's; recognisers appear here alone
    BARE: "#CC79A7",
    "same looks": "#56B4E9",
    "restyled": "#E69F00",
    "same looks, then restyled": plots.COLOURS[LEARNED],
    "untrained": "#999999",
}
SHARE = "error, share of the mean face's"
SIDE_MM = 300  # of pictures of whole heads


def answer(logs):
    """Errors on validation people as two starts train; start -> DataFrame of `fit`."""
    figure, axes = plots.panels(2, 2, 4.2, 3.0, right=1.7, sharey=True)
    for axis, (kind, title) in zip(axes, ERRORS.items()):
        for (name, log), (line, marker) in zip(logs.items(), plots.STYLES):
            part = log.dropna(subset=f"{kind}_ratio")
            look = dict(color=COLOURS[name], linestyle=line, marker=marker, ms=5, label=name)
            axis.plot(part.images / 1000, part[f"{kind}_ratio"], **look)
        axis.axhline(1, color=COLOURS["mean face"], lw=1.2, label="mean face")
        axis.set(title=title, xlabel="pictures seen, thousands")
        axis.grid(alpha=0.3)
    axes[0].set_ylabel(SHARE)
    handles = axes[0].get_legend_handles_labels()
    figure.legend(*handles, loc="outside right upper", frameon=False)
    return figure


def differences(pairs):
    """Pairs of `training_tables`: a panel per error, on one axis, a row per label, with ticks for
    the lowest and the highest seed. The better side of zero is green."""
    names = list(pairs.label.unique())
    figure, axes = plots.panels(2, 2, 4.8, 1.1 + 0.4 * len(names), sharex=True, sharey=True)
    for axis, (kind, title) in zip(axes, ERRORS.items()):
        rows = pairs[pairs.error == kind]
        y = rows.label.map(names.index)
        around = [rows.difference - rows.low, rows.high - rows.difference]
        axis.errorbar(rows.difference, y, xerr=around, fmt="o", color="black", ms=5, capsize=3)
        for column in rows.columns.intersection(["lowest_seed", "highest_seed"]):
            axis.plot(rows[column], y, "|", color="black", ms=11, alpha=0.6)
        axis.axvline(0, color="black", lw=1)
        axis.axvspan(-1, 0, color="#009E73", alpha=0.1, lw=0)
        axis.set(title=title, xlabel=f"change of {SHARE}\n← better")
        axis.grid(axis="x", alpha=0.3)
    edge = 1.15 * pairs[["low", "high"]].abs().max().max()
    axes[0].set(xlim=(-edge, edge), ylim=(len(names) - 0.5, -0.5))
    axes[0].set_yticks(range(len(names)), names)
    axes[0].locator_params(axis="x", nbins=5)
    return figure


def recognisers(read):
    """What a linear reader finds in the last layers of recognisers: rows of `read_recognisers`."""
    targets, names = list(read.target.unique()), list(read.recogniser.unique())
    figure, (axis,) = plots.panels(1, 1, 6.6, 3.2, right=2.4)
    for i, name in enumerate(names):
        rows = read[read.recogniser == name]
        y = np.arange(len(targets)) + 0.17 * (i - (len(names) - 1) / 2)
        around = [rows.value - rows.low, rows.high - rows.value]
        look = dict(color=COLOURS[name], fmt=plots.STYLES[i][1], ms=6, capsize=3)
        axis.errorbar(rows.value, y, xerr=around, label=name, **look)
    axis.axvline(0, color="black", lw=1)
    axis.set_yticks(range(len(targets)), targets)
    axis.set(xlabel="explained variance (1 is all)", ylim=(len(targets) - 0.5, -0.5))
    axis.grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def living(short, starts=(SCRATCH, BARE)):
    """Share of living units in each hidden layer of the heads, and errors after short trainings:
    a mark a seed; rows of `train_short`."""
    layers = [name for name in short if "fc" in name]
    figure, axes = plots.panels(3, 3, 3.3, 2.9, top=0.4)
    for i, start in enumerate(starts):
        rows = short[short.start == start]
        look = dict(
            color=COLOURS[start], linestyle="none", marker=plots.STYLES[i][1], ms=6, alpha=0.8
        )
        y = np.arange(len(layers))[:, None] + 0.24 * (i - 0.5) + np.zeros(len(rows))
        axes[0].plot(rows[layers].T, y, **look)
        for axis, kind in zip(axes[1:], ERRORS):
            axis.plot(rows.seed, rows[kind], label=start, **look)
    axes[0].set_yticks(range(len(layers)), [name.replace(" fc", ", layer ") for name in layers])
    axes[0].set(xlabel="share of living units", xlim=(-0.04, 1.04), ylim=(len(layers) - 0.5, -0.5))
    for axis, title in zip(axes[1:], ERRORS.values()):
        axis.axhline(1, color=COLOURS["mean face"], lw=1.2)
        axis.set(title=title, xlabel="seed", xticks=short.seed.unique())
    axes[1].set_ylabel(SHARE)
    low, high = zip(*(axis.get_ylim() for axis in axes[1:]))
    for axis in axes[1:]:
        axis.set_ylim(min(low), max(high))
    axes[2].tick_params(labelleft=False)
    for axis in axes:
        axis.grid(alpha=0.3)
    handles, labels = axes[1].get_legend_handles_labels()
    one = dict(zip(labels, handles))
    figure.legend(one.values(), one, loc="outside upper left", ncols=2, frameon=False)
    return figure


# ---- faces ---------------------------------------------------------------------------------------


def heads(vertices, model, size=220, **options):
    """Pictures of whole heads; `plots.face_images`."""
    return plots.face_images(vertices, model, size, side_mm=SIDE_MM, **options)


def rows_of_faces(rows, vertices, distance, model, titles, limit=8, inch=1.5):
    """Rows of pictures, name -> (n, H, W, 3), and below them the heads `vertices` (n, N, 3) mm in
    the colours of a distance (n, N), whose scale ends at `limit` mm; `titles` (n,) stand above."""
    paint = plt.get_cmap("viridis")(np.asarray(distance) / limit)[..., :3]
    rows = rows | {"distance": heads(vertices, model, albedo=paint)}
    n = len(titles)
    figure, axes = plots.panels(len(rows) * n, n, inch, inch + 0.05, right=0.8)
    _fill(axes.reshape(-1, n), rows)
    for axis, title in zip(axes[-n:], titles):
        axis.set_title(title, fontsize=10)
    scale = plt.cm.ScalarMappable(plt.Normalize(0, limit), "viridis")
    figure.colorbar(scale, ax=figure.axes, label="distance, mm", shrink=0.6, extend="max")
    return figure


def _fill(lines, rows):
    """Put rows of pictures into lines of axes."""
    for line, (name, pictures) in zip(lines, rows.items()):
        for axis, picture in zip(line, pictures):
            axis.imshow(picture)
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
        line[0].set_ylabel(name)


def toy(history, level, rows):
    """How a toy network learned: both terms of its loss as shares of the mean face's, and faces.

    history: (steps, 2)    level: the mean face's loss of each term    rows: as of `rows_of_faces`
    """
    columns = len(next(iter(rows.values())))
    figure = plt.figure(figsize=(10, 3.4), layout="constrained")
    left, right = figure.subfigures(1, 2, width_ratios=(1, 1.5))  # ty: ignore[not-iterable]
    axis, window = left.subplots(), max(1, len(history) // 20)
    for values, kind, (line, _) in zip(
        (np.asarray(history) / level).T, ("identity", "expression"), plots.STYLES
    ):
        smooth = np.convolve(values, np.ones(window) / window, "valid")
        axis.plot(np.arange(len(smooth)), smooth, line, color=COLOURS[kind], label=kind)
    axis.axhline(1, color=COLOURS["mean face"], lw=1.2, label="mean face")
    axis.set(xlabel="step", ylabel="loss, share of the mean face's", ylim=(0, None))
    axis.legend()
    _fill(right.subplots(len(rows), columns), rows)
    return figure
