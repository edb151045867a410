"""The record that every data set is read into, and what its readers share."""

import re
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree

import numpy as np

from e2far.files import reading


def source(name, doc):
    """A property that reads the source `name` each time it is asked for."""
    return property(lambda item: item.read(name), doc=doc)


@dataclass(frozen=True)
class Item:
    """One picture of one person and what is known of it. Sources the owner lacks are None."""

    name: str  # unique in its data set; relative to the folder, without its suffix
    person: str  # whom a bootstrap draws; where nobody says who it is, the photo
    image: Path | None  # the picture; None where the owner gives none
    facts: dict = field(default_factory=dict)  # what was varied, as far as names tell
    sources: dict = field(default_factory=dict)  # property below -> what reads it, a partial
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


class Samples(list):
    """The `Item`s of a data set, and the names of the folders that they were read from."""

    def __init__(self, items, *folders):
        super().__init__(items)
        self.folders = [str(folder) for folder in folders]


def locate(folder, what, *candidates):
    """The first of the paths `candidates` that exists in `folder`, else FileNotFoundError."""
    for name in candidates:
        if (folder / name).exists():
            return folder / name
    lack = f"{candidates[0]} is missing" if folder.is_dir() else "no such folder"
    raise FileNotFoundError(f"{folder}: {lack}; it should be {what}")


def find(folder, wildcards, name=".*"):
    """Sorted paths in `folder`, as matches of the regular expression `name` with all of them."""
    found = (path.relative_to(folder).as_posix() for path in sorted(folder.glob(wildcards)))
    return list(filter(None, (re.fullmatch(name, path) for path in found)))


def absent(folder, paths):
    """Those of the `paths` that are not in `folder`."""
    parents = {Path(path).parent for path in paths}  # each is listed once
    there = {str(parent / file.name) for parent in parents for file in (folder / parent).glob("*")}
    return [path for path in paths if path not in there]


def require(folder, what, paths, kind):
    """FileNotFoundError if one of the `paths` of a `kind` is not in `folder`, or there is none."""
    missing = absent(folder, paths)
    lack = f"it holds no {kind}"
    if missing:
        lack = f"{len(missing)} of {len(paths)} {kind} are missing, first {missing[0]}"
    if missing or not paths:
        raise FileNotFoundError(f"{folder}: {lack}; it should be {what}")


def as_points(values, shape, name):
    """`values` as float64 of `shape` (None: any length), all finite; else ValueError."""
    values = np.asarray(values, np.float64)
    if values.ndim != len(shape) or any(n not in (None, m) for n, m in zip(shape, values.shape)):
        raise ValueError(f"{name} has shape {values.shape}, not {shape}")
    if not np.isfinite(values).all():
        raise ValueError(f"{name} holds numbers that are not finite")
    return values


def as_mesh(vertices, triangles):
    """Vertices (N, 3) float64 and triangles (F, 3) int64, checked to be a mesh."""
    vertices, triangles = as_points(vertices, (None, 3), "the vertices"), np.asarray(triangles)
    low, high = triangles.min(), triangles.max()
    if low < 0 or high >= len(vertices):
        raise ValueError(f"its triangles name vertices {low} to {high} of {len(vertices)}")
    return vertices, triangles.astype(np.int64)


def read_mesh(path, what="a triangle mesh (.obj, .ply)"):
    """Vertices (N, 3), single at seams, and triangles (F, 3) of an .obj or .ply, in its order."""
    import trimesh

    how = dict(process=False, maintain_order=True, skip_materials=True, force="mesh")
    with reading(path, what):
        mesh = trimesh.load(path, **how)
        return as_mesh(mesh.vertices, mesh.faces)  # ty: ignore[missing-attribute]


def read_picked_points(path):
    """Points (7, 3) of MeshLab's PickPoints (.pp), XML with attributes in any order."""
    with reading(path, "7 points picked with MeshLab (.pp)"):
        points = ElementTree.parse(path).getroot().iter("point")
        rows = [[float(point.attrib[axis]) for axis in "xyz"] for point in points]
        return as_points(rows, (7, 3), "the picked points")
