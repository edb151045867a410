import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.nn import BatchNorm1d, BatchNorm2d, Conv2d, Linear, ReLU

from e2far import camera, network, trunks, weights
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
    for branch, layer in zip(net.fusion.branches, ("pool4", "pool5")):
        assert branch(features[layer]).shape == (2, 512, 5, 5)
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


HEADS = {"identity_head", "expression_head", "pose_head"}


@pytest.mark.parametrize(
    "batch_norm, normed",
    [(True, {"trunk", "fusion"} | HEADS), ("convolutions", {"trunk", "fusion"})]
    + [("heads", {"fusion"} | HEADS), (False, set())],
)
def test_batch_norm_goes_where_it_is_asked_for(batch_norm, normed):
    net = small(batch_norm=batch_norm)
    has = lambda part: any(isinstance(m, (BatchNorm1d, BatchNorm2d)) for m in part.modules())
    assert {name for name, part in net.named_children() if has(part)} == normed
    assert all(isinstance(getattr(net, head)[-1], Linear) for head in HEADS)


def test_an_unknown_place_for_batch_norm_is_refused():
    with pytest.raises(ValueError, match="batch_norm='everywhere': choose"):
        small(batch_norm="everywhere")


def test_control_has_the_fusions_parameters():
    count = {name: numbers(small(fused)) for name, fused in VARIANTS.items()}
    assert count["control"] == count["fusion"] > count["two heads"] > count["shared head"]


FUSED = [None, ("pool5",), ("pool5", "pool5"), ("pool4", "pool5"), ("pool3",)]
MORE = [("pool1",), ("pool3", "pool4", "pool5"), ("pool2", "pool3"), ("pool4", "pool4")]


@pytest.mark.parametrize("fused", FUSED + MORE)
def test_any_layers_can_be_fused(fused):
    for side in (48, 80):
        answers = small(fused, side)(pictures(side))
        assert shapes(answers) == dict(identity=(2, 6), expression=(2, 4), pose=(2, 9))


@pytest.mark.parametrize("fused", FUSED)
def test_expression_reaches_the_layers_it_should(fused):
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


def test_shared_head_is_one_head():
    net = small(None)
    assert net.expression_head is None and net.fusion is None
    assert net.identity_head[-1].out_features == 6 + 4


def test_heads_on_features_are_the_network():
    net = small().eval()
    whole, parts = net(pictures()), net.heads(net.features(pictures()))
    assert all(torch.equal(whole[name], parts[name]) for name in whole)


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


def test_activations_lead_to_the_recognisers_answer():
    net = recogniser()
    found, answer = net.activations(pictures()), net(pictures())
    assert torch.equal(net.classifier[-1](found["fc1"]), answer) and answer.shape == (2, 5)


def test_an_untrained_network_sees_the_mean_face_looking_ahead():
    answers = small(image_size=80).eval()(pictures(80))
    angles = camera.matrix_to_euler(camera.decode_pose(answers["pose"], 80)[0])
    assert angles.abs().max() < 0.2
    assert answers["identity"].abs().max() < 0.3 and answers["expression"].abs().max() < 0.3


def test_sizes_at_which_the_papers_geometry_fails_are_refused():
    for size in (16, 64, 96, 224):
        with pytest.raises(ValueError, match=r"image_size .* take for example .*\d+"):
            E2FAR(image_size=size, width=1 / 16)
    for size in (48, 80, 112, 144, 180, 208, 240):
        network.check_image_size(size)


def test_wrong_images_and_layers_are_named():
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
    torch.testing.assert_close(found, expected, rtol=0, atol=5e-3 if half else 0)
    assert list(path.parent.iterdir()) == [path]


def test_a_saved_recogniser_comes_back_as_such(tmp_path):
    net, path = recogniser(batch_norm=True), tmp_path / "it"
    weights.save_network(net, path)
    assert torch.equal(weights.load_network(path, Recognizer)(pictures()), net(pictures()))
    with pytest.raises(ValueError, match="no E2FAR"):
        weights.load_network(path)


def test_broken_weights_give_one_clear_line(tmp_path):
    good, path = tmp_path / "good.safetensors", tmp_path / "net.safetensors"
    with pytest.raises(FileNotFoundError, match="dvc repro training"):
        weights.load_network(path)
    weights.save_network(small(), good)
    for content in (good.read_bytes()[:-100], b"", b"not a network" * 9):
        path.write_bytes(content)
        with pytest.raises(OSError, match=r"net\.safetensors is truncated or not"):
            weights.load_network(path)

    tensors, header = load_file(good), weights.read_tensors(good, "network")[1]
    other = header | dict(config=header["config"] | dict(n_identity=7))
    broken = tensors | {"pose_head.1.weight": tensors["pose_head.1.weight"] * torch.nan}
    for content, metadata, message in (
        (broken, dict(e2far=json.dumps(header)), "not finite in pose_head.1.weight"),
        (tensors, dict(e2far=json.dumps(other)), "does not fit"),
        (tensors, None, "no network of e2far"),
    ):
        save_file(content, path, metadata)
        with pytest.raises(ValueError, match=message):
            weights.load_network(path)


def test_trunk_moves_from_recogniser_to_network(tmp_path):
    path, giver, net = tmp_path / "trunk.safetensors", recogniser(batch_norm=True), small()
    giver.train()(pictures())  # moves BatchNorm's statistics
    weights.save_trunk(giver, path)
    weights.load_trunk(net, path)
    pairs = zip(net.trunk.state_dict().values(), giver.trunk.state_dict().values())
    assert all(torch.equal(a, b) for a, b in pairs)
    weights.load_trunk(
        small(batch_norm="convolutions"), path
    )  # heads have a BatchNorm of their own
    with pytest.raises(ValueError, match="batch_norm"):
        weights.load_trunk(small(batch_norm=False), path)
    with pytest.raises(FileNotFoundError):
        weights.load_trunk(net, tmp_path / "none")
