import time

import pytest

from e2far import data, jobs, network, plots, training
from e2far.morphable import load_face_model
from test_training import QUICK, build, model, root, same, splits      # noqa: F401 (fixtures)


def train_or_fail(folder, wait_for=None, **config):
    """A job for `run_many`: `train_job`, or an error once the job in the folder `wait_for` is done."""
    if wait_for is None:
        return jobs.train_job(folder=folder, **config)
    while "result" not in (wait_for / "job.json").read_text():
        time.sleep(.1)
    raise ValueError("nothing but trouble")


def test_jobs_run_side_by_side_and_report(root, tmp_path):
    recognizer = network.Recognizer(4, image_size=48, width=1 / 16, batch_norm=True)
    network.save_trunk(recognizer, tmp_path / "trunk.safetensors")
    quick = {k: v for k, v in QUICK.items() if k not in ("seed", "progress")} | dict(phases=[dict(steps=2, heads_rate=1e-3)], log_every=1)
    good = dict(folder=tmp_path / "good", faces=root, model=root / "toy.npz", network=dict(image_size=48, width=1 / 16, batch_norm=True), seed=0, training=quick,
                trunk=tmp_path / "trunk.safetensors")
    seen = []
    with pytest.raises(RuntimeError, match="job bad failed: ValueError: nothing but trouble"):
        jobs.run_many(dict(good=good, bad=dict(folder=tmp_path / "bad", wait_for=tmp_path / "good")), function=train_or_fail, on_progress=seen.append)
    assert list(seen[-1]["good"].step) == [1, 2]
    plots.training_curves(seen[-1])

    result = jobs.run_many(dict(good=good), resume=True)["good"]       # finished, so read and not run
    net = network.load_network(tmp_path / "good" / "network.safetensors")
    assert same(net.trunk, recognizer.trunk) and net.metadata == dict(face_model="toy", seed=0)
    errors = training.evaluate(net, load_face_model(root / "toy.npz"), data.Faces(root / "test"))
    assert training.summary(errors)["expressive_mm"] == pytest.approx(result["expressive_mm"], rel=1e-4)
    assert not (tmp_path / "good" / "checkpoint.pt").exists()


def test_two_jobs_may_not_share_a_folder(tmp_path):
    with pytest.raises(ValueError, match="same folder"):
        jobs.run_many(dict(a=dict(folder=tmp_path), b=dict(folder=tmp_path)))


def test_a_variant_is_measured_after_each_phase(model, root, tmp_path):
    network.save_trunk(build(), tmp_path / "trunk.safetensors")
    training.store_features(build(), data.Faces(root / "train"), tmp_path / "features.safetensors")
    quick = {k: v for k, v in QUICK.items() if k not in ("seed", "progress")}
    job = dict(faces=root, model=root / "toy.npz", network=dict(image_size=48, width=1 / 16, batch_norm=True, fused=("pool4",)), trunk=tmp_path / "trunk.safetensors", training=quick, seed=0)
    steps = dict(frozen=dict(steps=3, heads_rate=1e-2), tuned=dict(steps=3, heads_rate=1e-2, trunk_rate=1e-2))
    found = jobs.variant_job(folder=tmp_path, features=tmp_path / "features.safetensors", **job, **steps)
    assert list(found) == ["frozen", "tuned"] and found["frozen"]["neutral_ratio"] != found["tuned"]["neutral_ratio"]
    net = network.load_network(tmp_path / "network.safetensors")
    assert net.fused == ("pool4",) and not same(net.trunk, build().trunk)
    assert training.summary(training.evaluate(net, model, data.Faces(root / "test"))) == pytest.approx(found["tuned"], rel=1e-4)
