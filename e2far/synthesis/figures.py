"""Figures of notebook 1: how a picture comes about."""

import numpy as np
import torch

from e2far import camera, raster
from e2far.synthesis.boxes import box

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
        return raster.plain_view(vertices @ rotation.T, studio.head, studio.size, recess=recess)

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
        "camera": studio.expose(recipe)["image"],
    }
