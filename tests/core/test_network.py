import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, Linear, ReLU
from torch.testing import assert_close

from e2far import camera, trunks, weights
from e2far.network import E2FAR, VARIANTS, Recognizer


def small(fused=("pool4", "pool5"), image_size=48, batch_norm=True):
    torch.manual_seed(0)
    return E2FAR(6, 4, image_size=image_size, width=1 / 16, fused=fused, batch_norm=batch_norm)


def recogniser(**options):
    torch.manual_seed(1)
    return Recognizer(5, image_size=48, width=1 / 16, **options).eval()


def pictures(side=48):
    return torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))


def shapes(tensors):
    return {name: tuple(tensor.shape) for name, tensor in tensors.items()}


def numbers(module):
    return sum(p.numel() for p in module.parameters())


def test_full_width_has_the_papers_layers_at_180_px():
    with torch.device("meta"):
        net, image = E2FAR(), torch.empty(2, 3, 180, 180)
    features = net.features(image)
    maps = dict(zip(trunks.LAYERS, ((64, 90), (128, 45), (256, 22), (512, 11), (512, 5))))
    assert shapes(features) == {name: (2, c, side, side) for name, (c, side) in maps.items()}
    assert sum(isinstance(m, Conv2d) for m in net.trunk.modules()) == 13
    assert numbers(net.trunk) == 14_714_688  # VGG-16's features

    (_, (conv6, *_)), (_, (conv7, *_)) = net.fusion.branches
    layers = [(c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0])
              for c in (conv6, conv7, net.fusion.conv8[0])]  # fmt: skip
    assert layers == [(512, 512, 5, 2, 1), (512, 512, 1, 1, 0), (1024, 512, 1, 1, 0)]
    for head, last in ((net.identity_head, 199), (net.expression_head, 29)):
        fc = [(m.in_features, m.out_features) for m in head if isinstance(m, Linear)]
        assert fc == [(12800, 4096), (4096, 1024), (1024, last)]
    assert shapes(net(image)) == dict(identity=(2, 199), expression=(2, 29), pose=(2, 9))


def test_every_layer_but_the_last_of_a_head_is_followed_by_a_relu():
    net = small(batch_norm=False)
    for part in (net.trunk, net.fusion, net.identity_head, net.expression_head):
        layers = [m for m in part.modules() if not list(m.children())]
        for layer, after in zip(layers, layers[1:]):
            assert isinstance(after, ReLU) or not isinstance(layer, (Conv2d, Linear))


def test_batch_norm_goes_where_it_is_asked_for():
    has = lambda part: any(isinstance(m, (BatchNorm1d, BatchNorm2d)) for m in part.modules())
    heads = {"identity_head", "expression_head", "pose_head"}
    convolutions = {"trunk", "fusion"}
    places = {True: convolutions | heads, "convolutions": convolutions, "heads": {"fusion"} | heads}
    for batch_norm, normed in (places | {False: set()}).items():
        net = small(batch_norm=batch_norm)
        assert {name for name, part in net.named_children() if has(part)} == normed
    with pytest.raises(ValueError, match="batch_norm='everywhere': choose"):
        small(batch_norm="everywhere")


def test_control_has_the_fusions_parameters_and_a_shared_head_is_one():
    nets = {name: small(fused) for name, fused in VARIANTS.items()}
    count = {name: numbers(net) for name, net in nets.items()}
    assert count["control"] == count["fusion"] > count["two heads"] > count["shared head"]
    shared = nets["shared head"]
    assert shared.expression_head is None and shared.identity_head[-1].out_features == 6 + 4


FUSED = [None, ("pool5",), ("pool5", "pool5"), ("pool4", "pool5"), ("pool3",)]
MORE = [("pool1",), ("pool3", "pool4", "pool5"), ("pool2", "pool3"), ("pool4", "pool4")]


@pytest.mark.parametrize("fused", FUSED + MORE)
def test_any_layers_can_be_fused_and_are_what_expression_reaches(fused):
    answers = small(fused, 80)(pictures(80))
    assert shapes(answers) == dict(identity=(2, 6), expression=(2, 4), pose=(2, 9))
    net = small(fused).eval()

    def reached(kind):
        features = net.features(pictures()).items()
        features = {layer: values.detach().requires_grad_() for layer, values in features}
        net.heads(features)[kind].sum().backward()
        return {layer for layer, x in features.items() if x.grad is not None and x.grad.any()}

    assert reached("expression") == set(fused or ("pool5",)) and reached("identity") == {"pool5"}
    net.zero_grad()
    sum(values.sum() for values in net(pictures()).values()).backward()
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("fused", [None, ("pool5",), ("pool4", "pool5")])
def test_activations_lead_to_the_answers(fused):
    net = small(fused).eval()
    found, answers = net.activations(pictures()), net(pictures())
    assert list(found)[:5] == list(trunks.LAYERS) and all((x >= 0).all() for x in found.values())
    assert ("fusion" in found) == (fused == ("pool4", "pool5"))
    answer = answers["identity"]
    if fused:
        assert torch.equal(net.expression_head[-1](found["expression fc2"]), answers["expression"])
    else:
        answer = torch.cat((answer, answers["expression"]), 1)
    assert torch.equal(net.identity_head[-1](found["identity fc2"]), answer)
    people = recogniser()
    answer = people.classifier[-1](people.activations(pictures())["fc1"])
    assert torch.equal(answer, people(pictures())) and answer.shape == (2, 5)


def test_an_untrained_network_sees_the_mean_face_looking_ahead():
    answers = small(image_size=80).eval()(pictures(80))
    angles = camera.matrix_to_euler(camera.decode_pose(answers["pose"], 80)[0])
    assert angles.abs().max() < 0.2
    assert answers["identity"].abs().max() < 0.3 and answers["expression"].abs().max() < 0.3


def test_unfit_sizes_images_and_layers_are_refused():
    for size in (16, 64, 96, 224):
        with pytest.raises(ValueError, match=r"image_size .* take for example .*\d+"):
            E2FAR(image_size=size, width=1 / 16)
    with pytest.raises(ValueError, match=r"\(2, 3, 80, 80\).*\(B, 3, 48, 48\)"):
        small()(pictures(80))
    with pytest.raises(ValueError, match="pool6"):
        small(("pool6",))


@pytest.mark.parametrize("half", [False, True])
def test_saved_network_comes_back(tmp_path, half):
    net, path = small().eval(), tmp_path / "a" / "net.safetensors"
    weights.save_network(net, path, half=half, face_model="toy", seed=3)
    back = weights.load_network(path)
    assert back.config == net.config and not back.training
    assert back.metadata == dict(face_model="toy", seed=3)
    found, expected = back(pictures())["pose"], net(pictures())["pose"]
    assert_close(found, expected, rtol=0, atol=5e-3 if half else 0)
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_recogniser_comes_back_as_such_and_gives_its_trunk(tmp_path):
    giver, path = recogniser(batch_norm=True), tmp_path / "it"
    giver.train()(pictures())  # moves BatchNorm's statistics
    weights.save_network(giver.eval(), path)
    assert torch.equal(weights.load_network(path, Recognizer)(pictures()), giver(pictures()))
    with pytest.raises(ValueError, match="should be the E2FAR"):
        weights.load_network(path)

    weights.save_trunk(giver, path)
    for net in (small(), small(batch_norm="convolutions")):  # heads have a BatchNorm of their own
        weights.load_trunk(net, path)
        assert_close(net.trunk.state_dict(), giver.trunk.state_dict(), rtol=0, atol=0)
    with pytest.raises(ValueError, match="batch_norm"):
        weights.load_trunk(small(batch_norm=False), path)


def test_broken_weights_give_one_clear_line(tmp_path):
    """Damaged files: test_damaged_files."""
    path = tmp_path / "net.safetensors"
    for read in (weights.load_network, lambda path: weights.load_trunk(small(), path)):
        with pytest.raises(FileNotFoundError, match="dvc repro training"):
            read(path)
    weights.save_network(small(), path)
    tensors, header = load_file(path), weights.read_tensors(path, "network")[1]
    other = header | dict(config=header["config"] | dict(n_identity=7))
    broken = tensors | {"pose_head.1.weight": tensors["pose_head.1.weight"] * torch.nan}
    negative = tensors | {"trunk.blocks.0.0.1.running_var": -torch.ones(4)}
    for content, metadata, message in (
        (broken, dict(e2far=json.dumps(header)), "not finite in pose_head.1.weight"),
        (negative, dict(e2far=json.dumps(header)), "negative variances"),
        (tensors, dict(e2far=json.dumps(other)), "does not fit"),
        (tensors, dict(e2far="{}"), "should be a network of e2far"),
        (tensors, None, "should be a network of e2far"),
    ):
        save_file(content, path, metadata)
        with pytest.raises(ValueError, match=message) as caught:
            weights.load_network(path)
        assert "\n" not in str(caught.value)
