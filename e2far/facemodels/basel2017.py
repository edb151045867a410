"""The Basel Face Models of 2017 and 2019, .h5."""

import json

import numpy as np
from scipy.spatial import cKDTree

from e2far.facemodels.assembly import Published, as_modes, as_triangles, as_vertices, deviations

WHAT = (
    "a Basel Face Model 2017 or 2019, an .h5 with the groups shape, expression and metadata, "
    "requested from the University of Basel (faces.dmi.unibas.ch); h5py reads it (pip install h5py)"
)
# fmt: off
NAMED = {  # iBUG numbers of the points that the .h5 names
    "center.chin.tip": 8, "center.nose.tip": 30, "right.eye.corner_outer": 36,
    "right.eye.corner_inner": 39, "left.eye.corner_inner": 42, "left.eye.corner_outer": 45,
    "right.lips.corner": 48, "center.lips.upper.outer": 51, "left.lips.corner": 54,
    "center.lips.lower.outer": 57, "center.lips.upper.inner": 62, "center.lips.lower.inner": 66,
}
# fmt: on


def values(file, name):
    """The dataset `name` of an HDF5 file."""
    return np.asarray(file[name][()])


def read_modes(file, part, n):
    """Modes (n, 3, K) in standard deviations; pcaVariance are variances of orthonormal ones."""
    name, variances = f"{part}/model/pcaBasis", values(file, f"{part}/model/pcaVariance")
    return as_modes(values(file, name), n, deviations(variances), name)


def read_named_points(file):
    """Name -> place (3,) mm of the points that the file names: a dict or a list in JSON."""
    text = values(file, "metadata/landmarks/json").ravel()
    if not text.size:
        return {}
    points = json.loads(text[0] if text.dtype.kind in "OSU" else text.tobytes())
    return {p["id"]: p["coordinates"] for p in points} if isinstance(points, list) else points


def read(path):
    """The Published of a 2017 or 2019 .h5, in mm.

    # Choice: the mean holds the file's mean expression too, so that coefficients mean what they
    mean to others; expression 0 is the mean expression, not quite the neutral face.
    """
    import h5py

    with h5py.File(path, "r") as file:
        reference = mean = as_vertices(values(file, "shape/model/mean"))
        identity, expression = read_modes(file, "shape", len(mean)), None
        triangles = as_triangles(values(file, "shape/representer/cells"))
        if "shape/representer/points" in file:
            points = values(file, "shape/representer/points").T
            reference = as_vertices(points, "shape/representer/points")
        if "expression" in file:
            expression = read_modes(file, "expression", len(mean))
            offset = values(file, "expression/model/mean")
            mean = mean + as_vertices(offset, "the mean expression")
        points = read_named_points(file) if "metadata/landmarks/json" in file else {}
    tree = cKDTree(reference)
    known = {NAMED[k]: int(tree.query(xyz)[1]) for k, xyz in points.items() if k in NAMED}
    return Published("basel", mean, identity, triangles, expression, known=known)
