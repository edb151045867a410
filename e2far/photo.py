r"""From a photo to a mesh: read, find the face, crop, regress coefficients and pose, and lay the mesh back on the photo.

    photo --detect--> box --crop--> (3, S, S) --E2FAR--> identity, expression, pose --MorphableModel--> vertices --camera--> photo

Image coordinates are pixels of the upright photo (its EXIF rotation applied), x right, y down, (0, 0) the corner of the first pixel. A box is (x0, y0, x1, y1) px by the rule of
`camera.crop_box`: a square centred on the box of the 68 landmarks, side 1.45 sqrt(w h).
"""
import hashlib
import json
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw, ImageOps

from . import camera, confidence, morphable, network, rasterize
from .confidence import Calibration, Confidence

if TYPE_CHECKING:
    import trimesh

Picture = str | Path | Image.Image | np.ndarray             # what `load_image` reads
Box = Sequence[float] | np.ndarray                          # x0, y0, x1, y1 px

WEIGHTS = morphable.SHIPPED.with_name("default.safetensors")

# dlib's detector is five HOG filters: frontal, two half profiles, two tilted frontals. Each sees the face elsewhere in its square, so each has its own way to our box:
# shift of the centre (x, y) and the box's side, in units of dlib's side. Choice: medians over 1,600 of 2,500 rendered faces (those dlib found), made symmetric; one face
# scatters about them by 6 % of the side across, 4 % down and 9 % in size. On the astronaut, whose landmarks were read by hand, the frontal filter asks for (.03, .08, 1.47).
DLIB_TO_BOX = ((0., .08, 1.38), (.105, .13, 1.25), (-.105, .13, 1.25), (-.03, .05, 1.44), (.03, .05, 1.44))
DETECTION_SIDES = (1024, 2048)      # px, longer side at which dlib looks, the second only if the first finds nothing: faces down to 8 % and 4 % of it (its window is 80 px)
SECOND_FACE_SCORE = .3              # beside a better face only scores above this count: the astronaut's badge scores .05

# Choice: look again, LOOKS times in all at most, where the head is tilted or the landmarks ask for a
# square whose place or size differs by more than CLOSE; what is seen there is believed only if picture
# and mirror image agree better. The model card has what each step brings on 300 real photos.
# Landmarks that ask for a square further off than FAR (shares of the side), or by more than LARGER
# larger or smaller, are of a face that was not understood: they are not followed.
LOOKS, CLOSE, FAR, LARGER = 3, .05, .3, 1.6
UPRIGHT_DEG = 4.        # of roll: a head tilted further in its square is looked at upright

FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")    # not PostScript, which Pillow reads too: it is a program, and would be run

OVERLAY_COLOUR, OVERLAY_OPACITY, OVERLAY_CONTRAST = (.82, .95, 1.05), .66, 2.2


# Reading ------------------------------------------------------------------------------------------------------------------------------------

def load_image(source: Picture) -> np.ndarray:
    """The upright RGB picture, uint8 (H, W, 3), in a file (path), a PIL image or a uint8 array (H, W, 3), (H, W, 4) or (H, W).

    Applies EXIF rotation, takes the first frame, puts transparent pictures on white, and converts grey, palette, CMYK and 16-bit ones.
    Raises FileNotFoundError, or ValueError with one line naming the file, for anything that is not such a picture.
    """
    if isinstance(source, (str, Path)):
        return _load_file(Path(source))
    if isinstance(source, Image.Image):
        return _decode(source, "the picture")
    array = np.asarray(source)
    if array.dtype != np.uint8:
        raise ValueError(f"the picture has dtype {array.dtype}: expected uint8 in 0..255")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if 0 in array.shape or not (array.ndim == 2 or array.ndim == 3 and array.shape[2] in (3, 4)):
        raise ValueError(f"the picture has shape {array.shape}: expected (height, width, 3)")
    return _decode(Image.fromarray(np.ascontiguousarray(array)), "the picture")


def _load_file(path):
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a picture: name photos, or on the command line a folder that holds some")
    if not path.is_file():
        raise ValueError(f"{path} is a pipe or a device, not a picture: save it as a file first")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")                         # a damaged TIFF warns dozens of times
        try:
            image = Image.open(path, formats=FORMATS)
        except Image.UnidentifiedImageError:
            raise ValueError(f"{path} is not a picture that can be read: give a JPEG, PNG, TIFF, WebP, BMP, GIF or PPM file") from None
        except Exception as error:                              # Pillow's readers fail in too many ways to list
            raise _failure(path, error) from None
        with image:
            return _decode(image, path)


def _failure(name, error):
    if isinstance(error, Image.DecompressionBombError):
        return ValueError(f"{name} is too large ({error}): make it smaller first")
    return ValueError(f"{name} is damaged or cut short ({' '.join(str(error).split())[:300] or type(error).__name__}): save or download it again")


def _decode(image, name):
    if image.mode == "F":
        raise ValueError(f"{name} holds floating-point pixels: save it with 8 bits a channel")
    try:
        image.load()
        image = ImageOps.exif_transpose(image)
        if image.mode.startswith("I"):                          # 16 bits a pixel, grey
            return np.asarray(Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8)).convert("RGB"))
        if image.has_transparency_data:
            image = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
        return np.array(image.convert("RGB"))
    except Exception as error:
        raise _failure(name, error) from None


class NoFace(ValueError):
    """No face was found in a photo."""


# Finding and cropping -----------------------------------------------------------------------------------------------------------------------

@cache
def _dlib_detector():
    import dlib                                                 # here, so that a photo with a given box needs no detector
    return dlib.get_frontal_face_detector()


def detect(image: np.ndarray) -> list[tuple[tuple[float, float, float, float], float]]:
    """Faces in a picture (H, W, 3) uint8 as a list of (box, score), the largest and surest (score * side) first; box: (x0, y0, x1, y1) px by our rule.

    dlib's HOG detector (King 2009): faces turned less than about 45 degrees and more or less upright. An empty list if it finds none.
    """
    height, width = image.shape[:2]
    for side in DETECTION_SIDES:
        zoom = side / max(height, width)
        size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
        resized = np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))
        rectangles, scores, filters = _dlib_detector().run(resized, 0, 0.)
        if rectangles:
            break
    faces = []
    for rectangle, score, which in zip(rectangles, scores, filters):
        x, y, scale = DLIB_TO_BOX[which]
        unit = rectangle.width()
        centre = np.array([rectangle.left() + rectangle.right() + 1, rectangle.top() + rectangle.bottom() + 1]) / 2 + np.array([x, y]) * unit
        box = np.concatenate((centre - scale / 2 * unit, centre + scale / 2 * unit)) / zoom
        faces.append((tuple(box.tolist()), float(score)))
    faces.sort(key=lambda face: -face[1] * (face[0][2] - face[0][0]))
    return faces[:1] + [face for face in faces[1:] if face[1] > SECOND_FACE_SCORE]


def check_box(box, width, height):
    """`box` as a square (4,) float array about the same centre; ValueError if it is not four numbers x0, y0, x1, y1 in px of a `width` x `height` photo."""
    try:
        values = np.asarray(box, dtype=float)
    except (TypeError, ValueError):
        values = np.empty(0)
    if values.shape != (4,) or not np.isfinite(values).all():
        raise ValueError(f"box {box!r} is not four numbers: give x0, y0, x1, y1 in pixels, the corners of a square around the face")
    x0, y0, x1, y1 = values.tolist()
    text = f"box ({x0:g}, {y0:g}, {x1:g}, {y1:g})"
    if x1 <= x0 or y1 <= y0:
        raise ValueError(f"{text} is empty: give x0, y0, x1, y1 in pixels with x0 < x1 and y0 < y1")
    x, y, side = (x0 + x1) / 2, (y0 + y1) / 2, max(x1 - x0, y1 - y0)
    if not (0 <= x <= width and 0 <= y <= height) or side > 3 * max(width, height):
        raise ValueError(f"{text} does not lie in the photo, which is {width} x {height} px")
    if side < 8:
        raise ValueError(f"{text} is too small for a face: it is measured in pixels, and the photo is {width} x {height} px")
    return np.array([x - side / 2, y - side / 2, x + side / 2, y + side / 2])


def locate(image, boxes=None, largest_only=False, name="the picture"):
    """Squares (B, 4) px of the faces in a picture (H, W, 3), those in `boxes` or all that are detected, and the detector's B scores (None where boxes are given).

    Raises NoFace, or ValueError for a wrong box.
    """
    scores = None
    if boxes is not None:
        boxes = list(boxes)
    else:
        found = detect(image)[:1 if largest_only else None]
        if not found:
            raise NoFace(f"no face found in {name}: say where it is with box=(x0, y0, x1, y1), or --box x0,y0,x1,y1 on the command line")
        boxes, scores = zip(*found)
    return np.array([check_box(box, image.shape[1], image.shape[0]) for box in boxes]).reshape(-1, 4), [None] * len(boxes) if scores is None else list(scores)


@dataclass(frozen=True, eq=False)
class Squares:
    """Where the network looks: B squares, each turned clockwise about its centre."""
    boxes: np.ndarray       # (B, 4) px, x0, y0, x1, y1 before they are turned
    turn: np.ndarray        # (B,) radians

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
        arm = self.side[:, None, None] * (points - .5)
        return self.centre[:, None] + arm @ self.axes.swapaxes(1, 2)

    def from_photo(self, points):
        """The inverse of `to_photo`."""
        arm = (points - self.centre[:, None]) @ self.axes
        return arm / self.side[:, None, None] + .5


def crop(image: np.ndarray, box: Box, size: int, turn: float = 0.) -> np.ndarray:
    """A square of `image` (H, W, 3) resampled to (size, size, 3) uint8, antialiased.

    box: (x0, y0, x1, y1) px    turn: radians clockwise, by which it is turned about its centre
    Outside the photo its edge is repeated.
    """
    if turn:
        return _turned_crop(image, np.asarray(box), size, turn)
    low = np.floor(np.asarray(box[:2])).astype(int)
    high = np.ceil(np.asarray(box[2:])).astype(int)
    if (low >= 0).all() and (high <= image.shape[1::-1]).all():             # usual, and much faster where photos are large
        patch = image[low[1]:high[1], low[0]:high[0]]
    else:
        rows, columns = (np.arange(low[k], high[k]).clip(0, image.shape[1 - k] - 1) for k in (1, 0))
        patch = image[rows[:, None], columns]
    patch = Image.fromarray(np.ascontiguousarray(patch))
    inside = (box[0] - low[0], box[1] - low[1], box[2] - low[0], box[3] - low[1])
    return np.asarray(patch.resize((size, size), Image.Resampling.BILINEAR, box=tuple(map(float, inside))))  # ty: ignore[invalid-argument-type]


def _turned_crop(image, box, size, turn):
    """As `crop`: the upright square that holds the turned one is reduced to twice the wanted
    resolution, turned, and reduced to the half: as sharp as a crop that is not turned."""
    cos, sin = np.cos(turn), np.sin(turn)
    n = int(np.ceil(2 * size * (abs(cos) + abs(sin)))) + 2      # px, a margin of one on each side
    centre, half = (box[:2] + box[2:]) / 2, (box[2] - box[0]) / 2 * n / (2 * size)
    patch = Image.fromarray(crop(image, np.concatenate((centre - half, centre + half)), n))
    rows = [(cos, -sin, n / 2 - size * (cos - sin)), (sin, cos, n / 2 - size * (sin + cos))]
    turned = patch.transform((2 * size, 2 * size), Image.Transform.AFFINE,
                             [float(value) for row in rows for value in row],
                             Image.Resampling.BILINEAR)
    return np.asarray(turned.reduce(2))


# The result ---------------------------------------------------------------------------------------------------------------------------------

@dataclass(frozen=True, eq=False)
class Pose:
    """A weak-perspective camera of the photo: pixel = scale * (rotation @ X)_xy, y down, + translation."""
    rotation: np.ndarray        # (3, 3)
    scale: float                # px per mm
    translation: np.ndarray     # (2,) px, where the head's origin falls

    @property
    def angles_deg(self) -> tuple[float, float, float]:
        """Yaw (towards the subject's left), pitch (down) and roll, in degrees."""
        return tuple(np.degrees(camera.matrix_to_euler(torch.as_tensor(self.rotation, dtype=torch.float64)).numpy()).tolist())

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) mm in the head frame to (N, 2) px in the photo."""
        tensors = (torch.as_tensor(np.asarray(a), dtype=torch.float64) for a in (points, self.rotation, self.scale, self.translation))
        return camera.weak_perspective(*tensors).numpy().astype(np.float32)


@dataclass(frozen=True, eq=False)
class Face:
    """One reconstructed face; arrays are float32, vertices in mm in the head frame (x to the subject's left, y up, z out of the face)."""
    vertices: np.ndarray            # (N, 3) mm, with the photo's expression
    neutral_vertices: np.ndarray    # (N, 3) mm, the same person at rest
    triangles: np.ndarray           # (F, 3) int
    landmarks: np.ndarray           # (68, 3) mm, iBUG order
    image_landmarks: np.ndarray     # (68, 2) px in the photo
    identity: np.ndarray            # (K,) standard deviations
    expression: np.ndarray          # (L,) standard deviations
    pose: Pose
    region: np.ndarray              # (M,) vertices of the face proper, without neck, eyes and mouth
    box: tuple[float, float, float, float]      # (x0, y0, x1, y1) px, the square that the network saw, before it was turned
    turn_deg: float = 0.            # clockwise about the box's centre, by which it was turned
    score: float | None = None      # the detector's, None where the box was given
    face_model: str = ""
    confidence: Confidence | None = None                # None where the weights come without a calibration
    model: morphable.MorphableModel | None = field(default=None, repr=False)     # whose coefficients these are; meshes and pages need it

    @property
    def region_triangles(self) -> np.ndarray:
        """The triangles (F', 3) whose corners are all in the region."""
        return self.triangles[np.isin(self.triangles, self.region).all(1)]

    def mesh(self, neutral: bool = False) -> "trimesh.Trimesh":
        """The face as a trimesh.Trimesh, vertices in their order."""
        import trimesh
        vertices = self.neutral_vertices if neutral else self.vertices
        return trimesh.Trimesh(vertices, self.triangles, process=False, metadata={"units": "millimetres"})

    def texture(self, image: Picture) -> np.ndarray:
        """The texture (S, S, 3) uint8 of the head, sampled from its photo `image`: half a second. `save` and `to_html` take it, so that it need not be made for each."""
        from . import export
        return export.texture(self, self._known_model(), load_image(image))

    def _known_model(self):
        if self.model is None:
            raise ValueError("this Face does not know its face model, which meshes and pages are made with: give Face(..., model=...), or use a Reconstructor's")
        return self.model

    def save(self, path: str | Path, image: Picture | None = None, neutral: bool = False, texture: np.ndarray | None = None) -> None:
        """Write the face to .obj (with .mtl and .png) or .ply, in millimetres; to .glb, in metres, at rest with the expression units as morph targets, set as in the photo; or all numbers to .json.

        image: its photo, for colours    texture: as from `texture`, instead of it    neutral: at rest
        """
        from . import export                                    # here, as in the methods beside it: scipy.optimize, trimesh and pygltflib take a while to import
        path = Path(path)
        if path.suffix.lower() == ".json":
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        elif path.suffix.lower() in (".obj", ".ply", ".glb"):
            export.save(self, self._known_model(), path, None if image is None else load_image(image), neutral, texture)
        else:
            raise ValueError(f"cannot save a face as {path.name}: choose .obj, .ply, .glb or .json")

    def to_dict(self) -> dict:
        """Everything but the mesh, as plain numbers for JSON."""
        def numbers(array, digits):
            return np.asarray(array, dtype=float).round(digits).tolist()

        yaw, pitch, roll = numbers(self.pose.angles_deg, 2)
        sure = None if self.confidence is None else {key: value if isinstance(value, bool) else round(value, 3) for key, value in self.confidence.to_dict().items()}
        return dict(box_px=numbers(self.box, 2), box_turn_deg=round(float(self.turn_deg), 2), detector_score=self.score, face_model=self.face_model, confidence=sure,
                    identity=numbers(self.identity, 4), expression=numbers(self.expression, 4), pose=dict(yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll),
                    camera=dict(kind="weak perspective: pixel = scale * (rotation @ X)_xy with y down + translation", rotation=numbers(self.pose.rotation, 6),
                                scale_px_per_mm=round(float(self.pose.scale), 6), translation_px=numbers(self.pose.translation, 3)),
                    landmarks_mm=numbers(self.landmarks, 3), landmarks_px=numbers(self.image_landmarks, 2))

    def overlay(self, image: Picture) -> np.ndarray:
        """The photo with the shaded face half-transparent over it and the 68 landmarks as dots, uint8 (H, W, 3)."""
        pixels = load_image(image)
        height, width = pixels.shape[:2]
        points = self.pose.project(self.vertices)
        reach = np.concatenate((points[self.region], self.image_landmarks))
        side = int(np.clip(1.1 * np.ptp(reach, axis=0).max(), 8, 3 * max(height, width)))
        corner = np.round((reach.min(0) + reach.max(0) - side) / 2).clip(-side, (width, height)).astype(int)
        size = min(max(2 * side, 400), 1400)                    # drawn larger or smaller than it lies on the photo, then resampled
        turned = np.ascontiguousarray(self.vertices @ self.pose.rotation.T, dtype=np.float32)
        normals = rasterize.vertex_normals(turned, self.triangles)
        picture, coverage = rasterize.render_plain((points - corner) * (size / side), turned[:, 2], self.region_triangles, normals, size, OVERLAY_COLOUR)
        layer = Image.fromarray((np.dstack((picture ** OVERLAY_CONTRAST, OVERLAY_OPACITY * coverage)) * 255).astype(np.uint8))
        draw, radius = ImageDraw.Draw(layer), size * .006
        for x, y in ((self.image_landmarks - corner) * (size / side)).tolist():
            draw.ellipse((x - 1.5 * radius, y - 1.5 * radius, x + 1.5 * radius, y + 1.5 * radius), fill=(20, 40, 60, 255))
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(255, 225, 120, 255))
        layer = layer.resize((side, side), Image.Resampling.LANCZOS)
        photo = Image.fromarray(pixels)
        photo.paste(layer, tuple(corner.tolist()), layer)
        return np.asarray(photo)

    def to_html(self, path: str | Path, image: Picture, title: str = "Reconstructed face", texture: np.ndarray | None = None) -> None:
        """Write one page that needs no network: the head to turn, to animate and to lay over its photo `image` (under 1 MB). texture: as from `texture`, where that is at hand already"""
        from . import export, viewer
        pixels = load_image(image)
        uv, vertex, triangles = export.unwrap(self._known_model())
        facts: dict[str, str | tuple[str, str]] = {"Yaw, pitch, roll": "{:+.1f}°, {:+.1f}°, {:+.1f}°".format(*self.pose.angles_deg)}
        sure = self.confidence
        if self.score is not None:
            facts["Detector score"] = f"{self.score:.2f}"
        if sure is not None:
            facts["Confidence"] = f"{sure.score:.2f}", ("Not like the faces that the network learned from: do not trust this one." if sure.unlike_training else
                                                        f"On synthetic faces with this score, landmarks are typically {sure.landmark_error_percent:.1f} % of the face's size off, vertices {sure.vertex_error_mm:.1f} mm.")
        viewer.write_html(path, vertices_neutral=self.neutral_vertices[vertex], expression_offset=(self.vertices - self.neutral_vertices)[vertex], triangles=triangles,
                          units=self.model.units.cpu().numpy()[vertex], unit_names=self.model.unit_names, unit_strengths=export.unit_strengths(self, self.model)[0],  # ty: ignore[missing-union-attribute]
                          texture=export.texture(self, self.model, pixels) if texture is None else texture, uv=uv, recess=self.model.recess.cpu().numpy()[vertex], photo=pixels,  # ty: ignore[missing-union-attribute]
                          camera=dict(rotation=self.pose.rotation, scale=self.pose.scale, translation=self.pose.translation), facts=facts, title=title)


# The method ---------------------------------------------------------------------------------------------------------------------------------

class Reconstructor:
    """Photo in, `Face` out: a trained E2FAR network and the face model whose coefficients it predicts.

    A face is looked at together with its mirror image, and again where it is not upright or not in
    the middle of its square, if that makes picture and mirror image agree better.

    calibration: None, or a confidence.Calibration: then every face tells how far to trust it
    plain: one look, without mirror image and confidence: the network's own answer
    """

    def __init__(self, net: network.E2FAR, model: morphable.MorphableModel,
                 device: str | torch.device = "cpu", calibration: Calibration | None = None,
                 plain: bool = False):
        expected, given = (model.n_identity, model.n_expression), (net.n_identity, net.n_expression)
        if given != expected:
            raise ValueError(f"the weights predict {given[0]} identity and {given[1]} expression coefficients but the face model {model.name!r} has {expected[0]} and "
                             f"{expected[1]}: name the face model they were trained with (--face-model)")
        self.network, self.model, self.device = net.to(device).eval(), model.to(device), device
        self.calibration, self.plain = calibration, plain

    @classmethod
    def from_pretrained(cls, weights: str | Path | None = None,
                        face_model: str | Path | None = None, device: str | torch.device = "cpu",
                        plain: bool = False) -> "Reconstructor":
        """Read trained weights (.safetensors), the calibration beside them if it is theirs, and a face model (name or .npz); None takes the shipped ones.

        Raises FileNotFoundError or ValueError with one line.
        """
        weights = Path(WEIGHTS if weights is None else weights)
        if not weights.exists():
            raise FileNotFoundError(f"no trained weights at {weights}: "
                                    f"restore the shipped ones with `git checkout -- data/weights`, or train them with `make reproduce PROFILE=weights`")
        try:
            torch.empty(1, device=device).cpu()                 # "meta" makes tensors without numbers
        except (RuntimeError, AssertionError) as error:
            raise ValueError(f"device {str(device)!r} is not to be had here ({str(error).splitlines()[0]}): choose cpu") from None
        model = morphable.load_face_model("makehuman" if face_model is None else face_model)
        found = cls(network.load_network(weights), model, device, plain=plain)
        calibration = confidence.load(confidence.beside(weights))
        if calibration is not None and calibration.version == found.version:        # of other weights or another face model it would mislead
            found.calibration = calibration
        return found

    @cached_property
    def version(self) -> str:
        """Sixteen hexadecimal digits that change when a number in the network or in the face model's vectors and bases does, or a rule for looking again."""
        digest = hashlib.sha256(repr((LOOKS, CLOSE, FAR, LARGER, UPRIGHT_DEG)).encode())
        for tensor in (*self.network.state_dict().values(), *self.model.state_dict().values()):
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]

    def __call__(self, image: Picture, box: Box | None = None, refine: bool = True) -> Face:
        """The largest and surest face of a photo (path, PIL image or uint8 (H, W, 3)), or the face in `box` (x0, y0, x1, y1) px.

        refine: look again where the first estimate's own landmarks ask for another crop.
        Raises NoFace (a ValueError) if there is no face, or ValueError if the box is not one.
        """
        boxes = None if box is None else [box]
        return self.reconstruct(image, boxes, refine, largest_only=True)[0]

    def reconstruct(self, image: Picture, boxes: Iterable[Box] | None = None, refine: bool = True, largest_only: bool = False) -> list[Face]:
        """All faces of a photo (those in `boxes`, or all that are detected) as a list, in one batch."""
        name = Path(image).name if isinstance(image, (str, Path)) else "the picture"
        pixels = load_image(image)
        boxes, scores = locate(pixels, boxes, largest_only, name)
        return self.batch([pixels] * len(boxes), boxes, scores, refine)

    def batch(self, pictures: Sequence[np.ndarray], boxes: np.ndarray | Sequence[Box], scores: Sequence[float | None] | None = None, refine: bool = True,
              turns_deg: Sequence[float] | None = None) -> list[Face]:
        """One Face for each of the squares `boxes` (B, 4) px of B `pictures` (H, W, 3) uint8, of one photo or of many: the network sees all at once.

        scores: the detector's, where it found them    turns_deg: (B,) by which the squares are turned clockwise at first, as `Face.turn_deg` says; default: not
        """
        boxes = np.array(boxes, dtype=float).reshape(-1, 4)
        if not len(boxes):
            return []
        seen = self.estimate(pictures, boxes, refine, turns_deg)
        scores = scores or [None] * len(boxes)
        return [self._face(seen, i, score) for i, score in enumerate(scores)]

    def estimate(self, pictures, boxes, refine=True, turns_deg=None):
        """What `batch` makes faces of: arrays over the batch, as of `look` but in px of the pictures.

        Besides box (B, 4), turn (B,), the square that was believed, vertices, neutral_vertices.
        """
        squares = Squares(boxes, np.radians(np.zeros(len(boxes)) if turns_deg is None else turns_deg))
        best, rows = self._estimate(pictures, squares), np.arange(len(boxes))
        for _ in range(0 if self.plain or not refine else LOOKS - 1):
            now = {key: value[rows] for key, value in best.items()}
            wanted, worth = again(Squares(now["box"], now["turn"]), now)
            rows = rows[worth]
            if not len(rows):
                break
            new = self._estimate([pictures[i] for i in rows], wanted[worth])
            better = new["disagreement_percent"] < best["disagreement_percent"][rows]
            rows = rows[better]
            for key, value in new.items():
                best[key][rows] = value[better]
        return best

    @torch.inference_mode()
    def look(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is read from crops (B, 3, S, S) in [0, 1], as a dict of tensors over the batch.

        identity, expression    rotation, scale, translation: camera, in shares of the crop's side
        landmarks: (B, 68, 2), in the same    disagreement_percent: (B,), see `confidence`

        The mean of what the network says to the crops and, mirrored back, to their mirror images,
        in one batch. A plain reconstructor takes the network's word and knows no disagreement.
        """
        if self.plain:
            return self._seen(self.network(crops))
        out, count = self.network(torch.cat((crops, crops.flip(3)))), len(crops)
        own, other = ({key: out[key][half] for key in ("identity", "expression", "pose")}
                      for half in (slice(count), slice(count, None)))
        landmarks = [self._seen(one)["landmarks"] for one in (own, other)]
        identity, expression = self.model.mirrored(other["identity"], other["expression"])
        pose = camera.mirrored_pose(other["pose"])
        back = dict(identity=identity, expression=expression, pose=pose)
        mean = self._seen({key: (own[key] + back[key]) / 2 for key in own})
        return mean | dict(disagreement_percent=confidence.disagreement_percent(*landmarks))

    def _seen(self, out):
        """Coefficients, camera and landmarks of what the network says, as in `look`."""
        rotation, scale, translation = camera.decode_pose(out["pose"].double(), 1.)
        mean, U, W = (getattr(self.model, key)[self.model.landmarks]
                      for key in ("mean", "identity_basis", "expression_basis"))
        points = (mean + torch.einsum("ndk,bk->bnd", U, out["identity"])
                  + torch.einsum("ndl,bl->bnd", W, out["expression"]))
        landmarks = camera.weak_perspective(points.double(), rotation, scale, translation)
        return dict(identity=out["identity"], expression=out["expression"], rotation=rotation,
                    scale=scale, translation=translation, landmarks=landmarks)

    def _estimate(self, pictures, squares):
        """What `look` sees in the `Squares`, one of each picture, as arrays over the batch.

        Cameras, and image_landmarks (B, 68, 2), are in px of the pictures.
        """
        size = self.network.image_size
        crops = np.stack([crop(*one, size, turn) for *one, turn
                          in zip(pictures, squares.boxes, squares.turn)])
        crops = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
        seen = {key: value.cpu().numpy() for key, value in self.look(crops).items()}
        back = camera.euler_to_matrix(torch.from_numpy(squares.turn[:, None] * [0., 0., -1.]))
        seen["rotation"] = back.numpy() @ seen["rotation"]
        seen["scale"] = seen["scale"] * squares.side
        seen["translation"] = squares.to_photo(seen["translation"][:, None])[:, 0]
        seen["image_landmarks"] = squares.to_photo(seen.pop("landmarks"))
        return seen | dict(box=squares.boxes, turn=squares.turn)

    def _face(self, seen, i, score):
        """The Face of row `i` of an estimate; its meshes are made here, of what was believed."""
        one = {key: value[i] for key, value in seen.items()}
        identity, expression = (torch.from_numpy(one[key])[None].to(self.device)
                                for key in ("identity", "expression"))
        neutral = self.model.neutral(identity)
        vertices = neutral + self.model.expression_offset(expression)
        neutral, vertices = (shape[0].cpu().numpy() for shape in (neutral, vertices))
        triangles, region, landmarks = (getattr(self.model, key).cpu().numpy()
                                        for key in ("triangles", "region", "landmarks"))
        pose = Pose(one["rotation"].astype(np.float32), float(one["scale"]),
                    one["translation"].astype(np.float32))
        sure = None
        if self.calibration and not self.plain:
            sure = self.calibration(one["disagreement_percent"])
        return Face(vertices=vertices, neutral_vertices=neutral, triangles=triangles,
                    landmarks=vertices[landmarks], identity=one["identity"],
                    image_landmarks=one["image_landmarks"].astype(np.float32),
                    expression=one["expression"], pose=pose, region=region, score=score,
                    box=tuple(one["box"].tolist()), turn_deg=float(np.degrees(one["turn"])),
                    face_model=self.model.name, confidence=sure, model=self.model)


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
    roll = camera.matrix_to_euler(torch.from_numpy(rotation))[:, 2].numpy()     # clockwise is < 0
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
        size, shift = np.abs(np.log(side)), np.linalg.norm(middle - .5, axis=1)
    worth = (np.maximum(shift, size) > CLOSE) & (shift < FAR) & (size < np.log(LARGER))
    return Squares(np.hstack((centre - half, centre + half)), squares.turn), worth


def next_square(face):
    """Where to look for a `Face` in the next frame of a video: the `Squares` (one) about its landmarks, upright for its roll."""
    squares = Squares(np.array([face.box]), np.radians([face.turn_deg]))
    upright, _ = turned_upright(squares, face.pose.rotation[None].astype(float))
    return moved_box(upright, face.image_landmarks[None].astype(float))[0]
