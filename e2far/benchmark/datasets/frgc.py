"""FRGC v2 (Phillips et al., "Overview of the Face Recognition Grand Challenge", CVPR 2005): range scans of a Minolta Vivid, each with a colour picture.

Folder, as public readers of it agree: `FRGC-2.0-dist/nd1/` with `Spring2003range/`, `Fall2003range/`, `Spring2004range/`, in each `02463d562.abs.gz` and its picture `02463d563.ppm`, whose number
is one higher (PyVision's reader; R. Schestowitz's notes on FRGC 2.0). The .abs text: "480 rows", "640 columns", "pixels (flag X Y Z):", then four lines of rows x columns numbers, row by row:
flags, X, Y, Z; where the flag is 0 the coordinates are -999999. 02463 is the person. Not verified from a source: that the numbers are mm with y up and the camera on the side of +z (Minolta's
frame), and that "one higher" holds throughout: a scan without such a picture has `image` None. No landmarks on scans: `scan_landmarks7` is None unless you pick them.
"""

import gzip
import re
from functools import partial

import numpy as np

from e2far.benchmark.datasets.records import Item, Samples, as_mesh, names, reading, require

WHAT = "FRGC v2, the folder FRGC-2.0-dist with nd1/Fall2003range/*.abs.gz and *.ppm beside them, requested from the University of Notre Dame (CVRL, cvrl.nd.edu)"
NAME = re.compile(r"((\d+)d)(\d+)\.abs(\.gz)?")
LONGEST = (
    2**26
)  # characters of a line: ten times those of 480 x 640 numbers; a small packed file could hold far more
JUMP_MM = 5.0  # Choice: a triangle with a longer edge spans a jump of range, such as from nose to cheek, and is no surface; the scanner's points are about 0.5-1 mm apart


def read(folder):
    """A `Samples` of all range scans."""
    root = folder / "nd1" if (folder / "nd1").is_dir() else folder
    keys = []
    for session in [n for n in names(root) if n.endswith("range")]:
        listed = set(names(root / session))
        for match in filter(None, map(NAME.fullmatch, sorted(listed))):
            picture = f"{match[1]}{int(match[3]) + 1:0{len(match[3])}d}.ppm"
            keys.append((session, match[0], picture if picture in listed else None))
    require(folder, WHAT, [], len(keys), "range scans (*range/*.abs.gz)")
    require(
        folder,
        WHAT,
        [],
        sum(k[2] is not None for k in keys),
        "pictures of range scans (.ppm, their number one higher)",
    )
    return Samples(folder, keys, partial(build, root))


def build(root, key):
    session, scan, picture = key
    return Item(
        f"{session}/{scan.split('.')[0]}",
        NAME.fullmatch(scan)[2],
        root / session / picture if picture else None,
        dict(session=session.removesuffix("range")),  # ty: ignore[not-subscriptable]
        {"scan": partial(read_abs, root / session / scan)},
    )


def read_abs(path):
    """Vertices (N, 3) and triangles (F, 3) of a range scan (.abs, .abs.gz): two triangles for each square of four valid pixels, seen from +z counter-clockwise, but none across a jump."""
    with reading(path, WHAT):
        with (gzip.open if path.suffix == ".gz" else open)(path, "rt") as file:
            header = re.fullmatch(
                r"(\d+)\s+rows\s+(\d+)\s+columns\s+pixels \(flag X Y Z\):\s*",
                "".join(file.readline(LONGEST) for _ in range(3)),
            )
            if not header:
                raise ValueError(
                    "it does not begin with '480 rows', '640 columns', 'pixels (flag X Y Z):'"
                )
            rows, columns = int(header[1]), int(header[2])
            flag, x, y, z = (np.array(file.readline(LONGEST).split(), np.float64) for _ in range(4))
        if {len(values) for values in (flag, x, y, z)} != {rows * columns}:
            raise ValueError(
                f"it holds {len(flag)}, {len(x)}, {len(y)}, {len(z)} numbers, not {rows} x {columns} each: it is cut short"
            )
        valid = (flag == 1).reshape(rows, columns)
        number = np.where(valid, np.cumsum(valid).reshape(rows, columns) - 1, -1)
        vertices = np.stack((x, y, z), 1)[valid.ravel()]
        a, b, c, d = number[:-1, :-1], number[1:, :-1], number[:-1, 1:], number[1:, 1:]
        triangles = np.concatenate(
            [np.stack(corners, -1).reshape(-1, 3) for corners in ((a, b, c), (c, b, d))]
        )
        triangles = triangles[(triangles >= 0).all(1)]
        edges = vertices[triangles] - vertices[np.roll(triangles, 1, 1)]
        return as_mesh(vertices, triangles[(np.linalg.norm(edges, axis=2) <= JUMP_MM).all(1)])
