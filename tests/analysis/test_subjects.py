"""How networks are shown a face, and what untrained ones answer."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.testing import assert_close

from e2far.analysis import chips
from e2far.analysis.subjects import Subject, calibrate
from e2far.network import E2FAR
from e2far.recogniser import Recogniser

# Where a chip wants the seven landmarks, px
PLACES = torch.from_numpy((chips.PLACES + chips.PADDING) / (1 + 2 * chips.PADDING) * 150).float()
TURN = 1.3 * torch.tensor([[0.8, -0.6], [0.6, 0.8]])  # scaled by 1.3, turned by 37 degrees
SHIFT = torch.tensor([120.5, 3.5])


def sample(places, colours, side):
    """A picture colours(x, y), whose seven landmarks lie at `places`."""
    landmarks = torch.zeros(1, 68, 2)
    landmarks[0, chips.POINTS] = places
    middles = torch.arange(side) + 0.5
    y, x = torch.meshgrid(middles, middles, indexing="ij")
    return dict(image=colours(x, y)[None].round().byte(), landmarks=landmarks)


def waves(x, y):
    return torch.stack([125 + 120 * torch.sin(x / 9), 125 + 120 * torch.cos(y / 7), x + 0 * y])


def turned_back(x, y):
    """`waves` after the similarity x -> TURN x + SHIFT."""
    places = torch.stack((x, y), -1) - SHIFT
    return waves(*(places @ torch.linalg.inv(TURN).T).unbind(-1))


def test_the_similarity_is_known_or_the_nearest():
    noise = 5 * torch.randn(7, 2, generator=torch.Generator().manual_seed(0))
    moved = PLACES @ TURN.T + SHIFT
    turn, shift = chips.similarity(PLACES, torch.stack((moved, moved + noise)))
    assert_close((turn[0], shift[0]), (TURN, SHIFT), rtol=1e-4, atol=1e-3)
    (x, y), one, zero = PLACES.numpy().T, np.ones(7), np.zeros(7)
    rows = np.concatenate([np.stack([x, -y, one, zero], 1), np.stack([y, x, zero, one], 1)])
    a, b, *t = np.linalg.lstsq(rows, (moved + noise).numpy().T.ravel(), rcond=None)[0]
    np.testing.assert_allclose(turn[1], [[a, -b], [b, a]], rtol=1e-4)
    np.testing.assert_allclose(shift[1], t, rtol=1e-3)


def test_a_chip_is_the_same_however_the_face_lies_in_the_picture():
    straight = sample(PLACES, waves, 150)
    turned = sample(PLACES @ TURN.T + SHIFT, turned_back, 280)
    cut = lambda one: chips.cut_chips(one["image"], one["landmarks"]).int()
    assert (cut(straight) - straight["image"].int()).abs().max() <= 1
    apart = (cut(turned) - cut(straight)).abs().float()
    assert apart.max() <= 4 and apart.mean() < 0.6


@pytest.fixture(scope="module")
def images():
    made = torch.Generator().manual_seed(1)
    rough = torch.rand(12, 3, 10, 10, generator=made)
    return nn.functional.interpolate(rough, size=150, mode="bicubic").clamp(0, 1)


def test_an_untrained_twin_is_balanced_and_known_by_its_seed(images):
    networks, found = [], []
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(calibrate(Recogniser(), images))
    one, same = networks
    assert_close(one.state_dict(), same.state_dict(), rtol=0, atol=0)
    convolutions = [layer for layer in one.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        layer.register_forward_hook(lambda *call: found.append(call[-1]))
    with torch.no_grad():
        one(images)
    assert len(found) == len(convolutions) == 29 and not one.training
    for maps in found:
        mean, variance = maps.mean((0, 2, 3)), maps.var((0, 2, 3))
        assert_close(mean, torch.zeros_like(mean), rtol=0, atol=1e-3)
        assert_close(variance, torch.ones_like(variance), rtol=1e-2, atol=0)


def test_every_layer_is_read_with_about_as_many_numbers(images):
    shown = dict(image=(images[:2] * 255).byte(), landmarks=PLACES.mean(0) + torch.randn(2, 68, 2))
    aligned = Subject("chips", Recogniser().eval(), aligned=True)
    squares = Subject("squares", E2FAR(6, 4, image_size=48, width=1 / 8).eval())
    assert aligned.look(shown).shape == (2, 3, 150, 150)
    assert squares.look(shown).shape == (2, 3, 48, 48)
    for subject, length in ((aligned, 1024), (squares, 64)):
        found, depths = subject.features(shown), [*subject.layers.values()]
        assert list(found) == list(subject.layers) and depths == sorted(depths)
        assert depths[0] == 0 and depths[6 if subject.aligned else 5] == 1
        vectors = dict(average=256, descriptor=128)
        for layer, x in found.items():
            low = vectors.get(layer, length)
            assert x.dtype == np.float32 and len(x) == 2 and low <= x.shape[1] <= 2 * low
    pictures = squares.look(shown)
    again = squares.features(dict(pictures=pictures), ["pixels", "pool2"], grids={})
    assert again["pool2"].shape == (2, 16 * 12 * 12)
    np.testing.assert_allclose(again["pixels"], pictures.flatten(1) / 255, rtol=1e-6)
