"""Finding faces in a photo."""

from functools import cache

import numpy as np
from PIL import Image

# dlib's detector is five HOG filters: frontal, two half profiles, two tilted frontals. Each sees
# the face elsewhere in its square, so each has its own way to our box: shift of the centre (x, y)
# and the box's side, in units of dlib's side. Choice: medians over 1,600 of 2,500 rendered faces
# (those dlib found), made symmetric; one face scatters about them by 6 % of the side across, 4 %
# down and 9 % in size. On the astronaut, whose landmarks were read by hand, the frontal filter
# asks for (.03, .08, 1.47).
DLIB_TO_BOX = (
    (0.0, 0.08, 1.38),
    (0.105, 0.13, 1.25),
    (-0.105, 0.13, 1.25),
    (-0.03, 0.05, 1.44),
    (0.03, 0.05, 1.44),
)
# px, longer side at which dlib looks, the second only if the first finds nothing: faces down to
# 8 % and 4 % of it (its window is 80 px)
DETECTION_SIDES = (1024, 2048)
# Beside a better face only scores above this count: the astronaut's badge scores .05
SECOND_FACE_SCORE = 0.3


class NoFace(ValueError):
    """No face was found in the photo or video called `name`."""

    def __init__(self, name):
        where = "box=(x0, y0, x1, y1), or --box x0,y0,x1,y1 on the command line"
        super().__init__(f"no face found in {name}: say where it is with {where}")


@cache
def _dlib_detector():
    import dlib  # here, so that a photo with a given box needs no detector

    return dlib.get_frontal_face_detector()


def detect(image: np.ndarray) -> list[tuple[tuple[float, float, float, float], float]]:
    """Faces in a picture (H, W, 3) uint8 as a list of (box, score), the largest and surest first.

    box: (x0, y0, x1, y1) px by our rule    surest: by score * side
    dlib's HOG detector (King 2009): faces turned less than about 45 degrees, more or less upright.
    """
    height, width = image.shape[:2]
    for side in DETECTION_SIDES:
        zoom = side / max(height, width)
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        rectangles, scores, filters = _dlib_detector().run(resized, 0, 0.0)
        if rectangles:
            break
    faces = []
    for rectangle, score, which in zip(rectangles, scores, filters):
        x, y, scale = DLIB_TO_BOX[which]
        unit = rectangle.width()
        ends = (rectangle.left() + rectangle.right(), rectangle.top() + rectangle.bottom())
        centre = (np.array(ends) + 1) / 2 + np.array([x, y]) * unit
        box = np.concatenate((centre - scale / 2 * unit, centre + scale / 2 * unit)) / zoom
        faces.append((tuple(box.tolist()), float(score)))
    faces.sort(key=lambda face: -face[1] * (face[0][2] - face[0][0]))
    return faces[:1] + [face for face in faces[1:] if face[1] > SECOND_FACE_SCORE]


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
    if side < 8:
        raise ValueError(f"{text} is too small for a face in {photo}: it is measured in pixels")
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def locate(image, boxes=None, largest_only=False, name="the picture"):
    """Squares (B, 4) px of the faces in a picture (H, W, 3), and the detector's B scores.

    The faces are those in `boxes`, whose scores are None, or all that are detected.
    Raises NoFace, or ValueError for a wrong box.
    """
    if boxes is not None:
        boxes = list(boxes)
        scores = [None] * len(boxes)
    else:
        found = detect(image)[: 1 if largest_only else None]
        if not found:
            raise NoFace(name)
        boxes, scores = zip(*found)
    squares = [check_box(box, image.shape[1], image.shape[0]) for box in boxes]
    return np.array(squares).reshape(-1, 4), list(scores)
