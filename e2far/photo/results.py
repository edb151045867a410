"""The results of many photos on disk: where they go, which are finished, how they are written.

The results of PHOTO lie at a place, OUT/PHOTO without an ending. The JSON of a face is its record
(`files.digest`): it is written last and says what the face was made with.
"""

import json
import os
import re
import tempfile
from pathlib import Path

PICTURES = (".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif")
MESHES = ("obj", "ply", "glb")  # kinds and endings; mesh_files.WRITERS writes them
ENDINGS = dict(json=".json") | {kind: f".{kind}" for kind in MESHES}
ENDINGS |= dict(overlay="_overlay.png", html=".html")


def find_photos(paths, out, all_faces=False):
    """What there is to do: a list of (photo, place of its results in `out`).

    Folders are searched for pictures, and their subfolders are made again in `out`. A place that
    is taken already gets a number: some disks take A for a, and all faces are numbered.
    Raises ValueError where `out` is such a folder.
    """
    work, taken = [], set()
    for path in paths:
        for photo, place in photos_in(path, out) if path.is_dir() else [(path, Path(path.stem))]:
            free, n = place, 1
            while (claim := claimed(free, all_faces)) in taken:
                n += 1
                free = place.with_name(f"{place.name}_{n}")
            taken.add(claim)
            work.append((photo, free))
    return work


def claimed(place, all_faces):
    name = place.name.lower()
    return place.parent, re.sub(r"_face\d+$", "", name) if all_faces else name


def photos_in(folder, out):
    """(photo, place) of the pictures in a folder and its subfolders, but for hidden ones and `out`.

    Results of earlier runs are left out too. A folder without pictures is given itself, and will be
    told as unreadable.
    """
    if folder.resolve() == out.resolve():
        raise ValueError(f"--out {out} is the folder of the photos: name another one")
    found = []
    for where, subfolders, names in os.walk(folder):
        shown = (name for name in sorted(subfolders) if not name.startswith("."))
        subfolders[:] = [name for name in shown if Path(where, name).resolve() != out.resolve()]
        photos = [name for name in sorted(names) if name.lower().endswith(PICTURES)]
        shown = [Path(where, name) for name in photos if not name.startswith(".")]
        found += [photo for photo in shown if not is_result(photo)]
    places = [(photo, photo.relative_to(folder).with_suffix("")) for photo in found]
    return places or [(folder, Path(folder.resolve().name or "photos"))]


def is_result(picture):
    """Whether it is an overlay or a texture of an earlier run, beside a JSON of ours."""
    for ending in (ENDINGS["overlay"], "_texture.png"):
        record = picture.with_name(picture.name.removesuffix(ending) + ".json")
        if picture.name.endswith(ending) and record.is_file():
            return '"made_with"' in record.read_text(encoding="utf-8", errors="replace")
    return False


def face_places(place, count):
    """Where the results of a photo's faces go."""
    if count == 1:
        return [place]
    return [place.with_name(f"{place.name}_face{i}") for i in range(1, count + 1)]


def with_ending(place, kind):
    return place.with_name(place.name + ENDINGS[kind])


def is_finished(photo, place, outputs, made_with):
    """Whether the files of all faces of `photo` are at `place`, not older than the photo.

    The JSON of each face must say that it was `made_with` the same.
    """
    first = faces_told(photo, place, outputs, made_with)
    count = first or faces_told(photo, face_places(place, 2)[0], outputs, made_with)
    places = face_places(place, count)
    return count > 0 and all(faces_told(photo, at, outputs, made_with) == count for at in places)


def faces_told(photo, place, outputs, made_with):
    """How many faces a photo has by the JSON at `place`; 0 if the one there is not finished."""
    try:
        path = with_ending(place, "json")
        record = json.loads(path.read_text(encoding="utf-8"))
        current = path.stat().st_mtime >= photo.stat().st_mtime
        whole = all(with_ending(place, kind).exists() for kind in outputs)
        return record["faces"] if current and whole and record["made_with"] == made_with else 0
    except (OSError, ValueError, KeyError, TypeError):  # none is there, or it is not ours
        return 0


def write_face(face, image, place, outputs, record):
    """Write the files of one face, the JSON (its numbers and `record`) last.

    They are made in a folder beside their place and then moved: an interruption leaves neither
    half a file nor the JSON of an unfinished face.
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
            elif kind in MESHES:
                face.save(path, texture=texture)
        numbers = with_ending(Path(partial, place.name), "json")
        numbers.write_text(json.dumps(face.to_dict() | record, indent=1) + "\n", encoding="utf-8")
        for file in sorted(Path(partial).iterdir(), key=lambda file: (file == numbers, file)):
            os.replace(file, place.parent / file.name)
