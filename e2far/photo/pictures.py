"""Reading pictures, any photo file to the upright RGB array that it shows, and cropping them."""

import io
import warnings
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageCms, ImageOps

Picture = str | Path | Image.Image | np.ndarray  # what `load_image` reads
Box = Sequence[float] | np.ndarray  # x0, y0, x1, y1 px

# Not PostScript, which Pillow reads too: it is a program, and would be run
FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")
HEIC = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")  # its brands
SRGB = ImageCms.createProfile("sRGB")


def load_image(source: Picture) -> np.ndarray:
    """The upright RGB picture, uint8 (H, W, 3), in a file, a PIL image or a uint8 array.

    Arrays are (H, W, 3), (H, W, 4) or (H, W). EXIF rotation is applied, the first frame taken,
    colours brought to sRGB, transparency put on white; grey, palette, CMYK and 16-bit pictures are
    converted. HEIC needs the extra `heic`.
    Raises FileNotFoundError, or ValueError with one line that names the file.
    """
    if isinstance(source, (str, Path)):
        return _load_file(Path(source))
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    if not isinstance(source, np.ndarray):
        given = "None" if source is None else f"this {type(source).__name__}"
        raise TypeError(f"{given} is no picture: give one path, PIL image or uint8 array (H, W, 3)")
    array = source
    if array.dtype != np.uint8:
        raise ValueError(f"the picture has dtype {array.dtype}: expected uint8 in 0..255")
    if 0 in array.shape or array.ndim != 2 and array.shape[2:] not in ((3,), (4,)):
        raise ValueError(f"the picture has shape {array.shape}: expected (height, width, 3)")
    return _decode(Image.fromarray(np.ascontiguousarray(array)), "the picture")


def _load_file(path):
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder")
    if not path.is_file():
        kind = "folder" if path.is_dir() else "pipe or a device"
        raise ValueError(f"{path} is a {kind}, not a picture: name a file, or a folder with some")
    formats = ("HEIF",) if _is_heic(path) else FORMATS
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a damaged TIFF warns dozens of times
        try:
            image = Image.open(path, formats=formats)
        except Image.UnidentifiedImageError:
            known = ", ".join((*FORMATS, "HEIC"))
            raise ValueError(f"{path} is not a picture that can be read: give {known}") from None
        except Exception as error:  # Pillow's readers fail in too many ways to list
            raise _failure(path, error) from None
        with image:
            return _decode(image, path)


def _is_heic(path):
    """Whether it is one, as iPhones write them; Pillow then has been told how to read it."""
    with path.open("rb") as file:
        start = file.read(12)
    if start[4:8] != b"ftyp" or start[8:] not in HEIC:
        return False
    try:
        import pillow_heif
    except ImportError:
        remedy = "to read it, `pip install pillow-heif`"
        raise ModuleNotFoundError(f"{path} is a HEIC picture: {remedy}") from None
    pillow_heif.register_heif_opener()
    return True


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
            grey = np.asarray(image).clip(0, 65535)
            # Choice: cameras of 10 or 12 bits write 16. Else the picture would be nearly black.
            bits = next(bits for bits in (8, 10, 12, 16) if grey.max() < 2**bits)
            grey = grey * (255 / (2**bits - 1))
            image = Image.fromarray(grey.round().astype(np.uint8))
        else:
            image = _to_srgb(image)
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except Exception as error:
        raise _failure(name, error) from None


def _to_srgb(image):
    """A picture in the colours that its ICC profile means, as Display P3 of phones."""
    profile = image.info.get("icc_profile")
    if not profile:
        return image
    if image.mode not in ("L", "RGB", "RGBA", "CMYK"):
        image = image.convert("RGBA" if image.has_transparency_data else "RGB")
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "srgb" in ImageCms.getProfileDescription(profile).lower():
            return image
        mode = "RGBA" if image.mode == "RGBA" else "RGB"
        return ImageCms.profileToProfile(image, profile, SRGB, outputMode=mode)
    except (ImageCms.PyCMSError, OSError):  # a damaged profile, or that of another kind of picture
        return image


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
