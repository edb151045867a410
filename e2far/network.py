"""The network of UH-E2FAR: a VGG-Face trunk, an identity head, and a fusion-CNN that feeds the expression head.

At full width and 180 px (the sizes of the public re-implementation; the ReLUs after conv6 to conv8 and between the fc layers are ours, it has none):

    image 3x180x180 -> pool1 64x90x90 -> pool2 128x45x45 -> pool3 256x22x22 -> pool4 512x11x11 -> pool5 512x5x5
    identity    pool5 -> fc 4096 -> fc 1024 -> fc 199
    expression  conv6(pool4) 5x5 stride 2 pad 1, conv7(pool5) 1x1 -> concat 1024x5x5 -> conv8 1x1, 512 -> fc 4096 -> fc 1024 -> fc 29
    pose        pool5 -> fc 256 -> fc 9        (ours: the paper leaves pose out)
"""

from collections.abc import Sequence

import torch
from torch import nn

from e2far.trunks import LAYERS, Timm, convolution, open_trunk, scaled

FRONTAL = (
    1.0,
    0.0,
    0.0,
    0.0,
    1.0,
    0.0,
    0.53,
    0.0,
    -0.1,
)  # pose vector of a face that looks ahead from the middle of its crop
VARIANTS = {
    "shared head": None,
    "two heads": ("pool5",),
    "control": ("pool5", "pool5"),
    "fusion": ("pool4", "pool5"),
}


def fully_connected(*sizes, batch_norm=False):
    """Linear layers through `sizes` on flattened features; after all but the last an optional BatchNorm (ours) and a ReLU.

    Without the BatchNorm most units of a head that is trained from scratch die: they answer no picture and learn nothing any more (notebook 2 counts them).
    """
    layers: list[nn.Module] = [nn.Flatten()]
    for n_in, n_out in zip(sizes, sizes[1:-1]):
        layers += [
            nn.Linear(n_in, n_out, bias=not batch_norm),
            *([nn.BatchNorm1d(n_out)] if batch_norm else []),
            nn.ReLU(inplace=True),
        ]
    return nn.Sequential(*layers, nn.Linear(*sizes[-2:]))


def hidden_layers(head, x, name):
    """Answers (B, d) of the hidden layers of a `fully_connected` head to features `x` (B, ...), after their ReLUs: dict of name1, name2, ..."""
    found = {}
    for layer in head[:-1]:
        x = layer(x)
        if isinstance(layer, nn.ReLU):
            found[f"{name}{len(found) + 1}"] = x
    return found


def initialise(module):
    """He initialisation: the variance of the signal is kept through the ReLUs, without which training from scratch stalls. timm's trunks have their own."""
    for layer in (
        layer
        for part in module.children()
        if not isinstance(part, Timm)
        for layer in part.modules()
    ):
        if isinstance(layer, (nn.Conv2d, nn.Linear)):
            nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)


def damp(head, bias=None):
    """Make the last layer of `head` predict nearly its bias, (near) zero or the tensor `bias`, before training."""
    with torch.no_grad():
        head[-1].weight.mul_(0.01)
        if bias is not None:
            head[-1].bias.copy_(bias)


class Fusion(nn.Module):
    """The fusion-CNN: features of several layers brought to pool5's grid, concatenated and mixed.

    Every layer but the last passes a 5x5 convolution (conv6), the last a 1x1 convolution (conv7); a 1x1
    convolution (conv8) mixes them. A single layer passes conv6 alone.
    Choice: conv6 strides by 2 from pool4 as in the paper and by 1 from pool5, and shallower layers are first
    max-pooled to pool4's grid, so that any layers can be compared at (nearly) the same number of parameters.

    maps: name -> (channels, side) of the trunk's maps    width: share of conv6 to conv8's 512 channels
    """

    def __init__(self, layers, maps, width, batch_norm):
        super().__init__()
        self.layers, n_out = layers, scaled(512, width)
        self.branches = nn.ModuleList()
        for place, layer in enumerate(layers):
            level, n_in = int(layer.removeprefix("pool")), maps[layer][0]
            if place == len(layers) - 1 and place > 0:
                branch = [
                    nn.MaxPool2d(2 ** (5 - level)),
                    convolution(n_in, n_out, 1, batch_norm=batch_norm),
                ]
            elif level == 5:
                branch = [convolution(n_in, n_out, 5, padding=2, batch_norm=batch_norm)]
            else:
                padding = conv6_padding(maps["pool4"][1], maps["pool5"][1])
                branch = [
                    nn.MaxPool2d(2 ** (4 - level)),
                    convolution(n_in, n_out, 5, 2, padding, batch_norm),
                ]
            self.branches.append(nn.Sequential(*branch))  # MaxPool2d(1) leaves its input as it is
        several = len(layers) > 1
        self.conv8 = (
            convolution(len(layers) * n_out, n_out, 1, batch_norm=batch_norm)
            if several
            else nn.Identity()
        )

    def forward(self, features):
        return self.conv8(
            torch.cat(
                [branch(features[layer]) for layer, branch in zip(self.layers, self.branches)], 1
            )
        )


def conv6_padding(pool4, pool5):
    """Padding with which conv6, 5x5 of stride 2, turns a map of side `pool4` into one of side `pool5`: 1 in the paper (11 -> 5), 2 where a trunk rounds up (7 -> 4).

    Raises ValueError where there is none.
    """
    for padding in (1, 2):
        if (pool4 + 2 * padding - 5) // 2 + 1 == pool5:
            return padding
    raise ValueError(
        f"the trunk's pool4 has {pool4} cells a side and pool5 {pool5}, which conv6 does not join: take another image_size"
    )


class E2FAR(nn.Module):
    """Image to coefficients of a face model and a camera.

    fused: layers that feed the expression head. ("pool4", "pool5") is the paper's; None gives one shared head on pool5 for identity and expression, ("pool5",) two
        heads on pool5 without a fusion-CNN, ("pool5", "pool5") a control with the fusion's parameters but no other layer than pool5.
    trunk: a name of `trunks.open_trunk`; width: share of the full network's channels, of the heads too; batch_norm: after every convolution and every hidden layer of the heads (ours, for small networks trained from scratch); "convolutions" leaves the heads' hidden layers out, "heads" the trunk
    Raises ValueError for an unknown layer, or an image size at which pool4 and pool5 do not meet as they do in the paper.
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
            raise ValueError(
                f"batch_norm={batch_norm!r}: choose true, false, convolutions or heads"
            )
        fused = None if fused is None else tuple(fused)
        self.trunk, normed = (
            open_trunk(trunk, width, batch_norm in (True, "convolutions")),
            batch_norm in (True, "heads"),
        )
        if fused is not None and (
            not fused or len(fused) > len(LAYERS) or set(fused) - self.trunk.channels.keys()
        ):
            raise ValueError(
                f"fused={fused}: name one or more of {', '.join(self.trunk.channels)}, or None for one shared head"
            )
        self.config = dict(
            n_identity=n_identity,
            n_expression=n_expression,
            image_size=image_size,
            width=width,
            fused=fused,
            batch_norm=batch_norm,
            trunk=trunk,
        )
        self.n_identity, self.n_expression, self.image_size, self.fused = (
            n_identity,
            n_expression,
            image_size,
            fused,
        )
        self.metadata = {}
        maps, hidden = map_sizes(self.trunk, image_size), (scaled(4096, width), scaled(1024, width))
        cells = maps["pool5"][1] ** 2
        pool5, conv8 = maps["pool5"][0] * cells, scaled(512, width) * cells
        self.identity_head = fully_connected(
            pool5, *hidden, n_identity + (n_expression if fused is None else 0), batch_norm=normed
        )
        self.pose_head = fully_connected(pool5, scaled(256, max(width, 0.25)), 9, batch_norm=normed)
        self.fusion = self.expression_head = None
        if fused is not None:
            self.fusion = (
                Fusion(fused, maps, width, bool(batch_norm)) if fused != ("pool5",) else None
            )
            self.expression_head = fully_connected(
                pool5 if self.fusion is None else conv8, *hidden, n_expression, batch_norm=normed
            )
        initialise(self)
        for head in (self.identity_head, self.expression_head):
            if head is not None:
                damp(head)
        damp(self.pose_head, torch.tensor(FRONTAL))

    def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dict of pool1 ... pool5 for images (B, 3, S, S), float in [0, 1]."""
        check_images(image, self.image_size)
        return self.trunk(image)

    def heads(self, features: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """What `forward` returns, from a dict that holds pool5 and the fused layers: heads can so be trained on stored features."""
        pool5 = features["pool5"]
        if self.expression_head is None:
            identity, expression = self.identity_head(pool5).split(
                (self.n_identity, self.n_expression), 1
            )
        else:
            identity = self.identity_head(pool5)
            expression = self.expression_head(
                pool5 if self.fusion is None else self.fusion(features)
            )
        return dict(identity=identity, expression=expression, pose=self.pose_head(pool5))

    def activations(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features`, and what the heads make of them: fusion, the fusion-CNN's maps (B, C, h, w); identity fc1, identity fc2, expression fc1, expression fc2, the heads' hidden layers (B, d)."""
        found = self.features(image)
        if self.fusion is not None:
            found["fusion"] = self.fusion(found)
        found |= hidden_layers(self.identity_head, found["pool5"], "identity fc")
        return (
            found
            if self.expression_head is None
            else found
            | hidden_layers(
                self.expression_head, found.get("fusion", found["pool5"]), "expression fc"
            )
        )

    def forward(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dict of identity (B, K), expression (B, L) in standard deviations and pose (B, 9) (camera.decode_pose) for images (B, 3, S, S) in [0, 1]."""
        return self.heads(self.features(image))


class Recognizer(nn.Module):
    """The same trunk with a classifier over people: image (B, 3, S, S) in [0, 1] to logits (B, people). Trained first, as VGG-Face was."""

    def __init__(
        self,
        n_people: int,
        image_size: int = 180,
        width: float = 1.0,
        batch_norm: bool = False,
        trunk: str = "vgg16",
    ):
        super().__init__()
        self.config = dict(
            n_people=n_people,
            image_size=image_size,
            width=width,
            batch_norm=batch_norm,
            trunk=trunk,
        )
        self.n_people, self.image_size, self.metadata = n_people, image_size, {}
        self.trunk = open_trunk(trunk, width, batch_norm)
        channels, side = map_sizes(self.trunk, image_size)["pool5"]
        self.classifier = fully_connected(
            channels * side**2, scaled(4096, width), n_people, batch_norm=batch_norm
        )
        initialise(self)
        damp(self.classifier)

    def features(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """Dict of pool1 ... pool5 for images (B, 3, S, S), float in [0, 1]."""
        check_images(image, self.image_size)
        return self.trunk(image)

    def activations(self, image: torch.Tensor) -> dict[str, torch.Tensor]:
        """`features`, and fc1, the classifier's hidden layer (B, d)."""
        found = self.features(image)
        return found | hidden_layers(self.classifier, found["pool5"], "fc")

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.classifier(self.features(image)["pool5"])


def map_sizes(trunk, image_size):
    """Channels and side of each map that `trunk` makes of pictures of `image_size` px, name -> (channels, side). Raises ValueError for sizes that the network cannot take."""
    check_image_size(image_size)
    if not isinstance(trunk, Timm):
        return {
            layer: (channels, image_size // 2 ** int(layer[-1]))
            for layer, channels in trunk.channels.items()
        }
    training = trunk.training
    with torch.no_grad():
        found = trunk.eval()(torch.zeros(1, 3, image_size, image_size))
    trunk.train(training)
    return {layer: tuple(maps.shape[1:3]) for layer, maps in found.items()}


def check_images(image, size):
    """Raise ValueError where `image` is not (B, 3, size, size)."""
    if image.shape[1:] != (3, size, size):
        raise ValueError(f"image has shape {tuple(image.shape)}: expected (B, 3, {size}, {size})")


def check_image_size(image_size):
    """Refuse sizes at which conv6 on pool4 does not give pool5's grid, as it does at the paper's 180 px (11x11 -> 5x5): pool4's side must be odd."""
    side = image_size // 16
    if side < 3 or side % 2 == 0:
        good = [
            size for size in (48, 80, 112, 144, 180, 208, 240) if abs(size - image_size) <= 64
        ] or [48, 80, 112, 144, 180]
        raise ValueError(
            f"image_size {image_size} makes pool4 {side}x{side}, but its side must be odd and at least 3 for conv6(pool4) to meet pool5: "
            f"take for example {', '.join(map(str, good))}"
        )
