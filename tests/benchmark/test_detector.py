"""The landmark detector, trained for a moment on faces of a toy model."""

import torch
from test_training import build, model, root  # noqa: F401 (fixtures)

from e2far import data, weights
from e2far.benchmark import detector

TRAINING = dict(batch_size=8, validate_every=None)


def off_percent(network, faces):
    rows = torch.arange(len(faces))
    found = detector.detect(network, faces, rows)
    return float((found - faces.landmarks[rows]).norm(dim=-1).mean() * 100 / faces.image_size)


def test_its_loss_is_the_squared_distance_in_percent(root, model):
    faces = data.Faces(root / "train")
    batch = faces.gather(torch.arange(4))
    off = torch.tensor([3.0, 4.0])
    answer = lambda image: batch["landmarks"] * 100 / faces.image_size + off
    objective = detector.distance(model, None, "cpu")
    torch.testing.assert_close(objective(answer, batch)["loss"], torch.tensor(25.0))


def test_a_detector_learns_where_the_landmarks_are(root, tmp_path):
    weights.save_trunk(build(), tmp_path / "trunk.safetensors")
    network = {key: build().config[key] for key in ("image_size", "width", "batch_norm")}
    common = dict(faces=root, model=root / "toy.npz", network=network, seed=0)
    common |= dict(trunk=tmp_path / "trunk.safetensors")
    found = {}
    for steps in (1, 20):
        phases = [dict(steps=steps, heads_rate=2e-2, trunk_rate=2e-2)]
        folder = tmp_path / str(steps)
        detector.detector_job(folder=folder, training=TRAINING | dict(phases=phases), **common)
        path = folder / "network.safetensors"
        found[steps] = weights.load_network(path, detector.LandmarkDetector)
    faces = data.Faces(root / "train", found[1].image_size)
    errors = {steps: off_percent(network, faces) for steps, network in found.items()}
    assert errors[20] < 0.6 * errors[1], errors
