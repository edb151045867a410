"""Synthetic pictures for experiments: one factor changed and all others kept, or another world.

How far a feature moves with a factor, against its distance between two unrelated pictures, says
what that feature is about.
"""

from copy import deepcopy

import numpy as np
import torch

from e2far.data import to_float
from e2far.facemodels import arkit
from e2far.files import extra
from e2far.synthesis.studio import SPLITS, Studio

with extra("study"):
    import joblib

# Styling is all of the looks that is not paint on the face: hair, beard, glasses, clothes. Camera
# is all the rest: distance, crop, the body's turn, things in the way, exposure, noise, storage.
FACTORS = ("expression", "identity", "albedo", "pose", "light", "background", "styling", "camera")
# fmt: off
# Choice: what the texture of a morphable model holds, and the brows with it: colours and patterns
# of skin, lips, eyes, lashes, make-up, and what makes them shine.
ALBEDO = (
    "tone", "skin", "blotches", "pores", "freckles", "redness", "under_eye", "age_lines",
    "wrinkles", "gloss", "lips", "lips_strength", "lip_gloss", "shadow", "shadow_strength", "lash",
    "brow", "brow_strength", "brow_width", "iris", "white", "iris_radius", "pupil_radius",
    "lid_shadow",
)
LIGHT = ("harmonics", "lamps", "shade")
# What a grey bust has not.
TEXTURE = (
    "blotches", "pores", "freckles", "redness", "under_eye", "age_lines", "wrinkles",
    "lips_strength", "shadow_strength", "lash", "brow_strength", "beard", "stubble", "beard_length",
)
# fmt: on

# ---- one factor changed --------------------------------------------------------------------------


def draw_factors(studio, seed, split, person):
    """Factor -> its numbers, of the first picture of `person`.

    `photograph` makes of them what `studio.photograph(seed, split, person, 0)` makes.
    """
    identity, looks = studio.draw_person(seed, split, person)
    rng = np.random.default_rng([seed, SPLITS.index(split), person, 1])
    expression, pose = studio.draw_expression(rng), studio.draw_angles(rng)
    scene = studio.draw_scene(studio.dress(identity, looks), expression, pose, deepcopy(rng))
    styling = {name: value for name, value in looks.items() if name not in ALBEDO}
    if np.array_equal(looks["collar"], looks["skin"]):
        del styling["collar"]  # a bare neck, of whatever skin
    return dict(
        expression=expression,
        identity=identity,
        albedo={name: looks[name] for name in ALBEDO},
        pose=pose,
        light={name: scene[name] for name in LIGHT},
        background=scene["background"],
        styling=styling,
        camera=rng,
    )


def photograph(studio, factors):
    """The picture of such `factors` and its labels, as of `studio.expose`."""
    looks = dict(collar=factors["albedo"]["skin"]) | factors["styling"] | factors["albedo"]
    person, rng = studio.dress(factors["identity"], looks), deepcopy(factors["camera"])
    recipe = studio.draw_scene(person, factors["expression"], factors["pose"], rng)
    return studio.expose(recipe | factors["light"] | dict(background=factors["background"]))


def counterfactuals(studio, seed, number, split="test"):
    """Pair `number`: name -> the picture and its labels, as of `studio.expose`.

    "original" and "another" are the first pictures of persons 2 `number` and 2 `number` + 1, who
    share nothing. Each of FACTORS is the original with that factor alone taken from the other.
    The crop follows the face, as in use: with another expression, shape or pose, scale and
    translation of the pose change a little. Light and background shift the brightness of the whole
    picture where the camera's exposure is automatic.
    """
    original, another = (draw_factors(studio, seed, split, 2 * number + k) for k in range(2))
    wanted = {name: original | {name: another[name]} for name in FACTORS}
    wanted = dict(original=original) | wanted | dict(another=another)
    return {name: photograph(studio, factors) for name, factors in wanted.items()}


def draw_pairs(model, n, size, seed, n_jobs=1, **studio):
    """`counterfactuals` of pairs 0 to n - 1: name -> dict of tensors, a row a pair.

    image uint8 (n, 3, S, S); identity (n, K); expression (n, L); pose (n, 9);
    landmarks (n, 68, 2) px. The number of processes changes nothing.

    model: MorphableModel    size: px    seed: one that no training has used
    studio: other settings of `studio.Studio`
    """
    draw = lambda studio, number: counterfactuals(studio, seed, number)
    pairs = _draw(draw, n, n_jobs, model, size, studio)
    return {name: stack([pair[name] for pair in pairs]) for name in pairs[0]}


# ---- samples, in this world or another -----------------------------------------------------------


def draw_sample(model, people, size, seed, n_jobs=1, shifts=(), split="test", pictures=2, **studio):
    """Photos of `people` with all that a probe may ask for: tensors, a row a photo.

    Those of `draw_pairs`; person (n,); units (n, J) in [0, 1], strengths of the model's named
    units; albedo (n, 3), linear colour of the skin; light (n, 4), strength and direction of the
    soft light: the first spherical harmonics of what sky and windows shed, mean of the colours.

    shifts: names out of SHIFTS    others: as for `draw_pairs`
    """
    shifts = tuple(shifts)
    draw = lambda studio, person: [
        _photograph(studio, seed, split, person, picture, shifts) for picture in range(pictures)
    ]
    rows = _draw(draw, people, n_jobs, model, size, studio)
    return stack([row for photos in rows for row in photos])


def _photograph(studio, seed, split, person, picture, shifts):
    place = [seed, SPLITS.index(split), person, picture]
    recipe = studio.recipe(seed, split, person, picture)
    recipe = shift_domain(recipe, shifts, np.random.default_rng([*place, 2]))
    # The first that `Studio.recipe` draws.
    first = np.random.default_rng([*place[:3], picture + 1])
    about = dict(
        person=np.int64(person),
        units=arkit.draw_units(studio.model.unit_names, first),
        albedo=np.float32(recipe["person"]["looks"]["skin"]),
        light=np.float32(recipe["harmonics"][:4].mean(-1)),
    )
    return studio.expose(recipe) | about


def _draw(draw, n, n_jobs, model, size, settings):
    """draw(studio, number) of numbers 0 to n - 1, by processes with a studio each."""
    blocks = np.array_split(np.arange(n), min(n, joblib.effective_n_jobs(n_jobs)))
    tasks = (joblib.delayed(_draw_block)(draw, block, model, size, settings) for block in blocks)
    return [found for block in joblib.Parallel(n_jobs)(tasks) for found in block]


def _draw_block(draw, numbers, model, size, settings):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads round otherwise
    studio = Studio(model, size, **settings)
    found = [draw(studio, number) for number in numbers.tolist()]
    torch.set_num_threads(threads)
    return found


def stack(rows):
    stacked = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    return stacked | dict(image=stacked["image"].permute(0, 3, 1, 2))


def shift_domain(recipe, shifts, rng):
    """`recipe` (of `Studio.recipe`) as no training draws it; shape, expression and pose stay.

    shifts: names out of SHIFTS
    """
    for name in shifts:
        recipe = recipe | SHIFTS[name](recipe, rng)
    return recipe


def _light_from_below(recipe, rng):
    """One hard lamp of one strong colour from far below: training has none from there."""
    harmonics, lamps = np.zeros_like(recipe["harmonics"]), np.zeros_like(recipe["lamps"])
    harmonics[0] = 0.01
    direction = np.array([0.6 * rng.uniform(-1, 1), -1.0, 0.4])
    direction /= np.linalg.norm(direction)
    colour, sharpness, highlights = rng.permutation([1.6, 0.4, 0.1]), 120.0, 10.0
    lamps[0] = [*direction, *colour, sharpness, highlights]
    return dict(harmonics=harmonics, lamps=lamps, shade=1.0)


def _bad_camera(recipe, rng):
    """No colour; noise, its grain, tone and JPEG are worse than `scenes.draw_camera` draws."""
    blur = np.full(2, recipe["shot"]["blur"].mean())  # of a pixel, which grows with the picture
    bad = dict(noise=0.08, coarse=3, gamma=1.3, contrast=1.9, saturation=0.0, quality=10)
    return dict(shot=recipe["shot"] | bad | dict(blur=blur))


def _clay(recipe, rng):
    """A grey bust with no texture, brows or eye colour; all people of training have them."""
    grey, looks = np.full(3, rng.uniform(0.2, 0.5), np.float32), recipe["person"]["looks"]
    bare = {name: 0 * looks[name] for name in TEXTURE}
    paint = dict(skin=grey, white=grey, iris=0.8 * grey, lips=grey)
    return dict(person=recipe["person"] | dict(looks=looks | bare | paint))


SHIFTS = dict(light=_light_from_below, camera=_bad_camera, clay=_clay)


@torch.no_grad()
def identity_bias(network, model, images, identity=None, batch_size=64):
    """How far off, in mm, the AVERAGE person is that `network` sees in `images`.

    The average of the predicted neutral shapes, less that of the true ones, as root mean square
    over the vertices of the model's region. Errors that differ from person to person average out;
    a look of the pictures that is read as a person stays.

    network: network.E2FAR    model: MorphableModel    images: (n, 3, S, S) uint8, S of the network
    identity: (n, K), whose pictures they are; None: unknown people, taken for average ones
    """
    read = [network(to_float(batch))["identity"] for batch in images.split(batch_size)]
    offset = torch.cat(read).mean(0) - (0.0 if identity is None else identity.mean(0))
    moved = (model.neutral(offset[None]) - model.mean)[0, model.region]
    return moved.square().sum(-1).mean().sqrt().item()
