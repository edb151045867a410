import torch

from e2far.network import E2FAR


def untrained(seed=0):
    """A network small enough to reconstruct in milliseconds, for the toy face model."""
    torch.manual_seed(seed)
    return E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32).eval()
