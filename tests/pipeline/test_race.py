"""Networks that look once or again are trained and compared on the same people."""

import pandas as pd
import pytest
from test_training import model, root  # noqa: F401

from e2far.facemodels import load_face_model
from e2far.network import E2FAR
from e2far.pipeline import params, race
from e2far.weights import save_network


@pytest.mark.slow
def test_networks_that_look_again_are_compared_with_one_look(root, tmp_path, monkeypatch):
    toy, folder = load_face_model(root / "toy.npz"), tmp_path / "data"
    toy.save(folder / "facemodel" / "model.npz")
    (folder / "faces").symlink_to(root)
    fusion = E2FAR(toy.n_identity, toy.n_expression, image_size=48, width=0.125, batch_norm=True)
    save_network(fusion, folder / "models" / "default.safetensors")
    phase = dict(steps=2, heads_rate=1e-3, trunk_rate=1e-3, warmup=1)
    trial = dict(seeds=[0, 1], looks=[1, 2], batch_size=4, phase=phase)
    found = params.read() | dict(looks_trial=trial)
    monkeypatch.setattr(params, "read", lambda: found)
    monkeypatch.setenv("E2FAR_OUT", str(tmp_path))
    monkeypatch.setattr(race, "LOOKS", tmp_path / "looks.csv")
    race.race_looks(tmp_path / "looks", "smoke")
    table = pd.read_csv(race.LOOKS).set_index(["method", "error"])
    methods = ["one look", "iterative, 1 look", "iterative, 2 looks"]
    assert list(table.index.get_level_values(0).unique()) == methods
    assert (table.ratio_low <= table.ratio).all() and (table.seeds == 2).all()
    mm = table.mm.unstack()
    more = table.mm_more.unstack().loc[methods[1:]]
    assert (mm.loc[methods[1:]] - mm.loc["one look"] - more).abs().max().max() < 2e-4
