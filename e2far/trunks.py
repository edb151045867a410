"""What the heads stand on: networks that turn a picture into maps of features, shallow to deep.

Every trunk answers an image (B, 3, S, S) in [0, 1] with a dict of maps named after VGG-16's pools:
`pool1` is reduced by 2, ..., `pool5` by 32; its `channels` says how many each has. So heads, probes
and figures work on any of them. `open_trunk` makes one by name:

    vgg16         the paper's: 13 convolutions in five blocks, each ending in a max-pool
    residual      pairs of 3x3 convolutions with a shortcut (He et al. 2016), behind a stride-2 stem
    depthwise     inverted residuals (Sandler et al. 2018), behind the same stem
    dlib          dlib's face recogniser, see `recogniser`; its maps are called stage1 ... stage5
    timm/NAME     any network of the PyPI package timm that gives its features, e.g. timm/resnet18

`width` is the share of the full network's channels; timm's networks have the width they have.
"""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import nn

from e2far.recogniser import Recogniser

LAYERS = ("pool1", "pool2", "pool3", "pool4", "pool5")
# Channels and convolutions of VGG-16's blocks
BLOCKS = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))
EXPANSION = 4  # of an inverted residual's inner channels
# Of VGG-Face's training pictures; R, G, B
MEAN_COLOUR = (129.1863 / 255, 104.7624 / 255, 93.5940 / 255)


def scaled(n, width):
    """`n` channels of the full network at `width`, at least one."""
    return max(1, round(n * width))


def convolution(n_in, n_out, kernel, stride=1, padding=0, batch_norm=False):
    """Convolution, optional BatchNorm (ours, for training small networks from scratch), ReLU."""
    norm = [nn.BatchNorm2d(n_out)] if batch_norm else []
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, bias=not batch_norm)
    return nn.Sequential(conv, *norm, nn.ReLU(inplace=True))


def normed(n_in, n_out, kernel, stride=1, groups=1):
    """Convolution and BatchNorm. At stride 2 an even kernel makes floor(S / 2) of S, as a pool."""
    padding = (kernel - 1) // 2
    conv = nn.Conv2d(n_in, n_out, kernel, stride, padding, groups=groups, bias=False)
    return nn.Sequential(conv, nn.BatchNorm2d(n_out))


class Trunk(nn.Module):
    """VGG-16's features: image (B, 3, S, S) in [0, 1] to pool1 ... pool5, (B, C, S/2^i, S/2^i)."""

    def __init__(self, width=1.0, batch_norm=False):
        super().__init__()
        self.batch_norm = batch_norm
        self.channels = {layer: scaled(n, width) for layer, (n, _) in zip(LAYERS, BLOCKS)}
        self.blocks, n_in = nn.ModuleList(), 3
        for (_, count), n_out in zip(BLOCKS, self.channels.values()):
            sizes = zip((n_in, *[n_out] * count), [n_out] * count)
            block = [convolution(*size, 3, padding=1, batch_norm=batch_norm) for size in sizes]
            self.blocks.append(nn.Sequential(*block, nn.MaxPool2d(2)))
            n_in = n_out
        self.register_buffer("mean_colour", torch.tensor(MEAN_COLOUR).view(3, 1, 1))

    def forward(self, image):
        features, x = {}, image - self.mean_colour
        for layer, block in zip(LAYERS, self.blocks):
            features[layer] = x = block(x)
        return features


class Residual(nn.Module):
    """x + f(x), with f two 3x3 convolutions; at stride 2 x is averaged and mixed by a 1x1 one."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        self.first = normed(n_in, n_out, 4 if stride == 2 else 3, stride)
        self.second = normed(n_out, n_out, 3)
        self.shortcut = nn.Identity()
        if stride == 2:
            self.shortcut = nn.Sequential(nn.AvgPool2d(2), normed(n_in, n_out, 1))

    def forward(self, x):
        inner = self.second(F.relu(self.first(x), inplace=True))
        return F.relu(inner + self.shortcut(x), inplace=True)


class InvertedResidual(nn.Module):
    """1x1 convolution to more channels, 3x3 of each channel alone, 1x1 back; at stride 1 plus x."""

    def __init__(self, n_in, n_out, stride):
        super().__init__()
        inner = EXPANSION * n_in
        self.adds = stride == 1
        self.layers = nn.Sequential(
            normed(n_in, inner, 1),
            nn.ReLU(inplace=True),
            normed(inner, inner, 4 if stride == 2 else 3, stride, groups=inner),
            nn.ReLU(inplace=True),
            normed(inner, n_out, 1),
        )

    def forward(self, x):
        return x + self.layers(x) if self.adds else self.layers(x)


class Staged(nn.Module):
    """A stem of stride 2 and four stages of blocks, each of which halves the maps; as `Trunk`.

    plan: channels and number of blocks of each, the stem first    block: makes one
    """

    def __init__(self, plan, block, width):
        super().__init__()
        self.batch_norm = True
        self.channels = {layer: scaled(n, width) for layer, (n, _) in zip(LAYERS, plan)}
        n_in, *sizes = self.channels.values()
        self.stem = nn.Sequential(normed(3, n_in, 6, 2), nn.ReLU(inplace=True))
        self.stages = nn.ModuleList()
        for n_out, (_, count) in zip(sizes, plan[1:]):
            same = (block(n_out, n_out, 1) for _ in range(count - 1))
            self.stages.append(nn.Sequential(block(n_in, n_out, 2), *same))
            n_in = n_out
        self.register_buffer("mean_colour", torch.tensor(MEAN_COLOUR).view(3, 1, 1))

    def forward(self, image):
        features, x = {}, image - self.mean_colour
        for layer, stage in zip(LAYERS, (self.stem, *self.stages)):
            features[layer] = x = stage(x)
        return features


# Channels and blocks of each stage, the stem first; and what makes a block
STAGED = dict(
    residual=(((128, 0), (128, 2), (256, 2), (512, 2), (1024, 2)), Residual),
    depthwise=(((96, 0), (128, 2), (192, 3), (384, 3), (768, 2)), InvertedResidual),
)


class Timm(nn.Module):
    """A network of timm by its `features_only` interface, its maps named by their reduction.

    weights: file of a state dict for it (timm's own format), or None for random ones
    Raises ImportError without timm, FileNotFoundError without the file, ValueError for names that
    timm does not know and for networks that lack pool4 or pool5.
    """

    def __init__(self, name, weights=None):
        super().__init__()
        try:
            import timm
        except ImportError:
            raise ImportError(
                f"trunk timm/{name} needs timm: `pip install timm`, with torchvision of your "
                "torch's build"
            ) from None
        options = {}
        if weights:
            if not Path(weights).is_file():
                raise FileNotFoundError(f"no weights at {weights}: name a state dict of {name}")
            options = dict(pretrained=True, pretrained_cfg_overlay=dict(file=str(weights)))
        try:
            self.network = timm.create_model(name, features_only=True, **options)
        except (RuntimeError, ValueError, AttributeError, OSError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ValueError(f"timm makes no features of {name!r} ({reason})") from None
        info = self.network.feature_info
        layers = [f"pool{reduction.bit_length() - 1}" for reduction in info.reduction()]
        self.batch_norm, self.channels = True, dict(zip(layers, info.channels()))
        if not {"pool4", "pool5"} <= self.channels.keys():
            raise ValueError(f"timm/{name} has maps {layers}, but heads need pool4 and pool5")
        trained_on = timm.get_pretrained_cfg(name)
        for key in ("mean", "std"):
            self.register_buffer(key, torch.tensor(getattr(trained_on, key)).view(3, 1, 1))

    def forward(self, image):
        return dict(zip(self.channels, self.network((image - self.mean) / self.std)))


def open_trunk(name="vgg16", width=1.0, batch_norm=False):
    """The trunk called `name` (see above), untrained. Raises ValueError for others and bad widths.

    batch_norm: of vgg16, whose paper has none; the others cannot do without
    """
    if not 0 < width <= 4:
        raise ValueError(f"width {width}: a share of the full channels, above 0 and at most 4")
    if str(name).startswith("timm/"):
        return Timm(name.removeprefix("timm/"))
    if name == "vgg16":
        return Trunk(width, batch_norm)
    if name == "dlib":
        return Recogniser()
    if name not in STAGED:
        raise ValueError(f"trunk {name!r}: choose vgg16, residual, depthwise, dlib or timm/NAME")
    if not batch_norm:
        raise ValueError(f"trunk {name} does not train without BatchNorm: give batch_norm true")
    return Staged(*STAGED[name], width)


def map_sizes(trunk, image_size):
    """Name -> (channels, side) of the maps that `trunk` makes of pictures of `image_size` px."""
    if not isinstance(trunk, (Recogniser, Timm)):
        channels = enumerate(trunk.channels.items(), 1)
        return {layer: (n, image_size // 2**level) for level, (layer, n) in channels}
    with torch.no_grad():
        found = trunk.eval()(torch.zeros(1, 3, image_size, image_size))
    trunk.train()
    return {layer: tuple(maps.shape[1:3]) for layer, maps in found.items()}
