import json
import pickle

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from e2far.facemodels import load_face_model
from e2far.morphable import MorphableModel, toy_model


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


def coefficients(model, n=5, seed=0):
    generator = torch.Generator().manual_seed(seed)
    draw = lambda count: torch.randn(n, count, generator=generator, dtype=model.mean.dtype)
    return draw(model.n_identity), draw(model.n_expression)


def test_the_regions_triangles_have_all_corners_in_it(model):
    assert torch.equal(model.region_triangles, model.triangles)
    model.region = torch.arange(40, 120)
    inside = set(model.region.tolist())
    expected = [corners for corners in model.triangles.tolist() if inside.issuperset(corners)]
    assert model.region_triangles.tolist() == expected != []


def test_zero_coefficients_give_the_mean_face_and_expression_zero_exactly_the_neutral(model):
    identity, expression = coefficients(model)
    assert_close(model(0 * identity, 0 * expression), model.mean.expand(5, -1, -1))
    assert torch.equal(model(identity, 0 * expression), model.neutral(identity))


def test_shapes_are_the_sum_written_out(model):
    identity, expression = coefficients(model)
    shapes = model(identity, expression)
    for alpha, beta, shape in zip(identity, expression, shapes):
        slow = model.mean.clone()
        for weight, mode in zip(alpha, model.identity_basis.unbind(2)):
            slow += weight * mode
        for weight, mode in zip(beta, model.expression_basis.unbind(2)):
            slow += weight * mode
        assert_close(shape, slow)
    assert_close(shapes - model.neutral(identity), model.expression_offset(expression))


def rebuilt(model, **changes):
    names = ("mean", "identity_basis", "expression_basis", "triangles", "landmarks", "units")
    parts = {name: getattr(model, name) for name in names}
    return MorphableModel(**parts | changes, unit_names=model.unit_names)


def test_from_units_is_exact_for_units_in_the_span(model):
    mixing, strengths = torch.randn(4, 3).double(), torch.rand(7, 3).double()
    units = model.expression_basis @ mixing
    model = rebuilt(model, units=units)
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
        assert_close(getattr(again, name), getattr(model, name), rtol=0, atol=0)
    for name in ("identity_basis", "expression_basis", "units"):  # stored at float16
        assert torch.equal(getattr(again, name), getattr(model, name).half().float())
    assert (again.name, again.unit_names) == ("toy", model.unit_names)
    assert torch.equal(again.attributes["lips"], model.attributes["lips"].half().float())
    again.save(tmp_path / "again.npz")  # what was rounded once stays
    assert (tmp_path / "again.npz").read_bytes() == path.read_bytes()


def test_moves_as_one(model):
    assert model.float()(*(x.float() for x in coefficients(model))).dtype == torch.float32
    assert {"mean", "identity_basis", "landmarks", "region", "units"} <= set(model.state_dict())


def test_a_missing_model_says_how_to_build_it(tmp_path):
    with pytest.raises(FileNotFoundError, match="nothing.npz.*`e2far build-face-model"):
        load_face_model(tmp_path / "nothing.npz")


def refusal(path):
    """What is wrong with the file, in one line that names it and says how to build another."""
    with pytest.raises(ValueError, match=r"toy\.npz.*e2far build-face-model") as caught:
        load_face_model(path)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_files_that_are_no_face_model_give_one_line(stored):
    """More damage: test_damaged_files."""
    path, arrays = stored
    good = path.read_bytes()
    for content in (b"", good[:50], good[:-500], b"no face here" * 50, pickle.dumps([1.0])):
        path.write_bytes(content)
        refusal(path)
    for header in ("[1, 2", "[1, 2]"):
        np.savez(path, **arrays | dict(header=np.array(header)))
        refusal(path)
    np.savez(path, **{name: array for name, array in arrays.items() if name != "triangles"})
    assert "triangles" in refusal(path)
    with open(path, "wb") as file:
        np.save(file, arrays["mean"])
    refusal(path)
    path.unlink()
    path.mkdir()
    refusal(path)


class Trap:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('sprung').write_text('x')",)


@pytest.mark.parametrize("kind", ["inside", "instead"])
def test_nothing_in_a_file_is_executed(stored, tmp_path, monkeypatch, kind):
    path, arrays = stored
    monkeypatch.chdir(tmp_path)
    if kind == "inside":
        np.savez(path, **arrays | dict(mean=np.array([Trap()], dtype=object)))
    else:
        path.write_bytes(pickle.dumps(Trap()))
    refusal(path)
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("mean", lambda a: a[:, :2], "mean has shape (224, 2)"),
        ("identity_basis", lambda a: a[:-1], "identity_basis has shape (223, 3, 6)"),
        ("units", lambda a: a[:, :, :2], "3 unit names for 2 units"),
        ("landmarks", lambda a: a[:51], "landmarks has shape (51,)"),
        ("triangles", lambda a: a + 500, "triangles names vertex"),
        ("landmarks", lambda a: a - 500, "landmarks names vertex -"),
        ("mean", lambda a: a * np.nan, "mean holds numbers that are not finite"),
        ("identity_basis", lambda a: a * np.inf, "identity_basis holds numbers that are not"),
    ],
)
def test_wrong_shapes_and_numbers_are_named_with_the_file(stored, name, change, message):
    path, arrays = stored
    np.savez(path, **arrays | {name: change(arrays[name])})
    assert message in refusal(path)


def test_toy_model_repeats_and_has_a_face_of_its_own():
    one, same, other = toy_model(), toy_model(), toy_model(seed=1)
    assert torch.equal(one.identity_basis, same.identity_basis)
    assert not torch.equal(one.identity_basis, other.identity_basis)
    assert len(set(one.landmarks.tolist())) == 68
    a, b, c = one.mean[one.triangles].unbind(1)
    outward = torch.linalg.cross(b - a, c - a)
    assert (outward[:, 2] > -1e-9).float().mean() > 0.9  # counter-clockwise seen from the front


def test_header_is_json(stored):
    names = json.loads(str(stored[1]["header"]))["unit_names"]
    assert names == ["jawOpen", "mouthSmileLeft", "mouthSmileRight"]
