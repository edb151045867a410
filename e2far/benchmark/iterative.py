"""A rival that iterates: a CNN that looks at its own estimate (Richardson et al. 2016, 2017).

Estimates are dicts of identity (B, K), expression (B, L) and pose (B, 9), as E2FAR returns them.
This rival and `landmark_fit.refine` yield the one they start from and one more each iteration.
"""

import time
from pathlib import Path

import numpy as np
import torch
from torch import nn

from e2far import camera, data, facemodels, raster
from e2far.benchmark.landmark_fit import frontal_mean
from e2far.network import E2FAR, check_images, damp
from e2far.training import fit
from e2far.weights import fill_trunk, load_network, save_network

CHANNELS = 6  # of a rendering: normal map and PNCC, as in CoarseNet (Richardson et al. 2017)


class RegionMesh:
    """A face model's region as a mesh of its own, on the CPU, in single precision."""

    def __init__(self, model):
        used, triangles = model.region_triangles.unique(return_inverse=True)
        parts = model.mean, torch.cat((model.identity_basis, model.expression_basis), 2)
        self.mean, self.basis = (part[used].float().cpu() for part in parts)
        low, high = self.mean.amin(0), self.mean.amax(0)
        # PNCC: place on the mean face (Zhu 2016)
        self.code = ((self.mean - low) / (high - low) - 0.5).numpy()
        self.triangles = triangles.int().cpu().numpy()

    def __call__(self, identity, expression):
        """Vertices (B, M, 3) mm."""
        offset = torch.cat((identity, expression), -1) @ self.basis.flatten(0, 1).mT
        return self.mean + offset.unflatten(-1, self.mean.shape)

    @torch.no_grad()
    @torch.autocast("cpu", enabled=False)
    def render(self, estimate, size):
        """What the camera of `estimate` sees, (B, 6, size, size) float32 on the CPU: CHANNELS.

        # Choice: numba, a picture at a time, one sample a pixel: 1.1 ms a face at 80 px.
        """
        estimate = {name: values.float().cpu() for name, values in estimate.items()}
        rotation, scale, translation = camera.decode_pose(estimate["pose"], size)
        vertices = self(estimate["identity"], estimate["expression"])
        points = camera.weak_perspective(vertices, rotation, scale, translation).numpy()
        turned, code = (vertices @ rotation.mT).numpy(), raster.matt(self.code)
        pictures = np.zeros((len(points), 2, size, size, 3), np.float32)
        for (normals, places), seen, face in zip(pictures, points, turned):
            nearness = np.ascontiguousarray(face[:, 2])
            hits = *raster.zbuffer(seen, nearness, self.triangles, size), self.triangles
            directions = raster.vertex_normals(face, self.triangles)
            raster.resolve(*hits, raster.matt(directions), normals, 1)
            raster.resolve(*hits, code, places, 1)
        return torch.from_numpy(pictures.transpose(0, 1, 4, 2, 3).reshape(-1, CHANNELS, size, size))


class IterativeE2FAR(E2FAR):
    """An E2FAR that sees a picture beside a rendering of its estimate, and corrects that T times.

    start_from: file of `save_trunk` (None: random)    arguments: of E2FAR

    # Choice: in training it corrects its own estimates after 0 ... T-1 iterations, as at the test,
    # and not places drawn between the mean and the truth (Carreira et al. 2016). One correction a
    # picture and step has a gradient: with all T a toy learnt worse, at twice the time.
    # Choice: weights for the rendering start at zero: a frozen trunk would never see it.
    """

    def __init__(self, model, iterations=4, start_from=None, **arguments):
        if arguments.get("trunk", "vgg16") != "vgg16":
            raise ValueError(f"an iterative network needs trunk vgg16, not {arguments['trunk']}")
        sizes = dict(n_identity=model.n_identity, n_expression=model.n_expression)
        super().__init__(**arguments | sizes)
        self.config |= dict(iterations=iterations)
        self.iterations, self.surface = iterations, RegionMesh(model)
        if start_from:
            fill_trunk(self, start_from)
        damp(self.pose_head, torch.zeros(9))  # a correction, not a pose
        first = self.trunk.blocks[0][0][0]
        blind = torch.zeros(first.out_channels, CHANNELS, *first.kernel_size)
        first.weight = nn.Parameter(torch.cat((first.weight, blind), 1))
        first.in_channels += CHANNELS
        self.trunk.mean_colour = torch.cat((self.trunk.mean_colour, torch.zeros(CHANNELS, 1, 1)))

    def start(self, n):
        return frontal_mean(n, self.n_identity, self.n_expression, self.trunk.mean_colour)

    def features(self, image, estimate=None):
        """Dict of pool1 ... pool5 for images (B, 3, S, S) beside renderings of `estimate`."""
        check_images(image, self.image_size)
        rendering = self.surface.render(estimate or self.start(len(image)), self.image_size)
        pictures = torch.cat((image, rendering.to(image)), 1)
        return self.trunk(pictures.contiguous(memory_format=torch.channels_last))

    def correct(self, image, estimate):
        """The estimate after one more iteration."""
        change = self.heads(self.features(image, estimate))
        return {name: estimate[name] + change[name] for name in change}

    @torch.no_grad()
    def estimates(self, image):
        """Yields the mean face, then the estimate after each iteration."""
        estimate = self.start(len(image))
        yield estimate
        for _ in range(self.iterations):
            estimate = self.correct(image, estimate)
            yield estimate

    def forward(self, image):
        """The last of `estimates`; in training one correction, with a gradient, of `earlier`."""
        if self.training:
            return self.correct(image, self.earlier(image))
        *_, last = self.estimates(image)
        return last

    @torch.no_grad()
    def earlier(self, image):
        """The network's estimate after i mod T iterations of picture i of a shuffled batch."""
        estimate, tuned = self.start(len(image)), self.trunk.training
        self.eval()  # BatchNorm as at the test
        age = torch.arange(len(image), device=image.device) % self.iterations
        for done in range(1, min(self.iterations, len(image))):
            rows = age >= done
            better = self.correct(image[rows], {name: x[rows] for name, x in estimate.items()})
            for name, values in estimate.items():
                values[rows] = better[name].to(values)
        self.train().trunk.train(tuned)
        return estimate


def load_iterative(path, model):
    """The IterativeE2FAR of the face model `model` at `path`, in eval mode, as `load_network`."""

    def iterative_network(**config):
        return IterativeE2FAR(model, **config)

    return load_network(path, iterative_network)


def iterative_job(*, folder, faces, model, network, training, seed, iterations=4, trunk=None):
    """Train and store one IterativeE2FAR; for `jobs.run_many`, arguments as of `train_job`."""
    folder, model = Path(folder), facemodels.load_face_model(model)
    splits = [data.Faces(Path(faces) / n, network["image_size"]) for n in ("train", "validation")]
    torch.manual_seed(seed)
    net = IterativeE2FAR(model, iterations, trunk, **network)
    checkpoint = folder / "checkpoint.pt"
    files = dict(log=folder / "log.csv", checkpoint=checkpoint)
    fit(net, model, *splits, seed=seed, progress=False, **files, **training)
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=seed)
    checkpoint.unlink(missing_ok=True)
    return {}


def one_by_one(estimates, n):
    """Time and estimates of `n` faces, one after the other. Set torch to one thread first.

    estimates: i -> iterator over the estimates of face i, batches of one, from the start on
    returns seconds (n, T + 1) from the call on, and estimates (n, ...) after 0 ... T iterations
    """
    seconds, found = [], []
    for i in (0, *range(n)):  # the first one twice: once to warm up
        began, times, steps = time.perf_counter(), [], []
        for estimate in estimates(i):
            times.append(time.perf_counter() - began)
            steps.append(estimate)
        seconds.append(times)
        found.append(steps)
    join = lambda *parts: {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    return np.array(seconds[1:]), list(map(join, *found[1:]))
