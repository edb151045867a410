"""Reading pictures, any photo file to the upright RGB array that it shows, and cropping them."""

import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

Picture = str | Path | Image.Image | np.ndarray  # what `load_image` reads
Box = Sequence[float] | np.ndarray  # x0, y0, x1, y1 px

# Not PostScript, which Pillow reads too: it is a program, and would be run
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def load_image(source: Picture) -> np.ndarray:
    """The upright RGB picture, uint8 (H, W, 3), in a file, a PIL image or a uint8 array.

    Arrays are (H, W, 3), (H, W, 4) or (H, W). EXIF rotation is applied, the first frame taken,
    transparency put on white; grey, palette, CMYK and 16-bit pictures are converted.
    Raises FileNotFoundError, or ValueError with one line that names the file.
    """
    if isinstance(source, (str, Path)):
        return _load_file(Path(source))
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    array = np.asarray(source)
    if array.dtype != np.uint8:
        raise ValueError(f"the picture has dtype {array.dtype}: expected uint8 in 0..255")
    if 0 in array.shape or array.ndim != 2 and array.shape[2:] not in ((3,), (4,)):
        raise ValueError(f"the picture has shape {array.shape}: expected (height, width, 3)")
    return _decode(Image.fromarray(np.ascontiguousarray(array)), "the picture")


def _load_file(path):
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if not path.is_file():
        kind = "folder" if path.is_dir() else "pipe or a device"
        raise ValueError(f"{path} is a {kind}, not a picture: name a file, or a folder with some")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged TIFF warns dozens of times
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.UnidentifiedImageError:
            known = ", ".join(FORMATS)
            raise ValueError(f"{path} is not a picture that can be read: give {known}") from None
        except Exception as error:  # Pillow's readers fail in too many ways to list
            raise _failure(path, error) from None
        with image:
            return _decode(image, path)


def _failure(name, error):
    reason = " ".join(str(error).split())[:300] or type(error).__name__
    if isinstance(error, Image.DecompressionBombError):
        return ValueError(f"{name} is too large ({reason}): make it smaller first")
    return ValueError(f"{name} is damaged or cut short ({reason}): save or download it again")


def _decode(image, name):
    if image.mode == "F":
        raise ValueError(f"{name} holds floating-point pixels: save it with 8 bits a channel")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):  # 16 bits a pixel, grey
            grey = np.asarray(image).clip(0, 65535) / 257
            image = Image.fromarray(grey.round().astype(np.uint8))
        elif image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except Exception as error:
        raise _failure(name, error) from None


def crop(image: np.ndarray, box: Box, size: int, turn: float = 0.0) -> np.ndarray:
    """A square of `image` (H, W, 3) resampled to (size, size, 3) uint8, antialiased.

    box: (x0, y0, x1, y1) px    turn: radians clockwise, by which it is turned about its centre
    Outside the photo its edge is repeated.
    """
    if turn:
        return _turned_crop(image, np.asarray(box), size, turn)
    (x0, y0), (x1, y1) = np.floor(box[:2]).astype(int), np.ceil(box[2:]).astype(int)
    height, width = image.shape[:2]
    if min(x0, y0) >= 0 and x1 <= width and y1 <= height:  # usual, and fast in large photos
        patch = image[y0:y1, x0:x1]
    else:
        rows, columns = np.arange(y0, y1).clip(0, height - 1), np.arange(x0, x1).clip(0, width - 1)
        patch = image[rows[:, None], columns]
    inside = (float(box[0] - x0), float(box[1] - y0), float(box[2] - x0), float(box[3] - y0))
    patch = Image.fromarray(np.ascontiguousarray(patch))
    return np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR, box=inside))


def _turned_crop(image, box, size, turn):
    """As `crop`, and as sharp.

    The upright square that holds the turned one is reduced to twice the wanted resolution, turned,
    and reduced to the half.
    """
    cos, sin = np.cos(turn), np.sin(turn)
    n = int(np.ceil(2 * size * (abs(cos) + abs(sin)))) + 2  # px, a margin of one on each side
    centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2 * n / (2 * size)
    patch = Image.fromarray(crop(image, np.concatenate((centre - half, centre + half)), n))
    matrix = (cos, -sin, n / 2 - size * (cos - sin), sin, cos, n / 2 - size * (sin + cos))
    how = (Image.Transform.AFFINE, list(map(float, matrix)), Image.Resampling.BILINEAR)
    return np.asarray(patch.transform((2 * size, 2 * size), *how).reduce(2))
