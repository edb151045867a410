"""The result: one reconstructed face and its camera."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from PIL import Image, ImageDraw

from e2far import camera, morphable, raster
from e2far.photo.confidence import Confidence
from e2far.photo.pictures import Picture, load_image

if TYPE_CHECKING:
    import trimesh

OVERLAY_COLOUR, OVERLAY_OPACITY, OVERLAY_CONTRAST = (0.82, 0.95, 1.05), 0.66, 2.2


# The result ---------------------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Pose:
    """A weak-perspective camera of the photo: pixel = scale * (rotation @ X)_xy, y down, + translation."""

    rotation: np.ndarray  # (3, 3)
    scale: float  # px per mm
    translation: np.ndarray  # (2,) px, where the head's origin falls

    @property
    def angles_deg(self) -> tuple[float, float, float]:
        """Yaw (towards the subject's left), pitch (down) and roll, in degrees."""
        return tuple(
            np.degrees(
                camera.matrix_to_euler(torch.as_tensor(self.rotation, dtype=torch.float64)).numpy()
            ).tolist()
        )

    def project(self, points: np.ndarray) -> np.ndarray:
        """Points (N, 3) mm in the head frame to (N, 2) px in the photo."""
        tensors = (
            torch.as_tensor(np.asarray(a), dtype=torch.float64)
            for a in (points, self.rotation, self.scale, self.translation)
        )
        return camera.weak_perspective(*tensors).numpy().astype(np.float32)


@dataclass(frozen=True, eq=False)
class Face:
    """One reconstructed face; arrays are float32, vertices in mm in the head frame (x to the subject's left, y up, z out of the face)."""

    vertices: np.ndarray  # (N, 3) mm, with the photo's expression
    neutral_vertices: np.ndarray  # (N, 3) mm, the same person at rest
    triangles: np.ndarray  # (F, 3) int
    landmarks: np.ndarray  # (68, 3) mm, iBUG order
    image_landmarks: np.ndarray  # (68, 2) px in the photo
    identity: np.ndarray  # (K,) standard deviations
    expression: np.ndarray  # (L,) standard deviations
    pose: Pose
    region: np.ndarray  # (M,) vertices of the face proper, without neck, eyes and mouth
    box: tuple[
        float, float, float, float
    ]  # (x0, y0, x1, y1) px, the square that the network saw, before it was turned
    turn_deg: float = 0.0  # clockwise about the box's centre, by which it was turned
    score: float | None = None  # the detector's, None where the box was given
    face_model: str = ""
    confidence: Confidence | None = None  # None where the weights come without a calibration
    model: morphable.MorphableModel | None = field(
        default=None, repr=False
    )  # whose coefficients these are; meshes and pages need it

    @property
    def region_triangles(self) -> np.ndarray:
        """The triangles (F', 3) whose corners are all in the region."""
        return self.triangles[np.isin(self.triangles, self.region).all(1)]

    def mesh(self, neutral: bool = False) -> "trimesh.Trimesh":
        """The face as a trimesh.Trimesh, vertices in their order."""
        import trimesh

        vertices = self.neutral_vertices if neutral else self.vertices
        return trimesh.Trimesh(
            vertices, self.triangles, process=False, metadata={"units": "millimetres"}
        )

    def texture(self, image: Picture) -> np.ndarray:
        """The texture (S, S, 3) uint8 of the head, sampled from its photo `image`: half a second. `save` and `to_html` take it, so that it need not be made for each."""
        from e2far.photo import texture

        return texture.texture(self, self._known_model(), load_image(image))

    def _known_model(self):
        if self.model is None:
            raise ValueError(
                "this Face does not know its face model, which meshes and pages are made with: give Face(..., model=...), or use a Reconstructor's"
            )
        return self.model

    def save(
        self,
        path: str | Path,
        image: Picture | None = None,
        neutral: bool = False,
        texture: np.ndarray | None = None,
    ) -> None:
        """Write the face to .obj (with .mtl and .png) or .ply, in millimetres; to .glb, in metres, at rest with the expression units as morph targets, set as in the photo; or all numbers to .json.

        image: its photo, for colours    texture: as from `texture`, instead of it    neutral: at rest
        """
        from e2far.photo import (
            mesh_files,  # here, as in the methods beside it: scipy.optimize, trimesh and pygltflib take a while to import
        )

        path = Path(path)
        if path.suffix.lower() == ".json":
            path.write_text(json.dumps(self.to_dict(), indent=1) + "\n", encoding="utf-8")
        elif path.suffix.lower() in (".obj", ".ply", ".glb"):
            mesh_files.save(
                self,
                self._known_model(),
                path,
                None if image is None else load_image(image),
                neutral,
                texture,
            )
        else:
            raise ValueError(f"cannot save a face as {path.name}: choose .obj, .ply, .glb or .json")

    def to_dict(self) -> dict:
        """Everything but the mesh, as plain numbers for JSON."""

        def numbers(array, digits):
            return np.asarray(array, dtype=float).round(digits).tolist()

        yaw, pitch, roll = numbers(self.pose.angles_deg, 2)
        sure = (
            None
            if self.confidence is None
            else {
                key: value if isinstance(value, bool) else round(value, 3)
                for key, value in self.confidence.to_dict().items()
            }
        )
        return dict(
            box_px=numbers(self.box, 2),
            box_turn_deg=round(float(self.turn_deg), 2),
            detector_score=self.score,
            face_model=self.face_model,
            confidence=sure,
            identity=numbers(self.identity, 4),
            expression=numbers(self.expression, 4),
            pose=dict(yaw_deg=yaw, pitch_deg=pitch, roll_deg=roll),
            camera=dict(
                kind="weak perspective: pixel = scale * (rotation @ X)_xy with y down + translation",
                rotation=numbers(self.pose.rotation, 6),
                scale_px_per_mm=round(float(self.pose.scale), 6),
                translation_px=numbers(self.pose.translation, 3),
            ),
            landmarks_mm=numbers(self.landmarks, 3),
            landmarks_px=numbers(self.image_landmarks, 2),
        )

    def overlay(self, image: Picture) -> np.ndarray:
        """The photo with the shaded face half-transparent over it and the 68 landmarks as dots, uint8 (H, W, 3)."""
        pixels = load_image(image)
        height, width = pixels.shape[:2]
        points = self.pose.project(self.vertices)
        reach = np.concatenate((points[self.region], self.image_landmarks))
        side = int(np.clip(1.1 * np.ptp(reach, axis=0).max(), 8, 3 * max(height, width)))
        corner = (
            np.round((reach.min(0) + reach.max(0) - side) / 2)
            .clip(-side, (width, height))
            .astype(int)
        )
        size = min(
            max(2 * side, 400), 1400
        )  # drawn larger or smaller than it lies on the photo, then resampled
        turned = np.ascontiguousarray(self.vertices @ self.pose.rotation.T, dtype=np.float32)
        normals = raster.vertex_normals(turned, self.triangles)
        picture, coverage = raster.render_plain(
            (points - corner) * (size / side),
            turned[:, 2],
            self.region_triangles,
            normals,
            size,
            OVERLAY_COLOUR,
        )
        layer = Image.fromarray(
            (np.dstack((picture**OVERLAY_CONTRAST, OVERLAY_OPACITY * coverage)) * 255).astype(
                np.uint8
            )
        )
        draw, radius = ImageDraw.Draw(layer), size * 0.006
        for x, y in ((self.image_landmarks - corner) * (size / side)).tolist():
            draw.ellipse(
                (x - 1.5 * radius, y - 1.5 * radius, x + 1.5 * radius, y + 1.5 * radius),
                fill=(20, 40, 60, 255),
            )
            draw.ellipse(
                (x - radius, y - radius, x + radius, y + radius), fill=(255, 225, 120, 255)
            )
        layer = layer.resize((side, side), Image.Resampling.LANCZOS)
        photo = Image.fromarray(pixels)
        photo.paste(layer, tuple(corner.tolist()), layer)
        return np.asarray(photo)

    def to_html(
        self,
        path: str | Path,
        image: Picture,
        title: str = "Reconstructed face",
        texture: np.ndarray | None = None,
    ) -> None:
        """Write one page that needs no network: the head to turn, to animate and to lay over its photo `image` (under 1 MB). texture: as from `texture`, where that is at hand already"""
        from e2far.photo import mesh_files, viewer
        from e2far.photo import texture as textures

        pixels = load_image(image)
        uv, vertex, triangles = textures.unwrap(self._known_model())
        facts: dict[str, str | tuple[str, str]] = {
            "Yaw, pitch, roll": "{:+.1f}°, {:+.1f}°, {:+.1f}°".format(*self.pose.angles_deg)
        }
        sure = self.confidence
        if self.score is not None:
            facts["Detector score"] = f"{self.score:.2f}"
        if sure is not None:
            facts["Confidence"] = (
                f"{sure.score:.2f}",
                (
                    "Not like the faces that the network learned from: do not trust this one."
                    if sure.unlike_training
                    else f"On synthetic faces with this score, landmarks are typically {sure.landmark_error_percent:.1f} % of the face's size off, vertices {sure.vertex_error_mm:.1f} mm."
                ),
            )
        viewer.write_html(
            path,
            vertices_neutral=self.neutral_vertices[vertex],
            expression_offset=(self.vertices - self.neutral_vertices)[vertex],
            triangles=triangles,
            units=self.model.units.cpu().numpy()[vertex],
            unit_names=self.model.unit_names,
            unit_strengths=mesh_files.unit_strengths(self, self.model)[0],  # ty: ignore[missing-union-attribute]
            texture=textures.texture(self, self.model, pixels) if texture is None else texture,
            uv=uv,
            recess=self.model.recess.cpu().numpy()[vertex],
            photo=pixels,  # ty: ignore[missing-union-attribute]
            camera=dict(
                rotation=self.pose.rotation,
                scale=self.pose.scale,
                translation=self.pose.translation,
            ),
            facts=facts,
            title=title,
        )
