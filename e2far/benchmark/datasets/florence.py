"""Florence 2D/3D (Bagdanov et al., J-HGBU 2011): 53 people, 3dMD scans and three videos each.

Folder, as several public readers of it agree: `subject_01/` ... `subject_53/`, in each
`Model/frontal1/obj/*.obj` (and frontal2, sidel, sider; vrml beside obj) and
`Video/Indoor-Cooperative.mjpg`, `PTZ-Indoor.mjpeg`, `PTZ-Outdoor.*`. Scans are mm as 3dMD writes
them. Take pictures out of the videos once, into folders of their names (`read` says how).
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


def read(folder):
    """A `Samples` of the pictures taken out of the videos."""
    people = [n for n in names(folder) if re.fullmatch(r"subject_\d+", n)]
    require(folder, WHAT, [], len(people), "subject_01 ...")
    scans, keys = {}, []
    for person in people:
        for place in ("Model/frontal2/obj", "Model/frontal1/obj"):
            objs = [n for n in names(folder / person / place) if n.endswith(".obj")]
            scans |= {person: folder / person / place / objs[0]} if objs else {}
        for situation in SITUATIONS:
            found = names(folder / person / "Video" / situation)
            pictures = [n for n in found if n.lower().endswith((".jpg", ".jpeg", ".png", ".bmp"))]
            keys += [(person, situation, n) for n in pictures]
    require(folder, WHAT, [], len(scans), "frontal scan (subject_01/Model/frontal1/obj/*.obj)")
    if not keys:
        video = f"subject_01/Video/{SITUATIONS[0]}"
        raise FileNotFoundError(
            f"{folder}: no pictures {video}/*.jpg; make that folder and "
            f"take them out of the videos: ffmpeg -i {video}.mjpg -r 1 {video}/%04d.jpg"
        )
    return Samples(folder, keys, partial(build, folder, scans))


def build(folder, scans, key):
    person, situation, picture = key
    sources = {"scan": partial(read_mesh, scans[person], WHAT)} if person in scans else {}
    name = f"{person}/{situation}/{picture.rpartition('.')[0]}"
    image = folder / person / "Video" / situation / picture
    return Item(name, person, image, dict(situation=situation), sources, scan_name=person)
