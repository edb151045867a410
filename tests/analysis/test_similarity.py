"""How alike features are; which units follow what, and where an answer is read."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch

from e2far.analysis import layers, occlusion, similarity, units

rng = np.random.default_rng(0)


def test_a_change_is_measured_beside_unrelated_pictures():
    one, changed, another = rng.normal(size=(3, 400, 50)) * np.linspace(0.1, 3, 50)
    pictures = dict(light=one, pose=changed, identity=one + 0.5 * (another - one))
    pictures |= dict(expression=pictures["identity"], another=another)
    moved = {("pool5", name): similarity.squared_distance(one, x) for name, x in pictures.items()}
    table = layers.relative_changes(dict(net=[moved, moved]), dict(net=dict(pool5=1.0)))
    found = table.set_index("target")
    assert found.loc["light", ["value", "low", "high"]].tolist() == [0, 0, 0]
    assert found.value["identity"] == pytest.approx(0.25)
    assert found.value["expression / identity"] == 1
    pose = found.loc["pose"]
    assert pose.value == pytest.approx(1, abs=0.05) and pose.low < 1 < pose.high


def test_the_nearest_come_in_order_behind_the_face_itself():
    line = np.array([0.0, 1, 3, 7, 3])[:, None]  # the last lies on the third
    found = similarity.nearest(line, [2, 4, 3], 3)
    assert found.tolist() == [[2, 4, 1, 0], [4, 2, 1, 0], [3, 2, 4, 1]]


def test_a_map_keeps_far_clusters_apart():
    cluster = np.repeat([0, 1], 40)
    places = similarity.flatten(rng.normal(size=(80, 50)) + 30 * cluster[:, None])
    neighbours = similarity.nearest(places, np.arange(80), 5)
    assert places.shape == (80, 2) and (cluster[neighbours] == cluster[:, None]).all()


def test_the_channel_that_follows_a_quantity_is_found():
    values, maps = rng.normal(size=200), rng.normal(size=(200, 6, 4, 4))
    maps[:, 3] += values[:, None, None]
    maps[:, 5] -= values[:, None, None]
    maps[:, 1] = 7.0  # dead
    order, correlation = units.follow(maps, values)
    assert (order[0], order[-1]) == (3, 5) and sorted(order) == list(range(6))
    assert correlation[0] == pytest.approx(np.corrcoef(maps[:, 3].mean((1, 2)), values)[0, 1])
    assert correlation[list(order).index(1)] == 0


def test_a_picture_is_made_that_a_unit_likes():
    answer = lambda images: 9 * (images[:, 0] - images[:, 1]).mean((1, 2))  # red, not green
    made = units.maximise(answer, 2, 16, steps=30)
    assert made.shape == (2, 3, 16, 16) and made.dtype == torch.uint8
    assert (answer(made / 255) > 3).all()  # of grey: 0
    assert torch.equal(made, units.maximise(answer, 2, 16, steps=30))


def test_an_answer_that_reads_one_place_changes_there_alone():
    image = torch.ones(3, 32, 32)
    corner = lambda x: torch.stack([3 * x[:, 0, 0, 0], 4 * x[:, 1, 0, 0]], 1)
    answers = lambda x: dict(
        corner=corner(x), left=x[:, :1, :, :16].mean((2, 3)), none=0 * x[:, 0, 0]
    )
    seen = occlusion.occlusion_maps(answers, image, patch=8, stride=8, batch_size=3)
    expected = torch.zeros(4, 4)
    expected[0, 0] = 2.5  # half the length of (3, 4): grey halves both
    torch.testing.assert_close(seen["corner"], expected)
    torch.testing.assert_close(seen["left"], 0.0625 * torch.tensor([[1.0, 1, 0, 0]]).expand(4, 4))
    assert not seen["none"].any() and (image == 1).all()
    wide = occlusion.occlusion_maps(answers, image[:, :16], patch=8, stride=4)
    assert wide["corner"].shape == (3, 7)


def test_what_is_remembered_is_weighed_in_mm():
    """A layer that is the picture's mean colour, decoders that double it for the expression."""
    read = lambda sample, layers: {name: sample["pictures"].float().mean((2, 3)) for name in layers}
    subject = SimpleNamespace(name="net", features=read)
    mixing = torch.triu(torch.rand(3, 3))
    factors, decoders = dict(identity=torch.eye(3), expression=mixing), lambda *x: (x[2], 2 * x[2])
    answers = occlusion.remembered(subject, decoders, ["top"], factors)
    grey = torch.tensor([0.2, 0.4, 0.6]).view(1, 3, 1, 1).expand(1, 3, 4, 4)
    found, colour = answers(grey), 255 * grey[:, :, 0, 0]
    torch.testing.assert_close(found["identity", "top"], colour)
    torch.testing.assert_close(found["expression", "top"], 2 * (mixing @ colour[0])[None])
