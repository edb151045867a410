"""The NoW benchmark (Sanyal, Bolkart, Feng, Black, "Learning to regress 3D face shape and expression from an image without 3D supervision", CVPR 2019): photos, and one neutral scan for each person.

Folder, as the benchmark's own evaluation code (github.com/soubhiksanyal/now_evaluation: compute_error.py) and DECA's loader agree: `imagepathsvalidation.txt` and `imagepathstest.txt` with lines
PERSON/CHALLENGE/IMG.jpg; `iphone_pictures/` and `detected_face/` (the same paths, .npy) in `final_release_version/`; `scans/PERSON/*.obj` in mm and `scans_lmks_onlypp/PERSON/*.pp`, 7 points in
the order of metrics.NOW_LANDMARKS, of the 20 people of the validation set only. The two lists and the two folders of scans are downloads of their own: both places, beside and in
`final_release_version`, are looked in. Challenges: multiview_neutral, multiview_expressions, multiview_occlusions, selfie.
Boxes are pickled dicts of left, top, right, bottom, read without running what a pickle asks for. Not verified from a source: their pixels are those of the upright photo if the photos carry an
EXIF rotation.
"""

from functools import partial
from pathlib import Path

import numpy as np

from e2far.benchmark.datasets.records import (
    Item,
    Samples,
    as_mesh,
    locate,
    names,
    read_mesh,
    read_picked_points,
    reading,
    require,
)
from e2far.benchmark.metrics import as_points
from e2far.files import Unpickler, replacing

WHAT = "the NoW dataset, with final_release_version, imagepathsvalidation.txt, scans and scans_lmks_onlypp, requested from the Max Planck Institute for Intelligent Systems (now.is.tue.mpg.de)"
BOX_SIDE = (
    1.6  # Choice: side of our square over the mean side of the owner's box, as in DECA's loader
)


def read_validation(folder):
    """A `Samples` of the pictures of 20 people, with their scans."""
    return read(folder, "imagepathsvalidation.txt", True)


def read_test(folder):
    """A `Samples` of the pictures of the other 80 people, whose scans only the owner has: for `write_submission`."""
    return read(folder, "imagepathstest.txt", False)


def read(folder, listing, with_scans):
    places = lambda name: [name, f"final_release_version/{name}"]
    listing = locate(folder, WHAT, *places(listing))
    photos = locate(folder, WHAT, *places("iphone_pictures")[::-1])
    keys = [line.strip() for line in listing.read_text().splitlines() if line.strip()]
    if bad := [
        key for key in keys if len(Path(key).parts) != 3 or ".." in key or Path(key).is_absolute()
    ]:
        raise ValueError(
            f"{listing}: {bad[0]!r} is not PERSON/CHALLENGE/IMG.jpg; it should be {WHAT}"
        )
    there = {
        f"{parent}/{name}"
        for parent in {str(Path(key).parent) for key in keys}
        for name in names(photos / parent)
    }
    require(photos, WHAT, [key for key in keys if key not in there], len(keys), "pictures")
    scans = {}
    if with_scans:
        meshes, marks = (
            locate(folder, WHAT, *places(name)) for name in ("scans", "scans_lmks_onlypp")
        )
        people = sorted({Path(key).parts[0] for key in keys})
        scans = {
            person: [
                next((root / person / n for n in names(root / person) if n.endswith(suffix)), None)
                for root, suffix in ((meshes, ".obj"), (marks, ".pp"))
            ]
            for person in people
        }
        for which, (root, suffix) in enumerate(((meshes, ".obj"), (marks, ".pp"))):
            require(
                root,
                WHAT,
                [f"{person}/*{suffix}" for person in people if scans[person][which] is None],
                len(people),
                "people's " + ("scans" if which == 0 else "landmarks"),
            )
    return Samples(folder, keys, partial(build, photos, scans))


def build(photos, scans, key):
    person, challenge, _ = Path(key).parts
    name = str(Path(key).with_suffix(""))
    sources = {"box": partial(read_box, photos.parent / "detected_face" / f"{name}.npy")}
    if person in scans:
        sources |= {
            "scan": partial(read_mesh, scans[person][0], WHAT),
            "scan_landmarks7": partial(read_picked_points, scans[person][1]),
        }
    return Item(name, person, photos / key, dict(challenge=challenge), sources, scan_name=person)


def read_box(path):
    """A square (x0, y0, x1, y1) px about the owner's box, BOX_SIDE times its mean side. The file is an .npy with one dict in it; no code of it runs."""
    with reading(path, WHAT):
        with open(path, "rb") as file:
            version = np.lib.format.read_magic(file)
            _, _, kind = {
                (1, 0): np.lib.format.read_array_header_1_0,
                (2, 0): np.lib.format.read_array_header_2_0,
            }[version](file)
            if kind != np.dtype(object):
                raise ValueError(f"it holds {kind}, not a dict of left, top, right, bottom")
            box = Unpickler(file, encoding="latin1").load().item()
        if not isinstance(box, dict) or not {"left", "top", "right", "bottom"} <= set(box):
            raise ValueError("it holds no dict of left, top, right, bottom")
        left, top, right, bottom = as_points(
            [float(box[side]) for side in ("left", "top", "right", "bottom")], (4,), "the box"
        )
        if right <= left or bottom <= top:
            raise ValueError(f"its box ({left:g}, {top:g}, {right:g}, {bottom:g}) is empty")
        x, y, half = (
            (left + right) / 2,
            (top + bottom) / 2,
            BOX_SIDE * (right - left + bottom - top) / 4,
        )
        return x - half, y - half, x + half, y + half


def write_submission(folder, predictions):
    """Write what the owner's evaluation reads: PERSON/CHALLENGE/IMG.obj, the NEUTRAL face, and IMG.npy, its 7 landmarks, in `folder`; returns how many.

    predictions: an iterable of (name, vertices (N, 3), triangles (F, 3), landmarks7 (7, 3)), name an item's; any unit, but say it to the metrical evaluation (ours is mm)
    Layout and file types: now_evaluation's compute_error.py. Raises ValueError, naming the picture, if one is not a mesh with 7 points, or comes twice.
    """
    done = set()
    for name, vertices, triangles, landmarks7 in predictions:
        path = Path(name)
        if (
            len(path.parts) != 3
            or path.is_absolute()
            or ".." in path.parts
            or path.suffix.lower() in (".jpg", ".png")
            or name in done
        ):
            raise ValueError(
                f"{name!r} is not PERSON/CHALLENGE/IMG without a suffix, or comes twice: give each item's name once"
            )
        try:
            (vertices, triangles), landmarks7 = (
                as_mesh(vertices, triangles),
                as_points(landmarks7, (7, 3), "landmarks7"),
            )
        except ValueError as error:
            raise ValueError(f"{name}: {error}") from None
        with (
            replacing(Path(folder) / f"{name}.obj") as partial_file,
            open(partial_file, "w") as file,
        ):
            np.savetxt(file, vertices, "v %.6f %.6f %.6f")
            np.savetxt(file, triangles + 1, "f %d %d %d")
        np.save(Path(folder) / f"{name}.npy", landmarks7)
        done.add(name)
    return len(done)
