"""Where in the picture an answer is read: cover a place and see how the answer moves.

An answer is a function of images (B, 3, S, S) in [0, 1] that returns (B, T).
"""

import torch

from e2far.analysis.features import layer_vectors


@torch.no_grad()
def occlusion_map(answer, image, patch=16, stride=8, batch_size=64):
    """Lengths of answer(hidden) - answer(image) when a grey patch hides a place: (H', W').

    image: (3, S, S)    patch, stride: px; entry (i, j) is of the patch whose corner is at row
    i * stride, column j * stride
    """
    rows, columns = (range(0, side - patch + 1, stride) for side in image.shape[1:])
    corners = torch.cartesian_prod(torch.tensor(rows), torch.tensor(columns))
    reference, changes = answer(image[None]), []
    for part in corners.split(batch_size):
        hidden = image.repeat(len(part), 1, 1, 1)
        for picture, (y, x) in zip(hidden, part):
            picture[:, y : y + patch, x : x + patch] = 0.5
        changes.append((answer(hidden) - reference).norm(dim=1))
    return torch.cat(changes).reshape(len(rows), len(columns))


def probe_answer(network, layer, grids, probe, factor):
    """What `probe` reads in `layer` of a network in eval mode, mm.

    grids: as in `layer_features`, where it learned    factor: R of losses.gram_factor, so that the
    length of a change is an RMS vertex displacement in mm
    """
    device = next(network.parameters()).device
    weight, bias, factor = (
        torch.as_tensor(x, dtype=torch.float32, device=device)
        for x in (probe.weight, probe.bias, factor)
    )

    def answer(images):
        features = layer_vectors(network, images, (layer,), grids)[layer]
        return (features @ weight + bias) @ factor.T

    return answer


def network_answer(network, target, factor):
    """`target`, "identity" or "expression", of a network in eval mode, mm; `factor` as above."""
    return lambda images: network(images)[target] @ factor.to(images).T
