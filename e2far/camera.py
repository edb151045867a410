r"""Pose, projection and the crop rule.

A photo's camera is weak perspective: image point = scale * (R X)_xy + translation, with y turned downwards. The head frame is right-handed, x to the subject's
left, y up, z out of the face; yaw turns the face towards the subject's left (+x), pitch is positive when the face looks down, roll tilts it in the image plane.
"""

import numpy as np
import torch
import torch.nn.functional as F

CROP_SIDE = 1.45  # crop side over sqrt(w h) of the box around the 68 landmarks, the rule of AFLW2000-style boxes
SCALE_UNIT_MM = (
    100.0  # pose vectors hold the image size of 100 mm, so that all nine numbers are of order one
)


def euler_to_matrix(angles):
    """Rotation matrices (..., 3, 3) of `angles` (..., 3): yaw, pitch, roll in radians; R = roll @ pitch @ yaw."""
    yaw, pitch, roll = angles.unbind(-1)
    zero, one = torch.zeros_like(yaw), torch.ones_like(yaw)

    def matrix(*entries):
        return torch.stack(entries, -1).unflatten(-1, (3, 3))

    cos, sin = yaw.cos(), yaw.sin()
    about_y = matrix(cos, zero, sin, zero, one, zero, -sin, zero, cos)
    cos, sin = pitch.cos(), pitch.sin()
    about_x = matrix(one, zero, zero, zero, cos, -sin, zero, sin, cos)
    cos, sin = roll.cos(), roll.sin()
    about_z = matrix(cos, -sin, zero, sin, cos, zero, zero, zero, one)
    return about_z @ about_x @ about_y


def matrix_to_euler(rotation):
    """Yaw, pitch, roll (..., 3) in radians of rotation matrices (..., 3, 3); the inverse of `euler_to_matrix` for |pitch| < 90 degrees."""
    pitch = torch.asin(rotation[..., 2, 1].clamp(-1, 1))
    yaw = torch.atan2(-rotation[..., 2, 0], rotation[..., 2, 2])
    roll = torch.atan2(-rotation[..., 0, 1], rotation[..., 1, 1])
    return torch.stack((yaw, pitch, roll), -1)


def rotation_about(vector):
    """Rodrigues' formula: rotation (3, 3) by |vector| radians about `vector` (3,), of numpy."""
    angle = np.linalg.norm(vector)
    x, y, z = vector / max(angle, 1e-12)
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


def sixd_to_matrix(sixd):
    """Rotation matrices from six numbers (..., 6), the first two rows before Gram-Schmidt (Zhou et al., CVPR 2019)."""
    first = F.normalize(sixd[..., :3], dim=-1)
    second = sixd[..., 3:]
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -2)


def matrix_to_sixd(rotation):
    """The first two rows (..., 6) of rotation matrices (..., 3, 3)."""
    return rotation[..., :2, :].flatten(-2)


def weak_perspective(points, rotation, scale, translation):
    """Image points (..., N, 2) px of `points` (..., N, 3) mm under `rotation` (..., 3, 3), `scale` (...) px/mm, `translation` (..., 2) px."""
    turned = points @ rotation[..., :2, :].mT
    flip = turned.new_tensor([1.0, -1.0])
    return scale[..., None, None] * turned * flip + translation[..., None, :]


def perspective(points, rotation, distance_mm, focal_px, centre_px):
    """Image points (..., N, 2) px and depths (..., N) mm of a pinhole camera `distance_mm` in front of the head frame's origin."""
    turned = points @ rotation.mT
    depth = distance_mm[..., None] - turned[..., 2]
    flip = turned.new_tensor([1.0, -1.0])
    return focal_px[..., None, None] * turned[..., :2] * flip / depth[..., None] + centre_px[
        ..., None, :
    ], depth


def fit_weak_perspective(points, image_points, rotation):
    """Scale (...) and translation (..., 2) that carry `points` (..., N, 3), turned by `rotation`, nearest to `image_points` (..., N, 2) px."""
    turned = (points @ rotation[..., :2, :].mT) * points.new_tensor([1.0, -1.0])
    mean, image_mean = turned.mean(-2), image_points.mean(-2)
    centred = turned - mean[..., None, :]
    scale = (centred * (image_points - image_mean[..., None, :])).sum(
        (-1, -2)
    ) / centred.square().sum((-1, -2))
    return scale, image_mean - scale[..., None] * mean


def encode_pose(rotation, scale, translation, side):
    """Pose vector (..., 9) of a camera in a square crop of `side` px: rotation rows, size of 100 mm and place of the head's origin as shares of the side."""
    return torch.cat(
        (
            matrix_to_sixd(rotation),
            (scale * SCALE_UNIT_MM / side)[..., None],
            translation / side - 0.5,
        ),
        -1,
    )


def decode_pose(pose, side):
    """Rotation (..., 3, 3), scale (...) px/mm and translation (..., 2) px of pose vectors (..., 9) in square crops of `side` px, a number or (...)."""
    side = torch.as_tensor(side, dtype=pose.dtype, device=pose.device)
    return (
        sixd_to_matrix(pose[..., :6]),
        pose[..., 6] * side / SCALE_UNIT_MM,
        (pose[..., 7:] + 0.5) * side[..., None],
    )


def mirrored_pose(pose):
    """Pose vectors (..., 9) of the mirrored picture: rotation M R M with M = diag(-1, 1, 1), and the origin at -x."""
    return pose * pose.new_tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0])


def crop_box(landmarks):
    """The crop rule: a square (x0, y0, x1, y1) px centred on the box of `landmarks` (..., 68, 2), side 1.45 sqrt(w h); returns (..., 4)."""
    low, high = landmarks.amin(-2), landmarks.amax(-2)
    half = CROP_SIDE / 2 * (high - low).prod(-1, keepdim=True).sqrt()
    centre = (low + high) / 2
    return torch.cat((centre - half, centre + half), -1)
