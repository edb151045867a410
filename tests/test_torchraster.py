import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch.testing import assert_close

from e2far import camera, rasterize, torchraster


def soup(seed, size, count, spread):
    """Random triangles (count, 3), about half of them seen from the front, with points (B, N, 2) some way out of the frame and nearness (B, N); three pictures."""
    generator = torch.Generator().manual_seed(seed)
    points = torch.rand(3, 60, 2, generator=generator) * spread + (size - spread) / 2
    return points, torch.randn(3, 60, generator=generator), torch.stack([torch.randperm(60, generator=generator)[:3] for _ in range(count)])


def by_definition(points, nearness, triangles, size):
    """What one picture's pixels see when each asks every triangle, (S, S), and how clear that answer is: by how much the nearest sample, or the border of a triangle, is missed."""
    corners = torch.cat((points.double(), torch.ones(len(points), 1)), 1)[triangles]                          # (F, 3, xy1)
    y, x = torch.meshgrid(torch.arange(size) + .5, torch.arange(size) + .5, indexing="ij")
    weights = torch.einsum("fdk,yxd->fyxk", torch.linalg.inv(corners), torch.stack((x, y, torch.ones_like(x)), -1).double())
    front = torch.linalg.det(corners)[:, None, None] < 0
    depth = torch.einsum("fyxk,fk->fyx", weights, nearness.double()[triangles]).where(front & (weights.amin(-1) >= 0), -torch.inf)
    nearest, seen = depth.max(0)
    second = depth.scatter(0, seen[None], -torch.inf).amax(0)
    border = weights.amin(-1).abs().where(front, torch.inf).amin(0)
    return seen.where(nearest > -torch.inf, -1), border.minimum(torch.where(second > -torch.inf, nearest - second, torch.inf))


def in_numba(points, nearness, triangles, size):
    """`rasterize.zbuffer` of each picture, stacked."""
    found = [rasterize.zbuffer(p.numpy(), n.numpy(), triangles.numpy().astype(np.int32), size) for p, n in zip(points, nearness)]
    return [torch.from_numpy(np.stack(part)) for part in zip(*found)]


@pytest.fixture(scope="module")
def heads(face_model):
    """Six people turned every way before a camera: points (6, N, 2) for a picture of side 1, nearness (6, N), turned vertices (6, N, 3) mm."""
    generator = torch.Generator().manual_seed(0)
    draw = lambda k: torch.randn(6, k, generator=generator)
    angles = torch.deg2rad(torch.tensor([(0, 0, 0), (45, 0, 5), (-60, 10, -10), (20, -25, 15), (-30, 25, 40), (85, -5, 0.)]))
    turned = face_model(draw(face_model.n_identity), .5 * draw(face_model.n_expression)) @ camera.euler_to_matrix(angles).mT
    depth = torch.tensor([400., 500, 600, 800, 1000, 1500])[:, None] - turned[..., 2]
    points = turned[..., :2] * torch.tensor([1, -1.]) / depth[..., None]
    points = points / (points.amax((1, 2)) * 1.8)[:, None, None] + .5                                         # the nearest heads stick out of the frame
    return points, 1e3 / (depth + face_model.recess), turned


@pytest.mark.parametrize("seed, size, count, spread", [(0, 24, 40, 20.), (1, 31, 60, 90.), (2, 16, 300, 30.), (3, 40, 60, 3e3)])
def test_zbuffer_against_numba_and_the_definition(seed, size, count, spread):
    points, nearness, triangles = soup(seed, size, count, spread)
    seen, weights = torchraster.zbuffer(points, nearness, triangles, size)
    numba_seen, numba_weights = in_numba(points, nearness, triangles, size)
    assert seen.dtype == torch.int32 and seen.shape == (3, size, size) and weights.shape == (3, size, size, 2)
    assert len(seen.unique()) > 3 and (seen == numba_seen).double().mean() > .998
    for k in range(3):
        expected, clear = by_definition(points[k], nearness[k], triangles, size)
        sure = clear > 1e-4
        assert sure.double().mean() > .95
        assert_close(seen[k][sure], expected[sure].int())
        assert_close(weights[k][sure], numba_weights[k][sure], atol=1e-4, rtol=0)


@pytest.mark.parametrize("size", [33, 120])
def test_heads_look_as_they_do_to_numba(heads, face_model, size):
    points, nearness, _ = heads
    seen, weights = torchraster.zbuffer(points * size, nearness, face_model.triangles, size)
    numba_seen, numba_weights = in_numba(points * size, nearness, face_model.triangles, size)
    same = seen == numba_seen
    assert (seen >= 0).double().mean() > .3 and same.double().mean() > .9999
    assert_close(weights[same], numba_weights[same], atol=1e-4, rtol=0)


def test_any_chunk_and_any_batch_give_the_same_answer(heads, face_model):
    points, nearness, _ = heads
    seen, weights = torchraster.zbuffer(points[:3] * 40, nearness[:3], face_model.triangles, 40)
    for chunk in (1000, 7777):
        for one, other in zip(torchraster.zbuffer(points[:3] * 40, nearness[:3], face_model.triangles, 40, chunk), (seen, weights)):
            assert torch.equal(one, other)
    for k in range(3):
        alone = torchraster.zbuffer(points[k:k + 1] * 40, nearness[k:k + 1], face_model.triangles, 40)
        assert torch.equal(alone[0][0], seen[k]) and torch.equal(alone[1][0], weights[k])


@pytest.mark.parametrize("chunk", [1, 4, 100])
def test_ranges_never_exceed_their_chunk(chunk):
    first, count = torch.tensor([5, 7, -2, 0, 9]), torch.tensor([3, 0, 6, 1, 0])
    pieces = list(torchraster.ranges(first, count, chunk))
    assert all(len(which) == len(number) <= chunk for which, number in pieces)
    which, number = (torch.cat(part).tolist() for part in zip(*pieces))
    assert list(zip(which, number)) == [(i, int(f) + k) for i, (f, c) in enumerate(zip(first, count)) for k in range(c)]


def test_no_pixel_falls_between_triangles_that_share_a_side():
    """A fan around a point, its rim outside the frame: every pixel is covered, wherever the point lies and though pixel centres lie on sides."""
    angle = torch.arange(0, 48) / 48 * 2 * torch.pi
    rim = 50 * torch.stack((angle.cos(), -angle.sin()), 1)                      # counter-clockwise as seen: y points down
    centres = torch.cat((torch.tensor([(8.5, 8.5), (8., 8.), (.5, 3.5)]), torch.rand(61, 2, generator=torch.Generator().manual_seed(0)) * 16))
    points = torch.cat((centres[:, None], centres[:, None] + rim), 1)
    triangles = torch.stack((torch.zeros(48, dtype=torch.long), torch.arange(48) + 1, (torch.arange(48) + 1) % 48 + 1), 1)
    seen, weights = torchraster.zbuffer(points, torch.ones(64, 49), triangles, 16)
    assert (seen >= 0).all() and (weights >= 0).all() and (weights.sum(-1) <= 1 + 1e-6).all()
    assert (torchraster.zbuffer(points, torch.ones(64, 49), triangles.flip(1), 16)[0] == -1).all()             # from behind: culled


@pytest.mark.parametrize("roll", [0, 1, 2])
def test_a_pixel_is_covered_where_its_centre_is_on_a_side_too(roll):
    points = torch.tensor([[(.5, 1.5), (.5, 6.5), (5.5, 6.5), (5.5, 1.5)]])
    seen, _ = torchraster.zbuffer(points, torch.ones(1, 4), torch.tensor([(0, 1, 2), (0, 2, 3)]).roll(roll, 1), 8)
    expected = torch.full((8, 8), -1)
    expected[1:7, :6] = 1 - torch.ones(6, 6).tril()                             # the first of the two where both touch, on the diagonal
    assert torch.equal(seen[0].long(), expected.long())


@pytest.mark.parametrize("values", [(2., 2.), (-.3, -.3), (0., -0.), (-0., 0.)])
def test_of_equally_near_triangles_the_first_is_seen(values):
    points, triangles = torch.tensor([[(0, 0), (0, 32), (32, 0.)] * 2]), torch.tensor([(0, 1, 2), (3, 4, 5), (0, 1, 2)])
    assert (torchraster.zbuffer(points, torch.tensor(values).repeat_interleave(3)[None], triangles, 8)[0] == 0).all()


@pytest.mark.parametrize("values", [(1., 2.), (-2., -1.), (-1., 0.), (-1e-20, 1e-20), (-0., 1e-30), (1e8, 1e8 + 8)])
def test_nearer_is_nearer_whatever_the_sign(values):
    points, triangles = torch.tensor([[(0, 0), (0, 32), (32, 0.)] * 2]), torch.tensor([(0, 1, 2), (3, 4, 5)])
    for order in (1, -1):
        nearness = torch.tensor(values[::order]).repeat_interleave(3)[None]
        assert (torchraster.zbuffer(points, nearness, triangles, 8)[0] == (1 if order == 1 else 0)).all()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf, 1e30])
def test_broken_points_spoil_nothing_but_their_own_triangles(bad):
    points, nearness, triangles = soup(4, 20, 50, 30.)
    points[0, 7, 0] = points[1, 8, 1] = bad
    nearness[2, 9] = bad if bad != 1e30 else torch.nan
    seen, weights = torchraster.zbuffer(points, nearness, triangles, 20)
    for k, corner in enumerate((7, 8, 9)):
        kept = (triangles != corner).all(1)
        assert not kept.all()
        other, _ = torchraster.zbuffer(points[k:k + 1].nan_to_num(0, 0, 0), nearness[k:k + 1].nan_to_num(0, 0, 0), triangles[kept], 20)
        assert torch.equal(torch.where(other[0] < 0, -1, kept.nonzero().squeeze(1).int()[other[0].clamp(min=0)]), seen[k])
    assert weights.isfinite().all()


@pytest.mark.parametrize("shift", [(100., 0.), (-100., 0.), (0., 100.), (0., -100.)])
def test_what_is_out_of_the_frame_is_not_seen(shift):
    points, nearness, triangles = soup(5, 20, 30, 30.)
    seen, weights = torchraster.zbuffer(points + torch.tensor(shift), nearness, triangles, 20)
    assert (seen == -1).all() and (weights == 0).all()


def test_empty_meshes_and_empty_batches():
    for batch, n in ((2, 0), (2, 5), (0, 5)):
        seen, weights = torchraster.zbuffer(torch.zeros(batch, n, 2), torch.zeros(batch, n), torch.zeros(0, 3, dtype=torch.long), 4)
        assert seen.shape == (batch, 4, 4) and (seen == -1).all() and weights.shape == (batch, 4, 4, 2)
    degenerate = torch.tensor([[(1, 1), (4, 4), (7, 7), (3, 3.)]])
    assert (torchraster.zbuffer(degenerate, torch.ones(1, 4), torch.tensor([(0, 1, 2), (3, 3, 3), (0, 0, 1)]), 8)[0] == -1).all()


def test_a_sliver_whose_areas_all_round_to_nothing_is_not_seen():
    """A sliver through the centre of pixel (3, 3)."""
    sliver = [(31.931058883666992, 48.40825271606445), (-24.453113555908203, -40.65331268310547), (-4.388354301452637, -8.960041999816895)]
    points, triangles = torch.tensor([[*sliver, (0, 0), (0, 2), (2, 0.)]]), torch.tensor([(0, 1, 2), (3, 4, 5)])
    seen, weights = torchraster.zbuffer(points, torch.ones(1, 6), triangles, 8)
    assert seen[0, 3, 3] == -1 and weights.isfinite().all()


def test_float64_stays_float64():
    points, nearness, triangles = soup(6, 20, 30, 30.)
    seen, weights = torchraster.zbuffer(points.double(), nearness.double(), triangles, 20)
    assert weights.dtype == torch.float64 and (seen == torchraster.zbuffer(points, nearness, triangles, 20)[0]).double().mean() > .995


def test_weighing_the_corners_gives_the_pixels_centres(heads, face_model):
    points, nearness, _ = heads
    seen, weights = torchraster.zbuffer(points * 40, nearness, face_model.triangles, 40)
    shares, corners = torch.cat((weights, 1 - weights.sum(-1, keepdim=True)), -1), face_model.triangles[seen.clamp(min=0)]
    places = sum(shares[..., k, None] * points[torch.arange(6)[:, None, None], corners[..., k]] * 40 for k in range(3))
    y, x = torch.meshgrid(torch.arange(40) + .5, torch.arange(40) + .5, indexing="ij")
    covered = seen >= 0
    assert_close(places[covered], torch.stack((x, y), -1).expand(6, 40, 40, 2)[covered], atol=2e-4, rtol=0)


def test_normals_against_numba(heads, face_model):
    _, _, turned = heads
    expected = np.stack([rasterize.vertex_normals(v.contiguous().numpy(), face_model.triangles.numpy().astype(np.int32)) for v in turned])
    assert_close(F.normalize(torchraster.vertex_areas(turned, face_model.triangles), dim=-1), torch.from_numpy(expected), atol=1e-5, rtol=0)


def test_normals_weigh_triangles_by_their_area():
    vertices = torch.tensor([[(0, 0, 0), (1, 0, 0), (0, 1, 0), (0, 0, 3), (9, 9, 9.)]], dtype=torch.float64)
    triangles = torch.tensor([(0, 1, 2), (0, 2, 3)])                            # area 1/2 facing z, area 3/2 facing x
    areas = torchraster.vertex_areas(vertices, triangles)
    assert_close(areas[0, 0], torch.tensor([3, 0, 1.], dtype=torch.float64))
    assert (areas[0, 4] == 0).all()                                             # a vertex of no triangle
