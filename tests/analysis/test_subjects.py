"""How networks are shown a face, and what untrained ones answer."""

import numpy as np
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


def waves(x, y):
    return torch.stack([125 + 120 * torch.sin(x / 9), 125 + 120 * torch.cos(y / 7), x + 0 * y])


def shown(turn, shift, side):
    """A picture of `waves` after x -> turn x + shift, and its landmarks."""
    places = torch.cartesian_prod(*[torch.arange(side) + 0.5] * 2).flip(1) - shift
    x, y = (places @ torch.linalg.inv(turn).T).view(side, side, 2).unbind(-1)
    landmarks = torch.zeros(1, 68, 2)
    landmarks[0, chips.POINTS] = PLACES @ turn.T + shift
    return waves(x, y)[None].round().byte(), landmarks


def test_a_turn_a_scale_and_a_shift_are_found_again():
    wanted = torch.stack((PLACES @ TURN.T + SHIFT, PLACES))
    turn, shift = chips.similarity(PLACES, wanted)
    expected = torch.stack((TURN, torch.eye(2))), torch.stack((SHIFT, 0 * SHIFT))
    assert_close((turn, shift), expected, rtol=1e-4, atol=1e-3)


def test_a_chip_is_the_same_however_the_face_lies_in_the_picture():
    straight, turned = shown(torch.eye(2), 0 * SHIFT, 150), shown(TURN, SHIFT, 280)
    chip, other = (chips.cut_chips(*one).int() for one in (straight, turned))
    assert (chip - straight[0].int()).abs().max() <= 1
    assert (other - chip).abs().max() <= 4 and (other - chip).abs().float().mean() < 0.6


def test_an_untrained_twin_is_balanced_and_known_by_its_seed():
    networks, found, images = [], [], shown(TURN, SHIFT, 150)[0] / 255
    images = torch.cat([images * light for light in (0.2, 0.5, 0.8, 1.0)])
    for _ in range(2):
        torch.manual_seed(3)
        networks.append(calibrate(Recogniser(), images))
    one, same = networks
    assert_close(one.state_dict(), same.state_dict(), rtol=0, atol=0)
    for layer in (layer for layer in one.modules() if isinstance(layer, nn.Conv2d)):
        layer.register_forward_hook(lambda *call: found.append(call[-1]))
    with torch.no_grad():
        one(images)
    assert len(found) == 29 and not one.training
    for maps in found:
        spread, zero = maps.std((0, 2, 3)), torch.zeros(maps.shape[1])
        assert_close(maps.mean((0, 2, 3)), zero, rtol=0, atol=1e-3)
        assert_close(spread, zero + 1, rtol=0, atol=1e-2)


def test_every_layer_is_read_with_about_as_many_numbers():
    sample = dict(zip(("image", "landmarks"), shown(TURN, SHIFT, 280)))
    aligned = Subject("chips", Recogniser().eval(), aligned=True)
    squares = Subject("squares", E2FAR(6, 4, image_size=48, width=1 / 8).eval())
    for subject, least, size, last in ((aligned, 1024, 150, "stage5"), (squares, 64, 48, "pool5")):
        pictures, depths = subject.look(sample), subject.layers
        assert pictures.shape == (1, 3, size, size) and pictures.dtype == torch.uint8
        assert depths["pixels"] == 0 and depths[last] == 1
        assert sorted(depths.values()) == [*depths.values()]
        found = subject.features(sample)
        assert list(found) == list(depths)
        for layer, x in found.items():
            low = dict(average=256, descriptor=128).get(layer, least)
            assert len(x) == 1 and low <= x.shape[1] <= 2 * low
        again = subject.features(dict(pictures=pictures), ["pixels", last], grids={})
        np.testing.assert_allclose(again["pixels"], pictures.flatten(1) / 255, rtol=1e-6)
        assert again[last].shape[1] == least
