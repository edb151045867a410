"""Figures of notebook 3: what each layer knows."""

import base64
import io

import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

from e2far.plots import COLOURS, STYLES


def depth_panels(table, label, columns=3):
    """A quantity against depth: a panel per target, a line and an interval band per trunk. table: rows of target, trunk, layer, value, low, high; its order is kept."""
    targets, layers, trunks = (
        list(dict.fromkeys(table[name])) for name in ("target", "layer", "trunk")
    )
    columns = min(columns, len(targets))
    lines = -(-len(targets) // columns)
    figure, axes = plt.subplots(
        lines,
        columns,
        figsize=(max(6, 3.3 * columns), 2.8 * lines + 0.4),
        squeeze=False,
        layout="constrained",
    )
    for axis, target in zip(axes.flat, targets):
        for trunk, rows in table[table["target"] == target].groupby("trunk", sort=False):
            rows, (line, marker) = (
                rows.set_index("layer").reindex(layers),
                STYLES[trunks.index(trunk) % len(STYLES)],
            )
            axis.plot(
                layers,
                rows["value"],
                linestyle=line,
                marker=marker,
                ms=4,
                color=COLOURS.get(trunk),
                label=trunk,
            )
            axis.fill_between(
                layers, rows["low"], rows["high"], color=COLOURS.get(trunk), alpha=0.18, lw=0
            )
        axis.axhline(0, color="#666666", lw=0.8)
        axis.set(xlabel="layer", title=target)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.3)
        low, high = (f(table[table["target"] == target]["value"]) for f in (min, max))
        axis.set_ylim(
            min(0, low) - 0.06 * (high - min(0, low)), high + 0.25 * (high - min(0, low))
        )  # a band that is wider than the panel is cut off, not shown as small
    for axis in axes[:, 0]:
        axis.set_ylabel(label, fontsize=9)
    for axis in axes.flat[len(targets) :]:
        axis.axis("off")
    figure.legend(
        *axes[0, 0].get_legend_handles_labels(),
        fontsize=8,
        loc="outside right upper",
        frameon=False,
    )
    return figure


def depth_view(table, label, height=420):
    """`depth_panels` to explore: an interactive plotly figure, a menu of the targets, error bars, the numbers under the pointer."""
    import plotly.graph_objects as go

    targets, figure = list(dict.fromkeys(table["target"])), go.Figure()
    for (target, trunk), rows in table.groupby(["target", "trunk"], sort=False):
        figure.add_scatter(
            x=rows["layer"],
            y=rows["value"].round(4),
            name=trunk,
            visible=target == targets[0],
            line=dict(color=COLOURS.get(trunk)),
            customdata=rows[["low", "high"]].round(4),
            meta=target,
            error_y=dict(
                type="data",
                symmetric=False,
                array=(rows["high"] - rows["value"]).round(4),
                arrayminus=(rows["value"] - rows["low"]).round(4),
                thickness=1,
            ),
            hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra>"
            + trunk
            + "</extra>",
        )
    buttons = [
        dict(
            label=target,
            method="update",
            args=[dict(visible=[trace.meta == target for trace in figure.data])],
        )
        for target in targets
    ]
    figure.update_layout(
        height=height,
        template="plotly_white",
        margin=dict(l=60, r=10, t=50, b=40),
        xaxis_title="layer",
        yaxis_title=label,
        hovermode="x",
        updatemenus=[dict(buttons=buttons, x=0, xanchor="left", y=1.05, yanchor="bottom")],
    )
    return figure


def heat_maps(tables, label, limit=None, inch=0.24):
    """Tables of numbers as colours, all on one scale from 0 (below which all look alike) to `limit` (None: the highest). tables: title -> DataFrame, whose rows and columns are named"""
    high = limit or max(float(np.nanmax(t)) for t in tables.values())
    first = next(iter(tables.values()))
    figure, axes = plt.subplots(
        1,
        len(tables),
        figsize=(
            max(2.0, inch * 1.25 * first.shape[1]) * len(tables) + 2.6,
            inch * len(first) * 0.8 + 1.6,
        ),
        squeeze=False,
        sharey=True,
        layout="constrained",
    )
    for axis, (title, table) in zip(axes.flat, tables.items()):
        picture = axis.imshow(table, vmin=0, vmax=high, aspect="auto", cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(table.shape[1]), table.columns, rotation=90, fontsize=7)
        axis.set_yticks(range(len(table)), table.index, fontsize=7)
    figure.colorbar(picture, ax=axes, label=label, shrink=0.8)
    return figure


def layer_gallery(pictures, height=520):
    """Pictures to leaf through with a slider: an interactive plotly figure. pictures: name -> uint8 (H, W, 3), all of one size"""
    import plotly.graph_objects as go

    figure = go.Figure()
    for k, picture in enumerate(pictures.values()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=85)
        figure.add_image(
            source="data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(),
            visible=k == 0,
            hoverinfo="skip",
        )
    steps = [
        dict(
            label=name,
            method="update",
            args=[dict(visible=[k == shown for k in range(len(pictures))])],
        )
        for shown, name in enumerate(pictures)
    ]
    figure.update_layout(
        height=height,
        margin=dict(l=40, r=40, t=10, b=70),
        xaxis_visible=False,
        yaxis_visible=False,
        sliders=[
            dict(
                steps=steps,
                currentvalue=dict(prefix="neighbours by "),
                pad=dict(t=10),
                font_size=10,
            )
        ],
    )
    return figure


def place_maps(background, maps, patch, stride, label="change, mm"):
    """What a patch changes in each place, over a faint picture (3, S, S): a row of `maps` (row -> column -> (H, W) of `occlusion.occluded`) has one scale and a colour bar."""
    side = background.shape[-1]
    rows, columns, edge = len(maps), len(next(iter(maps.values()))), (patch - stride) / 2
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(1.9 * columns + 1.4, 1.85 * rows),
        squeeze=False,
        layout="constrained",
    )
    for number, (line, (row, values)) in enumerate(zip(axes, maps.items())):
        limit = max(float(v.max()) for v in values.values())
        for axis, (column, value) in zip(line, values.items()):
            axis.imshow(
                background.permute(1, 2, 0).mean(-1), extent=(0, side, side, 0), cmap="gray"
            )
            height, width = (n * stride for n in value.shape)
            drawn = axis.imshow(
                value,
                extent=(edge, edge + width, edge + height, edge),
                vmin=0,
                vmax=limit,
                alpha=0.72,
                interpolation="bilinear",
            )
            axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])
            axis.set_title("" if number else column, fontsize=9)
        line[0].set_ylabel(row.replace(": ", ":\n"), fontsize=8)
        figure.colorbar(drawn, ax=line, label=label, shrink=0.85)
    return figure


def seed_points(table, means):
    """The value of every seed (points), their mean and its interval: a row of panels per phase, a column per error, a colour per variant. What was not tried stays empty.

    table: rows of phase, variant, error, ratio    means: rows of phase, variant, error, mean, low, high (data frames)
    """
    phases, variants, errors = (
        list(dict.fromkeys(table[name])) for name in ("phase", "variant", "error")
    )
    figure, axes = plt.subplots(
        len(phases),
        len(errors),
        figsize=(3.6 * len(errors), 2.6 * len(phases) + 0.6),
        squeeze=False,
        sharex=True,
        layout="constrained",
    )
    for line, phase in zip(axes, phases):
        for axis, error in zip(line, errors):
            for place, variant in enumerate(variants):
                chosen = lambda t: t[
                    (t["phase"] == phase) & (t["variant"] == variant) & (t["error"] == error)
                ]  # noqa: B023 (used at once)
                if chosen(table).empty:
                    continue
                points, row, colour = (
                    chosen(table)["ratio"],
                    chosen(means).iloc[0],
                    COLOURS.get(variant),
                )
                axis.errorbar(
                    place + 0.12,
                    row["mean"],
                    [[row["mean"] - row["low"]], [row["high"] - row["mean"]]],
                    fmt="_",
                    ms=12,
                    capsize=3,
                    color=colour,
                )
                axis.plot([place - 0.12] * len(points), points, "o", ms=5, color=colour, alpha=0.8)
            axis.set_title(f"{error}, {phase}", fontsize=9)
            axis.set_xticks(range(len(variants)), variants, rotation=30, ha="right")
            axis.grid(axis="y", alpha=0.3)
        line[0].set_ylabel("ratio to the mean face")
    return figure


def occlusion_maps(images, maps, patch, stride):
    """Pictures (B, 3, S, S) in [0, 1] above what a grey patch changes in each place; `maps` name -> (B, H, W) of `occlusion.occlusion_map`, mm, all on one scale."""
    side, (rows, columns) = images.shape[-1], next(iter(maps.values())).shape[1:]
    limit, edge = max(float(m.max()) for m in maps.values()), (patch - stride) / 2
    figure, axes = plt.subplots(
        1 + len(maps),
        len(images),
        figsize=(1.7 * len(images) + 1, 1.75 * (1 + len(maps))),
        squeeze=False,
        layout="constrained",
    )
    for i, image in enumerate(images):
        axes[0, i].imshow(image.permute(1, 2, 0), extent=(0, side, side, 0))
        for axis, values in zip(axes[1:, i], maps.values()):
            axis.imshow(
                values[i],
                extent=(edge, edge + columns * stride, edge + rows * stride, edge),
                vmin=0,
                vmax=limit,
            )
    for axis in axes.flat:
        axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])
    for line, name in zip(axes, ("picture", *maps)):
        line[0].set_ylabel(name)
    figure.colorbar(
        plt.cm.ScalarMappable(plt.Normalize(0, limit), "viridis"),
        ax=axes[1:],
        label="change of the answer (mm)",
        shrink=0.85,
    )
    return figure
