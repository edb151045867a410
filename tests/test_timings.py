import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook

from e2far import timings


def write(path, *cells):
    nbformat.write(new_notebook(cells=list(cells)), path)
    return path


def test_the_seconds_of_every_code_cell_are_kept(tmp_path):
    ran = lambda source, seconds: new_code_cell(source, metadata=dict(papermill=dict(duration=seconds)))
    notebook = write(tmp_path / "run.ipynb", new_markdown_cell("# Why?"), ran("first, line = 1, 2\nsecond = 3", 1.23456), ran("", .5))
    timings.record(notebook, tmp_path / "new" / "run.csv")
    found = pd.read_csv(tmp_path / "new" / "run.csv", keep_default_na=False)
    assert found.cell.tolist() == [1, 2] and found.first_line.tolist() == ["first, line = 1, 2", ""] and found.seconds.tolist() == [1.235, .5]


def test_a_notebook_that_papermill_did_not_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run it with papermill"):
        timings.record(write(tmp_path / "source.ipynb", new_code_cell("1")), tmp_path / "run.csv")
    assert not (tmp_path / "run.csv").exists()
