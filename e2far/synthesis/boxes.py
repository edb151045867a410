"""What is behind a head and before it: boxes that make walls, streets, hands, strands, glare."""

import numpy as np

from e2far.raster import jit
from e2far.synthesis.colour import HAIR_LAB, lab_to_linear, random_colour

PANELS, BEFORE = 8, 14  # boxes behind the head and before it

# A rounded box of a picture: centre, half sides and corner radius in px, angle in radians, width
# of its soft edge in px; linear colours at its two ends, and how strongly the texture's grain and
# stripes show. A half-plane is a very large box; a disc and a capsule are boxes of large corners.
NAMES = "centre half corner angle softness opacity start end grain stripes".split()
BOX = np.dtype(list(zip(NAMES, "2f4 2f4 f4 f4 f4 f4 3f4 3f4 f4 f4".split())))


def box(**fields):
    """One BOX: opaque, with an edge of 1 px and all other fields 0 where `fields` do not say."""
    made = np.zeros((), BOX)
    for name, value in (dict(softness=1, opacity=1) | fields).items():
        made[name] = value
    return made


@jit
def paint(picture, boxes, texture, coverage):
    """Lay `boxes` (K,) of BOX over `picture` (S, S, 3) in place, one after the other.

    Only where `coverage` (S, S) is below one. texture: (T, T, 3) of `make_texture`
    """
    size, mask = picture.shape[0], texture.shape[0] - 1  # T is a power of two: x & mask is x mod T
    for one in boxes:
        if one.opacity <= 0:
            continue
        start, end, corner, soft = one.start, one.end, one.corner, one.softness
        cx, cy, hx, hy = one.centre[0], one.centre[1], one.half[0], one.half[1]
        cosine, sine = np.cos(one.angle), np.sin(one.angle)
        reach = np.sqrt(hx * hx + hy * hy) + soft
        for y in range(max(0, int(cy - reach)), min(size, int(cy + reach) + 2)):
            for x in range(max(0, int(cx - reach)), min(size, int(cx + reach) + 2)):
                if coverage[y, x] >= np.float32(0.999):
                    continue
                dx, dy = x + np.float32(0.5) - cx, y + np.float32(0.5) - cy
                u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
                # The signed distance from the rounded edge
                qx, qy = abs(u) - hx + corner, abs(v) - hy + corner
                outside = np.sqrt(max(qx, 0) ** 2 + max(qy, 0) ** 2) + min(max(qx, qy), 0) - corner
                alpha = min(max(np.float32(0.5) - outside / soft, 0), 1) * one.opacity
                if alpha <= 0:
                    continue
                along = min(max(np.float32(0.5) + np.float32(0.5) * u / hx, 0), 1)
                grain = one.grain * texture[int(v) & mask, int(u) & mask, 0]
                gain = 1 + grain + one.stripes * texture[int(u) & mask, int(v) & mask, 1]
                for c in range(3):
                    colour = (start[c] + along * (end[c] - start[c])) * gain
                    picture[y, x, c] += alpha * (colour - picture[y, x, c])


def draw_background(size, rng):
    """Boxes (PANELS,) of BOX that make a wall, a street, a landscape, a studio."""
    boxes = np.zeros(PANELS, BOX)
    # All draws at once: a draw costs more than a number. A few numbers serve twice.
    share, (slant, horizon) = rng.random((PANELS, 16)), rng.normal(0, 1, (PANELS, 2)).T
    sides, place = share[:, :2], share[:, 6:8]
    coloured, shade, straight, turn = share[:, 2:6].T
    rounded, opacity, fade, grain, stripes, striped = share[:, 8:14].T
    main, scene = random_colour(rng) * rng.uniform(0.4, 1.2), rng.random(3)
    blur = rng.choice([0.5, 2.0, 8.0], p=[0.4, 0.3, 0.3]) * size / 80 * (0.7 + 0.8 * scene[0])
    count = 0 if scene[1] < 0.12 else rng.integers(1, PANELS)
    colours = random_colour(rng, (PANELS,)) * (0.4 + 0.9 * shade)[:, None]
    start = np.where(coloured[:, None] < 0.6, colours, main * (0.4 + 1.1 * shade)[:, None])
    upright = (turn < 0.5) * np.pi / 2 + 0.05 * slant

    half = np.exp(np.log(0.02) * sides) * size  # 2 to 100 % of the picture's side
    boxes["centre"], boxes["half"] = (1.2 * place - 0.1) * size, half
    boxes["corner"] = half.min(1) * (rounded < 0.35)
    boxes["angle"] = np.where(straight < 0.7, upright, turn * np.pi)
    boxes["softness"], boxes["opacity"] = blur, 0.35 + 0.65 * opacity
    boxes["start"], boxes["end"] = start, start * (0.4 + 1.1 * fade)[:, None]
    boxes["grain"], boxes["stripes"] = 0.2 * grain, 0.4 * stripes * (striped < 0.2)
    if scene[2] < 0.35:  # outdoors: a horizon
        boxes["centre"][1] = size / 2, size * (1 + 0.9 * place[1, 0])
        boxes["half"][1] = 3 * size, size
        boxes["corner"][1], boxes["angle"][1] = 0, 0.06 * horizon[1]
    turn, fade, fades, grain, stripes, striped = share[0, :6]  # for the wall
    end = main * (0.4 + 1.1 * fade) if fades < 0.6 else start[0]
    wall = dict(centre=size / 2, half=2 * size, angle=6.28 * turn, grain=0.12 * grain)
    boxes[0] = box(**wall, start=main, end=end, stripes=0.15 * stripes * (striped < 0.3))
    boxes[1 + count :] = 0
    return boxes


def draw_obstacles(size, skin, cloth, rng):
    """Boxes (BEFORE,) of BOX before the face: none for most pictures.

    Else hands and arms, a thing or two, strands of hair, or glare.
    skin, cloth: linear colours (3,) of the person's skin and clothes
    """
    boxes, kind = np.zeros(BEFORE, BOX), rng.random()
    if kind < 0.13:
        if rng.random() >= 0.85:  # somebody else's hand
            skin = skin * rng.uniform(0.4, 1.8)
        for start in (0, 7) if rng.random() < 0.25 else (0,):  # two hands or one
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
    angle = rng.uniform(-np.pi, 0) if rng.random() < 0.8 else rng.uniform(0, np.pi)
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
    forearm = dict(turn=rng.normal(0, 0.1), look=bare if rng.random() < 0.4 else sleeve)
    boxes = np.zeros(7, BOX)
    boxes[0] = part(-5.6, 0, (4.0 * length, 3.1 * thick), **forearm)
    boxes[1] = part(-0.9, 0, (0.85 * length, 3.8 * thick), corner=0.6)
    for k in range(4):
        forward, long = rng.normal(0.3, 0.06), rng.uniform(0.85, 1.1)
        turn, aside = (k - 1.5) * rng.uniform(0, 0.12), (k - 1.5) * spread
        boxes[2 + k] = part(forward, aside, (long * length, thick), turn)
    boxes[6] = part(-0.6, 4 * thumb, (0.7 * length, 1.1 * thick), thumb * rng.uniform(0.3, 0.8))
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
    shape = dict(centre=rng.uniform(0.15, 0.85, 2) * size)
    shape["half"] = rng.uniform((0.15, 0.003), (0.5, 0.012)) * size
    shape |= dict(angle=rng.normal(1.4, 0.35), opacity=rng.uniform(0.5, 1))
    return box(**shape, start=colour, end=colour * 1.6, stripes=0.3)


def draw_glare(size, rng):
    """A bright veil over part of the picture, as a box."""
    shape = dict(centre=rng.uniform(0, 1, 2) * size, half=rng.uniform(0.1, 0.6, 2) * size)
    shape |= dict(angle=rng.uniform(0, 3.14), opacity=rng.uniform(0.1, 0.35))
    brightness = rng.uniform(0.6, 1.2)
    return box(**shape, softness=0.5 * size, start=brightness, end=brightness)
