"""How strongly each named unit of a face model moves a face: the sliders of an animator."""

import numpy as np
from scipy import optimize

from e2far.facemodels.arkit import action_of
from e2far.photo.unwrapping import as_array

HIDDEN = ("eyeLook", "tongue")  # gaze and tongue: the skin does not show them
# Root mean square over the region: units that explain less stay off.
# Choice: about as many are on as moved the true face. On 200 synthetic validation photos 6.8 are on
# where 7.0 are true, and .16 mm of the predicted shape are left, .93 mm to the true one. At .06 mm,
# 11.8 are on and .11 mm left, still .94 mm to the true one: they fit what the network got wrong.
GAIN_MM = 0.12


def nearest_units(model, modes, coefficients):
    """Strengths (T, J) in [0, 1] of a model's units, nearest to `coefficients` (T, L) of `modes`.

    modes: (N, 3, L) mm. Least squares over the region by few units, the same ones for all T: of
    those off, the left and right that together explain most of what is left are taken, and all are
    fitted again, until none explain GAIN_MM (orthogonal matching pursuit, Pati et al. 1993).
    Choice: of the shapes in mm, not of the 29 coefficients as in `MorphableModel.units_to_modes`,
    because the units move in more ways than the modes do. With all 52, gaze and tongue too, 41
    would be on in the astronaut's smile and .01 mm be left; these 13 leave .18 mm.
    """
    units, modes = (
        values[as_array(model.region)].reshape(3 * len(model.region), -1).astype(float)
        for values in (as_array(model.units), modes)
    )
    strengths = np.zeros((len(coefficients), units.shape[1]))
    if not units.size:
        return strengths
    q, r = np.linalg.qr(units)  # the same least squares with as many rows as units
    targets = coefficients @ (q.T @ modes).T
    lengths = np.linalg.norm(r, axis=0).clip(1e-9)
    actions = np.array([action_of(name) for name in model.unit_names])
    off, on = np.array([not name.startswith(HIDDEN) for name in model.unit_names]), []
    while True:
        gain = ((targets - strengths @ r.T) @ r / lengths).clip(0) * off
        gain = np.sqrt(gain**2 @ (actions[:, None] == actions)).max(0)
        if gain.max() < GAIN_MM * len(model.region) ** 0.5:
            return strengths.round(3)
        taken = off & (actions == actions[gain.argmax()])
        on, off = [*on, *np.flatnonzero(taken)], off & ~taken
        how = dict(bounds=(0, 1), method="bvls")
        strengths[:, on] = [optimize.lsq_linear(r[:, on], one, **how).x for one in targets]


def unit_strengths(face, model):
    """Strengths (J,) of the `nearest_units` to a face's expression.

    And the distance that they leave, mean mm over the region.
    """
    offset = (face.vertices - face.neutral_vertices).astype(float)
    strengths = nearest_units(model, offset[..., None], np.ones((1, 1)))[0]
    left = (as_array(model.units) @ strengths - offset)[face.region]
    return strengths, float(np.linalg.norm(left, axis=1).mean())
