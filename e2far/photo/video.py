"""From a video to a moving head: one identity, expression and camera that change smoothly.

    video --frame by frame--> coefficients, camera --one person, over time--> Track

A video is taken for one shot of one person. The face is detected once; from then on every frame is
cropped where the landmarks of the last one ask for it, and the detector is called again only where
the face is lost, or looks another at once. The Track says where that was: it may be another person.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from e2far import __version__, camera, morphable
from e2far.files import as_path
from e2far.photo import detection, video_files
from e2far.photo.face import Pose, make_face
from e2far.photo.pictures import crop
from e2far.photo.squares import FAR, asked_box, next_square, square_of
from e2far.photo.units import nearest_units

# Choice: a Gaussian of .05 s, in seconds so that it means the same at any frame rate: a blink lasts
# .1 to .4 s. It looks ahead as far as back, and so does not lag. On a rendered clip (24 frames at
# 25 a second, the mouth opens 1.2 times a second), widths of 0, .02, .05, .1 and .15 s: error of
# the expression .64, .63, .61, .67, .84 mm; its second differences .43, .31, .15, .10, .06 mm (the
# true ones .13).
SMOOTH_S = 0.05
# Mean difference in colour, of 255, above which 16 x 16 px of a face are taken for another one.
# Choice: little more than a face that moves by a twentieth of its square (19; 30 at most among 100);
# noise differs from a face by 71 or more. Two people in the same light and place go unnoticed.
CUT = 35


@dataclass(frozen=True, eq=False)
class Track:
    """One person in T frames of a video; coefficients in standard deviations, cameras as in Pose.

    Where the face was not found, expression and camera bridge the gap.
    """

    path: Path
    every: int  # of the video's frames
    model: morphable.MorphableModel
    times: np.ndarray  # (T,) s
    found: np.ndarray  # (T,) bool
    boxes: np.ndarray  # (T, 4) px, the squares that were seen; NaN where the face was not found
    turns_deg: np.ndarray  # (T,) by which they were turned clockwise; NaN likewise
    confidence: tuple  # T times Confidence, or None
    identity: np.ndarray  # (K,)
    expression: np.ndarray  # (T, L)
    rotation: np.ndarray  # (T, 3, 3)
    scale: np.ndarray  # (T,) px per mm
    translation: np.ndarray  # (T, 2) px
    cuts: tuple[float, ...] = ()  # s, where the face looks another from one frame to the next

    def __repr__(self):
        return f"<Track of {self.path.name}, {len(self)} frames, {self.found.sum()} with a face>"

    def __len__(self):
        return len(self.times)

    def face(self, i):
        """The `face.Face` of frame `i`."""
        return make_face(
            self.model,
            self.identity,
            self.expression[i],
            Pose(self.rotation[i], float(self.scale[i]), self.translation[i]),
            box=tuple(self.boxes[i].tolist()),
            turn_deg=float(self.turns_deg[i]),
            confidence=self.confidence[i],
        )

    def unit_strengths(self):
        """Strengths (T, J) in [0, 1] of the model's units, by `units.nearest_units`."""
        return nearest_units(self.model, self.model.expression_basis.cpu().numpy(), self.expression)

    def to_dict(self):
        """All numbers of all frames, for JSON."""
        rows = []
        for i, strengths in enumerate(self.unit_strengths().tolist()):
            face, found = self.face(i).to_dict(), bool(self.found[i])
            row = dict(time_s=round(float(self.times[i]), 4), found=found)
            row |= {key: face[key] if found else None for key in ("box_px", "box_turn_deg")}
            keys = ("confidence", "expression", "pose", "camera", "landmarks_px")
            rows.append(row | dict(units=strengths) | {key: face[key] for key in keys})
        return dict(
            made_with=dict(e2far=__version__),
            video=self.path.name,
            every=self.every,
            face_model=self.model.name,
            frames_without_a_face=int((~self.found).sum()),
            cuts_s=[round(time, 4) for time in self.cuts],
            identity=self.identity.astype(float).round(4).tolist(),
            unit_names=list(self.model.unit_names),
            frames=rows,
        )


def reconstruct(
    path, reconstructor, box=None, every=1, limit=None, smooth=SMOOTH_S, progress=False
):
    """The Track of one person through a video.

    box: px, around the face in the first frame; default: detected    smooth: s; 0 for none
    every, limit: as of `video_files.frames`, and so are the errors; NoFace if no frame shows a face
    """
    if not smooth >= 0:
        raise ValueError(f"smooth={smooth}: give seconds, 0 or more")
    path, times, seen, cuts, last, before = as_path(path), [], {}, [], None, None
    for time, pixels in video_files.frames(path, every, limit, path.name if progress else None):
        if box is not None and not times:
            now = reconstructor.estimate([pixels], detection.locate(pixels, [box])[0].boxes)
        else:
            now = follow(reconstructor, pixels, last, before)
        if now is not None:
            small = glimpse(pixels, square_of(now))
            if before is not None and np.abs(small - before).mean() > CUT:
                cuts.append(float(time))
            seen[len(times)], last, before = now, next_square(now), small
        times.append(time)
    if not seen:
        raise detection.NoFace(path.name)
    rows, times = np.array(list(seen)), np.array(times)
    seen = {key: np.concatenate([one[key] for one in seen.values()]) for key in seen[rows[0]]}
    sure = dict(zip(rows.tolist(), reconstructor.confidence(seen)))
    weight = np.array([1.0 if one is None else one.score for one in sure.values()])
    boxes, turns_deg = np.full((len(times), 4), np.nan), np.full(len(times), np.nan)
    boxes[rows], turns_deg[rows] = seen["box"], np.degrees(seen["turn"])
    return Track(
        path,
        every,
        reconstructor.model,
        times,
        found=np.isin(np.arange(len(times)), rows),
        boxes=boxes,
        turns_deg=turns_deg,
        confidence=tuple(sure.get(i) for i in range(len(times))),
        cuts=tuple(cuts),
        **over_time(reconstructor.model, seen, weight, times[rows], times, smooth),
    )


def glimpse(pixels, squares):
    """What one square shows, small: (16, 16, 3), to see whether it is what was there before."""
    return crop(pixels, squares.boxes[0], 16, squares.turn[0]).astype(float)


def follow(reconstructor, pixels, last, before=None):
    """The estimate (`Reconstructor.estimate`) of one face in a frame, or None.

    last: the `squares.Squares` (one) where it should be; if it is not there, or this is None, the
    detector's face next to it is taken. It is there where its landmarks do not ask for another
    place (FAR), where it is not doubtful, and where it looks as `before` (see `glimpse`).
    """
    changed = before is not None and np.abs(glimpse(pixels, last) - before).mean() > CUT
    if last is not None and not changed:
        seen = reconstructor.estimate([pixels], last.boxes, turn=last.turn)
        asked = asked_box(square_of(seen), seen["image_landmarks"])
        (sure,) = reconstructor.confidence(seen)
        if np.abs(asked - [0, 0, 1, 1]).max() < FAR and not (sure and sure.doubtful):
            return seen
    found, scores = detection.detect(pixels)
    if not len(scores):
        return None
    if last is not None:
        found = found[np.argsort(np.linalg.norm(found.centre - last.centre, axis=1))]
    return reconstructor.estimate([pixels], found.boxes[:1], turn=found.turn[:1])


def over_time(model, seen, weight, known, times, smooth):
    """Identity, expression and camera of a Track at `times` (T,) s.

    seen: estimates of the frames at `known` (R,) s, to be believed by `weight` (R,)
    Identity is the `middle` of all; with it scale and translation are fitted again to every frame's
    landmarks. Frames without a face are bridged by straight lines, then all are smoothed.
    """
    rotation, landmarks = (torch.from_numpy(seen[k]) for k in ("rotation", "image_landmarks"))
    identity = middle(seen["identity"].astype(float), weight)
    expression = seen["expression"].astype(float)
    mean, U, W = (
        getattr(model, key)[model.landmarks].cpu().double().numpy()
        for key in ("mean", "identity_basis", "expression_basis")
    )
    points = mean + U @ identity + np.einsum("ndl,tl->tnd", W, expression)
    # Smoothed as the network gives them, nine numbers, but in the video's pixels
    fitted = camera.fit_weak_perspective(torch.from_numpy(points), landmarks, rotation)
    pose = camera.encode_pose(rotation, *fitted, side=1.0)
    rows = np.column_stack((weight, expression, pose))
    weight, *values = (np.interp(times, known, column) for column in rows.T)
    values = smoothed(times, np.stack(values, 1), weight, smooth)
    cameras = camera.decode_pose(torch.from_numpy(values[:, -9:]), side=1.0)
    found = identity, values[:, :-9], *(part.numpy() for part in cameras)
    names = ("identity", "expression", "rotation", "scale", "translation")
    return {name: value.astype(np.float32) for name, value in zip(names, found)}


def middle(values, weight):
    """The geometric median (C,) of `values` (T, C) with `weight` (T,), by Weiszfeld's iteration.

    A mean in which a frame that is far off pulls no more than one that is near.
    """
    centre = np.average(values, axis=0, weights=weight)
    for _ in range(100):
        distance = np.linalg.norm(values - centre, axis=1)
        pull = weight / distance.clip(1e-6 + 1e-3 * distance.mean())
        centre = np.average(values, axis=0, weights=pull)
    return centre


def smoothed(times, values, weight, width):
    """`values` (T, C) at `times` (T,) s, each replaced by the straight line fitted around it.

    Frames weigh by `weight` (T,) and a Gaussian of `width` s; 0 changes nothing. Lines rather than
    means: even motion stays as it is, also at both ends and where frames come unevenly.
    """
    result = np.array(values, dtype=float)
    for i, time in enumerate(times if width else ()):
        near = slice(*np.searchsorted(times, (time - 5 * width, time + 5 * width)))
        step = (times[near] - time) / width
        share = np.sqrt(weight[near] * np.exp(-(step**2) / 2))[:, None]
        line = np.stack((np.ones_like(step), step), 1)
        result[i] = np.linalg.lstsq(share * line, share * values[near])[0][0]
    return result
