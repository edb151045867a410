"""From a video to a moving head: one identity for all frames, and expression and camera that change smoothly.

    video --frame by frame--> coefficients, camera --one person, over time--> Track --save--> numbers (JSON), overlay (MP4), animated head (GLB)

A video is taken for one shot of one person. The face is detected once; from then on every frame is cropped where the landmarks of the last one ask for it, and the detector is called again only where
the face is lost. Needs the package `av` (extra `video`, which `make setup` installs).
"""

import json
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from pathlib import Path

import numpy as np
import torch
from scipy.spatial.transform import Rotation
from tqdm import tqdm

from e2far import camera, files, morphable
from e2far.photo import detection, mesh_files, texture
from e2far.photo.face import Face, Pose
from e2far.photo.squares import FAR, Squares, next_square

# Choice: a Gaussian of .05 s, in seconds so that it means the same at any frame rate: a blink lasts .1 to .4 s. It looks ahead as far as back, since the whole video is known, and so does not lag.
# On a rendered clip (24 frames at 25 a second, the mouth opens 1.2 times a second), widths of 0, .02, .05, .1 and .15 s: error of the expression .64, .63, .61, .67, .84 mm; its second differences
# .43, .31, .15, .10, .06 mm (the true ones .13).
SMOOTH_S = 0.05
OUTPUTS = dict(json=".json", overlay="_overlay.mp4", glb=".glb")


# Files --------------------------------------------------------------------------------------------------------------------------------------


def _av():
    try:
        import av  # here, since it is an extra
    except ImportError:
        raise ValueError(
            "videos need the package av: pip install -e '.[video]' in e2far's folder"
        ) from None
    return av


def frames(path, every=1, limit=None):
    """Each `every`-th frame of a video, `limit` of them at most, upright, as pairs of time (s, from the first one) and picture, uint8 (H, W, 3).

    Raises FileNotFoundError, or ValueError with one line, where there is none, where it cannot be read or its end is damaged.
    """
    av, path = _av(), Path(path)
    if every < 1 or limit is not None and limit < 1:
        raise ValueError(f"every={every}, limit={limit}: both count frames and are 1 or more")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a video: name the file")
    try:
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise ValueError(
            f"{path} is not a video that can be read ({error.strerror}): give a whole MP4, MOV, MKV, WebM, AVI or GIF file"
        ) from None
    with container:
        if not container.streams.video:
            raise ValueError(f"{path} holds no pictures, only sound")
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        step, count, first = float(1 / (stream.average_rate or 25)), 0, None
        try:
            for number, frame in enumerate(container.decode(stream)):
                if first is None:
                    first = last = frame.time or 0.0
                else:
                    last = (
                        frame.time if frame.time is not None and frame.time > last else last + step
                    )  # some files leave times out, or repeat them
                if number % every == 0:
                    yield (
                        last - first,
                        np.rot90(
                            frame.to_ndarray(format="rgb24"), round(frame.rotation / 90)
                        ).copy(),
                    )  # a phone that was held upright says so
                    count += 1
                    if count == limit:
                        return
        except av.error.FFmpegError as error:
            raise ValueError(
                f"{path} is damaged after {count} frames ({error.strerror}): convert it again"
                + f", or stop there with limit={count}" * (count > 0)
            ) from None
        if not count:
            raise ValueError(f"{path} holds no frame that can be read: convert it again")


def write(path, pictures, rate):
    """Write pictures (H, W, 3) uint8, an iterable, as an MP4 video (H.264) of `rate` frames a second; an odd last row or column is left out, as the format asks."""
    av = _av()
    with (
        files.replacing(path) as partial,
        av.open(f"file:{partial}", "w", format="mp4") as container,
    ):
        stream = container.add_stream(
            "libx264", rate=Fraction(rate).limit_denominator(1000), options=dict(crf="18")
        )
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(pictures):
            if i == 0:
                stream.height, stream.width = height, width = (
                    picture.shape[0] // 2 * 2,
                    picture.shape[1] // 2 * 2,
                )
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(
                        np.ascontiguousarray(picture[:height, :width]), format="rgb24"
                    )
                )
            )
        container.mux(stream.encode())


# One person, over time ----------------------------------------------------------------------------------------------------------------------


def middle(values, weight):
    """The geometric median (C,) of `values` (T, C) with `weight` (T,): the mean, but one frame that is far off pulls no more than one that is near (Weiszfeld's iteration)."""
    centre = np.average(values, axis=0, weights=weight)
    for _ in range(100):
        distance = np.linalg.norm(values - centre, axis=1)
        centre = np.average(
            values, axis=0, weights=weight / distance.clip(1e-6 + 1e-3 * distance.mean())
        )
    return centre


def smoothed(times, values, weight, width):
    """`values` (T, C) at `times` (T,) s, in order, each replaced by the straight line fitted around it, frames weighted by `weight` (T,) and a Gaussian of `width` s; unchanged where `width` is 0.

    Lines rather than means: even motion stays as it is, also at both ends and where frames come unevenly.
    """
    result = np.array(values, dtype=float)
    for i, time in enumerate(times if width else ()):
        near = slice(*np.searchsorted(times, (time - 5 * width, time + 5 * width)))
        step = (times[near] - time) / width
        share = np.sqrt(weight[near] * np.exp(-(step**2) / 2))[:, None]
        result[i] = np.linalg.lstsq(
            share * np.stack((np.ones_like(step), step), 1), share * values[near]
        )[0][0]
    return result


@dataclass(frozen=True, eq=False)
class Track:
    """One person in T frames of a video; coefficients in standard deviations, cameras as in `face.Pose`. Where the face was not found, expression and camera bridge the gap."""

    path: Path
    every: int  # of the video's frames
    model: morphable.MorphableModel
    times: np.ndarray  # (T,) s
    found: np.ndarray  # (T,) bool
    boxes: (
        np.ndarray
    )  # (T, 4) px, the squares that the network saw; NaN where the face was not found
    turns_deg: np.ndarray  # (T,) by which they were turned clockwise; NaN likewise
    confidence: tuple  # T times Confidence, or None
    identity: np.ndarray  # (K,)
    expression: np.ndarray  # (T, L)
    rotation: np.ndarray  # (T, 3, 3)
    scale: np.ndarray  # (T,) px per mm
    translation: np.ndarray  # (T, 2) px

    def __len__(self):
        return len(self.times)

    def face(self, i):
        """The `face.Face` of frame `i`."""
        model = self.model
        tensor = lambda values: torch.as_tensor(
            values, dtype=model.mean.dtype, device=model.mean.device
        )[None]
        neutral = model.neutral(tensor(self.identity))[0]
        vertices, neutral = (
            (neutral + shift).cpu().numpy()
            for shift in (model.expression_offset(tensor(self.expression[i]))[0], 0)
        )
        triangles, region, landmarks = (
            getattr(model, key).cpu().numpy() for key in ("triangles", "region", "landmarks")
        )
        pose = Pose(self.rotation[i], float(self.scale[i]), self.translation[i])
        return Face(
            vertices=vertices,
            neutral_vertices=neutral,
            triangles=triangles,
            landmarks=vertices[landmarks],
            image_landmarks=pose.project(vertices[landmarks]),
            identity=self.identity,
            expression=self.expression[i],
            pose=pose,
            region=region,
            box=tuple(self.boxes[i].tolist()),
            turn_deg=float(self.turns_deg[i]),
            face_model=model.name,
            confidence=self.confidence[i],
            model=model,
        )

    def unit_strengths(self):
        """Strengths (T, J) in [0, 1] of the model's expression units, by `mesh_files.nearest_units`."""
        return mesh_files.nearest_units(
            self.model, self.model.expression_basis.cpu().numpy(), self.expression
        )

    def to_dict(self):
        """All numbers of all frames, for JSON."""
        rows = []
        for i, strengths in enumerate(self.unit_strengths().tolist()):
            row = self.face(i).to_dict()
            rows.append(
                dict(
                    time_s=round(float(self.times[i]), 4),
                    found=bool(self.found[i]),
                    box_px=row["box_px"] if self.found[i] else None,
                    box_turn_deg=row["box_turn_deg"] if self.found[i] else None,
                    units=strengths,
                )
                | {
                    key: row[key]
                    for key in ("confidence", "expression", "pose", "camera", "landmarks_px")
                }
            )
        return dict(
            video=self.path.name,
            every=self.every,
            face_model=self.model.name,
            frames_without_a_face=int((~self.found).sum()),
            identity=self.identity.astype(float).round(4).tolist(),
            unit_names=list(self.model.unit_names),
            frames=rows,
        )


def reconstruct(
    path, reconstructor, box=None, every=1, limit=None, smooth=SMOOTH_S, progress=False
):
    """The Track of one person through a video.

    path: a video (MP4, MOV, MKV, WebM, AVI, GIF, ...)    reconstructor: reconstructor.Reconstructor    box: (x0, y0, x1, y1) px around the face in the first frame; default: detected
    every, limit: take each `every`-th frame, `limit` at most    smooth: s, width of the Gaussian; 0 for none    progress: show a bar

    Identity is the `middle` of all frames', weighted by their confidence; with it scale and translation are fitted again to every frame's landmarks.
    Frames without the face are bridged by straight lines.
    Raises detection.NoFace if no frame shows a face, FileNotFoundError or ValueError with one line if the video cannot be read.
    """
    if not smooth >= 0:
        raise ValueError(f"smooth={smooth}: give seconds, 0 or more")
    path, times, faces, model, last = Path(path), [], {}, reconstructor.model, None
    for time, pixels in tqdm(frames(path, every, limit), unit="frame", disable=not progress):
        if not times and box is not None:
            face = reconstructor(pixels, box)
        else:
            face = _follow(reconstructor, pixels, last)
        if face is not None:
            last = next_square(face)
            faces[len(times)] = (
                face.identity,
                face.expression,
                face.pose.rotation,
                face.image_landmarks,
                (*face.box, face.turn_deg),
                face.confidence,
            )  # without the mesh, which is large
        times.append(time)
    if not faces:
        raise detection.NoFace(
            f"no face found in {path.name}: say where it is in the first frame with box=(x0, y0, x1, y1), or --box x0,y0,x1,y1 on the command line"
        )
    times, rows = np.array(times), np.array(list(faces))
    *arrays, confidence = zip(*faces.values())
    identities, expression, rotation, landmarks, squares = (
        np.asarray(values, dtype=float) for values in arrays
    )
    weight = np.array([1.0 if one is None else one.score for one in confidence])
    identity = middle(identities, weight)

    mean, U, W = (
        getattr(model, key)[model.landmarks].cpu().double().numpy()
        for key in ("mean", "identity_basis", "expression_basis")
    )
    points = mean + U @ identity + np.einsum("ndl,tl->tnd", W, expression)
    points, landmarks, rotation = (
        torch.from_numpy(values) for values in (points, landmarks, rotation)
    )
    side = 1.0  # smoothed as the network gives them, nine numbers, but in the video's pixels
    pose = camera.encode_pose(
        rotation, *camera.fit_weak_perspective(points, landmarks, rotation), side
    )
    known = np.column_stack((weight, expression, pose))
    weight, *values = (np.interp(times, times[rows], column) for column in known.T)
    values = smoothed(times, np.stack(values, 1), weight, smooth)
    expression, pose = values[:, :-9], torch.from_numpy(values[:, -9:])
    cameras = (part.numpy().astype(np.float32) for part in camera.decode_pose(pose, side))
    found, boxes = np.isin(np.arange(len(times)), rows), np.full((len(times), 5), np.nan)
    boxes[rows] = squares
    sure = dict(zip(faces, confidence))
    return Track(
        path,
        every,
        model,
        times,
        found,
        boxes[:, :4],
        boxes[:, 4],
        tuple(sure.get(i) for i in range(len(times))),
        identity.astype(np.float32),
        expression.astype(np.float32),
        *cameras,
    )


def _follow(reconstructor, pixels, last):
    """The Face in a frame: in `last`, the `squares.Squares` (one) where it should be, or if it is not there or `last` is None, where the detector finds one next to it; or None."""
    if last is not None:
        face = reconstructor.batch([pixels], last.boxes, turns_deg=np.degrees(last.turn))[0]
        seen = Squares(np.array([face.box]), np.radians([face.turn_deg]))
        asked = camera.crop_box(
            torch.from_numpy(seen.from_photo(face.image_landmarks[None])).double()
        ).numpy()  # in shares of the square
        if np.abs(asked - [0, 0, 1, 1]).max() < FAR and not (
            face.confidence and face.confidence.unlike_training
        ):
            return face
    found = detection.detect(pixels)
    if last is not None:
        found.sort(
            key=lambda one: np.linalg.norm(np.add(one[0][:2], one[0][2:]) - 2 * last.centre[0])
        )
    return reconstructor.batch([pixels], [found[0][0]], [found[0][1]])[0] if found else None


# Outputs ------------------------------------------------------------------------------------------------------------------------------------


def save(track, folder, only=tuple(OUTPUTS)):
    """Write VIDEO.json (all numbers), VIDEO_overlay.mp4 (frames without the face as they are) and VIDEO.glb (`animated_glb`) into a folder; returns the paths.

    only: some of json, overlay, glb. Raises ValueError for another.
    """
    if unknown := [kind for kind in only if kind not in OUTPUTS]:
        raise ValueError(f"there is no output {unknown[0]!r}: choose from {', '.join(OUTPUTS)}")
    paths = [Path(folder) / (track.path.stem + OUTPUTS[kind]) for kind in only]
    for kind, path in zip(only, paths):
        if kind == "overlay":
            rate = (len(track) - 1) / (track.times[-1] - track.times[0]) if len(track) > 1 else 25
            pictures = (pixels for _, pixels in frames(track.path, track.every, len(track)))
            write(
                path,
                (
                    track.face(i).overlay(pixels) if track.found[i] else pixels
                    for i, pixels in enumerate(pictures)
                ),
                rate,
            )
            continue
        content = (
            animated_glb(track) if kind == "glb" else json.dumps(track.to_dict()).encode() + b"\n"
        )
        with files.replacing(path) as partial:
            partial.write_bytes(content)
    return paths


def animated_glb(track):
    """A GLB file (bytes) as of `mesh_files.glb`, textured from the surest frame that shows the face from the front, with an animation of its morph targets and of the head's rotation."""
    import pygltflib

    best = int(
        np.argmax(
            track.found
            * [1.0 if one is None else one.score for one in track.confidence]
            * track.rotation[:, 2, 2].clip(1e-3)
        )
    )
    picture = next(islice(frames(track.path, track.every), best, None))[1]
    face = track.face(best)
    document = pygltflib.GLTF2.load_from_bytes(
        mesh_files.glb(face, track.model, texture.texture(face, track.model, picture))
    )
    for sparse in document.accessors:
        sparse.byteOffset = (
            None if sparse.bufferView is None else sparse.byteOffset
        )  # pygltflib reads what is absent as 0
    blob = bytearray(document.binary_blob())

    def accessor(values, kind, **limits):
        blob.extend(bytes(-len(blob) % 4))
        document.bufferViews.append(
            pygltflib.BufferView(buffer=0, byteOffset=len(blob), byteLength=4 * values.size)
        )
        document.accessors.append(
            pygltflib.Accessor(
                bufferView=len(document.bufferViews) - 1,
                componentType=pygltflib.FLOAT,
                count=values.size // dict(SCALAR=1, VEC4=4)[kind],
                type=kind,
                **limits,
            )
        )
        blob.extend(values.astype(np.float32).tobytes())
        return len(document.accessors) - 1

    times = track.times.astype(np.float32)
    when = accessor(times, "SCALAR", min=[times.min().item()], max=[times.max().item()])
    moves = dict(rotation=accessor(Rotation.from_matrix(track.rotation).as_quat(), "VEC4"))
    strengths = track.unit_strengths()
    if strengths.size:
        moves["weights"] = accessor(strengths, "SCALAR")
    document.animations = [
        pygltflib.Animation(
            name=track.path.stem,
            samplers=[
                pygltflib.AnimationSampler(input=when, output=values) for values in moves.values()
            ],
            channels=[
                pygltflib.AnimationChannel(
                    sampler=i, target=pygltflib.AnimationChannelTarget(node=0, path=path)
                )
                for i, path in enumerate(moves)
            ],
        )
    ]
    document.buffers[0].byteLength = len(blob)
    document.set_binary_blob(bytes(blob))
    return b"".join(document.save_to_bytes())
