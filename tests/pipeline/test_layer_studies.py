"""The studies behind notebooks 3 and 4, whole, under the smoke profile."""

import json

import pandas as pd
import pytest

from e2far import recogniser
from e2far.analysis import exploring
from e2far.analysis.comparisons import COLUMNS
from e2far.analysis.subjects import END_TO_END, PEOPLE, RECOGNISER, TWIN, UNTRAINED
from e2far.pipeline import head_study, layer_study
from e2far.synthesis import shards


@pytest.fixture(scope="module")
def out(face_model, tmp_path_factory):
    """A folder as the stages before the studies leave it, of few faces, and both studies run."""
    try:
        recogniser.weights_file()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    out = tmp_path_factory.mktemp("out")
    model = out / "data" / "facemodel" / "model.npz"
    model.parent.mkdir(parents=True)
    face_model.save(model)
    for split, people, pictures in (("people", 6, 5), ("train", 4, 1)):
        folder, options = out / "data" / "faces", dict(size=48, seed=0, n_jobs=1)
        shards.write_split(model, folder, split, people, pictures, **options)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("E2FAR_OUT", str(out))
        layer_study.main("smoke")
        head_study.main("smoke")
    return out


def read(out, name):
    return pd.read_csv(out / "reports" / "metrics" / "layers" / f"{name}.csv")


@pytest.mark.slow
@pytest.mark.parametrize("name", COLUMNS)
def test_every_table_has_its_columns_and_no_gap(name, out):
    table, columns = read(out, name), COLUMNS[name].split()
    assert len(table) and {*columns} <= {*table.columns}
    assert table[columns].notna().all(None)
    if {"low", "high"} <= {*columns}:
        assert (table.low <= table.high).all()


@pytest.mark.slow
def test_the_studies_cover_every_network_and_question(out):
    probes, heads, pairs = (read(out, name) for name in ("probes", "heads", "pairs"))
    assert {*probes.trunk} == {RECOGNISER, TWIN, PEOPLE, END_TO_END, UNTRAINED}
    assert {*probes.view} == {"looking ahead", "all poses", "people"}
    assert {*probes[probes.view == "people"].target} == {"who is it"}
    assert {"identity", "expression", "pose", "unit jawOpen"} <= {*probes.target}
    assert {*read(out, "peaks").readout} <= {"pooled", "whole"}
    assert {*heads.trunk} == {*head_study.LAYERS}
    assert {*heads.design} == {*head_study.DESIGNS} and {*pairs.question} == {*head_study.PAIRS}
    tuned = heads[heads.phase == "tuned"]
    assert {*tuned.trunk} == {*head_study.TUNED} and {*tuned.design} == {"fusion", "control"}
    assert len(exploring.Decoders(out / "data" / "explore").parts)


@pytest.mark.slow
def test_a_second_run_keeps_what_is_finished(out, monkeypatch):
    monkeypatch.setenv("E2FAR_OUT", str(out))
    jobs = {path: path.stat().st_mtime_ns for path in out.rglob("job.json")}
    tables = {name: read(out, name) for name in ("heads", "pairs")}
    head_study.main("smoke")
    assert len(jobs) > 2 * len(head_study.LAYERS) * len(head_study.DESIGNS)
    assert jobs == {path: path.stat().st_mtime_ns for path in out.rglob("job.json")}
    for name, table in tables.items():
        pd.testing.assert_frame_equal(read(out, name), table)
    assert all(json.loads(path.read_text())["result"] for path in jobs)


@pytest.mark.parametrize("study", [layer_study, head_study])
def test_a_recogniser_that_is_not_installed_is_told_before_any_training(study, monkeypatch):
    def missing():
        raise FileNotFoundError("dlib's recogniser is not installed")

    for module in (layer_study, head_study):
        monkeypatch.setattr(module, "weights_file", missing)
    with pytest.raises(FileNotFoundError, match="not installed"):
        study.main("smoke")


def test_a_misspelt_trunk_is_told_before_any_training(monkeypatch):
    p = layer_study.params.load("layers", "smoke")
    p.more = dict(ours=dict(weights=None, network=dict(trunk="vgg61", image_size=48)))
    monkeypatch.setattr(layer_study.params, "load", lambda *_: p)
    with pytest.raises(ValueError, match="trunk 'vgg61': choose"):
        layer_study.main("smoke")
