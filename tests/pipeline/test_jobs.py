import os
import subprocess
import sys
import time

import pandas as pd
import pytest
import torch
from test_training import QUICK, build, model, root, same, splits  # noqa: F401 (fixtures)

from e2far import data, evaluation, network, plots, weights
from e2far.facemodels import load_face_model
from e2far.pipeline import jobs, trainings
from e2far.synthesis import shards


def train_or_fail(folder, wait_for=None, **config):
    """A job for `run_many`: `train_job`, or an error once the job in the folder `wait_for` is done."""
    if wait_for is None:
        return trainings.train_job(folder=folder, **config)
    while "result" not in (wait_for / "job.json").read_text():
        time.sleep(0.1)
    raise ValueError("nothing but trouble")


def test_jobs_run_side_by_side_and_report(root, tmp_path):
    recognizer = network.Recognizer(4, image_size=48, width=1 / 16, batch_norm=True)
    weights.save_trunk(recognizer, tmp_path / "trunk.safetensors")
    quick = {k: v for k, v in QUICK.items() if k not in ("seed", "progress")} | dict(
        phases=[dict(steps=2, heads_rate=1e-3)], log_every=1
    )
    good = dict(
        folder=tmp_path / "good",
        faces=root,
        model=root / "toy.npz",
        network=dict(image_size=48, width=1 / 16, batch_norm=True),
        seed=0,
        training=quick,
        trunk=tmp_path / "trunk.safetensors",
    )
    seen = []
    with pytest.raises(RuntimeError, match="job bad failed: ValueError: nothing but trouble"):
        jobs.run_many(
            dict(good=good, bad=dict(folder=tmp_path / "bad", wait_for=tmp_path / "good")),
            function=train_or_fail,
            on_progress=seen.append,
        )
    assert list(seen[-1]["good"].step) == [1, 2]
    plots.training_curves(seen[-1])

    result = jobs.run_many(dict(good=good), resume=True)["good"]  # finished, so read and not run
    net = weights.load_network(tmp_path / "good" / "network.safetensors")
    assert same(net.trunk, recognizer.trunk) and net.metadata == dict(face_model="toy", seed=0)
    errors = evaluation.evaluate(net, load_face_model(root / "toy.npz"), data.Faces(root / "test"))
    assert evaluation.summary(errors)["expressive_mm"] == pytest.approx(
        result["expressive_mm"], rel=1e-4
    )
    assert not (tmp_path / "good" / "checkpoint.pt").exists()


def test_two_jobs_may_not_share_a_folder(tmp_path):
    with pytest.raises(ValueError, match="same folder"):
        jobs.run_many(dict(a=dict(folder=tmp_path), b=dict(folder=tmp_path)))


def test_a_variant_is_measured_after_each_phase(model, root, tmp_path):
    """Every phase but the first starts where the first ended, so two alike end alike."""
    weights.save_trunk(build(), tmp_path / "trunk.safetensors")
    evaluation.store_features(
        build(), data.Faces(root / "train"), tmp_path / "features.safetensors"
    )
    quick = {k: v for k, v in QUICK.items() if k not in ("seed", "progress")}
    job = dict(
        faces=root,
        model=root / "toy.npz",
        network=dict(image_size=48, width=1 / 16, batch_norm=True, fused=("pool4",)),
        trunk=tmp_path / "trunk.safetensors",
        training=quick,
        seed=0,
    )
    whole = dict(steps=3, heads_rate=1e-2, trunk_rate=1e-2)
    found = trainings.variant_job(
        folder=tmp_path,
        features=tmp_path / "features.safetensors",
        phases=dict(
            frozen=dict(steps=3, heads_rate=1e-2),
            light=whole | dict(trunk_rate=1e-3),
            full=whole,
            again=whole,
        ),
        **job,
    )
    assert (
        list(found) == ["frozen", "light", "full", "again"]
        and found["full"] == found["again"]
        and len({f["neutral_ratio"] for f in found.values()}) == 3
    )
    nets = {name: weights.load_network(tmp_path / f"{name}.safetensors") for name in found}
    assert nets["full"].fused == ("pool4",) and not same(nets["full"].trunk, nets["light"].trunk)
    for a, b in zip(
        nets["frozen"].trunk.state_dict().values(), build().trunk.state_dict().values()
    ):
        torch.testing.assert_close(
            a, b, rtol=1e-3, atol=1e-4, check_dtype=False
        )  # written as float16
    assert evaluation.summary(
        evaluation.evaluate(nets["full"], model, data.Faces(root / "test"))
    ) == pytest.approx(found["full"], rel=1e-2, abs=1e-2)


def train_small(root, out, devices):
    """A training of both phases without BatchNorm."""
    training = dict(
        batch_size=8,
        expression_weight=1.0,
        pose_weight=0.1,
        weight_decay=1e-3,
        clip=5.0,
        augment=0.5,
        log_every=2,
        checkpoint_every=3,
        phases=[dict(steps=2, heads_rate=1e-3), dict(steps=3, heads_rate=1e-3, trunk_rate=1e-3)],
    )
    trainings.train_job(
        folder=out,
        faces=root,
        model=root / "toy.npz",
        network=dict(image_size=48, width=1 / 16, batch_norm=False),
        training=training,
        seed=0,
        devices=devices,
    )


JOB = """
import sys, torch
from pathlib import Path
torch.set_num_threads(1)
from test_jobs import train_small
train_small(*map(Path, sys.argv[1:3]), sys.argv[3])
"""


def test_two_processes_train_as_one_does(root, tmp_path):
    """Frozen and tuned phase without BatchNorm: each process takes its half of the same batch, so only the order of sums differs."""
    (tmp_path / "job.py").write_text(JOB)
    launch = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node=2",
        tmp_path / "job.py",
        root,
        tmp_path / "2",
        "2",
    ]
    together = subprocess.Popen(
        launch,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | dict(OMP_NUM_THREADS="1", PYTHONPATH=os.environ["PYTHONPATH"]),
    )
    train_small(root, tmp_path / "1", 1)
    said = together.communicate(timeout=240)[0]
    assert together.returncode == 0, said[-2000:]
    one, two = (
        weights.load_network(tmp_path / devices / "network.safetensors") for devices in "12"
    )
    for a, b in zip(one.state_dict().values(), two.state_dict().values(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    logs = [pd.read_csv(tmp_path / devices / "log.csv") for devices in "12"]
    assert list(logs[0].images) == list(logs[1].images) and list(logs[1].loss) == pytest.approx(
        list(logs[0].loss), rel=1e-4
    )


def test_a_network_goes_on_from_another_of_the_same_build_only(model, root, tmp_path):
    weights.save_network(build(), tmp_path / "start.safetensors")
    quick = {k: v for k, v in QUICK.items() if k not in ("seed", "progress")} | dict(
        phases=[dict(steps=1, heads_rate=0.0)]
    )
    job = dict(
        faces=root,
        model=root / "toy.npz",
        training=quick,
        seed=3,
        start=tmp_path / "start.safetensors",
    )
    trainings.train_job(
        folder=tmp_path / "same", network=dict(image_size=48, width=1 / 16, batch_norm=True), **job
    )
    assert same(
        weights.load_network(tmp_path / "same" / "network.safetensors").trunk, build().trunk
    )
    with pytest.raises(ValueError, match="a network of other width"):
        trainings.train_job(
            folder=tmp_path / "other",
            network=dict(image_size=48, width=1 / 8, batch_norm=True),
            **job,
        )


def test_faces_can_be_made_as_training_goes(root, tmp_path):
    """A job that makes its own faces, interrupted by nothing, and the same one again, which is read and not run."""
    folder = tmp_path / "faces"
    shards.write_split("makehuman", folder, "validation", 2, 2, size=48, seed=0, n_jobs=1)
    quick = {k: v for k, v in QUICK.items() if k not in ("seed", "progress")} | dict(
        phases=[dict(steps=3, heads_rate=1e-3)], log_every=1
    )
    job = dict(
        folder=tmp_path / "job",
        faces=folder,
        model="makehuman",
        network=dict(image_size=48, width=1 / 16, batch_norm=True),
        training=quick,
        seed=0,
        test="validation",
        live=dict(seed=0, block=8, window=2, n_jobs=1),
    )
    found = jobs.run_many(dict(job=job))["job"]
    assert (
        pd.read_csv(tmp_path / "job" / "log.csv").images.tolist() == [8, 16, 24]
        and found["neutral_mm"] > 0
    )
    assert jobs.run_many(dict(job=job), resume=True)["job"] == found
    assert (
        jobs.finished(job)
        and not jobs.finished(job | dict(seed=1))
        and not jobs.finished(job, train_or_fail)
    )  # another function, of another file


@pytest.mark.parametrize(
    "accelerator",
    [
        "cude",
        "mps",
        pytest.param(
            "cuda", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="there is one")
        ),
    ],
)
def test_a_device_that_is_not_there_is_refused(accelerator):
    with pytest.raises(ValueError, match="choose .*cpu"):
        trainings.open_fabric(accelerator, 1, "32-true")


def test_a_recogniser_is_trained_on_the_people_asked_for(root, tmp_path):
    quick = dict(batch_size=8, steps=3, learning_rate=1e-3, weight_decay=0.0)
    row = trainings.pretrain_job(
        folder=tmp_path,
        faces=root,
        network=dict(image_size=48, width=1 / 16, batch_norm=True),
        training=quick,
        seed=0,
    )
    assert row["step"] == 3 and 0 <= row["top1"] <= 1
    weights.load_trunk(build(), tmp_path / "trunk.safetensors")
    with pytest.raises(FileNotFoundError, match="nobody"):
        trainings.pretrain_job(
            folder=tmp_path,
            faces=root,
            network=dict(image_size=48),
            training=quick,
            seed=0,
            people="nobody",
        )
