"""Which numbers a notebook runs with: params.yaml's profile, or the environment's."""

import os
import re
from pathlib import Path
from types import SimpleNamespace

from e2far import SHIPPED
from e2far.files import extra

with extra("study"):
    import yaml

ROOT = Path(__file__).resolve().parents[2]
ANGLES = ("yaw_deg", "pitch_deg", "roll_deg")  # of the block `synthesis`


def load(section, profile=None):
    """Parameters of `section` for `profile` as attributes.

    profile: a name under `profiles` in params.yaml; None takes the environment variable
        E2FAR_PROFILE, else params.yaml's own choice.
    E2FAR_OUT redirects what notebooks write (data, reports) to another folder, as the tests do;
        the shipped weights stay where they are.
    Raises ValueError naming the known profiles or sections.
    """
    found = read()
    profile = profile or os.environ.get("E2FAR_PROFILE") or found["profile"]
    sections = _pick("profile", profile, found["profiles"])
    block = _pick("section", section, sections)
    out = Path(os.environ.get("E2FAR_OUT") or ROOT).resolve()
    return SimpleNamespace(
        profile=profile,
        seed=found["seed"],
        data=out / "data",
        reports=out / "reports",
        weights=SHIPPED,
        **block,
    )


def read():
    """What params.yaml holds."""
    path = ROOT / "params.yaml"
    if not path.exists():
        raise FileNotFoundError(f"no file at {path}: the study runs in a clone of e2far")
    return yaml.safe_load(path.read_text())


def choose(profile):
    """Make `profile` the one in params.yaml, as `make reproduce PROFILE=...` does."""
    _pick("profile", profile, read()["profiles"])
    path = ROOT / "params.yaml"
    path.write_text(re.sub(r"(?m)^profile: \w+", f"profile: {profile}", path.read_text()))


def _pick(kind, name, known):
    if name not in known:
        raise ValueError(f"no {kind} {name!r} in params.yaml: choose one of {', '.join(known)}")
    return known[name]


def settings(p, faces):
    """Arguments from a block `training`: dicts `network` of E2FAR, `training` of `fit`,
    `recognition` of `pretrain`. faces: data.Faces, for the size of pictures"""
    take = lambda *names: {name: getattr(p, name) for name in names}
    common = take("batch_size", "optimizer", "weight_decay", "clip", "precision")
    common |= take("log_every", "validate_every", "checkpoint_every") | dict(augment=p.augmentation)
    schedule = dict(steps="steps", learning_rate="rate", warmup="warmup")
    return SimpleNamespace(
        network=dict(image_size=faces.image_size) | take("width", "batch_norm", "fused", "trunk"),
        training=common | take("ema", "expression_weight", "pose_weight"),
        recognition=common | {name: p.pretrain[key] for name, key in schedule.items()},
    )


def live_settings(p, synthesis):
    """Arguments of `live.LiveFaces` from the blocks `training` (or `long`) and `synthesis`."""
    return dict(seed=p.seed) | {name: getattr(synthesis, name) for name in ANGLES} | (p.live or {})
