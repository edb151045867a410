"""Wavefront files of polygons, as MakeHuman and ICT-FaceKit write them."""

from typing import NamedTuple

import numpy as np


class Obj(NamedTuple):
    """A mesh of polygons, lists of vertices; all numbers count from 0.

    vertices: (V, 3)    textures: (T, 2) coordinates, of which `corners` holds each polygon's
    groups: the name of each polygon's group
    """

    vertices: np.ndarray
    textures: np.ndarray
    polygons: list
    corners: list
    groups: list


def read_obj(path):
    """The Obj in a file; textures and corners are empty where it has none."""
    vertices, textures, polygons, corners, groups, group = [], [], [], [], [], ""
    with open(path) as file:
        for line in file:
            kind, *rest = line.split() or [""]
            if kind == "v":
                vertices.append([float(x) for x in rest[:3]])
            elif kind == "vt":
                textures.append([float(x) for x in rest[:2]])
            elif kind == "g":
                group = " ".join(rest)
            elif kind == "f":
                numbers = [corner.split("/") for corner in rest]
                polygons.append([from_zero(n[0], vertices) for n in numbers])
                corners.append([from_zero(n[1], textures) for n in numbers if any(n[1:2])])
                groups.append(group)
    return Obj(np.array(vertices), np.array(textures), polygons, corners, groups)


def from_zero(number, known):
    """A number of a file, which counts from 1, or backward from the last of those `known`."""
    return int(number) - 1 if int(number) > 0 else int(number) + len(known)
