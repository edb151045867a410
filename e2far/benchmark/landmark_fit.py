"""Rivals that no network helps: the mean face, and the iterative fit of the face model to 68 landmarks by eos."""

import itertools

import numpy as np
import torch

from e2far import camera


def mean_face(model, n):
    """The guess that knows nothing: dict of zero identity (n, K), zero expression (n, L) and the mean face, (n, N, 3)."""
    zeros = lambda k: model.mean.new_zeros(n, k)
    return dict(
        identity=zeros(model.n_identity),
        expression=zeros(model.n_expression),
        vertices=model.mean.expand(n, -1, -1),
    )


class LandmarkFitter:
    r"""Fits camera, identity and expression to 68 image points in turns: eos (Huber et al. 2016; Aldrian and Smith 2013).

    eos alternates a scaled orthographic camera with two regularised linear fits,
    $\min_c \frac13 \sum_i \lVert P(\bar x_i + B_i c) - y_i \rVert^2 + \lambda \lVert c \rVert^2$, y in px.
    Identity and expression each have their lambda; it must be swept (`choose_regularisation`).

    num_shape_coefficients_to_fit: only the first modes move, the others stay 0 (None: all)

    # Choice: expressions as eos' PCA model. As blendshapes eos keeps them >= 0 and does not regularise them: with the ARKit
    # units the fit ran away (strengths over 5) on a fifth of the faces, and with 2 px noise on three quarters.
    # Choice: 50 turns, where the error stops falling (eos' own default is 5); they take 11 ms.
    # Choice: eos sees the landmarks' vertices alone; the fit uses no other, and our model makes the whole mesh after.
    # Choice: points are scaled to the box that a 180 px crop shows, so that a lambda means the same at any image size.
    """

    BOX = 180 / camera.CROP_SIDE  # px, sqrt(w h) of the landmarks' box, in which the fit runs

    def __init__(
        self,
        model,
        lambda_identity=1.0,
        lambda_expression=1.0,
        iterations=50,
        num_shape_coefficients_to_fit=None,
    ):
        try:
            import eos
        except ImportError:
            raise ValueError("landmark fitting needs eos: pip install eos-py") from None
        self.eos, self.model = eos, model
        self.lambda_identity, self.lambda_expression, self.iterations = (
            lambda_identity,
            lambda_expression,
            iterations,
        )
        self.modes = num_shape_coefficients_to_fit
        if self.modes is not None and not 1 <= self.modes <= model.n_identity:
            raise ValueError(
                f"the model has {model.n_identity} identity modes, cannot fit {self.modes}"
            )
        mean, identity, expression = (
            x[model.landmarks].detach().cpu().numpy()
            for x in (model.mean, model.identity_basis, model.expression_basis)
        )
        self.names = [
            f"ibug {i}" for i in range(len(mean))
        ]  # a bare number would be read as a vertex index
        self.eos_model = eos.morphablemodel.MorphableModel(
            self._pca(mean, identity),
            self._pca(np.zeros_like(mean), expression),
            eos.morphablemodel.PcaModel(),
            {name: i for i, name in enumerate(self.names)},
        )
        self.mapper = eos.core.LandmarkMapper()  # the identity

    def _pca(self, mean, basis):
        """eos' PcaModel: mean and modes, columns (3n,), each mode as a unit vector and its squared length."""
        basis = basis.reshape(-1, basis.shape[-1]).astype(np.float64)
        length = np.maximum(np.linalg.norm(basis, axis=0), 1e-9)
        column = lambda x: x.reshape(-1, 1).astype(np.float32)
        return self.eos.morphablemodel.PcaModel(
            column(mean), (basis / length).astype(np.float32), column(length**2), [[0, 1, 2]]
        )

    def __call__(self, landmarks):
        """landmarks (B, 68, 2) px -> dict(identity (B, K), expression (B, L), vertices (B, N, 3) mm, head frame)."""
        points = np.asarray(torch.as_tensor(landmarks).cpu(), np.float32)
        if (
            points.ndim != 3
            or points.shape[1:] != (len(self.names), 2)
            or not np.isfinite(points).all()
        ):
            raise ValueError(
                f"expected finite landmarks (B, {len(self.names)}, 2) px, got {points.shape}"
            )
        identity = self.model.mean.new_zeros(len(points), self.model.n_identity)
        expression = self.model.mean.new_zeros(len(points), self.model.n_expression)
        for i, face in enumerate(points):
            alpha, beta = self._fit(face)
            identity[i, : len(alpha)], expression[i] = (
                identity.new_tensor(alpha),
                expression.new_tensor(beta),
            )
        return dict(
            identity=identity, expression=expression, vertices=self.model(identity, expression)
        )

    def _fit(self, face):
        low, extent = face.min(0), np.ptp(face, axis=0)
        face = (face - low) * (self.BOX / max(np.sqrt(extent.prod()), 1e-6))
        side = int(face.max()) + 1
        landmarks = [self.eos.core.Landmark(name, point) for name, point in zip(self.names, face)]
        _, _, alpha, beta = self.eos.fitting.fit_shape_and_pose(
            self.eos_model,
            landmarks,
            self.mapper,
            side,
            side,
            num_iterations=self.iterations,
            num_shape_coefficients_to_fit=self.modes,
            lambda_identity=self.lambda_identity,
            lambda_expressions=self.lambda_expression,
        )
        return alpha, beta


def fit(model, landmarks, **settings):
    """Identity (B, K) and expression (B, L) that a `LandmarkFitter` of these settings finds in landmarks (B, 68, 2) px."""
    found = LandmarkFitter(model, **settings)(landmarks)
    return {name: found[name] for name in ("identity", "expression")}


def fit_landmarks(model, landmarks, known, lambdas):
    """`LandmarkFitter` on landmarks (B, 68, 2) px, with the lambdas that suit such landmarks: dict of identity (B, K), expression (B, L), and best, dict of the lambdas.

    known: landmarks (b, 68, 2) of the same kind, identity (b, K), expression (b, L) of validation faces, for `choose_regularisation`    One function, so that processes can share kinds of landmarks
    """
    best, _ = choose_regularisation(model, *known, lambdas=lambdas)
    return fit(model, landmarks, **best), best


def choose_regularisation(
    model, landmarks, identity, expression, lambdas=(0.3, 1.0, 3.0, 10.0, 30.0), **arguments
):
    """The lambdas with the least mean vertex error (expressive shape, face region) on validation faces.

    landmarks (B, 68, 2) px, identity (B, K), expression (B, L): the truth    arguments: as LandmarkFitter's
    returns best dict(lambda_identity, lambda_expression), table: a list of dicts with both and error_mm
    Every pair of `lambdas` is tried. Choose anew for noisy landmarks, which need more; 40 faces take some ten seconds.
    """
    region = model.region
    true = model(identity, expression)[:, region]
    table = []
    for pair in itertools.product(lambdas, repeat=2):
        setting = dict(zip(("lambda_identity", "lambda_expression"), pair))
        pred = LandmarkFitter(model, **setting, **arguments)(landmarks)["vertices"][:, region]
        table.append(dict(setting, error_mm=(pred - true).norm(dim=-1).mean().item()))
    best = min(table, key=lambda row: row["error_mm"] if np.isfinite(row["error_mm"]) else np.inf)
    return {name: best[name] for name in ("lambda_identity", "lambda_expression")}, table
