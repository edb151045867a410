"""The Basel Face Model of 2009, a .mat, and the repacks that 3D reconstruction projects use."""

from scipy.io import loadmat

from e2far.facemodels.assembly import (
    Published,
    as_modes,
    as_triangles,
    as_vertices,
    check_landmarks,
)

WHAT = (
    "a Basel Face Model 2009, 01_MorphableModel.mat (shapeMU, shapePC, shapeEV, tl), requested "
    "from the University of Basel (faces.dmi.unibas.ch), or its repack BFM_model_front.mat "
    "(meanshape, idBase, exBase, tri), which Deep3DFaceRecon's scripts make of it"
)
MICROMETRE, DECIMETRE = 1e-3, 100.0  # in mm
NAMES = "shapeMU shapePC shapeEV tl tri expMU expPC expEV kpt_ind model".split()
FRONT_NAMES = "meanshape idBase exBase keypoints".split()


def read(path):
    """The Published of a .mat, which may have no expressions.

    2009's own: micrometres, shapeEV are standard deviations; the same in a struct `model`, with
    expressions; or BFM_model_front.mat: decimetres, scaled already.
    """
    stored = loadmat(path, variable_names=NAMES + FRONT_NAMES)
    if "model" in stored:
        struct = stored["model"].ravel()[0]
        stored = {name: struct[name] for name in struct.dtype.names}
    if "meanshape" in stored:
        kind, unit = "basel2009-front", DECIMETRE
        mean, identity, expression, marks = (stored.get(name) for name in FRONT_NAMES)
        scale = expression_scale = None
    else:
        kind, unit = "basel2009", MICROMETRE
        mean, identity, scale = (stored[name] for name in ("shapeMU", "shapePC", "shapeEV"))
        expression, expression_scale = stored.get("expPC"), stored.get("expEV")
        marks = stored.get("kpt_ind")
    mean = as_vertices(mean)
    n = len(mean)
    identity = as_modes(identity, n, scale) * unit
    if expression is not None:
        expression = as_modes(expression, n, expression_scale, "the expression basis") * unit
    if "expMU" in stored:  # as in those who publish coefficients of it
        mean = mean + as_vertices(stored["expMU"], "expMU")
    return Published(
        kind,
        mean * unit,
        identity,
        as_triangles(stored["tri" if "tri" in stored else "tl"]) - 1,
        expression,
        landmarks=None if marks is None else check_landmarks(marks) - 1,
    )
