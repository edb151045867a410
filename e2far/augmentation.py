"""Changes that training makes to pictures as it goes: in how they look, or to mirror images."""

import copy

import numpy as np
import torch
import torch.nn.functional as F

from e2far import camera
from e2far.raster import jit


def augment(image, strength, seed):
    """Pictures as floats in [0, 1], changed in how they look, not in where anything is: grey, tone
    curve, gain, colour, a covered rectangle, blur.

    image: (B, 3, S, S) uint8, channels-last in memory    strength: 0 (nothing) to 1
    seed: an int or several; the same seed, the same changes
    returns: (B, 3, S, S) float32 on the CPU, channels-last in memory
    """
    if image.dtype != torch.uint8:
        raise ValueError(f"image is {image.dtype}: give the bytes, uint8")
    count, _, side, _ = image.shape
    pixels = np.ascontiguousarray(image.permute(0, 2, 3, 1).cpu().numpy())
    out = np.empty(pixels.shape, np.float32)
    rng, single = np.random.default_rng(seed), np.float32

    def uniform(low, high, *shape):
        return (low + (high - low) * rng.random((count, *shape), single)).astype(single)

    # Saturation, none for a tenth of them; x + c x (1 - x) as a cheap gamma; gain and offset, a
    # little different for each colour.
    fade = strength * uniform(-0.2, 0.4).clip(0)
    fade = np.maximum(fade, strength * (rng.random(count) < 0.1)).astype(single)
    curve = strength * uniform(-0.6, 0.6)
    gain = 1 + strength * (uniform(-0.3, 0.3, 1) + uniform(-0.1, 0.1, 3))
    offset = 0.5 + strength * uniform(-0.15, 0.15, 1) - 0.5 * gain
    # Cover a rectangle of up to 40 % of the side in a third of them.
    centre = uniform(0, side, 2)
    half = 0.2 * side * strength * uniform(0.2, 1, 2) * (rng.random((count, 1)) < 0.33)
    corners = np.concatenate((centre - half, centre + half), 1).round().clip(0, side)
    gain, offset, corners = gain.astype(single), offset.astype(single), corners.astype(np.int64)
    develop(pixels, fade, curve, gain, offset, corners, uniform(0, 1, 3), out)

    # Blur a quarter of them (the batch is in random order already): down to as little as a third of
    # the size, and up again.
    changed = torch.from_numpy(out).permute(0, 3, 1, 2)
    size = round(side * (1 - 0.67 * strength * rng.random()))
    if size < side:
        few = changed[: -(-count // 4)]
        small = F.interpolate(few, size=size, mode="bilinear")
        few.copy_(F.interpolate(small, size=side, mode="bilinear"))
    return changed


@jit
def develop(pixels, fade, curve, gain, offset, corners, cover, out):
    """Bytes `pixels` (B, S, S, 3) to floats `out`, with the colours of each picture changed and the
    rectangle `corners` (row, column, row, column) filled, in one pass."""
    third, scale, one, zero = np.float32(1 / 3), np.float32(1 / 255), np.float32(1), np.float32(0)
    for b in range(len(pixels)):
        f, c = fade[b], curve[b]
        for i in range(pixels.shape[1]):
            for j in range(pixels.shape[2]):
                rgb = pixels[b, i, j]
                red, green, blue = scale * rgb[0], scale * rgb[1], scale * rgb[2]
                grey = f * third * (red + green + blue)
                keep = one - f
                for k, value in enumerate((red, green, blue)):
                    x = keep * value + grey
                    x += c * x * (one - x)
                    out[b, i, j, k] = min(max(offset[b, k] + gain[b, k] * x, zero), one)
        top, left, bottom, right = corners[b]
        out[b, top:bottom, left:right] = cover[b]


def mirror_half(model, batch, seed):
    """`batch` (of `data.Faces.gather`) with about half of its pictures, and their identity,
    expression and pose, mirrored; its landmarks are left out."""
    turned = torch.from_numpy(np.random.default_rng(seed).random(len(batch["person"])) < 0.5)
    identity, expression = model.mirrored(batch["identity"], batch["expression"])
    pose = camera.mirrored_pose(batch["pose"])
    mirrored = dict(
        image=batch["image"].flip(-1), identity=identity, expression=expression, pose=pose
    )
    found = dict(person=batch["person"])
    for name, values in mirrored.items():
        here = turned.view(-1, *[1] * (values.ndim - 1))
        found[name] = torch.where(here, values, batch[name])
    return found


def mirrored_batches(draw, model, seed):
    """`draw`, step -> batch, with half of each batch mirrored, other pictures every time."""
    model = copy.deepcopy(model).float().cpu()
    return lambda step: mirror_half(model, draw(step), (seed, step, 1))
