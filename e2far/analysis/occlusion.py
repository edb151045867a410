"""Where in the picture a layer reads what it knows: cover a place and see how the answer moves."""

import torch

from e2far.analysis.features import layer_vectors


def linear_reader(network, layer, grid, readout, factor=None):
    """A probe as an answer to pictures, for `occluded`: callable (B, 3, S, S) -> (B, T).

    layer, grid: as in `layer_features`, where the probe learned; grid is a number or None    readout: of `fit_probe`    factor: R of losses.gram_factor, applied to the answer; None leaves it as it is
    """
    device = next(network.parameters()).device
    weight, bias = (torch.as_tensor(x, dtype=torch.float32, device=device) for x in readout)
    answer = lambda image: (
        layer_vectors(network, image, (layer,), {layer: grid})[layer] @ weight + bias
    )
    return answer if factor is None else lambda image: answer(image) @ factor.to(weight).T


@torch.no_grad()
def occluded(answer, image, patch=16, stride=8, grey=0.5, batch_size=64):
    """How much an answer moves when a grey patch hides a place: (H', W') lengths of answer(hidden) - answer(image).

    answer: callable (B, 3, S, S) -> (B, T), its network in eval mode    image: (3, S, S) in [0, 1]    patch, stride: px
    Entry (i, j) is for the patch whose corner is at row i * stride, column j * stride.
    """
    if image.ndim != 3 or patch > min(image.shape[1:]):
        raise ValueError(
            f"expected one image (3, S, S) larger than the patch of {patch} px, got {tuple(image.shape)}"
        )
    rows, columns = (range(0, side - patch + 1, stride) for side in image.shape[1:])
    corners, reference, changes = [(y, x) for y in rows for x in columns], answer(image[None]), []
    for start in range(0, len(corners), batch_size):
        part = corners[start : start + batch_size]
        hidden = image.repeat(len(part), 1, 1, 1)
        for picture, (y, x) in zip(hidden, part):
            picture[:, y : y + patch, x : x + patch] = grey
        changes.append((answer(hidden) - reference).norm(dim=1))
    return torch.cat(changes).reshape(len(rows), len(columns))


def occlusion_map(
    network, image, target="expression", patch=16, stride=8, factor=None, grey=0.5, batch_size=64
):
    r"""`occluded` for the network's own answer `target`, "identity" or "expression": (H', W') RMS vertex displacement, mm.

    factor: R of losses.gram_factor, so that $\lVert R \Delta \rVert$ is in mm (None: plain length of the change)
    """
    was_training = network.training
    network.eval()
    answer = lambda hidden: (
        network(hidden)[target] if factor is None else network(hidden)[target] @ factor.to(hidden).T
    )
    found = occluded(answer, image, patch, stride, grey, batch_size)
    network.train(was_training)
    return found
