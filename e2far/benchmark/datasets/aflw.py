"""AFLW2000-3D and 300W-LP (Zhu, Lei, Liu, Shi, Li, "Face alignment across large poses: a 3D solution", CVPR 2016): 450 x 450 photos with 68 landmarks that follow the 3D face, and its pose.

Folders, as TensorFlow Datasets' reader (the300w_lp) and many public readers agree. AFLW2000-3D: `image00002.jpg` and `.mat` beside each other, `pt3d_68` (3, 68), whose first two rows are the
landmarks.
300W-LP: `AFW/`, `HELEN/`, `IBUG/`, `LFPW/` with `AFW_134212_1_0.jpg` and `.mat`, and `landmarks/AFW/AFW_134212_1_0_pts.mat` with `pts_3d` (68, 2), the landmarks of the same kind. `AFW_Flip/` and
so on hold the same pictures mirrored and are left out, as there. `Pose_Para` (1, 7): pitch, yaw, roll in radians, as the owner signs them, then translation and scale.
# Choice: landmarks as stored, as those who publish errors on them do. The owner's code is MATLAB's, so they may count from (1, 1) at the first pixel's centre: half a pixel from our convention;
not verified.
"""

from functools import partial

import numpy as np
import torch
from scipy.io import loadmat

from e2far import camera
from e2far.benchmark.datasets.records import Item, Samples, locate, names, reading, require
from e2far.benchmark.metrics import as_points

WHERE = "from Xiangyu Zhu's page of 3DDFA (cbsr.ia.ac.cn/users/xiangyuzhu/projects/3DDFA/main.htm)"
AFLW2000 = f"AFLW2000-3D, a folder of image*.jpg and image*.mat, {WHERE}"
W300_LP = f"300W-LP, a folder with AFW, HELEN, IBUG, LFPW and landmarks, {WHERE}"
PARTS = ("AFW", "HELEN", "IBUG", "LFPW")


def read_aflw2000(folder):
    """A `Samples` of the 2,000 photos, nobody knows of whom: each is a person of its own."""
    folder = next(
        (folder / name for name in ("AFLW2000", "AFLW2000-3D") if (folder / name).is_dir()), folder
    )
    listed = names(folder)
    keys = [n.removesuffix(".jpg") for n in listed if n.startswith("image") and n.endswith(".jpg")]
    require(
        folder,
        AFLW2000,
        [
            f"{key}.mat"
            for key in sorted(
                set(keys) - {n.removesuffix(".mat") for n in listed if n.endswith(".mat")}
            )
        ],
        len(keys),
        "annotations of photos",
    )
    return Samples(folder, keys, partial(build_aflw2000, folder))


def build_aflw2000(folder, key):
    return annotated(
        key,
        key,
        folder / f"{key}.jpg",
        folder / f"{key}.mat",
        folder / f"{key}.mat",
        "pt3d_68",
        AFLW2000,
    )


def read_300w_lp(folder):
    """A `Samples` of the photos, turned by the owner to several yaws; a photo and its turned copies count as one person."""
    folder = folder / "300W_LP" if (folder / "300W_LP").is_dir() else folder
    keys, missing = [], []
    for part in PARTS:
        listed, marks = (
            set(names(locate(folder, W300_LP, place))) for place in (part, f"landmarks/{part}")
        )
        found = [f"{n.removesuffix('.jpg')}" for n in sorted(listed) if n.endswith(".jpg")]
        missing += [f"{part}/{n}.mat" for n in found if f"{n}.mat" not in listed] + [
            f"landmarks/{part}/{n}_pts.mat" for n in found if f"{n}_pts.mat" not in marks
        ]
        keys += [f"{part}/{n}" for n in found]
    require(folder, W300_LP, missing, len(keys), "annotations of photos")
    return Samples(folder, keys, partial(build_300w_lp, folder))


def build_300w_lp(folder, key):
    return annotated(
        key,
        key.rpartition("_")[0],
        folder / f"{key}.jpg",
        folder / f"{key}.mat",
        folder / "landmarks" / f"{key}_pts.mat",
        "pts_3d",
        W300_LP,
    )


def annotated(name, person, image, pose, marks, key, what):
    return Item(
        name,
        person,
        image,
        {},
        {
            "landmarks": partial(read_landmarks, marks, key, what),
            "box": partial(read_box, marks, key, what),
            "condition": partial(read_pose, pose, what),
        },
    )


def stored(path, name):
    """The array `name` of a .mat."""
    return loadmat(path, variable_names=[name])[name]


def read_landmarks(path, key, what):
    """Landmarks (68, 2) px of the array `key`, (68, 2) or (3, 68), of a .mat."""
    with reading(path, what):
        points = stored(path, key)
        return as_points(points[:2].T if points.shape == (3, 68) else points, (68, 2), key)


def read_box(path, key, what):
    """The box of our crop rule (camera.crop_box) around the landmarks: the set's protocol gives the face's place."""
    return tuple(camera.crop_box(torch.from_numpy(read_landmarks(path, key, what))).tolist())


def read_pose(path, what):
    """pitch_deg, yaw_deg, roll_deg of a .mat."""
    with reading(path, what):
        angles = as_points(stored(path, "Pose_Para").ravel()[:3], (3,), "Pose_Para")
        return dict(zip(("pitch_deg", "yaw_deg", "roll_deg"), np.degrees(angles).tolist()))
