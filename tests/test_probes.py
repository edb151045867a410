import numpy as np
import pytest
import torch
from torch import nn

from e2far import network, probes

rng = np.random.default_rng(0)


class Faces:
    """Four numbers make a picture: its quadrants' grey."""
    def __init__(self, n=20):
        self.grey = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.grey)

    def __getitem__(self, i):
        return dict(image=nn.functional.interpolate(self.grey[i].reshape(1, 1, 2, 2), size=32)[0].expand(3, 32, 32))


class Network(nn.Module):
    """pool1 is the picture at half size; identity is the left half's grey, expression the top left corner's."""
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def features(self, image):
        assert not self.training and not torch.is_grad_enabled()
        return dict(pool1=self.weight * nn.functional.avg_pool2d(image, 2))

    def forward(self, image):
        return dict(identity=image[:, 0, :, :16].mean((1, 2))[:, None], expression=2 * image[:, 0, :8, :8].mean((1, 2))[:, None].repeat(1, 2))


def test_layer_features_keep_the_place():
    faces, network = Faces(), Network()
    found = probes.layer_features(network, faces, ("pool1",), grid=2, limit=7, batch_size=3)
    assert network.training                                        # as it was
    assert found["pixels"].shape == (7, 3 * 16 * 16) and found["pool1"].dtype == np.float32
    np.testing.assert_allclose(found["pool1"].reshape(7, 3, 4)[:, 0], faces.grey[:7], rtol=1e-6)
    with pytest.raises(ValueError, match="pool9"):
        probes.layer_features(network, faces, ("pool9",))


def test_layer_features_take_batches_from_data_sets_that_offer_them():
    class Batches(Faces):
        def __getitems__(self, indices):
            return dict(image=torch.stack([super(Batches, self).__getitem__(i)["image"] for i in indices]))
    one, other = (probes.layer_features(Network(), faces, ("pool1",), batch_size=6) for faces in (Faces(), Batches()))
    assert all(np.array_equal(one[name], other[name]) for name in one)


def people(n=120, pictures=5, d=40, t=3):
    person = np.repeat(np.arange(n), pictures)
    return person, rng.normal(size=(n * pictures, d)), rng.normal(size=(n * pictures, t))


def test_a_feature_that_is_the_coefficient_explains_all_and_noise_nothing():
    person, noise, target = people()
    telling = np.concatenate([noise[:, :5], target @ rng.normal(size=(3, 3)), np.zeros((len(target), 1))], 1)
    train = person < 80
    for features, low, high in ((telling, 0.999, 1.0), (noise, -0.05, 0.05)):
        probe = probes.fit_probe(features[train], target[train], features[~train], target[~train], person[train], person[~train])
        value, below, above = probes.explained_variance(probe.prediction, target[~train], clusters=person[~train])
        assert low <= value <= high and below <= value <= above
        assert probe.score == pytest.approx(value)


def test_regularisation_is_chosen_across_people():
    """Features that only tell people apart predict what a person always does, for people already met. Folds by person see through it."""
    n, pictures = 40, 10
    person = np.repeat(np.arange(n), pictures)
    features = np.eye(n)[person] + 0.01 * rng.normal(size=(n * pictures, n))
    target = rng.normal(size=(n, 2))[person]
    alpha = lambda groups: probes.fit_probe(features, target, features, groups=groups).alpha
    assert alpha(person) > 100 * alpha(None)


def test_a_person_in_both_sets_is_refused():
    person, features, target = people(10)
    with pytest.raises(ValueError, match="in both sets"):
        probes.fit_probe(features[:30], target[:30], features[28:], target[28:], person[:30], person[28:])
    with pytest.raises(ValueError, match="two people"):
        probes.fit_probe(features[:4], target[:4], features[5:], groups=person[:4])


def test_layers_are_compared_at_one_dimension():
    person, features, target = people(30)
    assert probes.fit_probe(features, target, features, groups=person, dimension=7).dimension == 7
    assert probes.fit_probe(features, target, features, groups=person, dimension=700).dimension == 40


def test_explained_variance_is_weighed_by_vertices():
    target = rng.normal(size=(500, 3))
    target -= target.mean(0)
    assert probes.explained_variance(target, target)[0] == 1
    assert probes.explained_variance(0 * target, target)[0] == pytest.approx(0)
    half = target * [1, 0, 0]                                      # the first coefficient only, which moves most
    factor = np.diag([10., 1, 1])
    energy = np.square(target @ factor).sum(0)
    assert probes.explained_variance(half, target, factor)[0] == pytest.approx(energy[0] / energy.sum())
    mixing = np.triu(rng.normal(size=(3, 3)))                      # R (p - t), not (p - t) R
    expected = 1 - np.square(mixing @ (half - target).T).sum() / np.square(mixing @ target.T).sum()
    assert probes.explained_variance(half, target, mixing)[0] == pytest.approx(expected)
    with pytest.raises(ValueError, match="shape"):
        probes.explained_variance(half[:, :2], target)


def test_occlusion_lights_up_the_place_that_matters():
    image = torch.ones(3, 32, 32)
    seen = probes.occlusion_map(Network(), image, patch=8, stride=8)
    assert seen.shape == (4, 4)
    assert seen[0, 0] == pytest.approx(2 * 0.5 * 2 ** 0.5) and seen.sum() == seen[0, 0]        # grey halves it, in two numbers
    assert (image == 1).all()
    left = probes.occlusion_map(Network(), image, "identity", patch=16, stride=8, factor=torch.tensor([[3.]]))
    np.testing.assert_allclose(left, 3 * 0.25 * torch.tensor([1, .5, 0]).expand(3, 3), atol=1e-6)
    with pytest.raises(ValueError, match="patch"):
        probes.occlusion_map(Network(), image, patch=40)


def test_layers_are_matched_to_pool5():
    net = network.E2FAR(6, 4, image_size=80, width=1 / 8)
    grids = probes.matched_grids(net)
    assert grids == dict(pixels=10, pool1=6, pool2=4, pool3=3, pool4=2, pool5=2)
    found = probes.layer_features(net, [dict(image=torch.rand(3, 80, 80))] * 2, grid=grids)
    assert {name: x.shape[1] for name, x in found.items()} == dict(pixels=300, pool1=288, pool2=256, pool3=288, pool4=256, pool5=256)
    assert probes.matched_grids(network.E2FAR(6, 4, image_size=48, width=1 / 8))["pool4"] == 1


def test_everybody_is_shown_before_anybody_twice():
    assert probes.many_people([0, 0, 0, 1, 1, 2, 2], 3).tolist() == [0, 3, 5]
    assert probes.many_people([0, 0, 0, 1, 1, 2, 2], 5).tolist() == [0, 1, 3, 4, 5]
    assert len(probes.many_people([0, 0], 9)) == 2


def test_batch_norm_is_measured_on_pictures():
    torch.manual_seed(0)
    net, faces = network.E2FAR(6, 4, image_size=48, width=1 / 16, batch_norm=True), [dict(image=torch.rand(3, 48, 48)) for _ in range(8)]
    probes.measure_batch_norm(net, faces, range(8))
    first = net.trunk.blocks[0][0]
    with torch.no_grad():
        answers = first[:2](torch.stack([face["image"] for face in faces]) - net.trunk.mean_colour)
    torch.testing.assert_close(answers.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(answers.var((0, 2, 3)), torch.ones(4), rtol=1e-2, atol=0)
    assert not net.training and first[1].momentum == .1


def test_seed_interval_is_students():
    mean, low, high = probes.seed_interval([1., 2., 3.])
    assert mean == 2 and high - mean == pytest.approx(4.302653 / 3 ** .5) and mean - low == pytest.approx(high - mean)
    with pytest.raises(ValueError, match="two or more"):
        probes.seed_interval([1.])
