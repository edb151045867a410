import numpy as np
import pytest
from numpy.testing import assert_allclose

from e2far import raster
from e2far.synthesis import boxes, develop


def ones(*shape):
    return np.ones(shape, np.float32)


def flat(*corners):
    """One triangle or more from image points: points (N, 2) float32, triangles (F, 3) int32."""
    triangles = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)
    return np.array(corners, np.float32).reshape(-1, 2), triangles


def square(x0, y0, x1, y1):
    """Two triangles, counter-clockwise as seen (y points down)."""
    points = np.array([(x0, y0), (x0, y1), (x1, y1), (x1, y0)], np.float32)
    return points, np.array([(0, 1, 2), (0, 2, 3)], np.int32)


def seen_by(points, triangles, size, nearness=None):
    nearness = ones(len(points)) if nearness is None else np.array(nearness, np.float32)
    return raster.zbuffer(points, nearness, triangles, size)[0]


def brute_force(points, nearness, triangles, size):
    """The z-buffer as its definition: every pixel asks every triangle. Also how clear (size, size)
    the answer is."""
    y, x = np.mgrid[:size, :size].reshape(2, -1) + 0.5
    corners = np.moveaxis(points[triangles].astype(float), 1, 2)  # (F, 2, 3)
    whole = np.concatenate((corners, np.ones((len(triangles), 1, 3))), 1)
    front = np.linalg.det(whole) < 0  # the others are seen from behind
    weights = np.linalg.solve(whole[front], np.stack((x, y, np.ones_like(x))))  # (F, 3, pixels)
    near = np.einsum("fkp,fk->fp", weights, nearness[triangles[front]])
    near[weights.min(1) < 0] = -np.inf
    first, second = -np.sort(-near, axis=0)[:2]
    with np.errstate(invalid="ignore"):
        apart = np.where(np.isfinite(first), first - second, np.inf)
    clear = np.minimum(abs(weights.min(1)).min(0), apart)
    seen = np.where(np.isfinite(first), np.flatnonzero(front)[near.argmax(0)], -1)
    return seen.reshape(size, size), clear.reshape(size, size)


def test_zbuffer_against_brute_force():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 20, (40, 2)).astype(np.float32)
    nearness = rng.uniform(0, 1, 40).astype(np.float32)
    triangles = rng.integers(0, 40, (50, 3)).astype(np.int32)
    triangles = triangles[[len(set(t)) == 3 for t in triangles]]
    seen, weights = raster.zbuffer(points, nearness, triangles, 16)
    expected, clear = brute_force(points, nearness, triangles, 16)
    sure = clear > 1e-4
    assert sure.mean() > 0.97 and len(np.unique(expected)) > 8 and (expected < 0).any()
    assert (seen == expected)[sure].all()
    # The weights lead back to the pixel's centre
    y, x = np.nonzero(seen >= 0)
    all_three = np.concatenate((weights[y, x], 1 - weights[y, x].sum(1, keepdims=True)), 1)
    at = np.einsum("nk,nkd->nd", all_three, points[triangles[seen[y, x]]])
    assert_allclose(at, np.stack((x, y), 1) + 0.5, atol=1e-3)


@pytest.mark.parametrize(
    "corners, count",
    [((2, 3, 6, 5), 8), ((-5, -5, 3, 2), 6), ((-9, -9, 99, 99), 64), ((9, 9, 12, 12), 0)]
    + [((2.6, 2.6, 3.4, 3.4), 0), ((2.4, 2.4, 2.6, 2.6), 1)],
)
def test_a_pixel_is_covered_where_its_centre_is(corners, count):
    points, triangles = square(*corners)
    assert (seen_by(points, triangles, 8) >= 0).sum() == count
    assert (seen_by(points, triangles[:, ::-1].copy(), 8) == -1).all()  # from behind


@pytest.mark.parametrize("bad", [np.nan, -np.inf, 1e30])
def test_broken_points_spoil_nothing_but_their_own_triangles(bad):
    points, triangles = square(1, 1, 7, 7)
    more = np.array([(bad, 3), (4, bad), (bad, bad), (5, 5)], np.float32)
    broken = np.array([(4, 5, 6), (4, 7, 0), (0, 5, 7), (6, 1, 2)], np.int32)
    both = np.concatenate((points, more)), ones(8), np.concatenate((triangles, broken))
    seen, weights = raster.zbuffer(*both, 8)
    assert (seen == seen_by(points, triangles, 8)).all() and np.isfinite(weights).all()


def test_degenerate_triangles_and_empty_meshes_cover_nothing():
    line, point, double = [(1, 1), (4, 4), (7, 7)], [(3, 3)] * 3, [(2, 5), (2, 5), (6, 5)]
    for mesh in (flat(*line, *point, *double), flat()):
        seen = seen_by(*mesh, 8)
        assert seen.shape == (8, 8) and (seen == -1).all()


def test_normals_weigh_triangles_by_their_area_and_are_finite_without_any():
    vertices = np.array([(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 3), (9, 9, 9)], np.float32)
    triangles = np.array([(0, 1, 2), (0, 2, 3)], np.int32)  # area 1/2 facing z, area 3/2 facing x
    normals = raster.vertex_normals(vertices, triangles)
    assert_allclose(normals[0], np.array([3, 0, 1]) / np.sqrt(10), atol=1e-6)
    assert np.isfinite(normals).all()


def render(points, triangles, size, **options):
    normals = np.tile(np.array([0, 0, 1], np.float32), (len(points), 1))
    return raster.render_plain(points, ones(len(points)), triangles, normals, size, **options)


def test_antialiasing_is_the_average_of_a_larger_picture():
    points = np.random.default_rng(1).uniform(0, 12, (12, 2)).astype(np.float32)
    triangles = np.arange(12, dtype=np.int32).reshape(-1, 3)
    triangles = np.concatenate((triangles, triangles[:, ::-1]))
    small, coverage = render(points, triangles, 12, antialias=2)
    large, large_coverage = render(points * 2, triangles, 24, antialias=1)
    assert 0 < coverage.mean() < 1
    assert_allclose(coverage, large_coverage.reshape(12, 2, 12, 2).mean((1, 3)), atol=1e-6)
    assert_allclose(small, large.reshape(12, 2, 12, 2, 3).mean((1, 3)), atol=1e-5)
    picture, half = render(*square(2.5, 3, 6, 5), 8, albedo=(0.5, 0.25, 1.0))
    assert_allclose(half[3], [0, 0, 0.5, 1, 1, 1, 0, 0], atol=1e-6)
    light = 0.42 + 0.46  # constant part and the part along z
    assert_allclose(picture[4, 4], np.array([0.5, 0.25, 1.0]) * light, atol=1e-5)
    assert (picture[0] == 1).all()  # white background


def test_what_is_recessed_hides_behind_what_is_not():
    points, triangles = square(-100, -100, 100, 100)
    red, blue = (np.column_stack((points * [1, -1], np.full(4, z))) for z in (0, 1))
    vertices = np.concatenate((red, blue)).astype(np.float32)  # blue is 1 mm in front
    both = np.concatenate((triangles, triangles + 4))
    colours = np.repeat([(1.0, 0, 0), (0, 0, 1.0)], 4, 0)
    view = raster.plain_view(vertices, both, 20, colours, recess=np.repeat([0.0, 4.0], 4))
    assert view.dtype == np.uint8 and view[10, 10, 0] > 100 and view[10, 10, 2] == 0
    assert raster.plain_view(vertices, both, 20, colours)[10, 10, 2] > 100


# ---- light, boxes, noise -------------------------------------------------------------------------


def resolve(radiance, size=8, **look):
    """Picture and coverage of a square that fills it. look: fields of a Surface"""
    points, triangles = square(0, 0, size, size)
    seen, weights = raster.zbuffer(points, ones(4), triangles, size)
    picture = np.zeros((size, size, 3), np.float32)
    look = {name: np.asarray(value, np.float32) for name, value in look.items()}
    surface = raster.matt(np.asarray(radiance, np.float32))._replace(**look)
    return picture, raster.resolve(seen, weights, triangles, surface, picture, 1)


def test_light_is_interpolated_between_vertices():
    # Red grows with x, green with y
    picture, coverage = resolve([(0, 0, 0), (0, 1, 0), (2, 1, 0), (2, 0, 0)])
    place = (np.arange(8) + 0.5) / 8
    assert_allclose(picture[..., 0], np.broadcast_to(2 * place, (8, 8)), atol=1e-5)
    assert_allclose(picture[..., 1], np.broadcast_to(place[:, None], (8, 8)), atol=1e-5)
    assert (coverage == 1).all() and not picture[..., 2].any()


@pytest.mark.parametrize(
    "u, v, strengths, light",
    [(2.3, 1.2, (0.4, 0, 0), 1.2), (2.3, 1.2, (0, 0.4, 0), 1), (2.3, 1.2, (0, 0, 0), 1)]
    + [(2.3 + 4 * 7, 1.2 + 4 * 3, (0.4, 0, 0), 1.2)],  # the texture repeats
)
def test_detail_multiplies_the_light_where_it_is_strong(u, v, strengths, light):
    texture = np.zeros((4, 4, 3))
    texture[1, 2] = [0.5, 0, 0]
    picture, _ = resolve(ones(4, 3), detail=np.tile([u, v, *strengths], (4, 1)), texture=texture)
    assert_allclose(picture, light, atol=1e-5)


def test_an_eye_has_white_iris_and_pupil():
    eyes = [(1, -1, 1), (1, -1, -1), (1, 1, -1), (1, 1, 1)]
    eye = np.zeros(21)
    eye[:9] = [0.8, 0.8, 0.8, 0.1, 0.3, 0.6, 0.5, 0.2, 0]
    picture, _ = resolve(ones(4, 3), eyes=eyes, eye=eye, size=41)
    middle, iris, white = picture[20, 20], picture[20, 20 + 7], picture[20, 20 + 15]
    assert middle.max() < 0.05 and iris[2] > 1.5 * iris[0] and white.min() > 0.4
    eye[9:13] = [0.3, 0, 0.2, 2.0]
    glint, _ = resolve(ones(4, 3), eyes=eyes, eye=eye, size=41)
    assert glint[20, 26].min() > 1.5 and np.array_equal(glint[20, 20], middle)


def box(x, y, half_width, half_height, **fields):
    colours = dict(start=(1, 0.5, 0.25), end=(1, 0.5, 0.25))
    place = dict(centre=(x, y), half=(half_width, half_height))
    return boxes.box(**place, **colours | fields)[None]


def paint(laid, light=0.0, covered_rows=0):
    """Boxes over a picture of 60 px."""
    picture, coverage = light * ones(60, 60, 3), np.zeros((60, 60), np.float32)
    coverage[:covered_rows] = 1
    boxes.paint(picture, laid, np.zeros((4, 4, 3), np.float32), coverage)
    return picture


@pytest.mark.parametrize("corner, area", [(0, 4 * 20 * 10), (10, 4 * 20 * 10 - (4 - np.pi) * 100)])
@pytest.mark.parametrize("angle", [0.0, 0.7])
def test_a_box_has_its_area_place_and_colour(corner, area, angle):
    picture = paint(box(30, 25, 20, 10, corner=corner, angle=angle))
    assert_allclose(picture[25, 30], (1, 0.5, 0.25), atol=1e-6)
    red = picture[..., 0]
    assert abs(red.sum() / area - 1) < 0.03
    y, x = np.mgrid[:60, :60] + 0.5
    assert_allclose(((red * x).sum() / red.sum(), (red * y).sum() / red.sum()), (30, 25), atol=0.1)


def test_boxes_blend_shade_and_spare_what_is_covered():
    half = paint(box(30, 30, 99, 99, opacity=0.5), light=1.0)
    assert_allclose(half, np.broadcast_to([1, 0.75, 0.625], half.shape), atol=1e-6)
    ramp = paint(box(30, 30, 30, 99, start=(0, 0, 0), end=(1, 1, 1)))
    assert_allclose(ramp[30, :, 0], (np.arange(60) + 0.5) / 60, atol=1e-5)
    assert not paint(box(30, 30, 99, 99), covered_rows=30)[:30].any()
    assert not paint(box(30, 30, 99, 99, opacity=0.0)).any()


def test_noise_is_normal_white_and_repeats():
    def noise(number, coarse=1):
        picture = np.zeros((96, 96, 3), np.float32)
        develop.add_noise(picture, np.float32(0.05), coarse, number)
        return picture

    one, other = noise(12345), noise(12346)
    assert np.array_equal(one, noise(12345))
    assert abs(one.std() - 0.05) < 0.002 and abs(one.mean()) < 0.002
    assert abs((one > 0.1).mean() - 0.0228) < 0.006  # beyond two standard deviations
    neighbours, channels = (one[:, 1:], one[:, :-1]), (one[..., 0], one[..., 1])
    for a, b in (neighbours, channels, (one, other)):
        assert abs(np.corrcoef(a.ravel(), b.ravel())[0, 1]) < 0.03
    assert np.array_equal(noise(7, 2)[::2, ::2], noise(7, 2)[1::2, 1::2])
