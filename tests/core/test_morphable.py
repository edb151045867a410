import json
import pickle
import zipfile

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
    return torch.randn(
        n, model.n_identity, generator=generator, dtype=model.mean.dtype
    ), torch.randn(n, model.n_expression, generator=generator, dtype=model.mean.dtype)


def test_the_regions_triangles_have_all_corners_in_it(model):
    assert torch.equal(model.region_triangles, model.triangles)
    model.region = torch.arange(40, 120)
    inside = set(model.region.tolist())
    assert (
        model.region_triangles.tolist()
        == [corners for corners in model.triangles.tolist() if inside.issuperset(corners)]
        != []
    )


def test_zero_coefficients_give_the_mean_face(model):
    assert_close(
        model(torch.zeros(2, 6, dtype=torch.float64), torch.zeros(2, 4, dtype=torch.float64)),
        model.mean.expand(2, -1, -1),
    )


def test_expression_zero_is_exactly_the_neutral_face(model):
    identity, expression = coefficients(model)
    assert torch.equal(model(identity, 0 * expression), model.neutral(identity))


def test_shapes_are_the_sum_written_out(model):
    identity, expression = coefficients(model)
    for b, shape in enumerate(model(identity, expression)):
        slow = model.mean.clone()
        for k in range(model.n_identity):
            slow += identity[b, k] * model.identity_basis[:, :, k]
        for k in range(model.n_expression):
            slow += expression[b, k] * model.expression_basis[:, :, k]
        assert_close(shape, slow)


def test_linear_in_its_coefficients(model):
    (a, b), (c, d) = coefficients(model), coefficients(model, seed=1)
    assert_close(
        model.expression_offset(2 * b - d),
        2 * model.expression_offset(b) - model.expression_offset(d),
    )
    assert_close(model.neutral((a + c) / 2), (model.neutral(a) + model.neutral(c)) / 2)


def test_expression_offset_belongs_to_no_identity(model):
    identity, expression = coefficients(model)
    assert_close(
        model(identity, expression) - model.neutral(identity), model.expression_offset(expression)
    )


def test_from_units_is_exact_for_units_in_the_span(model):
    mixing = torch.randn(4, 3, dtype=torch.float64)
    units = torch.einsum("ndl,lj->ndj", model.expression_basis, mixing)
    model = MorphableModel(
        model.mean,
        model.identity_basis,
        model.expression_basis,
        model.triangles,
        model.landmarks,
        units=units,
        unit_names=model.unit_names,
    )
    strengths = torch.rand(7, 3, dtype=torch.float64)
    assert_close(
        model.from_units(strengths), strengths @ mixing.T, atol=1e-4, rtol=0
    )  # the matrix is rounded to five places
    assert_close(
        model.expression_offset(model.from_units(strengths)),
        torch.einsum("ndj,bj->bnd", units, strengths),
        atol=1e-3,
        rtol=0,
    )


def test_from_units_is_the_nearest_over_the_region(model):
    """No expression is nearer: the residual is at right angles to every mode there."""
    region = torch.arange(0, model.n_vertices, 2)
    model = MorphableModel(
        model.mean,
        model.identity_basis,
        model.expression_basis,
        model.triangles,
        model.landmarks,
        region,
        model.units,
        model.unit_names,
    )
    strengths = torch.eye(3, dtype=torch.float64)
    residual = (
        torch.einsum("ndj,bj->bnd", model.units, strengths)
        - model.expression_offset(model.from_units(strengths))
    )[:, region]
    assert_close(
        torch.einsum("bnd,ndl->bl", residual, model.expression_basis[region]),
        torch.zeros(3, 4, dtype=torch.float64),
        atol=2e-2,
        rtol=0,
    )  # of modes with a square sum of 1,000


def test_teeth_are_drawn_behind_their_place(model):
    assert not model.recess.any()
    model.attributes["teeth"] = torch.zeros(model.n_vertices)
    model.attributes["teeth"][3] = 1
    assert model.recess[3] == 4 and model.recess.sum() == 4


def test_save_and_load(tmp_path):
    model = toy_model(dtype=torch.float32)
    model.attributes["lips"] = torch.rand(model.n_vertices)
    model.save(tmp_path / "new folder" / "toy.npz")
    again = load_face_model(tmp_path / "new folder" / "toy.npz")
    assert [p.name for p in (tmp_path / "new folder").iterdir()] == ["toy.npz"]
    for name in ("mean", "triangles", "landmarks", "region"):
        assert (
            torch.equal(getattr(again, name), getattr(model, name))
            and getattr(again, name).dtype == getattr(model, name).dtype
        )
    for name in ("identity_basis", "expression_basis", "units"):
        assert torch.equal(
            getattr(again, name), getattr(model, name).half().float()
        )  # bases are stored at float16
    assert (again.name, again.unit_names) == ("toy", model.unit_names)
    assert torch.equal(again.attributes["lips"], model.attributes["lips"].half().float())
    again.save(tmp_path / "again.npz")
    assert (tmp_path / "again.npz").read_bytes() == (
        tmp_path / "new folder" / "toy.npz"
    ).read_bytes()  # what was rounded once stays


def test_moves_as_one(model):
    assert model.float()(*(x.float() for x in coefficients(model))).dtype == torch.float32
    assert {"mean", "identity_basis", "landmarks", "region", "units"} <= set(model.state_dict())


def test_a_missing_model_says_how_to_build_it(tmp_path):
    with pytest.raises(
        FileNotFoundError, match="nothing.npz: it .* build it with `e2far build-face-model"
    ):
        load_face_model(tmp_path / "nothing.npz")


def damaged(path, arrays, kind):
    """Overwrite `path` with something that is not a face model."""
    if kind == "truncated":
        path.write_bytes(path.read_bytes()[:-500])
    elif kind == "cut early":
        path.write_bytes(path.read_bytes()[:50])
    elif kind == "empty":
        path.write_bytes(b"")
    elif kind == "garbage":
        path.write_bytes(b"no face here" * 50)
    elif kind == "one byte changed":
        content = bytearray(path.read_bytes())
        content[len(content) // 3 : len(content) // 3 + 40] = b"x" * 40
        path.write_bytes(content)
    elif kind == "npy":
        with open(path, "wb") as file:
            np.save(file, arrays["mean"])
    elif kind == "pickle":
        path.write_bytes(pickle.dumps(arrays["mean"].tolist()))
    elif kind == "other zip":
        with zipfile.ZipFile(path, "w") as file:
            file.writestr("readme.txt", "hello")
    elif kind == "header":
        np.savez(path, **(arrays | dict(header=np.array("[1, 2"))))
    elif kind == "header of another kind":
        np.savez(path, **(arrays | dict(header=np.array("[1, 2]"))))
    elif kind == "folder":
        path.unlink()
        path.mkdir()


@pytest.mark.parametrize(
    "kind",
    [
        "truncated",
        "cut early",
        "empty",
        "garbage",
        "one byte changed",
        "npy",
        "pickle",
        "other zip",
        "header",
        "header of another kind",
        "folder",
    ],
)
def test_files_that_are_no_face_model_give_one_line(stored, kind):
    path, arrays = stored
    damaged(path, arrays, kind)
    with pytest.raises(ValueError, match="toy.npz") as caught:
        load_face_model(path)
    assert "\n" not in str(caught.value) and "e2far build-face-model" in str(caught.value)


class Trap:
    def __reduce__(self):
        return exec, ("import pathlib; pathlib.Path('sprung').write_text('x')",)


@pytest.mark.parametrize("kind", ["inside", "instead"])
def test_nothing_in_a_file_is_executed(stored, tmp_path, monkeypatch, kind):
    path, arrays = stored
    monkeypatch.chdir(tmp_path)
    if kind == "inside":
        np.savez(path, **(arrays | dict(mean=np.array([Trap()], dtype=object))))
    else:
        path.write_bytes(pickle.dumps(Trap()))
    with pytest.raises(ValueError, match="toy.npz"):
        load_face_model(path)
    assert not (tmp_path / "sprung").exists()


def test_a_file_that_lacks_a_part_is_named(stored):
    path, arrays = stored
    del arrays["triangles"]
    np.savez(path, **arrays)
    with pytest.raises(ValueError, match="toy.npz.*triangles"):
        load_face_model(path)


@pytest.mark.parametrize(
    "name, change, message",
    [
        ("mean", lambda a: a[:, :2], r"mean has shape \(224, 2\)"),
        ("identity_basis", lambda a: a[:-1], r"identity_basis has shape \(223, 3, 6\).*224"),
        ("expression_basis", lambda a: a[:, :, 0], r"expression_basis has shape \(224, 3\)"),
        ("units", lambda a: a[:, :, :2], "3 unit names for 2 units"),
        ("triangles", lambda a: a[:, :2], r"triangles has shape \(.*, 2\)"),
        ("landmarks", lambda a: a[:51], r"landmarks has shape \(51,\)"),
        ("triangles", lambda a: a + 500, "triangles names vertex"),
        ("landmarks", lambda a: a - 500, "landmarks names vertex -"),
        ("mean", lambda a: a * np.nan, "mean holds numbers that are not finite"),
        (
            "identity_basis",
            lambda a: a * np.inf,
            "identity_basis holds numbers that are not finite",
        ),
    ],
)
def test_wrong_shapes_and_numbers_are_named_with_the_file(stored, name, change, message):
    path, arrays = stored
    np.savez(path, **(arrays | {name: change(arrays[name])}))
    with pytest.raises(ValueError, match=message) as caught:
        load_face_model(path)
    assert "toy.npz" in str(caught.value)


def test_toy_model_repeats_and_has_a_face_of_its_own():
    one, same, other = toy_model(), toy_model(), toy_model(seed=1)
    assert torch.equal(one.identity_basis, same.identity_basis) and not torch.equal(
        one.identity_basis, other.identity_basis
    )
    assert len(set(one.landmarks.tolist())) == 68
    edge = one.mean[one.triangles]
    outward = torch.linalg.cross(edge[:, 1] - edge[:, 0], edge[:, 2] - edge[:, 0])
    assert (outward[:, 2] > -1e-9).float().mean() > 0.9  # counter-clockwise seen from the front


def test_header_is_json(stored):
    assert json.loads(str(stored[1]["header"]))["unit_names"] == [
        "jawOpen",
        "mouthSmileLeft",
        "mouthSmileRight",
    ]
