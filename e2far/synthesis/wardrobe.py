"""What a head wears: hair, brows, glasses and clothes, as small meshes that follow the head's own vertices.

What is worn moves with identity and expression: hair follows vertices of the scalp, brows are bound to triangles of the skin, glasses follow the eyes' corners.
"""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

COLUMNS, ROWS = 36, 14  # of a hair shell
POLAR = np.deg2rad(np.arange(0, 131, 2.5))
RADIUS_MM = 95.0  # of a cranium, to turn lengths of hair into angles
BROW_STEPS, RIM, CLOTHES = 10, 18, (24, 6)
BROW_HALF_MM = 4.5
HANG = np.deg2rad(92.0)  # from here hair falls straight down


def grid_triangles(rows, columns, closed=False):
    """Triangles (F, 3) of a grid of vertices, row by row; `closed` joins the last column to the first."""
    r, c = np.mgrid[: rows - 1, : columns if closed else columns - 1]
    a, b = r * columns + c, r * columns + (c + 1) % columns
    return np.concatenate(
        (
            np.stack((a, a + columns, b), -1).reshape(-1, 3),
            np.stack((b, a + columns, b + columns), -1).reshape(-1, 3),
        )
    )


class Wardrobe:
    """The static part of what heads of one face model can wear.

    mean: (N, 3) mm    landmarks: (68,)    triangles: (F, 3)    attributes: name -> (N,); without `hairline` there is no hair
    triangles: (G, 3) of the worn vertices, numbered from 0: hair, clothes, glasses, brows; `parts` name -> slice of them
    surface: (G', 3) the same once each, for normals (hair and cloth are seen from both sides)
    """

    def __init__(self, mean, landmarks, triangles, attributes):
        self.mean, self.points = mean, mean[landmarks]
        self.eyes = np.stack([self.points[36:42].mean(0), self.points[42:48].mean(0)])
        self.parts, kinds, two_sided = {}, [], []
        start = 0
        for name, (count, faces, both) in dict(
            hair=(COLUMNS * ROWS, grid_triangles(ROWS, COLUMNS, closed=True), True),
            clothes=(
                CLOTHES[0] * CLOTHES[1],
                grid_triangles(CLOTHES[1], CLOTHES[0], closed=True),
                False,
            ),
            glasses=self._glasses_mesh(),
            brows=(6 * (BROW_STEPS + 1), self._brow_triangles(), False),
        ).items():
            self.parts[name] = slice(start, start + count)
            kinds.append(faces + start)
            two_sided += [(faces + start)[:, ::-1]] if both else []
            start += count
        self.count = start
        self.surface = np.concatenate(kinds).astype(np.int32)
        self.triangles = np.concatenate((*kinds, *two_sided)).astype(np.int32)
        self.bind = np.zeros((self.count, 3), np.int64)  # head vertices that carry each worn one
        self.share = np.zeros((self.count, 3), np.float32)  # and how much each of them does
        self.share[:, 0] = 1
        self.has_hair = "hairline" in attributes and (attributes["hairline"] > 0).sum() > 30
        if self.has_hair:
            self._measure_scalp(attributes)
        self._bind_brows(triangles, attributes)
        self._bind_glasses(landmarks)

    # Hair ---------------------------------------------------------------------------------------------------------------------------------------------

    def _measure_scalp(self, attributes):
        """Tables over (azimuth, polar angle) around the cranium's middle: the head's radius, its nearest vertex, and where the hairline runs."""
        hairline = attributes["hairline"]
        scalp = self.mean[hairline > 0]
        self.middle = np.array(
            [0.0, self.eyes[:, 1].mean() + 10, (scalp[:, 2].min() + scalp[:, 2].max()) / 2]
        )
        outer = np.flatnonzero(
            (attributes.get("ear", np.zeros(len(self.mean))) < 0.1)
            & (hairline > -90)
            & (self.mean[:, 1] > self.points[8, 1])
        )
        offset = self.mean[outer] - self.middle
        radius = np.linalg.norm(offset, axis=1)
        azimuth = np.linspace(
            -np.pi, np.pi, COLUMNS, endpoint=False
        )  # 0: the front; positive: the subject's left
        self.azimuth, self.direction = azimuth, self._directions(azimuth[:, None], POLAR[None])
        _, near = cKDTree(offset / radius[:, None]).query(self.direction)
        self.scalp_vertex = outer[near]
        self.scalp_radius = gaussian_filter(radius[near], (0.7, 1.5), mode=("wrap", "nearest"))
        above = np.cumprod(hairline[self.scalp_vertex] > 0, axis=1).sum(1).clip(1)
        self.hem = gaussian_filter(
            POLAR[above - 1], 1.0, mode="wrap"
        )  # polar angle of the hairline in each column

    def _directions(self, azimuth, polar):
        sine = np.sin(polar)
        return np.stack(
            np.broadcast_arrays(np.sin(azimuth) * sine, np.cos(polar), np.cos(azimuth) * sine), -1
        )

    def hair(self, style):
        """Places (COLUMNS * ROWS, 3) mm of a hair shell on the mean head, the head vertices (...,) they follow, and lengths (...,) in mm along the strands.

        style: dict of thickness (mm), lift (how much thicker on top), recede and fringe in mm from the hairline, side (mm it falls below the ears), opening
            (half-width of the face's window) and parting in radians, flare (mm outwards a mm of fall), brim (mm it stands out at its hem; in front alone where `peak`), waves (COLUMNS,)
        """
        azimuth, hem = self.azimuth, self.hem
        front = (
            np.cos(np.clip((azimuth - style["parting"]) / 1.1, -np.pi / 2, np.pi / 2)) ** 0.7
        )  # where a fringe can fall
        end = (
            np.minimum(hem, np.deg2rad(118.0))
            - style["recede"] / RADIUS_MM
            + style["fringe"] / RADIUS_MM * front
            + style["waves"] * 0.06
        )
        aside = np.clip(
            (abs(azimuth - 0.3 * style["parting"]) - style["opening"]) / 0.25, 0, 1
        )  # 0: the face's window, 1: sides and back
        fall = np.where(style["side"] > 0, aside * style["side"] * (1 + 0.15 * style["waves"]), 0)
        end = np.where(style["side"] > 0, end + aside * (HANG - end), end)
        arc = (end * RADIUS_MM + fall)[:, None] * np.linspace(0, 1, ROWS) ** 0.85
        polar = np.minimum(arc / RADIUS_MM, end[:, None])
        row = np.rint(polar / POLAR[1]).astype(int).clip(0, len(POLAR) - 1)
        column = np.arange(COLUMNS)[:, None]
        down = (arc - end[:, None] * RADIUS_MM).clip(0)
        direction = self._directions(azimuth[:, None], polar)
        taper = np.clip((end[:, None] - polar) / 0.25, 0.12, 1) + np.clip(
            down / 30, 0, 0.9
        )  # thin at the hairline
        thickness = (
            style["thickness"]
            * np.minimum(taper, 1)
            * (1 + style["lift"] * np.cos(polar).clip(0))
            * (1 + 0.18 * style["waves"][:, None])
            + 2
        )
        place = self.middle + (self.scalp_radius[column, row] + thickness)[..., None] * direction
        place[..., 1] -= down
        place[..., [0, 2]] += direction[..., [0, 2]] * (style["flare"] * down)[..., None]
        front = (
            np.cos(azimuth.clip(-np.pi / 2, np.pi / 2)) if style["peak"] else np.ones(COLUMNS)
        )  # a brim: the last row, outwards
        place[:, -1] += (self._directions(azimuth, np.pi / 2) - [0, 0.15, 0]) * (
            style["brim"] * front
        )[:, None]
        return tuple(
            np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:])
            for x in (place, self.scalp_vertex[column, row], arc)
        )  # row by row

    # Clothes ------------------------------------------------------------------------------------------------------------------------------------------

    def clothes(self, width, slope, collar, depth):
        """Places (24 * 6, 3) mm of shoulders around the mean head's neck: rings from the collar to the chest."""
        neck = np.array([0.0, self.points[8, 1] - 22, self.points[[0, 16], 2].mean() - 38])
        turn = np.linspace(-np.pi, np.pi, CLOTHES[0], endpoint=False)[None, :, None]
        height = np.array([-40, collar, -8, -28 - slope, -70 - slope, -190])[
            :, None
        ]  # the first ring closes the hole around the neck
        across = np.array([25, 60, 82, width, width + 14, width + 18])[:, None]
        deep = np.array([25, 56, 68, depth, depth + 10, depth + 16])[:, None]
        ring = np.concatenate(
            (np.sin(turn[..., 0]) * across, height + 0 * turn[..., 0], np.cos(turn[..., 0]) * deep),
            -1,
        ).reshape(CLOTHES[1], 3, CLOTHES[0])
        return (neck + ring.transpose(0, 2, 1)).reshape(-1, 3)

    @property
    def neck(self):
        """The point (3,) mm about which the head turns on the shoulders."""
        return np.array([0.0, self.points[8, 1] - 30, self.points[[0, 16], 2].mean() - 45])

    # Glasses ------------------------------------------------------------------------------------------------------------------------------------------

    def _glasses_mesh(self):
        """Number of vertices, triangles, and whether both sides are seen: two rims, two lenses, a bridge, two temples."""
        k, faces, start = np.arange(RIM), [], 0
        for _ in range(2):
            nxt = (k + 1) % RIM
            faces += [
                np.stack((k, nxt, k + RIM), 1) + start,
                np.stack((nxt, nxt + RIM, k + RIM), 1) + start,
            ]
            start += 2 * RIM
        for _ in range(2):
            faces.append(np.stack((k, (k + 1) % RIM, np.full(RIM, RIM)), 1) + start)
            start += RIM + 1
        for strip in (2, 3, 3):
            faces.append(grid_triangles(2, strip) + start)
            start += 2 * strip
        return start, np.concatenate(faces), True

    def _bind_glasses(self, landmarks):
        self.glasses_anchors = [
            list(landmarks[36:42]),
            list(landmarks[42:48]),
            [landmarks[27]],
            [landmarks[0]],
            [landmarks[16]],
        ]

    def glasses(self, anchors, half_width, half_height, roundness, rim, drop, forward=15.0):
        """Places (G, 3) mm of glasses on `anchors` (5, 3) mm: middles of the eyes, nasion, the jaw's ends below the ears.

        half_width, half_height: mm    roundness: exponent of the rim's superellipse, 2 is an ellipse    rim: its thickness    drop: below the eyes' middle
        """
        turn = np.linspace(0, 2 * np.pi, RIM, endpoint=False)
        c, s = np.cos(turn), np.sin(turn)
        outline = np.stack(
            (np.sign(c) * abs(c) ** (2 / roundness), np.sign(s) * abs(s) ** (2 / roundness)), 1
        )
        centres = anchors[:2] + [0, -drop, forward]
        curve = lambda x: -0.0035 * x**2  # lenses bend round the face
        rims, lenses = [], []
        for centre in centres:
            inner, outer = (
                np.concatenate((outline * [half_width + w, half_height + w], np.zeros((RIM, 1))), 1)
                + centre
                for w in (0, rim)
            )
            for ring in (inner, outer):
                ring[:, 2] += curve(ring[:, 0]) - curve(centre[0])
            rims += [outer, inner]
            lenses += [inner, inner.mean(0, keepdims=True) + [0, 0, 0.5]]
        right, left = centres + np.array([[half_width, 0, 0], [-half_width, 0, 0]])
        up = np.array([0, rim / 2 + 0.6, 0])
        bridge = [
            right + up + [-1, 4, 0],
            left + up + [1, 4, 0],
            right - up + [-1, 4, 0],
            left - up + [1, 4, 0],
        ]
        temples = []
        for side, centre, ear in ((-1, centres[0], anchors[3]), (1, centres[1], anchors[4])):
            hinge = centre + [
                side * (half_width + rim),
                half_height * 0.3,
                curve(centre[0] + side * half_width) - curve(centre[0]),
            ]
            tip = ear + np.array([side * 7.0, 12.0, -38.0])
            bend = np.array(
                [ear[0] + side * 7.0, hinge[1], hinge[2] - 28]
            )  # temples pass outside the head
            temples += [
                hinge + up * 1.2,
                bend + up * 1.2,
                tip + up * 1.2,
                hinge - up * 1.2,
                bend - up * 1.2,
                tip - up * 1.2,
            ]
        return np.concatenate((*rims, *lenses, np.array(bridge), np.array(temples)))

    # Brows --------------------------------------------------------------------------------------------------------------------------------------------

    def _brow_triangles(self):
        one = grid_triangles(3, BROW_STEPS + 1)
        return np.concatenate((one, one + 3 * (BROW_STEPS + 1)))

    def _bind_brows(self, triangles, attributes):
        """Lay two ribbons on the mean's skin and bind each of their vertices to the triangle under it."""
        skin = 1 - np.max(
            [
                attributes.get(k, np.zeros(len(self.mean)))
                for k in ("eye", "teeth", "tongue", "mouth")
            ],
            axis=0,
        )
        near = np.linalg.norm(self.mean[triangles].mean(1) - self.eyes.mean(0), axis=1) < 110
        faces = triangles[(skin[triangles] > 0.5).all(1) & near]
        a, b = np.mgrid[:7, :7]
        inside = (a + b) <= 6
        corners = np.stack((a[inside], b[inside], (6 - a - b)[inside]), 1) / 6.0
        samples = np.einsum("sk,fkd->fsd", corners, self.mean[faces]).reshape(-1, 3)
        tree = cKDTree(samples)
        ribbon = []
        for line, way in ((range(17, 22), 1), (range(26, 21, -1), -1)):  # from the temple inwards
            curve = self.points[list(line)] - [0, 2.5, 0]
            at = np.linspace(0, 4, BROW_STEPS + 1)
            middle = np.stack([np.interp(at, range(5), curve[:, d]) for d in range(3)], 1)
            half = BROW_HALF_MM * np.interp(at, [0, 1.2, 3.4, 4], [0.25, 0.75, 1, 0.7])
            rows = [
                middle + np.array([0, 1, -0.15]) * half[:, None] * t
                for t in ((1, 0, -1) if way > 0 else (-1, 0, 1))
            ]
            ribbon += rows
        _, found = tree.query(np.concatenate(ribbon))
        part = self.parts["brows"]
        self.bind[part], self.share[part] = (
            faces[found // len(corners)],
            corners[found % len(corners)],
        )
