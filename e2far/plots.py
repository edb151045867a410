"""Every figure. Matplotlib functions return a Figure; one colour per method, the same camera for faces being compared, errors on a common scale."""

import io
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.ticker import NullFormatter
from PIL import Image

from e2far import camera, raster

# The Okabe-Ito palette, told apart by the colour-blind; one colour per method throughout.
COLOURS = {
    "mean face": "#999999",
    "shared head": "#E69F00",
    "two heads": "#56B4E9",
    "control": "#CC79A7",
    "fusion": "#0072B2",
    "shipped": "#009E73",
    "oracle": "#000000",
    "eos, true landmarks": "#D55E00",
    "eos, 2 px noise": "#F0A060",
    "identity": "#0072B2",
    "expression": "#D55E00",
    "pose": "#009E73",
    "pool3": "#999999",
    "pool4": "#009E73",
    "pool5": "#56B4E9",
    "three layers": "#D55E00",
    "fusion on pool5's grid": "#E69F00",
    "looks fixed": "#E69F00",
    "looks new": "#CC79A7",
    "end to end": "#0072B2",
    "random": "#999999",
    "VGG-Face": "#009E73",
    "from the recogniser": "#0072B2",
    "from scratch": "#D55E00",
}

STYLES = (
    ("-", "o"),
    ("--", "s"),
    ("-.", "^"),
    (":", "D"),
    ((0, (5, 1)), "v"),
)  # lines and markers, for readers without colour


def save(figure, path):
    """Write `figure` as PNG, small, without a date or software stamp, so that a rerun writes the same bytes."""
    path, drawn = Path(path), io.BytesIO()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(drawn, format="png", dpi=110, bbox_inches="tight", metadata={"Software": None})
    Image.open(drawn).convert("RGB").save(
        path, "PNG", optimize=True
    )  # opaque and packed well: a seventh less for git to carry
    return figure


def face_images(vertices, model, size=220, yaw_deg=0.0, pitch_deg=0.0, albedo=None, side_mm=255.0):
    """Shaded uint8 pictures (B, size, size, 3) of `vertices` (B, N, 3) mm, all by one orthographic camera that shows `side_mm`.

    albedo: None, or colours (B, N, 3) in [0, 1]
    """
    rotation = camera.euler_to_matrix(torch.deg2rad(torch.tensor([yaw_deg, pitch_deg, 0.0])))
    triangles, recess = model.triangles.numpy(), model.recess.numpy()
    pictures = [
        raster.plain_view(
            (shape @ rotation.T).numpy(),
            triangles,
            size,
            (0.74, 0.70, 0.68) if albedo is None else albedo[i],
            recess,
            side_mm,
        )
        for i, shape in enumerate(torch.as_tensor(vertices).float())
    ]
    return np.stack(pictures)


def image_grid(images, columns=8, titles=None, title=None, inch=1.25):
    """Pictures (B, H, W, 3) uint8 or (B, 3, H, W) float in a grid, with an optional title each."""
    images = [
        i.permute(1, 2, 0).numpy()
        if isinstance(i, torch.Tensor) and i.shape[0] == 3
        else np.asarray(i)
        for i in images
    ]
    rows = -(-len(images) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(
            columns * inch,
            rows * (inch + (0.2 if titles is not None else 0)) + (0.3 if title else 0),
        ),
        squeeze=False,
        layout="constrained",
    )
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
        return go.Mesh3d(
            x=x,
            y=y,
            z=z,
            i=a,
            j=b,
            k=c,
            color="#d9c9bf",
            visible=visible,
            hovertemplate="%{x:.0f}, %{y:.0f}, %{z:.0f} mm<extra></extra>",
            lighting=dict(ambient=0.35, diffuse=0.75, specular=0.15, roughness=0.6, fresnel=0.1),
            lightposition=dict(x=-2e4, y=6e4, z=1e5),
        )

    figure = go.Figure([mesh(shape, k == 0) for k, shape in enumerate(shapes.values())])
    hidden = dict(visible=False)
    figure.update_layout(
        height=height,
        margin=dict(l=0, r=0, t=40 if len(names) > 1 else 0, b=0),
        scene=dict(
            xaxis=hidden,
            yaxis=hidden,
            zaxis=hidden,
            aspectmode="data",
            camera=dict(up=dict(x=0, y=1, z=0), eye=dict(x=0.5, y=0.15, z=2.2)),
        ),
    )  # not orthographic: plotly then lights the back
    if len(names) > 1:
        buttons = [
            dict(
                label=name, method="update", args=[dict(visible=[other == name for other in names])]
            )
            for name in names
        ]
        figure.update_layout(
            updatemenus=[
                dict(
                    type="buttons",
                    direction="right",
                    x=0.5,
                    xanchor="center",
                    y=1.02,
                    yanchor="bottom",
                    buttons=buttons,
                )
            ]
        )
    return figure


def training_curves(logs):
    """Losses, and errors on the validation split, against images seen: one line for each of `logs`, name -> DataFrame of `training.fit` or `training.pretrain`.

    Dashed: the mean face. A name takes the colour of the method that it starts with.
    """
    panels = {
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
    panels = {
        column: label
        for column, label in panels.items()
        if any(column in log for log in logs.values())
    }
    columns = min(4, max(1, len(panels)))
    figure, axes = plt.subplots(
        max(1, -(-len(panels) // columns)),
        columns,
        figsize=(3.2 * columns, 2.6 * -(-len(panels) // columns) + 0.3),
        squeeze=False,
        layout="constrained",
    )
    for axis, (column, label) in zip(axes.flat, panels.items()):
        for i, (name, log) in enumerate(logs.items()):
            if column in log:
                colour = next(
                    (
                        COLOURS[method]
                        for method in sorted(COLOURS, key=len, reverse=True)
                        if name.startswith(method)
                    ),
                    f"C{i}",
                )
                points = log.dropna(subset=[column])
                axis.plot(
                    points.images / 1000,
                    points[column],
                    color=colour,
                    label=name,
                    marker="." if len(points) < 20 else None,
                )
                baseline = column.replace("_mm", "_mean_face_mm")
                if baseline != column and baseline in log and len(points):
                    axis.axhline(
                        points[baseline].iloc[-1],
                        color=COLOURS["mean face"],
                        linestyle="--",
                        linewidth=1,
                    )
        axis.set(
            xlabel="images seen (thousands)",
            ylabel=label,
            title="validation" if column.endswith(("_mm", "top1", "_percent")) else "training",
        )
        if column in ("loss", "identity_mm2", "expression_mm2", "pose_percent2"):
            axis.set_yscale("log")
            axis.yaxis.set_major_formatter("{x:g}")
            low, high = axis.get_ylim()
            axis.yaxis.set_minor_formatter(
                "{x:g}" if high < 6 * low else NullFormatter()
            )  # a long axis has labels enough
        axis.grid(alpha=0.3)
    for axis in axes.flat[len(panels) :]:
        axis.axis("off")
    if logs:
        axes.flat[0].legend(fontsize=7)
    return figure


def live(handle, logs, column):
    """Redraw, in a notebook, the running trainings `logs` (name -> DataFrame): the loss, the validation `column`, and the time left in the title."""
    figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), layout="constrained")
    for name, log in logs.items():
        colour = COLOURS.get(name)
        axes[0].semilogy(log.images / 1000, log.loss, label=name, color=colour)
        if column in log:
            axes[1].plot(
                *(log[["images", column]].dropna().to_numpy() / [1000, 1]).T, ".-", color=colour
            )
    left = max((log.remaining_s.iloc[-1] for log in logs.values() if len(log)), default=0)
    axes[0].set(
        xlabel="images seen (thousands)", ylabel="loss", title=f"{left / 60:.1f} minutes left"
    )
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


def value_maps(
    vertices,
    values,
    model,
    titles,
    label="mm",
    limit=None,
    size=260,
    yaw_deg=0.0,
    columns=None,
    inch=2.6,
):
    """Faces coloured by a number at every vertex, on one scale with a colour bar. vertices: (B, N, 3) mm    values: (B, N), nan: grey    columns: a row; None: all"""
    limit = float(np.nanmax(values)) if limit is None else limit
    colours = plt.get_cmap("viridis").with_extremes(bad=".8")(
        np.asarray(values) / max(limit, 1e-9)
    )[..., :3]
    pictures = face_images(vertices, model, size, yaw_deg, albedo=colours)
    columns = columns or len(pictures)
    rows = -(-len(pictures) // columns)
    figure, axes = plt.subplots(
        rows,
        columns,
        figsize=(inch * columns + 0.6, (inch + 0.2) * rows),
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.axis("off")
    for axis, picture, title in zip(axes.flat, pictures, titles):
        axis.imshow(picture)
        axis.set_title(title, fontsize=9)
    figure.colorbar(
        plt.cm.ScalarMappable(plt.Normalize(0, limit), "viridis"), ax=axes, label=label, shrink=0.85
    )
    return figure


LANDMARK_LINES = {
    "jaw": [*range(17)],
    "brow, right": [*range(17, 22)],
    "brow, left": [*range(22, 27)],
    "nose bridge": [*range(27, 31)],
    "nose base": [*range(31, 36)],
    "eye, right": [*range(36, 42), 36],
    "eye, left": [*range(42, 48), 42],
    "lips, outside": [*range(48, 60), 48],
    "lips, inside": [*range(60, 68), 60],
}


def landmark_views(image, face):
    """The 68 landmarks of a `face.Face` in the photo (px), and in the head frame from the front and from the side (mm)."""
    figure, axes = plt.subplots(1, 3, figsize=(10, 3.5), layout="constrained")
    low, high = face.image_landmarks.min(0), face.image_landmarks.max(0)
    (x0, y0), (x1, y1) = low - 0.2 * (high - low), high + 0.2 * (high - low)
    x, y, z = face.landmarks.T
    axes[0].imshow(image, extent=(0, image.shape[1], image.shape[0], 0))
    axes[0].set(xlim=(x0, x1), ylim=(y1, y0), xlabel="x, px", ylabel="y, px", title="in the photo")
    axes[1].set(xlabel="x to the subject's left, mm", ylabel="y up, mm", title="head frame, front")
    axes[2].set(xlabel="z out of the face, mm", ylabel="y up, mm", title="head frame, side")
    for axis, points in zip(axes, (face.image_landmarks.T, (x, y), (z, y))):
        for line in LANDMARK_LINES.values():
            axis.plot(
                points[0][line], points[1][line], marker="o", ms=2.5, lw=1, color=COLOURS["shipped"]
            )
        axis.set_aspect("equal")
    return figure
