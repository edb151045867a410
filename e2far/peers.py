"""Other people's trained models, to compare with: dlib's 68 landmarks (Kazemi and Sullivan 2014). Their licences are not ours; nothing of them is contained here.

The model file comes with the PyPI package face-recognition-models, which is the extra `peers`. It was trained on 300-W, whose terms exclude commercial use.
"""
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from e2far import photo

SIDE = 256                  # px, the size at which dlib sees a crop: it answers in whole pixels, and its detector needs faces of 80 px
MARGIN = SIDE // 4          # px of black around it: a tight crop cuts the window that dlib's detector needs
SCORE = -1.                 # the detector's threshold, far below its usual 0: that there is a face we know, it is asked where


def model_file():
    """Path of dlib's 68-point model in the package face-recognition-models. Raises ValueError if it is not installed."""
    spec = importlib.util.find_spec("face_recognition_models")          # Choice: found, not imported: it imports pkg_resources, which Python no longer brings
    path = spec and spec.origin and Path(spec.origin).parent / "models" / "shape_predictor_68_face_landmarks.dat"
    if not isinstance(path, Path) or not path.is_file():
        raise ValueError("dlib's landmarks need its model file: pip install -e '.[peers]' in e2far's folder (trained on 300-W: not for commercial use)")
    return path


@cache
def _dlib():
    """dlib's face detector and its shape predictor, read once."""
    path = model_file()
    import dlib                                                         # here, as in `photo`
    return dlib.get_frontal_face_detector(), dlib.shape_predictor(str(path))


def landmarks(images, box=None):
    """Landmarks (B, 68, 2) px that dlib finds in `images`, uint8 (B, S, S, 3) or (B, 3, S, S), crops by our rule; iBUG order, (0, 0) the corner of the first pixel.

    box: dlib's face rectangle x0, y0, x1, y1 in all crops, in sides of the crop; None: where dlib's detector is surest, or if it finds nothing where it lies in a frontal face
    Raises ValueError if the model file is missing or the images are not such crops.

    # Choice: dlib's own detector, though we know where the face is: dlib learnt from the rectangles of five detectors, and a turned face lies elsewhere in its own.
    # One rectangle for all crops leaves a mean error of 25.4 px of 224 for 19.7 (300 validation faces), and 38 for 25 at yaws of 30 to 60 degrees.
    """
    pixels = images.cpu().numpy() if torch.is_tensor(images) else np.asarray(images)
    if pixels.ndim == 4 and pixels.shape[1] == 3:
        pixels = np.moveaxis(pixels, 1, 3)
    if pixels.dtype != np.uint8 or pixels.ndim != 4 or pixels.shape[1] != pixels.shape[2] or pixels.shape[3] != 3:
        raise ValueError(f"expected uint8 crops (B, S, S, 3) or (B, 3, S, S), got {pixels.dtype} {pixels.shape}")
    detector, predictor = _dlib()
    points = np.empty((len(pixels), 68, 2), np.float32)
    for i, crop in enumerate(pixels):
        picture = np.pad(np.asarray(Image.fromarray(crop).resize((SIDE, SIDE), Image.Resampling.BICUBIC)), ((MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0)))
        found = detector.run(picture, 0, SCORE)[0] if box is None else []       # the surest first
        shape = predictor(picture, found[0] if found else _rectangle(_frontal() if box is None else box))
        points[i] = [(part.x, part.y) for part in shape.parts()]
    return torch.from_numpy((points + .5 - MARGIN) * (pixels.shape[1] / SIDE))


def _frontal():
    """Where the rectangle of dlib's frontal detector lies in a crop by our rule, in sides of the crop: the inverse of what `photo.detect` does."""
    x, y, scale = photo.DLIB_TO_BOX[0]
    return np.add((-.5 - x, -.5 - y, .5 - x, .5 - y), scale / 2) / scale


def _rectangle(box):
    """`box` in sides of the crop as dlib's rectangle, whose last row and column belong to it."""
    import dlib
    left, top, right, bottom = (round(float(value) * SIDE) + MARGIN for value in box)
    return dlib.rectangle(left, top, right - 1, bottom - 1)
