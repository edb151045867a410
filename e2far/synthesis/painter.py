"""From a person's looks and a scene's lamps to the light that leaves each vertex.

Batched torch: one picture on a CPU, hundreds on a GPU, the same code. Shading is done at the
vertices (Gouraud): at 2 mm between vertices and pictures of 1 to 2 mm a pixel nothing is lost, and
the rasteriser has only colours to interpolate.
"""

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from e2far.raster import smoothstep
from e2far.synthesis.wardrobe import AROUND, BROW_STEPS, RIM, RINGS

SKIN_WRAP = (0.22, 0.09, 0.05)  # light that passes through skin softens its shadows, red most
# How much redness, shadows under the eyes, lines of age and wrinkles take of red, green and blue.
TINTS = ((0.1, 1, 0.9), (0.35, 0.45, 0.4), (0.35, 0.45, 0.45), (0.8, 1.0, 1.0))


class Painter(nn.Module):
    """Albedo, gloss, detail and light of V vertices: n of a head, then those that it wears.

    tables: of `surface.head_tables`    wardrobe: wardrobe.Wardrobe
    Looks are what `people.draw_person` draws, as tensors with a batch dimension in front.
    """

    fields: torch.Tensor  # (n, FIELDS) patterns of blotches
    skin: torch.Tensor  # (n,) 1 on skin
    marks: torch.Tensor  # (n, len(mark_names)) of surface.face_maps
    inner: torch.Tensor  # (n, 4) of inside_colours
    teeth: torch.Tensor  # (n,) without gums
    eyeball: torch.Tensor  # (n,)
    hairline: torch.Tensor  # (n,) mm above it
    whiskers: torch.Tensor  # (n,) where they can grow
    place: torch.Tensor  # (n, 2) on the detail texture, texels
    sky: torch.Tensor  # (V,) share of the open sky
    shadows: torch.Tensor  # (V, DIRECTIONS) how freely each direction is seen
    wrap: torch.Tensor  # (V, 3) SKIN_WRAP on skin
    directions: torch.Tensor  # (DIRECTIONS, 3) unit vectors
    brow_alpha: torch.Tensor  # (M,) of brows
    brow_place: torch.Tensor  # (M, 2) of brows, texels
    cloth_place: torch.Tensor  # (C, 2) of clothes, texels

    def __init__(self, tables, wardrobe):
        super().__init__()
        n, self.parts = len(tables["skin"]), wardrobe.parts
        clothes, brows = self.parts["clothes"], self.parts["brows"]  # brows lie on the skin
        free = np.ones((wardrobe.count, tables["shadows"].shape[1]), np.float32)
        free[brows] = wardrobe.on_skin(tables["shadows"])
        sky = 0.8 * free[:, 0]
        sky[clothes] = np.repeat([0.35, 0.5, 0.65, 0.8, 0.85, 0.85], AROUND)
        sky[brows] = wardrobe.on_skin(tables["sky"][:, None])[:, 0]
        skin = np.concatenate((tables["skin"], np.zeros(wardrobe.count)))
        skin[n:][brows] = 1

        step = np.arange(BROW_STEPS + 1)
        along = np.interp(step, [0, 2, BROW_STEPS - 1, BROW_STEPS], [0.25, 1, 0.9, 0.3])
        self.mark_names = tuple(tables["marks"])
        tables = tables | dict(
            marks=np.stack(list(tables["marks"].values()), 1),
            sky=np.concatenate((tables["sky"], sky)),
            shadows=np.concatenate((tables["shadows"], free)),
            wrap=skin[:, None] * SKIN_WRAP,
            brow_alpha=np.tile(np.outer([0.35, 1.3, 0.4], along).ravel(), 2),
            brow_place=np.tile([(u, v) for u in (0, 8, 16) for v in 5 * step], (2, 1)),
            cloth_place=[(20 * u, 40 * v) for v in range(RINGS) for u in range(AROUND)],
        )
        for name, values in tables.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(values, np.float32)))

    def albedo(self, looks, squeeze):
        """Colours (B, V, 3), gloss (B, V) and detail (B, V, 5) of `looks`.

        squeeze: (B, n), share of its area that skin lost
        """
        head = self._head(looks, squeeze)
        worn = self._hair(looks), self._clothes(looks), self._glasses(looks), self._brows(looks)
        colour, gloss, detail = (torch.cat(parts, 1) for parts in zip(head, *worn))
        return colour.clamp(0.003, 1), gloss, detail

    def _head(self, r, squeeze):
        mark = dict(zip(self.mark_names, self.marks.unbind(1)))
        strength = lambda name: r[name][:, None]
        lipless, covered = 1 - mark["lips"], strength("covered")
        colour, hair = self._complexion(r, mark, squeeze), torch.lerp(r["hair"], r["cap"], covered)
        moustache, cheeks, chin = r["beard"].unsqueeze(-1).unbind(1)
        cheeks = mark["beard"].pow(1 + 4 * (1 - cheeks)) * cheeks
        beard = torch.stack((mark["moustache"] * moustache, cheeks, mark["chin"] * chin))
        beard = beard.amax(0) * lipless
        scalp = smoothstep((self.hairline - strength("hairline")) / 7.0) * strength("scalp")

        lips = smoothstep((mark["lips"] - 0.3) / 0.5) * strength("lips_strength")
        for mask, goal in (
            (mark["lid"] * strength("shadow_strength"), r["shadow"]),
            (mark["lash"] * strength("lash"), colour.new_full((1, 3), 0.012)),
            (lips, r["lips"]),
            (self.whiskers * strength("stubble"), r["skin"] * 0.3),
            (beard, r["whiskers"]),
            (scalp, hair),
        ):
            # Most faces wear little; on a GPU asking costs more than doing.
            if mask.device.type != "cpu" or mask.any():
                goal, mask = goal[:, None].expand_as(colour), mask.clamp(0, 1)[..., None]
                colour = torch.lerp(colour, goal, mask)
        colour = torch.lerp(colour, self.inner[:, :3], self.inner[:, 3:])
        colour = torch.where(self.eyeball[:, None] > 0.5, colour.new_ones(()), colour)

        gloss = strength("gloss") * self.skin + strength("lip_gloss") * mark["lips"]
        gloss = gloss * (1 - scalp) * (1 - 0.7 * beard) + 0.35 * self.teeth
        whiskers = 0.3 * self.whiskers * strength("stubble")
        freckled = mark["cheek"] + mark["nose"] + 0.15 * self.skin
        detail = self._detail(
            self.place,
            grain=strength("pores") * self.skin + whiskers + 0.22 * beard,
            strands=0.2 * beard + 0.35 * scalp * (1 - covered),
            spots=strength("freckles") * freckled * lipless,
        )
        return colour, gloss, detail

    def _complexion(self, r, mark, squeeze):
        """Colours (B, n, 3) of bare skin."""
        colour = r["skin"][:, None] * (1 + (r["blotches"] @ self.fields.T))[..., None]
        cheeks, left = mark["cheek"] + 0.8 * mark["nose"], 1
        places = dict(redness=cheeks, under_eye=mark["under_eye"], age_lines=mark["lines"])
        places["wrinkles"] = squeeze
        for (name, place), tint in zip(places.items(), colour.new_tensor(TINTS)):
            left = left - (r[name][:, None] * place)[..., None] * tint
        return colour * left.clamp(0.15)  # ty: ignore[missing-union-attribute]

    @staticmethod
    def _detail(place, grain, strands, spots):
        """Detail (B, m, 5), as raster.resolve takes it, from places (m, 2) or (B, m, 2)."""
        strengths = torch.stack((grain, strands, spots), -1)
        return torch.cat((place.expand(len(strengths), -1, -1), strengths), -1)

    # Colours, gloss and detail of what is worn.

    def _hair(self, r):
        loose = (1 - r["covered"])[:, None].expand_as(r["hair_u"])
        colour = torch.lerp(r["hair"], r["cap"], r["covered"][:, None])
        place = torch.stack((r["hair_u"], r["hair_v"]), -1)
        detail = self._detail(place, 0.12 * (1 - loose), 0.42 * loose, 0 * loose)
        return colour[:, None].expand(*loose.shape, 3), 0.12 * loose, detail

    def _clothes(self, r):
        collar, cloth = r["collar"][:, None], r["cloth"][:, None]
        rows = collar.expand(-1, 2 * AROUND, 3), cloth.expand(-1, (RINGS - 2) * AROUND, 3)
        none = cloth.new_zeros(len(cloth), RINGS * AROUND)
        stripes = r["cloth_stripes"][:, None] + none
        return torch.cat(rows, 1), none, self._detail(self.cloth_place, none + 0.1, stripes, none)

    def _glasses(self, r):
        count = self.parts["glasses"].stop - self.parts["glasses"].start
        frame, lens = r["frame"][:, None], r["lens"][:, None]
        rims, lenses = 4 * RIM, 2 * RIM + 2
        runs = (frame, rims), (lens, lenses), (frame, count - rims - lenses)
        colour = torch.cat([part.expand(-1, length, 3) for part, length in runs], 1)
        return colour, torch.full_like(colour[..., 0], 0.5), colour.new_zeros(len(frame), count, 5)

    def _brows(self, r):
        alpha = self.brow_alpha * r["brow_strength"][:, None]
        skin, brow = (r[k][:, None].expand(*alpha.shape, 3) for k in ("skin", "brow"))
        none = torch.zeros_like(alpha)
        detail = self._detail(self.brow_place, none, 0.55 * alpha, none)
        return torch.lerp(skin, brow, alpha[..., None].clamp(0, 1)), none, detail

    def light(self, r, normals, albedo, gloss):
        """Light (B, V, 3) that leaves vertices with unit `normals` (B, V, 3) in the camera's frame.

        r: harmonics (B, 9, 3) and lamps (B, L, 8) as `scenes.draw_light` draws them, rotation
            (B, 3, 3) of the head, shell (B,) whether hair shades the forehead, shade (B,) strength
            of all shadows
        """
        x, y, z = normals.unbind(-1)
        linear, quadratic = (y, z, x), (x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y)
        basis = torch.stack((torch.ones_like(x), *linear, *quadratic), -1)
        n, strength = len(self.hairline), r["shade"][:, None]
        sky = 1 - strength * (1 - self.sky)
        fringe = torch.exp(self.hairline / 16.0) * (self.hairline < 0)
        under_hair = 1 - 0.45 * strength * r["shell"][:, None] * fringe
        sky = torch.cat((sky[:, :n] * under_hair, sky[:, n:].expand(len(x), -1)), 1)
        total = (basis @ r["harmonics"]).clamp(0) * sky[..., None]
        toward, colour, softness, exponent = r["lamps"].split((3, 3, 1, 1), -1)
        # Of each known direction for each lamp, in the head's frame.
        weights = torch.softmax(softness * (toward @ r["rotation"] @ self.directions.T), -1)
        free = 1 - strength[..., None] * (1 - (self.shadows @ weights.mT))  # (B, V, L)
        half = normalize(toward + toward.new_tensor([0, 0, 1]), dim=-1)
        cosine, mirror = normals @ toward.mT, (normals @ half.mT).clamp(0)
        mirror = gloss[..., None] * mirror.pow(exponent.mT) * free
        for k in range(colour.shape[1]):
            received = ((cosine[..., k, None] + self.wrap) / (1 + self.wrap)).clamp(0)
            total = total + received * free[..., k, None] * colour[:, None, k]
        return albedo * total + mirror @ (0.5 * colour)

    @staticmethod
    def eyes(r):
        """What `raster.eye_colour` takes, (B, 21), of looks and lamps `r`."""
        toward, colour, _, exponent = r["lamps"].split((3, 3, 1, 1), -1)
        half = normalize(toward + toward.new_tensor([0, 0, 1]), dim=-1) @ r["rotation"]
        strength = colour.mean(-1, keepdim=True) * 2.2 * (half[..., 2:] > 0.3)
        glints = torch.cat((half[..., :2], 0.05 + 0.5 / exponent, strength), -1)
        sizes = torch.stack((r["iris_radius"], r["pupil_radius"], r["lid_shadow"]), 1)
        return torch.cat((r["white"], r["iris"], sizes, glints.flatten(1)), 1)
