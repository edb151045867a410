"""Trained networks on disk: safetensors files that say how they are built."""

import json
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from e2far import vggface
from e2far.files import replacing
from e2far.network import E2FAR
from e2far.trunks import Timm


def fill_trunk(net, trunk):
    """Fill the trunk of `net` from a file of `save_trunk`, of VGG-16 (`vggface`), or of a timm network where that is the trunk."""
    if net.config["trunk"].startswith("timm/"):
        net.trunk = Timm(net.config["trunk"].removeprefix("timm/"), trunk)
        return
    (vggface.load if Path(trunk).suffix.lower() in (".mat", ".pth", ".pt") else load_trunk)(
        net, trunk
    )


def begin(start, net):
    """The network of the file `start`, which must be built as `net` is; ValueError otherwise."""
    found = load_network(start)
    if found.config != net.config:
        different = [key for key in net.config if found.config.get(key) != net.config[key]]
        raise ValueError(
            f"{start} is a network of other {', '.join(different)}: train one from nothing, or choose the same settings"
        )
    return found


def save_network(network: nn.Module, path: str | Path, half: bool = False, **metadata) -> None:
    """Write an E2FAR or Recognizer as safetensors, its configuration and `metadata` (JSON values) in the header; `half` stores float16."""
    _save(network.state_dict(), path, half, dict(config=network.config, metadata=metadata))


def load_network(path, kind=E2FAR):
    """The E2FAR (or, as `kind`, Recognizer) stored at `path`, float32, in eval mode; `.metadata` holds what was saved with it.

    Raises FileNotFoundError, OSError (truncated, not safetensors) or ValueError (not an E2FAR, wrong shapes, NaN) with one line that says what to do.
    """
    tensors, header = read_tensors(path, "network")
    if ("fused" if kind is E2FAR else "n_people") not in header["config"]:
        raise ValueError(
            f"{path} holds no {kind.__name__}: name a file written by save_network, or train one with `dvc repro training`"
        )
    check_described(kind, header["config"], tensors, path)
    network = kind(**header["config"])
    fill(network, tensors, path)
    network.metadata = header["metadata"]
    return network.eval()


def check_described(kind, config, tensors, path):
    """Raise ValueError where no network `kind` has this `config`, or one that has more numbers than `tensors` of the file at `path`: nothing is allocated for what a damaged header claims."""
    try:
        if min(config.get(name, 1) for name in ("n_identity", "n_expression", "n_people")) < 1:
            raise ValueError("it predicts nothing")
        with torch.device("meta"):
            described = sum(value.numel() for value in kind(**config).state_dict().values())
    except Exception as error:  # of a wrong type or sign a number fails anywhere
        raise ValueError(
            f"{path} was written by another version of e2far, or is damaged ({' '.join(str(error).split())[:300]}): make it again with `dvc repro training`"
        ) from error
    if described > sum(value.numel() for value in tensors.values()):
        raise ValueError(
            f"{path} does not fit the network it describes, which has {described:,} numbers: make it again with `dvc repro training`"
        )


def save_trunk(module, path, half=False):
    """Write the trunk of an E2FAR or Recognizer as safetensors."""
    _save(module.trunk.state_dict(), path, half, dict(config=_trunk_config(module)))


def load_trunk(module, path):
    """Fill the trunk of an E2FAR or Recognizer, in place, from a file of `save_trunk`. Raises as `load_network`."""
    tensors, header = read_tensors(path, "trunk")
    wanted = _trunk_config(module)
    if dict(trunk="vgg16") | header["config"] != wanted:
        raise ValueError(
            f"{path} holds a trunk of {str(header['config'])[:300]!r}, but the network has {wanted}: make both from the same parameters"
        )
    fill(module.trunk, tensors, path)


def _trunk_config(module):
    return dict(
        trunk=module.config["trunk"],
        width=module.config["width"],
        batch_norm=module.trunk.batch_norm,
    )


def _save(state, path, half, header):
    tensors = {
        k: (v.half() if half and v.is_floating_point() else v).detach().cpu().contiguous()
        for k, v in state.items()
    }
    with replacing(path) as partial:
        partial.write_bytes(
            save(tensors, metadata={"e2far": json.dumps(header)})
        )  # not save_file, whose files their owner alone may read


def read_tensors(path, kind):
    """Tensors (floats as float32) and header, a dict of the dicts config and metadata, of a file of ours. Raises as `load_network`."""
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"no {kind} at {path}: make it with `dvc repro training`, or restore data/weights from git"
        )
    try:
        with safe_open(path, framework="pt") as file:
            header = dict(config={}, metadata={}) | json.loads(
                (file.metadata() or {}).get("e2far", "{}")
            )
            tensors = {key: file.get_tensor(key) for key in file.keys()}
        if not all(isinstance(header[part], dict) for part in ("config", "metadata")):
            raise ValueError("its header is not ours")
    except Exception as error:  # damaged headers and JSON fail in too many ways to list
        raise OSError(
            f"{path} is truncated or not a safetensors file ({' '.join(str(error).split())[:300]}): fetch it again, or make it with `dvc repro training`"
        ) from error
    tensors = {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}
    broken = [
        k
        for k, v in tensors.items()
        if v.is_complex() or not v.isfinite().all() or k.endswith("running_var") and (v < 0).any()
    ]
    if broken:
        raise ValueError(
            f"{path} holds negative variances or numbers that are not finite in {' '.join(broken[0].split())}: its training diverged, or it is damaged; make it again with `dvc repro training`"
        )
    return tensors, header


def fill(module, tensors, path):
    """Load `tensors` of the file at `path` into `module`; ValueError in one line where they do not fit."""
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        reason = " ".join(str(error).split(":", 1)[-1].split())
        raise ValueError(
            f"{path} does not fit the network it describes ({reason[:200]}): make it again with `dvc repro training`"
        ) from error
