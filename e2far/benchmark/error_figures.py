"""Figures of notebook 5: differences of methods; errors by movement, group, and world."""

import numpy as np

from e2far import plots
from e2far.benchmark.tables import KINDS
from e2far.files import extra
from e2far.plots import COLOURS, STYLES, colour_of

with extra("study"):
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

RATIO = "ratio to the mean face's error"


def one_face(image, true, shapes, model, limit):
    """A picture (3, S, S) above its true face (N, 3) mm; each of the `shapes` {name: (N, 3) mm}
    above its errors, laid on the true face. limit: mm, the end of the colours"""
    bare = plots.face_images(np.stack([true, *shapes.values()]), model)
    region, values = model.region.numpy(), np.full((len(shapes), model.n_vertices), np.nan)
    for row, shape in zip(values, shapes.values()):
        row[region] = (shape - true).norm(dim=-1).numpy()[region]
    paint = plt.get_cmap("viridis").with_extremes(bad=".8")
    colours = paint(values / limit)[..., :3]
    maps = plots.face_images(np.stack([true] * len(shapes)), model, albedo=colours)
    pictures = [image.permute(1, 2, 0).numpy(), *bare[1:], bare[0], *maps]
    titles = ["the picture", *shapes, "the true face", *(f"error of {name}" for name in shapes)]
    figure, axes = plots.panels(len(pictures), 1 + len(shapes), 2.5, 2.7, right=0.8)
    for axis, picture, title in zip(axes, pictures, titles):
        axis.imshow(picture)
        axis.axis("off")
        axis.set_title(title, fontsize=10)
    scale = plt.cm.ScalarMappable(plt.Normalize(0, limit), "viridis")
    figure.colorbar(scale, ax=list(axes), label="mm", shrink=0.75, extend="max")
    return figure


def ratio_panels(table, by, line=1.0, dashed="the mean face"):
    """Ratios to the mean face's error with 95 % intervals: a panel for each of KINDS, on one axis,
    a row for each value of column `by`, a colour for each method.

    Where the column `kind` changes, rows are set apart.    line: kind of error -> a place, or one
    for all, drawn and called `dashed`
    """
    names, methods = list(table[by].unique()), list(table["method"].unique())
    heights = dict(zip(names, -np.arange(len(names))))
    if "kind" in table:
        kinds = table.drop_duplicates(by)["kind"]
        heights = dict(zip(names, -np.arange(len(names)) - 0.6 * (kinds != kinds.shift()).cumsum()))
    many = len(methods) > 1
    height = 1 + 0.25 * (1 + 0.6 * many) * len(names) + 0.3 * many
    figure, axes = plots.panels(3, 3, 3.3, height, sharex=True, sharey=True)
    for axis, kind in zip(axes, KINDS):
        part = table[table["error"] == kind]
        for i, (method, rows) in enumerate(part.groupby("method", sort=False)):
            shift = 0.3 * (i / max(1, len(methods) - 1) - 0.5) if many else 0
            y = rows[by].map(heights) - shift
            _dots(axis, y, rows, "ratio", colour_of(method), STYLES[i % 5][1] if many else "o")
            axis.plot([], [], STYLES[i % 5][1], color=colour_of(method), label=method)
        place = line[kind] if isinstance(line, dict) else line
        axis.axvline(place, color="#666666", linestyle="--", lw=1, label=dashed)
        axis.set_title(KINDS[kind])
        axis.grid(axis="x", alpha=0.3)
    axes[0].set_yticks(list(heights.values()), names)
    axes[0].set_ylim(min(heights.values()) - 0.6, max(heights.values()) + 0.6)
    axes[1].set_xlabel(f"{RATIO} (← better)")
    lines, labels = axes[0].get_legend_handles_labels()
    first = 0 if many else labels.index(dashed)
    look = dict(loc="outside lower center", ncols=4, fontsize=9, frameon=False)
    figure.legend(lines[first:], labels[first:], **look)
    return figure


def differences(table):
    """Errors of methods less that of one, in mm, of `tables.paired`: a panel for the neutral shape
    and one for the expression. The better side of zero is green. Hollow: handed the truth."""
    than, names = table["than"].iloc[0], list(table["method"].unique())
    handed = table[table["handed"]]["method"].nunique()
    height = 1.1 + 0.27 * len(names)
    figure, axes = plots.panels(2, 2, 4.8, height, sharey=True)
    table = table.rename(columns=dict(low="mm_low", high="mm_high"))
    for axis, kind in zip(axes, ("neutral", "expression")):
        rows = table[table["error"] == kind].reset_index(drop=True)
        for y, row in rows.iterrows():
            fill = "white" if row["handed"] else colour_of(row["method"])
            _dots(axis, [y], rows[y : y + 1], "mm", colour_of(row["method"]), mfc=fill)
        low, high = min(0, rows["mm_low"].min()), max(0, rows["mm_high"].max())
        edge = 0.08 * (high - low)
        axis.axvspan(low - 1, 0, color=COLOURS["shipped"], alpha=0.1, lw=0)
        axis.axvline(0, color="black", lw=1.2)
        axis.axhline(len(names) - handed - 0.5, color="#666666", lw=0.8, ls=":")
        axis.set(xlim=(low - edge, high + edge), ylim=(len(names) - 0.5, -0.5))
        axis.set_xlabel(f"mm more than {than} (← better)")
        axis.set_title(KINDS[kind])
        axis.grid(axis="x", alpha=0.3)
        axis.xaxis.set_major_locator(MaxNLocator(5))
    corner = dict(ha="right", va="top", fontsize=9, transform=axes[0].get_yaxis_transform())
    axes[0].text(0.98, len(names) - handed - 0.4, "handed true landmarks", **corner)
    axes[0].set_yticks(range(len(names)), names)
    return figure


def unit_rows(table, method):
    """Ratios of the movements of the face, of `subgroups.unit_table`, in two columns of rows."""
    half = -(-len(table) // 2)
    figure, axes = plots.panels(2, 2, 5, 1 + 0.2 * half, sharex=True)
    for axis, rows in zip(axes, (table[:half], table[half:])):
        y = np.arange(len(rows))
        _dots(axis, y, rows, "ratio", colour_of(method))
        axis.axvline(1, color="#666666", linestyle="--", lw=1)
        names = [f"{row.unit} ({row.still_mm:.1f})" for row in rows.itertuples()]
        axis.set_yticks(y, names, fontsize=9)
        axis.set(ylim=(half - 0.4, -0.6), xlabel="error, ratio to a still face's")
        axis.grid(axis="x", alpha=0.3)
    return figure


def one_person(consistency, averages):
    """How close the faces of one person lie, and what averaging several pictures is worth.

    consistency: method -> `metrics.identity_consistency`    averages: of `average_table`
    """
    figure, (left, right) = plots.panels(2, 2, 5, 3.4)
    methods = list(averages["method"].unique())
    for i, (name, rows) in enumerate(averages.groupby("method", sort=False)):
        found, marker = consistency[name], STYLES[i][1]
        around = [[found["ratio"] - found["low"]], [found["high"] - found["ratio"]]]
        look = dict(color=colour_of(name), capsize=3)
        left.errorbar(found["ratio"], i, xerr=around, fmt=marker, **look)
        spread = [rows["ratio"] - rows["ratio_low"], rows["ratio_high"] - rows["ratio"]]
        right.errorbar(
            rows["pictures"], rows["ratio"], spread, fmt=f"{marker}-", label=name, **look
        )
    left.axvline(0.5, color="black", linestyle="--", lw=1, label="the aim")
    left.axvline(1, color=COLOURS["mean face"], lw=1, label="nothing of the person")
    left.set(xlim=(0, 1.1), ylim=(-0.6, len(methods) - 0.4))
    left.set_yticks(range(len(methods)), methods)
    left.set(xlabel="distance within a person / between people", title="One person, one face?")
    right.axhline(1, color=COLOURS["mean face"], lw=1, label="mean face")
    right.set(xscale="log", title="Do more pictures help?")
    right.set(xlabel="pictures of the person, averaged", ylabel=f"neutral shape,\n{RATIO}")
    counts = averages["pictures"].unique()
    right.set_xticks(counts, counts)
    right.set_xticks([], minor=True)
    for axis in (left, right):
        axis.grid(alpha=0.3)
        axis.legend(fontsize=9)
    return figure


def confidence(trials):
    """Predicted against found errors of landmarks, and whether a score is the share it says.

    trials: of `steadiness.confidence_trials`
    """
    figure, (left, right) = plots.panels(2, 2, 5, 3.6)
    whole, found = trials["kind"] == "whole", trials["landmark_error_percent"]
    look = dict(markersize=3, alpha=0.5)
    for name, rows, colour, marker in (
        ("spoilt", trials[~whole & found.notna()], COLOURS["expression"], "s"),
        ("whole", trials[whole], COLOURS["identity"], "o"),
    ):
        told = rows["predicted_landmark_error_percent"]
        left.plot(told, rows["landmark_error_percent"], marker, color=colour, label=name, **look)
    ends = [found.min(), found.max()]
    left.plot(ends, ends, color="black", lw=1, label="as predicted")
    left.set(xscale="log", yscale="log", title="Faces, whole and spoilt")
    left.set(xlabel="predicted error, % of the face", ylabel="found, % of the face")
    for axis in (left.xaxis, left.yaxis):
        axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.set_major_formatter("{x:g}")
        axis.set_minor_formatter(NullFormatter())
    left.legend(fontsize=9)
    weight = np.where(whole, 0.5 / whole.sum(), 0.5 / (~whole).sum())
    place = np.digitize(trials["score"], np.linspace(0, 1, 6)[1:-1])
    mean = lambda name, k: np.average(trials[name][place == k], weights=weight[place == k])
    bins = [(mean("score", k), mean("good", k)) for k in np.unique(place)]
    right.plot(*zip(*bins), "o-", color="black")
    right.plot([0, 1], [0, 1], "--", color="#666666", lw=1, label="as the score says")
    right.set(
        xlabel="score", ylabel="share within 5 % of the face", title="Does the score keep its word?"
    )
    right.legend(fontsize=9)
    right.grid(alpha=0.3)
    return figure


def _dots(axis, y, rows, name, colour, marker="o", **look):
    """Dots and intervals of column `name` at the heights y."""
    around = [rows[name] - rows[f"{name}_low"], rows[f"{name}_high"] - rows[name]]
    look |= dict(color=colour, ms=5, capsize=3, lw=1.4)
    axis.errorbar(rows[name], y, xerr=around, fmt=marker, **look)
