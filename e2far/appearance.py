"""What makes one photo of a person unlike another apart from shape: skin, hair, eyes, clothes; light, background, things in the way, and the camera.

`draw_*` draw numbers from a numpy Generator; everything after them is a plain function of those numbers. Colours are linear light in [0, 1] until `develop` makes a photo of them.
"""
import io

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from e2far import rasterize
from e2far.styling import CLOTHES, COLUMNS

# Choice: skin lies on a path of five tones in CIELAB (lightness, redness, yellowness), as colorimetric surveys of skin find it, from the fairest to the darkest; uniform along the path, with a spread around it.
SKIN_LAB = np.array([(77, 8.5, 14.), (69, 12.5, 17.5), (57, 15, 22.5), (44, 15, 21), (31, 11, 13.5)])
SKIN_SPREAD = np.array([2.5, 1.8, 2.2])
HAIR_LAB = np.array([(9, 1, 1), (14, 4, 5), (24, 7, 10), (38, 9, 19), (60, 6, 26), (30, 18, 22), (58, 0, 3), (80, 0, 5)])     # black, browns, dark and light blond, red, grey, white
HAIR_SHARES = np.array([.34, .22, .16, .09, .06, .04, .06, .03])
IRIS_LAB = np.array([(20, 12, 16), (32, 14, 24), (42, 6, 24), (50, -4, -10), (48, -8, 10), (58, -2, -2)])
IRIS_SHARES = np.array([.45, .25, .1, .1, .06, .04])
TEXTURE = 256                   # side of the detail texture, texels
TEXEL_MM = .75
FIELDS = 14                     # smooth patterns from which blotches of skin are mixed
DIRECTIONS = 64                 # from which the head's own shadows are known
PANELS, BEFORE = 8, 14          # boxes behind the head and before it
LAMPS = 3


def lab_to_linear(lab):
    """Linear sRGB (..., 3), clipped to [.003, 1], of CIELAB colours (..., 3) under D65 (IEC 61966-2-1)."""
    lab = np.asarray(lab, float)
    y = (lab[..., 0] + 16) / 116
    f = np.stack((y + lab[..., 1] / 500, y, y - lab[..., 2] / 200), -1)
    xyz = np.where(f > 6 / 29, f ** 3, 3 * (6 / 29) ** 2 * (f - 4 / 29)) * [.95047, 1, 1.08883]
    return (xyz @ np.array([(3.2406, -.9689, .0557), (-1.5372, 1.8758, -.2040), (-.4986, .0415, 1.0570)])).clip(.003, 1)


def smoothstep(x):
    return (x := x.clip(0, 1)) * x * (3 - 2 * x)


def skin_lab(tone):
    return np.array([np.interp(tone * 4, range(5), SKIN_LAB[:, k]) for k in range(3)])


# People -------------------------------------------------------------------------------------------------------------------------------------------------

def draw_person(rng):
    """What stays with a person from picture to picture, as a dict of numbers, colours and the shape of their hair; arrays of fixed shapes."""
    tone = rng.random()
    lab = skin_lab(tone) + rng.normal(0, 1, 3) * SKIN_SPREAD
    dark_haired = rng.random() < tone       # Choice: fair hair is rarer on dark skin
    hair_lab = HAIR_LAB[rng.choice(2) if dark_haired else rng.choice(len(HAIR_LAB), p=HAIR_SHARES)] + rng.normal(0, 1, 3) * [4, 2, 3]
    natural = lab_to_linear(hair_lab)
    hair = natural if rng.random() < .95 else lab_to_linear([rng.uniform(20, 70), *rng.uniform(-50, 50, 2)])       # one in twenty dyed
    female, old = rng.random() < .5, rng.random() ** 2
    made_up = female and rng.random() < .5
    lips = lab + [rng.uniform(-14, -3), rng.uniform(5, 16), rng.uniform(-5, 2)] * np.array([1, 1 - .5 * tone, 1])
    lipstick = [rng.uniform(20, 60), rng.uniform(25, 60), rng.uniform(-10, 30)]
    bald = not female and rng.random() < .25
    bearded = not female and rng.random() < .5
    styles = rng.uniform([.4, .1, .0], [1, 1, 1]) * (rng.random(3) < [.85, .6, .85]) if bearded else np.zeros(3)        # moustache, cheeks, chin
    hairline = rng.normal(-7, 6) + (45 if bald else 10 * old * (not female))            # mm behind the model's own
    shell, covered = draw_hair(rng, female, bald, hairline)
    return dict(
        tone=tone, skin=lab_to_linear(lab), hair=hair, whiskers=natural * rng.uniform(.6, 1.1), iris=lab_to_linear(IRIS_LAB[0 if dark_haired else rng.choice(len(IRIS_LAB), p=IRIS_SHARES)] + rng.normal(0, 3, 3)),
        white=lab_to_linear([rng.uniform(66, 82), rng.uniform(0, 5), rng.uniform(0, 7)]), iris_radius=rng.uniform(.44, .54), pupil_radius=rng.uniform(.14, .25), lid_shadow=rng.uniform(.2, .65),
        blotches=rng.normal(0, .028, FIELDS), pores=rng.uniform(.01, .09), freckles=rng.uniform(.15, .8) if tone < .5 and rng.random() < .25 else 0., redness=rng.uniform(-.05, .22), under_eye=rng.uniform(0, .45) + .2 * old,
        lips=lab_to_linear(lipstick if made_up and rng.random() < .6 else lips), lips_strength=rng.uniform(.35, .95), lip_gloss=rng.uniform(0, .5),
        shadow=lab_to_linear([rng.uniform(15, 60), *rng.uniform(-25, 35, 2)]), shadow_strength=rng.uniform(.1, .6) if made_up else 0., lash=rng.uniform(.4, .95) if made_up else rng.uniform(0, .6),
        brow=natural * rng.uniform(.3, .9) if not (hair_lab[0] > 50 and rng.random() < .5) else lab_to_linear([25, 6, 8]), brow_strength=rng.uniform(.35, 1) if rng.random() < .93 else .08, brow_width=rng.uniform(.6, 1.5),
        gloss=rng.uniform(0, .32), age_lines=rng.uniform(0, .3) + .6 * old * rng.random(), wrinkles=rng.uniform(.1, .9),
        hairline=hairline, scalp=.35 * (rng.random() < .6) if bald else 1., stubble=rng.uniform(.05, .5) if not female and rng.random() < .6 else 0., beard=styles,
        beard_length=rng.uniform(0, 9) if bearded and rng.random() < .5 else 0., covered=covered, cap=lab_to_linear([rng.uniform(5, 85), *rng.uniform(-35, 45, 2)]), **shell, **draw_clothes(rng, lab_to_linear(lab)), **draw_glasses(rng))


def draw_hair(rng, female, bald, hairline):
    """Shape of a hair shell (see styling.Wardrobe.hair), with `shell`: how much of it there is, 0 or 1; and whether it is a cap or scarf, `covered`, on top."""
    worn = rng.random()
    covered = float(worn < .16)                                             # a hat or cap, or a scarf that hides all hair
    style = dict(thickness=rng.uniform(1, 26), lift=rng.uniform(-.2, .9), recede=hairline, fringe=0., side=0., opening=rng.uniform(.85, 1.7), parting=rng.uniform(-.9, .9), flare=rng.uniform(-.12, .3), brim=0., peak=0.,
                 waves=gaussian_filter1d(rng.normal(0, 1, COLUMNS), rng.uniform(.4, 2.5), mode="wrap"))
    kind = rng.random()
    if covered:
        style |= dict(thickness=rng.uniform(3, 14), lift=rng.uniform(-.3, .6), fringe=rng.uniform(8, 38), waves=style["waves"] * .1)
        if worn < .06:
            style |= dict(side=rng.uniform(70, 150), opening=rng.uniform(.65, .95), flare=rng.uniform(-.25, .1))
        elif worn < .13:                                                    # a brim all around, or a peak in front
            style |= dict(brim=rng.uniform(15, 70), peak=float(rng.random() < .6), fringe=rng.uniform(-5, 25))
    elif kind < (.62 if female else .14):                                   # long
        style |= dict(side=rng.uniform(25, 190), thickness=rng.uniform(6, 30), opening=rng.uniform(.6, 1.5))
    elif kind > (.93 if female else .9):                                    # afro, curls
        style |= dict(thickness=rng.uniform(22, 62), lift=rng.uniform(-.1, .3))
    if not covered and rng.random() < (.35 if female else .22):
        style["fringe"] = rng.uniform(10, 52)
    return dict(shell=float(covered or not (bald or rng.random() < (.05 if female else .25))), style=style), covered


def draw_clothes(rng, skin):
    """Colours and shape of shoulders and collar (see styling.Wardrobe.clothes)."""
    cloth = random_colour(rng)
    collar = [cloth, skin, cloth * .5, np.full(3, .75)][rng.choice(4, p=[.45, .3, .1, .15])]
    u, v = np.meshgrid(np.arange(CLOTHES[0]) * 20., np.arange(CLOTHES[1]) * 40.)
    return dict(cloth=cloth, collar=collar, cloth_stripes=rng.uniform(.1, .6) * (rng.random() < .3), cloth_u=u.ravel(), cloth_v=v.ravel(),
                body=dict(width=rng.uniform(165, 245), slope=rng.uniform(0, 35), collar=rng.uniform(-2, 26) if rng.random() < .5 else -4., depth=rng.uniform(75, 115)))


def draw_glasses(rng):
    dark = rng.random() < .4
    return dict(glasses=float(rng.random() < .25), lens=lab_to_linear([rng.uniform(2, 22), *rng.normal(0, 8, 2)]), frame=lab_to_linear([rng.uniform(3, 30) if rng.random() < .7 else rng.uniform(30, 80), *rng.normal(0, 12, 2)]), lens_dark=float(dark),
                rims=dict(half_width=rng.uniform(20, 27), half_height=rng.uniform(13, 23), roundness=rng.uniform(2, 4.5), rim=rng.uniform(.8, 4.5), drop=rng.uniform(-1, 4)))


# The face's places --------------------------------------------------------------------------------------------------------------------------------------

def face_maps(mean, landmarks, attributes):
    """Where things are on a face, name -> (N,) in [0, 1]: from the model's attributes, and from its 68 landmarks what they lack."""
    points, zero = mean[landmarks], np.zeros(len(mean))
    near = lambda at, radius, stretch=(1, 1, 1): np.exp(-(((mean - at) * stretch) ** 2).sum(1) / radius ** 2)
    both = lambda at, *shape: near(at, *shape) + near(at * [-1, 1, 1], *shape)

    def line(*corners, width):
        """Closeness to a polyline."""
        dense = np.concatenate([np.linspace(a, b, 9) for a, b in zip(corners, corners[1:])])
        return np.exp(-(np.linalg.norm(mean[:, None] - dense, axis=2).min(1) / width) ** 2)

    maps = {name: attributes.get(name, zero) for name in ("lips", "eye", "ear", "teeth", "tongue", "mouth", "beard")}
    sideburn = smoothstep((abs(mean[:, 0]) - .8 * points[16, 0]) / 8)
    maps["beard"] = maps["beard"] * np.maximum(smoothstep((points[33, 1] - 3 - mean[:, 1]) / 7), sideburn)        # below the nose, but for sideburns
    skin = 1 - np.max([maps[k] for k in ("eye", "teeth", "tongue", "mouth")], axis=0)
    eye = points[36:42].mean(0)
    upper_lip = (points[33] + points[51]) / 2
    lids = [line(*points[a:b], width=1.6) for a, b in ((36, 40), (42, 46))]
    moustache = line(points[48] + [-3, 3, 0], upper_lip + [-9, -1, 0], upper_lip, upper_lip + [9, -1, 0], points[54] + [3, 3, 0], width=5.5)
    forehead = points[27] + [0, 45, 0]
    return {k: v * skin if k not in ("eye", "teeth", "tongue", "mouth") else v for k, v in dict(
        maps, cheek=both(eye * .75 + points[48] * .25 + [-3, -12, 0], 17), nose=near(points[30], 13), under_eye=both(points[[40, 41]].mean(0) - [0, 5, 0], 9, (.8, 1.6, 1)),
        lid=both(points[[37, 38]].mean(0) + [0, 4, 0], 10, (.65, 1, 1)), lash=np.max(lids, axis=0), moustache=moustache * (1 - maps["lips"]), chin=near(points[57] - [0, 14, 0], 18) * (1 - maps["lips"]),
        lines=np.clip(line(points[31] + [-5, 0, 0], points[48] + [-8, 2, 0], width=2.6) + line(points[35] + [5, 0, 0], points[54] + [8, 2, 0], width=2.6)
                      + near(forehead, 30, (.7, 1, 1)) * np.cos(mean[:, 1] * .75).clip(0) ** 4, 0, 1)).items()}


def make_texture():
    """The detail texture (256, 256, 3) float32 that repeats: grain of standard deviation 1, strands along v of standard deviation 1, and freckles from 0 to -1."""
    rng = np.random.default_rng(0)
    grain, strands, spots = rng.standard_normal((3, TEXTURE, TEXTURE))
    grain = gaussian_filter(grain, .6, mode="wrap")
    strands = gaussian_filter(gaussian_filter1d(strands, 12, axis=0, mode="wrap"), (0, .7), mode="wrap")
    spots = gaussian_filter(spots, 1.1, mode="wrap")
    spots = -smoothstep((spots / spots.std() - 1.5) / .8)
    return np.stack((grain / grain.std(), strands / strands.std(), spots), -1).astype(np.float32)


def smooth_fields(points):
    """Smooth random patterns (N, FIELDS) of unit variance over `points` (N, 3) mm, with features of 25 to 100 mm."""
    rng = np.random.default_rng(1)
    waves, phase = rng.normal(0, 1, (FIELDS, 4, 3)) / np.geomspace(8, 30, FIELDS)[:, None, None], rng.uniform(0, 6.28, (FIELDS, 4))
    return (np.sin(np.einsum("nd,kjd->nkj", points, waves) + phase).sum(2) / np.sqrt(2)).astype(np.float32)


# Light --------------------------------------------------------------------------------------------------------------------------------------------------

def draw_light(rng):
    """A sky, as nine spherical harmonics (9, 3) of irradiance, and LAMPS lamps (LAMPS, 8): direction in the camera's frame, colour, sharpness of shadows, exponent of highlights.

    A quarter of the scenes are lit harder: coloured lamps, one lamp in a dark room, a flash beside the lens, light from behind.
    """
    harmonics, lamps = np.zeros((9, 3)), np.zeros((LAMPS, 8))
    hard, tint = rng.random() < .25, lambda spread: (1 + rng.normal(0, spread, 3)).clip(.1, 2.5)
    sky = rng.uniform(.04 if hard else .16, .6) * tint(.2 if hard else .07)
    harmonics[0] += sky
    harmonics[1] += sky * rng.uniform(-.1, .5)
    for _ in range(rng.integers(0, 4)):                                     # windows and walls: light without sharp shadows
        add_lobe(harmonics, draw_direction(rng, .3), rng.uniform(.05, .5) * tint(.3 if hard else .12))
    for k in range(rng.integers(hard, LAMPS + 1) if rng.random() < .85 else 1):
        direction = draw_direction(rng, .45)
        if hard and k == 0:
            kind = rng.random()
            direction = draw_direction(rng, .1, deep=.9) if kind < .4 else draw_direction(rng, .4, deep=-.6) if kind < .6 else direction
        lamps[k] = [*direction, *(rng.uniform(.2, 1.6 if hard else 1.2) / (1 + .6 * k) * tint(.3 if hard else .08)), rng.uniform(8, 60), rng.uniform(6, 60)]
    if harmonics[0].mean() < .25 and not lamps.any():
        add_lobe(harmonics, draw_direction(rng, .3), np.full(3, .6))
    return harmonics, lamps


def draw_direction(rng, height, deep=None):
    """A unit vector (3,) towards a light, `height` up on average; before the face, or with its part towards the camera near `deep`."""
    ahead = rng.uniform(-.1, 1) if deep is None else rng.normal(deep, .2)
    direction = np.array([rng.normal(0, .9 if deep is None or deep < 0 else .3), rng.normal(height, .55 if deep is None or deep < 0 else .3), ahead])
    return direction / np.linalg.norm(direction)


def add_lobe(harmonics, direction, colour):
    """Add the clamped cosine around `direction` to irradiance `harmonics`: 1/4 + c/2 + (5/16) P2-part, to degree two (Ramamoorthi & Hanrahan 2001)."""
    x, y, z = direction
    harmonics[:4] += colour * np.array([.25, .5 * y, .5 * z, .5 * x])[:, None]
    harmonics[4:] += colour * (15 / 64) * np.array([4 * x * y, 4 * y * z, (3 * z * z - 1) / 3, 4 * x * z, x * x - y * y])[:, None]


def sphere_directions(count=DIRECTIONS):
    """Nearly even directions (count, 3) of a Fibonacci spiral."""
    k = np.arange(count) + .5
    y, turn = 1 - 2 * k / count, np.pi * (1 + 5 ** .5) * k
    return np.stack((np.cos(turn) * np.sqrt(1 - y * y), y, np.sin(turn) * np.sqrt(1 - y * y)), 1)


def head_shadows(mean, triangles, inside, size=192):
    """How freely (N, DIRECTIONS) each vertex of the mean head sees each direction, 0 to 1, smoothed over its neighbours; and its share of open sky (N,), for ambient occlusion.

    inside: (N,) bool, vertices within the mouth, which never see the sky here and are lit from afar by convention
    """
    mean, triangles = np.ascontiguousarray(mean, np.float32), np.ascontiguousarray(triangles, np.int32)
    normals = rasterize.vertex_normals(mean, triangles)
    directions, extent = sphere_directions(), 1.05 * np.linalg.norm(mean - mean.mean(0), axis=1).max()
    seen_from = np.zeros((len(mean), len(directions)), np.float32)
    for k, d in enumerate(directions):
        right = np.cross([0, 1, 0], d)
        right /= np.linalg.norm(right)
        points = ((mean - mean.mean(0)) @ np.stack((right, -np.cross(d, right)), 1) / extent + 1) * size / 2
        near = (mean @ d).astype(np.float32)
        seen, weights = rasterize.zbuffer(points.astype(np.float32), near, triangles, size)
        corner = triangles[seen]
        depth = np.where(seen < 0, -1e9, weights[..., 0] * near[corner[..., 0]] + weights[..., 1] * near[corner[..., 1]] + (1 - weights.sum(-1)) * near[corner[..., 2]])
        x, y = points.astype(int).clip(0, size - 1).T
        seen_from[:, k] = (near > depth[y, x] - 3.) & (normals @ d > -.05)
    edges = np.concatenate((triangles[:, :2], triangles[:, 1:], triangles[:, [2, 0]]))
    for _ in range(2):
        total, count = seen_from.copy(), np.ones((len(mean), 1), np.float32)
        for a, b in ((0, 1), (1, 0)):
            np.add.at(total, edges[:, a], seen_from[edges[:, b]])
            np.add.at(count, edges[:, a], 1)
        seen_from = total / count
    cosine = (normals @ directions.T).clip(0)
    sky = (cosine * seen_from).sum(1) / cosine.sum(1).clip(1e-6)
    seen_from[inside], sky[inside] = .4, .3
    return seen_from.astype(np.float32), sky.astype(np.float32)


# What is behind and before the head ---------------------------------------------------------------------------------------------------------------------

def random_colour(rng, shape=()):
    """Linear colours (*shape, 3) of any lightness, half of them nearly grey."""
    vivid = rng.choice([5, 18, 45], shape, p=[.45, .4, .15])
    return lab_to_linear(np.concatenate((rng.uniform(3, 95, (*shape, 1)), rng.normal(0, 1, (*shape, 2)) * vivid[..., None] if shape else rng.normal(0, 1, 2) * vivid), -1))


def draw_background(size, rng):
    """Rounded boxes (PANELS, 16) in px that make a wall, a street, a landscape, a studio; see rasterize.BOX."""
    boxes, one, two = np.zeros((PANELS, 16)), rng.random((PANELS, 16)), rng.normal(0, 1, (PANELS, 2))         # all draws at once: a draw costs more than a number
    sides = np.exp(np.log(.02) * one[:, :2]) * size
    main, scene = random_colour(rng) * rng.uniform(.4, 1.2), rng.random(3)
    blur = rng.choice([.5, 2., 8.], p=[.4, .3, .3]) * size / 80 * (.7 + .8 * scene[0])
    count, outdoors = 0 if scene[1] < .12 else rng.integers(1, PANELS), scene[2] < .35
    start = np.where(one[:, 2:3] < .6, random_colour(rng, (PANELS,)) * (.4 + .9 * one[:, 3:4]), main * (.4 + 1.1 * one[:, 3:4]))
    angle = np.where(one[:, 4] < .7, (one[:, 5] < .5) * np.pi / 2 + .05 * two[:, 0], one[:, 5] * np.pi)
    boxes[:, :2], boxes[:, 2:4], boxes[:, 4] = (1.2 * one[:, 6:8] - .1) * size, sides, sides.min(1) * (one[:, 8] < .35)
    boxes[:, 5], boxes[:, 6], boxes[:, 7], boxes[:, 8:11], boxes[:, 11:14] = angle, blur, .35 + .65 * one[:, 9], start, start * (.4 + 1.1 * one[:, 10:11])
    boxes[:, 14], boxes[:, 15] = .2 * one[:, 11], .4 * one[:, 12] * (one[:, 13] < .2)
    if outdoors:                                                            # a horizon
        boxes[1, :6] = [size / 2, size * (1 + .9 * one[1, 6]), 3 * size, size, 0, .06 * two[1, 1]]
    boxes[0] = [size / 2, size / 2, 2 * size, 2 * size, 0, 6.28 * one[0, 0], 1, 1, *main, *(main * (.4 + 1.1 * one[0, 1]) if one[0, 2] < .6 else start[0]), .12 * one[0, 3], .15 * one[0, 4] * (one[0, 5] < .3)]
    boxes[1 + count:] = 0
    return boxes


def draw_obstacles(size, skin, cloth, rng):
    """Rounded boxes (BEFORE, 16) in px before the face: none for most pictures, else hands and arms, a thing, strands of hair, glare.

    skin, cloth: linear colours (3,) of the person's skin and clothes
    """
    boxes, kind = np.zeros((BEFORE, 16)), rng.random()
    if kind < .13:
        own = skin if rng.random() < .85 else skin * rng.uniform(.4, 1.8)           # sometimes somebody else's
        for start in (0, 7)[:1 + (rng.random() < .25)]:
            boxes[start:start + 7] = draw_hand(size, own.clip(0, 1), cloth, rng)
    elif kind < .20:
        for k in range(rng.integers(1, 3)):
            boxes[k] = draw_thing(size, rng)
    elif kind < .24:                                                        # strands across the face
        colour = lab_to_linear(HAIR_LAB[rng.choice(4)])
        for k in range(rng.integers(1, 6)):
            boxes[k] = [*rng.uniform(.15, .85, 2) * size, rng.uniform(.15, .5) * size, rng.uniform(.003, .012) * size, 0,
                        rng.normal(1.4, .35), 1., rng.uniform(.5, 1), *colour, *colour * 1.6, 0, .3]
    elif kind < .27:                                                        # glare
        boxes[0] = [*rng.uniform(0, 1, 2) * size, *rng.uniform(.1, .6, 2) * size, 0, rng.uniform(0, 3.14), .5 * size,
                    rng.uniform(.1, .35), *np.full(6, rng.uniform(.6, 1.2)), 0, 0]
    return boxes


def draw_hand(size, skin, cloth, rng):
    """Boxes (7, 16) of an arm in a sleeve or bare, the back of its hand, four fingers, and a thumb; it comes from below or from a side."""
    at = rng.uniform([.1, .25], [.9, 1.]) * size                            # where the fingers begin
    angle = rng.uniform(-np.pi, 0) if rng.random() < .8 else rng.uniform(0, np.pi)     # most point upwards
    along, across = np.array([np.cos(angle), np.sin(angle)]), np.array([-np.sin(angle), np.cos(angle)])
    length, thick = rng.uniform(.12, .2) * size, rng.uniform(.03, .045) * size
    spread, thumb, soft = rng.uniform(1.9, 2.6), rng.choice([-1, 1]), max(1., size / 80)
    shade = skin * rng.uniform(.6, 1.1)
    colours = (*shade * rng.uniform(.6, .9), *shade * rng.uniform(.9, 1.1), .05, 0)

    def part(centre, half_length, half_width, turn=0., colour=colours, corner=1.):
        return [*centre, half_length, half_width, corner * half_width, angle + turn, soft, 1, *colour]

    arm = part(at - along * 5.6 * length, 4. * length, 3.1 * thick, rng.normal(0, .1),
               colours if rng.random() < .4 else (*cloth * .6, *cloth, .1, .2))
    back = part(at - along * .9 * length, .85 * length, 3.8 * thick, colour=colours, corner=.6)
    fingers = [part(at + along * rng.normal(.3, .06) * length + across * (k - 1.5) * spread * thick,
                    length * rng.uniform(.85, 1.1), thick, (k - 1.5) * rng.uniform(0, .12)) for k in range(4)]
    return np.array([arm, back, *fingers, part(at - along * .6 * length + across * thumb * 4 * thick, .7 * length, 1.1 * thick, thumb * rng.uniform(.3, .8))])


def draw_thing(size, rng):
    """A box (16,) of any colour: a cup, a telephone, a microphone, the corner of a book."""
    width, height = rng.uniform(.04, .25, 2) * size
    colour = random_colour(rng)
    return [*rng.uniform(-.05, 1.05, 2) * size, width, height, rng.uniform(0, 1) * min(width, height), rng.uniform(0, 3.14),
            rng.uniform(.8, 3), 1, *colour, *colour * rng.uniform(.3, 1.4), rng.uniform(0, .3), rng.uniform(0, .4)]


# The camera ---------------------------------------------------------------------------------------------------------------------------------------------

def draw_camera(size, rng):
    """How a photo is taken and stored, as a dict of numbers: exposure, white balance, blur in px along x and y, sharpening, tone, noise, JPEG quality (0: none).

    A third of the cameras are poor ones: wrong exposure and colours, faces enlarged from a few pixels, strong noise, coarse JPEG.
    """
    poor, scale, kind = rng.random() < .33, size / 80, rng.random()
    if kind < .5:
        blur = rng.uniform(.25, .6, 2)
    elif kind < (.8 if poor else .92):
        blur = np.full(2, rng.uniform(.4, 1.5))
    else:
        blur = rng.uniform(.3, 3.5 if poor else 2.2, 2)                     # moved, or enlarged
    grey, vivid = rng.random() < .08, rng.uniform(.2, 1.6) if poor else rng.uniform(.7, 1.25)
    return dict(exposure=np.exp(rng.uniform(np.log(.05), np.log(.6))) if poor else rng.uniform(.10, .40), automatic=rng.uniform(.5 if poor else .65, 1),
                balance=(1 + rng.normal(0, .18 if poor else .06, 3)).clip(.3, 2), blur=blur * scale, sharpen=rng.uniform(.3, 1.5) * (rng.random() < .2),
                gamma=rng.uniform(1.5, 3.) if poor else rng.uniform(1.8, 2.6), contrast=rng.uniform(.55, 1.5) if poor else rng.uniform(.8, 1.25),
                saturation=0. if grey else vivid, noise=rng.uniform(.004, .05 if poor else .04) * (rng.random() < .55), coarse=rng.integers(1, 3),
                hash=rng.integers(0, 2 ** 31), quality=rng.integers(15 if poor else 30, 96) * (rng.random() < .6))


def taps(sigma):
    """Weights (2r + 1,) of a Gaussian of standard deviation `sigma` px."""
    radius = int(2.5 * sigma + .6)
    weights = np.exp(-.5 * (np.arange(-radius, radius + 1) / max(sigma, 1e-3)) ** 2)
    return (weights / weights.sum()).astype(np.float32)


def develop(picture, shot):
    """A photo, uint8 (S, S, 3), of linear light `picture` (S, S, 3) taken as `shot` says (see `draw_camera`)."""
    size = len(picture)
    face = float(picture[size // 4: 3 * size // 4, size // 4: 3 * size // 4].mean())
    gain = (shot["exposure"] / (face + .02)) ** shot["automatic"]                       # automatic, but not always right
    picture = rasterize.soften(picture, *map(taps, shot["blur"])) * (gain * shot["balance"]).astype(np.float32)
    picture = np.power(picture.clip(0, 4), np.float32(1 / shot["gamma"]), dtype=np.float32)
    grey = picture @ np.array([.3, .59, .11], np.float32)
    picture = grey[..., None] + np.float32(shot["saturation"]) * (picture - grey[..., None])
    picture = np.float32(.5) + (picture - np.float32(.5)) * np.float32(shot["contrast"])
    if shot["sharpen"]:                                                                 # an unsharp mask, with its halos
        wide = taps(size / 80)
        picture += np.float32(shot["sharpen"]) * (picture - rasterize.soften(picture, wide, wide))
    if shot["noise"]:
        rasterize.add_noise(picture, np.float32(shot["noise"]), int(shot["coarse"]), int(shot["hash"]))
    picture = (picture.clip(0, 1) * 255 + np.float32(.5)).astype(np.uint8)
    return jpeg(picture, int(shot["quality"])) if shot["quality"] else picture


def jpeg(picture, quality):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))
