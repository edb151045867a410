import pytest
import torch
from torch.autograd import gradcheck
from torch.testing import assert_close

from e2far import camera, losses
from e2far.morphable import toy_model


@pytest.fixture
def model():
    return toy_model()


@pytest.fixture
def draw():
    generator = torch.Generator().manual_seed(1)
    return lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)


def test_gram_factor_is_the_factor_of_the_gram_matrix(model):
    basis = model.identity_basis.flatten(0, 1)
    R = losses.gram_factor(model.identity_basis)
    assert_close(R.T @ R, basis.T @ basis / model.n_vertices)
    assert_close(R, R.triu())
    assert losses.gram_factor(model.identity_basis.float()).dtype == torch.float32


def test_gram_form_is_the_plain_form_and_the_distance_between_meshes(model, draw):
    pred, target, expression = draw(5, 6), draw(5, 6), draw(5, 4)
    energy = losses.vertex_energy(pred, target, losses.gram_factor(model.identity_basis))
    assert_close(energy, losses.vertex_energy_plain(pred, target, model.identity_basis))
    offset = model(pred, expression) - model(target, expression)
    assert_close(energy, offset.square().sum(-1).mean(-1))
    basis = model.identity_basis[..., [0, 1, 1]]  # modes that depend on each other
    energy = losses.vertex_energy(pred[:, :3], target[:, :3], losses.gram_factor(basis))
    assert_close(energy, losses.vertex_energy_plain(pred[:, :3], target[:, :3], basis))


def poses(draw, n):
    rotation = camera.euler_to_matrix(draw(n, 3) * 0.3)
    return camera.encode_pose(rotation, 0.5 + 0.05 * draw(n), 50 + 2 * draw(n, 2), 100)


def test_pose_energy_of_a_shift_is_its_square(model, draw):
    points, target = model.mean[model.landmarks].expand(3, -1, -1), poses(draw, 3)
    assert_close(losses.pose_energy(target, target, points), torch.zeros(3).double())
    pred = target.clone()
    pred[:, 7:] += torch.tensor([0.03, -0.04])  # 5 percent of the side
    assert_close(losses.pose_energy(pred, target, points), torch.full((3,), 25.0).double())


def test_pose_energy_measures_pixels_at_any_resolution(model, draw):
    points, pred, target = model.mean[model.landmarks].expand(3, -1, -1), *poses(draw, 6).split(3)
    seen = lambda pose: camera.weak_perspective(points, *camera.decode_pose(pose, 180))
    percent = (seen(pred) - seen(target)) * 100 / 180
    assert_close(losses.pose_energy(pred, target, points), percent.square().sum(-1).mean(-1))


def test_gradients(model, draw):
    factor = losses.gram_factor(model.identity_basis)
    points = model.mean[model.landmarks[:5]].expand(2, -1, -1)
    a, b = draw(2, 6).requires_grad_(), draw(2, 6)
    assert gradcheck(lambda x: losses.vertex_energy(x, b, factor), a)
    assert gradcheck(lambda x: losses.vertex_energy_plain(x, b, model.identity_basis[:9]), a)
    target = poses(draw, 2)
    pred = (target + 0.1 * draw(2, 9)).requires_grad_()
    assert gradcheck(lambda x: losses.pose_energy(x, target, points), pred)
