"""Figures that several notebooks draw; what one notebook draws is in its wing's `figures.py`.

One colour per method, the same camera for faces being compared, errors on a common scale.
"""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from e2far import camera, raster
from e2far.files import extra

with extra("study"):
    import matplotlib.pyplot as plt
    from matplotlib.colors import LinearSegmentedColormap
    from matplotlib.ticker import NullFormatter

# The Okabe-Ito palette, told apart by the colour-blind. A method has one colour: name it here.
_METHODS = {
    "#000000": ("oracle", "iterative"),
    "#999999": ("mean face", "pool3", "recogniser, untrained"),
    "#BBBBBB": ("end to end, untrained",),
    "#E69F00": ("shared head", "fusion on pool5's grid", "synthetic people"),
    "#F0A060": ("eos, 2 px noise",),
    "#56B4E9": ("two heads", "pool5", "refined", "recogniser"),
    "#CC79A7": ("control",),
    "#0072B2": ("fusion", "identity", "from the recogniser"),
    "#009E73": ("shipped", "pose", "pool4", "VGG-Face", "end to end"),
    "#D55E00": ("eos", "expression", "three layers", "from scratch"),
}
COLOURS = {method: colour for colour, methods in _METHODS.items() for method in methods}
# From skin that stays to skin that moves
STILL_TO_MOVED = LinearSegmentedColormap.from_list(
    "still to moved", ["#D0D0D0", "#E69F00", "#D55E00", "#600000"]
)
# Lines and markers, for readers without colour.
STYLES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "D"), ((0, (5, 1)), "v"))


def colour_of(name, otherwise="black"):
    """The colour of the method that `name` is or starts with."""
    methods = [method for method in COLOURS if name.startswith(method)]
    return COLOURS[max(methods, key=len)] if methods else otherwise


def save(figure, path):
    """Write `figure` as PNG without a date or software stamp: a rerun writes the same bytes."""
    path, drawn = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    # Opaque and packed well: a seventh less for git to carry.
    Image.open(drawn).convert("RGB").save(path, "PNG", optimize=True)
    return figure


def png(picture):
    """A uint8 picture (H, W, 3) as the bytes of a PNG file, for widgets."""
    return Image.fromarray(picture)._repr_png_()


def panels(n, columns, width, height, right=0.0, top=0.0, **options):
    """A figure and its `n` axes (n,), in rows of `columns`, each width x height inches.

    right, top: inches for a colour bar, a title    options: of plt.subplots
    """
    rows = max(1, -(-n // columns))
    options |= dict(squeeze=False, layout="constrained")
    size = (width * columns + right, height * rows + top)
    figure, axes = plt.subplots(rows, columns, figsize=size, **options)
    for axis in axes.flat[n:]:
        axis.axis("off")
    return figure, axes.flat[:n]


# ---- pictures and faces --------------------------------------------------------------------------


def image_grid(images, columns=8, titles=None, title=None, inch=1.25):
    """Pictures (H, W, 3) uint8 or (3, H, W) tensors in a grid, with an optional title each."""
    height = inch + (0.2 if titles is not None else 0)
    figure, axes = panels(len(images), columns, inch, height, top=0.3 if title else 0)
    for i, (axis, image) in enumerate(zip(axes, images)):
        if isinstance(image, torch.Tensor) and image.shape[0] == 3:
            image = image.permute(1, 2, 0)
        axis.imshow(np.asarray(image))
        axis.axis("off")
        if titles is not None:
            axis.set_title(titles[i], fontsize=9)
    if title:
        figure.suptitle(title, fontsize=10)
    return figure


def face_images(vertices, model, size=220, yaw_deg=0.0, albedo=None, side_mm=290.0):
    """Shaded uint8 pictures (B, size, size, 3) of `vertices` (B, N, 3) mm.

    One orthographic camera shows `side_mm` of all.    albedo: None, or colours (B, N, 3) in [0, 1]
    """
    rotation = camera.euler_to_matrix(torch.deg2rad(torch.tensor([yaw_deg, 0.0, 0.0])))
    triangles, recess = model.triangles.numpy(), model.recess.numpy()
    pictures = []
    for i, shape in enumerate(torch.as_tensor(vertices).float()):
        turned = (shape @ rotation.T).numpy()
        colours = (0.74, 0.70, 0.68) if albedo is None else albedo[i]
        pictures.append(raster.plain_view(turned, triangles, size, colours, recess, side_mm))
    return np.stack(pictures)


def trim(pictures):
    """Pictures (B, H, W, 3) without the margins that are white in all of them."""
    drawn = (np.asarray(pictures) < 255).any((0, 3))
    rows, columns = (np.flatnonzero(drawn.any(axis)) for axis in (1, 0))
    return pictures[:, rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def value_maps(
    vertices, values, model, titles, scale=("mm", "viridis"), limit=None, columns=None, inch=2.6
):
    """Faces coloured by a number at every vertex, on one scale with a colour bar.

    vertices: (B, N, 3) mm    values: (B, N), nan: grey    columns: of a row; None: all in one
    scale: label and colour map of the bar    limit: its end; None: the largest value
    """
    label, cmap = scale
    limit = float(np.nanmax(values)) if limit is None else limit
    paint = plt.get_cmap(cmap).with_extremes(bad=".8")
    colours = paint(np.asarray(values) / max(limit, 1e-9))[..., :3]
    pictures = trim(face_images(vertices, model, round(200 * inch), albedo=colours, side_mm=310))
    columns, height = columns or len(pictures), inch * pictures.shape[1] / pictures.shape[2]
    figure, axes = panels(len(pictures), columns, inch, height + 0.2, right=0.8)
    for axis, picture, title in zip(axes, pictures, titles):
        axis.axis("off")
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    colours = plt.cm.ScalarMappable(plt.Normalize(0, limit), cmap)
    figure.colorbar(colours, ax=figure.axes, label=label, shrink=0.85)
    return figure


# ---- training ------------------------------------------------------------------------------------

CURVES = {
    "loss": "loss",
    "identity_mm2": "identity loss (mm²)",
    "expression_mm2": "expression loss (mm²)",
    "pose_percent2": "pose loss ((% of side)²)",
    "top1": "accuracy, unseen pictures",
    "neutral_mm": "neutral shape (mm)",
    "expression_mm": "expression offset (mm)",
    "expressive_mm": "expressive shape (mm)",
    "landmark_percent": "landmarks (% of side)",
}
LOSSES = ("loss", "identity_mm2", "expression_mm2", "pose_percent2")


def training_curves(logs, labels=CURVES):
    """Losses, and errors on the validation split, against images seen.

    logs: name -> DataFrame of `training.fit` or `training.pretrain`; a line each, in the colour of
    the method that its name starts with. Dashed: the mean face.    labels: column -> label
    """
    shown = [column for column in labels if any(column in log for log in logs.values())]
    columns = min(4, max(1, len(shown)))
    figure, axes = panels(len(shown), columns, 3.2, 2.6, top=0.3)
    for axis, column in zip(axes, shown):
        for i, (name, log) in enumerate(logs.items()):
            if column in log:
                look = dict(label=name, color=colour_of(name, f"C{i}"))
                _draw_curve(axis, log.dropna(subset=[column]), column, **look)
        title = "training" if column in LOSSES else "validation"
        axis.set(xlabel="images seen (thousands)", ylabel=labels[column], title=title)
        if column in LOSSES:
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            low, high = axis.get_ylim()  # a long axis has labels enough
            axis.yaxis.set_minor_formatter("{x:g}" if high < 6 * low else NullFormatter())
        axis.grid(alpha=0.3)
    if shown:
        axes[0].legend(fontsize=7)
    return figure


def _draw_curve(axis, points, column, **look):
    marker = "." if len(points) < 20 else None
    axis.plot(points.images / 1000, points[column], marker=marker, **look)
    baseline = column.replace("_mm", "_mean_face_mm")
    if baseline != column and baseline in points and len(points):
        value = points[baseline].iloc[-1]
        axis.axhline(value, color=COLOURS["mean face"], linestyle="--", linewidth=1)


def live(handle, logs, column):
    """Redraw, in a notebook, running trainings: the loss, the validation `column`, the time left.

    logs: name -> DataFrame
    """
    figure = training_curves(logs, {"loss": "loss", column: column.replace("_", " ")})
    left = max((log.remaining_s.iloc[-1] for log in logs.values() if len(log)), default=0)
    figure.suptitle(f"{left / 60:.1f} minutes left", fontsize=10)
    handle.update(figure)
    plt.close(figure)
