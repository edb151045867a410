import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from e2far.facemodels import load_face_model
from e2far.morphable import MorphableModel, landmarks_mm, toy_model


@pytest.fixture
def model():
    return toy_model()


@pytest.fixture
def stored(tmp_path):
    """A face model on disk, and its arrays."""
    path = tmp_path / "toy.npz"
    toy_model(dtype=torch.float32).save(path)
    with np.load(path) as file:
        return path, dict(file)


@pytest.fixture
def coefficients():
    generator = torch.Generator().manual_seed(0)
    return (torch.randn(5, count, generator=generator, dtype=torch.float64) for count in (6, 4))


def test_shapes_are_the_sum_written_out_and_zero_is_the_mean(model, coefficients):
    identity, expression = coefficients
    shapes, neutral = model(identity, expression), model.neutral(identity)
    for alpha, beta, shape in zip(identity, expression, shapes):
        slow = model.mean.clone()
        for weight, mode in zip(alpha, model.identity_basis.unbind(2)):
            slow += weight * mode
        for weight, mode in zip(beta, model.expression_basis.unbind(2)):
            slow += weight * mode
        assert_close(shape, slow)
    assert_close(shapes - neutral, model.expression_offset(expression))
    assert torch.equal(model(identity, 0 * expression), neutral)
    assert_close(model.neutral(0 * identity), model.mean.expand(5, -1, -1))
    assert_close(landmarks_mm(model, identity, expression), shapes[:, model.landmarks])


def test_the_regions_triangles_have_all_corners_in_it(model):
    assert torch.equal(model.region_triangles, model.triangles)
    model.region = torch.arange(40, 120)
    inside = set(model.region.tolist())
    expected = [corners for corners in model.triangles.tolist() if inside.issuperset(corners)]
    assert model.region_triangles.tolist() == expected != []


def rebuilt(model, **changes):
    names = ("mean", "identity_basis", "expression_basis", "triangles", "landmarks")
    units = dict(zip(model.unit_names, model.units.unbind(2)))
    parts = {name: getattr(model, name) for name in names} | dict(units=units)
    return MorphableModel(**parts | changes)


def test_from_units_is_exact_for_units_in_the_span(model):
    mixing, strengths = torch.randn(4, 3).double(), torch.rand(7, 3).double()
    units = model.expression_basis @ mixing
    model = rebuilt(model, units=dict(zip("abc", units.unbind(2))))
    found = model.from_units(strengths)
    assert_close(found, strengths @ mixing.T, atol=1e-4, rtol=0)  # rounded to five places
    expected = torch.einsum("ndj,bj->bnd", units, strengths)
    assert_close(model.expression_offset(found), expected, atol=1e-3, rtol=0)


def test_from_units_is_the_nearest_over_the_region(model):
    """No expression is nearer: the residual is at right angles to every mode there."""
    region = torch.arange(0, model.n_vertices, 2)
    model = rebuilt(model, region=region)
    found = model.expression_offset(model.from_units(torch.eye(3).double()))
    residual = (model.units.permute(2, 0, 1) - found)[:, region]
    along = torch.einsum("bnd,ndl->bl", residual, model.expression_basis[region])
    assert_close(along, 0 * along, atol=2e-2, rtol=0)  # of modes with a square sum of 1,000


def test_teeth_are_drawn_behind_their_place(model):
    assert not model.recess.any()
    model.attributes["teeth"] = torch.zeros(model.n_vertices)
    model.attributes["teeth"][3] = 1
    assert model.recess[3] == 4 and model.recess.sum() == 4


def test_save_and_load(tmp_path):
    model = toy_model(dtype=torch.float32)
    model.attributes["lips"] = torch.rand(model.n_vertices)
    path = tmp_path / "new folder" / "toy.npz"
    model.save(path)
    again = load_face_model(path)
    assert list(path.parent.iterdir()) == [path]
    for name in ("mean", "triangles", "landmarks", "region"):
        assert torch.equal(getattr(again, name), getattr(model, name))
    for name in ("identity_basis", "expression_basis", "units"):  # stored at float16
        assert torch.equal(getattr(again, name), getattr(model, name).half().float())
    assert (again.name, again.unit_names) == ("toy", model.unit_names)
    assert torch.equal(again.attributes["lips"], model.attributes["lips"].half().float())
    again.save(tmp_path / "again.npz")  # what was rounded once stays
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()
    with pytest.raises(FileNotFoundError, match="nothing.npz.*`e2far build-face-model"):
        load_face_model(tmp_path / "nothing.npz")


def refusal(path):
    """What is wrong with the file, in one line that names it and says how to build another."""
    with pytest.raises(ValueError, match=r"toy\.npz.*e2far build-face-model") as caught:
        load_face_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_face_model_give_one_line(stored):
    """More damage, and code in a file: test_damaged_files."""
    path, arrays = stored
    for content in (b"no face here" * 50, pickle.dumps([1.0])):
        path.write_bytes(content)
        assert "pickle=" not in refusal(path)  # numpy's advice
    for header in ("[1, 2", "[1, 2]"):
        np.savez(path, **arrays | dict(header=np.array(header)))
        refusal(path)
    np.savez(path, **{name: array for name, array in arrays.items() if name != "triangles"})
    assert "triangles" in refusal(path)
    path.unlink()
    path.mkdir()
    refusal(path)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("mean", lambda a: a[:, :2], "mean has shape (224, 2)"),
        ("identity_basis", lambda a: a[:-1], "identity_basis has shape (223, 3, 6)"),
        ("units", lambda a: a[:, :, :2], "3 unit names for 2 units"),
        ("landmarks", lambda a: a[:51], "landmarks has shape (51,)"),
        ("triangles", lambda a: a + 500, "triangles names vertex"),
        ("landmarks", lambda a: a - 500, "landmarks names vertex -"),
        ("region", lambda a: a + 0.5, "region holds numbers of the wrong type"),
        ("mean", lambda a: a + 0j, "Cannot cast array data from dtype('complex64')"),
        ("region", lambda a: a[:0], "region is empty"),
        ("identity_basis", lambda a: a[:, :, :0], "identity_basis is empty"),
        ("mean", lambda a: a * np.nan, "mean holds numbers that are not finite"),
        ("identity_basis", lambda a: a * np.inf, "identity_basis holds numbers that are not"),
    ],
)
def test_wrong_shapes_and_numbers_are_named_with_the_file(stored, name, change, message):
    path, arrays = stored
    np.savez(path, **arrays | {name: change(arrays[name])})
    assert message in refusal(path)


def test_units_and_triangles_of_the_wrong_kind_are_refused(model):
    smile, jaw = model.units[:, :, 0], model.units[:9, :, 1]
    for units in (dict(smile=smile, jaw=jaw), model.units, [smile]):
        with pytest.raises(ValueError, match="units are no mapping"):
            rebuilt(model, units=units)
    with pytest.raises(ValueError, match="triangles holds numbers of the wrong type"):
        rebuilt(model, triangles=model.triangles > 0)


def test_toy_model_repeats_and_has_a_face_of_its_own():
    one, same, other = toy_model(), toy_model(), toy_model(seed=1)
    assert torch.equal(one.identity_basis, same.identity_basis)
    assert not torch.equal(one.identity_basis, other.identity_basis)
    a, b, c = one.mean[one.triangles].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    assert (outward[:, 2] > -1e-9).float().mean() > 0.9  # counter-clockwise seen from the front
