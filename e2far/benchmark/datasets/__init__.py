"""Data sets of real faces, read from the folders that their owners hand out on their terms.

records     the record that every reader returns, and what readers share
aflw        AFLW2000-3D and 300W-LP: photos with landmarks
bu3dfe, florence, frgc, now, realy     photos with scans
"""

from importlib import import_module
from pathlib import Path

READERS = {
    "bu3dfe": ("bu3dfe", "read"),
    "frgc": ("frgc", "read"),
    "now": ("now", "read_validation"),
    "now-test": ("now", "read_test"),
    "aflw2000": ("aflw", "read_aflw2000"),
    "300w-lp": ("aflw", "read_300w_lp"),
    "realy": ("realy", "read"),
    "florence": ("florence", "read"),
}


def open_dataset(name, folder, landmarks7=None):
    """The data set `name`, one of READERS, in its owner's `folder`: a sequence of `records.Item`.

    Files are listed once and checked to be there; none is read unasked.
    landmarks7: where the owner marks no scan, a folder of `<item.scan_name or item.name>.pp`, the 7
    points of NoW picked on the scan with MeshLab
    """
    if name not in READERS:
        raise ValueError(f"no data set is called {name!r}: give one of {', '.join(READERS)}")
    module, function = READERS[name]
    samples = getattr(import_module(f"{__name__}.{module}"), function)(Path(folder))
    samples.landmarks7 = None if landmarks7 is None else Path(landmarks7)
    if samples.landmarks7 is not None and not samples.landmarks7.is_dir():
        file = f"{samples[0].scan_name or samples[0].name}.pp"
        raise FileNotFoundError(f"{landmarks7}: no such folder of 7 picked points a scan ({file})")
    return samples
