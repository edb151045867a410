"""The weights of VGG-16, from files that users bring, into the trunk: VGG-Face (Parkhi, Vedaldi, Zisserman 2015), the paper's start, or torchvision's, trained on ImageNet.

    vgg_face.mat       MatConvNet: cells `layers` of structs (name; weights {filters, biases}, formerly filters and biases), normalization.averageImage; at the top, in `net` or in `meta`
    vgg_face_dag.pth   its usual conversion to PyTorch: conv1_1.weight ... conv5_3.bias
    vgg16*.pth         torchvision's vgg16 or vgg16_bn: features.0.weight ...

All take R, G, B in this order and correlate, as torch does; filters lie (H, W, in, out) in MatConvNet. Theirs is the input (x - mean) / std of an image x in [0, 1] (VGG-Face: 255 x less its mean
colour, that is std 1 / 255), ours x - mean: 1 / std goes into the filters of conv1_1, which is exact also at the zeros of the border. Their fully connected layers are left out.
"""

import pickle
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file
from scipy.io import loadmat

from e2far.trunks import BLOCKS, MEAN_COLOUR

WHAT = (
    "VGG-16 as vgg_face.mat or vgg_face_dag.pth, requested from the Visual Geometry Group of Oxford (its VGG-Face page; licence for research), "
    "or the state dict of torchvision's vgg16 or vgg16_bn (.pth, .pt or .safetensors)"
)
PLAN = [
    (block, place) for block, (_, count) in enumerate(BLOCKS) for place in range(count)
]  # the 13 convolutions, counted from 0
VGG_FACE = MEAN_COLOUR, (1 / 255,) * 3  # mean and std; R, G, B
IMAGENET = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
CAFFE = (
    (0.48235, 0.45882, 0.40784),
    (1 / 255,) * 3,
)  # of torchvision's IMAGENET1K_FEATURES, the weights of the VGG paper itself
NORM = ("weight", "bias", "running_mean", "running_var")


def read(path):
    """State dict of a `trunks.Trunk`, float32, from a file of VGG-16; as wide as the file is, with BatchNorm where the file has it.

    Runs no code of the file. Raises FileNotFoundError, or ValueError with one line for whatever is wrong with the file.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"no weights at {path}: it should be {WHAT}")
    try:
        if path.suffix.lower() not in READERS:
            raise ValueError(f"the ending is not one of {', '.join(READERS)}")
        return _as_trunk(*READERS[path.suffix.lower()](path))
    except Exception as error:  # parsers of foreign formats fail in too many ways to list
        reason = (
            "it is cut short, or a pickle of more than tensors, whose code is not run"
            if isinstance(error, pickle.UnpicklingError)
            else " ".join(str(error).split())
        )
        raise ValueError(
            f"{path}: {'a part is missing: ' * isinstance(error, KeyError)}{reason[:300] or type(error).__name__}; it should be {WHAT}"
        ) from error


def load(module, path):
    """Fill the trunk of an E2FAR or Recognizer, in place, from a file of VGG-16. Raises as `read`, and ValueError where the trunk has another width or BatchNorm than the file."""
    if module.config["trunk"] != "vgg16":
        raise ValueError(
            f"{path} should hold VGG-16's weights, but the network's trunk is {module.config['trunk']}: give it trunk vgg16, or no such file"
        )
    tensors, wanted = read(path), module.trunk.state_dict()
    batch_norm = "blocks.0.0.1.weight" in tensors
    if batch_norm != module.trunk.batch_norm:
        raise ValueError(
            f"{path} has {'' if batch_norm else 'no '}BatchNorm, unlike the network: give the network batch_norm={batch_norm}, or take another file"
        )
    for key, value in wanted.items():
        if tensors[key].shape != value.shape:
            raise ValueError(
                f"{path} has {key} of {tuple(tensors[key].shape)} where the network, of width {module.config['width']:g}, has {tuple(value.shape)}: VGG-16 as published needs width 1.0"
            )
    module.trunk.load_state_dict(tensors)


def _read_mat(path):
    """Tensors as in vgg_face_dag.pth, and the mean and std of the input, of a MatConvNet file."""
    stored = loadmat(path, variable_names=["net", "layers", "normalization", "meta"])
    for name in ("net", "meta"):
        if name in stored:
            struct = stored[name].ravel()[0]
            stored |= {key: struct[key] for key in struct.dtype.names}
    tensors = {}
    for cell in stored["layers"].ravel():
        layer = cell.ravel()[0]
        name, fields = "".join(layer["name"].ravel()), layer.dtype.names
        if name.startswith("conv"):
            filters, biases = (
                layer["weights"].ravel()
                if "weights" in fields
                else (layer["filters"], layer["biases"])
            )
            if filters.ndim != 4:
                raise ValueError(
                    f"the filters of {name} have shape {filters.shape}, not (H, W, in, out)"
                )
            tensors[f"{name}.weight"] = torch.tensor(
                filters.transpose(3, 2, 0, 1).astype(np.float32)
            )
            tensors[f"{name}.bias"] = torch.tensor(biases.ravel().astype(np.float32))
    average = np.squeeze(stored["normalization"].ravel()[0]["averageImage"])
    if average.ndim not in (1, 3) or average.shape[-1] != 3:
        raise ValueError(f"averageImage has shape {average.shape}, not (H, W, 3) or 3 numbers")
    return tensors, (
        average.reshape(-1, 3).mean(0, dtype=np.float64) / 255,
        VGG_FACE[1],
    )  # Choice: the mean colour of a mean picture, for our pictures have other sizes


def _read_torch(path):
    return _of_known_input(torch.load(path, map_location="cpu", weights_only=True))


def _read_safetensors(path):
    return _of_known_input(load_file(path))


READERS = {
    ".mat": _read_mat,
    ".pth": _read_torch,
    ".pt": _read_torch,
    ".safetensors": _read_safetensors,
}


def _of_known_input(stored):
    """`stored`, or the state dict in it, and the mean and std that its layers' names tell.

    Choice: torchvision's two sets of vgg16 differ by name in nothing, but the one for features alone has no numbers in its classifier.
    """
    stored = stored.get("state_dict", stored) if isinstance(stored, dict) else stored
    if not isinstance(stored, dict):
        raise ValueError(f"it holds a {type(stored).__name__}, not a state dict")
    if "features.0.weight" not in stored:
        return stored, VGG_FACE
    return stored, CAFFE if any(
        key.startswith("classifier.") and value.isnan().any() for key, value in stored.items()
    ) else IMAGENET


def _as_trunk(stored, normalisation):
    """Trunk.state_dict() of layers named as in VGG-Face or torchvision, whose input has `normalisation` (mean, std)."""
    torchvision, batch_norm = "features.0.weight" in stored, "features.1.running_mean" in stored
    names = [
        f"features.{(3 if batch_norm else 2) * k + block}"
        if torchvision
        else f"conv{block + 1}_{place + 1}"
        for k, (block, place) in enumerate(PLAN)
    ]
    others = [
        key
        for key, value in stored.items()
        if key.startswith(("conv", "features."))
        and key.endswith(".weight")
        and value.ndim == 4
        and key.removesuffix(".weight") not in names
    ]
    if others:
        raise ValueError(f"{others[0]} is no layer of VGG-16")
    mean, std = (
        torch.tensor(np.asarray(value), dtype=torch.float32).view(3, 1, 1)
        for value in normalisation
    )
    tensors, n_in = dict(mean_colour=mean), 3

    def take(key, *shape):
        if key not in stored:
            raise ValueError(f"{key} is missing")
        if tuple(stored[key].shape) != shape:
            raise ValueError(f"{key} has shape {tuple(stored[key].shape)}, not {shape}")
        value = stored[key].float()
        if value.is_complex() or not value.isfinite().all():
            raise ValueError(f"{key} holds numbers that are not finite")
        return value

    for name, (block, place) in zip(names, PLAN):
        key, n_out = f"blocks.{block}.{place}", len(stored.get(f"{name}.weight", ()))
        weight, bias = take(f"{name}.weight", n_out, n_in, 3, 3), take(f"{name}.bias", n_out)
        tensors[f"{key}.0.weight"] = weight / std if name == names[0] else weight
        if batch_norm:
            norm = f"features.{int(name.split('.')[1]) + 1}"
            tensors |= {f"{key}.1.{part}": take(f"{norm}.{part}", n_out) for part in NORM}
            tensors[f"{key}.1.running_mean"] = (
                tensors[f"{key}.1.running_mean"] - bias
            )  # our convolutions before a BatchNorm have no bias, and it needs none
            tensors[f"{key}.1.num_batches_tracked"] = torch.tensor(0)
        else:
            tensors[f"{key}.0.bias"] = bias
        n_in = n_out
    broken = [key for key, value in tensors.items() if not value.isfinite().all()]
    if broken:
        raise ValueError(
            f"{'its mean colour' if broken == ['mean_colour'] else broken[0]} is not finite"
        )
    return tensors
