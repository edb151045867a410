"""NoW (Sanyal et al., CVPR 2019): photos of 100 people, and one neutral scan for each person.

Folder, as the benchmark's own evaluation code (github.com/soubhiksanyal/now_evaluation:
compute_error.py) and DECA's loader agree: `imagepathsvalidation.txt` and `imagepathstest.txt` with
lines PERSON/CHALLENGE/IMG.jpg; `iphone_pictures/` and `detected_face/` (the same paths, .npy, a
pickled dict of left, top, right, bottom) in `final_release_version/`; `scans/PERSON/*.obj` in mm
and `scans_lmks_onlypp/PERSON/*.pp`, 7 points in the order of metrics.NOW_LANDMARKS, of the 20
people of the validation set only. Lists and scans are downloads of their own: they are looked for
beside and in `final_release_version`. Challenges: multiview_neutral, multiview_expressions,
multiview_occlusions, selfie.
Not verified from a source: boxes are in pixels of the upright photo where it has an EXIF rotation.
"""

from functools import partial
from pathlib import Path

import numpy as np

from e2far.benchmark.datasets import records
from e2far.files import Unpickler, reading, replacing

WHAT = (
    "the NoW dataset, with final_release_version, imagepathsvalidation.txt, scans and "
    "scans_lmks_onlypp, requested from the Max Planck Institute for Intelligent Systems "
    "(now.is.tue.mpg.de)"
)
BOX_SIDE = 1.6  # Choice: our square's side over the owner's box's mean one, as in DECA's loader


def read_validation(folder):
    """Items of the pictures of 20 people, with their scans."""
    items = read_pictures(folder, "imagepathsvalidation.txt")
    people = sorted({item.person for item in items})
    meshes = find_files(folder, people, "scans", ".obj")
    marks = find_files(folder, people, "scans_lmks_onlypp", ".pp")
    for item in items:
        item.sources["scan"] = partial(records.read_mesh, meshes[item.person], WHAT)
        item.sources["scan_landmarks7"] = partial(records.read_picked_points, marks[item.person])
    return items


def read_test(folder):
    """Items of the other 80 people, whose scans only the owner has: `judge.submit`."""
    return read_pictures(folder, "imagepathstest.txt")


def read_pictures(folder, listing):
    """Items of all pictures in a list of PERSON/CHALLENGE/IMG.jpg, without their scans."""
    listing = records.locate(folder, WHAT, listing, f"final_release_version/{listing}")
    places = "final_release_version/iphone_pictures", "iphone_pictures"
    photos, items = records.locate(folder, WHAT, *places), []
    lines = listing.read_text(encoding="utf-8-sig").splitlines()  # Windows' editors write a BOM
    keys = [Path(line.strip()) for line in lines if line.strip()]
    for key in keys:
        if len(key.parts) != 3 or ".." in key.parts or key.is_absolute():
            raise ValueError(f"{listing}: {str(key)!r} is not PERSON/CHALLENGE/IMG.jpg; see {WHAT}")
        person, challenge, _ = key.parts
        name, facts = str(key.with_suffix("")), dict(challenge=challenge)
        box = {"box": partial(read_box, photos.parent / "detected_face" / f"{name}.npy")}
        items.append(records.Item(name, person, photos / key, facts, box, scan_name=person))
    records.require(photos, WHAT, list(map(str, keys)), "pictures")
    return items


def find_files(folder, people, place, suffix):
    """Person -> their first file of this suffix in the folder `place`."""
    root = records.locate(folder, WHAT, place, f"final_release_version/{place}")
    there = {m[1]: m[0] for m in reversed(records.find(root, f"*/*{suffix}", r"([^/]*)/.*"))}
    found = {person: there.get(person, f"{person}/*{suffix}") for person in people}
    records.require(root, WHAT, list(found.values()), f"people's {suffix} files")
    return {person: root / name for person, name in found.items()}


def read_box(path):
    """A square (x0, y0, x1, y1) px about the owner's box; no code of the pickled .npy runs."""
    with reading(path, WHAT), open(path, "rb") as file:
        np.lib.format.read_magic(file)
        np.lib.format.read_array_header_1_0(file)
        stored = Unpickler(file, encoding="latin1").load().item()
        sides = [float(stored[side]) for side in ("left", "top", "right", "bottom")]
        left, top, right, bottom = records.as_points(sides, (4,), "the box")
        if right <= left or bottom <= top:
            raise ValueError(f"its box ({left:g}, {top:g}, {right:g}, {bottom:g}) is empty")
        x, y = (left + right) / 2, (top + bottom) / 2
        half = BOX_SIDE * (right - left + bottom - top) / 4
        return x - half, y - half, x + half, y + half


def write_submission(stem, vertices, triangles, landmarks7):
    """Write what now_evaluation reads: STEM.obj, the NEUTRAL face, and STEM.npy, 7 landmarks."""
    with replacing(f"{stem}.obj") as unfinished, open(unfinished, "w") as file:
        np.savetxt(file, vertices, "v %.6f %.6f %.6f")
        np.savetxt(file, triangles + 1, "f %d %d %d")
    np.save(f"{stem}.npy", np.asarray(landmarks7, np.float64))
