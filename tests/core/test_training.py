import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.testing import assert_close

from e2far import augmentation, camera, data, evaluation, keeping, network, training
from e2far.morphable import toy_model
from e2far.training import Phase

QUICK = dict(
    batch_size=8, expression_weight=1.0, pose_weight=0.1, weight_decay=0.0, seed=0, progress=False
)


def write_split(folder, model, n, seed, size=48, people=None):
    """Shards of blocks of colour that show identity, expression and pose."""
    generator = torch.Generator().manual_seed(seed)
    identity, expression = (
        torch.randn(n, model.n_identity, generator=generator),
        torch.randn(n, model.n_expression, generator=generator),
    )
    rotation = camera.euler_to_matrix(0.3 * torch.randn(n, 3, generator=generator))
    scale, translation = (
        size * 0.005 * (1 + 0.1 * torch.rand(n, generator=generator)),
        size * (0.5 + 0.02 * torch.randn(n, 2, generator=generator)),
    )
    landmarks = camera.weak_perspective(
        model(identity, expression)[:, model.landmarks], rotation, scale, translation
    )
    pose = camera.encode_pose(rotation, scale, translation, size)
    cells = torch.cat((identity, expression, pose), 1)
    cells = torch.cat((cells, torch.zeros(n, 27 - cells.shape[1])), 1).sigmoid().view(n, 3, 3, 3)
    image = torch.nn.functional.interpolate(cells, size=size).mul(255).byte().permute(0, 2, 3, 1)
    person = torch.arange(n) if people is None else torch.arange(n) % people
    for number, rows in enumerate(torch.arange(n).split(20)):
        data.write_shard(
            data.shard_path(folder, number),
            {
                k: v[rows]
                for k, v in dict(
                    image=image,
                    identity=identity,
                    expression=expression,
                    pose=pose,
                    landmarks=landmarks,
                    person=person,
                ).items()
            },
        )
    data.write_index(folder, n, 20)
    return data.Faces(folder)


@pytest.fixture(scope="module")
def model():
    return toy_model(dtype=torch.float32)


@pytest.fixture(scope="module")
def root(model, tmp_path_factory):
    root = tmp_path_factory.mktemp("faces")
    model.save(root / "toy.npz")
    for seed, (split, n) in enumerate(dict(train=48, validation=16, test=16).items()):
        write_split(root / split, model, n, seed)
    write_split(root / "people", model, 40, 9, people=4)
    return root


@pytest.fixture(scope="module")
def splits(root):
    return [data.Faces(root / split) for split in ("train", "validation")]


def build(**changes):
    torch.manual_seed(0)
    return network.E2FAR(6, 4, **dict(image_size=48, width=1 / 16, batch_norm=True) | changes)


def same(a, b):
    return all(
        torch.equal(x, y)
        for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    )


def test_every_epoch_is_a_permutation_decided_by_seed_and_step():
    epochs = [
        torch.cat([data.batch_indices(20, 4, step, seed=5) for step in range(first, first + 5)])
        for first in (0, 5)
    ]
    assert all(
        epoch.sort().values.tolist() == list(range(20)) for epoch in epochs
    ) and not torch.equal(*epochs)
    assert torch.equal(data.batch_indices(20, 4, 7, 5), data.batch_indices(20, 4, 7, 5))
    assert not torch.equal(data.batch_indices(20, 4, 7, 5), data.batch_indices(20, 4, 7, 6))
    assert len(data.batch_indices(3, 8, 11, 0)) == 3


def test_schedules():
    cosine = Phase(110, 1.0, 0.1, warmup=9)
    assert cosine.rates(0) == pytest.approx((0.1, 0.01)) and cosine.rates(9) == pytest.approx(
        (1.0, 0.1)
    )
    assert cosine.rates(109)[0] < 1e-3
    steps = Phase(30, 1.0, 0.0, schedule="step", milestones=(10, 20))
    assert [steps.rates(s)[0] for s in (0, 9, 10, 20)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    assert training.rates_at([steps, cosine], 39) == (1, cosine.rates(9))
    with pytest.raises(ValueError, match="choose cosine, step or constant"):
        Phase(1, 1.0, schedule="linear")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_twenty_steps_on_one_batch_drive_the_loss_down(model, root, batch_norm, tmp_path):
    batch = write_split(tmp_path, model, 8, 0)
    log = training.fit(
        build(batch_norm=batch_norm),
        model,
        batch,
        batch,
        phases=[Phase(20, 3e-3, 3e-3)],
        log_every=1,
        clip=50.0,
        **QUICK,
    )
    assert log.loss.iloc[-1] < 0.5 * log.loss.iloc[0]


def test_frozen_phase_leaves_the_trunk_bit_for_bit(model, splits):
    net, before = build(), build()
    training.fit(
        net,
        model,
        *splits,
        phases=[dict(steps=4, heads_rate=1e-3)],
        **QUICK | dict(weight_decay=0.1),
    )
    assert same(net.trunk, before.trunk) and not same(net.identity_head, before.identity_head)
    training.fit(
        net,
        model,
        *splits,
        phases=[dict(steps=2, heads_rate=1e-3), dict(steps=2, heads_rate=1e-3, trunk_rate=1e-4)],
        **QUICK,
    )
    assert not any(
        torch.equal(a, b)
        for a, b in zip(net.trunk.buffers(), before.trunk.buffers())
        if a.numel() > 3
    )
    assert all(p.requires_grad for p in net.parameters())


@pytest.mark.parametrize("ema", [None, 0.9])
def test_resumed_training_equals_uninterrupted_training(model, splits, ema, tmp_path, monkeypatch):
    settings = QUICK | dict(
        phases=[Phase(4, 1e-3), Phase(6, 1e-3, 1e-3)],
        ema=ema,
        augment=1.0,
        log_every=4,
        validate_every=4,
    )
    whole = build()
    log = training.fit(whole, model, *splits, **settings)
    for interrupted_at in (3, 6):  # in the frozen phase, and between two rows of the log
        checkpoint, record = tmp_path / f"{interrupted_at}.pt", training.Run.record

        def interrupt(run, *args):
            record(run, *args)
            if run.step == interrupted_at + 1:
                raise KeyboardInterrupt

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(training.Run, "record", interrupt)
            training.fit(
                build(),
                model,
                *splits,
                checkpoint=checkpoint,
                checkpoint_every=interrupted_at,
                **settings,
            )
        part = build()
        resumed = training.fit(
            part,
            model,
            *splits,
            checkpoint=checkpoint,
            checkpoint_every=100,
            log=tmp_path / "log.csv",
            **settings,
        )
        assert same(part, whole)
        timings = ["images_per_s", "seconds", "remaining_s"]
        pd.testing.assert_frame_equal(resumed.drop(columns=timings), log.drop(columns=timings))
        pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "log.csv"), resumed, check_exact=False)


def test_a_foreign_or_broken_checkpoint_is_refused(model, splits, tmp_path):
    checkpoint = tmp_path / "c.pt"
    run = lambda **changes: training.fit(
        build(),
        model,
        *splits,
        phases=[Phase(2, 1e-3)],
        checkpoint=checkpoint,
        checkpoint_every=1,
        **QUICK | changes,
    )
    run()
    with pytest.raises(ValueError, match="other batch_size, seed: delete it"):
        run(seed=1, batch_size=4)
    checkpoint.write_bytes(checkpoint.read_bytes()[:-1000])
    with pytest.raises(OSError, match="truncated"):
        run()
    checkpoint.write_bytes(b"garbage")
    with pytest.raises(OSError, match="truncated"):
        run()


def test_nan_stops_with_a_message(model, splits):
    net = build()
    with torch.no_grad():
        net.pose_head[-1].bias[0] = torch.nan
    with pytest.raises(ValueError, match="diverged at step 0.*lower the learning rate"):
        training.fit(net, model, *splits, phases=[Phase(3, 1e-3, 1e-3)], **QUICK)


def test_sizes_must_agree(model, splits):
    settings = dict(phases=[Phase(1, 1e-3)], **QUICK)
    with pytest.raises(
        ValueError,
        match="identity coefficients disagree: the network predicts 6, the face model has 5",
    ):
        training.fit(build(), toy_model(n_identity=5), *splits, **settings)
    with pytest.raises(ValueError, match="48 px, but the network takes 80"):
        training.fit(build(image_size=80), model, *splits, **settings)


def test_bf16_and_a_float64_model_train(model, splits):
    log = training.fit(
        build(),
        toy_model(),
        *splits,
        phases=[Phase(3, 1e-3, 1e-3)],
        precision="bf16-mixed",
        optimizer="adam",
        **QUICK,
    )
    assert log.loss.notna().all() and log.neutral_ratio.iloc[-1] > 0


class Oracle(torch.nn.Module):
    """Answers with the labels of the faces in their order, plus an error."""

    n_identity, n_expression = 6, 4

    def __init__(self, faces, identity=0.0, expression=0.0, shift=0.0):
        super().__init__()
        self.faces, self.place, self.weight = faces, 0, torch.nn.Parameter(torch.zeros(()))
        self.errors = identity, expression, shift

    def forward(self, image):
        rows = slice(self.place, self.place + len(image))
        self.place = rows.stop
        pose = self.faces.pose[rows].clone()
        pose[:, 7] += self.errors[2]
        return dict(
            identity=self.faces.identity[rows] + self.errors[0],
            expression=self.faces.expression[rows] + self.errors[1],
            pose=pose,
        )


def test_evaluate_measures_what_it_says(model, splits):
    faces = splits[1]
    perfect = evaluation.evaluate(Oracle(faces), model, faces, batch_size=5)
    assert all(
        abs(perfect[k]).max() < 1e-3
        for k in (
            "neutral_mm",
            "expression_mm",
            "expressive_mm",
            "pose_percent",
            "landmark_percent",
        )
    )
    assert perfect["pose_deg"].max() < 0.1 and perfect["person"].tolist() == faces.person.tolist()
    wrong = evaluation.evaluate(
        Oracle(faces, identity=0.5, expression=-1.0, shift=0.02), model, faces, batch_size=16
    )
    truth = model(faces.identity, faces.expression)
    meshes = dict(
        neutral=model.neutral(faces.identity + 0.5) - model.neutral(faces.identity),
        expressive=model(faces.identity + 0.5, faces.expression - 1) - truth,
        expression=model.expression_offset(torch.full((16, 4), -1.0)),
        neutral_mean_face=model.neutral(faces.identity.mean(0, keepdim=True))
        - model.neutral(faces.identity),
        expressive_mean_face=model(
            faces.identity.mean(0, keepdim=True), faces.expression.mean(0, keepdim=True)
        )
        - truth,
    )
    for kind, offset in meshes.items():
        torch.testing.assert_close(
            torch.from_numpy(wrong[f"{kind}_mm"]),
            offset.norm(dim=-1).mean(-1),
            rtol=1e-4,
            atol=1e-4,
        )
    assert (
        wrong["pose_percent"] == pytest.approx(2.0, abs=1e-3)
        and wrong["landmark_percent"].min() > 0
    )
    means = evaluation.summary(wrong)
    assert means["neutral_ratio"] == pytest.approx(
        wrong["neutral_mm"].mean() / wrong["neutral_mean_face_mm"].mean()
    )


def test_guesses_for_some_faces_are_measured_as_for_all(model, splits):
    faces, rows = splits[1], torch.tensor([3, 11])
    guess = dict(identity=torch.zeros(16, 6), expression=torch.zeros(16, 4))
    whole, some = (
        evaluation.measure(model, faces, guess),
        evaluation.measure(model, faces, {k: v[rows] for k, v in guess.items()}, rows),
    )
    assert (
        all(some[name] == pytest.approx(values[rows]) for name, values in whole.items())
        and "pose_deg" not in some
    )
    with pytest.raises(ValueError, match="16 guesses for 2 faces"):
        evaluation.measure(model, faces, guess, rows)


def test_pretraining_learns_people(root, tmp_path):
    people = data.Faces(root / "people")
    recognizer = network.Recognizer(4, image_size=48, width=1 / 16, batch_norm=True)
    log = training.pretrain(
        recognizer,
        people,
        steps=20,
        batch_size=12,
        learning_rate=3e-3,
        seed=0,
        log_every=1,
        progress=False,
    )
    assert log.loss.iloc[-1] < log.loss.iloc[0] and 0 <= log.top1.iloc[-1] <= 1
    with pytest.raises(ValueError, match="n_people=4"):
        training.pretrain(
            network.Recognizer(5, image_size=48, width=1 / 16),
            people,
            steps=1,
            batch_size=4,
            learning_rate=1e-3,
            seed=0,
        )


def test_heads_learn_from_stored_features_what_they_learn_from_pictures(model, splits, tmp_path):
    nets, before = (build(), build()), build()
    settings = QUICK | dict(phases=[Phase(4, 1e-2)], log_every=1)
    evaluation.store_features(nets[1], splits[0], tmp_path / "features.safetensors", batch_size=20)
    stored = load_file(tmp_path / "features.safetensors")
    assert {k: tuple(v.shape) for k, v in stored.items()} == dict(
        pool4=(48, 32, 3, 3), pool5=(48, 32, 1, 1)
    )
    logs = [
        training.fit(net, model, *splits, features=features, **settings)
        for net, features in zip(nets, (None, stored))
    ]
    assert logs[1].loss.tolist() == pytest.approx(
        logs[0].loss.tolist(), rel=1e-2
    )  # float16, and Adam's signs
    assert all(
        same(net.trunk, before.trunk) and not same(net.fusion, before.fusion) for net in nets
    )
    evaluation.store_features(nets[1], splits[0], tmp_path / "few.safetensors", limit=20)
    few = load_file(tmp_path / "few.safetensors")
    assert all(torch.equal(few[layer], stored[layer][:20]) for layer in stored)
    training.fit(build(), model, *splits, features=few, **settings)  # of these faces alone
    for changes in (dict(augment=1.0), dict(phases=[Phase(4, 1e-2, 1e-3)])):
        with pytest.raises(ValueError, match="heads alone"):
            training.fit(build(), model, *splits, features=stored, **settings | changes)


def test_precision_is_chosen_by_what_the_device_computes_in(monkeypatch):
    for known in ("32-true", "bf16-mixed", "16-mixed"):
        assert training.auto_precision(known) == known
    for amx, avx, expected in (
        (False, False, "32-true"),
        (True, False, "bf16-mixed"),
        (False, True, "bf16-mixed"),
    ):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        assert training.auto_precision("auto") == expected


def test_batches_made_ahead_are_the_same_ones():
    asked = []

    def batch_at(step):
        asked.append(step)
        if step == 7:
            raise ValueError("no such batch")
        return step * step

    batch = data.ahead(batch_at, 9)
    assert [batch(step) for step in (3, 4, 5, 6)] == [9, 16, 25, 36]
    with pytest.raises(ValueError, match="no such batch"):
        batch(7)
    assert [batch(8), sorted(asked)] == [64, [3, 4, 5, 6, 7, 8]]


def test_a_checkpoint_of_other_versions_is_used_with_a_warning(
    model, splits, tmp_path, monkeypatch, caplog
):
    settings = QUICK | dict(
        phases=[Phase(2, 1e-3)], checkpoint=tmp_path / "c.pt", checkpoint_every=1
    )
    training.fit(build(), model, *splits, **settings)
    monkeypatch.setitem(keeping.VERSIONS, "torch", "1.0")
    training.fit(build(), model, *splits, **settings)
    assert "which may round differently" in caplog.text


def test_a_checkpoint_of_other_files_is_not_taken_up(model, splits, tmp_path):
    settings = QUICK | dict(
        phases=[Phase(2, 1e-3)], checkpoint=tmp_path / "c.pt", checkpoint_every=1
    )
    training.fit(build(), model, *splits, **settings, origin="of these faces")
    with pytest.raises(ValueError, match="other origin: delete it"):
        training.fit(build(), model, *splits, **settings, origin="of those faces")


def test_a_recogniser_learns_from_all_pictures_if_none_is_held_out(splits):
    recognizer = network.Recognizer(len(splits[1].person.unique()), image_size=48, width=1 / 16)
    log = training.pretrain(
        recognizer,
        splits[1],
        steps=1,
        batch_size=4,
        learning_rate=1e-3,
        seed=0,
        held_out=0,
        progress=False,
    )
    assert len(log) == 1 and "top1" not in log


def test_identity_can_be_left_out_of_the_loss(model, splits):
    net, before = build(), build()
    log = training.fit(
        net,
        model,
        *splits,
        phases=[dict(steps=2, heads_rate=1e-3)],
        identity_weight=0.0,
        log_every=1,
        **QUICK,
    )
    pairs = {
        name: all(
            torch.equal(a, b)
            for a, b in zip(getattr(net, name).parameters(), getattr(before, name).parameters())
        )
        for name in ("identity_head", "expression_head")
    }  # BatchNorm's statistics move all the same
    assert pairs == dict(identity_head=True, expression_head=False)
    assert log.loss.to_numpy() == pytest.approx(
        (log.expression_mm2 + 0.1 * log.pose_percent2).to_numpy(), rel=1e-5
    )


def test_stored_features_cannot_be_mirrored(model, root):
    net = network.E2FAR(model.n_identity, model.n_expression, image_size=48, width=1 / 32)
    with pytest.raises(ValueError, match="stored features .* cannot be mirrored"):
        training.fit(
            net,
            model,
            data.Faces(root / "train"),
            None,
            phases=[Phase(1, 1e-3)],
            features=dict(pool5=torch.zeros(1)),
            mirror=True,
            **QUICK,
        )


def test_mirrored_pictures_show_the_mirrored_face(model):
    """The labels of a mirrored picture put each landmark where its opposite was."""
    generator = torch.Generator().manual_seed(0)
    rotation = camera.euler_to_matrix(torch.tensor([[0.4, -0.2, 0.3]]).repeat(40, 1))
    pose = camera.encode_pose(
        rotation, torch.full((40,), 0.4), torch.tensor([[33.0, 44.0]]).repeat(40, 1), 80
    )
    batch = dict(
        image=torch.randint(0, 256, (40, 3, 8, 8), generator=generator, dtype=torch.uint8),
        person=torch.arange(40),
        pose=pose,
        identity=torch.randn(40, model.n_identity, generator=generator),
        expression=torch.randn(40, model.n_expression, generator=generator),
    )
    found = augmentation.mirror_half(model, batch, 0)
    same = (found["image"] == batch["image"]).flatten(1).all(1)
    assert 10 < same.sum() < 30
    assert torch.equal(found["image"][~same], batch["image"][~same].flip(-1))
    for name in ("identity", "expression", "pose"):
        assert torch.equal(found[name][same], batch[name][same])
    shape, project = (
        model(found["identity"], found["expression"])[~same],
        lambda shape, pose: camera.weak_perspective(shape, *camera.decode_pose(pose, 80)),
    )
    once, twice = (
        project(shape, found["pose"][~same])[:, model.opposite],
        project(model.mirror(shape), batch["pose"][~same]),
    )
    assert_close(
        once, twice * torch.tensor([-1.0, 1.0]) + torch.tensor([80.0, 0.0]), atol=1e-4, rtol=0
    )
