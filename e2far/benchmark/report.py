"""What notebook 5 writes for other pages: the tables of results and model card, benchmark.json."""

import json

import numpy as np

from e2far import evaluation
from e2far.benchmark.tables import KINDS
from e2far.benchmark.words import cell

PRINTED = {  # method -> how docs/results.md and the model card call it
    "fusion": "the default run's network",
    "shipped": "the shipped network",
    "fusion (short)": "fusion, short training",
    "eos, our landmarks": "eos, our landmarks",
    "eos, landmarks detected (short)": "eos, landmarks detected (short)",
    "eos, landmarks detected": "eos, landmarks detected",
    "refined, landmarks detected (short)": "refined, landmarks detected (short)",
    "refined, landmarks detected": "refined, landmarks detected",
    "eos, exact landmarks (oracle)": "eos, exact landmarks (oracle)",
    "eos, 2 px noise": "eos, 2 px noise",
    "refined from the mean face": "refined from the mean face, 2 px noise",
    "refined from the network": "refined from the network, 2 px noise",
}


def line(*cells):
    return f"| {' | '.join(cells)} |"


def markdown(header, lines):
    head = [line(*header), "|" + "---|" * len(header)]
    return "\n".join([*head, *lines]) + "\n"


def now_summary(judged):
    """Method -> `evaluation.summarise` of the NoW distances of all people, from `judge_scans`."""
    pool = lambda results: np.concatenate([result["now"] for result in results])
    return {name: evaluation.summarise(pool(results)) for name, results in judged.items()}


def benchmark_md(errors, now):
    """The table of docs/results.md. errors: of `tables.errors_of_all`    now: of `now_summary`"""
    rows = {name: part.set_index("error") for name, part in errors.groupby("method", sort=False)}
    printed = {}
    for name in PRINTED:
        printed[name] = PRINTED[name]
        if name == "fusion (short)":  # those that look again stand beside it
            looks = [own for own in rows if own.startswith("iterative")]
            short = lambda own: own.removeprefix("iterative, ").replace(" (short)", "")
            printed |= {own: f"iterative network, {short(own)}, short training" for own in looks}
    median = lambda name: f"{now[name]['median']:.2f} mm" if name in now else ""
    of_mean = [f"1 ({rows['mean face'].loc[kind, 'mm']:.2f} mm)" for kind in KINDS]
    count = lambda name: f"{rows[name].pictures.iloc[0]:,}"
    lines = [line("mean face", count("mean face"), *of_mean, median("mean face"))]
    for name in [name for name in printed if name in rows]:
        cells = [cell(rows[name].loc[kind]) for kind in KINDS]
        lines.append(line(printed[name], count(name), *cells, median(name)))
    return markdown(("method", "pictures", *KINDS.values(), "NoW-style median"), lines)


def groups_md(groups):
    """The model card's table, from `subgroups.group_table`."""
    lines = []
    for name, part in groups.groupby("group", sort=False):
        cells = [f"{cell(row)} of {row.mean_face_mm:.2f} mm" for row in part.itertuples()]
        counts = (f"{part[count].iloc[0]:,}" for count in ("people", "pictures"))
        lines.append(line(name, *counts, *cells))
    return markdown(("group", "people", "pictures", *KINDS.values()), lines)


def benchmark_tex(race, errors):
    """The errors of all methods as a LaTeX table."""
    caption = (
        f"Error on {len(race.test)} synthetic pictures, ratio to the mean face's, with 95\\,\\% "
        f"bootstrap intervals over people; methods that iterate on {len(race.fitted)} of them."
    )
    table = errors.assign(text=[cell(row) for row in errors.itertuples()])
    table = table.pivot(index="method", columns="error", values="text")
    table = table.loc[errors["method"].unique(), list(KINDS)].rename(columns=KINDS)
    return table.to_latex(caption=caption, label="tab:benchmark")


def benchmark_json(race, errors, now, consistency, averages):
    """Method -> its numbers; how steady networks are about one person; sizes and settings."""
    found = {}
    for name, part in errors.groupby("method", sort=False):
        rows = {row.error: row for row in part.itertuples()}
        found[name] = {
            f"{kind}_{key}": round(float(getattr(rows[kind], key)), 4)
            for kind in KINDS
            for key in ("mm", "ratio", "ratio_low", "ratio_high")
        }
        if name in now:
            own = now[name]
            found[name] |= {f"now_{k}_mm": round(own[k], 4) for k in ("median", "mean", "std")}
    found["identity_consistency"] = {name: rounded(values) for name, values in consistency.items()}
    found["neutral_ratio_of_averages"] = {
        name: {str(row.pictures): round(row.ratio, 4) for row in rows.itertuples()}
        for name, rows in averages.groupby("method", sort=False)
    }
    return found | dict(
        test_people=len(race.test.person.unique()),
        test_pictures=len(race.test),
        fitted_people=len(race.fitted),
        chosen=race.chosen,
    )


def rounded(numbers):
    return {name: round(value, 4) for name, value in numbers.items()}


def write(folder, tables, texts, found):
    """benchmark_NAME.csv of each of `tables`, the `texts` by their file names, benchmark.json."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in tables.items():
        path = folder / f"benchmark_{name}.csv"
        table.round(5).to_csv(path, index=False, lineterminator="\n")
    for name, text in (texts | {"benchmark.json": json.dumps(found, indent=1) + "\n"}).items():
        (folder / name).write_text(text)
