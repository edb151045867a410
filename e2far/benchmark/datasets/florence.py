"""Florence 2D/3D (Bagdanov et al., J-HGBU 2011): 53 people, 3dMD scans and three videos each.

Folder, as several public readers of it agree: `subject_01/` ... `subject_53/`, in each
`Model/frontal1/obj/*.obj` (and frontal2, sidel, sider; vrml beside obj) and
`Video/Indoor-Cooperative.mjpg`, `PTZ-Indoor.mjpeg`, `PTZ-Outdoor.*`. Scans are mm as 3dMD writes
them. Take pictures out of the videos once, into folders of their names (`read` says how).
The truth is the frontal1 scan, else frontal2, else None. `scan_landmarks7` is None unless picked.
Not verified from a source: the videos' suffixes, and that every person has a frontal scan.
"""

from functools import partial

from e2far.benchmark.datasets.records import Item, find, read_mesh, require

WHAT = (
    "Florence 2D/3D, a folder of subject_01 ... subject_53 with Model and Video, requested from "
    "MICC, University of Florence (micc.unifi.it/resources/datasets/florence-3d-faces)"
)
SITUATION = "Indoor-Cooperative|PTZ-Indoor|PTZ-Outdoor"


def read(folder):
    """Items of the pictures taken out of the videos."""
    objs = find(folder, "subject_*/Model/frontal[12]/obj/*.obj", r"(subject_\d+)/.*")
    scans = {match[1]: folder / match[0] for match in reversed(objs)}  # the first one of frontal1
    require(folder, WHAT, [match[0] for match in objs], "scans subject_01/Model/frontal1/obj/*.obj")
    name = rf"(subject_\d+)/Video/({SITUATION})/(.*)\.(?i:jpe?g|png|bmp)"
    pictures = find(folder, "subject_*/Video/*/*", name)
    if not pictures:
        video = "subject_01/Video/Indoor-Cooperative"
        raise FileNotFoundError(
            f"{folder}: no pictures {video}/*.jpg; make that folder and "
            f"take them out of the videos: ffmpeg -i {video}.mjpg -r 1 {video}/%04d.jpg"
        )
    items = []
    for match in pictures:
        person, situation, picture = match.groups()
        sources = {"scan": partial(read_mesh, scans[person], WHAT)} if person in scans else {}
        name, facts = f"{person}/{situation}/{picture}", dict(situation=situation)
        items.append(Item(name, person, folder / match[0], facts, sources, scan_name=person))
    return items
