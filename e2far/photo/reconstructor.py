r"""From a photo to a mesh: read, find the face, crop, regress coefficients and pose, and lay the mesh back on the photo.

    photo --detect--> box --crop--> (3, S, S) --E2FAR--> identity, expression, pose --MorphableModel--> vertices --camera--> photo

Image coordinates are pixels of the upright photo (its EXIF rotation applied), x right, y down, (0, 0) the corner of the first pixel. A box is (x0, y0, x1, y1) px by the rule of
`camera.crop_box`: a square centred on the box of the 68 landmarks, side 1.45 sqrt(w h).
"""

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from e2far import camera, facemodels, morphable, network
from e2far.photo import confidence
from e2far.photo.confidence import Calibration
from e2far.photo.detection import locate
from e2far.photo.face import Face, Pose
from e2far.photo.pictures import Box, Picture, load_image
from e2far.photo.squares import CLOSE, FAR, LARGER, LOOKS, UPRIGHT_DEG, Squares, again, crop
from e2far.weights import load_network

WEIGHTS = morphable.SHIPPED.with_name("default.safetensors")


# The method ---------------------------------------------------------------------------------------------------------------------------------


class Reconstructor:
    """Photo in, `Face` out: a trained E2FAR network and the face model whose coefficients it predicts.

    A face is looked at together with its mirror image, and again where it is not upright or not in
    the middle of its square, if that makes picture and mirror image agree better.

    calibration: None, or a confidence.Calibration: then every face tells how far to trust it
    plain: one look, without mirror image and confidence: the network's own answer
    """

    def __init__(
        self,
        net: network.E2FAR,
        model: morphable.MorphableModel,
        device: str | torch.device = "cpu",
        calibration: Calibration | None = None,
        plain: bool = False,
    ):
        expected, given = (model.n_identity, model.n_expression), (net.n_identity, net.n_expression)
        if given != expected:
            raise ValueError(
                f"the weights predict {given[0]} identity and {given[1]} expression coefficients but the face model {model.name!r} has {expected[0]} and "
                f"{expected[1]}: name the face model they were trained with (--face-model)"
            )
        self.network, self.model, self.device = net.to(device).eval(), model.to(device), device
        self.calibration, self.plain = calibration, plain

    @classmethod
    def from_pretrained(
        cls,
        weights: str | Path | None = None,
        face_model: str | Path | None = None,
        device: str | torch.device = "cpu",
        plain: bool = False,
    ) -> "Reconstructor":
        """Read trained weights (.safetensors), the calibration beside them if it is theirs, and a face model (name or .npz); None takes the shipped ones.

        Raises FileNotFoundError or ValueError with one line.
        """
        weights = Path(WEIGHTS if weights is None else weights)
        if not weights.exists():
            raise FileNotFoundError(
                f"no trained weights at {weights}: "
                f"restore the shipped ones with `git checkout -- data/weights`, or train them with `make reproduce PROFILE=weights`"
            )
        try:
            torch.empty(1, device=device).cpu()  # "meta" makes tensors without numbers
        except (RuntimeError, AssertionError) as error:
            raise ValueError(
                f"device {str(device)!r} is not to be had here ({str(error).splitlines()[0]}): choose cpu"
            ) from None
        model = facemodels.load_face_model("makehuman" if face_model is None else face_model)
        found = cls(load_network(weights), model, device, plain=plain)
        calibration = confidence.load(confidence.beside(weights))
        if (
            calibration is not None and calibration.version == found.version
        ):  # of other weights or another face model it would mislead
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

    def reconstruct(
        self,
        image: Picture,
        boxes: Iterable[Box] | None = None,
        refine: bool = True,
        largest_only: bool = False,
    ) -> list[Face]:
        """All faces of a photo (those in `boxes`, or all that are detected) as a list, in one batch."""
        name = Path(image).name if isinstance(image, (str, Path)) else "the picture"
        pixels = load_image(image)
        boxes, scores = locate(pixels, boxes, largest_only, name)
        return self.batch([pixels] * len(boxes), boxes, scores, refine)

    def batch(
        self,
        pictures: Sequence[np.ndarray],
        boxes: np.ndarray | Sequence[Box],
        scores: Sequence[float | None] | None = None,
        refine: bool = True,
        turns_deg: Sequence[float] | None = None,
    ) -> list[Face]:
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
        squares = Squares(
            boxes, np.radians(np.zeros(len(boxes)) if turns_deg is None else turns_deg)
        )
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
        own, other = (
            {key: out[key][half] for key in ("identity", "expression", "pose")}
            for half in (slice(count), slice(count, None))
        )
        landmarks = [self._seen(one)["landmarks"] for one in (own, other)]
        identity, expression = self.model.mirrored(other["identity"], other["expression"])
        pose = camera.mirrored_pose(other["pose"])
        back = dict(identity=identity, expression=expression, pose=pose)
        mean = self._seen({key: (own[key] + back[key]) / 2 for key in own})
        return mean | dict(disagreement_percent=confidence.disagreement_percent(*landmarks))

    def _seen(self, out):
        """Coefficients, camera and landmarks of what the network says, as in `look`."""
        rotation, scale, translation = camera.decode_pose(out["pose"].double(), 1.0)
        mean, U, W = (
            getattr(self.model, key)[self.model.landmarks]
            for key in ("mean", "identity_basis", "expression_basis")
        )
        points = (
            mean
            + torch.einsum("ndk,bk->bnd", U, out["identity"])
            + torch.einsum("ndl,bl->bnd", W, out["expression"])
        )
        landmarks = camera.weak_perspective(points.double(), rotation, scale, translation)
        return dict(
            identity=out["identity"],
            expression=out["expression"],
            rotation=rotation,
            scale=scale,
            translation=translation,
            landmarks=landmarks,
        )

    def _estimate(self, pictures, squares):
        """What `look` sees in the `Squares`, one of each picture, as arrays over the batch.

        Cameras, and image_landmarks (B, 68, 2), are in px of the pictures.
        """
        size = self.network.image_size
        crops = np.stack(
            [crop(*one, size, turn) for *one, turn in zip(pictures, squares.boxes, squares.turn)]
        )
        crops = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
        seen = {key: value.cpu().numpy() for key, value in self.look(crops).items()}
        back = camera.euler_to_matrix(torch.from_numpy(squares.turn[:, None] * [0.0, 0.0, -1.0]))
        seen["rotation"] = back.numpy() @ seen["rotation"]
        seen["scale"] = seen["scale"] * squares.side
        seen["translation"] = squares.to_photo(seen["translation"][:, None])[:, 0]
        seen["image_landmarks"] = squares.to_photo(seen.pop("landmarks"))
        return seen | dict(box=squares.boxes, turn=squares.turn)

    def _face(self, seen, i, score):
        """The Face of row `i` of an estimate; its meshes are made here, of what was believed."""
        one = {key: value[i] for key, value in seen.items()}
        identity, expression = (
            torch.from_numpy(one[key])[None].to(self.device) for key in ("identity", "expression")
        )
        neutral = self.model.neutral(identity)
        vertices = neutral + self.model.expression_offset(expression)
        neutral, vertices = (shape[0].cpu().numpy() for shape in (neutral, vertices))
        triangles, region, landmarks = (
            getattr(self.model, key).cpu().numpy() for key in ("triangles", "region", "landmarks")
        )
        pose = Pose(
            one["rotation"].astype(np.float32),
            float(one["scale"]),
            one["translation"].astype(np.float32),
        )
        sure = None
        if self.calibration and not self.plain:
            sure = self.calibration(one["disagreement_percent"])
        return Face(
            vertices=vertices,
            neutral_vertices=neutral,
            triangles=triangles,
            landmarks=vertices[landmarks],
            identity=one["identity"],
            image_landmarks=one["image_landmarks"].astype(np.float32),
            expression=one["expression"],
            pose=pose,
            region=region,
            score=score,
            box=tuple(one["box"].tolist()),
            turn_deg=float(np.degrees(one["turn"])),
            face_model=self.model.name,
            confidence=sure,
            model=self.model,
        )
