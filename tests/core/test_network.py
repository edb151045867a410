import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from e2far import camera, network, trunks, weights
from e2far.network import E2FAR, VARIANTS, Recognizer


def small(fused=("pool4", "pool5"), image_size=48, batch_norm=True):
    torch.manual_seed(0)
    return E2FAR(6, 4, image_size=image_size, width=1 / 16, fused=fused, batch_norm=batch_norm)


def test_full_width_has_the_papers_layers_at_180_px():
    with torch.device("meta"):
        net, image = E2FAR(), torch.empty(2, 3, 180, 180)
    features = net.features(image)
    assert [tuple(features[k].shape[1:]) for k in trunks.LAYERS] == [
        (64, 90, 90),
        (128, 45, 45),
        (256, 22, 22),
        (512, 11, 11),
        (512, 5, 5),
    ]
    conv6, conv7 = (branch[1][0] for branch in net.fusion.branches)
    conv8 = net.fusion.conv8[0]
    assert [
        (c.in_channels, c.out_channels, c.kernel_size[0], c.stride[0], c.padding[0])
        for c in (conv6, conv7, conv8)
    ] == [(512, 512, 5, 2, 1), (512, 512, 1, 1, 0), (1024, 512, 1, 1, 0)]
    assert (
        net.fusion.branches[0](features["pool4"]).shape
        == net.fusion.branches[1](features["pool5"]).shape
        == (2, 512, 5, 5)
    )
    fc = [
        (m.in_features, m.out_features)
        for head in (net.identity_head, net.expression_head)
        for m in head
        if isinstance(m, torch.nn.Linear)
    ]
    assert fc == [(12800, 4096), (4096, 1024), (1024, 199), (12800, 4096), (4096, 1024), (1024, 29)]
    convolutions = [m for m in net.trunk.modules() if isinstance(m, torch.nn.Conv2d)]
    assert (
        len(convolutions) == 13 and sum(p.numel() for p in net.trunk.parameters()) == 14_714_688
    )  # VGG-16's features
    assert {k: tuple(v.shape) for k, v in net(image).items()} == dict(
        identity=(2, 199), expression=(2, 29), pose=(2, 9)
    )


def test_every_layer_but_the_last_of_a_head_is_followed_by_a_relu():
    net = small(batch_norm=False)
    for part in (net.trunk, net.fusion, net.identity_head, net.expression_head):
        layers = [m for m in part.modules() if not list(m.children())]
        for layer, after in zip(layers, layers[1:]):
            if isinstance(layer, (torch.nn.Conv2d, torch.nn.Linear)):
                assert isinstance(after, torch.nn.ReLU)


@pytest.mark.parametrize(
    "batch_norm, normed",
    [
        (True, {"trunk", "fusion", "identity_head", "expression_head", "pose_head"}),
        ("convolutions", {"trunk", "fusion"}),
        ("heads", {"fusion", "identity_head", "expression_head", "pose_head"}),
        (False, set()),
    ],
)
def test_batch_norm_goes_where_it_is_asked_for(batch_norm, normed):
    net = small(batch_norm=batch_norm)
    found = {
        name
        for name, part in net.named_children()
        if any(isinstance(m, (torch.nn.BatchNorm1d, torch.nn.BatchNorm2d)) for m in part.modules())
    }
    assert found == normed and all(
        isinstance(head[-1], torch.nn.Linear)
        for head in (net.identity_head, net.expression_head, net.pose_head)
    )


def test_an_unknown_place_for_batch_norm_is_refused():
    with pytest.raises(ValueError, match="batch_norm='everywhere': choose"):
        small(batch_norm="everywhere")


def test_control_has_the_fusions_parameters():
    count = {
        name: sum(p.numel() for p in small(fused).parameters()) for name, fused in VARIANTS.items()
    }
    assert count["control"] == count["fusion"] > count["two heads"] > count["shared head"]


@pytest.mark.parametrize(
    "fused",
    [
        None,
        ("pool5",),
        ("pool3",),
        ("pool1",),
        ("pool5", "pool5"),
        ("pool4", "pool5"),
        ("pool3", "pool4", "pool5"),
        ("pool2", "pool3"),
        ("pool4", "pool4"),
    ],
)
@pytest.mark.parametrize("image_size", [48, 80])
def test_any_layers_can_be_fused(fused, image_size):
    net = small(fused, image_size)
    out = net(torch.rand(2, 3, image_size, image_size))
    assert {k: tuple(v.shape) for k, v in out.items()} == dict(
        identity=(2, 6), expression=(2, 4), pose=(2, 9)
    )


@pytest.mark.parametrize(
    "fused", [None, ("pool5",), ("pool5", "pool5"), ("pool4", "pool5"), ("pool3",)]
)
def test_expression_reaches_the_layers_it_should(fused):
    net = small(fused)
    features = {
        k: v.detach().requires_grad_()
        for k, v in net.eval().features(torch.rand(2, 3, 48, 48)).items()
    }
    net.heads(features)["expression"].sum().backward()
    assert {k for k, v in features.items() if v.grad is not None and v.grad.any()} == set(
        fused or ("pool5",)
    )
    features = {k: v.detach().requires_grad_() for k, v in features.items()}
    net.heads(features)["identity"].sum().backward()
    assert {k for k, v in features.items() if v.grad is not None and v.grad.any()} == {"pool5"}
    net.zero_grad()
    sum(v.sum() for v in net(torch.rand(2, 3, 48, 48)).values()).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_shared_head_is_one_head():
    net = small(None)
    assert net.expression_head is None and net.fusion is None
    assert net.identity_head[-1].out_features == 6 + 4


def test_heads_on_features_are_the_network():
    net, image = small().eval(), torch.rand(2, 3, 48, 48)
    both = net(image), net.heads(net.features(image))
    assert all(torch.equal(both[0][k], both[1][k]) for k in both[0])


@pytest.mark.parametrize("fused", [None, ("pool5",), ("pool4", "pool5")])
def test_activations_lead_to_the_answers(fused):
    net, image = small(fused).eval(), torch.rand(2, 3, 48, 48)
    found, answers = net.activations(image), net(image)
    assert (
        list(found)[:5] == list(trunks.LAYERS)
        and ("fusion" in found) == (fused == ("pool4", "pool5"))
        and all((x >= 0).all() for x in found.values())
    )
    assert torch.equal(
        net.identity_head[-1](found["identity fc2"]),
        torch.cat([answers["identity"]] + ([] if fused else [answers["expression"]]), 1),
    )
    if fused:
        assert torch.equal(net.expression_head[-1](found["expression fc2"]), answers["expression"])
    recognizer = Recognizer(5, image_size=48, width=1 / 16).eval()
    assert torch.equal(
        recognizer.classifier[-1](recognizer.activations(image)["fc1"]), recognizer(image)
    )


def test_an_untrained_network_sees_the_mean_face_looking_ahead():
    out = small(image_size=80).eval()(torch.rand(4, 3, 80, 80))
    angles = camera.matrix_to_euler(camera.decode_pose(out["pose"], 80)[0])
    assert (
        angles.abs().max() < 0.2
        and out["identity"].abs().max() < 0.3
        and out["expression"].abs().max() < 0.3
    )


@pytest.mark.parametrize("size", [16, 64, 96, 224])
def test_sizes_at_which_the_papers_geometry_fails_are_refused(size):
    with pytest.raises(ValueError, match=r"image_size .* take for example .*\d+"):
        E2FAR(image_size=size, width=1 / 16)


def test_the_sizes_that_the_error_names_are_accepted():
    for size in (48, 80, 112, 144, 180, 208, 240):
        network.check_image_size(size)


def test_wrong_images_and_layers_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3, 80, 80\).*\(B, 3, 48, 48\)"):
        small()(torch.rand(2, 3, 80, 80))
    with pytest.raises(ValueError, match="pool6"):
        small(("pool6",))


@pytest.mark.parametrize("half", [False, True])
def test_saved_network_comes_back(tmp_path, half):
    net, image = small().eval(), torch.rand(2, 3, 48, 48)
    weights.save_network(
        net, tmp_path / "a" / "net.safetensors", half=half, face_model="toy", seed=3
    )
    back = weights.load_network(tmp_path / "a" / "net.safetensors")
    assert (
        back.config == net.config
        and back.metadata == dict(face_model="toy", seed=3)
        and not back.training
    )
    torch.testing.assert_close(
        back(image)["pose"], net(image)["pose"], rtol=0, atol=5e-3 if half else 0
    )
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["net.safetensors"]


def test_a_saved_recogniser_comes_back_as_such(tmp_path):
    recognizer, image = (
        Recognizer(5, image_size=48, width=1 / 16, batch_norm=True).eval(),
        torch.rand(2, 3, 48, 48),
    )
    weights.save_network(recognizer, tmp_path / "it")
    assert torch.equal(weights.load_network(tmp_path / "it", Recognizer)(image), recognizer(image))
    with pytest.raises(ValueError, match="no E2FAR"):
        weights.load_network(tmp_path / "it")


def test_broken_weights_give_one_clear_line(tmp_path):
    good = tmp_path / "good.safetensors"
    weights.save_network(small(), good)
    with pytest.raises(FileNotFoundError, match="dvc repro training"):
        weights.load_network(tmp_path / "none.safetensors")
    for name, content in dict(
        cut=good.read_bytes()[:-100], empty=b"", text=b"not a network" * 9
    ).items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(OSError, match=f"{name} is truncated or not"):
            weights.load_network(tmp_path / name)
    tensors, header = load_file(good), weights.read_tensors(good, "network")[1]
    tensors["pose_head.1.weight"][0] = torch.nan
    save_file(tensors, tmp_path / "nan", metadata={"e2far": json.dumps(header)})
    with pytest.raises(ValueError, match="not finite in pose_head.1.weight"):
        weights.load_network(tmp_path / "nan")
    save_file(
        load_file(good),
        tmp_path / "shape",
        metadata={"e2far": json.dumps(header | dict(config=header["config"] | dict(n_identity=7)))},
    )
    with pytest.raises(ValueError, match="does not fit"):
        weights.load_network(tmp_path / "shape")
    save_file(load_file(good), tmp_path / "bare")
    with pytest.raises(ValueError, match="no network of e2far"):
        weights.load_network(tmp_path / "bare")


def test_trunk_moves_from_recognizer_to_network(tmp_path):
    recognizer, net = Recognizer(5, image_size=48, width=1 / 16, batch_norm=True), small()
    recognizer(torch.rand(4, 3, 48, 48))  # moves BatchNorm's statistics
    weights.save_trunk(recognizer, tmp_path / "trunk.safetensors")
    weights.load_trunk(net, tmp_path / "trunk.safetensors")
    assert all(
        torch.equal(a, b)
        for a, b in zip(net.trunk.state_dict().values(), recognizer.trunk.state_dict().values())
    )
    weights.load_trunk(
        small(batch_norm="convolutions"), tmp_path / "trunk.safetensors"
    )  # the heads' BatchNorm is not the trunk's
    with pytest.raises(ValueError, match="batch_norm"):
        weights.load_trunk(small(batch_norm=False), tmp_path / "trunk.safetensors")
    with pytest.raises(FileNotFoundError):
        weights.load_trunk(net, tmp_path / "none")
    assert recognizer(torch.rand(2, 3, 48, 48)).shape == (2, 5)
