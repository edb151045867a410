"""Real photos with landmarks as a sample for probes: AFLW2000-3D or 300W-LP, in the user's folder.

Nobody knows these faces' coefficients, so probes are asked for what 68 landmarks and the owner's
fitted model say: how far the jaw is open, how wide the smile and the face are, the yaw; and the
fitted coefficients. What pose alone explains of them is taken out first (but of yaw).
"""

import warnings

import numpy as np
import torch
from PIL import Image
from scipy.io import loadmat

from e2far import camera
from e2far.files import extra, reading

with extra("study"):
    from sklearn.linear_model import LinearRegression
    from sklearn.preprocessing import PolynomialFeatures


FITTED = dict(shape="Shape_Para", expression="Exp_Para")  # arrays of the .mat beside a photo
COUNT = 10  # of the fitted coefficients, the first of each kind


def read_sample(photos, size, limit=4000):
    """Photos, of `benchmark.datasets.open_dataset`, as tensors, a row each:

    image (n, 3, size, size) uint8, landmarks
    (n, 68, 2) px in it, angles (n, 3) degrees, person (n,), shape and expression (n, 10).

    Photos without fitted coefficients have nan there. What cannot be read is left out; a warning
    names it, with its count. ValueError if nothing can.    limit: at most so many, evenly spread
    """
    numbers = np.linspace(0, len(photos) - 1, min(limit, len(photos))).round().astype(int)
    chosen, people, rows, damaged = np.unique(numbers), {}, [], []
    for item in (photos[int(number)] for number in chosen):
        try:
            row = read_photo(item, size)
        except (ValueError, OSError) as error:
            damaged.append(str(error))
            continue
        rows.append(row | dict(person=torch.tensor(people.setdefault(item.person, len(people)))))
    if damaged:
        lost = f"{len(damaged)} of {len(chosen)} photos cannot be read: {'; '.join(damaged[:10])}"
        if not rows:
            raise ValueError(lost)
        warnings.warn(f"{lost}; the others are used", stacklevel=2)
    return {key: torch.stack([row[key] for row in rows]) for key in rows[0]}


def read_photo(item, size):
    """A row of `read_sample` but for the person; ValueError naming the file that is damaged."""
    marks, condition = torch.as_tensor(item.landmarks).float(), item.condition
    box = camera.crop_box(marks)
    with reading(item.image, "a photo"), Image.open(item.image) as photo:
        place = tuple(box.tolist())
        crop = photo.convert("RGB").transform((size, size), Image.Transform.EXTENT, place, 2)
    coefficients = item.image.with_suffix(".mat")
    with reading(coefficients, "the fitted coefficients of a photo"):
        fitted = loadmat(coefficients, variable_names=[*FITTED.values()])
        return dict(
            image=torch.from_numpy(np.array(crop)).permute(2, 0, 1),
            landmarks=(marks - box[:2]) * (size / float(box[2] - box[0])),
            angles=torch.tensor([condition[f"{a}_deg"] for a in ("yaw", "pitch", "roll")]),
        ) | {key: _first(fitted, array) for key, array in FITTED.items()}


def _first(fitted, array):
    values = np.full(COUNT, np.nan, np.float32)
    found = np.ravel(fitted.get(array, []))[:COUNT]
    values[: len(found)] = found
    return torch.from_numpy(values)


def targets_of(sample):
    """Target -> (n, T), pose taken out of all but yaw. sample: of `read_sample`"""
    marks, angles = sample["landmarks"].numpy(), sample["angles"].numpy()
    length = lambda a, b: np.linalg.norm(marks[:, a] - marks[:, b], axis=1)[:, None]
    eyes = np.linalg.norm(marks[:, 36:42].mean(1) - marks[:, 42:48].mean(1), axis=1)[:, None]
    found = {
        "jaw opening": length(62, 66) / length(27, 33),
        "smile width": length(48, 54) / np.sqrt(eyes * length(27, 8)),
        "face width": length(1, 15) / length(27, 8),
        **{f"fitted {key}": sample[key].numpy() for key in FITTED},
    }
    pose = PolynomialFeatures(3).fit_transform(np.radians(angles))
    found = {key: x for key, x in found.items() if np.isfinite(x).all()}
    residual = lambda x: x - LinearRegression().fit(pose, x).predict(pose)
    return {key: residual(x) for key, x in found.items()} | {"yaw": angles[:, :1]}
