import numpy as np
import pytest
import torch
from pytest import approx

from e2far import augmentation, data


def pictures(count=12, side=32):
    generator, shape = torch.Generator().manual_seed(1), (count, side, side, 3)
    colours = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
    return colours.permute(0, 3, 1, 2)


def test_changes_are_seeded_bounded_and_grow_with_strength_from_nothing():
    changed, bytes_ = lambda *how: augmentation.augment(pictures(), *how), pictures()
    one = changed(1.0, (3, 1))
    assert torch.equal(one, changed(1.0, (3, 1))) and not torch.equal(one, changed(1.0, (3, 2)))
    assert one.shape == (12, 3, 32, 32) and one.min() >= 0 and one.max() <= 1
    assert one.isfinite().all() and one.is_contiguous(memory_format=torch.channels_last)
    change = lambda strength: (changed(strength, 0) - data.to_float(bytes_)).abs().mean()
    assert change(0.0) < 1e-6 < change(0.05) < change(1.0) / 3
    with pytest.raises(ValueError, match="give the bytes"):
        augmentation.augment(one, 1.0, 0)


def test_a_picture_is_developed_as_the_formula_says():
    """By hand: grey mixed in, x + c x (1 - x), gain and offset, a clip, and a rectangle covered."""
    pixels = pictures(2, 8).permute(0, 2, 3, 1).contiguous().numpy()
    fade, curve = np.float32([0.25, 1.0]), np.float32([0.5, -0.4])
    gain = np.float32([[1.2, 1.0, 0.8], [1.0, 1.5, 1.0]])
    offset = np.float32([[-0.1, 0, 0.1], [0, -0.3, 0]])
    cover = np.float32([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]])
    corners, out = np.array([[1, 2, 3, 6], [0, 0, 0, 0]]), np.empty(pixels.shape, np.float32)
    augmentation.develop(pixels, fade, curve, gain, offset, corners, cover, out)
    x, f, c = pixels / 255.0, fade.reshape(-1, 1, 1, 1), curve.reshape(-1, 1, 1, 1)
    x = (1 - f) * x + f * x.mean(-1, keepdims=True)
    x = x + c * x * (1 - x)
    expected = (offset[:, None, None] + gain[:, None, None] * x).clip(0, 1)
    expected[0, 1:3, 2:6] = cover[0]
    assert out == approx(expected, abs=1e-5)
