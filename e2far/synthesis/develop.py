"""From light on the sensor to a stored picture."""

import io

import numpy as np
from PIL import Image

from e2far.raster import jit


def develop(picture, shot):
    """A photo, uint8 (S, S, 3), of linear light (S, S, 3), as `shot` of `draw_camera` says."""
    size = len(picture)
    single = np.float32
    face = float(picture[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4].mean())
    gain = (shot["exposure"] / (face + 0.02)) ** shot["automatic"]  # 0: fixed, 1: fully automatic
    picture = soften(picture, *map(taps, shot["blur"])) * (gain * shot["balance"]).astype(single)
    picture = np.power(picture.clip(0, 4), single(1 / shot["gamma"]), dtype=single)
    grey = (picture @ np.array([0.3, 0.59, 0.11], single))[..., None]
    picture = grey + single(shot["saturation"]) * (picture - grey)
    picture = single(0.5) + (picture - single(0.5)) * single(shot["contrast"])
    if shot["sharpen"]:  # an unsharp mask, with its halos
        wide = taps(size / 80)
        picture += single(shot["sharpen"]) * (picture - soften(picture, wide, wide))
    if shot["noise"]:
        add_noise(picture, single(shot["noise"]), int(shot["coarse"]), int(shot["hash"]))
    picture = (picture.clip(0, 1) * 255 + single(0.5)).astype(np.uint8)
    return jpeg(picture, int(shot["quality"])) if shot["quality"] else picture


def jpeg(picture, quality):
    """`picture` (S, S, 3) uint8 as JPEG of this `quality` keeps it."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def taps(sigma):
    """Weights (2r + 1,) of a Gaussian of standard deviation `sigma` px."""
    radius = int(2.5 * sigma + 0.6)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    return (weights / weights.sum()).astype(np.float32)


@jit
def soften(picture, taps_x, taps_y):
    """`picture` (S, S, 3) convolved along x and y with odd, normalised `taps`; edges repeated."""
    size = picture.shape[0]
    rx, ry = len(taps_x) // 2, len(taps_y) // 2
    between, result = np.empty_like(picture), np.zeros_like(picture)
    for y in range(size):
        for x in range(size):
            r, g, b = np.float32(0), np.float32(0), np.float32(0)
            for k in range(-rx, rx + 1):
                at = min(max(x + k, 0), size - 1)
                r += taps_x[k + rx] * picture[y, at, 0]
                g += taps_x[k + rx] * picture[y, at, 1]
                b += taps_x[k + rx] * picture[y, at, 2]
            between[y, x, 0], between[y, x, 1], between[y, x, 2] = r, g, b
    for k in range(-ry, ry + 1):
        for y in range(size):
            at = min(max(y + k, 0), size - 1)
            for x in range(size):
                for c in range(3):
                    result[y, x, c] += taps_y[k + ry] * between[at, x, c]
    return result


@jit
def add_noise(picture, strength, coarse, number):
    """Add noise of standard deviation `strength` to `picture` (S, S, 3) in [0, 1], in place.

    In squares of `coarse` px, drawn from a hash of the place that `number` seeds.
    """
    size = picture.shape[0]
    for y in range(size):
        for x in range(size):
            for c in range(3):
                h = ((y // coarse * 8192 + x // coarse) * 3 + c) ^ number
                # A well mixed 32-bit hash, in 64 bits without overflow.
                h = ((h ^ (h >> 16)) * 0x7FEB352D) & 0xFFFFFFFF
                h = ((h ^ (h >> 15)) * 0x046CA68B) & 0xFFFFFFFF
                h = h ^ (h >> 16)
                # The sum of four bytes is nearly normal: mean 510, standard deviation 147.8.
                four = np.float32((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24))
                picture[y, x, c] += strength * (four - np.float32(510)) / np.float32(147.8)
