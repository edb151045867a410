"""Where `make reproduce` spends its minutes: the seconds of every cell, as papermill notes them in an executed notebook, kept before nbstripout takes them away."""
import csv
import sys
from pathlib import Path

import nbformat

from e2far.data import replacing


def record(notebook, path):
    """Write a row for each code cell of an executed `notebook` to the CSV file `path`: its number, its first line, and its seconds. Raises ValueError if papermill did not run it to its end."""
    rows = [(number, (cell.source.splitlines() or [""])[0], cell.metadata.get("papermill", {}).get("duration"))
            for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells) if cell.cell_type == "code"]
    if any(seconds is None for *_, seconds in rows):
        raise ValueError(f"{notebook} does not say how long its cells took: run it with papermill, and read it before nbstripout does")
    Path(path).parent.mkdir(parents=True, exist_ok=True)
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("cell", "first_line", "seconds"), *((number, line, round(seconds, 3)) for number, line, seconds in rows)])


if __name__ == "__main__":
    record(*sys.argv[1:])
