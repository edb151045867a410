"""Trained networks on disk: safetensors files that say how they are built.

Readers raise FileNotFoundError or ValueError with one line that says what to do.
"""

import json
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save
from torch import nn

from e2far import vggface
from e2far.files import reading, replacing
from e2far.network import E2FAR
from e2far.trunks import Timm

AGAIN = "make it again with `dvc repro training`"


def save_network(network: nn.Module, path: str | Path, half: bool = False, **metadata) -> None:
    """Write an E2FAR or Recognizer with its configuration and `metadata` (JSON values).

    half: store float16
    """
    _save(network.state_dict(), path, half, dict(config=network.config, metadata=metadata))


def load_network(path, kind=E2FAR):
    """The E2FAR (or, as `kind`, Recognizer) at `path`, float32, in eval mode.

    Its `metadata` is what was saved with it.
    """
    tensors, header = read_tensors(path, "network")
    with reading(path, f"the {kind.__name__} that it describes: {AGAIN}"):
        network = kind(**header["config"])
    fill(network, tensors, path)
    network.metadata = header.get("metadata", {})
    return network.eval()


def begin(start, net):
    """The network of the file `start`, which must be built as `net` is; ValueError otherwise."""
    found = load_network(start)
    different = [key for key in net.config if found.config.get(key) != net.config[key]]
    if different:
        raise ValueError(
            f"{start} is a network of other {', '.join(different)}: "
            "train one from nothing, or choose the same settings"
        )
    return found


def fill_trunk(net, trunk):
    """Fill the trunk of `net` from a file of `save_trunk`, VGG-16 (`vggface`), dlib or timm."""
    if net.config["trunk"].startswith("timm/"):
        net.trunk = Timm(net.config["trunk"].removeprefix("timm/"), trunk)
    elif Path(trunk).suffix == ".dat":
        net.trunk.load(trunk)
    elif Path(trunk).suffix.lower() in (".mat", ".pth", ".pt"):
        vggface.load(net, trunk)
    else:
        load_trunk(net, trunk)


def save_trunk(module, path, half=False):
    """Write the trunk of an E2FAR or Recognizer; half: as float16."""
    config = {name: module.config[name] for name in ("trunk", "width")}
    config |= dict(batch_norm=module.trunk.batch_norm)
    _save(module.trunk.state_dict(), path, half, dict(config=config))


def load_trunk(module, path):
    """Fill the trunk of an E2FAR or Recognizer, in place, from a file of `save_trunk`."""
    fill(module.trunk, read_tensors(path, "trunk")[0], path)


def _save(state, path, half, header):
    tensors = {
        name: (value.half() if half and value.is_floating_point() else value).cpu().contiguous()
        for name, value in state.items()
    }
    with replacing(path) as partial:  # not save_file, whose files their owner alone may read
        partial.write_bytes(save(tensors, metadata={"e2far": json.dumps(header)}))


def read_tensors(path, kind):
    """Tensors (floats as float32) and header (config, metadata) of a file of ours, a `kind`."""
    what = f"a {kind} of e2far: {AGAIN}; for a shipped one, install e2far again"
    with reading(path, what), safe_open(path, framework="pt") as file:
        header = json.loads((file.metadata() or {}).get("e2far", "{}"))
        if not isinstance(header["config"], dict):
            raise ValueError("its config is no JSON object")
        tensors = {name: file.get_tensor(name) for name in file.keys()}
        tensors = {name: x.float() if x.is_floating_point() else x for name, x in tensors.items()}
        for name, value in tensors.items():
            negative = name.endswith("running_var") and (value < 0).any()
            if negative or value.is_complex() or not value.isfinite().all():
                raise ValueError(f"negative variances or numbers that are not finite in {name}")
    return tensors, header


def fill(module, tensors, path):
    """Load `tensors` of the file at `path` into `module`; ValueError where they do not fit."""
    with reading(path, f"of this trunk, width and batch_norm, but does not fit: {AGAIN}"):
        module.load_state_dict(tensors)
