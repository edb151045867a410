"""The results of many photos on disk: where they go, which are finished, how they are written.

The results of PHOTO lie at a place, OUT/PHOTO without an ending. The JSON of a face is its record
(`files.digest`): it is written last and says what the face was made with. Every file says near its
beginning or end that e2far made it: such files are no photos, and no others are overwritten.
"""

import json
import os
import re
import tempfile
from pathlib import Path

PICTURES = ".jpg .jpeg .jpe .jfif .png .tif .tiff .webp .bmp .gif .ppm .pgm .pbm .pnm".split()
PICTURES = (*PICTURES, ".heic", ".heif", ".hif", ".avif")
MESHES = ("glb", "obj", "ply", "stl")  # kinds and endings; mesh_files.WRITERS writes them
MAKER = "e2far"
ENDINGS = dict(json=".json") | {kind: f".{kind}" for kind in MESHES}
ENDINGS |= dict(overlay="_overlay.png", html=".html")
BESIDE = (".mtl", "_texture.png", "_overlay.mp4")  # endings of what else is written


def find_photos(paths, all_faces=False):
    """What there is to do: (photo, place of its results) of each, and the files left out.

    Folders are searched for pictures, and their subfolders are made again by the places; what is
    neither a picture nor a result of ours is left out. A place that is taken already gets a number:
    some disks take A for a, and all faces are numbered.
    """
    work, others, taken = [], [], set()
    for path in paths:
        found = [(path, Path(path.stem))]
        if path.is_dir():
            found, more = photos_in(path)
            others += more
        for photo, place in found:
            free, n = place, 1
            while (claim := claimed(free, all_faces)) in taken:
                n += 1
                free = place.with_name(f"{place.name}_{n}")
            taken.add(claim)
            work.append((photo, free))
    return work, others


def claimed(place, all_faces):
    name = place.name.lower()
    return place.parent, re.sub(r"_face\d+$", "", name) if all_faces else name


def photos_in(folder):
    """(photo, place) of the pictures in a folder and its subfolders, and the other files there.

    Hidden ones and our own results are neither. A folder without pictures is given itself, and will
    be told as unreadable.
    """
    photos, others = [], []
    for where, subfolders, names in os.walk(folder):
        subfolders[:] = [name for name in sorted(subfolders) if not name.startswith(".")]
        shown = (Path(where, name) for name in sorted(names) if not name.startswith("."))
        for path in (path for path in shown if not is_ours(path)):
            (photos if path.suffix.lower() in PICTURES else others).append(path)
    places = [(photo, photo.relative_to(folder).with_suffix("")) for photo in photos]
    return places or [(folder, Path(folder.resolve().name or "photos"))], others


def is_ours(path):
    """Whether e2far wrote a file, and nobody has since."""
    if not path.name.lower().endswith((*ENDINGS.values(), *BESIDE)) or not path.is_file():
        return False
    mark = f'"{MAKER}":' if path.suffix.lower() == ".json" else MAKER  # "made_with" has it
    with path.open("rb") as file:
        start = file.read(2**16)
        file.seek(max(0, path.stat().st_size - 1024))
        return mark.encode() in start + file.read()


def refuse_to_overwrite(paths):
    """Raises FileExistsError where one of them is there and is not ours."""
    for path in paths:
        if path.exists() and path.stat().st_size and not is_ours(path):
            remedy = "move it, or name another folder with --out"
            raise FileExistsError(f"{path} is there already, and e2far did not write it: {remedy}")


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
        whole = all(with_ending(place, kind).stat().st_size for kind in outputs)
        return record["faces"] if current and whole and record["made_with"] == made_with else 0
    except (OSError, ValueError, KeyError, TypeError):  # none is there, or it is not ours
        return 0


def write_face(face, image, place, outputs, record):
    """Write the files of one face, the JSON (`record` and its numbers) last.

    They are made in a folder beside their place and then moved: an interruption leaves neither
    half a file nor the JSON of an unfinished face.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    texture = face.texture(image) if {*MESHES, "html"} & set(outputs) else None
    with tempfile.TemporaryDirectory(dir=place.parent, prefix=".e2far-") as partial:
        for kind in outputs:
            path = with_ending(Path(partial, place.name), kind)
            if kind == "overlay":
                save_png(face.overlay(image, close=True), path)
            elif kind == "html":
                face.to_html(path, image, Path(record["made_with"]["photo"]).name, texture)
            elif kind in MESHES:
                face.save(path, texture=texture)
        numbers = with_ending(Path(partial, place.name), "json")
        numbers.write_text(json.dumps(record | face.to_dict(), indent=1) + "\n", encoding="utf-8")
        made = sorted(Path(partial).iterdir(), key=lambda file: (file == numbers, file))
        refuse_to_overwrite([place.parent / file.name for file in made])
        for file in made:
            os.replace(file, place.parent / file.name)


def save_png(pixels, file):
    """Write a picture (H, W, 3) uint8 that says who made it."""
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    made = PngInfo()
    made.add_text("Software", MAKER)
    # Choice: level 3 takes half the time of 6, for a tenth more bytes
    Image.fromarray(pixels).save(file, "PNG", pnginfo=made, compress_level=3)
