"""What makes one person look unlike another apart from shape: skin, brows, lips, eyes, hair, beard; and the light, the background and the camera of one picture.

Colours are linear light in [0, 1] until `develop` turns them into a photo. All is drawn from a numpy Generator, so that a seed gives a face.
"""
import io

import numpy as np
from PIL import Image

# Choice: skin lies on a path through six tones measured by eye on portraits (sRGB), from the fairest to the darkest, with a small random cast; uniform along the path.
SKIN_TONES = (np.array([(250, 220, 200), (236, 196, 170), (214, 168, 132), (178, 128, 92), (126, 84, 58), (78, 52, 38)]) / 255.) ** 2.2
HAIR_TONES = (np.array([(22, 18, 16), (48, 34, 26), (84, 58, 38), (140, 98, 58), (200, 164, 110), (120, 56, 32), (150, 148, 146)]) / 255.) ** 2.2
HAIR_SHARES = np.array([.34, .26, .16, .08, .06, .04, .06])
IRIS_TONES = (np.array([(70, 44, 26), (98, 66, 36), (112, 100, 62), (92, 122, 140), (112, 140, 108)]) / 255.) ** 2.2
IRIS_SHARES = np.array([.45, .25, .1, .12, .08])


def smoothstep(x):
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def draw_person(rng):
    """What stays with a person from picture to picture, as a dict of numbers and colours."""
    tone = rng.random()
    at = tone * (len(SKIN_TONES) - 1)
    low = min(int(at), len(SKIN_TONES) - 2)
    skin = (SKIN_TONES[low] + (at - low) * (SKIN_TONES[low + 1] - SKIN_TONES[low])) * (1 + rng.normal(0, .04, 3))
    dark_haired = rng.random() < tone       # Choice: fair hair is rarer on dark skin
    hair = HAIR_TONES[rng.choice(2) if dark_haired else rng.choice(len(HAIR_TONES), p=HAIR_SHARES)] * rng.uniform(.6, 1.4)
    bald, long, fringe = rng.random() < .12, rng.random() < .4, rng.random() < .18
    return dict(tone=tone, skin=skin, hair=hair, iris=IRIS_TONES[0 if dark_haired else rng.choice(len(IRIS_TONES), p=IRIS_SHARES)] * rng.uniform(.7, 1.3),
                waves=rng.normal(0, .035, (10, 3)), frequency=rng.normal(0, .03, (10, 3)), phase=rng.uniform(0, 6.28, 10), grain=rng.uniform(.0, .05),
                redness=rng.uniform(0, .22), lips=rng.uniform(.25, .9), lip_tint=np.array([1, rng.uniform(.45, .75), rng.uniform(.5, .8)]) * rng.uniform(.7, 1.05),
                brows=rng.uniform(.35, .95), brow_width=rng.uniform(.5, 1.6), gloss=rng.uniform(.0, .35),
                bald=bald, hairline=rng.normal(0, 7) + (12 if bald else -24 if fringe else 0), hair_thickness=0. if bald else rng.uniform(2, 26), ears_covered=bool(long and rng.random() < .6),
                long=0. if bald or not long else rng.uniform(.6, 1.5), beard=rng.uniform(.15, .9) if rng.random() < .28 else 0., stubble=rng.random() < .5)


def vertex_albedo(person, attributes, template, rng):
    """Colours (N, 3) and gloss (N,) of the vertices.

    attributes: name -> (N,), of a MorphableModel; a name it lacks leaves that feature out    template: (N, 3) mm, the model's mean, which carries the skin's pattern
    """
    n = len(template)
    none = np.zeros(n, np.float32)
    get = attributes.get
    pattern = np.sin(template @ person["frequency"].T + person["phase"]) @ person["waves"]
    colour = person["skin"] * (1 + pattern) * (1 + rng.normal(0, 1, (n, 1)) * person["grain"])
    cheek = np.exp(-((abs(template[:, 0]) - 40) ** 2 + (template[:, 1] + 18) ** 2) / 450.) + .8 * np.exp(-(template[:, 0] ** 2 + (template[:, 1] + 12) ** 2) / 120.)
    colour = colour * (1 - (cheek * person["redness"])[:, None] * np.array([.1, 1, .9]))

    def blend(mask, tint):
        nonlocal colour
        colour = colour + np.clip(mask, 0, 1)[:, None] * (tint - colour)

    blend(get("lips", none) * person["lips"], person["skin"] * person["lip_tint"])
    hair_grain = person["hair"] * (1 + rng.normal(0, .12, (n, 1)))
    if person["beard"]:
        blend(get("beard", none) * (1 - get("lips", none)) * person["beard"] * (.6 if person["stubble"] else 1.), hair_grain)
    blend(get("brow", none) ** (1 / person["brow_width"]) * person["brows"], hair_grain)
    scalp = smoothstep((get("hairline", none - 99.) - person["hairline"]) / 7.)
    if not person["bald"]:
        blend(scalp, hair_grain)
        if person["ears_covered"]:
            blend(smoothstep(get("ear", none) * 2), hair_grain)
    blend(get("mouth", none), np.array([.10, .02, .02]))
    blend(get("teeth", none), np.array([.62, .58, .50]))
    blend(get("tongue", none), np.array([.32, .10, .09]))
    gloss = person["gloss"] * (.3 + .7 * get("lips", none)) * (1 - scalp) + .9 * get("eye", none)
    return np.clip(colour, .005, 1).astype(np.float32), gloss.astype(np.float32)


def hair_volume(person, attributes):
    """How far (N,) mm the hair stands off each vertex."""
    if "hairline" not in attributes:
        return None
    thickness = person["hair_thickness"] * smoothstep((attributes["hairline"] - person["hairline"]) / 18.)
    return thickness + (6. * smoothstep(attributes["ear"] * 2) if person["ears_covered"] else 0.)


def draw_light(rng):
    """One to three lamps and a sky, as nine harmonics (9, 3) of irradiance and highlights (L, 7), in the camera's frame."""
    harmonics = np.zeros((9, 3))
    sky = rng.uniform(.12, .55) * (1 + rng.normal(0, .06, 3))
    harmonics[0] += sky
    harmonics[1] += sky * rng.uniform(0, .5)
    lamps = []
    for _ in range(rng.integers(1, 4)):
        direction = np.array([rng.normal(0, .9), rng.normal(.35, .6), rng.uniform(.15, 1)])
        direction /= np.linalg.norm(direction)
        x, y, z = direction
        colour = rng.uniform(.25, 1.) * (1 + rng.normal(0, .07, 3)) / (1 + .5 * len(lamps))
        # the clamped cosine around `direction`: 1/4 + c/2 + (5/16) P2-part, to degree two (Ramamoorthi & Hanrahan 2001)
        harmonics[:4] += colour * np.array([.25, .5 * y, .5 * z, .5 * x])[:, None]
        harmonics[4:] += colour * (15 / 64) * np.array([4 * x * y, 4 * y * z, (3 * z * z - 1) / 3, 4 * x * z, x * x - y * y])[:, None]
        half = direction + [0, 0, 1]
        lamps.append([*(half / np.linalg.norm(half)), rng.uniform(8, 60), *(colour * rng.uniform(.1, .5))])
    return harmonics.astype(np.float32), np.array(lamps, np.float32)


def draw_background(size, rng):
    """A picture (size, size, 3), linear light: smooth colours, sometimes with edges across them."""
    cells = rng.integers(1, 7)
    base = rng.random((cells, cells, 3)) ** 2.2 * rng.uniform(.3, 1) if rng.random() < .5 else rng.random(3) ** 2.2 * (1 + rng.normal(0, .25, (cells, cells, 1)))
    picture = np.stack([np.asarray(Image.fromarray(base[..., k].astype(np.float32)).resize((size, size), Image.BICUBIC)) for k in range(3)], -1)
    y, x = np.mgrid[:size, :size].astype(np.float32) / size
    for _ in range(rng.integers(0, 5)):
        angle, offset, colour = rng.uniform(0, 6.28), rng.uniform(-.6, .6), rng.random(3) ** 2.2
        edge = (x - .5) * np.cos(angle) + (y - .5) * np.sin(angle) - offset
        band = edge > 0 if rng.random() < .5 else abs(edge) < rng.uniform(.01, .2)
        picture[band] += (colour - picture[band]) * rng.uniform(.3, 1)
    return np.clip(picture, 0, 1).astype(np.float32)


def paint_ellipse(picture, centre, radii, colour, angle=0.):
    """Lay a filled ellipse over `picture` (S, S, 3) in place; centre and radii in px, angle in radians."""
    size = len(picture)
    y, x = np.mgrid[:size, :size].astype(np.float32) + .5
    dx, dy = x - centre[0], y - centre[1]
    u, v = dx * np.cos(angle) + dy * np.sin(angle), dy * np.cos(angle) - dx * np.sin(angle)
    inside = np.clip((1 - np.sqrt((u / radii[0]) ** 2 + (v / radii[1]) ** 2)) * min(radii) + .5, 0, 1)[..., None]
    picture += inside * (np.asarray(colour, np.float32) - picture)


def blur(picture, sigma):
    """Gaussian blur of `picture` (S, S, 3) by `sigma` px, edges repeated."""
    radius = max(1, int(2.5 * sigma + .5))
    kernel = np.exp(-.5 * (np.arange(-radius, radius + 1) / sigma) ** 2).astype(np.float32)
    kernel /= kernel.sum()
    for axis in (0, 1):
        padded = np.pad(picture, [(radius, radius) if a == axis else (0, 0) for a in range(3)], mode="edge")
        picture = sum(w * np.take(padded, range(i, i + len(picture)), axis) for i, w in enumerate(kernel))
    return picture


def develop(picture, rng):
    """A camera's photo, uint8 (S, S, 3), of linear light (S, S, 3): exposure, white balance, tone, blur, noise, JPEG."""
    size = len(picture)
    face = picture[size // 4: 3 * size // 4, size // 4: 3 * size // 4].mean()
    exposure = (rng.uniform(.12, .42) / (face + .02)) ** rng.uniform(.3, 1)         # automatic, but not always right
    picture = picture * exposure * (1 + rng.normal(0, .05, 3)).astype(np.float32)
    if rng.random() < .6:
        picture = blur(picture, rng.uniform(.3, 1.1) * size / 80)
    picture = np.clip(picture, 0, None) ** np.float32(1 / rng.uniform(1.8, 2.6))
    picture = .5 + (picture - .5) * rng.uniform(.8, 1.2)
    if rng.random() < .08:
        picture = np.repeat(picture.mean(-1, keepdims=True), 3, -1)
    if rng.random() < .6:
        picture = picture + rng.standard_normal(picture.shape, np.float32) * rng.uniform(.005, .05)
    picture = (np.clip(picture, 0, 1) * 255 + .5).astype(np.uint8)
    if rng.random() < .5:
        file = io.BytesIO()
        Image.fromarray(picture).save(file, "JPEG", quality=int(rng.integers(35, 95)))
        picture = np.asarray(Image.open(file))
    return picture
