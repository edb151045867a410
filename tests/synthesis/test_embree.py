"""The z-buffer against a renderer that has nothing in common with it: Intel's Embree, casting one
ray through each pixel's centre."""

import numpy as np
import pytest
import torch

from e2far import camera, raster

rtcore_scene = pytest.importorskip("embreex.rtcore_scene")
from embreex.mesh_construction import TriangleMesh  # noqa: E402

SIZE, DISTANCE_MM = 150, 600.0
POSES_DEG = [(0, 0, 0), (-60, 15, 10), (20, -25, -30)]


@pytest.fixture
def triangles(face_model):
    return face_model.triangles.numpy().astype(np.int32)


def look(face_model, angles_deg, perspective, number):
    """A random face before a camera: vertices (N, 3) mm in its frame (x right, y down, z away),
    points px, nearness; origins and directions (S S, 3) of rays through the pixels' centres."""
    generator = torch.Generator().manual_seed(number)
    identity = torch.randn(1, face_model.n_identity, generator=generator)
    expression = 0.5 * torch.randn(1, face_model.n_expression, generator=generator)
    rotation = camera.euler_to_matrix(torch.deg2rad(torch.tensor(angles_deg, dtype=torch.float32)))
    turned = (face_model(identity, expression)[0] @ rotation.T).double().numpy()
    space = np.array([0, 0, DISTANCE_MM]) + turned * [1, -1, -1]
    scale = 2.2 * SIZE if perspective else SIZE / 260  # the focal length px, or px / mm
    y, x = (np.divmod(np.arange(SIZE**2), SIZE) + np.array(0.5) - SIZE / 2) / scale
    zero, one = np.zeros(SIZE**2), np.ones(SIZE**2)
    if perspective:
        points, nearness = space[:, :2] / space[:, 2:], 1e3 / space[:, 2]
        rays = np.stack((zero, zero, zero), 1), np.stack((x, y, one), 1)
    else:
        points, nearness = space[:, :2], -space[:, 2]
        rays = np.stack((x, y, zero), 1), np.stack((zero, zero, one), 1)
    points = points * scale + SIZE / 2
    return [values.astype(np.float32) for values in (space, points, nearness, *rays)]


def cast(space, triangles, origins, directions):
    """The first triangle on each ray (S, S), -1 where there is none, the weights of its corners
    (S, S, 3) in space, and how far along the ray it is."""
    scene = rtcore_scene.EmbreeScene()
    TriangleMesh(scene, space, triangles)
    hit = scene.run(origins, directions, output=True)
    u, v, triangle, depth = (hit[name].reshape(SIZE, SIZE) for name in ("u", "v", "primID", "tfar"))
    return triangle, np.stack((1 - u - v, u, v), -1), depth


def facing(space, triangles, perspective):
    """Which triangles (F,) turn their outside to the camera, from their normals in space."""
    a, b, c = space[triangles].astype(float).transpose(1, 0, 2)
    return (np.cross(b - a, c - a) * (a if perspective else [0, 0, 1.0])).sum(1) < 0


@pytest.mark.parametrize("perspective", [False, True])
@pytest.mark.parametrize("number", range(len(POSES_DEG)))
def test_the_zbuffer_sees_what_rays_hit(face_model, triangles, number, perspective):
    """Both see the same triangle at all pixels but those where the ray passes a side of the
    triangle at less than a hundredth of its height, where rounding may decide."""
    space, points, nearness, *rays = look(face_model, POSES_DEG[number], perspective, number)
    seen, weights = raster.zbuffer(points, nearness, triangles, SIZE)
    # Rays know no outside: they are shown only the triangles that face them.
    front = np.flatnonzero(facing(space, triangles, perspective))
    hit, share, depth = cast(space, triangles[front], *rays)
    hit = np.where(hit < 0, -1, front[hit])
    clear, same = (hit < 0) | (share.min(-1) > 0.01), hit == seen
    assert clear.mean() > 0.95 and (hit >= 0).mean() > 0.25
    assert same[clear].mean() > 0.9995 and same.mean() > 0.999

    both = same & (hit >= 0)
    corners = np.concatenate((weights, 1 - weights.sum(-1, keepdims=True)), -1)[both]
    near = (corners * nearness[triangles[seen[both]]]).sum(-1)
    np.testing.assert_allclose(1e3 / near if perspective else -near, depth[both], atol=0.01)  # mm
    if not perspective:  # with perspective, weights in the picture are others than in space
        np.testing.assert_allclose(weights[both], share[both][:, :2], atol=1e-3)


def test_what_faces_away_is_culled_and_nothing_else_is(face_model, triangles):
    """Looking up into the open neck, rays hit the inside of the head; the z-buffer agrees wherever
    they hit an outside, and looks through the rest."""
    space, points, nearness, *rays = look(face_model, (0, -75, 0), False, 7)
    seen, _ = raster.zbuffer(points, nearness, triangles, SIZE)
    hit, share, _ = cast(space, triangles, *rays)
    clear, outside = (hit >= 0) & (share.min(-1) > 0.01), facing(space, triangles, False)[hit]
    assert (clear & ~outside).mean() > 0.005 and (clear & outside).mean() > 0.2
    assert (seen == hit)[clear & outside].mean() > 0.9995
    assert not (seen == hit)[clear & ~outside].any()
