"""What the layers of a network make of pictures, as vectors."""

import numpy as np
import torch
import torch.nn.functional as F
from torch.optim.swa_utils import update_bn

from e2far.data import to_float
from e2far.trunks import LAYERS


def layer_features(
    network, faces, layers=("pixels", *LAYERS), grids=None, limit=None, batch_size=64
):
    """What `layers` say of the first `limit` faces: dict layer -> (n, d) float32 array.

    faces: as data.Faces, or the pictures themselves, uint8 (n, 3, S, S)
    layers: "pixels", pool1 ... pool5, or any name of `network.activations`
    grids: dict layer -> side of its pooled maps, as of `matched_grids`; others are kept whole.
        A global average (side 1) would hide what early layers know: they say where, not only what.
    """
    return read_layers(network, faces, dict(once=(layers, grids)), limit, batch_size)["once"]


@torch.no_grad()
def read_layers(network, faces, readouts, limit=None, batch_size=64):
    """`layer_features` for several readouts in one pass: name -> what it finds.

    readouts: name -> (layers, grids)
    """
    n = len(faces) if limit is None else min(limit, len(faces))
    device, was_training = next(network.parameters()).device, network.training
    network.eval()
    parts = {name: {layer: [] for layer in layers} for name, (layers, _) in readouts.items()}
    for images in _batches(faces, n, batch_size):
        images = images.to(device)
        maps = dict(pixels=images) | network.activations(images)
        for name, (layers, grids) in readouts.items():
            for layer, x in pooled(maps, layers, grids or {}).items():
                parts[name][layer].append(x.float().cpu())
    network.train(was_training)
    return {
        name: {layer: torch.cat(part).numpy() for layer, part in found.items()}
        for name, found in parts.items()
    }


def pooled(maps, layers, grids):
    """Vectors (B, d) of `layers`; maps are average-pooled to the sides `grids`, or kept whole."""

    def vector(layer):
        x, side = maps[layer], grids.get(layer)
        return (x if side is None else F.adaptive_avg_pool2d(x, side)).flatten(1)

    return {layer: vector(layer) for layer in layers}


def matched_grids(network):
    """Sides at which every layer has at least as many features (channels x side²) as the last maps.

    As nearly as squares allow, the pixels too: early layers have few channels but large maps, so
    they keep more places and lose no comparison for lack of numbers.
    """
    blank = torch.zeros(1, 3, network.image_size, network.image_size)
    trunk = getattr(network, "trunk", network)
    was_training = trunk.training
    with torch.no_grad():  # in eval mode: BatchNorm must not learn from the blank picture
        maps = dict(pixels=blank) | trunk.eval()(blank)
    trunk.train(was_training)
    total = [*maps.values()][-1].numel()
    return {
        layer: min(x.shape[-1], int(np.ceil(np.sqrt(total / x.shape[1]))))
        for layer, x in maps.items()
    }


def measure_batch_norm(network, faces, limit, batch_size=64):
    """Set BatchNorm statistics of an untrained trunk to those of the first `limit` faces."""
    n = min(limit, len(faces))
    update_bn(_batches(faces, n, batch_size), network.trunk, next(network.parameters()).device)
    network.eval()


def _batches(faces, n, batch_size):
    """Images (B, 3, S, S) in [0, 1] of the first `n` faces."""
    for rows in torch.arange(n).split(batch_size):
        if isinstance(faces, torch.Tensor):
            yield to_float(faces[rows])
        else:
            yield faces.__getitems__(rows.tolist())["image"]
