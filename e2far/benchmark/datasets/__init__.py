"""Data sets of real faces, read from the folders that their owners hand out on their terms.

records     the record that every reader returns, and what readers share
aflw        AFLW2000-3D and 300W-LP: photos with landmarks
bu3dfe, florence, frgc, now, realy     photos with scans
"""

from dataclasses import replace
from functools import partial
from pathlib import Path

from e2far.benchmark.datasets import aflw, bu3dfe, florence, frgc, now, realy
from e2far.benchmark.datasets.records import Samples, read_picked_points

READERS = {
    "bu3dfe": bu3dfe.read,
    "frgc": frgc.read,
    "now": now.read_validation,
    "now-test": now.read_test,
    "aflw2000": aflw.read_aflw2000,
    "300w-lp": aflw.read_300w_lp,
    "realy": realy.read,
    "florence": florence.read,
}


def open_dataset(name, folder, landmarks7=None):
    """The data set `name`, one of READERS, in its owner's `folder`: a sequence of `records.Item`.

    Files are listed once and checked to be there; none is read unasked.
    landmarks7: where the owner marks no scan, a folder of `<item.scan_name or item.name>.pp`, the 7
    points of NoW picked on the scan with MeshLab
    """
    if name not in READERS:
        raise ValueError(f"no data set is called {name!r}: give one of {', '.join(READERS)}")
    items, folders = READERS[name](Path(folder)), [folder]
    if landmarks7 is not None:
        folders.insert(0, landmarks7)
        paths = [Path(landmarks7, f"{item.scan_name or item.name}.pp") for item in items]
        if not Path(landmarks7).is_dir():
            raise FileNotFoundError(f"no folder of 7 picked points, as {paths[0]}")
        picked = ({"scan_landmarks7": partial(read_picked_points, path)} for path in paths)
        items = [replace(x, sources=x.sources | more) for x, more in zip(items, picked)]
    return Samples(items, *folders)
