"""Figures of notebook 3: what each layer knows."""

import base64
import io
import json

import numpy as np

from e2far.analysis.subjects import END_TO_END, PEOPLE, RECOGNISER, TWIN, UNTRAINED
from e2far.files import extra
from e2far.plots import COLOURS, STYLES, panels

with extra("notebooks"):
    import matplotlib.pyplot as plt
    from IPython.display import display
    from plotly.subplots import make_subplots

STYLE_OF = dict(zip((RECOGNISER, TWIN, PEOPLE, END_TO_END, UNTRAINED), STYLES))
DEPTH = "depth, by the stages of the {}"
SHORT = dict(pixels="px", conv1="", average="", descriptor="128")  # of layers, on an axis
# Of Okabe and Ito, told apart by the colour-blind and on white
PEOPLE_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#000000", "#56B4E9")


def depth_panels(table, label, columns=3, right=1.9):
    """A quantity against depth: a panel per target, a line and an interval band per trunk.

    table: rows of target, trunk, layer, depth, value, low, high (data frame); their order is kept,
    and the first trunk's layers name the depths. Behind depth 1 come the recogniser's average and its 128 numbers.
    """
    targets, trunks = (list(table[name].unique()) for name in ("target", "trunk"))
    columns = min(columns, len(targets))
    known = table[table["trunk"] == trunks[0]].set_index("layer")["depth"].to_dict()
    ticks = {SHORT.get(layer, layer[-1]): depth for layer, depth in known.items()}
    ticks.pop("", None)
    figure, axes = panels(len(targets), columns, max(6 / columns, 3.2), 2.8, right=right)
    for axis, target in zip(axes, targets):
        part = table[table["target"] == target]
        for trunk, rows in part.groupby("trunk", sort=False):
            line, marker = STYLE_OF.get(trunk, STYLES[-1])
            look = dict(color=COLOURS.get(trunk), linestyle=line, marker=marker, ms=4)
            axis.plot(rows["depth"], rows["value"], label=trunk, **look)
            axis.fill_between(
                rows["depth"], rows["low"], rows["high"], color=look["color"], alpha=0.18, lw=0
            )
        axis.axhline(0, color="#666666", lw=0.8)
        axis.axvspan(1.04, 1.2, color="#888888", alpha=0.12, lw=0)
        axis.set(title=target, xlim=(-0.03, 1.2))
        axis.set_xticks([*ticks.values()], [*ticks], fontsize=9)
        axis.grid(alpha=0.3)
        # A band that is wider than the panel is cut off, not shown as small.
        low, high = min(0, part["value"].min()), part["value"].max()
        axis.set_ylim(low - 0.06 * (high - low), high + 0.25 * (high - low))
    for axis in axes[::columns]:
        axis.set_ylabel(label)
    for axis in axes[-columns:]:
        axis.set_xlabel(DEPTH.format(trunks[0]))
    handles = dict(zip(*reversed(axes[0].get_legend_handles_labels())))
    figure.legend(handles.values(), handles, loc="outside right upper", frameon=False, fontsize=9)
    return figure


def kept_at_top(peaks):
    """What each network keeps at its top of what it knew at its best: a dot and its interval. The
    axis ends at -0.5: an arrow says that an interval goes on.

    peaks: rows of trunk, target, kept, kept_low, kept_high (data frame), shares
    """
    least = max(-0.5, min(0, peaks["kept_low"].min() - 0.03))
    targets, trunks = list(peaks["target"].unique()), list(peaks["trunk"].unique())
    figure, axes = panels(1, 1, 7, 0.6 + 0.5 * len(targets), right=2)
    for i, trunk in enumerate(trunks):
        rows = peaks[peaks["trunk"] == trunk]
        y = [targets.index(name) + 0.14 * (i - (len(trunks) - 1) / 2) for name in rows["target"]]
        around = [rows["kept"] - rows["kept_low"], rows["kept_high"] - rows["kept"]]
        look = dict(
            color=COLOURS.get(trunk), fmt=STYLE_OF.get(trunk, STYLES[-1])[1], ms=5, capsize=2
        )
        axes[0].errorbar(rows["kept"], y, xerr=around, label=trunk, **look)
        longer = [height for height, low in zip(y, rows["kept_low"]) if low < least]
        axes[0].plot([least + 0.02] * len(longer), longer, "<", color=COLOURS.get(trunk), ms=5)
    axes[0].axvline(0, color="#666666", lw=0.8)
    axes[0].set(xlabel="kept at the top, share of the peak", ylim=(len(targets) - 0.5, -0.5))
    axes[0].set_yticks(range(len(targets)), targets)
    axes[0].set_xlim(least, 1.05)
    axes[0].grid(axis="x", alpha=0.3)
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def heat_maps(tables, label, limit=None, inch=0.28):
    """Tables of numbers as colours, all on one scale from 0 (below: the same) to `limit`.

    tables: title -> DataFrame, whose rows and columns are named    limit: None: the highest
    """
    limit = limit or max(float(np.nanmax(table)) for table in tables.values())
    rows, columns = max(table.shape for table in tables.values())
    width, height = max(2.0, inch * 1.25 * columns), inch * rows * 0.8 + 1.6
    figure, axes = panels(len(tables), len(tables), width, height, right=2.6, sharey=True)
    for axis, (title, table) in zip(axes, tables.items()):
        drawn = axis.imshow(table, vmin=0, vmax=limit, aspect="auto", cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(len(table.columns)), table.columns, rotation=90, fontsize=9)
        axis.set_yticks(range(rows), table.index, fontsize=9)
    figure.colorbar(drawn, ax=axes, label=label, shrink=0.8)
    return figure


def neighbour_sheet(images, rows):
    """A picture (H, W, 3) uint8 of faces in rows (q, m) of images (n, 3, S, S)."""
    lines = (np.concatenate([*images[row].permute(0, 2, 3, 1).numpy()], 1) for row in rows)
    return np.concatenate([*lines])


# ---- what layers remember and see ----------------------------------------------------------------


def memories(rows):
    """Faces in rows: of each the photo, what the layers remember of it, and the truth.

    rows: name -> column -> picture (H, W, 3) uint8; names that are text stand beside their row
    """
    columns, known = max(map(len, rows.values())), []
    figure, axes = panels(len(rows) * columns, columns, 0.95, 1.0, top=0.3)
    for line, (name, row) in zip(axes.reshape(-1, columns), rows.items()):
        for axis, (title, picture) in zip(line, row.items()):
            axis.imshow(picture)
            axis.set_title("" if [*row] == known else title, fontsize=9)
        known = [*row]
        if isinstance(name, str):
            beside = dict(rotation=90, va="center", fontsize=9, transform=line[0].transAxes)
            line[0].text(-0.3, 0.5, name.replace(", ", ",\n"), ha="center", **beside)
    for axis in axes:
        axis.axis("off")
    figure.get_layout_engine().set(w_pad=0.01, h_pad=0.01, wspace=0, hspace=0)
    return figure


def channel_maps(pictures, maps, count=4):
    """What channels of each layer answer to two pictures, and the difference of the answers.

    pictures: name -> (H, W, 3) uint8, two    maps: layer -> (2, C, h, w); shown are the `count`
    channels in which the two differ most
    """
    titles = [*pictures, "difference"]
    figure, axes = panels((1 + len(maps)) * 3 * count, 3 * count, 0.85, 0.9, top=0.3)
    axes = axes.reshape(1 + len(maps), 3 * count)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    for axis in axes[0, 3:]:
        axis.axis("off")
    for axis, (name, picture) in zip(axes[0], pictures.items()):
        axis.imshow(picture)
        axis.set_title(name, fontsize=9)
    axes[0, 2].axis("off")
    for line, (layer, both) in zip(axes[1:], maps.items()):
        both = np.asarray(both)
        chosen = np.argsort(-np.abs(both[1] - both[0]).mean((1, 2)))[:count]
        for k, channel in enumerate(chosen):
            one, other = both[:, channel]
            limit, change = max(one.max(), other.max()), np.abs(other - one).max()
            line[3 * k].imshow(one, vmin=0, vmax=limit, cmap="gray")
            line[3 * k + 1].imshow(other, vmin=0, vmax=limit, cmap="gray")
            line[3 * k + 2].imshow(other - one, vmin=-change, vmax=change, cmap="RdBu_r")
        line[0].set_ylabel(layer, fontsize=9)
    for k in range(3 * count):
        axes[1, k].set_title(titles[k % 3], fontsize=9)
    return figure


def favourites(groups):
    """What units like: for each the nine faces that move it most, and a picture made for it.

    groups: title -> (faces (9, H, W, 3) uint8, made (H, W, 3) uint8)
    """
    figure, axes = panels(2 * len(groups), 6, 1.6, 1.85)
    for (title, (faces, made)), one, other in zip(groups.items(), axes[::2], axes[1::2]):
        rows = [np.concatenate([*faces[k : k + 3]], 1) for k in (0, 3, 6)]
        one.imshow(np.concatenate(rows))
        other.imshow(made)
        one.set_title(title, fontsize=9)
        other.set_title("made for it", fontsize=9)
    for axis in axes:
        axis.axis("off")
    return figure


def face_maps(places, person, values, label):
    """Maps of faces, (n, 2) each, one a layer: above a number for each of the first twelve people
    and grey dots for all others, below coloured by `values` (n,)."""
    figure, axes = panels(2 * len(places), len(places), 3.4, 3.1, right=0.9)
    axes = axes.reshape(2, len(places))
    for column, (title, xy) in zip(axes.T, places.items()):
        column[0].scatter(*xy.T, color="#C0C0C0", s=8)
        for number, who in enumerate(np.unique(person)[:12]):
            look = dict(color=PEOPLE_COLOURS[number % len(PEOPLE_COLOURS)], fontweight="bold")
            column[0].plot(*xy[person == who].T, "o", color="white", ms=9)
            for x, y in xy[person == who]:
                column[0].text(x, y, number + 1, ha="center", va="center", fontsize=9, **look)
        drawn = column[1].scatter(*xy.T, c=values, cmap="viridis", s=14)
        column[0].set_title(title)
    for axis in axes.flat:
        axis.set(xticks=[], yticks=[])
    axes[0, 0].set_ylabel("twelve people, numbered")
    axes[1, 0].set_ylabel(f"coloured by {label}")
    figure.colorbar(drawn, ax=axes[1], label=label)
    return figure


def hover(figure, places, person, values, label):
    """Show the figure of `face_maps`. Where a page runs plotly, as JupyterLab does, its maps take
    the figure's place, and tell of the face under the pointer."""
    live, last = make_subplots(1, len(places), subplot_titles=[*places]), len(places)
    told = [f"person {who + 1}<br>{label} {value:.2f}" for who, value in zip(person, values)]
    for column, xy in enumerate(places.values(), 1):
        look = dict(color=values, colorscale="Viridis", showscale=column == last)
        look["colorbar"] = dict(title=label)
        at = dict(x=xy[:, 0], y=xy[:, 1], text=told, hoverinfo="text")
        live.add_scatter(**at, mode="markers", marker=look, showlegend=False, row=1, col=column)
    live.update_xaxes(visible=False).update_yaxes(visible=False).update_layout(height=420)
    still = io.BytesIO()
    figure.savefig(still, format="png", bbox_inches="tight")
    plt.close(figure)
    bundle = {"application/vnd.plotly.v1+json": json.loads(live.to_json())}
    bundle["image/png"] = base64.b64encode(still.getvalue()).decode()
    display(bundle, raw=True)


def place_maps(picture, maps, patch, stride):
    """What a grey patch changes in each place, over a faint picture (H, W, 3).

    maps: row -> column -> (h, w) of `occlusion.occlusion_maps`, mm; a row has one scale
    """
    columns, (height, width) = list(next(iter(maps.values()))), picture.shape[:2]
    figure, axes = panels(len(maps) * len(columns), len(columns), 1.8, 1.9, right=0.9)
    axes = axes.reshape(len(maps), len(columns))
    for line, (row, values) in zip(axes, maps.items()):
        limit, edge = max(float(x.max()) for x in values.values()), (patch - stride) / 2
        for axis, x in zip(line, values.values()):
            axis.imshow(picture.mean(2), extent=(0, width, height, 0), cmap="gray")
            ends = [edge + stride * n for n in x.shape]
            look = dict(alpha=0.72, vmin=0, vmax=limit, interpolation="bilinear")
            drawn = axis.imshow(x, extent=(edge, ends[1], ends[0], edge), **look)
            axis.set(xlim=(0, width), ylim=(height, 0), xticks=[], yticks=[])
        line[0].set_ylabel(row)
        figure.colorbar(drawn, ax=line, label="change, mm", shrink=0.85)
    for axis, column in zip(axes[0], columns):
        axis.set_title(column)
    return figure
