"""Rivals that see 68 landmarks alone: eos' iterative fit, and our own Levenberg-Marquardt."""

import numpy as np
import torch
import torch.nn.functional as F

from e2far import camera
from e2far.files import extra
from e2far.network import FRONTAL

WEIGHTS = ("lambda_identity", "lambda_expression")
FLIP = torch.tensor([1.0, -1.0])  # image y runs down


def frontal_mean(n, n_identity, n_expression, like):
    """The estimate that knows nothing: the mean face `n` times, ahead from its crop's middle."""
    return dict(
        identity=like.new_zeros(n, n_identity),
        expression=like.new_zeros(n, n_expression),
        pose=like.new_tensor(FRONTAL).repeat(n, 1),
    )


class LandmarkFitter:
    r"""eos fits camera, identity and expression to 68 points (Huber 2016; Aldrian 2013).

    In turns: a scaled orthographic camera and two regularised linear fits,
    $\min_c \frac13 \sum_i \lVert P(\bar x_i + B_i c) - y_i \rVert^2 + \lambda \lVert c \rVert^2$,
    y in px. Identity and expression each have their lambda, to be swept (`choose_regularisation`).

    # Choice: expressions as a PCA model. Blendshapes eos keeps >= 0 and does not regularise: with
    # ARKit's the fit ran away (strengths over 5) on a fifth of the faces, on 3/4 with 2 px noise.
    # Choice: 50 turns, where the error stops falling (eos' own default is 5); they take 11 ms.
    # Choice: points are scaled to a 180 px crop, so that a lambda fits any image size.
    """

    BOX = 180 / camera.CROP_SIDE  # px, sqrt(w h) of the landmarks' box, in which the fit runs

    def __init__(self, model, lambda_identity=1.0, lambda_expression=1.0, iterations=50):
        with extra("study"):
            import eos

        self.eos, self.model = eos, model
        self.settings = dict(num_iterations=iterations, lambda_identity=lambda_identity)
        self.settings["lambda_expressions"] = lambda_expression
        parts = model.mean, model.identity_basis, model.expression_basis
        mean, identity, expression = (x[model.landmarks].detach().cpu().numpy() for x in parts)
        self.names = [f"ibug {i}" for i in range(len(mean))]  # a bare number would be a vertex
        self.eos_model = eos.morphablemodel.MorphableModel(
            self._pca(mean, identity),
            self._pca(np.zeros_like(mean), expression),
            eos.morphablemodel.PcaModel(),
            {name: i for i, name in enumerate(self.names)},
        )

    def _pca(self, mean, basis):
        """eos' PcaModel: mean and modes, columns (3n,), a mode as unit vector and length²."""
        basis = basis.reshape(-1, basis.shape[-1]).astype(np.float64)
        length = np.maximum(np.linalg.norm(basis, axis=0), 1e-9)
        column = lambda x: x.reshape(-1, 1).astype(np.float32)
        modes = (basis / length).astype(np.float32)
        return self.eos.morphablemodel.PcaModel(column(mean), modes, column(length**2), [[0, 1, 2]])

    def __call__(self, landmarks):
        """Dict of identity (B, K) and expression (B, L) of landmarks (B, 68, 2) px."""
        points = np.asarray(torch.as_tensor(landmarks).cpu(), np.float32)
        coefficients = zip(*map(self._fit, points))
        found = (self.model.mean.new_tensor(np.array(x)) for x in coefficients)
        return dict(zip(("identity", "expression"), found))

    def _fit(self, face):
        low, extent = face.min(0), np.ptp(face, axis=0)
        face = (face - low) * (self.BOX / max(np.sqrt(extent.prod()), 1e-6))
        side = int(face.max()) + 1
        landmarks = [self.eos.core.Landmark(name, point) for name, point in zip(self.names, face)]
        _, _, alpha, beta = self.eos.fitting.fit_shape_and_pose(
            self.eos_model, landmarks, self.eos.core.LandmarkMapper(), side, side, **self.settings
        )
        return alpha, beta


def fit(model, landmarks, **settings):
    """What a `LandmarkFitter` of these settings finds; landmarks: (B, 68, 2) px."""
    return LandmarkFitter(model, **settings)(landmarks)


def fit_landmarks(model, landmarks, known, lambdas):
    """`fit`, and the lambdas it took: those that `choose_regularisation` finds on `known` faces."""
    best = choose_regularisation(model, *known, lambdas=lambdas)
    return fit(model, landmarks, **best), best


def choose_regularisation(model, landmarks, identity, expression, lambdas, **settings):
    """Of `lambdas` those with the least mean vertex error (expressive shape, region) on known faces.

    landmarks (B, 68, 2) px, identity (B, K), expression (B, L): the truth
    """
    true = model(identity, expression)[:, model.region]

    def error_mm(choice):
        found = model(**fit(model, landmarks, **choice, **settings))[:, model.region]
        return (found - true).norm(dim=-1).mean().nan_to_num(torch.inf).item()

    return least(error_mm, lambdas)


def least(error_mm, lambdas):
    """dict of lambda_identity and lambda_expression, each one of `lambdas`, with the least error.

    # Choice: the best equal ones, then each for the best other: a wide grid in a few tries.
    """
    best = min((dict.fromkeys(WEIGHTS, x) for x in lambdas), key=error_mm)
    for name in WEIGHTS:
        best = min((best | {name: x} for x in lambdas), key=error_mm)
    return best


class LandmarkEnergy:
    """The energy of `refine` and its derivatives, at faces seen by cameras: a tuple (c, R, s, t).

    c: (B, K + L) identity and expression    R: (B, 3, 3)
    s: (B,) percent of the crop's side for each mm    t: (B, 2) percent
    """

    def __init__(self, model, landmarks, side, start, lambda_identity, lambda_expression):
        self.mean = model.mean[model.landmarks]
        self.basis = torch.cat((model.identity_basis, model.expression_basis), 2)[model.landmarks]
        self.target = landmarks.to(self.mean) * 100 / side
        self.prior = torch.cat((start["identity"], start["expression"]), 1).to(self.mean)
        self.ridge = self.mean.new_zeros(self.prior.shape[1] + 6)  # none on the camera
        self.ridge[: model.n_identity] = lambda_identity
        self.ridge[model.n_identity : -6] = lambda_expression

    def project(self, c, R, s, t):
        """Landmarks in the camera's frame (B, 68, 3) mm, and in the picture (B, 68, 2) percent."""
        turned = (self.mean + torch.einsum("mdk,bk->bmd", self.basis, c)) @ R.mT
        return turned, s[:, None, None] * turned[..., :2] * FLIP.to(turned) + t[:, None]

    def __call__(self, face):
        """(B,)."""
        offset = self.project(*face)[1] - self.target
        shift = self.ridge[:-6] * (face[0] - self.prior).square()
        return offset.square().sum((1, 2)) / 68 + shift.sum(1)

    def derivatives(self, face):
        """Gradient (B, P), Gauss-Newton Hessian of half the energy by c, small angles, log s, t."""
        c, R, s, t = face
        turned, points = self.project(*face)
        x, y, z = turned.unbind(-1)
        zero = torch.zeros_like(x)
        angles = torch.stack((z, zero, -y, zero, -z, x), -1).unflatten(-1, (2, 3))
        shape = torch.einsum("bid,mdk->bmik", R[:, :2], self.basis)
        size = s[:, None, None, None] * FLIP.to(turned)[:, None]
        growth = (points - t[:, None])[..., None]
        shifts = torch.eye(2).to(turned).expand(*points.shape, 2)
        J = torch.cat((size * torch.cat((shape, angles), -1), growth, shifts), -1).flatten(1, 2)
        gradient = (J.mT @ (points - self.target).flatten(1)[..., None]).squeeze(-1) / 68
        gradient = gradient + self.ridge * F.pad(c - self.prior, (0, 6))
        return gradient, J.mT @ J / 68 + self.ridge.diag()


@torch.no_grad()
def refine(model, landmarks, side, start=None, iterations=10, **lambdas):
    r"""Analysis by synthesis (Blanz and Vetter 1999): yields `start`, then each next estimate.

    Levenberg and Marquardt on $\frac{1}{68} \sum_i \lVert P(\bar x_i + U_i \alpha + W_i \beta) -
    y_i \rVert^2 + \lambda_i \lVert \alpha - \alpha_0 \rVert^2 + \lambda_e \lVert \beta - \beta_0
    \rVert^2$, in squared percent of the side.

    landmarks: (B, 68, 2) px in crops of `side` px    start: a network's, or None: the mean face
    lambdas: lambda_identity, lambda_expression, to be swept as eos'

    # Choice: landmarks alone. The pixels as well (vertices' mean colours under harmonics light,
    # outliers held down) did not lower the error at any weight (64 faces of 80 px with hair, hands
    # and noise: 3.38 mm, with them 3.40 to 3.81), and took 11 ms a face and iteration, not 0.4.
    # Choice: not Adam or LBFGS: six iterations are enough, and each face has its own damping.
    # Choice: rotations change by three angles, not by six numbers, of which three change nothing.
    """
    K, n = model.n_identity, len(landmarks)
    start = start or frontal_mean(n, K, model.n_expression, model.mean)
    energy = LandmarkEnergy(model, landmarks, side, start, **lambdas)

    def estimate(c, R, s, t):
        pose = camera.encode_pose(R, s, t, 100)
        return dict(identity=c[:, :K], expression=c[:, K:], pose=pose)

    face = energy.prior, *camera.decode_pose(start["pose"].to(model.mean), 100)
    damping, eye = model.mean.new_full((n,), 0.01), torch.eye(len(energy.ridge)).to(model.mean)
    yield estimate(*face)
    for _ in range(iterations):
        gradient, hessian = energy.derivatives(face)
        change = -torch.linalg.solve(hessian + damping[:, None, None] * eye, gradient)
        c, R, s, t = face
        turn = camera.euler_to_matrix(change[:, -6:-3])
        growth = change[:, -3].clamp(-1, 1).exp()
        trial = c + change[:, :-6], turn @ R, s * growth, t + change[:, -2:]
        better = energy(trial) < energy(face)
        face = tuple(
            torch.where(better.view(-1, *[1] * (new.ndim - 1)), new, old)
            for new, old in zip(trial, face)
        )
        damping = torch.where(better, damping / 5, damping * 10).clamp(1e-6, 1e6)
        yield estimate(*face)
