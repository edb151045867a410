from types import SimpleNamespace

import numpy as np
import pytest
import torch
from scipy.stats import spearmanr
from skimage.data import astronaut, brick, chelsea, coffee, hubble_deep_field, page, rocket

from e2far import camera, morphable
from e2far.network import E2FAR
from e2far.photo import confidence
from e2far.photo.calibration import EMPTY, SPOILT, calibrate, empty, spoil, trials
from e2far.photo.confidence import OPPOSITE, Calibration, disagreement_percent
from e2far.photo.reconstructor import Reconstructor


def test_opposite_points_mirror_each_other(face_model):
    points = face_model.mean[face_model.landmarks]
    assert [OPPOSITE[i] for i in OPPOSITE] == list(range(68))
    assert (points[list(OPPOSITE)] * torch.tensor([-1.0, 1.0, 1.0]) - points).norm(
        dim=1
    ).max() < 1.5  # mm; the mean head is nearly symmetric


def test_disagreement_is_none_for_mirrored_landmarks_and_counts_in_the_face_s_size():
    points = torch.rand(3, 68, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mirrored = torch.stack((1 - points[..., 0], points[..., 1]), -1)[:, OPPOSITE]
    torch.testing.assert_close(
        disagreement_percent(points, mirrored), torch.zeros(3, dtype=torch.float64)
    )
    torch.testing.assert_close(
        disagreement_percent(points + torch.tensor([0.03, -0.04]), mirrored),
        torch.full((3,), 5 * camera.CROP_SIDE, dtype=torch.float64),
    )


def test_a_photo_and_its_mirror_image_disagree_by_the_same():
    torch.manual_seed(0)
    look = Reconstructor(
        E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32),
        morphable.toy_model(dtype=torch.float32),
    ).look
    crops = torch.rand(2, 3, 48, 48)
    both = look(torch.cat((crops, crops.flip(3))))["disagreement_percent"]
    torch.testing.assert_close(both[:2], both[2:])
    assert both.min() > 0


@pytest.mark.parametrize("kind", SPOILT)
def test_landmarks_follow_a_spoilt_picture(kind):
    """A bright dot at a landmark must lie at the moved landmark (where it is not covered)."""
    side, count = 80, 12
    image, at = (
        torch.zeros(count, 3, side, side),
        torch.from_numpy(np.random.default_rng(0).integers(30, 50, (count, 2))),
    )
    for i, (x, y) in enumerate(at.tolist()):
        image[i, :, y - 1 : y + 2, x - 1 : x + 2] = 1.0
    landmarks = (at[:, None] + 0.5).expand(-1, 68, -1)
    spoilt, moved = spoil(image, landmarks, kind, np.random.default_rng(1))
    again, _ = spoil(image, landmarks, kind, np.random.default_rng(1))
    assert (
        torch.equal(spoilt, again)
        and spoilt.shape == image.shape
        and spoilt.min() >= 0
        and spoilt.max() <= 1
        and not torch.equal(spoilt, image)
    )
    y, x = torch.meshgrid(torch.arange(side) + 0.5, torch.arange(side) + 0.5, indexing="ij")
    weight = spoilt.mean(1) ** 4
    found = torch.stack(
        [(weight * axis).sum((1, 2)) / weight.sum((1, 2)).clamp(min=1e-9) for axis in (x, y)], 1
    )
    if kind == "covered":
        share = (spoilt != image).any(1).float().mean((1, 2))
        assert torch.equal(moved, landmarks) and ((share > 0.25) & (share < 0.85)).all()
    elif kind in ("turned", "misplaced"):
        inside = ((moved > 4) & (moved < side - 4)).all(-1)[:, 0]
        assert (
            inside.sum() > count / 2
            and (found - moved[:, 0])[inside].norm(dim=1).max() < 1.0
            and (moved - landmarks).norm(dim=-1).min() > 0
        )
    else:
        assert torch.equal(moved, landmarks)


def test_pictures_without_a_face():
    faces = torch.rand(4, 3, 80, 80)
    for kind in EMPTY:
        pictures = empty(faces, kind, np.random.default_rng(0))
        assert (
            pictures.shape == faces.shape
            and pictures.min() >= 0
            and pictures.max() <= 1
            and not torch.equal(pictures, faces)
        )
    torch.testing.assert_close(
        empty(faces, "shuffled", np.random.default_rng(0)).sum((2, 3)), faces.sum((2, 3))
    )  # the same pixels elsewhere


class Faces:
    """Blank pictures of the toy model's mean face, all in one place."""

    image_size = 48

    def __init__(self, model, count):
        points = model.mean[model.landmarks]
        self.landmarks, self.count = 24 + points[:, :2] / points[:, :2].abs().max() * 12, count

    def __len__(self):
        return self.count

    def __getitem__(self, rows):
        n = len(rows)
        return dict(
            image=torch.rand(n, 3, 48, 48),
            landmarks=self.landmarks.expand(n, -1, -1),
            identity=torch.zeros(n, 6),
            expression=torch.zeros(n, 4),
        )


@pytest.fixture(scope="module")
def guesser():
    """A reconstructor whose landmarks are off by a different amount in every picture, and whose mirrored landmarks are off by another draw of the same amount."""
    model, generator = morphable.toy_model(dtype=torch.float32), torch.Generator().manual_seed(0)
    faces = Faces(model, 600)

    def estimate(pictures, boxes):
        n, normal = len(pictures), lambda *shape: torch.randn(*shape, generator=generator)
        amount = 0.002 * torch.exp(1.2 * normal(n, 1, 1)).clamp(max=20)
        landmarks, back = (faces.landmarks / 48 + amount * normal(n, 1, 2) for _ in range(2))
        seen = dict(
            image_landmarks=48 * landmarks,
            identity=100 * amount[:, 0] * normal(n, model.n_identity),
            expression=torch.zeros(n, model.n_expression),
            disagreement_percent=100 * camera.CROP_SIDE * (landmarks - back).norm(dim=-1).mean(-1),
        )
        return {name: values.numpy() for name, values in seen.items()}

    return SimpleNamespace(model=model, device="cpu", version="0" * 16, estimate=estimate), faces


def test_what_was_found_is_what_is_predicted(guesser):
    """On new trials: errors rise and the score falls with disagreement, they are those found, and one in a hundred whole faces is unlike the others."""
    calibration = calibrate(*guesser, count=600, seed=0)
    assert calibration.version == "0" * 16
    for curve, sign in (
        (calibration.score, -1),
        (calibration.landmark_error_percent, 1),
        (calibration.vertex_error_mm, 1),
        (calibration.disagreement_percent, 1),
    ):
        assert (sign * np.diff(curve) >= 0).all() and curve[0] != curve[-1]
    new = trials(*guesser, count=600, seed=1)
    whole, face = new["kind"] == "whole", np.isfinite(new["vertex_error_mm"])
    assert (
        set(new["kind"]) == {"whole", *SPOILT, *EMPTY}
        and np.isnan(new["vertex_error_mm"][np.isin(new["kind"], EMPTY)]).all()
    )
    for name in confidence.ERRORS:
        said = np.array(
            [getattr(calibration(value), name) for value in new["disagreement_percent"]]
        )
        assert spearmanr(new[name][whole], said[whole])[0] > 0.4
        mean = lambda errors: np.average(
            np.log(errors[face]),
            weights=np.where(whole, 0.5 / whole.sum(), 0.5 / (~whole).sum())[face],
        )  # half of all are whole faces
        assert mean(new[name]) == pytest.approx(mean(said), abs=0.15)
    told = [calibration(value) for value in new["disagreement_percent"][whole]]
    assert np.mean([one.unlike_training for one in told]) < 0.03
    sure = [one for one in told if not one.unlike_training]
    assert max(one.score for one in sure) > 0.6 > 0.2 > min(one.score for one in told)
    assert calibration(1e9).unlike_training and calibration(0.0).score == calibration.score[0]


def test_a_calibration_comes_back(tmp_path):
    one = Calibration("0" * 16, (1.0, 10.0), (0.9, 0.1), (2.0, 20.0), (3.0, 5.0), 4.0)
    path = confidence.beside(tmp_path / "mine.safetensors")
    assert path.name == "mine.confidence.json" and confidence.load(path) is None
    one.save(path)
    assert confidence.load(path) == one
    halfway = one(10**0.5)
    assert (
        halfway.score,
        halfway.landmark_error_percent,
        halfway.vertex_error_mm,
        halfway.unlike_training,
    ) == (pytest.approx(0.5), pytest.approx(11), pytest.approx(4), False)
    for text in ("{", "[1]", "{}"):
        path.write_text(text)
        with pytest.raises(ValueError, match="mine.confidence.json is no calibration") as error:
            confidence.load(path)
        assert "\n" not in str(error.value)


def test_the_shipped_weights_know_a_face_from_a_cat():
    """Squares cut at random out of pictures without a face, a cat's whole face, and plain grey."""
    reconstructor, rng = Reconstructor.from_pretrained(), np.random.default_rng(0)
    assert reconstructor.calibration is not None, (
        "data/weights/default.confidence.json is missing or of other weights: make it again with `make release`"
    )
    face = reconstructor(astronaut()).confidence
    assert face.score > 0.7 and face.landmark_error_percent < 5 and not face.unlike_training
    others = [
        reconstructor(chelsea(), (60, 20, 320, 280)).confidence,
        reconstructor(np.full((90, 90, 3), 128, np.uint8), (5, 5, 85, 85)).confidence,
    ]
    assert all(one.unlike_training and one.score < 0.2 for one in others)
    for picture in (chelsea(), coffee(), rocket(), hubble_deep_field(), brick(), page()):
        side = rng.uniform(60, min(picture.shape[:2]), (10, 1))
        low = rng.random((10, 2)) * (picture.shape[1::-1] - side)
        others += [
            one.confidence
            for one in reconstructor.reconstruct(picture, np.hstack((low, low + side)))
        ]
    assert (
        np.mean([one.unlike_training for one in others]) > 0.85
        and np.median([one.score for one in others]) < 0.1
    )
