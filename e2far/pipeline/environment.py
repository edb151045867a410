"""What results were made with: the same record, byte for byte, for every run of one checkout on one machine.

python -m e2far.pipeline.environment reports/environment.json
"""

import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
from pathlib import Path

import torch

from e2far import recipes
from e2far.files import replacing
from e2far.pipeline import params


def versions():
    """{package: version} of those that pyproject.toml asks for and that are installed."""
    found = {}
    for wanted in importlib.metadata.requires("e2far") or []:
        name = re.split(r"[^\w.-]", wanted)[0]
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            pass  # of an extra that is not here
    return dict(sorted(found.items()))


def processor():
    """The processor's name as Linux gives it, elsewhere as Python does."""
    listed = Path("/proc/cpuinfo")
    named = re.search(r"model name\s*: (.*)", listed.read_text()) if listed.exists() else None
    return named[1] if named else platform.processor()


def record(path):
    """Write to the JSON file `path`: profile, seed, the checkout's commit and which sources differ from it, machine, arithmetic and versions; no time and no path, which would make two runs differ.

    commit: null outside a git checkout. precision: what `precision: auto` comes to here, which decides the bits of a training.
    """
    p = params.load("training")

    def git(*words):
        try:
            return subprocess.run(
                ["git", "-C", params.ROOT, *words], capture_output=True, text=True, check=True
            ).stdout
        except (OSError, subprocess.CalledProcessError):
            return ""

    changed = git(
        "status",
        "--porcelain",
        "--untracked-files=no",
        "--",
        "e2far",
        "notebooks",
        "params.yaml",
        "dvc.yaml",
        "data/weights",
    ).splitlines()
    device = "cuda" if p.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    found = dict(
        profile=p.profile,
        seed=p.seed,
        commit=git("rev-parse", "HEAD").strip() or None,
        changed=[line[3:] for line in changed],
        system=f"{platform.system()} {platform.machine()}",
        processor=processor(),
        cores=os.cpu_count(),
        threads=os.environ.get("OMP_NUM_THREADS"),
        precision=recipes.auto_precision(p.precision, device),
        python=platform.python_version(),
        versions=versions(),
    )
    with replacing(path) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")


if __name__ == "__main__":
    record(*sys.argv[1:])
