"""Every figure. Matplotlib functions return a Figure; one colour per method, the same camera for faces being compared, errors on a common scale."""
import base64
import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import NullFormatter
from PIL import Image

from e2far import anthropometry, camera, metrics, rasterize

# The Okabe-Ito palette, told apart by the colour-blind; one colour per method throughout.
COLOURS = {"mean face": "#999999", "shared head": "#E69F00", "two heads": "#56B4E9", "control": "#CC79A7", "fusion": "#0072B2", "shipped": "#009E73", "oracle": "#000000",
           "eos, true landmarks": "#D55E00", "eos, 2 px noise": "#F0A060", "identity": "#0072B2", "expression": "#D55E00", "pose": "#009E73",
           "pool3": "#999999", "pool4": "#009E73", "pool5": "#56B4E9", "three layers": "#D55E00", "fusion on pool5's grid": "#E69F00",
           "looks fixed": "#E69F00", "looks new": "#CC79A7", "end to end": "#0072B2", "random": "#999999", "VGG-Face": "#009E73",
           "from the recogniser": "#0072B2", "from scratch": "#D55E00"}

STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1)), "v"))         # lines and markers, for readers without colour


def save(figure, path):
    """Write `figure` as PNG, small, without a date or software stamp, so that a rerun writes the same bytes."""
    path, drawn = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    Image.open(drawn).convert("RGB").save(path, "PNG", optimize=True)          # opaque and packed well: a seventh less for git to carry
    return figure


def face_images(vertices, model, size=220, yaw_deg=0., pitch_deg=0., albedo=None, side_mm=255.):
    """Shaded uint8 pictures (B, size, size, 3) of `vertices` (B, N, 3) mm, all by one orthographic camera that shows `side_mm`.

    albedo: None, or colours (B, N, 3) in [0, 1]
    """
    rotation = camera.euler_to_matrix(torch.deg2rad(torch.tensor([yaw_deg, pitch_deg, 0.])))
    triangles, recess = model.triangles.numpy(), model.recess.numpy()
    pictures = [rasterize.plain_view((shape @ rotation.T).numpy(), triangles, size, (.74, .70, .68) if albedo is None else albedo[i], recess, side_mm)
                for i, shape in enumerate(torch.as_tensor(vertices).float())]
    return np.stack(pictures)


def image_grid(images, columns=8, titles=None, title=None, inch=1.25):
    """Pictures (B, H, W, 3) uint8 or (B, 3, H, W) float in a grid, with an optional title each."""
    images = [i.permute(1, 2, 0).numpy() if isinstance(i, torch.Tensor) and i.shape[0] == 3 else np.asarray(i) for i in images]
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(columns * inch, rows * (inch + (.2 if titles is not None else 0)) + (.3 if title else 0)), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for i, (axis, image) in enumerate(zip(axes.flat, images)):
        axis.imshow(image)
        if titles is not None:
            axis.set_title(titles[i], fontsize=7)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def mesh_view(shapes, triangles, height=520):
    """An interactive plotly figure of one or more `shapes` {name: (N, 3) mm}, a button each, seen from the front."""
    import plotly.graph_objects as go
    (a, b, c), names = np.asarray(triangles, np.uint32).T, list(shapes)

    def mesh(vertices, visible):
        x, y, z = np.asarray(vertices, np.float32).round(2).T
        return go.Mesh3d(x=x, y=y, z=z, i=a, j=b, k=c, color="#d9c9bf", visible=visible, hovertemplate="%{x:.0f}, %{y:.0f}, %{z:.0f} mm<extra></extra>",
                         lighting=dict(ambient=.35, diffuse=.75, specular=.15, roughness=.6, fresnel=.1), lightposition=dict(x=-2e4, y=6e4, z=1e5))

    figure = go.Figure([mesh(shape, k == 0) for k, shape in enumerate(shapes.values())])
    hidden = dict(visible=False)
    figure.update_layout(height=height, margin=dict(l=0, r=0, t=40 if len(names) > 1 else 0, b=0), scene=dict(
        xaxis=hidden, yaxis=hidden, zaxis=hidden, aspectmode="data", camera=dict(up=dict(x=0, y=1, z=0), eye=dict(x=.5, y=.15, z=2.2))))       # not orthographic: plotly then lights the back
    if len(names) > 1:
        buttons = [dict(label=name, method="update", args=[dict(visible=[other == name for other in names])]) for name in names]
        figure.update_layout(updatemenus=[dict(type="buttons", direction="right", x=.5, xanchor="center", y=1.02, yanchor="bottom", buttons=buttons)])
    return figure


def training_curves(logs):
    """Losses, and errors on the validation split, against images seen: one line for each of `logs`, name -> DataFrame of `training.fit` or `training.pretrain`.

    Dashed: the mean face. A name takes the colour of the method that it starts with.
    """
    panels = {"loss": "loss", "identity_mm2": "identity loss (mm²)", "expression_mm2": "expression loss (mm²)", "pose_percent2": "pose loss ((% of side)²)", "top1": "accuracy, unseen pictures",
              "neutral_mm": "neutral shape (mm)", "expression_mm": "expression offset (mm)", "expressive_mm": "expressive shape (mm)", "landmark_percent": "landmarks (% of side)"}
    panels = {column: label for column, label in panels.items() if any(column in log for log in logs.values())}
    columns = min(4, max(1, len(panels)))
    figure, axes = plt.subplots(max(1, -(-len(panels) // columns)), columns, figsize=(3.2 * columns, 2.6 * -(-len(panels) // columns) + .3), squeeze=False, layout="constrained")
    for axis, (column, label) in zip(axes.flat, panels.items()):
        for i, (name, log) in enumerate(logs.items()):
            if column in log:
                colour = next((COLOURS[method] for method in sorted(COLOURS, key=len, reverse=True) if name.startswith(method)), f"C{i}")
                points = log.dropna(subset=[column])
                axis.plot(points.images / 1000, points[column], color=colour, label=name, marker="." if len(points) < 20 else None)
                baseline = column.replace("_mm", "_mean_face_mm")
                if baseline != column and baseline in log and len(points):
                    axis.axhline(points[baseline].iloc[-1], color=COLOURS["mean face"], linestyle="--", linewidth=1)
        axis.set(xlabel="images seen (thousands)", ylabel=label, title="validation" if column.endswith(("_mm", "top1", "_percent")) else "training")
        if column in ("loss", "identity_mm2", "expression_mm2", "pose_percent2"):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            low, high = axis.get_ylim()
            axis.yaxis.set_minor_formatter("{x:g}" if high < 6 * low else NullFormatter())      # a long axis has labels enough
        axis.grid(alpha=.3)
    for axis in axes.flat[len(panels):]:
        axis.axis("off")
    if logs:
        axes.flat[0].legend(fontsize=7)
    return figure


def cumulative_errors(errors, limit_mm=8., title=None):
    """Share of points within a distance, one curve per method, as NoW draws it. errors: dict method -> distances (any shape), mm."""
    figure, axis = plt.subplots(figsize=(5, 3.4), layout="constrained")
    thresholds = np.linspace(0, limit_mm, 161)
    for i, (method, values) in enumerate(errors.items()):
        found = metrics.summarise(values, thresholds)
        axis.plot(thresholds, 100 * found["curve"], color=COLOURS.get(method, f"C{i}"), linestyle=STYLES[i % len(STYLES)][0], label=f"{method}: median {found['median']:.2f} mm")
    axis.set(xlim=(0, limit_mm), ylim=(0, 100), xlabel="distance, mm", ylabel="points within the distance, %", title=title or "")
    axis.grid(alpha=.3)
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
        axis.errorbar(part[column], part.ratio, yerr=[part.ratio - part.low, part.high - part.ratio], linestyle=line if len(part) > 1 else "none", marker=marker, markersize=4, linewidth=1.4, elinewidth=.7, capsize=2, color=f"C{i}", label=method)
    axis.axhline(1, color=COLOURS["mean face"], linewidth=1)
    axis.set(xlabel=label, ylabel="expressive shape,\nratio to the mean face's error", xscale="log" if wide else "linear", ylim=(None, min(1.3, axis.get_ylim()[1])))
    axis.xaxis.set_major_formatter("{x:g}")
    axis.grid(alpha=.3)
    axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1, 1))
    return figure


def depth_panels(table, label, columns=3):
    """A quantity against depth: a panel per target, a line and an interval band per trunk. table: rows of target, trunk, layer, value, low, high; its order is kept."""
    targets, layers, trunks = (list(dict.fromkeys(table[name])) for name in ("target", "layer", "trunk"))
    columns = min(columns, len(targets))
    lines = -(-len(targets) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(max(6, 3.3 * columns), 2.8 * lines + .4), squeeze=False, layout="constrained")
    for axis, target in zip(axes.flat, targets):
        for trunk, rows in table[table["target"] == target].groupby("trunk", sort=False):
            rows, (line, marker) = rows.set_index("layer").reindex(layers), STYLES[trunks.index(trunk) % len(STYLES)]
            axis.plot(layers, rows["value"], linestyle=line, marker=marker, ms=4, color=COLOURS.get(trunk), label=trunk)
            axis.fill_between(layers, rows["low"], rows["high"], color=COLOURS.get(trunk), alpha=.18, lw=0)
        axis.axhline(0, color="#666666", lw=.8)
        axis.set(xlabel="layer", title=target)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(alpha=.3)
        low, high = (f(table[table["target"] == target]["value"]) for f in (min, max))
        axis.set_ylim(min(0, low) - .06 * (high - min(0, low)), high + .25 * (high - min(0, low)))        # a band that is wider than the panel is cut off, not shown as small
    for axis in axes[:, 0]:
        axis.set_ylabel(label, fontsize=9)
    for axis in axes.flat[len(targets):]:
        axis.axis("off")
    figure.legend(*axes[0, 0].get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    return figure


def depth_view(table, label, height=420):
    """`depth_panels` to explore: an interactive plotly figure, a menu of the targets, error bars, the numbers under the pointer."""
    import plotly.graph_objects as go
    targets, figure = list(dict.fromkeys(table["target"])), go.Figure()
    for (target, trunk), rows in table.groupby(["target", "trunk"], sort=False):
        figure.add_scatter(x=rows["layer"], y=rows["value"].round(4), name=trunk, visible=target == targets[0], line=dict(color=COLOURS.get(trunk)), customdata=rows[["low", "high"]].round(4), meta=target,
                           error_y=dict(type="data", symmetric=False, array=(rows["high"] - rows["value"]).round(4), arrayminus=(rows["value"] - rows["low"]).round(4), thickness=1),
                           hovertemplate="%{y:.3f} [%{customdata[0]:.3f}, %{customdata[1]:.3f}]<extra>" + trunk + "</extra>")
    buttons = [dict(label=target, method="update", args=[dict(visible=[trace.meta == target for trace in figure.data])]) for target in targets]
    figure.update_layout(height=height, template="plotly_white", margin=dict(l=60, r=10, t=50, b=40), xaxis_title="layer", yaxis_title=label, hovermode="x",
                         updatemenus=[dict(buttons=buttons, x=0, xanchor="left", y=1.05, yanchor="bottom")])
    return figure


def heat_maps(tables, label, limit=None, inch=.24):
    """Tables of numbers as colours, all on one scale from 0 (below which all look alike) to `limit` (None: the highest). tables: title -> DataFrame, whose rows and columns are named"""
    high = limit or max(float(np.nanmax(t)) for t in tables.values())
    first = next(iter(tables.values()))
    figure, axes = plt.subplots(1, len(tables), figsize=(max(2., inch * 1.25 * first.shape[1]) * len(tables) + 2.6, inch * len(first) * .8 + 1.6), squeeze=False, sharey=True, layout="constrained")
    for axis, (title, table) in zip(axes.flat, tables.items()):
        picture = axis.imshow(table, vmin=0, vmax=high, aspect="auto", cmap="viridis")
        axis.set_title(title, fontsize=9)
        axis.set_xticks(range(table.shape[1]), table.columns, rotation=90, fontsize=7)
        axis.set_yticks(range(len(table)), table.index, fontsize=7)
    figure.colorbar(picture, ax=axes, label=label, shrink=.8)
    return figure


def layer_gallery(pictures, height=520):
    """Pictures to leaf through with a slider: an interactive plotly figure. pictures: name -> uint8 (H, W, 3), all of one size"""
    import plotly.graph_objects as go
    figure = go.Figure()
    for k, picture in enumerate(pictures.values()):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=85)
        figure.add_image(source="data:image/jpeg;base64," + base64.b64encode(file.getvalue()).decode(), visible=k == 0, hoverinfo="skip")
    steps = [dict(label=name, method="update", args=[dict(visible=[k == shown for k in range(len(pictures))])]) for shown, name in enumerate(pictures)]
    figure.update_layout(height=height, margin=dict(l=40, r=40, t=10, b=70), xaxis_visible=False, yaxis_visible=False, sliders=[dict(steps=steps, currentvalue=dict(prefix="neighbours by "), pad=dict(t=10), font_size=10)])
    return figure


def place_maps(background, maps, patch, stride, label="change, mm"):
    """What a patch changes in each place, over a faint picture (3, S, S): a row of `maps` (row -> column -> (H, W) of `probes.occluded`) has one scale and a colour bar."""
    side = background.shape[-1]
    rows, columns, edge = len(maps), len(next(iter(maps.values()))), (patch - stride) / 2
    figure, axes = plt.subplots(rows, columns, figsize=(1.9 * columns + 1.4, 1.85 * rows), squeeze=False, layout="constrained")
    for number, (line, (row, values)) in enumerate(zip(axes, maps.items())):
        limit = max(float(v.max()) for v in values.values())
        for axis, (column, value) in zip(line, values.items()):
            axis.imshow(background.permute(1, 2, 0).mean(-1), extent=(0, side, side, 0), cmap="gray")
            height, width = (n * stride for n in value.shape)
            drawn = axis.imshow(value, extent=(edge, edge + width, edge + height, edge), vmin=0, vmax=limit, alpha=.72, interpolation="bilinear")
            axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])
            axis.set_title("" if number else column, fontsize=9)
        line[0].set_ylabel(row.replace(": ", ":\n"), fontsize=8)
        figure.colorbar(drawn, ax=line, label=label, shrink=.85)
    return figure


def seed_points(table, means):
    """The value of every seed (points), their mean and its interval: a row of panels per phase, a column per error, a colour per variant. What was not tried stays empty.

    table: rows of phase, variant, error, ratio    means: rows of phase, variant, error, mean, low, high (data frames)
    """
    phases, variants, errors = (list(dict.fromkeys(table[name])) for name in ("phase", "variant", "error"))
    figure, axes = plt.subplots(len(phases), len(errors), figsize=(3.6 * len(errors), 2.6 * len(phases) + .6), squeeze=False, sharex=True, layout="constrained")
    for line, phase in zip(axes, phases):
        for axis, error in zip(line, errors):
            for place, variant in enumerate(variants):
                chosen = lambda t: t[(t["phase"] == phase) & (t["variant"] == variant) & (t["error"] == error)]      # noqa: B023 (used at once)
                if chosen(table).empty:
                    continue
                points, row, colour = chosen(table)["ratio"], chosen(means).iloc[0], COLOURS.get(variant)
                axis.errorbar(place + .12, row["mean"], [[row["mean"] - row["low"]], [row["high"] - row["mean"]]], fmt="_", ms=12, capsize=3, color=colour)
                axis.plot([place - .12] * len(points), points, "o", ms=5, color=colour, alpha=.8)
            axis.set_title(f"{error}, {phase}", fontsize=9)
            axis.set_xticks(range(len(variants)), variants, rotation=30, ha="right")
            axis.grid(axis="y", alpha=.3)
        line[0].set_ylabel("ratio to the mean face")
    return figure


def occlusion_maps(images, maps, patch, stride):
    """Pictures (B, 3, S, S) in [0, 1] above what a grey patch changes in each place; `maps` name -> (B, H, W) of `probes.occlusion_map`, mm, all on one scale."""
    side, (rows, columns) = images.shape[-1], next(iter(maps.values())).shape[1:]
    limit, edge = max(float(m.max()) for m in maps.values()), (patch - stride) / 2
    figure, axes = plt.subplots(1 + len(maps), len(images), figsize=(1.7 * len(images) + 1, 1.75 * (1 + len(maps))), squeeze=False, layout="constrained")
    for i, image in enumerate(images):
        axes[0, i].imshow(image.permute(1, 2, 0), extent=(0, side, side, 0))
        for axis, values in zip(axes[1:, i], maps.values()):
            axis.imshow(values[i], extent=(edge, edge + columns * stride, edge + rows * stride, edge), vmin=0, vmax=limit)
    for axis in axes.flat:
        axis.set(xlim=(0, side), ylim=(side, 0), xticks=[], yticks=[])
    for line, name in zip(axes, ("picture", *maps)):
        line[0].set_ylabel(name)
    figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, limit), "viridis"), ax=axes[1:], label="change of the answer (mm)", shrink=.85)
    return figure


def live(handle, logs, column):
    """Redraw, in a notebook, the running trainings `logs` (name -> DataFrame): the loss, the validation `column`, and the time left in the title."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for name, log in logs.items():
        colour = COLOURS.get(name)
        axes[0].semilogy(log.images / 1000, log.loss, label=name, color=colour)
        if column in log:
            axes[1].plot(*(log[["images", column]].dropna().to_numpy() / [1000, 1]).T, ".-", color=colour)
    left = max((log.remaining_s.iloc[-1] for log in logs.values() if len(log)), default=0)
    axes[0].set(xlabel="images seen (thousands)", ylabel="loss", title=f"{left / 60:.1f} minutes left")
    axes[1].set(xlabel="images seen (thousands)", ylabel=column.replace("_", " ") + ", validation")
    if logs:
        axes[0].legend(fontsize=8)
    handle.update(figure)
    plt.close(figure)


def png(picture):
    """A uint8 picture (H, W, 3) as the bytes of a PNG file, for widgets."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG")
    return file.getvalue()


def value_maps(vertices, values, model, titles, label="mm", limit=None, size=260, yaw_deg=0., columns=None, inch=2.6):
    """Faces coloured by a number at every vertex, on one scale with a colour bar. vertices: (B, N, 3) mm    values: (B, N), nan: grey    columns: a row; None: all"""
    limit = float(np.nanmax(values)) if limit is None else limit
    colours = plt.get_cmap("viridis").with_extremes(bad=".8")(np.asarray(values) / max(limit, 1e-9))[..., :3]
    pictures = face_images(vertices, model, size, yaw_deg, albedo=colours)
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(inch * columns + .6, (inch + .2) * rows), squeeze=False, layout="constrained")
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, title in zip(axes.flat, pictures, titles):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    figure.colorbar(plt.cm.ScalarMappable(plt.Normalize(0, limit), "viridis"), ax=axes, label=label, shrink=.85)
    return figure


LANDMARK_LINES = {"jaw": [*range(17)], "brow, right": [*range(17, 22)], "brow, left": [*range(22, 27)], "nose bridge": [*range(27, 31)], "nose base": [*range(31, 36)],
                  "eye, right": [*range(36, 42), 36], "eye, left": [*range(42, 48), 42], "lips, outside": [*range(48, 60), 48], "lips, inside": [*range(60, 68), 60]}


def landmark_views(image, face):
    """The 68 landmarks of a `photo.Face` in the photo (px), and in the head frame from the front and from the side (mm)."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained")
    low, high = face.image_landmarks.min(0), face.image_landmarks.max(0)
    (x0, y0), (x1, y1) = low - .2 * (high - low), high + .2 * (high - low)
    x, y, z = face.landmarks.T
    axes[0].imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    axes[0].set(xlim=(x0, x1), ylim=(y1, y0), xlabel="x, px", ylabel="y, px", title="in the photo")
    axes[1].set(xlabel="x to the subject's left, mm", ylabel="y up, mm", title="head frame, front")
    axes[2].set(xlabel="z out of the face, mm", ylabel="y up, mm", title="head frame, side")
    for axis, points in zip(axes, (face.image_landmarks.T, (x, y), (z, y))):
        for line in LANDMARK_LINES.values():
            axis.plot(points[0][line], points[1][line], marker="o", ms=2.5, lw=1, color=COLOURS["shipped"])
        axis.set_aspect("equal")
    return figure


def time_bars(table, label, title=None):
    """Horizontal bars with a line from the lowest to the highest repeat. table: rows of name, median, low, high (data frame); its order is kept, the first on top."""
    figure, axis = plt.subplots(figsize=(7, .6 + .36 * len(table)), layout="constrained")
    spread = np.stack([table["median"] - table["low"], table["high"] - table["median"]]).clip(0)
    axis.barh(range(len(table)), table["median"], .7, xerr=spread, capsize=2, color=COLOURS["fusion"], error_kw=dict(lw=1, ecolor="#444444"))
    axis.set_yticks(range(len(table)), table["name"])
    axis.invert_yaxis()
    axis.set(xlabel=label, ylabel="part", title=title or "")
    axis.grid(axis="x", alpha=.3)
    axis.set_axisbelow(True)
    return figure


def throughput(table, title=None):
    """Images a second against batch size, a line per kind of work and number of threads. table: rows of work, threads, batch_size, median, low, high (data frame)."""
    figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
    colours, styles = dict(zip(dict.fromkeys(table["work"]), (COLOURS["fusion"], COLOURS["expression"]))), ("-", "--", ":", "-.")
    for (work, threads), rows in table.groupby(["work", "threads"], sort=False):
        style = styles[list(dict.fromkeys(table["threads"])).index(threads) % len(styles)]
        axis.errorbar(rows["batch_size"], rows["median"], np.stack([rows["median"] - rows["low"], rows["high"] - rows["median"]]).clip(0), color=colours[work], linestyle=style,
                      marker="o", ms=4, capsize=2, label=f"{work}, {threads} thread{'s' if threads > 1 else ''}")
    axis.set_xscale("log", base=2)
    axis.set_xticks(sorted(set(table["batch_size"])), sorted(set(table["batch_size"])))
    axis.set(xlabel="batch size", ylabel="images a second", ylim=(0, None), title=title or "")
    axis.grid(alpha=.3)
    figure.legend(fontsize=8, loc="outside right upper", frameon=False)
    return figure


def growth(table):
    """Time and memory against the number of pictures, a colour a stage; dashed: in proportion, from each stage's largest number. table: rows of stage, pictures, seconds, more_gb (data frame)."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.2), layout="constrained")
    for name, (_, marker), (stage, rows) in zip(("fusion", "shared head", "pose", "expression"), STYLES, table.groupby("stage", sort=False)):
        colour = COLOURS[name]
        axes[0].plot(rows["pictures"], rows["seconds"], marker, color=colour, label=stage)
        axes[0].plot(rows["pictures"], rows["pictures"] * rows["seconds"].iloc[-1] / rows["pictures"].iloc[-1], "--", color=colour, lw=1)
        axes[1].plot(rows["pictures"], rows["more_gb"], f"{marker}-", color=colour, lw=1)
    axes[0].set(xscale="log", yscale="log", ylabel="CPU seconds", title="Dashed: in proportion to the pictures")
    axes[1].set(xscale="log", ylabel="GB more than for the fewest", title="Memory at the peak", ylim=(min(-.02, 1.3 * table["more_gb"].min()), max(.25, 1.1 * table["more_gb"].max())))
    for axis in axes:
        axis.set_xticks(sorted(set(table["pictures"])), [f"{n:,}" for n in sorted(set(table["pictures"]))])
        axis.minorticks_off()
        axis.set_xlabel("pictures")
        axis.grid(alpha=.3)
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc="outside right upper", frameon=False)
    return figure


def face_measures(found, spread, used):
    """Left: measures of our people (dots, mean, standard deviation) about the mean of men and women of the norms, mm. Right: their spread as a ratio to the norms', against that of the targets.

    found: `anthropometry.measure` of people of the model    spread: rows of local_sd, measure, spread_ratio (data frame)    used: the model's local_sd
    """
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.6), width_ratios=(1.15, 1), layout="constrained")
    names = [name for name in anthropometry.NORMS if name not in anthropometry.INDICES]
    jitter = np.random.default_rng(0).uniform(-.09, .09, len(found[names[0]]))
    for row, name in enumerate(names):
        middle, values = anthropometry.population(name)[0], np.asarray(found[name])
        left.plot(values - middle, row + jitter, ".", ms=3, color="#999999", alpha=.5, mec="none", label="our people, each one" if row == 0 else None)
        women, men = (anthropometry.NORMS[name][sex] for sex in ("female", "male"))
        for place, label, colour, marker, (mean, sd) in ((0, "our people", "#000000", "o", (values.mean(), values.std(ddof=1))), (-.27, "women, survey", "#D55E00", "^", women),
                                                         (.27, "men, survey", "#0072B2", "s", men)):
            left.errorbar(mean - middle, row + place, xerr=sd, fmt=marker, ms=4, capsize=2, lw=1.3, color=colour, label=label if row == 0 else None)
    left.axvline(0, color="#666666", lw=.8)
    left.set_yticks(range(len(names)), [f"{name}\n{anthropometry.population(name)[0]:.0f} mm" for name in names], fontsize=8)
    left.set(ylim=(len(names) - .4, -.6), xlabel="difference from the survey's mean of men and women (mm)", ylabel="measure, and the survey's mean", title="Mean and standard deviation")
    left.grid(axis="x", alpha=.3)
    colours = dict(zip(anthropometry.INDICES, ("#0072B2", "#E69F00", "#009E73", "#CC79A7")))
    for name, rows in spread.groupby("measure", sort=False):
        style = dict(color=colours[name], label=name, marker="o", ms=4) if name in colours else dict(color="#BBBBBB", lw=.8)
        right.plot(rows["local_sd"], rows["spread_ratio"], **style)
    typical = spread.assign(log=np.log(spread["spread_ratio"])).groupby("local_sd")["log"].mean()
    right.plot([], [], lw=.8, color="#BBBBBB", label="measures in mm")
    right.plot(typical.index, np.exp(typical), "k--", lw=2, label="geometric mean of all")
    right.axhline(1, color="#666666", lw=.8)
    right.axvline(used, color="#666666", lw=.8, linestyle=":", label="the model's")
    right.set(xlabel="spread of the local targets (local_sd)", ylabel="coefficient of variation, ratio to the survey's", ylim=(0, None), title="How much people differ")
    right.grid(alpha=.3)
    left.legend(fontsize=7, loc="lower right")
    right.legend(fontsize=7, loc="upper left")
    return figure
