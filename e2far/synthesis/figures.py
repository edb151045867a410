"""Figures of notebook 1: how a picture comes about, and what varies from one to the next."""

import numpy as np
import torch

from e2far import camera, plots, raster
from e2far.files import extra
from e2far.synthesis.boxes import box
from e2far.synthesis.studio import VARIATIONS, Studio
from e2far.synthesis.summary import displacement_mm

with extra("study"):
    import matplotlib.pyplot as plt

# A camera that neither chooses nor spoils anything.
PLAIN_SHOT = dict(exposure=0.3, automatic=1.0, balance=np.ones(3), blur=np.full(2, 0.1), sharpen=0)
PLAIN_SHOT |= dict(gamma=2.2, contrast=1.0, saturation=1.0, noise=0, quality=0)


def one_more_each(studio, identity, looks, expression, angles, seed):
    """The same picture with one ingredient more at a time: title -> uint8 picture.

    studio: studio.Studio    angles: yaw, pitch, roll in radians    seed: of all the rest
    """
    rotation = camera.euler_to_matrix(torch.from_numpy(angles)).numpy()

    def view(vertices):
        recess = studio.recess[: len(vertices)]
        look = dict(recess=recess, side_mm=300)
        return raster.plain_view(vertices @ rotation.T, studio.head, studio.size, **look)

    person = studio.dress(identity, looks)
    recipe = studio.draw_scene(person, expression, angles, np.random.default_rng(seed))
    still = recipe | dict(obstacles=np.zeros_like(recipe["obstacles"]))
    still["shot"] = recipe["shot"] | PLAIN_SHOT
    grey = np.zeros_like(recipe["background"])
    grey[0] = box(centre=studio.size / 2, half=2 * studio.size, start=0.8, end=0.8)
    lit = still | dict(background=grey)
    flat = lit | dict(harmonics=np.zeros((9, 3)), lamps=0 * recipe["lamps"], shade=0.0)
    flat["harmonics"][0] = 1.0
    bare = person | dict(worn=0 * person["worn"])
    bare["looks"] = person["looks"] | dict(shell=np.float32(0))
    return {
        "mean face": view(studio.template),
        "identity": view(person["neutral"]),
        "expression": view(recipe["vertices"]),
        "skin": studio.expose(flat | dict(person=bare))["image"],
        "hair, clothes": studio.expose(flat)["image"],
        "light and shadow": studio.expose(lit)["image"],
        "background": studio.expose(still)["image"],
        "obstacles, camera": studio.expose(recipe)["image"],
    }


def without_each(model, seed, people=60, size=140):
    """What each kind of variation does: name -> a picture with it, and the same one without it.

    Shown is, of `people` pictures, the one whose middle changes most and that shows no other kind.
    """

    def photograph(without=()):
        studio = Studio(model, size, without=without)
        rows = [studio.photograph(seed, "test", person, 1) for person in range(people)]
        return np.stack([row["image"] for row in rows])

    whole, pairs, taken = photograph(), {}, []
    middle = slice(size * 3 // 11, size * 8 // 11)
    for name in VARIATIONS:
        bare = photograph((name,))
        change = np.abs(whole.astype(float) - bare)[:, middle, middle].mean((1, 2, 3))
        change[taken] = -1
        taken.append(int(change.argmax()))
        pairs[name] = whole[taken[-1]], bare[taken[-1]]
    return pairs


def pair_sheet(pairs, columns=6):
    """Pairs of pictures, name -> (with, without), one above the other."""
    lines = 2 * -(-len(pairs) // columns)
    figure, axes = plots.panels(lines * columns, columns, 1.6, 1.7)
    axes = axes.reshape(-1, 2, columns).transpose(0, 2, 1).reshape(-1, 2)
    for axis in axes.flat:
        axis.axis("off")
    for place, (name, pictures) in zip(axes, pairs.items()):
        for axis, picture, title in zip(place, pictures, (name, "without")):
            axis.imshow(picture)
            axis.set_title(title, fontsize=9)
    return figure


def landmark_sheet(batch, columns=8):
    """Pictures of a batch (of `data.Faces`) and the landmarks that come with them."""
    figure = plots.image_grid(batch["image"], columns)
    for axis, points in zip(figure.axes, batch["landmarks"]):
        axis.plot(*points.T, ".", color="cyan", markersize=2)
    return figure


def label_histograms(model, faces):
    """How poses and expressions are spread over the pictures of one split (`data.Faces`)."""
    angles = torch.rad2deg(camera.matrix_to_euler(camera.decode_pose(faces.pose, 1)[0]))
    moved = displacement_mm(model, model.expression_offset(faces.expression[:500]))
    shown = [
        (f"{name} (degrees)", x, "pose") for name, x in zip(("yaw", "pitch", "roll"), angles.T)
    ]
    shown.append(("expression (mm, mean)", moved, "expression"))
    figure, axes = plt.subplots(1, 4, figsize=(10, 2.5), layout="constrained")
    for axis, (label, values, kind) in zip(axes, shown):
        weights = np.full(len(values), 100 / len(values))
        axis.hist(values.numpy(), 30, weights=weights, color=plots.COLOURS[kind])
        axis.set(xlabel=label)
    axes[0].set_ylabel("pictures (%)")
    return figure
