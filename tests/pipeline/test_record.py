import base64
import importlib.metadata
import io
import json
import subprocess
import sys
from pathlib import Path

import nbformat
import numpy
import numpy as np
import pandas as pd
import pytest
from PIL import Image
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from e2far.pipeline import params, record


def ran(source, seconds, **more):
    return new_code_cell(source, metadata=dict(papermill=dict(duration=seconds)), **more)


def record_of(folder, *cells):
    """The bytes of an executed notebook and its timings, as `record.notebook` leaves them."""
    path, timings = folder / "run.ipynb", folder / "new" / "run.csv"
    nbformat.write(new_notebook(cells=list(cells)), path)
    record.notebook(path, timings)
    return path.read_bytes(), pd.read_csv(timings, keep_default_na=False)


def test_the_seconds_of_a_script_are_kept(tmp_path):
    with record.timed(tmp_path / "new" / "study.csv"):
        pass
    assert pd.read_csv(tmp_path / "new" / "study.csv").seconds.tolist() == [0]


TERMINATED = """
import os, sys, time
from pathlib import Path
import joblib
from e2far.pipeline import record

def work(number):
    os.write(1, f"{os.getpid()}\\n".encode())  # in one piece
    time.sleep(60)

with record.timed(Path(sys.argv[1])):
    joblib.Parallel(2)(joblib.delayed(work)(number) for number in range(4))
"""


def test_a_study_that_is_terminated_leaves_no_worker(tmp_path):
    (tmp_path / "study.py").write_text(TERMINATED)
    command = [sys.executable, tmp_path / "study.py", tmp_path / "study.csv"]
    study = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    workers = [int(study.stdout.readline()) for _ in range(2)]
    study.terminate()
    assert study.wait(30) == 143 and not (tmp_path / "study.csv").exists()
    assert not any(map(is_running, workers))


def is_running(pid):
    state = Path(f"/proc/{pid}/stat")
    return state.exists() and state.read_text().split()[2] != "Z"


def test_warnings_name_no_folder_of_the_machine(tmp_path):
    said = new_output("stream", name="stderr", text="/any/lib/site-packages/joblib/y.py:7: slow")
    stored, _ = record_of(tmp_path, ran("1", 1.0, outputs=[said]))
    assert b"joblib/y.py:7: slow" in stored and b"site-packages" not in stored


def test_the_seconds_of_every_code_cell_are_kept(tmp_path):
    first = new_markdown_cell("# Why?\nSo."), ran("first, line = 1, 2\nsecond = 3", 1.23456)
    second = new_markdown_cell("## And 2. how?"), new_markdown_cell("So."), ran("", 0.5)
    _, found = record_of(tmp_path, *first, *second)
    assert found[["cell", "section", "first_line", "seconds"]].values.tolist() == [
        [1, "Why?", "first, line = 1, 2", 1.235],
        [4, "And 2. how?", "", 0.5],
    ]


def test_a_notebook_that_papermill_did_not_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match="run papermill"):
        record_of(tmp_path, new_code_cell("1"))
    assert not (tmp_path / "new").exists()


def test_an_executed_notebook_keeps_no_random_names(tmp_path):
    """A progress bar is a widget with another name in each run; what stands beside it stays."""

    def executed(name):
        view = dict(model_id=name, version_major=2, version_minor=0)
        bar = {"text/plain": "0%", "application/vnd.jupyter.widget-view+json": view}
        outputs = [new_output("display_data", bar), new_output("stream", text="found")]
        return record_of(tmp_path, ran("1", 0.1, outputs=outputs, id="a"))[0]

    assert executed("5f0c") == executed("99ab") and b"found" in executed("5f0c")


def test_the_record_is_the_same_bytes_twice_and_says_what_decides_results(tmp_path):
    one, two = tmp_path / "one.json", tmp_path / "new" / "two.json"
    for path in (one, two):
        record.environment(path)
    found = json.loads(one.read_text())
    assert one.read_bytes() == two.read_bytes()
    assert found["versions"]["numpy"] == numpy.__version__
    assert found["precision"] in ("bf16-mixed", "32-true")
    assert found["cores"] >= 1 and found["processor"] is not None
    assert found["profile"] in params.read()["profiles"] and found["seed"] == params.read()["seed"]


def test_commit_and_changed_sources(tmp_path, monkeypatch):
    """Of the checkout alone: new files elsewhere, and results, do not count."""
    command = ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b"]
    git = lambda *words: subprocess.check_output([*command, *words], text=True).strip()
    (tmp_path / "params.yaml").write_bytes((params.ROOT / "params.yaml").read_bytes())
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "a.csv").write_text("1")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    params.choose("default")

    def found():
        record.environment(tmp_path / "record.json")
        return json.loads((tmp_path / "record.json").read_text())

    assert found()["commit"] is None
    git("init", "-q"), git("add", "."), git("commit", "-qm", "first")
    assert found() | dict(commit=git("rev-parse", "HEAD"), changed=[]) == found()
    params.choose("smoke")
    (tmp_path / "reports" / "a.csv").write_text("2")
    assert found()["changed"] == ["params.yaml"] and found()["profile"] == "smoke"


def test_packages_of_extras_that_are_not_installed_are_left_out(monkeypatch):
    needed = ["numpy>=2", "no-such-package; extra == 'none'"]
    monkeypatch.setattr(importlib.metadata, "requires", lambda name: needed)
    assert record.versions() == dict(numpy=numpy.__version__)


def test_photographs_become_jpegs_and_drawings_stay():
    def packed(picture):
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "PNG")
        data = {"image/png": base64.b64encode(file.getvalue()).decode()}
        record.pack_picture(data)
        return data

    smooth = np.linspace(0, 200, 96 * 96 * 3).reshape(96, 96, 3)
    noise = np.random.default_rng(0).uniform(0, 40, smooth.shape)
    photo = (smooth + noise).astype(np.uint8)
    (kind, content), *_ = packed(photo).items()
    reopened = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert kind == "image/jpeg" and abs(reopened.astype(float) - photo).mean() < 8
    assert "image/png" in packed(np.full((96, 96, 3), 255, np.uint8))
