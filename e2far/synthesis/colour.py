"""Colours of skin, hair, eyes and things, in linear light."""

import numpy as np

# Choice: skin lies on a path of five tones in CIELAB (lightness, redness, yellowness), from the
# fairest to the darkest, as colorimetric surveys find it; uniform along the path, with a spread.
SKIN_LAB = np.array([(77, 8.5, 14), (69, 12.5, 17.5), (57, 15, 22.5), (44, 15, 21), (31, 11, 13.5)])
SKIN_SPREAD = np.array([2.5, 1.8, 2.2])
FIELDS = 14  # smooth patterns from which blotches of skin are mixed
# fmt: off
HAIR_LAB = np.array([  # black, browns, dark and light blond, red, grey, white, and their shares
    (9, 1, 1), (14, 4, 5), (24, 7, 10), (38, 9, 19),
    (60, 6, 26), (30, 18, 22), (58, 0, 3), (80, 0, 5),
])
HAIR_SHARES = np.array([0.34, 0.22, 0.16, 0.09, 0.06, 0.04, 0.06, 0.03])
IRIS_LAB = np.array([
    (20, 12, 16), (32, 14, 24), (42, 6, 24), (50, -4, -10), (48, -8, 10), (58, -2, -2)
])
IRIS_SHARES = np.array([0.45, 0.25, 0.1, 0.1, 0.06, 0.04])
XYZ_TO_RGB = np.array([
    (3.2406, -0.9689, 0.0557), (-1.5372, 1.8758, -0.2040), (-0.4986, 0.0415, 1.0570)
])
# fmt: on


def lab_to_linear(lab):
    """Linear sRGB (..., 3), clipped to [.003, 1], of CIELAB (..., 3) under D65 (IEC 61966-2-1)."""
    lab = np.asarray(lab, float)
    y = (lab[..., 0] + 16) / 116
    f = np.stack((y + lab[..., 1] / 500, y, y - lab[..., 2] / 200), -1)
    xyz = np.where(f > 6 / 29, f**3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [0.95047, 1, 1.08883]
    return (xyz @ XYZ_TO_RGB).clip(0.003, 1)


def skin_lab(tone):
    """CIELAB (3,) of a `tone` between 0, the fairest, and 1, the darkest."""
    return np.array([np.interp(tone * 4, range(5), column) for column in SKIN_LAB.T])


def draw_lab(rng, lightness, hue):
    """A linear colour (3,) of lightness and hues within these ranges of CIELAB."""
    return lab_to_linear([rng.uniform(*lightness), *rng.uniform(*hue, 2)])


def random_colour(rng, shape=()):
    """Linear colours (*shape, 3) of any lightness, half of them nearly grey."""
    vivid = np.asarray(rng.choice([5, 18, 45], shape, p=[0.45, 0.4, 0.15]))
    lightness, hue = rng.uniform(3, 95, (*shape, 1)), rng.normal(0, 1, (*shape, 2))
    return lab_to_linear(np.concatenate((lightness, hue * vivid[..., None]), -1))
