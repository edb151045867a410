"""The Basel Face Models: of 2009, a .mat, with the repacks that 3D reconstruction projects use, and
of 2017 and 2019, .h5."""

import json
from typing import NamedTuple

import numpy as np
from scipy.io import loadmat
from scipy.spatial import cKDTree

from e2far.facemodels import assembly
from e2far.files import extra

WHAT = (
    "a Basel Face Model 2009, 01_MorphableModel.mat (shapeMU, shapePC, shapeEV, tl), its repack "
    "BFM_model_front.mat (meanshape, idBase, exBase, tri), which Deep3DFaceRecon's scripts make, "
    "or a Basel Face Model 2017 or 2019, an .h5 with the groups shape, expression and metadata "
    "(pip install h5py), requested from the University of Basel (faces.dmi.unibas.ch)"
)


class Layout(NamedTuple):
    """What a format calls its parts, and its unit in mm; without `*_sd` modes are scaled already."""

    name: str
    unit: float
    mean: str
    identity: str
    identity_sd: str
    expression: str
    expression_sd: str
    expression_mean: str


# fmt: off
YEAR_2009 = Layout(  # micrometres
    "basel2009", 1e-3, "shapeMU", "shapePC", "shapeEV", "expPC", "expEV", "expMU",
)
FRONT = Layout("basel2009-front", 100.0, "meanshape", "idBase", "", "exBase", "", "")  # decimetres
YEAR_2017 = Layout(
    "basel", 1.0, "shape/model/mean", "shape/model/pcaBasis", "shape/model/pcaVariance",
    "expression/model/pcaBasis", "expression/model/pcaVariance", "expression/model/mean",
)
CELLS, POINTS = "shape/representer/cells", "shape/representer/points"
NAMED_POINTS = "metadata/landmarks/json"
NAMED = {  # iBUG numbers of the points that the .h5 names
    "center.chin.tip": 8, "center.nose.tip": 30, "right.eye.corner_outer": 36,
    "right.eye.corner_inner": 39, "left.eye.corner_inner": 42, "left.eye.corner_outer": 45,
    "right.lips.corner": 48, "center.lips.upper.outer": 51, "left.lips.corner": 54,
    "center.lips.lower.outer": 57, "center.lips.upper.inner": 62, "center.lips.lower.inner": 66,
}
# fmt: on


def read(path):
    """The Published of a .mat, which may have no expressions, or of a 2017 or 2019 .h5.

    # Choice: the mean holds the file's mean expression too, so that coefficients mean what they
    mean to others; expression 0 is the mean expression, not quite the neutral face.
    """
    reader = read_mat if path.suffix.lower() == ".mat" else read_h5
    part, stored, triangles, landmarks = reader(path)
    mean = assembly.as_vertices(stored[part.mean])
    n = len(mean)

    def modes(basis, sd):
        return assembly.as_modes(stored[basis], n, stored[sd] if sd else None, basis) * part.unit

    identity, expression = modes(part.identity, part.identity_sd), None
    if part.expression in stored:
        expression = modes(part.expression, part.expression_sd)
    if part.expression_mean in stored:
        mean = mean + assembly.as_vertices(stored[part.expression_mean], part.expression_mean)
    mean = mean * part.unit
    return assembly.Published(part.name, mean, identity, triangles, expression, landmarks=landmarks)


def read_mat(path):
    """Layout, arrays by name, triangles and landmarks of a .mat, or of a struct `model` in it."""
    names = [*YEAR_2009[2:], *FRONT[2:], "tl", "tri", "keypoints", "kpt_ind", "model"]
    stored = loadmat(path, variable_names=names)
    if "model" in stored:
        struct = stored["model"].ravel()[0]
        stored = {name: struct[name] for name in struct.dtype.names}
    part, marks = (FRONT, "keypoints") if FRONT.mean in stored else (YEAR_2009, "kpt_ind")
    triangles = assembly.as_triangles(stored["tri" if "tri" in stored else "tl"]) - 1
    landmarks = assembly.as_landmarks(stored[marks], first=1) if marks in stored else {}
    return part, stored, triangles, landmarks


def read_h5(path):
    """Layout, arrays by name, triangles and landmarks of an .h5, which names a few points in mm."""
    with extra("readers"):
        import h5py

    names = [*YEAR_2017[2:], CELLS, POINTS, NAMED_POINTS]
    with h5py.File(path, "r") as file:
        stored = {name: np.asarray(file[name][()]) for name in names if name in file}
    for sd in {YEAR_2017.identity_sd, YEAR_2017.expression_sd} & stored.keys():
        stored[sd] = assembly.deviations(stored[sd])  # these are variances
    text = stored.get(NAMED_POINTS, np.zeros(0)).ravel()
    content = text[0] if text.dtype.kind in "OSU" and text.size else text.tobytes()
    points = json.loads(content or "{}")
    if isinstance(points, list):
        points = {point["id"]: point["coordinates"] for point in points}
    places = stored[POINTS].T if POINTS in stored else stored[YEAR_2017.mean]
    tree = cKDTree(assembly.as_vertices(places, POINTS))
    landmarks = {NAMED[k]: int(tree.query(xyz)[1]) for k, xyz in points.items() if k in NAMED}
    return YEAR_2017, stored, assembly.as_triangles(stored[CELLS]), landmarks
