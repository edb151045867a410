"""Readers of published face models. The files are small ones in the very formats, made of the
shipped model; no published model is needed or contained."""

import functools
import json
import os
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from numpy.testing import runstring
from scipy.io import savemat
from typer.testing import CliRunner

from e2far import facemodels, files
from e2far.camera import euler_to_matrix
from e2far.cli import app
from e2far.facemodels import arkit, ict, load_face_model, makehuman
from e2far.facemodels.assembly import read_landmarks
from e2far.facemodels.registration import Registration, turn_outward
from e2far.raster import zbuffer
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
    mean, tl = column(face["mean"]), face["triangles"][:, ::-1] + 1.0
    arrays = dict(shapeMU=mean * 1e3, shapePC=modes, shapeEV=sd[:, None] * 1e3, tl=tl, texMU=mean)
    savemat(path, arrays | change)


def write_basel_front(path, face, **change):
    arrays = dict(
        meanshape=column(face["mean"]).T / 100,
        idBase=column(face["identity"]) / 100,
        exBase=column(face["expression"]) / 100,
        tri=face["triangles"] + 1,
        keypoints=face["landmarks"][None] + 1,
    )
    savemat(path, arrays | change)


def write_basel_repack(path, face):
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    arrays = dict(
        shapeMU=column(face["mean"]) * 1e3,
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
    """As the old files are, of Python 2: an array inside an object of chumpy, a sparse matrix."""
    chumpy, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")
    module.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    wrapped, arrays = module.Ch(), flame_arrays(face)
    wrapped.x = arrays["shapedirs"]
    arrays |= dict(
        shapedirs=wrapped,
        J_regressor=scipy.sparse.csc_matrix(np.eye(3)),
        bs_style="lbs",
        kintree_table=np.arange(10).reshape(2, 5),
        weights=np.asfortranarray(np.eye(4)),
    )
    sys.modules |= {"chumpy": chumpy, "chumpy.ch": module}
    try:
        path.write_bytes(pickle.dumps(arrays | change, protocol))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def write_obj(path, vertices, polygons=()):
    lines = ["# made for a test"]
    lines += [f"v {x:.6f} {y:.6f} {z:.6f}" for x, y, z in vertices]
    lines += ["f " + " ".join(f"{i + 1}/{i + 1}" for i in polygon) for polygon in polygons]
    path.write_text("\n".join(lines) + "\n")


def quads_of(triangles):
    """A quad a, b, c, d for two triangles a, b, c and a, c, d; a, b, c, c for one alone."""
    third = {(a, b): c for a, b, c in triangles}
    quads, used = [], set()
    for a, b, c in triangles:
        if (a, b) not in used:
            used.add((a, c))
            quads.append((a, b, c, third.get((a, c), c)))
    return quads


ICT_UNITS = "jawOpen eyeBlinkLeft eyeBlinkRight mouthSmileLeft mouthSmileRight browInnerUp".split()


def write_ict(path, face):
    """The folder: quads, centimetres, units of one side named _L and _R."""
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
    quads = quads_of(face["triangles"].tolist())
    write_obj(path / "generic_neutral_mesh.obj", mean / 10, quads)
    index = dict(idx_to_landmark_verts=face["landmarks"].tolist(), expressions=[])
    (path / "vertex_indices.json").write_text(json.dumps(index))


def write_surrey(path, face, blendshapes=False):
    from eos import morphablemodel as eos

    modes, sd = unit_modes(face["identity"])
    triangles = face["triangles"].tolist()
    shape = eos.PcaModel(column(face["mean"]), modes, (sd**2)[:, None], triangles)
    eos.save_model(eos.MorphableModel(shape, eos.PcaModel()), str(path))
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
NAMES = "basel2009 basel2009-front basel2009 basel flame flame ict surrey".split()
WHOLE = ("flame2023.npz", "generic_model.pkl", "FaceXModel")  # with eyes and teeth; others: faces
UNNAMED = ("BFM_model_front.mat", "BFM.mat", "model2017-1.h5", "flame2023.npz", "generic_model.pkl")


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
    return {name: facemodels.read(published / name) for name in WRITERS}


# What is read -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", WRITERS)
def test_a_published_model_is_read_in_mm_and_standard_deviations(models, contents, name):
    model, wanted = models[name], contents[name]
    assert model.name == dict(zip(WRITERS, NAMES))[name]
    assert model.mean.dtype == torch.float32 and model.mean.shape == wanted["mean"].shape
    offset = model.mean.numpy() - wanted["mean"]
    assert np.ptp(offset, axis=0).max() < 0.01  # only the origin moved ...
    assert model.mean[model.region].mean(0).abs().max() < 1e-3  # ... to the middle of the face
    np.testing.assert_allclose(model.identity_basis[:, :, :5], wanted["identity"], atol=2e-3)
    if name in UNNAMED:
        np.testing.assert_allclose(model.expression_basis, wanted["expression"], atol=2e-3)
        assert model.unit_names == () and model.units.shape[2] == 0


@pytest.mark.parametrize("name", WRITERS)
def test_landmarks_region_and_triangles(models, contents, name):
    model, wanted = models[name], contents[name]
    off = wanted["mean"][model.landmarks] - wanted["mean"][wanted["landmarks"]]
    off = np.linalg.norm(off, axis=1)
    assert len(set(model.landmarks.tolist())) == 68 and off.mean() < 1.5 and off.max() < 8

    a, b, c = model.mean[model.triangles].unbind(1)
    front = a[:, 2] > model.mean[model.landmarks[36:48], 2].mean() - 10
    assert torch.linalg.cross(b - a, c - a)[front, 2].sum() > 0  # they look out of the face

    found, expected = set(model.region.tolist()), set(wanted["face"].tolist())
    assert len(found & expected) > 0.93 * len(expected)
    assert len(found - expected) < 0.03 * len(expected)


@pytest.mark.parametrize("name", WRITERS)
def test_the_renderers_attributes_are_carried_over(models, contents, face_model, name):
    found, at = models[name].attributes, contents[name]["ours"]
    ours = {key: values[at] for key, values in face_model.attributes.items()}
    assert set(found) == set(ours)
    for key in ("lips", "brow", "beard", "ear"):
        assert (found[key] - ours[key]).abs().mean() < 0.25 * ours[key].mean() + 0.005, key
    for key in ("eye", "teeth", "tongue"):
        assert (found[key].round() - ours[key]).abs().mean() < 0.01, key


@pytest.mark.parametrize("name", ["01_MorphableModel.mat", "sfm_shape_3448.bin"])
def test_a_file_without_expressions_gets_ours(models, face_model, truth, name):
    model = models[name]
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


def test_eos_blendshapes_beside_the_model_become_units(face, tmp_path):
    write_surrey(tmp_path / "sfm_shape_9.bin", face, blendshapes=True)
    model = facemodels.read(tmp_path / "sfm_shape_9.bin")
    assert model.unit_names == ("anger", "happiness") and model.n_expression == 2
    np.testing.assert_allclose(model.units, face["expression"][:, :, :2], atol=1e-3)


def test_the_mean_expression_belongs_to_the_mean(face, models, tmp_path):
    offset = face["expression"][:, :, 0] * 0.5
    write_basel_2017(tmp_path / "smile.h5", face, **{"expression/model/mean": offset.ravel()})
    moved = facemodels.read(tmp_path / "smile.h5").mean - models["model2017-1.h5"].mean
    np.testing.assert_allclose(np.ptp(moved.numpy() - offset, axis=0), 0, atol=0.01)


def test_tear_films_and_lashes_of_ict_are_left_out(truth, tmp_path, monkeypatch):
    n = len(truth["mean"])
    film = [[n, n + 1, n + 2], [n, n + 2, n + 3]]
    extended = dict(truth, triangles=np.insert(truth["triangles"], 100, film, axis=0))
    for key in ("mean", "identity", "units"):
        extended[key] = np.concatenate((truth[key], truth[key][:4]))
    extended["mean"][n:, 2] += 90
    write_ict(tmp_path / "FaceXModel", extended)
    monkeypatch.setattr(ict, "WHOLE", n + 4)
    monkeypatch.setattr(ict, "SOLID", n)
    model = facemodels.read(tmp_path / "FaceXModel", n_identity=1)
    assert model.n_vertices == n and len(model.triangles) == len(truth["triangles"])


# Ways in ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["generic_model.pkl", "FaceXModel", "sfm_shape_3448.bin"])
def test_modes_are_cut_to_the_first(published, models, name):
    sizes = dict(n_identity=2, n_expression=1, people=7, mixtures=7)
    model = facemodels.build(published / name, sizes)
    assert (model.n_identity, model.n_expression) == (2, 1)
    assert torch.equal(model.identity_basis, models[name].identity_basis[:, :, :2])
    torch.testing.assert_close(model.expression_basis, models[name].expression_basis[:, :, :1])


@pytest.mark.parametrize("name", ["01_MorphableModel.mat", "generic_model.pkl"])
def test_what_was_read_is_saved_loaded_and_photographed(models, tmp_path, name):
    model, path = models[name], tmp_path / "model.npz"
    model.save(path)
    again = facemodels.read(path, n_identity=3, n_expression=999)  # 999: all
    assert (again.n_identity, again.n_expression) == (3, model.n_expression)
    assert again.unit_names == model.unit_names and torch.equal(again.mean, model.mean)
    picture = Studio(load_face_model(path), 32).photograph(0, "train", 0, 0)
    assert picture["image"].shape == (32, 32, 3) and picture["image"].std() > 5
    assert len(picture["identity"]) == model.n_identity


def test_the_command_line_opens_published_models(published, models, tmp_path):
    def build(name, source):
        command = ["build-face-model", str(tmp_path / name), "--from", str(source)]
        return CliRunner().invoke(app, command)

    assert build("flame.npz", published / "generic_model.pkl").exit_code == 0
    flame = load_face_model(str(tmp_path / "flame.npz"))
    assert flame.name == "flame" and torch.equal(flame.mean, models["generic_model.pkl"].mean)
    result = build("other.npz", tmp_path / "none.pkl")
    assert result.exit_code == 1 and not (tmp_path / "other.npz").exists()
    assert "FLAME" in result.output and result.output.count("\n") == 1


def test_one_word_builds_our_own_model(monkeypatch):
    monkeypatch.setattr(makehuman, "build", lambda **sizes: sizes)
    sizes = dict(n_identity=3, people=5)
    assert facemodels.build("makehuman", sizes) == sizes


# Landmarks ----------------------------------------------------------------------------------------


def test_landmarks_of_the_file_come_before_those_carried_over(models, contents):
    for name in ("BFM_model_front.mat", "BFM.mat", "FaceXModel"):
        assert models[name].landmarks.tolist() == contents[name]["landmarks"].tolist()
    named = [30, 36, 54]
    found, wanted = (x["model2017-1.h5"] for x in (models, contents))
    assert found.landmarks[named].tolist() == wanted["landmarks"][named].tolist()


def test_landmarks_of_the_user_come_first(published, face, tmp_path):
    wanted = face["landmarks"].copy()
    wanted[[51, 62]] = wanted[[62, 51]]
    words = [*map(str, wanted)]
    texts = dict(txt=" ".join(words), csv=",\n".join(words), json=f"[{', '.join(words)}]")
    for suffix, text in texts.items():
        (tmp_path / f"landmarks.{suffix}").write_text(text)
    np.save(tmp_path / "landmarks.npy", wanted)
    for path in tmp_path.iterdir():
        assert read_landmarks(path).tolist() == wanted.tolist(), path
    for given in (wanted, tmp_path / "landmarks.npy"):
        model = facemodels.read(published / "BFM_model_front.mat", landmarks=given)
        assert model.landmarks.tolist() == wanted.tolist()


BAD_LANDMARKS = {
    "67 different numbers of 67": lambda i: i[:67],
    "67 different numbers of 68": lambda i: np.r_[i[:67], i[0]],
    "68 vertex numbers": lambda i: i + 0.5,
    "vertex numbers": lambda i: np.array(list("x" * 68)),
    "landmarks name vertex [0-9]": lambda i: i + 10**6,
    "landmarks name vertex -": lambda i: i - 10**6,
    "lie [0-9]+ mm": lambda i: np.roll(i, 30),
}


@pytest.mark.parametrize("message", BAD_LANDMARKS)
def test_bad_landmarks_are_refused(published, face, message):
    given = BAD_LANDMARKS[message](face["landmarks"])
    with pytest.raises(ValueError, match=message):
        facemodels.read(published / "01_MorphableModel.mat", landmarks=given)


@pytest.mark.parametrize("content", [None, "1 2 three", "1 2 3", ""])
def test_bad_files_of_landmarks_are_refused(published, tmp_path, content):
    if content is not None:
        (tmp_path / "landmarks.txt").write_text(content)
    kind = FileNotFoundError if content is None else ValueError
    with pytest.raises(kind, match=r"landmarks.txt.*68"):
        facemodels.read(published / "BFM.mat", landmarks=tmp_path / "landmarks.txt")


def remeshed(face_model, head, size=110):
    """Vertices and triangles of a head (N, 3) seen from within on a grid of angle and height."""
    corners = face_model.triangles.numpy().astype(np.int32)
    x, y, z = head.T
    angle, radius = np.arctan2(x, z + 60), np.hypot(x, z + 60).astype(np.float32)
    corners = corners[np.ptp(angle[corners], axis=1) < 2]  # none across the back of the head
    flat = np.stack(((angle / np.pi + 1) / 2 * size, (140 - y) / 255 * size), 1)
    seen, weights = zbuffer(flat.astype(np.float32), radius, corners, size)
    weights = np.concatenate((weights, 1 - weights.sum(-1, keepdims=True)), -1)
    points = (head[corners[seen]] * weights[..., None]).sum(2).reshape(-1, 3)

    number = np.arange(size * size).reshape(size, size)
    quads = np.lib.stride_tricks.sliding_window_view(number, (2, 2)).reshape(-1, 4)
    whole = (seen.ravel()[quads] >= 0).all(1) & (np.ptp(points[quads], axis=1) < 15).all(1)
    used, quads = np.unique(quads[whole], return_inverse=True)
    quads = quads.reshape(-1, 4)
    return points[used], np.concatenate((quads[:, [0, 1, 2]], quads[:, [1, 3, 2]]))


def test_landmarks_are_found_on_another_topology_in_another_pose(face_model):
    """Those inside the face lie within 2 mm of the truth."""
    head = draw_head(face_model, 8).astype(float)
    turn = euler_to_matrix(torch.deg2rad(torch.tensor([6.0, -8.0, 5.0]))).numpy() * 1.06
    vertices, triangles = remeshed(face_model, head)
    vertices = vertices @ turn.T + [30, 10, -20]
    goal = head[face_model.landmarks] @ turn.T + [30, 10, -20]
    laid = Registration(vertices, turn_outward(vertices, triangles))
    np.testing.assert_allclose(laid.turn, turn, atol=0.05)
    off = np.linalg.norm(laid.placed[face_model.landmarks] - goal, axis=1)
    assert off[17:].mean() < 2 and off.mean() < 2.5
    found = laid.landmarks()
    off = np.linalg.norm(vertices[found] - goal, axis=1)
    assert len(set(found.tolist())) == 68 and off[17:].mean() < 3.5  # the grid is 2 to 4 mm wide


# Bad files: what is cut short or damaged anywhere is in test_damaged_files.py ---------------------


def content(data):
    return lambda path, face: path.write_bytes(data)


def again(**change):
    """Write the file with some arrays replaced, by what a function makes of the face."""

    def spoil(path, face):
        made = {name: v(face) if callable(v) else v for name, v in change.items()}
        WRITERS[path.name](path, face, **made)

    return spoil


def zipped(path, face):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def without_faces(path, face):
    arrays = flame_arrays(face)
    del arrays["f"]
    np.savez(path, **arrays)


def spoilt(name, text):
    """Of the folder's files called so."""

    def spoil(path, face):
        for file in path.glob(name):
            file.unlink() if text is None else file.write_text(text)

    return spoil


def moved(by, scale=1e3):
    return again(shapeMU=lambda f: column(f["mean"] * by) * scale)


def with_nan(face):
    modes = column(face["identity"]).copy()
    modes[5, 2] = np.nan
    return modes


BAD = {  # file -> what the message says -> what spoils the file
    "01_MorphableModel.mat": {
        "Basel": content(b"this is no matlab file\n" * 40),
        "missing: 'shapeMU'": lambda path, face: savemat(path, dict(x=np.eye(3))),
        "not 3 for each vertex": again(shapeMU=lambda f: column(f["mean"])[:-1]),
        r"identity basis has shape \(": again(shapePC=lambda f: column(f["identity"])[:-3]),
        "5 modes but 3": again(shapeEV=np.ones((3, 1))),
        "identity_basis holds numbers that are not finite": again(shapePC=with_nan),
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
        "landmarks lie": again(keypoints=lambda f: f["landmarks"][None, ::-1] + 1),
    },
    "model2017-1.h5": {
        "Basel Face Model 2017": zipped,
        "must not be negative": again(**{"shape/model/pcaVariance": -np.ones(5)}),
        "pcaBasis has shape": again(**{"expression/model/pcaBasis": np.ones((30, 3))}),
    },
    "flame2023.npz": {
        "f is not a file": without_faces,
        "allow_pickle": again(shapedirs=np.array([{}], dtype=object)),
        "another unit": again(v_template=lambda f: f["mean"]),
    },
    "generic_model.pkl": {
        "FLAME": content(b"hello there, no pickle"),
        "holds a list": content(pickle.dumps([1, 2])),
        "missing: 'v_template'": content(pickle.dumps(dict(f=[1]))),
        "a str where an array should be": again(v_template="abc"),
    },
    "sfm_shape_3448.bin": {"Surrey": content(b"hello there, no model" * 30)},
    "FaceXModel": {
        "no generic_neutral_mesh.obj": spoilt("generic_neutral_mesh.obj", None),
        "no identity000.obj": spoilt("identity*", None),
        "jawOpen.obj has 1 vertices": spoilt("jawOpen.obj", "v 1 2 3\n"),
        "could not convert": spoilt("identity002.obj", "v a b c\n"),
        "Expecting": spoilt("vertex_indices.json", "{"),
    },
}
PROJECTS = dict(zip(WRITERS, "Basel Basel Basel Basel FLAME FLAME ICT-FaceKit Surrey".split()))


@pytest.mark.parametrize("name, message", [(name, key) for name in BAD for key in BAD[name]])
def test_a_bad_file_gives_one_line_that_says_what_it_should_be(contents, tmp_path, name, message):
    path = tmp_path / name
    if path.suffix == "":
        write_ict(path, contents[name])
    BAD[name][message](path, contents[name])
    with pytest.raises(ValueError, match=message) as caught:
        facemodels.read(path)
    text = str(caught.value)
    assert name in text and PROJECTS[name] in text and "\n" not in text and len(text) < 700


def test_an_npz_cut_short_is_refused_whosever_it_was(published, tmp_path):
    content = (published / "flame2023.npz").read_bytes()
    (tmp_path / "flame.npz").write_bytes(content[: len(content) * 9 // 10])
    with pytest.raises(ValueError, match=r"flame.npz"):
        facemodels.read(tmp_path / "flame.npz")


@pytest.mark.parametrize("name", [*WRITERS, "x.ply"])
def test_a_missing_file_says_what_to_get(tmp_path, name):
    path = tmp_path / ("x.npz" if name == "flame2023.npz" else name)
    project = "build-face-model" if path.suffix == ".npz" else PROJECTS.get(name, "Basel")
    with pytest.raises(FileNotFoundError, match=project) as caught:
        facemodels.read(path)
    assert path.name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_kind_names_the_known_ones(tmp_path):
    (tmp_path / "x.ply").write_text("ply")
    with pytest.raises(ValueError, match="x.ply.*Basel.*FLAME.*ICT"):
        facemodels.read(tmp_path / "x.ply")
    with pytest.raises(ValueError, match="n_identity is 0"):
        facemodels.read(tmp_path / "x.mat", n_identity=0)


# Hostile pickles ----------------------------------------------------------------------------------


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


HOSTILE = {  # code that leaves a file behind, and where it is hidden
    "a function": lambda code, mark: Runs(os.system, f"touch {mark}"),
    "in a list in a dict": lambda code, mark: dict(v_template=[1, dict(x=Runs(exec, code))]),
    "in another call": lambda code, mark: Runs(getattr, Runs(__import__, "os"), "system"),
    "in an array": lambda code, mark: dict(v_template=np.array([Runs(eval, code)], dtype=object)),
    "numpy's": lambda code, mark: Runs(runstring, code, {}),
    "numpy's loader": lambda code, mark: Runs(np.load, mark),
    "scipy's": lambda code, mark: Runs(scipy.io.loadmat, mark),
    "partial": lambda code, mark: Runs(functools.partial, eval, code),
    "a new class": lambda code, mark: Runs(type, "Evil", (object,), {}),
}


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_pickle_is_obeyed(tmp_path, kind, protocol):
    mark, path = tmp_path / "sprung", tmp_path / "generic_model.pkl"
    hostile = HOSTILE[kind](f"open({str(mark)!r}, 'w').write('x')", str(mark))
    path.write_bytes(pickle.dumps(hostile, protocol))
    if kind in ("a function", "in an array"):  # the trap is real: Python's own loader springs it
        pickle.loads(path.read_bytes())
        assert mark.exists()
        mark.unlink()
    with pytest.raises(ValueError, match=r"generic_model.pkl.*asks for"):
        facemodels.read(path)
    assert not mark.exists()


# An array whose type is eight-byte numbers by name and objects by its flags: their bytes would be
# taken for addresses.
FORGED = (
    b"(dS'v_template'\n"
    b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR(I1\n(I1\nt"
    b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb"
    b"I0\nS'\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08'\ntbs."
)
TRICKS = {
    "forged array": FORGED,
    # a state set on a class or function would change it for every later file
    "class changed": b"cnumpy\nndarray\n(N}X\x03\x00\x00\x00abcK\x01stb.",
    "function changed": b"ccopy_reg\n_reconstructor\n(N}X\x0c\x00\x00\x00__defaults__K\x01stb.",
    "built from a class": b"ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\nNNtR.",
    "raw memory": b"cnumpy\ndtype\n(S'V8'\ntR.",
    "objects": b"cnumpy\ndtype\n(S'O'\ntR.",
    "dotted name": b"cbuiltins\nobject.__subclasses__\n.",
    "dotted name in numpy": b"\x80\x04\x8c\x05numpy\x8c\x12core.os.path.exists\x93.",
    "persistent name": b"Pabc\n.",
    "extension": b"\x82\x01.",
}


@pytest.mark.parametrize("trick", TRICKS)
def test_no_trick_of_the_pickle_machine_is_obeyed(tmp_path, trick):
    def state():
        return {k: dict(vars(v)) for k, v in vars(files).items() if isinstance(v, type)}

    before = state()
    (tmp_path / "generic_model.pkl").write_bytes(TRICKS[trick])
    with pytest.raises(ValueError, match="FLAME"):
        facemodels.read(tmp_path / "generic_model.pkl")
    assert state() == before


@pytest.mark.parametrize("protocol", range(6))
def test_every_protocol_of_pickle_is_read(truth, tmp_path, protocol):
    few = {key: truth[key][:9] for key in ("mean", "identity", "expression", "triangles")}
    big = np.arange(6, dtype=">f4").reshape(2, 3)
    change = dict(scale=np.float64(3), big=big, columns=np.asfortranarray(big))
    write_flame_pkl(tmp_path / "flame.pkl", few, protocol, **change)
    with open(tmp_path / "flame.pkl", "rb") as file:
        stored = files.Unpickler(file, encoding="latin1").load()
    for name, wanted in (flame_arrays(few) | dict(big=big, columns=big)).items():
        np.testing.assert_array_equal(files.plain(stored[name]), wanted)
    assert stored["bs_style"] == "lbs" and stored["scale"] == 3
