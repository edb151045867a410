"""A reconstructed face for other programs: its texture from the photo, and OBJ, PLY and GLB files; a GLB has the model's expression units as morph targets.

    photo --what the camera sees of the head--> colours on the unwrapped head --mirrored, then spread--> texture --with the mesh--> Blender, three.js, MeshLab

OBJ and PLY hold the face as it is in the photo, in millimetres in the head frame. A GLB is in metres, as glTF asks; its mesh is the face at rest, which the weights of its morph targets
(`unit_strengths`) bring to the photo's expression. Vertices come in the model's order; the few that the texture needs twice follow after them.
"""

import numpy as np
from PIL import Image
from scipy import ndimage

from e2far import raster
from e2far.raster import smoothstep

RADIUS = 0.492  # of the disc on which the skin lies, in units of the picture's side
CHARTS = dict(
    right_eye=(0, 0, 0.135, 0.135),
    left_eye=(0.865, 0, 0.135, 0.135),
    teeth=(0, 0.865, 0.135, 0.06),
    tongue=(0, 0.93, 0.135, 0.07),
    mouth=(0.865, 0.865, 0.135, 0.135),
)  # left, top, width, height
PAINT = dict(
    teeth=(1.0, 0.95, 0.87), tongue=(0.72, 0.37, 0.36), mouth=(0.52, 0.21, 0.20)
)  # colours of what no photo shows well, under the photo's light
TEXELS_PER_MM = 4.0  # the texture's in the face: a photo that is finer is averaged
BEHIND_MM = 2.0  # a point so far behind what the camera sees still counts as seen
FADE = 5  # the photo's colours are spread about 2^FADE texels of 1024 into what it does not show before plain ones take over


# The texture --------------------------------------------------------------------------------------------------------------------------------


def unwrap(model):
    """A place in the texture for every vertex of a MorphableModel: `uv` (M, 2) in [0, 1] from the upper left, `vertex` (M,), of which each is a copy, and `triangles` (F, 3) of these.

    Choice: skin lies on a disc by Lambert's equal-area projection of the mean head from a point inside it, seen from the front. The face gets half of the picture, the two sides of
    the face mirror each other in it, and no seam is needed: only where the back of the head meets the rim, triangles have corners of their own (the copies after the first N).
    Eyes, teeth, tongue and mouth lie in the picture's corners. Where surfaces fall on each other, as behind the ears, the one further out gives the colour.
    """
    mean, triangles = _array(model.mean).astype(float), _array(model.triangles).copy()
    direction = mean - _centre(model)
    direction /= np.linalg.norm(direction, axis=1, keepdims=True).clip(1e-9)
    uv = 0.5 + RADIUS * direction[:, :2] / np.sqrt(2 * (1 + direction[:, 2:])).clip(1e-6) * [1, -1]
    skin = np.ones(len(mean), bool)
    for name, (left, top, width, height) in CHARTS.items():
        eye = name.endswith("eye")
        here = _attribute(model, "eye" if eye else name) > 0.5
        if eye:
            here &= (mean[:, 0] > 0) == (name == "left_eye")
        if here.any():
            flat = (
                mean[here][:, [0, 1]] * [1, -1] if eye or name == "teeth" else mean[here][:, [0, 2]]
            )  # from the front; tongue and mouth from above
            uv[here] = (left, top) + np.array([width, height]) * (
                0.06 + 0.88 * (flat - flat.min(0)) / np.ptp(flat, axis=0).clip(1e-9)
            )
        skin &= ~here
    torn = np.flatnonzero(
        skin[triangles].all(1) & (np.ptp(uv[triangles], axis=1).max(1) > 0.3)
    )  # they would lie across the disc
    vertex = np.concatenate((np.arange(len(mean)), triangles[torn].ravel()))
    uv = np.concatenate(
        (uv, np.repeat(uv[triangles[torn, 0]], 3, axis=0))
    )  # all three corners at one place on the rim
    triangles[torn] = len(mean) + np.arange(3 * len(torn)).reshape(-1, 3)
    return uv.astype(np.float32), vertex, triangles


def _array(tensor):
    return tensor.detach().cpu().numpy()


def _attribute(model, name):
    """One of the model's attributes (N,), zero where it knows none."""
    return (
        _array(model.attributes[name]) if name in model.attributes else np.zeros(model.n_vertices)
    )


def _centre(model):
    """The point inside the head (3,) mm from which it is unwrapped: between the ears, at the height of the eyes."""
    points = _array(model.mean)[_array(model.landmarks)]
    return np.array([points[[0, 16], 0].mean(), points[36:48, 1].mean(), points[[0, 16], 2].mean()])


def texture(face, model, image, size=1024):
    """The texture (size, size, 3) uint8, size a power of two, of a `face.Face` of this `model`, for the places of `unwrap`, from its upright photo (H, W, 3) uint8.

    What the camera sees of the face proper, the hair on the head and the eyes comes from the photo; what it does not see, from the other side of the face. Where neither is known,
    the colours around it are spread and give way to plain ones: those of the skin, the hair and the white of an eye. Teeth, tongue and mouth are painted.
    """
    uv, vertex, triangles = unwrap(model)
    mean, landmarks = _array(model.mean), _array(model.landmarks)
    ear, eye = _attribute(model, "ear") > 0.1, _attribute(model, "eye") > 0.5
    inner = np.any([_attribute(model, name) > 0.5 for name in PAINT], axis=0)
    scalp = (
        (_attribute(model, "hairline") > 0)
        & ~ear
        & (mean[:, 1] > mean[landmarks[[4, 12]], 1].mean())
    )  # down to the nape
    wanted = (eye | scalp).astype(np.float32)
    wanted[face.region] = 1
    wanted[ear] = 0  # hair, earrings and the background are often there instead

    picture, points, turned, depth = _look(face, model, image)
    normals = raster.vertex_normals(turned, face.triangles)
    outwards = np.linalg.norm(mean - _centre(model), axis=1).astype(np.float32)
    triangles = triangles[~inner[vertex[triangles]].any(1)].astype(np.int32)
    seen, shares = raster.zbuffer(
        np.ascontiguousarray(uv * size), outwards[vertex], triangles, size
    )
    shares, corners = (
        np.dstack((shares, 1 - shares.sum(-1))) * (seen >= 0)[..., None],
        vertex[triangles[seen]],
    )
    x, y, z, facing, weight, eye, scalp = (
        sum(shares[..., k] * values[corners[..., k]] for k in range(3))
        for values in (*points.T, turned[:, 2], normals[:, 2], wanted, eye, scalp)
    )
    eye, scalp, place = eye > 0.5, scalp > 0.5, np.stack((y, x)) - 0.5

    colour = np.dstack(
        [ndimage.map_coordinates(picture[..., c], place, order=1, mode="nearest") for c in range(3)]
    )
    weight *= smoothstep(
        (facing - np.where(scalp, 0.15, 0.3)) / 0.35
    )  # at grazing angles the background is near; beside hair there is more hair
    weight *= z > ndimage.map_coordinates(depth, place, order=0, mode="nearest") - BEHIND_MM
    weight *= (x > 0) & (y > 0) & (x < picture.shape[1]) & (y < picture.shape[0])
    for part, softness in ((eye, 2), (~eye, 7)):  # fade out towards the border of what is seen
        weight = np.where(
            part,
            np.minimum(
                weight,
                smoothstep(2 * ndimage.gaussian_filter(weight * part, softness * size / 1024) - 1),
            ),
            weight,
        )
    islands, count = ndimage.label((weight > 0) & ~eye)
    if count:  # of skin; only the largest is the face
        weight[(islands > 0) & (islands != 1 + np.bincount(islands.ravel())[1:].argmax())] = 0
    weight = weight[..., None].astype(np.float32)

    mirrored, its_weight = colour[:, ::-1], weight[:, ::-1]
    mirrored = mirrored + spread(
        colour - mirrored, (weight * its_weight) ** 4
    )  # in the light of this side
    its_weight = (1 - weight) * its_weight
    colour = (weight * colour + its_weight * mirrored) / np.maximum(weight + its_weight, 1e-9)
    weight = weight + its_weight

    certain = weight[..., 0] > 0.9
    white = max(np.percentile(colour[certain].mean(1), 98), 0.6) if certain.any() else 0.8
    skin = _median(colour[certain & ~scalp & ~eye], [0.8 * white, 0.65 * white, 0.56 * white])
    plain = np.where(
        eye[..., None],
        0.85 * white,
        np.where(scalp[..., None], _median(colour[certain & scalp], skin), skin),
    )
    doubt = (seen >= 0)[..., None] * (1 - weight) * 0.25**FADE * (1024 / size) ** 2
    colour = spread(
        (weight * colour + doubt * plain) / np.maximum(weight + doubt, 1e-9), weight + doubt
    )
    v, u = (np.mgrid[:size, :size] + 0.5) / size
    tint = min(1, 5 * np.ptp(skin) / max(skin.max(), 1e-9))  # none in a grey photo
    for name, paint in PAINT.items():
        left, top, width, height = CHARTS[name]
        across, down = (u - left) / width, (v - top) / height
        here = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
        shade = (
            1 - 0.5 * (2 * across - 1) ** 2 if name == "teeth" else 0.3 + 0.7 * down
        )  # darker to the sides, darker to the back
        colour[here] = (
            white * shade[here, None] * (np.mean(paint) + tint * (np.array(paint) - np.mean(paint)))
        )
    return (colour.clip(0, 1) * 255).round().astype(np.uint8)


def _look(face, model, image):
    """The part of the photo around the face, (S, S, 3) float32 in [0, 1]; where the vertices (N, 2) px fall in it, how they are turned (N, 3) mm, and the nearest z (S, S) mm at every pixel."""
    points = face.pose.project(face.vertices)
    reach = points[np.concatenate((face.region, _array(model.landmarks)))]
    side = 1.1 * np.ptp(reach, axis=0).max()
    low = (reach.min(0) + reach.max(0) - side) / 2
    first, last = np.floor(low).astype(int), np.ceil(low + side).astype(int)
    rows, columns = (
        np.arange(first[1], last[1]).clip(0, len(image) - 1),
        np.arange(first[0], last[0]).clip(0, image.shape[1] - 1),
    )
    size = int(np.clip(side * min(1, TEXELS_PER_MM / face.pose.scale), 64, 2048))
    box = tuple(np.concatenate((low - first, low + side - first)).tolist())
    picture = Image.fromarray(image[rows[:, None], columns]).resize(
        (size, size), Image.Resampling.BILINEAR, box=box
    )
    points = ((points - low) * (size / side)).astype(np.float32)
    turned = np.ascontiguousarray(face.vertices @ face.pose.rotation.T, dtype=np.float32)
    near, triangles = (
        turned[:, 2] - _array(model.recess).astype(np.float32),
        face.triangles.astype(np.int32),
    )
    seen, shares = raster.zbuffer(points, near, triangles, size)
    depth = np.where(
        seen >= 0,
        (np.dstack((shares, 1 - shares.sum(-1))) * near[triangles[seen]]).sum(-1),
        -np.inf,
    )
    return np.asarray(picture, dtype=np.float32) / 255, points, turned, depth


def _median(colours, otherwise):
    return np.median(colours, axis=0) if len(colours) else np.asarray(otherwise)


def spread(values, weight):
    """`values` (S, S, C) where `weight` (S, S, 1) in [0, 1] is one, and where it is less what lies around, by ever coarser averages (pull and push, Gortler et al. 1996)."""
    size = len(values)
    if size % 2 or size < 4:
        mean = (values * weight).sum((0, 1)) / max(weight.sum(), 1e-9)
        return weight * values + (1 - weight) * mean
    halves = weight.reshape(size // 2, 2, size // 2, 2, 1)
    total = halves.sum((1, 3))
    coarse = spread(
        (values.reshape(size // 2, 2, size // 2, 2, -1) * halves).sum((1, 3))
        / np.maximum(total, 1e-9),
        np.minimum(total, 1),
    )
    fine = coarse
    for axis in (0, 1):  # twice as fine, linear between the centres
        before, after = (
            np.take(fine, np.arange(size // 2) + step, axis, mode="clip") for step in (-1, 1)
        )
        fine = np.stack(
            (0.75 * fine + 0.25 * before, 0.75 * fine + 0.25 * after), axis + 1
        ).reshape(*fine.shape[:axis], size, *fine.shape[axis + 1 :])
    return weight * values + (1 - weight) * fine


# Files --------------------------------------------------------------------------------------------------------------------------------------


def vertex_colours(model, picture):
    """Colours (N, 3) uint8 of the model's vertices in a `texture`."""
    place = unwrap(model)[0][: model.n_vertices, ::-1].T * len(picture) - 0.5
    return np.stack(
        [
            ndimage.map_coordinates(picture[..., c], place, order=1, mode="nearest")
            for c in range(3)
        ],
        axis=1,
    )
