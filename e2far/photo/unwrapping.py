"""Where each vertex of a head lies in its texture, and what lies at each texel."""

from functools import lru_cache
from typing import NamedTuple

import numpy as np

from e2far import raster

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


class Surface(NamedTuple):
    """What of a model lies at each of the (S, S) texels."""

    corners: np.ndarray  # (S, S, 3), the vertices of the triangle there
    shares: np.ndarray  # (S, S, 3), theirs of the texel; zero where nothing lies
    covered: np.ndarray  # bool: something lies there
    wanted: np.ndarray  # bool: a photo may give its colour
    eye: np.ndarray  # bool
    scalp: np.ndarray  # bool: hair on the head, down to the nape
    teeth: np.ndarray  # bool
    ear: np.ndarray  # bool

    def of_vertices(self, values):
        """Values (N,) of the vertices at every texel."""
        return sum(self.shares[..., k] * values[self.corners[..., k]] for k in range(3))


@lru_cache(1)  # it takes an eighth of a texture's time
def surface(model, size):
    """The `Surface` of a MorphableModel at (size, size) texels; not to be written to."""
    uv, vertex, triangles = unwrap(model)
    mean, landmarks = as_array(model.mean), as_array(model.landmarks)
    ear, eye = attribute(model, "ear") > 0.1, attribute(model, "eye") > 0.5
    teeth = attribute(model, "teeth") > 0.5
    nape = mean[landmarks[[4, 12]], 1].mean()
    scalp = (attribute(model, "hairline") > 0) & ~ear & (mean[:, 1] > nape)
    wanted = eye | scalp | teeth
    wanted[as_array(model.region)] = True
    outwards = np.linalg.norm(mean - centre_of(model), axis=1).astype(np.float32)
    seen, shares = visible(np.ascontiguousarray(uv * size), outwards[vertex], triangles, size)
    bare = Surface(vertex[triangles[seen]], shares * (seen >= 0)[..., None], seen >= 0, *[None] * 5)
    parts = (bare.of_vertices(part) > 0.5 for part in (wanted, eye, scalp, teeth, ear))
    return Surface(*bare[:3], *parts)


def visible(points, nearness, triangles, size):
    """The triangle (S, S) seen at each pixel, -1 for none, and its three corners' shares of it."""
    seen, shares = raster.zbuffer(points, nearness, triangles.astype(np.int32), size)
    return seen, np.dstack((shares, 1 - shares[..., 0] - shares[..., 1]))
