"""A landmark detector: the first half of what people run instead of a network like ours.

It has the trunk and the training of an E2FAR, and one head: 68 points in the picture. What it finds
is given to the methods that iterate (`landmark_fit`).
"""

import copy
from contextlib import nullcontext
from pathlib import Path

import torch

from e2far import camera, data, evaluation, facemodels
from e2far.morphable import landmarks_mm
from e2far.network import E2FAR, damp, fully_connected, initialise
from e2far.synthesis.live import LiveFaces
from e2far.training import fit
from e2far.trunks import scaled
from e2far.weights import fill_trunk, save_network

MIDDLE, SPREAD = 50, 20  # percent of the side: answers of the head are about as large as 1


class LandmarkDetector(E2FAR):
    """Image to where the 68 landmarks are, in percent of its side. arguments: of E2FAR"""

    def __init__(self, **arguments):
        super().__init__(**arguments | dict(fused=None))
        n_in, width = self.identity_head[1].in_features, self.config["width"]
        normed = self.config["batch_norm"] in (True, "heads")
        del self.identity_head, self.pose_head
        hidden = scaled(4096, width), scaled(1024, width)
        self.landmark_head = fully_connected(n_in, *hidden, 136, batch_norm=normed)
        initialise(self.landmark_head)
        damp(self.landmark_head)

    def forward(self, image):
        """Points (B, 68, 2) in images (B, 3, S, S) in [0, 1]."""
        answer = self.landmark_head(self.features(image)[self.top])
        return MIDDLE + SPREAD * answer.unflatten(1, (68, 2))


def distance(model, recipe, device, features=None):
    """The objective of `fit`: mean squared distance of the points, (percent of the side)²."""
    model = copy.deepcopy(model).float().to(device)

    def objective(network, batch):
        points = landmarks_mm(model, batch["identity"], batch["expression"])
        seen = camera.weak_perspective(points, *camera.decode_pose(batch["pose"], 100))
        return dict(loss=(network(batch["image"]) - seen).square().sum(-1).mean())

    return objective


def detector_job(*, folder, faces, model, network, training, seed, progress=False, **more):
    """Train and store one LandmarkDetector; for `jobs.run_many`, arguments as of `train_job`.

    more: trunk and live
    """
    folder, model = Path(folder), facemodels.load_face_model(model)
    sizes = dict(n_identity=model.n_identity, n_expression=model.n_expression)
    torch.manual_seed(seed)
    net = LandmarkDetector(**network | sizes)
    fill_trunk(net, more["trunk"])
    checkpoint = folder / "checkpoint.pt"
    files = dict(log=folder / "log.csv", checkpoint=checkpoint)
    size = network["image_size"]
    options = dict(objective=distance, seed=seed, progress=progress, **files, **training)
    live = more.get("live")
    stored = nullcontext(data.Faces(Path(faces) / "train", size)) if not live else None
    with stored or LiveFaces(model, size, **live) as train:
        fit(net, model, train, None, **options)
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=seed)
    checkpoint.unlink(missing_ok=True)
    return {}


def detect(network, faces, rows):
    """Landmarks (n, 68, 2) px that a LandmarkDetector finds in pictures."""
    return evaluation.predict(network, faces, rows) * faces.image_size / 100
