"""Learning how far to trust a network from what it makes of faces and non-faces."""

import numpy as np
import torch
import torch.nn.functional as F

from e2far.photo.confidence import ERRORS, FALSE_ALARMS, GOOD, KNOTS, SCORE_MARGIN, Calibration

SPOILT = ("covered", "misplaced", "turned", "blurred", "noisy")
EMPTY = ("clouds", "shuffled", "flat")


# Calibration --------------------------------------------------------------------------------------------------------------------------------


def spoil(image, landmarks, kind, rng):
    """Pictures (B, 3, S, S) float in [0, 1], spoilt as `kind` of SPOILT says, and where their landmarks (B, 68, 2) px are then. What lies outside a stored crop is its edge, repeated."""
    count, _, side, _ = image.shape
    number = lambda low, high, *shape: torch.from_numpy(
        rng.uniform(low, high, (count, *shape))
    ).float()
    if kind == "covered":  # 30 to 80 % of it, by a piece of clouds
        share, narrow = number(0.3, 0.8), number(0.8, 1.25)
        size = torch.stack((share.sqrt() * narrow, share.sqrt() / narrow), 1).clamp(max=1.0)
        low = (number(0, 1, 2) * (1 - size) * side)[:, None, None]
        place = torch.stack(
            torch.meshgrid(torch.arange(side), torch.arange(side), indexing="xy"), -1
        )
        inside = ((place >= low) & (place < low + (size * side)[:, None, None])).all(-1)
        return torch.where(inside[:, None], empty(image, "clouds", rng), image), landmarks
    if kind == "blurred":  # to 6 to 16 px across
        small = F.interpolate(image, size=int(rng.integers(6, 17)), mode="area")
        return F.interpolate(small, size=side, mode="bicubic").clamp(0, 1), landmarks
    if kind == "noisy":
        return (
            image
            + torch.from_numpy(rng.standard_normal(image.shape)).float()
            * number(0.1, 0.35, 1, 1, 1)
        ).clamp(0, 1), landmarks
    turned = (
        kind == "turned"
    )  # by 30 to 180 degrees; misplaced: a box up to 30 % of its side off and .64 to 1.35 times as large
    angle = number(0.5, np.pi) * number(-1, 1).sign() if turned else number(0, 0)
    zoom, shift = (
        (number(0, 0), number(0, 0, 2))
        if turned
        else (number(-0.45, 0.3), number(-0.3, 0.3, 2) * side)
    )
    cos, sin = angle.cos() * zoom.exp(), angle.sin() * zoom.exp()
    matrix = torch.stack(
        (torch.stack((cos, -sin), 1), torch.stack((sin, cos), 1)), 1
    )  # from the new picture's points to the old one's, about the middle
    grid = F.affine_grid(
        torch.cat((matrix, (shift / (side / 2))[..., None]), 2),
        list(image.shape),
        align_corners=False,
    )
    moved = (landmarks - side / 2 - shift[:, None]) @ torch.linalg.inv(matrix).mT + side / 2
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False), moved


def empty(image, kind, rng):
    """As many pictures without a face as `image` (B, 3, S, S) has faces: clouds of noise at all scales, those faces cut up and shuffled, or one colour."""
    count, _, side, _ = image.shape
    if kind == "shuffled":
        tile = side // 4
        tiles = F.unfold(image[..., : 4 * tile, : 4 * tile], tile, stride=tile)[
            ..., rng.permutation(16)
        ]
        return F.interpolate(F.fold(tiles, 4 * tile, tile, stride=tile), size=side)
    colour, contrast, smooth = (
        torch.from_numpy(rng.uniform(low, high, (count, n, 1, 1))).float()
        for low, high, n in ((0.2, 0.8, 3), (0.05, 0.3, 1), (0.0, 1.8, 1))
    )
    if kind == "flat":
        return colour.expand(-1, -1, side, side).contiguous()
    frequency = (
        torch.hypot(
            *torch.meshgrid(torch.fft.fftfreq(side), torch.fft.fftfreq(side), indexing="ij")
        )
        + 1 / side
    )
    noise = torch.fft.ifft2(
        torch.fft.fft2(torch.from_numpy(rng.standard_normal((count, 3, side, side))).float())
        / frequency**smooth
    ).real
    noise = 0.5 * noise + 0.5 * noise.mean(1, keepdim=True)
    noise = (noise - noise.mean((2, 3), keepdim=True)) / noise.std((1, 2, 3), keepdim=True)
    return (colour + contrast * noise).clamp(0, 1)


@torch.inference_mode()
def trials(reconstructor, faces, count=1000, seed=0):
    """What a Reconstructor, with all its looks, makes of `count` faces of a split (`data.Faces`, people it was not trained on), whole and spoilt, and of pictures without a face.

    returns: dict of arrays over all pictures: kind ("whole", SPOILT or EMPTY), disagreement_percent, landmark_error_percent and vertex_error_mm (both NaN where there is no face)
    """
    rng, device, side = np.random.default_rng(seed), reconstructor.device, faces.image_size
    model, rows = reconstructor.model, []
    chosen = rng.permutation(len(faces))[:count]
    for start in range(0, len(chosen), 50):
        batch = faces[np.sort(chosen[start : start + 50])]
        image, landmarks = batch["image"], batch["landmarks"]
        true = model(batch["identity"].to(device), batch["expression"].to(device))[:, model.region]
        few = lambda i: slice(
            i % len(SPOILT), None, len(SPOILT)
        )  # a fifth of the batch for every kind
        pictures: list[tuple] = [("whole", slice(None), image, landmarks)]
        pictures += [
            (kind, few(i), *spoil(image[few(i)], landmarks[few(i)], kind, rng))
            for i, kind in enumerate(SPOILT)
            if len(image[few(i)])
        ]
        pictures += [
            (kind, None, empty(image[few(i)], kind, rng), None)
            for i, kind in enumerate(EMPTY)
            if len(image[few(i)])
        ]
        for kind, which, image, landmarks in pictures:
            pixels = (255 * image).round().byte().permute(0, 2, 3, 1).numpy()
            seen = reconstructor.estimate(
                list(pixels), np.tile([0.0, 0.0, side, side], (len(pixels), 1))
            )
            row = dict(
                disagreement_percent=seen["disagreement_percent"], kind=np.full(len(image), kind)
            )
            row |= {name: np.full(len(image), np.nan) for name in ERRORS}
            if which is not None:
                extent = (landmarks.amax(1) - landmarks.amin(1)).prod(-1).sqrt()[:, None]
                found = torch.from_numpy(seen["image_landmarks"])
                row["landmark_error_percent"] = (
                    (100 * (found - landmarks).norm(dim=-1) / extent).mean(-1).numpy()
                )
                shape = model(
                    *(
                        torch.from_numpy(seen[name]).to(device)
                        for name in ("identity", "expression")
                    )
                )
                row["vertex_error_mm"] = (
                    (shape[:, model.region] - true[which]).norm(dim=-1).mean(-1).cpu().numpy()
                )
            rows.append(row)
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def calibrate(reconstructor, faces, count=1000, seed=0):
    """The Calibration of a Reconstructor from `trials` on `count` faces of a split, by isotonic regression: a larger disagreement never means a smaller error."""
    from sklearn.isotonic import IsotonicRegression

    found = trials(reconstructor, faces, count, seed)
    disagreement, whole, face = (
        found["disagreement_percent"].clip(1e-3),
        found["kind"] == "whole",
        np.isfinite(found["landmark_error_percent"]),
    )
    knots = np.geomspace(*np.quantile(disagreement, (0.005, 0.995)), KNOTS)

    def curve(values, rows, weights, increasing=True):
        fitted = IsotonicRegression(increasing=increasing, out_of_bounds="clip").fit(
            np.log(disagreement[rows]), values, weights[rows]
        )
        return fitted.predict(np.log(knots))

    even = np.where(whole, 0.5 / whole.sum(), 0.5 / max(1, (~whole).sum()))
    rounded = lambda values, digits: tuple(values.round(digits).tolist())
    errors = {
        name: rounded(np.exp(curve(np.log(found[name][face].clip(1e-3)), face, even)), 3)
        for name in ERRORS
    }
    good = (found["landmark_error_percent"] < GOOD).astype(float)  # NaN is not
    return Calibration(
        reconstructor.version,
        rounded(knots, 4),
        rounded(
            curve(good, slice(None), even, increasing=False).clip(SCORE_MARGIN, 1 - SCORE_MARGIN), 4
        ),
        **errors,
        unlike_above_percent=round(float(np.quantile(disagreement[whole], 1 - FALSE_ALARMS)), 4),
    )
