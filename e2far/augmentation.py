"""How pictures may look, whatever they show: changes that training makes to them as it goes."""

import numpy as np
import torch
import torch.nn.functional as F

from e2far.raster import jit


def augment(image, strength, seed):
    """Pictures as floats in [0, 1], changed in how they look, not in where anything is: grey, tone curve, gain, colour, a covered rectangle, blur.

    image: (B, 3, S, S) uint8, channels-last in memory    strength: 0 (nothing) to 1    seed: an int or several; the same seed, the same changes
    returns: (B, 3, S, S) float32 on the CPU, channels-last in memory    Raises ValueError for anything but bytes.
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"image is {image.dtype}: give the bytes, uint8")
    count, _, side, _ = image.shape
    pixels = np.ascontiguousarray(image.permute(0, 2, 3, 1).cpu().numpy())
    out = np.empty(pixels.shape, np.float32)
    rng = np.random.default_rng(seed)
    uniform = lambda low, high, *shape: (
        low + (high - low) * rng.random((count, *shape), np.float32)
    ).astype(np.float32)

    # Saturation, none for a tenth of them; x + c x (1 - x) as a cheap gamma; gain and offset, a little different for each colour.
    fade = np.maximum(
        strength * uniform(-0.2, 0.4).clip(0), strength * (rng.random(count) < 0.1)
    ).astype(np.float32)
    curve = strength * uniform(-0.6, 0.6)
    gain = 1 + strength * (uniform(-0.3, 0.3, 1) + uniform(-0.1, 0.1, 3))
    offset = 0.5 + strength * uniform(-0.15, 0.15, 1) - 0.5 * gain
    # Cover a rectangle of up to 40 % of the side in a third of them.
    centre, half = (
        uniform(0, side, 2),
        0.2 * side * strength * uniform(0.2, 1, 2) * (rng.random((count, 1)) < 0.33),
    )
    corners = (
        np.round(np.concatenate((centre - half, centre + half), 1)).clip(0, side).astype(np.int64)
    )
    develop(
        pixels,
        fade,
        curve,
        gain.astype(np.float32),
        offset.astype(np.float32),
        corners,
        uniform(0, 1, 3),
        out,
    )

    # Blur a quarter of them (the batch is in random order already): down to as little as a third of the size, and up again.
    changed, size = (
        torch.from_numpy(out).permute(0, 3, 1, 2),
        round(side * (1 - 0.67 * strength * rng.random())),
    )
    if size < side:
        few = changed[: -(-count // 4)]
        few.copy_(
            F.interpolate(
                F.interpolate(few, size=size, mode="bilinear"), size=side, mode="bilinear"
            )
        )
    return changed


@jit
def develop(pixels, fade, curve, gain, offset, corners, cover, out):
    """Bytes `pixels` (B, S, S, 3) to floats `out`, with the colours of each picture changed and the rectangle `corners` (row, column, row, column) filled, in one pass."""
    third, scale = np.float32(1 / 3), np.float32(1 / 255)
    for b in range(len(pixels)):
        f, c = fade[b], curve[b]
        for i in range(pixels.shape[1]):
            for j in range(pixels.shape[2]):
                red, green, blue = (
                    scale * pixels[b, i, j, 0],
                    scale * pixels[b, i, j, 1],
                    scale * pixels[b, i, j, 2],
                )
                grey = f * third * (red + green + blue)
                keep = np.float32(1) - f
                for k, value in enumerate((red, green, blue)):
                    x = keep * value + grey
                    x += c * x * (np.float32(1) - x)
                    out[b, i, j, k] = min(
                        max(offset[b, k] + gain[b, k] * x, np.float32(0)), np.float32(1)
                    )
        top, left, bottom, right = corners[b]
        out[b, top:bottom, left:right] = cover[b]
