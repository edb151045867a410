"""The networks under study: how each is shown a face, and what its layers are called."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from e2far.analysis.chips import cut_chips
from e2far.analysis.features import matched_grids, read_layers
from e2far.recogniser import STAGES
from e2far.trunks import BLOCKS, LAYERS

RECOGNISER, TWIN = "recogniser", "recogniser, untrained"
END_TO_END, PEOPLE, UNTRAINED = "end to end", "synthetic people", "end to end, untrained"


@dataclass(frozen=True, eq=False)
class Subject:
    """A network (`activations(image)` gives its layers) and how it is shown a face."""

    name: str  # of its kind; several networks of a kind differ by their seed
    network: nn.Module
    seed: int = 0
    aligned: bool = False  # shown chips, as dlib's recogniser is; else our squares

    def look(self, sample):
        """Pictures (n, 3, S, S) uint8 as the network wants them.

        sample: image (n, 3, s, s) uint8, landmarks (n, 68, 2) px; or `pictures` that are so already
        """
        if "pictures" in sample:
            return sample["pictures"]
        if self.aligned:
            return cut_chips(sample["image"], sample["landmarks"])
        size = self.network.image_size
        return torch.cat(
            [
                F.interpolate(part.float(), size=size, mode="bilinear", antialias=True).byte()
                for part in sample["image"].split(256)
            ]
        )

    @property
    def layers(self):
        """Layer -> its depth: share of the convolutions passed, 0 for the pixels."""
        if self.aligned:
            passed = np.cumsum([1] + [2 * blocks for _, blocks, _ in STAGES])
            known = dict(zip(self.network.channels, passed / passed[-1]))
            return dict(pixels=0.0) | known | dict(average=1.08, descriptor=1.16)
        passed = np.cumsum([convolutions for _, convolutions in BLOCKS])
        known = dict(zip(LAYERS, passed / passed[-1]))  # VGG's; others lie near by their grids
        trunk: Any = self.network.trunk
        return dict(pixels=0.0) | {layer: known[layer] for layer in trunk.channels}

    def features(self, sample, layers=None, grids=None):
        """Layer -> (n, d) float32, maps pooled to the sides `grids`; None: to about as many numbers
        as the last one has; {}: as they are."""
        grids = matched_grids(self.network) if grids is None else grids
        return self.readouts(sample, dict(once=(layers or [*self.layers], grids)))["once"]

    def readouts(self, sample, asked):
        """Of `features.read_layers`, in one pass. asked: name -> (layers, grids)"""
        return read_layers(self.network, self.look(sample), asked)


@torch.no_grad()
def calibrate(network, images):
    """Fill `network` with random weights after He et al. (2015), then scale and shift each layer so
    that its channels have mean 0 and variance 1 over `images`, as BatchNorm would."""

    def standardise(layer, _, maps):
        mean, std = maps.mean((0, 2, 3)), maps.std((0, 2, 3)) + 1e-5
        layer.weight.div_(std.view(-1, 1, 1, 1))
        layer.bias.copy_((layer.bias - mean) / std)
        return (maps - mean.view(-1, 1, 1)) / std.view(-1, 1, 1)

    convolutions = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    for layer in convolutions:
        nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        nn.init.zeros_(layer.bias)
    hooks = [layer.register_forward_hook(standardise) for layer in convolutions]
    network(images)
    for hook in hooks:
        hook.remove()
    return network.eval()
