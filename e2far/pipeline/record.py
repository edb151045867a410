"""What results were made with, and how long each cell of a notebook took.

python -m e2far.pipeline.record environment FILE.json
python -m e2far.pipeline.record notebook EXECUTED.ipynb TIMINGS.csv
"""

import base64
import importlib.metadata
import io
import json
import os
import platform
import re
import signal
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from pathlib import Path

from PIL import Image

from e2far.files import replacing
from e2far.pipeline import params

SOURCES = ("e2far", "notebooks", "params.yaml", "dvc.yaml")
WIDGET = "application/vnd.jupyter.widget-view+json"
INSTALLED = re.compile(r"/\S*/site-packages/")


def environment(path):
    """Write to the JSON file `path` what decides results: profile, seed, the checkout's commit and
    the sources that differ from it, machine, arithmetic, versions. No time and no path: every run
    of one checkout on one machine writes the same bytes.

    commit: null outside a git checkout    precision: what `precision: auto` comes to here
    """
    import torch

    from e2far import training

    p = params.load("training")
    device = "cuda" if p.accelerator != "cpu" and torch.cuda.is_available() else "cpu"
    changed = git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES).splitlines()
    cpuinfo = Path("/proc/cpuinfo")
    model_name = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    found = dict(
        profile=p.profile,
        seed=p.seed,
        commit=git("rev-parse", "HEAD").strip() or None,
        changed=[line[3:] for line in changed],
        system=f"{platform.system()} {platform.machine()}",
        processor=model_name[1] if model_name else platform.processor(),
        cores=os.cpu_count(),
        threads=os.environ.get("OMP_NUM_THREADS"),
        precision=training.auto_precision(p.precision, device),
        python=platform.python_version(),
        versions=versions(),
    )
    with replacing(path) as partial:
        partial.write_text(json.dumps(found, indent=1) + "\n")


def git(*words):
    """What git says of the repository; nothing where there is no git, or no checkout."""
    command = ["git", "-C", params.ROOT, *words]
    try:
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, text=True)
    except (OSError, subprocess.CalledProcessError):
        return ""


def versions():
    """{package: version} of those that pyproject.toml asks for and that are installed."""
    found = {}
    for requirement in importlib.metadata.requires("e2far"):  # ty: ignore[not-iterable]
        name = re.match(r"[\w.-]+", requirement)[0]  # ty: ignore[not-subscriptable]
        with suppress(importlib.metadata.PackageNotFoundError):  # of an extra that is not here
            found[name] = importlib.metadata.version(name)
    return dict(sorted(found.items()))


def notebook(path, timings):
    """Prepare an executed notebook for git, before nbstripout takes papermill's marks away.

    Writes a row for each code cell to the CSV file `timings`: its number, the heading that it
    stands under, its first line, its seconds. Takes progress bars out of the notebook: widgets
    with random names, which a stored notebook cannot show. Photographs become JPEGs, and warnings
    name files of packages without the machine's folders.
    Raises ValueError if papermill did not run the notebook to its end.
    """
    import nbformat
    import pandas as pd

    content, rows, section = nbformat.read(path, as_version=4), [], ""
    for number, cell in enumerate(content.cells):
        if cell.cell_type != "code":
            section = (re.findall(r"(?m)^#+ (.*)", cell.source) or [section])[-1]
            continue
        seconds = cell.metadata.get("papermill", {}).get("duration")
        if seconds is None:
            raise ValueError(f"{path} does not say how long cell {number} took: run papermill")
        first_line = cell.source.partition("\n")[0]
        rows.append(dict(cell=number, section=section, first_line=first_line, seconds=seconds))
        cell.outputs = [output for output in cell.outputs if WIDGET not in output.get("data", {})]
        for output in cell.outputs:
            pack_picture(output.get("data", {}))
            if "text" in output:
                output.text = INSTALLED.sub("", output.text)
    with replacing(timings) as partial:
        pd.DataFrame(rows).round(3).to_csv(partial, index=False)
    with replacing(path) as partial:
        nbformat.write(content, partial)


@contextmanager
def timed(timings):
    """Write to the CSV file `timings` how many seconds the code inside took.

    SIGTERM ends it as an error does, for only then joblib ends its workers.
    """
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    start = time.perf_counter()
    yield
    timings.parent.mkdir(parents=True, exist_ok=True)
    timings.write_text(f"seconds\n{time.perf_counter() - start:.0f}\n")


def pack_picture(data):
    """Store a picture, in an output's `data`, as JPEG where that takes less than half: photographs.
    Drawings stay PNG."""
    if "image/png" not in data:
        return
    stored, packed = base64.b64decode(data["image/png"]), io.BytesIO()
    picture = Image.open(io.BytesIO(stored)).convert("RGB")
    picture.save(packed, "JPEG", quality=88, subsampling=0)
    if len(packed.getvalue()) < len(stored) / 2:
        data["image/jpeg"] = base64.b64encode(packed.getvalue()).decode()
        del data["image/png"]


if __name__ == "__main__":  # the name of a function, then its arguments
    dict(environment=environment, notebook=notebook)[sys.argv[1]](*sys.argv[2:])
