import numpy as np
import pytest

from e2far.analysis import similarity

rng = np.random.default_rng(0)


def test_a_change_is_measured_beside_unrelated_pictures():
    one, changed, another = rng.normal(size=(3, 400, 50)) * np.linspace(0.1, 3, 50)
    assert similarity.relative_change(one, one, another) == (0, 0, 0)
    value, low, high = similarity.relative_change(one, changed, another)
    assert value == pytest.approx(1, abs=0.05) and low < 1 < high
    halfway = one + 0.5 * (another - one)
    assert similarity.relative_change(one, halfway, another) == pytest.approx((0.25,) * 3)


@pytest.mark.parametrize("n, d", [(300, 20), (100, 80), (60, 400)])
def test_cka_is_one_for_what_agrees_and_zero_for_noise(n, d):
    """Of fewer, about as many and more features than pictures."""
    x, y = rng.normal(size=(2, n, d)) + 5
    rotation, few = np.linalg.qr(rng.normal(size=(d, d)))[0], y[:, : d // 2]
    assert similarity.cka(x, 3 * x @ rotation - 7) == pytest.approx(1)
    assert abs(similarity.cka(x, y)) < 0.05
    assert similarity.cka(x, few) == pytest.approx(similarity.cka(few, x), abs=1e-12)


@pytest.mark.parametrize("d", [3, 30])
def test_cka_is_that_of_unbiased_hsic(d):
    """Song et al. 2012, written out with the Gram matrices of features that are not centred."""
    x, y = rng.normal(size=(2, 9, d)) + 1
    y += x

    def hsic(x, y):
        n = len(x)
        k, l = ((z @ z.T) * (1 - np.eye(n)) for z in (x, y))
        mean = k.sum() * l.sum() / ((n - 1) * (n - 2))
        return np.trace(k @ l) + mean - 2 / (n - 2) * (k @ l).sum()

    assert similarity.cka(x, y) == pytest.approx(hsic(x, y) / (hsic(x, x) * hsic(y, y)) ** 0.5)


def test_the_pairs_a_feature_confuses():
    """Features of twelve pictures on a line: 0 lies next to 1 and 2 next to 3 with other
    expressions, 4 next to 5 with the same, the others far from each other."""
    near = np.array([0, 0.1, 10, 10.2, 20, 20.01, 300, 400, 500, 600, 700, 800])[:, None]
    far = np.array([0, 9, 0, 8, 0, 1, 0, 0, 0, 0, 0, 0])[:, None] * [[1.0, 0]]
    found = similarity.confused_pairs(near, far, 2, quantile=0.7)
    assert [pair.rows for pair in found] == [(0, 1), (2, 3)]
    mean = lambda x: np.mean([np.linalg.norm(x[i] - x[j]) for i in range(12) for j in range(i)])
    np.testing.assert_allclose([pair.features for pair in found], [0.1, 0.2] / mean(near))
    np.testing.assert_allclose([pair.labels for pair in found], [9, 8] / mean(far))
    everybody = similarity.confused_pairs(near, rng.normal(size=(12, 2)), 99, quantile=0.1)
    used = [row for pair in everybody for row in pair.rows]
    assert 2 < len(everybody) <= 6 and len(set(used)) == len(used)
    assert similarity.confused_pairs(near, np.zeros((12, 2)), 3) == []
