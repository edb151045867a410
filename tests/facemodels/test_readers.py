"""Readers of published face models. The files are small synthetic ones in the very formats, made of the shipped model; no published model is needed or contained."""

import json
import pickle
import sys
import types
import zipfile

import numpy as np
import pytest
import scipy.sparse
import torch
from scipy.io import savemat

from e2far import facemodels
from e2far.facemodels import load_face_model

RNG = np.random.default_rng(3)
SHIFT = np.array([20.0, -15.0, 40.0])  # mm, of the foreign frame's origin


@pytest.fixture(scope="session")
def truth(face_model):
    """A person's head in a frame of its own: mean (N, 3) mm, identity (N, 3, 5), expression (N, 3, 3), triangles, landmarks (68,), all of our topology; and `face`, its vertices of the face."""
    torch.manual_seed(4)
    mean = (
        face_model.neutral(torch.randn(1, face_model.n_identity).clip(-2, 2) * 0.7)[0].numpy()
        + SHIFT
    )
    return dict(
        mean=mean,
        identity=face_model.identity_basis[:, :, :5].numpy(),
        expression=face_model.expression_basis[:, :, :3].numpy(),
        triangles=face_model.triangles.numpy(),
        landmarks=face_model.landmarks.numpy(),
        units=face_model.units.numpy(),
        names=face_model.unit_names,
        face=face_model.region.numpy(),
    )


def cut(truth):
    """Only the face of `truth`."""
    number = np.full(len(truth["mean"]), -1)
    number[truth["face"]] = np.arange(len(truth["face"]))
    triangles = number[truth["triangles"]]
    part = {k: truth[k][truth["face"]] for k in ("mean", "identity", "expression", "units")}
    return dict(
        part,
        triangles=triangles[(triangles >= 0).all(1)],
        landmarks=number[truth["landmarks"]],
        names=truth["names"],
    )


def column(field):
    return field.reshape(-1, 1 if field.ndim == 2 else field.shape[2]).astype(np.float32)


def unit_modes(modes):
    """Orthonormal-like columns (3N, K) and their standard deviations (K,)."""
    flat = column(modes)
    length = np.linalg.norm(flat, axis=0)
    return flat / length, length


def write_basel_2009(path, face, **change):
    modes, sd = unit_modes(face["identity"])
    savemat(
        path,
        dict(
            shapeMU=column(face["mean"]) * 1e3,
            shapePC=modes,
            shapeEV=sd[:, None] * 1e3,
            tl=face["triangles"][:, ::-1] + 1.0,
            texMU=column(face["mean"]),
        )
        | change,
    )


def write_basel_front(path, face, **change):
    savemat(
        path,
        dict(
            meanshape=column(face["mean"]).T / 100,
            idBase=column(face["identity"]) / 100,
            exBase=column(face["expression"]) / 100,
            tri=face["triangles"] + 1,
            keypoints=face["landmarks"][None] + 1,
        )
        | change,
    )


def write_basel_repack(path, face, **change):
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    savemat(
        path,
        dict(
            model=dict(
                shapeMU=column(face["mean"]) * 1e3,
                shapePC=modes,
                shapeEV=sd[:, None] * 1e3,
                expMU=np.full((face["mean"].size, 1), 500.0),
                expPC=expression,
                expEV=expression_sd[:, None] * 1e3,
                tri=face["triangles"].T + 1,
                kpt_ind=face["landmarks"][None] + 1,
            )
            | change
        ),
    )


def write_basel_2017(path, face, points=True, **change):
    h5py = pytest.importorskip("h5py")
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    named = [
        dict(id=name, coordinates=face["mean"][face["landmarks"][i]].tolist())
        for name, i in {
            "center.nose.tip": 30,
            "right.eye.corner_outer": 36,
            "left.lips.corner": 54,
        }.items()
    ]
    content = {
        "shape/model/mean": column(face["mean"])[:, 0],
        "shape/model/pcaBasis": modes,
        "shape/model/pcaVariance": sd**2,
        "shape/representer/points": face["mean"].T,
        "shape/representer/cells": face["triangles"].T,
        "expression/model/mean": np.zeros(face["mean"].size, np.float32),
        "expression/model/pcaBasis": expression,
        "expression/model/pcaVariance": expression_sd**2,
        "metadata/landmarks/json": np.array([json.dumps(named)], dtype=h5py.string_dtype()),
    } | change
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file[name] = values


def flame_arrays(face):
    modes = np.zeros((*face["mean"].shape, 303))
    modes[:, :, :5], modes[:, :, 300:] = face["identity"] / 1e3, face["expression"] / 1e3
    return dict(
        v_template=face["mean"] / 1e3, shapedirs=modes, f=face["triangles"].astype(np.uint32)
    )


def write_flame_npz(path, face, **change):
    np.savez(path, **(flame_arrays(face) | change))


def write_flame_pkl(path, face, protocol=2, **change):
    """As the old files are: chumpy objects for some arrays, a sparse matrix, written by Python 2's protocol."""
    chumpy, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")
    module.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    arrays = flame_arrays(face)
    wrapped = module.Ch()
    wrapped.x = arrays["shapedirs"]
    arrays |= (
        dict(
            shapedirs=wrapped,
            J_regressor=scipy.sparse.csc_matrix(np.eye(3)),
            bs_style="lbs",
            kintree_table=np.arange(10).reshape(2, 5),
            weights=np.asfortranarray(np.eye(4)),
        )
        | change
    )
    sys.modules |= {"chumpy": chumpy, "chumpy.ch": module}
    try:
        path.write_bytes(pickle.dumps(arrays, protocol))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def write_obj(path, vertices, polygons=()):
    path.write_text(
        "# made for a test\n"
        + "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices)
        + "".join("f " + " ".join(f"{i + 1}/{i + 1}" for i in p) + "\n" for p in polygons)
    )


def write_ict(path, face, **change):
    """The folder: quads, centimetres, expressions on one side named _L and _R."""
    path.mkdir()
    quads, place, second = (
        [],
        {tuple(corners[:2]): i for i, corners in enumerate(face["triangles"].tolist())},
        set(),
    )
    for i, (a, b, c) in enumerate(
        face["triangles"].tolist()
    ):  # a quad a, b, c, d is the triangles a, b, c and a, c, d
        if i not in second:
            partner = place.get((a, c))  # toy faces have none
            second.add(partner)
            quads.append((a, b, c, c if partner is None else int(face["triangles"][partner][2])))
    files = {"generic_neutral_mesh": face["mean"]} | {
        f"identity{k:03d}": face["mean"] + face["identity"][:, :, k] for k in range(5)
    }
    for ict, name in {
        "jawOpen": "jawOpen",
        "eyeBlink_L": "eyeBlinkLeft",
        "eyeBlink_R": "eyeBlinkRight",
        "mouthSmile_L": "mouthSmileLeft",
        "mouthSmile_R": "mouthSmileRight",
    }.items():
        files[ict] = face["mean"] + face["units"][:, :, face["names"].index(name)]
    brows = face["units"][:, :, face["names"].index("browInnerUp")]
    left = face["mean"][:, :1] > SHIFT[0]
    files |= {
        "browInnerUp_L": face["mean"] + brows * left,
        "browInnerUp_R": face["mean"] + brows * ~left,
    } | change
    for name, vertices in files.items():
        write_obj(
            path / f"{name}.obj", vertices / 10, quads if name == "generic_neutral_mesh" else ()
        )
    (path / "vertex_indices.json").write_text(
        json.dumps(dict(idx_to_landmark_verts=face["landmarks"].tolist(), expressions=[]))
    )


def write_surrey(path, face, blendshapes=False):
    import eos

    part = eos.morphablemodel
    modes, sd = unit_modes(face["identity"])
    shape = part.PcaModel(column(face["mean"]), modes, (sd**2)[:, None], face["triangles"].tolist())
    part.save_model(part.MorphableModel(shape, part.PcaModel()), str(path))
    if blendshapes:
        shapes = []
        for k, name in enumerate(("anger", "happiness")):
            shapes.append(part.Blendshape())
            shapes[-1].name, shapes[-1].deformation = name, column(face["expression"])[:, k]
        part.save_blendshapes(
            shapes, str(path.with_name(path.name.replace("sfm_shape", "expression_blendshapes")))
        )


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
WHOLE = (
    "flame2023.npz",
    "generic_model.pkl",
    "FaceXModel",
)  # heads with eyeballs and teeth; the others are faces


@pytest.fixture(scope="session")
def files(truth, tmp_path_factory):
    """One file of each format."""
    folder = tmp_path_factory.mktemp("published")
    for name, write in WRITERS.items():
        write(folder / name, truth if name in WHOLE else cut(truth))
    return folder


@pytest.fixture(scope="session")
def models(files):
    return {name: facemodels.read(files / name) for name in WRITERS}


@pytest.mark.parametrize("name", WRITERS)
def test_a_published_model_is_read_in_mm_and_standard_deviations(models, truth, name):
    model, face = models[name], truth if name in WHOLE else cut(truth)
    assert model.mean.dtype == torch.float32 and model.mean.shape == face["mean"].shape
    offset = model.mean.numpy() - face["mean"]
    assert np.ptp(offset, axis=0).max() < 0.01  # only the origin moved ...
    assert model.mean[model.region].mean(0).abs().max() < 1e-3  # ... to the middle of the face
    np.testing.assert_allclose(model.identity_basis[:, :, :5], face["identity"], atol=2e-3)
    if "flame" in name or name in (
        "BFM_model_front.mat",
        "BFM.mat",
        "model2017-1.h5",
        "generic_model.pkl",
    ):
        np.testing.assert_allclose(model.expression_basis, face["expression"], atol=2e-3)
        assert model.unit_names == () and model.units.shape[2] == 0


@pytest.mark.parametrize("name", WRITERS)
def test_landmarks_region_and_triangles(models, truth, name):
    model, face = models[name], truth if name in WHOLE else cut(truth)
    off = np.linalg.norm(face["mean"][model.landmarks] - face["mean"][face["landmarks"]], axis=1)
    assert len(set(model.landmarks.tolist())) == 68 and off.mean() < 1.5 and off.max() < 8
    a, b, c = model.mean[model.triangles].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    front = a[:, 2] > model.mean[model.landmarks[36:48], 2].mean() - 10  # the front of the face
    assert (normals[front] * normals.new_tensor([0, 0, 1.0])).sum() > 0
    expected = set(truth["face"].tolist()) if name in WHOLE else set(range(len(face["mean"])))
    found = set(model.region.tolist())
    assert len(found & expected) > 0.93 * len(expected) and len(found - expected) < 0.03 * len(
        expected
    )


@pytest.mark.parametrize("name", WRITERS)
def test_the_renderers_attributes_are_carried_over(models, face_model, truth, name):
    model = models[name]
    at = slice(None) if name in WHOLE else truth["face"]
    assert set(model.attributes) == set(face_model.attributes)
    for key in ("lips", "brow", "beard", "ear"):
        ours = face_model.attributes[key][at]
        assert (model.attributes[key] - ours).abs().mean() < 0.25 * ours.mean() + 0.005, key
    for key in ("eye", "teeth", "tongue"):
        assert (
            model.attributes[key].round() - face_model.attributes[key][at]
        ).abs().mean() < 0.01, key


def test_each_format_has_its_name(models):
    assert [models[k].name for k in WRITERS] == [
        "basel2009-front"
        if "front" in k
        else "basel2009"
        if ".mat" in k
        else "basel"
        if ".h5" in k
        else "surrey"
        if ".bin" in k
        else "ict"
        if k == "FaceXModel"
        else "flame"
        for k in WRITERS
    ]


# Expressions ------------------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["01_MorphableModel.mat", "sfm_shape_3448.bin"])
def test_a_file_without_expressions_gets_ours(models, face_model, truth, name):
    model = models[name]
    assert (
        model.unit_names == face_model.unit_names and model.n_expression == face_model.n_expression
    )
    for ours, theirs in (
        (face_model.units, model.units),
        (face_model.expression_basis, model.expression_basis),
    ):
        ours = ours[truth["face"]]
        assert (theirs - ours).norm(dim=1).mean() < 0.2 * ours.norm(dim=1).mean()


def test_expressions_of_ict_become_named_units(models, truth):
    model = models["FaceXModel"]
    assert set(model.unit_names) == {
        "jawOpen",
        "eyeBlinkLeft",
        "eyeBlinkRight",
        "mouthSmileLeft",
        "mouthSmileRight",
        "browInnerUp",
    }
    for j, name in enumerate(model.unit_names):
        np.testing.assert_allclose(
            model.units[:, :, j], truth["units"][:, :, truth["names"].index(name)], atol=5e-3
        )
    at = model.region
    assert 3 <= model.n_expression <= 6
    rebuilt = model.expression_offset(model.from_units(torch.eye(6)))[:, at]
    assert (rebuilt - model.units.permute(2, 0, 1)[:, at]).norm(
        dim=2
    ).max() < 0.1  # the modes span what is drawn


def test_drawn_mixtures_of_units_have_unit_coefficients(models):
    from e2far.facemodels import arkit

    model, rng = models["FaceXModel"], np.random.default_rng(1)
    drawn = model.from_units(
        torch.from_numpy(np.stack([arkit.draw_units(model.unit_names, rng) for _ in range(2000)]))
    )
    assert abs(drawn.square().mean(0) - 1).max() < 0.25


def test_eos_blendshapes_beside_the_model_become_units(truth, tmp_path):
    face = cut(truth)
    write_surrey(tmp_path / "sfm_shape_9.bin", face, blendshapes=True)
    model = facemodels.read(tmp_path / "sfm_shape_9.bin")
    assert model.unit_names == ("anger", "happiness") and model.n_expression == 2
    np.testing.assert_allclose(model.units, face["expression"][:, :, :2], atol=1e-3)


def test_the_mean_expression_belongs_to_the_mean(truth, models, tmp_path):
    offset = cut(truth)["expression"][:, :, 0] * 0.5
    write_basel_2017(tmp_path / "smile.h5", cut(truth), **{"expression/model/mean": offset.ravel()})
    moved, plain = (
        facemodels.read(tmp_path / "smile.h5").mean.numpy(),
        models["model2017-1.h5"].mean.numpy(),
    )
    np.testing.assert_allclose(np.ptp(moved - plain - offset, axis=0), 0, atol=0.01)


def test_tear_films_and_lashes_of_ict_are_left_out(truth, tmp_path, monkeypatch):
    from e2far.facemodels import ict

    n, half = len(truth["mean"]), len(truth["triangles"]) // 2
    shell = np.arange(4)
    extended = dict(
        truth,
        triangles=np.concatenate(
            (
                truth["triangles"][:half],
                [[n, n + 1, n + 2]],
                truth["triangles"][half:],
                [[n, n + 2, n + 3]],
            )
        ),
    )
    for key in ("mean", "identity", "expression", "units"):
        extended[key] = np.concatenate(
            (truth[key], truth[key][shell] + (np.array([0, 0, 90.0]) if key == "mean" else 0))
        )
    write_ict(tmp_path / "FaceXModel", extended)
    monkeypatch.setattr(ict, "WHOLE", n + 4)
    monkeypatch.setattr(ict, "SOLID", n)
    model = facemodels.read(tmp_path / "FaceXModel", n_identity=1)
    assert model.n_vertices == n and len(model.triangles) == len(truth["triangles"])


# One parameter for all ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name", ["BFM.mat", "model2017-1.h5", "generic_model.pkl", "FaceXModel", "sfm_shape_3448.bin"]
)
def test_modes_are_cut_to_the_first(files, models, name):
    model = facemodels.build(files / name, dict(n_identity=2, n_expression=1, people=7, mixtures=7))
    assert (model.n_identity, model.n_expression) == (2, 1)
    assert torch.equal(model.identity_basis, models[name].identity_basis[:, :, :2])
    torch.testing.assert_close(model.expression_basis, models[name].expression_basis[:, :, :1])


def test_more_modes_than_there_are_means_all(files, models):
    assert (
        facemodels.read(files / "flame2023.npz", n_identity=999, n_expression=999).n_identity
        == models["flame2023.npz"].n_identity
        == 300
    )


@pytest.mark.parametrize("name", ["01_MorphableModel.mat", "generic_model.pkl"])
def test_what_was_read_is_saved_loaded_and_photographed(models, tmp_path, name):
    from e2far.synthesis.studio import Studio

    model = models[name]
    model.save(tmp_path / "model.npz")
    again = facemodels.read(tmp_path / "model.npz", n_identity=3)
    assert (
        again.n_identity == 3
        and again.unit_names == model.unit_names
        and torch.equal(again.mean, model.mean)
    )
    picture = Studio(load_face_model(tmp_path / "model.npz"), 32).photograph(0, "train", 0, 0)
    assert (
        picture["image"].shape == (32, 32, 3)
        and len(picture["identity"]) == model.n_identity
        and picture["image"].std() > 5
    )


def test_load_face_model_and_the_command_line_open_every_format(files, models, tmp_path):
    from typer.testing import CliRunner

    from e2far.cli import app

    assert torch.equal(load_face_model(files / "flame2023.npz").mean, models["flame2023.npz"].mean)
    assert torch.equal(
        load_face_model(str(files / "sfm_shape_3448.bin")).mean, models["sfm_shape_3448.bin"].mean
    )
    runner = CliRunner()
    result = runner.invoke(
        app,
        [
            "build-face-model",
            str(tmp_path / "flame.npz"),
            "--from",
            str(files / "generic_model.pkl"),
        ],
    )
    assert result.exit_code == 0 and load_face_model(tmp_path / "flame.npz").name == "flame"
    result = runner.invoke(
        app, ["build-face-model", str(tmp_path / "other.npz"), "--from", str(tmp_path / "none.pkl")]
    )
    assert (
        result.exit_code == 1
        and result.output.count("\n") == 1
        and "FLAME" in result.output
        and not (tmp_path / "other.npz").exists()
    )


def test_one_word_builds_our_own_model(monkeypatch):
    from e2far.facemodels import makehuman

    monkeypatch.setattr(makehuman, "build", lambda **sizes: sizes)
    assert facemodels.build("makehuman", dict(n_identity=3, people=5)) == dict(
        n_identity=3, people=5
    )


# Landmarks ----------------------------------------------------------------------------------------------------------------------------------------


def test_landmarks_of_the_file_come_before_those_carried_over(models, truth):
    face = cut(truth)
    for name in ("BFM_model_front.mat", "BFM.mat"):
        assert models[name].landmarks.tolist() == face["landmarks"].tolist()
    assert models["FaceXModel"].landmarks.tolist() == truth["landmarks"].tolist()
    assert (
        models["model2017-1.h5"].landmarks[[30, 36, 54]].tolist()
        == face["landmarks"][[30, 36, 54]].tolist()
    )


@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json", ".npy", None])
def test_landmarks_of_the_user_come_first(files, truth, tmp_path, suffix):
    wanted = cut(truth)["landmarks"].copy()
    wanted[[51, 62]] = wanted[[62, 51]]
    given = wanted if suffix is None else tmp_path / f"landmarks{suffix}"
    if suffix == ".npy":
        np.save(given, wanted)
    elif suffix:
        given.write_text(
            json.dumps(wanted.tolist())
            if suffix == ".json"
            else (",\n" if suffix == ".csv" else " ").join(map(str, wanted))
        )
    assert (
        facemodels.read(files / "BFM_model_front.mat", landmarks=given).landmarks.tolist()
        == wanted.tolist()
    )


@pytest.mark.parametrize(
    "change, message",
    [
        (lambda i: i[:67], "67 different numbers of 67"),
        (lambda i: np.r_[i[:67], i[0]], "67 different numbers of 68"),
        (lambda i: i + 0.5, "vertex numbers"),
        (lambda i: i + 10**6, "landmarks name vertex"),
        (lambda i: i - 10**6, "landmarks name vertex -"),
        (lambda i: np.roll(i, 30), "lie [0-9]+ mm"),
        (lambda i: np.array(list("x" * 68)), "vertex numbers"),
    ],
)
def test_bad_landmarks_are_refused(files, truth, change, message):
    with pytest.raises(ValueError, match=message):
        facemodels.read(files / "01_MorphableModel.mat", landmarks=change(cut(truth)["landmarks"]))


@pytest.mark.parametrize(
    "content, kind",
    [(None, FileNotFoundError), ("1 2 three", ValueError), ("1 2 3", ValueError), ("", ValueError)],
)
def test_bad_files_of_landmarks_are_refused(files, tmp_path, content, kind):
    if content is not None:
        (tmp_path / "landmarks.txt").write_text(content)
    with pytest.raises(kind, match="landmarks.txt.*68"):
        facemodels.read(files / "01_MorphableModel.mat", landmarks=tmp_path / "landmarks.txt")


# The registration -----------------------------------------------------------------------------------------------------------------------------------


def test_landmarks_are_found_on_another_topology_in_another_pose(face_model):
    """A person's head remeshed on a grid of angle and height, bent, turned and resized: landmarks lie within 2 mm (mean of those inside the face) of the truth."""
    from e2far.camera import euler_to_matrix
    from e2far.facemodels.registration import Registration, turn_outward
    from e2far.raster import zbuffer

    torch.manual_seed(8)
    head = (
        face_model.neutral(torch.randn(1, face_model.n_identity).clip(-2, 2) * 0.7)[0]
        .numpy()
        .astype(float)
    )
    corners, size = face_model.triangles.numpy().astype(np.int32), 110
    angle, radius = np.arctan2(head[:, 0], head[:, 2] + 60), np.hypot(head[:, 0], head[:, 2] + 60)
    corners = corners[np.ptp(angle[corners], axis=1) < 2]
    seen, weights = zbuffer(
        np.stack(((angle / np.pi + 1) / 2 * size, (140 - head[:, 1]) / 255 * size), 1).astype(
            np.float32
        ),
        radius.astype(np.float32),
        corners,
        size,
    )
    points = (
        head[corners[seen]]
        * np.concatenate((weights, 1 - weights.sum(-1, keepdims=True)), -1)[..., None]
    ).sum(2)
    quads = np.lib.stride_tricks.sliding_window_view(
        np.arange(size * size).reshape(size, size), (2, 2)
    ).reshape(-1, 4)
    quads = quads[
        (seen.ravel()[quads] >= 0).all(1)
        & (np.ptp(points.reshape(-1, 3)[quads], axis=1) < 15).all(1)
    ]
    used, quads = np.unique(quads, return_inverse=True)
    quads = quads.reshape(-1, 4)
    turn = euler_to_matrix(torch.deg2rad(torch.tensor([6.0, -8.0, 5.0]))).numpy() * 1.06
    vertices = points.reshape(-1, 3)[used] @ turn.T + [30, 10, -20]
    triangles = turn_outward(vertices, np.concatenate((quads[:, [0, 1, 2]], quads[:, [1, 3, 2]])))
    laid = Registration(vertices, triangles)
    goal = head[face_model.landmarks] @ turn.T + [30, 10, -20]
    off = np.linalg.norm(laid.placed[face_model.landmarks] - goal, axis=1)
    assert off[17:].mean() < 2 and off.mean() < 2.5
    found = laid.landmarks()
    assert (
        len(set(found.tolist())) == 68
        and np.linalg.norm(vertices[found] - goal, axis=1)[17:].mean() < 3.5
    )  # the grid is 2 to 4 mm wide
    np.testing.assert_allclose(laid.turn, turn, atol=0.05)


# Bad files ------------------------------------------------------------------------------------------------------------------------------------------


def truncated(share):
    return lambda path, face: path.write_bytes(
        path.read_bytes()[: int(len(path.read_bytes()) * share)]
    )


def content(data):
    return lambda path, face: path.write_bytes(data)


def zipped(path, face):
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("readme.txt", "hello")


def again(write, **change):
    """Write the file with some entries made from the face."""
    return lambda path, face: write(
        path, face, **{k: v(face) if callable(v) else v for k, v in change.items()}
    )


def without(name):
    return lambda path, face: (path / name).unlink()


def spoilt(name, text):
    return lambda path, face: (path / name).write_text(text)


def bad_values(field, where, value):
    values = column(field).copy()
    values[where] = value
    return values


BAD = {
    "mat: empty": ("01_MorphableModel.mat", content(b""), "Basel"),
    "mat: text": ("01_MorphableModel.mat", content(b"this is no matlab file\n" * 40), "Basel"),
    "mat: truncated": ("01_MorphableModel.mat", truncated(0.6), "Basel"),
    "mat: other content": (
        "01_MorphableModel.mat",
        lambda path, face: savemat(path, dict(x=np.eye(3))),
        "missing: 'shapeMU'",
    ),
    "mat: mean of the wrong size": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: column(f["mean"])[:-1]),
        "not 3 for each vertex",
    ),
    "mat: modes of the wrong size": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapePC=lambda f: column(f["identity"])[:-3]),
        r"identity basis has shape \(",
    ),
    "mat: too few deviations": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeEV=np.ones((3, 1))),
        "5 modes but 3",
    ),
    "mat: not a number": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapePC=lambda f: bad_values(f["identity"], (5, 2), np.nan)),
        "identity_basis holds numbers that are not finite",
    ),
    "mat: infinite mean": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: bad_values(f["mean"], 7, np.inf)),
        "mean holds numbers that are not finite",
    ),
    "mat: triangle out of range": (
        "01_MorphableModel.mat",
        again(write_basel_2009, tl=lambda f: f["triangles"] + 9.0),
        "triangles name vertex [0-9]+ of",
    ),
    "mat: triangles counted from 0": (
        "01_MorphableModel.mat",
        again(write_basel_2009, tl=lambda f: f["triangles"] + 0.0),
        "triangles name vertex -1",
    ),
    "mat: triangles of four": (
        "01_MorphableModel.mat",
        again(write_basel_2009, tl=np.ones((9, 4))),
        r"triangles have shape \(9, 4\)",
    ),
    "mat: in metres": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: column(f["mean"]) / 1e3),
        "another unit",
    ),
    "mat: looking backward": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: column(f["mean"] * [-1, 1, -1]) * 1e3),
        "looks backward",
    ),
    "mat: upside down": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: column(f["mean"] * [-1, -1, 1]) * 1e3),
        "upside down",
    ),
    "mat: three quarters of the size": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: column(f["mean"]) * 700),
        "at 0.7.* of its size",
    ),
    "mat: noise": (
        "01_MorphableModel.mat",
        again(write_basel_2009, shapeMU=lambda f: RNG.normal(0, 60e3, (f["mean"].size, 1))),
        "does not look like a face",
    ),
    "front: 67 landmarks": (
        "BFM_model_front.mat",
        again(write_basel_front, keypoints=lambda f: f["landmarks"][None, :67] + 1),
        "67 different numbers of 67",
    ),
    "front: landmarks of another mesh": (
        "BFM_model_front.mat",
        again(write_basel_front, keypoints=lambda f: f["landmarks"][None, ::-1] + 1),
        "landmarks lie",
    ),
    "h5: zip": ("model2017-1.h5", zipped, "Basel Face Model 2017"),
    "h5: truncated": ("model2017-1.h5", truncated(0.5), "Basel Face Model 2017"),
    "h5: empty": ("model2017-1.h5", content(b""), "Basel Face Model 2017"),
    "h5: negative variance": (
        "model2017-1.h5",
        again(write_basel_2017, **{"shape/model/pcaVariance": -np.ones(5)}),
        "must not be negative",
    ),
    "h5: half an expression": (
        "model2017-1.h5",
        again(write_basel_2017, **{"expression/model/pcaBasis": np.ones((30, 3))}),
        "expression/model/pcaBasis has shape",
    ),
    "npz: truncated": ("flame2023.npz", truncated(0.9), "flame2023.npz"),
    "npz: no faces": (
        "flame2023.npz",
        lambda path, face: np.savez(
            path, **{k: v for k, v in flame_arrays(face).items() if k != "f"}
        ),
        "FLAME",
    ),
    "npz: objects": (
        "flame2023.npz",
        again(write_flame_npz, shapedirs=np.array([{}], dtype=object)),
        "FLAME",
    ),
    "npz: in millimetres": (
        "flame2023.npz",
        again(write_flame_npz, v_template=lambda f: f["mean"]),
        "another unit",
    ),
    "pkl: empty": ("generic_model.pkl", content(b""), "FLAME"),
    "pkl: text": ("generic_model.pkl", content(b"hello there, no pickle"), "FLAME"),
    "pkl: truncated": ("generic_model.pkl", truncated(0.5), "FLAME"),
    "pkl: a list": ("generic_model.pkl", content(pickle.dumps([1, 2])), "holds a list"),
    "pkl: no template": (
        "generic_model.pkl",
        content(pickle.dumps(dict(f=[1]))),
        "missing: 'v_template'",
    ),
    "pkl: words for numbers": (
        "generic_model.pkl",
        again(write_flame_pkl, v_template="abc"),
        "FLAME",
    ),
    "bin: empty": ("sfm_shape_3448.bin", content(b""), "Surrey"),
    "bin: text": ("sfm_shape_3448.bin", content(b"hello there, no model" * 30), "Surrey"),
    "bin: truncated": ("sfm_shape_3448.bin", truncated(0.5), "Surrey"),
    "ict: no neutral": (
        "FaceXModel",
        without("generic_neutral_mesh.obj"),
        "no generic_neutral_mesh.obj",
    ),
    "ict: no identity": (
        "FaceXModel",
        lambda path, face: [f.unlink() for f in path.glob("identity*")],
        "no identity000.obj",
    ),
    "ict: a shorter mode": (
        "FaceXModel",
        lambda path, face: write_obj(path / "identity001.obj", face["mean"][:-4]),
        "identity001.obj has [0-9]+ vertices",
    ),
    "ict: a shorter expression": (
        "FaceXModel",
        spoilt("jawOpen.obj", "v 1 2 3\n"),
        "jawOpen.obj has 1 vertices",
    ),
    "ict: words for numbers": ("FaceXModel", spoilt("identity002.obj", "v a b c\n"), "ICT-FaceKit"),
    "ict: bad index": ("FaceXModel", spoilt("vertex_indices.json", "{"), "ICT-FaceKit"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_gives_one_line_that_says_what_it_should_be(truth, tmp_path, case):
    name, spoil, message = BAD[case]
    face = truth if name in WHOLE else cut(truth)
    WRITERS[name](tmp_path / name, face)
    spoil(tmp_path / name, face)
    with pytest.raises(ValueError, match=message) as caught:
        facemodels.read(tmp_path / name)
    assert (
        name in str(caught.value) and "\n" not in str(caught.value) and len(str(caught.value)) < 700
    )


@pytest.mark.parametrize(
    "name, project",
    [
        ("x.mat", "Basel"),
        ("x.h5", "Basel"),
        ("x.pkl", "FLAME"),
        ("x.bin", "Surrey"),
        ("x.npz", "build-face-model"),
        ("FaceXModel", "ICT-FaceKit"),
        ("x.ply", "Basel"),
    ],
)
def test_a_missing_file_says_what_to_get(tmp_path, name, project):
    with pytest.raises(FileNotFoundError, match=project) as caught:
        facemodels.read(tmp_path / name)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_file_of_another_kind_names_the_known_ones(tmp_path):
    (tmp_path / "x.ply").write_text("ply")
    with pytest.raises(ValueError, match="x.ply.*Basel.*FLAME.*ICT"):
        facemodels.read(tmp_path / "x.ply")
    with pytest.raises(ValueError, match="n_identity is 0"):
        facemodels.read(tmp_path / "x.mat", n_identity=0)


class Runs:
    """Pickles as a call."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments, state) if state is not None else (function, arguments)

    def __reduce__(self):
        return self.call


def hostile(kind, mark):
    code = f"open({str(mark)!r}, 'w').write('x')"
    if kind == "os.system":
        import os

        return Runs(os.system, f"touch {mark}")
    if kind == "eval":
        return Runs(eval, code)
    if kind == "exec in a list in a dict":
        return dict(v_template=[1, dict(x=Runs(exec, code))])
    if kind == "nested reduce":
        return Runs(getattr, Runs(__import__, "os"), "system")
    if kind == "object array":
        return dict(v_template=np.array([Runs(eval, code), None], dtype=object))
    if kind == "numpy's own loader":
        return Runs(np.load, str(mark))
    if kind == "numpy's exec":
        from numpy.testing import runstring

        return Runs(runstring, code, {})
    if kind == "scipy's neighbour":
        import scipy.io

        return Runs(scipy.io.loadmat, str(mark))
    if kind == "partial":
        import functools

        return Runs(functools.partial, eval, code)
    return Runs(type, "Evil", (object,), {})


@pytest.mark.parametrize(
    "kind",
    [
        "os.system",
        "eval",
        "exec in a list in a dict",
        "nested reduce",
        "object array",
        "numpy's own loader",
        "numpy's exec",
        "scipy's neighbour",
        "partial",
        "type",
    ],
)
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_no_pickle_is_obeyed(tmp_path, kind, protocol):
    mark = tmp_path / "sprung"
    data = pickle.dumps(hostile(kind, mark), protocol)
    if kind in ("eval", "object array"):  # the trap is real: Python's own loader springs it
        pickle.loads(data)
        assert mark.exists()
        mark.unlink()
    (tmp_path / "generic_model.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="generic_model.pkl.*asks for"):
        facemodels.read(tmp_path / "generic_model.pkl")
    assert not mark.exists()


def forged():
    """An array whose type is eight-byte numbers by name and objects by its flags: their bytes would be taken for addresses."""
    kind = b"cnumpy\ndtype\n(S'f8'\nI0\nI1\ntR(I3\nS'<'\nNNNI-1\nI-1\nI63\ntb"
    blank = b"cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(I0\ntS'b'\ntR"
    array = blank + b"(I1\n(I1\nt" + kind + b"I0\nS'\\x01\\x02\\x03\\x04\\x05\\x06\\x07\\x08'\ntb"
    return b"(dS'v_template'\n" + array + b"s."


@pytest.mark.parametrize(
    "data",
    [
        forged(),
        b"cnumpy\nndarray\n(N}X\x03\x00\x00\x00abcK\x01stb.",  # BUILD on a class: would change it for every later file
        b"ccopy_reg\n_reconstructor\n(N}X\x0c\x00\x00\x00__defaults__K\x01stb.",  # ... and on a function
        b"ccopy_reg\n_reconstructor\n(cbuiltins\ndict\nNNtR.",
        b"ccopy_reg\n_reconstructor\n(ccollections\nOrderedDict\nNNtR.",
        b"cnumpy\ndtype\n(S'V8'\ntR.",
        b"cnumpy\ndtype\n(S'O'\ntR.",
        b"cbuiltins\nobject.__subclasses__\n.",
        b"\x80\x04\x8c\x05numpy\x8c\x12core.os.path.exists\x93.",
        b"Pabc\n.",
        b"\x82\x01.",
    ],
)
def test_no_trick_of_the_pickle_machine_is_obeyed(tmp_path, data):
    from e2far import files

    state = lambda: {k: dict(vars(v)) for k, v in vars(files).items() if isinstance(v, type)}
    before = state()
    (tmp_path / "generic_model.pkl").write_bytes(data)
    with pytest.raises(ValueError, match="FLAME"):
        facemodels.read(tmp_path / "generic_model.pkl")
    assert state() == before


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_every_protocol_of_pickle_is_read(truth, tmp_path, protocol):
    from e2far import files

    big = np.arange(6, dtype=">f4").reshape(2, 3)
    write_flame_pkl(
        tmp_path / "flame.pkl",
        truth,
        protocol,
        scale=np.float64(3),
        big=big,
        columns=np.asfortranarray(big),
    )
    with open(tmp_path / "flame.pkl", "rb") as file:
        stored = files.Unpickler(file, encoding="latin1").load()
    for name, wanted in (flame_arrays(truth) | dict(big=big, columns=big)).items():
        np.testing.assert_array_equal(files.plain(stored[name]), wanted)
    assert stored["bs_style"] == "lbs"
