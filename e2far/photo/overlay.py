"""The mesh as lines over its photo: what was found is seen, and whether it lies where it should."""

import numpy as np
from PIL import Image, ImageDraw

from e2far import raster

CLOSE_SIDE = 900  # px, side of a picture of the face alone
MARGIN = 0.3  # of the face's size, on each side of it there
LARGEST = 2800  # px, side of the lines as drawn, twice as large as they are shown if that is less
HIDING_SIDE, HIDDEN_MM = 300, 8.0  # px and mm by which one finds what is hidden
MESH, BORDER = (0, 150, 255, 100), (0, 90, 220, 190)  # red, green, blue, opacity
POINT, RIM = (255, 225, 120, 255), (20, 40, 60, 255)


def draw(face, photo, close):
    """A photo (H, W, 3) uint8, or its part about the `face.Face`, under its mesh and landmarks."""
    points, marks = face.pose.project(face.vertices), face.image_landmarks
    reach = np.concatenate((points[face.region], marks))
    middle, size = (reach.min(0) + reach.max(0)) / 2, np.ptp(reach, axis=0).max()
    side = int(np.clip((1 + 2 * MARGIN) * size, 8, 3 * max(photo.shape)))
    corner = np.round(middle - side / 2).clip(-side, photo.shape[1::-1]).astype(int)
    shown, picture = CLOSE_SIDE if close else side, Image.fromarray(photo)
    lines = mesh_lines(face, (points - corner) / side, (marks - corner) / side, shown)
    if close:
        low, high = corner.clip(0), (corner + side).clip(1, photo.shape[1::-1])
        low = np.minimum(low, high - 1)
        wanted = np.maximum(1, np.round((high - low) * (shown / side))).astype(int).tolist()
        picture = picture.crop((*low.tolist(), *high.tolist())).resize(wanted)
        corner = np.round((corner - low) * (shown / side)).astype(int)
    picture.paste(lines, tuple(corner.tolist()), lines)
    return np.asarray(picture)


def mesh_lines(face, points, marks, side):
    """The edges of the face that the camera sees and its landmarks, as an RGBA picture.

    points, marks: (N, 2) and (68, 2), in shares of its `side` px
    """
    size = max(side, min(2 * side, LARGEST))
    layer = Image.new("RGBA", (size, size), MESH[:3] + (0,))
    pen, points = ImageDraw.Draw(layer), points * size
    hidden = hidden_vertices(face, points * (HIDING_SIDE / size))
    triangles = face.region_triangles
    inner, border = seen_edges(points, triangles[~hidden[triangles].any(1)])
    for edges, colour, width in ((inner, MESH, size / 1200), (border, BORDER, size / 400)):
        for line in points[edges].reshape(-1, 4).tolist():
            pen.line(line, colour, max(1, round(width)))
    for x, y in (marks * size).tolist():
        for r, colour in ((size / 220, RIM), (size / 330, POINT)):
            pen.ellipse((x - r, y - r, x + r, y + r), fill=colour)
    return layer.resize((side, side), Image.Resampling.LANCZOS)


def hidden_vertices(face, points):
    """Which vertices (N,) lie behind others, as an ear behind the cheek.

    points: (N, 2) px in a picture of HIDING_SIDE
    """
    depth = (face.vertices @ face.pose.rotation.T)[:, 2].astype(np.float32)
    triangles = face.triangles.astype(np.int32)
    points = np.ascontiguousarray(points, np.float32)
    seen, shares = raster.zbuffer(points, depth, triangles, HIDING_SIDE)
    shares = np.dstack((shares, 1 - shares.sum(-1)))
    nearest = np.where(seen < 0, -np.inf, (shares * depth[triangles[seen]]).sum(-1))
    column, row = points.astype(int).clip(0, HIDING_SIDE - 1).T
    return depth < nearest[row, column] - HIDDEN_MM


def seen_edges(points, triangles):
    """Edges (n, 2) between two triangles that face the camera, and (m, 2) of only one that does.

    points: (N, 2) px, in which a triangle that faces the camera goes round anticlockwise
    """
    (ax, ay), (bx, by) = (
        np.moveaxis(points[triangles[:, i]] - points[triangles[:, 0]], 1, 0) for i in (1, 2)
    )
    front = triangles[ax * by - ay * bx < 0]  # y points down
    sides = np.sort(front[:, [[0, 1], [1, 2], [2, 0]]].reshape(-1, 2), axis=1)
    edges, count = np.unique(sides, axis=0, return_counts=True)
    return edges[count > 1], edges[count == 1]
