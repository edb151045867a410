import os
import shutil
import signal
import time

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from interrupt import contents
from small_jobs import FROZEN, SIZES, WEIGHTS, job
from test_training import build, model, root, same  # noqa: F401 (fixtures)

from e2far import data, evaluation, plots, weights
from e2far.facemodels import load_face_model
from e2far.keeping import Run
from e2far.morphable import toy_model
from e2far.network import Recognizer
from e2far.pipeline import jobs, trainings
from e2far.synthesis import shards


def train_or_fail(folder, wait_for=None, **config):
    """A job for `run_many`: `train_job`, or an error once the job in `wait_for` is done."""
    if wait_for is None:
        return trainings.train_job(folder=folder, **config)
    while "result" not in (wait_for / "job.json").read_text():
        time.sleep(0.05)
    raise ValueError("nothing but trouble")


@pytest.fixture(scope="module")
def side_by_side(root, tmp_path_factory):
    """A job that is done, on faces of its own, and the logs that were reported while it and one
    that fails ran."""
    folder, seen = tmp_path_factory.mktemp("side_by_side"), []
    faces = shutil.copytree(root, folder / "faces")
    weights.save_trunk(build(), folder / "trunk.safetensors")
    training = WEIGHTS | dict(phases=[FROZEN | dict(steps=2)], log_every=1, checkpoint_every=1)
    good = job(faces, folder / "good", training=training, trunk=folder / "trunk.safetensors")
    bad = dict(folder=folder / "bad", wait_for=good["folder"])
    with pytest.raises(RuntimeError, match="job bad failed: ValueError: nothing but trouble"):
        both = dict(good=good, bad=bad)
        jobs.run_many(both, function=train_or_fail, on_progress=seen.append)
    return good, seen


def test_jobs_run_side_by_side_and_report(side_by_side, root):
    good, seen = side_by_side
    assert list(seen[-1]["good"].step) == [1, 2]
    plots.training_curves(seen[-1])

    done = jobs.run_many(dict(good=good), function=train_or_fail, resume=True)["good"]
    net = weights.load_network(good["folder"] / "network.safetensors")
    assert same(net.trunk, build().trunk) and net.metadata == dict(face_model="toy", seed=0)
    errors = evaluation.evaluate(net, load_face_model(root / "toy.npz"), data.Faces(root / "test"))
    assert evaluation.summary(errors) == pytest.approx(done, rel=1e-4)
    assert not (good["folder"] / "checkpoint.pt").exists()


def train_and_die_once(folder, **config):
    """`train_job`, killed at its first checkpoint."""
    if not (folder / "checkpoint.pt").exists():
        save = Run.save
        Run.save = lambda run: (save(run), os.kill(os.getpid(), signal.SIGKILL))
    return trainings.train_job(folder=folder, **config)


def test_a_job_that_is_killed_is_told_and_goes_on(side_by_side, tmp_path):
    good, _ = side_by_side
    killed = dict(killed=good | dict(folder=tmp_path))
    run = lambda: jobs.run_many(killed, function=train_and_die_once, resume=True)
    with pytest.raises(RuntimeError, match="job killed failed: its process was killed"):
        run()
    assert run()["killed"] and not jobs.is_finished(killed["killed"], trainings.train_job)
    one, other = (contents(folder) for folder in (good["folder"], tmp_path))
    assert one.keys() == other.keys() > {"log.csv", "network.safetensors"}
    assert {name for name in one if one[name] != other[name]} <= {"job.json"}  # their function


def test_a_finished_job_is_done_anew_when_what_it_starts_from_has_changed(side_by_side):
    """Its settings, its function, or what is in its files, whose paths stay: as when a stage before
    it has run with other parameters."""
    good, _ = side_by_side
    is_finished = lambda **changes: jobs.is_finished(good | changes, train_or_fail)
    assert not is_finished(seed=1) and not jobs.is_finished(good, trainings.train_job)
    other, shard = build(), data.shard_path(good["faces"] / "train", 0)
    torch.nn.init.zeros_(next(other.trunk.parameters()))
    columns = {name: torch.from_numpy(rows.copy()) for name, rows in data._read(shard).items()}
    for path, change in (
        (good["trunk"], lambda path: weights.save_trunk(other, path)),
        (good["model"], toy_model(seed=1).save),
        (shard, lambda path: data.write_shard(path, columns, shards.header(dict(seed=1)))),
    ):
        assert is_finished()
        before = path.read_bytes()
        change(path)
        assert not is_finished(), path
        path.write_bytes(before)
    assert is_finished()


def test_the_digest_of_inputs_stays_what_checkpoints_of_long_trainings_hold(tmp_path):
    (tmp_path / "start").write_bytes(b"weights")
    shard = data.shard_path(tmp_path / "train", 0)
    data.write_shard(shard, dict(person=torch.arange(2)), dict(settings="{}"))
    data.write_index(tmp_path / "train", 2, 2)
    config = dict(faces=tmp_path, start=tmp_path / "start")
    assert jobs.inputs_digest(config) == "60a3f16fb2f71b3e"


def test_two_jobs_may_not_share_a_folder(tmp_path):
    with pytest.raises(ValueError, match="same folder"):
        jobs.run_many(
            dict(a=dict(folder=tmp_path), b=dict(folder=tmp_path)), function=trainings.train_job
        )


def test_a_coarse_fusion_has_the_same_weights_and_sees_no_finer_grid():
    fine, coarse = build(), build()
    trainings.coarsen(coarse.eval())
    assert same(fine, coarse) and coarse.fused == ("pool4", "pool5")
    maps = fine.eval().features(torch.rand(1, 3, fine.image_size, fine.image_size))
    side = maps["pool4"].shape[-1]
    shrunk = F.adaptive_max_pool2d(maps["pool4"], maps["pool5"].shape[-1])
    blurred = maps | dict(pool4=F.interpolate(shrunk, size=side))
    expression = lambda net, maps: net.heads(maps)["expression"]
    assert torch.equal(expression(coarse, maps), expression(fine, blurred))
    assert not torch.equal(expression(coarse, maps), expression(fine, maps))


def test_a_variant_is_measured_after_each_phase(model, root, tmp_path):
    """Every phase but the first starts where the first ended, so two alike end alike."""
    trunk, features = tmp_path / "trunk.safetensors", tmp_path / "features"
    sizes = SIZES | dict(fused=("pool4",))
    config = job(root, tmp_path, network=sizes, training=WEIGHTS, trunk=trunk)
    weights.save_trunk(build(), trunk)
    stores = {key: config[key] for key in ("faces", "network", "trunk")}
    features.mkdir()
    trainings.features_job(folder=features, layers=("pool4", "pool5"), **stores)
    whole = dict(steps=3, heads_rate=1e-2, trunk_rate=1e-2)
    frozen, light = dict(steps=3, heads_rate=1e-2), whole | dict(trunk_rate=1e-3)
    phases = dict(frozen=frozen, light=light, full=whole, again=whole)
    found = trainings.variant_job(features=features, phases=phases, **config)
    assert list(found) == list(phases) and found["full"] == found["again"]
    assert len({summary["neutral_ratio"] for summary in found.values()}) == 3

    nets = {name: weights.load_network(tmp_path / f"{name}.safetensors") for name in found}
    assert nets["full"].fused == ("pool4",) and not same(nets["full"].trunk, nets["light"].trunk)
    kept, started = nets["frozen"].trunk.state_dict(), build().trunk.half().float().state_dict()
    torch.testing.assert_close(kept, started, rtol=1e-3, atol=1e-4)
    for name in ("frozen", "full"):  # the first was judged on stored features
        errors = evaluation.evaluate(nets[name], model, data.Faces(root / "test"))
        assert evaluation.summary(errors) == pytest.approx(found[name], rel=1e-2, abs=1e-2)


def test_a_network_goes_on_from_another_of_the_same_build_only(root, tmp_path):
    weights.save_network(build(), tmp_path / "start.safetensors")
    training = WEIGHTS | dict(phases=[dict(steps=1, heads_rate=0.0)])
    config = job(root, tmp_path, training=training, start=tmp_path / "start.safetensors")
    trainings.train_job(**config)
    assert same(weights.load_network(tmp_path / "network.safetensors").trunk, build().trunk)
    with pytest.raises(ValueError, match="a network of other width"):
        trainings.train_job(**config | dict(network=SIZES | dict(width=1 / 8)))


def test_a_missing_test_split_is_found_before_the_training_and_a_network_outlives_its_measuring(
    root, tmp_path, monkeypatch
):
    training = WEIGHTS | dict(phases=[dict(steps=1, heads_rate=0.0)])
    config = job(root, tmp_path, training=training)
    with pytest.raises(FileNotFoundError, match="nothing"):
        trainings.train_job(**config, test="nothing")
    assert not any(tmp_path.iterdir())
    monkeypatch.setattr(evaluation, "evaluate", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        trainings.train_job(**config)
    assert weights.load_network(tmp_path / "network.safetensors")


@pytest.mark.slow
def test_faces_can_be_made_as_training_goes(tmp_path):
    shards.write_split("makehuman", tmp_path, "validation", 2, 2, size=48, seed=0, n_jobs=1)
    training = WEIGHTS | dict(phases=[FROZEN | dict(steps=3)], log_every=1)
    live = dict(seed=0, block=8, window=2, n_jobs=1)
    config = job(tmp_path, tmp_path / "job", training=training, test="validation", live=live)
    assert trainings.train_job(**config | dict(model="makehuman"))["neutral_mm"] > 0
    assert pd.read_csv(tmp_path / "job" / "log.csv").images.tolist() == [8, 16, 24]


@pytest.mark.parametrize("accelerator", ["cude", "mps", "cuda"])
def test_a_device_that_is_not_there_is_refused(accelerator):
    if accelerator == "cuda" and torch.cuda.is_available():
        pytest.skip("there is one")
    with pytest.raises(ValueError, match="choose .*cpu"):
        trainings.open_fabric(accelerator, 1, "32-true")


def test_a_recogniser_is_trained_on_the_people_asked_for(root, tmp_path):
    training = dict(batch_size=8, steps=3, learning_rate=1e-3, weight_decay=0.0)
    config = dict(folder=tmp_path, faces=root, network=SIZES, training=training, seed=0)
    row = trainings.pretrain_job(**config)
    assert row["step"] == 3 and 0 <= row["top1"] <= 1
    weights.load_trunk(build(), tmp_path / "trunk.safetensors")
    assert weights.load_network(tmp_path / "network.safetensors", Recognizer).n_people == 4
    with pytest.raises(FileNotFoundError, match="nobody"):
        trainings.pretrain_job(**config, people="nobody")
