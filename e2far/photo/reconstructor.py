r"""From a photo to a mesh: find the face, crop, regress coefficients and pose, lay the mesh back.

    photo --detect--> box --crop--> (3, S, S) --E2FAR--> identity, expression, pose
    identity, expression --MorphableModel--> vertices --pose--> photo

Image coordinates are pixels of the upright photo (its EXIF rotation applied), x right, y down,
(0, 0) the corner of the first pixel. A box is (x0, y0, x1, y1) px by the rule of
`camera.crop_box`: a square centred on the box of the 68 landmarks, side 1.45 sqrt(w h).
"""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from e2far import SHIPPED, camera, facemodels
from e2far.files import as_path
from e2far.morphable import MorphableModel, landmarks_mm
from e2far.network import E2FAR
from e2far.photo import confidence, likeness
from e2far.photo.detection import locate
from e2far.photo.face import Face, Pose, make_face
from e2far.photo.pictures import Box, Picture, crop, load_image
from e2far.photo.squares import CLOSE, FAR, LARGER, LOOKS, UPRIGHT_DEG, Squares, ask_again
from e2far.weights import load_network

WEIGHTS = SHIPPED / "default.safetensors"
File = str | Path | None


class Reconstructor:
    """Photo in, `Face` out: a trained E2FAR network and the face model of its coefficients.

    A face is looked at together with its mirror image, and again where it is not upright or not in
    the middle of its square, if that makes picture and mirror image agree better.

    calibration: a confidence.Calibration, by which every face tells how far to trust it, or None
    plain: one look, without mirror image and confidence: the network's own answer
    """

    def __init__(
        self, net: E2FAR, model: MorphableModel, device="cpu", calibration=None, plain=False
    ):
        wanted, given = (
            f"{one.n_identity} identity and {one.n_expression} expression coefficients"
            for one in (model, net)
        )
        if given != wanted:
            it = f"the face model {model.name!r} has {wanted}"
            raise ValueError(f"the weights predict {given}, but {it}: name theirs")
        self.network, self.model, self.device = net.to(device).eval(), model.to(device), device
        self.calibration, self.plain = calibration, plain

    def __repr__(self):
        return f"<Reconstructor of {self.network.image_size} px photos, {self.model}>"

    @classmethod
    def from_pretrained(
        cls, weights: File = None, face_model: File = None, device="cpu", plain=False
    ) -> "Reconstructor":
        """Read weights (.safetensors), the calibration beside them if it is theirs, a face model.

        None: the shipped ones. Raises FileNotFoundError or ValueError with one line.
        """
        weights = as_path(weights or WEIGHTS)
        if not weights.exists():
            remedy = "name none for the shipped ones; if those are lost, install e2far again"
            raise FileNotFoundError(f"no trained weights at {weights}: {remedy}")
        try:
            torch.empty(1, device=device).cpu()  # "meta" makes tensors without numbers
        except (RuntimeError, AssertionError) as error:
            reason = str(error).splitlines()[0]
            raise ValueError(f"no device {str(device)!r} here ({reason}): choose cpu") from None
        model = facemodels.load_face_model(face_model or "makehuman")
        found = cls(load_network(weights), model, device, plain=plain)
        calibration = confidence.load(confidence.beside(weights))
        if calibration and calibration.version == found.version:  # another one would mislead
            found.calibration = calibration
        return found

    @cached_property
    def version(self) -> str:
        """Sixteen digits that change with network, face model or the rules for looking again."""
        digest = hashlib.sha256(repr((LOOKS, CLOSE, FAR, LARGER, UPRIGHT_DEG)).encode())
        for tensor in (*self.network.state_dict().values(), *self.model.state_dict().values()):
            digest.update(tensor.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]

    def __call__(self, image: Picture, box: Box | None = None, refine=True) -> Face:
        """The largest and surest face of a photo, or the face in `box` (x0, y0, x1, y1) px.

        image: path, PIL image or uint8 (H, W, 3)    refine: look again where that may help
        Raises NoFace (a ValueError) if there is no face, or ValueError if the box is not one.
        """
        boxes = None if box is None else [box]
        return self.reconstruct(image, boxes, refine, largest_only=True)[0]

    def reconstruct(
        self, image: Picture, boxes: Iterable[Box] | None = None, refine=True, largest_only=False
    ) -> list[Face]:
        """All faces of a photo (those in `boxes`, or all that are detected), in one batch."""
        name = Path(image).name if isinstance(image, (str, Path)) else "the picture"
        pixels = load_image(image)
        squares, scores = locate(pixels, boxes, name)
        if largest_only:
            squares, scores = squares[:1], scores[:1]
        return self.batch([pixels] * len(scores), squares.boxes, scores, refine, squares.turn)

    def batch(self, pictures, boxes, scores=None, refine=True, turn=None) -> list[Face]:
        """One Face for each of the squares `boxes` (B, 4) px of B `pictures` (H, W, 3) uint8.

        The network sees all at once. scores: the detector's B    turn: as of `estimate`
        """
        if not len(boxes):
            return []
        seen = self.estimate(pictures, boxes, refine, turn)
        judged = zip(scores or [None] * len(boxes), self.confidence(seen))
        return [self._face(seen, i, *told) for i, told in enumerate(judged)]

    def _face(self, seen, i, score, confidence):
        """The Face of row `i` of an estimate."""
        one = {key: value[i] for key, value in seen.items()}
        rotation, translation, landmarks = (
            one[key].astype(np.float32) for key in ("rotation", "translation", "image_landmarks")
        )
        return make_face(
            self.model,
            one["identity"],
            one["expression"],
            Pose(rotation, float(one["scale"]), translation),
            image_landmarks=landmarks,
            score=score,
            box=tuple(one["box"].tolist()),
            turn_deg=float(np.degrees(one["turn"])),
            confidence=confidence,
        )

    def confidence(self, seen):
        """The Confidence of each face of an estimate; None without a calibration."""
        if self.calibration is None or self.plain:
            return [None] * len(seen["box"])
        return list(map(self.calibration, seen["disagreement_percent"], seen["signs"]))

    def estimate(self, pictures, boxes, refine=True, turn=None):
        """What `batch` makes faces of: arrays over the batch, as of `look`, in px of the pictures.

        With box (B, 4) and turn (B,), the square that was believed. A later look is believed where
        it turns a tilted head upright, or picture and mirror image disagree less in it.
        turn: radians (B,) by which the squares are turned clockwise at first; default: not
        """
        rows = np.arange(len(boxes))
        turn = np.zeros(len(boxes)) if turn is None else turn.copy()
        best = self._look_at(pictures, Squares(np.array(boxes, dtype=float), turn))
        for _ in range(0 if self.plain or not refine else LOOKS - 1):
            wanted, tilted, worth = ask_again({key: value[rows] for key, value in best.items()})
            rows = rows[worth]
            if not len(rows):
                break
            new = self._look_at([pictures[i] for i in rows], wanted[worth])
            agrees = new["disagreement_percent"] < best["disagreement_percent"][rows]
            better = agrees | tilted[worth]
            rows = rows[better]
            for key, value in new.items():
                best[key][rows] = value[better]
        return best

    @torch.inference_mode()
    def look(self, crops: torch.Tensor) -> dict[str, torch.Tensor]:
        """What is read from crops (B, 3, S, S) in [0, 1], as a dict of tensors over the batch.

        identity, expression    rotation, scale, translation: camera, in shares of the crop's side
        landmarks: (B, 68, 2), in the same    disagreement_percent: (B,), see `confidence`
        signs: (B, D), see `likeness`
        It is the mean of what the network says to the crops and, mirrored back, to their mirror
        images. A plain reconstructor takes the network's word and knows no disagreement.
        """
        if self.plain:
            return self._with_landmarks(self.network(crops))
        features = self.network.features(torch.cat((crops, crops.flip(3))))
        out, count = self.network.heads(features), len(crops)
        deepest = list(features.values())[-1]
        deepest = (deepest[:count] + deepest[count:].flip(3)) / 2
        own, other = (
            {key: value[half] for key, value in out.items()}
            for half in (slice(count), slice(count, None))
        )
        landmarks = self._with_landmarks(out)["landmarks"]
        back = dict(pose=camera.mirrored_pose(other.pop("pose")))
        back["identity"], back["expression"] = self.model.mirrored(**other)
        mean = self._with_landmarks({key: (own[key] + back[key]) / 2 for key in own})
        doubt = confidence.disagreement_percent(landmarks[:count], landmarks[count:])
        return mean | dict(disagreement_percent=doubt, signs=likeness.signs(crops, doubt, deepest))

    def _with_landmarks(self, out):
        """Coefficients, camera and landmarks of what the network says, as in `look`."""
        seen = {key: out[key] for key in ("identity", "expression")}
        points = landmarks_mm(self.model, **seen).double()
        pose = camera.decode_pose(out["pose"].double(), 1.0)
        seen |= dict(zip(("rotation", "scale", "translation"), pose))
        return seen | dict(landmarks=camera.weak_perspective(points, *pose))

    def _look_at(self, pictures, squares):
        """What `look` sees in the `Squares`, one of each picture, as arrays over the batch.

        Cameras, and image_landmarks (B, 68, 2), are in px of the pictures.
        """
        size = self.network.image_size
        places = zip(pictures, squares.boxes, squares.turn)
        crops = np.stack([crop(picture, box, size, turn) for picture, box, turn in places])
        crops = torch.from_numpy(crops).to(self.device).permute(0, 3, 1, 2).float() / 255
        seen = {key: value.cpu().numpy() for key, value in self.look(crops).items()}
        back = camera.euler_to_matrix(torch.from_numpy(squares.turn[:, None] * [0.0, 0.0, -1.0]))
        seen["rotation"] = back.numpy() @ seen["rotation"]
        seen["scale"] = seen["scale"] * squares.side
        seen["translation"] = squares.to_photo(seen["translation"][:, None])[:, 0]
        seen["image_landmarks"] = squares.to_photo(seen.pop("landmarks"))
        return seen | dict(box=squares.boxes, turn=squares.turn)
