"""What each layer of a network makes of pictures, as vectors."""

from types import SimpleNamespace

import numpy as np
import torch
import torch.nn.functional as F

from e2far.data import to_float

from e2far.trunks import BLOCKS, LAYERS, map_sizes

# ---- features ----------------------------------------------------------------------------------------------------


@torch.no_grad()
def layer_features(network, faces, layers=LAYERS, grid=2, limit=None, pixel_grid=16, batch_size=64):
    """What the layers say of the first `limit` faces: dict "pixels" and layer -> (n, d) float32 arrays.

    faces: a data set whose batches hold "image" (B, 3, S, S), or the pictures themselves, uint8 (n, 3, S, S)    layers: pool1 ... pool5, or any name of `network.activations`
    grid: maps are average-pooled to grid x grid and flattened; None keeps them whole. Or a dict of `matched_grids`: maps that it does not name are kept whole.
    A global average (grid 1) would hide what early layers know: they say where, not only what.
    """
    n = len(faces) if limit is None else min(limit, len(faces))
    device, was_training = next(network.parameters()).device, network.training
    network.eval()
    # Choice: raw pixels, the layer before the first, keep 16 x 16, so that their count is that of a layer's features.
    grids = (
        grid if isinstance(grid, dict) else dict.fromkeys(layers, grid) | dict(pixels=pixel_grid)
    )
    found = []
    for start in range(0, n, batch_size):
        image = _images(faces, range(start, min(start + batch_size, n))).to(device)
        found.append(
            {
                name: x.float().cpu()
                for name, x in layer_vectors(network, image, ("pixels", *layers), grids).items()
            }
        )
    network.train(was_training)
    return {name: torch.cat([part[name] for part in found]).numpy() for name in ("pixels", *layers)}


def layer_vectors(network, image, layers, grids):
    """Features of `layers` ("pixels" too) for images (B, 3, S, S): dict layer -> (B, d).

    Maps are pooled to their grid in the dict `grids`, or kept whole if it is None or not there; vectors stay as they are.
    """
    maps = dict(pixels=image) | (
        network.features if set(layers) <= {"pixels", *LAYERS} else network.activations
    )(image)
    if missing := [layer for layer in layers if layer not in maps]:
        raise ValueError(f"the network has no layer {missing[0]}; it has {', '.join(maps)}")
    pooled = lambda x, grid: x if x.ndim == 2 or grid is None else F.adaptive_avg_pool2d(x, grid)
    return {layer: pooled(maps[layer], grids.get(layer)).flatten(1) for layer in layers}


def matched_grids(network):
    """Grids at which every layer of an E2FAR, and the pixels, have at least as many features (channels x grid²) as all of pool5, as nearly as squares allow.

    Early layers have few channels but large maps, so they keep more places and lose no comparison for lack of numbers.
    """
    maps = dict(pixels=(3, network.image_size)) | map_sizes(network.trunk, network.image_size)
    total = maps["pool5"][0] * maps["pool5"][1] ** 2
    return {
        layer: min(side, int(np.ceil(np.sqrt(total / channels))))
        for layer, (channels, side) in maps.items()
    }


@torch.no_grad()
def measure_batch_norm(network, faces, rows, batch_size=64):
    """Set the BatchNorm statistics of an untrained network's trunk, in place, to those of its answers to the faces `rows`, as training would have."""
    norms = [
        module for module in network.trunk.modules() if isinstance(module, torch.nn.BatchNorm2d)
    ]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # a plain average over the batches
    network.train()
    for start in range(0, len(rows), batch_size):
        network.features(
            _images(faces, rows[start : start + batch_size]).to(next(network.parameters()).device)
        )
    for norm in norms:
        norm.momentum = 0.1
    network.eval()


def _images(faces, indices):
    if isinstance(faces, torch.Tensor):
        return to_float(faces[list(indices)])
    if hasattr(faces, "__getitems__"):
        return faces.__getitems__(list(indices))["image"]
    return torch.stack([faces[i]["image"] for i in indices])


# ---- where -------------------------------------------------------------------------------------------------------


def receptive_field(layer):
    """Side of the square of input pixels that a cell of pool1 ... pool5 of VGG-16 can see, and the distance of neighbouring cells: SimpleNamespace(size_px, stride_px)."""
    if layer not in LAYERS:
        raise ValueError(f"no receptive field for {layer!r}: name one of {', '.join(LAYERS)}")
    size, stride = 1, 1
    for _, convolutions in BLOCKS[: LAYERS.index(layer) + 1]:
        size, stride = (
            size + (2 * convolutions + 1) * stride,
            2 * stride,
        )  # 3x3 convolutions, then a 2x2 pool
    return SimpleNamespace(size_px=size, stride_px=stride)
