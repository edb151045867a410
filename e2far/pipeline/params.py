"""Which numbers a notebook runs with: params.yaml's profile, or the environment's."""

import json
import math
import os
import re
from pathlib import Path
from types import SimpleNamespace

import yaml

ROOT = Path(__file__).resolve().parents[2]


def load(section, profile=None):
    """Parameters of `section` for `profile` as attributes.

    profile: a name under `profiles` in params.yaml; None takes the environment variable E2FAR_PROFILE, else params.yaml's own choice.
    E2FAR_OUT redirects what notebooks write (data, reports) to another folder, as the tests do; the shipped weights stay where they are.
    Raises ValueError naming the known profiles or sections.
    """
    found = read()
    listed = lambda names: " ".join(", ".join(names).split())[:300]
    try:
        if not isinstance(found["seed"], int):
            raise TypeError("seed is no whole number")
        profile = profile or os.environ.get("E2FAR_PROFILE") or found["profile"]
        if profile not in found["profiles"]:
            raise ValueError(
                f"no profile {profile!r} in params.yaml: choose one of {listed(found['profiles'])}"
            )
        sections = found["profiles"][profile]
        if section not in sections:
            raise ValueError(
                f"profile {profile!r} has no section {section!r}: it has {listed(sections)} (in params.yaml)"
            )
        out = Path(os.environ.get("E2FAR_OUT") or ROOT).resolve()
        return SimpleNamespace(
            profile=profile,
            seed=found["seed"],
            data=out / "data",
            reports=out / "reports",
            weights=ROOT / "data" / "weights",
            **sections[section],
        )
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(
            f"{ROOT / 'params.yaml'} lacks a part ({error!r}): it needs profile, seed, and profiles of sections of parameters"
        ) from error


def read():
    """What params.yaml holds: plain, finite values. Raises OSError, or ValueError with one line."""
    path = ROOT / "params.yaml"
    try:
        loader = yaml.SafeLoader(path.read_text())
        node = loader.get_single_node()
        if _written_out(node, {}) > 100_000:
            raise ValueError("it holds itself, or aliases of aliases without number")
        found = loader.construct_document(node)
        json.dumps(found, allow_nan=False)
        return found
    except OSError:
        raise
    except Exception as error:  # what is no YAML fails in too many ways to list
        raise ValueError(
            f"{path} cannot be read ({' '.join(str(error).split())[:300]}): correct it, or take it from git again"
        ) from error


def _written_out(node, known):
    """How many values a node of YAML stands for, aliases written out."""
    if id(node) not in known:
        known[id(node)] = math.inf  # of one that holds itself
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        known[id(node)] = 1 + sum(
            _written_out(part, known)
            for one in inner
            for part in (one if isinstance(one, tuple) else [one])
        )
    return known[id(node)]


def choose(profile):
    """Make `profile` the one in params.yaml, as `make reproduce PROFILE=...` does. Raises ValueError naming the known ones."""
    path = ROOT / "params.yaml"
    text = path.read_text()
    known = read()["profiles"]
    if profile not in known:
        raise ValueError(f"no profile {profile!r} in params.yaml: choose one of {', '.join(known)}")
    path.write_text(re.sub(r"(?m)^profile: \w+", f"profile: {profile}", text))
