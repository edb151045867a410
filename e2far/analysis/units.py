"""Single units of a layer: which one follows a quantity, which faces and pictures it likes."""

import numpy as np
import torch
import torch.nn.functional as F


def follow(maps, values):
    """Channels of maps (n, C, h, w), those first whose mean follows `values` (n,) best, and their
    correlations with it."""
    mean = np.asarray(maps).mean((2, 3))
    alive = mean.std(0) > 0
    correlation = np.zeros(mean.shape[1])
    correlation[alive] = np.corrcoef(mean[:, alive].T, values)[-1, :-1]
    order = np.argsort(-correlation)
    return order, correlation[order]


def maximise(answer, count, size, steps=80, rate=0.04, seed=0):
    """Pictures (count, 3, size, size) uint8 that make answer(images) -> (count,) large, by gradient
    ascent from grey.

    Each step the picture is shifted by a few pixels and smoothed now and then, or the ascent ends
    in a fine grain that no eye can read (Olah et al., Feature Visualization, 2017).
    """
    generator = torch.Generator().manual_seed(seed)
    noise = torch.randn(count, 3, size, size, generator=generator)
    picture = (0.1 * noise).requires_grad_()
    optimizer = torch.optim.Adam([picture], lr=rate)
    for step in range(steps):
        y, x = torch.randint(-6, 7, (2,), generator=generator).tolist()
        shown = torch.sigmoid(picture).roll((y, x), (2, 3))
        rough = (picture[..., 1:] - picture[..., :-1]).square().mean((1, 2, 3))
        rough = rough + (picture[:, :, 1:] - picture[:, :, :-1]).square().mean((1, 2, 3))
        loss = (0.5 * rough * count - answer(shown)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if step % 4 == 3 and step < steps - 8:
            with torch.no_grad():
                picture.copy_(0.5 * picture + 0.5 * F.avg_pool2d(picture, 3, 1, 1))
    with torch.no_grad():
        return (torch.sigmoid(picture) * 255).round().byte()
