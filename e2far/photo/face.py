"""The result: one reconstructed face and its camera."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from e2far import camera, morphable
from e2far.files import as_path
from e2far.photo.confidence import Confidence
from e2far.photo.pictures import Picture, load_image
from e2far.photo.results import MESHES


@dataclass(frozen=True, eq=False)
class Pose:
    """A weak-perspective camera: pixel = scale * (rotation @ X)_xy, y down, + translation."""

    rotation: np.ndarray  # (3, 3)
    scale: float  # px per mm
    translation: np.ndarray  # (2,) px, where the head's origin falls

    @property
    def angles_deg(self) -> tuple[float, float, float]:
        """Yaw (towards the subject's left), pitch (down) and roll, in degrees."""
        rotation = torch.as_tensor(self.rotation, dtype=torch.float64)
        return tuple(np.degrees(camera.matrix_to_euler(rotation).numpy()).tolist())

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) mm in the head frame to (N, 2) px in the photo."""
        tensors = (
            torch.as_tensor(np.asarray(part), dtype=torch.float64)
            for part in (points, self.rotation, self.scale, self.translation)
        )
        return camera.weak_perspective(*tensors).numpy().astype(np.float32)


@dataclass(frozen=True, eq=False)
class Face:
    """One reconstructed face; arrays are float32, vertices in mm in the head frame.

    The head frame: x to the subject's left, y up, z out of the face.
    """

    vertices: np.ndarray  # (N, 3) mm, with the photo's expression
    neutral_vertices: np.ndarray  # (N, 3) mm, the same person at rest
    triangles: np.ndarray  # (F, 3) int
    landmarks: np.ndarray  # (68, 3) mm, iBUG order
    image_landmarks: np.ndarray  # (68, 2) px in the photo
    identity: np.ndarray  # (K,) standard deviations
    expression: np.ndarray  # (L,) standard deviations
    pose: Pose
    region: np.ndarray  # (M,) vertices of the face proper, without neck, eyes and mouth
    box: tuple[float, float, float, float]  # x0, y0, x1, y1 px that were seen, before the turn
    turn_deg: float = 0.0  # clockwise about the box's centre, by which it was turned
    score: float | None = None  # the detector's, None where the box was given
    face_model: str = ""
    confidence: Confidence | None = None  # None where the weights come without a calibration
    model: morphable.MorphableModel | None = field(default=None, repr=False)  # for meshes, pages

    def __repr__(self):
        yaw, pitch, roll = self.pose.angles_deg
        sure = "" if self.confidence is None else f", confidence {self.confidence.score:.2f}"
        pose = f"yaw {yaw:+.0f}, pitch {pitch:+.0f}, roll {roll:+.0f} degrees"
        return f"<Face of {len(self.vertices)} vertices, {pose}{sure}>"

    @property
    def doubtful(self) -> bool:
        """Whether this may be no face, or not where it was seen; without a calibration, no."""
        return self.confidence is not None and self.confidence.doubtful

    @property
    def region_triangles(self) -> np.ndarray:
        """The triangles (F', 3) whose corners are all in the region."""
        return self.triangles[np.isin(self.triangles, self.region).all(1)]

    def texture(self, image: Picture) -> np.ndarray:
        """The texture (S, S, 3) uint8 of the head from its photo, for `save` and `to_html`."""
        from e2far.photo import texture

        return texture.texture(self, load_image(image))

    def save(self, path: str | Path, image: Picture | None = None, texture=None) -> None:
        """Write a mesh to .obj (with .mtl and .png), .ply, .stl or .glb, or all numbers to .json.

        Its folder is made if need be. OBJ, PLY and STL are in millimetres. A GLB is in metres and
        at rest, with the expression units as morph targets, set as in the photo.
        image: its photo, for colours    texture: as from `texture`, instead of it
        """
        path = as_path(path)
        kind = path.suffix.lower().removeprefix(".")
        if kind not in ("json", *MESHES):
            raise ValueError(f"cannot save {path.name}: choose .{', .'.join(MESHES)} or .json")
        if texture is None and image is not None and kind not in ("json", "stl"):
            texture = self.texture(image)
        path.parent.mkdir(parents=True, exist_ok=True)
        if kind == "json":
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        else:
            from e2far.photo import mesh_files

            mesh_files.WRITERS[kind](self, path, texture)

    def to_html(self, path: str | Path, image: Picture, title=None, texture=None) -> None:
        """Write one page that needs no network: the head to turn, animate and lay over its photo.

        Under 1 MB. title: default: the photo's name, or the page's
        texture: as from `texture`, where it is at hand already
        """
        from e2far.photo import viewer

        path = as_path(path)
        if path.suffix.lower() not in (".html", ".htm"):
            raise ValueError(
                f"cannot write a page to {path.name}: choose a name that ends in .html"
            )
        title = title or Path(image if isinstance(image, (str, Path)) else path).name
        path.parent.mkdir(parents=True, exist_ok=True)
        pixels = load_image(image)
        texture = self.texture(pixels) if texture is None else texture
        viewer.write_html(path, self, pixels, texture, title)

    def to_dict(self) -> dict:
        """Everything but the mesh, as plain numbers for JSON."""

        def numbers(array, digits):
            return np.asarray(array, dtype=float).round(digits).tolist()

        yaw, pitch, roll = numbers(self.pose.angles_deg, 2)
        projection = "weak perspective: pixel = scale * (rotation @ X)_xy with y down + translation"
        return dict(
            box_px=numbers(self.box, 2),
            box_turn_deg=round(float(self.turn_deg), 2),
            detector_score=self.score,
            face_model=self.face_model,
            confidence=None if self.confidence is None else self.confidence.rounded(),
            identity=numbers(self.identity, 4),
            expression=numbers(self.expression, 4),
            pose=dict(yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll),
            camera=dict(
                kind=projection,
                rotation=numbers(self.pose.rotation, 6),
                scale_px_per_mm=round(float(self.pose.scale), 6),
                translation_px=numbers(self.pose.translation, 3),
            ),
            landmarks_mm=numbers(self.landmarks, 3),
            landmarks_px=numbers(self.image_landmarks, 2),
        )

    def overlay(self, image: Picture, close=False) -> np.ndarray:
        """The photo under the lines of the mesh and its 68 landmarks, uint8 (H, W, 3).

        close: a square around the face alone, large
        """
        from e2far.photo import overlay

        return overlay.draw(self, load_image(image), close)


def make_face(model, identity, expression, pose, **found) -> Face:
    """The Face of coefficients (K,) and (L,) of `model`, seen by a Pose.

    found: other fields of the Face; image_landmarks are projected where they are not among them
    """
    like = dict(dtype=model.mean.dtype, device=model.mean.device)
    neutral = model.neutral(torch.as_tensor(identity, **like)[None])
    offset = model.expression_offset(torch.as_tensor(expression, **like)[None])
    neutral, vertices = (shape[0].cpu().numpy() for shape in (neutral, neutral + offset))
    triangles, region, landmarks = (
        getattr(model, key).cpu().numpy() for key in ("triangles", "region", "landmarks")
    )
    points = vertices[landmarks]
    shape = dict(vertices=vertices, neutral_vertices=neutral, triangles=triangles, region=region)
    seen = dict(landmarks=points, image_landmarks=pose.project(points), pose=pose)
    whose = dict(identity=identity, expression=expression, face_model=model.name, model=model)
    return Face(**shape | seen | whose | found)
