"""Videos as pictures, and a `video.Track` as numbers (JSON), overlay (MP4) and animated head (GLB).

FFmpeg's libraries come with the package `av` (extra `video`).
"""

import json
from fractions import Fraction
from itertools import islice
from math import ceil
from pathlib import Path

import numpy as np
from tqdm import tqdm

from e2far import files
from e2far.photo.results import MAKER

ENDINGS = dict(json=".json", overlay="_overlay.mp4", glb=".glb")


def import_av():
    with files.extra("video"):
        import av
    return av


def frames(path, every=1, limit=None, told=None):
    """Each `every`-th frame of a video, `limit` at most: pairs of time and upright picture.

    time: s, from the first frame    picture: uint8 (H, W, 3)
    told: what a line of progress says, or None
    Raises FileNotFoundError, or ValueError with one line where it cannot be read to its end.
    """
    av, path = import_av(), files.as_path(path)
    if every < 1 or limit is not None and limit < 1:
        raise ValueError(f"every={every}, limit={limit}: both count frames and are 1 or more")
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file")
    if path.is_dir():
        raise ValueError(f"{path} is a folder, not a video: name the file")
    try:
        container = av.open(f"file:{path}", metadata_errors="ignore")
    except av.error.FFmpegError as error:
        raise ValueError(f"{path} is not a video that can be read: {error.strerror}") from None
    count, last = 0, limit and (limit - 1) * every + 1
    with container:
        if not container.streams.video:
            raise ValueError(f"{path} holds no pictures, only sound")
        try:
            stream = container.streams.video[0]
            total = min(stream.frames or np.inf, last or np.inf) / every
            found = islice(timed(container), 0, last, every)
            line = dict(desc=told, unit="frame", disable=told is None, leave=False)
            for time, frame in tqdm(found, total=None if np.isinf(total) else ceil(total), **line):
                turns = round(frame.rotation / 90)  # a phone that was held upright says so
                yield time, np.rot90(frame.to_ndarray(format="rgb24"), turns).copy()
                count += 1
        except av.error.FFmpegError as error:
            stop = f", or stop there by limit={count}" * (count > 0)
            damage = f"damaged after {count} frames ({error.strerror})"
            raise ValueError(f"{path} is {damage}: convert it again{stop}") from None
    if not count:
        raise ValueError(f"{path} holds no frame that can be read: convert it again")


def timed(container):
    """Times, s, and frames of an open video: some files leave times out, or repeat them."""
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    step, first, last = float(1 / (stream.average_rate or 25)), None, None
    for frame in container.decode(stream):
        if first is None:
            first = last = frame.time or 0.0
        else:
            told = frame.time is not None and frame.time > last
            last = frame.time if told else last + step
        yield last - first, frame


def write(path, pictures, rate):
    """Write pictures (H, W, 3) uint8, an iterable, as MP4 (H.264) of `rate` frames a second.

    An odd last row or column is left out, as the format asks.
    """
    av, rate = import_av(), Fraction(rate).limit_denominator(1000)
    with files.replacing(path) as part, av.open(f"file:{part}", "w", format="mp4") as container:
        container.metadata["comment"] = MAKER
        stream = container.add_stream("libx264", rate=rate, options=dict(crf="18"))
        stream.pix_fmt = "yuv420p"
        for i, picture in enumerate(pictures):
            if i == 0:
                stream.height, stream.width = (side // 2 * 2 for side in picture.shape[:2])
            even = np.ascontiguousarray(picture[: stream.height, : stream.width])
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        container.mux(stream.encode())


def places(clip, folder, only=tuple(ENDINGS)):
    """Where `save` writes: {kind: path}."""
    return {kind: Path(folder) / (Path(clip).stem + ENDINGS[kind]) for kind in only}


def save(track, folder, only=tuple(ENDINGS), progress=False):
    """Write VIDEO.json, VIDEO_overlay.mp4 and VIDEO.glb, or some of them; returns the paths.

    Frames without the face are in the overlay as they are.
    """
    paths = places(track.path, folder, only)
    for kind, path in paths.items():
        if kind == "overlay":
            seconds = track.times[-1] - track.times[0]
            write(
                path,
                overlays(track, path.name if progress else None),
                (len(track) - 1) / seconds if seconds else 25,
            )
            continue
        content = json.dumps(track.to_dict()).encode() + b"\n" if kind == "json" else glb(track)
        with files.replacing(path) as partial:
            partial.write_bytes(content)
    return list(paths.values())


def overlays(track, told=None):
    """The frames of a Track with the mesh laid over each."""
    for i, (_, pixels) in enumerate(frames(track.path, track.every, len(track), told)):
        yield track.face(i).overlay(pixels) if track.found[i] else pixels


def glb(track):
    """A GLB file (bytes) as of `mesh_files.glb`, its morph targets and rotation animated.

    Textured from the surest frame that shows the face from the front.
    """
    import pygltflib as gltf
    from scipy.spatial.transform import Rotation

    from e2far.photo import mesh_files

    score = [1.0 if one is None else one.score for one in track.confidence]
    best = int(np.argmax(track.found * score * track.rotation[:, 2, 2].clip(1e-3)))
    picture = next(islice(frames(track.path, track.every), best, None))[1]
    face = track.face(best)
    made = mesh_files.glb(face, face.texture(picture))
    times, strengths = track.times.astype(np.float32), track.unit_strengths()
    limits = dict(min=[times.min().item()], max=[times.max().item()])
    when = made.add(times[:, None], **limits)
    turns = Rotation.from_matrix(track.rotation).as_quat().astype(np.float32)
    moves = dict(rotation=made.add(turns))
    if strengths.size:
        moves["weights"] = made.add(strengths.astype(np.float32).reshape(-1, 1))
    samplers = [gltf.AnimationSampler(input=when, output=move) for move in moves.values()]
    targets = [gltf.AnimationChannelTarget(node=0, path=path) for path in moves]
    channels = [gltf.AnimationChannel(sampler=i, target=to) for i, to in enumerate(targets)]
    animation = gltf.Animation(name=track.path.stem, samplers=samplers, channels=channels)
    made.document.animations = [animation]
    return made.to_bytes()
