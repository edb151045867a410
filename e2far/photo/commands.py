"""`e2far reconstruct` and `e2far video`."""

import errno
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from e2far import SHIPPED, __version__
from e2far.files import EXPECTED, complain, digest
from e2far.photo import results, video_files

FULL = (errno.ENOSPC, errno.EDQUOT)
FAILURES = ("without a face", "unreadable", "failed otherwise")


def option(help, metavar=None, *names, **more):
    return typer.Option(*names, help=help, metavar=metavar, **more)


PHOTOS = (
    "Pictures of faces (JPEG, HEIC, PNG, AVIF, TIFF, WebP, BMP, GIF, PPM), or folders of them, "
    "which are searched with all their subfolders."
)
OUT = "Folder for the results; made if it does not exist."
CLIP = "One shot of one person (MP4, MOV, MKV, WebM, AVI, GIF)."
BOX = "Square around the face in pixels, brows to chin in its middle two thirds; skips detection."
FIRST = "Square around the face in the first frame, in pixels; default: detected."
WEIGHTS = "Trained network; default: the shipped one."
MODEL = "Face model the network was trained with; default: the shipped one."
SMOOTH = "Width of the Gaussian that smooths expression and camera over time; 0 for none."
ALL_FACES = "Every face that is found, not only the largest."
KINDS = (
    f"Which files to write: some of {', '.join(results.ENDINGS)}. The JSON is always written: it "
    "says what is finished."
)
VIDEO_KINDS = f"Which files to write: some of {', '.join(video_files.ENDINGS)}."
FORCE = "Also photos whose results are there, made with the same weights and options."


def path(text):
    if not text:  # Path("") is the folder where one stands
        raise typer.BadParameter("an empty name.")
    return Path(text)


# What both commands are told
Out = Annotated[Path, option(OUT, "DIR", file_okay=False)]
Weights = Annotated[Path | None, option(WEIGHTS, "FILE", dir_okay=False)]
FaceModel = Annotated[Path | None, option(MODEL, "FILE")]
Device = Annotated[str, option("cpu, cuda, cuda:1, ...")]


@dataclass(frozen=True)
class PhotoOptions:
    """What `e2far reconstruct` is told."""

    photos: Annotated[list[Path], typer.Argument(metavar="PHOTO...", help=PHOTOS, parser=path)]
    out: Out = Path("faces")
    box: Annotated[str | None, option(BOX, "X0,Y0,X1,Y1")] = None
    all_faces: Annotated[bool, option(ALL_FACES, None, "--all-faces")] = False
    only: Annotated[str, option(KINDS, "KIND,...")] = "obj,glb,json,overlay,html"
    force: Annotated[bool, option(FORCE, None, "--force")] = False
    weights: Weights = None
    face_model: FaceModel = None
    device: Device = "cpu"


@dataclass(frozen=True)
class VideoOptions:
    """What `e2far video` is told."""

    clip: Annotated[Path, typer.Argument(metavar="VIDEO", help=CLIP)]
    out: Out = Path("faces")
    box: Annotated[str | None, option(FIRST, "X0,Y0,X1,Y1")] = None
    every: Annotated[int, option("Take every n-th frame.", min=1)] = 1
    limit: Annotated[int | None, option("At most so many frames; default: all.", min=1)] = None
    smooth: Annotated[float, option(SMOOTH, "SECONDS", min=0.0)] = 0.05
    only: Annotated[str, option(VIDEO_KINDS, "KIND,...")] = ",".join(video_files.ENDINGS)
    weights: Weights = None
    face_model: FaceModel = None
    device: Device = "cpu"


def parse_box(text):
    """ "x0,y0,x1,y1" as four floats, None as None; `detection.check_box` judges the numbers."""
    if text is None:
        return None
    try:
        x0, y0, x1, y1 = map(float, text.split(","))
    except ValueError:
        remedy = "give --box x0,y0,x1,y1 in pixels"
        raise ValueError(f"--box {text!r} is not four numbers: {remedy}") from None
    return x0, y0, x1, y1


def parse_kinds(text, known):
    """ "json,obj" as a list; ValueError where one is not among the `known`."""
    kinds = [kind for kind in text.replace(" ", "").lower().split(",") if kind]
    if unknown := [kind for kind in kinds if kind not in known]:
        raise ValueError(f"--only: there is no {unknown[0]!r}; choose from {', '.join(known)}")
    return kinds


def load_network(options):
    from e2far import Reconstructor  # here, since torch takes a while to import

    return Reconstructor.from_pretrained(options.weights, options.face_model, options.device)


def reconstruct(options):
    """Write mesh, numbers, overlay and page for the face in each PHOTO.

    PHOTO.obj (mm, with PHOTO.mtl and PHOTO_texture.png), PHOTO.glb (textured, animatable),
    PHOTO.json (coefficients, camera, landmarks, confidence), PHOTO_overlay.png and PHOTO.html.

    A face that may be none (a drawing, an animal, a dark picture) is written as well, but told as
    "doubtful" and counted so.

    Run it again after an interruption: what is finished is skipped. The exit status is 0 if every
    photo gave a face, 1 if any did not, 130 after Ctrl-C.
    """
    box, kinds = parse_box(options.box), parse_kinds(options.only, results.ENDINGS)
    work, others = results.find_photos(options.photos, options.all_faces)
    weights = options.weights or SHIPPED / "default.safetensors"
    model = options.face_model or SHIPPED / "makehuman.npz"
    settings = dict(
        weights=digest(weights, model, b"" if Path(model).is_file() else str(model).encode()),
        box=box and list(box),
        all_faces=options.all_faces,
    )
    tally = dict.fromkeys(("reconstructed", "doubtful", "finished before", *FAILURES), 0)
    waiting = []
    for photo, place in work:
        relative = Path(os.path.relpath(photo, options.out)).as_posix()
        made_with = dict(e2far=__version__, photo=relative) | settings
        place = options.out / place
        if not options.force and results.is_finished(photo, place, kinds, made_with):
            tally["finished before"] += 1
            if len(work) == 1:
                typer.echo(f"{photo.name}: finished before, {place}.*; --force makes it anew")
        else:
            waiting.append((photo, place, made_with))
    try:
        if waiting:  # else neither torch nor the network is needed
            reconstruct_photos(waiting, options, box, kinds, tally)
    finally:
        if others:
            shown, more = ", ".join(map(str, others[:10])), len(others) - 10
            shown += f" and {more} more" * (more > 0)
            complain(f"left out {len(others)} that are no pictures: {shown}")
        if len(work) > 1:
            counts = ", ".join(f"{count} {kind}" for kind, count in tally.items())
            typer.echo(f"{len(work)} photos: {counts}")
    if any(tally[kind] for kind in FAILURES):
        raise typer.Exit(1)


def reconstruct_photos(waiting, options, box, kinds, tally):
    """Reconstruct and write (photo, place, what it is made with) each, and fill `tally`."""
    from e2far.photo.detection import NoFace, locate
    from e2far.photo.pictures import load_image

    reconstructor = load_network(options)
    options.out.mkdir(parents=True, exist_ok=True)
    shown = next((kind for kind in results.MESHES if kind in kinds), "json")
    bar = tqdm(waiting, unit="photo", disable=None if len(waiting) > 1 else True)
    for photo, place, made_with in bar:
        kind = "unreadable"
        try:
            image = load_image(photo)
            kind = "failed otherwise"
            squares, scores = locate(image, box and [box], photo.name)
            count = len(scores) if options.all_faces else 1
            squares, others = squares[:count], len(scores) - count
            faces = reconstructor.batch(
                [image] * count, squares.boxes, scores[:count], turn=squares.turn
            )
            for i, at in enumerate(results.face_places(place, count)):
                record = dict(made_with=made_with, face=i + 1, faces=count, other_faces=others)
                results.write_face(faces[i], image, at, kinds, record)
                told = "doubtful: " * faces[i].doubtful
                told += f"{results.with_ending(at, shown)}, {describe(faces[i])}"
                told += f", and {others} more: --all-faces" * (others > 0)
                tqdm.write(f"{photo.name}: {told}")
            kind = "doubtful" if all(face.doubtful for face in faces) else "reconstructed"
        except EXPECTED as error:
            if isinstance(error, OSError) and error.errno in FULL:
                remedy = "make room and run the same command again, which skips what is finished"
                raise OSError(f"the disk of {options.out} is full: {remedy}") from None
            kind = "without a face" if isinstance(error, NoFace) else kind
            complain(error if photo.name in str(error) else f"{photo.name}: {error}")
        tally[kind] += 1


def describe(face):
    """Pose of a face and how far to trust it, in a sentence."""
    text = "yaw {:+.0f}, pitch {:+.0f}, roll {:+.0f} degrees".format(*face.pose.angles_deg)
    if (sure := face.confidence) is not None:
        text += f", confidence {sure.score:.2f}" + " (low: look at the overlay)" * (
            sure.score < 0.5
        )
    return text


def reconstruct_video(options):
    """Write VIDEO.json (all numbers), VIDEO_overlay.mp4 and VIDEO.glb (the head, animated).

    One identity for the whole video, expression and camera smoothed over time. Needs the package
    av (the extra `video`).
    """
    from e2far.photo import video

    box, kinds = parse_box(options.box), parse_kinds(options.only, video_files.ENDINGS)
    results.refuse_to_overwrite(video_files.places(options.clip, options.out, kinds).values())
    line = sys.stderr.isatty()
    settings = (box, options.every, options.limit, options.smooth, line)
    track = video.reconstruct(options.clip, load_network(options), *settings)
    paths = ", ".join(map(str, video_files.save(track, options.out, kinds, line)))
    if track.cuts:
        times = ", ".join(f"{time:.2f}" for time in track.cuts[:5])
        remedy = "one shape is given to all frames; if it shows several people, cut it there"
        complain(f"{options.clip.name}: the face looks another from {times} s on: {remedy}")
    lost = int((~track.found).sum())
    typer.echo(f"{options.clip.name}: {paths}: {len(track)} frames, {lost} of them without a face")
