"""The z-buffer of `rasterize` for batches, in plain torch: on a GPU, training can make its pictures as it goes."""
import torch


def vertex_areas(vertices, triangles):
    """Sums (B, N, 3) of the cross products of the triangles (F, 3) around each of `vertices` (B, N, 3): along its normal, as long as twice the area around it."""
    a, b, c = (vertices[:, corner] for corner in triangles.T)
    faces = torch.linalg.cross(b - a, c - a)
    normals = torch.zeros_like(vertices)
    for corner in triangles.T:
        normals = normals.index_add(1, corner, faces)
    return normals


def sides(x, y):
    """Twice the signed areas (...), three of them, of the origin and the side across from each corner x, y (3, ...); two triangles at a side agree to the bit, so no pixel falls between."""
    return x[1] * y[2] - x[2] * y[1], x[2] * y[0] - x[0] * y[2], x[0] * y[1] - x[1] * y[0]


def ranges(first, count, chunk):
    """The whole numbers first[i] ... first[i] + count[i] - 1 of every i, one after another, at most `chunk` at a time: yields which i, and the number; both int64 (M,)."""
    stop, total = count.cumsum(0), int(count.sum())
    start = stop - count
    for low in range(0, total, chunk):
        high = min(low + chunk, total)
        which = torch.repeat_interleave(stop.clamp(low, high) - start.clamp(low, high), output_size=high - low)
        yield which, torch.arange(low, high, device=count.device) + (first - start)[which]


@torch.no_grad()
def zbuffer(points, nearness, triangles, size, chunk=1 << 22):
    """What square pictures of `size` px see of a batch of meshes, as `rasterize.zbuffer` of each; where triangles are equally near, the first.

    points: (B, N, 2) px    nearness: (B, N) larger is nearer; linear in the picture    triangles: (F, 3) int64, counter-clockwise from outside
    chunk: how many pixels of triangles are looked at together, about 150 bytes each; it changes memory and speed, never the answer
    returns: triangle (B, size, size) int32, -1 where there is none, and the weights (B, size, size, 2) of its first two corners at the pixel's centre
    """
    batch, n = nearness.shape
    corners = (triangles.T[:, None] + n * torch.arange(batch, device=points.device)[:, None]).flatten(1)        # (3, B F) into the flat points
    x, y, near = points[..., 0].flatten(), points[..., 1].flatten(), nearness.flatten()
    good = (x.abs() < 1e6) & (y.abs() < 1e6) & near.isfinite()
    xs, ys = x[corners], y[corners]
    area = (xs[1] - xs[0]) * (ys[2] - ys[0]) - (xs[2] - xs[0]) * (ys[1] - ys[0])
    front = ((area < -1e-9) & good[corners].all(0)).nonzero().squeeze(1)                                        # the others are seen from behind, degenerate or broken
    xs, ys, nears = xs[:, front], ys[:, front], near[corners[:, front]]                                         # (3, T) of all that may be seen

    lowest = torch.iinfo(torch.int64).min
    best = torch.full((batch * size * size,), lowest, device=points.device)                                     # nearness in the upper half, the triangle in the lower
    for t, row in ranges(*pixels(ys.amin(0), ys.amax(0), size), chunk):                                         # every row that a triangle crosses
        x3, y3 = xs[:, t], ys[:, t] - (row + .5)
        x2, y2 = x3.roll(-1, 0), y3.roll(-1, 0)
        crossing = x3 + (x2 - x3) * y3 / (y3 - y2)                                                              # of each side's line with the row: a start going down the picture, an end going up
        start = crossing.where(y3 < y2, -torch.inf).amax(0).maximum(x3.amin(0))
        end = crossing.where(y3 > y2, torch.inf).amin(0).minimum(x3.amax(0))
        picture, triangle = front[t] // len(triangles), front[t] % len(triangles)
        begin, name = (picture * size + row) * size, len(triangles) - 1 - triangle
        for i, column in ranges(*pixels(start - .01, end + .01, size), chunk):                                  # a little too wide: rounding is left to the test that follows
            a, b, c = sides(x3[:, i] - (column + .5), y3[:, i])
            inside = ((a <= 0) & (b <= 0) & (c <= 0) & (a + b + c < 0)).nonzero().squeeze(1)
            i, a, b, c = i[inside], a[inside], b[inside], c[inside]
            n0, n1, n2 = nears[:, t[i]]
            depth = (a * n0 + b * n1 + c * n2) / (a + b + c)
            best.scatter_reduce_(0, begin[i] + column[inside], (order(depth) << 32) + name[i], "amax")

    seen = torch.full_like(best, -1, dtype=torch.int32)
    weights = points.new_zeros(len(best), 2)
    for pixel in (best != lowest).nonzero().squeeze(1).split(chunk):
        triangle = len(triangles) - 1 - (best[pixel] & 0xffffffff)
        corner = triangles[triangle].T + n * (pixel // size ** 2)
        a, b, c = sides(x[corner] - (pixel % size + .5), y[corner] - (pixel // size % size + .5))
        seen[pixel], weights[pixel] = triangle.int(), torch.stack((a, b), 1) / (a + b + c)[:, None]
    return seen.view(batch, size, size), weights.view(batch, size, size, 2)


def pixels(low, high, size):
    """The first of the pixels whose centres lie between `low` and `high` px, both (M,), and how many these are, in a picture of `size`."""
    first, last = (low - .5).ceil().clamp(min=0).long(), (high - .5).floor().clamp(max=size - 1).long()
    return first, (last - first + 1).clamp(min=0)


def order(values):
    """int64 numbers below 2^31 that sort as the float32 of `values` does."""
    bits = (values.float() + 0.).view(torch.int32)              # + 0: minus zero is zero
    return (bits ^ (bits >> 31 & 0x7fffffff)).long()
