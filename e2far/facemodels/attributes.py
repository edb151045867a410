"""What the renderer knows about each vertex: of our own head, or carried over to another mesh."""

import numpy as np
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

INNER = ("eye", "teeth", "tongue", "mouth")
REACH_MM = {"hairline": 40, "ear": 12}  # from our skin, within which another's keeps ours; else 5


def eye_directions(ball):
    """x and y, each (n,), of unit vectors from the middle of an eyeball to its vertices (n, 3).

    x is 9 more at the back, which has no iris.
    """
    direction = ball - (ball.max(0) + ball.min(0)) / 2
    direction /= np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-6)
    return direction[:, 0] + 9 * (direction[:, 2] < 0), direction[:, 1]


def attributes_of(head, mean, landmarks):
    """Attributes name -> (N,) of MakeHuman's head with vertices `mean` (N, 3) mm.

    Parts, lips, ears, brows, beard, eye directions, distance from the hairline in mm, and more.
    """
    found = {name: (head.part == name).astype(float) for name in INNER}
    skin = head.part == "skin"
    for name, picture in (("lips", "mpfb_lips.jpg"), ("ear", "mpfb_ears.jpg")):
        mask = head.mask(picture)
        found[name] = (mask + mask[head.opposite]) / 2 * skin
    off = np.minimum(*(brow_distance(mean, landmarks[k : k + 5]) for k in (17, 22)))
    found["brow"] = np.exp(-((np.minimum(off, off[head.opposite]) / 4.0) ** 2)) * skin
    found["eye_x"], found["eye_y"] = np.zeros((2, len(mean)))
    for side in (1, -1):
        ball = (head.part == "eye") & (side * mean[:, 0] > 0)
        found["eye_x"][ball], found["eye_y"][ball] = eye_directions(mean[ball])
    x, y, z = (mean - mean[head.part == "eye"].mean(0) * [0, 1, 1]).T
    # height of the hairline above the eyes, mm, from the nape to the forehead
    temple = np.interp(z, [-90, -62, -48, -20], [-60, -5, 40, 62])
    nape = np.where(z < -88, np.minimum(10, y + 80), -99.0)
    found["hairline"] = np.where(skin, np.maximum(y - temple - 0.0008 * x**2, nape), -99.0)
    below, before = np.clip((-30 - y) / 12, 0, 1), np.clip((z + 62) / 12, 0, 1)
    found["beard"] = skin * below * before * (1 - np.clip((-112 - y) / 8, 0, 1))
    return found | head.paint


def brow_distance(mean, line):
    """Distances (N,) from the curve through five landmarks of a brow, less across the brow."""
    curve = mean[line] - [0, 2, 0]
    points = np.concatenate([np.linspace(a, b, 8) for a, b in zip(curve, curve[1:])])
    return np.linalg.norm((mean[:, None] - points) * [1, 1.25, 0.5], axis=2).min(1)


def carry_attributes(own, distance, vertices, triangles):
    """Attributes name -> (N,) of another mesh, and which of its vertices (N,) are skin.

    own: ours, interpolated at its vertices (N, 3)    distance: (N,) mm between the two surfaces
    A piece of its own (eyeball, tooth, tongue) is one as a whole. Elsewhere what lies farther than
    5 mm (hair 40, ears 12) from ours keeps none of it.
    """
    n = len(vertices)
    sides = np.concatenate((triangles[:, :2], triangles[:, 1:]))
    graph = coo_matrix((np.ones(len(sides)), sides.T), (n, n))
    count, piece = connected_components(graph, directed=False)
    kinds = np.stack([own[name] for name in INNER], 1)
    used = np.isin(np.arange(n), triangles)
    main = np.bincount(piece[used & (kinds.sum(1) < 0.5)], minlength=count).argmax()
    inner = np.zeros((n, len(INNER)), np.float32)
    gaze = np.stack((own["eye_x"], own["eye_y"]))
    for label in np.unique(piece[used & (piece != main)]):
        at = piece == label
        shares = kinds[at].mean(0)
        if np.median(distance[at]) < 8 and shares.sum() > 0.5:
            inner[at, shares.argmax()] = 1
            gaze[:, at] = eye_directions(vertices[at])
    on_main = (piece == main) & (distance < 5)
    apart = inner.max(0) > 0  # parts that are pieces are nowhere else
    inner[on_main] = kinds[on_main] * ~apart
    skin = inner.sum(1) < 0.5

    found = dict(zip(INNER, inner.T))
    for name in [name for name in own if name not in INNER]:
        near = (distance < REACH_MM.get(name, 5)) & skin
        found[name] = np.where(near, own[name], -99.0 if name == "hairline" else 0.0)
    found |= zip(("eye_x", "eye_y"), gaze * (inner[:, 0] > 0.5))
    return found, skin & (piece == main)
