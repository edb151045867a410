"""The package that notebook 3 plays with, written small."""

import shutil

import numpy as np
import pytest
import torch

from e2far import recogniser
from e2far.analysis import counterfactuals, exploring, probes
from e2far.analysis.subjects import TWIN
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
    assert (found.pop("image").float() - drawn.pop("image").float()).abs().mean() < 4
    for name, values in drawn.items():
        np.testing.assert_allclose(found[name], values, rtol=1e-3, atol=1e-3)


def test_four_people_show_the_same_expressions(pack, face_model):
    found, count = exploring.read_faces(pack, "expressions"), len(exploring.EXPRESSIONS)
    assert len(found["identity"].unique(dim=0)) == len(found["person"].unique()) == 4
    assert (found["person"].view(4, count) == found["person"][::count, None]).all()
    shown = found["expression"].view(4, count, -1)
    opened = 0.8 * face_model.units_to_modes[:, face_model.unit_names.index("jawOpen")]
    assert (shown == shown[:1]).all() and not shown[0, 0].any()
    np.testing.assert_allclose(shown[0, 2], opened, rtol=2e-3, atol=1e-3)


def test_every_layer_of_every_subject_is_decoded(pack):
    faces, decoders = exploring.read_faces(pack), exploring.Decoders(pack)
    for name, subject in exploring.open_subjects(pack).items():
        for layer, x in subject.features(faces).items():
            for kind, answer in zip(("identity", "expression"), decoders(name, layer, x)):
                assert answer.shape == faces[kind].shape and answer.isfinite().all()
                read = decoders.parts[f"{name}/{layer}/{kind}.read"]
                assert read.shape == (x.shape[1], RANK) and read.dtype == torch.half


@pytest.mark.parametrize("name", ["faces.jpg", "faces.safetensors", "decoders.safetensors"])
def test_a_damaged_package_is_named_and_how_to_get_it_back(pack, tmp_path, name):
    folder = shutil.copytree(pack, tmp_path / "pack")
    (folder / name).write_bytes((folder / name).read_bytes()[:-40])
    with pytest.raises(ValueError, match=f"{name}: .*git checkout data/explore"):
        exploring.read_faces(folder)
        exploring.Decoders(folder)


def test_the_untrained_twin_is_the_same_each_time(pack):
    """Its decoders were fitted on it, down to the last layer."""
    once, again = (exploring.open_subjects(pack)[TWIN].network.state_dict() for _ in range(2))
    assert once["fc.weight"].any()
    for name, values in once.items():
        assert torch.equal(values, again[name]), name


@pytest.mark.parametrize("rank", [1, 9])
def test_a_decoder_is_the_probe_in_fewer_numbers(rank):
    """One of full rank answers as the probe does, one of low rank on the average."""
    model, rng = toy_model(dtype=torch.float32), np.random.default_rng(0)
    features, person = 3 + rng.normal(size=(80, 9)), np.arange(80) // 2
    sample = dict(person=torch.from_numpy(person))
    for kind, n in dict(identity=model.n_identity, expression=model.n_expression).items():
        sample[kind] = torch.from_numpy(features @ rng.normal(size=(9, n))).float()
    parts = exploring.fit_decoder(features, sample, model, rank, 9)
    for kind in ("identity", "expression"):
        read, spread, bias = (parts[f"{kind}.{key}"].double() for key in ("read", "spread", "bias"))
        answer = torch.from_numpy(features) @ read @ spread + bias
        expected = probes.fit_probe(features, sample[kind].numpy(), person, 9).predict(features)
        np.testing.assert_allclose(answer.mean(0), expected.mean(0), atol=0.05)
        assert (np.abs(answer - expected).max() < 0.05) == (rank == 9)
