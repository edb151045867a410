"""What surrounds a face: light, shadows, background, things in the way, the camera."""

import numpy as np

from e2far import raster
from e2far.synthesis.colour import HAIR_LAB, lab_to_linear, random_colour

DIRECTIONS = 64  # from which the head's own shadows are known
PANELS, BEFORE = 8, 14  # boxes behind the head and before it
LAMPS = 3


# Light --------------------------------------------------------------------------------------------------------------------------------------------------


def draw_light(rng):
    """A sky, as nine spherical harmonics (9, 3) of irradiance, and LAMPS lamps (LAMPS, 8): direction in the camera's frame, colour, sharpness of shadows, exponent of highlights.

    A quarter of the scenes are lit harder: coloured lamps, one lamp in a dark room, a flash beside the lens, light from behind.
    """
    harmonics, lamps = np.zeros((9, 3)), np.zeros((LAMPS, 8))
    hard, tint = rng.random() < 0.25, lambda spread: (1 + rng.normal(0, spread, 3)).clip(0.1, 2.5)
    sky = rng.uniform(0.04 if hard else 0.16, 0.6) * tint(0.2 if hard else 0.07)
    harmonics[0] += sky
    harmonics[1] += sky * rng.uniform(-0.1, 0.5)
    for _ in range(rng.integers(0, 4)):  # windows and walls: light without sharp shadows
        add_lobe(
            harmonics,
            draw_direction(rng, 0.3),
            rng.uniform(0.05, 0.5) * tint(0.3 if hard else 0.12),
        )
    for k in range(rng.integers(hard, LAMPS + 1) if rng.random() < 0.85 else 1):
        direction = draw_direction(rng, 0.45)
        if hard and k == 0:
            kind = rng.random()
            direction = (
                draw_direction(rng, 0.1, deep=0.9)
                if kind < 0.4
                else draw_direction(rng, 0.4, deep=-0.6)
                if kind < 0.6
                else direction
            )
        lamps[k] = [
            *direction,
            *(rng.uniform(0.2, 1.6 if hard else 1.2) / (1 + 0.6 * k) * tint(0.3 if hard else 0.08)),
            rng.uniform(8, 60),
            rng.uniform(6, 60),
        ]
    if harmonics[0].mean() < 0.25 and not lamps.any():
        add_lobe(harmonics, draw_direction(rng, 0.3), np.full(3, 0.6))
    return harmonics, lamps


def draw_direction(rng, height, deep=None):
    """A unit vector (3,) towards a light, `height` up on average; before the face, or with its part towards the camera near `deep`."""
    ahead = rng.uniform(-0.1, 1) if deep is None else rng.normal(deep, 0.2)
    direction = np.array(
        [
            rng.normal(0, 0.9 if deep is None or deep < 0 else 0.3),
            rng.normal(height, 0.55 if deep is None or deep < 0 else 0.3),
            ahead,
        ]
    )
    return direction / np.linalg.norm(direction)


def add_lobe(harmonics, direction, colour):
    """Add the clamped cosine around `direction` to irradiance `harmonics`: 1/4 + c/2 + (5/16) P2-part, to degree two (Ramamoorthi & Hanrahan 2001)."""
    x, y, z = direction
    harmonics[:4] += colour * np.array([0.25, 0.5 * y, 0.5 * z, 0.5 * x])[:, None]
    harmonics[4:] += (
        colour
        * (15 / 64)
        * np.array([4 * x * y, 4 * y * z, (3 * z * z - 1) / 3, 4 * x * z, x * x - y * y])[:, None]
    )


def sphere_directions(count=DIRECTIONS):
    """Nearly even directions (count, 3) of a Fibonacci spiral."""
    k = np.arange(count) + 0.5
    y, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    return np.stack((np.cos(turn) * np.sqrt(1 - y * y), y, np.sin(turn) * np.sqrt(1 - y * y)), 1)


def head_shadows(mean, triangles, inside, size=192):
    """How freely (N, DIRECTIONS) each vertex of the mean head sees each direction, 0 to 1, smoothed over its neighbours; and its share of open sky (N,), for ambient occlusion.

    inside: (N,) bool, vertices within the mouth, which never see the sky here and are lit from afar by convention
    """
    mean, triangles = (
        np.ascontiguousarray(mean, np.float32),
        np.ascontiguousarray(triangles, np.int32),
    )
    normals = raster.vertex_normals(mean, triangles)
    directions, extent = (
        sphere_directions(),
        1.05 * np.linalg.norm(mean - mean.mean(0), axis=1).max(),
    )
    seen_from = np.zeros((len(mean), len(directions)), np.float32)
    for k, d in enumerate(directions):
        right = np.cross([0, 1, 0], d)
        right /= np.linalg.norm(right)
        points = (
            ((mean - mean.mean(0)) @ np.stack((right, -np.cross(d, right)), 1) / extent + 1)
            * size
            / 2
        )
        near = (mean @ d).astype(np.float32)
        seen, weights = raster.zbuffer(points.astype(np.float32), near, triangles, size)
        corner = triangles[seen]
        depth = np.where(
            seen < 0,
            -1e9,
            weights[..., 0] * near[corner[..., 0]]
            + weights[..., 1] * near[corner[..., 1]]
            + (1 - weights.sum(-1)) * near[corner[..., 2]],
        )
        x, y = points.astype(int).clip(0, size - 1).T
        seen_from[:, k] = (near > depth[y, x] - 3.0) & (normals @ d > -0.05)
    edges = np.concatenate((triangles[:, :2], triangles[:, 1:], triangles[:, [2, 0]]))
    for _ in range(2):
        total, count = seen_from.copy(), np.ones((len(mean), 1), np.float32)
        for a, b in ((0, 1), (1, 0)):
            np.add.at(total, edges[:, a], seen_from[edges[:, b]])
            np.add.at(count, edges[:, a], 1)
        seen_from = total / count
    cosine = (normals @ directions.T).clip(0)
    sky = (cosine * seen_from).sum(1) / cosine.sum(1).clip(1e-6)
    seen_from[inside], sky[inside] = 0.4, 0.3
    return seen_from.astype(np.float32), sky.astype(np.float32)


def draw_background(size, rng):
    """Rounded boxes (PANELS, 16) in px that make a wall, a street, a landscape, a studio; see develop.BOX."""
    boxes, one, two = (
        np.zeros((PANELS, 16)),
        rng.random((PANELS, 16)),
        rng.normal(0, 1, (PANELS, 2)),
    )  # all draws at once: a draw costs more than a number
    sides = np.exp(np.log(0.02) * one[:, :2]) * size
    main, scene = random_colour(rng) * rng.uniform(0.4, 1.2), rng.random(3)
    blur = rng.choice([0.5, 2.0, 8.0], p=[0.4, 0.3, 0.3]) * size / 80 * (0.7 + 0.8 * scene[0])
    count, outdoors = 0 if scene[1] < 0.12 else rng.integers(1, PANELS), scene[2] < 0.35
    start = np.where(
        one[:, 2:3] < 0.6,
        random_colour(rng, (PANELS,)) * (0.4 + 0.9 * one[:, 3:4]),
        main * (0.4 + 1.1 * one[:, 3:4]),
    )
    angle = np.where(
        one[:, 4] < 0.7, (one[:, 5] < 0.5) * np.pi / 2 + 0.05 * two[:, 0], one[:, 5] * np.pi
    )
    boxes[:, :2], boxes[:, 2:4], boxes[:, 4] = (
        (1.2 * one[:, 6:8] - 0.1) * size,
        sides,
        sides.min(1) * (one[:, 8] < 0.35),
    )
    boxes[:, 5], boxes[:, 6], boxes[:, 7], boxes[:, 8:11], boxes[:, 11:14] = (
        angle,
        blur,
        0.35 + 0.65 * one[:, 9],
        start,
        start * (0.4 + 1.1 * one[:, 10:11]),
    )
    boxes[:, 14], boxes[:, 15] = 0.2 * one[:, 11], 0.4 * one[:, 12] * (one[:, 13] < 0.2)
    if outdoors:  # a horizon
        boxes[1, :6] = [size / 2, size * (1 + 0.9 * one[1, 6]), 3 * size, size, 0, 0.06 * two[1, 1]]
    boxes[0] = [
        size / 2,
        size / 2,
        2 * size,
        2 * size,
        0,
        6.28 * one[0, 0],
        1,
        1,
        *main,
        *(main * (0.4 + 1.1 * one[0, 1]) if one[0, 2] < 0.6 else start[0]),
        0.12 * one[0, 3],
        0.15 * one[0, 4] * (one[0, 5] < 0.3),
    ]
    boxes[1 + count :] = 0
    return boxes


def draw_obstacles(size, skin, cloth, rng):
    """Rounded boxes (BEFORE, 16) in px before the face: none for most pictures, else hands and arms, a thing, strands of hair, glare.

    skin, cloth: linear colours (3,) of the person's skin and clothes
    """
    boxes, kind = np.zeros((BEFORE, 16)), rng.random()
    if kind < 0.13:
        own = (
            skin if rng.random() < 0.85 else skin * rng.uniform(0.4, 1.8)
        )  # sometimes somebody else's
        for start in (0, 7)[: 1 + (rng.random() < 0.25)]:
            boxes[start : start + 7] = draw_hand(size, own.clip(0, 1), cloth, rng)
    elif kind < 0.20:
        for k in range(rng.integers(1, 3)):
            boxes[k] = draw_thing(size, rng)
    elif kind < 0.24:  # strands across the face
        colour = lab_to_linear(HAIR_LAB[rng.choice(4)])
        for k in range(rng.integers(1, 6)):
            boxes[k] = [
                *rng.uniform(0.15, 0.85, 2) * size,
                rng.uniform(0.15, 0.5) * size,
                rng.uniform(0.003, 0.012) * size,
                0,
                rng.normal(1.4, 0.35),
                1.0,
                rng.uniform(0.5, 1),
                *colour,
                *colour * 1.6,
                0,
                0.3,
            ]
    elif kind < 0.27:  # glare
        boxes[0] = [
            *rng.uniform(0, 1, 2) * size,
            *rng.uniform(0.1, 0.6, 2) * size,
            0,
            rng.uniform(0, 3.14),
            0.5 * size,
            rng.uniform(0.1, 0.35),
            *np.full(6, rng.uniform(0.6, 1.2)),
            0,
            0,
        ]
    return boxes


def draw_hand(size, skin, cloth, rng):
    """Boxes (7, 16) of an arm in a sleeve or bare, the back of its hand, four fingers, and a thumb; it comes from below or from a side."""
    at = rng.uniform([0.1, 0.25], [0.9, 1.0]) * size  # where the fingers begin
    angle = (
        rng.uniform(-np.pi, 0) if rng.random() < 0.8 else rng.uniform(0, np.pi)
    )  # most point upwards
    along, across = (
        np.array([np.cos(angle), np.sin(angle)]),
        np.array([-np.sin(angle), np.cos(angle)]),
    )
    length, thick = rng.uniform(0.12, 0.2) * size, rng.uniform(0.03, 0.045) * size
    spread, thumb, soft = rng.uniform(1.9, 2.6), rng.choice([-1, 1]), max(1.0, size / 80)
    shade = skin * rng.uniform(0.6, 1.1)
    colours = (*shade * rng.uniform(0.6, 0.9), *shade * rng.uniform(0.9, 1.1), 0.05, 0)

    def part(centre, half_length, half_width, turn=0.0, colour=colours, corner=1.0):
        return [
            *centre,
            half_length,
            half_width,
            corner * half_width,
            angle + turn,
            soft,
            1,
            *colour,
        ]

    arm = part(
        at - along * 5.6 * length,
        4.0 * length,
        3.1 * thick,
        rng.normal(0, 0.1),
        colours if rng.random() < 0.4 else (*cloth * 0.6, *cloth, 0.1, 0.2),
    )
    back = part(at - along * 0.9 * length, 0.85 * length, 3.8 * thick, colour=colours, corner=0.6)
    fingers = [
        part(
            at + along * rng.normal(0.3, 0.06) * length + across * (k - 1.5) * spread * thick,
            length * rng.uniform(0.85, 1.1),
            thick,
            (k - 1.5) * rng.uniform(0, 0.12),
        )
        for k in range(4)
    ]
    return np.array(
        [
            arm,
            back,
            *fingers,
            part(
                at - along * 0.6 * length + across * thumb * 4 * thick,
                0.7 * length,
                1.1 * thick,
                thumb * rng.uniform(0.3, 0.8),
            ),
        ]
    )


def draw_thing(size, rng):
    """A box (16,) of any colour: a cup, a telephone, a microphone, the corner of a book."""
    width, height = rng.uniform(0.04, 0.25, 2) * size
    colour = random_colour(rng)
    return [
        *rng.uniform(-0.05, 1.05, 2) * size,
        width,
        height,
        rng.uniform(0, 1) * min(width, height),
        rng.uniform(0, 3.14),
        rng.uniform(0.8, 3),
        1,
        *colour,
        *colour * rng.uniform(0.3, 1.4),
        rng.uniform(0, 0.3),
        rng.uniform(0, 0.4),
    ]


# The camera ---------------------------------------------------------------------------------------------------------------------------------------------


def draw_camera(size, rng):
    """How a photo is taken and stored, as a dict of numbers: exposure, white balance, blur in px along x and y, sharpening, tone, noise, JPEG quality (0: none).

    A third of the cameras are poor ones: wrong exposure and colours, faces enlarged from a few pixels, strong noise, coarse JPEG.
    """
    poor, scale, kind = rng.random() < 0.33, size / 80, rng.random()
    if kind < 0.5:
        blur = rng.uniform(0.25, 0.6, 2)
    elif kind < (0.65 if poor else 0.92):
        blur = np.full(2, rng.uniform(0.4, 1.5))
    elif kind < 0.8:
        blur = np.full(2, rng.uniform(1.5, 3.0))  # enlarged from a few pixels
    else:
        blur = rng.permutation(
            [rng.uniform(0.3, 1.2), rng.uniform(1.0, 3.8 if poor else 2.2)]
        )  # moved
    grey, vivid = rng.random() < 0.08, rng.uniform(0.2, 1.6) if poor else rng.uniform(0.7, 1.25)
    return dict(
        exposure=np.exp(rng.uniform(np.log(0.05), np.log(0.6)))
        if poor
        else rng.uniform(0.10, 0.40),
        automatic=rng.uniform(0.5 if poor else 0.65, 1),
        balance=(1 + rng.normal(0, 0.18 if poor else 0.06, 3)).clip(0.3, 2),
        blur=blur * scale,
        sharpen=rng.uniform(0.3, 1.5) * (rng.random() < 0.2),
        gamma=rng.uniform(1.5, 3.0) if poor else rng.uniform(1.8, 2.6),
        contrast=rng.uniform(0.55, 1.5) if poor else rng.uniform(0.8, 1.25),
        saturation=0.0 if grey else vivid,
        noise=rng.uniform(0.004, 0.05 if poor else 0.04) * (rng.random() < 0.55),
        coarse=rng.integers(1, 3),
        hash=rng.integers(0, 2**31),
        quality=rng.integers(15 if poor else 30, 96) * (rng.random() < 0.6),
    )
