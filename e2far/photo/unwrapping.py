"""Where each vertex of a head lies in its texture, and what colour it has there."""

from functools import lru_cache

import numpy as np
from scipy import ndimage

RADIUS = 0.492  # of the disc on which the skin lies, in units of the picture's side
CHARTS = dict(  # left, top, width, height
    right_eye=(0, 0, 0.135, 0.135),
    left_eye=(0.865, 0, 0.135, 0.135),
    teeth=(0, 0.865, 0.135, 0.06),
    tongue=(0, 0.93, 0.135, 0.07),
    mouth=(0.865, 0.865, 0.135, 0.135),
)


def as_array(tensor):
    return tensor.detach().cpu().numpy()


def attribute(model, name):
    """One of the model's attributes (N,), zero where it knows none."""
    known = name in model.attributes
    return as_array(model.attributes[name]) if known else np.zeros(model.n_vertices)


def centre_of(model):
    """The point (3,) mm from which the head is unwrapped: between the ears, as high as the eyes."""
    points = as_array(model.mean)[as_array(model.landmarks)]
    ears, eyes = points[[0, 16]], points[36:48]
    return np.array([ears[:, 0].mean(), eyes[:, 1].mean(), ears[:, 2].mean()])


@lru_cache(2)  # every photo and every file asks again
def unwrap(model):
    """A place in the texture for every vertex of a MorphableModel; not to be written to.

    returns: `uv` (M, 2) in [0, 1] from the upper left, `vertex` (M,), of which each is a copy, and
        `triangles` (F, 3) of these

    Choice: skin lies on a disc by Lambert's equal-area projection of the mean head from a point
    inside it, seen from the front. The face gets half of the picture, the two sides of the face
    mirror each other in it, and no seam is needed: only where the back of the head meets the rim,
    triangles have corners of their own (the copies after the first N). Eyes, teeth, tongue and
    mouth lie in the picture's corners. Where surfaces fall on each other, as behind the ears, the
    one further out gives the colour.
    """
    mean, triangles = as_array(model.mean).astype(float), as_array(model.triangles).copy()
    direction = mean - centre_of(model)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-9)
    uv = 0.5 + RADIUS * direction[:, :2] / np.sqrt(2 * (1 + direction[:, 2:])).clip(1e-6) * [1, -1]
    skin = np.ones(len(mean), bool)
    for name, (left, top, width, height) in CHARTS.items():
        eye = name.endswith("eye")
        here = attribute(model, "eye" if eye else name) > 0.5
        if eye:
            here &= (mean[:, 0] > 0) == (name == "left_eye")
        skin &= ~here
        if here.any():
            front = eye or name == "teeth"  # tongue and mouth are seen from above
            flat = mean[here][:, [0, 1]] * [1, -1] if front else mean[here][:, [0, 2]]
            share = (flat - flat.min(0)) / np.ptp(flat, axis=0).clip(1e-9)
            uv[here] = (left, top) + np.array([width, height]) * (0.06 + 0.88 * share)
    across = np.ptp(uv[triangles], axis=1).max(1) > 0.3  # they would lie across the disc
    torn = np.flatnonzero(skin[triangles].all(1) & across)
    vertex = np.concatenate((np.arange(len(mean)), triangles[torn].ravel()))
    rim = np.repeat(uv[triangles[torn, 0]], 3, axis=0)  # all three corners at one place
    triangles[torn] = len(mean) + np.arange(3 * len(torn)).reshape(-1, 3)
    return np.concatenate((uv, rim)).astype(np.float32), vertex, triangles


def vertex_colours(model, texture):
    """Colours (N, 3) uint8 of the model's vertices in a texture (S, S, 3)."""
    return sample(texture, unwrap(model)[0][: model.n_vertices, ::-1].T * len(texture) - 0.5)


def sample(picture, place):
    """Colours (..., 3) of a picture (H, W, 3) at places (2, ...), row and column: bilinear."""
    channels = np.moveaxis(picture, 2, 0)
    return np.stack(
        [ndimage.map_coordinates(c, place, order=1, mode="nearest") for c in channels], -1
    )
