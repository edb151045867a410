"""Which numbers a notebook runs with: params.yaml's profile, or the environment's."""
import os
import re
from pathlib import Path
from types import SimpleNamespace

import yaml

ROOT = Path(__file__).resolve().parent.parent


def load(section, profile=None):
    """Parameters of `section` for `profile` as attributes.

    profile: a name under `profiles` in params.yaml; None takes the environment variable E2FAR_PROFILE, else params.yaml's own choice.
    E2FAR_OUT redirects what notebooks write (data, reports) to another folder, as the tests do; the shipped weights stay where they are.
    Raises ValueError naming the known profiles or sections.
    """
    everything = yaml.safe_load((ROOT / "params.yaml").read_text())
    profile = profile or os.environ.get("E2FAR_PROFILE") or everything["profile"]
    if profile not in everything["profiles"]:
        raise ValueError(f"no profile {profile!r} in params.yaml: choose one of {', '.join(everything['profiles'])}")
    sections = everything["profiles"][profile]
    if section not in sections:
        raise ValueError(f"profile {profile!r} has no section {section!r}: it has {', '.join(sections)}")
    out = Path(os.environ.get("E2FAR_OUT") or ROOT).resolve()
    return SimpleNamespace(profile=profile, seed=everything["seed"], data=out / "data", reports=out / "reports", weights=ROOT / "data" / "weights", **sections[section])


def choose(profile):
    """Make `profile` the one in params.yaml, as `make reproduce PROFILE=...` does. Raises ValueError naming the known ones."""
    path = ROOT / "params.yaml"
    text = path.read_text()
    known = yaml.safe_load(text)["profiles"]
    if profile not in known:
        raise ValueError(f"no profile {profile!r} in params.yaml: choose one of {', '.join(known)}")
    path.write_text(re.sub(r"(?m)^profile: \w+", f"profile: {profile}", text))
