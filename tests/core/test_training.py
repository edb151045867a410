import dataclasses

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file
from torch.nn.functional import interpolate
from torch.testing import assert_close

from e2far import augmentation, camera, data, evaluation, keeping, network, training
from e2far.morphable import toy_model
from e2far.training import Phase

QUICK = dict(batch_size=8, expression_weight=1.0, pose_weight=0.1, weight_decay=0.0, seed=0)
QUICK |= dict(progress=False)
FROZEN, WHOLE = [Phase(2, 1e-3)], [Phase(2, 1e-3, 1e-3)]  # the trunk


def write_split(folder, model, n, seed, size=48, people=None):
    """Shards of blocks of colour that show identity, expression and pose."""
    generator = torch.Generator().manual_seed(seed)
    identity = torch.randn(n, model.n_identity, generator=generator)
    expression = torch.randn(n, model.n_expression, generator=generator)
    rotation = camera.euler_to_matrix(0.3 * torch.randn(n, 3, generator=generator))
    scale = size * 0.005 * (1 + 0.1 * torch.rand(n, generator=generator))
    translation = size * (0.5 + 0.02 * torch.randn(n, 2, generator=generator))
    points = model(identity, expression)[:, model.landmarks]
    pose = camera.encode_pose(rotation, scale, translation, size)
    cells = torch.cat((identity, expression, pose), 1)
    cells = torch.cat((cells, torch.zeros(n, 27 - cells.shape[1])), 1).sigmoid().view(n, 3, 3, 3)
    columns = dict(
        image=interpolate(cells, size=size).mul(255).byte().permute(0, 2, 3, 1),
        identity=identity,
        expression=expression,
        pose=pose,
        landmarks=camera.weak_perspective(points, rotation, scale, translation),
        person=torch.arange(n) % (people or n),
    )
    for number, rows in enumerate(torch.arange(n).split(20)):
        shard = {name: column[rows] for name, column in columns.items()}
        data.write_shard(data.shard_path(folder, number), shard)
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
    return data.Faces(root / "train"), data.Faces(root / "validation")


def build(**changes):
    torch.manual_seed(0)
    return network.E2FAR(6, 4, **dict(image_size=48, width=1 / 16, batch_norm=True) | changes)


def same(a, b):
    pairs = zip(a.state_dict().values(), b.state_dict().values(), strict=True)
    return all(torch.equal(x, y) for x, y in pairs)


def test_every_epoch_is_a_permutation_decided_by_seed_and_step():
    batch = lambda step, seed=5: data.batch_indices(20, 4, step, seed)
    one, other = (torch.cat([batch(step) for step in steps]) for steps in (range(5), range(5, 10)))
    assert one.sort().values.tolist() == other.sort().values.tolist() == list(range(20))
    assert not torch.equal(one, other)
    assert torch.equal(batch(7), batch(7)) and not torch.equal(batch(7), batch(7, seed=6))
    assert len(data.batch_indices(3, 8, 11, 0)) == 3


def test_schedules():
    cosine = Phase(110, 1.0, 0.1, warmup=9)
    assert cosine.rates(0) == pytest.approx((0.1, 0.01))
    assert cosine.rates(9) == pytest.approx((1.0, 0.1)) and cosine.rates(109)[0] < 1e-3
    steps = Phase(30, 1.0, 0.0, schedule="step", milestones=(10, 20))
    assert [steps.rates(s)[0] for s in (0, 9, 10, 20)] == pytest.approx([1.0, 1.0, 0.1, 0.01])
    constant = Phase(100, 1e-3, 5e-4, schedule="constant", warmup=9)
    assert constant.rates(0) == (1e-4, 5e-5) and constant.rates(99) == (1e-3, 5e-4)
    assert training.rates_at([steps, cosine], 39) == (1, cosine.rates(9))
    with pytest.raises(ValueError, match="choose cosine, step or constant"):
        Phase(1, 1.0, schedule="linear")


@pytest.mark.parametrize("batch_norm", [False, True])
def test_twenty_steps_on_one_batch_drive_the_loss_down(model, batch_norm, tmp_path):
    batch, phases = write_split(tmp_path, model, 8, 0), [Phase(20, 3e-3, 3e-3)]
    net = build(batch_norm=batch_norm)
    log = training.fit(net, model, batch, None, phases=phases, log_every=1, clip=50.0, **QUICK)
    assert log.loss.iloc[-1] < 0.5 * log.loss.iloc[0]


def test_frozen_phase_leaves_the_trunk_bit_for_bit(model, splits):
    net, before = build(), build()
    options = QUICK | dict(weight_decay=0.1, identity_weight=0.0, log_every=1)
    log = training.fit(net, model, *splits, phases=FROZEN, **options)
    assert same(net.trunk, before.trunk) and not same(net.expression_head, before.expression_head)
    # identity_weight 0 leaves it alone; parameters: BatchNorm's statistics move all the same
    expected = log.expression_mm2 + 0.1 * log.pose_percent2
    assert log.loss.to_numpy() == pytest.approx(expected.to_numpy(), rel=1e-5)
    phases = [dict(steps=2, heads_rate=1e-3), dict(steps=2, heads_rate=1e-3, trunk_rate=1e-4)]
    training.fit(net, model, *splits, phases=phases, **QUICK)
    assert not same(net.identity_head, before.identity_head)
    statistics = zip(net.trunk.buffers(), before.trunk.buffers())
    assert not any(torch.equal(a, b) for a, b in statistics if a.numel() > 3)
    assert all(p.requires_grad for p in net.parameters())


def test_a_checkpoint_must_agree_in_all_that_is_told_but_what_changes_no_number():
    told = dict(phases=[Phase(1, 1e-3)], batch_size=4, seed=0, pose_weight=1.0)
    others = dict(phases=[Phase(2, 1e-3)]) | dict.fromkeys(("optimizer", "origin"), "other")
    for field in dataclasses.fields(keeping.Recipe):
        changed = told | {field.name: others.get(field.name, 7)}
        same_numbers = keeping.Recipe(**changed).settings() == keeping.Recipe(**told).settings()
        assert same_numbers == (field.name in keeping.FREE), field.name


@pytest.mark.parametrize("ema, interrupted_at", [(None, 8), (0.9, 6)])  # in either phase
def test_resumed_training_equals_uninterrupted_training(
    model, splits, ema, interrupted_at, tmp_path
):
    """Interrupted between rows of the log."""
    settings = QUICK | dict(phases=[Phase(7, 1e-3), Phase(3, 1e-3, 1e-3)], ema=ema, augment=1.0)
    settings |= dict(log_every=5, validate_every=5, checkpoint=tmp_path / "c.pt", mirror=True)
    whole, part, csv = build(), build(), tmp_path / "log.csv"
    log = training.fit(whole, model, *splits, checkpoint_every=interrupted_at, **settings)
    resumed = training.fit(part, model, *splits, log=csv, **settings)
    assert same(part, whole)
    timings = ["images_per_s", "seconds", "remaining_s"]
    pd.testing.assert_frame_equal(resumed.drop(columns=timings), log.drop(columns=timings))
    pd.testing.assert_frame_equal(pd.read_csv(csv), resumed, check_exact=False)


def test_a_checkpoint_is_refused_where_foreign_or_broken(
    model, splits, tmp_path, monkeypatch, caplog
):
    checkpoint = tmp_path / "c.pt"
    settings = QUICK | dict(phases=FROZEN, checkpoint=checkpoint, checkpoint_every=1)
    run = lambda **changes: training.fit(build(), model, splits[0], None, **settings | changes)
    run()
    # As version 0.8.0 wrote them: a training of months goes on with the code of today
    stored = torch.load(checkpoint, weights_only=True)["settings"]
    names = "phases batch_size seed weight_decay optimizer clip ema augment weights origin"
    assert set(stored) == {*names.split(), "faces", "network"}
    weights = dict(expression_weight=1.0, pose_weight=0.1, identity_weight=1.0)
    assert stored["weights"] == weights and stored["faces"] == 48
    with pytest.raises(ValueError, match="other batch_size, seed, origin, weights.*delete it"):
        run(seed=1, batch_size=4, mirror=True, origin="of other files")
    monkeypatch.setitem(keeping.VERSIONS, "torch", "1.0")
    run()
    assert "which may round differently" in caplog.text  # of other versions it is used
    for content in (checkpoint.read_bytes()[:-1000], b"garbage"):
        checkpoint.write_bytes(content)
        with pytest.raises(ValueError, match="c.pt.*delete it"):
            run()


def test_nan_and_sizes_that_disagree_stop_with_a_message(model, splits):
    fit = lambda net, model: training.fit(net, model, *splits, phases=WHOLE, **QUICK)
    net = build()
    with torch.no_grad():
        net.pose_head[-1].bias[0] = torch.nan
    with pytest.raises(ValueError, match="diverged at step 0.*lower the learning rate"):
        fit(net, model)
    with pytest.raises(ValueError, match="network predicts 6, the face model has 5"):
        fit(build(), toy_model(n_identity=5))
    with pytest.raises(ValueError, match=r"\(8, 3, 48, 48\): expected \(B, 3, 80, 80\)"):
        fit(build(image_size=80), model)


def test_bf16_and_a_float64_model_train(splits):
    options = dict(phases=WHOLE, precision="bf16-mixed", optimizer="adam")
    log = training.fit(build(), toy_model(), *splits, **options, **QUICK)
    assert log.loss.notna().all() and log.neutral_ratio.iloc[-1] > 0


def test_errors_are_what_they_say(model, splits):
    faces = splits[1]
    identity, expression, pose = faces.identity, faces.expression, faces.pose
    perfect = dict(identity=identity, expression=expression, pose=pose)
    right = evaluation.measure(model, faces, perfect, batch_size=5)
    kinds = "neutral_mm expression_mm expressive_mm pose_percent landmark_percent"
    assert all(abs(right[kind]).max() < 1e-3 for kind in kinds.split())
    assert right["pose_deg"].max() < 0.1 and right["person"].tolist() == faces.person.tolist()

    shifted = pose + 0.02 * torch.eye(9)[7]
    guess = dict(identity=identity + 0.5, expression=expression - 1, pose=shifted)
    wrong = evaluation.measure(model, faces, guess)
    neutral, truth = model.neutral(identity), model(identity, expression)
    average = identity.mean(0, keepdim=True), expression.mean(0, keepdim=True)
    meshes = dict(
        neutral=model.neutral(identity + 0.5) - neutral,
        expressive=model(identity + 0.5, expression - 1) - truth,
        expression=model.expression_offset(torch.full((16, 4), -1.0)),
        neutral_mean_face=model.neutral(average[0]) - neutral,
        expressive_mean_face=model(*average) - truth,
    )
    for kind, offset in meshes.items():
        found = torch.from_numpy(wrong[f"{kind}_mm"])
        assert_close(found, offset.norm(dim=-1).mean(-1), rtol=1e-4, atol=1e-4)
    assert wrong["pose_percent"] == pytest.approx(2.0, abs=1e-3)
    assert wrong["landmark_percent"].min() > 0
    ratio = wrong["neutral_mm"].mean() / wrong["neutral_mean_face_mm"].mean()
    assert evaluation.summary(wrong)["neutral_ratio"] == pytest.approx(ratio)

    rows = torch.tensor([3, 11])  # some faces are measured as all are; the pose may be left out
    del guess["pose"]
    some = evaluation.measure(model, faces, {k: v[rows] for k, v in guess.items()}, rows)
    assert all(values == pytest.approx(wrong[name][rows]) for name, values in some.items())
    with pytest.raises(ValueError, match="16 guesses for 2 faces"):
        evaluation.measure(model, faces, guess, rows)


def test_pretraining_learns_people(root):
    people = data.Faces(root / "people")
    small = dict(image_size=48, width=1 / 16, batch_norm=True)
    settings = dict(batch_size=12, learning_rate=3e-3, seed=0, progress=False)
    recognizer = network.Recognizer(4, **small)
    log = training.pretrain(recognizer, people, steps=20, log_every=1, **settings)
    assert log.loss.iloc[-1] < log.loss.iloc[0] and 0 <= log.top1.iloc[-1] <= 1
    all_pictures = training.pretrain(recognizer, people, steps=1, held_out=0, **settings)
    assert len(all_pictures) == 1 and "top1" not in all_pictures
    with pytest.raises(ValueError, match="n_people=4"):
        training.pretrain(network.Recognizer(5, **small), people, steps=1, **settings)


def test_heads_learn_from_stored_features_what_they_learn_from_pictures(model, splits, tmp_path):
    nets, before = (build(), build()), build()
    settings = QUICK | dict(phases=[Phase(4, 1e-2)], log_every=1)
    path = tmp_path / "features.safetensors"
    evaluation.store_features(nets[1], splits[0], path, batch_size=20)
    stored = load_file(path)
    shapes = {layer: tuple(values.shape) for layer, values in stored.items()}
    assert shapes == dict(pool4=(48, 32, 3, 3), pool5=(48, 32, 1, 1))
    pictures = training.fit(nets[0], model, *splits, **settings)
    features = training.fit(nets[1], model, *splits, features=stored, **settings)
    # float16, and Adam's signs
    assert features.loss.tolist() == pytest.approx(pictures.loss.tolist(), rel=1e-2)
    assert all(same(net.trunk, before.trunk) for net in nets)
    assert not any(same(net.fusion, before.fusion) for net in nets)

    evaluation.store_features(nets[1], splits[0], path, limit=20)
    few = load_file(path)
    assert all(torch.equal(few[layer], stored[layer][:20]) for layer in stored)
    training.fit(build(), model, *splits, features=few, **settings)  # of these faces alone
    for changes in (dict(augment=1.0), dict(mirror=True), dict(phases=WHOLE)):
        with pytest.raises(ValueError, match="stored features train heads alone"):
            training.fit(build(), model, *splits, features=stored, **settings | changes)


def test_precision_is_chosen_by_what_the_device_computes_in(monkeypatch):
    assert training.auto_precision("16-mixed") == "16-mixed"
    for amx, avx in ((False, False), (True, False), (False, True)):
        monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: avx)
        expected = "bf16-mixed" if amx or avx else "32-true"
        assert training.auto_precision("auto") == expected


def test_batches_made_ahead_are_the_same_ones():
    asked = []
    batch = data.ahead(lambda step: asked.append(step) or 12 // (7 - step), 9)
    assert [batch(step) for step in (3, 4, 5, 6)] == [3, 4, 6, 12]
    with pytest.raises(ZeroDivisionError):
        batch(7)
    assert [batch(8), sorted(asked)] == [-12, [3, 4, 5, 6, 7, 8]]


def test_mirrored_pictures_show_the_mirrored_face(model, splits):
    """The labels of a mirrored picture put each landmark where its opposite was."""
    batch = splits[0].gather(range(40))
    found = augmentation.mirror_half(model, batch, 0)
    same = (found["image"] == batch["image"]).flatten(1).all(1)
    assert 10 < same.sum() < 30
    assert torch.equal(found["image"][~same], batch["image"][~same].flip(-1))
    for name in ("identity", "expression", "pose"):
        assert torch.equal(found[name][same], batch[name][same])

    shape = model(found["identity"], found["expression"])[~same]
    project = lambda shape, pose: camera.weak_perspective(shape, *camera.decode_pose(pose, 80))
    once = project(shape, found["pose"][~same])[:, model.opposite]
    twice = project(model.mirror(shape), batch["pose"][~same])
    flipped = twice * torch.tensor([-1.0, 1.0]) + torch.tensor([80.0, 0.0])
    assert_close(once, flipped, atol=1e-4, rtol=0)
