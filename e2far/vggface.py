"""The weights of VGG-16, from files that users bring, into the trunk.

VGG-Face (Parkhi, Vedaldi, Zisserman 2015) is the paper's start; torchvision's learnt ImageNet.

    vgg_face.mat       MatConvNet: cells `layers` of structs (name; weights {filters, biases}, once
                       filters and biases), normalization.averageImage; at the top, in net or meta
    vgg_face_dag.pth   its usual conversion to PyTorch: conv1_1.weight ... conv5_3.bias
    vgg16*.pth         torchvision's vgg16 or vgg16_bn: features.0.weight ...

All take R, G, B and correlate, as torch does; MatConvNet's filters lie (H, W, in, out). Their input
is (x - mean) / std of an image x in [0, 1], ours x - mean: 1 / std goes into conv1_1's filters,
which is exact also at the zeros of the border. Their fully connected layers are left out.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file

from e2far.files import reading
from e2far.trunks import BLOCKS, MEAN_COLOUR

WHAT = (
    "VGG-16 as vgg_face.mat or vgg_face_dag.pth, requested from the Visual Geometry Group of "
    "Oxford (its VGG-Face page; licence for research), or the state dict of torchvision's vgg16 "
    "or vgg16_bn (.pth, .pt or .safetensors)"
)
PLAN = [(block, place) for block, (_, count) in enumerate(BLOCKS) for place in range(count)]
# Mean and std of the input; R, G, B
VGG_FACE = MEAN_COLOUR, (1 / 255,) * 3
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (0.48235, 0.45882, 0.40784), (1 / 255,) * 3  # of torchvision's IMAGENET1K_FEATURES


def read(path):
    """State dict of a `trunks.Trunk`, float32, from a file of VGG-16.

    It is as wide as the file is, with BatchNorm where the file has it. No code of the file runs.
    Raises FileNotFoundError, or ValueError with one line for whatever is wrong with the file.
    """
    with reading(path, WHAT):
        ending = Path(path).suffix.lower()
        if ending == ".mat":
            return _as_trunk(*_read_mat(path))
        if ending == ".safetensors":
            stored = load_file(path)
        else:
            try:
                stored = torch.load(path, map_location="cpu", weights_only=True)
            except pickle.UnpicklingError:  # whose text tells how to run the code after all
                reason = "it is cut short, or a pickle of more than tensors, whose code is not run"
                raise ValueError(reason) from None
            stored = stored.get("state_dict", stored)
        # Choice: torchvision's two sets of vgg16 have the same names, but the one for features
        # alone has no numbers in its classifier.
        classifier = [value for name, value in stored.items() if name.startswith("classifier.")]
        if "features.0.weight" not in stored:
            return _as_trunk(stored, *VGG_FACE)
        caffe = any(value.isnan().any() for value in classifier)
        return _as_trunk(stored, *(CAFFE if caffe else IMAGENET))


def load(module, path):
    """Fill the trunk of an E2FAR or Recognizer, in place, from a file of VGG-16.

    Raises as `read`, and ValueError where the trunk is another, in width or BatchNorm too.
    """
    if module.config["trunk"] != "vgg16":
        raise ValueError(f"{path} is of no use to a trunk {module.config['trunk']}: take vgg16")
    tensors, wanted = read(path), module.trunk.state_dict()
    shapes = lambda state: {name: value.shape for name, value in state.items()}
    if shapes(tensors) != shapes(wanted):
        batch_norm = "blocks.0.0.1.weight" in tensors
        raise ValueError(
            f"{path} needs a network with batch_norm={batch_norm}, and as wide as it is: VGG-16 as "
            "published needs width 1.0"
        )
    module.trunk.load_state_dict(tensors)


def _read_mat(path):
    """Tensors as in vgg_face_dag.pth, and the input's mean and std, of a MatConvNet file."""
    from scipy.io import loadmat

    stored = loadmat(path, simplify_cells=True)
    stored |= stored.get("net", {}) | stored.get("meta", {})
    tensors = {}
    for layer in stored["layers"]:
        if layer["name"].startswith("conv"):
            both = layer["weights"] if "weights" in layer else (layer["filters"], layer["biases"])
            filters, bias = (torch.tensor(np.float32(values)) for values in both)
            tensors[f"{layer['name']}.weight"] = filters.permute(3, 2, 0, 1)
            tensors[f"{layer['name']}.bias"] = bias
    # Choice: the mean colour of a mean picture, for our pictures have other sizes
    average = np.reshape(stored["normalization"]["averageImage"], (-1, 3))
    return tensors, average.mean(0, dtype=np.float64) / 255, VGG_FACE[1]


def _as_trunk(stored, mean, std):
    """Trunk.state_dict() of the layers `stored`, whose input has this mean and std."""
    batch_norm = "features.1.running_mean" in stored
    names = [f"conv{block + 1}_{place + 1}" for block, place in PLAN]
    if "features.0.weight" in stored:
        step = 3 if batch_norm else 2  # a ReLU, and BatchNorm, after each; a pool after each block
        names = [f"features.{step * k + block}" for k, (block, _) in enumerate(PLAN)]
    for key, value in stored.items():
        convolution = value.ndim == 4 and key.startswith(("conv", "features."))
        if convolution and key.removesuffix(".weight") not in names:
            raise ValueError(f"{key} is no layer of VGG-16")

    def take(key, *shape):
        value = stored[key]
        if value.shape != shape:
            raise ValueError(f"{key} has shape {tuple(value.shape)}, not {shape}")
        if value.is_complex() or not value.isfinite().all():
            raise ValueError(f"{key} holds numbers that are not finite")
        return value.float()

    mean, std = (torch.tensor(value).float().view(3, 1, 1) for value in (mean, std))
    if not mean.isfinite().all():
        raise ValueError("its mean picture holds numbers that are not finite")
    tensors, n_in = dict(mean_colour=mean), 3
    for name, (block, place) in zip(names, PLAN):
        key, n_out = f"blocks.{block}.{place}", len(stored[f"{name}.weight"])
        weight, bias = take(f"{name}.weight", n_out, n_in, 3, 3), take(f"{name}.bias", n_out)
        tensors[f"{key}.0.weight"] = weight if block or place else weight / std
        if batch_norm:
            norm = f"features.{int(name.split('.')[1]) + 1}"
            for part in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{key}.1.{part}"] = take(f"{norm}.{part}", n_out)
            # Our convolutions before a BatchNorm have no bias, and it needs none
            tensors[f"{key}.1.running_mean"] -= bias
            tensors[f"{key}.1.num_batches_tracked"] = torch.tensor(0)
        else:
            tensors[f"{key}.0.bias"] = bias
        n_in = n_out
    return tensors
