"""The model card's numbers that no stage makes: python tests/photo/card.py PHOTOS FACES

PHOTOS: 300 photos of AFLW2000-3D, which we may not give away: images/ID.jpg and index.json, a list
    of id, yaw_deg and landmarks (68, 2) px    FACES: the split `test` of `make long`
Writes card.json beside this file; tests/test_prose.py holds the card to it.
"""

import json
import sys
from contextlib import suppress
from pathlib import Path

import numpy as np
import torch
from impostors import impostors
from scipy.stats import rankdata, spearmanr

from e2far import Reconstructor, data
from e2far.benchmark import steadiness
from e2far.benchmark.detector import LandmarkDetector
from e2far.photo import calibration, confidence
from e2far.photo.detection import NoFace
from e2far.photo.pictures import crop, load_image
from e2far.pipeline.race import DETECTOR
from e2far.weights import load_network

HERE = Path(__file__).parent
LOOSE, SIDE = 0.2, 1.45  # of boxes; their side over sqrt(w h) of the landmarks


class Photos:
    """Real photos, their landmarks (n, 68, 2) px, the size (n,) of the faces, boxes about them."""

    def __init__(self, folder):
        listed = json.loads((folder / "index.json").read_text())
        self.pictures = [load_image(folder / "images" / f"{one['id']}.jpg") for one in listed]
        self.landmarks = np.array([one["landmarks"] for one in listed])
        self.yaw = np.abs([one["yaw_deg"] for one in listed])
        low, high = self.landmarks.min(1), self.landmarks.max(1)
        self.size, self.centre = np.sqrt((high - low).prod(1)), (low + high) / 2

    def boxes(self, loose=0.0, times=1.0, seed=0):
        rng, side = np.random.default_rng(seed), SIDE * self.size[:, None]
        centre = self.centre + rng.uniform(-loose, loose, (len(side), 2)) * side
        side = side * times * (1 + loose) ** rng.uniform(-1, 1, (len(side), 1))
        return np.hstack((centre - side / 2, centre + side / 2))

    def errors(self, landmarks):
        """Per cent of the face's size (n,), over the 51 inner points."""
        apart = np.linalg.norm(landmarks - self.landmarks, axis=2)
        return 100 * apart[:, 17:].mean(1) / self.size

    def by_yaw(self, values):
        bins = np.digitize(self.yaw, (30, 60), right=True)
        means = [values[bins == each].mean() for each in range(3)]
        return [*means, np.mean(means)]


def see(reconstructor, pictures, boxes, refine=True):
    """`estimate` of all pictures, in batches."""
    parts = [slice(at, at + 50) for at in range(0, len(pictures), 50)]
    seen = [reconstructor.estimate(pictures[part], boxes[part], refine) for part in parts]
    return {key: np.concatenate([one[key] for one in seen]) for key in seen[0]}


def looks(reconstructor, photos):
    """Errors by yaw, and their mean: name of the looks -> list."""
    plain = Reconstructor(reconstructor.network, reconstructor.model, plain=True)
    tries = {
        "one plain look": (plain, 0.0, False),
        "averaged with its mirror image": (reconstructor, 0.0, False),
        "and other looks, upright and moved": (reconstructor, 0.0, True),
        "boxes up to 20 % off, one plain look": (plain, LOOSE, False),
        "boxes up to 20 % off, with all looks": (reconstructor, LOOSE, True),
    }
    found = {}
    for name, (one, loose, refine) in tries.items():
        seen = see(one, photos.pictures, photos.boxes(loose), refine)
        found[name] = photos.by_yaw(photos.errors(seen["image_landmarks"]))
    return found | {"a detector of landmarks alone, one plain look": detected(photos)}


def detected(photos, size=80):
    """Errors by yaw of the landmark detector of `make detector` in the same boxes, one look."""
    network, boxes = load_network(DETECTOR, LandmarkDetector), photos.boxes()
    crops = np.stack([crop(picture, box, size) for picture, box in zip(photos.pictures, boxes)])
    points = steadiness.answer(network, torch.from_numpy(crops).permute(0, 3, 1, 2)).numpy() / 100
    corner, side = boxes[:, None, :2], (boxes[:, 2] - boxes[:, 0])[:, None, None]
    return photos.by_yaw(photos.errors(corner + points * side))


def confidence_on_photos(reconstructor, photos):
    """What the score says of real photos, boxes from our detector, and of impostors."""
    faces, rows = [], []
    for row, picture in enumerate(photos.pictures):
        with suppress(NoFace):
            faces += reconstructor.reconstruct(picture, largest_only=True)
            rows.append(row)
    scores = np.array([face.confidence.score for face in faces])
    landmarks = photos.landmarks.copy()
    landmarks[rows] = [face.image_landmarks for face in faces]
    off, yaw = photos.errors(landmarks)[rows], photos.yaw[rows]
    others = [reconstructor(picture, box).confidence for _, _, picture, box in impostors()]
    against = np.array([one.score for one in others])
    order, doubtful = rankdata(np.r_[scores, against]), scores < confidence.DOUBTFUL
    n = len(scores)
    bad = off > confidence.GOOD
    return dict(
        with_a_face=n,
        doubtful=int(doubtful.sum()),
        doubtful_below_30=doubtful[yaw <= 30].mean(),
        doubtful_beyond_60=doubtful[yaw > 60].mean(),
        doubtful_are_off=bad[doubtful].mean(),
        others_are_off=bad[~doubtful].mean(),
        surest_100_off=int(bad[np.argsort(-scores)[:100]].sum()),
        rank_correlation=spearmanr(scores, off)[0],
        impostors=len(against),
        impostors_doubtful=np.mean(against < confidence.DOUBTFUL),
        area=(order[:n].sum() - n * (n + 1) / 2) / (n * len(against)),
    )


def resized(reconstructor, photos):
    """Mean change of the score where boxes are larger and smaller by 4 and 8 %."""
    told = {}
    for times in (1.0, 0.96, 1.04, 0.92, 1.08):
        seen = see(reconstructor, photos.pictures, photos.boxes(times=times))
        told[times] = reconstructor.calibration.scores(seen["signs"])
    change = {times: np.abs(told[times] - told[1.0]).mean() for times in told}
    return dict(by_4=(change[0.96] + change[1.04]) / 2, by_8=(change[0.92] + change[1.08]) / 2)


def synthetic(reconstructor, faces):
    """What the score says of test people, whole and spoilt, and of dimmed ones."""
    found = calibration.trials(reconstructor, faces, 1000, seed=1)
    scores, off = reconstructor.calibration.scores(found["signs"]), found["landmark_error_percent"]
    whole, face = found["kind"] == "whole", np.isfinite(off)
    placed = reconstructor.calibration.placed(found["signs"])
    good = off < confidence.GOOD
    sure, fair = face & (placed > 0.9), face & (placed > 0.7) & (placed <= 0.9)
    batch, dimmed = faces[np.arange(0, len(faces), len(faces) // 400)], {}
    for light in (1.0, 0.35, 0.25):
        rng = np.random.default_rng(0)
        dim = batch["image"] * light
        seen = calibration.judge(reconstructor, batch, "whole", rng, dim, batch["landmarks"])
        doubted = reconstructor.calibration.scores(seen["signs"]) < confidence.DOUBTFUL
        fine = seen["landmark_error_percent"] < confidence.GOOD
        dimmed[str(light)] = dict(doubtful=doubted.mean(), good=fine.mean())
    return dict(
        rank_correlation=spearmanr(scores[face], off[face])[0],
        doubtful_whole=int((scores[whole] < confidence.DOUBTFUL).sum()),
        good_above_09=good[sure].mean(),
        good_above_07=good[fair].mean(),
        dimmed=dimmed,
    )


def bias_mm(reconstructor, photos):
    """How far (rms, mm) the mean neutral shape of the photos lies from the mean face."""
    seen = see(reconstructor, photos.pictures, photos.boxes())
    model, mean = reconstructor.model, torch.from_numpy(seen["identity"].mean(0)).double()
    offset = model.identity_basis[model.region].double() @ mean
    return offset.square().sum(-1).mean().sqrt().item()


def rounded(value):
    if isinstance(value, dict):
        return {key: rounded(each) for key, each in value.items()}
    if isinstance(value, list):
        return [rounded(each) for each in value]
    return value if isinstance(value, (int, str)) else round(float(value), 4)


if __name__ == "__main__":
    torch.set_num_threads(1)
    shipped, photos = Reconstructor.from_pretrained(), Photos(Path(sys.argv[1]))
    found = dict(
        version=shipped.version,
        looks=looks(shipped, photos),
        bias_mm=bias_mm(shipped, photos),
        score_on_photos=confidence_on_photos(shipped, photos),
        box_resized=resized(shipped, photos),
        score_on_synthetic=synthetic(shipped, data.Faces(sys.argv[2])),
    )
    (HERE / "card.json").write_text(json.dumps(rounded(found), indent=1) + "\n")
