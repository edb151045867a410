"""The record that every data set is read into, and what its readers share."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from torch.utils.data import Dataset

from e2far import files


def source(name, doc):
    """A property that reads the source `name` each time it is asked for."""
    return property(lambda item: item.read(name), doc=doc)


@dataclass(frozen=True)
class Item:
    """One picture of one person and what is known of it.

    What `sources` names is read anew each time it is asked for, and is None where the owner gives
    none; all else costs nothing.
    """

    name: str  # unique in its data set; relative to the folder, without its suffix
    person: str  # whom a bootstrap draws; where nobody says who it is, the photo
    image: Path | None  # the picture; None where the owner gives none
    facts: dict = field(default_factory=dict)  # what was varied, as far as names tell
    # property below -> what reads it: a partial of a module's function, which workers can be sent
    sources: dict = field(default_factory=dict)
    scan_name: str | None = None  # where several pictures share a scan; None: the item's name

    def read(self, name):
        return self.sources[name]() if name in self.sources else None

    box = source("box", "(x0, y0, x1, y1) px, a square around the face, for `Reconstructor`")
    landmarks = source("landmarks", "(68, 2) px in iBUG order")
    scan = source("scan", "vertices (N, 3) mm and triangles (F, 3)")
    scan_landmarks7 = source("scan_landmarks7", "(7, 3) mm in the order of NOW_LANDMARKS")
    scan_points = source("scan_points", "(P, 3) mm, all that the owner marked, in their order")
    scan_regions = source("scan_regions", "name of a region -> indices of the scan's vertices")

    @property
    def condition(self):
        """What was varied, by name: expression, yaw_deg (as the owner signs it), challenge ..."""
        return self.facts | (self.read("condition") or {})


class Samples(Dataset):
    """The items of a data set, each made by `build(key)` when it is asked for.

    So 10^5 pictures are 10^5 names in memory. landmarks7: folder of picked points, or None
    """

    def __init__(self, folder, keys, build):
        self.folder, self.keys, self.build, self.landmarks7 = Path(folder), list(keys), build, None

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        item = self.build(self.keys[index])
        if self.landmarks7 is None:
            return item
        path = self.landmarks7 / f"{item.scan_name or item.name}.pp"
        picked = {"scan_landmarks7": partial(read_picked_points, path)}
        return replace(item, sources=item.sources | picked)


# Finding -------------------------------------------------------------------------------------


def locate(folder, what, *candidates):
    """The first of the paths `candidates` that exists in `folder`, else FileNotFoundError."""
    for name in candidates:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    lack = f"{candidates[0]} is missing" if Path(folder).is_dir() else "no such folder"
    raise FileNotFoundError(f"{folder}: {lack}; it should be {what}")


def names(folder):
    """Names of what lies in `folder`, sorted; none if there is no such folder."""
    return sorted(os.listdir(folder)) if Path(folder).is_dir() else []


def require(folder, what, missing, total, kind):
    """FileNotFoundError if any of the `total` files of a `kind` is `missing`, or total is 0.

    missing: names relative to `folder`
    """
    if total == 0:
        raise FileNotFoundError(f"{folder}: it holds no {kind}; it should be {what}")
    if missing:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {total} {kind} are missing, first {missing[0]}; "
            f"it should be {what}"
        )


# Reading -------------------------------------------------------------------------------------


@contextmanager
def reading(path, what):
    """`files.reading`, which turns any error in a bad file into a ValueError of one line."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: it should be {what}")
    with files.reading(path, what):
        yield


def as_points(values, shape, name):
    """`values` as float64 of `shape` (None: any length), all finite; else ValueError."""
    values = np.asarray(values, np.float64)
    if values.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape)):
        wanted = ", ".join("N" if n is None else str(n) for n in shape)
        raise ValueError(f"{name} has shape {values.shape}, not ({wanted})")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return values


def as_mesh(vertices, triangles, scale=1.0):
    """Vertices (N, 3) float64, times `scale`, and triangles (F, 3) int64, checked to be a mesh."""
    vertices, triangles = as_points(vertices, (None, 3), "the vertices"), np.asarray(triangles)
    if len(triangles) == 0:
        raise ValueError("it has no triangles")
    if triangles.min() < 0 or triangles.max() >= len(vertices):
        raise ValueError(
            f"its triangles name vertices {triangles.min()} to {triangles.max()} of {len(vertices)}"
        )
    return vertices * scale, triangles.astype(np.int64)


def read_mesh(path, what="a triangle mesh (.obj, .ply)", scale=1.0):
    """Vertices (N, 3), times `scale`, and triangles (F, 3) of an .obj or .ply, in its order.

    Vertices at seams of the texture are kept single; those of no triangle are dropped.
    """
    import trimesh

    how = dict(process=False, maintain_order=True, skip_materials=True, force="mesh")
    with reading(path, what):
        mesh = trimesh.load(path, **how)
        return as_mesh(mesh.vertices, mesh.faces, scale)  # ty: ignore[missing-attribute]


def read_obj_points(path, count, what, scale=1.0):
    """The vertices (count, 3), times `scale`, of an .obj that may have no faces.

    All of its "v" lines: trimesh would drop those that no face uses.
    """
    with reading(path, what):
        lines = Path(path).read_text().splitlines()
        rows = [line.split()[1:4] for line in lines if line.startswith("v ")]
        return as_points(rows, (count, 3), "the points") * scale


def read_picked_points(path, count=7):
    """Points (count, 3) of MeshLab's PickPoints (.pp), XML with attributes in any order."""
    with reading(path, f"{count} points picked with MeshLab (.pp)"):
        points = ElementTree.parse(path).getroot().iter("point")
        rows = [[float(point.attrib[axis]) for axis in "xyz"] for point in points]
        return as_points(rows, (count, 3), "the picked points")
