"""What is painted behind and before a head, and from light on the sensor to a stored picture."""

import io

import numpy as np
from PIL import Image

from e2far.raster import jit

# A rounded box of a picture: centre, half sides and corner radius in px, angle in radians, width
# of its soft edge in px; linear colours at its two ends, and how strongly the texture's grain and
# stripes show. A half-plane is a very large box; a disc and a capsule are boxes of large corners.
NAMES = "centre half corner angle softness opacity start end grain stripes".split()
BOX = np.dtype(list(zip(NAMES, "2f4 2f4 f4 f4 f4 f4 3f4 3f4 f4 f4".split())))


def box(**fields):
    """One BOX: opaque, with an edge of 1 px and all other fields 0 where `fields` do not say."""
    made = np.zeros((), BOX)
    for name, value in (dict(softness=1, opacity=1) | fields).items():
        made[name] = value
    return made


@jit
def paint(picture, boxes, texture, coverage):
    """Lay `boxes` (K,) of BOX over `picture` (S, S, 3) in place, one after the other.

    Only where `coverage` (S, S) is below one. texture: (T, T, 3) of `make_texture`
    """
    size, mask = picture.shape[0], texture.shape[0] - 1
    for box in boxes:
        start, end, corner, soft, opacity = (
            box.start,
            box.end,
            box.corner,
            box.softness,
            box.opacity,
        )
        if opacity <= 0:
            continue
        cx, cy, hx, hy = box.centre[0], box.centre[1], box.half[0], box.half[1]
        cosine, sine = np.cos(box.angle), np.sin(box.angle)
        reach = np.sqrt(hx * hx + hy * hy) + soft
        for y in range(max(0, int(cy - reach)), min(size, int(cy + reach) + 2)):
            for x in range(max(0, int(cx - reach)), min(size, int(cx + reach) + 2)):
                if coverage[y, x] >= np.float32(0.999):
                    continue
                dx, dy = x + np.float32(0.5) - cx, y + np.float32(0.5) - cy
                u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
                qx, qy = abs(u) - hx + corner, abs(v) - hy + corner
                outside = np.sqrt(max(qx, 0) ** 2 + max(qy, 0) ** 2) + min(max(qx, qy), 0) - corner
                alpha = min(max(np.float32(0.5) - outside / soft, 0), 1) * opacity
                if alpha <= 0:
                    continue
                along = min(max(np.float32(0.5) + np.float32(0.5) * u / hx, 0), 1)
                grain = box.grain * texture[int(v) & mask, int(u) & mask, 0]
                gain = 1 + grain + box.stripes * texture[int(u) & mask, int(v) & mask, 1]
                for c in range(3):
                    colour = (start[c] + along * (end[c] - start[c])) * gain
                    picture[y, x, c] += alpha * (colour - picture[y, x, c])


def develop(picture, shot):
    """A photo, uint8 (S, S, 3), of linear light (S, S, 3), as `shot` of `draw_camera` says."""
    size, single = len(picture), np.float32
    face = float(picture[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4].mean())
    gain = (shot["exposure"] / (face + 0.02)) ** shot["automatic"]  # meters well, if automatic
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
                # The sum of four bytes is nearly normal.
                four = np.float32((h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24))
                picture[y, x, c] += strength * (four - np.float32(510)) / np.float32(147.8)
