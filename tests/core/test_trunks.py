"""Trunks other than VGG-16: same names and grids, so that heads, probes and figures take any."""

import importlib
import sys
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.testing import assert_close

from e2far import network, trunks, weights
from e2far.analysis.features import matched_grids
from e2far.network import E2FAR, Recognizer

OURS = ("vgg16", "residual", "depthwise")


def build(trunk, image_size=48, **arguments):
    torch.manual_seed(0)
    options = dict(width=1 / 32, batch_norm=True) | arguments
    return E2FAR(6, 4, image_size=image_size, trunk=trunk, **options)


@pytest.mark.parametrize("trunk", OURS)
def test_maps_have_vggs_names_and_grids_at_every_size(trunk):
    made = trunks.open_trunk(trunk, 1 / 32, True).eval()
    for size in (48, 112, 180):
        maps, answers = trunks.map_sizes(made, size), made(torch.rand(1, 3, size, size))
        assert {layer: tuple(x.shape[1:3]) for layer, x in answers.items()} == maps
        assert [side for _, side in maps.values()] == [size // 2**level for level in range(1, 6)]
        assert tuple(maps) == trunks.LAYERS


@pytest.mark.parametrize("trunk", OURS)
def test_every_layer_learns_from_the_answers_and_comes_back_from_its_file(trunk, tmp_path):
    net, image = build(trunk).train(), torch.rand(4, 3, 48, 48)
    sum(value.square().sum() for value in net(image).values()).backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in net.trunk.parameters())
    weights.save_network(net, tmp_path / "net.safetensors")
    again = weights.load_network(tmp_path / "net.safetensors")
    assert again.config["trunk"] == trunk
    assert_close(again(image), net.eval()(image))


@pytest.mark.parametrize("trunk", ("residual", "depthwise"))
def test_a_residual_path_carries_the_signal(trunk):
    """Blocks without a change of size start near the identity: what goes in comes out, and more."""
    block = trunks.open_trunk(trunk, 1 / 32, True).stages[1][-1].eval()
    x = torch.rand(1, next(block.parameters()).shape[1], 8, 8)
    for norm in (module for module in block.modules() if isinstance(module, nn.BatchNorm2d)):
        nn.init.zeros_(norm.weight)
    assert_close(block(x), x)


def test_probes_match_layers_of_any_trunk():
    net = build("residual").eval()
    grids = matched_grids(net)
    counts = {name: channels * grids[name] ** 2 for name, channels in net.trunk.channels.items()}
    assert min(counts.values()) >= counts["pool5"]


def test_a_trunk_of_another_kind_is_refused(tmp_path):
    recognizer = Recognizer(3, image_size=48, width=1 / 32, batch_norm=True, trunk="residual")
    weights.save_trunk(recognizer, tmp_path / "trunk.safetensors")
    weights.fill_trunk(build("residual"), tmp_path / "trunk.safetensors")
    with pytest.raises(ValueError, match="of this trunk, width and batch_norm"):
        weights.fill_trunk(build("vgg16"), tmp_path / "trunk.safetensors")


def test_unknown_trunks_say_what_to_choose():
    for arguments, message in (
        (dict(trunk="resnet"), "choose vgg16, residual, depthwise, dlib or timm/NAME"),
        (dict(width=0), "width 0"),
        (dict(trunk="residual", batch_norm=False), "does not train without BatchNorm"),
    ):
        with pytest.raises(ValueError, match=message):
            build(**dict(trunk="vgg16") | arguments)


def test_conv6_joins_grids_that_round_down_or_up_and_refuses_others():
    for pool4, pool5, padding in (11, 5, 1), (5, 2, 1), (7, 3, 1), (7, 4, 2), (14, 7, 2):
        assert network.conv6_padding(pool4, pool5) == padding
        conv6 = nn.Conv2d(1, 1, 5, stride=2, padding=padding)
        assert conv6(torch.rand(1, 1, pool4, pool4)).shape[-1] == pool5
    with pytest.raises(ValueError, match="which conv6 does not join"):
        network.conv6_padding(12, 3)


class FakeFeatures(nn.Module):
    """What `timm.create_model(..., features_only=True)` gives: a list of maps, how much reduced."""

    def __init__(self, reductions=(4, 8, 16, 32)):
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3, 8, 3, stride=r, padding=1) for r in reductions)
        sizes = dict(reduction=lambda: list(reductions), channels=lambda: [8] * len(reductions))
        self.feature_info = SimpleNamespace(**sizes)

    def forward(self, x):
        return [layer(x) for layer in self.layers]


@pytest.fixture
def fake_timm(monkeypatch):
    def create_model(name, features_only, pretrained=False, pretrained_cfg_overlay=None):
        assert features_only
        if name == "nothing":
            raise RuntimeError("Unknown model (nothing)")
        model = FakeFeatures((4, 8) if name == "shallow" else (4, 8, 16, 32))
        if pretrained:
            model.load_state_dict(torch.load(pretrained_cfg_overlay["file"], weights_only=True))
        return model

    config = lambda name: SimpleNamespace(mean=(0.5,) * 3, std=(0.2,) * 3)
    found = SimpleNamespace(create_model=create_model, get_pretrained_cfg=config)
    monkeypatch.setitem(sys.modules, "timm", found)


def test_timms_networks_serve_as_trunks_with_weights_of_the_users_file(fake_timm, tmp_path):
    net = build("timm/fake", image_size=112)
    assert set(net.trunk.channels) == {"pool2", "pool3", "pool4", "pool5"}
    grey = torch.full((1, 3, 112, 112), 0.5)  # the mean colour, which is zero to it
    assert_close(net.eval().features(grey)["pool5"], net.trunk.network(0 * grey)[3])
    assert net(torch.rand(2, 3, 112, 112))["expression"].shape == (2, 4)
    stored = FakeFeatures().state_dict()
    torch.save(stored, tmp_path / "weights.pth")
    weights.fill_trunk(net, tmp_path / "weights.pth")
    assert_close(net.trunk.network.state_dict(), stored)
    with pytest.raises(FileNotFoundError, match="no weights at"):
        weights.fill_trunk(net, tmp_path / "others.pth")


def test_networks_that_timm_cannot_give_are_refused(fake_timm, monkeypatch):
    for name, message in ("nothing", "Unknown model"), ("shallow", "heads need pool4 and pool5"):
        with pytest.raises(ValueError, match=message):
            build(f"timm/{name}", image_size=112)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ImportError, match="pip install timm"):
        build("timm/resnet18", image_size=112)


def test_a_real_network_of_timm_takes_a_step():
    try:
        importlib.import_module("timm")
    except Exception:  # not installed, or with a torchvision of another build
        pytest.skip("timm is not here")
    net = build("timm/resnet18", image_size=112).train()
    net(torch.rand(2, 3, 112, 112))["identity"].sum().backward()
    assert next(net.trunk.parameters()).grad.abs().sum() > 0
