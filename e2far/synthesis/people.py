"""What makes one photo of a person unlike another apart from shape: skin, hair, eyes, clothes; light, background, things in the way, and the camera.

`draw_*` draw numbers from a numpy Generator; everything after them is a plain function of those numbers. Colours are linear light in [0, 1] until `develop` makes a photo of them.
"""

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from e2far.raster import smoothstep
from e2far.synthesis.colour import (
    HAIR_LAB,
    HAIR_SHARES,
    IRIS_LAB,
    IRIS_SHARES,
    SKIN_SPREAD,
    lab_to_linear,
    random_colour,
    skin_lab,
)
from e2far.synthesis.wardrobe import CLOTHES, COLUMNS

TEXTURE = 256  # side of the detail texture, texels
TEXEL_MM = 0.75
FIELDS = 14  # smooth patterns from which blotches of skin are mixed


# People -------------------------------------------------------------------------------------------------------------------------------------------------


def draw_person(rng):
    """What stays with a person from picture to picture, as a dict of numbers, colours and the shape of their hair; arrays of fixed shapes."""
    tone = rng.random()
    lab = skin_lab(tone) + rng.normal(0, 1, 3) * SKIN_SPREAD
    dark_haired = rng.random() < tone  # Choice: fair hair is rarer on dark skin
    hair_lab = HAIR_LAB[
        rng.choice(2) if dark_haired else rng.choice(len(HAIR_LAB), p=HAIR_SHARES)
    ] + rng.normal(0, 1, 3) * [4, 2, 3]
    natural = lab_to_linear(hair_lab)
    hair = (
        natural
        if rng.random() < 0.95
        else lab_to_linear([rng.uniform(20, 70), *rng.uniform(-50, 50, 2)])
    )  # one in twenty dyed
    female, old = rng.random() < 0.5, rng.random() ** 2
    made_up = female and rng.random() < 0.5
    lips = lab + [rng.uniform(-14, -3), rng.uniform(5, 16), rng.uniform(-5, 2)] * np.array(
        [1, 1 - 0.5 * tone, 1]
    )
    lipstick = [rng.uniform(20, 60), rng.uniform(25, 60), rng.uniform(-10, 30)]
    bald = not female and rng.random() < 0.25
    bearded = not female and rng.random() < 0.5
    styles = (
        rng.uniform([0.4, 0.1, 0.0], [1, 1, 1]) * (rng.random(3) < [0.85, 0.6, 0.85])
        if bearded
        else np.zeros(3)
    )  # moustache, cheeks, chin
    hairline = rng.normal(-7, 6) + (
        45 if bald else 10 * old * (not female)
    )  # mm behind the model's own
    shell, covered = draw_hair(rng, female, bald, hairline)
    return dict(
        tone=tone,
        skin=lab_to_linear(lab),
        hair=hair,
        whiskers=natural * rng.uniform(0.6, 1.1),
        iris=lab_to_linear(
            IRIS_LAB[0 if dark_haired else rng.choice(len(IRIS_LAB), p=IRIS_SHARES)]
            + rng.normal(0, 3, 3)
        ),
        white=lab_to_linear([rng.uniform(66, 82), rng.uniform(0, 5), rng.uniform(0, 7)]),
        iris_radius=rng.uniform(0.44, 0.54),
        pupil_radius=rng.uniform(0.14, 0.25),
        lid_shadow=rng.uniform(0.2, 0.65),
        blotches=rng.normal(0, 0.028, FIELDS),
        pores=rng.uniform(0.01, 0.09),
        freckles=rng.uniform(0.15, 0.8) if tone < 0.5 and rng.random() < 0.25 else 0.0,
        redness=rng.uniform(-0.05, 0.22),
        under_eye=rng.uniform(0, 0.45) + 0.2 * old,
        lips=lab_to_linear(lipstick if made_up and rng.random() < 0.6 else lips),
        lips_strength=rng.uniform(0.35, 0.95),
        lip_gloss=rng.uniform(0, 0.5),
        shadow=lab_to_linear([rng.uniform(15, 60), *rng.uniform(-25, 35, 2)]),
        shadow_strength=rng.uniform(0.1, 0.6) if made_up else 0.0,
        lash=rng.uniform(0.4, 0.95) if made_up else rng.uniform(0, 0.6),
        brow=natural * rng.uniform(0.3, 0.9)
        if not (hair_lab[0] > 50 and rng.random() < 0.5)
        else lab_to_linear([25, 6, 8]),
        brow_strength=rng.uniform(0.35, 1) if rng.random() < 0.93 else 0.08,
        brow_width=rng.uniform(0.6, 1.5),
        gloss=rng.uniform(0, 0.32),
        age_lines=rng.uniform(0, 0.3) + 0.6 * old * rng.random(),
        wrinkles=rng.uniform(0.1, 0.9),
        hairline=hairline,
        scalp=0.35 * (rng.random() < 0.6) if bald else 1.0,
        stubble=rng.uniform(0.05, 0.5) if not female and rng.random() < 0.6 else 0.0,
        beard=styles,
        beard_length=rng.uniform(0, 9) if bearded and rng.random() < 0.5 else 0.0,
        covered=covered,
        cap=lab_to_linear([rng.uniform(5, 85), *rng.uniform(-35, 45, 2)]),
        **shell,
        **draw_clothes(rng, lab_to_linear(lab)),
        **draw_glasses(rng),
    )


def draw_hair(rng, female, bald, hairline):
    """Shape of a hair shell (see wardrobe.Wardrobe.hair), with `shell`: how much of it there is, 0 or 1; and whether it is a cap or scarf, `covered`, on top."""
    worn = rng.random()
    covered = float(worn < 0.16)  # a hat or cap, or a scarf that hides all hair
    style = dict(
        thickness=rng.uniform(1, 26),
        lift=rng.uniform(-0.2, 0.9),
        recede=hairline,
        fringe=0.0,
        side=0.0,
        opening=rng.uniform(0.85, 1.7),
        parting=rng.uniform(-0.9, 0.9),
        flare=rng.uniform(-0.12, 0.3),
        brim=0.0,
        peak=0.0,
        waves=gaussian_filter1d(rng.normal(0, 1, COLUMNS), rng.uniform(0.4, 2.5), mode="wrap"),
    )
    kind = rng.random()
    if covered:
        style |= dict(
            thickness=rng.uniform(3, 14),
            lift=rng.uniform(-0.3, 0.6),
            fringe=rng.uniform(8, 38),
            waves=style["waves"] * 0.1,
        )
        if worn < 0.06:
            style |= dict(
                side=rng.uniform(70, 150),
                opening=rng.uniform(0.65, 0.95),
                flare=rng.uniform(-0.25, 0.1),
            )
        elif worn < 0.13:  # a brim all around, or a peak in front
            style |= dict(
                brim=rng.uniform(15, 70), peak=float(rng.random() < 0.6), fringe=rng.uniform(-5, 25)
            )
    elif kind < (0.62 if female else 0.14):  # long
        style |= dict(
            side=rng.uniform(25, 190), thickness=rng.uniform(6, 30), opening=rng.uniform(0.6, 1.5)
        )
    elif kind > (0.93 if female else 0.9):  # afro, curls
        style |= dict(thickness=rng.uniform(22, 62), lift=rng.uniform(-0.1, 0.3))
    if not covered and rng.random() < (0.35 if female else 0.22):
        style["fringe"] = rng.uniform(10, 52)
    return dict(
        shell=float(covered or not (bald or rng.random() < (0.05 if female else 0.25))), style=style
    ), covered


def draw_clothes(rng, skin):
    """Colours and shape of shoulders and collar (see wardrobe.Wardrobe.clothes)."""
    cloth = random_colour(rng)
    collar = [cloth, skin, cloth * 0.5, np.full(3, 0.75)][rng.choice(4, p=[0.45, 0.3, 0.1, 0.15])]
    u, v = np.meshgrid(np.arange(CLOTHES[0]) * 20.0, np.arange(CLOTHES[1]) * 40.0)
    return dict(
        cloth=cloth,
        collar=collar,
        cloth_stripes=rng.uniform(0.1, 0.6) * (rng.random() < 0.3),
        cloth_u=u.ravel(),
        cloth_v=v.ravel(),
        body=dict(
            width=rng.uniform(165, 245),
            slope=rng.uniform(0, 35),
            collar=rng.uniform(-2, 26) if rng.random() < 0.5 else -4.0,
            depth=rng.uniform(75, 115),
        ),
    )


def draw_glasses(rng):
    dark = rng.random() < 0.4
    return dict(
        glasses=float(rng.random() < 0.25),
        lens=lab_to_linear([rng.uniform(2, 22), *rng.normal(0, 8, 2)]),
        frame=lab_to_linear(
            [
                rng.uniform(3, 30) if rng.random() < 0.7 else rng.uniform(30, 80),
                *rng.normal(0, 12, 2),
            ]
        ),
        lens_dark=float(dark),
        rims=dict(
            half_width=rng.uniform(20, 27),
            half_height=rng.uniform(13, 23),
            roundness=rng.uniform(2, 4.5),
            rim=rng.uniform(0.8, 4.5),
            drop=rng.uniform(-1, 4),
        ),
    )


# The face's places --------------------------------------------------------------------------------------------------------------------------------------


def face_maps(mean, landmarks, attributes):
    """Where things are on a face, name -> (N,) in [0, 1]: from the model's attributes, and from its 68 landmarks what they lack."""
    points, zero = mean[landmarks], np.zeros(len(mean))
    near = lambda at, radius, stretch=(1, 1, 1): np.exp(
        -(((mean - at) * stretch) ** 2).sum(1) / radius**2
    )
    both = lambda at, *shape: near(at, *shape) + near(at * [-1, 1, 1], *shape)

    def line(*corners, width):
        """Closeness to a polyline."""
        dense = np.concatenate([np.linspace(a, b, 9) for a, b in zip(corners, corners[1:])])
        return np.exp(-((np.linalg.norm(mean[:, None] - dense, axis=2).min(1) / width) ** 2))

    maps = {
        name: attributes.get(name, zero)
        for name in ("lips", "eye", "ear", "teeth", "tongue", "mouth", "beard")
    }
    sideburn = smoothstep((abs(mean[:, 0]) - 0.8 * points[16, 0]) / 8)
    maps["beard"] = maps["beard"] * np.maximum(
        smoothstep((points[33, 1] - 3 - mean[:, 1]) / 7), sideburn
    )  # below the nose, but for sideburns
    skin = 1 - np.max([maps[k] for k in ("eye", "teeth", "tongue", "mouth")], axis=0)
    eye = points[36:42].mean(0)
    upper_lip = (points[33] + points[51]) / 2
    lids = [line(*points[a:b], width=1.6) for a, b in ((36, 40), (42, 46))]
    moustache = line(
        points[48] + [-3, 3, 0],
        upper_lip + [-9, -1, 0],
        upper_lip,
        upper_lip + [9, -1, 0],
        points[54] + [3, 3, 0],
        width=5.5,
    )
    forehead = points[27] + [0, 45, 0]
    return {
        k: v * skin if k not in ("eye", "teeth", "tongue", "mouth") else v
        for k, v in dict(
            maps,
            cheek=both(eye * 0.75 + points[48] * 0.25 + [-3, -12, 0], 17),
            nose=near(points[30], 13),
            under_eye=both(points[[40, 41]].mean(0) - [0, 5, 0], 9, (0.8, 1.6, 1)),
            lid=both(points[[37, 38]].mean(0) + [0, 4, 0], 10, (0.65, 1, 1)),
            lash=np.max(lids, axis=0),
            moustache=moustache * (1 - maps["lips"]),
            chin=near(points[57] - [0, 14, 0], 18) * (1 - maps["lips"]),
            lines=np.clip(
                line(points[31] + [-5, 0, 0], points[48] + [-8, 2, 0], width=2.6)
                + line(points[35] + [5, 0, 0], points[54] + [8, 2, 0], width=2.6)
                + near(forehead, 30, (0.7, 1, 1)) * np.cos(mean[:, 1] * 0.75).clip(0) ** 4,
                0,
                1,
            ),
        ).items()
    }


def make_texture():
    """The detail texture (256, 256, 3) float32 that repeats: grain of standard deviation 1, strands along v of standard deviation 1, and freckles from 0 to -1."""
    rng = np.random.default_rng(0)
    grain, strands, spots = rng.standard_normal((3, TEXTURE, TEXTURE))
    grain = gaussian_filter(grain, 0.6, mode="wrap")
    strands = gaussian_filter(
        gaussian_filter1d(strands, 12, axis=0, mode="wrap"), (0, 0.7), mode="wrap"
    )
    spots = gaussian_filter(spots, 1.1, mode="wrap")
    spots = -smoothstep((spots / spots.std() - 1.5) / 0.8)
    return np.stack((grain / grain.std(), strands / strands.std(), spots), -1).astype(np.float32)


def smooth_fields(points):
    """Smooth random patterns (N, FIELDS) of unit variance over `points` (N, 3) mm, with features of 25 to 100 mm."""
    rng = np.random.default_rng(1)
    waves, phase = (
        rng.normal(0, 1, (FIELDS, 4, 3)) / np.geomspace(8, 30, FIELDS)[:, None, None],
        rng.uniform(0, 6.28, (FIELDS, 4)),
    )
    return (np.sin(np.einsum("nd,kjd->nkj", points, waves) + phase).sum(2) / np.sqrt(2)).astype(
        np.float32
    )
