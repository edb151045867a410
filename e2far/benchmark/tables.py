"""Tables of notebook 5 on all its methods: errors, pairs, iterations, scans, regions of the face.

Each takes a `pipeline.race.Race`. Ratios are to the mean face's error on the same pictures; all
intervals are 95 % bootstrap intervals over people, from so many `samples`.
"""

import numpy as np

from e2far import evaluation
from e2far.benchmark import anatomy, metrics, protocols
from e2far.files import extra

with extra("study"):
    import joblib
    import pandas as pd

KINDS = {
    "neutral": "neutral shape",
    "expression": "expression offset",
    "expressive": "expressive shape",
}
HANDED = ("oracle", "px noise", "refined from")  # in names of methods that are given the truth
REALY = ("all", "nose", "mouth", "forehead", "cheeks")


def named(name, interval):
    """A value and its interval as columns of a table."""
    return dict(zip((name, f"{name}_low", f"{name}_high"), interval))


def ratio(mine, theirs, people=None, samples=2000):
    """Columns ratio, ratio_low, ratio_high of errors `mine` to `theirs`, both (n,)."""
    return named("ratio", evaluation.bootstrap_ratio(mine, theirs, people, samples))


def ratios(errors, samples, rows=slice(None)):
    """Yields for each of KINDS its columns error, ratio, ratio_low, ratio_high.

    errors: of `evaluation.measure`    rows: those of the pictures that count
    """
    for kind in KINDS:
        both = (errors[f"{kind}_{whose}"][rows] for whose in ("mm", "mean_face_mm"))
        yield dict(error=kind) | ratio(*both, errors["person"][rows], samples)


def averaged(trainings):
    """Errors of `evaluation.measure`, averaged over trainings picture by picture."""
    average = lambda name: np.mean([errors[name] for errors in trainings], 0)
    return {name: average(name) for name in trainings[0]} | dict(person=trainings[0]["person"])


def errors_of_all(race, samples):
    """How far off each method is, in mm and as a ratio, with the range over its trainings."""
    rows = []
    for name, trainings in race.errors.items():
        errors = averaged(trainings)
        for row in ratios(errors, samples):
            own, theirs = f"{row['error']}_mm", f"{row['error']}_mean_face_mm"
            each = [one[own].sum() / one[theirs].sum() for one in trainings]
            mm = evaluation.bootstrap_interval(errors[own], errors["person"], samples)
            about = dict(method=name, error=row.pop("error"), pictures=len(errors["person"]))
            seeds = dict(seeds=len(each), seeds_low=min(each), seeds_high=max(each))
            rows.append(about | named("mm", mm) | row | seeds)
    return pd.DataFrame(rows)


def paired(race, than, samples):
    """Errors of methods less those of method `than` on the same pictures, in mm; last those that are
    given landmarks of the truth, column `handed`."""
    n, rows, found = len(race.fitted), race.fitted.numpy(), []
    seen = lambda values: values if len(values) == n else values[rows]
    errors = {name: averaged(trainings) for name, trainings in race.errors.items()}
    for name in [name for name in errors if name != than]:
        about = dict(method=name, than=than, handed=any(part in name for part in HANDED))
        for kind in KINDS:
            mine, theirs = (seen(errors[each][f"{kind}_mm"]) for each in (name, than))
            more = evaluation.bootstrap_interval(mine - theirs, race.test.person[rows], samples)
            found.append(about | dict(error=kind) | dict(zip(("mm", "low", "high"), more)))
    table = pd.DataFrame(found).sort_values("handed", kind="stable", ignore_index=True)
    verdicts = [table.low > 0, table.high < 0]
    return table.assign(decided=np.select(verdicts, ["worse", "better"], "no"))


def landmarks(race, errors):
    """How far off the landmarks are that fits are given, and what each fit leaves, a ratio.

    errors: of `errors_of_all`
    """
    true, pixel = race.test.landmarks[race.fitted].numpy(), race.test.image_size / 224
    left = errors[errors["error"] == "expressive"].set_index("method").ratio
    rows = []
    for name, points in race.landmarks.items():
        apart = np.linalg.norm(points.numpy() - true, axis=-1)
        row = {"landmarks": name, "px of 224": float(apart.mean()) / pixel}
        row["% of the face"] = float(metrics.nme(points.numpy(), true).mean())
        refined = "refined from the mean face" if name == "2 px noise" else f"refined, {name}"
        rows.append(
            row | {"eos leaves": left[f"eos, {name}"], "refined leaves": left.get(refined, np.nan)}
        )
    return pd.DataFrame(rows).set_index("landmarks")


def iterations(race, once, samples):
    """Ratios of the expressive shape after each iteration; networks that look `once` are points."""
    rows, shown = [], race.fitted.numpy()
    measure = lambda guess: evaluation.measure(race.model, race.test, guess, race.fitted)
    curves = {
        name: {step: averaged(list(map(measure, each))) for step, each in steps.items()}
        for name, steps in race.steps.items()
    }
    for name in once:
        errors = averaged(race.errors[name])
        curves[name] = {1: {key: values[shown] for key, values in errors.items()}}
    for name, steps in curves.items():
        for step, errors in steps.items():
            _, _, row = ratios(errors, samples)
            columns = dict(zip(("ratio", "low", "high"), list(row.values())[1:]))
            rows.append(dict(method=name, iteration=step) | columns)
    return pd.DataFrame(rows)


# ---- where on the face ---------------------------------------------------------------------------


def judge_scans(race, methods, people, regional, n_jobs):
    """Method -> `protocols.judge_neutral` of the first `people`, with REALY's regions of some."""
    true = race.model.neutral(race.test.identity[race.fitted[:people]])
    shapes = {name: race.model.neutral(race.answer(name)["identity"][:people]) for name in methods}
    tasks = [(name, i) for name in methods for i in range(len(true))]
    found = joblib.Parallel(n_jobs)(
        joblib.delayed(protocols.judge_neutral)(
            race.model, shapes[name][i], true[i], regional=i < regional
        )
        for name, i in tasks
    )
    return {
        name: [result for (own, _), result in zip(tasks, found) if own == name] for name in methods
    }


def scans(race, judged, samples):
    """The protocols' measures of the neutral shapes, from `judge_scans`."""
    rows, root_mean_square = [], lambda d: np.sqrt(np.square(d).mean())
    centre = dict(now=np.median, metrical=np.median, feng=root_mean_square)
    for name, results in judged.items():
        values = {kind: [at(one[kind]) for one in results] for kind, at in centre.items()}
        regional = [one["realy"] for one in results if "realy" in one]
        values |= {f"realy {part}": [one[part] for one in regional] for part in REALY}
        values |= on_true_vertices(race, name, len(results))
        for measure, each in values.items():
            about = dict(method=name, measure=measure, people=len(each))
            about["unit"] = "degrees" if measure == "normals" else "mm"
            interval = evaluation.bootstrap_interval(each, samples=samples)
            rows.append(about | dict(zip(("value", "low", "high"), interval)))
    return pd.DataFrame(rows)["method measure unit people value low high".split()]


def on_true_vertices(race, name, people):
    """What scans cannot tell: distances (n,) mm of the same vertices after the best similarity, and
    angles (n,) between normals in degrees."""
    model, region = race.model, race.model.region
    true = model.neutral(race.test.identity[race.fitted[:people]])
    laid = model.neutral(race.answer(name)["identity"][:people])
    laid = metrics.similarity_align(laid, true, subset=region)
    distances = metrics.vertex_error(laid, true)[:, region].mean(1).numpy()
    faces = model.triangles.numpy(), region.numpy()
    pairs = zip(laid.numpy(), true.numpy())
    angles = [anatomy.normal_error(*pair, *faces) for pair in pairs]
    return {"aligned vertices": distances, "normals": angles}


def shapes(race, methods):
    """The true expressive shapes (n, N, 3) mm of the pictures `fitted`, and method -> its own."""
    rows, model = race.fitted, race.model
    answers = {name: race.answer(name) for name in methods}
    own = {name: model(one["identity"], one["expression"]) for name, one in answers.items()}
    return model(race.test.identity[rows], race.test.expression[rows]), own


def regions(race, methods, samples):
    """Errors of the expressive shape in each region of the face."""
    true, own = shapes(race, methods)
    parts = anatomy.regions(race.model)
    found = {name: anatomy.regional_errors(shape, true, parts) for name, shape in own.items()}
    rows = []
    for name, errors in found.items():
        for part, mine in errors.items():
            row = dict(method=name, region=part, mm=mine.mean().item())
            row |= ratio(mine, found["mean face"][part], samples=samples)
            rows.append(row | dict(people=len(mine)))
    return pd.DataFrame(rows)
