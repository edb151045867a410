"""Synthetic photos of faces with their coefficients: a pure function of (seed, split, person, picture), so any machine makes any part in any order."""
import hashlib
import json
import sys
from pathlib import Path

import joblib
import numpy as np
import torch
from safetensors import SafetensorError, safe_open

from e2far import appearance, camera, data, rasterize
from e2far.facemodels import arkit
from e2far.morphable import load_face_model

SPLITS = ("people", "train", "validation", "test")      # each draws its own persons: the split's number is part of every seed


class Studio:
    """Takes pictures of random people.

    model: MorphableModel    size: px of the square picture    poses: dict of yaw_deg, pitch_deg, roll_deg, the half-ranges    antialias: samples along a pixel's side
    """

    def __init__(self, model, size, yaw_deg=45., pitch_deg=20., roll_deg=10., antialias=2):
        self.model, self.size, self.antialias = model, size, antialias
        self.range = np.deg2rad([yaw_deg, pitch_deg, roll_deg])
        self.attributes = {k: v.numpy() for k, v in model.attributes.items()}
        self.template = model.mean.numpy()
        self.triangles = np.ascontiguousarray(model.triangles.numpy(), dtype=np.int32)
        zero = np.zeros(model.n_vertices, np.float32)
        get = self.attributes.get
        self.recess = model.recess.numpy()
        self.eyes = np.stack([get("eye", zero), get("eye_x", zero), get("eye_y", zero)], 1)
        self.units_to_modes = model.units_to_modes.numpy() if len(model.unit_names) else None
        self.identity_basis = model.identity_basis.numpy().reshape(-1, model.n_identity)
        self.expression_basis = model.expression_basis.numpy().reshape(-1, model.n_expression)

    def draw_person(self, seed, split, person):
        """Identity coefficients (K,) and looks of one person of one split."""
        rng = np.random.default_rng([seed, SPLITS.index(split), person])
        identity = rng.standard_normal(self.model.n_identity).clip(-3, 3).astype(np.float32)
        return identity, appearance.draw_person(rng)

    def draw_expression(self, rng):
        """Expression coefficients (L,): a mixture of the model's named units, or normal draws where it names none."""
        if self.units_to_modes is None:
            return rng.standard_normal(self.model.n_expression).astype(np.float32)
        return self.units_to_modes @ arkit.draw_units(self.model.unit_names, rng)

    def photograph(self, seed, split, person, picture):
        """Picture number `picture` of `person`: a dict of image uint8 (S, S, 3), identity (K,), expression (L,), pose (9,), landmarks (68, 2) px, person."""
        identity, looks = self.draw_person(seed, split, person)
        rng = np.random.default_rng([seed, SPLITS.index(split), person, picture + 1])
        expression = self.draw_expression(rng)
        angles = rng.uniform(-self.range, self.range)
        return self.render(identity, expression, angles, looks, rng) | dict(person=person)

    def render(self, identity, expression, angles, looks, rng):
        """A picture of given coefficients and pose (yaw, pitch, roll in radians); camera, light and background come from `rng`."""
        size = self.size
        vertices = self.template + (self.identity_basis @ identity + self.expression_basis @ expression).reshape(-1, 3)
        rotation = camera.euler_to_matrix(torch.from_numpy(angles))
        turned = vertices @ rotation.numpy().astype(np.float32).T
        distance = rng.uniform(350, 1500)                                           # mm, an arm's length to a portrait lens
        project = lambda points: points[:, :2] * [1, -1] / (distance - points[:, 2:])
        landmarks = self.model.landmarks.numpy()
        x0, y0, x1, y1 = camera.crop_box(torch.from_numpy(project(turned[landmarks]))).numpy()
        side = (x1 - x0) * rng.uniform(.9, 1.12)
        centre = np.array([x0 + x1, y0 + y1]) / 2 + rng.normal(0, .035, 2).clip(-.1, .1) * side
        to_pixels = lambda points: ((project(points) - centre) / side + .5) * size
        image_landmarks = to_pixels(turned[landmarks])
        scale, translation = camera.fit_weak_perspective(*(torch.from_numpy(np.asarray(x, float)) for x in (vertices[landmarks], image_landmarks)), rotation)
        pose = camera.encode_pose(rotation, scale, translation, size)

        normals = rasterize.vertex_normals(turned.astype(np.float32), self.triangles)
        volume = appearance.hair_volume(looks, self.attributes)
        body = turned if volume is None else turned + normals * volume[:, None]
        background = appearance.draw_background(size, rng)
        self.paint_behind(background, looks, to_pixels, rotation.numpy(), size / side / distance, rng)
        image = self.shade(body, to_pixels(body), distance, normals, looks, background, rng)
        if rng.random() < .12:                                                      # a hand, a scarf, a cup
            appearance.paint_ellipse(image, rng.uniform(0, size, 2), rng.uniform(.06, .22, 2) * size, looks["skin"] if rng.random() < .4 else rng.random(3) ** 2.2, rng.uniform(0, 3))
        return dict(image=appearance.develop(image, rng), identity=identity, expression=expression.astype(np.float32), pose=pose.numpy().astype(np.float32),
                    landmarks=image_landmarks.astype(np.float32))

    def steps(self, identity, expression, angles, looks, seed):
        """The same picture with one ingredient more at a time, as a dict of title -> uint8 picture; for notebooks."""
        rotation = camera.euler_to_matrix(torch.from_numpy(angles)).numpy()
        view = lambda vertices, **colours: rasterize.plain_view(vertices @ rotation.T, self.triangles, self.size, recess=self.recess, **colours)
        neutral = self.template + (self.identity_basis @ identity).reshape(-1, 3)
        expressive = neutral + (self.expression_basis @ expression).reshape(-1, 3)
        albedo, _ = appearance.vertex_albedo(looks, self.attributes, self.template, np.random.default_rng(seed))
        photo = self.render(identity, expression, angles, looks, np.random.default_rng(seed))["image"]
        return {"mean face": view(self.template), "identity": view(neutral), "expression": view(expressive),
                "skin, hair, lips": view(expressive, albedo=albedo ** (1 / 2.2)), "light, camera, background": photo}

    def paint_behind(self, background, looks, to_pixels, rotation, pixels_per_mm, rng):
        """Shoulders and long hair, which the head model lacks, as soft shapes on the background."""
        clothes, width = rng.random(3) ** 2.2 * .8, rng.uniform(170, 240)
        chest = to_pixels(np.array([[0., -210., -90.]]))[0]
        appearance.paint_ellipse(background, chest + [0, 40 * pixels_per_mm], np.array([width, 130]) * pixels_per_mm, clothes)
        if looks["long"]:
            behind = to_pixels((rotation @ [0., -10. - 55 * looks["long"], -75.])[None])[0]
            appearance.paint_ellipse(background, behind, np.array([92 + looks["hair_thickness"], 80 + 70 * looks["long"]]) * pixels_per_mm, looks["hair"] * .8)

    def shade(self, body, points, distance, normals, looks, background, rng):
        """Linear light (S, S, 3): the head in front of `background`."""
        albedo, gloss = appearance.vertex_albedo(looks, self.attributes, self.template, rng)
        harmonics, lamps = appearance.draw_light(rng)
        white = np.array([.62, .56, .52]) * rng.uniform(.8, 1.1)
        eye_colours = np.stack([white, looks["iris"], np.full(3, .01)]).astype(np.float32)
        seen, weights = rasterize.zbuffer((points * self.antialias).astype(np.float32), (1e3 / (distance - body[:, 2] + self.recess)).astype(np.float32), self.triangles, self.size * self.antialias)
        layer = np.zeros((self.size, self.size, 4), np.float32)
        rasterize.shade(seen, weights, self.triangles, normals.astype(np.float32), albedo, gloss, self.eyes, eye_colours, harmonics, lamps, layer, self.antialias)
        return layer[..., :3] + (1 - layer[..., 3:]) * background


def read_header(path):
    """The settings a finished shard was made with, or None where there is no whole shard at `path`."""
    try:
        with safe_open(path, "pt") as shard:
            return shard.metadata()
    except (SafetensorError, OSError):
        return None


def write_shard(studio, path, header, seed, split, numbers, pictures):
    """Make pictures `numbers` of `split` and write them as one file, whole or not at all."""
    torch.set_num_threads(1)
    if read_header(path) == header:
        return path
    rows = [studio.photograph(seed, split, number // pictures, number % pictures) for number in numbers]
    columns = {key: torch.from_numpy(np.stack([row[key] for row in rows])) for key in rows[0] if key != "person"}
    columns["person"] = torch.tensor([row["person"] for row in rows])
    data.write_shard(path, columns, header)
    return path


def write_split(model_path, folder, split, people, pictures, *, size, seed, shard_size=1000, n_jobs=2, progress=lambda jobs, total: jobs, **studio_settings):
    """Shards of `people` x `pictures` photos of one split in `folder`; shards already there from the same settings are kept.

    progress: wraps the iterator of finished shards, e.g. tqdm    returns: the shards' paths
    """
    folder = Path(folder) / split
    folder.mkdir(parents=True, exist_ok=True)
    model = load_face_model(model_path)
    studio = Studio(model, size, **studio_settings)
    fingerprint = hashlib.sha256(b"".join(t.numpy().tobytes() for t in [*model.buffers(), *model.attributes.values()])).hexdigest()[:16]
    code = data.source_version(sys.modules[__name__], appearance, arkit, camera, rasterize)
    total = people * pictures
    starts = range(0, total, shard_size)
    jobs = []
    for i, start in enumerate(starts):
        numbers = range(start, min(start + shard_size, total))
        header = dict(settings=json.dumps(dict(model=fingerprint, code=code, seed=seed, split=split, first=start, count=len(numbers), pictures=pictures, size=size, **studio_settings), sort_keys=True))
        jobs.append(joblib.delayed(write_shard)(studio, folder / f"shard-{i:05d}.safetensors", header, seed, split, numbers, pictures))
    for stale in set(folder.glob("shard-*")) - {folder / f"shard-{i:05d}.safetensors" for i in range(len(starts))}:
        stale.unlink()
    return list(progress(joblib.Parallel(n_jobs=n_jobs, return_as="generator")(jobs), len(jobs)))
