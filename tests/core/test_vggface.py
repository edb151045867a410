"""Files in the formats of VGG-Face and torchvision, a sixteenth as wide; what the trunk answers is
compared with the published networks' own recipe."""

import os

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from scipy.io import savemat
from torch import nn
from torch.testing import assert_close

from e2far import network, vggface

WIDTHS, COUNTS = (4, 8, 16, 32, 32), (2, 2, 3, 3, 3)
NAMES = [f"conv{block + 1}_{k + 1}" for block in range(5) for k in range(COUNTS[block])]
MEAN = torch.tensor([129.1863, 104.7624, 93.5940])
VGG_FACE = MEAN / 255, torch.full((3,), 1 / 255)
IMAGENET = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]])


def published(batch_norm=False):
    """VGG-16's features, built from torchvision's configuration; no kernel is symmetric."""
    torch.manual_seed(1)
    layers, n_in = [], 3
    for n_out, count in zip(WIDTHS, COUNTS):
        for _ in range(count):
            norm = [nn.BatchNorm2d(n_out)] if batch_norm else []
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1), *norm, nn.ReLU()]
            for value in norm and [*norm[0].parameters(), *norm[0].buffers()][:4]:
                nn.init.uniform_(value, 0.5, 1.5)
            n_in = n_out
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers).eval()


def torchvision(batch_norm=False):
    """A state dict as of torchvision's vgg16 or vgg16_bn."""
    state = published(batch_norm).state_dict()
    return {f"features.{key}": x for key, x in state.items()} | {
        "classifier.6.bias": torch.zeros(5)
    }


def dag():
    """A state dict as of vgg_face_dag.pth, whose inputs are 0..255."""
    convolutions = [layer for layer in published() if isinstance(layer, nn.Conv2d)]
    state = {f"{name}.weight": x.weight.data for name, x in zip(NAMES, convolutions)}
    state |= {f"{name}.bias": x.bias.data for name, x in zip(NAMES, convolutions)}
    return state | {"fc6.weight": torch.randn(2, 32), "fc6.bias": torch.randn(2)}


def cells(items):
    """A cell array (1, n)."""
    array = np.empty((1, len(items)), object)
    array[0] = items
    return array


def save_mat(path, state, layout="release", average=MEAN):
    """As MatConvNet saves it: `release` in `net`, `current` with `meta`, `old` with filters and
    biases at the top."""
    layers = []
    for name in NAMES + ["fc6"]:
        weight, biases = (state[f"{name}.{part}"].numpy() for part in ("weight", "bias"))
        filters = weight.transpose(2, 3, 1, 0) if weight.ndim == 4 else weight.T[None, None]
        parts = dict(weights=cells([filters, biases[:, None]]))
        if layout == "old":
            parts = dict(filters=filters, biases=biases[None])
        layers.append(dict(type="conv", name=name, stride=1.0, **parts))
        layers.append(dict(type="relu", name=name.replace("conv", "relu")))
    average = dict(averageImage=np.asarray(average), imageSize=[224.0, 224.0, 3.0])
    meta = dict(normalization=average)
    contents = dict(layers=cells(layers)) | (dict(meta=meta) if layout == "current" else meta)
    savemat(path, dict(net=contents) if layout == "release" else contents)


def net(batch_norm=False, width=1 / 16):
    torch.manual_seed(2)
    return network.E2FAR(6, 4, image_size=48, width=width, batch_norm=batch_norm).eval()


def copied(module):
    return {key: value.clone() for key, value in module.state_dict().items()}


def check(path, mean, std, batch_norm=False):
    """The trunk filled from the file answers as the published one; the heads stay as they were."""
    image = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))
    x, expected = (image - mean.view(3, 1, 1)) / std.view(3, 1, 1), []
    for layer in published(batch_norm):
        x = layer(x)
        expected += [x.detach()] * isinstance(layer, nn.MaxPool2d)
    module = net(batch_norm)
    before = copied(module)
    vggface.load(module, path)
    for found, values in zip(module.trunk(image).values(), expected, strict=True):
        size = float(values.abs().max())
        assert values.std() > 0.01 * size
        assert_close(found, values, rtol=1e-4, atol=1e-5 * size)
    after = module.state_dict().items()
    assert all(torch.equal(x, before[key]) for key, x in after if not key.startswith("trunk."))
    assert {value.dtype for value in module.trunk.parameters()} == {torch.float32}


def test_features_are_those_of_the_pytorch_files(tmp_path):
    path = tmp_path / "weights.pth"
    for batch_norm in (False, True):
        torch.save(torchvision(batch_norm), path)
        check(path, *IMAGENET, batch_norm)
    torch.save(dag(), path)
    check(path, *VGG_FACE)
    torch.save(dict(state_dict=dag(), epoch=3), path)
    check(path, *VGG_FACE)
    save_file(dag(), tmp_path / "weights.safetensors")
    check(tmp_path / "weights.safetensors", *VGG_FACE)
    # IMAGENET1K_FEATURES: its classifier has no numbers, its std is 1 / 255.
    torch.save(torchvision() | {"classifier.6.bias": torch.full((5,), torch.nan)}, path)
    check(path, torch.tensor([0.48235, 0.45882, 0.40784]), VGG_FACE[1])


COLOUR = torch.tensor([100.0, 50.0, 20.0])
PICTURE = COLOUR + torch.linspace(-9, 9, 30).view(6, 5, 1)  # whose mean colour is that


@pytest.mark.parametrize(
    "layout, average",
    [("release", MEAN.view(1, 1, 3)), ("release", MEAN[:, None]), ("current", MEAN)]
    + [("old", MEAN.double().view(1, 1, 3)), ("old", PICTURE)],
)
def test_features_are_those_of_the_matconvnet_file(tmp_path, layout, average):
    save_mat(tmp_path / "vgg_face.mat", dag(), layout, average)
    check(tmp_path / "vgg_face.mat", (COLOUR if average is PICTURE else MEAN) / 255, VGG_FACE[1])


def refusal(call, *arguments):
    """The message, one line that names the file."""
    with pytest.raises(ValueError) as info:
        call(*arguments)
    message = str(info.value)
    assert "\n" not in message and "weights_only" not in message
    assert arguments[-1].name in message
    return message


def test_other_widths_and_batch_norm_are_refused_and_leave_the_trunk_alone(tmp_path):
    plain, normed = tmp_path / "plain.pth", tmp_path / "normed.pth"
    torch.save(dag(), plain)
    torch.save(torchvision(True), normed)
    for module, path, words in (
        (net(width=1 / 32), plain, "width 1.0"),
        (net(True), plain, "batch_norm=False"),
        (net(), normed, "batch_norm=True"),
    ):
        before = copied(module)
        assert words in refusal(vggface.load, module, path)
        assert all(torch.equal(module.state_dict()[key], value) for key, value in before.items())


@pytest.mark.parametrize(
    "key, value, words",
    [
        ("conv4_2.weight", None, "missing"),
        ("conv1_1.bias", None, "missing"),
        ("conv3_2.weight", torch.zeros(16, 8, 3, 3), "has shape (16, 8, 3, 3)"),
        ("conv5_3.weight", torch.zeros(32, 32, 5, 5), "has shape"),
        ("conv2_1.bias", torch.zeros(7), "has shape (7,)"),
        ("conv3_4.weight", torch.zeros(16, 16, 3, 3), "is no layer of VGG-16"),
        ("conv5_3.bias", torch.full((32,), torch.nan), "not finite"),
    ],
)
def test_layers_that_are_not_vgg_16s_are_named(tmp_path, key, value, words):
    state, path = dag() | {key: value}, tmp_path / "bad.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    message = refusal(vggface.read, path)
    assert key in message and words in message


def test_files_of_something_else_are_refused(tmp_path):
    """Cut ones too; those in PyTorch's formats: test_damaged_files."""
    path = tmp_path / "bad.mat"
    savemat(path, dict(x=np.zeros(3)))
    assert "'layers'" in refusal(vggface.read, path)
    for average in (np.zeros((4, 5)), np.full(3, np.nan)):
        save_mat(path, dag(), average=average)
        refusal(vggface.read, path)
    content = path.read_bytes()
    for size in (0, 1, 100, len(content) // 2, len(content) * 9 // 10):
        path.write_bytes(content[:size])
        refusal(vggface.read, path)
    torch.save([torch.zeros(3)], tmp_path / "list.pth")
    refusal(vggface.read, tmp_path / "list.pth")
    with pytest.raises(FileNotFoundError, match="Visual Geometry Group"):
        vggface.read(tmp_path / "absent.mat")


class Hostile:
    def __init__(self, folder):
        self.folder = folder

    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


@pytest.mark.parametrize("legacy", [False, True])
def test_no_code_of_a_pickle_runs(tmp_path, legacy):
    path, made = tmp_path / "hostile.pth", tmp_path / "made"
    torch.save(dag() | {"x": Hostile(made)}, path, _use_new_zipfile_serialization=not legacy)
    assert "not run" in refusal(vggface.read, path) and not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # it would have
