"""A user's folder of real photos: what is in it, and what is wrong with it."""

import shutil

import numpy as np
import pytest
from safetensors.torch import load_file
from test_datasets import POINTS, POSE, made

from e2far import data
from e2far.pipeline import layer_study, params, real_photos

MAT = dict(pt3d_68=POINTS, Pose_Para=POSE)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """Runs it up to the study, which two photos are enough for; the sample that the study gets."""
    monkeypatch.setenv("E2FAR_OUT", str(tmp_path / "out"))
    monkeypatch.setattr(data, "Faces", lambda folder: None)
    monkeypatch.setattr(layer_study, "main", lambda profile: None)
    monkeypatch.setattr(real_photos, "LEAST", 2)

    def run(folder):
        real_photos.main(folder, "smoke")
        return load_file(layer_study.place(params.load("layers", "smoke"), "real photos"))

    return run


@pytest.mark.parametrize("name, count", {"aflw2000": 2, "300w-lp": 8}.items())
def test_a_folder_is_known_by_what_is_in_it(name, count, run, tmp_path):
    made(name, tmp_path / "photos")
    assert len(run(tmp_path / "photos")["image"]) == count


def test_300w_lp_without_its_landmarks_is_not_taken_for_the_other(run, tmp_path):
    made("300w-lp", tmp_path)
    shutil.rmtree(tmp_path / "landmarks")
    with pytest.raises(FileNotFoundError, match="first landmarks/.*; it should be 300W-LP"):
        run(tmp_path)


@pytest.mark.parametrize("damaged", [".jpg", ".mat"])
def test_a_damaged_photo_is_named_and_the_others_are_read(damaged, run, tmp_path):
    made("aflw2000", tmp_path)
    for number in (6, 8):
        for end in (".jpg", ".mat"):
            shutil.copy(tmp_path / f"image00004{end}", tmp_path / f"image0000{number}{end}")
    (tmp_path / f"image00002{damaged}").write_bytes(b"")
    (tmp_path / "image00006.jpg").write_bytes((tmp_path / "image00004.jpg").read_bytes()[:200])
    told = f"2 of 4 photos cannot be read: .*image00002{damaged}: .*image00006.jpg: "
    with pytest.warns(UserWarning, match=told):
        sample = run(tmp_path)
    assert np.array_equal(sample["person"], [0, 1])
    (tmp_path / "image00004.jpg").write_bytes(b"")
    (tmp_path / "image00008.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="4 of 4 photos cannot be read"):
        run(tmp_path)
