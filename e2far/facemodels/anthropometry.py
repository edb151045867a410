"""Are our random people shaped like people? Face measures between landmarks, as callipers take them, beside those of 3,997 adults.

Our shapes are aligned by similarity, so they hold no absolute size: their means are compared in mm, their spread as indices (ratios of two measures of one face), which size does not touch.
"""

import torch

# Source: NIOSH head-and-face survey of US respirator users, 2003, callipers, 2,543 men and 1,454 women (Zhuang & Bradtmiller, J Occup Environ Hyg 2 (2005) 567-576; data: CDC RD-10130-2020-0,
# public domain). Means and standard deviations by sex, and by sex and the survey's groups; mm, indices without unit. "Other" are mainly Asian Americans (NIOSHTIC-2 20027338). Minorities
# were sought out and nothing is reweighted here, so the figures differ a little from the article's and are no estimate for the US. Read in a summary of that data
# (github.com/EricSpencer00/faciometry, niosh2003.json), with which 179 rows of the data itself agree.
# Choice: nose protrusion, and the correlations (.19 and -.14) behind the spread of facial and nasal index, are of these 179 people alone.
NORMS = {
    "interpupillary distance": dict(male=(65.07, 3.80), female=(63.14, 3.98)),
    "face height": dict(male=(123.19, 7.16), female=(114.23, 6.47)),
    "face breadth": dict(male=(143.90, 6.86), female=(136.24, 6.53)),
    "lower face breadth": dict(male=(120.70, 10.70), female=(111.64, 9.27)),
    "nose height": dict(male=(51.88, 4.12), female=(47.68, 3.81)),
    "nose breadth": dict(male=(37.81, 4.80), female=(35.82, 4.92)),
    "nose protrusion": dict(male=(20.8, 2.3), female=(19.1, 2.7)),
    "mouth breadth": dict(male=(51.65, 4.27), female=(49.15, 4.47)),
    "facial index": dict(male=(0.856, 0.058), female=(0.838, 0.056)),
    "jaw index": dict(male=(0.838, 0.057), female=(0.819, 0.051)),
    "nasal index": dict(male=(0.729, 0.116), female=(0.751, 0.126)),
    "nose-mouth index": dict(male=(0.733, 0.081), female=(0.729, 0.082)),
}
GROUP_NORMS = {  # (sex, group) -> mean and standard deviation
    "interpupillary distance": {
        ("male", "Black"): (67.70, 3.64),
        ("male", "White"): (64.00, 3.40),
        ("male", "Other"): (64.89, 3.85),
        ("female", "Black"): (65.51, 3.77),
        ("female", "White"): (61.17, 3.14),
        ("female", "Other"): (61.99, 3.40),
    },
    "face height": {
        ("male", "Black"): (125.40, 7.34),
        ("male", "White"): (122.57, 6.92),
        ("male", "Other"): (120.76, 7.30),
        ("female", "Black"): (116.54, 6.37),
        ("female", "White"): (112.98, 5.78),
        ("female", "Other"): (110.82, 6.12),
    },
    "face breadth": {
        ("male", "Black"): (144.63, 6.77),
        ("male", "White"): (142.92, 6.70),
        ("male", "Other"): (144.69, 7.14),
        ("female", "Black"): (137.54, 6.24),
        ("female", "White"): (133.75, 6.17),
        ("female", "Other"): (137.83, 6.43),
    },
    "nose height": {
        ("male", "Black"): (50.78, 4.13),
        ("male", "White"): (52.31, 4.05),
        ("male", "Other"): (51.28, 4.36),
        ("female", "Black"): (47.37, 3.69),
        ("female", "White"): (48.56, 3.68),
        ("female", "Other"): (46.18, 3.69),
    },
    "nose breadth": {
        ("male", "Black"): (43.41, 3.87),
        ("male", "White"): (35.31, 3.18),
        ("male", "Other"): (38.28, 4.14),
        ("female", "Black"): (40.10, 3.48),
        ("female", "White"): (31.56, 2.60),
        ("female", "Other"): (34.99, 3.53),
    },
    "mouth breadth": {
        ("male", "Black"): (54.35, 3.91),
        ("male", "White"): (50.66, 3.99),
        ("male", "Other"): (50.56, 4.48),
        ("female", "Black"): (51.90, 3.88),
        ("female", "White"): (47.06, 3.53),
        ("female", "Other"): (46.79, 4.20),
    },
}
PAIRS = {
    "face height": (27, 8),
    "lower face breadth": (4, 12),
    "nose height": (27, 33),
    "nose protrusion": (33, 30),
    "mouth breadth": (48, 54),
    "inner canthal distance": (39, 42),
    "outer canthal distance": (36, 45),
}  # iBUG landmarks; a jaw line has no corner, so the gonia are rough
INDICES = {
    "facial index": ("face height", "face breadth"),
    "jaw index": ("lower face breadth", "face breadth"),
    "nasal index": ("nose breadth", "nose height"),
    "nose-mouth index": ("nose breadth", "mouth breadth"),
}


def population(measure):
    """Mean and standard deviation of as many women as men: `NORMS`' two distributions mixed."""
    (a, s), (b, t) = NORMS[measure].values()
    return (a + b) / 2, ((s * s + t * t) / 2 + (a - b) ** 2 / 4) ** 0.5


def alare(model):
    """The widest vertices of the nose's wings, right and left: near the nostril's landmark, the one whose normal points most to the side."""
    points, corner = model.mean[model.landmarks], model.mean[model.triangles]
    across = torch.linalg.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normals = torch.zeros_like(model.mean).index_add_(
        0, model.triangles.flatten(), across.repeat_interleave(3, 0)
    )
    sideways = normals[model.region, 0] / normals[model.region].norm(dim=1).clamp_min(1e-9)
    reach = 0.7 * (points[31] - points[35]).norm()
    face = model.mean[model.region]
    wings = []
    for k, sign in (
        (31, -1),
        (35, 1),
    ):  # outwards of the landmark, since walls of nostrils face sideways too
        near = ((face - points[k]).norm(dim=1) < reach) & (sign * (face - points[k])[:, 0] > 0)
        wings.append(torch.where(near, sign * sideways, -2.0))
    return [int(model.region[wing.argmax()]) for wing in wings]


def cheeks(model):
    """Vertices (C,) of the face between the height of the outer eye corners and that of the nose's base, in front of the ears: where callipers find its greatest breadth, zygion to zygion."""
    points, (_, y, z) = model.mean[model.landmarks], model.mean[model.region].T
    found = model.region[
        (y > points[33, 1]) & (y < points[[36, 45], 1].mean()) & (z > points[[1, 15], 2].mean())
    ]
    if not len(found):
        raise ValueError(
            "no vertex of the face's region lies between eyes and nose in front of landmarks 1 and 15: check the model's landmarks"
        )
    return found


def measure(shapes, model):
    """Measures of `shapes` (B, N, 3) mm of a MorphableModel, name -> (B,): mm, and the `INDICES`. The head must face z, as the model's shapes do.

    Interpupillary distance is between the middles of the eyeballs (attribute `eye`) or, without them, between the middles of the eye corners.
    """
    points = shapes[:, model.landmarks]
    if "eye" in model.attributes:
        ball, x = model.attributes["eye"] > 0.5, model.mean[:, 0]
        pupils = [shapes[:, ball & (side * x > 0)].mean(1) for side in (-1, 1)]
    else:
        pupils = [points[:, [36, 39]].mean(1), points[:, [42, 45]].mean(1)]
    wing, breadth = alare(model), shapes[:, cheeks(model), 0]
    found = {
        "interpupillary distance": (pupils[1] - pupils[0]).norm(dim=1),
        "face breadth": breadth.amax(1) - breadth.amin(1),
        "nose breadth": (shapes[:, wing[1]] - shapes[:, wing[0]]).norm(dim=1),
    }
    found |= {name: (points[:, a] - points[:, b]).norm(dim=1) for name, (a, b) in PAIRS.items()}
    return found | {name: found[a] / found[b] for name, (a, b) in INDICES.items()}


def compare(found):
    """Rows (dicts) of measure, mean, sd, norm_mean, norm_sd and spread_ratio: `found` of `measure`, or a part of it, beside as many women as men; the ratio is of coefficients of variation."""
    rows = []
    for name in (n for n in NORMS if n in found):
        (norm_mean, norm_sd), mean, sd = (
            population(name),
            float(found[name].mean()),
            float(found[name].std()),
        )
        rows.append(
            dict(
                measure=name,
                mean=mean,
                sd=sd,
                norm_mean=norm_mean,
                norm_sd=norm_sd,
                spread_ratio=(sd / mean) / (norm_sd / norm_mean),
            )
        )
    return rows
