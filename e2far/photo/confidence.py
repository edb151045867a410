r"""How far to trust a reconstruction: two looks at one picture must agree.

The network sees the picture and its mirror image, which must give mirrored landmarks; where they
do not, it guesses:

    disagreement $d = \frac{100}{68 w} \sum_n \lVert p_n - m(p'_{n'}) \rVert$

p: landmarks of the picture    p': of its mirror image, m: mirrored back, n': the point opposite n
w: size of the face, the crop's side / 1.45

`calibration.calibrate` finds on synthetic faces, whole and spoilt, what errors go with which
disagreement. It has seen no real face either. The disagreement is much larger in a square that is
4 % larger, and a drawing that is symmetric agrees with its mirror image: the score asks for all
signs of a square, and also how like a photo of a face it looks (`likeness`).

Choice: the mirror image, since it needs no learned numbers, serves any network and costs a few
milliseconds. Rank correlation with the landmarks' true error, on 1,500 synthetic faces and 1,250
spoilt ones, and area under the curve of faces against squares of photos without one: mirror image
.83, .998; a crop 10 % smaller .81, .995; distance of pool5 from 200 principal directions of faces
.84, .999; ridge regression on pool5 .86, .999; norm of the identity -.59, .93. The vertices' error
in mm is harder to tell: .54, and among whole faces .2, since most of it is who they are.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from e2far import camera, files
from e2far.photo.likeness import Likeness

# Each of iBUG's 68 points is replaced by the one on the face's other side.
# fmt: off
OPPOSITE = (
    *range(16, -1, -1), *range(26, 16, -1),                 # jaw, brows
    *range(27, 31), *range(35, 30, -1),                     # nose ridge, nose base
    45, 44, 43, 42, 47, 46, 39, 38, 37, 36, 41, 40,         # eyes
    *range(54, 47, -1), *range(59, 54, -1),                 # outer lips
    *range(64, 59, -1), *range(67, 64, -1),                 # inner lips
)
# fmt: on
GOOD = 5.0  # % of the face's size: landmarks off by less lie where a reader would put them
DOUBTFUL = 0.1  # a lower score is called doubtful
# No score is surer than this. Choice: of 0.8.0's score, 99 % of the 83 surest among 300 real photos
# were good. Today's score also knows what is no photo of a face, and was not measured so again.
SCORE_MARGIN = 0.01
ERRORS = ("landmark_error_percent", "vertex_error_mm")
KNOTS = 33


@dataclass(frozen=True)
class Confidence:
    """How far to trust one face.

    Errors are typical ones (geometric means) of synthetic faces with the same disagreement.
    """

    # Probability that this is a photo of a face, where half of all pictures are, times that its
    # landmarks are off by less than GOOD, where half of all faces are whole and half spoilt
    score: float
    landmark_error_percent: float  # mean distance of the 68 from their places; size: sqrt(w h)
    vertex_error_mm: float  # in the head's frame; most of it is who they are
    doubtful: bool  # the score is below DOUBTFUL
    disagreement_percent: float  # of picture and mirror image, in per cent of the face's size

    to_dict = asdict

    def rounded(self) -> dict:
        """As `to_dict`, to three digits."""
        numbers = {key: round(value, 3) for key, value in self.to_dict().items()}
        return numbers | dict(doubtful=self.doubtful)


@dataclass(frozen=True)
class Calibration:
    """Curves over `disagreement_percent`, and for which `Reconstructor.version` they hold."""

    version: str
    disagreement_percent: tuple
    landmark_error_percent: tuple
    vertex_error_mm: tuple
    likeness: Likeness  # that this is a photo of a face
    placed: Likeness  # that landmarks of a face are off by less than GOOD

    def __call__(self, disagreement_percent: float, signs) -> Confidence:
        """The Confidence that goes with a disagreement; beyond the curves' ends their ends.

        signs: (D,) of `likeness.signs`
        """
        at = np.log(max(disagreement_percent, 1e-6)), np.log(self.disagreement_percent)
        score = float(self.scores(signs[None])[0])
        return Confidence(
            score,
            **{name: float(np.interp(*at, getattr(self, name))) for name in ERRORS},
            doubtful=score < DOUBTFUL,
            disagreement_percent=float(disagreement_percent),
        )

    def scores(self, signs):
        """Scores (B,) of signs (B, D)."""
        return (self.likeness(signs) * self.placed(signs)).clip(max=1 - SCORE_MARGIN)

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        with files.replacing(path) as partial:
            partial.write_text(json.dumps(asdict(self), indent=1) + "\n")


def beside(weights: str | Path) -> Path:
    """Where the calibration of weights lies: default.safetensors -> default.confidence.json."""
    return Path(weights).with_suffix(".confidence.json")


def load(path: str | Path) -> Calibration | None:
    """The Calibration stored at `path`, None if there is none. Raises ValueError with one line."""
    if not Path(path).exists():
        return None
    with files.reading(path, "a calibration: delete it, or make it again by `make calibration`"):
        stored = json.loads(Path(path).read_text())
        curves = np.array([stored[k] for k in ("disagreement_percent", *ERRORS)], float)
        likeness, placed = (Likeness.checked(stored[key]) for key in ("likeness", "placed"))
        if not ((curves >= 0) & (curves < 1e6)).all():
            raise ValueError("it holds what is not a positive number")
        if curves.ndim != 2 or curves[0, 0] == 0 or (np.diff(curves[0]) < 0).any():
            raise ValueError("its curves are not over a rising disagreement")
        curves = map(tuple, curves.tolist())
        return Calibration(stored["version"], *curves, likeness, placed)


def disagreement_percent(landmarks, mirrored):
    """Disagreement (B,) of `landmarks` (B, 68, 2) with those of the mirrored crops.

    Both are in shares of the crop's side.
    """
    back = mirrored[:, OPPOSITE] * mirrored.new_tensor([-1.0, 1.0])
    back = back + mirrored.new_tensor([1.0, 0.0])
    return 100 * camera.CROP_SIDE * (landmarks - back).norm(dim=-1).mean(-1)
