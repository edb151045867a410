"""The texture of a head from one photo.

photo --what the camera sees of the head--> colours on the unwrapped head
      --mirrored, then spread into what nobody sees--> texture
"""

from typing import NamedTuple

import numpy as np
from scipy import ndimage

from e2far import raster
from e2far.photo.pictures import crop
from e2far.photo.unwrapping import CHARTS, as_array, attribute, centre_of, unwrap
from e2far.raster import smoothstep

PAINT = dict(  # colours of what no photo shows well, under the photo's light
    teeth=(1.0, 0.95, 0.87),
    tongue=(0.72, 0.37, 0.36),
    mouth=(0.52, 0.21, 0.20),
)
TEXELS_PER_MM = 4.0  # the texture's in the face: a photo that is finer is averaged
BEHIND_MM = 2.0  # a point so far behind what the camera sees still counts as seen
OUTLINE_MM = 6.0  # so near the outline of the head the photo may show what is behind it
FADE = 6  # the photo's colours spread about 2^FADE texels of 1024 before plain ones take over


def vertex_colours(model, texture):
    """Colours (N, 3) uint8 of the model's vertices in a texture (S, S, 3)."""
    return sample(texture, unwrap(model)[0][: model.n_vertices, ::-1].T * len(texture) - 0.5)


def sample(picture, place):
    """Colours (..., 3) of a picture (H, W, 3) at places (2, ...), row and column: bilinear."""
    channels = np.moveaxis(picture, 2, 0)
    return np.stack(
        [ndimage.map_coordinates(c, place, order=1, mode="nearest") for c in channels], -1
    )


def texture(face, image, size=1024):
    """The texture (size, size, 3) uint8, for the places of `unwrap`, of a `face.Face` in its photo.

    image: upright, (H, W, 3) uint8    size: a power of two
    What the camera sees of the face proper, the hair on the head and the eyes comes from the photo;
    what it does not see, from the other side of the face. Where neither is known, the colours
    around it are spread and give way to plain ones: those of the skin, the hair and the white of an
    eye. Teeth, tongue and mouth are painted.
    """
    seen = look(face, image, size)
    certain = seen.weight[..., 0] > 0.9
    colour = seen.colour
    white = max(np.percentile(colour[certain].mean(1), 98), 0.6) if certain.any() else 0.8
    usual = np.array([0.8 * white, 0.65 * white, 0.56 * white])
    skin = median(colour[certain & ~seen.scalp & ~seen.eye], usual)
    hair = median(colour[certain & seen.scalp], skin)
    colour, weight = mirror_hidden(seen, hair)
    plain = np.where(seen.scalp[..., None], hair, skin)
    plain = np.where(seen.eye[..., None], 0.85 * white, plain)
    doubt = seen.covered[..., None] * (1 - weight) * 0.25**FADE * (1024 / size) ** 2
    mixed = (weight * colour + doubt * plain) / np.maximum(weight + doubt, 1e-9)
    colour = spread(mixed, weight + doubt)
    tint = min(1, 5 * np.ptp(skin) / max(skin.max(), 1e-9))  # none in a grey photo
    painted = colour.copy()
    paint_mouth(painted, white, tint)
    kept = seen.weight * seen.teeth[..., None]
    colour = kept * seen.colour + (1 - kept) * painted
    return (colour.clip(0, 1) * 255).round().astype(np.uint8)


class Texels(NamedTuple):
    """What is known of each of the (S, S) texels before its colour."""

    covered: np.ndarray  # bool: something of the head lies there
    eye: np.ndarray  # bool
    scalp: np.ndarray  # bool: hair on the head, down to the nape
    teeth: np.ndarray  # bool
    colour: np.ndarray  # (S, S, 3) in the photo, in [0, 1]
    weight: np.ndarray  # (S, S, 1) float32 in [0, 1], how far that is to be believed


def look(face, image, size):
    """What the photo shows of a face, as `Texels`."""
    model = face.model
    uv, vertex, triangles = unwrap(model)
    mean, landmarks = as_array(model.mean), as_array(model.landmarks)
    ear, eye = attribute(model, "ear") > 0.1, attribute(model, "eye") > 0.5
    teeth = attribute(model, "teeth") > 0.5
    nape = mean[landmarks[[4, 12]], 1].mean()
    scalp = (attribute(model, "hairline") > 0) & ~ear & (mean[:, 1] > nape)
    wanted = (eye | scalp | teeth).astype(np.float32)
    wanted[face.region] = 1

    picture, points, turned, depth = cut_out(face, image)
    normals = raster.vertex_normals(turned, face.triangles)
    outwards = np.linalg.norm(mean - centre_of(model), axis=1).astype(np.float32)
    seen, shares = visible(np.ascontiguousarray(uv * size), outwards[vertex], triangles, size)
    corners, shares = vertex[triangles[seen]], shares * (seen >= 0)[..., None]
    x, y, z, facing, weight, eye, scalp, teeth, ear = (
        sum(shares[..., k] * values[corners[..., k]] for k in range(3))
        for values in (*points.T, turned[:, 2], normals[:, 2], wanted, eye, scalp, teeth, ear)
    )
    eye, scalp, teeth, ear = (part > 0.5 for part in (eye, scalp, teeth, ear))
    place = np.stack((y, x)) - 0.5
    colour = sample(picture, place)

    # At grazing angles the background is near; beside hair there is more hair
    weight *= smoothstep((facing - np.where(scalp, 0.15, 0.3)) / 0.35)
    front = z > ndimage.map_coordinates(depth, place, order=0, mode="nearest") - BEHIND_MM
    weight *= front | teeth
    weight *= (x > 0) & (y > 0) & (x < picture.shape[1]) & (y < picture.shape[0])
    # Near the head's outline and on ears only what is like the skin beside it, or like hair
    scale = np.ptp(points[:, 1]) / np.ptp(turned[:, 1])
    inwards = ndimage.distance_transform_edt(np.isfinite(depth)) / scale
    inwards = ndimage.map_coordinates(inwards, place, order=1, mode="nearest")
    skin = ~(eye | scalp | teeth)
    sure = (weight > 0.9) & skin & ~ear & (inwards > OUTLINE_MM)
    beside = spread(colour, sure[..., None].astype(np.float32))
    hair = median(colour[(weight > 0.9) & scalp], np.full(3, 9.0))
    believed = np.maximum(alike(colour, beside), alike(colour, hair))
    weight = np.where(skin & ~sure, weight * believed, weight)
    # Teeth are where the photo has them, though the lips of the mesh may hide them: paler than skin
    pale = colour.min(-1) / max(median(colour[sure], np.ones(3)).min(), 1e-9)
    weight = np.where(teeth, weight * smoothstep((pale - 1.05) / 0.2), weight)
    weight = faded(weight, eye, teeth)[..., None].astype(np.float32)
    return Texels(seen >= 0, eye, scalp, teeth, colour, weight)


def alike(a, b):
    """How alike two arrays of colours (..., 3) are: 1 if they may be one skin in one light."""
    red, green, blue = np.moveaxis(abs(a - b) / (a + b + 0.02), -1, 0)
    contrast = np.maximum(np.maximum(red, green), blue)
    return 1 - smoothstep((contrast - 0.2) / 0.15)


def visible(points, nearness, triangles, size):
    """The triangle (S, S) seen at each pixel, -1 for none, and its three corners' shares of it."""
    seen, shares = raster.zbuffer(points, nearness, triangles.astype(np.int32), size)
    return seen, np.dstack((shares, 1 - shares[..., 0] - shares[..., 1]))


def cut_out(face, image):
    """The part of the photo around the face, (S, S, 3) float32 in [0, 1].

    Then where the vertices fall in it (N, 2) px, how they are turned (N, 3) mm, and the nearest z
    (S, S) mm at every pixel.
    """
    points = face.pose.project(face.vertices)
    reach = points[np.concatenate((face.region, as_array(face.model.landmarks)))]
    side = 1.1 * np.ptp(reach, axis=0).max()
    low = (reach.min(0) + reach.max(0) - side) / 2
    size = int(np.clip(side * min(1, TEXELS_PER_MM / face.pose.scale), 64, 2048))
    picture = crop(image, np.concatenate((low, low + side)), size)
    points = ((points - low) * (size / side)).astype(np.float32)
    turned = np.ascontiguousarray(face.vertices @ face.pose.rotation.T, dtype=np.float32)
    near = turned[:, 2] - as_array(face.model.recess).astype(np.float32)
    seen, shares = visible(points, near, face.triangles, size)
    depth = np.where(seen >= 0, (shares * near[face.triangles[seen]]).sum(-1), -np.inf)
    return picture.astype(np.float32) / 255, points, turned, depth


def faded(weight, eye, teeth):
    """`weight` (S, S) fading out towards the border of what is seen, of one piece of skin alone."""
    for part, softness in ((eye | teeth, 2), (~eye & ~teeth, 7)):
        soft = ndimage.gaussian_filter(weight * part, softness * len(weight) / 1024)
        weight = np.where(part, np.minimum(weight, smoothstep(2 * soft - 1)), weight)
    islands, count = ndimage.label((weight > 0) & ~eye & ~teeth)
    if count:  # only the largest is the face
        largest = 1 + np.bincount(islands.ravel())[1:].argmax()
        weight[(islands > 0) & (islands != largest)] = 0
    return weight


def mirror_hidden(seen, hair):
    """Colour and weight of `Texels`, from the other side of the face where this one is not seen.

    Of what is on the hair only what has its colour: a badge or the background has no twin.
    """
    colour, weight = seen.colour, seen.weight
    mirrored, its_weight = colour[:, ::-1], weight[:, ::-1]
    its_weight = np.where(
        seen.scalp[..., None], its_weight * alike(mirrored, hair)[..., None], its_weight
    )
    # In the light of this side
    mirrored = mirrored + spread(colour - mirrored, (weight * its_weight) ** 4)
    its_weight = (1 - weight) * its_weight
    colour = (weight * colour + its_weight * mirrored) / np.maximum(weight + its_weight, 1e-9)
    return colour, weight + its_weight


def paint_mouth(colour, white, tint):
    """Paint teeth, tongue and mouth into `colour` (S, S, 3), in place.

    white: the brightest that the photo's light makes    tint: 0 in grey to 1 in full colour
    """
    size = len(colour)
    v, u = (np.mgrid[:size, :size] + 0.5) / size
    for name, paint in PAINT.items():
        left, top, width, height = CHARTS[name]
        across, down = (u - left) / width, (v - top) / height
        here = (across >= 0) & (across <= 1) & (down >= 0) & (down <= 1)
        shade = 0.3 + 0.7 * down  # darker to the back
        if name == "teeth":
            shade = 1 - 0.5 * (2 * across - 1) ** 2  # darker to the sides
        grey = np.mean(paint)
        colour[here] = white * shade[here, None] * (grey + tint * (np.array(paint) - grey))


def median(colours, otherwise):
    return np.median(colours, axis=0) if len(colours) else otherwise


def spread(values, weight):
    """`values` (S, S, C) spread from where `weight` (S, S, 1) is one to where it is less.

    By ever coarser averages (pull and push, Gortler et al. 1996).
    """
    size = len(values)
    if size % 2 or size < 4:
        mean = (values * weight).sum((0, 1)) / max(weight.sum(), 1e-9)
        return weight * values + (1 - weight) * mean
    half = size // 2
    # Slices, since numpy is slow to add along axes of two or three
    sums, total = (
        even[:, ::2] + even[:, 1::2]
        for even in (part[::2] + part[1::2] for part in (values * weight, weight))
    )
    fine = spread(sums / np.maximum(total, 1e-9), np.minimum(total, 1))
    for axis in (0, 1):  # twice as fine, linear between the centres
        before, after = (
            np.take(fine, np.arange(half) + step, axis, mode="clip") for step in (-1, 1)
        )
        pairs = np.stack((0.75 * fine + 0.25 * before, 0.75 * fine + 0.25 * after), axis + 1)
        fine = pairs.reshape(*fine.shape[:axis], size, *fine.shape[axis + 1 :])
    return weight * values + (1 - weight) * fine
