"""The record that every data set is read into, and what its readers share."""

import os
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
from torch.utils.data import Dataset

from e2far.benchmark.metrics import as_points
from e2far.files import reading as reading_model


@dataclass(frozen=True)
class Item:
    """One picture of one person and what is known of it. What `sources` names is read anew each time it is asked for, None where the owner gives none; all else costs nothing."""

    name: str  # unique in its data set; relative to the folder, without its suffix
    person: str  # or the photo that several pictures were made of, where nobody says who it is: what a bootstrap draws
    image: Path | None  # the picture; None where the owner gives none
    facts: dict = field(default_factory=dict)
    sources: dict = field(
        default_factory=dict
    )  # name of a property below -> a function that reads it (partial of a module's function, so that workers can be sent an Item)
    scan_name: str | None = (
        None  # names the scan where several pictures share one; None: it is named as the item
    )

    def read(self, name):
        return self.sources[name]() if name in self.sources else None

    box = property(
        lambda self: self.read("box"),
        doc="(x0, y0, x1, y1) px, a square around the face for `Reconstructor(image, box)`, or None",
    )
    landmarks = property(
        lambda self: self.read("landmarks"), doc="(68, 2) px in iBUG order, or None"
    )
    scan = property(
        lambda self: self.read("scan"), doc="vertices (N, 3) mm and triangles (F, 3), or None"
    )
    scan_landmarks7 = property(
        lambda self: self.read("scan_landmarks7"),
        doc="(7, 3) mm in the order of metrics.NOW_LANDMARKS, or None",
    )
    scan_points = property(
        lambda self: self.read("scan_points"),
        doc="all points (P, 3) mm that the owner marked on the scan, in the owner's order, or None",
    )
    scan_regions = property(
        lambda self: self.read("scan_regions"),
        doc="name of a region -> indices of the scan's vertices, or None",
    )
    condition = property(
        lambda self: self.facts | (self.read("condition") or {}),
        doc="what was varied, by name: expression, yaw_deg (as the owner signs it), challenge, session ...",
    )


class Samples(Dataset):
    """The items of a data set. `keys` are small; `build(key)` makes an Item when it is asked for, so that 10^5 pictures are 10^5 names in memory."""

    def __init__(self, folder, keys, build):
        self.folder, self.keys, self.build, self.landmarks7 = Path(folder), list(keys), build, None

    def __len__(self):
        return len(self.keys)

    def __getitem__(self, index):
        item = self.build(self.keys[index])
        return (
            item
            if self.landmarks7 is None
            else replace(
                item,
                sources=item.sources
                | {
                    "scan_landmarks7": partial(
                        read_picked_points, self.landmarks7 / f"{item.scan_name or item.name}.pp"
                    )
                },
            )
        )


# Finding ------------------------------------------------------------------------------------------------------------------------------------------


def locate(folder, what, *candidates):
    """The first of the paths `candidates` that exists in `folder`; FileNotFoundError in one line if none does."""
    for name in candidates:
        if (Path(folder) / name).exists():
            return Path(folder) / name
    raise FileNotFoundError(
        f"{folder}: {'no such folder' if not Path(folder).is_dir() else f'{candidates[0]} is missing'}; it should be {what}"
    )


def names(folder):
    """Names of what lies in `folder`, sorted; none if there is no such folder."""
    return sorted(os.listdir(folder)) if Path(folder).is_dir() else []


def require(folder, what, missing, total, kind):
    """FileNotFoundError in one line if `missing` (names relative to `folder`) holds any of the `total` files of a `kind`, or there are none at all."""
    if total == 0:
        raise FileNotFoundError(f"{folder}: it holds no {kind}; it should be {what}")
    if missing:
        raise FileNotFoundError(
            f"{folder}: {len(missing)} of {total} {kind} are missing, first {missing[0]}; it should be {what}"
        )


# Reading ------------------------------------------------------------------------------------------------------------------------------------------


@contextmanager
def reading(path, what):
    """Around the reading of a file: any way in which it can be bad becomes a ValueError of one line, "PATH: reason; it should be WHAT"; FileNotFoundError where there is none."""
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path} is missing: it should be {what}")
    with reading_model(path, what):
        yield


def as_mesh(vertices, triangles, scale=1.0):
    """Vertices (N, 3) float64, times `scale`, and triangles (F, 3) int64, checked to be a mesh."""
    vertices, triangles = (
        as_points(vertices, (None, 3), "the vertices"),
        np.asarray(triangles, np.int64),
    )
    if triangles.ndim != 2 or triangles.shape[1] != 3 or len(triangles) == 0:
        raise ValueError(f"it has no triangles: an array of shape {triangles.shape}, not (F, 3)")
    if triangles.min() < 0 or triangles.max() >= len(vertices):
        raise ValueError(
            f"its triangles name vertices {triangles.min()} to {triangles.max()} of {len(vertices)}"
        )
    return vertices * scale, triangles


def read_mesh(path, what="a triangle mesh (.obj, .ply)", scale=1.0):
    """Vertices (N, 3), times `scale`, and triangles (F, 3) of an .obj or .ply, in the file's order. Vertices at seams of the texture are kept single; those of no triangle are dropped."""
    import trimesh

    with reading(path, what):
        mesh = trimesh.load(
            path, process=False, maintain_order=True, skip_materials=True, force="mesh"
        )
        return as_mesh(mesh.vertices, mesh.faces, scale)  # ty: ignore[missing-attribute]


def read_obj_points(path, count, what, scale=1.0):
    """The first `count` vertices (count, 3), times `scale`, of an .obj that may have no faces: all of its "v" lines, which trimesh would drop where no face uses them."""
    with reading(path, what):
        rows = [
            line.split()[1:4]
            for line in Path(path).read_text().splitlines()
            if line.startswith("v ")
        ]
        return as_points(np.array(rows, np.float64), (count, 3), "the points") * scale


def read_picked_points(path, count=7):
    """Points (count, 3) of MeshLab's PickPoints (.pp), in the file's order. Their attributes come in any order, so XML is read as XML."""
    with reading(path, f"{count} points picked with MeshLab (.pp)"):
        points = ElementTree.parse(path).getroot().iter("point")
        return as_points(
            [[float(point.attrib[axis]) for axis in "xyz"] for point in points],
            (count, 3),
            "the picked points",
        )
