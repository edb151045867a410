"""Compare a fresh run with the committed results: `make verify`, after `make reproduce`.

python -m e2far.pipeline.verify [COMMIT]: names every file of reports/ that differs from that of the
commit, HEAD if none is given, and whether it may. The exit status is 1 if one differs that may not.
"""

import fnmatch
import io
import re
import subprocess
import sys
from collections import Counter

import numpy as np
from PIL import Image

from e2far.files import extra
from e2far.pipeline import params

with extra("notebooks"):
    import nbformat

# Choice: what trainings on another processor make of differences in the last digit.
RELATIVE, ABSOLUTE = 0.02, 0.01
PIXELS = 0.02  # share of a figure's pixels that may differ by more than an eighth of the scale
TIMED = ("*/speed/*", "*speed.csv", "*appendix_speed.ipynb", "*environment.json")
NUMBER = re.compile(r"[-+]?\d[\d,]*\.?\d*(?:e[-+]?\d+)?")
SAME, NEAR, TIMES, OTHER = "the same", "within tolerance", "times, which may differ", "DIFFERENT"


def main(commit="HEAD"):
    """Print what differs; returns the exit status."""
    names = _git("ls-tree", "-r", "--name-only", commit, "reports").decode().split("\n")
    verdicts = {name: compare_with(commit, name) for name in names if name}
    for name, (verdict, why) in verdicts.items():
        if verdict != SAME:
            print(f"{name}: {verdict}{why and ', '}{why}")
    counts = Counter(verdict for verdict, _ in verdicts.values())
    told = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (SAME, NEAR, TIMES, OTHER))
    print(f"{len(verdicts)} files of reports/ beside {commit}: {told}")
    return int(counts[OTHER] > 0)


def _git(*arguments):
    command = ["git", "-C", params.ROOT, *arguments]
    return subprocess.run(command, check=True, capture_output=True).stdout


def compare_with(commit, name):
    """A verdict on a file, by its path in the repository, and the reason."""
    path = params.ROOT / name
    if not path.exists():
        return OTHER, "missing"
    before, now = _git("show", f"{commit}:{name}"), path.read_bytes()
    if before == now:
        return SAME, ""
    if any(fnmatch.fnmatch(name, pattern) for pattern in TIMED):
        return TIMES, ""
    if path.suffix in (".png", ".webp"):
        return compare_pictures(before, now)
    if path.suffix == ".ipynb":
        before, now = shown_text(before), shown_text(now)
    return compare_texts(
        *(text if isinstance(text, str) else text.decode() for text in (before, now))
    )


def shown_text(notebook):
    """What the cells of an executed notebook, bytes, say in words; its pictures are figures too."""
    found = []
    for cell in nbformat.reads(notebook.decode(), as_version=4).cells:
        for output in cell.get("outputs", ()):
            data = output.get("data", {})
            found.append(output.get("text") or data.get("text/markdown") or data.get("text/plain"))
    return "\n".join(text for text in found if text)


def compare_texts(before, now):
    """A verdict on two texts: words must agree, numbers to a tolerance; and the reason."""
    if NUMBER.sub("#", before) != NUMBER.sub("#", now):
        return OTHER, "other words or rows"
    read = lambda text: np.array([float(x.replace(",", "")) for x in NUMBER.findall(text)])
    one, other = read(before), read(now)
    off = np.abs(one - other)
    allowed = ABSOLUTE + RELATIVE * np.maximum(np.abs(one), np.abs(other))
    moved = (
        f"{np.count_nonzero(off)} of {len(off)} numbers moved, by {off.max(initial=0):.2g} at most"
    )
    return (OTHER if (off > allowed).any() else NEAR), moved


def compare_pictures(before, now):
    """A verdict on two pictures, bytes of image files, and the reason."""
    one, other = (np.asarray(Image.open(io.BytesIO(x)).convert("RGB"), int) for x in (before, now))
    if one.shape != other.shape:
        return OTHER, "another size"
    share = (np.abs(one - other).max(-1) > 32).mean()
    return (OTHER if share > PIXELS else NEAR), f"{share:.2%} of the pixels changed"


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
