import io
import subprocess

import numpy as np
import pytest
from PIL import Image
from nbformat import writes
from nbformat.v4 import new_code_cell, new_notebook, new_output

from e2far.pipeline import params, verify


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository whose reports hold a table, a timed table and a figure, all committed."""
    monkeypatch.setattr(params, "ROOT", tmp_path)
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "table.csv").write_text("method,ratio\nours,0.75\neos,1.50\n")
    (tmp_path / "reports" / "speed.csv").write_text("step,seconds\ndetect,1.0\n")
    (tmp_path / "reports" / "figure.png").write_bytes(picture(0))
    git = ["git", "-C", str(tmp_path), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for command in (["init", "-q"], ["add", "."], ["commit", "-qm", "results"]):
        subprocess.run([*git, *command], check=True)
    return tmp_path


def picture(changed):
    """A white square, as PNG, whose first `changed` of 100 rows are black."""
    pixels, file = np.full((100, 100, 3), 255, np.uint8), io.BytesIO()
    pixels[:changed] = 0
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


def notebook(text):
    output = new_output("display_data", data={"text/markdown": text})
    return writes(new_notebook(cells=[new_code_cell("1", outputs=[output])])).encode()


def test_a_fresh_run_of_the_same_numbers_passes(root, capsys):
    (root / "reports" / "speed.csv").write_text("step,seconds\ndetect,2.0\n")
    assert verify.main() == 0
    assert "2 the same, 0 within tolerance, 1 times" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("now", "status"),
    [
        ("method,ratio\nours,0.755\neos,1.50\n", 0),
        ("method,ratio\nours,0.80\neos,1.50\n", 1),
        ("method,ratio\nours,0.75\n", 1),
        ("method,ratio\nours,0.75\nEOS,1.50\n", 1),
        ("method,ratio\nours,nan\neos,1.50\n", 1),
    ],
)
def test_numbers_may_move_a_little_and_words_not_at_all(root, capsys, now, status):
    (root / "reports" / "table.csv").write_text(now)
    assert verify.main() == status
    assert "reports/table.csv: " in capsys.readouterr().out


def test_a_missing_file_and_another_figure_are_named(root, capsys):
    (root / "reports" / "table.csv").unlink()
    (root / "reports" / "figure.png").write_bytes(picture(3))
    assert verify.main() == 1
    told = capsys.readouterr().out
    assert "table.csv: DIFFERENT, missing" in told and "3.00% of the pixels" in told
    assert verify.compare_pictures(picture(0), picture(1))[0] == verify.NEAR


def test_a_notebook_is_judged_by_what_it_says():
    said = [verify.shown_text(notebook(text)) for text in ("error 0.50 mm", "error 0.501 mm")]
    assert verify.compare_texts(*said)[0] == verify.NEAR
