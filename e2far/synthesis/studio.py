"""Synthetic photos of faces with their coefficients.

A picture is a pure function of (seed, split, person, picture), so any machine makes any part in any
order. It is drawn twice: first its numbers, a recipe (who, what expression, which light, which
camera; NumPy), then the picture from its numbers (geometry and light in torch, for one picture on a
CPU or a batch on a GPU; then a rasteriser and the camera).
"""

from collections import ChainMap
from functools import lru_cache

import numpy as np
import torch

from e2far import camera, data, raster
from e2far.facemodels import arkit
from e2far.synthesis import boxes, colour, develop, people, scenes, surface
from e2far.synthesis.painter import Painter
from e2far.synthesis.wardrobe import COLUMNS, RIM, ROWS, Wardrobe

# Each split draws its own persons: its number is part of every seed.
SPLITS = ("people", "train", "validation", "test", "restyled", "repeated")
# A person of these looks new in every picture: only the shape of the face tells who it is.
RESTYLED = ("restyled",)
# What can be left out, and the looks that say that it is not there.
ABSENT = {
    "hair": dict(shell=0.0),
    "glasses": dict(glasses=0.0),
    "beards": dict(beard=np.zeros(3), stubble=0.0, beard_length=0.0),
    "make-up": dict(shadow_strength=0.0, lash=0.0, lips_strength=0.5),
    "texture": dict(pores=0.0, freckles=0.0, blotches=np.zeros(colour.FIELDS)),
    "wrinkles": dict(wrinkles=0.0, age_lines=0.0, under_eye=0.0),
}
VARIATIONS = ("poses", "hair", "glasses", "obstacles", "beards", "make-up", "clothes", "shadows")
VARIATIONS += ("texture", "wrinkles", "backgrounds")


class Studio:
    """Takes pictures of random people.

    model: MorphableModel    size: px of the square picture
    yaw_deg, pitch_deg, roll_deg: half-ranges of the pose    antialias: samples along a pixel's side
    without: names out of VARIATIONS to leave out, to see what each is worth
    loose_boxes: share of the pictures whose square is up to a fifth of its side off, and up to a
        fifth too large or small, as careless boxes are
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
        for name in set(without) - set(VARIATIONS):
            raise ValueError(f"no variation is called {name}: choose from {', '.join(VARIATIONS)}")
        self.model, self.size, self.antialias = model, size, antialias
        self.without, self.loose_boxes = without, loose_boxes
        yaw_deg = min(yaw_deg, 45.0) if "poses" in without else yaw_deg
        self.range = np.deg2rad([yaw_deg, pitch_deg, roll_deg])

        n = model.n_vertices
        self.template, self.landmarks = model.mean.numpy(), model.landmarks.numpy()
        self.identity_basis = model.identity_basis.numpy().reshape(3 * n, model.n_identity)
        self.expression_basis = model.expression_basis.numpy().reshape(3 * n, model.n_expression)
        self.units_to_modes = model.units_to_modes.numpy() if len(model.unit_names) else None
        attributes = {name: values.numpy() for name, values in model.attributes.items()}
        self.head = np.ascontiguousarray(model.triangles.numpy(), dtype=np.int32)
        parts = self.template, self.landmarks, self.head, attributes
        self.wardrobe = wardrobe = Wardrobe(*parts)
        self.painter = Painter(surface.head_tables(*parts), wardrobe)
        # Of the head, then of what it wears.
        self.triangles = np.concatenate((self.head, wardrobe.triangles + n))
        self.surface = np.concatenate((self.head, wardrobe.surface + n))
        self.texture = surface.make_texture()
        self.eyes = np.zeros((n + wardrobe.count, 3), np.float32)
        for column, name in enumerate(("eye", "eye_x", "eye_y")):
            self.eyes[:n, column] = attributes.get(name, 0)
        self.recess = np.append(model.recess.numpy(), np.zeros(wardrobe.count, np.float32))
        self.recess[n:][wardrobe.parts["brows"]] = -3.5  # brows lie on the skin
        # Pictures of one person come one after the other.
        self.person = lru_cache(2)(lambda *place: self.dress(*self.draw_person(*place)))

    def draw_person(self, seed, split, person, picture=0):
        """Identity (K,) and looks of one person; if RESTYLED, these change with `picture`."""
        place = [seed, SPLITS.index(split), person]
        rng = np.random.default_rng(place)
        identity = rng.standard_normal(self.model.n_identity).clip(-3, 3).astype(np.float32)
        if split in RESTYLED:
            rng = np.random.default_rng([*place, picture + 1, 1])
        absent = [ABSENT.get(name, {}) for name in self.without]
        return identity, people.draw_person(rng) | dict(ChainMap(*absent))

    def draw_expression(self, rng):
        """Expression coefficients (L,), of the model's named units; normal where it names none."""
        if self.units_to_modes is None:
            return rng.standard_normal(self.model.n_expression).astype(np.float32)
        return self.units_to_modes @ arkit.draw_units(self.model.unit_names, rng)

    def draw_angles(self, rng):
        """Yaw, pitch and roll in radians over the whole range, small ones more often."""
        side, tilted = rng.uniform(-1, 1), rng.random() < 0.35  # the others hardly tilt
        pitch, roll = rng.triangular(-1, 0, 1, 2) * ([1.0, 1.0] if tilted else [0.7, 0.35])
        return np.array([side * abs(side) ** 0.3, pitch, roll]) * self.range

    def photograph(self, seed, split, person, picture):
        """Picture number `picture` of `person`: a dict of the columns of `data.Faces`."""
        return self.expose(self.recipe(seed, split, person, picture)) | dict(person=person)

    def recipe(self, seed, split, person, picture):
        """All numbers of picture number `picture` of `person` (see `draw_scene`)."""
        rng = np.random.default_rng([seed, SPLITS.index(split), person, picture + 1])
        worn = self.person(seed, split, person, picture if split in RESTYLED else 0)
        expression, angles = self.draw_expression(rng), self.draw_angles(rng)
        return self.draw_scene(worn, expression, angles, rng)

    def dress(self, identity, looks):
        """A person ready for pictures: a dict.

        identity, looks    neutral: (N, 3) mm    areas: (N,) of the skin around its vertices
        worn: (W, 3) mm in the head's frame; what they do not wear is drawn to a point
        """
        wardrobe = self.wardrobe
        neutral = self.template + (self.identity_basis @ identity).reshape(-1, 3)
        worn = np.zeros((wardrobe.count, 3), np.float32)
        hair, clothes, glasses = (worn[wardrobe.parts[k]] for k in ("hair", "clothes", "glasses"))
        looks = looks | dict(hair_u=np.zeros(len(hair)), hair_v=np.zeros(len(hair)))
        if looks["shell"] and wardrobe.has_hair:
            place, bind, along = wardrobe.hair(**looks["style"])
            hair[:] = place + neutral[bind] - self.template[bind]
            looks["hair_u"] = np.tile(np.arange(COLUMNS) * 14.0, ROWS)
            looks["hair_v"] = along / surface.TEXEL_MM
        if "clothes" not in self.without:
            chin = neutral[self.landmarks[8]] - self.template[self.landmarks[8]]
            clothes[:] = wardrobe.clothes(**looks["body"]) + chin * [0, 0.7, 0]
        if looks["glasses"]:
            anchors = np.array([neutral[at].mean(0) for at in wardrobe.glasses_anchors])
            glasses[:] = wardrobe.glasses(anchors, **looks["rims"])
            if not looks["lens_dark"]:
                glasses[4 * RIM : 6 * RIM + 2] = 0  # clear lenses are not drawn
        areas = np.linalg.norm(raster.vertex_areas(neutral.astype(np.float32), self.head), axis=1)
        numbers = {k: np.float32(v) for k, v in looks.items() if not isinstance(v, dict)}
        return dict(identity=identity, looks=numbers, neutral=neutral, worn=worn, areas=areas)

    def draw_scene(self, person, expression, angles, rng):
        """All numbers of one picture: a recipe, from which `expose` makes the same picture again.

        person: of `dress`    expression: (L,)    angles: yaw, pitch, roll in radians
        """
        vertices = person["neutral"] + (self.expression_basis @ expression).reshape(-1, 3)
        shoulders = angles * rng.uniform(0, 1.1, 3) * [1, 0.4, 0.4]
        shoulders = shoulders + rng.normal(0, [0.15, 0.05, 0.05])
        turns = torch.from_numpy(np.stack((angles, shoulders)))
        rotation, body = camera.euler_to_matrix(turns).numpy()
        points, looks = vertices[self.landmarks], person["looks"]
        recipe = dict(person=person, expression=expression, vertices=vertices)
        view, landmarks = scenes.draw_view(points @ rotation.T, self.loose_boxes, rng)
        landmarks *= self.size
        seen = [torch.from_numpy(np.asarray(x, float)) for x in (points, landmarks, rotation)]
        scale, translation = camera.fit_weak_perspective(*seen)
        recipe["pose"] = camera.encode_pose(seen[2], scale, translation, self.size).numpy()
        recipe |= dict(rotation=rotation, body=body, landmarks=landmarks, **view)
        recipe["harmonics"], recipe["lamps"] = scenes.draw_light(rng)
        recipe["background"] = boxes.draw_background(self.size, rng)
        recipe["obstacles"] = boxes.draw_obstacles(self.size, looks["skin"], looks["cloth"], rng)
        recipe["shot"] = scenes.draw_camera(self.size, rng)
        recipe["shade"] = 0.0 if "shadows" in self.without else rng.uniform(0.5, 1)
        if "backgrounds" in self.without:
            recipe["background"][1:] = 0
        if "obstacles" in self.without:
            recipe["obstacles"][:] = 0
        return recipe

    def expose(self, recipe):
        """The picture and labels of one `recipe`."""
        points, nearness, radiance, detail, eye = self.scene(recipe)
        size, times, triangles = self.size, self.antialias, self.triangles
        seen = raster.zbuffer(points * np.float32(times), nearness, triangles, size * times)
        picture = np.zeros((size, size, 3), np.float32)
        surface = raster.Surface(radiance, detail, self.texture, self.eyes, eye)
        coverage = raster.resolve(*seen, triangles, surface, picture, times)
        behind = np.zeros_like(picture)
        boxes.paint(behind, recipe["background"], self.texture, coverage)
        picture += (1 - coverage[..., None]) * behind.clip(0)
        boxes.paint(picture, recipe["obstacles"], self.texture, np.zeros_like(coverage))
        return dict(
            image=develop.develop(picture, recipe["shot"]),
            identity=recipe["person"]["identity"],
            **{k: recipe[k].astype(np.float32) for k in ("expression", "pose", "landmarks")},
        )

    def scene(self, recipe):
        """Points (V, 2) px, nearness (V,), light (V, 3), detail (V, 5), and the eyes (21,)."""
        person, looks, n = recipe["person"], recipe["person"]["looks"], len(self.template)
        turned = self._turn(recipe)
        areas = raster.vertex_areas(turned, self.surface)
        size = np.sqrt((areas * areas).sum(1))
        normals = areas / (size[:, None] + np.float32(1e-9))
        normals[n:][self.wardrobe.parts["brows"]] = self.wardrobe.on_skin(normals)
        squeeze = (1 - size[:n] / (person["areas"] + 1e-9)).clip(0, 0.7)
        if looks["beard_length"]:
            length = self.painter.whiskers.numpy() * looks["beard_length"]
            turned[:n] += normals[:n] * length[:, None]

        tensor = lambda x: torch.from_numpy(np.asarray(x, np.float32))[None]
        lights = {k: recipe[k] for k in ("rotation", "harmonics", "lamps", "shade")}
        batch = {name: tensor(values) for name, values in (looks | lights).items()}
        albedo, gloss, detail = self.painter.albedo(batch, tensor(squeeze))
        radiance = self.painter.light(batch, tensor(normals), albedo, gloss)

        depth = np.float32(recipe["distance"]) - turned[:, 2]
        seen = turned[:, :2] * np.array([1, -1], np.float32) / depth[:, None]
        points = (seen - recipe["centre"].astype(np.float32)) / np.float32(recipe["side"])
        points = (points + np.float32(0.5)) * np.float32(self.size)
        eye = self.painter.eyes(batch)
        return points, 1e3 / (depth + self.recess), *(x[0].numpy() for x in (radiance, detail, eye))

    def _turn(self, recipe):
        """All vertices (V, 3) mm in the camera's frame; the clothes turn with the body."""
        vertices, worn = recipe["vertices"], recipe["person"]["worn"].copy()
        rotation, body = (recipe[k].astype(np.float32) for k in ("rotation", "body"))
        width, wardrobe = recipe["person"]["looks"]["brow_width"], self.wardrobe
        worn[wardrobe.parts["brows"]] = wardrobe.brows(vertices, width)
        turned = np.concatenate((vertices, worn)).astype(np.float32) @ rotation.T
        clothes, part = worn[wardrobe.parts["clothes"]], turned[len(vertices) :]
        if clothes.any():
            around_neck = (clothes - wardrobe.neck) @ body.T
            part[wardrobe.parts["clothes"]] = around_neck + wardrobe.neck @ rotation.T
        return turned


def photograph_many(studio, seed, split, numbers):
    """Columns of the pictures `numbers`, pairs of person and picture: tensors, as of data.Faces."""
    rows = [studio.photograph(seed, split, *number) for number in numbers]
    names = ("image", *data.LABELS)
    return {name: torch.from_numpy(np.array([row[name] for row in rows])) for name in names}
