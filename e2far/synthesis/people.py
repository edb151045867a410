"""What makes a person unlike another apart from shape: skin, hair, beard, eyes, clothes, glasses.

`draw_*` draw numbers from a numpy Generator; their order is part of every data set.
"""

import numpy as np
from scipy.ndimage import gaussian_filter1d

from e2far.synthesis import colour
from e2far.synthesis.wardrobe import COLUMNS


def draw_person(rng):
    """What stays with a person from picture to picture: a dict of numbers and linear colours (3,).

    `style`, `body` and `rims` are dicts: arguments of the methods of `wardrobe.Wardrobe`.
    """
    tone = rng.random()
    lab = colour.skin_lab(tone) + rng.normal(0, 1, 3) * colour.SKIN_SPREAD
    skin = colour.lab_to_linear(lab)
    dark_haired = rng.random() < tone  # Choice: fair hair is rarer on dark skin
    kind = rng.choice(2) if dark_haired else rng.choice(len(colour.HAIR_LAB), p=colour.HAIR_SHARES)
    hair_lab = colour.HAIR_LAB[kind] + rng.normal(0, 1, 3) * [4, 2, 3]
    natural = colour.lab_to_linear(hair_lab)
    hair = natural if rng.random() < 0.95 else colour.draw_lab(rng, (20, 70), (-50, 50))  # or dyed
    female, old = rng.random() < 0.5, rng.random() ** 2
    made_up = female and rng.random() < 0.5
    lips, lipstick = draw_lips(rng, lab, tone)
    bald = not female and rng.random() < 0.25
    bearded = not female and rng.random() < 0.5
    beard = draw_beard(rng) if bearded else np.zeros(3)
    receding = 45 if bald else 10 * old * (not female)
    hairline = rng.normal(-7, 6) + receding  # mm behind the model's own
    looks = dict(tone=tone, skin=skin, hair=hair, beard=beard, hairline=hairline)
    looks |= draw_hair(rng, female, bald, hairline)
    looks["whiskers"] = natural * rng.uniform(0.6, 1.1)
    looks |= draw_eyes(rng, dark_haired) | draw_complexion(rng, tone, old)
    looks |= draw_make_up(rng, made_up, lips, lipstick)
    looks |= draw_brows(rng, natural, fair=hair_lab[0] > 50) | draw_age(rng, old)
    looks["scalp"] = 0.35 * (rng.random() < 0.6) if bald else 1.0
    looks["stubble"] = rng.uniform(0.05, 0.5) if not female and rng.random() < 0.6 else 0.0
    looks["beard_length"] = rng.uniform(0, 9) if bearded and rng.random() < 0.5 else 0.0
    looks["cap"] = colour.draw_lab(rng, (5, 85), (-35, 45))
    return looks | draw_clothes(rng, skin) | draw_glasses(rng)


def uniform(rng, **ranges):
    """A number within each of `ranges`."""
    return {name: rng.uniform(*ends) for name, ends in ranges.items()}


def draw_lips(rng, skin_lab, tone):
    """Linear colours (3,) of lips and of lipstick."""
    redder = np.array([rng.uniform(-14, -3), rng.uniform(5, 16), rng.uniform(-5, 2)])
    lipstick = [rng.uniform(20, 60), rng.uniform(25, 60), rng.uniform(-10, 30)]
    return colour.lab_to_linear(skin_lab + redder * [1, 1 - 0.5 * tone, 1]), colour.lab_to_linear(
        lipstick
    )


def draw_beard(rng):
    """How thick (3,) moustache, beard on the cheeks and on the chin are, 0 to 1."""
    return rng.uniform([0.4, 0.1, 0.0], [1, 1, 1]) * (rng.random(3) < [0.85, 0.6, 0.85])


def draw_eyes(rng, dark_haired):
    """Colours of the eyes; radii as shares of the ball's; shadow of the upper lid."""
    kind = 0 if dark_haired else rng.choice(len(colour.IRIS_LAB), p=colour.IRIS_SHARES)
    iris = colour.lab_to_linear(colour.IRIS_LAB[kind] + rng.normal(0, 3, 3))
    white = colour.lab_to_linear([rng.uniform(66, 82), rng.uniform(0, 5), rng.uniform(0, 7)])
    radii = uniform(rng, iris_radius=(0.44, 0.54), pupil_radius=(0.14, 0.25))
    return dict(iris=iris, white=white, **radii, lid_shadow=rng.uniform(0.2, 0.65))


def draw_complexion(rng, tone, old):
    """Patterns of the skin, as strengths."""
    blotches, pores = rng.normal(0, 0.028, colour.FIELDS), rng.uniform(0.01, 0.09)
    freckles = rng.uniform(0.15, 0.8) if tone < 0.5 and rng.random() < 0.25 else 0.0
    red, dark = rng.uniform(-0.05, 0.22), rng.uniform(0, 0.45) + 0.2 * old
    return dict(blotches=blotches, pores=pores, freckles=freckles, redness=red, under_eye=dark)


def draw_make_up(rng, made_up, lips, lipstick):
    """Paint of lips, lids and lashes; without make-up, lips and lashes as they are."""
    return dict(
        lips=lipstick if made_up and rng.random() < 0.6 else lips,
        lips_strength=rng.uniform(0.35, 0.95),
        lip_gloss=rng.uniform(0, 0.5),
        shadow=colour.draw_lab(rng, (15, 60), (-25, 35)),
        shadow_strength=rng.uniform(0.1, 0.6) if made_up else 0.0,
        lash=rng.uniform(0.4, 0.95) if made_up else rng.uniform(0, 0.6),
    )


def draw_brows(rng, natural, fair):
    """Brows, of the hair's `natural` colour (3,) or, for some people of `fair` hair, darker."""
    dark = fair and rng.random() < 0.5
    brow = colour.lab_to_linear([25, 6, 8]) if dark else natural * rng.uniform(0.3, 0.9)
    strength = rng.uniform(0.35, 1) if rng.random() < 0.93 else 0.08
    return dict(brow=brow, brow_strength=strength, brow_width=rng.uniform(0.6, 1.5))


def draw_age(rng, old):
    """Shine and lines of the skin; `wrinkles`: how much it darkens where it is squeezed."""
    gloss, lines = rng.uniform(0, 0.32), rng.uniform(0, 0.3) + 0.6 * old * rng.random()
    return dict(gloss=gloss, age_lines=lines, wrinkles=rng.uniform(0.1, 0.9))


def draw_hair(rng, female, bald, hairline):
    """A hair shell: its `style`, `shell`: 1, or 0 where there is none; `covered`: 1 for a cap."""
    worn = rng.random()
    covered = worn < 0.16  # by a scarf that hides all hair, a hat, or a cap
    style = dict(recede=hairline, fringe=0.0, side=0.0, brim=0.0, peak=0.0)
    style |= uniform(rng, thickness=(1, 26), lift=(-0.2, 0.9), opening=(0.85, 1.7))
    style |= uniform(rng, parting=(-0.9, 0.9), flare=(-0.12, 0.3))
    waves, width = rng.normal(0, 1, COLUMNS), rng.uniform(0.4, 2.5)
    style["waves"] = gaussian_filter1d(waves, width, mode="wrap")
    kind = rng.random()
    if covered:
        style |= draw_cap(rng, worn) | dict(waves=style["waves"] * 0.1)
    elif kind < (0.62 if female else 0.14):  # long
        style |= uniform(rng, side=(25, 190), thickness=(6, 30), opening=(0.6, 1.5))
    elif kind > (0.93 if female else 0.9):  # afro, curls
        style |= uniform(rng, thickness=(22, 62), lift=(-0.1, 0.3))
    if not covered and rng.random() < (0.35 if female else 0.22):
        style["fringe"] = rng.uniform(10, 52)
    bare = not covered and (bald or rng.random() < (0.05 if female else 0.25))
    return dict(shell=float(not bare), covered=float(covered), style=style)


def draw_cap(rng, worn):
    """What a scarf (`worn` < 0.06), a hat with a brim or a peak (< 0.13), or a cap changes."""
    cap = uniform(rng, thickness=(3, 14), lift=(-0.3, 0.6), fringe=(8, 38))
    if worn < 0.06:
        cap |= uniform(rng, side=(70, 150), opening=(0.65, 0.95), flare=(-0.25, 0.1))
    elif worn < 0.13:
        cap |= dict(brim=rng.uniform(15, 70), peak=float(rng.random() < 0.6))
        cap["fringe"] = rng.uniform(-5, 25)
    return cap


def draw_clothes(rng, skin):
    """Colours of clothes and collar, which may be bare `skin`; and their shape, `body`."""
    cloth = colour.random_colour(rng)
    collar = [cloth, skin, cloth * 0.5, np.full(3, 0.75)][rng.choice(4, p=[0.45, 0.3, 0.1, 0.15])]
    stripes = rng.uniform(0.1, 0.6) * (rng.random() < 0.3)
    body = uniform(rng, width=(165, 245), slope=(0, 35))
    body["collar"] = rng.uniform(-2, 26) if rng.random() < 0.5 else -4.0
    body["depth"] = rng.uniform(75, 115)
    return dict(cloth=cloth, collar=collar, cloth_stripes=stripes, body=body)


def draw_glasses(rng):
    """Glasses: 1 where they are worn, dark or clear lenses, colours, and their shape, `rims`."""
    dark = rng.random() < 0.4
    glasses = float(rng.random() < 0.25)
    lens = colour.lab_to_linear([rng.uniform(2, 22), *rng.normal(0, 8, 2)])
    lightness = rng.uniform(3, 30) if rng.random() < 0.7 else rng.uniform(30, 80)
    frame = colour.lab_to_linear([lightness, *rng.normal(0, 12, 2)])
    rims = uniform(rng, half_width=(20, 27), half_height=(13, 23), roundness=(2, 4.5))
    rims |= uniform(rng, rim=(0.8, 4.5), drop=(-1, 4))
    return dict(glasses=glasses, lens_dark=float(dark), lens=lens, frame=frame, rims=rims)
