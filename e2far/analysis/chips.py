"""Faces as dlib's recogniser wants them: turned upright and scaled by the eyes and the nose."""

import numpy as np
import torch
import torch.nn.functional as F

SIZE = 150  # px
PADDING = 0.25  # of the inner part's side, on each side of it
# Corners of the eyes and the mouth, foot of the nose: iBUG's numbers, and their places x, y in the
# inner part, as in dlib's mean face (image_transforms/interpolation.h). Choice: the mouth's corners
# too, or a face in profile is drawn too large.
POINTS = (36, 39, 42, 45, 33, 48, 54)
PLACES = np.array(
    [[0.122, 0.216], [0.335, 0.232], [0.646, 0.232], [0.859, 0.216]]
    + [[0.490, 0.628], [0.254, 0.780], [0.726, 0.780]]
)


def cut_chips(images, landmarks, batch_size=256):
    """Chips (n, 3, 150, 150) uint8 of images (n, 3, S, S) uint8 with landmarks (n, 68, 2) px.

    Outside the picture a chip repeats its edge.
    """
    places = torch.from_numpy((PLACES + PADDING) / (1 + 2 * PADDING)).float()
    turn, shift = similarity(places, landmarks[:, POINTS].float())
    # grid_sample counts from -1 to 1 in both pictures.
    side = images.shape[-1]
    theta = torch.cat((turn / side, (2 * shift + turn.sum(2))[..., None] / side - 1), 2)
    parts = []
    for picture, one in zip(images.split(batch_size), theta.split(batch_size)):
        grid = F.affine_grid(one, (len(one), 3, SIZE, SIZE), align_corners=False)
        chip = F.grid_sample(picture.float(), grid, padding_mode="border", align_corners=False)
        parts.append(chip.round().byte())
    return torch.cat(parts)


def similarity(points, wanted):
    """Turns and scales (n, 2, 2) and shifts (n, 2) that carry points (m, 2) nearest to `wanted`
    (n, m, 2): x -> turn @ x + shift, by least squares."""
    x, y = torch.view_as_complex(points.contiguous()), torch.view_as_complex(wanted.contiguous())
    centred = x - x.mean()
    a = (centred.conj() * y).sum(-1) / centred.abs().square().sum()
    b = y.mean(-1) - a * x.mean()
    rows = torch.stack((a.real, -a.imag, a.imag, a.real), -1).view(-1, 2, 2)
    return rows, torch.view_as_real(b)
