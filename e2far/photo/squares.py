"""Where the network looks in a photo: squares, upright or turned, and the next one that an estimate asks for."""

from dataclasses import dataclass

import numpy as np
import torch
from PIL import Image

from e2far import camera
from e2far.photo.pictures import Box

# Choice: look again, LOOKS times in all at most, where the head is tilted or the landmarks ask for a
# square whose place or size differs by more than CLOSE; what is seen there is believed only if picture
# and mirror image agree better. The model card has what each step brings on 300 real photos.
# Landmarks that ask for a square further off than FAR (shares of the side), or by more than LARGER
# larger or smaller, are of a face that was not understood: they are not followed.
LOOKS, CLOSE, FAR, LARGER = 3, 0.05, 0.3, 1.6
UPRIGHT_DEG = 4.0  # of roll: a head tilted further in its square is looked at upright


@dataclass(frozen=True, eq=False)
class Squares:
    """Where the network looks: B squares, each turned clockwise about its centre."""

    boxes: np.ndarray  # (B, 4) px, x0, y0, x1, y1 before they are turned
    turn: np.ndarray  # (B,) radians

    def __getitem__(self, rows):
        return Squares(self.boxes[rows], self.turn[rows])

    side = property(lambda self: self.boxes[:, 2] - self.boxes[:, 0])
    centre = property(lambda self: (self.boxes[:, :2] + self.boxes[:, 2:]) / 2)

    @property
    def axes(self) -> np.ndarray:
        """Rotations (B, 2, 2) from directions in the squares to directions in the photo."""
        cos, sin = np.cos(self.turn), np.sin(self.turn)
        return np.stack((np.stack((cos, -sin), -1), np.stack((sin, cos), -1)), -2)

    def to_photo(self, points):
        """Points (B, n, 2), in shares of the squares' sides, in px of the photo."""
        arm = self.side[:, None, None] * (points - 0.5)
        return self.centre[:, None] + arm @ self.axes.swapaxes(1, 2)

    def from_photo(self, points):
        """The inverse of `to_photo`."""
        arm = (points - self.centre[:, None]) @ self.axes
        return arm / self.side[:, None, None] + 0.5


def crop(image: np.ndarray, box: Box, size: int, turn: float = 0.0) -> np.ndarray:
    """A square of `image` (H, W, 3) resampled to (size, size, 3) uint8, antialiased.

    box: (x0, y0, x1, y1) px    turn: radians clockwise, by which it is turned about its centre
    Outside the photo its edge is repeated.
    """
    if turn:
        return _turned_crop(image, np.asarray(box), size, turn)
    low = np.floor(np.asarray(box[:2])).astype(int)
    high = np.ceil(np.asarray(box[2:])).astype(int)
    if (low >= 0).all() and (
        high <= image.shape[1::-1]
    ).all():  # usual, and much faster where photos are large
        patch = image[low[1] : high[1], low[0] : high[0]]
    else:
        rows, columns = (np.arange(low[k], high[k]).clip(0, image.shape[1 - k] - 1) for k in (1, 0))
        patch = image[rows[:, None], columns]
    patch = Image.fromarray(np.ascontiguousarray(patch))
    inside = (box[0] - low[0], box[1] - low[1], box[2] - low[0], box[3] - low[1])
    return np.asarray(
        patch.resize((size, size), Image.Resampling.BILINEAR, box=tuple(map(float, inside)))
    )  # ty: ignore[invalid-argument-type]


def _turned_crop(image, box, size, turn):
    """As `crop`: the upright square that holds the turned one is reduced to twice the wanted
    resolution, turned, and reduced to the half: as sharp as a crop that is not turned."""
    cos, sin = np.cos(turn), np.sin(turn)
    n = int(np.ceil(2 * size * (abs(cos) + abs(sin)))) + 2  # px, a margin of one on each side
    centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2 * n / (2 * size)
    patch = Image.fromarray(crop(image, np.concatenate((centre - half, centre + half)), n))
    rows = [(cos, -sin, n / 2 - size * (cos - sin)), (sin, cos, n / 2 - size * (sin + cos))]
    turned = patch.transform(
        (2 * size, 2 * size),
        Image.Transform.AFFINE,
        [float(value) for row in rows for value in row],
        Image.Resampling.BILINEAR,
    )
    return np.asarray(turned.reduce(2))


# Another look -------------------------------------------------------------------------------------


def again(squares, seen):
    """The `Squares` that an estimate asks for, and which (B,) are worth another look."""
    upright, tilted = turned_upright(squares, seen["rotation"])
    moved, off = moved_box(upright, seen["image_landmarks"])
    return Squares(np.where(off[:, None], moved.boxes, squares.boxes), upright.turn), tilted | off


def turned_upright(squares, rotation):
    """`squares` turned so that heads with `rotation` (B, 3, 3) in the photo stand upright in them.

    And which (B,) of these heads are tilted in their squares by more than UPRIGHT_DEG.
    """
    roll = camera.matrix_to_euler(torch.from_numpy(rotation))[:, 2].numpy()  # clockwise is < 0
    tilt = (roll + squares.turn + np.pi) % (2 * np.pi) - np.pi
    tilted = np.abs(tilt) > np.radians(UPRIGHT_DEG)
    return Squares(squares.boxes, np.where(tilted, -roll, squares.turn)), tilted


def moved_box(squares, image_landmarks):
    """`squares` about predicted landmarks (B, 68, 2) px, by our rule for boxes.

    And which (B,) of them are worth a look: elsewhere than before, but not so far off that the
    estimate must be wrong.
    """
    shares = squares.from_photo(image_landmarks)
    asked = camera.crop_box(torch.from_numpy(shares).double()).numpy()
    side, middle = asked[:, 2] - asked[:, 0], (asked[:, :2] + asked[:, 2:]) / 2
    centre = squares.to_photo(middle[:, None])[:, 0]
    half = (side * squares.side)[:, None] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        size, shift = np.abs(np.log(side)), np.linalg.norm(middle - 0.5, axis=1)
    worth = (np.maximum(shift, size) > CLOSE) & (shift < FAR) & (size < np.log(LARGER))
    return Squares(np.hstack((centre - half, centre + half)), squares.turn), worth


def next_square(face):
    """Where to look for a `Face` in the next frame of a video: the `Squares` (one) about its landmarks, upright for its roll."""
    squares = Squares(np.array([face.box]), np.radians([face.turn_deg]))
    upright, _ = turned_upright(squares, face.pose.rotation[None].astype(float))
    return moved_box(upright, face.image_landmarks[None].astype(float))[0]
