"""A z-buffer in numba: which triangle each pixel sees, and the shading of what it sees. Nothing but the CPU is needed."""
import numba
import numpy as np

MIDDLE_MM = 14.         # how far above the head frame's origin a plain view is centred, so that the whole head is seen
jit = numba.njit(cache=True, fastmath=True, nogil=True)


@jit
def vertex_normals(vertices, triangles):
    """Unit normals (N, 3) of `vertices` (N, 3), area-weighted over the triangles (F, 3) around each."""
    normals = np.zeros_like(vertices)
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        ux, uy, uz = vertices[b, 0] - vertices[a, 0], vertices[b, 1] - vertices[a, 1], vertices[b, 2] - vertices[a, 2]
        vx, vy, vz = vertices[c, 0] - vertices[a, 0], vertices[c, 1] - vertices[a, 1], vertices[c, 2] - vertices[a, 2]
        nx, ny, nz = uy * vz - uz * vy, uz * vx - ux * vz, ux * vy - uy * vx
        for i in (a, b, c):
            normals[i, 0] += nx
            normals[i, 1] += ny
            normals[i, 2] += nz
    for i in range(len(normals)):
        length = np.sqrt(normals[i, 0] ** 2 + normals[i, 1] ** 2 + normals[i, 2] ** 2) + 1e-12
        normals[i] /= length
    return normals


def zbuffer(points, nearness, triangles, size):
    """What a square picture of `size` px sees of a mesh; triangles with a corner that is not a number, or a million px away, are left out.

    points: (N, 2) px    nearness: (N,) larger is nearer; linear in the picture (1 / depth for perspective)    triangles: (F, 3), counter-clockwise from outside
    returns: triangle (size, size) int32, -1 where there is none, and the weights (size, size, 2) of its first two corners at the pixel's centre
    """
    good = (abs(points) < 1e6).all(1) & np.isfinite(nearness)       # here, because compiled fast mathematics takes every number for finite
    if not good.all():
        points, nearness = np.where(good[:, None], points, points.dtype.type(0)), np.where(good, nearness, nearness.dtype.type(0))
        triangles = np.where(good[triangles].all(1, keepdims=True), triangles, triangles[:, :1])       # one corner thrice: covers nothing
    return fill_zbuffer(points, nearness, triangles, size)


@jit
def fill_zbuffer(points, nearness, triangles, size):
    """`zbuffer` of finite points."""
    seen = np.full((size, size), -1, np.int32)
    weights = np.zeros((size, size, 2), np.float32)
    buffer = np.full((size, size), -np.inf, np.float32)
    for t in range(len(triangles)):
        a, b, c = triangles[t]
        x0, y0, x1, y1, x2, y2 = points[a, 0], points[a, 1], points[b, 0], points[b, 1], points[c, 0], points[c, 1]
        area = (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0)
        if not area < -1e-9:            # seen from behind (image y points down), or degenerate
            continue
        first_x, last_x = max(0, int(np.ceil(min(x0, x1, x2) - .5))), min(size - 1, int(np.floor(max(x0, x1, x2) - .5)))
        first_y, last_y = max(0, int(np.ceil(min(y0, y1, y2) - .5))), min(size - 1, int(np.floor(max(y0, y1, y2) - .5)))
        inverse = 1 / area
        for y in range(first_y, last_y + 1):
            for x in range(first_x, last_x + 1):
                px, py = x + .5, y + .5
                w0 = ((x1 - px) * (y2 - py) - (x2 - px) * (y1 - py)) * inverse
                w1 = ((x2 - px) * (y0 - py) - (x0 - px) * (y2 - py)) * inverse
                w2 = 1 - w0 - w1
                if w0 < 0 or w1 < 0 or w2 < 0:
                    continue
                near = w0 * nearness[a] + w1 * nearness[b] + w2 * nearness[c]
                if near > buffer[y, x]:
                    buffer[y, x] = near
                    seen[y, x] = t
                    weights[y, x, 0] = w0
                    weights[y, x, 1] = w1
    return seen, weights


@jit
def shade(seen, weights, triangles, normals, albedo, gloss, eyes, eye_colours, harmonics, halfway, picture, antialias):
    """Add the shaded mesh to `picture` (S, S, 4): colour times coverage, and coverage, averaged over antialias x antialias samples a pixel.

    seen, weights: of `zbuffer` at S * antialias px    normals: (N, 3) in the camera's frame    albedo: (N, 3) linear    gloss: (N,)
    eyes: (N, 3) eyeball, and the sideways and upward parts of the direction from its centre    eye_colours: (3, 3) white, iris, pupil
    harmonics: (9, 3) irradiance in real spherical harmonics up to degree two, already with the cosine lobe (Ramamoorthi & Hanrahan 2001)
    halfway: (L, 7) one row a lamp: halfway vector, exponent, and colour of the highlight
    """
    share = 1. / antialias ** 2
    for y in range(seen.shape[0]):
        for x in range(seen.shape[1]):
            t = seen[y, x]
            if t < 0:
                continue
            a, b, c = triangles[t]
            wa, wb = weights[y, x, 0], weights[y, x, 1]
            wc = 1 - wa - wb
            nx = wa * normals[a, 0] + wb * normals[b, 0] + wc * normals[c, 0]
            ny = wa * normals[a, 1] + wb * normals[b, 1] + wc * normals[c, 1]
            nz = wa * normals[a, 2] + wb * normals[b, 2] + wc * normals[c, 2]
            length = 1 / np.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
            nx, ny, nz = nx * length, ny * length, nz * length
            shine = wa * gloss[a] + wb * gloss[b] + wc * gloss[c]
            ring = -1
            if eyes[a, 0] + eyes[b, 0] + eyes[c, 0] > 2.5:
                ex = wa * eyes[a, 1] + wb * eyes[b, 1] + wc * eyes[c, 1]
                ey = wa * eyes[a, 2] + wb * eyes[b, 2] + wc * eyes[c, 2]
                radius = ex * ex + ey * ey
                ring = 0 if radius > .24 else (1 if radius > .035 else 2)
            for k in range(3):
                light = (harmonics[0, k] + harmonics[1, k] * ny + harmonics[2, k] * nz + harmonics[3, k] * nx + harmonics[4, k] * nx * ny
                         + harmonics[5, k] * ny * nz + harmonics[6, k] * (3 * nz * nz - 1) + harmonics[7, k] * nx * nz + harmonics[8, k] * (nx * nx - ny * ny))
                colour = eye_colours[ring, k] if ring >= 0 else wa * albedo[a, k] + wb * albedo[b, k] + wc * albedo[c, k]
                value = colour * max(light, 0.)
                for lamp in range(len(halfway)):
                    cosine = nx * halfway[lamp, 0] + ny * halfway[lamp, 1] + nz * halfway[lamp, 2]
                    if cosine > 0:
                        value += shine * halfway[lamp, 4 + k] * cosine ** halfway[lamp, 3]
                picture[y // antialias, x // antialias, k] += value * share
            picture[y // antialias, x // antialias, 3] += share


def plain_view(turned, triangles, size, albedo=(.74, .70, .68), recess=0., side_mm=255.):
    """A matt uint8 picture (size, size, 3), `side_mm` wide, of vertices (N, 3) mm in the camera's frame by an orthographic camera; `recess`: mm (N,) by which they are drawn further back."""
    turned = np.ascontiguousarray(turned, np.float32)
    points = (turned[:, :2] - [0, MIDDLE_MM]) * [1, -1] * size / side_mm + size / 2
    picture, _ = render_plain(points, turned[:, 2] - recess, triangles, vertex_normals(turned, triangles), size, albedo)
    return (picture * 255).astype(np.uint8)


def render_plain(points, nearness, triangles, normals, size, albedo=(.72, .68, .66), antialias=2, background=(1., 1., 1.)):
    """A matt picture (size, size, 3) float in [0, 1] of a mesh under one soft lamp, for figures and overlays; and its coverage (size, size).

    points: (N, 2) px in a picture of `size`    normals: (N, 3) in the camera's frame    albedo: one colour or (N, 3)
    """
    n = len(points)
    albedo = np.broadcast_to(np.asarray(albedo, np.float32), (n, 3)).copy()
    harmonics = np.zeros((9, 3), np.float32)
    harmonics[0], harmonics[1], harmonics[2], harmonics[3] = .42, .22, .46, -.12
    triangles = np.ascontiguousarray(triangles, dtype=np.int32)
    seen, weights = zbuffer(np.ascontiguousarray(points, np.float32) * antialias, np.ascontiguousarray(nearness, np.float32), triangles, size * antialias)
    picture = np.zeros((size, size, 4), np.float32)
    shade(seen, weights, triangles, np.ascontiguousarray(normals, np.float32), albedo, np.zeros(n, np.float32), np.zeros((n, 3), np.float32),
          np.zeros((3, 3), np.float32), harmonics, np.zeros((0, 7), np.float32), picture, antialias)
    coverage = picture[..., 3:]
    return (picture[..., :3] + (1 - coverage) * np.asarray(background, np.float32)).clip(0, 1), coverage[..., 0]
