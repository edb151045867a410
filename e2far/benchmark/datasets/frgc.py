"""FRGC v2 (Phillips et al., CVPR 2005): range scans of a Minolta Vivid, each with a picture.

Folder, as public readers of it agree: `FRGC-2.0-dist/nd1/` with `Spring2003range/`,
`Fall2003range/`, `Spring2004range/`, in each `02463d562.abs.gz` and its picture `02463d563.ppm`,
whose number is one higher (PyVision's reader; R. Schestowitz's notes on FRGC 2.0). The .abs text:
"480 rows", "640 columns", "pixels (flag X Y Z):", then four lines of rows x columns numbers, row by
row: flags, X, Y, Z; where the flag is 0 the coordinates are -999999. 02463 is the person.
Not verified from a source: that the numbers are mm with y up and +z to the camera (Minolta's
frame), and that "one higher" holds throughout: a scan without such a picture has `image` None.
`scan_landmarks7` is None unless picked.
"""

import gzip
import re
from functools import partial

import numpy as np

from e2far.benchmark.datasets.records import Item, as_mesh, find, require
from e2far.files import reading

WHAT = (
    "FRGC v2, the folder FRGC-2.0-dist with nd1/Fall2003range/*.abs.gz and *.ppm beside them, "
    "requested from the University of Notre Dame (CVRL, cvrl.nd.edu)"
)
NAME = r"((.*)range/((\d+)d))(\d+)\.abs(\.gz)?"
HEADER = re.compile(r"(\d+)\s+rows\s+(\d+)\s+columns\s+pixels \(flag X Y Z\):\s*")
LONGEST = 2**26  # characters of a line, ten times the usual; a packed file could hold far more
JUMP_MM = 5.0  # Choice: a longer edge spans a jump of range; points are some 0.5-1 mm apart


def read(folder):
    """Items of all range scans."""
    root = folder / "nd1"
    listed, items = {match[0] for match in find(root, "*range/*.ppm")}, []
    for match in find(root, "*range/*.abs*", NAME):
        start, session, _, person, number, _ = match.groups()
        picture = f"{start}{int(number) + 1:0{len(number)}d}.ppm"
        image = root / picture if picture in listed else None
        sources = {"scan": partial(read_abs, root / match[0])}
        items.append(Item(f"{start}{number}", person, image, dict(session=session), sources))
    pictures = [str(item.image.relative_to(root)) for item in items if item.image]
    require(root, WHAT, pictures, "range scans (*range/*.abs.gz) with a .ppm one number higher")
    return items


def read_abs(path):
    """Vertices (N, 3) and triangles (F, 3) of a range scan, two for each square of valid pixels."""
    opened = gzip.open if path.suffix == ".gz" else open
    with reading(path, WHAT), opened(path, "rt") as file:
        header = HEADER.fullmatch("".join(file.readline(LONGEST) for _ in range(3)))
        if not header:
            raise ValueError("it does not begin with '480 rows', '640 columns', 'pixels (flag X'")
        shape = int(header[1]), int(header[2])
        flag, *xyz = (
            np.array(file.readline(LONGEST).split(), np.float64).reshape(shape) for _ in range(4)
        )
        valid = flag == 1
        number = np.where(valid, np.cumsum(valid).reshape(shape) - 1, -1)
        vertices = np.stack(xyz, -1)[valid]
        a, b, c, d = number[:-1, :-1], number[1:, :-1], number[:-1, 1:], number[1:, 1:]
        halves = np.stack((a, b, c), -1), np.stack((c, b, d), -1)  # counter-clockwise from +z
        triangles = np.concatenate(halves).reshape(-1, 3)
        triangles = triangles[(triangles >= 0).all(1)]
        edges = vertices[triangles] - vertices[np.roll(triangles, 1, 1)]
        return as_mesh(vertices, triangles[(np.linalg.norm(edges, axis=2) <= JUMP_MM).all(1)])
