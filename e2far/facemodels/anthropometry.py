"""Are our random people shaped like people? Measures of faces, beside those of 3,997 adults.

Our shapes hold no absolute size: their means are compared in mm, their spread as indices (ratios of
two measures of one face), which size does not touch.

Source of niosh2003.csv: NIOSH head-and-face survey of US respirator users, 2003, callipers, 2,543
men and 1,454 women (Zhuang & Bradtmiller, J Occup Environ Hyg 2 (2005) 567-576; data: CDC
RD-10130-2020-0, public domain), read in a summary of it (github.com/EricSpencer00/faciometry,
niosh2003.json), with which 179 rows of the data itself agree. Lengths in mm, indices without unit.
"Other" are mainly Asian Americans (NIOSHTIC-2 20027338). Minorities were sought out and nothing is
reweighted here: figures are no estimate for the US.
# Choice: nose protrusion, and the correlations (.19 and -.14) behind the spread of facial and nasal
# index, are of these 179 people alone.
"""

import csv
from pathlib import Path

import torch

from e2far.raster import vertex_normals

PAIRS = {  # iBUG landmarks; a jaw line has no corner, so the gonia are rough
    "face height": (27, 8),
    "lower face breadth": (4, 12),
    "nose height": (27, 33),
    "nose protrusion": (33, 30),
    "mouth breadth": (48, 54),
    "inner canthal distance": (39, 42),
    "outer canthal distance": (36, 45),
}
INDICES = {
    "facial index": ("face height", "face breadth"),
    "jaw index": ("lower face breadth", "face breadth"),
    "nasal index": ("nose breadth", "nose height"),
    "nose-mouth index": ("nose breadth", "mouth breadth"),
}
# Mean and standard deviation: measure -> sex -> both, and measure -> (sex, group) -> both.
NORMS, GROUP_NORMS = {}, {}
with open(Path(__file__).with_name("niosh2003.csv"), newline="") as file:
    for name, sex, group, *norm in list(csv.reader(file))[1:]:
        table, key = (NORMS, sex) if group == "all" else (GROUP_NORMS, (sex, group))
        table.setdefault(name, {})[key] = tuple(map(float, norm))


def population(measure):
    """Mean and standard deviation of as many women as men: `NORMS`' two distributions mixed."""
    (a, s), (b, t) = NORMS[measure].values()
    return (a + b) / 2, ((s * s + t * t) / 2 + (a - b) ** 2 / 4) ** 0.5


def alare(model):
    """The widest vertices of the nose's wings, right and left.

    Of those near the nostril's landmark, the one whose normal points most to the side.
    """
    triangles = model.triangles.numpy().astype("int32")
    normals = torch.from_numpy(vertex_normals(model.mean.numpy(), triangles))
    points, sideways = model.mean[model.landmarks], normals[model.region, 0]
    reach = 0.7 * (points[31] - points[35]).norm()
    wings = []
    for landmark, side in ((31, -1), (35, 1)):
        offset = model.mean[model.region] - points[landmark]
        # outside of it, since walls of nostrils face sideways too
        near = (offset.norm(dim=1) < reach) & (side * offset[:, 0] > 0)
        wings.append(int(model.region[torch.where(near, side * sideways, -2.0).argmax()]))
    return wings


def cheeks(model):
    """Vertices (C,) among which callipers find a face's greatest breadth, zygion to zygion.

    They lie between the heights of the outer eye corners and the nose's base, before the ears.
    """
    points, (_, y, z) = model.mean[model.landmarks], model.mean[model.region].T
    low, high = points[33, 1], points[[36, 45], 1].mean()
    return model.region[(y > low) & (y < high) & (z > points[[1, 15], 2].mean())]


def measure(shapes, model):
    """Measures, name -> (B,) mm, and the `INDICES`, of `shapes` (B, N, 3) mm that face z.

    Interpupillary distance is between the middles of the eyeballs, the attribute `eye`.
    """
    points, eye = shapes[:, model.landmarks], model.attributes["eye"] > 0.5
    right, left = (shapes[:, eye & (side * model.mean[:, 0] > 0)].mean(1) for side in (-1, 1))
    (right_wing, left_wing), breadth = alare(model), shapes[:, cheeks(model), 0]
    found = {
        "interpupillary distance": (left - right).norm(dim=1),
        "face breadth": breadth.amax(1) - breadth.amin(1),
        "nose breadth": (shapes[:, left_wing] - shapes[:, right_wing]).norm(dim=1),
    }
    found |= {name: (points[:, a] - points[:, b]).norm(dim=1) for name, (a, b) in PAIRS.items()}
    return found | {name: found[a] / found[b] for name, (a, b) in INDICES.items()}


def compare(found):
    """Rows (dicts) of measure, mean, sd, norm_mean, norm_sd, spread_ratio: `found` of `measure`.

    Norms are those of as many women as men; the ratio is of coefficients of variation.
    """
    rows = []
    for name in (n for n in NORMS if n in found):
        mean, sd = float(found[name].mean()), float(found[name].std())
        norm_mean, norm_sd = population(name)
        row = dict(measure=name, mean=mean, sd=sd, norm_mean=norm_mean, norm_sd=norm_sd)
        rows.append(row | dict(spread_ratio=(sd / mean) / (norm_sd / norm_mean)))
    return rows
