"""MakeHuman's head, cut from its body and given a nose, teeth and a neck that pictures can show."""

import gzip

import numpy as np
from PIL import Image
from scipy.spatial import cKDTree

from e2far.files import extra

with extra("study"):
    import igl
    import pandas as pd
    import yaml

MIRROR = np.array([-1.0, 1.0, 1.0])  # left for right
DECIMETRE = 100.0  # MakeHuman's unit in mm
# Choice: MakeHuman's upper teeth end 4 mm above the edge of the upper lip, so that no smile shows
# them; people's end a little below it.
UPPER_TEETH_DROP_MM = 5.0
# Choice: MakeHuman's mean nose stands out 16 mm from its base, people's 20 (anthropometry.NORMS).
# Strengths of its own targets that give 2,000 people this mean; they lift the ridge too, as
# annotated photos have it.
NOSE = {"nose-scale-depth-incr": 0.5, "nose-volume-incr": 0.5}
NOSTRILS = [392, 393, 395, 396, 398]  # bottom of the right one, a dent of 3 mm in base.obj
NOSTRIL_DEPTH_MM = 9.0  # Choice: added to it, so that it is dark as a real one
NOSTRIL_RINGS = (1.0, 0.85, 0.4)  # shares of it, of the bottom and of the rings of vertices around
TEETH_BEHIND = [15087, *range(15120, 15128), 15027, *range(15052, 15060)]  # right inner rows
TOOTH_EDGE = 0.14  # Choice: of a tooth's width, from the middle of a gap to the full white
NECK_ABOVE = 317  # the nose's base: what is cut lower is the neck
# Choice: by which the neck goes on where MakeHuman's head is cut
NECK_MM = np.array([0.0, -80.0, -20.0])


def read_groups(path):
    """The group's name of each face (F,) of a Wavefront file."""
    words = pd.Series(path.read_text().splitlines()).str.split(n=2, expand=True)
    return words[1].where(words[0] == "g").ffill()[words[0] == "f"].to_numpy(str)


class Head:
    """MakeHuman's head, cut from the whole body, and a reader of targets for its vertices.

    base: (N, 3) mm    triangles: (F, 3)    part: (N,) names    uv: (N, 2)
    opposite: (N,) vertices on the other side    index: numbers here of vertices of base.obj, or -1
    paint: nostril, gap, gum, each (N,) in [0, 1], what the renderer darkens and colours

    After the vertices of base.obj come `carried` (C, 2) ones, which move as the two that they lie
    between do, at `share` (C,) of the way.
    """

    def __init__(self, folder):
        self.folder = folder
        path = folder / "mpfb2/3dobjs/base.obj"
        vertices, textures, _, quads, corners, _ = map(np.ascontiguousarray, igl.readOBJ(str(path)))
        groups = read_groups(path)
        part = self._parts(textures[corners].mean(1), groups)
        quads, corners, part, groups = (x[part != ""] for x in (quads, corners, part, groups))
        self.vertex = np.unique(quads)  # of base.obj
        self.index = np.full(len(vertices), -1)
        self.index[self.vertex] = np.arange(len(self.vertex))
        quads = self.index[quads]
        self.base = vertices[self.vertex] * DECIMETRE
        self.base[np.unique(quads[groups == "helper-upper-teeth"]), 1] -= UPPER_TEETH_DROP_MM
        n = len(self.base)
        self.part = np.full(n, "", "U8")
        for name in ("mouth", "skin", "eye", "teeth", "tongue"):  # the rim of the mouth is skin
            self.part[quads[part == name].ravel()] = name
        self.uv = np.zeros((n, 2))
        self.uv[quads.ravel()] = textures[corners.ravel()]
        self.carried, self.share = np.zeros((0, 2), int), np.zeros(0)
        self._find_opposite()
        self._shape_nose(quads)
        self._part_teeth(quads)
        self._lengthen_neck(quads)
        self._find_opposite()

    def _parts(self, uv, groups):
        """Part names (F,) of quads with middles `uv` (F, 2) and groups (F,); "" for the body."""
        folder = self.folder / "segmentation"
        picture = Image.open(folder / "body_parts_segmentation.png").convert("RGB")
        key = yaml.safe_load((folder / "body_parts_segmentation.yaml").read_text())["colors"]
        colour = sample(np.asarray(picture), uv)
        part = np.full(len(groups), "", "U8")
        for name in ("eye", "teeth", "tongue"):  # helper-l-eye, helper-upper-teeth ...
            helper = np.char.startswith(groups, "helper-")
            part[helper & np.char.endswith(groups, f"-{name}")] = name
        for name, label in (("skin", "head"), ("mouth", "mouth_cavity")):
            part[(groups == "body") & (colour == key[label]).all(-1)] = name
        return part

    def _find_opposite(self):
        self.opposite = cKDTree(self.base).query(self.base * MIRROR)[1]  # exact: it is symmetric

    def _carry(self, pairs, share, offset=0.0):
        """Add vertices `share` (C,) of the way between `pairs` (C, 2), moved by `offset` mm."""
        self.carried = np.concatenate((self.carried, pairs))
        self.share = np.concatenate((self.share, share))
        self.base = np.concatenate((self.base, between(self.base, pairs, share) + offset))
        self.uv = np.concatenate((self.uv, between(self.uv, pairs, share)))
        self.part = np.concatenate((self.part, self.part[pairs[:, 0]]))
        self.paint = {key: np.pad(values, (0, len(pairs))) for key, values in self.paint.items()}

    def _shape_nose(self, quads):
        """Make the nose stand out as people's do, with nostrils; `nostril` is 1 at their bottom."""
        for name, strength in NOSE.items():
            path = self.folder / f"mpfb2/targets/nose/{name}.target.gz"
            self.base += strength * self.target(path)
        nostril, ring = np.zeros(len(self.base)), self.index[NOSTRILS]
        for share in NOSTRIL_RINGS:
            nostril[ring] = np.maximum(nostril[ring], share)
            ring = np.unique(quads[np.isin(quads, ring).any(1)])
        nostril = np.maximum(nostril, nostril[self.opposite])
        self.base = self.mirrored(self.base, 1)
        depth = NOSTRIL_DEPTH_MM * nostril
        self.base[:, 0] -= 0.1 * np.sign(self.base[:, 0]) * depth
        self.base[:, 1] += depth
        self.paint = dict(nostril=nostril)

    def _part_teeth(self, quads):
        """Cut each front tooth's quads in three, so that gaps and gums can be painted."""
        behind = self.index[TEETH_BEHIND]
        behind = np.concatenate((behind, self.opposite[behind]))
        front = self.base[quads, 2].min(1) > self.base[behind, 2].min() + 15
        teeth = (self.part[quads] == "teeth").all(1) & ~np.isin(quads, behind).any(1) & front
        y, new, parts = self.base[:, 1], {}, []  # new: (a, b) -> the vertex near a on the way to b
        for a, b, c, d in quads[teeth]:
            if abs(y[a] - y[b]) > abs(y[b] - y[c]):  # a to b should be along the arch
                a, b, c, d = b, c, d, a
            sides = (a, b), (b, a), (d, c), (c, d)
            p, q, r, s = (new.setdefault(side, len(self.base) + len(new)) for side in sides)
            parts += [(a, p, r, d), (p, q, s, r), (q, b, c, s)]
        self.triangles = halves(np.concatenate((quads[~teeth], parts)))
        self._carry(np.array(list(new)), np.full(len(new), TOOTH_EDGE))
        self._paint_teeth(np.array(list(new.values())))

    def _paint_teeth(self, white):
        """`gap`: darkness between teeth and towards the back of the mouth; `gum`: redness.

        By height from the edges where the arches meet, and whether a vertex is one of `white`.
        """
        teeth = np.flatnonzero(self.part == "teeth")
        gap, gum = np.zeros((2, len(self.base)))
        _, y, z = self.base[teeth].T
        upper = y > np.median(y)
        for side, up in ((upper, 1), (~upper, -1)):
            at, front = teeth[side], z[side] > z[side].max() - 35
            middle = (y[side][front].max() + y[side][front].min()) / 2
            height, whole = (self.base[at, 1] - middle) * up, np.isin(at, white)
            gum[at] = np.select([height > 4, height > -4], [1.0, np.where(whole, 0.3, 0.8)], 0.0)
            gap[at] = np.where(whole, 0.0, 0.6)
        gap[teeth] = 1 - (1 - gap[teeth]) * np.exp(-(((z.max() - z) / 24) ** 2))
        self.paint |= dict(gap=gap, gum=gum)

    def _lengthen_neck(self, quads):
        """Draw the edge at which the head is cut further down, so that no picture shows the cut."""
        sides = np.concatenate([quads[:, [i, (i + 1) % 4]] for i in range(4)])
        _, first, count = np.unique(np.sort(sides), axis=0, return_index=True, return_counts=True)
        low = self.base[:, 1] < self.base[self.index[NECK_ABOVE], 1]
        rim = sides[first[count == 1]]
        rim = rim[(low & (self.part == "skin"))[rim].all(1)]
        edge = np.unique(rim)
        below = len(self.base) + np.searchsorted(edge, rim)
        self._carry(np.stack((edge, edge), 1), np.zeros(len(edge)), NECK_MM)
        self.triangles = np.vstack((self.triangles, halves(np.hstack((rim[:, ::-1], below)))))

    def mirrored(self, field, sign):
        """The part of `field` (..., N, 3) that a reflection keeps (sign 1) or turns round (-1)."""
        reflected = field[..., self.opposite, :] * MIRROR.astype(field.dtype)
        return (field + sign * reflected) / 2  # exact, in any precision

    def target(self, path):
        """Displacement (N, 3) mm that a .target file gives the head's vertices."""
        with gzip.open(path, "rt") if path.suffix == ".gz" else open(path) as file:
            lines = [line.split() for line in file if line.strip() and line[0] != "#"]
        rows = np.array(lines, float).reshape(-1, 4)
        index = self.index[rows[:, 0].astype(int)]
        displacement = np.zeros((len(self.vertex), 3))
        displacement[index[index >= 0]] = rows[index >= 0, 1:] * DECIMETRE
        return np.concatenate((displacement, between(displacement, self.carried, self.share)))

    def mask(self, name):
        """Values (N,) in [0, 1] of one of MakeHuman's region pictures."""
        picture = Image.open(self.folder / "mpfb2/textures" / name).convert("L")
        return sample(np.asarray(picture), self.uv) / 255.0


def between(values, pairs, share):
    """Values at `share` (C,) of the way between those of `pairs` (C, 2)."""
    return (1 - share)[:, None] * values[pairs[:, 0]] + share[:, None] * values[pairs[:, 1]]


def halves(quads):
    """Two triangles of each quad: (2 F, 3) of (F, 4)."""
    return np.concatenate((quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]))


def sample(picture, uv):
    """Pixels of `picture` at texture coordinates `uv` (n, 2), nearest."""
    height, width = picture.shape[:2]
    row = ((1 - uv[:, 1]) * height).astype(int).clip(0, height - 1)
    return picture[row, (uv[:, 0] * width).astype(int).clip(0, width - 1)]
