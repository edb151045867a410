"""Florence 2D/3D: 53 people, 3dMD scans and three videos each.

Bagdanov, Del Bimbo, Masi, "The Florence 2D/3D hybrid face dataset", J-HGBU 2011

Folder, as several public readers of it agree: `subject_01/` ... `subject_53/`, in each
`Model/frontal1/obj/*.obj` (and frontal2, sidel, sider; vrml beside obj) and
`Video/Indoor-Cooperative.mjpg`, `PTZ-Indoor.mjpeg`, `PTZ-Outdoor.*`. Scans are mm as 3dMD writes
them. The videos need a decoder that this package does not bring: take pictures out of them once,
into folders of the videos' names (made before), e.g.

    ffmpeg -i subject_01/Video/Indoor-Cooperative.mjpg -r 1 \
        subject_01/Video/Indoor-Cooperative/%04d.jpg

The truth is the frontal1 scan, else frontal2, else None. `scan_landmarks7` is None unless picked.
Not verified from a source: the videos' suffixes, and that every person has a frontal scan.
"""

import re
from functools import partial

from e2far.benchmark.datasets.records import Item, Samples, names, read_mesh, require

WHAT = (
    "Florence 2D/3D, a folder of subject_01 ... subject_53 with Model and Video, requested from "
    "MICC, University of Florence (micc.unifi.it/resources/datasets/florence-3d-faces)"
)
SITUATIONS = ("Indoor-Cooperative", "PTZ-Indoor", "PTZ-Outdoor")
PICTURES = (".jpg", ".jpeg", ".png", ".bmp")


def read(folder):
    """A `Samples` of the pictures taken out of the videos."""
    people = [n for n in names(folder) if re.fullmatch(r"subject_\d+", n)]
    require(folder, WHAT, [], len(people), "subject_01 ...")
    scans = {person: find_scan(folder / person / "Model") for person in people}
    kind = "frontal scan (subject_01/Model/frontal1/obj/*.obj)"
    require(folder, WHAT, [], sum(scan is not None for scan in scans.values()), kind)
    keys = [
        (person, situation, n)
        for person in people
        for situation in SITUATIONS
        for n in names(folder / person / "Video" / situation)
        if n.lower().endswith(PICTURES)
    ]
    if not keys:
        video = f"subject_01/Video/{SITUATIONS[0]}"
        raise FileNotFoundError(
            f"{folder}: no pictures {video}/*.jpg; "
            f"take them out of the videos: ffmpeg -i {video}.mjpg -r 1 {video}/%04d.jpg"
        )
    return Samples(folder, keys, partial(build, folder, scans))


def find_scan(models):
    """The first frontal scan in a person's folder of models, or None."""
    for place in (models / "frontal1" / "obj", models / "frontal2" / "obj"):
        for name in names(place):
            if name.endswith(".obj"):
                return place / name
    return None


def build(folder, scans, key):
    person, situation, picture = key
    sources = {"scan": partial(read_mesh, scans[person], WHAT)} if scans[person] else {}
    name = f"{person}/{situation}/{picture.rpartition('.')[0]}"
    image = folder / person / "Video" / situation / picture
    return Item(name, person, image, dict(situation=situation), sources, scan_name=person)
