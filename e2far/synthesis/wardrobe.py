"""What a head wears: hair, brows, glasses and clothes, as small meshes that follow its vertices.

Hair follows vertices of the scalp, brows are bound to triangles of the skin, glasses follow the
eyes' corners; so what is worn moves with identity and expression.
"""

import numpy as np
from scipy.ndimage import gaussian_filter
from scipy.spatial import cKDTree

COLUMNS, ROWS = 36, 14  # of a hair shell
POLAR = np.deg2rad(np.arange(0, 131, 2.5))
RADIUS_MM = 95.0  # of a cranium, to turn lengths of hair into angles
HANG = np.deg2rad(92.0)  # from here hair falls straight down
AROUND, RINGS = 24, 6  # of clothes
RIM = 18  # vertices around one edge of a rim of glasses
BROW_STEPS, BROW_HALF_MM = 10, 4.5


def grid_triangles(rows, columns, closed=False):
    """Triangles (F, 3) of a grid of vertices, row by row; `closed` joins last and first column."""
    r, c = np.mgrid[: rows - 1, : columns if closed else columns - 1]
    a, b = r * columns + c, r * columns + (c + 1) % columns
    upper, lower = (a, a + columns, b), (b, a + columns, b + columns)
    return np.concatenate([np.stack(half, -1).reshape(-1, 3) for half in (upper, lower)])


def glasses_triangles():
    """Triangles (F, 3) of two rims, two lenses, a bridge and two temples."""
    k, faces, start = np.arange(RIM), [], 0
    after = (k + 1) % RIM
    for _ in range(2):
        for corners in ((k, after, k + RIM), (after, after + RIM, k + RIM)):
            faces.append(np.stack(corners, 1) + start)
        start += 2 * RIM
    for _ in range(2):
        faces.append(np.stack((k, after, np.full(RIM, RIM)), 1) + start)
        start += RIM + 1
    for strip in (2, 3, 3):
        faces.append(grid_triangles(2, strip) + start)
        start += 2 * strip
    return np.concatenate(faces)


class Wardrobe:
    """The static part of what heads of one face model can wear.

    mean: (N, 3) mm    landmarks: (68,)    triangles: (F, 3)
    attributes: name -> (N,); without `hairline` there is no hair

    count: of worn vertices    parts: name -> slice of them: hair, clothes, glasses, brows
    triangles: (G, 3) of them, numbered from 0; hair and glasses are seen from both sides
    surface: (G', 3) the same once each, for normals
    bind, share: (count, 3) the head's vertices that carry each worn one, and how much each does
    """

    def __init__(self, mean, landmarks, triangles, attributes):
        self.mean, self.points = mean, mean[landmarks]
        self.eyes = np.stack([self.points[36:42].mean(0), self.points[42:48].mean(0)])
        # The point (3,) mm about which the head turns on the shoulders.
        self.neck = np.array([0.0, self.points[8, 1] - 30, self.points[[0, 16], 2].mean() - 45])
        ribbon = grid_triangles(3, BROW_STEPS + 1)
        meshes = dict(
            hair=grid_triangles(ROWS, COLUMNS, closed=True),
            clothes=grid_triangles(RINGS, AROUND, closed=True),
            glasses=glasses_triangles(),
            brows=np.concatenate((ribbon, ribbon + 3 * (BROW_STEPS + 1))),
        )
        self.parts, self.count, insides = {}, 0, []
        for name, faces in meshes.items():
            start, self.count = self.count, self.count + faces.max() + 1
            self.parts[name] = slice(start, self.count)
            meshes[name] = faces + start
            if name in ("hair", "glasses"):
                insides.append(meshes[name][:, ::-1])
        self.surface = np.concatenate(list(meshes.values())).astype(np.int32)
        self.triangles = np.concatenate((self.surface, *insides)).astype(np.int32)
        self.bind = np.zeros((self.count, 3), np.int64)
        self.share = np.tile(np.float32([1, 0, 0]), (self.count, 1))
        self.has_hair = "hairline" in attributes and (attributes["hairline"] > 0).sum() > 30
        if self.has_hair:
            self._measure_scalp(attributes)
        self._bind_brows(triangles, attributes)
        places = slice(36, 42), slice(42, 48), [27], [0], [16]
        self.glasses_anchors = [landmarks[place] for place in places]

    def _measure_scalp(self, attributes):
        """Tables over (azimuth, polar angle) around the cranium's middle.

        The head's radius, its nearest vertex, and the polar angle of the hairline (COLUMNS,).
        """
        hairline, depth = attributes["hairline"], self.mean[:, 2]
        scalp = depth[hairline > 0]
        self.middle = np.array([0, self.eyes[:, 1].mean() + 10, (scalp.min() + scalp.max()) / 2])
        no_ear = attributes.get("ear", np.zeros(len(self.mean))) < 0.1
        above_chin = self.mean[:, 1] > self.points[8, 1]
        outer = np.flatnonzero(no_ear & (hairline > -90) & above_chin)
        offset = self.mean[outer] - self.middle
        radius = np.linalg.norm(offset, axis=1)
        # Azimuth is 0 in front and positive on the subject's left.
        self.azimuth = np.linspace(-np.pi, np.pi, COLUMNS, endpoint=False)
        directions = self._directions(self.azimuth[:, None], POLAR[None])
        _, near = cKDTree(offset / radius[:, None]).query(directions)
        self.scalp_vertex = outer[near]
        self.scalp_radius = gaussian_filter(radius[near], (0.7, 1.5), mode=("wrap", "nearest"))
        above = np.cumprod(hairline[self.scalp_vertex] > 0, axis=1).sum(1).clip(1)
        self.hem = gaussian_filter(POLAR[above - 1], 1.0, mode="wrap")

    def _directions(self, azimuth, polar):
        sine = np.sin(polar)
        x, y, z = np.sin(azimuth) * sine, np.cos(polar), np.cos(azimuth) * sine
        return np.stack(np.broadcast_arrays(x, y, z), -1)

    def hair(self, *, thickness, lift, recede, fringe, side, opening, parting, **ends):
        """Places (COLUMNS * ROWS, 3) mm of a hair shell on the mean head, row by row.

        Also the head vertices (...,) that they follow, and lengths (...,) in mm along the strands.

        thickness: mm    lift: how much thicker it is on top    recede, fringe: mm from the hairline
        side: mm it falls below the ears    opening: half-width of the face's window, rad
        parting: rad    waves: (COLUMNS,)    flare: mm outwards a mm of fall
        brim: mm that the last row stands out, in front alone where `peak` is not 0
        """
        waves = ends["waves"]
        reach = np.cos(np.clip((self.azimuth - parting) / 1.1, -np.pi / 2, np.pi / 2)) ** 0.7
        hem = np.minimum(self.hem, np.deg2rad(118.0)) - recede / RADIUS_MM
        end, fall = hem + fringe / RADIUS_MM * reach + waves * 0.06, 0
        if side > 0:  # aside is 0 in the face's window, 1 at the sides and the back
            aside = np.clip((abs(self.azimuth - 0.3 * parting) - opening) / 0.25, 0, 1)
            fall = aside * side * (1 + 0.15 * waves)
            end = end + aside * (HANG - end)
        arc = (end * RADIUS_MM + fall)[:, None] * np.linspace(0, 1, ROWS) ** 0.85
        end = end[:, None]
        polar, down = np.minimum(arc / RADIUS_MM, end), (arc - end * RADIUS_MM).clip(0)
        thin = np.clip((end - polar) / 0.25, 0.12, 1) + np.clip(down / 30, 0, 0.9)  # at its hem
        high, wavy = 1 + lift * np.cos(polar).clip(0), 1 + 0.18 * waves[:, None]
        thickness = thickness * np.minimum(thin, 1) * high * wavy + 2
        row = np.rint(polar / POLAR[1]).astype(int).clip(0, len(POLAR) - 1)
        column = np.arange(COLUMNS)[:, None]
        direction = self._directions(self.azimuth[:, None], polar)
        radius = self.scalp_radius[column, row] + thickness
        place = self._hang(self.middle + radius[..., None] * direction, direction, down, **ends)
        tables = place, self.scalp_vertex[column, row], arc
        return tuple(np.swapaxes(x, 0, 1).reshape(-1, *x.shape[2:]) for x in tables)

    def _hang(self, place, direction, down, *, waves, flare, brim, peak):
        """`place` (COLUMNS, ROWS, 3) let fall by `down` (COLUMNS, ROWS) mm; arguments of `hair`."""
        place[..., 1] -= down
        place[..., [0, 2]] += direction[..., [0, 2]] * (flare * down)[..., None]
        front = np.cos(self.azimuth.clip(-np.pi / 2, np.pi / 2)) if peak else np.ones(COLUMNS)
        outwards = self._directions(self.azimuth, np.pi / 2) - [0, 0.15, 0]
        place[:, -1] += outwards * (brim * front)[:, None]
        return place

    def clothes(self, width, slope, collar, depth):
        """Places (RINGS * AROUND, 3) mm of shoulders around the mean head's neck; arguments in mm.

        Rings from the collar to the chest; the first closes the hole around the neck.
        """
        neck = np.array([0.0, self.points[8, 1] - 22, self.points[[0, 16], 2].mean() - 38])
        turn = np.linspace(-np.pi, np.pi, AROUND, endpoint=False)
        height = np.array([-40, collar, -8, -28 - slope, -70 - slope, -190])[:, None]
        across = np.array([25, 60, 82, width, width + 14, width + 18])[:, None]
        deep = np.array([25, 56, 68, depth, depth + 10, depth + 16])[:, None]
        x, y, z = np.sin(turn) * across, height + 0 * turn, np.cos(turn) * deep
        return (neck + np.stack((x, y, z), -1)).reshape(-1, 3)

    def glasses(self, anchors, half_width, half_height, roundness, rim, drop, forward=15.0):
        """Places (G, 3) mm of glasses on `anchors` (5, 3) mm.

        anchors: middles of the eyes, nasion, the jaw's ends below the ears
        half_width, half_height: mm    roundness: exponent of the rim's superellipse, 2: an ellipse
        rim: its thickness, mm    drop: mm below the eyes' middle
        """
        turn = np.linspace(0, 2 * np.pi, RIM, endpoint=False)
        rounded = lambda x: np.sign(x) * abs(x) ** (2 / roundness)
        outline = np.stack((rounded(np.cos(turn)), rounded(np.sin(turn)), 0 * turn), 1)
        bend = lambda x: -0.0035 * x**2  # lenses bend round the face
        right, left = anchors[:2] + [0, -drop, forward]
        rims, lenses, temples = [], [], []
        up = np.array([0, rim / 2 + 0.6, 0])
        for centre, ear, side in ((right, anchors[3], -1), (left, anchors[4], 1)):
            edges = [outline * [half_width + w, half_height + w, 0] + centre for w in (0, rim)]
            for edge in edges:
                edge[:, 2] += bend(edge[:, 0]) - bend(centre[0])
            inner, outer = edges
            rims += [outer, inner]
            lenses += [inner, inner.mean(0, keepdims=True) + [0, 0, 0.5]]
            back = bend(centre[0] + side * half_width) - bend(centre[0])
            hinge = centre + [side * (half_width + rim), half_height * 0.3, back]
            outside = ear[0] + side * 7.0  # temples pass outside the head
            knee = np.array([outside, hinge[1], hinge[2] - 28])
            temple = [hinge, knee, ear + np.array([side * 7.0, 12.0, -38.0])]
            temples += [point + lift * 1.2 for lift in (up, -up) for point in temple]
        ends = ((right + [half_width, 0, 0], -1), (left - [half_width, 0, 0], 1))
        bridge = [end + lift + [inwards, 4, 0] for lift in (up, -up) for end, inwards in ends]
        return np.concatenate((*rims, *lenses, bridge, temples))

    def on_skin(self, values):
        """`values` (N, 3) of the head, at the vertices of its brows (M, 3)."""
        brows = self.parts["brows"]
        return np.einsum("bk,bkd->bd", self.share[brows], values[self.bind[brows]])

    def brows(self, vertices, width):
        """Places (M, 3) mm of brows of relative `width` on a head of `vertices` (N, 3)."""
        ribbon = self.on_skin(vertices).reshape(2, 3, -1, 3)
        middle = ribbon[:, 1:2]
        return (middle + width * (ribbon - middle)).reshape(-1, 3)

    def _bind_brows(self, triangles, attributes):
        """Lay two ribbons on the mean's skin; bind their vertices to the triangles under them."""
        zero = np.zeros(len(self.mean))
        other = [attributes.get(k, zero) for k in ("eye", "teeth", "tongue", "mouth")]
        skin = 1 - np.max(other, axis=0)
        near = np.linalg.norm(self.mean[triangles].mean(1) - self.eyes.mean(0), axis=1) < 110
        faces = triangles[(skin[triangles] > 0.5).all(1) & near]
        a, b = (index.ravel() for index in np.mgrid[:7, :7])
        corners = np.stack((a, b, 6 - a - b), 1)[a + b <= 6] / 6.0
        samples = np.einsum("sk,fkd->fsd", corners, self.mean[faces]).reshape(-1, 3)
        steps, ribbons = np.linspace(0, 4, BROW_STEPS + 1), []
        half = BROW_HALF_MM * np.interp(steps, [0, 1.2, 3.4, 4], [0.25, 0.75, 1, 0.7])
        across = np.array([0, 1, -0.15]) * half[:, None]
        # Both run from the temple inwards.
        for line, rows in ((range(17, 22), (1, 0, -1)), (range(26, 21, -1), (-1, 0, 1))):
            curve = self.points[list(line)] - [0, 2.5, 0]
            middle = np.stack([np.interp(steps, range(5), column) for column in curve.T], 1)
            ribbons += [middle + across * row for row in rows]
        _, found = cKDTree(samples).query(np.concatenate(ribbons))
        face, corner = np.divmod(found, len(corners))
        part = self.parts["brows"]
        self.bind[part], self.share[part] = faces[face], corners[corner]
