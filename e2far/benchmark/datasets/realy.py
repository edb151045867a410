"""REALY (Chai et al., "REALY: rethinking the evaluation of 3D face reconstruction", ECCV 2022): 100 scans of the Headspace set in four regions, with 85 points and rendered pictures.

Folder, as the benchmark's own code (github.com/czh-98/REALY: README, main.py, utils/) has it: `REALY_image/`, `REALY_scan_region/1/{nose,mouth,forehead,cheek}.obj`,
`REALY_HIFI3D_keypoints/1.obj` with 85 vertices, of which the first 68 are iBUG's and 36, 39, 42, 45, 33, 48, 54 NoW's 7; people are 1 ... 100. Coordinates become mm when multiplied by line 1 ...
100 of `metrical_scale.txt`, which lies in that code's `data/`: copy it beside these folders.
Pictures are named by person (`7.jpg`, or `7_2.jpg` for a view of several); of their folders only `crop_image_frontal_512x512` could be verified, so those called `crop_image*` are taken.
"""

import re
from functools import partial

import numpy as np

from e2far.benchmark.datasets.records import (
    Item,
    Samples,
    locate,
    names,
    read_mesh,
    read_obj_points,
    reading,
    require,
)
from e2far.benchmark.metrics import NOW_LANDMARKS, as_points

WHAT = (
    "the REALY benchmark, a folder with REALY_image, REALY_scan_region, REALY_HIFI3D_keypoints and metrical_scale.txt, "
    "requested with Headspace from the University of York (www-users.york.ac.uk/~np7/research/Headspace)"
)
SCALE = "metrical_scale.txt with 100 numbers, from data/ of the benchmark's code (github.com/czh-98/REALY), beside REALY_image"
REGIONS = ("nose", "mouth", "forehead", "cheek")


def read(folder):
    """A `Samples` of the cropped pictures, frontal and others."""
    folder = folder / "REALY_benchmark" if (folder / "REALY_benchmark").is_dir() else folder
    images, regions, points = (
        locate(folder, WHAT, name)
        for name in ("REALY_image", "REALY_scan_region", "REALY_HIFI3D_keypoints")
    )
    scale = locate(folder, SCALE, "metrical_scale.txt")
    matches = [
        (part, re.fullmatch(r"(\d+)(_\d+)?\.(jpg|png)", n))
        for part in names(images)
        if part.startswith("crop_image")
        for n in names(images / part)
    ]
    keys = sorted((part, int(match[1]), match[0]) for part, match in matches if match)
    people = sorted({person for _, person, _ in keys})
    marked = set(names(points))
    missing = [
        f"REALY_scan_region/{p}/{r}.obj"
        for p in people
        for listed in [set(names(regions / str(p)))]
        for r in REGIONS
        if f"{r}.obj" not in listed
    ]
    missing += [f"REALY_HIFI3D_keypoints/{p}.obj" for p in people if f"{p}.obj" not in marked]
    require(
        folder,
        WHAT,
        missing,
        5 * len(people),
        "regions and keypoints of people with pictures (REALY_image/crop_image*/1.jpg ...)",
    )
    return Samples(folder, keys, partial(build, folder, scale))


def build(folder, scale, key):
    part, person, picture = key
    source = dict(folder=folder, scale=scale, person=person)
    return Item(
        f"{part}/{picture.rpartition('.')[0]}",
        str(person),
        folder / "REALY_image" / part / picture,
        dict(pictures=part.removeprefix("crop_image_")),
        {
            "scan": partial(read_scan, **source),
            "scan_regions": partial(read_regions, **source),
            "scan_points": partial(read_keypoints, **source),
            "scan_landmarks7": partial(read_seven, **source),
        },
    )


def mm(scale, person):
    """Millimetres a unit of the person's scan."""
    with reading(scale, SCALE):
        values = as_points(np.loadtxt(scale, ndmin=1), (None,), "the scales")
        if not 1 <= person <= len(values) or values[person - 1] <= 0:
            raise ValueError(f"it has {len(values)} scales and none above zero for person {person}")
        return values[person - 1]


def read_parts(folder, scale, person):
    """Vertices (N, 3) mm and triangles (F, 3) of each region."""
    return [
        read_mesh(
            folder / "REALY_scan_region" / str(person) / f"{region}.obj", WHAT, mm(scale, person)
        )
        for region in REGIONS
    ]


def starts(parts):
    """Where the vertices of each part begin once they are one after the other, and where they end."""
    return np.cumsum([0, *(len(vertices) for vertices, _ in parts)])


def read_scan(folder, scale, person):
    """The four regions as one mesh, one after the other; where regions overlap, both have their vertices."""
    parts = read_parts(folder, scale, person)
    return np.concatenate([vertices for vertices, _ in parts]), np.concatenate(
        [triangles + start for (_, triangles), start in zip(parts, starts(parts))]
    )


def read_regions(folder, scale, person):
    """Region -> its vertices in `read_scan`, as protocols.realy_error takes them."""
    bounds = starts(read_parts(folder, scale, person))
    return {region: np.arange(low, high) for region, low, high in zip(REGIONS, bounds, bounds[1:])}


def read_keypoints(folder, scale, person):
    """The 85 points (85, 3) mm."""
    return read_obj_points(
        folder / "REALY_HIFI3D_keypoints" / f"{person}.obj", 85, WHAT, mm(scale, person)
    )


def read_seven(folder, scale, person):
    return read_keypoints(folder, scale, person)[list(NOW_LANDMARKS)]
