"""The Basel Face Models: 2009 (.mat, and the repacks of it that 3D reconstruction projects use) and 2017 / 2019 (.h5)."""

import json

import numpy as np
from scipy.io import loadmat
from scipy.spatial import cKDTree

from e2far.facemodels.registration import as_modes, as_vertices, assemble, check_landmarks
from e2far.files import reading

MAT = (
    "a Basel Face Model 2009, 01_MorphableModel.mat (shapeMU, shapePC, shapeEV, tl), requested from the University of Basel (faces.dmi.unibas.ch), "
    "or its repack BFM_model_front.mat (meanshape, idBase, exBase, tri), which Deep3DFaceRecon's scripts make of it"
)
H5 = "a Basel Face Model 2017 or 2019, an .h5 with the groups shape, expression and metadata, requested from the University of Basel (faces.dmi.unibas.ch)"
MICROMETRE, DECIMETRE = 1e-3, 100.0  # in mm
# iBUG numbers of the points that the .h5 names
NAMED = {
    "center.chin.tip": 8,
    "center.nose.tip": 30,
    "right.eye.corner_outer": 36,
    "right.eye.corner_inner": 39,
    "left.eye.corner_inner": 42,
    "left.eye.corner_outer": 45,
    "right.lips.corner": 48,
    "center.lips.upper.outer": 51,
    "left.lips.corner": 54,
    "center.lips.lower.outer": 57,
    "center.lips.upper.inner": 62,
    "center.lips.lower.inner": 66,
}


def read_mat(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel of a .mat file: 2009 in micrometres (shapeEV are standard deviations), its struct `model` with expressions, or BFM_model_front.mat in decimetres, scaled already.

    2009 itself has no expressions: then our own are carried over (see registration.assemble).
    """
    with reading(path, MAT):
        stored = loadmat(
            path,
            variable_names=[
                "shapeMU",
                "shapePC",
                "shapeEV",
                "tl",
                "tri",
                "expMU",
                "expPC",
                "expEV",
                "kpt_ind",
                "meanshape",
                "idBase",
                "exBase",
                "keypoints",
                "model",
            ],
        )
        if "model" in stored:
            struct = stored["model"].ravel()[0]
            stored = {k: struct[k] for k in struct.dtype.names}
        front = "meanshape" in stored
        mean = as_vertices(stored["meanshape" if front else "shapeMU"])
        n, unit = len(mean), DECIMETRE if front else MICROMETRE
        scale = None if front else stored["shapeEV"]
        identity = as_modes(stored["idBase" if front else "shapePC"], n, scale, count=n_identity)
        expression = next(
            (
                as_modes(
                    stored[k],
                    n,
                    None if front else stored["expEV"],
                    "the expression basis",
                    n_expression,
                )
                * unit
                for k in ("exBase", "expPC")
                if k in stored
            ),
            None,
        )
        if "expMU" in stored:
            mean = mean + as_vertices(
                stored["expMU"], "expMU"
            )  # as in those who publish coefficients of it
        given = next(
            (check_landmarks(stored[k]) - 1 for k in ("keypoints", "kpt_ind") if k in stored), None
        )
        triangles = np.asarray(stored["tri" if "tri" in stored else "tl"]).astype(np.int64) - 1
        triangles = triangles.T if triangles.shape[0] == 3 < triangles.shape[1] else triangles
        return assemble(
            "basel2009-front" if front else "basel2009",
            mean * unit,
            identity * unit,
            triangles,
            expression,
            landmarks=given if landmarks is None else landmarks,
            n_expression=n_expression,
        )


def deviations(variances):
    if not (variances >= 0).all():
        raise ValueError("its variances must not be negative")
    return np.sqrt(variances)


def values(file, name):
    """The dataset `name` of an HDF5 file."""
    return np.asarray(file[name][()])


def read_h5(path, n_identity=None, n_expression=None, landmarks=None):
    """The MorphableModel of a 2017 or 2019 .h5: mm; pcaVariance are variances of orthonormal modes; the points that it names replace those carried over.

    # Choice: the mean holds the file's mean expression too, so that coefficients mean what they mean to others; expression 0 is the mean expression, not quite the neutral face.
    """
    try:
        import h5py
    except ImportError:
        raise ValueError(f"{path}: reading .h5 files needs h5py: pip install h5py") from None
    with reading(path, H5):
        with h5py.File(path, "r") as file:
            mean = as_vertices(values(file, "shape/model/mean"))
            modes = lambda part, count: as_modes(
                values(file, f"{part}/model/pcaBasis"),
                len(mean),
                deviations(values(file, f"{part}/model/pcaVariance")),
                f"{part}/model/pcaBasis",
                count,
            )
            identity, expression = modes("shape", n_identity), None
            if "expression" in file:
                expression = modes("expression", n_expression)
                offset = as_vertices(values(file, "expression/model/mean"), "the mean expression")
            triangles = values(file, "shape/representer/cells").astype(np.int64)
            reference = (
                as_vertices(values(file, "shape/representer/points").T, "shape/representer/points")
                if "shape/representer/points" in file
                else mean
            )
            text = (
                values(file, "metadata/landmarks/json").ravel()
                if "metadata/landmarks/json" in file
                else np.array([])
            )
        triangles = triangles.T if triangles.shape[0] == 3 < triangles.shape[1] else triangles
        points = (
            json.loads(text[0] if text.dtype.kind in "OSU" else text.tobytes()) if len(text) else []
        )
        points = {p["id"]: p["coordinates"] for p in points} if isinstance(points, list) else points
        known = {
            NAMED[k]: int(cKDTree(reference).query(xyz)[1])
            for k, xyz in points.items()
            if k in NAMED
        }
        return assemble(
            "basel",
            mean if expression is None else mean + offset,
            identity,
            triangles,
            expression,
            landmarks=landmarks,
            known=known,
            n_expression=n_expression,
        )
