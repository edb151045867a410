"""How strongly each named unit of a face model moves a face: the sliders of an animator."""

import numpy as np
from scipy import optimize

from e2far.photo.unwrapping import as_array


def nearest_units(model, modes, coefficients):
    """Strengths (T, J) in [0, 1] of a model's units, nearest to `coefficients` (T, L) of `modes`.

    modes: (N, 3, L) mm. Least squares over the region.
    Choice: of the shapes in mm, not of the 29 coefficients as in `MorphableModel.units_to_modes`,
    because the units move in more ways than the modes do: on the astronaut's smile .01 mm are left
    instead of .20.
    """
    units, modes = (
        values[as_array(model.region)].reshape(3 * len(model.region), -1).astype(float)
        for values in (as_array(model.units), modes)
    )
    if not units.size:
        return np.zeros((len(coefficients), 0))
    q, r = np.linalg.qr(units)  # the same least squares with as many rows as units
    targets = coefficients @ (q.T @ modes).T
    found = [optimize.lsq_linear(r, target, bounds=(0, 1)).x for target in targets]
    return np.stack(found).round(3)


def unit_strengths(face, model):
    """Strengths (J,) of the `nearest_units` to a face's expression.

    And the distance that they leave, mean mm over the region.
    """
    offset = (face.vertices - face.neutral_vertices).astype(float)
    strengths = nearest_units(model, offset[..., None], np.ones((1, 1)))[0]
    left = (as_array(model.units) @ strengths - offset)[face.region]
    return strengths, float(np.linalg.norm(left, axis=1).mean())
