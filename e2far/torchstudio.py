"""The pictures of synthesis.Studio in batches, in plain torch: on a GPU, training can make its pictures as it goes.

Recipes are drawn on the CPU, as ever; what is made of them here is what `Studio.expose` makes, but for rounding: it moves a sample to a neighbouring triangle or a texel now and then.
"""
import copy

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from e2far import appearance, data, torchraster

LABELS = data.LABELS[:-1]            # without the person
SCENE = (*LABELS, "rotation", "body", "distance", "centre", "side", "harmonics", "lamps", "shade", "background", "obstacles")
WHOLE = ("coarse", "hash", "quality")          # numbers of a shot that are integers

# ITU-T T.81, tables K.1 and K.2: steps for brightness and for colour at quality 50
JPEG_STEPS = torch.tensor([[16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56, 14, 17, 22, 29, 51, 87, 80, 62,
                            18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113, 92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99],
                           [17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99, 47, 66, 99, 99, 99, 99, 99, 99] + 32 * [99]]).view(2, 8, 8)


class TorchStudio(nn.Module):
    """A synthesis.Studio whose pictures are made in batches on the device that this module is on.

    chunk: how many samples are looked at together, about 200 bytes each; besides these a batch takes about 100 bytes for each of its samples
    """

    template: torch.Tensor; identity_basis: torch.Tensor; expression_basis: torch.Tensor; head: torch.Tensor; triangles: torch.Tensor; surface: torch.Tensor; bind: torch.Tensor; share: torch.Tensor
    neck: torch.Tensor; recess: torch.Tensor; eyes: torch.Tensor; is_eye: torch.Tensor; texture: torch.Tensor; whiskers: torch.Tensor

    def __init__(self, studio, chunk=1 << 22):
        super().__init__()
        self.studio, self.chunk = studio, chunk
        self.painter = copy.deepcopy(studio.painter)            # which moves to the device, while the studio's stays
        self.brows, self.clothes = (slice(part.start, part.stop) for part in (studio.wardrobe.parts[k] for k in ("brows", "clothes")))
        columns = dict(template=studio.template, identity_basis=studio.identity_basis.T, expression_basis=studio.expression_basis.T, head=studio.head, triangles=studio.triangles, surface=studio.surface,
                       bind=studio.wardrobe.bind[self.brows], share=studio.wardrobe.share[self.brows], neck=studio.wardrobe.neck, recess=studio.recess, eyes=studio.eyes[:, 1:],
                       is_eye=studio.eyes[studio.triangles, 0].sum(1) > 2.5, texture=studio.texture, whiskers=self.painter.whiskers)
        for name, values in columns.items():
            values = torch.as_tensor(np.array(values))
            self.register_buffer(name, values.float() if values.is_floating_point() else values if values.dtype == torch.bool else values.long())

    def photograph(self, seed, split, persons, pictures):
        """The pictures numbered `pictures` (B,) of `persons` (B,) as one batch: what `Studio.photograph` returns of each, and data.Faces.gather of stored ones."""
        batch = self(self.collate([self.studio.recipe(seed, split, int(person), int(picture)) for person, picture in zip(persons, pictures)]))
        return batch | dict(person=torch.as_tensor(persons, device=self.template.device))

    @staticmethod
    def collate(recipes):
        """A batch of recipes of one studio as a dict of small tensors, (B, ...) each, on the CPU: coefficients of the head, which `forward` makes vertices of, and places of what is worn."""
        rows = [recipe["person"]["looks"] | {k: recipe["person"][k] for k in ("identity", "worn")} | recipe["shot"] | {k: recipe[k] for k in SCENE if k != "identity"} for recipe in recipes]
        blurs = [[appearance.taps(sigma) for sigma in row.pop("blur")] for row in rows]
        longest = max(len(taps) for pair in blurs for taps in pair)
        for row, pair in zip(rows, blurs):
            row["taps"] = [np.pad(taps, (longest - len(taps)) // 2) for taps in pair]
        return {k: torch.from_numpy(np.stack([np.asarray(row[k], np.int64 if k in WHOLE else np.float32) for row in rows])) for k in rows[0]}

    @torch.no_grad()
    def forward(self, batch):
        """A batch of `collate`, moved to the device, as a dict of image uint8 (B, 3, S, S) in channels-last memory and the labels (B, ...)."""
        r = {k: v.to(self.template.device, non_blocking=True) for k, v in batch.items()}
        points, nearness, light, detail, eye = self.scene(r)
        antialias, size = self.studio.antialias, self.studio.size
        seen, weights = torchraster.zbuffer(points * antialias, nearness, self.triangles, size * antialias, self.chunk)
        picture, coverage = self.resolve(seen, weights, light, detail, eye)
        behind = torch.zeros_like(picture)
        paint(behind, r["background"], self.texture, coverage)
        picture += (1 - coverage[..., None]) * behind.clamp(0)
        paint(picture, r["obstacles"], self.texture, torch.zeros_like(coverage))
        return dict(image=develop(picture, r).permute(0, 3, 1, 2)) | {k: r[k] for k in LABELS}

    def scene(self, r):
        """Points (B, V, 2) px, nearness (B, V), light (B, V, 3), detail (B, V, 5) of all vertices, and eyes (B, 21), as `Studio.scene` has them."""
        n = len(self.template)
        neutral = self.template + (r["identity"] @ self.identity_basis).unflatten(1, (n, 3))
        vertices = neutral + (r["expression"] @ self.expression_basis).unflatten(1, (n, 3))
        on_skin = lambda values: torch.einsum("wk,bwkd->bwd", self.share, values[:, self.bind])
        ribbon, cloth = on_skin(vertices).unflatten(1, (2, 3, -1)), r["worn"][:, self.clothes]
        middle = ribbon[:, :, 1:2]
        worn = r["worn"].clone()
        worn[:, self.brows] = (middle + r["brow_width"].view(-1, 1, 1, 1, 1) * (ribbon - middle)).flatten(1, 3)
        turned = torch.cat((vertices, worn), 1) @ r["rotation"].mT
        turned[:, n:][:, self.clothes] = (cloth - self.neck) @ r["body"].mT + (self.neck @ r["rotation"].mT)[:, None]           # clothes not worn are a point, wherever it is
        areas = torchraster.vertex_areas(turned, self.surface)
        size = areas.norm(dim=-1)
        normals = areas / (size[..., None] + 1e-9)
        normals[:, n:][:, self.brows] = on_skin(normals)
        squeeze = (1 - size[:, :n] / (torchraster.vertex_areas(neutral, self.head).norm(dim=-1) + 1e-9)).clamp(0, .7)
        turned[:, :n] += normals[:, :n] * (self.whiskers * r["beard_length"][:, None])[..., None]
        albedo, gloss, detail = self.painter.albedo(r, squeeze)
        depth = r["distance"][:, None] - turned[..., 2]
        seen = turned[..., :2] * turned.new_tensor([1, -1]) / depth[..., None]
        points = ((seen - r["centre"][:, None]) / r["side"][:, None, None] + .5) * self.studio.size
        return points, 1e3 / (depth + self.recess), self.painter.light(r, normals, albedo, gloss), detail, self.painter.eyes(r)

    def resolve(self, seen, weights, light, detail, eye):
        """The mesh on black (B, S, S, 3), averaged over the samples of a pixel, and its coverage (B, S, S); see `rasterize.resolve`."""
        antialias, side = self.studio.antialias, len(self.texture)
        corners = torch.cat((light, detail), -1).flatten(0, 1)
        flat, weights = seen.flatten(), weights.flatten(0, 2)
        colours = light.new_zeros(len(flat), 3)
        for sample in (flat >= 0).nonzero().squeeze(1).split(self.chunk):
            triangle, picture = flat[sample], sample // seen[0].numel()
            a, b, c = self.triangles[triangle].T
            wa, wb = weights[sample].split(1, 1)
            wc, start = 1 - wa - wb, light.shape[1] * picture
            first = corners[start + a]
            mixed = (wa * first).addcmul_(wb, corners[start + b]).addcmul_(wc, corners[start + c])
            u, v = mixed[:, 3:5].long().unbind(1)
            texel = self.texture.flatten(0, 1)[(v & side - 1) * side + (u & side - 1)]
            factor = (1 + (mixed[:, 5:] * texel).sum(1)).clamp(.05).where(first[:, 5:].sum(1) > 0, 1.)
            colour = mixed[:, :3] * factor[:, None]
            ball = self.is_eye[triangle].nonzero().squeeze(1)
            x, y = (wa[ball] * self.eyes[a[ball]] + wb[ball] * self.eyes[b[ball]] + wc[ball] * self.eyes[c[ball]]).unbind(1)
            colour[ball] = eye_colour(x, y, eye[picture[ball]], mixed[ball, :3])
            colours[sample] = colour
        pixel = lambda samples: samples.view(len(seen), self.studio.size, antialias, self.studio.size, antialias, -1).mean((2, 4))
        return pixel(colours), pixel((flat >= 0).float())[..., 0]


def eye_colour(x, y, eye, light):
    """Colours (M, 3) at places x, y (M,) of eyeballs `eye` (M, 21) on which `light` (M, 3) falls; see `rasterize.eye_colour`."""
    white, iris, iris_radius, pupil_radius, shadow, glints = (part.squeeze(1) for part in eye.split((3, 3, 1, 1, 1, 12), 1))
    radius = (x * x + y * y).sqrt()
    lid = 1 - shadow * ((y + .1) * 2).clamp(0, 1)
    around = lid * (1 - .45 * ((radius - .45) * 2).clamp(0, 1)) * (1 - .6 * (1 - (radius - iris_radius) / .05).clamp(0))
    within = (1 + .15 * torch.sin(37 * torch.atan2(y, x))) * (1 - .7 * ((radius / iris_radius - .72) * 3.5).clamp(0, 1)) * lid
    radius = radius[:, None]
    albedo = torch.where(radius > iris_radius[:, None], white * around[:, None], torch.where(radius > pupil_radius[:, None], iris * within[:, None], .012))
    at_x, at_y, wide, strength = glints.unflatten(1, (3, 4)).unbind(2)
    glint = strength * (1 - ((x[:, None] - at_x).square() + (y[:, None] - at_y).square()) / (wide * wide + 1e-6)).clamp(0)
    return light * albedo + glint.sum(1, keepdim=True)


def paint(picture, boxes, texture, coverage):
    """Lay rounded boxes (B, K, 16) over `picture` (B, S, S, 3) in place, one after the other, where `coverage` (B, S, S) is below one; see `rasterize.paint`."""
    place, mask = torch.arange(picture.shape[1], device=picture.device) + .5, len(texture) - 1
    for box in boxes.unbind(1):
        who = (box[:, 7] > 0).nonzero().squeeze(1)              # few pictures have all boxes
        x, y, half_x, half_y, corner, angle, soft, opacity, *_, grain, stripes = box[who, :, None, None].unbind(1)
        start, end = box[who, None, None, 8:11], box[who, None, None, 11:14]
        dx, dy, cosine, sine = place - x, place[:, None] - y, angle.cos(), angle.sin()
        u, v = dx * cosine + dy * sine, dy * cosine - dx * sine
        qx, qy = u.abs() - half_x + corner, v.abs() - half_y + corner
        outside = (qx.clamp(0).square() + qy.clamp(0).square()).sqrt() + qx.maximum(qy).clamp(max=0) - corner
        alpha = (.5 - outside / soft).clamp(0, 1) * opacity * (coverage[who] < .999)
        row, column = v.long() & mask, u.long() & mask
        gain = 1 + grain * texture[row, column, 0] + stripes * texture[column, row, 1]
        goal = torch.lerp(start, end, (.5 + .5 * u / half_x).clamp(0, 1)[..., None]) * gain[..., None]
        picture[who] = torch.lerp(picture[who], goal, alpha[..., None])


# The camera ---------------------------------------------------------------------------------------------------------------------------------------------

def develop(picture, r):
    """Photos, uint8 (B, S, S, 3), of linear light `picture` (B, S, S, 3) taken as the shots in `r`, a batch of `TorchStudio.collate`, say; see `appearance.develop`."""
    per_picture = lambda name: r[name].view(len(picture), 1, 1, -1)
    middle = slice(picture.shape[1] // 4, 3 * picture.shape[1] // 4)
    gain = (r["exposure"] / (picture[:, middle, middle].mean((1, 2, 3)) + .02)) ** r["automatic"]
    picture = soften(picture, r["taps"]) * (gain[:, None] * r["balance"])[:, None, None]
    picture = picture.clamp(0, 4) ** (1 / per_picture("gamma"))
    grey = (picture * picture.new_tensor([.3, .59, .11])).sum(-1, keepdim=True)
    picture = .5 + (torch.lerp(grey, picture, per_picture("saturation")) - .5) * per_picture("contrast")
    wide = torch.from_numpy(appearance.taps(picture.shape[1] / 80)).to(picture).expand(len(picture), 2, -1)
    picture = picture + per_picture("sharpen") * (picture - soften(picture, wide))
    picture = picture + per_picture("noise") * noise(picture.shape[1], r["coarse"], r["hash"])
    image = (picture.clamp(0, 1) * 255 + .5).byte()
    stored = (r["quality"] > 0).nonzero().squeeze(1)
    image[stored] = jpeg(image[stored], r["quality"][stored])
    return image


def soften(picture, taps):
    """`picture` (B, S, S, 3) convolved along x and along y with `taps` (B, 2, T), T odd; edges repeated. As products with matrices (S, S), which differ from picture to picture as convolutions cannot."""
    size, radius = picture.shape[1], taps.shape[2] // 2
    place = torch.arange(size, device=picture.device)
    reached = place[:, None] + torch.arange(-radius, radius + 1, device=picture.device)
    along_x, along_y = torch.einsum("bkt,itj->kbij", taps, torch.eye(size, device=picture.device)[reached.clamp(0, size - 1)])
    return torch.einsum("byv,bvxc->byxc", along_y, torch.einsum("bxu,byuc->byxc", along_x, picture))


def noise(size, coarse, number):
    """Noise (B, size, size, 3) of standard deviation one in squares of `coarse` (B,) px, from the hash of each place that `number` (B,) seeds: the bits of `rasterize.add_noise`."""
    cell = torch.arange(size, device=number.device) // coarse[:, None]
    h = ((cell[:, :, None] * 8192 + cell[:, None])[..., None] * 3 + torch.arange(3, device=number.device)) ^ number[:, None, None, None]
    h = (h ^ h >> 16) * 0x7feb352d & 0xffffffff
    h = (h ^ h >> 15) * 0x046ca68b & 0xffffffff
    h = h ^ h >> 16
    return (((h & 255) + (h >> 8 & 255) + (h >> 16 & 255) + (h >> 24)).float() - 510) / 147.8


def jpeg(image, quality):
    """`image` uint8 (B, S, S, 3) written as JPEG files of `quality` (B,) 1 to 100 and read again.

    As libjpeg does it, colour at half the size (4:2:0) and smoothly enlarged, in its integer arithmetic but for the cosine transform.
    """
    size = image.shape[1]
    half, whole = (size + 1) // 2, size + -size % 16
    index = torch.arange(whole, device=image.device)
    padded = lambda planes, rows, columns: planes[..., index[:rows].clamp(max=planes.shape[-2] - 1), :][..., index[:columns].clamp(max=planes.shape[-1] - 1)]      # the last row and column repeated
    scale = torch.where(quality < 50, 5000 // quality, 200 - 2 * quality)[:, None, None, None]
    luma_steps, chroma_steps = ((JPEG_STEPS.to(image.device) * scale + 50) // 100).clamp(1, 255).float().unbind(1)
    red, green, blue = image.int().unbind(-1)
    luma = 19595 * red + 38470 * green + 7471 * blue + 32768 >> 16
    chroma = torch.stack((-11059 * red - 21709 * green + 32768 * blue, 32768 * red - 27439 * green - 5329 * blue), 1) + (128 << 16) + 32767 >> 16
    chroma = padded(chroma, 2 * half, whole)
    chroma = chroma.unflatten(3, (-1, 2)).unflatten(2, (-1, 2)).sum((3, 5)) + 1 + index[:whole // 2] % 2 >> 2
    luma = coded(padded(luma, whole, whole), luma_steps)[:, :size, :size].int()
    chroma = coded(padded(chroma, whole // 2, whole // 2).flatten(0, 1), chroma_steps.repeat_interleave(2, 0))[:, :half, :half].unflatten(0, (-1, 2))
    chroma = (16 * F.interpolate(chroma, scale_factor=2, mode="bilinear")[..., :size, :size] + 8 - index[:size] % 2).int() >> 4
    cb, cr = (chroma - 128).unbind(1)
    colours = luma + (91881 * cr + 32768 >> 16), luma + (-22554 * cb - 46802 * cr + 32768 >> 16), luma + (116130 * cb + 32768 >> 16)
    return torch.stack(colours, -1).clamp(0, 255).byte()


def coded(planes, steps):
    """`planes` (M, H, W) in 0 to 255, sides multiples of 8, with the cosine coefficients of each block of 8 x 8 rounded to multiples of `steps` (M, 8, 8)."""
    k = torch.arange(8, device=planes.device)
    cosine = torch.cos(torch.pi / 8 * k[:, None] * (k + .5)) / 2
    cosine[0] /= 2 ** .5
    steps = steps[:, None, :, None]
    eighths = torch.einsum("ij,mhjwk,lk->mhiwl", 8 * cosine, planes.float().sub(128).unflatten(2, (-1, 8)).unflatten(1, (-1, 8)), cosine).round()        # as libjpeg keeps them
    coefficients = eighths / (8 * steps)
    coefficients = (coefficients.abs() + .5).floor().copysign(coefficients) * steps          # halves away from zero
    return (torch.einsum("ij,mhiwl,lk->mhjwk", cosine, coefficients, cosine).flatten(3).flatten(1, 2) + 128.5).floor().clamp(0, 255)
