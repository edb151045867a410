"""`e2far reconstruct` and `e2far video`."""

import json
import os
import re
import sys
import tempfile
from itertools import islice
from pathlib import Path
from typing import Annotated

import typer
from tqdm import tqdm

from e2far import __version__
from e2far.files import EXPECTED, complain

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
OUTPUTS = {
    "json": ".json",
    "obj": ".obj",
    "ply": ".ply",
    "glb": ".glb",
    "overlay": "_overlay.png",
    "html": ".html",
}
USUAL, MESHES = ("obj", "glb", "json", "overlay", "html"), ("obj", "ply", "glb")
FAILURES, UNLIKE = (
    ("without a face", "unreadable", "failed otherwise"),
    "unlike the faces of the training",
)
WAITING_BYTES = (
    500_000_000  # of pixels that wait for the network; a photo of 50 megapixels has 150 million
)


def parse_box(text):
    """ "x0,y0,x1,y1" as four floats; ValueError otherwise (`detection.check_box` judges the numbers)."""
    try:
        box = tuple(float(part) for part in text.split(","))
    except ValueError:
        box = ()
    if len(box) != 4:
        raise ValueError(
            f"--box {text!r} is not four numbers: give --box x0,y0,x1,y1 in pixels, the corners of a square around the face"
        )
    return box


def find_photos(paths, out, all_faces=False):
    """What there is to do: (photo, place of its results in `out`, without an ending), a list. Folders are searched for pictures, except in `out`, and their subfolders are made again there.

    A place is the photo's own name, numbered where two share it (with `all_faces` also where the faces of one would take the other's). Raises ValueError where `out` is such a folder.
    """
    found = []
    for path in paths:
        if not path.is_dir():
            found.append((path, Path(path.stem)))
            continue
        if path.resolve() == out.resolve():
            raise ValueError(
                f"--out {out} is the folder of the photos: name another one, or the next run will take overlays for photos"
            )
        photos = []
        for folder, subfolders, names in os.walk(path):
            subfolders[:] = sorted(
                name
                for name in subfolders
                if not name.startswith(".") and Path(folder, name).resolve() != out.resolve()
            )
            photos += [
                Path(folder, name)
                for name in sorted(names)
                if not name.startswith(".") and name.lower().endswith(PICTURES)
            ]
        found += [(photo, photo.relative_to(path).with_suffix("")) for photo in photos] or [
            (path, Path(path.resolve().name or "photos"))
        ]  # a folder without pictures is told as unreadable
    work, taken = [], set()
    for photo, place in found:
        name, n = place.name, 2
        while (
            key := (
                place.parent,
                re.sub(r"_face\d+$", "", name.lower()) if all_faces else name.lower(),
            )
        ) in taken:
            name, n = f"{place.name}_{n}", n + 1
        taken.add(key)
        work.append((photo, place.with_name(name)))
    return work


def face_places(place, count):
    """Where the results of a photo's faces go."""
    return (
        [place]
        if count == 1
        else [place.with_name(f"{place.name}_face{i}") for i in range(1, count + 1)]
    )


def with_ending(place, kind):
    return place.with_name(place.name + OUTPUTS[kind])


def is_finished(photo, place, outputs, made_with):
    """Whether all results of `photo` are at `place`: the JSON of each face, which is written last, says that it was `made_with` the same, and is not older than the photo."""

    def faces(place):
        path = with_ending(place, "json")
        try:
            record = (
                json.loads(path.read_text(encoding="utf-8"))
                if path.stat().st_mtime >= photo.stat().st_mtime
                else {}
            )
            return (
                record["faces"]
                if record["made_with"] == made_with
                and all(with_ending(place, kind).exists() for kind in outputs)
                else 0
            )
        except (OSError, ValueError, KeyError, TypeError):
            return 0

    return (
        faces(place) == 1
        or (count := faces(face_places(place, 2)[0])) > 1
        and all(faces(face) == count for face in face_places(place, count))
    )


def faces_in(work, reconstructor, boxes, all_faces, batch_size, skip):
    """Reads, detects and reconstructs, several photos at a time. Yields (photo, place, what became of it, result) for each of `work`, not in its order.

    boxes: None, or where the face is in every photo    skip: function of photo and place that says what is finished    result: (picture, its Faces), an error, or None
    """
    from e2far.photo.detection import NoFace, locate
    from e2far.photo.pictures import load_image

    waiting = []

    def answers():
        pictures, squares, scores = (
            [one for *_, many in waiting for one in many[part]] for part in range(3)
        )
        faces = iter(reconstructor.batch(pictures, squares, scores))
        for photo, place, image, (_, mine, _) in waiting:
            yield photo, place, "reconstructed", (image, list(islice(faces, len(mine))))
        waiting.clear()

    for photo, place in work:
        if skip(photo, place):
            yield photo, place, "finished before", None
            continue
        kind = "unreadable"
        try:
            image = load_image(photo)
            kind = "failed otherwise"
            squares, scores = locate(image, boxes, not all_faces, photo.name)
            waiting.append((photo, place, image, ([image] * len(squares), squares, scores)))
        except EXPECTED as error:
            yield photo, place, "without a face" if isinstance(error, NoFace) else kind, error
        if (
            sum(len(many[1]) for *_, many in waiting) >= batch_size
            or sum(image.nbytes for _, _, image, _ in waiting) > WAITING_BYTES
        ):
            yield from answers()
    yield from answers()


def write_face(face, image, place, outputs, record):
    """Numbers of one face, and mesh, overlay, HTML view as `outputs` says: written beside their place, then renamed, the JSON last.

    An interruption leaves no half a file, nor the JSON of an unfinished face.
    """
    from PIL import Image

    place.parent.mkdir(parents=True, exist_ok=True)
    texture = face.texture(image) if {*MESHES, "html"} & set(outputs) else None
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".e2far-") as partial:
        for kind in outputs:
            path = with_ending(Path(partial, place.name), kind)
            if kind == "overlay":
                Image.fromarray(face.overlay(image)).save(path)
            elif kind == "html":
                face.to_html(path, image, record["made_with"]["photo"], texture)
            elif kind != "json":
                face.save(path, texture=texture)
        numbers = with_ending(Path(partial, place.name), "json")
        numbers.write_text(json.dumps(face.to_dict() | record, indent=1) + "\n", encoding="utf-8")
        for file in sorted(Path(partial).iterdir(), key=lambda file: (file == numbers, file)):
            os.replace(file, place.parent / file.name)


def sentence(face):
    """Pose of a face and how far to trust it."""
    yaw, pitch, roll = face.pose.angles_deg
    sure = (
        ""
        if face.confidence is None
        else f", confidence {face.confidence.score:.2f}"
        + ", unlike the faces of the training" * face.confidence.unlike_training
    )
    return f"yaw {yaw:+.0f}, pitch {pitch:+.0f}, roll {roll:+.0f} degrees{sure}"


def named(photos, at_most=10):
    """ "a.png, b.png and 3 more"."""
    return ", ".join(map(str, photos[:at_most])) + (
        f" and {len(photos) - at_most} more" if len(photos) > at_most else ""
    )


def reconstruct(
    photos: Annotated[
        list[Path],
        typer.Argument(
            metavar="PHOTO...",
            show_default=False,
            help="Pictures of faces (JPEG, PNG, TIFF, WebP, BMP, GIF, PPM), or folders of them, which are searched with all their subfolders.",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the results; made if it does not exist.")
    ],
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            show_default=False,
            help="Square around the face in pixels, brows to chin in its middle two thirds; skips detection.",
        ),
    ] = None,
    all_faces: Annotated[
        bool, typer.Option("--all-faces", help="Every face that is found, not only the largest.")
    ] = False,
    only: Annotated[
        str,
        typer.Option(
            metavar="KIND,...",
            help=f"Which files to write: some of {', '.join(OUTPUTS)}. The JSON is always written: it says what is finished.",
        ),
    ] = ",".join(USUAL),
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Also photos whose results are there, made with the same weights and options.",
        ),
    ] = False,
    batch_size: Annotated[
        int, typer.Option(min=1, help="Faces that the network looks at together.")
    ] = 16,
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Trained network; default: the shipped one.", show_default=False
        ),
    ] = None,
    face_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Face model the network was trained with; default: the shipped one.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
):
    """Write PHOTO.obj (mm, with PHOTO.mtl and PHOTO_texture.png), PHOTO.glb (textured, animatable), PHOTO.json (coefficients, camera, landmarks, confidence), PHOTO_overlay.png and PHOTO.html for the face in each PHOTO.

    Run it again after an interruption: what is finished is skipped. The exit status is 0 if every photo gave a face, 1 if any did not, 130 after Ctrl-C.
    """
    from e2far.photo.reconstructor import Reconstructor

    try:
        boxes = None if box is None else [parse_box(box)]
        outputs = [kind for kind in only.replace(" ", "").lower().split(",") if kind]
        if unknown := [kind for kind in outputs if kind not in OUTPUTS]:
            raise ValueError(
                f"--only {only!r}: there is no {unknown[0]!r}; choose from {', '.join(OUTPUTS)}"
            )
        work = find_photos(photos, out, all_faces)
        reconstructor = Reconstructor.from_pretrained(weights, face_model, device)
        out.mkdir(parents=True, exist_ok=True)
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None
    options = dict(
        e2far=__version__,
        weights=reconstructor.version,
        box=boxes and list(boxes[0]),
        all_faces=all_faces,
    )
    made_with = lambda photo: dict(photo=Path(os.path.relpath(photo, out)).as_posix(), **options)
    skip = lambda photo, place: (
        not force and is_finished(photo, out / place, outputs, made_with(photo))
    )
    tally = {kind: [] for kind in ("reconstructed", "finished before", *FAILURES, UNLIKE)}
    try:
        with tqdm(total=len(work), unit="photo", disable=None if len(work) > 1 else True) as bar:
            for photo, place, kind, result in faces_in(
                work, reconstructor, boxes, all_faces, batch_size, skip
            ):
                try:
                    if kind == "reconstructed":
                        image, faces = result
                        for i, (face, at) in enumerate(
                            zip(faces, face_places(out / place, len(faces))), 1
                        ):
                            write_face(
                                face,
                                image,
                                at,
                                outputs,
                                dict(face=i, faces=len(faces), made_with=made_with(photo)),
                            )
                            tqdm.write(
                                f"{photo.name}: {with_ending(at, next((o for o in outputs if o in MESHES), 'json'))}, {sentence(face)}"
                            )
                        tally[UNLIKE] += [photo] * any(
                            face.confidence is not None and face.confidence.unlike_training
                            for face in faces
                        )
                except EXPECTED as error:
                    kind, result = "failed otherwise", error
                if kind in FAILURES:
                    complain(result if photo.name in str(result) else f"{photo.name}: {result}")
                tally[kind].append(photo)
                bar.update()
    except KeyboardInterrupt:
        complain("interrupted: run the same command again to go on")
        raise typer.Exit(130) from None
    finally:
        if len(work) > 1:
            print(
                f"{len(work)} photos: " + ", ".join(f"{len(tally[kind])} {kind}" for kind in tally)
            )
            for kind in (*FAILURES, UNLIKE):
                if tally[kind]:
                    print(f"  {kind}: {named(tally[kind])}")
    if any(tally[kind] for kind in FAILURES):
        raise typer.Exit(1)


def reconstruct_video(
    clip: Annotated[
        Path,
        typer.Argument(
            metavar="VIDEO",
            show_default=False,
            help="One shot of one person (MP4, MOV, MKV, WebM, AVI, GIF).",
        ),
    ],
    out: Annotated[
        Path, typer.Option(metavar="DIR", help="Folder for the results; made if it does not exist.")
    ],
    box: Annotated[
        str | None,
        typer.Option(
            metavar="X0,Y0,X1,Y1",
            show_default=False,
            help="Square around the face in the first frame, in pixels; default: detected.",
        ),
    ] = None,
    every: Annotated[int, typer.Option(min=1, help="Take every n-th frame.")] = 1,
    limit: Annotated[
        int | None,
        typer.Option(min=1, show_default=False, help="At most so many frames; default: all."),
    ] = None,
    smooth: Annotated[
        float,
        typer.Option(
            min=0.0,
            metavar="SECONDS",
            help="Width of the Gaussian that smooths expression and camera over time; 0 for none.",
        ),
    ] = 0.05,
    only: Annotated[
        str,
        typer.Option(metavar="KIND,...", help="Which files to write: some of json, overlay, glb."),
    ] = "json,overlay,glb",
    weights: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Trained network; default: the shipped one.", show_default=False
        ),
    ] = None,
    face_model: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Face model the network was trained with; default: the shipped one.",
            show_default=False,
        ),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda, cuda:1, ...")] = "cpu",
):
    """Write VIDEO.json (numbers of all frames), VIDEO_overlay.mp4 and VIDEO.glb (the head, animated): one identity for the whole video, expression and camera smoothed over time.

    Needs the package av (the extra `video`).
    """
    from e2far.photo import video
    from e2far.photo.reconstructor import Reconstructor

    try:
        outputs = [kind for kind in only.replace(" ", "").lower().split(",") if kind]
        if unknown := [kind for kind in outputs if kind not in video.OUTPUTS]:
            raise ValueError(
                f"--only {only!r}: there is no {unknown[0]!r}; choose from {', '.join(video.OUTPUTS)}"
            )
        track = video.reconstruct(
            clip,
            Reconstructor.from_pretrained(weights, face_model, device),
            None if box is None else parse_box(box),
            every,
            limit,
            smooth,
            progress=sys.stderr.isatty(),
        )
        paths = video.save(track, out, outputs)
    except EXPECTED as error:
        complain(error)
        raise typer.Exit(1) from None
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    print(
        f"{clip.name}: {', '.join(map(str, paths))}: {len(track)} frames, {int((~track.found).sum())} of them without a face"
    )
