r"""The multi-task loss of UH-E2FAR: the neutral shape and what the expression adds to it, both in vertex space.

Every function returns one energy per item, unweighted; the training loop averages and weighs.
"""

import torch

from e2far import camera


def gram_factor(basis):
    r"""Triangular $R$ (K, K) with $R^\top R = B^\top B / N$ for a `basis` B (N, 3, K) in mm, so that $\lVert R c \rVert^2 = \frac1N \lVert B c \rVert^2$.

    By QR of the basis instead of Cholesky of its Gram matrix: the same factor up to signs, at full precision, and also when modes depend on each other.
    """
    n, _, modes = basis.shape
    return torch.linalg.qr(basis.reshape(3 * n, modes).double() / n**0.5, mode="r").R.to(
        basis.dtype
    )


def vertex_energy(pred, target, factor):
    r"""Mean squared vertex displacement $\frac1N \lVert U(\hat\alpha - \alpha) \rVert^2 = \lVert R(\hat\alpha - \alpha) \rVert^2$, in mm², exact.

    pred, target: (B, K) coefficients    factor: (K, K) = gram_factor(U)    returns: (B,)
    """
    return ((pred - target) @ factor.mT).square().sum(-1)


def vertex_energy_plain(pred, target, basis):
    r"""The same as `vertex_energy`, as the paper writes it: $\frac1N \lVert U(\hat\alpha - \alpha) \rVert^2$ in mm², with the whole `basis` (N, 3, K)."""
    offset = torch.einsum("ndk,bk->bnd", basis, pred - target)
    return offset.square().sum(-1).mean(-1)


def pose_energy(pred, target, points):
    """Mean squared distance between landmarks projected by the predicted and by the true camera, in (percent of the crop's side)².

    pred, target: (B, 9) pose vectors    points: (B, 68, 3) mm, the true landmarks    returns: (B,)
    """
    return pose_offset(pred, target, points).square().sum(-1).mean(-1)


def pose_offset(pred, target, points):
    """Where camera `pred` sees `points` less where camera `target` sees them, (B, P, 2) in percent of the crop's side."""
    side = 100  # in a crop of 100 px, px are percent
    return camera.weak_perspective(
        points, *camera.decode_pose(pred, side)
    ) - camera.weak_perspective(points, *camera.decode_pose(target, side))
