"""What the trainings of notebook 2 say: differences, verdicts, and the files in reports/metrics."""

import json

import numpy as np

from e2far import evaluation
from e2far.analysis import probes
from e2far.files import extra
from e2far.pipeline.training_study import ERRORS, LEARNED, SCRATCH, best_in_shape

with extra("study"):
    import pandas as pd

STARTS = ["neutral_ratio", "expression_ratio", "expressive_ratio", "neutral_mm", "expression_mm"]
STARTS += ["expressive_mm", "pose_deg", "landmark_percent"]
CLOCK = ["images_per_s", "seconds", "remaining_s"]  # columns of a log that differ from run to run


def over_people(folder, one=LEARNED, other=SCRATCH):
    """One long training minus the other on the same faces, as shares of the mean face's error: rows
    of label, error, difference, low, high (95 % bootstrap over people), verdict."""
    a, b = (np.load(folder / name.replace(" ", "_") / "evaluation.npz") for name in (one, other))
    rows = []
    for kind in ERRORS:
        apart, mean_face = a[f"{kind}_mm"] - b[f"{kind}_mm"], a[f"{kind}_mean_face_mm"]
        interval = evaluation.bootstrap_ratio(apart, mean_face, clusters=a["person"])
        rows.append(_row(f"{one} − {other}", kind, interval))
    return pd.DataFrame(rows)


def over_seeds(table, what, base):
    """Each of the column `what` minus `base`, seed by seed: rows as of `over_people`, the interval
    Student's, and the lowest and the highest seed."""
    rows = []
    for kind in ERRORS:
        wide = table.pivot(index="seed", columns=what, values=kind)
        for name in table[what].unique():
            if name != base:
                apart = wide[name] - wide[base]
                row = _row(f"{name} − {base}", kind, probes.seed_interval(apart))
                rows.append(row | dict(lowest_seed=apart.min(), highest_seed=apart.max()))
    return pd.DataFrame(rows)


def _row(label, kind, interval):
    row = dict(label=label, error=kind) | dict(zip(("difference", "low", "high"), interval))
    verdict = "better" if row["high"] < 0 else "worse" if row["low"] > 0 else "undecided"
    return row | dict(verdict=verdict)


def said(row):
    """A difference in words: "**a gain** (-0.0042 [-0.0081, -0.0009])"."""
    how = dict(better="a gain", worse="a loss", undecided="no clear difference")[row.verdict]
    return f"**{how}** ({row.difference:+.4f} [{row.low:+.4f}, {row.high:+.4f}])"


def write(folder, recognisers, read, results, logs, short, sweep, pairs):
    """Write training.json, sweep.csv, training_log.csv and validation.csv to `folder`.

    pairs: rows of `over_people` and `over_seeds`, all
    """
    folder.mkdir(parents=True, exist_ok=True)
    numbers = lambda row: {
        name: round(value, 4) if isinstance(value, float) else value for name, value in row.items()
    }
    mean = lambda table, what: {
        name: numbers(part.drop(columns=[what, "seed"]).mean().to_dict())
        for name, part in table.groupby(what, sort=False)
    }
    report = dict(
        recognisers={
            name: dict(
                top1=round(one["top1"], 4),
                **{
                    row["target"]: numbers({key: row[key] for key in ("value", "low", "high")})
                    for row in read[read.recogniser == name].to_dict("records")
                },
            )
            for name, one in recognisers.items()
        },
        trunk=best_in_shape(read),
        starts={name: numbers(row[STARTS].to_dict()) for name, row in results.iterrows()},
        kept=results.expressive_ratio.idxmin(),
        short=mean(short, "start"),
        sweep=mean(sweep, "setting"),
        paired=[numbers(row) for row in pairs.dropna(axis=1).to_dict("records")],
        seeds=dict(short=short.seed.nunique(), sweep=sweep.seed.nunique()),
    )
    (folder / "training.json").write_text(json.dumps(report, indent=1) + "\n")
    save = lambda table, name, **options: table.to_csv(
        folder / f"{name}.csv", lineterminator="\n", **options
    )
    save(sweep.round(4), "sweep", index=False)
    log = pd.concat([log.drop(columns=CLOCK).assign(start=name) for name, log in logs.items()])
    save(log.round(5), "training_log", index=False)
    judged = log.dropna(subset=["expressive_mm"])
    save(
        judged.pivot(index="images", columns="start", values="expressive_mm").round(5), "validation"
    )
