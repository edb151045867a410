import numpy as np
import pytest
import trimesh

from e2far import raster
from e2far.synthesis import develop


def flat(*corners):
    """One triangle or more from image points: points (N, 2) float32, triangles (F, 3) int32."""
    return np.array(corners, np.float32).reshape(-1, 2), np.arange(
        len(corners), dtype=np.int32
    ).reshape(-1, 3)


def square(x0, y0, x1, y1):
    """Two triangles, counter-clockwise as seen (y points down)."""
    return np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)], np.float32), np.array(
        [(0, 1, 2), (0, 2, 3)], np.int32
    )


def brute_force(points, nearness, triangles, size):
    """The z-buffer as its definition: every pixel asks every triangle. Also how clear (size, size) the answer is."""
    seen, clear = np.full((size, size), -1), np.full((size, size), np.inf)
    for y in range(size):
        for x in range(size):
            best = second = -np.inf
            for t, (a, b, c) in enumerate(triangles):
                corners = np.array([points[a], points[b], points[c]], float)
                (x0, y0), (x1, y1), (x2, y2) = corners
                if (x1 - x0) * (y2 - y0) - (x2 - x0) * (y1 - y0) >= 0:
                    continue
                weights = np.linalg.solve(np.vstack([corners.T, np.ones(3)]), [x + 0.5, y + 0.5, 1])
                clear[y, x] = min(clear[y, x], abs(weights.min()))
                near = weights @ nearness[[a, b, c]]
                if weights.min() >= 0:
                    if near > best:
                        best, second, seen[y, x] = near, best, t
                    else:
                        second = max(second, near)
            clear[y, x] = min(clear[y, x], best - second if best > second else np.inf)
    return seen, clear


def test_zbuffer_against_brute_force():
    rng = np.random.default_rng(0)
    points, nearness = (
        rng.uniform(-4, 20, (40, 2)).astype(np.float32),
        rng.uniform(0, 1, 40).astype(np.float32),
    )
    triangles = rng.integers(0, 40, (50, 3)).astype(np.int32)
    triangles = triangles[[len(set(t)) == 3 for t in triangles]]
    seen, weights = raster.zbuffer(points, nearness, triangles, 16)
    expected, clear = brute_force(points, nearness, triangles, 16)
    sure = clear > 1e-4
    assert sure.mean() > 0.97 and len(np.unique(expected)) > 8 and (expected < 0).any()
    assert (seen == expected)[sure].all()
    y, x = np.nonzero(seen >= 0)
    all_three = np.concatenate((weights[y, x], 1 - weights[y, x].sum(1, keepdims=True)), 1)
    at = np.einsum("nk,nkd->nd", all_three, points[triangles[seen[y, x]]])
    np.testing.assert_allclose(
        at, np.stack((x, y), 1) + 0.5, atol=1e-3
    )  # the weights lead back to the pixel's centre


@pytest.mark.parametrize("order", [1, -1])
def test_the_nearer_triangle_wins_in_any_order(order):
    points, triangles = flat((0, 0), (0, 16), (16, 0), (0, 0), (0, 16), (16, 0))
    seen, _ = raster.zbuffer(
        points, np.array([1, 1, 1, 2, 2, 2], np.float32), triangles[::order].copy(), 8
    )
    assert (seen == (1 if order == 1 else 0)).all()


def test_triangles_that_cut_through_each_other_share_the_picture():
    points, triangles = flat((0, -8), (0, 24), (32, 8), (0, -8), (0, 24), (32, 8))
    seen, _ = raster.zbuffer(
        points, np.array([0, 0, 4, 1, 1, 1], np.float32), triangles, 16
    )  # the first is nearer where x > 8
    assert (seen[8, :8] == 1).all() and (seen[8, 8:] == 0).all()


def test_back_faces_are_culled():
    points, triangles = square(1, 1, 7, 7)
    nearness = np.ones(4, np.float32)
    assert (raster.zbuffer(points, nearness, triangles, 8)[0] >= 0).sum() == 36
    assert (raster.zbuffer(points, nearness, triangles[:, ::-1].copy(), 8)[0] == -1).all()


@pytest.mark.parametrize(
    "corners, count",
    [
        ((2, 3, 6, 5), 8),
        ((-5, -5, 3, 2), 6),
        ((-9, -9, 99, 99), 64),
        ((9, 9, 12, 12), 0),
        ((2.6, 2.6, 3.4, 3.4), 0),
        ((2.4, 2.4, 2.6, 2.6), 1),
    ],
)
def test_coverage_of_a_known_square(corners, count):
    """A pixel is covered where its centre is."""
    points, triangles = square(*corners)
    assert (raster.zbuffer(points, np.ones(4, np.float32), triangles, 8)[0] >= 0).sum() == count


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf, 1e30])
def test_broken_points_spoil_nothing_but_their_own_triangles(bad):
    points, triangles = square(1, 1, 7, 7)
    points = np.concatenate(
        (points, np.array([(bad, 3), (4, bad), (bad, bad), (5, 5)], np.float32))
    )
    broken = np.array([(4, 5, 6), (4, 7, 0), (0, 5, 7), (6, 1, 2)], np.int32)
    seen, weights = raster.zbuffer(
        points, np.ones(8, np.float32), np.concatenate((triangles, broken)), 8
    )
    alone, _ = raster.zbuffer(points[:4].copy(), np.ones(4, np.float32), triangles, 8)
    touched = seen != alone
    assert (seen[~touched] == alone[~touched]).all() and np.isfinite(weights).all()
    if not abs(bad) < np.inf:
        assert not touched.any()


def test_degenerate_triangles_cover_nothing():
    points, triangles = flat((1, 1), (4, 4), (7, 7), (3, 3), (3, 3), (3, 3), (2, 5), (2, 5), (6, 5))
    assert (raster.zbuffer(points, np.ones(9, np.float32), triangles, 8)[0] == -1).all()


def test_an_empty_mesh_is_an_empty_picture():
    seen, _ = raster.zbuffer(
        np.zeros((0, 2), np.float32), np.zeros(0, np.float32), np.zeros((0, 3), np.int32), 4
    )
    assert seen.shape == (4, 4) and (seen == -1).all()


def test_normals_of_a_sphere_point_away_from_its_centre():
    ball = trimesh.creation.icosphere(subdivisions=2, radius=50.0)
    normals = raster.vertex_normals(ball.vertices.astype(np.float32), ball.faces.astype(np.int32))
    assert ((normals * ball.vertices / 50).sum(1) > 0.999).all()
    np.testing.assert_allclose(np.linalg.norm(normals, axis=1), 1, atol=1e-5)


def test_normals_weigh_triangles_by_their_area():
    vertices = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 3)], np.float32)
    triangles = np.array([(0, 1, 2), (0, 2, 3)], np.int32)  # area 1/2 facing z, area 3/2 facing x
    np.testing.assert_allclose(
        raster.vertex_normals(vertices, triangles)[0], np.array([3, 0, 1]) / np.sqrt(10), atol=1e-6
    )


def test_a_vertex_of_no_triangle_has_a_finite_normal():
    assert np.isfinite(
        raster.vertex_normals(np.ones((4, 3), np.float32), np.array([(0, 1, 2)], np.int32))
    ).all()


def render(points, triangles, size, **options):
    normals = np.tile(np.array([0, 0, 1], np.float32), (len(points), 1))
    return raster.render_plain(points, np.ones(len(points)), triangles, normals, size, **options)


def test_a_square_that_faces_the_camera_has_the_lamps_colour():
    picture, coverage = render(*square(2, 3, 6, 5), 8, albedo=(0.5, 0.25, 1.0))
    light = 0.42 + 0.46 * (3 - 1) * 0 + 0.46  # constant part and the part along z
    assert coverage.sum() == 8
    np.testing.assert_allclose(picture[4, 4], np.array([0.5, 0.25, 1.0]) * light, atol=1e-5)
    assert (picture[0] == 1).all()  # white background


def test_antialiasing_is_the_average_of_a_larger_picture():
    rng = np.random.default_rng(1)
    points, triangles = (
        rng.uniform(0, 12, (12, 2)).astype(np.float32),
        np.arange(12, dtype=np.int32).reshape(-1, 3),
    )
    triangles = np.concatenate((triangles, triangles[:, ::-1]))
    small, coverage = render(points, triangles, 12, antialias=2)
    large, large_coverage = render(points * 2, triangles, 24, antialias=1)
    assert 0 < coverage.mean() < 1
    np.testing.assert_allclose(
        coverage, large_coverage.reshape(12, 2, 12, 2).mean((1, 3)), atol=1e-6
    )
    np.testing.assert_allclose(small, large.reshape(12, 2, 12, 2, 3).mean((1, 3)), atol=1e-5)


def test_half_a_pixel_is_half_covered():
    _, coverage = render(*square(2.5, 3, 6, 5), 8)
    np.testing.assert_allclose(coverage[3], [0, 0, 0.5, 1, 1, 1, 0, 0], atol=1e-6)


def test_what_is_recessed_hides_behind_what_is_not():
    points, triangles = square(-100, -100, 100, 100)
    points = points * [1, -1]
    front, behind = (
        np.column_stack((points, np.zeros(4))),
        np.column_stack((points, np.ones(4))),
    )  # 1 mm in front, but drawn 4 mm further back
    vertices = np.concatenate((front, behind)).astype(np.float32)
    both = np.concatenate((triangles, triangles + 4))
    colours = np.repeat([(1.0, 0, 0), (0, 0, 1.0)], 4, 0)
    view = raster.plain_view(vertices, both, 20, colours, recess=np.repeat([0.0, 4.0], 4))
    assert view.dtype == np.uint8 and view[10, 10, 0] > 100 and view[10, 10, 2] == 0
    assert raster.plain_view(vertices, both, 20, colours)[10, 10, 2] > 100


# Light, boxes, noise -------------------------------------------------------------------------------------------------------------------------------


def resolve(
    radiance,
    detail=None,
    texture=None,
    eyes=None,
    eye=None,
    size=8,
    corners=(0, 0, 8, 8),
    antialias=1,
):
    points, triangles = square(*corners)
    seen, weights = raster.zbuffer(
        points * antialias, np.ones(4, np.float32), triangles, size * antialias
    )
    picture = np.zeros((size, size, 3), np.float32)
    given = dict(detail=detail, texture=texture, eyes=eyes, eye=eye)
    given = {k: np.asarray(v, np.float32) for k, v in given.items() if v is not None}
    surface = raster.matt(np.asarray(radiance, np.float32))._replace(**given)
    coverage = raster.resolve(seen, weights, triangles, surface, picture, antialias)
    return picture, coverage


def test_light_is_interpolated_between_vertices():
    radiance = np.array(
        [(0, 0, 0), (0, 1, 0), (2, 1, 0), (2, 0, 0)]
    )  # red grows with x, green with y
    picture, coverage = resolve(radiance)
    place = (np.arange(8) + 0.5) / 8
    np.testing.assert_allclose(picture[..., 0], np.broadcast_to(2 * place, (8, 8)), atol=1e-5)
    np.testing.assert_allclose(picture[..., 1], np.broadcast_to(place[:, None], (8, 8)), atol=1e-5)
    assert (coverage == 1).all() and not picture[..., 2].any()


def test_detail_multiplies_the_light_where_it_is_strong():
    texture = np.zeros((4, 4, 3))
    texture[1, 2] = [0.5, 0, 0]
    at = lambda strength: resolve(
        np.ones((4, 3)), detail=np.tile([2.3, 1.2, *strength], (4, 1)), texture=texture
    )[0]
    np.testing.assert_allclose(at([0.4, 0, 0]), 1.2, atol=1e-5)
    np.testing.assert_allclose(at([0, 0.4, 0]), 1.0, atol=1e-5)
    np.testing.assert_allclose(at([0, 0, 0]), 1.0, atol=1e-5)
    wrapped = resolve(
        np.ones((4, 3)),
        detail=np.tile([2.3 + 4 * 7, 1.2 + 4 * 3, 0.4, 0, 0], (4, 1)),
        texture=texture,
    )[0]
    np.testing.assert_allclose(wrapped, 1.2, atol=1e-5)


def test_an_eye_has_white_iris_and_pupil():
    eyes = np.array([(1, -1, 1), (1, -1, -1), (1, 1, -1), (1, 1, 1)])
    eye = np.zeros(21)
    eye[:9] = [0.8, 0.8, 0.8, 0.1, 0.3, 0.6, 0.5, 0.2, 0]
    picture, _ = resolve(np.ones((4, 3)), eyes=eyes, eye=eye, size=41, corners=(0, 0, 41, 41))
    middle, iris, white = picture[20, 20], picture[20, 20 + 7], picture[20, 20 + 15]
    assert middle.max() < 0.05 and iris[2] > 1.5 * iris[0] and white.min() > 0.4
    eye[9:13] = [0.3, 0, 0.2, 2.0]
    glint = resolve(np.ones((4, 3)), eyes=eyes, eye=eye, size=41, corners=(0, 0, 41, 41))[0]
    assert glint[20, 26].min() > 1.5 and np.array_equal(glint[20, 20], middle)


def box(x, y, half_width, half_height, **fields):
    colours = dict(start=(1, 0.5, 0.25), end=(1, 0.5, 0.25))
    place = dict(centre=(x, y), half=(half_width, half_height))
    return develop.box(**place, **colours | fields)[None]


def paint(boxes, size=60, picture=None, coverage=None):
    picture = np.zeros((size, size, 3), np.float32) if picture is None else picture
    develop.paint(
        picture,
        boxes,
        np.zeros((4, 4, 3), np.float32),
        np.zeros((size, size), np.float32) if coverage is None else coverage,
    )
    return picture


@pytest.mark.parametrize("corner, area", [(0, 4 * 20 * 10), (10, 4 * 20 * 10 - (4 - np.pi) * 100)])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_box_has_its_area_place_and_colour(corner, area, angle):
    picture = paint(box(30, 25, 20, 10, corner=corner, angle=angle))
    assert abs(picture[..., 0].sum() / area - 1) < 0.03
    np.testing.assert_allclose(picture[25, 30], (1, 0.5, 0.25), atol=1e-6)
    y, x = np.mgrid[:60, :60] + 0.5
    assert (
        abs((picture[..., 0] * x).sum() / picture[..., 0].sum() - 30) < 0.1
        and abs((picture[..., 0] * y).sum() / picture[..., 0].sum() - 25) < 0.1
    )


def test_boxes_blend_shade_and_spare_what_is_covered():
    half = paint(box(30, 30, 99, 99, opacity=0.5), picture=np.ones((60, 60, 3), np.float32))
    np.testing.assert_allclose(half, np.broadcast_to([1, 0.75, 0.625], half.shape), atol=1e-6)
    ramp = paint(box(30, 30, 30, 99, start=(0, 0, 0), end=(1, 1, 1)))
    np.testing.assert_allclose(ramp[30, :, 0], (np.arange(60) + 0.5) / 60, atol=1e-5)
    covered = np.zeros((60, 60), np.float32)
    covered[:30] = 1
    assert not paint(box(30, 30, 99, 99), coverage=covered)[:30].any()
    assert not paint(box(30, 30, 99, 99, opacity=0.0)).any()


def test_noise_is_normal_white_and_repeats():
    def noise(number, coarse=1):
        picture = np.zeros((96, 96, 3), np.float32)
        develop.add_noise(picture, np.float32(0.05), coarse, number)
        return picture

    one = noise(12345)
    assert (
        abs(one.std() - 0.05) < 0.002
        and abs(one.mean()) < 0.002
        and np.array_equal(one, noise(12345))
        and abs((one > 0.1).mean() - 0.0228) < 0.006
    )
    assert (
        abs(np.corrcoef(one[:, 1:].ravel(), one[:, :-1].ravel())[0, 1]) < 0.03
        and abs(np.corrcoef(one[..., 0].ravel(), one[..., 1].ravel())[0, 1]) < 0.03
    )
    assert abs(np.corrcoef(one.ravel(), noise(12346).ravel())[0, 1]) < 0.03
    assert np.array_equal(noise(7, 2)[::2, ::2], noise(7, 2)[1::2, 1::2])
