"""Counterfactual pairs: a synthetic picture, and the same picture with one factor changed and all others kept.

How far a feature moves with a factor, against its distance between two unrelated pictures, says what that feature is about.
"""

from copy import deepcopy

import joblib
import numpy as np
import torch

from e2far.facemodels import arkit
from e2far.synthesis.studio import SPLITS, Studio

# Styling is all of the looks that is not paint on the face: hair, beard, glasses, clothes.
# Camera is all the rest: distance, crop, the body's turn, things in the way, exposure, noise, storage.
FACTORS = ("expression", "identity", "albedo", "pose", "light", "background", "styling", "camera")
# Choice: what the texture of a morphable model holds, and the brows with it: colours and patterns of skin, lips, eyes, lashes, make-up, and what makes them shine.
ALBEDO = (
    "tone",
    "skin",
    "blotches",
    "pores",
    "freckles",
    "redness",
    "under_eye",
    "age_lines",
    "wrinkles",
    "gloss",
    "lips",
    "lips_strength",
    "lip_gloss",
    "shadow",
    "shadow_strength",
    "lash",
    "brow",
    "brow_strength",
    "brow_width",
    "iris",
    "white",
    "iris_radius",
    "pupil_radius",
    "lid_shadow",
)
LIGHT = ("harmonics", "lamps", "shade")


def draw_factors(studio, seed, split, person):
    """Factor -> its numbers, of the first picture of `person`: `photograph` makes of them what `studio.photograph(seed, split, person, 0)` makes."""
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
    """The picture of such `factors` and its labels, as of `studio.expose`; `factors` stay as they are."""
    looks = dict(collar=factors["albedo"]["skin"]) | factors["styling"] | factors["albedo"]
    recipe = studio.draw_scene(
        studio.dress(factors["identity"], looks),
        factors["expression"],
        factors["pose"],
        deepcopy(factors["camera"]),
    )
    return studio.expose(recipe | factors["light"] | dict(background=factors["background"]))


def counterfactuals(studio, seed, number, split="test"):
    """Pair `number`: name -> dict of image uint8 (S, S, 3), identity (K,), expression (L,), pose (9,), landmarks (68, 2) px.

    Names: "original" and "another", the first pictures of persons 2 `number` and 2 `number` + 1, who share nothing; and each of FACTORS, the original with that factor alone taken from the other picture.
    The crop follows the face, as it does in use: another expression, shape or pose frames the face anew (so that scale and translation of the pose change a little).
    Light and background shift the brightness of the whole picture where the camera's exposure is automatic.
    """
    original, another = (draw_factors(studio, seed, split, 2 * number + k) for k in range(2))
    wanted = dict(
        original=original,
        **{name: original | {name: another[name]} for name in FACTORS},
        another=another,
    )
    return {name: photograph(studio, factors) for name, factors in wanted.items()}


def draw_pairs(model, n, size, seed, n_jobs=1, **studio):
    """`counterfactuals` of pairs 0 to n - 1, stacked: name -> dict of tensors image uint8 (n, S, S, 3), identity (n, K), expression (n, L), pose (n, 9), landmarks (n, 68, 2) px.

    model: MorphableModel    size: px    seed: of the people, one that no training has used    n_jobs: processes, which change nothing of the result    studio: other settings of `studio.Studio`
    """
    blocks = np.array_split(np.arange(n), min(n, joblib.effective_n_jobs(n_jobs)))
    pairs = [
        pair
        for block in joblib.Parallel(n_jobs)(
            joblib.delayed(_draw_block)(model, size, studio, seed, block.tolist())
            for block in blocks
        )
        for pair in block
    ]
    return {
        name: {
            label: torch.from_numpy(np.stack([pair[name][label] for pair in pairs]))
            for label in row
        }
        for name, row in pairs[0].items()
    }


SHIFTS = ("light", "camera", "clay")
BARE = (
    "blotches",
    "pores",
    "freckles",
    "redness",
    "under_eye",
    "age_lines",
    "wrinkles",
    "lips_strength",
    "shadow_strength",
    "lash",
    "brow_strength",
    "beard",
    "stubble",
    "beard_length",
)


def elsewhere(recipe, shifts, rng):
    """`recipe` (of `Studio.recipe`) as no training draws it, `shifts` out of SHIFTS.

    For tests outside the training's domain; shape, expression and pose stay as they are.

    light: one hard lamp of one strong colour from far below and nothing else. Training has hard
        and coloured lamps, but from there, alone and so coloured it has none.
    camera: no colour, and noise, size of its grain, tone curve and JPEG quality each beyond the
        worst that `scenes.draw_camera` draws.
    clay: a grey bust with no texture, brows or eye colour; all people of training have them.
    """
    if unknown := set(shifts) - set(SHIFTS):
        raise ValueError(
            f"no shift is called {', '.join(sorted(unknown))}: choose from {', '.join(SHIFTS)}"
        )
    if "light" in shifts:
        harmonics, lamps = np.zeros_like(recipe["harmonics"]), np.zeros_like(recipe["lamps"])
        harmonics[0] = 0.01
        direction = np.array([0.6 * rng.uniform(-1, 1), -1.0, 0.4])
        direction /= np.linalg.norm(direction)
        lamps[0] = [*direction, *rng.permutation([1.6, 0.4, 0.1]), 120.0, 10.0]
        recipe = recipe | dict(harmonics=harmonics, lamps=lamps, shade=1.0)
    if "camera" in shifts:
        blur = np.full(2, recipe["shot"]["blur"].mean())  # of a pixel, which grows with the picture
        bad = dict(
            noise=0.08, coarse=3, gamma=1.3, contrast=1.9, saturation=0.0, quality=10, blur=blur
        )
        recipe = recipe | dict(shot=recipe["shot"] | bad)
    if "clay" in shifts:
        grey, looks = np.full(3, rng.uniform(0.2, 0.5), np.float32), recipe["person"]["looks"]
        clay = {name: 0 * looks[name] for name in BARE}
        clay |= dict(skin=grey, white=grey, iris=0.8 * grey, lips=grey)
        recipe = recipe | dict(person=recipe["person"] | dict(looks=looks | clay))
    return recipe


@torch.no_grad()
def identity_shift(network, model, images, identity=None, batch_size=64):
    """How far off, in mm, the AVERAGE person is that `network` sees in `images`: 0 if none is preferred.

    The average of the predicted neutral shapes, less that of the true ones, as root mean square
    over the vertices of the model's region. Errors that differ from person to person average out;
    a look of the pictures that is read as a person stays.

    network: network.E2FAR    model: MorphableModel    images: (n, 3, S, S) uint8, S of the network
    identity: (n, K), whose pictures they are; None: unknown people, taken for average ones
    """
    read = torch.cat(
        [network(batch.float() / 255)["identity"] for batch in images.split(batch_size)]
    )
    offset = read.mean(0) - (0.0 if identity is None else identity.mean(0))
    moved = (model.neutral(offset[None]) - model.mean)[0, model.region]
    return moved.square().sum(-1).mean().sqrt().item()


def draw_sample(model, people, size, seed, pictures=2, n_jobs=1, shifts=(), **studio):
    """`pictures` photos of each of `people` with all that a probe may ask for, as tensors with a row a photo, person by person:

    image uint8 (n, 3, S, S); identity (n, K); expression (n, L); pose (n, 9); landmarks (n, 68, 2) px; person (n,); units (n, J) in [0, 1], strengths of the model's named units; albedo (n, 3), linear colour of the skin;
    light (n, 4), strength and direction of the soft light: the first four spherical harmonics of what sky and windows shed, mean of the colours, lamps left out. shifts: of `elsewhere`. Others as for `draw_pairs`.
    """
    blocks = np.array_split(np.arange(people), min(people, joblib.effective_n_jobs(n_jobs)))
    rows = [
        row
        for block in joblib.Parallel(n_jobs)(
            joblib.delayed(_sample_block)(
                model, size, studio, seed, block.tolist(), pictures, shifts
            )
            for block in blocks
        )
        for row in block
    ]
    sample = {name: torch.from_numpy(np.stack([row[name] for row in rows])) for name in rows[0]}
    return sample | dict(image=sample["image"].permute(0, 3, 1, 2))


def _sample_block(model, size, settings, seed, people, pictures, shifts):
    threads, split = torch.get_num_threads(), "test"
    torch.set_num_threads(1)
    studio, rows = Studio(model, size, **settings), []
    for person, picture in ((person, picture) for person in people for picture in range(pictures)):
        recipe = elsewhere(
            studio.recipe(seed, split, person, picture),
            shifts,
            np.random.default_rng([seed, SPLITS.index(split), person, picture, 2]),
        )
        units = arkit.draw_units(
            model.unit_names,
            np.random.default_rng([seed, SPLITS.index(split), person, picture + 1]),
        )  # the first that `Studio.recipe` draws
        rows.append(
            studio.expose(recipe)
            | dict(
                person=np.int64(person),
                units=units,
                albedo=np.float32(recipe["person"]["looks"]["skin"]),
                light=np.float32(recipe["harmonics"][:4].mean(-1)),
            )
        )
    torch.set_num_threads(threads)
    return rows


def _draw_block(model, size, settings, seed, numbers):
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums over threads round otherwise
    studio = Studio(model, size, **settings)
    pairs = [counterfactuals(studio, seed, number) for number in numbers]
    torch.set_num_threads(threads)
    return pairs
