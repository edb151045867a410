"""A z-buffer in numba: which triangle each pixel sees, and the shading of what it sees."""

from typing import NamedTuple

import numba
import numpy as np

# Height above the head frame's origin at which a plain view is centred: the whole head is seen
MIDDLE_MM = 14.0
jit = numba.njit(cache=True, fastmath=True, nogil=True)


def smoothstep(x):
    """A smooth rise from 0 at x = 0 to 1 at x = 1, flat beyond."""
    x = x.clip(0, 1)
    return x * x * (3 - 2 * x)


def vertex_normals(vertices, triangles):
    """Unit normals (N, 3) of `vertices` (N, 3), area-weighted over the triangles (F, 3) around."""
    normals = vertex_areas(vertices, triangles)
    length = np.sqrt((normals * normals).sum(1, keepdims=True))
    return normals / (length + normals.dtype.type(1e-12))


@jit
def vertex_areas(vertices, triangles):
    """Sums (N, 3) of the cross products of the triangles around each vertex.

    They lie along the vertex's normal and are as long as twice the area around it.
    """
    normals = np.zeros_like(vertices)
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        x, y, z = vertices[a, 0], vertices[a, 1], vertices[a, 2]
        ux, uy, uz = vertices[b, 0] - x, vertices[b, 1] - y, vertices[b, 2] - z
        vx, vy, vz = vertices[c, 0] - x, vertices[c, 1] - y, vertices[c, 2] - z
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            normals[i, 0] += nx
            normals[i, 1] += ny
            normals[i, 2] += nz
    return normals


def zbuffer(points, nearness, triangles, size):
    """What a square picture of `size` px sees of a mesh.

    Triangles with a corner that is not a number, or a million px away, are left out.

    points: (N, 2) px    triangles: (F, 3), counter-clockwise from outside
    nearness: (N,) larger is nearer; linear in the picture (1 / depth for perspective)
    returns: triangle (size, size) int32, -1 where there is none, and the weights (size, size, 2)
        of its first two corners at the pixel's centre
    """
    # Here, because compiled fast mathematics takes every number for finite
    good = (abs(points) < 1e6).all(1) & np.isfinite(nearness)
    if not good.all():
        points = np.where(good[:, None], points, points.dtype.type(0))
        nearness = np.where(good, nearness, nearness.dtype.type(0))
        whole = good[triangles].all(1, keepdims=True)
        triangles = np.where(whole, triangles, triangles[:, :1])  # one corner thrice covers nothing
    return fill_zbuffer(points, nearness, triangles, size)


@jit
def fill_zbuffer(points, nearness, triangles, size):
    """`zbuffer` of finite points."""
    seen = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 2), np.float32)
    buffer = np.full((size, size), -np.inf, np.float32)
    half = points.dtype.type(0.5)
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        x0, y0 = points[a, 0], points[a, 1]
        x1, y1 = points[b, 0], points[b, 1]
        x2, y2 = points[c, 0], points[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not area < -1e-9:  # seen from behind (image y points down), or degenerate
            continue
        first_x = max(0, int(np.ceil(min(x0, x1, x2) - 0.5)))
        last_x = min(size - 1, int(np.floor(max(x0, x1, x2) - 0.5)))
        first_y = max(0, int(np.ceil(min(y0, y1, y2) - 0.5)))
        last_y = min(size - 1, int(np.floor(max(y0, y1, y2) - 0.5)))
        inverse = 1 / area
        # How the weights of a and b change from one pixel to the next
        step0, step1 = (y1 - y2) * inverse, (y2 - y0) * inverse
        na, nb, nc = nearness[a], nearness[b], nearness[c]
        for y in range(first_y, last_y + 1):
            px, py = first_x + half, y + half
            row0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
            row1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
            for x in range(first_x, last_x + 1):
                w0, w1 = row0 + (x - first_x) * step0, row1 + (x - first_x) * step1
                w2 = 1 - w0 - w1
                if w0 >= 0 and w1 >= 0 and w2 >= 0:
                    near = w0 * na + w1 * nb + w2 * nc
                    if near > buffer[y, x]:
                        buffer[y, x] = near
                        seen[y, x] = t
                        weights[y, x, 0] = w0
                        weights[y, x, 1] = w1
    return seen, weights


class Surface(NamedTuple):
    """What the vertices of a mesh look like, arrays of float32."""

    radiance: np.ndarray  # (V, 3) light that leaves each; on an eyeball the light that falls on it
    # (V, 5) place u, v on the texture, and how strongly its three layers change the light
    detail: np.ndarray
    texture: np.ndarray  # (T, T, 3), T a power of two
    eyes: np.ndarray  # (V, 3) 1 on an eyeball, and the direction from its centre, sideways and up
    # (21,) white (3), iris (3), radii of iris and pupil, shadow of the upper lid, then three
    # highlights of x, y, radius, strength
    eye: np.ndarray


def matt(radiance):
    """The Surface of `radiance` (V, 3) without texture and eyes."""
    n, single = len(radiance), np.float32
    detail, texture = np.zeros((n, 5), single), np.zeros((1, 1, 3), single)
    return Surface(radiance, detail, texture, np.zeros((n, 3), single), np.zeros(21, single))


@jit
def resolve(seen, weights, triangles, surface, picture, antialias):
    """Lay a mesh with its Surface over `picture` (S, S, 3) in place; returns its coverage (S, S).

    seen, weights: of `zbuffer` at S * antialias px, of which each pixel is the mean
    """
    radiance, detail, texture, eyes, eye = surface
    size, mask = picture.shape[0], texture.shape[0] - 1
    share = np.float32(1.0 / antialias**2)
    coverage = np.zeros((size, size), np.float32)
    colour = np.zeros(3, np.float32)
    for y in range(size):
        for x in range(size):
            r, g, b, count = np.float32(0), np.float32(0), np.float32(0), 0
            for sub in range(antialias * antialias):
                sy, sx = y * antialias + sub // antialias, x * antialias + sub % antialias
                t = seen[sy, sx]
                if t < 0:
                    continue
                i, j, k = triangles[t]
                wi, wj = weights[sy, sx, 0], weights[sy, sx, 1]
                wk = 1 - wi - wj
                for c in range(3):
                    colour[c] = wi * radiance[i, c] + wj * radiance[j, c] + wk * radiance[k, c]
                if eyes[i, 0] + eyes[j, 0] + eyes[k, 0] > 2.5:
                    aside = wi * eyes[i, 1] + wj * eyes[j, 1] + wk * eyes[k, 1]
                    up = wi * eyes[i, 2] + wj * eyes[j, 2] + wk * eyes[k, 2]
                    eye_colour(aside, up, eye, colour)
                elif detail[i, 2] + detail[i, 3] + detail[i, 4] > 0:
                    u = int(wi * detail[i, 0] + wj * detail[j, 0] + wk * detail[k, 0]) & mask
                    v = int(wi * detail[i, 1] + wj * detail[j, 1] + wk * detail[k, 1]) & mask
                    factor = np.float32(1)
                    for c in range(3):
                        di, dj, dk = detail[i, 2 + c], detail[j, 2 + c], detail[k, 2 + c]
                        factor += (wi * di + wj * dj + wk * dk) * texture[v, u, c]
                    colour *= max(factor, np.float32(0.05))
                r, g, b, count = r + colour[0], g + colour[1], b + colour[2], count + 1
            if count:
                cover = count * share
                coverage[y, x] = cover
                picture[y, x, 0] = picture[y, x, 0] * (1 - cover) + r * share
                picture[y, x, 1] = picture[y, x, 1] * (1 - cover) + g * share
                picture[y, x, 2] = picture[y, x, 2] * (1 - cover) + b * share
    return coverage


@jit
def limited(x):
    return min(max(x, 0), 1)


@jit
def eye_colour(x, y, eye, colour):
    """Multiply `colour` (3,), the light on an eyeball, by what is at (x, y); add highlights.

    x, y: the direction from the ball's centre, sideways and up    eye: (21,) of a Surface
    """
    radius = np.sqrt(x * x + y * y)
    lid = 1 - eye[8] * limited((y + 0.1) * np.float32(2.0))
    if radius > eye[6]:
        corner = lid * (1 - np.float32(0.45) * limited((radius - 0.45) * np.float32(2.0)))
        edge = 1 - np.float32(0.6) * max(0, 1 - (radius - eye[6]) / np.float32(0.05))
        for c in range(3):
            colour[c] *= eye[c] * corner * edge
    elif radius > eye[7]:
        rays = 1 + np.float32(0.25) * np.sin(37 * np.arctan2(y, x)) * np.float32(0.6)
        outer = limited((radius / eye[6] - np.float32(0.72)) * np.float32(3.5))
        limbus = 1 - np.float32(0.7) * outer
        for c in range(3):
            colour[c] *= eye[3 + c] * rays * limbus * lid
    else:
        for c in range(3):
            colour[c] *= np.float32(0.012)
    for k in range(9, 21, 4):
        dx, dy, size, strength = x - eye[k], y - eye[k + 1], eye[k + 2], eye[k + 3]
        square = (dx * dx + dy * dy) / (size * size + np.float32(1e-6))
        glint = strength * max(0, 1 - square)
        for c in range(3):
            colour[c] += glint


def plain_view(turned, triangles, size, albedo=(0.74, 0.70, 0.68), recess=0.0, side_mm=255.0):
    """A matt uint8 picture (size, size, 3) of `turned` (N, 3) mm by an orthographic camera.

    turned: in the camera's frame    albedo: one colour or (N, 3)    side_mm: the picture's width
    recess: mm (N,) by which vertices are drawn further back
    """
    turned = np.ascontiguousarray(turned, np.float32)
    points = (turned[:, :2] - [0, MIDDLE_MM]) * [1, -1] * size / side_mm + size / 2
    normals, nearness = vertex_normals(turned, triangles), turned[:, 2] - recess
    picture, _ = render_plain(points, nearness, triangles, normals, size, albedo)
    return (picture * 255).astype(np.uint8)


def render_plain(
    points, nearness, triangles, normals, size, albedo=(0.72, 0.68, 0.66), antialias=2
):
    """A matt picture (size, size, 3) in [0, 1] of a mesh under one lamp, on white; its coverage.

    points: (N, 2) px in a picture of `size`    nearness, triangles: of `zbuffer`
    normals: (N, 3) in the camera's frame    albedo: one colour or (N, 3)
    """
    light = (0.42 + normals @ np.array([-0.12, 0.22, 0.46])).clip(0).astype(np.float32)
    radiance = np.broadcast_to(np.asarray(albedo, np.float32), (len(points), 3)) * light[:, None]
    triangles = np.ascontiguousarray(triangles, dtype=np.int32)
    points = np.ascontiguousarray(points, np.float32) * antialias
    nearness = np.ascontiguousarray(nearness, np.float32)
    seen, weights = zbuffer(points, nearness, triangles, size * antialias)
    picture = np.ones((size, size, 3), np.float32)
    coverage = resolve(seen, weights, triangles, matt(radiance), picture, antialias)
    return picture.clip(0, 1), coverage
