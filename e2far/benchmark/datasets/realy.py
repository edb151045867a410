"""REALY: 100 scans of the Headspace set in four regions, with 85 points and rendered pictures.

Chai et al., "REALY: rethinking the evaluation of 3D face reconstruction", ECCV 2022

Folder, as the benchmark's own code (github.com/czh-98/REALY: README, main.py, utils/) has it:
`REALY_image/`, `REALY_scan_region/1/{nose,mouth,forehead,cheek}.obj`,
`REALY_HIFI3D_keypoints/1.obj` with 85 vertices, of which the first 68 are iBUG's and 36, 39, 42,
45, 33, 48, 54 NoW's 7; people are 1 ... 100. Coordinates become mm when multiplied by line 1 ...
100 of `metrical_scale.txt`, which lies in that code's `data/`: copy it beside these folders.
Pictures are named by person (`7.jpg`, or `7_2.jpg` for a view of several); of their folders only
`crop_image_frontal_512x512` could be verified, so those called `crop_image*` are taken.
"""

import re
from functools import partial

import numpy as np

from e2far.benchmark.datasets.records import (
    Item,
    Samples,
    as_points,
    locate,
    names,
    read_mesh,
    read_obj_points,
    reading,
    require,
)
from e2far.benchmark.metrics import NOW_LANDMARKS

WHAT = (
    "the REALY benchmark, a folder with REALY_image, REALY_scan_region, REALY_HIFI3D_keypoints and "
    "metrical_scale.txt, requested with Headspace from the University of York "
    "(www-users.york.ac.uk/~np7/research/Headspace)"
)
SCALE = (
    "metrical_scale.txt with 100 numbers, from data/ of the benchmark's code "
    "(github.com/czh-98/REALY), beside REALY_image"
)
REGIONS = ("nose", "mouth", "forehead", "cheek")


def read(folder):
    """A `Samples` of the cropped pictures, frontal and others."""
    folder = folder / "REALY_benchmark" if (folder / "REALY_benchmark").is_dir() else folder
    images = locate(folder, WHAT, "REALY_image")
    regions = locate(folder, WHAT, "REALY_scan_region")
    marked = set(names(locate(folder, WHAT, "REALY_HIFI3D_keypoints")))
    locate(folder, SCALE, "metrical_scale.txt")
    keys = []
    for part in [n for n in names(images) if n.startswith("crop_image")]:
        for name in names(images / part):
            if match := re.fullmatch(r"(\d+)(_\d+)?\.(jpg|png)", name):
                keys.append((part, int(match[1]), name))
    people, missing = sorted({person for _, person, _ in keys}), []
    for person in people:
        listed = set(names(regions / str(person)))
        objs = [f"{region}.obj" for region in REGIONS]
        missing += [f"REALY_scan_region/{person}/{n}" for n in objs if n not in listed]
        if f"{person}.obj" not in marked:
            missing.append(f"REALY_HIFI3D_keypoints/{person}.obj")
    kind = "regions and keypoints of people with pictures (REALY_image/crop_image*/1.jpg ...)"
    require(folder, WHAT, missing, 5 * len(people), kind)
    return Samples(folder, sorted(keys), partial(build, folder))


def build(folder, key):
    part, person, picture = key
    readers = dict(
        scan=read_scan,
        scan_regions=read_regions,
        scan_points=read_keypoints,
        scan_landmarks7=read_seven,
    )
    return Item(
        f"{part}/{picture.rpartition('.')[0]}",
        str(person),
        folder / "REALY_image" / part / picture,
        dict(pictures=part.removeprefix("crop_image_")),
        {name: partial(function, folder, person) for name, function in readers.items()},
    )


def mm(folder, person):
    """Millimetres a unit of the person's scan."""
    path = folder / "metrical_scale.txt"
    with reading(path, SCALE):
        return as_points(np.loadtxt(path, ndmin=1), (None,), "the scales")[person - 1]


def read_parts(folder, person):
    """Vertices (N, 3) mm and triangles (F, 3) of each region."""
    place, scale = folder / "REALY_scan_region" / str(person), mm(folder, person)
    return [read_mesh(place / f"{region}.obj", WHAT, scale) for region in REGIONS]


def starts(parts):
    """Where the vertices of each part begin once they are one after the other, and the end."""
    return np.cumsum([0, *(len(vertices) for vertices, _ in parts)])


def read_scan(folder, person):
    """The four regions as one mesh; where regions overlap, both have their vertices."""
    parts = read_parts(folder, person)
    triangles = [triangles + start for (_, triangles), start in zip(parts, starts(parts))]
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(triangles)


def read_regions(folder, person):
    """Region -> its vertices in `read_scan`, as protocols.realy_error takes them."""
    bounds = starts(read_parts(folder, person))
    return {region: np.arange(low, high) for region, low, high in zip(REGIONS, bounds, bounds[1:])}


def read_keypoints(folder, person):
    """The 85 points (85, 3) mm."""
    path = folder / "REALY_HIFI3D_keypoints" / f"{person}.obj"
    return read_obj_points(path, 85, WHAT, mm(folder, person))


def read_seven(folder, person):
    return read_keypoints(folder, person)[list(NOW_LANDMARKS)]
