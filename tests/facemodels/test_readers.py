"""Readers of published face models. The files are small ones in the very formats, made of the
shipped model; no published model is needed or contained. Pickles: test_pickles.py."""

import io
import json
import pickle
import sys
import types

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.io import savemat
from scipy.spatial import Delaunay
from typer.testing import CliRunner

from e2far import facemodels
from e2far.camera import euler_to_matrix
from e2far.cli import app
from e2far.facemodels import arkit, basel, flame, ict, load_face_model, makehuman, surrey
from e2far.facemodels.assembly import as_landmarks
from e2far.facemodels.registration import Registration, sample_surface, turn_outward
from e2far.synthesis.studio import Studio

SHIFT = np.array([20.0, -15.0, 40.0])  # mm, of the foreign frame's origin


def draw_head(face_model, seed):
    torch.manual_seed(seed)
    alpha = torch.randn(1, face_model.n_identity).clip(-2, 2) * 0.7
    return face_model.neutral(alpha)[0].numpy()


@pytest.fixture(scope="session")
def truth(face_model):
    """A person's head, of our topology, in a frame of its own, in mm: its modes and units;
    `face`, its vertices of the face; `ours`, the number of each vertex in our model."""
    return dict(
        mean=draw_head(face_model, 4) + SHIFT,
        identity=face_model.identity_basis[:, :, :5].numpy(),
        expression=face_model.expression_basis[:, :, :3].numpy(),
        triangles=face_model.triangles.numpy(),
        landmarks=face_model.landmarks.numpy(),
        units=face_model.units.numpy(),
        names=face_model.unit_names,
        face=face_model.region.numpy(),
        ours=np.arange(face_model.n_vertices),
    )


@pytest.fixture(scope="session")
def face(truth):
    """Only the face of `truth`."""
    kept = truth["face"]
    number = np.full(len(truth["mean"]), -1)
    number[kept] = np.arange(len(kept))
    triangles = number[truth["triangles"]]
    part = {key: truth[key][kept] for key in ("mean", "identity", "expression", "units", "ours")}
    part["triangles"] = triangles[(triangles >= 0).all(1)]
    part["landmarks"], part["face"] = number[truth["landmarks"]], np.arange(len(kept))
    return truth | part


# Writers ------------------------------------------------------------------------------------------
# `change` replaces arrays of the file.


def column(field):
    """(N, 3) as (3N, 1), (N, 3, K) as (3N, K)."""
    return field.reshape(-1, 1 if field.ndim == 2 else field.shape[2]).astype(np.float32)


def unit_modes(modes):
    """Columns (3N, K) of length 1 and their standard deviations (K,)."""
    flat = column(modes)
    length = np.linalg.norm(flat, axis=0)
    return flat / length, length


def write_basel_2009(path, face, **change):
    modes, sd = unit_modes(face["identity"])
    mean, tl = column(face["mean"]) * 1e3, face["triangles"][:, ::-1] + 1.0
    arrays = dict(shapeMU=mean, shapePC=modes, shapeEV=sd[:, None] * 1e3, tl=tl)
    savemat(path, arrays | change)


def write_basel_front(path, face, **change):
    parts = dict(meanshape=face["mean"], idBase=face["identity"], exBase=face["expression"])
    arrays = {name: column(part) / 100 for name, part in parts.items()}
    arrays |= dict(tri=face["triangles"] + 1, keypoints=face["landmarks"][None] + 1)
    savemat(path, arrays | change)


def write_basel_repack(path, face):
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    arrays = dict(
        shapeMU=column(face["mean"]) * 1e3 - 500,
        shapePC=modes,
        shapeEV=sd[:, None] * 1e3,
        expMU=np.full((face["mean"].size, 1), 500.0),
        expPC=expression,
        expEV=expression_sd[:, None] * 1e3,
        tri=face["triangles"].T + 1,
        kpt_ind=face["landmarks"][None] + 1,
    )
    savemat(path, dict(model=arrays))


def write_basel_2017(path, face, **change):
    h5py = pytest.importorskip("h5py")
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    named = {"center.nose.tip": 30, "right.eye.corner_outer": 36, "left.lips.corner": 54}
    places = {name: face["mean"][face["landmarks"][i]].tolist() for name, i in named.items()}
    points = [dict(id=name, coordinates=place) for name, place in places.items()]
    content = {
        "shape/model/mean": column(face["mean"])[:, 0],
        "shape/model/pcaBasis": modes,
        "shape/model/pcaVariance": sd**2,
        "shape/representer/points": face["mean"].T,
        "shape/representer/cells": face["triangles"].T,
        "expression/model/mean": np.zeros(face["mean"].size, np.float32),
        "expression/model/pcaBasis": expression,
        "expression/model/pcaVariance": expression_sd**2,
        "metadata/landmarks/json": np.array([json.dumps(points)], dtype=h5py.string_dtype()),
    }
    with h5py.File(path, "w") as file:
        for name, values in (content | change).items():
            file[name] = values


def flame_arrays(face):
    modes = np.zeros((*face["mean"].shape, 303))
    modes[:, :, :5], modes[:, :, 300:] = face["identity"] / 1e3, face["expression"] / 1e3
    triangles = face["triangles"].astype(np.uint32)
    return dict(v_template=face["mean"] / 1e3, shapedirs=modes, f=triangles)


def write_flame_npz(path, face, **change):
    np.savez(path, **(flame_arrays(face) | change))


def write_flame_pkl(path, face, protocol=2, **change):
    """As the old files are, of Python 2: arrays inside objects of chumpy, a sparse matrix.

    The objects' states are what chumpy-fixed 0.71, a fork of chumpy 0.70, writes of `ch.array(x)`
    and of a slice of one.
    """
    modules = {
        name: types.ModuleType(name) for name in ("chumpy", "chumpy.ch", "chumpy.reordering")
    }

    def chumpy(module, name, dirty, **terms):
        kind = type(name, (), {"__module__": module})
        kind = modules[module].__dict__.setdefault(name, kind)
        wrapped, flags = kind(), dict(_itr=None, _make_dense=False, _make_sparse=False)
        vars(wrapped).update(_dirty_vars=set(dirty), **flags, _depends_on_deps={}, **terms)
        return wrapped

    arrays = flame_arrays(face)
    whole = np.concatenate([arrays["shapedirs"], arrays["shapedirs"]], 2)
    part = np.arange(whole.size).reshape(whole.shape)[:, :, : arrays["shapedirs"].shape[2]]
    arrays |= dict(
        v_template=chumpy("chumpy.ch", "Ch", "x", x=arrays["v_template"]),
        shapedirs=chumpy(
            "chumpy.reordering",
            "Select",
            ["a", "idxs", "preferred_shape"],
            a=chumpy("chumpy.ch", "Ch", "x", x=whole),
            preferred_shape=part.shape,
            idxs=part.ravel(),
        ),
        J_regressor=scipy.sparse.csc_matrix(np.eye(3)),
        bs_style="lbs",
        weights=np.asfortranarray(np.eye(4)),
    )
    with pytest.MonkeyPatch.context() as patch:
        for name, module in modules.items():
            patch.setitem(sys.modules, name, module)
        path.write_bytes(pickle.dumps(arrays | change, protocol))


def write_obj(path, vertices, polygons=()):
    lines = [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in polygon) for polygon in polygons]
    path.write_text("# made for a test\n" + "\n".join(lines) + "\n")


ICT_UNITS = "jawOpen eyeBlinkLeft eyeBlinkRight mouthSmileLeft mouthSmileRight browInnerUp".split()


def write_ict(path, face):
    """The folder: centimetres, units of one side named _L and _R."""
    path.mkdir()
    mean, left = face["mean"], face["mean"][:, :1] > SHIFT[0]
    unit = {name: face["units"][:, :, face["names"].index(name)] for name in ICT_UNITS}
    brows = unit.pop("browInnerUp")
    meshes = {f"identity{k:03d}": mean + face["identity"][:, :, k] for k in range(5)}
    for name, offset in unit.items():
        meshes[name.replace("Left", "_L").replace("Right", "_R")] = mean + offset
    meshes |= dict(browInnerUp_L=mean + brows * left, browInnerUp_R=mean + brows * ~left)
    for name, vertices in meshes.items():
        write_obj(path / f"{name}.obj", vertices / 10)
    write_obj(path / "generic_neutral_mesh.obj", mean / 10, face["triangles"].tolist())
    index = dict(idx_to_landmark_verts=face["landmarks"].tolist(), expressions=[])
    (path / "vertex_indices.json").write_text(json.dumps(index))


# As eos's share/ibug_to_sfm.txt: of the contour the chin alone, no inner corners of the mouth
SURREYS = [9, *range(18, 61), 62, 63, 64, 66, 67, 68]


def surreys_landmarks(vertices, old=False):
    """The text of ibug_to_sfm.txt, as eos had it until 2016 or has it since."""
    points = [(f"{i:2}", int(vertices[i - 1])) for i in SURREYS]
    lines = [
        f"\t{i}  {v:4} ; a place (5)" if old else f"{i} = {v:5}  # a place (5)" for i, v in points
    ]
    head, foot = "# Mapping\n\n[landmark_mappings]\n            # 1 to 8 are the contour", ""
    if old:
        head, foot = "; Mapping\n\nlandmarkMappings ; (ibug, lhs)\n{\n\t\t ; 1 to 8 are", "}"
    contour = "right {\n\t\t1\n\t\t2\n}" if old else "right = [  1,\n           2\n        ]"
    return "\n".join([head, *lines, foot, contour, ""])


def write_surrey(path, face, blendshapes=False):
    from eos import morphablemodel as eos

    modes, sd = unit_modes(face["identity"])
    triangles = face["triangles"].tolist()
    shape = eos.PcaModel(column(face["mean"]), modes, (sd**2)[:, None], triangles)
    eos.save_model(eos.MorphableModel(shape, eos.PcaModel()), str(path))
    path.with_name("ibug_to_sfm.txt").write_text(surreys_landmarks(face["landmarks"]))
    if blendshapes:
        shapes = [eos.Blendshape(), eos.Blendshape()]
        for k, name in enumerate(("anger", "happiness")):
            shapes[k].name, shapes[k].deformation = name, column(face["expression"])[:, k]
        beside = path.name.replace("sfm_shape", "expression_blendshapes")
        eos.save_blendshapes(shapes, str(path.with_name(beside)))


WRITERS = {
    "01_MorphableModel.mat": write_basel_2009,
    "BFM_model_front.mat": write_basel_front,
    "BFM.mat": write_basel_repack,
    "model2017-1.h5": write_basel_2017,
    "flame2023.npz": write_flame_npz,
    "generic_model.pkl": write_flame_pkl,
    "FaceXModel": write_ict,
    "sfm_shape_3448.bin": write_surrey,
}
READERS = (basel, basel, basel, basel, flame, flame, ict, surrey)
READERS = dict(zip(WRITERS, READERS, strict=True))
NAMES = "basel2009 basel2009-front basel2009 basel flame flame ict surrey".split()
NAMES = dict(zip(WRITERS, NAMES, strict=True))
WHOLE = ("flame2023.npz", "generic_model.pkl", "FaceXModel")  # with eyes and teeth; others: faces
UNNAMED = ("BFM_model_front.mat", "BFM.mat", "model2017-1.h5", "flame2023.npz", "generic_model.pkl")
LANDMARKS = {
    **dict.fromkeys(("BFM_model_front.mat", "BFM.mat", "FaceXModel"), range(68)),
    "model2017-1.h5": (30, 36, 54),
    "sfm_shape_3448.bin": [i - 1 for i in SURREYS],
}
# Of each way to be made whole: without landmarks and expressions, with some, all, with units
ASSEMBLED = ("01_MorphableModel.mat", "model2017-1.h5", "generic_model.pkl", "FaceXModel")


@pytest.fixture(scope="session")
def contents(truth, face):
    """What is written in the file of each name."""
    return {name: truth if name in WHOLE else face for name in WRITERS}


@pytest.fixture(scope="session")
def published(contents, tmp_path_factory):
    """A folder with one file of each format."""
    folder = tmp_path_factory.mktemp("published")
    for name, write in WRITERS.items():
        write(folder / name, contents[name])
    return folder


@pytest.fixture(scope="session")
def models(published):
    return {name: load_face_model(published / name) for name in ASSEMBLED}


# What is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_file_is_read_in_mm_and_standard_deviations(published, contents, name):
    found, wanted = READERS[name].read(published / name), contents[name]
    assert found.name == NAMES[name]
    np.testing.assert_allclose(found.mean, wanted["mean"], atol=0.01)
    np.testing.assert_allclose(found.identity_basis[:, :, :5], wanted["identity"], atol=2e-3)
    if name in UNNAMED:
        np.testing.assert_allclose(found.expression_basis, wanted["expression"], atol=2e-3)
    else:
        assert found.expression_basis is None
    assert (np.sort(found.triangles) == np.sort(wanted["triangles"])).all()
    assert found.landmarks == {i: wanted["landmarks"][i] for i in LANDMARKS.get(name, ())}


def test_polygons_of_ict_are_cut_into_triangles(tmp_path):
    write_obj(tmp_path / "x.obj", [], [(0, 1, 2, 3), (4, 5, 6)])
    assert ict.read_triangles(tmp_path / "x.obj").tolist() == [[0, 1, 2], [0, 2, 3], [4, 5, 6]]


def test_tear_films_and_lashes_of_ict_are_left_out(truth, tmp_path, monkeypatch):
    n = len(truth["mean"])
    film = [[n, n + 1, n + 2], [n, n + 2, n + 3]]
    extended = dict(truth, triangles=np.insert(truth["triangles"], 100, film, axis=0))
    for key in ("mean", "identity", "units"):
        extended[key] = np.concatenate((truth[key], truth[key][:4]))
    write_ict(tmp_path / "FaceXModel", extended)
    monkeypatch.setattr(ict, "WHOLE", n + 4)
    monkeypatch.setattr(ict, "SOLID", n)
    found = ict.read(tmp_path / "FaceXModel")
    assert len(found.mean) == n and (found.triangles == truth["triangles"]).all()


def test_eos_blendshapes_beside_the_model_become_units(face, tmp_path):
    write_surrey(tmp_path / "sfm_shape_9.bin", face, blendshapes=True)
    found = surrey.read(tmp_path / "sfm_shape_9.bin")
    assert found.unit_names == ("anger", "happiness") and found.expression_basis is None
    np.testing.assert_allclose(found.units, face["expression"][:, :, :2], atol=1e-3)


def test_eos_landmarks_are_read_old_and_new_as_far_as_the_mesh_has_them(tmp_path):
    vertices, path = np.arange(68) * 10, tmp_path / "ibug_to_sfm.txt"
    for old in (True, False):
        path.write_text(
            "\ufeff" + surreys_landmarks(vertices, old), encoding="utf-8", newline="\r\n"
        )
        wanted = {i - 1: (i - 1) * 10 for i in SURREYS}
        assert surrey.read_landmarks(path, 680) == wanted
        assert surrey.read_landmarks(path, 300) == {i: v for i, v in wanted.items() if v < 300}
    for text in ("", "0 = 5\n", "69 = 5\n"):
        path.write_text(text)
        with pytest.raises(ValueError, match="ibug_to_sfm.txt beside it has no lines"):
            surrey.read_landmarks(path, 680)


def test_the_mean_expression_belongs_to_the_mean(face, tmp_path):
    offset = face["expression"][:, :, 0] * 0.5
    write_basel_2017(tmp_path / "smile.h5", face, **{"expression/model/mean": offset.ravel()})
    found = basel.read(tmp_path / "smile.h5")
    np.testing.assert_allclose(found.mean - face["mean"], offset, atol=0.01)
    assert found.landmarks[30] == face["landmarks"][30]  # named points lie on the neutral face


# What it becomes ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ASSEMBLED)
def test_a_model_is_made_whole(models, contents, face_model, name):
    model, wanted = models[name], contents[name]
    assert model.mean.dtype == torch.float32 and model.name == NAMES[name]
    if name in UNNAMED:
        assert model.unit_names == () and model.units.shape[2] == 0 and model.n_expression == 3
    assert np.ptp(model.mean.numpy() - wanted["mean"], axis=0).max() < 0.01  # the origin moved ...
    assert model.mean[model.region].mean(0).abs().max() < 1e-3  # ... to the middle of the face

    off = wanted["mean"][model.landmarks] - wanted["mean"][wanted["landmarks"]]
    off, given = np.linalg.norm(off, axis=1), list(LANDMARKS.get(name, ()))
    assert len(set(model.landmarks.tolist())) == 68 and off.mean() < 1.5 and off.max() < 8
    assert not off[given].any()

    a, b, c = model.mean[model.triangles].unbind(1)
    front = a[:, 2] > model.mean[model.landmarks[36:48], 2].mean() - 10
    assert torch.linalg.cross(b - a, c - a)[front, 2].sum() > 0  # they look out of the face

    found, expected = set(model.region.tolist()), set(wanted["face"].tolist())
    assert len(found & expected) > 0.93 * len(expected)
    assert len(found - expected) < 0.03 * len(expected)

    ours = {key: values[wanted["ours"]] for key, values in face_model.attributes.items()}
    assert set(model.attributes) == set(ours)
    for key in ("lips", "brow", "beard", "ear"):
        off = (model.attributes[key] - ours[key]).abs().mean()
        assert off < 0.25 * ours[key].mean() + 0.005, key
    for key in ("eye", "teeth", "tongue"):
        assert (model.attributes[key].round() - ours[key]).abs().mean() < 0.01, key


def test_a_file_without_expressions_gets_ours(models, face_model, truth):
    model = models["01_MorphableModel.mat"]
    assert model.unit_names == face_model.unit_names
    for key in ("units", "expression_basis"):
        ours, theirs = getattr(face_model, key)[truth["face"]], getattr(model, key)
        assert (theirs - ours).norm(dim=1).mean() < 0.2 * ours.norm(dim=1).mean()


def test_expressions_of_ict_become_named_units(models, truth):
    model = models["FaceXModel"]
    assert set(model.unit_names) == set(ICT_UNITS)
    at = [truth["names"].index(name) for name in model.unit_names]
    np.testing.assert_allclose(model.units, truth["units"][:, :, at], atol=5e-3)
    # the modes span what is drawn ...
    rebuilt = model.expression_offset(model.from_units(torch.eye(6)))
    off = (rebuilt - model.units.permute(2, 0, 1))[:, model.region]
    assert 3 <= model.n_expression <= 6 and off.norm(dim=2).max() < 0.1
    # ... in standard deviations
    rng = np.random.default_rng(1)
    strengths = np.stack([arkit.draw_units(model.unit_names, rng) for _ in range(2000)])
    assert abs(model.from_units(torch.from_numpy(strengths)).square().mean(0) - 1).max() < 0.25


# Ways in ------------------------------------------------------------------------------------------


def test_a_model_is_converted_cut_and_photographed(published, models, tmp_path):
    def convert(name, source):
        command = ["build-face-model", str(tmp_path / name), "--from", str(source)]
        return CliRunner().invoke(app, command)

    assert convert("flame.npz", published / "generic_model.pkl").exit_code == 0
    wanted = models["generic_model.pkl"]
    sizes = dict(n_identity=2, n_expression=999, people=7, mixtures=7)  # 999: all
    model = facemodels.build(tmp_path / "flame.npz", sizes)
    assert (model.name, model.n_identity, model.n_expression) == ("flame", 2, 3)
    assert torch.equal(model.mean, wanted.mean)
    torch.testing.assert_close(
        model.identity_basis, wanted.identity_basis[:, :, :2], atol=5e-3, rtol=0
    )
    picture = Studio(model, 32).photograph(0, "train", 0, 0)
    assert picture["image"].shape == (32, 32, 3) and picture["image"].std() > 5
    assert len(picture["identity"]) == 2

    result = convert("other.npz", tmp_path / "none.pkl")
    assert result.exit_code == 1 and not (tmp_path / "other.npz").exists()
    assert "FLAME" in result.output and result.output.count("\n") == 1
    with pytest.raises(ValueError, match="at least 1"):
        facemodels.truncate(model, 0)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_folder_of_many_files_shows_how_far_it_is_on_a_terminal_alone(
    published, monkeypatch, terminal
):
    shown = io.StringIO()
    shown.isatty = lambda: terminal
    monkeypatch.setattr(sys, "stderr", shown)
    ict.read(published / "FaceXModel")
    assert ("reading ICT-FaceKit" in shown.getvalue()) == terminal
    assert "\n" not in shown.getvalue()  # one line, which is gone when it has ended


def test_one_word_builds_our_own_model(monkeypatch):
    monkeypatch.setattr(makehuman, "build", lambda **sizes: sizes)
    sizes = dict(n_identity=3, people=5)
    assert facemodels.build("makehuman", sizes) == sizes


@pytest.mark.parametrize(
    "values", [range(67), [*range(67), 0], np.arange(68) + 0.5, list("x" * 68)], ids=str
)
def test_landmarks_are_68_different_whole_numbers(values):
    with pytest.raises(ValueError, match="68 vertices in iBUG order"):
        as_landmarks(values)


def test_landmarks_are_found_on_another_topology_in_another_pose(face_model):
    """Those inside the face lie within 2 mm of the truth."""
    head, region = draw_head(face_model, 8).astype(float), face_model.region_triangles.numpy()
    turn = euler_to_matrix(torch.deg2rad(torch.tensor([6.0, -8.0, 5.0]))).numpy() * 1.06
    points, _ = sample_surface(head, region, 5000)
    flat = 90 * np.arctan2(points[:, 0], points[:, 2] + 60), points[:, 1]
    triangles = Delaunay(np.stack(flat, 1)).simplices
    triangles = triangles[(np.ptp(points[triangles], axis=1) < 15).all(1)]
    vertices, goal = (x @ turn.T + [30, 10, -20] for x in (points, head[face_model.landmarks]))
    laid = Registration(vertices, turn_outward(vertices, triangles))
    np.testing.assert_allclose(laid.turn, turn, atol=0.05)
    off = np.linalg.norm(laid.placed[face_model.landmarks] - goal, axis=1)
    assert off[17:].mean() < 2 and off.mean() < 2.5
    found = laid.landmarks()
    off = np.linalg.norm(vertices[found] - goal, axis=1)
    assert len(set(found.tolist())) == 68 and off[17:].mean() < 3.5  # vertices are 3 mm apart


# Bad files: what is cut short or damaged anywhere is in test_damaged_files.py ---------------------


def content(data):
    return lambda path, face: path.write_bytes(data)


def again(**change):
    """Write the file with some arrays replaced, by what a function makes of the face."""

    def spoil(path, face):
        made = {name: v(face) if callable(v) else v for name, v in change.items()}
        WRITERS[path.name](path, face, **made)

    return spoil


def spoilt(name, text):
    """Of the folder's files called so."""

    def spoil(path, face):
        for file in path.glob(name):
            file.unlink() if text is None else file.write_text(text)

    return spoil


def moved(by, scale=1e3):
    return again(shapeMU=lambda f: column(f["mean"] * by) * scale)


BAD = {  # file -> what the message says -> what spoils the file
    "01_MorphableModel.mat": {
        "Basel": content(b"this is no matlab file\n" * 40),
        "missing: 'shapeMU'": lambda path, face: savemat(path, dict(tl=np.eye(3))),
        "not 3 for each vertex": again(shapeMU=lambda f: column(f["mean"])[:-1]),
        r"shapePC has shape \(": again(shapePC=lambda f: column(f["identity"])[:-3]),
        "5 modes but 3": again(shapeEV=np.ones((3, 1))),
        r"has shape \(\d+, 0\): expected": again(shapePC=lambda f: np.ones((f["mean"].size, 0))),
        "identity_basis holds numbers that are not finite": again(
            shapePC=lambda f: column(f["identity"]) * np.nan
        ),
        "triangles name vertex [0-9]+ of": again(tl=lambda f: f["triangles"] + 9.0),
        "triangles name vertex -1": again(tl=lambda f: f["triangles"] + 0.0),
        r"triangles have shape \(9, 4\)": again(tl=np.ones((9, 4))),
        "another unit": moved([1, 1, 1], 1e-3),
        "looks backward": moved([-1, 1, -1]),
        "upside down": moved([-1, -1, 1]),
        "at 0.7.* of its size": moved([1, 1, 1], 700),
        "does not look like a face": again(
            shapeMU=lambda f: np.random.default_rng(3).normal(0, 60e3, (f["mean"].size, 1))
        ),
    },
    "BFM_model_front.mat": {
        "67 different numbers of 67": again(keypoints=lambda f: f["landmarks"][None, :67] + 1),
        "landmarks name vertex [0-9]": again(keypoints=lambda f: f["landmarks"][None] + 10**6),
        "landmarks lie [0-9]+ mm": again(keypoints=lambda f: f["landmarks"][None, ::-1] + 1),
    },
    "model2017-1.h5": {
        "Basel Face Model 2017": content(b"no hdf5"),
        "must not be negative": again(**{"shape/model/pcaVariance": -np.ones(5)}),
        "pcaBasis has shape": again(**{"expression/model/pcaBasis": np.ones((30, 3))}),
    },
    "flame2023.npz": {"another unit": again(v_template=lambda f: f["mean"])},
    "generic_model.pkl": {
        "FLAME": content(b"hello there, no pickle"),
        "holds a list": content(pickle.dumps([1, 2])),
        "missing: 'v_template'": content(pickle.dumps(dict(f=[1]))),
        "a str where an array should be": again(v_template="abc"),
    },
    "sfm_shape_3448.bin": {"Surrey": content(b"hello there, no model" * 30)},
    "FaceXModel": {
        "no generic_neutral_mesh.obj.*ICT-FaceKit": spoilt("generic_neutral_mesh.obj", None),
        "no identity000.obj": spoilt("identity*", None),
        "jawOpen.obj has 1 vertices": spoilt("jawOpen.obj", "v 1 2 3\n"),
        "could not be read to its end": spoilt("identity002.obj", "v a b c\n"),
        "Expecting": spoilt("vertex_indices.json", "{"),
    },
}


@pytest.mark.parametrize("name, message", [(name, key) for name in BAD for key in BAD[name]])
def test_a_bad_file_gives_one_line_that_says_what_it_should_be(contents, tmp_path, name, message):
    path = tmp_path / name
    if path.suffix == "":
        write_ict(path, contents[name])
    BAD[name][message](path, contents[name])
    with pytest.raises(ValueError, match=message) as caught:
        load_face_model(path)
    text = str(caught.value)
    assert name in text and READERS[name].WHAT in text and "\n" not in text and len(text) < 800


def test_an_npz_is_known_by_its_content(face, tmp_path):
    """One that is cut short is refused, whosever it was."""
    write_flame_npz(tmp_path / "x.npz", face)
    assert facemodels.is_flame(tmp_path / "x.npz")
    (tmp_path / "x.npz").write_bytes((tmp_path / "x.npz").read_bytes()[:-90])
    with pytest.raises(ValueError, match="x.npz.*build-face-model"):
        load_face_model(tmp_path / "x.npz")


@pytest.mark.parametrize(
    "name, message",
    [("x.npz", "build-face-model"), ("x.pkl", "FLAME"), ("x.ply", "Basel.*FLAME.*ICT")],
)
def test_a_missing_or_unknown_file_says_what_to_get(tmp_path, name, message):
    with pytest.raises(FileNotFoundError, match=f"{name}.*{message}"):
        load_face_model(tmp_path / name)
    (tmp_path / name).write_text("ply")
    with pytest.raises(ValueError, match=f"{name}.*{message}"):
        load_face_model(tmp_path / name)
