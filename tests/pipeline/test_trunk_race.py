"""A race of trunks: each trains for its CPU time, and gets a row with intervals."""

import pytest
import torch

from e2far.morphable import toy_model
from e2far.pipeline import commands, params, trainings


@pytest.mark.slow
def test_a_trunk_is_raced_for_its_time(tmp_path):
    toy_model(dtype=torch.float32).save(tmp_path / "facemodel.npz")
    candidate = dict(trunk="residual", width=1 / 32, image_size=48)
    commands.make_faces(tmp_path, dict(train=40, validation=4), 48, "smoke")
    config = params.trunk_race(tmp_path, "small, 48 px", candidate, 2.0, "smoke")
    row = trainings.race_job(**config)
    assert row["pictures"] == pytest.approx(2000 / row["ms_a_picture"], rel=0.05)
    assert row["neutral_low"] <= row["neutral_ratio"] <= row["neutral_high"]
    assert (config["folder"] / "network.safetensors").exists()
