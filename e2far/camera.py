r"""Pose, projection and the crop rule.

A photo's camera is weak perspective: image point = scale * (R X)_xy + translation, y turned down.
The head frame is right-handed, x to the subject's left, y up, z out of the face. Yaw turns the face
towards the subject's left (+x), pitch > 0 looks down, roll tilts the face in the image plane.

Rotations are written out, though roma has them: `import roma` loads torch's compiler, which would
take 2.6 s of each `e2far reconstruct` that needs 3.7 s without it.
"""

import torch
import torch.nn.functional as F

# Crop side over sqrt(w h) of the box around the 68 landmarks, the rule of AFLW2000-style boxes
CROP_SIDE = 1.45
# Pose vectors hold the image size of 100 mm, so that all nine numbers are of order one
SCALE_UNIT_MM = 100.0


def euler_to_matrix(angles):
    """Rotations (..., 3, 3) = roll @ pitch @ yaw of yaw, pitch, roll (..., 3) in radians."""

    def turn(angle, i, j):  # from axis i towards axis j
        matrix = torch.eye(3).to(angle).repeat(*angle.shape, 1, 1)
        matrix[..., i, i] = matrix[..., j, j] = angle.cos()
        matrix[..., j, i], matrix[..., i, j] = angle.sin(), -angle.sin()
        return matrix

    yaw, pitch, roll = angles.unbind(-1)
    return turn(roll, 0, 1) @ turn(pitch, 1, 2) @ turn(yaw, 2, 0)


def matrix_to_euler(rotation):
    """Yaw, pitch, roll (..., 3) in radians of rotations (..., 3, 3), for |pitch| < 90 degrees."""
    pitch = torch.asin(rotation[..., 2, 1].clamp(-1, 1))
    yaw = torch.atan2(-rotation[..., 2, 0], rotation[..., 2, 2])
    roll = torch.atan2(-rotation[..., 0, 1], rotation[..., 1, 1])
    return torch.stack((yaw, pitch, roll), -1)


def sixd_to_matrix(sixd):
    """Rotations (..., 3, 3) whose first two rows are `sixd` (..., 6) after Gram-Schmidt
    (Zhou et al., CVPR 2019).
    """
    first, second = sixd.unflatten(-1, (2, 3)).unbind(-2)
    first = F.normalize(first, dim=-1)
    second = F.normalize(second - (first * second).sum(-1, keepdim=True) * first, dim=-1)
    return torch.stack((first, second, torch.linalg.cross(first, second)), -2)


def weak_perspective(points, rotation, scale, translation):
    """Image points (..., N, 2) px of `points` (..., N, 3) mm.

    rotation: (..., 3, 3)    scale: (...) px/mm    translation: (..., 2) px
    """
    return scale[..., None, None] * _turned_xy(points, rotation) + translation[..., None, :]


def _turned_xy(points, rotation):
    """Turned points (..., N, 2) as the image has them, y down; mm."""
    return points @ rotation[..., :2, :].mT * points.new_tensor([1.0, -1.0])


def fit_weak_perspective(points, image_points, rotation):
    """Scale (...) px/mm and translation (..., 2) px that carry points nearest to image points.

    points: (..., N, 3) mm    image_points: (..., N, 2) px    rotation: (..., 3, 3)
    """
    turned = _turned_xy(points, rotation)
    mean, image_mean = turned.mean(-2), image_points.mean(-2)
    centred = turned - mean[..., None, :]
    along = (centred * (image_points - image_mean[..., None, :])).sum((-1, -2))
    scale = along / centred.square().sum((-1, -2))
    return scale, image_mean - scale[..., None] * mean


def encode_pose(rotation, scale, translation, side):
    """Pose vector (..., 9) of a camera in a square crop of `side` px: two rows of the rotation,
    then, as shares of the side, the size of 100 mm and the head's origin from the crop's middle.
    """
    size = (scale * SCALE_UNIT_MM / side)[..., None]
    return torch.cat((rotation[..., :2, :].flatten(-2), size, translation / side - 0.5), -1)


def decode_pose(pose, side):
    """Rotation (..., 3, 3), scale (...) px/mm and translation (..., 2) px of `pose` (..., 9).

    side: px of the square crops, a number or (...)
    """
    side = torch.as_tensor(side, dtype=pose.dtype, device=pose.device)
    translation = (pose[..., 7:] + 0.5) * side[..., None]
    return sixd_to_matrix(pose[..., :6]), pose[..., 6] * side / SCALE_UNIT_MM, translation


def mirrored_pose(pose):
    """Pose (..., 9) of the mirrored picture: M R M with M = diag(-1, 1, 1), the origin at -x."""
    return pose * pose.new_tensor([1.0, -1.0, -1.0, -1.0, 1.0, 1.0, 1.0, -1.0, 1.0])


def crop_box(landmarks):
    """The crop rule: squares (..., 4) px (x0, y0, x1, y1) about `landmarks` (..., 68, 2) px."""
    low, high = landmarks.amin(-2), landmarks.amax(-2)
    half = CROP_SIDE / 2 * (high - low).prod(-1, keepdim=True).sqrt()
    centre = (low + high) / 2
    return torch.cat((centre - half, centre + half), -1)
