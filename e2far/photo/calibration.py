"""Learning how far to trust a network from what it makes of faces and non-faces."""

import numpy as np
import torch
import torch.nn.functional as F

from e2far.files import extra
from e2far.photo import likeness
from e2far.photo.confidence import ERRORS, GOOD, KNOTS, Calibration
from e2far.photo.nonfaces import EMPTY, clouds, uniform, without_face

# Shares of the side: how boxes scatter, across, down and in size. See detection.CNN_TO_BOX
SCATTER = (0.03, 0.04, 0.07)
# Choice: whole faces keep their colours. With a seventh of them in grey, 21 of 97 real photos in grey
# were doubtful instead of 24, but 14 of 95 pictures without a face passed instead of 9.
SPOILT = ("covered", "misplaced", "turned", "blurred", "noisy")


def spoil(image, landmarks, kind, rng):
    """Pictures (B, 3, S, S) in [0, 1], spoilt, and where their landmarks (B, 68, 2) px are then.

    kind: of SPOILT. What lies outside a stored crop is its edge, repeated.
    """
    count, _, side, _ = image.shape
    if kind in ("turned", "misplaced"):
        return move(image, landmarks, kind, rng)
    if kind == "covered":  # 30 to 80 % of it, by a piece of clouds
        inside = draw_rectangles(count, side, rng)[:, None]
        return torch.where(inside, clouds(image, rng), image), landmarks
    if kind == "blurred":  # to 6 to 16 px across
        small = F.interpolate(image, size=int(rng.integers(6, 17)), mode="area")
        return F.interpolate(small, size=side, mode="bicubic").clamp(0, 1), landmarks
    noise = torch.from_numpy(rng.standard_normal(image.shape)).float()
    return (image + noise * uniform(rng, 0.1, 0.35, count, 1, 1, 1)).clamp(0, 1), landmarks


def draw_rectangles(count, side, rng):
    """Where (B, S, S) one rectangle lies in each of B pictures; 30 to 80 % of it."""
    share, narrow = uniform(rng, 0.3, 0.8, count), uniform(rng, 0.8, 1.25, count)
    size = torch.stack((share.sqrt() * narrow, share.sqrt() / narrow), 1).clamp(max=1.0)
    low = (uniform(rng, 0, 1, count, 2) * (1 - size) * side)[:, None, None]
    high = low + (size * side)[:, None, None]
    place = torch.stack(torch.meshgrid(*[torch.arange(side)] * 2, indexing="xy"), -1)
    return ((place >= low) & (place < high)).all(-1)


def move(image, landmarks, kind, rng):
    """Pictures turned by 30 to 180 degrees, or misplaced, and their landmarks.

    misplaced: seen in a box up to 30 % of its side off, and .64 to 1.35 times as large
    """
    count, _, side, _ = image.shape
    if kind == "turned":
        angle = uniform(rng, 0.5, np.pi, count) * uniform(rng, -1, 1, count).sign()
        zoom, shift = uniform(rng, 0, 0, count), uniform(rng, 0, 0, count, 2)
    else:
        angle, zoom = uniform(rng, 0, 0, count), uniform(rng, -0.45, 0.3, count)
        shift = uniform(rng, -0.3, 0.3, count, 2) * side
    cos, sin = angle.cos() * zoom.exp(), angle.sin() * zoom.exp()
    # From the new picture to the old one, about the middle
    matrix = torch.stack((cos, -sin, sin, cos), 1).reshape(count, 2, 2)
    affine = torch.cat((matrix, (shift / (side / 2))[..., None]), 2)
    grid = F.affine_grid(affine, list(image.shape), align_corners=False)
    moved = (landmarks - side / 2 - shift[:, None]) @ torch.linalg.inv(matrix).mT + side / 2
    return F.grid_sample(image, grid, padding_mode="border", align_corners=False), moved


@torch.inference_mode()
def trials(reconstructor, faces, count=1000, seed=0):
    """What a Reconstructor, with all its looks, makes of faces of a split, and of pictures without.

    faces: `data.Faces`, people it was not trained on; `count` of them, whole and spoilt
    returns: dict of arrays over all pictures: kind ("whole", SPOILT or EMPTY),
        disagreement_percent, landmark_error_percent, vertex_error_mm (NaN where there is no face),
        signs (of `likeness`, a row each)
    """
    rng, rows = np.random.default_rng(seed), []
    chosen = rng.permutation(len(faces))[:count]
    for start in range(0, len(chosen), 50):
        batch = faces[np.sort(chosen[start : start + 50])]
        rows.append(judge(reconstructor, batch, "whole", rng, batch["image"], batch["landmarks"]))
        for i, kind in enumerate((*SPOILT, *EMPTY)):  # a fifth of the batch each
            part = {key: value[i % len(SPOILT) :: len(SPOILT)] for key, value in batch.items()}
            if not len(part["image"]):
                continue
            if kind in SPOILT:
                given = spoil(part["image"], part["landmarks"], kind, rng)
            else:
                given = without_face(part, kind, reconstructor.model, rng), None
            rows.append(judge(reconstructor, part, kind, rng, *given))
    return {key: np.concatenate([row[key] for row in rows]) for key in rows[0]}


def judge(reconstructor, batch, kind, rng, image, landmarks):
    """Rows of `trials` for pictures of a batch of faces; landmarks: where they are, if anywhere.

    They are seen in boxes as a detector finds them (SCATTER), not in the true ones.
    """
    count, _, side, _ = image.shape
    across, down, size = (rng.normal(0, SCATTER, (count, 3)) * side).T
    low, high = np.stack((across, down), 1), np.stack((across, down), 1) + side
    boxes = np.hstack((low - size[:, None] / 2, high + size[:, None] / 2))
    pixels = (255 * image).round().byte().permute(0, 2, 3, 1).numpy()
    seen = reconstructor.estimate(list(pixels), boxes)
    row = {key: seen[key] for key in ("disagreement_percent", "signs")}
    row["kind"] = np.full(count, kind)
    if landmarks is None:
        return row | {name: np.full(count, np.nan) for name in ERRORS}
    extent = (landmarks.amax(1) - landmarks.amin(1)).prod(-1).sqrt()[:, None]
    apart = (torch.from_numpy(seen["image_landmarks"]) - landmarks).norm(dim=-1)
    model, keys = reconstructor.model, ("identity", "expression")
    shape, truth = (
        model(*(torch.as_tensor(values[key]).to(reconstructor.device) for key in keys))
        for values in (seen, batch)
    )
    error_mm = (shape - truth)[:, model.region].norm(dim=-1).mean(-1).cpu().numpy()
    errors = (100 * apart / extent).mean(-1).numpy(), error_mm
    return row | dict(zip(ERRORS, errors))


def even_between(first):
    """Weights (B,) by which those where `first` (B,) count as much as the others; mean 1."""
    return len(first) * np.where(first, 0.5 / first.sum(), 0.5 / max(1, (~first).sum()))


def calibrate(reconstructor, faces, count=1000, seed=0):
    """The Calibration of a Reconstructor from `trials` on `count` faces of a split.

    Its curves are isotonic: a larger disagreement never means a smaller error.
    """
    with extra("study"):
        from sklearn.isotonic import IsotonicRegression

    found = trials(reconstructor, faces, count, seed)
    disagreement = found["disagreement_percent"].clip(1e-3)
    whole, face = found["kind"] == "whole", np.isfinite(found["landmark_error_percent"])
    weight = even_between(whole[face])
    knots = np.geomspace(*np.quantile(disagreement, (0.005, 0.995)), KNOTS)

    def curve(error):
        fitted = IsotonicRegression(out_of_bounds="clip")
        fitted.fit(np.log(disagreement[face]), np.log(error[face].clip(1e-3)), weight)
        return tuple(np.exp(fitted.predict(np.log(knots))).round(3).tolist())

    told = whole | ~face
    return Calibration(
        reconstructor.version,
        tuple(knots.round(4).tolist()),
        **{name: curve(found[name]) for name in ERRORS},
        likeness=likeness.fit(found["signs"][told], whole[told], even_between(whole[told])),
        placed=likeness.fit(
            found["signs"][face], found["landmark_error_percent"][face] < GOOD, weight
        ),
    )
