import pytest
import torch
from torch.testing import assert_close

from e2far import camera
from e2far.benchmark import landmark_fit
from e2far.morphable import toy_model

pytest.importorskip("eos")


@pytest.fixture(scope="module")
def model():
    return toy_model()


def projected(model, n, seed=0, size=0.8, noise_px=0.0):
    """n random faces: identity, expression, landmarks (n, 68, 2) px, weak perspective."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw, dtype=torch.float64)
    identity, expression = normal(n, model.n_identity), normal(n, model.n_expression)
    rotation = camera.euler_to_matrix(0.3 * normal(n, 3).clamp(-1.5, 1.5))
    points = model(identity, expression)[:, model.landmarks]
    scale, translation = torch.full((n,), size, dtype=torch.float64), 100 + 20 * normal(n, 2)
    seen = camera.weak_perspective(points, rotation, scale, translation)
    return identity, expression, seen + noise_px * normal(n, 68, 2)


def mean_error(pred, true):
    return (pred - true).norm(dim=-1).mean().item()


def test_eos_recovers_faces_from_exact_landmarks(model):
    identity, expression, points = projected(model, 8)
    fit = landmark_fit.LandmarkFitter(model, 0.01, 0.01, iterations=300)(points)  # it creeps
    assert fit["identity"].shape == identity.shape and fit["expression"].shape == expression.shape
    assert_close(fit["vertices"], model(fit["identity"], fit["expression"]))
    for shape, found, true in (
        (model.neutral, fit["identity"], identity),
        (model.expression_offset, fit["expression"], expression),
    ):
        of_mean_face = mean_error(shape(0 * true), shape(true))
        assert mean_error(shape(found), shape(true)) < 0.03 * of_mean_face


def test_signed_expressions_are_found(model):
    """Non-negative blendshapes would lose half of them."""
    _, expression, points = projected(model, 8, seed=1)
    found = landmark_fit.LandmarkFitter(model, 0.01, 0.01)(points)["expression"]
    large = expression.abs() > 0.7
    assert (found.sign() == expression.sign())[large].float().mean() > 0.95


def test_the_fit_does_not_depend_on_image_size_or_place(model):
    points, fitter = projected(model, 3)[2], landmark_fit.LandmarkFitter(model)
    one, other = fitter(points)["identity"], fitter(points * 3.7 + 55)["identity"]
    assert_close(one, other, atol=2e-3, rtol=0)


def test_large_lambda_gives_the_mean_face(model):
    points = projected(model, 2)[2]
    fit = landmark_fit.LandmarkFitter(model, 1e7, 1e7)(points)
    assert mean_error(fit["vertices"], model.mean) < 0.05


@pytest.mark.parametrize("noise_px, expected", [(0.0, 0.01), (10.0, 3.0)])
def test_noise_asks_for_more_regularisation(model, noise_px, expected):
    identity, expression, points = projected(model, 12, seed=2, noise_px=noise_px)
    truth = points, identity, expression
    best, table = landmark_fit.choose_regularisation(model, *truth, (0.01, 3.0), iterations=200)
    assert best == dict(lambda_identity=expected, lambda_expression=expected)
    errors = [row["error_mm"] for row in table]
    assert len(errors) == 4 and best.items() <= table[errors.index(min(errors))].items()


def test_a_fit_is_tuned_on_known_faces_of_the_same_kind(model):
    identity, expression, points = projected(model, 6, noise_px=3.0)
    known = points[2:], identity[2:], expression[2:]
    found, best = landmark_fit.fit_landmarks(model, points[:2], known, (0.1, 10.0))
    chosen, table = landmark_fit.choose_regularisation(model, *known, lambdas=(0.1, 10.0))
    assert best == chosen and len({row["error_mm"] for row in table}) == 4
    for name, values in landmark_fit.fit(model, points[:2], **chosen).items():
        assert_close(found[name], values)
