r"""How far to trust a reconstruction: the network sees the picture and its mirror image, which must give mirrored landmarks; where they do not, it guesses.

    disagreement $d = \frac{100}{68 w} \sum_n \lVert p_n - m(p'_{n'}) \rVert$    p: landmarks of the picture    p': of its mirror image, m: mirrored back, n': the point opposite n
                                                                     w: size of the face, the crop's side / 1.45

`calibrate` finds on synthetic faces, whole and spoilt, and on pictures without a face, what errors go with which disagreement. It has seen no real face either.
Choice: the mirror image, out of signals that cost a few milliseconds at most, since it needs no learned numbers and serves any network. Rank correlation with the landmarks' true error, on 1,500
synthetic faces and 1,250 spoilt ones, and area under the curve of faces against squares of photos without one: mirror image .83, .998; a crop 10 % smaller .81, .995; distance of pool5 from 200
principal directions of faces .84, .999; ridge regression on pool5 .86, .999; norm of the identity -.59, .93. The vertices' error in mm is harder to tell: mirror image .54, and among whole faces .2
(.43 for landmarks), since most of it is who they are.
"""
import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from . import camera, data

# iBUG's 68 points, each replaced by the one on the face's other side: jaw, brows, nose ridge, nose base, eyes, outer and inner lips.
OPPOSITE = (*range(16, -1, -1), *range(26, 16, -1), *range(27, 31), *range(35, 30, -1),
            45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40, *range(54, 47, -1), *range(59, 54, -1), *range(64, 59, -1), *range(67, 64, -1))
GOOD = 5.               # per cent of the face's size: landmarks that are off by less lie where a reader would put them
FALSE_ALARMS = .01      # share of whole synthetic faces that count as unlike the training data
SCORE_MARGIN = .01      # no score is surer than this: of the 83 surest among 300 real photos 99 % were good, of the next 56, with scores over .9, 96 %
SPOILT = ("covered", "misplaced", "turned", "blurred", "noisy")
EMPTY = ("clouds", "shuffled", "flat")
ERRORS = ("landmark_error_percent", "vertex_error_mm")
KNOTS = 33


@dataclass(frozen=True)
class Confidence:
    """How far to trust one face. Errors are typical ones (geometric means) of synthetic faces with the same disagreement."""
    score: float                        # probability that landmarks are off by less than 5 % of the face's size (GOOD) where half of all pictures are whole faces, half spoilt or empty
    landmark_error_percent: float       # mean distance of the 68 landmarks from their places, in per cent of the face's size, sqrt(w h) of their box
    vertex_error_mm: float              # mean distance of the face's vertices from the true ones, in the head's frame; most of it is who they are, which pictures tell little of
    unlike_training: bool               # disagrees more than 99 in 100 synthetic faces
    disagreement_percent: float         # between the picture and its mirror image, in per cent of the face's size

    to_dict = asdict


@dataclass(frozen=True)
class Calibration:
    """What `calibrate` found: curves over `disagreement_percent`, and for which network and face model (`Reconstructor.version`)."""
    version: str
    disagreement_percent: tuple
    score: tuple
    landmark_error_percent: tuple
    vertex_error_mm: tuple
    unlike_above_percent: float

    def __call__(self, disagreement_percent: float) -> Confidence:
        """The Confidence that goes with a disagreement; beyond the curves' ends their ends."""
        at = np.log(max(disagreement_percent, 1e-6)), np.log(self.disagreement_percent)
        curves = {name: float(np.interp(*at, getattr(self, name))) for name in ("score", *ERRORS)}
        return Confidence(**curves, unlike_training=bool(disagreement_percent > self.unlike_above_percent), disagreement_percent=float(disagreement_percent))

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        with data.replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n")


def beside(weights: str | Path) -> Path:
    """Where the calibration of the weights at a path lies: default.safetensors -> default.confidence.json."""
    return Path(weights).with_suffix(".confidence.json")


def load(path: str | Path) -> Calibration | None:
    """The Calibration stored at `path`, None if there is none. Raises ValueError with one line if it cannot be read."""
    path = Path(path)
    try:
        found = Calibration(**{key: tuple(value) if isinstance(value, list) else value for key, value in json.loads(path.read_text()).items()})  # ty: ignore[invalid-argument-type]
        curves = np.array([getattr(found, name) for name in ("disagreement_percent", "score", *ERRORS)])
        numbers = np.append(curves, found.unlike_above_percent)
        if curves.ndim != 2 or not curves.size or numbers.size != curves.size + 1 or isinstance(found.unlike_above_percent, tuple) or numbers.dtype.kind not in "fi" or not ((numbers >= 0) & (numbers < 1e6)).all() or not (curves[0] > 0).all() or not (np.diff(curves[0]) >= 0).all():
            raise ValueError("its curves are not positive numbers over a rising disagreement")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} is no calibration of confidence ({error}): delete it, or make it again with e2far.confidence.calibrate") from None


def disagreement_percent(landmarks, mirrored):
    """Disagreement (B,) of `landmarks` (B, 68, 2) with those of the mirrored crops, both in shares of the crop's side."""
    back = mirrored[:, OPPOSITE] * mirrored.new_tensor([-1., 1.]) + mirrored.new_tensor([1., 0.])
    return 100 * camera.CROP_SIDE * (landmarks - back).norm(dim=-1).mean(-1)


# Calibration --------------------------------------------------------------------------------------------------------------------------------

def spoil(image, landmarks, kind, rng):
    """Pictures (B, 3, S, S) float in [0, 1], spoilt as `kind` of SPOILT says, and where their landmarks (B, 68, 2) px are then. What lies outside a stored crop is its edge, repeated."""
    count, _, side, _ = image.shape
    number = lambda low, high, *shape: torch.from_numpy(rng.uniform(low, high, (count, *shape))).float()
    if kind == "covered":                                       # 30 to 80 % of it, by a piece of clouds
        share, narrow = number(.3, .8), number(.8, 1.25)
        size = torch.stack((share.sqrt() * narrow, share.sqrt() / narrow), 1).clamp(max=1.)
        low = (number(0, 1, 2) * (1 - size) * side)[:, None, None]
        place = torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1)
        inside = ((place >= low) & (place < low + (size * side)[:, None, None])).all(-1)
        return torch.where(inside[:, None], empty(image, "clouds", rng), image), landmarks
    if kind == "blurred":                                       # to 6 to 16 px across
        small = F.interpolate(image, size=int(rng.integers(6, 17)), mode="area")
        return F.interpolate(small, size=side, mode="bicubic").clamp(0, 1), landmarks
    if kind == "noisy":
        return (image + torch.from_numpy(rng.standard_normal(image.shape)).float() * number(.1, .35, 1, 1, 1)).clamp(0, 1), landmarks
    turned = kind == "turned"                                   # by 30 to 180 degrees; misplaced: a box up to 30 % of its side off and .64 to 1.35 times as large
    angle = number(.5, np.pi) * number(-1, 1).sign() if turned else number(0, 0)
    zoom, shift = (number(0, 0), number(0, 0, 2)) if turned else (number(-.45, .3), number(-.3, .3, 2) * side)
    cos, sin = angle.cos() * zoom.exp(), angle.sin() * zoom.exp()
    matrix = torch.stack((torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1)          # from the new picture's points to the old one's, about the middle
    grid = F.affine_grid(torch.cat((matrix, (shift / (side / 2))[..., None]), 2), list(image.shape), align_corners=False)
    moved = (landmarks - side / 2 - shift[:, None]) @ torch.linalg.inv(matrix).mT + side / 2
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False), moved


def empty(image, kind, rng):
    """As many pictures without a face as `image` (B, 3, S, S) has faces: clouds of noise at all scales, those faces cut up and shuffled, or one colour."""
    count, _, side, _ = image.shape
    if kind == "shuffled":
        tile = side // 4
        tiles = F.unfold(image[..., :4 * tile, :4 * tile], tile, stride=tile)[..., rng.permutation(16)]
        return F.interpolate(F.fold(tiles, 4 * tile, tile, stride=tile), size=side)
    colour, contrast, smooth = (torch.from_numpy(rng.uniform(low, high, (count, n, 1, 1))).float() for low, high, n in ((.2, .8, 3), (.05, .3, 1), (0., 1.8, 1)))
    if kind == "flat":
        return colour.expand(-1, -1, side, side).contiguous()
    frequency = torch.hypot(*torch.meshgrid(torch.fft.fftfreq(side), torch.fft.fftfreq(side), indexing="ij")) + 1 / side
    noise = torch.fft.ifft2(torch.fft.fft2(torch.from_numpy(rng.standard_normal((count, 3, side, side))).float()) / frequency ** smooth).real
    noise = .5 * noise + .5 * noise.mean(1, keepdim=True)
    noise = (noise - noise.mean((2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)
    return (colour + contrast * noise).clamp(0, 1)


@torch.inference_mode()
def trials(reconstructor, faces, count=1000, seed=0):
    """What a Reconstructor, with all its looks, makes of `count` faces of a split (`data.Faces`, people it was not trained on), whole and spoilt, and of pictures without a face.

    returns: dict of arrays over all pictures: kind ("whole", SPOILT or EMPTY), disagreement_percent, landmark_error_percent and vertex_error_mm (both NaN where there is no face)
    """
    rng, device, side = np.random.default_rng(seed), reconstructor.device, faces.image_size
    model, rows = reconstructor.model, []
    chosen = rng.permutation(len(faces))[:count]
    for start in range(0, len(chosen), 50):
        batch = faces[np.sort(chosen[start:start + 50])]
        image, landmarks = batch["image"], batch["landmarks"]
        true = model(batch["identity"].to(device), batch["expression"].to(device))[:, model.region]
        few = lambda i: slice(i % len(SPOILT), None, len(SPOILT))                           # a fifth of the batch for every kind
        pictures: list[tuple] = [("whole", slice(None), image, landmarks)]
        pictures += [(kind, few(i), *spoil(image[few(i)], landmarks[few(i)], kind, rng)) for i, kind in enumerate(SPOILT) if len(image[few(i)])]
        pictures += [(kind, None, empty(image[few(i)], kind, rng), None) for i, kind in enumerate(EMPTY) if len(image[few(i)])]
        for kind, which, image, landmarks in pictures:
            pixels = (255 * image).round().byte().permute(0, 2, 3, 1).numpy()
            seen = reconstructor.estimate(list(pixels), np.tile([0., 0., side, side], (len(pixels), 1)))
            row = dict(disagreement_percent=seen["disagreement_percent"], kind=np.full(len(image), kind))
            row |= {name: np.full(len(image), np.nan) for name in ERRORS}
            if which is not None:
                extent = (landmarks.amax(1) - landmarks.amin(1)).prod(-1).sqrt()[:, None]
                found = torch.from_numpy(seen["image_landmarks"])
                row["landmark_error_percent"] = (100 * (found - landmarks).norm(dim=-1) / extent).mean(-1).numpy()
                shape = model(*(torch.from_numpy(seen[name]).to(device) for name in ("identity", "expression")))
                row["vertex_error_mm"] = (shape[:, model.region] - true[which]).norm(dim=-1).mean(-1).cpu().numpy()
            rows.append(row)
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def calibrate(reconstructor, faces, count=1000, seed=0):
    """The Calibration of a Reconstructor from `trials` on `count` faces of a split, by isotonic regression: a larger disagreement never means a smaller error."""
    from sklearn.isotonic import IsotonicRegression
    found = trials(reconstructor, faces, count, seed)
    disagreement, whole, face = found["disagreement_percent"].clip(1e-3), found["kind"] == "whole", np.isfinite(found["landmark_error_percent"])
    knots = np.geomspace(*np.quantile(disagreement, (.005, .995)), KNOTS)

    def curve(values, rows, weights, increasing=True):
        fitted = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(np.log(disagreement[rows]), values, weights[rows])
        return fitted.predict(np.log(knots))

    even = np.where(whole, .5 / whole.sum(), .5 / max(1, (~whole).sum()))
    rounded = lambda values, digits: tuple(values.round(digits).tolist())
    errors = {name: rounded(np.exp(curve(np.log(found[name][face].clip(1e-3)), face, even)), 3) for name in ERRORS}
    good = (found["landmark_error_percent"] < GOOD).astype(float)                           # NaN is not
    return Calibration(reconstructor.version, rounded(knots, 4), rounded(curve(good, slice(None), even, increasing=False).clip(SCORE_MARGIN, 1 - SCORE_MARGIN), 4), **errors,
                       unlike_above_percent=round(float(np.quantile(disagreement[whole], 1 - FALSE_ALARMS)), 4))
