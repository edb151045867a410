"""The texture of a head from one photo.

photo --what the camera sees of the head--> colours on the unwrapped head
      --mirrored, then spread into what nobody sees--> texture
"""

from functools import lru_cache
from typing import NamedTuple

import numpy as np
from scipy import ndimage

from e2far import raster
from e2far.photo.pictures import crop
from e2far.photo.unwrapping import CHARTS, as_array, attribute, centre_of, sample, unwrap
from e2far.raster import smoothstep

PAINT = dict(  # colours of what no photo shows well, under the photo's light
    teeth=(1.0, 0.95, 0.87),
    tongue=(0.72, 0.37, 0.36),
    mouth=(0.52, 0.21, 0.20),
)
SIZES = (512, 1024)  # of the texture, px: the larger one where the photo is finer than the smaller
TEXELS_PER_MM = 4.0  # the larger one's in the face: a photo that is finer is averaged
BEHIND_MM = 2.0  # a point so far behind what the camera sees still counts as seen
OUTLINE_MM = 6.0  # so near the outline of the head the photo may show what is behind it
FADE = 6  # the photo's colours spread about 2^FADE texels of 1024 before plain ones take over


def texture(face, image, size=None):
    """The texture (size, size, 3) uint8, for the places of `unwrap`, of a `face.Face` in its photo.

    image: upright, (H, W, 3) uint8    size: a power of two; None: of SIZES, by the photo
    What the camera sees of the face proper, the hair on the head and the eyes comes from the photo;
    what it does not see, from the other side of the face. Where neither is known, the colours
    around it are spread and give way to plain ones: those of the skin, the hair and the white of an
    eye. Teeth, tongue and mouth are painted.
    """
    size = size or SIZES[face.pose.scale > TEXELS_PER_MM * SIZES[0] / SIZES[1]]
    head = surface(face.model, size)
    seen, believed = look(face, image, head)
    certain = believed[..., 0] > 0.9
    white = max(np.percentile(seen[certain].mean(1), 98), 0.6) if certain.any() else 0.8
    usual = np.array([0.8 * white, 0.65 * white, 0.56 * white])
    skin = median(seen[certain & ~head.scalp & ~head.eye], usual)
    hair = median(seen[certain & head.scalp], skin)
    colour, weight = mirror_hidden(seen, believed, head, hair)
    plain = np.where(head.scalp[..., None], hair, skin)
    plain = np.where(head.eye[..., None], 0.85 * white, plain)
    doubt = head.covered[..., None] * (1 - weight) * 0.25**FADE * (1024 / size) ** 2
    mixed = (weight * colour + doubt * plain) / np.maximum(weight + doubt, 1e-9)
    colour = spread(mixed, weight + doubt)
    tint = min(1, 5 * np.ptp(skin) / max(skin.max(), 1e-9))  # none in a grey photo
    painted = colour.copy()
    paint_mouth(painted, white, tint)
    kept = believed * head.teeth[..., None]
    colour = kept * seen + (1 - kept) * painted
    return (colour.clip(0, 1) * 255).round().astype(np.uint8)


def look(face, image, head):
    """What the photo shows of a face at each texel of a `Surface`.

    Its colour (S, S, 3) in [0, 1], and how far that is to be believed (S, S, 1), likewise.
    """
    picture, points, turned, depth = cut_out(face, image)
    normals = raster.vertex_normals(turned, face.triangles)
    x, y, z, facing = map(head.of_vertices, (*points.T, turned[:, 2], normals[:, 2]))
    colour = sample(picture, np.stack((y, x)) - 0.5)

    # At grazing angles the background is near; beside hair there is more hair
    weight = head.wanted * smoothstep((facing - np.where(head.scalp, 0.15, 0.3)) / 0.35)
    weight *= (x > 0) & (y > 0) & (x < picture.shape[1]) & (y < picture.shape[0])
    here = tuple(np.clip((y, x), 0, len(picture) - 1).astype(int))
    weight *= (z > depth[here] - BEHIND_MM) | head.teeth
    scale = np.ptp(points[:, 1]) / np.ptp(turned[:, 1])
    inwards = ndimage.distance_transform_edt(np.isfinite(depth))[here] / scale
    weight *= like_a_head(colour, weight > 0.9, inwards, head)
    return colour, faded(weight, head)[..., None].astype(np.float32)


def like_a_head(colour, certain, inwards, head):
    """How much the colours (S, S, 3) that a photo has at a `Surface` look like it, (S, S).

    certain: (S, S) bool, whether the photo shows the place well
    inwards: how far it lies from the head's outline in the photo, mm
    """
    # Near the outline and on ears only what is like the skin beside it, or like hair
    skin = ~(head.eye | head.scalp | head.teeth)
    sure = certain & skin & ~head.ear & (inwards > OUTLINE_MM)
    beside = spread(colour, sure[..., None].astype(np.float32))
    hair = median(colour[certain & head.scalp], np.full(3, 9.0))
    like = np.maximum(alike(colour, beside), alike(colour, hair))
    # Teeth are where the photo has them, though the lips of the mesh may hide them: paler than skin
    # and greyer; a lip that shines is only paler
    usual = median(colour[sure], np.ones(3))
    pale = smoothstep((colour.min(-1) / max(usual.min(), 1e-9) - 1.05) / 0.2)
    hue, of_skin = (1 - c.min(-1) / c.max(-1).clip(1e-9) for c in (colour, usual))
    pale *= smoothstep(2.5 - 3 * hue / max(of_skin, 0.15))
    like = np.where(head.teeth, pale, like)
    return np.where(sure | head.scalp | head.eye, 1, like)


def alike(a, b):
    """How alike two arrays of colours (..., 3) are: 1 if they may be one skin in one light."""
    red, green, blue = np.moveaxis(abs(a - b) / (a + b + 0.02), -1, 0)
    contrast = np.maximum(np.maximum(red, green), blue)
    return 1 - smoothstep((contrast - 0.2) / 0.15)


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


def faded(weight, head):
    """`weight` (S, S) fading out towards the border of what is seen, of one piece of skin alone."""
    inner = head.eye | head.teeth
    for part, softness in ((inner, 2), (~inner, 7)):
        soft = ndimage.gaussian_filter(weight * part, softness * len(weight) / 1024)
        weight = np.where(part, np.minimum(weight, smoothstep(2 * soft - 1)), weight)
    islands, count = ndimage.label((weight > 0) & ~inner)
    if count:  # only the largest is the face
        largest = 1 + np.bincount(islands.ravel())[1:].argmax()
        weight[(islands > 0) & (islands != largest)] = 0
    return weight


def mirror_hidden(colour, weight, head, hair):
    """Colour and weight of a `look`, from the other side of the face where this one is not seen.

    Of what is on the hair only what has its colour: a badge or the background has no twin.
    """
    mirrored, its_weight = colour[:, ::-1], weight[:, ::-1]
    like_hair = alike(mirrored, hair)[..., None]
    its_weight = np.where(head.scalp[..., None], its_weight * like_hair, its_weight)
    # In the light of this side
    mirrored = mirrored + spread(colour - mirrored, (weight * its_weight) ** 4)
    its_weight = (1 - weight) * its_weight
    colour = (weight * colour + its_weight * mirrored) / np.maximum(weight + its_weight, 1e-9)
    return colour, weight + its_weight


def paint_mouth(colour, white, tint):
    """Paint teeth, tongue and mouth into `colour` (S, S, 3), in place.

    white: the brightest that the photo's light makes    tint: 0 in grey to 1 in full colour
    """
    for name, paint in PAINT.items():
        left, top, width, height = (round(len(colour) * part) for part in CHARTS[name])
        down, across = (np.mgrid[:height, :width] + 0.5) / np.reshape((height, width), (2, 1, 1))
        shade = 0.3 + 0.7 * down  # darker to the back
        if name == "teeth":
            shade = 1 - 0.5 * (2 * across - 1) ** 2  # darker to the sides
        grey = np.mean(paint)
        hue = grey + tint * (np.array(paint) - grey)
        colour[top : top + height, left : left + width] = white * shade[..., None] * hue


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


class Surface(NamedTuple):
    """What of a model lies at each of the (S, S) texels."""

    corners: np.ndarray  # (S, S, 3), the vertices of the triangle there
    shares: np.ndarray  # (S, S, 3), theirs of the texel; zero where nothing lies
    covered: np.ndarray  # bool: something lies there
    wanted: np.ndarray  # bool: a photo may give its colour
    eye: np.ndarray  # bool
    scalp: np.ndarray  # bool: hair on the head, down to the nape
    teeth: np.ndarray  # bool
    ear: np.ndarray  # bool

    def of_vertices(self, values):
        """Values (N,) of the vertices at every texel."""
        return sum(self.shares[..., k] * values[self.corners[..., k]] for k in range(3))


@lru_cache(1)  # it takes an eighth of a texture's time
def surface(model, size):
    """The `Surface` of a MorphableModel at (size, size) texels; not to be written to."""
    uv, vertex, triangles = unwrap(model)
    mean, landmarks = as_array(model.mean), as_array(model.landmarks)
    ear, eye = attribute(model, "ear") > 0.1, attribute(model, "eye") > 0.5
    teeth = attribute(model, "teeth") > 0.5
    nape = mean[landmarks[[4, 12]], 1].mean()
    scalp = (attribute(model, "hairline") > 0) & ~ear & (mean[:, 1] > nape)
    wanted = eye | scalp | teeth
    wanted[as_array(model.region)] = True
    outwards = np.linalg.norm(mean - centre_of(model), axis=1).astype(np.float32)
    seen, shares = visible(np.ascontiguousarray(uv * size), outwards[vertex], triangles, size)
    bare = Surface(vertex[triangles[seen]], shares * (seen >= 0)[..., None], seen >= 0, *[None] * 5)
    parts = (bare.of_vertices(part) > 0.5 for part in (wanted, eye, scalp, teeth, ear))
    return Surface(*bare[:3], *parts)


def visible(points, nearness, triangles, size):
    """The triangle (S, S) seen at each pixel, -1 for none, and its three corners' shares of it."""
    seen, shares = raster.zbuffer(points, nearness, triangles.astype(np.int32), size)
    return seen, np.dstack((shares, 1 - shares[..., 0] - shares[..., 1]))
