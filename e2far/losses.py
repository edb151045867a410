r"""The terms of UH-E2FAR's loss: neutral shape, what the expression adds to it, and pose.

Each is one energy per item, unweighted; `training.regression` averages, weighs and adds them up.
"""

import torch

from e2far import camera


def gram_factor(basis):
    r"""Triangular $R$ (K, K) with $\lVert R c \rVert^2 = \frac1N \lVert B c \rVert^2$.

    basis: B (N, 3, K) mm
    By QR of the basis instead of Cholesky of its Gram matrix: the same factor up to signs, at full
    precision, and also when modes depend on each other.
    """
    n, _, modes = basis.shape
    matrix = basis.reshape(3 * n, modes).double() / n**0.5
    return torch.linalg.qr(matrix, mode="r").R.to(basis.dtype)


def vertex_energy(pred, target, factor):
    r"""Mean squared vertex displacement $\frac1N \lVert U(\hat\alpha - \alpha) \rVert^2$ in mm².

    Exact, as $\lVert R(\hat\alpha - \alpha) \rVert^2$, without computing a vertex.
    pred, target: (B, K) coefficients    factor: R (K, K) = gram_factor(U)    returns: (B,)
    """
    return ((pred - target) @ factor.mT).square().sum(-1)


def vertex_energy_plain(pred, target, basis):
    """`vertex_energy` as the paper writes it, with the whole `basis` (N, 3, K) mm."""
    offset = torch.einsum("ndk,bk->bnd", basis, pred - target)
    return offset.square().sum(-1).mean(-1)


def pose_energy(pred, target, points):
    """Mean squared distance of landmarks seen by two cameras, in (percent of the crop's side)².

    pred, target: (B, 9) pose vectors    points: (B, 68, 3) mm, the true landmarks    returns: (B,)
    """
    return pose_offset(pred, target, points).square().sum(-1).mean(-1)


def pose_offset(pred, target, points):
    """Image points (B, P, 2) by camera `pred` less those by `target`, in percent of the side."""
    seen, true = (
        camera.weak_perspective(points, *camera.decode_pose(pose, 100))  # px of 100 are percent
        for pose in (pred, target)
    )
    return seen - true
