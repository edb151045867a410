import math

import pytest
import torch
from torch.testing import assert_close

from e2far import camera

torch.manual_seed(0)
ANGLES = torch.deg2rad(
    torch.tensor(
        [
            [0, 0, 0],
            [90, 0, 0],
            [-90, 10, 5],
            [45, 20, 10],
            [-45, -20, -10],
            [170, -80, 120],
            [-3, 80, -179],
        ],
        dtype=torch.float64,
    )
)
POINTS = torch.randn(30, 3, dtype=torch.float64) * 50


def radians(*degrees):
    return torch.deg2rad(torch.tensor(degrees, dtype=torch.float64))


def turn_y(a):
    return torch.tensor(
        [[math.cos(a), 0, math.sin(a)], [0, 1, 0], [-math.sin(a), 0, math.cos(a)]],
        dtype=torch.float64,
    )


def test_euler_angles_make_rotations_and_come_back():
    rotation = camera.euler_to_matrix(ANGLES)
    assert_close(
        rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(len(ANGLES), 3, 3)
    )
    assert_close(torch.linalg.det(rotation), torch.ones(len(ANGLES), dtype=torch.float64))
    assert_close(camera.matrix_to_euler(rotation), ANGLES)


def test_yaw_turns_about_the_vertical_axis_first():
    yaw, pitch = 0.4, 0.3
    both = camera.euler_to_matrix(torch.tensor([yaw, pitch, 0.0], dtype=torch.float64))
    assert_close(
        camera.euler_to_matrix(torch.tensor([yaw, 0.0, 0.0], dtype=torch.float64)), turn_y(yaw)
    )
    assert_close(
        both,
        camera.euler_to_matrix(torch.tensor([0.0, pitch, 0.0], dtype=torch.float64)) @ turn_y(yaw),
    )


@pytest.mark.parametrize(
    "angles, moves",
    [
        ((30, 0, 0), (1, 0)),  # towards the subject's left, which is the right of the image
        ((-30, 0, 0), (-1, 0)),
        ((0, 20, 0), (0, 1)),  # looks down
        ((0, -20, 0), (0, -1)),
    ],
)
def test_signs_of_the_angles_by_where_the_nose_goes(angles, moves):
    nose = torch.tensor([[0.0, 0.0, 100.0]], dtype=torch.float64)
    seen = camera.weak_perspective(
        nose,
        camera.euler_to_matrix(radians(*angles)),
        torch.tensor(1.0, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )[0]
    assert_close(torch.sign(seen.round(decimals=9)), torch.tensor(moves, dtype=torch.float64))


def test_roll_tilts_the_head_to_the_left_of_the_image():
    crown = torch.tensor([[0.0, 100.0, 0.0]], dtype=torch.float64)
    seen = camera.weak_perspective(
        crown,
        camera.euler_to_matrix(radians(0, 0, 90)),
        torch.tensor(1.0, dtype=torch.float64),
        torch.zeros(2, dtype=torch.float64),
    )[0]
    assert_close(seen, torch.tensor([-100.0, 0.0], dtype=torch.float64))


def test_six_numbers_and_back():
    rotation = camera.euler_to_matrix(ANGLES)
    assert_close(camera.sixd_to_matrix(rotation[:, :2].flatten(1)), rotation)


def test_any_six_numbers_make_a_rotation_and_their_lengths_do_not_matter():
    sixd = torch.randn(20, 6, dtype=torch.float64)
    rotation = camera.sixd_to_matrix(sixd)
    assert_close(rotation @ rotation.mT, torch.eye(3, dtype=torch.float64).expand(20, 3, 3))
    assert_close(torch.linalg.det(rotation), torch.ones(20, dtype=torch.float64))
    scaled = torch.cat((sixd[:, :3] * 7, sixd[:, 3:] * 0.2), 1)
    assert_close(camera.sixd_to_matrix(scaled), rotation)


def test_weak_perspective_of_a_known_point():
    point = torch.tensor([[10.0, 20.0, 999.0]])
    seen = camera.weak_perspective(
        point, torch.eye(3), torch.tensor(2.0), torch.tensor([100.0, 50.0])
    )
    assert_close(
        seen, torch.tensor([[120.0, 10.0]])
    )  # left of the subject is right in the image; up is less y; depth does not matter


def test_batches_are_their_items():
    rotation, scale, translation = (
        camera.euler_to_matrix(ANGLES),
        torch.rand(len(ANGLES), dtype=torch.float64) + 0.5,
        torch.randn(len(ANGLES), 2, dtype=torch.float64),
    )
    points = POINTS.expand(len(ANGLES), 30, 3)
    together = camera.weak_perspective(points, rotation, scale, translation)
    assert_close(
        together,
        torch.stack(
            [camera.weak_perspective(POINTS, *one) for one in zip(rotation, scale, translation)]
        ),
    )


def test_fit_recovers_a_weak_perspective_camera():
    rotation = camera.euler_to_matrix(ANGLES)
    scale, translation = (
        torch.rand(len(ANGLES), dtype=torch.float64) + 0.5,
        torch.randn(len(ANGLES), 2, dtype=torch.float64) * 40,
    )
    points = POINTS.expand(len(ANGLES), 30, 3)
    found = camera.fit_weak_perspective(
        points, camera.weak_perspective(points, rotation, scale, translation), rotation
    )
    assert_close(found, (scale, translation))


def test_fit_is_the_least_squares_one():
    rotation, image_points = (
        camera.euler_to_matrix(ANGLES[3]),
        torch.randn(30, 2, dtype=torch.float64) * 30,
    )

    def cost(scale, translation):
        return (
            (camera.weak_perspective(POINTS, rotation, scale, translation) - image_points)
            .square()
            .sum()
        )

    scale, translation = (
        x.requires_grad_() for x in camera.fit_weak_perspective(POINTS, image_points, rotation)
    )
    for gradient in torch.autograd.grad(cost(scale, translation), (scale, translation)):
        assert_close(gradient, torch.zeros_like(gradient), atol=1e-6, rtol=0)


@pytest.mark.parametrize("side", [1.0, 48.0, 180.0])
def test_pose_vector_and_back(side):
    rotation = camera.euler_to_matrix(ANGLES)
    scale, translation = (
        torch.rand(len(ANGLES), dtype=torch.float64) * side / 100,
        torch.rand(len(ANGLES), 2, dtype=torch.float64) * side,
    )
    assert_close(
        camera.decode_pose(camera.encode_pose(rotation, scale, translation, side), side),
        (rotation, scale, translation),
    )


def test_pose_vector_means_what_it_says():
    pose = camera.encode_pose(torch.eye(3), torch.tensor(0.4), torch.tensor([40.0, 20.0]), 80)
    assert_close(
        pose, torch.tensor([1.0, 0, 0, 0, 1, 0, 0.5, 0.0, -0.25])
    )  # 100 mm are half the crop; the head's origin is in the middle, a quarter up


def test_pose_vector_does_not_know_the_resolution():
    pose = torch.cat(
        (
            camera.euler_to_matrix(ANGLES[3])[:2].flatten(),
            torch.tensor([0.5, 0.03, -0.1], dtype=torch.float64),
        )
    )
    small, large = (
        camera.weak_perspective(POINTS, *camera.decode_pose(pose, side)) for side in (80.0, 240.0)
    )
    assert_close(small * 3, large)


def test_crop_box_of_a_known_box():
    landmarks = torch.zeros(68, 2) + torch.tensor([30.0, 50.0])
    landmarks[0], landmarks[1] = (
        torch.tensor([10.0, 30.0]),
        torch.tensor([50.0, 130.0]),
    )  # 40 x 100 px about (30, 80)
    half = 1.45 * math.sqrt(4000) / 2
    assert_close(
        camera.crop_box(landmarks), torch.tensor([30 - half, 80 - half, 30 + half, 80 + half])
    )


def test_crop_box_moves_and_grows_with_the_face():
    landmarks = torch.rand(3, 68, 2, dtype=torch.float64) * 100
    box = camera.crop_box(landmarks)
    assert box.shape == (3, 4)
    assert_close(box[:, 2] - box[:, 0], box[:, 3] - box[:, 1])
    assert_close(camera.crop_box(landmarks * 2 + 7), box * 2 + 7)


def test_gradients_reach_the_pose():
    pose = torch.cat(
        (
            camera.euler_to_matrix(ANGLES[3])[:2].flatten(),
            torch.tensor([0.5, 0.03, -0.1], dtype=torch.float64),
        )
    ).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda p: camera.weak_perspective(POINTS[:4], *camera.decode_pose(p, 80.0)), pose
    )
