"""A head's surface as all people share it: where things are, patterns, and its own shadows."""

import numpy as np
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from e2far import raster
from e2far.raster import smoothstep
from e2far.synthesis.colour import FIELDS

TEXTURE = 256  # side of the detail texture, texels
TEXEL_MM = 0.75
DIRECTIONS = 64  # from which the head's own shadows are known
NO_SKIN = ("eye", "teeth", "tongue", "mouth")
MOUTH, TEETH, TONGUE = (0.10, 0.025, 0.022), (0.80, 0.74, 0.61), (0.32, 0.10, 0.09)
GUM, NOSTRIL = (0.34, 0.12, 0.11), (0.035, 0.012, 0.01)
MARKS = ("cheek", "nose", "under_eye", "lines", "lid", "lash", "lips", "beard", "moustache", "chin")


def head_tables(mean, landmarks, triangles, attributes):
    """What a Painter must know of a head, name -> array, as the fields of `painter.Painter`.

    mean: (n, 3) mm, which carries patterns and shadows    landmarks: (68,)    triangles: (F, 3)
    attributes: name -> (n,)    marks: a dict of (n,); sky, shadows, wrap: of the head alone
    """
    maps = face_maps(mean, landmarks, attributes)
    inside = np.max([maps[k] for k in ("mouth", "teeth", "tongue")], axis=0)
    shadows, sky = head_shadows(mean, triangles, inside > 0.5)
    skin = (1 - np.max([maps[k] for k in NO_SKIN], axis=0)).clip(0)
    marks = {name: np.float32(maps[name]) for name in MARKS}
    azimuth = np.arctan2(mean[:, 0], mean[:, 2] - mean[:, 2].mean())
    place = np.stack((azimuth * 88, -mean[:, 1]), 1) / TEXEL_MM
    return dict(
        fields=smooth_fields(mean),
        skin=skin,
        marks=marks,
        inner=inside_colours(maps, attributes),
        teeth=maps["teeth"] * (1 - attributes.get("gum", 0.0 * skin)),
        eyeball=maps["eye"],
        hairline=attributes.get("hairline", np.full(len(mean), -99.0)),
        whiskers=np.maximum(marks["beard"], marks["moustache"]) * (1 - marks["lips"]),
        place=place + TEXTURE * 8,
        sky=np.where(maps["eye"] > 0.5, sky.clip(0.6), sky),
        shadows=shadows,
        directions=sphere_directions(),
    )


def face_maps(mean, landmarks, attributes):
    """Where things are on a face, name -> (N,) in [0, 1].

    From the model's attributes, and from its 68 landmarks what they lack.
    """
    points, zero = mean[landmarks], np.zeros(len(mean))

    def near(at, radius, stretch=(1, 1, 1)):
        return np.exp(-(((mean - at) * stretch) ** 2).sum(1) / radius**2)

    def both(at, *shape):
        return near(at, *shape) + near(at * [-1, 1, 1], *shape)

    def line(*corners, width):
        """Closeness to a polyline."""
        dense = np.concatenate([np.linspace(a, b, 9) for a, b in zip(corners, corners[1:])])
        return np.exp(-((np.linalg.norm(mean[:, None] - dense, axis=2).min(1) / width) ** 2))

    maps = {name: attributes.get(name, zero) for name in ("lips", "beard", *NO_SKIN)}
    sideburn = smoothstep((abs(mean[:, 0]) - 0.8 * points[16, 0]) / 8)
    below_nose = smoothstep((points[33, 1] - 3 - mean[:, 1]) / 7)
    maps["beard"] = maps["beard"] * np.maximum(below_nose, sideburn)

    eye = points[36:42].mean(0)
    maps["cheek"] = both(eye * 0.75 + points[48] * 0.25 + [-3, -12, 0], 17)
    maps["nose"] = near(points[30], 13)
    maps["under_eye"] = both(points[[40, 41]].mean(0) - [0, 5, 0], 9, (0.8, 1.6, 1))
    maps["lid"] = both(points[[37, 38]].mean(0) + [0, 4, 0], 10, (0.65, 1, 1))
    lashes = [line(*points[a:b], width=1.6) for a, b in ((36, 40), (42, 46))]
    maps["lash"] = np.max(lashes, axis=0)

    upper_lip = (points[33] + points[51]) / 2
    arch = (upper_lip + [-9, -1, 0], upper_lip, upper_lip + [9, -1, 0])
    arch = points[48] + [-3, 3, 0], *arch, points[54] + [3, 3, 0]
    maps["moustache"] = line(*arch, width=5.5) * (1 - maps["lips"])
    maps["chin"] = near(points[57] - [0, 14, 0], 18) * (1 - maps["lips"])

    folds = line(points[31] + [-5, 0, 0], points[48] + [-8, 2, 0], width=2.6)
    folds = folds + line(points[35] + [5, 0, 0], points[54] + [8, 2, 0], width=2.6)
    forehead = near(points[27] + [0, 45, 0], 30, (0.7, 1, 1))
    maps["lines"] = np.clip(folds + forehead * np.cos(mean[:, 1] * 0.75).clip(0) ** 4, 0, 1)

    skin = 1 - np.max([maps[name] for name in NO_SKIN], axis=0)
    return {name: where if name in NO_SKIN else where * skin for name, where in maps.items()}


def inside_colours(maps, attributes):
    """Colour and opacity (N, 4) of what skin's colour does not reach.

    Mouth, teeth with their gums and gaps, tongue, nostrils.
    """
    zero = np.zeros(len(maps["teeth"]))
    gum, gap, nostril = (attributes.get(k, zero)[:, None] for k in ("gum", "gap", "nostril"))
    teeth = (TEETH + gum * np.subtract(GUM, TEETH)) * (1 - 0.85 * gap)
    colours = np.where(maps["teeth"][:, None] > 0.5, teeth, np.tile(NOSTRIL, (len(zero), 1)))
    for name, colour in (("mouth", MOUTH), ("tongue", TONGUE)):
        colours[maps[name] > 0.5] = colour
    cover = np.max([maps[k] for k in ("mouth", "teeth", "tongue")] + [0.95 * nostril[:, 0]], axis=0)
    return np.concatenate((colours, cover[:, None]), 1)


def make_texture():
    """The detail texture (256, 256, 3) float32, which repeats.

    Grain and strands along v, of standard deviation 1; freckles from 0 to -1.
    """
    grain, strands, spots = np.random.default_rng(0).standard_normal((3, TEXTURE, TEXTURE))
    grain = gaussian_filter(grain, 0.6, mode="wrap")
    strands = gaussian_filter1d(strands, 12, axis=0, mode="wrap")
    strands = gaussian_filter(strands, (0, 0.7), mode="wrap")
    spots = gaussian_filter(spots, 1.1, mode="wrap")
    spots = -smoothstep((spots / spots.std() - 1.5) / 0.8)
    return np.stack((grain / grain.std(), strands / strands.std(), spots), -1).astype(np.float32)


def smooth_fields(points):
    """Random patterns (N, FIELDS) of unit variance over `points` (N, 3) mm, 25 to 100 mm wide."""
    rng = np.random.default_rng(1)
    waves = rng.normal(0, 1, (FIELDS, 4, 3)) / np.geomspace(8, 30, FIELDS)[:, None, None]
    phase = rng.uniform(0, 6.28, (FIELDS, 4))
    fields = np.sin(np.einsum("nd,kjd->nkj", points, waves) + phase).sum(2) / np.sqrt(2)
    return fields.astype(np.float32)


def sphere_directions(count=DIRECTIONS):
    """Nearly even directions (count, 3) of a Fibonacci spiral."""
    k = np.arange(count) + 0.5
    y, turn = 1 - 2 * k / count, np.pi * (1 + 5**0.5) * k
    return np.stack((np.cos(turn) * np.sqrt(1 - y * y), y, np.sin(turn) * np.sqrt(1 - y * y)), 1)


def head_shadows(mean, triangles, inside):
    """How freely (N, DIRECTIONS) each vertex of the mean head sees each direction, 0 to 1.

    Smoothed over its neighbours. And its share of open sky (N,), for ambient occlusion.
    inside: (N,) bool, vertices within the mouth, which see no sky here and get fixed shares
    """
    mean = np.ascontiguousarray(mean, np.float32)
    triangles = np.ascontiguousarray(triangles, np.int32)
    normals, directions = raster.vertex_normals(mean, triangles), sphere_directions()
    free = np.stack([_seen_from(direction, mean, triangles) for direction in directions], 1)
    free = (free & (normals @ directions.T > -0.05)).astype(np.float32)
    edges = np.concatenate((triangles[:, :2], triangles[:, 1:], triangles[:, [2, 0]]))
    for _ in range(2):
        total, count = free.copy(), np.ones((len(mean), 1), np.float32)
        for a, b in (edges.T, edges.T[::-1]):
            np.add.at(total, a, free[b])
            np.add.at(count, a, 1)
        free = total / count
    cosine = (normals @ directions.T).clip(0)
    sky = (cosine * free).sum(1) / cosine.sum(1).clip(1e-6)
    free[inside], sky[inside] = 0.4, 0.3
    return free.astype(np.float32), sky.astype(np.float32)


def _seen_from(direction, mean, triangles, size=192):
    """Which vertices (N,) nothing hides from far away in `direction`, up to 3 mm."""
    offset = mean - mean.mean(0)
    extent = 1.05 * np.linalg.norm(offset, axis=1).max()
    right = np.cross([0, 1, 0], direction)
    right /= np.linalg.norm(right)
    axes = np.stack((right, -np.cross(direction, right)), 1)
    points = (offset @ axes / extent + 1) * size / 2
    near = (mean @ direction).astype(np.float32)
    seen, weights = raster.zbuffer(points.astype(np.float32), near, triangles, size)
    corners = np.concatenate((weights, 1 - weights.sum(-1, keepdims=True)), -1)
    depth = np.where(seen < 0, -1e9, (corners * near[triangles[seen]]).sum(-1))
    x, y = points.astype(int).clip(0, size - 1).T
    return near > depth[y, x] - 3.0
