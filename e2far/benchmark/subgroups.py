"""Whom and what a network reads worse: groups of people, movements of the face (notebook 5).

What people look like and how strongly each unit moves is drawn again, from the seeds of the test
pictures: the shards do not keep it.
"""

import numpy as np
import torch

from e2far.benchmark import anatomy
from e2far.benchmark.tables import ratio, ratios
from e2far.facemodels import arkit, traits
from e2far.files import extra
from e2far.synthesis.studio import SPLITS

with extra("study"):
    import pandas as pd

YAW = ("yaw 0-30 degrees", "yaw 30-60 degrees", "yaw over 60 degrees")
SKIN = ("light skin", "medium skin", "dark skin")
GROUPS: dict[str, tuple[str, ...]] = {
    "all": ("all pictures",),
    "yaw": YAW,
    "skin": SKIN,
    "beard": ("no beard", "beard"),
    "glasses": ("no glasses", "clear glasses", "dark glasses"),
    "forehead": ("free forehead", "hair over the forehead", "cap or scarf"),
}
FEATURES = {name: f"{name} features" for names in traits.GROUPS.values() for name in names} | dict(
    between="features in between", middle="middle-aged features", mixed="features of mixed ancestry"
)
STALE = "these are not the {} of the pictures: make them again with `dvc repro synthesis`"

# ---- movements of the face -----------------------------------------------------------------------


def strengths(model, faces, seed):
    """Strengths (n, J) in [0, 1] of the units of the model in the test pictures `faces`."""
    person = faces.person.numpy()
    picture = np.concatenate([np.arange(n) for n in np.unique(person, return_counts=True)[1]])
    draw = lambda who, k: arkit.draw_units(
        model.unit_names, np.random.default_rng([seed, SPLITS.index("test"), who, k + 1])
    )
    found = torch.from_numpy(np.stack([draw(*each) for each in zip(person, picture)]))
    expression = found.float() @ model.units_to_modes.T.float()
    assert torch.allclose(expression, faces.expression, atol=1e-4), STALE.format("expressions")
    return found


def unit_table(model, faces, expression, seed, samples):
    """Each unit: the error of the answers `expression` (n, L) on what it moves where it is active,
    beside that of a still face. Sorted: what is read best comes first."""
    active = strengths(model, faces, seed)

    def errors(answer):
        parts = []
        for rows in torch.arange(len(answer)).split(250):
            apart = model.expression_offset(answer[rows] - faces.expression[rows]).norm(dim=-1)
            parts.append(anatomy.unit_errors(apart, active[rows], model))
        return torch.cat(parts).numpy()

    mine, still, table = errors(expression), errors(torch.zeros_like(expression)), []
    for j, unit in enumerate(model.unit_names):
        moved = np.isfinite(mine[:, j])
        if moved.sum() > 1:
            both = mine[moved, j], still[moved, j]
            row = dict(unit=unit, pictures=int(moved.sum()), mm=both[0].mean())
            row |= dict(still_mm=both[1].mean())
            table.append(row | ratio(*both, faces.person.numpy()[moved], samples))
    return pd.DataFrame(table).sort_values("ratio").reset_index(drop=True)


# ---- groups of people ----------------------------------------------------------------------------


def groups_of(looks):
    """The groups of a person of these `looks`, which stay in all pictures."""
    fringe = looks["shell"] and looks["style"]["fringe"]
    forehead = 2 if looks["covered"] else 1 if fringe else 0
    glasses = 0 if not looks["glasses"] else 2 if looks["lens_dark"] else 1
    return dict(
        skin=SKIN[int(3 * looks["tone"])],
        beard=GROUPS["beard"][int(np.any(looks["beard"]))],
        glasses=GROUPS["glasses"][glasses],
        forehead=GROUPS["forehead"][forehead],
    )


def group_pictures(studio, faces, yaw_deg, seed, reader=None):
    """The groups of each of the test pictures `faces`, a column for each kind.

    yaw_deg: (n,)    reader: a `traits.TraitReader`, for sex, age and ancestry of the shapes
    """
    people, first, place = np.unique(faces.person.numpy(), return_index=True, return_inverse=True)
    drawn = [studio.draw_person(seed, "test", int(person)) for person in people]
    identity, looks = zip(*drawn)
    assert np.array_equal(np.stack(identity), faces.identity[first].numpy()), STALE.format("people")
    table = pd.DataFrame([groups_of(each) for each in looks]).iloc[place].reset_index(drop=True)
    table = table.assign(all="all pictures", yaw=np.array(YAW)[np.digitize(yaw_deg, (30, 60))])
    if reader:
        read = traits.groups(reader.predict(faces.identity))
        table = pd.concat((table, read.map(FEATURES.get)), axis=1)
    return table


def group_table(groups, errors, samples):
    """Ratios in each group. groups: of `group_pictures`    errors: of `evaluation.measure`"""
    names = GROUPS | {kind: [FEATURES[name] for name in own] for kind, own in traits.GROUPS.items()}
    rows = []
    for kind in [kind for kind in names if kind in groups]:
        for name in names[kind]:
            inside = (groups[kind] == name).to_numpy()
            people = len(np.unique(errors["person"][inside]))
            about = dict(kind=kind, group=name, people=people, pictures=int(inside.sum()))
            for row in ratios(errors, samples, inside) if people else ():
                whose = ("mm", "mean_face_mm")
                mm = {key: errors[f"{row['error']}_{key}"][inside].mean() for key in whose}
                rows.append(about | mm | row)
    columns = "kind group error people pictures mm mean_face_mm ratio ratio_low ratio_high"
    return pd.DataFrame(rows)[columns.split()]
