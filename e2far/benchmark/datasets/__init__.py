"""Data sets of real faces, read from the folders that their owners hand out on their terms.

records     the record that every reader returns, and what readers share
aflw        AFLW2000-3D and 300W-LP: photos with landmarks
bu3dfe, florence, frgc, now, realy     photos with scans
"""

from pathlib import Path

from e2far.benchmark.datasets import aflw, bu3dfe, florence, frgc, now, realy

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
    samples = READERS[name](Path(folder))
    if landmarks7 is not None:
        file = f"{samples[0].scan_name or samples[0].name}.pp"
        samples.landmarks7 = Path(landmarks7)
        if not samples.landmarks7.is_dir():
            raise FileNotFoundError(f"{landmarks7}: no such folder of 7 picked points, as {file}")
    return samples
