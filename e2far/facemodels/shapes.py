"""Neutral heads drawn from MakeHuman's targets, laid over each other, and their principal modes."""

import numpy as np

from e2far.files import progress

ETHNICITIES, SEXES, AGES = ("african", "asian", "caucasian"), ("female", "male"), ("young", "old")
MUSCLE = ("minmuscle", "averagemuscle", "maxmuscle")
WEIGHT = ("minweight", "averageweight", "maxweight")
# Choice: with local targets of .22 faces vary about as people's do (notebook 1); .14 is too
# little, .40 looks implausible.
LOCAL_SD = 0.22  # of local targets, both sides of the face together
SIDE_SD, ASYMMETRY_SD = 0.06, 0.08  # of each side alone, and of targets that only skew
SHAPE_SD, SHAPE_SHARE = 0.25, 0.35  # of targets without an opposite, and how many faces have one
WEIGHT_SD = 0.22  # of body weight
CONCENTRATION = 0.5  # Dirichlet's, of ancestries: small for people of one, large for mixtures


def thirds(x):
    """Weights of the low, middle and high target at `x` in [0, 1], each (n,)."""
    return (1 - 2 * x).clip(0), 1 - abs(2 * x - 1), (2 * x - 1).clip(0)


def draw_identities(head, macros, movements, n, rng, local_sd=LOCAL_SD):
    """Random neutral heads (n, N, 3) mm, float32, and their traits, shares (n,) by name.

    head, macros, movements: of `makehuman.read_targets`    local_sd: spread of the local targets
    traits: each of ETHNICITIES, `male` and `old`
    A seed gives the same people with another spread of targets.
    """
    ethnicity = dict(zip(ETHNICITIES, rng.dirichlet([CONCENTRATION] * 3, n).T))
    male, old = rng.beta(0.3, 0.3, n), rng.beta(0.9, 1.6, n)
    build = dict(male=male, female=1 - male, young=1 - old, old=old)
    build |= zip(MUSCLE, thirds(rng.random(n)))
    build |= zip(WEIGHT, thirds(rng.normal(0.5, WEIGHT_SD, n).clip(0, 1)))
    shares = [np.prod([(ethnicity | build)[word] for word in key], axis=0) for key in macros]
    fields = list(macros.values())
    for (folder, _), sides in movements.items():
        common = rng.normal(0, local_sd, n)
        for plus, minus in sides:
            strength = (common + rng.normal(0, SIDE_SD, n) * (len(sides) > 1)).clip(-1, 1)
            if minus is None:  # a shape, not a movement: only some faces have it
                sd = ASYMMETRY_SD if folder == "asym" else SHAPE_SD
                strength = abs(rng.normal(0, sd, n)) * (rng.random(n) < SHAPE_SHARE)
            else:
                shares.append((-strength).clip(0))
                fields.append(minus)
            shares.append(strength.clip(0))
            fields.append(plus)
    fields = np.stack(fields).reshape(len(fields), -1).astype(np.float32)
    displacement = (np.stack(shares, 1).astype(np.float32) @ fields).reshape(n, -1, 3)
    return head.base.astype(np.float32) + displacement, dict(ethnicity, male=male, old=old)


def align(shapes, reference, region):
    """`shapes` (n, N, 3) laid over `reference` (N, 3) by similarities that leave them one size.

    Each is turned nearest to the reference's `region` (Umeyama 1991), at its centroid and its size.
    """
    points, goal = shapes[:, region], reference[region]
    centre, goal_centre = points.mean(1, keepdims=True), goal.mean(0)
    covariance = np.einsum("nvi,vj->nij", points - centre, goal - goal_centre)
    left, _, right = np.linalg.svd(covariance.astype(float))
    left[:, :, 2] *= np.sign(np.linalg.det(left @ right))[:, None]
    size = np.linalg.norm(goal - goal_centre) / np.linalg.norm(points - centre, axis=(1, 2))
    turned = (shapes - centre) @ (left @ right) * size[:, None, None]
    return (turned + goal_centre).astype(np.float32)


def principal_modes(offsets, region, count):
    """Modes (N, 3, count), scaled to unit coefficients, of `offsets` (n, N, 3).

    Principal over the region, carried to the rest of the head by regression.
    """
    n = len(offsets)
    flat = offsets[:, region].reshape(n, -1).astype(float)
    _, vector = np.linalg.eigh(flat @ flat.T)
    scores = vector[:, ::-1][:, :count] * np.sqrt(n)  # unit mean square
    modes = np.einsum("nk,nvd->vdk", scores, offsets) / n
    columns = modes.reshape(-1, count)
    largest = np.take_along_axis(columns, abs(columns).argmax(0)[None], 0)
    return modes * np.sign(largest)  # a sign that reruns repeat


def mirror_modes(offsets, head, region, count):
    """`principal_modes` of `offsets` (n, N, 3) and their mirror images.

    Each mode is symmetric or turned round by reflection: the covariance of both is that of the
    symmetric parts plus that of the antisymmetric ones, so each is solved by itself.
    """
    both = []
    for sign in progress((1, -1), "finding modes"):
        modes = principal_modes(head.mirrored(offsets, sign), region, count).transpose(2, 0, 1)
        both.append(head.mirrored(modes, sign))  # again, against rounding errors of the sums
    modes = np.concatenate(both)
    order = np.argsort(-np.square(modes[:, region]).sum((1, 2)), kind="stable")[:count]
    return modes[order].transpose(1, 2, 0)


def face_region(head, base, ears, jaw_open):
    """Vertices of the face proper: skin between the ears, from the hairline to under the jaw.

    base: (N, 3) mm    ears: their vertices    jaw_open: (N, 3) mm, how that unit moves
    """
    skin = head.part == "skin"
    _, y, z = base.T
    low = base[skin & (np.linalg.norm(jaw_open, axis=1) > 8)]
    chin = low[low[:, 1].argmin()]
    back, bottom = base[ears, 2].min(), base[ears, 1].min() - 5
    slope = (chin[1] - 6 - bottom) / (chin[2] - back)
    above_jaw = y > bottom + slope * (z.clip(back, chin[2]) - back)
    eyes = base[head.part == "eye"].mean(0)
    below_hair = (y < eyes[1] + 75) | (y < eyes[1] + 85) & (z > eyes[2] - 55)
    keep = skin & (z > back - 1) & above_jaw & below_hair
    return np.unique(head.triangles[keep[head.triangles].all(1)])
