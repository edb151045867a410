"""AFLW2000-3D and 300W-LP (Zhu et al., CVPR 2016): photos with pose and landmarks of the 3D face.

Folders, as TensorFlow Datasets' reader (the300w_lp) and many public readers agree. AFLW2000-3D:
`image00002.jpg` and `.mat` beside each other, `pt3d_68` (3, 68), whose first two rows are the
landmarks. 300W-LP: `AFW/`, `HELEN/`, `IBUG/`, `LFPW/` with `AFW_134212_1_0.jpg` and `.mat`, and
`landmarks/AFW/AFW_134212_1_0_pts.mat` with `pts_3d` (68, 2), landmarks of the same kind; mirrored
ones in `AFW_Flip/` and so on are left out, as there. `Pose_Para` (1, 7): pitch, yaw, roll in
radians, as the owner signs them, then translation and scale.
# Choice: landmarks as stored, as those who publish errors on them do. They may count from (1, 1) at
the first pixel's centre, as MATLAB does: half a pixel from our convention; not verified.
"""

import warnings
from functools import partial

import numpy as np
import torch
from scipy.io import loadmat

from e2far import camera
from e2far.benchmark.datasets import records
from e2far.files import reading

WHERE = "from Xiangyu Zhu's page of 3DDFA (cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm)"
AFLW2000 = f"AFLW2000-3D, a folder of image*.jpg and image*.mat, {WHERE}"
W300_LP = f"300W-LP, a folder with AFW, HELEN, IBUG, LFPW and landmarks, {WHERE}"
PARTS = ("AFW", "HELEN", "IBUG", "LFPW")


def read_aflw2000(folder):
    """Items of the 2,000 photos, nobody knows of whom: each is a person of its own."""
    photos = records.find(folder, "image*.jpg", r"(.*)\.jpg")
    return items(folder, AFLW2000, photos, "{}.mat", "pt3d_68")


def read_300w_lp(folder):
    """Items of the photos; one and its copies, turned to other yaws, count as one person.

    Many copies lack parts. What they have is read; a warning counts what is left out.
    """
    records.locate(folder, W300_LP, *PARTS)
    photos, marks_name = [], "landmarks/{}_pts.mat"
    for part in PARTS:
        photos += records.find(folder, f"{part}/*.jpg", r"(.*)\.jpg")
    needed = [[f"{match[1]}.mat", marks_name.format(match[1])] for match in photos]
    missing = set(records.absent(folder, [name for files in needed for name in files]))
    whole = [match for match, files in zip(photos, needed) if missing.isdisjoint(files)]
    left_out = [f"{part} is missing" for part in PARTS if not (folder / part).is_dir()]
    if len(whole) < len(photos):
        lack = f"{len(photos) - len(whole)} photos without .mat or landmarks are left out"
        left_out.append(f"{lack}, first without {min(missing)}")
    if whole and left_out:
        warnings.warn(
            f"{folder}: {len(whole)} photos are read; {'; '.join(left_out)}", stacklevel=3
        )
    return items(folder, W300_LP, whole or photos, marks_name, "pts_3d")


def items(folder, what, photos, marks_name, array_name):
    """Items of `photos` (matches of stems); `marks_name` is a file of landmarks, {} its stem."""
    stems = [match[1] for match in photos]
    files = dict.fromkeys(name.format(stem) for name in ("{}.mat", marks_name) for stem in stems)
    records.require(folder, what, list(files), "annotations of photos")
    found = []
    for stem in stems:
        landmarks = partial(read_landmarks, folder / marks_name.format(stem), array_name, what)
        sources = {
            "landmarks": landmarks,
            "box": partial(box_around, landmarks),
            "condition": partial(read_pose, folder / f"{stem}.mat", what),
        }
        person = stem.rpartition("_")[0] or stem
        found.append(records.Item(stem, person, folder / f"{stem}.jpg", {}, sources))
    return found


def read_landmarks(path, name, what):
    """Landmarks (68, 2) px of the array `name`, (68, 2) or (3, 68), of a .mat."""
    with reading(path, what):
        points = loadmat(path, variable_names=[name])[name]
        return records.as_points(points[:2].T if points.shape == (3, 68) else points, (68, 2), name)


def box_around(read_marks):
    """The box of our crop rule around the landmarks: the protocol gives the face's place."""
    return tuple(camera.crop_box(torch.from_numpy(read_marks())).tolist())


def read_pose(path, what):
    """pitch_deg, yaw_deg, roll_deg of a .mat."""
    with reading(path, what):
        stored = loadmat(path, variable_names=["Pose_Para"])["Pose_Para"].ravel()[:3]
        pitch, yaw, roll = np.degrees(records.as_points(stored, (3,), "Pose_Para")).tolist()
        return dict(pitch_deg=pitch, yaw_deg=yaw, roll_deg=roll)
