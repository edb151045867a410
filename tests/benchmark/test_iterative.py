"""The iterating network, and the refinement of a face on landmarks that it is compared with."""

import numpy as np
import pandas as pd
import pytest
import torch
from torch.testing import assert_close

from e2far import camera, data, evaluation, losses, morphable, network, weights
from e2far.benchmark import iterative, landmark_fit
from e2far.morphable import toy_model

SIZE = 48
NAMES = ("identity", "expression", "pose")
SMALL = dict(image_size=SIZE, width=1 / 16, batch_norm=True)


@pytest.fixture(scope="module")
def model():
    return toy_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def exact():
    return toy_model()


def faces(model, n, seed=0):
    """Random faces: identity, expression, pose, and landmarks (n, 68, 2) px in pictures of SIZE."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw).to(model.mean)
    identity, expression = normal(n, model.n_identity), normal(n, model.n_expression)
    rotation = camera.euler_to_matrix(0.3 * normal(n, 3).clamp(-1.5, 1.5))
    scale = SIZE * 0.005 * (1 + 0.1 * normal(n).clamp(-1, 1))
    translation = SIZE * (0.5 + 0.02 * normal(n, 2))
    pose = camera.encode_pose(rotation, scale, translation, SIZE)
    points = model(identity, expression)[:, model.landmarks]
    landmarks = camera.weak_perspective(points, rotation, scale, translation)
    return dict(identity=identity, expression=expression, pose=pose, landmarks=landmarks)


def frontal(n, model):
    return torch.tensor(network.FRONTAL).to(model.mean).repeat(n, 1)


def pictures(n=2):
    return torch.rand(n, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(0))


def build(model, iterations=3, **changes):
    torch.manual_seed(0)
    return iterative.IterativeE2FAR(model, iterations, **SMALL | changes)


def same(one, two, names=NAMES):
    return all(torch.equal(one[name], two[name]) for name in names)


def test_a_rendering_shows_normals_and_places_under_the_estimates_camera(model):
    truth = faces(model, 2) | dict(identity=torch.zeros(2, 6), expression=torch.zeros(2, 4))
    rotation, scale, translation = camera.decode_pose(truth["pose"], SIZE)
    normals, code = iterative.RegionMesh(model).render(truth, SIZE).split(3, 1)
    length = normals.norm(dim=1)
    covered = length > 0.5
    assert 0.2 < covered.float().mean() < 0.95 and not code.permute(0, 2, 3, 1)[~covered].any()
    assert (length[covered] < 1.001).all()
    assert (normals[:, 2][covered] > -0.05).all()  # what is seen faces the camera
    low, high = model.mean.amin(0), model.mean.amax(0)
    for i in range(2):  # places lead back to the pixel that shows them
        y, x = covered[i].nonzero().T
        points = (code[i][:, y, x].T + 0.5) * (high - low) + low
        seen = camera.weak_perspective(points, rotation[i], scale[i], translation[i])
        assert_close(seen, torch.stack((x, y), 1) + 0.5, atol=0.02, rtol=0)


def test_training_in_half_precision_changes_no_rendering(model):
    start = landmark_fit.frontal_mean(2, model.n_identity, model.n_expression, torch.zeros(1))
    mesh = iterative.RegionMesh(model)
    with torch.autocast("cpu", torch.bfloat16):
        half = mesh.render(start, 48)
    assert torch.equal(half, mesh.render(start, 48))


def test_only_the_region_is_rendered(face_model):
    surface, triangles = iterative.RegionMesh(face_model), face_model.region_triangles
    assert surface.triangles.max() + 1 == len(surface.mean) <= len(face_model.region)
    coefficients = torch.randn(2, face_model.n_identity), torch.randn(2, face_model.n_expression)
    found, whole = surface(*coefficients)[:, surface.triangles], face_model(*coefficients)
    assert_close(found, whole[:, triangles], atol=1e-3, rtol=0)


def test_it_starts_at_the_mean_face_and_each_iteration_corrects_the_last(model):
    net, image = build(model).eval(), pictures()
    torch.nn.init.normal_(net.trunk.blocks[0][0][0].weight)  # so that it sees the rendering
    start, *found = net.estimates(image)
    assert not start["identity"].any() and not start["expression"].any()
    assert torch.equal(start["pose"], frontal(2, model))
    assert len(found) == 3 and same(net(image), found[-1])
    for earlier, later in zip((start, *found), found):
        change = net.heads(net.features(image, earlier))
        assert same(later, {name: earlier[name] + change[name] for name in NAMES})
    one, other = net.heads(net.features(image, faces(model, 2))), net.heads(net.features(image))
    assert all((one[name] - other[name]).abs().max() > 1e-6 for name in NAMES)


def test_training_meets_the_networks_own_estimates(model):
    net, image = build(model, iterations=3), pictures(7)
    for layer in (net.identity_head[-1], net.expression_head[-1], net.pose_head[-1]):
        torch.nn.init.normal_(layer.weight, std=0.02)
    steps = list(net.eval().estimates(image))
    assert (steps[1]["identity"] - steps[2]["identity"]).abs().max() > 1e-4
    net.train().trunk.train(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    met = net.earlier(image)
    assert same(net.state_dict(), before, before)  # BatchNorm too
    assert net.training and net.identity_head.training and not net.trunk.training
    for name in NAMES:
        expected = torch.stack([steps[i % 3][name][i] for i in range(7)])
        assert_close(met[name], expected, atol=1e-5, rtol=0)
        assert not met[name].requires_grad
    assert net(image)["pose"].requires_grad


def test_a_recognisers_trunk_is_kept_and_before_training_the_rendering_changes_nothing(
    model, tmp_path
):
    torch.manual_seed(3)
    other, image = network.Recognizer(4, **SMALL), pictures()
    weights.save_trunk(other, tmp_path / "trunk.safetensors")
    net = build(model, start_from=tmp_path / "trunk.safetensors").eval()
    found = net.features(image, faces(model, 2))["pool5"]
    assert_close(found, other.eval().trunk(image)["pool5"])


def test_another_trunk_and_files_of_others_are_refused(model, tmp_path):
    with pytest.raises(ValueError, match="needs trunk vgg16, not timm/x"):
        build(model, trunk="timm/x")
    weights.save_network(build(model, 2), tmp_path / "network.safetensors")
    assert iterative.load_iterative(tmp_path / "network.safetensors", model).iterations == 2
    smaller = toy_model(n_identity=5, dtype=torch.float32)
    with pytest.raises(ValueError, match="does not fit"):
        iterative.load_iterative(tmp_path / "network.safetensors", smaller)
    weights.save_network(network.E2FAR(6, 4, **SMALL), tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="does not fit"):
        iterative.load_iterative(tmp_path / "other.safetensors", model)


@pytest.mark.slow
def test_a_job_trains_and_stores(model, tmp_path):
    model.save(tmp_path / "toy.npz")
    for seed, (split, n) in enumerate(dict(train=48, validation=8, test=8).items()):
        # The pictures are renderings of their faces, as the network makes them itself.
        truth = faces(model, n, seed) | dict(person=torch.arange(n))
        normals = iterative.RegionMesh(model).render(truth, SIZE)[:, :3]
        truth["image"] = (127 * normals + 127).permute(0, 2, 3, 1).byte()
        data.write_shard(data.shard_path(tmp_path / split, 0), truth)
        data.write_index(tmp_path / split, n, n)
    phase = dict(steps=40, heads_rate=3e-3, trunk_rate=3e-3, warmup=3)
    loss = dict(expression_weight=1.0, pose_weight=0.1, weight_decay=0.0, clip=5.0)
    training = dict(phases=[phase], batch_size=16, log_every=5, **loss)
    places = dict(folder=tmp_path, faces=tmp_path, model=tmp_path / "toy.npz")
    iterative.iterative_job(**places, network=SMALL, training=training, seed=0, iterations=2)
    log = pd.read_csv(tmp_path / "log.csv")
    assert log.loss.iloc[-1] < 0.7 * log.loss.iloc[0]
    net = iterative.load_iterative(tmp_path / "network.safetensors", model)
    errors = evaluation.evaluate(net, model, data.Faces(tmp_path / "test"))
    assert np.isfinite(errors["expressive_mm"]).all() and net.iterations == 2
    # It has learnt to look at its rendering.
    assert net.trunk.blocks[0][0][0].weight[:, 3:].abs().max() > 1e-4


def refined(model, landmarks, start=None, lambdas=(0.0, 0.0), **changes):
    weights = dict(zip(("lambda_identity", "lambda_expression"), lambdas))
    return landmark_fit.refine(model, landmarks, SIZE, start, **weights, **changes)


def off_px(model, estimate, landmarks):
    """(n, 68, 2), from `landmarks` to where the estimate has them."""
    points = morphable.landmarks_mm(model, estimate["identity"], estimate["expression"])
    return camera.weak_perspective(points, *camera.decode_pose(estimate["pose"], SIZE)) - landmarks


def energy(model, estimate, landmarks, anchor, lambdas):
    off = 100 / SIZE * off_px(model, estimate, landmarks)
    prior = [(estimate[name] - anchor[name]).square().sum(1) for name in NAMES[:2]]
    return off.square().sum(-1).mean(-1) + lambdas[0] * prior[0] + lambdas[1] * prior[1]


@pytest.mark.parametrize("given", [False, True])
def test_refinement_lowers_the_energy_and_finds_the_face(exact, given):
    truth, lambdas = faces(exact, 6), (1e-3, 1e-3)
    start = dict(identity=truth["identity"] * 0 + 0.2, expression=truth["expression"] * 0 - 0.1)
    start = start | dict(pose=frontal(6, exact)) if given else None
    found = list(refined(exact, truth["landmarks"], start, lambdas, iterations=20))
    energies = [energy(exact, x, truth["landmarks"], found[0], lambdas) for x in found]
    energies = torch.stack(energies)
    assert (energies.diff(dim=0) <= 1e-12).all() and (energies[-1] < 0.01 * energies[0]).all()
    for name in NAMES[:2]:
        factor = losses.gram_factor(getattr(exact, f"{name}_basis"))
        of_mean_face = losses.vertex_energy(0 * truth[name], truth[name], factor).mean()
        error = losses.vertex_energy(found[-1][name], truth[name], factor).mean()
        assert error < 0.05 * of_mean_face


def test_refinement_ends_where_the_gradient_vanishes(exact):
    """An optimum that autograd agrees on: the derivatives are right, with noise and a prior."""
    landmarks, lambdas = faces(exact, 3)["landmarks"], (0.5, 0.2)
    draw = torch.Generator().manual_seed(1)
    landmarks += 0.3 * torch.randn(landmarks.shape, generator=draw, dtype=torch.float64)
    start, *_, last = refined(exact, landmarks, lambdas=lambdas, iterations=60)
    variables = {name: last[name].clone().requires_grad_() for name in NAMES}
    total = energy(exact, variables, landmarks, start, lambdas).sum()
    for gradient in torch.autograd.grad(total, list(variables.values())):
        assert gradient.abs().max() < 1e-4


def test_a_strong_prior_holds_the_coefficients_and_lets_the_pose_go(exact):
    truth = faces(exact, 3)
    landmarks = truth["landmarks"] + 0.1
    start = truth | dict(pose=frontal(3, exact))
    *_, last = refined(exact, landmarks, start, (1e9, 1e9), iterations=30)
    assert_close(last["identity"], truth["identity"], atol=1e-5, rtol=0)
    assert off_px(exact, last, landmarks).norm(dim=-1).mean(1).max() < 1e-3


def test_a_face_is_refined_alike_alone_and_in_a_batch(exact):
    landmarks, how = faces(exact, 4)["landmarks"], dict(lambdas=(0.1, 0.1), iterations=4)
    *_, together = refined(exact, landmarks, **how)
    alone = lambda i: refined(exact, landmarks[i : i + 1], **how)
    seconds, found = iterative.one_by_one(alone, 4)
    assert seconds.shape == (4, 5) and (np.diff(seconds, axis=1) > 0).all() and len(found) == 5
    for name in NAMES:
        assert_close(found[-1][name], together[name])
