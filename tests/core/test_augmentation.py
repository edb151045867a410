import numpy as np
import pytest
import torch
from pytest import approx

from e2far import augmentation, data


def pictures(count=12, side=32):
    return torch.randint(
        0,
        256,
        (count, side, side, 3),
        generator=torch.Generator().manual_seed(1),
        dtype=torch.uint8,
    ).permute(0, 3, 1, 2)


def test_nothing_changes_at_strength_zero():
    torch.testing.assert_close(
        augmentation.augment(pictures(), 0.0, seed=1), data.to_float(pictures())
    )


def test_changes_are_seeded_bounded_and_grow_with_strength():
    one, same, other = (
        augmentation.augment(pictures(), 1.0, seed=seed) for seed in ((3, 1), (3, 1), (3, 2))
    )
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert (
        one.shape == (12, 3, 32, 32)
        and one.min() >= 0
        and one.max() <= 1
        and one.is_contiguous(memory_format=torch.channels_last)
        and one.isfinite().all()
    )
    weak, strong = (
        (augmentation.augment(pictures(), strength, seed=0) - data.to_float(pictures()))
        .abs()
        .mean()
        for strength in (0.05, 1.0)
    )
    assert 0 < weak < strong / 3


def test_a_picture_is_developed_as_the_formula_says():
    """By hand: grey mixed in, x + c x (1 - x), gain and offset, a clip, and a rectangle covered."""
    pixels = pictures(2, 8).permute(0, 2, 3, 1).contiguous().numpy()
    fade, curve = np.array([0.25, 1.0], np.float32), np.array([0.5, -0.4], np.float32)
    gain, offset, cover = (
        np.array([[1.2, 1.0, 0.8], [1.0, 1.5, 1.0]], np.float32),
        np.array([[-0.1, 0, 0.1], [0, -0.3, 0]], np.float32),
        np.array([[0.1, 0.2, 0.3], [0.4, 0.5, 0.6]], np.float32),
    )
    out = np.empty(pixels.shape, np.float32)
    augmentation.develop(
        pixels, fade, curve, gain, offset, np.array([[1, 2, 3, 6], [0, 0, 0, 0]]), cover, out
    )
    x = pixels / 255.0
    x = (1 - fade[:, None, None, None]) * x + fade[:, None, None, None] * x.mean(-1, keepdims=True)
    x = x + curve[:, None, None, None] * x * (1 - x)
    expected = (offset[:, None, None] + gain[:, None, None] * x).clip(0, 1)
    expected[0, 1:3, 2:6] = cover[0]
    assert out == approx(expected, abs=1e-5)


def test_only_bytes_are_taken():
    with pytest.raises(ValueError, match="give the bytes"):
        augmentation.augment(torch.rand(1, 3, 8, 8), 1.0, 0)
