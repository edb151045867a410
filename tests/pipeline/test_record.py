import base64
import io

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output
from PIL import Image

from e2far.pipeline import record


def write(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def png(picture):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def test_the_seconds_of_every_code_cell_are_kept(tmp_path):
    ran = lambda source, seconds: new_code_cell(
        source, metadata=dict(papermill=dict(duration=seconds))
    )
    notebook = write(
        tmp_path / "run.ipynb",
        new_markdown_cell("# Why?\nSo."),
        ran("first, line = 1, 2\nsecond = 3", 1.23456),
        new_markdown_cell("## And 2. how?"),
        new_markdown_cell("So."),
        ran("", 0.5),
    )
    record.record(notebook, tmp_path / "new" / "run.csv")
    found = pd.read_csv(tmp_path / "new" / "run.csv", keep_default_na=False)
    assert (
        found.cell.tolist() == [1, 4]
        and found.section.tolist() == ["Why?", "And 2. how?"]
        and found.first_line.tolist() == ["first, line = 1, 2", ""]
        and found.seconds.tolist() == [1.235, 0.5]
    )


def test_a_notebook_that_papermill_did_not_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run it with papermill"):
        record.record(write(tmp_path / "source.ipynb", new_code_cell("1")), tmp_path / "run.csv")
    assert not (tmp_path / "run.csv").exists()


def test_pictures_are_packed_and_nothing_else_changes(tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 4)).astype(np.uint8)
    picture[:20, :, 3], picture[20:, :, 3] = 255, 0  # the lower half is invisible
    outputs = [
        new_output("stream", text="said"),
        new_output(
            "display_data",
            data={"image/png": base64.b64encode(png(picture)).decode(), "text/plain": "<Figure>"},
        ),
    ]
    notebook = write(
        tmp_path / "run.ipynb",
        new_markdown_cell("# Why?"),
        new_code_cell("draw()", outputs=outputs),
    )
    before = nbformat.read(notebook, as_version=4)
    record.pack(notebook)
    after = nbformat.read(notebook, as_version=4)
    small = base64.b64decode(after.cells[1].outputs[1].data.pop("image/png"))
    assert (
        len(small) < len(base64.b64decode(before.cells[1].outputs[1].data.pop("image/png")))
        and after == before
    )
    shown = np.asarray(Image.open(io.BytesIO(small)))
    assert (
        (shown[:20] == picture[:20, :, :3]).all()
        and (shown[20:] == 255).all()
        and shown.shape == (40, 60, 3)
    )
    record.pack(notebook)
    assert (
        base64.b64decode(
            nbformat.read(notebook, as_version=4).cells[1].outputs[1].data["image/png"]
        )
        == small
    )  # twice is once
