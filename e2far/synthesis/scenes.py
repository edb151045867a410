"""What surrounds a face: light, background, things in the way, the camera."""

import numpy as np
import torch

from e2far import camera
from e2far.synthesis.colour import HAIR_LAB, lab_to_linear, random_colour
from e2far.synthesis.develop import BOX, box

PANELS, BEFORE = 8, 14  # boxes behind the head and before it
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


def draw_background(size, rng):
    """Boxes (PANELS,) of develop.BOX that make a wall, a street, a landscape, a studio."""
    boxes = np.zeros(PANELS, BOX)
    # All draws at once: a draw costs more than a number.
    one, two = rng.random((PANELS, 16)), rng.normal(0, 1, (PANELS, 2))
    main, scene = random_colour(rng) * rng.uniform(0.4, 1.2), rng.random(3)
    blur = rng.choice([0.5, 2.0, 8.0], p=[0.4, 0.3, 0.3]) * size / 80 * (0.7 + 0.8 * scene[0])
    count, outdoors = 0 if scene[1] < 0.12 else rng.integers(1, PANELS), scene[2] < 0.35
    shade, coloured = 0.4 + 1.1 * one[:, 3:4], one[:, 2:3] < 0.6
    colours = random_colour(rng, (PANELS,)) * (0.4 + 0.9 * one[:, 3:4])
    start = np.where(coloured, colours, main * shade)
    upright = (one[:, 5] < 0.5) * np.pi / 2 + 0.05 * two[:, 0]

    half = np.exp(np.log(0.02) * one[:, :2]) * size
    boxes["centre"], boxes["half"] = (1.2 * one[:, 6:8] - 0.1) * size, half
    boxes["corner"] = half.min(1) * (one[:, 8] < 0.35)
    boxes["angle"] = np.where(one[:, 4] < 0.7, upright, one[:, 5] * np.pi)
    boxes["softness"], boxes["opacity"] = blur, 0.35 + 0.65 * one[:, 9]
    boxes["start"], boxes["end"] = start, start * (0.4 + 1.1 * one[:, 10:11])
    boxes["grain"] = 0.2 * one[:, 11]
    boxes["stripes"] = 0.4 * one[:, 12] * (one[:, 13] < 0.2)
    if outdoors:  # a horizon
        boxes["centre"][1] = size / 2, size * (1 + 0.9 * one[1, 6])
        boxes["half"][1] = 3 * size, size
        boxes["corner"][1], boxes["angle"][1] = 0, 0.06 * two[1, 1]
    boxes[0] = box(
        centre=size / 2,
        half=2 * size,
        angle=6.28 * one[0, 0],
        start=main,
        end=main * (0.4 + 1.1 * one[0, 1]) if one[0, 2] < 0.6 else start[0],
        grain=0.12 * one[0, 3],
        stripes=0.15 * one[0, 4] * (one[0, 5] < 0.3),
    )
    boxes[1 + count :] = 0
    return boxes


def draw_obstacles(size, skin, cloth, rng):
    """Boxes (BEFORE,) of develop.BOX before the face: none for most pictures.

    Else hands and arms, a thing or two, strands of hair, or glare.
    skin, cloth: linear colours (3,) of the person's skin and clothes
    """
    boxes, kind = np.zeros(BEFORE, BOX), rng.random()
    if kind < 0.13:
        own = rng.random() < 0.85  # or somebody else's hand
        skin = skin if own else skin * rng.uniform(0.4, 1.8)
        for start in (0, 7)[: 1 + (rng.random() < 0.25)]:
            boxes[start : start + 7] = draw_hand(size, skin.clip(0, 1), cloth, rng)
    elif kind < 0.20:
        for k in range(rng.integers(1, 3)):
            boxes[k] = draw_thing(size, rng)
    elif kind < 0.24:
        colour = lab_to_linear(HAIR_LAB[rng.choice(4)])
        for k in range(rng.integers(1, 6)):
            boxes[k] = draw_strand(size, colour, rng)
    elif kind < 0.27:
        boxes[0] = draw_glare(size, rng)
    return boxes


def draw_hand(size, skin, cloth, rng):
    """Boxes (7,): an arm in a sleeve or bare, the back of its hand, four fingers, and a thumb."""
    at = rng.uniform([0.1, 0.25], [0.9, 1.0]) * size  # where the fingers begin
    upwards = rng.random() < 0.8
    angle = rng.uniform(-np.pi, 0) if upwards else rng.uniform(0, np.pi)
    along = np.array([np.cos(angle), np.sin(angle)])
    across = np.array([-np.sin(angle), np.cos(angle)])
    length, thick = rng.uniform(0.12, 0.2) * size, rng.uniform(0.03, 0.045) * size
    spread, thumb, soft = rng.uniform(1.9, 2.6), rng.choice([-1, 1]), max(1.0, size / 80)
    shade = skin * rng.uniform(0.6, 1.1)
    bare = dict(start=shade * rng.uniform(0.6, 0.9), end=shade * rng.uniform(0.9, 1.1), grain=0.05)

    def part(forward, aside, half, turn=0.0, corner=1.0, look=bare):
        centre = at + along * forward * length + across * aside * thick
        shape = dict(centre=centre, half=half, corner=corner * half[1], angle=angle + turn)
        return box(**shape, softness=soft, **look)

    sleeve = dict(start=cloth * 0.6, end=cloth, grain=0.1, stripes=0.2)
    turn = rng.normal(0, 0.1)
    look = bare if rng.random() < 0.4 else sleeve
    boxes = np.zeros(7, BOX)
    boxes[0] = part(-5.6, 0, (4.0 * length, 3.1 * thick), turn, look=look)
    boxes[1] = part(-0.9, 0, (0.85 * length, 3.8 * thick), corner=0.6)
    for k in range(4):
        forward, long = rng.normal(0.3, 0.06), rng.uniform(0.85, 1.1)
        turn, aside = (k - 1.5) * rng.uniform(0, 0.12), (k - 1.5) * spread
        boxes[2 + k] = part(forward, aside, (long * length, thick), turn)
    turn = thumb * rng.uniform(0.3, 0.8)
    boxes[6] = part(-0.6, 4 * thumb, (0.7 * length, 1.1 * thick), turn)
    return boxes


def draw_thing(size, rng):
    """A box of any colour: a cup, a telephone, a microphone, the corner of a book."""
    half, colour = rng.uniform(0.04, 0.25, 2) * size, random_colour(rng)
    shape = dict(centre=rng.uniform(-0.05, 1.05, 2) * size, half=half)
    shape |= dict(corner=rng.uniform(0, 1) * half.min(), angle=rng.uniform(0, 3.14))
    shape |= dict(softness=rng.uniform(0.8, 3), start=colour, end=colour * rng.uniform(0.3, 1.4))
    return box(**shape, grain=rng.uniform(0, 0.3), stripes=rng.uniform(0, 0.4))


def draw_strand(size, colour, rng):
    """A strand of hair across the face, as a box."""
    half_low, half_high = (0.15, 0.003), (0.5, 0.012)
    shape = dict(centre=rng.uniform(0.15, 0.85, 2), half=rng.uniform(half_low, half_high))
    shape = {name: place * size for name, place in shape.items()}
    angle, opacity = rng.normal(1.4, 0.35), rng.uniform(0.5, 1)
    return box(**shape, angle=angle, opacity=opacity, start=colour, end=colour * 1.6, stripes=0.3)


def draw_glare(size, rng):
    """A bright veil over part of the picture, as a box."""
    shape = dict(centre=rng.uniform(0, 1, 2) * size, half=rng.uniform(0.1, 0.6, 2) * size)
    shape |= dict(angle=rng.uniform(0, 3.14), opacity=rng.uniform(0.1, 0.35))
    brightness = rng.uniform(0.6, 1.2)
    return box(**shape, softness=0.5 * size, start=brightness, end=brightness)


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
