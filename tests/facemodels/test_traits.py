import itertools

import numpy as np
import pandas as pd
import pytest
import torch

from e2far.facemodels import makehuman, shapes, traits, truncate
from e2far.morphable import toy_model


@pytest.fixture(scope="module")
def drawn(face_model, targets):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(makehuman, "read_targets", lambda: targets)
        return traits.draw_heads(face_model, 500, seed=0)


# Heads --------------------------------------------------------------------------------------------


def test_new_heads_are_distributed_as_those_that_made_the_model(drawn):
    """In the model's frame and size the coefficients have mean 0 and deviation 1; heads shrunk to
    the mean's size would have a mode's mean at .4."""
    identity = drawn["identity"]
    assert identity.shape == (500, 80)
    assert abs(identity.mean(0)).max() < 0.25 and abs(identity.std(0) - 1).max() < 0.2


def test_errors_are_those_of_the_nearest_coefficients(face_model, targets_once, monkeypatch):
    """Heads in the span of the modes leave none; the mean face's error is the distance to it."""
    wanted = torch.randn(5, face_model.n_identity, generator=torch.Generator().manual_seed(0))
    mean, U = face_model.mean[face_model.region], face_model.identity_basis[face_model.region]
    offset = torch.einsum("ndk,bk->bnd", U, wanted)
    monkeypatch.setattr(shapes, "align", lambda heads, reference, region: (mean + offset).numpy())
    found = traits.draw_heads(face_model, 5)
    np.testing.assert_allclose(found["identity"], wanted, atol=1e-3)
    np.testing.assert_allclose(found["mean_face_mm"], offset.norm(dim=-1).mean(1), rtol=1e-4)
    assert found["error_mm"].max() < 1e-3


def test_more_modes_leave_less(face_model, targets_once, drawn):
    few = traits.draw_heads(truncate(face_model, 20), 500, seed=0)
    assert (drawn["error_mm"] < few["error_mm"]).all()
    assert (few["error_mm"] < few["mean_face_mm"]).all()
    assert 0.02 < drawn["error_mm"].mean() / drawn["mean_face_mm"].mean() < 0.2


def test_a_seed_draws_its_own_heads_and_not_those_of_the_model(
    face_model, targets_once, monkeypatch
):
    monkeypatch.setattr(traits, "BLOCK", 4)
    one, again, other = (traits.draw_heads(face_model, 10, seed) for seed in (0, 0, 1))
    assert all(len(value) == 10 for value in one.values())
    assert np.array_equal(one["identity"], again["identity"])
    assert len(np.unique(one["traits"].round(9), axis=0)) == 10
    assert abs(one["traits"] - other["traits"]).to_numpy().min() > 0
    _, of_the_model = shapes.draw_identities(*targets_once, 4, np.random.default_rng(0))
    assert not np.isin(one["traits"]["african"], of_the_model["african"]).any()


def test_a_model_that_is_not_makehumans_is_refused(targets_once):
    with pytest.raises(ValueError, match="'toy' is not made of MakeHuman's.*build-face-model"):
        traits.draw_heads(toy_model(dtype=torch.float32))


# Reading ------------------------------------------------------------------------------------------


def test_each_of_makehumans_twelve_sculptures_is_called_what_its_sculptor_called_it(
    face_model, targets, drawn
):
    head, macros, _ = targets
    keys = list(itertools.product(shapes.ETHNICITIES, shapes.SEXES, shapes.AGES))
    builds = [(*key[1:], "averagemuscle", "averageweight") for key in keys]
    heads = np.stack([head.base + macros[key] + macros[build] for key, build in zip(keys, builds)])
    mean, region = face_model.mean.numpy(), face_model.region.numpy()
    offset = (shapes.align(heads, mean, region) - mean)[:, region].reshape(12, -1)
    modes = face_model.identity_basis[region].flatten(0, 1).double().numpy()
    identity = np.linalg.lstsq(modes, offset.T)[0].T
    read = traits.groups(traits.TraitReader(drawn).predict(identity))
    words = dict(female="feminine", male="masculine", young="younger", old="older")
    wanted = [(ancestry, words[sex], words[age]) for ancestry, sex, age in keys]
    assert [*map(tuple, read[["ancestry", "sex", "age"]].to_numpy())] == wanted


def test_traits_of_heads_held_out_are_read_well(drawn):
    reader = traits.TraitReader(drawn)
    assert list(reader.quality["trait"]) == list(traits.TRAITS) and min(reader.quality["r2"]) > 0.9
    assert len(reader.agreement) == 10 and min(reader.agreement["right"]) > 0.75
    assert (reader.agreement.groupby("what")["heads"].sum() == 500).all()


def synthetic(n, K, known):
    identity = np.random.default_rng(0).normal(size=(n, K)).astype(np.float32)
    return dict(identity=identity, traits=pd.DataFrame(known(identity), columns=traits.TRAITS))


def test_a_linear_trait_is_read_exactly_and_shares_of_ancestry_sum_to_one():
    weight = np.random.default_rng(1).normal(0, 0.1, (6, 5))
    weight[:, 4] = -weight[:, 2] - weight[:, 3]
    known = lambda x: x @ weight + [0.5, 0.4, 0.3, 0.3, 0.4]
    reader = traits.TraitReader(synthetic(4000, 6, known))
    new = torch.randn(20, 6, generator=torch.Generator().manual_seed(0))
    read = reader.predict(new)
    np.testing.assert_allclose(read, known(new.numpy()), atol=1e-3)
    np.testing.assert_allclose(read[list(shapes.ETHNICITIES)].sum(axis=1), 1, atol=1e-6)


def test_quality_is_of_heads_held_out():
    """Traits that have nothing to do with the coefficients fit 60 heads well, and predict none."""
    drawn = synthetic(60, 40, lambda x: np.random.default_rng(2).dirichlet([0.5] * 5, 60))
    reader = traits.TraitReader(drawn)
    fitted = reader.predict(drawn["identity"]) - drawn["traits"]
    assert (fitted.var() < 0.6 * drawn["traits"].var()).all() and (reader.quality["r2"] < 0).all()


# Names --------------------------------------------------------------------------------------------


def test_groups_are_named_from_two_thirds_on():
    wanted = {  # male, old, african, asian, caucasian
        (0.1, 0.2, 0.7, 0.2, 0.1): "feminine younger african",
        (0.5, 0.5, 0.1, 0.7, 0.2): "between middle asian",
        (0.9, 0.8, 0.2, 0.1, 0.7): "masculine older caucasian",
        (1.4, -0.2, 0.6, 0.4, 0): "masculine younger mixed",
        (-0.3, 1.1, 0.9, 0.8, -0.7): "feminine older mixed",  # however far it goes in two ways
        (0.3, 0.7, -0.1, -0.1, 1.2): "feminine older caucasian",
    }
    table = pd.DataFrame([*wanted], columns=traits.TRAITS, index=range(10, 16))
    found = traits.groups(table)
    assert list(found.index) == list(range(10, 16))
    assert found[["sex", "age", "ancestry"]].agg(" ".join, axis=1).tolist() == [*wanted.values()]
