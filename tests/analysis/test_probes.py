import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.pipeline import make_pipeline
from torch import nn

from e2far.analysis import probes
from e2far.analysis.features import layer_features, matched_grids, measure_batch_norm
from e2far.network import E2FAR

rng = np.random.default_rng(0)


def pictures(n, size):
    """Of no meaning, uint8 (n, 3, size, size)."""
    made = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (n, 3, size, size), dtype=torch.uint8, generator=made)


def test_layer_features_are_the_answers_pooled_or_whole_whatever_the_batch():
    net, images = E2FAR(6, 4, image_size=48, width=1 / 16, batch_norm=True), pictures(7, 48)
    layers, grids = ("pixels", "pool2", "fusion", "expression fc1"), dict(pixels=12, pool2=3)
    found = layer_features(net, images, layers, grids, limit=5, batch_size=2)
    assert net.training  # as it was
    with torch.no_grad():
        answers = net.eval().activations(images[:5] / 255)
    expected = dict(
        pixels=nn.functional.avg_pool2d(images[:5] / 255, 4),
        pool2=nn.functional.avg_pool2d(answers["pool2"], 4),
    )
    for layer, x in found.items():
        whole = expected.get(layer, answers.get(layer)).flatten(1)
        np.testing.assert_allclose(x, whole, rtol=1e-4, atol=1e-5)
        assert x.dtype == np.float32
    with pytest.raises(KeyError, match="pool9"):
        layer_features(net, images, ("pool9",))


def people(n=120, pictures=5, d=40, t=3):
    person = np.repeat(np.arange(n), pictures)
    return person, rng.normal(size=(n * pictures, d)), rng.normal(size=(n * pictures, t))


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
    return make_pipeline(probes.Scaler(), components, Ridge(alpha=alpha)).fit(features, target)


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


def test_explained_variance_is_a_share_of_the_distance_from_the_mean_target():
    target = rng.normal(size=(500, 3)) * [10, 1, 1]
    explained = lambda answer: probes.explained_variance(answer, target)[0]
    assert explained(target) == 1
    assert explained(np.tile(target.mean(0), (500, 1))) == pytest.approx(0)
    energy = np.square(target - target.mean(0)).sum(0)
    first = np.where([True, False, False], target, target.mean(0))
    assert explained(first) == pytest.approx(energy[0] / energy.sum())


def test_a_channel_that_is_nearly_always_silent_spoils_no_picture():
    features = np.hstack([rng.normal(size=(400, 20)), np.zeros((400, 1))])
    features[::100, -1] = 1e-3
    scaled = probes.Scaler().fit_transform(features)
    assert np.abs(scaled[:, -1]).max() < 0.1
    np.testing.assert_allclose(scaled[:, :20].std(0), 1, atol=0.2)


def test_a_probe_chooses_its_penalty_by_what_counts():
    features = rng.normal(size=(300, 40))
    known, noise = features[:, :1] + 0.1 * rng.normal(size=(300, 1)), rng.normal(size=(300, 30))
    light, heavy = (
        probes.fit_probe(features, np.hstack([known * weight, noise])).alpha[0]
        for weight in (1, 30)
    )
    assert heavy < light


def test_layers_are_matched_to_pool5():
    net = E2FAR(6, 4, image_size=80, width=1 / 8)
    assert matched_grids(net) == dict(pixels=10, pool1=6, pool2=4, pool3=3, pool4=2, pool5=2)
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
