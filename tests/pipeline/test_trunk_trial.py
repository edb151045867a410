"""A race of trunks: each trains for its CPU time, and gets a row with intervals."""

import pytest
import torch

from e2far.morphable import toy_model
from e2far.pipeline import trunk_trial


def test_a_trunk_is_raced_for_its_time(tmp_path):
    model = toy_model(dtype=torch.float32)
    model.save(tmp_path / "facemodel.npz")
    candidate = dict(trunk="residual", width=1 / 32, image_size=48)
    trial = dict(people=40, cpu_seconds=2.0, candidates={"small, 48 px": candidate})
    model = trunk_trial.make_faces(tmp_path, trial, "smoke", validation=4)
    row = trunk_trial.race(
        "small, 48 px", candidate, tmp_path, model, trial["cpu_seconds"], "smoke"
    )
    assert row["pictures"] == pytest.approx(2000 / row["ms_a_picture"], rel=0.05)
    assert row["neutral_low"] <= row["neutral_ratio"] <= row["neutral_high"]
    assert (tmp_path / "small_48_px" / "network.safetensors").exists()
