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


@pytest.fixture(scope="module")
def model():
    return toy_model(dtype=torch.float32)


def faces(model, n, seed=0):
    """Random faces: identity, expression, pose, and landmarks (n, 68, 2) px in pictures of SIZE."""
    draw = torch.Generator().manual_seed(seed)
    normal = lambda *shape: torch.randn(*shape, generator=draw).to(model.mean)
    identity, expression, rotation = (
        normal(n, model.n_identity),
        normal(n, model.n_expression),
        camera.euler_to_matrix(0.3 * normal(n, 3).clamp(-1.5, 1.5)),
    )
    scale, translation = (
        SIZE * 0.005 * (1 + 0.1 * normal(n).clamp(-1, 1)),
        SIZE * (0.5 + 0.02 * normal(n, 2)),
    )
    points = model(identity, expression)[:, model.landmarks]
    return dict(
        identity=identity,
        expression=expression,
        pose=camera.encode_pose(rotation, scale, translation, SIZE),
        landmarks=camera.weak_perspective(points, rotation, scale, translation),
    )


def build(model, iterations=3, **changes):
    torch.manual_seed(0)
    return iterative.IterativeE2FAR(
        model, iterations, **dict(image_size=SIZE, width=1 / 16, batch_norm=True) | changes
    )


def write_split(folder, model, n, seed):
    """Shards whose pictures are renderings of their faces: what an iterating network compares its own with."""
    columns = faces(model, n, seed)
    image = (
        iterative.RegionMesh(model)
        .render(columns, SIZE)[:, :3]
        .permute(0, 2, 3, 1)
        .mul(127)
        .add(127)
        .byte()
    )
    data.write_shard(
        data.shard_path(folder, 0), columns | dict(image=image, person=torch.arange(n))
    )
    data.write_index(folder, n, n)


def test_a_rendering_shows_normals_and_places_under_the_estimates_camera(model):
    truth = faces(model, 2) | dict(identity=torch.zeros(2, 6), expression=torch.zeros(2, 4))
    rotation, scale, translation = camera.decode_pose(truth["pose"], SIZE)
    normals, code = iterative.RegionMesh(model).render(truth, SIZE).split(3, 1)
    covered = normals.norm(dim=1) > 0.5
    assert 0.2 < covered.float().mean() < 0.95 and not code.permute(0, 2, 3, 1)[~covered].any()
    assert (normals.norm(dim=1)[covered] < 1.001).all() and (
        normals[:, 2][covered] > -0.05
    ).all()  # what is seen faces the camera
    low, high = model.mean.amin(0), model.mean.amax(0)
    for i in range(2):  # places lead back to the pixel that shows them
        y, x = covered[i].nonzero().T
        points = (code[i][:, y, x].T + 0.5) * (high - low) + low
        assert_close(
            camera.weak_perspective(points, rotation[i], scale[i], translation[i]),
            torch.stack((x, y), 1) + 0.5,
            atol=0.02,
            rtol=0,
        )


@pytest.mark.parametrize("name", NAMES)
def test_a_rendering_depends_on_all_of_the_estimate(model, name):
    surface, estimate = iterative.RegionMesh(model), faces(model, 2)
    before = surface.render(estimate, SIZE)
    assert torch.equal(before, surface.render(estimate, SIZE))
    changed = surface.render(
        estimate | {name: estimate[name] + torch.tensor([0.0, 0.3])[:, None]}, SIZE
    )
    assert torch.equal(before[0], changed[0]) and (before[1] - changed[1]).abs().mean() > 1e-3


def test_only_the_region_is_rendered(face_model):
    surface = iterative.RegionMesh(face_model)
    at = torch.zeros(face_model.n_vertices, dtype=torch.bool).index_fill(0, face_model.region, True)
    assert len(surface.triangles) == at[face_model.triangles].all(
        1
    ).sum() and surface.triangles.max() + 1 == len(surface.mean) <= len(face_model.region)
    identity, expression = (
        torch.randn(2, face_model.n_identity),
        torch.randn(2, face_model.n_expression),
    )
    whole = face_model(identity, expression)[
        :, face_model.triangles[at[face_model.triangles].all(1)]
    ]
    assert_close(
        surface(identity, expression)[:, surface.triangles.long()], whole, atol=1e-3, rtol=0
    )


def test_no_iteration_is_the_mean_face_and_each_one_corrects_the_last(model):
    net, image = build(model).eval(), torch.rand(2, 3, SIZE, SIZE)
    (start,) = net.estimates(image, 0)
    assert (
        not start["identity"].any()
        and not start["expression"].any()
        and torch.equal(start["pose"], torch.tensor(network.FRONTAL).expand(2, 9))
    )
    found = list(net.estimates(image))
    assert len(found) == 4 and all(torch.equal(net(image)[name], found[-1][name]) for name in NAMES)
    torch.nn.init.normal_(net.trunk.blocks[0][0][0].weight)  # so that it sees the rendering
    for earlier in found:
        again = list(net.estimates(image, 1, start=earlier))[1]
        change = net.heads(net.features(image, earlier))
        assert all(torch.equal(again[name], earlier[name] + change[name]) for name in NAMES)
    moved = net.heads(net.features(image, faces(model, 2)))
    assert all(
        (moved[name] - net.heads(net.features(image))[name]).abs().max() > 1e-6 for name in NAMES
    )


def test_a_perfect_corrector_stays_at_the_truth(model, monkeypatch):
    net, truth, image = build(model).eval(), faces(model, 2), torch.rand(2, 3, SIZE, SIZE)
    met = []

    def heads(features):
        return {name: truth[name] - met[-1][name] for name in NAMES}

    monkeypatch.setattr(net, "heads", heads)
    monkeypatch.setattr(net, "features", lambda image, estimate: met.append(estimate))
    first, *later = net.estimates(image, 3)
    assert (first["identity"] - truth["identity"]).abs().max() > 0.1
    for estimate in later:
        assert all(torch.allclose(estimate[name], truth[name], atol=1e-6) for name in NAMES)


def test_before_training_the_rendering_changes_nothing(model):
    net = build(model).eval()
    torch.manual_seed(0)
    plain = network.E2FAR(6, 4, image_size=SIZE, width=1 / 16, batch_norm=True).eval()
    image = torch.rand(2, 3, SIZE, SIZE)
    assert_close(net.features(image, faces(model, 2))["pool5"], plain.features(image)["pool5"])


def test_training_meets_the_networks_own_estimates(model):
    net, image = build(model, iterations=3), torch.rand(7, 3, SIZE, SIZE)
    for layer in (net.identity_head[-1], net.expression_head[-1], net.pose_head[-1]):
        torch.nn.init.normal_(layer.weight, std=0.02)
    steps = list(net.eval().estimates(image, 2))
    net.train().trunk.train(False)
    before = {name: value.clone() for name, value in net.state_dict().items()}
    met = net.earlier(image)
    assert all(
        torch.equal(value, before[name]) for name, value in net.state_dict().items()
    )  # BatchNorm too
    assert net.training and net.identity_head.training and not net.trunk.training
    for i in range(7):
        assert all(
            torch.allclose(met[name][i], steps[i % 3][name][i], atol=1e-5)
            and not met[name].requires_grad
            for name in NAMES
        )
    assert (steps[1]["identity"] - steps[2]["identity"]).abs().max() > 1e-4
    assert net(image)["pose"].requires_grad


@pytest.fixture(scope="module")
def root(model, tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    model.save(root / "toy.npz")
    for seed, (split, n) in enumerate(dict(train=48, validation=8, test=8).items()):
        write_split(root / split, model, n, seed)
    return root


def job(root, folder, steps=40):
    phases = [dict(steps=steps, heads_rate=3e-3, trunk_rate=3e-3, warmup=3)]
    training_ = dict(
        phases=phases,
        batch_size=16,
        expression_weight=1.0,
        pose_weight=0.1,
        weight_decay=0.0,
        clip=5.0,
        log_every=5,
    )
    return dict(
        folder=folder,
        faces=root,
        model=root / "toy.npz",
        network=dict(image_size=SIZE, width=1 / 16, batch_norm=True),
        training=training_,
        seed=0,
        iterations=2,
    )


def test_a_job_trains_and_stores(model, root, tmp_path):
    iterative.iterative_job(**job(root, tmp_path))
    log = pd.read_csv(tmp_path / "log.csv")
    assert log.loss.iloc[-1] < 0.7 * log.loss.iloc[0]
    net = iterative.load_iterative(tmp_path / "network.safetensors", model)
    errors = evaluation.evaluate(net, model, data.Faces(root / "test"))
    assert np.isfinite(errors["expressive_mm"]).all()
    assert (
        net.iterations == 2 and net.trunk.blocks[0][0][0].weight[:, 3:].abs().max() > 1e-4
    )  # it has learnt to look at its rendering
    weights.save_network(
        network.E2FAR(6, 4, image_size=SIZE, width=1 / 16), tmp_path / "other.safetensors"
    )
    with pytest.raises(ValueError, match="holds no IterativeE2FAR"):
        iterative.load_iterative(tmp_path / "other.safetensors", model)
    with pytest.raises(ValueError, match="does not fit"):
        iterative.load_iterative(
            tmp_path / "network.safetensors", toy_model(n_identity=5, dtype=torch.float32)
        )


def test_a_recognisers_trunk_is_kept(model, tmp_path):
    torch.manual_seed(3)
    other = network.Recognizer(4, image_size=SIZE, width=1 / 16, batch_norm=True)
    weights.save_trunk(other, tmp_path / "trunk.safetensors")
    net, image = (
        build(model, start_from=tmp_path / "trunk.safetensors").eval(),
        torch.rand(2, 3, SIZE, SIZE),
    )
    assert_close(net.features(image)["pool5"], other.eval().trunk(image)["pool5"])


def reprojection(model, estimate, landmarks):
    points = morphable.landmarks_mm(
        model, estimate["identity"].to(model.mean), estimate["expression"].to(model.mean)
    )
    return (
        (camera.weak_perspective(points, *camera.decode_pose(estimate["pose"], SIZE)) - landmarks)
        .norm(dim=-1)
        .mean(1)
    )


@pytest.mark.parametrize("weight", [0.0, 1.0])
def test_refinement_from_the_truth_stays_there(weight):
    model = toy_model()
    truth = faces(model, 3)
    for estimate in landmark_fit.refine(
        model, truth["landmarks"], SIZE, truth, lambda_identity=weight, lambda_expression=weight
    ):
        vertices = model(estimate["identity"], estimate["expression"])
        assert (
            vertices - model(truth["identity"], truth["expression"])
        ).abs().max() < 1e-6 and reprojection(model, estimate, truth["landmarks"]).max() < 1e-6


def test_refinement_lowers_the_energy_and_finds_the_face():
    model = toy_model()
    truth, weight = faces(model, 6), 1e-3
    start = dict(
        identity=torch.full((6, 6), 0.2),
        expression=torch.full((6, 4), -0.1),
        pose=torch.tensor(network.FRONTAL).repeat(6, 1),
    )
    start = {name: value.double() for name, value in start.items()}
    for begin in (None, start):
        found = list(
            landmark_fit.refine(
                model,
                truth["landmarks"],
                SIZE,
                begin,
                lambda_identity=weight,
                lambda_expression=weight,
                iterations=20,
            )
        )
        anchor, energies = found[0], []
        for estimate in found:
            points = morphable.landmarks_mm(model, estimate["identity"], estimate["expression"])
            off = (
                100
                / SIZE
                * (
                    camera.weak_perspective(points, *camera.decode_pose(estimate["pose"], SIZE))
                    - truth["landmarks"]
                )
            )
            prior = sum((estimate[name] - anchor[name]).square().sum(1) for name in NAMES[:2])
            energies.append(off.square().sum(-1).mean(-1) + weight * prior)
        energies = torch.stack(energies)
        assert (energies.diff(dim=0) <= 1e-12).all() and (energies[-1] < 0.01 * energies[0]).all()
        for name, factor in (
            ("identity", losses.gram_factor(model.identity_basis)),
            ("expression", losses.gram_factor(model.expression_basis)),
        ):
            assert (
                losses.vertex_energy(found[-1][name], truth[name], factor).mean()
                < 0.05 * losses.vertex_energy(0 * truth[name], truth[name], factor).mean()
            )


def test_refinement_ends_where_the_gradient_vanishes():
    """An optimum that autograd agrees on: the derivatives are right, with noise and a prior."""
    model = toy_model()
    truth = faces(model, 3)
    landmarks = truth["landmarks"] + 0.3 * torch.randn(
        3, 68, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64
    )
    *_, last = landmark_fit.refine(
        model, landmarks, SIZE, lambda_identity=0.5, lambda_expression=0.2, iterations=60
    )
    variables = {name: last[name].clone().requires_grad_() for name in NAMES}
    points = morphable.landmarks_mm(model, variables["identity"], variables["expression"])
    off = (
        100
        / SIZE
        * (
            camera.weak_perspective(points, *camera.decode_pose(variables["pose"], SIZE))
            - landmarks
        )
    )
    energy = (
        off.square().sum(-1).mean(-1)
        + 0.5 * variables["identity"].square().sum(1)
        + 0.2 * variables["expression"].square().sum(1)
    )
    assert all(
        gradient.abs().max() < 1e-4
        for gradient in torch.autograd.grad(energy.sum(), list(variables.values()))
    )


def test_a_strong_prior_holds_the_coefficients_and_lets_the_pose_go():
    model = toy_model()
    truth = faces(model, 3)
    start = {name: truth[name] for name in NAMES[:2]} | dict(
        pose=torch.tensor(network.FRONTAL, dtype=torch.float64).repeat(3, 1)
    )
    *_, last = landmark_fit.refine(
        model,
        truth["landmarks"] + 0.1,
        SIZE,
        start,
        lambda_identity=1e9,
        lambda_expression=1e9,
        iterations=30,
    )
    assert_close(last["identity"], truth["identity"], atol=1e-5, rtol=0)
    assert reprojection(model, last, truth["landmarks"] + 0.1).max() < 1e-3


def test_a_face_is_refined_alike_alone_and_in_a_batch():
    model = toy_model()
    landmarks = faces(model, 4)["landmarks"]
    options = dict(lambda_identity=0.1, lambda_expression=0.1, iterations=4)
    *_, together = landmark_fit.refine(model, landmarks, SIZE, **options)
    seconds, found = iterative.one_by_one(
        lambda i: landmark_fit.refine(model, landmarks[i : i + 1], SIZE, **options), 4
    )
    assert seconds.shape == (4, 5) and (np.diff(seconds, axis=1) > 0).all() and len(found) == 5
    assert all(torch.allclose(found[-1][name], together[name]) for name in NAMES)


def test_another_trunk_is_refused(model):
    with pytest.raises(ValueError, match="needs trunk vgg16, not timm/x"):
        build(model, trunk="timm/x")
