"""Figures of notebook 3: what each layer knows."""

import base64
import io
from itertools import product

import numpy as np
from PIL import Image

from e2far.plots import COLOURS, STYLES, panels, trace_menu


def depth_panels(table, label, columns=3):
    """A quantity against depth: a panel per target, a line and an interval band per trunk.

    table: rows of target, trunk, layer, value, low, high (data frame); their order is kept
    """
    targets, layers, trunks = (list(table[name].unique()) for name in ("target", "layer", "trunk"))
    styles = {trunk: STYLES[i % len(STYLES)] for i, trunk in enumerate(trunks)}
    columns = min(columns, len(targets))
    figure, axes = panels(len(targets), columns, max(6 / columns, 3.3), 2.8, top=0.4)
    for axis, target in zip(axes, targets):
        part = table[table["target"] == target]
        for trunk, rows in part.groupby("trunk", sort=False):
            rows, (line, marker) = rows.set_index("layer").reindex(layers), styles[trunk]
            look = dict(color=COLOURS.get(trunk), linestyle=line, marker=marker, ms=4)
            axis.plot(layers, rows["value"], label=trunk, **look)
            axis.fill_between(
                layers, rows["low"], rows["high"], color=look["color"], alpha=0.18, lw=0
            )
        axis.axhline(0, color="#666666", lw=0.8)
        axis.set(xlabel="layer", title=target)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=0.3)
        # A band that is wider than the panel is cut off, not shown as small.
        low, high = min(0, part["value"].min()), part["value"].max()
        axis.set_ylim(low - 0.06 * (high - low), high + 0.25 * (high - low))
    for axis in axes[::columns]:
        axis.set_ylabel(label, fontsize=9)
    lines = axes[0].get_legend_handles_labels()
    figure.legend(*lines, fontsize=8, loc="outside right upper", frameon=False)
    return figure


def depth_view(table, label):
    """`depth_panels` to explore, in plotly: a menu of targets, numbers under the pointer."""
    import plotly.graph_objects as go

    figure, owners = go.Figure(), []
    for (target, trunk), rows in table.groupby(["target", "trunk"], sort=False):
        owners.append(target)
        above, below = rows["high"] - rows["value"], rows["value"] - rows["low"]
        bars = dict(type="data", symmetric=False, array=above.round(4), arrayminus=below.round(4))
        numbers = "%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]"
        figure.add_scatter(
            x=rows["layer"],
            y=rows["value"].round(4),
            error_y=dict(thickness=1, **bars),
            name=trunk,
            meta=target,
            visible=target == owners[0],
            line_color=COLOURS.get(trunk),
            customdata=rows[["low", "high"]].round(4),
            hovertemplate=f"{numbers}<extra>{trunk}</extra>",
        )
    menu = dict(buttons=trace_menu(owners), x=0, xanchor="left", y=1.05, yanchor="bottom")
    figure.update_layout(
        height=420,
        template="plotly_white",
        margin=dict(l=60, r=10, t=50, b=40),
        xaxis_title="layer",
        yaxis_title=label,
        hovermode="x",
        updatemenus=[menu],
    )
    return figure


def heat_maps(tables, label, limit=None, inch=0.24):
    """Tables of numbers as colours, all on one scale from 0 (below: the same) to `limit`.

    tables: title -> DataFrame, whose rows and columns are named    limit: None: the highest
    """
    limit = limit or max(float(np.nanmax(table)) for table in tables.values())
    rows, columns = next(iter(tables.values())).shape
    width, height = max(2.0, inch * 1.25 * columns), inch * rows * 0.8 + 1.6
    figure, axes = panels(len(tables), len(tables), width, height, right=2.6, sharey=True)
    for axis, (title, table) in zip(axes, tables.items()):
        drawn = axis.imshow(table, vmin=0, vmax=limit, aspect="auto", cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(columns), table.columns, rotation=90, fontsize=7)
        axis.set_yticks(range(rows), table.index, fontsize=7)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    return figure


def layer_gallery(pictures):
    """Pictures (name -> uint8 (H, W, 3), of one size) to leaf through with a slider, in plotly."""
    import plotly.graph_objects as go

    figure = go.Figure()
    for picture in pictures.values():
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=85)
        source = "data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode()
        figure.add_image(source=source, visible=not figure.data, hoverinfo="skip")
    title = dict(prefix="neighbours by ")
    slider = dict(
        steps=trace_menu(list(pictures)), currentvalue=title, pad=dict(t=10), font_size=10
    )
    figure.update_layout(
        height=520,
        margin=dict(l=40, r=40, t=10, b=70),
        xaxis_visible=False,
        yaxis_visible=False,
        sliders=[slider],
    )
    return figure


def seed_points(table, means):
    """Every seed's value as a point, beside their mean and its interval.

    A row of panels per trunk, a column per regime, a colour per variant; what was not tried stays
    empty. table: rows of trunk, regime, variant, ratio    means: rows of trunk, regime, variant,
    mean, low, high (data frames)
    """
    keys = ["trunk", "regime", "variant"]
    trunks, regimes, variants = (list(table[key].unique()) for key in keys)
    ratios, means = dict(iter(table.groupby(keys)["ratio"])), means.set_index(keys)
    count = len(trunks) * len(regimes)
    figure, axes = panels(count, len(regimes), 3.6, 2.6, top=0.6, sharex=True)
    for axis, (trunk, regime) in zip(axes, product(trunks, regimes)):
        for place, variant in enumerate(variants):
            if (key := (trunk, regime, variant)) in ratios:
                mean, low, high = means.loc[key, ["mean", "low", "high"]]
                look, around = dict(color=COLOURS.get(variant)), [[mean - low], [high - mean]]
                axis.errorbar(place + 0.12, mean, around, fmt="_", ms=12, capsize=3, **look)
                points = ratios[key]
                axis.plot([place - 0.12] * len(points), points, "o", ms=5, alpha=0.8, **look)
        axis.set_title(f"{regime}, {trunk}", fontsize=9)
        axis.set_xticks(range(len(variants)), variants, rotation=30, ha="right")
        axis.grid(axis="y", alpha=0.3)
    for axis in axes[:: len(regimes)]:
        axis.set_ylabel("ratio to the mean face")
    return figure


# ---- occlusion -----------------------------------------------------------------------------------


def place_maps(background, maps, patch, stride):
    """What a patch changes in each place, over a faint picture (3, S, S).

    maps: row -> column -> (H, W) of `occlusion.occlusion_map`, mm; a row has one scale
    """
    columns = list(next(iter(maps.values())))
    figure, axes = _places(len(maps), len(columns), background.shape[-1], 1.9, 1.85, right=1.4)
    for line, (row, values) in zip(axes, maps.items()):
        limit = max(float(value.max()) for value in values.values())
        for axis, value in zip(line, values.values()):
            _draw_picture(axis, background.mean(0), cmap="gray")
            look = dict(alpha=0.72, interpolation="bilinear")
            drawn = _draw_map(axis, value, patch, stride, limit, **look)
        line[0].set_ylabel(row.replace(": ", ":\n"), fontsize=8)
        figure.colorbar(drawn, ax=line, label="change, mm", shrink=0.85)
    for axis, column in zip(axes[0], columns):
        axis.set_title(column, fontsize=9)
    return figure


def occlusion_maps(images, maps, patch, stride):
    """Pictures (B, 3, S, S) in [0, 1] above what a grey patch changes in each place.

    maps: name -> (B, H, W) of `occlusion.occlusion_map`, mm, all on one scale
    """
    limit = max(float(values.max()) for values in maps.values())
    figure, axes = _places(1 + len(maps), len(images), images.shape[-1], 1.7, 1.75, right=1)
    for column, image in zip(axes.T, images):
        _draw_picture(column[0], image.permute(1, 2, 0))
    for line, values in zip(axes[1:], maps.values()):
        for axis, value in zip(line, values):
            drawn = _draw_map(axis, value, patch, stride, limit)
    for line, name in zip(axes, ("picture", *maps)):
        line[0].set_ylabel(name)
    figure.colorbar(drawn, ax=axes[1:], label="change of the answer (mm)", shrink=0.85)
    return figure


def _places(rows, columns, side, width, height, right):
    """A figure and its axes (rows, columns), each for a picture of `side` px."""
    figure, axes = panels(rows * columns, columns, width, height, right)
    for axis in axes:
        axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[], aspect="equal")
        axis.autoscale(False)
    return figure, axes.reshape(rows, columns)


def _draw_picture(axis, picture, cmap=None):
    height, width = picture.shape[:2]
    axis.imshow(picture, extent=(0, width, height, 0), cmap=cmap)


def _draw_map(axis, values, patch, stride, limit, **look):
    """An occlusion map in px: each value on a square of `stride` around its patch's centre."""
    edge, (height, width) = (patch - stride) / 2, (n * stride for n in values.shape)
    extent = (edge, edge + width, edge + height, edge)
    return axis.imshow(values, extent=extent, vmin=0, vmax=limit, **look)
