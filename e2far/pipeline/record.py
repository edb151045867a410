"""What becomes of a notebook that papermill ran, before nbstripout takes its marks away: the seconds of every cell are kept, and its pictures are packed for git.

python -m e2far.pipeline.record reports/notebooks/04_benchmark.ipynb data/timings/benchmark.csv
"""

import base64
import csv
import io
import re
import sys

import nbformat
from PIL import Image

from e2far.files import replacing


def record(notebook, path):
    """Write a row for each code cell of the executed `notebook` to the CSV file `path`: its number, the heading that it stands under, its first line, and its seconds. Raises ValueError if papermill did not run it to its end."""
    rows, section = [], ""
    for number, cell in enumerate(nbformat.read(notebook, as_version=4).cells):
        if cell.cell_type == "code":
            rows.append(
                (
                    number,
                    section,
                    (cell.source.splitlines() or [""])[0],
                    cell.metadata.get("papermill", {}).get("duration"),
                )
            )
        else:
            section = (
                [line.lstrip("# ") for line in cell.source.splitlines() if re.match("#+ ", line)]
                or [section]
            )[-1]
    if any(seconds is None for *_, seconds in rows):
        raise ValueError(
            f"{notebook} does not say how long its cells took: run it with papermill, and read it before nbstripout does"
        )
    with replacing(path) as partial, open(partial, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(
            [
                ("cell", "section", "first_line", "seconds"),
                *((*row, round(seconds, 3)) for *row, seconds in rows),
            ]
        )


def packed(png):
    """The picture `png` (bytes), on white and opaque, in as few bytes as PNG allows: matplotlib's come with an opacity that is 1 everywhere, a seventh of their size."""
    picture, small = Image.open(io.BytesIO(png)).convert("RGBA"), io.BytesIO()
    Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB").save(
        small, "PNG", optimize=True
    )
    return min(small.getvalue(), png, key=len)


def pack(notebook):
    """Pack all pictures in the outputs of an executed `notebook`, in place, and leave out progress bars: widgets with random names, which a stored notebook cannot show."""
    content = nbformat.read(notebook, as_version=4)
    for cell in content.cells:
        if "outputs" in cell:
            cell.outputs = [
                output
                for output in cell.outputs
                if "application/vnd.jupyter.widget-view+json" not in output.get("data", {})
            ]
    for data in (
        output.get("data", {}) for cell in content.cells for output in cell.get("outputs", [])
    ):
        if "image/png" in data:
            data["image/png"] = base64.b64encode(
                packed(base64.b64decode(data["image/png"]))
            ).decode()
    with replacing(notebook) as partial:
        nbformat.write(content, partial)


if __name__ == "__main__":
    record(*sys.argv[1:])
    pack(sys.argv[1])
