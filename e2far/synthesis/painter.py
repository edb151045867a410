"""From a person's looks and a scene's lamps to the light that leaves each vertex. Batched torch: one picture on a CPU, hundreds on a GPU, the same code.

Shading is done at the vertices (Gouraud): at 2 mm between vertices and pictures of one to two millimetres a pixel nothing is lost, and the rasteriser has only colours to interpolate.
"""

import numpy as np
import torch
from torch import nn

from e2far.raster import smoothstep
from e2far.synthesis import people, scenes
from e2far.synthesis.wardrobe import BROW_STEPS, CLOTHES, RIM

SKIN_WRAP = (0.22, 0.09, 0.05)  # light that passes through skin softens its shadows, red most
MOUTH, TEETH, TONGUE, GUM, NOSTRIL = (
    (0.10, 0.025, 0.022),
    (0.80, 0.74, 0.61),
    (0.32, 0.10, 0.09),
    (0.34, 0.12, 0.11),
    (0.035, 0.012, 0.01),
)


def inside_colours(maps, attributes):
    """Colour and opacity (N, 4) of what skin's colour does not reach: mouth, teeth with their gums and gaps, tongue, nostrils."""
    zero = np.zeros(len(maps["teeth"]))
    gum, gap, nostril = (attributes.get(k, zero)[:, None] for k in ("gum", "gap", "nostril"))
    teeth = (TEETH + gum * np.subtract(GUM, TEETH)) * (1 - 0.85 * gap)
    colours = np.where(
        maps["teeth"][:, None] > 0.5, teeth, np.broadcast_to(NOSTRIL, (len(zero), 3))
    )
    for name, colour in (("mouth", MOUTH), ("tongue", TONGUE)):
        colours[maps[name] > 0.5] = colour
    cover = np.max([maps[k] for k in ("mouth", "teeth", "tongue")] + [0.95 * nostril[:, 0]], axis=0)
    return np.concatenate((colours, cover[:, None]), 1)


class Painter(nn.Module):
    """Albedo, gloss, detail and light of the vertices of a head (n) and what it wears (w), n + w = V.

    mean: (n, 3) mm, which carries patterns and shadows    landmarks: (68,)    triangles: (F, 3) of the head    attributes: name -> (n,)    wardrobe: wardrobe.Wardrobe
    """

    fields: torch.Tensor
    shadows: torch.Tensor
    sky: torch.Tensor
    skin: torch.Tensor
    place: torch.Tensor
    brow_alpha: torch.Tensor
    brow_place: torch.Tensor
    directions: torch.Tensor
    hairline: torch.Tensor
    marks: torch.Tensor
    wrap: torch.Tensor
    inner: torch.Tensor
    teeth: torch.Tensor
    eyeball: torch.Tensor
    whiskers: torch.Tensor

    def __init__(self, mean, landmarks, triangles, attributes, wardrobe):
        super().__init__()
        maps = people.face_maps(mean, landmarks, attributes)
        inside = np.max([maps[k] for k in ("mouth", "teeth", "tongue")], axis=0) > 0.5
        shadows, sky = scenes.head_shadows(mean, triangles, inside)
        skin = (1 - np.max([maps[k] for k in ("eye", "mouth", "teeth", "tongue")], axis=0)).clip(0)
        sky = np.where(maps["eye"] > 0.5, sky.clip(0.6), sky)
        self.parts, w = wardrobe.parts, wardrobe.count
        brows = self.parts["brows"]
        bind, share = wardrobe.bind[brows], wardrobe.share[brows]
        on_skin = lambda values: np.einsum("bk,bk...->b...", share, values[bind])
        worn_sky, worn_shadows = np.full(w, 0.8), np.ones((w, shadows.shape[1]))
        worn_sky[brows], worn_shadows[brows] = on_skin(sky), on_skin(shadows)
        clothes = self.parts["clothes"]
        worn_sky[clothes] = np.repeat([0.35, 0.5, 0.65, 0.8, 0.85, 0.85], CLOTHES[0])
        edge = np.array([0.35, 1.3, 0.4])[:, None] * np.interp(
            np.arange(BROW_STEPS + 1), [0, 2, BROW_STEPS - 1, BROW_STEPS], [0.25, 1, 0.9, 0.3]
        )
        azimuth = np.arctan2(mean[:, 0], mean[:, 2] - mean[:, 2].mean())
        place = (
            np.stack((azimuth * 88 / people.TEXEL_MM, -mean[:, 1] / people.TEXEL_MM), 1)
            + people.TEXTURE * 8
        )
        brow_place = np.tile(
            np.stack(
                (np.repeat([0, 8, 16], BROW_STEPS + 1), np.tile(np.arange(BROW_STEPS + 1) * 5, 3)),
                1,
            ),
            (2, 1),
        )
        columns = dict(
            fields=people.smooth_fields(mean),
            shadows=np.concatenate((shadows, worn_shadows)),
            sky=np.concatenate((sky, worn_sky)),
            skin=skin,
            place=place,
            brow_alpha=np.tile(edge.ravel(), 2),
            brow_place=brow_place,
            directions=scenes.sphere_directions(),
            hairline=attributes.get("hairline", np.full(len(mean), -99.0)),
            marks=np.stack([maps[k] for k in MARKS], 1),
            wrap=np.concatenate((skin, np.zeros(w)))[:, None] * SKIN_WRAP,
            inner=inside_colours(maps, attributes),
            teeth=maps["teeth"] * (1 - attributes.get("gum", 0.0 * skin)),
            eyeball=np.concatenate((maps["eye"], np.zeros(w))),
        )
        mark = dict(zip(MARKS, columns["marks"].astype(np.float32).T))
        columns["whiskers"] = np.maximum(mark["beard"], mark["moustache"]) * (
            1 - mark["lips"]
        )  # where they can grow
        columns["wrap"][len(mean) + brows.start : len(mean) + brows.stop] = SKIN_WRAP
        for name, values in columns.items():
            self.register_buffer(name, torch.from_numpy(np.asarray(values, np.float32)))

    def albedo(self, r, squeeze):
        """Colours (B, V, 3), gloss (B, V), detail (B, V, 5) of `r`, a batch of looks (see people.draw_person, arrays with B in front); squeeze: (B, n), share of its area that skin lost."""
        mark = dict(zip(MARKS, self.marks.unbind(1)))
        col = lambda name: r[name][:, None, None] if r[name].ndim == 1 else r[name][:, None]
        colour = col("skin") * (1 + (r["blotches"] @ self.fields.T))[..., None]
        tint = colour.new_tensor(
            [[0.1, 1, 0.9], [0.35, 0.45, 0.4], [0.35, 0.45, 0.45], [0.8, 1.0, 1.0]]
        )
        colour = colour * (
            1
            - (r["redness"][:, None] * (mark["cheek"] + 0.8 * mark["nose"]))[..., None] * tint[0]
            - (r["under_eye"][:, None] * mark["under_eye"])[..., None] * tint[1]
            - (r["age_lines"][:, None] * mark["lines"])[..., None] * tint[2]
            - (r["wrinkles"][:, None] * squeeze)[..., None] * tint[3]
        ).clamp(0.15)

        def blend(mask, goal):
            nonlocal colour
            if (
                mask.device.type != "cpu" or mask.any()
            ):  # most faces wear little; on a GPU asking costs more than doing
                colour = torch.lerp(colour, goal.expand_as(colour), mask.clamp(0, 1)[..., None])

        blend(mark["lid"] * r["shadow_strength"][:, None], col("shadow"))
        blend(mark["lash"] * r["lash"][:, None], colour.new_full((1, 1, 3), 0.012))
        blend(smoothstep((mark["lips"] - 0.3) / 0.5) * r["lips_strength"][:, None], col("lips"))
        blend(self.whiskers * r["stubble"][:, None], col("skin") * 0.3)
        moustache, cheeks, chin = r["beard"].unbind(1)
        beard = torch.stack(
            (
                mark["moustache"] * moustache[:, None],
                mark["beard"].pow(1 + 4 * (1 - cheeks[:, None])) * cheeks[:, None],
                mark["chin"] * chin[:, None],
            )
        ).amax(0) * (1 - mark["lips"])
        blend(beard, col("whiskers"))
        scalp = smoothstep((self.hairline - r["hairline"][:, None]) / 7.0) * r["scalp"][:, None]
        blend(scalp, torch.lerp(col("hair"), col("cap"), col("covered")))
        colour = torch.lerp(colour, self.inner[:, :3], self.inner[:, 3:])
        colour = torch.where(
            self.eyeball[: colour.shape[1], None] > 0.5, colour.new_ones(()), colour
        )
        gloss = (r["gloss"][:, None] * self.skin + r["lip_gloss"][:, None] * mark["lips"]) * (
            1 - scalp
        ) * (1 - 0.7 * beard) + 0.35 * self.teeth
        strengths = torch.stack(
            (
                r["pores"][:, None] * self.skin
                + 0.3 * self.whiskers * r["stubble"][:, None]
                + 0.22 * beard,
                0.2 * beard + 0.35 * scalp * (1 - r["covered"][:, None]),
                r["freckles"][:, None]
                * (mark["cheek"] + mark["nose"] + 0.15 * self.skin)
                * (1 - mark["lips"]),
            ),
            -1,
        )
        detail = torch.cat((self.place.expand(len(colour), -1, -1), strengths), -1)
        return tuple(
            torch.cat(pair, 1)
            for pair in zip((colour.clamp(0.003, 1), gloss, detail), self._worn(r))
        )

    def _worn(self, r):
        """Colours, gloss and detail of what is worn."""
        count, device = len(r["skin"]), r["skin"].device
        size = lambda part: self.parts[part].stop - self.parts[part].start
        spread = lambda colour, part: colour[:, None].expand(count, size(part), 3)
        hair = torch.lerp(r["hair"], r["cap"], r["covered"][:, None])
        clothes = torch.cat(
            (
                r["collar"][:, None].expand(-1, 2 * CLOTHES[0], 3),
                r["cloth"][:, None].expand(-1, (CLOTHES[1] - 2) * CLOTHES[0], 3),
            ),
            1,
        )
        lenses = torch.cat(
            (
                r["frame"][:, None].expand(-1, 4 * RIM, 3),
                r["lens"][:, None].expand(-1, 2 * RIM + 2, 3),
                r["frame"][:, None].expand(-1, size("glasses") - 6 * RIM - 2, 3),
            ),
            1,
        )
        brows = torch.lerp(
            spread(r["skin"], "brows"),
            spread(r["brow"], "brows"),
            (self.brow_alpha * r["brow_strength"][:, None])[..., None].clamp(0, 1),
        )
        colour = torch.cat((spread(hair, "hair"), clothes, lenses, brows), 1)
        zeros = lambda part: torch.zeros(count, size(part), device=device)
        gloss = torch.cat(
            (
                zeros("hair") + 0.12 * (1 - r["covered"][:, None]),
                zeros("clothes"),
                zeros("glasses") + 0.5,
                zeros("brows"),
            ),
            1,
        )
        loose = (1 - r["covered"])[:, None].expand(-1, size("hair"))
        detail = torch.cat(
            (
                torch.stack(
                    (r["hair_u"], r["hair_v"], 0.12 * (1 - loose), 0.42 * loose, zeros("hair")), -1
                ),
                torch.stack(
                    (
                        r["cloth_u"],
                        r["cloth_v"],
                        zeros("clothes") + 0.1,
                        r["cloth_stripes"][:, None] + zeros("clothes"),
                        zeros("clothes"),
                    ),
                    -1,
                ),
                colour.new_zeros(count, size("glasses"), 5),
                torch.cat(
                    (
                        self.brow_place.expand(count, -1, -1),
                        torch.stack(
                            (
                                zeros("brows"),
                                0.55 * self.brow_alpha * r["brow_strength"][:, None],
                                zeros("brows"),
                            ),
                            -1,
                        ),
                    ),
                    -1,
                ),
            ),
            1,
        )
        return colour.clamp(0.003, 1), gloss, detail

    def light(self, r, normals, albedo, gloss):
        """Light (B, V, 3) that leaves the vertices with unit `normals` (B, V, 3) in the camera's frame.

        r: harmonics (B, 9, 3) and lamps (B, L, 8) as scenes.draw_light draws them, rotation (B, 3, 3) of the head, shell (B,) whether hair shades the forehead, shade (B,) strength of all shadows
        """
        x, y, z = normals.unbind(-1)
        basis = torch.stack(
            (torch.ones_like(x), y, z, x, x * y, y * z, 3 * z * z - 1, x * z, x * x - y * y), -1
        )
        n, strength = len(self.hairline), r["shade"][:, None]
        sky = 1 - strength * (1 - self.sky)
        sky = torch.cat(
            (
                sky[:, :n]
                * (
                    1
                    - 0.45
                    * strength
                    * r["shell"][:, None]
                    * torch.exp(self.hairline / 16.0)
                    * (self.hairline < 0)
                ),
                sky[:, n:].expand(len(x), -1),
            ),
            1,
        )
        total = (basis @ r["harmonics"]).clamp(0) * sky[..., None]
        toward, colour, softness, exponent = r["lamps"].split((3, 3, 1, 1), -1)
        weights = torch.softmax(
            softness * (toward @ r["rotation"] @ self.directions.T), -1
        )  # of each known direction for each lamp, in the head's frame
        free = 1 - strength[..., None] * (1 - (self.shadows @ weights.mT))  # (B, V, L)
        half = torch.nn.functional.normalize(toward + toward.new_tensor([0, 0, 1]), dim=-1)
        cosine, mirror = normals @ toward.mT, (normals @ half.mT).clamp(0)
        mirror = gloss[..., None] * mirror.pow(exponent.mT) * free
        for k in range(colour.shape[1]):
            received = ((cosine[..., k, None] + self.wrap) / (1 + self.wrap)).clamp(0) * free[
                ..., k, None
            ]
            total = total + received * colour[:, None, k]
        return albedo * total + mirror @ (0.5 * colour)

    @staticmethod
    def eyes(r):
        """What raster.eye_colour wants of each picture, (B, 21)."""
        toward, colour, _, exponent = r["lamps"].split((3, 3, 1, 1), -1)
        half = (
            torch.nn.functional.normalize(toward + toward.new_tensor([0, 0, 1]), dim=-1)
            @ r["rotation"]
        )  # in the head's frame
        glints = torch.cat(
            (
                half[..., :2],
                0.05 + 0.5 / exponent,
                colour.mean(-1, keepdim=True) * 2.2 * (half[..., 2:] > 0.3),
            ),
            -1,
        )
        return torch.cat(
            (
                r["white"],
                r["iris"],
                r["iris_radius"][:, None],
                r["pupil_radius"][:, None],
                r["lid_shadow"][:, None],
                glints.flatten(1),
            ),
            1,
        )


MARKS = ("cheek", "nose", "under_eye", "lines", "lid", "lash", "lips", "beard", "moustache", "chin")
