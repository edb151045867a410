"""What a data set holds, in numbers: reports/metrics/synthesis.json."""

import itertools

import torch


def displacement_mm(model, offsets):
    """Mean distance (B,) that `offsets` (B, N, 3) move the face, without neck, eyes and mouth."""
    return offsets[:, model.region].norm(dim=-1).mean(1)


def summarise(model, faces):
    """How many pictures and persons the splits of `faces` {name: data.Faces} hold, and how far
    their faces are from the mean face at rest. Raises ValueError where a person is in two splits.
    """
    for one, other in itertools.combinations(faces, 2):
        shapes = (faces[split].identity[:400] for split in (one, other))
        if torch.cdist(*shapes).min() < 1:
            raise ValueError(f"the same person in {one} and {other}")
    people = model.neutral(faces["test"].identity[::2][:500]) - model.mean
    moved = model.expression_offset(faces["train"].expression[:500])
    return dict(
        images={split: len(rows) for split, rows in faces.items()},
        persons={split: len(set(rows.person.tolist())) for split, rows in faces.items()},
        neutral_spread_mm=round(float(displacement_mm(model, people).mean()), 3),
        expression_size_mm=round(float(displacement_mm(model, moved).mean()), 3),
    )
