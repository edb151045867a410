"""eos as a rival: it finds faces from their landmarks, as well as its regularisation lets it."""

import pytest
import torch
from test_iterative import NAMES, faces
from torch.testing import assert_close

from e2far.benchmark import landmark_fit
from e2far.morphable import toy_model

pytest.importorskip("eos")


@pytest.fixture(scope="module")
def model():
    return toy_model()


def test_eos_recovers_faces_and_signs_of_expressions_from_exact_landmarks(model):
    truth = faces(model, 8)
    found = landmark_fit.fit(
        model, truth["landmarks"], lambda_identity=0.01, lambda_expression=0.01, iterations=300
    )  # it creeps
    for name, shape in (("identity", model.neutral), ("expression", model.expression_offset)):
        mean, true = shape(0 * truth[name]), shape(truth[name])
        off = (shape(found[name]) - true).norm(dim=-1).mean()
        assert off < 0.08 * (mean - true).norm(dim=-1).mean()
    large = truth["expression"].abs() > 0.7  # non-negative blendshapes would lose half of them
    right = found["expression"].sign() == truth["expression"].sign()
    assert right[large].float().mean() > 0.95


def test_the_fit_does_not_depend_on_image_size_or_place(model):
    points, fitter = faces(model, 3)["landmarks"], landmark_fit.LandmarkFitter(model)
    one, other = fitter(points)["identity"], fitter(points * 3.7 + 55)["identity"]
    assert_close(one, other, atol=2e-3, rtol=0)


def test_large_lambda_gives_the_mean_face(model):
    found = landmark_fit.LandmarkFitter(model, 1e7, 1e7)(faces(model, 2)["landmarks"])
    assert (model(**found) - model.mean).norm(dim=-1).mean() < 0.05


@pytest.mark.parametrize("noise_px, expected", [(0.0, 0.01), (3.0, 3.0)])
def test_noise_asks_for_more_regularisation(model, noise_px, expected):
    truth = faces(model, 10, seed=2)
    draw = torch.Generator().manual_seed(0)
    points = truth["landmarks"] + noise_px * torch.randn(10, 68, 2, generator=draw).double()
    known = points[2:], *(truth[name][2:] for name in NAMES[:2])
    found, best = landmark_fit.fit_landmarks(model, points[:2], known, (0.01, 3.0))
    assert best == dict(lambda_identity=expected, lambda_expression=expected)
    for name, values in landmark_fit.fit(model, points[:2], **best).items():
        assert_close(found[name], values)
