"""REALY (Chai et al., ECCV 2022): 100 scans of Headspace in four regions, and rendered pictures.

Folder, as the benchmark's own code (github.com/czh-98/REALY: README, main.py, utils/) has it:
`REALY_image/`, `REALY_scan_region/1/{nose,mouth,forehead,cheek}.obj`,
`REALY_HIFI3D_keypoints/1.obj` with 85 vertices, of which the first 68 are iBUG's; people are 1 ...
100. Coordinates become mm when multiplied by line 1 ... 100 of `metrical_scale.txt`, which lies in
that code's `data/`: copy it beside these folders.
Pictures are named by person (`7.jpg`, or `7_2.jpg` for a view of several); of their folders only
`crop_image_frontal_512x512` could be verified, so those called `crop_image*` are taken.
"""

from functools import partial

import numpy as np

from e2far.benchmark.datasets import records
from e2far.benchmark.metrics import NOW_LANDMARKS
from e2far.benchmark.protocols import REALY_KEYPOINTS
from e2far.files import reading

WHAT = (
    "the REALY benchmark, a folder with REALY_image, REALY_scan_region, REALY_HIFI3D_keypoints and "
    "metrical_scale.txt, requested with Headspace from the University of York "
    "(www-users.york.ac.uk/~np7/research/Headspace)"
)
SCALE = (
    "metrical_scale.txt with 100 numbers, from data/ of the benchmark's code "
    "(github.com/czh-98/REALY), beside REALY_image"
)
REGIONS = ("nose", "mouth", "forehead", "cheek")  # files, in the order of REALY_KEYPOINTS


def read(folder):
    """Items of the cropped pictures, frontal and others."""
    name = r"(crop_image.*)/((\d+)(_\d+)?)\.(jpg|png)"
    pictures = records.find(folder / "REALY_image", "crop_image*/*", name)
    pictures.sort(key=lambda match: (match[1], int(match[3]), match[0]))
    people = sorted({int(match[3]) for match in pictures})
    needed = [f"REALY_scan_region/{n}/{region}.obj" for n in people for region in REGIONS]
    needed += [f"REALY_HIFI3D_keypoints/{n}.obj" for n in people]
    kind = "regions and keypoints of people with pictures (REALY_image/crop_image*/1.jpg ...)"
    records.require(folder, WHAT, needed, kind)
    records.locate(folder, SCALE, "metrical_scale.txt")
    items = []
    for match in pictures:
        person, image = int(match[3]), folder / "REALY_image" / match[0]
        sources = {
            "scan": partial(read_scan, folder, person),
            "scan_regions": partial(read_regions, folder, person),
            "scan_points": partial(read_keypoints, folder, person),
            "scan_landmarks7": partial(read_keypoints, folder, person, list(NOW_LANDMARKS)),
        }
        facts = dict(pictures=match[1].removeprefix("crop_image_"))
        items.append(records.Item(f"{match[1]}/{match[2]}", str(person), image, facts, sources))
    return items


def mm(folder, person):
    """Millimetres a unit of the person's scan."""
    path = folder / "metrical_scale.txt"
    with reading(path, SCALE):
        return records.as_points(
            np.loadtxt(path, ndmin=1, encoding="utf-8-sig"), (None,), "the scales"
        )[person - 1]


def read_parts(folder, person):
    """Vertices mm and triangles of each region, and where its vertices start in all, and end."""
    place, scale = folder / "REALY_scan_region" / str(person), mm(folder, person)
    parts = [records.read_mesh(place / f"{region}.obj", WHAT) for region in REGIONS]
    starts = np.cumsum([0, *(len(vertices) for vertices, _ in parts)])
    return [vertices * scale for vertices, _ in parts], [faces for _, faces in parts], starts


def read_scan(folder, person):
    """The four regions as one mesh; where regions overlap, both have their vertices."""
    vertices, faces, starts = read_parts(folder, person)
    return np.concatenate(vertices), np.concatenate([f + at for f, at in zip(faces, starts)])


def read_regions(folder, person):
    """Region -> its vertices in `read_scan`, as protocols.realy_error takes them."""
    *_, starts = read_parts(folder, person)
    return {region: np.arange(*ends) for region, *ends in zip(REALY_KEYPOINTS, starts, starts[1:])}


def read_keypoints(folder, person, rows=slice(None)):
    """The 85 points, mm: "v" lines, which trimesh would drop where no face uses them."""
    path = folder / "REALY_HIFI3D_keypoints" / f"{person}.obj"
    scale = mm(folder, person)
    with reading(path, WHAT):
        lines = path.read_text().splitlines()
        points = [line.split()[1:4] for line in lines if line.startswith("v ")]
        return scale * records.as_points(points, (85, 3), "the points")[rows]
