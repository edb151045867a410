"""Pictures that are no photo of a face, made of synthetic faces, to calibrate confidence with."""

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image, ImageDraw

from e2far import camera, raster

EMPTY = ("clouds", "shuffled", "flat", "discoloured", "sketched", "drawn", "dark", "bare")
# Orders of the colours that are not the right one
MIXED = ([0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0])


def without_face(batch, kind, model, rng):
    """As many pictures (B, 3, S, S) in [0, 1] without a face as a batch of `data.Faces` has faces.

    kind: clouds of noise at all scales, flat, of one colour, or drawn, a few discs, boxes and
        strokes; made of the faces: shuffled pieces, discoloured (channels mixed up or lost,
        negative), dark, sketched outlines, or bare, of grey stone
    model: the face model of the batch's coefficients
    """
    image = batch["image"]
    if kind == "bare":
        return carve(batch, model, rng)
    makers = dict(clouds=clouds, shuffled=shuffle, flat=flat, discoloured=discolour, dark=darken)
    return (makers | dict(sketched=sketch, drawn=scribble))[kind](image, rng)


def uniform(rng, low, high, *shape):
    return torch.from_numpy(rng.uniform(low, high, shape)).float()


def flat(image, rng):
    count, _, side, _ = image.shape
    return uniform(rng, 0.2, 0.8, count, 3, 1, 1).expand(-1, -1, side, side).contiguous()


def shuffle(image, rng):
    side = image.shape[-1]
    tile = side // 4
    tiles = F.unfold(image[..., : 4 * tile, : 4 * tile], tile, stride=tile)
    tiles = tiles[..., rng.permutation(16)]
    return F.interpolate(F.fold(tiles, 4 * tile, tile, stride=tile), size=side)


def clouds(image, rng):
    count, _, side, _ = image.shape
    colour = uniform(rng, 0.2, 0.8, count, 3, 1, 1)
    contrast, smooth = uniform(rng, 0.05, 0.3, count, 1, 1, 1), uniform(rng, 0, 1.8, count, 1, 1, 1)
    cycles = torch.fft.fftfreq(side)
    frequency = torch.hypot(*torch.meshgrid(cycles, cycles, indexing="ij")) + 1 / side
    white = torch.from_numpy(rng.standard_normal((count, 3, side, side))).float()
    noise = torch.fft.ifft2(torch.fft.fft2(white) / frequency**smooth).real
    noise = 0.5 * noise + 0.5 * noise.mean(1, keepdim=True)
    noise = (noise - noise.mean((2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)
    return (colour + contrast * noise).clamp(0, 1)


def discolour(image, rng):
    def one(face):
        kind = rng.integers(3)
        if kind == 0:
            return face[MIXED[rng.integers(len(MIXED))]]
        if kind == 1:
            return face * F.one_hot(torch.tensor(rng.integers(3)), 3)[:, None, None]
        return 1 - face

    return torch.stack([one(face) for face in image])


def darken(image, rng):
    """Hardly lit; half of them grey."""
    grey = image.mean(1, keepdim=True)
    grey = torch.where(uniform(rng, 0, 1, len(image), 1, 1, 1) < 0.5, grey, image)
    return grey * uniform(rng, 0.04, 0.18, len(image), 1, 1, 1)


def sketch(image, rng):
    """Dark outlines, on white or over a few colours."""
    count = len(image)
    grey = F.pad(F.avg_pool2d(image.mean(1, keepdim=True), 3, 1, 1), (0, 1, 0, 1), "replicate")
    x, y = grey[..., :-1, 1:] - grey[..., :-1, :-1], grey[..., 1:, :-1] - grey[..., :-1, :-1]
    edge = torch.hypot(x, y)
    edge = edge / edge.flatten(1).quantile(0.97, 1)[:, None, None, None].clamp(min=1e-3)
    lines = (4 * (edge * uniform(rng, 1, 2, count, 1, 1, 1) - 0.6)).clamp(0, 1)
    levels = int(rng.integers(2, 5))
    poster = (F.avg_pool2d(image, 5, 1, 2) * levels).round() / levels
    white = uniform(rng, 0, 1, count, 1, 1, 1) < 0.5
    return torch.lerp(torch.where(white, 1.0, poster), uniform(rng, 0, 0.3, count, 1, 1, 1), lines)


def scribble(image, rng):
    count, _, side, _ = image.shape
    drawn = [
        _scribble(3 * side, rng).resize((side, side), Image.Resampling.LANCZOS)
        for _ in range(count)
    ]
    return torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255


def _scribble(side, rng):
    """Discs, boxes, polygons and arcs anywhere: what drawings are made of, but never a face."""

    def colour():
        grey = [(int(rng.integers(3)) * 255 // 2,) * 3]
        return tuple(rng.integers(0, 256, 3).tolist()) if rng.random() < 0.7 else grey[0]

    picture = Image.new("RGB", (side, side), colour() if rng.random() < 0.6 else "white")
    draw = ImageDraw.Draw(picture)
    for _ in range(rng.integers(2, 16)):
        middle, size = rng.uniform(0, side, 2), side * rng.uniform(0.02, 0.45, 2)
        place, width = (*(middle - size), *(middle + size)), int(rng.integers(1, 14))
        fill, kind = colour() if rng.random() < 0.6 else None, rng.integers(4)
        if kind == 0:
            draw.ellipse(place, fill, colour(), width)
        elif kind == 1:
            draw.rectangle(place, fill, colour(), width)
        elif kind == 2:
            corners = middle + size * rng.uniform(-1, 1, (rng.integers(3, 6), 2))
            draw.polygon([tuple(corner) for corner in corners], fill or colour())
        else:
            draw.arc(place, *rng.uniform(0, 360, 2), fill=colour(), width=width)
    return picture


def carve(batch, model, rng):
    """The batch's heads, bare and of one grey, before their pictures or before grey."""
    image = batch["image"]
    side, triangles = image.shape[-1], model.triangles.cpu().numpy()
    coefficients = (batch[key].to(model.mean.device) for key in ("identity", "expression"))
    heads, carved = model(*coefficients).cpu(), []
    rotation, scale, move = camera.decode_pose(batch["pose"], float(side))
    points = camera.weak_perspective(heads, rotation, scale, move).numpy()
    turned = (heads @ rotation.mT).numpy().astype(np.float32)
    for i, face in enumerate(image):
        stone = rng.uniform(0.4, 1) * np.array([1, rng.uniform(0.9, 1), rng.uniform(0.8, 1)])
        normals = raster.vertex_normals(turned[i], triangles)
        shape = points[i], turned[i][:, 2], triangles, normals, side, stone
        picture, coverage = (torch.from_numpy(one).float() for one in raster.render_plain(*shape))
        back = face if rng.random() < 0.5 else torch.full_like(face, rng.random())
        carved.append(torch.lerp(back, picture.permute(2, 0, 1), coverage))
    return torch.stack(carved)
