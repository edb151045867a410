"""Real photos: a tiny folder in AFLW2000-3D's format, whose pictures tell where each pixel lies."""

import io

import numpy as np
import torch
from PIL import Image
from test_datasets import LANDMARKS, POINTS, POSE, made

from e2far import camera
from e2far.analysis import photos

FITTED = dict(Shape_Para=np.arange(199.0)[:, None], Exp_Para=np.arange(29.0)[:, None] / 9)


def plane():
    """A JPEG of 400 px whose red is half of x and whose green half of y."""
    half = np.arange(400) / 2
    red, green = np.meshgrid(half, half)
    picture, file = np.stack([red, green, 0 * red], 2).round().astype(np.uint8), io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=98, subsampling=0)
    return file.getvalue()


def read(folder, fitted):
    mat = dict(pt3d_68=POINTS, Pose_Para=POSE) | fitted
    return photos.read_sample(made("aflw2000", folder, {".mat": mat, ".jpg": plane()}), 100)


def test_a_photo_becomes_a_crop_with_its_landmarks_and_what_was_fitted(tmp_path):
    found = read(tmp_path, FITTED)
    assert found["image"].shape == (2, 3, 100, 100) and found["image"].dtype == torch.uint8
    assert found["person"].tolist() == [0, 1]
    np.testing.assert_allclose(found["angles"][0], [-45, np.degrees(0.1), 0], atol=1e-4)
    np.testing.assert_allclose(found["shape"], np.tile(np.arange(10), (2, 1)))
    np.testing.assert_allclose(found["expression"][1], np.arange(10) / 9, rtol=1e-6)
    box = camera.crop_box(torch.from_numpy(LANDMARKS))
    marks = found["landmarks"][0].numpy()
    np.testing.assert_allclose(
        marks, (LANDMARKS - box[:2].numpy()) * 100 / (box[2] - box[0]).item(), rtol=1e-4
    )
    x, y = marks.astype(int).T
    seen = 2 * found["image"][0, :2, y, x].float().numpy().T  # of the pixel that the mark lies in
    np.testing.assert_allclose(seen, LANDMARKS, atol=6)


def test_what_nobody_fitted_is_left_out(tmp_path):
    shape = read(tmp_path, dict(Shape_Para=FITTED["Shape_Para"]))
    assert torch.isnan(shape["expression"]).all()
    assert {"fitted shape", "yaw"} <= {*photos.targets_of(shape)}
    assert "fitted expression" not in photos.targets_of(shape)


def test_a_limit_takes_photos_from_the_whole_folder(tmp_path):
    photos_of = [made("aflw2000", tmp_path)[k] for k in (0, 1, 0, 1, 0)]
    assert photos.read_sample(photos_of, 20, limit=3)["person"].tolist() == [0, 0, 0]


def test_what_pose_explains_is_taken_out_of_all_but_yaw():
    rng = np.random.default_rng(0)
    angles, marks = rng.uniform(-60, 60, (300, 3)), np.tile(LANDMARKS, (300, 1, 1))
    yaw = np.radians(angles[:, :1])
    marks[:, 15] = marks[:, 1] + [100, 0] * (2 + yaw**2 - yaw**3)  # the width of the face
    marks[:, 66] = marks[:, 62] + [0, 40] * rng.uniform(0, 1, (300, 1))  # the opening of the jaw
    own = rng.normal(size=(300, 10))
    sample = dict(landmarks=marks, angles=angles, shape=own + 5 * yaw, expression=np.sin(yaw) * own)
    found = photos.targets_of({name: torch.from_numpy(x) for name, x in sample.items()})
    np.testing.assert_array_equal(found["yaw"], angles[:, :1])
    np.testing.assert_allclose(found["face width"], 0, atol=1e-9)
    kept = lambda name, truth: np.corrcoef(found[name][:, 0], truth)[0, 1]
    assert kept("jaw opening", marks[:, 66, 1]) > 0.9 and kept("fitted shape", own[:, 0]) > 0.9
    assert all(
        abs(kept(name, yaw[:, 0])) < 1e-9
        for name in found
        if name not in ("yaw", "face width", "smile width")
    )
