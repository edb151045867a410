"""Files in the formats of VGG-Face and torchvision, a sixteenth as wide; what the trunk answers is
compared with the published networks' own recipe."""

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

WIDTHS, COUNTS = (4, 8, 16, 32, 32), (2, 2, 3, 3, 3)
NAMES = [f"conv{block + 1}_{k + 1}" for block in range(5) for k in range(COUNTS[block])]
MEAN = torch.tensor([129.1863, 104.7624, 93.5940])


def dag():
    """A state dict as of vgg_face_dag.pth: no kernel symmetric, inputs 0..255."""
    torch.manual_seed(0)
    state, n_in = {}, 3
    for name in NAMES:
        n_out, range_of_input = WIDTHS[int(name[4]) - 1], 60 if n_in == 3 else 1
        weight = torch.randn(n_out, n_in, 3, 3) * (2 / (9 * n_in)) ** 0.5 / range_of_input
        state |= {f"{name}.weight": weight, f"{name}.bias": torch.randn(n_out) * 0.1}
        n_in = n_out
    return state | {"fc6.weight": torch.randn(2, 32), "fc6.bias": torch.randn(2)}


def torchvision(batch_norm=False):
    """torchvision's `features`, built from its configuration."""
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


def features_of(net):
    state = {f"features.{key}": value for key, value in net.state_dict().items()}
    return state | {"classifier.6.bias": torch.zeros(5)}


def pools(state, image, mean=MEAN):
    """pool1 ... pool5 of VGG-Face, as its authors say: images 0..255, R, G, B, less the mean."""
    x, found = image * 255 - torch.as_tensor(mean, dtype=torch.float32).view(3, 1, 1), {}
    for name, after in zip(NAMES, NAMES[1:] + ["conv6_1"]):
        x = F.relu(F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], padding=1))
        if name[4] != after[4]:
            x = found[f"pool{name[4]}"] = F.max_pool2d(x, 2)
    return found


def torchvision_pools(features, image):
    mean, std = torch.tensor([[0.485, 0.456, 0.406], [0.229, 0.224, 0.225]]).view(2, 3, 1, 1)
    x, found = (image - mean) / std, {}
    for layer in features:
        x = layer(x)
        if isinstance(layer, nn.MaxPool2d):
            found[f"pool{len(found) + 1}"] = x.detach()
    return found


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
        if layout == "old":
            parts = dict(filters=filters, biases=biases[None])
        else:
            parts = dict(weights=cells([filters, biases[:, None]]))
        layers.append(dict(type="conv", name=name, stride=1.0, **parts))
        layers.append(dict(type="relu", name=name.replace("conv", "relu")))
        if name in ("conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3"):
            layers.append(dict(type="pool", name=f"pool{name[4]}", pool=[2.0, 2.0]))
    layers.append(dict(type="softmax", name="prob"))
    average = dict(averageImage=np.asarray(average), imageSize=[224.0, 224.0, 3.0])
    meta = dict(normalization=average)
    contents = dict(layers=cells(layers)) | (dict(meta=meta) if layout == "current" else meta)
    savemat(path, dict(net=contents) if layout == "release" else contents)


def save(state, path):
    writers = {".mat": save_mat, ".safetensors": lambda path, state: save_file(state, path)}
    writers.get(path.suffix, lambda path, state: torch.save(state, path))(path, state)


def net(batch_norm=False, width=1 / 16):
    torch.manual_seed(2)
    return network.E2FAR(6, 4, image_size=48, width=width, batch_norm=batch_norm).eval()


def copied(module, leaving=()):
    state = module.state_dict().items()
    return {key: value.clone() for key, value in state if not key.startswith(leaving)}


@pytest.fixture
def image():
    return torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(3))


def check(path, expected, image, batch_norm=False):
    """The trunk that is filled from the file answers as expected; the heads stay as they were."""
    module = net(batch_norm)
    heads = copied(module, leaving=("trunk.",))
    vggface.load(module, path)
    found = module.trunk(image)
    assert found.keys() == expected.keys()
    for layer, values in expected.items():
        size = float(values.abs().max())
        assert values.std() > 0.01 * size
        assert_close(found[layer], values, rtol=1e-4, atol=1e-5 * size)
    assert all(torch.equal(module.state_dict()[key], value) for key, value in heads.items())


@pytest.mark.parametrize("ending, wrap", [("pth", False), ("pt", True), ("safetensors", False)])
def test_features_are_those_of_the_pytorch_file(tmp_path, image, ending, wrap):
    state, path = dag(), tmp_path / f"vgg_face_dag.{ending}"
    save(dict(state_dict=state, epoch=3) if wrap else state, path)
    check(path, pools(state, image), image)
    stored = vggface.read(path)
    assert stored.keys() == net().trunk.state_dict().keys()
    assert {value.dtype for value in stored.values()} == {torch.float32}


COLOUR = np.array([100.0, 50.0, 20.0])
PICTURE = COLOUR + np.linspace(-9, 9, 30).reshape(6, 5, 1)  # whose mean colour is that


@pytest.mark.parametrize(
    "layout, average",
    [("release", MEAN.view(1, 1, 3)), ("release", MEAN[:, None]), ("current", MEAN)]
    + [("old", MEAN.double().view(1, 1, 3)), ("old", PICTURE)],
)
def test_features_are_those_of_the_matconvnet_file(tmp_path, image, layout, average):
    state, path = dag(), tmp_path / "vgg_face.mat"
    save_mat(path, state, layout, average)
    check(path, pools(state, image, COLOUR if average is PICTURE else MEAN), image)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("ending", ["pth", "safetensors"])
def test_features_are_those_of_torchvision(tmp_path, image, batch_norm, ending):
    theirs, path = torchvision(batch_norm), tmp_path / f"vgg16.{ending}"
    save(features_of(theirs), path)
    check(path, torchvision_pools(theirs, image), image, batch_norm)


def test_torchvisions_weights_for_features_alone_take_0_to_255(tmp_path):
    """IMAGENET1K_FEATURES: its classifier has no numbers, its std is 1 / 255."""
    state = features_of(torchvision()) | {"classifier.6.bias": torch.full((5,), float("nan"))}
    torch.save(state, tmp_path / "vgg16_features.pth")
    found = vggface.read(tmp_path / "vgg16_features.pth")
    assert_close(found["blocks.0.0.0.weight"], 255 * state["features.0.weight"])
    assert_close(found["mean_colour"].flatten(), torch.tensor([0.48235, 0.45882, 0.40784]))


def test_a_filled_trunk_is_saved_and_loaded_with_its_mean_colour(tmp_path, image):
    torch.save(features_of(torchvision()), tmp_path / "vgg16.pth")
    first, second = network.Recognizer(5, image_size=48, width=1 / 16).eval(), net()
    vggface.load(first, tmp_path / "vgg16.pth")
    weights.save_trunk(first, tmp_path / "trunk.safetensors")
    weights.load_trunk(second, tmp_path / "trunk.safetensors")
    assert torch.equal(first.trunk(image)["pool5"], second.trunk(image)["pool5"])


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
    torch.save(features_of(torchvision(True)), normed)
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
        ("conv4_2.weight", None, "is missing"),
        ("conv1_1.bias", None, "is missing"),
        ("conv3_2.weight", torch.zeros(16, 8, 3, 3), "has shape (16, 8, 3, 3)"),
        ("conv5_3.weight", torch.zeros(32, 32, 5, 5), "has shape"),
        ("conv2_1.bias", torch.zeros(7), "has shape (7,)"),
        ("conv3_4.weight", torch.zeros(16, 16, 3, 3), "is no layer of VGG-16"),
    ],
)
def test_layers_that_are_not_vgg_16s_are_named(tmp_path, key, value, words):
    state, path = dag() | {key: value}, tmp_path / "bad.pth"
    torch.save({key: value for key, value in state.items() if value is not None}, path)
    assert f"{key} {words}" in refusal(vggface.read, path)


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    state, path = dag(), tmp_path / "bad.pth"
    state["conv5_1.weight"].view(-1)[7] = torch.nan
    torch.save(state, path)
    assert "blocks.4.0.0.weight holds numbers" in refusal(vggface.read, path)


def test_matconvnet_files_of_something_else_are_refused(tmp_path):
    path = tmp_path / "bad.mat"
    savemat(path, dict(x=np.zeros(3)))
    assert "'layers'" in refusal(vggface.read, path)
    save_mat(path, dag(), average=np.zeros((4, 5)))
    assert "averageImage has shape (4, 5)" in refusal(vggface.read, path)
    save_mat(path, dag(), average=np.full(3, np.nan))
    assert "mean_colour" in refusal(vggface.read, path)
    state = dag()
    state["conv2_2.weight"] = state["conv2_2.weight"][:, :3]
    save_mat(path, state, "old")
    assert "conv2_2.weight has shape" in refusal(vggface.read, path)


def test_cut_matconvnet_files_are_refused(tmp_path):
    """The other formats: test_damaged_files."""
    path = tmp_path / "whole.mat"
    save_mat(path, dag())
    data = path.read_bytes()
    for size in (0, 1, 100, len(data) // 2, len(data) * 9 // 10):
        path.write_bytes(data[:size])
        refusal(vggface.read, path)


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
    path, made = tmp_path / "hostile.pth", tmp_path / "made"
    torch.save(dag() | {"x": Hostile(made)}, path, _use_new_zipfile_serialization=not legacy)
    assert "not run" in refusal(vggface.read, path) and not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()  # it would have
