"""Where the network looks in a photo: squares, upright or turned, and where it looks next."""

from dataclasses import dataclass

import numpy as np
import torch

from e2far import camera

# Choice: look again, LOOKS times in all at most, where the head is tilted or the landmarks ask for
# another square. What is seen upright is believed; what is seen in a moved square, only if picture
# and mirror image agree better. The model card has what each rule brings on 300 real photos.
LOOKS = 3
CLOSE = 0.05  # share of the side: squares that differ by less in place or size show the same
FAR = 0.3  # shares of the side: landmarks further off are of a face that was not understood
LARGER = 1.6  # times: likewise for a square by so much larger or smaller
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


def square_of(seen):
    """The `Squares` in which what is in an estimate (`Reconstructor.estimate`) was seen."""
    return Squares(seen["box"], seen["turn"])


def ask_again(seen):
    """The `Squares` that an estimate asks for, which (B,) of its heads are tilted in their squares,
    and which are worth another look. What is tilted is turned first, and moved in a later look."""
    upright, tilted = turned_upright(square_of(seen), seen["rotation"])
    moved, off = moved_box(upright, seen["image_landmarks"])
    boxes = np.where((off & ~tilted)[:, None], moved.boxes, seen["box"])
    return Squares(boxes, upright.turn), tilted, tilted | off


def next_square(seen):
    """Where to look in a video's next frame: about the landmarks of an estimate, and upright."""
    upright, _ = turned_upright(square_of(seen), seen["rotation"])
    return moved_box(upright, seen["image_landmarks"])[0]


def turned_upright(squares, rotation):
    """`squares` turned so that heads with `rotation` (B, 3, 3) in the photo stand upright in them.

    And which (B,) of these heads are tilted in their squares by more than UPRIGHT_DEG.
    """
    roll = camera.matrix_to_euler(torch.from_numpy(rotation))[:, 2].numpy()  # clockwise is < 0
    tilt = (roll + squares.turn + np.pi) % (2 * np.pi) - np.pi
    tilted = np.abs(tilt) > np.radians(UPRIGHT_DEG)
    return Squares(squares.boxes, np.where(tilted, -roll, squares.turn)), tilted


def asked_box(squares, image_landmarks):
    """Our rule's boxes (B, 4) of landmarks (B, 68, 2) px, in shares of `squares`."""
    shares = squares.from_photo(image_landmarks)
    return camera.crop_box(torch.from_numpy(shares).double()).numpy()


def moved_box(squares, image_landmarks):
    """`squares` about predicted landmarks (B, 68, 2) px, by our rule for boxes.

    And which (B,) are worth a look: elsewhere than before (CLOSE), but not so far off that the
    estimate must be wrong (FAR, LARGER).
    """
    wanted = asked_box(squares, image_landmarks)
    side, middle = wanted[:, 2] - wanted[:, 0], (wanted[:, :2] + wanted[:, 2:]) / 2
    centre = squares.to_photo(middle[:, None])[:, 0]
    half = (side * squares.side)[:, None] / 2
    with np.errstate(divide="ignore", invalid="ignore"):
        size, shift = np.abs(np.log(side)), np.linalg.norm(middle - 0.5, axis=1)
    worth = (np.maximum(shift, size) > CLOSE) & (shift < FAR) & (size < np.log(LARGER))
    return Squares(np.hstack((centre - half, centre + half)), squares.turn), worth
