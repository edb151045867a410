import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torch import nn

from e2far import trunks
from e2far.analysis import occlusion, probes
from e2far.analysis.features import (
    layer_features,
    matched_grids,
    measure_batch_norm,
    receptive_field,
)
from e2far.network import E2FAR

rng = np.random.default_rng(0)


class Faces:
    """Four numbers make a picture: its quadrants' grey."""

    def __init__(self, n=20):
        self.grey = torch.rand(n, 4, generator=torch.Generator().manual_seed(0))

    def __len__(self):
        return len(self.grey)

    def __getitems__(self, rows):
        squares = self.grey[rows].reshape(-1, 1, 2, 2)
        return dict(image=nn.functional.interpolate(squares, size=32).expand(-1, 3, 32, 32))


def pictures(n, size):
    """Of no meaning, uint8 (n, 3, size, size)."""
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=made)


class Network(nn.Module):
    """pool1 is the picture at half size, fc1 the four quadrants' grey; identity is the left half's
    grey, expression the top left corner's."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(()))

    def features(self, image):
        assert not self.training and not torch.is_grad_enabled()
        return dict(pool1=self.weight * nn.functional.avg_pool2d(image, 2))

    def activations(self, image):
        heads = dict(fusion=image[:, :2, ::8, ::8], fc1=image[:, 0, ::16, ::16].flatten(1))
        return self.features(image) | heads

    def forward(self, image):
        left, corner = image[:, 0, :, :16], image[:, 0, :8, :8]
        expression = 2 * corner.mean((1, 2))[:, None].repeat(1, 2)
        return dict(identity=left.mean((1, 2))[:, None], expression=expression)


def test_layer_features_keep_the_place():
    faces, network = Faces(), Network()
    grids = dict(pixels=16, pool1=2)
    found = layer_features(network, faces, ("pixels", "pool1"), grids, limit=7, batch_size=3)
    assert network.training  # as it was
    assert found["pixels"].shape == (7, 3 * 16 * 16) and found["pool1"].dtype == np.float32
    np.testing.assert_allclose(found["pool1"].reshape(7, 3, 4)[:, 0], faces.grey[:7], rtol=1e-6)
    with pytest.raises(KeyError, match="pool9"):
        layer_features(network, faces, ("pool9",))


def test_layer_features_take_vectors_and_whole_maps():
    faces, layers = Faces(), ("pixels", "fc1", "fusion", "pool1")
    found = layer_features(Network(), faces, layers, dict(pixels=2), batch_size=6)
    lengths = dict(pixels=12, fc1=4, fusion=2 * 4 * 4, pool1=3 * 16 * 16)
    assert {name: x.shape for name, x in found.items()} == {k: (20, n) for k, n in lengths.items()}
    assert all(x.dtype == np.float32 for x in found.values())
    np.testing.assert_array_equal(found["fc1"], faces.grey)


def test_layer_features_name_what_the_networks_name():
    names = {"pool4", "fusion", "identity fc1", "expression fc2"}
    net = E2FAR(6, 4, image_size=48, width=1 / 16)
    assert names == set(layer_features(net, pictures(2, 48), names))


def test_layer_features_take_pictures_themselves():
    faces = Faces(5)
    stored = (255 * faces.__getitems__(range(5))["image"]).round().to(torch.uint8)
    one, other = (
        layer_features(Network(), images, ("pool1",), batch_size=2)["pool1"]
        for images in (stored, faces)
    )
    np.testing.assert_allclose(one, other, atol=0.51 / 255)


def people(n=120, pictures=5, d=40, t=3):
    person = np.repeat(np.arange(n), pictures)
    return person, rng.normal(size=(n * pictures, d)), rng.normal(size=(n * pictures, t))


def test_a_feature_that_is_the_coefficient_explains_all_and_noise_nothing():
    person, noise, target = people()
    mixed, dead = target @ rng.normal(size=(3, 3)), np.zeros((len(target), 1))
    telling = np.concatenate([noise[:, :5], mixed, dead], 1)
    train = person < 80
    for features, least, most in ((telling, 0.999, 1.0), (noise, -0.05, 0.05)):
        probe = probes.fit_probe(features[train], target[train], person[train])
        predicted = probe.predict(features[~train])
        found = probes.explained_variance(predicted, target[~train], person=person[~train])
        value, low, high = found
        assert least <= value <= most and low <= value <= high


def test_regularisation_is_chosen_across_people():
    """Features that only tell people apart predict what a person always does, for people already
    met. Folds by person see through it."""
    n, pictures = 40, 10
    person = np.repeat(np.arange(n), pictures)
    features = np.eye(n)[person] + 0.01 * rng.normal(size=(n * pictures, n))
    target = rng.normal(size=(n, 2))[person]
    alpha = lambda person: probes.fit_probe(features, target, person).alpha
    assert (alpha(person) > 100 * alpha(None)).all()


def ridge_on_components(features, target, alpha, dimension):
    components = PCA(dimension, svd_solver="full")
    return make_pipeline(StandardScaler(), components, Ridge(alpha=alpha)).fit(features, target)


def test_a_probe_is_ridge_regression_on_components_and_a_plain_readout():
    person, features, target = people(30, d=12)
    features = features * np.linspace(0.1, 5, 12) + np.arange(12)
    features[:, 3] = 7.0  # a dead channel
    target += features[:, :3]
    probe = probes.fit_probe(features[:100], target[:100], person[:100], dimension=8)
    expected = ridge_on_components(features[:100], target[:100], probe.alpha, 8)
    assert probe.weight.shape == (12, 3) and probe.bias.shape == (3,)
    np.testing.assert_allclose(probe.predict(features), expected.predict(features), rtol=1e-8)


@pytest.mark.parametrize("copies", [1, 2])  # of full rank, and not
def test_the_path_of_alphas_is_ridge_regression_at_each(copies):
    x = np.tile(rng.normal(size=(50, 7)) + 3, copies)
    target, alphas = rng.normal(size=(50, 2)) - 5, (0.1, 10.0, 1e4)
    for alpha, weight, bias in zip(alphas, *probes.ridge_path(x, target, alphas)):
        expected = Ridge(alpha=alpha).fit(x, target)
        np.testing.assert_allclose(weight, expected.coef_.T, atol=1e-10)
        np.testing.assert_allclose(bias, expected.intercept_, atol=1e-10)


def test_nested_predictions_know_what_a_feature_holds():
    """A feature that is the coefficient tells all of it, noise nothing, and one that tells people
    apart nothing about people not yet met."""
    person, noise, target = people()
    person = rng.permutation(person)  # pictures of a person do not lie together
    habit = rng.normal(size=(120, 2))[person]  # what a person always does
    targets = dict(held=target, absent=rng.normal(size=(600, 4)), habit=habit)

    def share(name, features):
        found = probes.nested_predictions(features, targets, person)[name]
        assert found.shape == targets[name].shape
        return probes.explained_variance(found, targets[name], person=person, samples=50)[0]

    telling, apart = np.concatenate([target, noise[:, :5]], 1), np.eye(120)[person]
    assert share("held", telling) > 0.999 and abs(share("absent", telling)) < 0.05
    assert abs(share("habit", apart)) < 0.05
    seen = ridge_on_components(apart, habit, 0.1, 119).predict(apart)
    # It could, of people it has met.
    assert probes.explained_variance(seen, habit, samples=1)[0] > 0.99


def test_every_block_of_targets_has_an_alpha_of_its_own():
    person, noise, target = people()
    features, blocks = np.concatenate([target, noise], 1), np.array([0, 0, 0, 1, 1])
    targets = np.concatenate([target, rng.normal(size=(600, 2))], 1)
    alpha = probes.fit_probe(features, targets, person, blocks=blocks).alpha
    assert len(set(alpha[:3])) == len(set(alpha[3:])) == 1 and alpha[0] < alpha[3]


def test_nested_predictions_are_out_of_fold():
    """What is predicted for a person does not change with their own targets, and depends on
    everybody else's."""
    person, features, target = people(20, d=6)
    person = rng.permutation(person)
    target += features[:, :3]
    predict = lambda y: probes.nested_predictions(features, dict(t=y), person)["t"]
    changed = target + 9 * (person == 4)[:, None]
    fixed = np.isclose(predict(target), predict(changed)).all(1)
    fold = set(person[fixed])
    assert 4 in fold and 4 <= len(fold) <= 6
    assert (fixed == np.isin(person, [*fold])).all()


def test_people_are_recognised_by_what_tells_them_apart():
    person, noise = np.tile(np.arange(20), 8), rng.normal(size=(160, 30))
    telling = np.eye(20)[person] + 1e-3 * noise[:, :20]
    assert (probes.recognise(telling, person) == person).all()
    assert (probes.recognise(noise, person) == person).mean() < 0.15  # chance is 1 / 20


def test_layers_are_compared_at_one_dimension():
    person, features, targets = people(30, t=45)
    for dimension, rank in ((7, 7), (700, 40)):
        probe = probes.fit_probe(features, targets, person, dimension)
        assert np.linalg.matrix_rank(probe.weight) == rank


def test_explained_variance_is_weighed_by_vertices():
    target = rng.normal(size=(500, 3))
    target -= target.mean(0)
    explained = lambda *arrays: probes.explained_variance(*arrays)[0]
    assert explained(target, target) == 1 and explained(0 * target, target) == pytest.approx(0)
    half = target * [1, 0, 0]  # the first coefficient only, which moves most
    energy = np.square(target).sum(0) * [100, 1, 1]
    share = energy[0] / energy.sum()
    assert explained(half, target, np.diag([10.0, 1, 1])) == pytest.approx(share)
    mixing = np.triu(rng.normal(size=(3, 3)))  # R (p - t), not (p - t) R
    energy = lambda x: np.square(mixing @ x.T).sum()
    expected = 1 - energy(half - target) / energy(target)
    assert explained(half, target, mixing) == pytest.approx(expected)


def test_occlusion_lights_up_the_place_that_matters():
    image, net = torch.ones(3, 32, 32), Network().eval()
    answer = occlusion.network_answer(net, "expression", torch.eye(2))
    seen = occlusion.occlusion_map(answer, image, patch=8, stride=8)
    expected = torch.zeros(4, 4)
    expected[0, 0] = 2 * 0.5 * 2**0.5  # grey halves it, in two numbers
    torch.testing.assert_close(seen, expected)
    assert (image == 1).all()
    answer = occlusion.network_answer(net, "identity", torch.tensor([[3.0]]))
    left = occlusion.occlusion_map(answer, image, patch=16, stride=8)
    np.testing.assert_allclose(left, 3 * 0.25 * torch.tensor([1, 0.5, 0]).expand(3, 3), atol=1e-6)


def test_occlusion_asks_any_answer():
    corner = lambda x: torch.stack([3 * x[:, 0, 0, 0], 4 * x[:, 1, 0, 0]], 1)
    seen = occlusion.occlusion_map(corner, torch.ones(3, 32, 32), patch=8, stride=8, batch_size=3)
    expected = torch.zeros(4, 4)
    expected[0, 0] = 2.5  # half the length of (3, 4)
    torch.testing.assert_close(seen, expected)
    wide = occlusion.occlusion_map(corner, torch.ones(3, 16, 32), patch=8, stride=4)
    assert wide.shape == (3, 7)


def test_occlusion_asks_a_probe():
    faces, net, grids = Faces(), Network().eval(), dict(pool1=2)
    found = layer_features(net, faces, ("pool1",), grids)["pool1"]
    probe = probes.fit_probe(found, faces.grey[:, :2])  # the two quadrants at the top
    factor = torch.diag(torch.tensor([2.0, 1.0]))
    answer = occlusion.probe_answer(net, "pool1", grids, probe, factor)
    with torch.no_grad():
        read = answer(faces.__getitems__(range(20))["image"])
    np.testing.assert_allclose(read, probe.predict(found) * [2, 1], atol=1e-5)
    top = occlusion.occlusion_map(answer, torch.ones(3, 32, 32), patch=16, stride=16)
    assert top[0].min() > 0.1 and top[0, 0] > 1.5 * top[0, 1] and top[1].max() < 0.01


@pytest.mark.parametrize(
    "layer, size, stride",
    [("pool1", 6, 2), ("pool2", 16, 4), ("pool3", 44, 8), ("pool4", 100, 16), ("pool5", 212, 32)],
)
def test_receptive_fields_are_those_of_the_gradient(layer, size, stride):
    assert receptive_field(layer) == (size, stride)
    torch.manual_seed(0)
    trunk = trunks.Trunk(width=1 / 16).double()
    side = 256 if size > 60 else 64
    image = torch.rand(4, 3, side, side, dtype=torch.float64, requires_grad=True)
    middle = side // stride // 2
    trunk(image)[layer][:, :, middle, middle].sum().backward()
    reached = image.grad.abs().sum((0, 1))
    for axis in (0, 1):
        seen = torch.nonzero(reached.sum(axis)).flatten()
        first, end = seen.min(), seen.max() + 1
        extent = int(end - first)
        assert extent == size if layer in ("pool1", "pool2") else size / 2 < extent <= size
        # Around the cell's own place.
        assert abs((first + end) / 2 - (middle + 0.5) * stride) <= (size - extent) / 2


def test_layers_are_matched_to_pool5():
    net = E2FAR(6, 4, image_size=80, width=1 / 8)
    grids = matched_grids(net)
    assert grids == dict(pixels=10, pool1=6, pool2=4, pool3=3, pool4=2, pool5=2)
    found = layer_features(net, pictures(2, 80), grids=grids)
    lengths = dict(pixels=300, pool1=288, pool2=256, pool3=288, pool4=256, pool5=256)
    assert {name: x.shape[1] for name, x in found.items()} == lengths
    assert matched_grids(E2FAR(6, 4, image_size=48, width=1 / 8))["pool4"] == 1


def test_everybody_is_shown_before_anybody_twice():
    assert probes.balanced_rows([0, 0, 0, 1, 1, 2, 2], 3).tolist() == [0, 3, 5]
    assert probes.balanced_rows([0, 0, 0, 1, 1, 2, 2], 5).tolist() == [0, 1, 3, 4, 5]
    assert len(probes.balanced_rows([0, 0], 9)) == 2


def test_batch_norm_is_measured_on_pictures():
    torch.manual_seed(0)
    net, faces = E2FAR(6, 4, image_size=48, width=1 / 16, batch_norm=True), pictures(9, 48)
    measure_batch_norm(net, faces, 8)
    first = net.trunk.blocks[0][0]
    with torch.no_grad():
        answers = first[:2](faces[:8] / 255 - net.trunk.mean_colour)
    torch.testing.assert_close(answers.mean((0, 2, 3)), torch.zeros(4), rtol=0, atol=1e-4)
    torch.testing.assert_close(answers.var((0, 2, 3)), torch.ones(4), rtol=1e-2, atol=0)
    assert not net.training and first[1].momentum == 0.1


def test_seed_interval_is_students():
    half = 4.302653 / 3**0.5
    found = probes.seed_interval([1.0, 2.0, 3.0])
    assert tuple(found) == pytest.approx((2, 2 - half, 2 + half))


def test_an_accuracy_has_an_interval_over_people():
    value, low, high = probes.accuracy([True] * 30 + [False] * 10, np.repeat(np.arange(20), 2))
    assert value == 0.75 and 0.5 < low < 0.75 < high < 1
    assert probes.accuracy([True] * 4, [0, 0, 1, 1]) == (1, 1, 1)
