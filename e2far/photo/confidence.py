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

from e2far import camera, files

# iBUG's 68 points, each replaced by the one on the face's other side: jaw, brows, nose ridge, nose base, eyes, outer and inner lips.
OPPOSITE = (
    *range(16, -1, -1),
    *range(26, 16, -1),
    *range(27, 31),
    *range(35, 30, -1),
    45,
    44,
    43,
    42,
    47,
    46,
    39,
    38,
    37,
    36,
    41,
    40,
    *range(54, 47, -1),
    *range(59, 54, -1),
    *range(64, 59, -1),
    *range(67, 64, -1),
)
GOOD = 5.0  # per cent of the face's size: landmarks that are off by less lie where a reader would put them
FALSE_ALARMS = 0.01  # share of whole synthetic faces that count as unlike the training data
SCORE_MARGIN = 0.01  # no score is surer than this: of the 83 surest among 300 real photos 99 % were good, of the next 56, with scores over .9, 96 %
ERRORS = ("landmark_error_percent", "vertex_error_mm")
KNOTS = 33


@dataclass(frozen=True)
class Confidence:
    """How far to trust one face. Errors are typical ones (geometric means) of synthetic faces with the same disagreement."""

    score: float  # probability that landmarks are off by less than 5 % of the face's size (GOOD) where half of all pictures are whole faces, half spoilt or empty
    landmark_error_percent: float  # mean distance of the 68 landmarks from their places, in per cent of the face's size, sqrt(w h) of their box
    vertex_error_mm: float  # mean distance of the face's vertices from the true ones, in the head's frame; most of it is who they are, which pictures tell little of
    unlike_training: bool  # disagrees more than 99 in 100 synthetic faces
    disagreement_percent: (
        float  # between the picture and its mirror image, in per cent of the face's size
    )

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
        return Confidence(
            **curves,
            unlike_training=bool(disagreement_percent > self.unlike_above_percent),
            disagreement_percent=float(disagreement_percent),
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        with files.replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n")


def beside(weights: str | Path) -> Path:
    """Where the calibration of the weights at a path lies: default.safetensors -> default.confidence.json."""
    return Path(weights).with_suffix(".confidence.json")


def load(path: str | Path) -> Calibration | None:
    """The Calibration stored at `path`, None if there is none. Raises ValueError with one line if it cannot be read."""
    path = Path(path)
    try:
        found = Calibration(
            **{
                key: tuple(value) if isinstance(value, list) else value
                for key, value in json.loads(path.read_text()).items()
            }
        )  # ty: ignore[invalid-argument-type]
        curves = np.array(
            [getattr(found, name) for name in ("disagreement_percent", "score", *ERRORS)]
        )
        numbers = np.append(curves, found.unlike_above_percent)
        if (
            curves.ndim != 2
            or not curves.size
            or numbers.size != curves.size + 1
            or isinstance(found.unlike_above_percent, tuple)
            or numbers.dtype.kind not in "fi"
            or not ((numbers >= 0) & (numbers < 1e6)).all()
            or not (curves[0] > 0).all()
            or not (np.diff(curves[0]) >= 0).all()
        ):
            raise ValueError("its curves are not positive numbers over a rising disagreement")
        return found
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(
            f"{path} is no calibration of confidence ({error}): delete it, or make it again with e2far.confidence.calibrate"
        ) from None


def disagreement_percent(landmarks, mirrored):
    """Disagreement (B,) of `landmarks` (B, 68, 2) with those of the mirrored crops, both in shares of the crop's side."""
    back = mirrored[:, OPPOSITE] * mirrored.new_tensor([-1.0, 1.0]) + mirrored.new_tensor(
        [1.0, 0.0]
    )
    return 100 * camera.CROP_SIDE * (landmarks - back).norm(dim=-1).mean(-1)
