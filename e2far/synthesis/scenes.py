"""What a face is photographed with: light, view, camera."""

import numpy as np
import torch

from e2far import camera

LAMPS = 3


def draw_light(rng):
    """A sky and lamps.

    sky: nine spherical harmonics (9, 3) of irradiance
    lamps: (LAMPS, 8), direction in the camera's frame (3), colour (3), sharpness of shadows,
        exponent of highlights; zeros where there is none

    A quarter of the scenes are lit harder: coloured lamps, one lamp in a dark room, a flash beside
    the lens, light from behind.
    """
    harmonics, lamps = np.zeros((9, 3)), np.zeros((LAMPS, 8))
    hard = rng.random() < 0.25

    def tint(spread):
        return (1 + rng.normal(0, spread, 3)).clip(0.1, 2.5)

    sky = rng.uniform(0.04 if hard else 0.16, 0.6) * tint(0.2 if hard else 0.07)
    harmonics[0] += sky
    harmonics[1] += sky * rng.uniform(-0.1, 0.5)
    for _ in range(rng.integers(0, 4)):  # windows and walls: light without sharp shadows
        direction = draw_direction(rng, 0.3)
        add_lobe(harmonics, direction, rng.uniform(0.05, 0.5) * tint(0.3 if hard else 0.12))
    for k in range(rng.integers(hard, LAMPS + 1) if rng.random() < 0.85 else 1):
        direction = draw_direction(rng, 0.45)
        if hard and k == 0:
            kind = rng.random()
            if kind < 0.4:  # a flash
                direction = draw_direction(rng, 0.1, deep=0.9)
            elif kind < 0.6:  # from behind
                direction = draw_direction(rng, 0.4, deep=-0.6)
        strength = rng.uniform(0.2, 1.6 if hard else 1.2) / (1 + 0.6 * k)
        colour = strength * tint(0.3 if hard else 0.08)
        lamps[k] = [*direction, *colour, rng.uniform(8, 60), rng.uniform(6, 60)]
    if harmonics[0].mean() < 0.25 and not lamps.any():
        add_lobe(harmonics, draw_direction(rng, 0.3), np.full(3, 0.6))
    return harmonics, lamps


def draw_direction(rng, height, deep=None):
    """A unit vector (3,) towards a light, `height` up on average.

    Before the face, or with its part towards the camera near `deep`.
    """
    ahead = rng.uniform(-0.1, 1) if deep is None else rng.normal(deep, 0.2)
    spread = (0.9, 0.55) if deep is None or deep < 0 else (0.3, 0.3)
    direction = np.array([*rng.normal((0, height), spread), ahead])
    return direction / np.linalg.norm(direction)


def add_lobe(harmonics, direction, colour):
    """Add the clamped cosine around `direction` to irradiance `harmonics` (9, 3), in place.

    1/4 + c/2 + (5/16) P2-part, to degree two (Ramamoorthi & Hanrahan 2001).
    """
    x, y, z = direction
    quadratic = [4 * x * y, 4 * y * z, (3 * z * z - 1) / 3, 4 * x * z, x * x - y * y]
    harmonics[:4] += colour * np.array([0.25, 0.5 * y, 0.5 * z, 0.5 * x])[:, None]
    harmonics[4:] += colour * (15 / 64) * np.array(quadratic)[:, None]


def draw_view(points, loose, rng):
    """Where the camera stands and what it shows: distance (mm), centre (2,) and side of its square.

    And where it shows `points` (68, 3) mm of a turned head, (68, 2) as shares of the side.
    loose: share of the squares that are as careless as `studio.Studio` says
    """
    distance = np.exp(rng.uniform(np.log(320), np.log(2400)))  # an arm's length to a long lens
    seen = points[:, :2] * [1, -1] / (distance - points[:, 2:])
    x0, y0, x1, y1 = camera.crop_box(torch.from_numpy(seen)).numpy()
    side = (x1 - x0) * rng.uniform(0.88, 1.15)
    centre = np.array([x0 + x1, y0 + y1]) / 2 + rng.normal(0, 0.035, 2).clip(-0.1, 0.1) * side
    if loose and rng.random() < loose:
        side *= np.exp(rng.uniform(np.log(0.8), np.log(1.2)))
        centre += rng.uniform(-0.2, 0.2, 2) * side
    return dict(distance=distance, centre=centre, side=side), (seen - centre) / side + 0.5


def draw_camera(size, rng):
    """How a photo is taken and stored, as a dict of numbers.

    Exposure, white balance, blur in px along x and y, sharpening, tone, noise, and JPEG quality
    (0: not stored as JPEG). A third of the cameras are poor ones: wrong exposure and colours, faces
    enlarged from a few pixels, strong noise, coarse JPEG.
    """
    poor, scale, kind = rng.random() < 0.33, size / 80, rng.random()

    def draw(good, bad):
        return rng.uniform(*(bad if poor else good))

    if kind < 0.5:
        blur = rng.uniform(0.25, 0.6, 2)
    elif kind < (0.65 if poor else 0.92):
        blur = np.full(2, rng.uniform(0.4, 1.5))
    elif kind < 0.8:  # enlarged from a few pixels
        blur = np.full(2, rng.uniform(1.5, 3.0))
    else:  # moved
        blur = rng.permutation([rng.uniform(0.3, 1.2), draw((1.0, 2.2), (1.0, 3.8))])
    grey, vivid = rng.random() < 0.08, draw((0.7, 1.25), (0.2, 1.6))
    exposure = draw((0.10, 0.40), (np.log(0.05), np.log(0.6)))
    return dict(
        exposure=np.exp(exposure) if poor else exposure,
        automatic=draw((0.65, 1), (0.5, 1)),
        balance=(1 + rng.normal(0, 0.18 if poor else 0.06, 3)).clip(0.3, 2),
        blur=blur * scale,
        sharpen=rng.uniform(0.3, 1.5) * (rng.random() < 0.2),
        gamma=draw((1.8, 2.6), (1.5, 3.0)),
        contrast=draw((0.8, 1.25), (0.55, 1.5)),
        saturation=0.0 if grey else vivid,
        noise=draw((0.004, 0.04), (0.004, 0.05)) * (rng.random() < 0.55),
        coarse=rng.integers(1, 3),
        hash=rng.integers(0, 2**31),
        quality=rng.integers(15 if poor else 30, 96) * (rng.random() < 0.6),
    )
