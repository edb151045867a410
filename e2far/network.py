"""The network of UH-E2FAR: a VGG-Face trunk, an identity head, and a fusion-CNN for expression.

At full width and 180 px (sizes of the public re-implementation; the ReLUs behind conv6 to conv8 and
between the fc layers are ours, it has none):

    image 3x180x180 -> pool1 64x90x90 -> pool2 128x45x45 -> pool3 256x22x22
                    -> pool4 512x11x11 -> pool5 512x5x5
    identity    pool5 -> fc 4096 -> fc 1024 -> fc 199
    expression  conv6(pool4) 5x5 stride 2 pad 1, conv7(pool5) 1x1 -> concat 1024x5x5
                -> conv8 1x1, 512 -> fc 4096 -> fc 1024 -> fc 29
    pose        pool5 -> fc 256 -> fc 9        (ours: the paper leaves pose out)
"""

from collections.abc import Sequence
from functools import partial

import torch
from torch import nn

from e2far.trunks import Timm, convolution, map_sizes, open_trunk, scaled

# Pose vector of a face that looks ahead from the middle of its crop
FRONTAL = (1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.53, 0.0, -0.1)
VARIANTS = {
    "shared head": None,
    "two heads": ("pool5",),
    "control": ("pool5", "pool5"),
    "fusion": ("pool4", "pool5"),
}


def fully_connected(*sizes, batch_norm=False):
    """Linear layers through `sizes` on flattened features, with ReLUs between.

    batch_norm: before the ReLUs (ours): without it most units of a head that is trained from
        scratch die, they answer no picture and learn nothing any more (notebook 2 counts them)
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in zip(sizes, sizes[1:-1]):
        norm = [nn.BatchNorm1d(n_out)] if batch_norm else []
        layers += [nn.Linear(n_in, n_out, bias=not batch_norm), *norm, nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def hidden_layers(head, x, name):
    """Hidden layers name1, name2, ... (B, d) of a `fully_connected` head on features x (B, ...)."""
    found = {}
    for layer in head[:-1]:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found[f"{name}{len(found) + 1}"] = x
    return found


def initialise(module):
    """He initialisation, without which training from scratch stalls; timm's trunks have one."""
    parts = (part for part in module.children() if not isinstance(part, Timm))
    for layer in (layer for part in parts for layer in part.modules()):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def damp(head, bias=None):
    """Make `head` predict nearly the bias of its last layer, or the tensor `bias`, at first."""
    with torch.no_grad():
        head[-1].weight.mul_(0.01)
        if bias is not None:
            head[-1].bias.copy_(bias)


class Fusion(nn.Module):
    """The fusion-CNN: features of several layers on the last one's grid, concatenated and mixed.

    Every layer but the last passes a 5x5 convolution (conv6), the last a 1x1 convolution (conv7);
    a 1x1 convolution (conv8) mixes them. A single layer passes conv6 alone.
    Choice: conv6 strides by 2 from pool4 as in the paper and by 1 from pool5, and shallower layers
    are first max-pooled to pool4's grid: any layers cost (nearly) the same number of parameters.
    """

    def __init__(self, layers, maps, width, batch_norm):
        super().__init__()
        self.layers, n_out = layers, scaled(512, width)
        self.branches, conv = nn.ModuleList(), partial(convolution, batch_norm=batch_norm)
        several, (*_, pool4, pool5) = len(layers) > 1, maps.values()
        for place, layer in enumerate(layers, 1):
            level, n_in = int(layer[-1]), maps[layer][0]
            if several and place == len(layers):  # MaxPool2d(1) changes nothing
                branch = [nn.MaxPool2d(2 ** (5 - level)), conv(n_in, n_out, 1)]
            elif level == 5:
                branch = [conv(n_in, n_out, 5, padding=2)]
            else:
                padding = conv6_padding(pool4[1], pool5[1])
                branch = [nn.MaxPool2d(2 ** (4 - level)), conv(n_in, n_out, 5, 2, padding)]
            self.branches.append(nn.Sequential(*branch))
        self.conv8 = conv(len(layers) * n_out, n_out, 1) if several else nn.Identity()

    def forward(self, features):
        maps = [branch(features[layer]) for layer, branch in zip(self.layers, self.branches)]
        return self.conv8(torch.cat(maps, 1))


def conv6_padding(pool4, pool5):
    """Padding with which conv6, 5x5 of stride 2, turns a map of side `pool4` into one of `pool5`:
    1 in the paper (11 -> 5), 2 where a trunk rounds up (7 -> 4), else ValueError.
    """
    for padding in (1, 2):
        if (pool4 + 2 * padding - 5) // 2 + 1 == pool5:
            return padding
    sides = f"{pool4} and pool5 {pool5} cells a side"
    raise ValueError(f"pool4 has {sides}, which conv6 does not join: take another image_size")


class E2FAR(nn.Module):
    """Image to coefficients of a face model and a camera; ValueError for layers and sizes unfit.

    fused: layers that feed the expression head. ("pool4", "pool5") is the paper's; None gives one
        shared head on pool5 for identity and expression, ("pool5",) two heads on pool5 without a
        fusion-CNN, ("pool5", "pool5") a control with the fusion's parameters and pool5 alone
    trunk: a name of `trunks.open_trunk`    width: share of the full channels, of the heads too
    batch_norm: ours, for small networks trained from scratch; "convolutions" leaves out the heads,
        "heads" the trunk
    """

    def __init__(
        self,
        n_identity: int = 199,
        n_expression: int = 29,
        image_size: int = 180,
        width: float = 1.0,
        fused: Sequence[str] | None = ("pool4", "pool5"),
        batch_norm: bool | str = False,
        trunk: str = "vgg16",
    ):
        super().__init__()
        if batch_norm not in (True, False, "convolutions", "heads"):
            raise ValueError(f"batch_norm={batch_norm!r}: choose true, false, convolutions, heads")
        self.fused = fused = None if fused is None else tuple(fused)
        self.trunk = open_trunk(trunk, width, batch_norm in (True, "convolutions"))
        known = self.trunk.channels.keys()
        if fused is not None and not (0 < len(fused) <= len(known) and known >= set(fused)):
            raise ValueError(f"fused={fused}: name one or more of {', '.join(known)}, or None")
        check_image_size(image_size)
        self.config = dict(n_identity=n_identity, n_expression=n_expression, image_size=image_size)
        self.config |= dict(width=width, fused=fused, batch_norm=batch_norm, trunk=trunk)
        self.n_identity, self.n_expression = n_identity, n_expression
        self.image_size, self.metadata = image_size, {}
        maps, hidden = map_sizes(self.trunk, image_size), (scaled(4096, width), scaled(1024, width))
        self.top = [*maps][-1]  # pool5
        channels, side = maps[self.top]
        pool5, conv8 = channels * side**2, scaled(512, width) * side**2
        normed = dict(batch_norm=batch_norm in (True, "heads"))
        n_first = n_identity if fused else n_identity + n_expression
        self.identity_head = fully_connected(pool5, *hidden, n_first, **normed)
        self.pose_head = fully_connected(pool5, scaled(256, max(width, 0.25)), 9, **normed)
        self.fusion = self.expression_head = None
        if fused:
            n_in = pool5
            if fused != (self.top,):
                self.fusion, n_in = Fusion(fused, maps, width, bool(batch_norm)), conv8
            self.expression_head = fully_connected(n_in, *hidden, n_expression, **normed)
        initialise(self)
        damp(self.identity_head)
        if fused:
            damp(self.expression_head)
        damp(self.pose_head, torch.tensor(FRONTAL))

    def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dict of pool1 ... pool5 for images (B, 3, S, S), float in [0, 1]."""
        check_images(image, self.image_size)
        return self.trunk(image)

    def heads(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What `forward` returns, from a dict of pool5 and the fused layers, stored ones too."""
        pool5 = features[self.top]
        identity, pose = self.identity_head(pool5), self.pose_head(pool5)
        if self.expression_head is None:
            identity, expression = identity.split((self.n_identity, self.n_expression), 1)
        else:
            fused = pool5 if self.fusion is None else self.fusion(features)
            expression = self.expression_head(fused)
        return dict(identity=identity, expression=expression, pose=pose)

    def activations(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features`, the maps (B, C, h, w) of "fusion", and the hidden layers (B, d) of the heads:
        "identity fc1", "identity fc2", "expression fc1" and "expression fc2".
        """
        found = self.features(image)
        if self.fusion is not None:
            found["fusion"] = self.fusion(found)
        found |= hidden_layers(self.identity_head, found[self.top], "identity fc")
        if self.expression_head is not None:
            fused = found.get("fusion", found[self.top])
            found |= hidden_layers(self.expression_head, fused, "expression fc")
        return found

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Answers to images (B, 3, S, S) in [0, 1]: a dict of identity (B, K), expression (B, L)
        in standard deviations, and pose (B, 9), see `camera.decode_pose`.
        """
        return self.heads(self.features(image))


class Recognizer(nn.Module):
    """The same trunk with a classifier over people, trained first, as VGG-Face was."""

    def __init__(self, n_people, image_size=180, width=1.0, batch_norm=False, trunk="vgg16"):
        super().__init__()
        check_image_size(image_size)
        self.config = dict(n_people=n_people, image_size=image_size, width=width)
        self.config |= dict(batch_norm=batch_norm, trunk=trunk)
        self.n_people, self.image_size, self.metadata = n_people, image_size, {}
        self.trunk = open_trunk(trunk, width, batch_norm)
        channels, side = map_sizes(self.trunk, image_size)["pool5"]
        sizes = channels * side**2, scaled(4096, width), n_people
        self.classifier = fully_connected(*sizes, batch_norm=batch_norm)
        initialise(self)
        damp(self.classifier)

    features = E2FAR.features

    def activations(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features`, and fc1, the classifier's hidden layer (B, d)."""
        found = self.features(image)
        return found | hidden_layers(self.classifier, found["pool5"], "fc")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, people) of images (B, 3, S, S) in [0, 1]."""
        return self.classifier(self.features(image)["pool5"])


def check_images(image, size):
    """Raise ValueError where `image` is not (B, 3, size, size)."""
    if image.shape[1:] != (3, size, size):
        raise ValueError(f"image has shape {tuple(image.shape)}: expected (B, 3, {size}, {size})")


def check_image_size(size):
    """Raise ValueError for sizes at which conv6(pool4) does not give pool5's grid (11 -> 5)."""
    if size < 48 or size // 16 % 2 == 0:
        raise ValueError(
            f"at image_size {size} conv6(pool4) does not meet pool5, as pool4's side {size // 16} "
            "must be odd and at least 3: take for example 48, 80, 112, 144, 180 or 240"
        )
