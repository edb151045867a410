"""Real photos: a tiny folder in AFLW2000-3D's format, whose pictures tell where each pixel lies."""

import io

import numpy as np
import torch
from numpy.testing import assert_allclose
from PIL import Image
from test_datasets import LANDMARKS, POINTS, POSE, made

from e2far.analysis import photos

SHAPE = dict(Shape_Para=np.arange(199.0)[:, None])
FITTED = SHAPE | dict(Exp_Para=np.arange(29.0)[:, None] / 9)


def read(folder, fitted):
    """Two photos of 400 px, whose red is half of x and whose green half of y."""
    red, green = np.meshgrid(np.arange(400) / 2, np.arange(400) / 2)
    picture, file = np.stack([red, green, 0 * red], 2).round().astype(np.uint8), io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=98, subsampling=0)
    mat = dict(pt3d_68=POINTS, Pose_Para=POSE) | fitted
    return photos.read_sample(made("aflw2000", folder, {".mat": mat, ".jpg": file.getvalue()}), 100)


def test_a_photo_becomes_a_crop_with_its_landmarks_and_what_was_fitted(tmp_path):
    found = read(tmp_path, FITTED)
    assert found["image"].shape == (2, 3, 100, 100) and found["image"].dtype == torch.uint8
    assert found["person"].tolist() == [0, 1]
    assert_allclose(found["angles"][0], [-45, np.degrees(0.1), 0], atol=1e-4)
    assert_allclose(found["shape"], np.tile(np.arange(10), (2, 1)))
    assert_allclose(found["expression"][1], np.arange(10) / 9, rtol=1e-6)
    x, y = found["landmarks"][0].int().T
    seen = 2 * found["image"][0, :2, y, x].float()  # the pixels in which the landmarks lie
    assert_allclose(seen.T, LANDMARKS, atol=6)


def test_what_nobody_fitted_is_left_out(tmp_path):
    found = read(tmp_path, SHAPE)
    assert found["expression"].isnan().all()
    names = "jaw opening", "smile width", "face width", "fitted shape", "yaw"
    assert tuple(photos.targets_of(found)) == names


def test_what_pose_explains_is_taken_out_of_all_but_yaw():
    rng = np.random.default_rng(0)
    angles, marks = rng.uniform(-60, 60, (300, 3)), np.tile(LANDMARKS, (300, 1, 1))
    yaw, own = np.radians(angles[:, :1]), rng.normal(size=(300, 10))
    marks[:, 15] = marks[:, 1] + [100, 0] * (2 + yaw**2 - yaw**3)  # the width of the face
    marks[:, 66] = marks[:, 62] + [0, 40] * rng.uniform(size=(300, 1))  # the opening of the jaw
    sample = dict(landmarks=marks, angles=angles, shape=own + 5 * yaw, expression=own)
    found = photos.targets_of({name: torch.from_numpy(x) for name, x in sample.items()})
    assert_allclose(found["yaw"], angles[:, :1])
    assert_allclose(found["face width"], 0, atol=1e-9)
    for name, truth in {"jaw opening": marks[:, 66, 1], "fitted shape": own[:, 0]}.items():
        kept = lambda x: np.corrcoef(found[name][:, 0], x)[0, 1]
        assert kept(truth) > 0.9 and abs(kept(yaw[:, 0])) < 1e-9
