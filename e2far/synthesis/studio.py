"""Synthetic photos of faces with their coefficients: a pure function of (seed, split, person, picture), so any machine makes any part in any order.

A picture is drawn twice: first its numbers (a recipe: who, what expression, which light, which camera; NumPy), then the picture from its numbers (geometry and light in torch, for one picture on a CPU or a batch
on a GPU; then a rasteriser and the camera).
"""

from functools import lru_cache

import numpy as np
import torch

from e2far import camera, raster
from e2far.facemodels import arkit
from e2far.synthesis import develop, people, scenes
from e2far.synthesis.painter import Painter
from e2far.synthesis.wardrobe import COLUMNS, RIM, ROWS, Wardrobe

SPLITS = (
    "people",
    "train",
    "validation",
    "test",
    "restyled",
    "repeated",
)  # each draws its own persons: the split's number is part of every seed
RESTYLED = (
    "restyled",
)  # a person of these looks new in every picture: skin, hair, beard, make-up, clothes; only the shape of the face tells who it is
VARIATIONS = (
    "poses",
    "hair",
    "glasses",
    "obstacles",
    "beards",
    "make-up",
    "clothes",
    "shadows",
    "texture",
    "wrinkles",
    "backgrounds",
)


class Studio:
    """Takes pictures of random people.

    model: MorphableModel    size: px of the square picture    yaw_deg, pitch_deg, roll_deg: half-ranges of the pose    antialias: samples along a pixel's side
    without: names out of VARIATIONS to leave out, to see what each is worth
    loose_boxes: share of the pictures whose square is up to a fifth of its side off, and up to a fifth too large or small, as careless boxes are
    """

    def __init__(
        self,
        model,
        size,
        yaw_deg=80.0,
        pitch_deg=35.0,
        roll_deg=60.0,
        antialias=2,
        without=(),
        loose_boxes=0.0,
    ):
        if unknown := set(without) - set(VARIATIONS):
            raise ValueError(
                f"no variation is called {', '.join(sorted(unknown))}: choose from {', '.join(VARIATIONS)}"
            )
        self.model, self.size, self.antialias, self.without, self.loose_boxes = (
            model,
            size,
            antialias,
            frozenset(without),
            loose_boxes,
        )
        self.range = np.deg2rad(
            [min(yaw_deg, 45.0) if "poses" in self.without else yaw_deg, pitch_deg, roll_deg]
        )
        self.template, self.landmarks = model.mean.numpy(), model.landmarks.numpy()
        self.identity_basis = model.identity_basis.numpy().reshape(
            3 * model.n_vertices, model.n_identity
        )
        self.expression_basis = model.expression_basis.numpy().reshape(
            3 * model.n_vertices, model.n_expression
        )
        self.units_to_modes = model.units_to_modes.numpy() if len(model.unit_names) else None
        attributes = {k: v.numpy() for k, v in model.attributes.items()}
        self.head = np.ascontiguousarray(model.triangles.numpy(), dtype=np.int32)
        self.wardrobe = Wardrobe(self.template, self.landmarks, self.head, attributes)
        n, worn = model.n_vertices, self.wardrobe.count
        self.triangles = np.concatenate((self.head, self.wardrobe.triangles + n)).astype(np.int32)
        self.surface = np.concatenate((self.head, self.wardrobe.surface + n)).astype(np.int32)
        self.texture = people.make_texture()
        self.eyes, self.recess = np.zeros((n + worn, 3), np.float32), np.zeros(n + worn, np.float32)
        self.eyes[:n] = np.stack(
            [attributes.get(k, np.zeros(n)) for k in ("eye", "eye_x", "eye_y")], 1
        )
        self.recess[:n] = model.recess.numpy()
        self.recess[n:][self.wardrobe.parts["brows"]] = -3.5  # brows lie on the skin
        self.painter = Painter(self.template, self.landmarks, self.head, attributes, self.wardrobe)
        self.person = lru_cache(2)(self._person)  # pictures of one person come one after the other

    # The numbers ----------------------------------------------------------------------------------------------------------------------------------------

    def draw_person(self, seed, split, person, picture=0):
        """Identity coefficients (K,) and looks of one person of one split; the looks are the same in all pictures but in RESTYLED splits."""
        rng = np.random.default_rng([seed, SPLITS.index(split), person])
        identity = rng.standard_normal(self.model.n_identity).clip(-3, 3).astype(np.float32)
        if split in RESTYLED:
            rng = np.random.default_rng([seed, SPLITS.index(split), person, picture + 1, 1])
        looks, out = people.draw_person(rng), self.without
        looks |= {"shell": 0.0} if "hair" in out else {}
        looks |= {"glasses": 0.0} if "glasses" in out else {}
        looks |= (
            {"beard": np.zeros(3), "stubble": 0.0, "beard_length": 0.0} if "beards" in out else {}
        )
        looks |= (
            {"shadow_strength": 0.0, "lash": 0.0, "lips_strength": 0.5} if "make-up" in out else {}
        )
        looks |= (
            {"pores": 0.0, "freckles": 0.0, "blotches": 0 * looks["blotches"]}
            if "texture" in out
            else {}
        )
        looks |= {"wrinkles": 0.0, "age_lines": 0.0, "under_eye": 0.0} if "wrinkles" in out else {}
        return identity, looks

    def draw_expression(self, rng):
        """Expression coefficients (L,): a mixture of the model's named units, or normal draws where it names none."""
        if self.units_to_modes is None:
            return rng.standard_normal(self.model.n_expression).astype(np.float32)
        return self.units_to_modes @ arkit.draw_units(self.model.unit_names, rng)

    def draw_angles(self, rng):
        """Yaw, pitch and roll in radians over the whole range, small ones more often; a third of the heads may be tilted as far as the range goes."""
        side, tilted = rng.uniform(-1, 1), rng.random() < 0.35
        pitch, roll = rng.triangular(-1, 0, 1, 2) * ([1.0, 1.0] if tilted else [0.7, 0.35])
        return np.array([side * abs(side) ** 0.3, pitch, roll]) * self.range

    def photograph(self, seed, split, person, picture):
        """Picture number `picture` of `person`: a dict of image uint8 (S, S, 3), identity (K,), expression (L,), pose (9,), landmarks (68, 2) px, person."""
        return self.expose(self.recipe(seed, split, person, picture)) | dict(person=person)

    def recipe(self, seed, split, person, picture):
        """All numbers of picture number `picture` of `person` (see `draw_scene`)."""
        rng = np.random.default_rng([seed, SPLITS.index(split), person, picture + 1])
        worn = self.person(seed, split, person, picture if split in RESTYLED else 0)
        expression, angles = self.draw_expression(rng), self.draw_angles(rng)
        return self.draw_scene(worn, expression, angles, rng)

    def _person(self, seed, split, person, picture=0):
        return self.dress(*self.draw_person(seed, split, person, picture))

    def dress(self, identity, looks):
        """A person ready for pictures: looks, neutral head (N, 3) mm, and places (W, 3) mm of what they wear in the head's frame; what they do not wear is drawn to a point."""
        wardrobe = self.wardrobe
        neutral = self.template + (self.identity_basis @ identity).reshape(-1, 3)
        place = np.zeros((wardrobe.count, 3), np.float32)
        looks = dict(looks)
        hair, clothes, glasses = (wardrobe.parts[k] for k in ("hair", "clothes", "glasses"))
        looks["hair_u"], looks["hair_v"] = np.zeros((2, hair.stop - hair.start))
        if looks["shell"] and wardrobe.has_hair:
            at, bind, along = wardrobe.hair(looks["style"])
            place[hair] = at + neutral[bind] - self.template[bind]
            looks["hair_u"], looks["hair_v"] = (
                np.tile(np.arange(COLUMNS) * 14.0, ROWS),
                along / people.TEXEL_MM,
            )
        if "clothes" not in self.without:
            place[clothes] = wardrobe.clothes(**looks["body"]) + (
                neutral[self.landmarks[8]] - self.template[self.landmarks[8]]
            ) * [0, 0.7, 0]
        if looks["glasses"]:
            at = np.array([neutral[vertices].mean(0) for vertices in wardrobe.glasses_anchors])
            place[glasses] = wardrobe.glasses(at, **looks["rims"])
            if not looks["lens_dark"]:
                place[glasses][4 * RIM : 6 * RIM + 2] = 0  # clear lenses are not drawn
        areas = np.linalg.norm(raster.vertex_areas(neutral.astype(np.float32), self.head), axis=1)
        numbers = {
            k: np.asarray(v, np.float32) for k, v in looks.items() if not isinstance(v, dict)
        }
        return dict(identity=identity, looks=numbers, neutral=neutral, worn=place, areas=areas)

    # The picture ----------------------------------------------------------------------------------------------------------------------------------------

    def render(self, person, expression, angles, rng):
        """A picture of `person` (of `dress`) with given expression coefficients and pose (yaw, pitch, roll in radians); camera, light and background come from `rng`."""
        return self.expose(self.draw_scene(person, expression, angles, rng))

    def draw_scene(self, person, expression, angles, rng):
        """All other numbers of one picture: a recipe, from which `expose` makes the same picture every time."""
        size = self.size
        body_angles = angles * rng.uniform(0, 1.1, 3) * [1, 0.4, 0.4] + rng.normal(
            0, [0.15, 0.05, 0.05]
        )
        rotation, body = camera.euler_to_matrix(
            torch.from_numpy(np.stack((angles, body_angles)))
        ).numpy()
        vertices = person["neutral"] + (self.expression_basis @ expression).reshape(-1, 3)
        points = vertices[self.landmarks]
        turned = points @ rotation.T
        distance = np.exp(
            rng.uniform(np.log(320), np.log(2400))
        )  # mm, an arm's length to a long lens
        seen = turned[:, :2] * [1, -1] / (distance - turned[:, 2:])
        x0, y0, x1, y1 = camera.crop_box(torch.from_numpy(seen)).numpy()
        side = (x1 - x0) * rng.uniform(0.88, 1.15)
        centre = np.array([x0 + x1, y0 + y1]) / 2 + rng.normal(0, 0.035, 2).clip(-0.1, 0.1) * side
        if self.loose_boxes and rng.random() < self.loose_boxes:
            side *= np.exp(rng.uniform(np.log(0.8), np.log(1.2)))
            centre += rng.uniform(-0.2, 0.2, 2) * side
        landmarks = ((seen - centre) / side + 0.5) * size
        scale, translation = camera.fit_weak_perspective(
            *(torch.from_numpy(np.asarray(x, float)) for x in (points, landmarks, rotation))
        )
        harmonics, lamps = scenes.draw_light(rng)
        background, obstacles, shot = (
            scenes.draw_background(size, rng),
            scenes.draw_obstacles(size, person["looks"]["skin"], person["looks"]["cloth"], rng),
            scenes.draw_camera(size, rng),
        )
        if "backgrounds" in self.without:
            background[1:] = 0
        if "obstacles" in self.without:
            obstacles[:] = 0
        return dict(
            person=person,
            expression=expression,
            vertices=vertices,
            rotation=rotation,
            body=body,
            distance=distance,
            centre=centre,
            side=side,
            harmonics=harmonics,
            lamps=lamps,
            shade=0.0 if "shadows" in self.without else rng.uniform(0.5, 1),
            background=background,
            obstacles=obstacles,
            shot=shot,
            pose=camera.encode_pose(torch.from_numpy(rotation), scale, translation, size).numpy(),
            landmarks=landmarks,
        )

    def expose(self, recipe):
        """The picture and labels of one `recipe`."""
        points, nearness, radiance, detail, eye = self.scene(recipe)
        size, person = self.size, recipe["person"]
        seen, weights = raster.zbuffer(
            points * np.float32(self.antialias), nearness, self.triangles, size * self.antialias
        )
        picture = np.zeros((size, size, 3), np.float32)
        surface = raster.Surface(radiance, detail, self.texture, self.eyes, eye)
        coverage = raster.resolve(seen, weights, self.triangles, surface, picture, self.antialias)
        behind = np.zeros_like(picture)
        develop.paint(behind, recipe["background"].astype(np.float32), self.texture, coverage)
        picture += (1 - coverage[..., None]) * behind.clip(0)
        develop.paint(
            picture, recipe["obstacles"].astype(np.float32), self.texture, np.zeros_like(coverage)
        )
        return dict(
            image=develop.develop(picture, recipe["shot"]),
            identity=person["identity"],
            expression=recipe["expression"].astype(np.float32),
            pose=recipe["pose"].astype(np.float32),
            landmarks=recipe["landmarks"].astype(np.float32),
        )

    def scene(self, recipe):
        """Points (V, 2) px, nearness (V,), light (V, 3), detail (V, 5) of all vertices of one recipe, and its eyes (21,)."""
        person, looks, n = recipe["person"], recipe["person"]["looks"], len(self.template)
        brows, clothes = self.wardrobe.parts["brows"], self.wardrobe.parts["clothes"]
        vertices, rotation = recipe["vertices"], recipe["rotation"].astype(np.float32)
        worn = person["worn"].copy()
        ribbon = np.einsum(
            "bk,bkd->bd", self.wardrobe.share[brows], vertices[self.wardrobe.bind[brows]]
        ).reshape(2, 3, -1, 3)
        worn[brows] = (ribbon[:, 1:2] + looks["brow_width"] * (ribbon - ribbon[:, 1:2])).reshape(
            -1, 3
        )
        turned = np.concatenate((vertices, worn)).astype(np.float32) @ rotation.T
        neck = self.wardrobe.neck
        turned[n:][clothes] = (worn[clothes] - neck * (worn[clothes].any())) @ recipe[
            "body"
        ].astype(np.float32).T + neck @ rotation.T * worn[clothes].any()
        areas = raster.vertex_areas(turned, self.surface)
        size = np.sqrt((areas * areas).sum(1))
        normals = areas / (size[:, None] + np.float32(1e-9))
        normals[n:][brows] = np.einsum(
            "bk,bkd->bd", self.wardrobe.share[brows], normals[self.wardrobe.bind[brows]]
        )
        squeeze = (1 - size[:n] / (person["areas"] + 1e-9)).clip(0, 0.7)
        if looks["beard_length"]:
            turned[:n] += (
                normals[:n] * (self.painter.whiskers.numpy() * looks["beard_length"])[:, None]
            )
        tensor = lambda x: torch.from_numpy(np.asarray(x, np.float32))[None]
        batch = {k: tensor(v) for k, v in looks.items()} | {
            k: tensor(recipe[k]) for k in ("rotation", "harmonics", "lamps", "shade")
        }
        albedo, gloss, detail = self.painter.albedo(batch, tensor(squeeze))
        radiance = self.painter.light(batch, tensor(normals), albedo, gloss)
        depth = np.float32(recipe["distance"]) - turned[:, 2]
        points = (
            (
                turned[:, :2] * np.array([1, -1], np.float32) / depth[:, None]
                - recipe["centre"].astype(np.float32)
            )
            / np.float32(recipe["side"])
            + np.float32(0.5)
        ) * np.float32(self.size)
        return (
            points,
            1e3 / (depth + self.recess),
            radiance[0].numpy(),
            detail[0].numpy(),
            self.painter.eyes(batch)[0].numpy(),
        )

    def steps(self, identity, expression, angles, looks, seed):
        """The same picture with one ingredient more at a time, as a dict of title -> uint8 picture; for notebooks."""
        rotation = camera.euler_to_matrix(torch.from_numpy(angles)).numpy()
        view = lambda vertices: raster.plain_view(
            vertices @ rotation.T, self.head, self.size, recess=self.recess[: len(vertices)]
        )
        person = self.dress(identity, looks)
        recipe = self.draw_scene(person, expression, angles, np.random.default_rng(seed))
        still = recipe | dict(
            obstacles=0 * recipe["obstacles"],
            shot=recipe["shot"]
            | dict(
                blur=np.full(2, 0.1),
                noise=0,
                quality=0,
                exposure=0.3,
                automatic=1.0,
                sharpen=0.0,
                gamma=2.2,
                contrast=1.0,
                saturation=1.0,
                balance=np.ones(3),
            ),
        )
        grey = np.zeros_like(recipe["background"])
        grey[0] = [
            self.size / 2,
            self.size / 2,
            2 * self.size,
            2 * self.size,
            0,
            0,
            1,
            1,
            *[0.8] * 6,
            0,
            0,
        ]
        flat = np.zeros((9, 3))
        flat[0] = 1.0
        bare = person | dict(
            worn=np.zeros_like(person["worn"]), looks=person["looks"] | dict(shell=np.float32(0))
        )
        plain = still | dict(
            background=grey, harmonics=flat, lamps=np.zeros_like(recipe["lamps"]), shade=0.0
        )
        return {
            "mean face": view(self.template),
            "identity": view(person["neutral"]),
            "expression": view(recipe["vertices"]),
            "skin": self.expose(plain | dict(person=bare))["image"],
            "hair, clothes": self.expose(plain)["image"],
            "light and shadow": self.expose(still | dict(background=grey))["image"],
            "background": self.expose(still)["image"],
            "camera": self.expose(recipe)["image"],
        }
