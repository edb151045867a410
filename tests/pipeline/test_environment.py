import importlib.metadata
import json
import subprocess

import numpy

from e2far.pipeline import environment, params


def test_the_record_is_the_same_bytes_twice_and_says_what_decides_results(tmp_path):
    for name in ("one.json", "new/two.json"):
        environment.record(tmp_path / name)
    found = json.loads((tmp_path / "one.json").read_text())
    assert (tmp_path / "one.json").read_bytes() == (tmp_path / "new" / "two.json").read_bytes()
    assert (
        found["versions"]["torch"] == importlib.metadata.version("torch")
        and found["versions"]["numpy"] == numpy.__version__
    )
    assert (
        found["precision"] in ("bf16-mixed", "32-true")
        and found["cores"] >= 1
        and found["processor"] is not None
    )
    assert found["profile"] in params.read()["profiles"] and found["seed"] == params.read()["seed"]


def test_commit_and_changed_sources(tmp_path, monkeypatch):
    """Of the checkout alone: new files elsewhere, and results, do not count."""
    git = lambda *words: subprocess.run(
        ["git", "-C", tmp_path, "-c", "user.name=a", "-c", "user.email=a@b", *words],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    (tmp_path / "params.yaml").write_bytes((params.ROOT / "params.yaml").read_bytes())
    (tmp_path / "reports").mkdir()
    (tmp_path / "reports" / "a.csv").write_text("1")
    monkeypatch.setattr(params, "ROOT", tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    record = lambda: (
        environment.record(tmp_path / "record.json")
        or json.loads((tmp_path / "record.json").read_text())
    )
    assert record()["commit"] is None
    git("init", "-q"), git("add", "."), git("commit", "-qm", "first")
    assert record() | dict(commit=git("rev-parse", "HEAD"), changed=[]) == record()
    params.choose("smoke")
    (tmp_path / "reports" / "a.csv").write_text("2")
    assert record()["changed"] == ["params.yaml"] and record()["profile"] == "smoke"


def test_packages_of_extras_that_are_not_installed_are_left_out(monkeypatch):
    monkeypatch.setattr(
        importlib.metadata,
        "requires",
        lambda name: ["numpy>=2", "no-such-package; extra == 'none'"],
    )
    assert environment.versions() == dict(numpy=numpy.__version__)
