r"""Rivals that iterate: a CNN that looks at its own estimate (Richardson et al. 2016, 2017), and analysis by synthesis (Blanz and Vetter 1999).

Estimates are dicts of identity (B, K), expression (B, L) and pose (B, 9), as E2FAR returns them. Both rivals yield the one they start from and one more after every iteration;
`one_by_one` takes the time of each, for curves of error against time.
"""

import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from e2far import camera, data, evaluation, facemodels, raster, weights
from e2far.network import E2FAR, FRONTAL, check_images, damp
from e2far.training import fit
from e2far.weights import save_network

CHANNELS = 6  # of a rendering: the normal map and PNCC, as in CoarseNet (Richardson et al. 2017)


class Surface(nn.Module):
    """A face model's region as a mesh of its own: vertices, and what a camera sees of it. Its buffers are stored with no network."""

    mean: torch.Tensor
    basis: torch.Tensor
    code: torch.Tensor
    triangles: torch.Tensor

    def __init__(self, model):
        super().__init__()
        used, triangles = model.region_triangles.unique(return_inverse=True)
        mean, basis = (
            model.mean[used],
            torch.cat((model.identity_basis, model.expression_basis), 2)[used],
        )
        code = (mean - mean.amin(0)) / (
            mean.amax(0) - mean.amin(0)
        ) - 0.5  # PNCC: where on the mean face it is (Zhu et al. 2016)
        for name, value in dict(
            mean=mean, basis=basis, code=code, triangles=triangles.int()
        ).items():
            self.register_buffer(name, value.clone(), persistent=False)

    def forward(self, identity, expression):
        """Vertices (B, M, 3) mm."""
        return self.mean + (
            torch.cat((identity, expression), -1) @ self.basis.flatten(0, 1).mT
        ).unflatten(-1, self.mean.shape)

    @torch.no_grad()
    def render(self, estimate, size):
        """What the camera of `estimate` sees, (B, 6, size, size) float32 on the CPU: normals in its frame, and the place on the mean face; zero beside the face.

        # Choice: numba, a picture at a time, one sample a pixel: 1.1 ms a face at 80 px.
        """
        rotation, scale, translation = camera.decode_pose(estimate["pose"], size)
        vertices = self(estimate["identity"], estimate["expression"])
        points, turned = (
            camera.weak_perspective(vertices, rotation, scale, translation),
            vertices @ rotation.mT,
        )
        points, turned, code = (
            values.float().cpu().numpy() for values in (points, turned, self.code)
        )
        triangles = self.triangles.cpu().numpy()
        pictures = np.zeros((len(points), 2, size, size, 3), np.float32)
        for layers, place, face in zip(pictures, points, turned):
            seen = raster.zbuffer(place, np.ascontiguousarray(face[:, 2]), triangles, size)
            for layer, values in zip(layers, (raster.vertex_normals(face, triangles), code)):
                raster.resolve(*seen, triangles, raster.matt(values), layer, 1)
        return torch.from_numpy(pictures.transpose(0, 1, 4, 2, 3).reshape(-1, CHANNELS, size, size))


# The network that iterates -------------------------------------------------------------------------------------------------------------------


class IterativeE2FAR(E2FAR):
    """An E2FAR whose trunk sees the picture beside a rendering of the current estimate, and whose heads correct that estimate, `iterations` times from the mean face.

    arguments: of E2FAR    start_from: None, or file of `save_trunk` to start from, made without renderings
    `training.fit` trains it as any E2FAR. Raises ValueError when `iterations` is not a whole number above zero.

    # Choice: estimates met in training are the network's own after 0 ... T-1 iterations, without gradient, as Carreira et al. 2016 and not between the mean and the truth as errors at random: so that
    # they are those of the test, and the loss stays that of the last one. One correction a picture and step has a gradient, as in E2FAR; (T-1)/2 more passes have none.
    # With all T corrections of each picture in one step a toy learnt worse, at twice the time.
    # Choice: weights for the rendering start at zero, those for the picture as E2FAR's; a phase with a frozen trunk would never see the rendering.
    """

    frontal: torch.Tensor

    def __init__(self, model, iterations=4, start_from=None, **arguments):
        if not isinstance(iterations, int) or iterations < 1:
            raise ValueError(f"iterations={iterations}: give a whole number above zero")
        if arguments.get("trunk", "vgg16") != "vgg16":
            raise ValueError(
                f"an iterative network reads its rendering in VGG-16's first convolution: trunk {arguments['trunk']} has none"
            )
        super().__init__(
            **arguments | dict(n_identity=model.n_identity, n_expression=model.n_expression)
        )
        self.config |= dict(iterations=iterations)
        self.iterations, self.surface = iterations, Surface(model).float()
        self.register_buffer("frontal", torch.tensor(FRONTAL), persistent=False)
        if start_from:
            weights.fill_trunk(self, start_from)
        damp(self.pose_head, torch.zeros(9))  # a correction, not a pose
        first = self.trunk.blocks[0][0][0]  # ty: ignore[not-subscriptable]
        wide = nn.Conv2d(
            3 + CHANNELS,
            first.out_channels,
            first.kernel_size,
            padding=first.padding,
            bias=first.bias is not None,
        )
        wide.load_state_dict(
            first.state_dict()
            | dict(
                weight=torch.cat(
                    (first.weight, torch.zeros(first.out_channels, CHANNELS, *first.kernel_size)), 1
                )
            )
        )
        self.trunk.blocks[0][0][0] = wide  # ty: ignore[not-subscriptable]
        self.trunk.mean_colour = torch.cat((self.trunk.mean_colour, torch.zeros(CHANNELS, 1, 1)))

    def start(self, n):
        """The mean face `n` times, looking ahead from the middle of its crop."""
        return dict(
            identity=self.frontal.new_zeros(n, self.n_identity),
            expression=self.frontal.new_zeros(n, self.n_expression),
            pose=self.frontal.repeat(n, 1),
        )

    def features(self, image, estimate=None):
        """Dict of pool1 ... pool5 for images (B, 3, S, S), float in [0, 1], beside renderings of `estimate` (default: the mean face)."""
        check_images(image, self.image_size)
        estimate = estimate or self.start(len(image))
        if len(estimate["pose"]) != len(image):
            raise ValueError(
                f"{len(estimate['pose'])} estimates for {len(image)} images: give one for each"
            )
        return self.trunk(
            torch.cat(
                (image, self.surface.render(estimate, self.image_size).to(image)), 1
            ).contiguous(memory_format=torch.channels_last)
        )

    def correct(self, image, estimate):
        """The estimate after one more iteration."""
        change = self.heads(self.features(image, estimate))
        return {name: estimate[name] + change[name] for name in change}

    @torch.no_grad()
    def estimates(self, image, iterations=None, start=None):
        """Yields the start (None: the mean face), then the estimate after each of `iterations` (None: as many as trained for)."""
        estimate = start or self.start(len(image))
        yield estimate
        for _ in range(self.iterations if iterations is None else iterations):
            estimate = self.correct(image, estimate)
            yield estimate

    def forward(self, image):
        """The last of `estimates`; in training one correction, with a gradient, of the network's own earlier estimates."""
        if self.training:
            return self.correct(image, self.earlier(image))
        *_, last = self.estimates(image)
        return last

    @torch.no_grad()
    def earlier(self, image):
        """Of picture i of the batch, which comes in random order, the network's estimate after i mod T iterations."""
        estimate, tuned = self.start(len(image)), self.trunk.training
        self.eval()  # BatchNorm as at the test
        for done in range(1, self.iterations):
            rows = (
                (torch.arange(len(image), device=image.device) % self.iterations >= done)
                .nonzero()
                .squeeze(1)
            )
            if len(rows):
                better = self.correct(
                    image[rows], {name: values[rows] for name, values in estimate.items()}
                )
                estimate = {
                    name: values.index_copy(0, rows, better[name].to(values))
                    for name, values in estimate.items()
                }
        self.train().trunk.train(tuned)
        return estimate


def load_iterative(path, model):
    """The IterativeE2FAR of the face model `model` stored at `path` by `save_network`, in eval mode. Raises as `load_network`."""
    tensors, header = weights.read_tensors(path, "network")
    if "iterations" not in header["config"]:
        raise ValueError(f"{path} holds no IterativeE2FAR: make one with iterative.iterative_job")
    net = IterativeE2FAR(model, **header["config"])
    weights.fill(net, tensors, path)
    net.metadata = header.get("metadata", {})
    return net.eval()


def iterative_job(
    *, folder, faces, model, network, training, seed, iterations=4, trunk=None, test="test"
):
    """Build, train and measure one IterativeE2FAR, on one thread of a CPU; a job for `jobs.run_many`, arguments as of `jobs.train_job`. Returns the `summary` on the split `test` (None: of nothing, {})."""
    folder, faces, model, size = (
        Path(folder),
        Path(faces),
        facemodels.load_face_model(model),
        network["image_size"],
    )
    torch.manual_seed(seed)
    net = IterativeE2FAR(model, iterations, trunk, **network)
    checkpoint = folder / "checkpoint.pt"
    fit(
        net,
        model,
        data.Faces(faces / "train", size),
        data.Faces(faces / "validation", size),
        seed=seed,
        log=folder / "log.csv",
        checkpoint=checkpoint,
        progress=False,
        **training,
    )
    save_network(net, folder / "network.safetensors", face_model=model.name, seed=seed)
    checkpoint.unlink(missing_ok=True)
    return (
        evaluation.summary(evaluation.evaluate(net, model, data.Faces(faces / test, size)))
        if test
        else {}
    )


# Analysis by synthesis -----------------------------------------------------------------------------------------------------------------------


@torch.no_grad()
def refine(
    model, landmarks, side, start=None, *, lambda_identity, lambda_expression, iterations=10
):
    r"""Analysis by synthesis of landmarks: yields `start` (None: the mean face), then the estimate after each iteration of Levenberg and Marquardt on

    $\frac{1}{68} \sum_i \lVert P(\bar x_i + U_i \alpha + W_i \beta) - y_i \rVert^2 + \lambda_i \lVert \alpha - \alpha_0 \rVert^2 + \lambda_e \lVert \beta - \beta_0 \rVert^2$, in squared percent of the side.

    landmarks: (B, 68, 2) px in crops of `side` px    start: an estimate, for example a network's; alpha_0 and beta_0 are its coefficients
    The lambdas must be swept, as eos'. Each face has its own damping, whatever the batch. Raises ValueError where shapes do not fit.

    # Choice: landmarks alone. With the pixels as well (mean colours of the vertices under fitted harmonics light, outliers held down) no weight lowered the error, in pictures of 80 px with hair, beards,
    # hands and noise (64 faces: 3.38 mm without, 3.40 to 3.81 with them), and an iteration took 11 ms a face instead of 0.4.
    # Choice: Levenberg and Marquardt and not Adam or LBFGS: six iterations are enough, and one face's step does not depend on the others in its batch.
    # Choice: rotations change by three small angles, not by the six numbers of a pose vector, of which three change nothing.
    """
    if landmarks.ndim != 3 or landmarks.shape[1:] != (68, 2) or not landmarks.isfinite().all():
        raise ValueError(
            f"landmarks have shape {tuple(landmarks.shape)}: expected finite (B, 68, 2) px"
        )
    to, n, sizes = (
        model.mean,
        len(landmarks),
        dict(identity=model.n_identity, expression=model.n_expression, pose=9),
    )
    start = start or {
        name: to.new_zeros(n, size) if name != "pose" else to.new_tensor(FRONTAL).repeat(n, 1)
        for name, size in sizes.items()
    }
    if (shapes := {name: tuple(start[name].shape) for name in sizes}) != {
        name: (n, size) for name, size in sizes.items()
    }:
        raise ValueError(f"start has shapes {shapes}: expected {n} faces of {sizes}")
    mean, basis = (
        to[model.landmarks],
        torch.cat((model.identity_basis, model.expression_basis), 2)[model.landmarks],
    )
    ridge = torch.cat(
        [
            to.new_full((size,), value)
            for size, value in (
                (sizes["identity"], lambda_identity),
                (sizes["expression"], lambda_expression),
                (6, 0.0),
            )
        ]
    )
    target, flip = landmarks.to(to) * 100 / side, to.new_tensor([1.0, -1.0])

    def project(c, R, s, t):
        """Landmarks in the camera's frame, and in percent of the crop's side."""
        turned = (mean + torch.einsum("mdk,bk->bmd", basis, c)) @ R.mT
        return turned, s[:, None, None] * turned[..., :2] * flip + t[:, None]

    def energy(state):
        return (project(*state)[1] - target).square().sum((1, 2)) / 68 + (
            ridge[:-6] * (state[0] - c0).square()
        ).sum(1)

    def estimate(c, R, s, t):
        return dict(
            identity=c[:, : sizes["identity"]],
            expression=c[:, sizes["identity"] :],
            pose=camera.encode_pose(R, s, t, 100),
        )

    c0 = torch.cat((start["identity"], start["expression"]), 1).to(to)
    state, damping, eye = (
        (c0, *camera.decode_pose(start["pose"].to(to), 100)),
        to.new_full((n,), 0.01),
        torch.eye(len(ridge), dtype=to.dtype, device=to.device),
    )
    yield estimate(*state)
    for _ in range(iterations):
        c, R, s, t = state
        turned, points = project(*state)
        x, y, z = turned.unbind(-1)
        zero = torch.zeros_like(x)
        angles = torch.stack(
            (torch.stack((z, zero, -y), -1), torch.stack((zero, -z, x), -1)), -2
        )  # by small yaw, pitch, roll, (B, 68, 2, 3)
        shape = torch.einsum("bid,mdk->bmik", R[:, :2], basis)
        J = torch.cat(
            (
                s[:, None, None, None]
                * flip[:, None]
                * torch.cat(
                    (shape, angles), -1
                ),  # of coefficients, angles, the scale's logarithm, translation
                (points - t[:, None])[..., None],
                torch.eye(2, dtype=to.dtype, device=to.device).expand(n, 68, 2, 2),
            ),
            -1,
        ).flatten(1, 2)
        gradient = (J.mT @ (points - target).flatten(1)[..., None]).squeeze(
            -1
        ) / 68 + ridge * F.pad(c - c0, (0, 6))
        change = -torch.linalg.solve(
            J.mT @ J / 68 + ridge.diag() + damping[:, None, None] * eye, gradient
        )
        trial = (
            c + change[:, :-6],
            camera.euler_to_matrix(change[:, -6:-3]) @ R,
            s * change[:, -3].clamp(-1, 1).exp(),
            t + change[:, -2:],
        )
        better = energy(trial) < energy(state)
        state = tuple(
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(trial, state)
        )
        damping = torch.where(better, damping / 5, damping * 10).clamp(1e-6, 1e6)
        yield estimate(*state)


def one_by_one(estimates, n):
    """Time and estimates of `n` faces, one after the other. Set torch to one thread first.

    estimates: i -> iterator over the estimates of face i, batches of one, from the start on: `lambda i: net.estimates(image[i:i + 1])`
    returns: seconds (n, T + 1) from the call on, and a list of T + 1 dicts of (n, ...), the estimates after 0 ... T iterations
    """
    seconds, found = [], []
    for i in (0, *range(n)):  # the first one twice: once to warm up
        began, times, steps = time.perf_counter(), [], []
        for estimate in estimates(i):
            times.append(time.perf_counter() - began)
            steps.append(estimate)
        seconds.append(times)
        found.append(steps)
    return np.array(seconds[1:]), [
        {name: torch.cat([step[name] for step in steps]) for name in steps[0]}
        for steps in zip(*found[1:])
    ]
