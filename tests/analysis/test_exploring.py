"""The package that notebook 3 plays with, written small."""

import numpy as np
import pytest
import torch

from e2far import recogniser
from e2far.analysis import counterfactuals, exploring, probes
from e2far.morphable import toy_model

SIZE, SEED, RANK = 48, 7, 3


@pytest.fixture(scope="module")
def pack(face_model, tmp_path_factory):
    try:
        recogniser.weights_file()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    folder = tmp_path_factory.mktemp("pack")
    sample = counterfactuals.draw_sample(face_model, 6, SIZE, SEED)
    options = dict(people=3, pictures=2, rank=RANK, components=8, seed=SEED)
    exploring.write(folder, face_model, sample, **options)
    return folder


def test_faces_are_read_as_they_were_drawn(pack, face_model):
    options = dict(split="repeated", pictures=2, **exploring.POSES)
    drawn = counterfactuals.draw_sample(face_model, 3, SIZE, SEED + 3, **options)
    found = exploring.read_faces(pack)
    assert found.keys() == drawn.keys()
    apart = (found.pop("image").float() - drawn.pop("image").float()).abs()
    assert apart.mean() < 4 and apart.amax((1, 2, 3)).min() < 90
    for name, values in drawn.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3)


def test_people_show_every_expression(pack, face_model):
    found = exploring.read_faces(pack, "expressions")
    person, count = found["person"].view(4, -1), len(exploring.EXPRESSIONS)
    assert person.shape[1] == count and len(person[:, 0].unique()) == 4
    assert (person == person[:, :1]).all()
    same = found["identity"].view(4, count, -1)
    assert (same == same[:, :1]).all()
    shown = found["expression"].view(4, count, -1)
    assert not shown[:, 0].any() and (shown == shown[:1]).all() and shown[0, 1:].any(1).all()
    jaw = face_model.unit_names.index("jawOpen")
    opened = 0.8 * face_model.units_to_modes[:, jaw]
    np.testing.assert_allclose(shown[0, 2], opened, rtol=2e-3, atol=1e-3)


def test_every_layer_of_every_subject_is_decoded(pack, face_model):
    faces, decoders = exploring.read_faces(pack), exploring.Decoders(pack)
    for name, subject in exploring.open_subjects(pack).items():
        for layer, x in subject.features(faces).items():
            identity, expression = decoders(name, layer, x)
            assert identity.shape == faces["identity"].shape
            assert expression.shape == faces["expression"].shape
            assert identity.isfinite().all() and expression.isfinite().all()
            assert decoders.parts[f"{name}/{layer}/identity.read"].shape == (x.shape[1], RANK)


def test_a_decoder_of_full_rank_is_the_probe_and_one_of_low_rank_keeps_its_mean():
    model, rng = toy_model(dtype=torch.float32), np.random.default_rng(0)
    features = 3 + rng.normal(size=(80, 9)) * np.linspace(0.1, 2, 9)
    mixing = rng.normal(size=(9, model.n_identity + model.n_expression))
    targets = (
        torch.from_numpy(features @ mixing).float().split((model.n_identity, model.n_expression), 1)
    )
    sample = dict(zip(("identity", "expression"), targets), person=torch.arange(80) // 2)
    for rank in (9, 1):
        parts = exploring.fit_decoder(features, sample, model, rank, 9)
        for kind in ("identity", "expression"):
            read, spread, bias = (
                parts[f"{kind}.{key}"].double().numpy() for key in ("read", "spread", "bias")
            )
            answer = features @ read @ spread + bias
            probe = probes.fit_probe(features, sample[kind].numpy(), sample["person"].numpy(), 9)
            expected, scale = probe.predict(features), targets[0].std().item()
            np.testing.assert_allclose(answer.mean(0), expected.mean(0), atol=0.02 * scale)
            if rank == 9:
                np.testing.assert_allclose(answer, expected, atol=0.02 * scale)
            assert read.shape[1] == min(rank, answer.shape[1])
