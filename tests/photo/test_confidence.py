import json
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from impostors import FACES, impostors, photo
from scipy.stats import spearmanr
from skimage.data import astronaut, brick, chelsea, coffee, hubble_deep_field, page, rocket
from untrained import faint

from e2far import camera
from e2far.network import FRONTAL
from e2far.photo import confidence
from e2far.photo.calibration import SPOILT, calibrate, spoil, trials
from e2far.photo.confidence import OPPOSITE, Calibration, disagreement_percent
from e2far.photo.likeness import N_PIXEL, fit, signs
from e2far.photo.nonfaces import EMPTY, without_face


def test_opposite_points_mirror_each_other(face_model):
    points = face_model.mean[face_model.landmarks]
    assert [OPPOSITE[i] for i in OPPOSITE] == list(range(68))
    apart = points[list(OPPOSITE)] * torch.tensor([-1.0, 1.0, 1.0]) - points
    assert apart.norm(dim=1).max() < 1.5  # mm; the mean head is nearly symmetric


def test_disagreement_is_none_for_mirrored_landmarks_and_counts_in_the_face_s_size():
    points = torch.rand(3, 68, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    mirrored = torch.stack((1 - points[..., 0], points[..., 1]), -1)[:, OPPOSITE]
    for shift, expected in (((0, 0), 0), ((0.03, -0.04), 5 * camera.CROP_SIDE)):
        found = disagreement_percent(points + torch.tensor(shift), mirrored)
        torch.testing.assert_close(found, torch.full((3,), expected, dtype=torch.float64))


@pytest.mark.parametrize("kind", SPOILT)
def test_landmarks_follow_a_spoilt_picture(kind):
    """A bright dot at a landmark must lie at the moved landmark (where it is not covered)."""
    side, count = 80, 12
    image = torch.zeros(count, 3, side, side)
    at = torch.from_numpy(np.random.default_rng(0).integers(30, 50, (count, 2)))
    for i, (x, y) in enumerate(at.tolist()):
        image[i, :, y - 1 : y + 2, x - 1 : x + 2] = 1.0
    landmarks = (at[:, None] + 0.5).expand(-1, 68, -1)
    spoilt, moved = spoil(image, landmarks, kind, np.random.default_rng(1))
    assert torch.equal(spoilt, spoil(image, landmarks, kind, np.random.default_rng(1))[0])
    assert spoilt.shape == image.shape and not torch.equal(spoilt, image)
    assert spoilt.min() >= 0 and spoilt.max() <= 1
    if kind in ("turned", "misplaced"):
        weight, places = spoilt.mean(1) ** 4, torch.arange(side) + 0.5
        x, y = (weight.sum(axis) @ places for axis in (1, 2))
        found = torch.stack((x, y), 1) / weight.sum((1, 2)).clamp(min=1e-9)[:, None]
        inside = ((moved > 4) & (moved < side - 4)).all(-1)[:, 0]
        assert inside.sum() > count / 2
        assert (found - moved[:, 0])[inside].norm(dim=1).max() < 1.0
        assert (moved - landmarks).norm(dim=-1).min() > 0
    else:
        assert torch.equal(moved, landmarks)
    if kind == "covered":
        share = (spoilt != image).any(1).float().mean((1, 2))
        assert ((share > 0.25) & (share < 0.85)).all()


@pytest.mark.parametrize("kind", EMPTY)
def test_pictures_without_a_face(toy, kind):
    faces = torch.rand(4, 3, 80, 80, generator=torch.Generator().manual_seed(0))
    batch = Faces(toy, 4)[range(4)] | dict(image=faces)
    pictures = without_face(batch, kind, toy, np.random.default_rng(0))
    assert torch.equal(pictures, without_face(batch, kind, toy, np.random.default_rng(0)))
    assert pictures.shape == faces.shape and (pictures != faces).flatten(1).any(1).all()
    assert pictures.min() >= 0 and pictures.max() <= 1
    if kind == "shuffled":  # the same pixels elsewhere
        torch.testing.assert_close(pictures.sum((2, 3)), faces.sum((2, 3)))


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
        truth = dict(identity=torch.zeros(n, 6), expression=torch.zeros(n, 4))
        truth["pose"] = torch.tensor(FRONTAL).expand(n, -1)
        return truth | dict(
            image=torch.rand(n, 3, 48, 48), landmarks=self.landmarks.expand(n, -1, -1)
        )


@pytest.fixture(scope="module")
def guesser(toy):
    """A reconstructor off by another amount in every picture, and faces to try it on.

    The landmarks of the mirrored picture are off by another draw of the same amount.
    """
    faces, generator = Faces(toy, 600), torch.Generator().manual_seed(0)
    normal = lambda *shape: torch.randn(*shape, generator=generator)

    def estimate(pictures, boxes):
        n = len(pictures)
        crops = torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2) / 255
        amount = 0.002 * torch.exp(1.2 * normal(n, 1, 1)).clamp(max=20)
        landmarks, back = (faces.landmarks / 48 + amount * normal(n, 1, 2) for _ in range(2))
        doubt = 100 * camera.CROP_SIDE * (landmarks - back).norm(dim=-1).mean(-1)
        seen = dict(
            signs=signs(crops, doubt, amount),
            image_landmarks=48 * landmarks,
            identity=100 * amount[:, 0] * normal(n, toy.n_identity),
            expression=torch.zeros(n, toy.n_expression),
            disagreement_percent=doubt,
        )
        return {name: values.numpy() for name, values in seen.items()}

    return SimpleNamespace(model=toy, device="cpu", version="0" * 16, estimate=estimate), faces


def test_what_was_found_is_what_is_predicted(guesser):
    """On new trials errors are those found: they rise with disagreement.

    Few whole faces are doubtful.
    """
    calibration = calibrate(*guesser, count=600, seed=0)
    assert calibration.version == "0" * 16
    for name in ("landmark_error_percent", "vertex_error_mm", "disagreement_percent"):
        assert (np.diff(getattr(calibration, name)) >= 0).all()
        assert np.ptp(getattr(calibration, name)) > 0

    new = trials(*guesser, count=600, seed=1)
    whole, face = new["kind"] == "whole", np.isfinite(new["vertex_error_mm"])
    assert set(new["kind"]) == {"whole", *SPOILT, *EMPTY}
    assert not face[np.isin(new["kind"], EMPTY)].any()
    said = list(map(calibration, new["disagreement_percent"], new["signs"]))
    spoilt = face & ~whole
    weights = np.where(whole, 0.5 / whole.sum(), 0.5 / spoilt.sum())  # half are whole faces
    mean = lambda errors: np.average(np.log(errors[face]), weights=weights[face])
    for name in confidence.ERRORS:
        errors = np.array([getattr(one, name) for one in said])
        assert spearmanr(new[name][whole], errors[whole])[0] > 0.4
        assert mean(new[name]) == pytest.approx(mean(errors), abs=0.1)  # found: .05

    assert np.median([said[i].score for i in np.flatnonzero(~face)]) < 0.2
    told = [said[i] for i in np.flatnonzero(whole)]
    assert np.mean([one.doubtful for one in told]) < 0.055
    assert max(one.score for one in told if not one.doubtful) > 0.6
    assert min(one.score for one in told) < 0.2
    ends = [calibration(d, new["signs"][0]).landmark_error_percent for d in (0, 1e9)]
    assert ends == [calibration.landmark_error_percent[i] for i in (0, -1)]


def test_a_calibration_comes_back(tmp_path):
    curves = (1.0, 10.0), (2.0, 20.0), (3.0, 5.0)
    one = Calibration("0" * 16, *curves, faint(N_PIXEL), faint(N_PIXEL, bias=0.0))
    path = confidence.beside(tmp_path / "mine.safetensors")
    assert path.name == "mine.confidence.json" and confidence.load(path) is None
    one.save(path)
    assert confidence.load(path) == one
    halfway = one(10**0.5, np.zeros(N_PIXEL))
    names = ("score", "landmark_error_percent", "vertex_error_mm")
    assert [getattr(halfway, name) for name in names] == pytest.approx([0.5, 11, 4])
    assert not halfway.doubtful
    whole = json.loads(path.read_text())
    falling, negative = dict(disagreement_percent=[9.0, 1.0]), dict(vertex_error_mm=[-1.0, 0.0])
    single, short = dict(vertex_error_mm=[0.5]), whole["placed"] | dict(weights=[1.0])
    wrongs = [1], {}, *(whole | one for one in (falling, negative, single, dict(placed=short)))
    for wrong in wrongs:
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match="mine.confidence.json: .* `make calib") as error:
            confidence.load(path)
        assert "\n" not in str(error.value)


def test_signs_see_colours_edges_and_features_and_hardly_a_mirror():
    crops = torch.rand(
        3, 3, 60, 60, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    crops *= torch.tensor([1.0, 0.6, 0.3])[:, None, None]  # reddish noise
    doubt, features = torch.rand(2, 3, 1, dtype=torch.float64)
    found = signs(crops, doubt[:, 0], features)
    assert torch.equal(found[:, N_PIXEL:], torch.cat((doubt.log(), features), 1))
    torch.testing.assert_close(
        signs(crops.flip(3), doubt[:, 0], features), found, rtol=0, atol=0.15
    )
    for other in (0.1 * crops, crops[:, [2, 1, 0]], crops.mean(1, keepdim=True).expand_as(crops)):
        assert (signs(other, doubt[:, 0], features) - found).abs().amax(1).min() > 0.2


@pytest.mark.parametrize("good", [0, 3, 40])
def test_where_too_few_are_of_a_kind_their_share_is_told(good):
    found = np.random.default_rng(0).normal(size=(40, N_PIXEL + 3))
    told = fit(found, np.arange(40) < good, np.ones(40))
    assert told(found) == pytest.approx(np.full(40, np.clip(good / 40, 0.01, 0.99)))


def test_the_shipped_weights_know_a_face_from_a_cat(shipped):
    """Squares cut at random out of pictures without a face, a cat's whole face, and plain grey."""
    assert shipped.calibration is not None, "e2far/shipped/default.confidence.json: `make release`"
    face = shipped(astronaut()).confidence
    assert face.score > 0.85  # found: .93
    assert face.landmark_error_percent < 5 and not face.doubtful
    cat = shipped(chelsea(), (60, 20, 320, 280)).confidence
    grey = shipped(np.full((90, 90, 3), 128, np.uint8), (5, 5, 85, 85)).confidence
    assert all(one.doubtful and one.score < 0.2 for one in (cat, grey))
    others, rng = [cat, grey], np.random.default_rng(0)
    for picture in (chelsea(), coffee(), rocket(), hubble_deep_field(), brick(), page()):
        side = rng.uniform(60, min(picture.shape[:2]), (10, 1))
        low = rng.random((10, 2)) * (picture.shape[1::-1] - side)
        found = shipped.reconstruct(picture, np.hstack((low, low + side)))
        others += [one.confidence for one in found]
    assert np.mean([one.doubtful for one in others]) > 0.85
    assert np.median([one.score for one in others]) < 0.1


def test_the_shipped_weights_know_impostors_from_photos(shipped):
    """A hundred drawings, statues, animals, things and spoilt photos; see `impostors`."""
    seen = [shipped(picture, box) for _, _, picture, box in impostors()]
    scores = {name: one.confidence.score for (_, name, *_), one in zip(impostors(), seen)}
    real = [shipped(photo(name), box).confidence for name, box in FACES.items()]
    assert min(one.score for one in real) > 0.85  # found: .92
    assert not any(one.doubtful for one in real)
    assert scores["circle_with_two_eyes"] < 0.01  # found: 0
    assert np.mean([one.doubtful for one in seen]) > 0.85  # found: .89
    assert (
        np.mean([score < min(one.score for one in real) for score in scores.values()]) > 0.97
    )  # found: all
