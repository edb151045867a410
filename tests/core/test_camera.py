import math

import torch
from torch.testing import assert_close

from e2far import camera


def numbers(*values):
    return torch.tensor(values, dtype=torch.float64)


GENERATOR = torch.Generator().manual_seed(0)
DEGREES = [(0, 0, 0), (90, 0, 0), (-90, 10, 5), (45, 20, 10), (-45, -20, -10)]
ANGLES = numbers(*DEGREES, (170, -80, 120), (-3, 80, -179)).deg2rad()
ROTATIONS = camera.euler_to_matrix(ANGLES)
POINTS = torch.randn(30, 3, generator=GENERATOR, dtype=torch.float64) * 50
N = len(ANGLES)
SCALES = torch.rand(N, generator=GENERATOR, dtype=torch.float64) + 0.5
TRANSLATIONS = torch.randn(N, 2, generator=GENERATOR, dtype=torch.float64) * 40
POSE = torch.cat((ROTATIONS[3, :2].flatten(), numbers(0.5, 0.03, -0.1)))


def assert_rotations(matrices):
    assert_close(matrices @ matrices.mT, torch.eye(3).double().expand_as(matrices))
    assert_close(torch.linalg.det(matrices), torch.ones(len(matrices)).double())


def seen_from(point, *degrees):
    """Where a point is in a picture, 1 px a mm, after the head has turned."""
    rotation = camera.euler_to_matrix(numbers(*degrees).deg2rad())
    return camera.weak_perspective(numbers(point), rotation, numbers(1)[0], numbers(0, 0))[0]


def test_euler_angles_make_rotations_and_come_back():
    assert_rotations(ROTATIONS)
    assert_close(camera.matrix_to_euler(ROTATIONS), ANGLES)


def test_yaw_turns_about_the_vertical_axis_first():
    cos, sin = math.cos(0.4), math.sin(0.4)
    yaw = numbers((cos, 0, sin), (0, 1, 0), (-sin, 0, cos))
    assert_close(camera.euler_to_matrix(numbers(0.4, 0, 0)), yaw)
    pitch = camera.euler_to_matrix(numbers(0, 0.3, 0))
    assert_close(camera.euler_to_matrix(numbers(0.4, 0.3, 0)), pitch @ yaw)


def test_signs_of_the_angles_by_what_moves_where():
    nose, crown = (0, 0, 100), (0, 100, 0)
    # Yaw towards the subject's left, which is the right of the image; pitch down; roll to the left
    assert_close(seen_from(nose, 30, 0, 0), numbers(50, 0))
    assert_close(seen_from(nose, 0, 30, 0), numbers(0, 50))
    assert_close(seen_from(crown, 0, 0, 90), numbers(-100, 0))


def test_any_six_numbers_make_a_rotation_and_their_lengths_do_not_matter():
    assert_close(camera.sixd_to_matrix(ROTATIONS[:, :2].flatten(1)), ROTATIONS)
    sixd = torch.randn(20, 6, generator=GENERATOR, dtype=torch.float64)
    rotation = camera.sixd_to_matrix(sixd)
    assert_rotations(rotation)
    assert_close(camera.sixd_to_matrix(sixd * numbers(7, 7, 7, 0.2, 0.2, 0.2)), rotation)


def test_weak_perspective_of_a_known_point():
    """Left of the subject is right in the image; up is less y; depth does not matter."""
    place = torch.eye(3), torch.tensor(2.0), torch.tensor([100.0, 50.0])
    seen = camera.weak_perspective(torch.tensor([[10.0, 20.0, 999.0]]), *place)
    assert_close(seen, torch.tensor([[120.0, 10.0]]))


def test_batches_are_their_items_and_fit_recovers_their_cameras():
    points = POINTS.expand(N, 30, 3)
    together = camera.weak_perspective(points, ROTATIONS, SCALES, TRANSLATIONS)
    for item, *place in zip(together, ROTATIONS, SCALES, TRANSLATIONS):
        assert_close(item, camera.weak_perspective(POINTS, *place))
    found = camera.fit_weak_perspective(points, together, ROTATIONS)
    assert_close(found, (SCALES, TRANSLATIONS))


def test_fit_is_the_least_squares_one():
    image_points = torch.randn(30, 2, generator=GENERATOR, dtype=torch.float64) * 30
    fit = camera.fit_weak_perspective(POINTS, image_points, ROTATIONS[3])
    scale, translation = (x.requires_grad_() for x in fit)
    seen = camera.weak_perspective(POINTS, ROTATIONS[3], scale, translation)
    cost = (seen - image_points).square().sum()
    for gradient in torch.autograd.grad(cost, (scale, translation)):
        assert_close(gradient, 0 * gradient, atol=1e-6, rtol=0)


def test_pose_vector_means_what_it_says_at_any_resolution():
    """100 mm are half the crop; the head's origin is in the middle, a quarter up."""
    pose = camera.encode_pose(torch.eye(3), torch.tensor(0.4), torch.tensor([40.0, 20.0]), 80)
    assert_close(pose, torch.tensor([1.0, 0, 0, 0, 1, 0, 0.5, 0.0, -0.25]))
    for side in (1.0, 180.0):
        pose = camera.encode_pose(ROTATIONS, SCALES, TRANSLATIONS, side)
        assert_close(camera.decode_pose(pose, side), (ROTATIONS, SCALES, TRANSLATIONS))
    seen = lambda side: camera.weak_perspective(POINTS, *camera.decode_pose(POSE, side))
    assert_close(seen(80.0) * 3, seen(240.0))


def test_crop_box_of_a_known_box():
    landmarks = torch.tensor([30.0, 50.0]).repeat(68, 1)
    landmarks[:2] = torch.tensor([[10.0, 30.0], [50.0, 130.0]])  # 40 x 100 px about (30, 80)
    half = 1.45 * math.sqrt(4000) / 2
    expected = torch.tensor([30 - half, 80 - half, 30 + half, 80 + half])
    assert_close(camera.crop_box(landmarks), expected)
    assert_close(camera.crop_box(landmarks.expand(3, -1, -1) * 2 + 7)[1], expected * 2 + 7)


def test_gradients_reach_the_pose():
    see = lambda pose: camera.weak_perspective(POINTS[:4], *camera.decode_pose(pose, 80.0))
    assert torch.autograd.gradcheck(see, POSE.clone().requires_grad_())
