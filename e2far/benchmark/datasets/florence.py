"""Florence 2D/3D (Bagdanov, Del Bimbo, Masi, "The Florence 2D/3D hybrid face dataset", J-HGBU 2011): 53 people, 3dMD scans and three videos each.

Folder, as several public readers of it agree: `subject_01/` ... `subject_53/`, in each `Model/frontal1/obj/*.obj` (and frontal2, sidel, sider; vrml beside obj) and
`Video/Indoor-Cooperative.mjpg`, `PTZ-Indoor.mjpeg`, `PTZ-Outdoor.*`. Scans are mm as 3dMD writes them. The videos need a decoder that this package does not bring: take pictures out of them once,
into folders of the videos' names, e.g.
    ffmpeg -i subject_01/Video/Indoor-Cooperative.mjpg -r 1 subject_01/Video/Indoor-Cooperative/%04d.jpg       (after making the folder)
The truth is the frontal1 scan, else frontal2, else None. No landmarks: `scan_landmarks7` is None unless you pick them. Not verified from a source: the videos' suffixes, and that every person has
a frontal scan.
"""

import re
from functools import partial

from e2far.benchmark.datasets.records import Item, Samples, names, read_mesh, require

WHAT = "Florence 2D/3D, a folder of subject_01 ... subject_53 with Model and Video, requested from MICC, University of Florence (micc.unifi.it/resources/datasets/florence-3d-faces)"
SITUATIONS = ("Indoor-Cooperative", "PTZ-Indoor", "PTZ-Outdoor")


def read(folder):
    """A `Samples` of the pictures taken out of the videos."""
    people = [n for n in names(folder) if re.fullmatch(r"subject_\d+", n)]
    require(folder, WHAT, [], len(people), "subject_01 ...")
    scans = {
        p: next(
            (
                folder / p / "Model" / m / "obj" / n
                for m in ("frontal1", "frontal2")
                for n in names(folder / p / "Model" / m / "obj")
                if n.endswith(".obj")
            ),
            None,
        )
        for p in people
    }
    require(
        folder,
        WHAT,
        [],
        sum(scan is not None for scan in scans.values()),
        "frontal scan (subject_01/Model/frontal1/obj/*.obj)",
    )
    keys = [
        (p, situation, n)
        for p in people
        for situation in SITUATIONS
        for n in names(folder / p / "Video" / situation)
        if n.lower().endswith((".jpg", ".jpeg", ".png", ".bmp"))
    ]
    if not keys:
        video = f"subject_01/Video/{SITUATIONS[0]}"
        raise FileNotFoundError(
            f"{folder}: no pictures {video}/*.jpg; take them out of the videos: ffmpeg -i {video}.mjpg -r 1 {video}/%04d.jpg"
        )
    return Samples(folder, keys, partial(build, folder, scans))


def build(folder, scans, key):
    person, situation, picture = key
    sources = {"scan": partial(read_mesh, scans[person], WHAT)} if scans[person] else {}
    return Item(
        f"{person}/{situation}/{picture.rpartition('.')[0]}",
        person,
        folder / person / "Video" / situation / picture,
        dict(situation=situation),
        sources,
        scan_name=person,
    )
