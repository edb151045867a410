"""From light on the sensor to a stored picture: blur, noise, tone, JPEG."""

import io

import numpy as np
from PIL import Image

from e2far.raster import jit


def taps(sigma):
    """Weights (2r + 1,) of a Gaussian of standard deviation `sigma` px."""
    radius = int(2.5 * sigma + 0.6)
    weights = np.exp(-0.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def develop(picture, shot):
    """A photo, uint8 (S, S, 3), of linear light `picture` (S, S, 3) taken as `shot` says (see `draw_camera`)."""
    size = len(picture)
    face = float(picture[size // 4 : 3 * size // 4, size // 4 : 3 * size // 4].mean())
    gain = (shot["exposure"] / (face + 0.02)) ** shot[
        "automatic"
    ]  # automatic, but not always right
    picture = soften(picture, *map(taps, shot["blur"])) * (gain * shot["balance"]).astype(
        np.float32
    )
    picture = np.power(picture.clip(0, 4), np.float32(1 / shot["gamma"]), dtype=np.float32)
    grey = picture @ np.array([0.3, 0.59, 0.11], np.float32)
    picture = grey[..., None] + np.float32(shot["saturation"]) * (picture - grey[..., None])
    picture = np.float32(0.5) + (picture - np.float32(0.5)) * np.float32(shot["contrast"])
    if shot["sharpen"]:  # an unsharp mask, with its halos
        wide = taps(size / 80)
        picture += np.float32(shot["sharpen"]) * (picture - soften(picture, wide, wide))
    if shot["noise"]:
        add_noise(picture, np.float32(shot["noise"]), int(shot["coarse"]), int(shot["hash"]))
    picture = (picture.clip(0, 1) * 255 + np.float32(0.5)).astype(np.uint8)
    return jpeg(picture, int(shot["quality"])) if shot["quality"] else picture


def jpeg(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


BOX = (
    "x",
    "y",
    "half_width",
    "half_height",
    "corner",
    "angle",
    "softness",
    "opacity",
    "red",
    "green",
    "blue",
    "end_red",
    "end_green",
    "end_blue",
    "grain",
    "stripes",
)


@jit
def paint(picture, boxes, texture, coverage):
    """Lay rounded boxes over `picture` (S, S, 3) in place, one after the other, where `coverage` (S, S) is below one.

    boxes: (K, 16), columns named by `BOX`: centre, half sides and corner radius in px, angle in radians, width of the soft edge in px, opacity, linear colours at the two ends,
        how strongly the grain of `texture` and its stripes show. A half-plane is a very large box, a disc and a capsule are boxes of large corners.
    """
    size, mask = picture.shape[0], texture.shape[0] - 1
    for k in range(len(boxes)):
        cx, cy, hx, hy, corner, angle, soft, opacity = boxes[k, :8]
        if opacity <= 0:
            continue
        cosine, sine = np.cos(angle), np.sin(angle)
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
                gain = (
                    1
                    + boxes[k, 14] * texture[int(v) & mask, int(u) & mask, 0]
                    + boxes[k, 15] * texture[int(u) & mask, int(v) & mask, 1]
                )
                for c in range(3):
                    picture[y, x, c] += alpha * (
                        (boxes[k, 8 + c] + along * (boxes[k, 11 + c] - boxes[k, 8 + c])) * gain
                        - picture[y, x, c]
                    )


@jit
def soften(picture, taps_x, taps_y):
    """`picture` (S, S, 3) convolved along x and along y with odd, normalised `taps`; edges repeated."""
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
    """Add noise to `picture` (S, S, 3) in [0, 1] in place: of standard deviation `strength`, in squares of `coarse` px; `number` seeds the hash of the place it is drawn from."""
    size = picture.shape[0]
    for y in range(size):
        for x in range(size):
            for c in range(3):
                h = ((y // coarse * 8192 + x // coarse) * 3 + c) ^ number
                h = (
                    (h ^ (h >> 16)) * 0x7FEB352D
                ) & 0xFFFFFFFF  # a well mixed 32-bit hash , in 64 bits without overflow
                h = ((h ^ (h >> 15)) * 0x046CA68B) & 0xFFFFFFFF
                h = h ^ (h >> 16)
                four = (h & 255) + ((h >> 8) & 255) + ((h >> 16) & 255) + (h >> 24)
                picture[y, x, c] += (
                    strength * (np.float32(four) - np.float32(510)) / np.float32(147.8)
                )  # the sum of four bytes, nearly normal
