"""Are our people shaped like people, and do the modes hold what faces do? Tables of notebook 1."""

import numpy as np
import torch

from e2far.facemodels import arkit
from e2far.facemodels.anthropometry import GROUP_NORMS, NORMS, compare, measure, population
from e2far.facemodels.shapes import draw_identities
from e2far.files import extra

with extra("study"):
    import pandas as pd

COLUMNS = ["people", "local_sd", "measure", "mean", "sd", "norm_mean", "norm_sd", "spread_ratio"]
RACES = dict(african=("Black", "White"), asian=("Other", "White"))  # ours -> groups of the survey


def measure_people(model, count, seed):
    """Measures, name -> (count,), of random people of `model`, as of `anthropometry.measure`."""
    generator = torch.Generator().manual_seed(seed)
    return measure(model.neutral(torch.randn(count, model.n_identity, generator=generator)), model)


def spread_table(model, found, targets, spreads, seed):
    """`found`, of `measure_people`, beside the survey; then how much as many of MakeHuman's heads,
    each in its own size, differ at each of `spreads` (local_sd of `draw_identities`)."""
    count = len(next(iter(found.values())))
    tables = [pd.DataFrame(compare(found)).assign(people="the model's", local_sd=np.nan)]
    for local_sd in spreads:
        heads, _ = draw_identities(*targets, count, np.random.default_rng(seed), local_sd)
        rows = pd.DataFrame(compare(measure(torch.as_tensor(heads), model)))
        rows = rows[["measure", "spread_ratio"]]
        tables.append(rows.assign(people="MakeHuman's", local_sd=local_sd))
    return pd.concat(tables)[COLUMNS]


def typical_ratio(table):
    """The geometric mean of the ratios of a `spread_table`: local_sd -> ratio."""
    logs = table.assign(log=np.log(table["spread_ratio"].astype(float)))
    return np.exp(logs.groupby("local_sd")["log"].mean())


def group_effects(model, targets, count, seed):
    """By how much sex and ancestry change each length, % of its mean, in us and in the survey.

    Rows of group, measure, ours, survey. Ours by least squares over heads in their own size; the
    survey's are men less women, and groups less "White", women and men alike.
    """
    heads, traits = draw_identities(*targets, count, np.random.default_rng(seed))
    found, groups = measure(torch.as_tensor(heads), model), ("male", *RACES)
    design, rows = np.stack([np.ones(count)] + [traits[key] for key in groups], 1), []
    for name, norms in GROUP_NORMS.items():
        fitted = np.linalg.lstsq(design, found[name].numpy(), rcond=None)[0]
        mean = {group: np.mean([norms[sex, group][0] for sex in NORMS[name]]) for _, group in norms}
        survey = [NORMS[name]["male"][0] - NORMS[name]["female"][0]]
        survey += [mean[one] - mean[other] for one, other in RACES.values()]
        for group, ours, theirs in zip(groups, fitted[1:], survey):
            shares = ours / float(found[name].mean()), theirs / population(name)[0]
            rows.append((group, name, *(100 * share for share in shares)))
    return pd.DataFrame(rows, columns=["group", "measure", "ours", "survey"])


def lost_by_modes(model, rng, count=40):
    """How far random mixtures of units move the face, and what of it its modes lose: mm, mean."""
    if not model.unit_names:
        return 0.0, 0.0
    strengths = [arkit.draw_units(model.unit_names, rng, neutral=0) for _ in range(count)]
    strengths = torch.from_numpy(np.stack(strengths))
    exact = torch.einsum("ndj,bj->bnd", model.units[model.region], strengths)
    kept = model.expression_offset(model.from_units(strengths))[:, model.region]
    return tuple(float(x.norm(dim=-1).mean()) for x in (exact, exact - kept))
