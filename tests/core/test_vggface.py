"""Files in the formats of VGG-Face and torchvision, a sixteenth as wide; what the trunk answers is compared with the published networks' own recipe."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn
from torch.nn import functional as F
from torch.testing import assert_close

from e2far import network, vggface, weights

WIDTHS = (4, 8, 16, 32, 32)
NAMES = [
    "conv1_1",
    "conv1_2",
    "conv2_1",
    "conv2_2",
    "conv3_1",
    "conv3_2",
    "conv3_3",
    "conv4_1",
    "conv4_2",
    "conv4_3",
    "conv5_1",
    "conv5_2",
    "conv5_3",
]
MEAN = torch.tensor([129.1863, 104.7624, 93.5940])


def dag():
    """A state dict as of vgg_face_dag.pth: no kernel symmetric, inputs 0..255."""
    torch.manual_seed(0)
    state, n_in = {}, 3
    for name in NAMES:
        n_out = WIDTHS[int(name[4]) - 1]
        state[f"{name}.weight"] = (
            torch.randn(n_out, n_in, 3, 3) * (2 / (9 * n_in)) ** 0.5 / (60 if n_in == 3 else 1)
        )
        state[f"{name}.bias"] = torch.randn(n_out) * 0.1
        n_in = n_out
    return state | {"fc6.weight": torch.randn(2, 32), "fc6.bias": torch.randn(2)}


def torchvision(batch_norm=False):
    """torchvision's `features`, built from its configuration."""
    torch.manual_seed(1)
    layers, n_in = [], 3
    for n_out, count in zip(WIDTHS, (2, 2, 3, 3, 3)):
        for _ in range(count):
            layers += [
                nn.Conv2d(n_in, n_out, 3, padding=1),
                *([nn.BatchNorm2d(n_out)] if batch_norm else []),
                nn.ReLU(),
            ]
            n_in = n_out
        layers.append(nn.MaxPool2d(2))
    net = nn.Sequential(*layers).eval()
    for layer in net:
        if isinstance(layer, nn.BatchNorm2d):
            for value in (layer.weight, layer.bias, layer.running_mean, layer.running_var):
                nn.init.uniform_(value, 0.5, 1.5)
    return net


def features_of(net):
    return {
        f"features.{key}": value.detach().clone() for key, value in net.state_dict().items()
    } | {"classifier.6.bias": torch.zeros(5)}


def pools(state, image, mean=MEAN):
    """pool1 ... pool5 of VGG-Face, as its authors say: images 0..255, R, G, B, less the mean colour."""
    x, found = image * 255 - torch.as_tensor(mean, dtype=torch.float32).view(3, 1, 1), {}
    for name, after in zip(NAMES, NAMES[1:] + ["conv6_1"]):
        x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
        if name[4] != after[4]:
            x = found[f"pool{name[4]}"] = F.max_pool2d(x, 2)
    return found


def cells(items):
    """A cell array (1, n)."""
    array = np.empty((1, len(items)), object)
    array[0] = items
    return array


def save_mat(path, state, layout, average):
    """As MatConvNet saves it: `release` in `net`, `current` with `meta`, `old` with filters and biases at the top."""
    layers = []
    for name in NAMES + ["fc6"]:
        weight = state[f"{name}.weight"].numpy()
        filters = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T[None, None]
        biases = state[f"{name}.bias"].numpy()
        parts = (
            dict(filters=filters, biases=biases[None])
            if layout == "old"
            else dict(weights=cells([filters, biases[:, None]]))
        )
        layers += [
            dict(type="conv", name=name, stride=1.0, **parts),
            dict(type="relu", name=name.replace("conv", "relu")),
        ]
        if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
            layers.append(dict(type="pool", name=f"pool{name[4]}", pool=[2.0, 2.0]))
    layers.append(dict(type="softmax", name="prob"))
    normalization = dict(averageImage=average, imageSize=[224.0, 224.0, 3.0])
    contents = dict(layers=cells(layers)) | (
        dict(meta=dict(normalization=normalization))
        if layout == "current"
        else dict(normalization=normalization)
    )
    savemat(path, dict(net=contents) if layout == "release" else contents)


def net(batch_norm=False, width=1 / 16):
    torch.manual_seed(2)
    return network.E2FAR(6, 4, image_size=48, width=width, batch_norm=batch_norm).eval()


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def check(module, path, expected, image):
    heads = {
        key: value.clone()
        for key, value in module.state_dict().items()
        if not key.startswith("trunk.")
    }
    vggface.load(module, path)
    found = module.trunk(image)
    assert found.keys() == expected.keys()
    for layer in expected:
        assert expected[layer].std() > 0.01
        assert_close(found[layer], expected[layer], rtol=1e-4, atol=1e-4)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in heads.items())


@pytest.mark.parametrize("ending, wrap", [("pth", False), ("pt", True), ("safetensors", False)])
def test_features_are_those_of_the_pytorch_file(tmp_path, image, ending, wrap):
    state, path = dag(), tmp_path / f"vgg_face_dag.{ending}"
    save_file(state, path) if ending == "safetensors" else torch.save(
        dict(state_dict=state, epoch=3) if wrap else state, path
    )
    check(net(), path, pools(state, image), image)
    stored = vggface.read(path)
    assert stored.keys() == net().trunk.state_dict().keys() and {
        value.dtype for value in stored.values()
    } == {torch.float32}


@pytest.mark.parametrize(
    "layout, average",
    [
        ("release", MEAN.numpy().reshape(1, 1, 3)),
        ("release", MEAN.numpy()[:, None]),
        ("current", MEAN.numpy()),
        ("old", MEAN.double().numpy().reshape(1, 1, 3)),
        (
            "old",
            np.broadcast_to([100.0, 50.0, 20.0], (6, 5, 3))
            + np.linspace(-9, 9, 30).reshape(6, 5, 1),
        ),
    ],
)
def test_features_are_those_of_the_matconvnet_file(tmp_path, image, layout, average):
    state, path = dag(), tmp_path / "vgg_face.mat"
    save_mat(path, state, layout, average)
    check(
        net(), path, pools(state, image, [100.0, 50.0, 20.0] if average.size > 3 else MEAN), image
    )


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_features_are_those_of_torchvision(tmp_path, image, batch_norm, ending):
    theirs, path = torchvision(batch_norm), tmp_path / f"vgg16.{ending}"
    (torch.save if ending == "pth" else save_file)(features_of(theirs), path)
    with torch.no_grad():
        x, expected = (
            (image - torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1))
            / torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1),
            {},
        )
        for layer in theirs:
            x = layer(x)
            if isinstance(layer, nn.MaxPool2d):
                expected[f"pool{len(expected) + 1}"] = x
        module = network.Recognizer(5, image_size=48, width=1 / 16, batch_norm=batch_norm).eval()
        vggface.load(module, path)
        for layer, value in module.trunk(image).items():
            assert_close(
                value, expected[layer], rtol=1e-4, atol=1e-5 * float(expected[layer].abs().max())
            )


def test_torchvisions_weights_for_features_alone_take_0_to_255(tmp_path):
    """IMAGENET1K_FEATURES: its classifier has no numbers, its std is 1 / 255."""
    state = features_of(torchvision()) | {"classifier.6.bias": torch.full((5,), float("nan"))}
    torch.save(state, tmp_path / "vgg16_features.pth")
    found = vggface.read(tmp_path / "vgg16_features.pth")
    assert_close(found["blocks.0.0.0.weight"], 255 * state["features.0.weight"])
    assert_close(found["mean_colour"].flatten(), torch.tensor([0.48235, 0.45882, 0.40784]))


def test_a_filled_trunk_is_saved_and_loaded_with_its_mean_colour(tmp_path, image):
    torch.save(features_of(torchvision()), tmp_path / "vgg16.pth")
    first, second = net(), net()
    vggface.load(first, tmp_path / "vgg16.pth")
    weights.save_trunk(first, tmp_path / "trunk.safetensors")
    weights.load_trunk(second, tmp_path / "trunk.safetensors")
    assert torch.equal(first.trunk(image)["pool5"], second.trunk(image)["pool5"])


def refusal(call, *arguments):
    with pytest.raises(ValueError) as info:
        call(*arguments)
    assert "\n" not in str(info.value)
    return str(info.value)


def test_other_widths_and_batch_norm_are_refused_and_leave_the_trunk_alone(tmp_path):
    plain, normed = tmp_path / "plain.pth", tmp_path / "normed.pth"
    torch.save(dag(), plain)
    torch.save(features_of(torchvision(True)), normed)
    for module, path, words in (
        (net(width=1 / 32), plain, "width 1.0"),
        (net(True), plain, "batch_norm=False"),
        (net(), normed, "batch_norm=True"),
    ):
        before = {key: value.clone() for key, value in module.state_dict().items()}
        assert words in refusal(vggface.load, module, path)
        assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    "change, words",
    [
        (lambda state: state.pop("conv4_2.weight"), "conv4_2.weight is missing"),
        (lambda state: state.pop("conv1_1.bias"), "conv1_1.bias is missing"),
        (
            lambda state: state.update({"conv3_2.weight": torch.zeros(16, 8, 3, 3)}),
            "conv3_2.weight has shape (16, 8, 3, 3)",
        ),
        (
            lambda state: state.update({"conv1_1.weight": torch.zeros(4, 1, 3, 3)}),
            "conv1_1.weight has shape",
        ),
        (
            lambda state: state.update({"conv5_3.weight": torch.zeros(32, 32, 5, 5)}),
            "conv5_3.weight has shape",
        ),
        (
            lambda state: state.update({"conv2_1.bias": torch.zeros(7)}),
            "conv2_1.bias has shape (7,)",
        ),
        (
            lambda state: state["conv5_1.weight"].view(-1)[7:8].fill_(float("nan")),
            "blocks.4.0.0.weight holds numbers that are not finite",
        ),
        (
            lambda state: state.update({"conv3_4.weight": torch.zeros(16, 16, 3, 3)}),
            "conv3_4.weight is no layer of VGG-16",
        ),
        (lambda state: state.clear(), "conv1_1.weight is missing"),
    ],
)
def test_layers_that_are_not_vgg_16s_are_named(tmp_path, change, words):
    state = dag()
    change(state)
    torch.save(state, tmp_path / "bad.pth")
    message = refusal(vggface.read, tmp_path / "bad.pth")
    assert words in message and "bad.pth" in message


def test_matconvnet_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "bad.mat"
    savemat(path, dict(x=np.zeros(3)))
    assert "'layers'" in refusal(vggface.read, path)
    for average, words in (
        (np.zeros((4, 5)), "averageImage has shape (4, 5)"),
        (np.full(3, np.nan), "mean_colour"),
    ):
        save_mat(path, dag(), "release", average)
        assert words in refusal(vggface.read, path)
    state = dag()
    state["conv2_2.weight"] = state["conv2_2.weight"][:, :3]
    save_mat(path, state, "old", MEAN.numpy())
    assert "conv2_2.weight has shape" in refusal(vggface.read, path)


@pytest.mark.parametrize("ending", ["pth", "mat", "safetensors"])
def test_cut_files_are_refused(tmp_path, ending):
    state, path = dag(), tmp_path / f"whole.{ending}"
    {
        "pth": lambda: torch.save(state, path),
        "mat": lambda: save_mat(path, state, "release", MEAN.numpy()),
        "safetensors": lambda: save_file(state, path),
    }[ending]()
    data = path.read_bytes()
    for size in (0, 1, 100, len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:size])
        assert "weights_only" not in refusal(vggface.read, path)


def test_files_that_hold_no_weights_are_refused(tmp_path):
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    assert "holds a list" in refusal(vggface.read, tmp_path / "list.pth")
    (tmp_path / "vgg.txt").write_text("weights")
    assert ".safetensors" in refusal(vggface.read, tmp_path / "vgg.txt")
    with pytest.raises(FileNotFoundError, match="Visual Geometry Group"):
        vggface.read(tmp_path / "absent.mat")


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_pickle_runs(tmp_path, legacy):
    path = tmp_path / "hostile.pth"
    torch.save(
        dag() | {"x": Hostile(tmp_path / "made")}, path, _use_new_zipfile_serialization=not legacy
    )
    message = refusal(vggface.read, path)
    assert (
        "not run" in message and "weights_only" not in message and not (tmp_path / "made").exists()
    )
    torch.load(path, weights_only=False)
    assert (tmp_path / "made").exists()  # it would have
