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
from e2far.morphable import load_face_model

RNG = np.random.default_rng(3)
SHIFT = np.array([20., -15., 40.])                  # mm, of the foreign frame's origin


@pytest.fixture(scope="session")
def truth(face_model):
    """A person's head in a frame of its own: mean (N, 3) mm, identity (N, 3, 5), expression (N, 3, 3), triangles, landmarks (68,), all of our topology; and `face`, its vertices of the face."""
    torch.manual_seed(4)
    mean = face_model.neutral(torch.randn(1, face_model.n_identity).clip(-2, 2) * .7)[0].numpy() + SHIFT
    return dict(mean=mean, identity=face_model.identity_basis[:, :, :5].numpy(), expression=face_model.expression_basis[:, :, :3].numpy(), triangles=face_model.triangles.numpy(),
                landmarks=face_model.landmarks.numpy(), units=face_model.units.numpy(), names=face_model.unit_names, face=face_model.region.numpy())


def cut(truth):
    """Only the face of `truth`."""
    number = np.full(len(truth["mean"]), -1)
    number[truth["face"]] = np.arange(len(truth["face"]))
    triangles = number[truth["triangles"]]
    part = {k: truth[k][truth["face"]] for k in ("mean", "identity", "expression", "units")}
    return dict(part, triangles=triangles[(triangles >= 0).all(1)], landmarks=number[truth["landmarks"]], names=truth["names"])


def column(field):
    return field.reshape(-1, 1 if field.ndim == 2 else field.shape[2]).astype(np.float32)


def unit_modes(modes):
    """Orthonormal-like columns (3N, K) and their standard deviations (K,)."""
    flat = column(modes)
    length = np.linalg.norm(flat, axis=0)
    return flat / length, length


def write_basel_2009(path, face, **change):
    modes, sd = unit_modes(face["identity"])
    savemat(path, dict(shapeMU=column(face["mean"]) * 1e3, shapePC=modes, shapeEV=sd[:, None] * 1e3, tl=face["triangles"][:, ::-1] + 1., texMU=column(face["mean"])) | change)


def write_basel_front(path, face, **change):
    savemat(path, dict(meanshape=column(face["mean"]).T / 100, idBase=column(face["identity"]) / 100, exBase=column(face["expression"]) / 100, tri=face["triangles"] + 1,
                       keypoints=face["landmarks"][None] + 1) | change)


def write_basel_repack(path, face, **change):
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    savemat(path, dict(model=dict(shapeMU=column(face["mean"]) * 1e3, shapePC=modes, shapeEV=sd[:, None] * 1e3, expMU=np.full((face["mean"].size, 1), 500.), expPC=expression,
                                  expEV=expression_sd[:, None] * 1e3, tri=face["triangles"].T + 1, kpt_ind=face["landmarks"][None] + 1) | change))


def write_basel_2017(path, face, points=True, **change):
    h5py = pytest.importorskip("h5py")
    modes, sd = unit_modes(face["identity"])
    expression, expression_sd = unit_modes(face["expression"])
    named = [dict(id=name, coordinates=face["mean"][face["landmarks"][i]].tolist()) for name, i in {"center.nose.tip": 30, "right.eye.corner_outer": 36, "left.lips.corner": 54}.items()]
    content = {"shape/model/mean": column(face["mean"])[:, 0], "shape/model/pcaBasis": modes, "shape/model/pcaVariance": sd ** 2, "shape/representer/points": face["mean"].T,
               "shape/representer/cells": face["triangles"].T, "expression/model/mean": np.zeros(face["mean"].size, np.float32), "expression/model/pcaBasis": expression,
               "expression/model/pcaVariance": expression_sd ** 2, "metadata/landmarks/json": np.array([json.dumps(named)], dtype=h5py.string_dtype())} | change
    with h5py.File(path, "w") as file:
        for name, values in content.items():
            file[name] = values


def flame_arrays(face):
    modes = np.zeros((*face["mean"].shape, 303))
    modes[:, :, :5], modes[:, :, 300:] = face["identity"] / 1e3, face["expression"] / 1e3
    return dict(v_template=face["mean"] / 1e3, shapedirs=modes, f=face["triangles"].astype(np.uint32))


def write_flame_npz(path, face, **change):
    np.savez(path, **(flame_arrays(face) | change))


def write_flame_pkl(path, face, protocol=2, **change):
    """As the old files are: chumpy objects for some arrays, a sparse matrix, written by Python 2's protocol."""
    chumpy, module = types.ModuleType("chumpy"), types.ModuleType("chumpy.ch")
    module.Ch = type("Ch", (), {"__module__": "chumpy.ch"})
    arrays = flame_arrays(face)
    wrapped = module.Ch()
    wrapped.x = arrays["shapedirs"]
    arrays |= dict(shapedirs=wrapped, J_regressor=scipy.sparse.csc_matrix(np.eye(3)), bs_style="lbs", kintree_table=np.arange(10).reshape(2, 5), weights=np.asfortranarray(np.eye(4))) | change
    sys.modules |= {"chumpy": chumpy, "chumpy.ch": module}
    try:
        path.write_bytes(pickle.dumps(arrays, protocol))
    finally:
        del sys.modules["chumpy"], sys.modules["chumpy.ch"]


def write_obj(path, vertices, polygons=()):
    path.write_text("# made for a test\n" + "".join(f"v {x:.6f} {y:.6f} {z:.6f}\n" for x, y, z in vertices) + "".join("f " + " ".join(f"{i + 1}/{i + 1}" for i in p) + "\n" for p in polygons))


def write_ict(path, face, **change):
    """The folder: quads, centimetres, expressions on one side named _L and _R."""
    path.mkdir()
    half = len(face["triangles"]) // 2
    quads = np.concatenate((face["triangles"][:half], face["triangles"][half:, 2:]), 1)
    files = {"generic_neutral_mesh": face["mean"]} | {f"identity{k:03d}": face["mean"] + face["identity"][:, :, k] for k in range(5)}
    for ict, name in {"jawOpen": "jawOpen", "eyeBlink_L": "eyeBlinkLeft", "eyeBlink_R": "eyeBlinkRight", "mouthSmile_L": "mouthSmileLeft", "mouthSmile_R": "mouthSmileRight"}.items():
        files[ict] = face["mean"] + face["units"][:, :, face["names"].index(name)]
    brows = face["units"][:, :, face["names"].index("browInnerUp")]
    left = face["mean"][:, :1] > SHIFT[0]
    files |= {"browInnerUp_L": face["mean"] + brows * left, "browInnerUp_R": face["mean"] + brows * ~left} | change
    for name, vertices in files.items():
        write_obj(path / f"{name}.obj", vertices / 10, quads if name == "generic_neutral_mesh" else ())
    (path / "vertex_indices.json").write_text(json.dumps(dict(idx_to_landmark_verts=face["landmarks"].tolist(), expressions=[])))


def write_surrey(path, face, blendshapes=False):
    import eos
    part = eos.morphablemodel
    modes, sd = unit_modes(face["identity"])
    shape = part.PcaModel(column(face["mean"]), modes, (sd ** 2)[:, None], face["triangles"].tolist())
    part.save_model(part.MorphableModel(shape, part.PcaModel()), str(path))
    if blendshapes:
        shapes = []
        for k, name in enumerate(("anger", "happiness")):
            shapes.append(part.Blendshape())
            shapes[-1].name, shapes[-1].deformation = name, column(face["expression"])[:, k]
        part.save_blendshapes(shapes, str(path.with_name(path.name.replace("sfm_shape", "expression_blendshapes"))))


WRITERS = {"01_MorphableModel.mat": write_basel_2009, "BFM_model_front.mat": write_basel_front, "BFM.mat": write_basel_repack, "model2017-1.h5": write_basel_2017, "flame2023.npz": write_flame_npz,
           "generic_model.pkl": write_flame_pkl, "FaceXModel": write_ict, "sfm_shape_3448.bin": write_surrey}
WHOLE = ("flame2023.npz", "generic_model.pkl", "FaceXModel")           # heads with eyeballs and teeth; the others are faces


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
    assert np.ptp(offset, axis=0).max() < .01                                           # only the origin moved ...
    assert model.mean[model.region].mean(0).abs().max() < 1e-3                          # ... to the middle of the face
    np.testing.assert_allclose(model.identity_basis[:, :, :5], face["identity"], atol=2e-3)
    if "flame" in name or name in ("BFM_model_front.mat", "BFM.mat", "model2017-1.h5", "generic_model.pkl"):
        np.testing.assert_allclose(model.expression_basis, face["expression"], atol=2e-3)
        assert model.unit_names == () and model.units.shape[2] == 0


@pytest.mark.parametrize("name", WRITERS)
def test_landmarks_region_and_triangles(models, truth, name):
    model, face = models[name], truth if name in WHOLE else cut(truth)
    off = np.linalg.norm(face["mean"][model.landmarks] - face["mean"][face["landmarks"]], axis=1)
    assert len(set(model.landmarks.tolist())) == 68 and off.mean() < 1.5 and off.max() < 8
    assert (face["mean"][face["landmarks"]][8:9] - face["mean"][model.landmarks[8]]).any() or off[8] == 0
    a, b, c = model.mean[model.triangles].unbind(1)
    normals = torch.linalg.cross(b - a, c - a)
    front = a[:, 2] > model.mean[model.landmarks[36:48], 2].mean() - 10                  # the front of the face
    assert (normals[front] * normals.new_tensor([0, 0, 1.])).sum() > 0
    expected = set(truth["face"].tolist()) if name in WHOLE else set(range(len(face["mean"])))
    found = set(model.region.tolist())
    assert len(found & expected) > .93 * len(expected) and len(found - expected) < .03 * len(expected)


@pytest.mark.parametrize("name", WRITERS)
def test_the_renderers_attributes_are_carried_over(models, face_model, truth, name):
    model = models[name]
    at = slice(None) if name in WHOLE else truth["face"]
    assert set(model.attributes) == set(face_model.attributes)
    for key in ("lips", "brow", "beard", "ear"):
        ours = face_model.attributes[key][at]
        assert (model.attributes[key] - ours).abs().mean() < .25 * ours.mean() + .005, key
    for key in ("eye", "teeth", "tongue"):
        assert (model.attributes[key].round() - face_model.attributes[key][at]).abs().mean() < .01, key


def test_each_format_has_its_name(models):
    assert [models[k].name for k in WRITERS] == ["basel2009-front" if "front" in k else "basel2009" if ".mat" in k else "basel" if ".h5" in k else "surrey" if ".bin" in k
                                                 else "ict" if k == "FaceXModel" else "flame" for k in WRITERS]
