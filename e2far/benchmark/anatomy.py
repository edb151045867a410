"""Where on the face a reconstruction errs: regions, normals, what each ARKit unit moves."""

import numpy as np
import torch
from scipy.spatial import cKDTree

from e2far import raster
from e2far.benchmark import metrics
from e2far.facemodels import anthropometry


def regions(model):
    """Vertex indices of the nose, mouth, eyes, forehead and cheeks, name -> (n,).

    Disjoint, inside `model.region`, the same left and right; ears, chin, jaw line and neck are in
    none. Decided in the frontal view of the mean face: it ends where depth reaches that of the jaw
    line at the ears, the forehead .9 of the distance from nose base to brows above these.
    """
    mean, points = model.mean[model.region].double(), model.mean[model.landmarks].double()
    mirrored = mean * mean.new_tensor([-1, 1, 1])
    partner = torch.from_numpy(cKDTree(mirrored.numpy()).query(mean.numpy())[1])
    x, y, z = ((mean + mirrored[partner]) / 2).T  # so that both sides get the same
    x = x.abs()
    aside = lambda *rows: float(points[list(rows), 0].abs().mean())
    height = lambda *rows: float(points[list(rows), 1].mean())
    eye, brow, base = height(*range(36, 48)), height(*range(17, 27)), height(33)
    lip, chin = height(57), height(8)
    inner, outer, corner = aside(39, 42), aside(36, 45), aside(48, 54)
    wing = float(model.mean[anthropometry.alare(model), 0].abs().mean())

    def ellipse(middle_x, middle_y, half_x, half_y):
        return ((x - middle_x) / half_x).square() + ((y - middle_y) / half_y).square() < 1

    top = (eye + brow) / 2  # of nose and cheeks
    bottom = lip - 0.4 * (lip - chin)  # of the mouth
    down = ((top - y) / (top - base)).clamp(0, 1)
    bridge, wings = 0.6 * inner, 1.1 * wing
    nose = (y < top) & (y > base - 0.25 * (base - height(51)))
    wanted = dict(
        nose=nose & (x < bridge + (wings - bridge) * down**2),
        mouth=ellipse(0, (base + bottom) / 2, 1.4 * corner, (base - bottom) / 2),
        eyes=ellipse((inner + outer) / 2, eye, 0.75 * (outer - inner), 0.5 * (outer - inner)),
        forehead=(y >= top) & (y < brow + 0.9 * (brow - base)),
        cheeks=(y < top) & (y > lip),
    )
    free, found = z > points[[1, 15], 2].mean(), {}
    for name, inside in wanted.items():
        found[name], free = model.region[inside & free].sort().values, free & ~inside
        if not len(found[name]):
            raise ValueError(f"the model has no vertex in the region {name!r}: check its landmarks")
    return found


def regional_errors(pred, true, regions):
    """Mean vertex error in mm of each of the `regions`, name -> (...,). Meshes: (..., N, 3) mm."""
    error = metrics.vertex_error(pred, true)
    return {name: error[..., index].mean(-1) for name, index in regions.items()}


def normal_error(vertices, true, triangles, subset=None):
    """Mean angle in degrees between the vertex normals of two aligned meshes (N, 3).

    triangles: (F, 3), of both    subset: vertices that count (None: all in a triangle)
    """
    subset = np.unique(triangles) if subset is None else subset
    one, two = (
        raster.vertex_normals(np.array(x, np.float64, order="C"), triangles)[subset]
        for x in (vertices, true)
    )
    if not min(np.linalg.norm(one, axis=1).min(), np.linalg.norm(two, axis=1).min()) > 0.5:
        raise ValueError("a vertex lies in no triangle with an area: leave it out by `subset`")
    across, along = np.linalg.norm(np.cross(one, two), axis=1), (one * two).sum(1)
    return float(np.degrees(np.arctan2(across, along)).mean())  # arccos is bad at small angles


def unit_errors(errors, strengths, model, active=0.3, share=0.25):
    """Mean of `errors` (B, N) mm over the region's vertices that a unit moves, (B, J), or nan.

    strengths: (B, J), in the order of model.unit_names    active: least strength that counts
    share: a unit moves a vertex if by more than this share of its largest movement
    # Choice: active and share, so that a unit is judged on a visible movement of what it moves.
    """
    movement = model.units[model.region].norm(dim=1)
    moves = (movement > share * movement.amax(0)).to(errors)  # (M, J)
    means = errors[:, model.region] @ moves / moves.sum(0)  # nothing moved: 0 / 0, nan
    return means.masked_fill(strengths < active, torch.nan)
