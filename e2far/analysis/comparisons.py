"""Pairs of heads, from the tables of `layer_study` and `head_study`: gathered, judged and told.

A pair is "one − other", a head minus another: rows of trunk, target, one, other, label, difference,
low, high and verdict (data frame), and of lowest_seed and highest_seed where the table has them.
"""

import numpy as np

from e2far.files import extra, reading

with extra("study"):
    import pandas as pd


INTERVAL = ["difference", "low", "high"]
FAINT = "both explain less than 1 %"  # the verdict on heads that hardly beat the mean face
NUMBERS = "value low high"
COLUMNS = {  # of the tables that notebooks 3 and 4 read; they hold a value in every row
    "probes": f"view readout trunk layer depth target {NUMBERS}",
    "peaks": "view readout trunk target peak top at_peak kept kept_low kept_high fall fall_low "
    "fall_high",
    "moved": f"trunk layer depth target {NUMBERS}",
    "networks": "network top1",
    "contrasts": f"view readout target contrast {NUMBERS}",
    "sizes": f"target layer mixtures mixtures_explain {NUMBERS}",
    "linear": f"readout trunk layer target {NUMBERS} best_single less_last less_last_low "
    "less_last_high less_best less_best_low less_best_high",
    "heads": "trunk phase error design ratio",
    "pairs": "trunk phase error question difference low high lowest_seed highest_seed",
    "head_contrasts": f"phase target contrast {NUMBERS} lowest_seed highest_seed",
}


def read_tables(folder, *names):
    """The tables FOLDER/NAME.csv, of COLUMNS, that `layer_study` and `head_study` left."""
    tables, what = [], "a table of `dvc repro`: `git checkout reports` brings it back"
    for name in names:
        path = folder / f"{name}.csv"
        with reading(path, what):
            tables.append(pd.read_csv(path))
            if missing := {*COLUMNS[name].split()} - {*tables[-1]}:
                raise ValueError(f"it has no column {' or '.join(sorted(missing))}")
            if not len(tables[-1]):
                raise ValueError("it has no rows")
    return tables


def linear_pairs(table):
    """Pairs of linear heads. They are measured by explained variance: more is better.

    table: linear.csv. Each choice of layers minus the last layer alone (`against` is "last"), and
    several layers, `joined`, minus the best one of them (`against` is "best single").
    """
    rows = []
    for _, part in table.groupby(["readout", "trunk", "target"], sort=False):
        singles = part.layer[~part.layer.str.contains("+", regex=False)]
        last = max(singles[singles != "descriptor"])
        for row in part.to_dict("records"):
            about = {name: row[name] for name in ("readout", "trunk", "target")}
            about |= dict(one=row["layer"], value=row["value"], joined="+" in row["layer"])
            for against, other in {"last": last, "best single": row["best_single"]}.items():
                column = f"less_{against.split()[0]}"
                numbers = (row[column + end] for end in ("", "_low", "_high"))
                names = dict(against=against, other=other)
                rows.append(about | names | dict(zip(INTERVAL, numbers)))
    found = pd.DataFrame(rows)
    found = found[found.one != found.other].replace({"one": {"descriptor": "the 128 numbers"}})
    found["label"] = found.one.where(~found.joined, "(" + found.one + ")") + " − " + found.other
    found["explained"] = np.maximum(found.value, found.value - found.difference)
    return judge(found.reset_index(drop=True), better=1)


def trained_pairs(pairs, heads):
    """Pairs of trained heads. They are measured by their error, a share of the mean face's: a lower
    one is better, and what is missing to 1 is explained.

    pairs: pairs.csv, whose questions end in "ONE - OTHER"    heads: heads.csv, errors of designs
    """
    names = pairs["question"].str.split(r"[?:] ", n=1, regex=True).str[-1].str.split(" - ")
    found = pairs.assign(target=pairs["error"], one=names.str[0], other=names.str[1])
    found["label"] = found.one + " − " + found.other
    about = ["trunk", "phase", "error"]
    errors = heads.groupby([*about, "design"]).ratio.mean()
    sides = [errors.loc[pd.MultiIndex.from_frame(found[[*about, k]])] for k in ("one", "other")]
    found["explained"] = 1 - np.minimum(*(side.to_numpy() for side in sides))
    return judge(found, better=-1)


def judge(pairs, better):
    """`pairs` with a column `verdict`: "better" or "worse" if the interval over people and every
    seed lie on that side of zero, else "undecided"; FAINT where neither of a pair explains 1 %.

    pairs: with `explained`, by the better one of a pair    better: the sign that is so, 1 or -1
    """
    signed = better * pairs.filter(["low", "high", "lowest_seed", "highest_seed"])
    clear = [pairs["explained"] < 0.01, signed.min(axis=1) > 0, signed.max(axis=1) < 0]
    return pairs.assign(verdict=np.select(clear, [FAINT, "better", "worse"], "undecided"))


def pick(table, **wanted):
    """Rows whose columns have the wanted values, or one of a wanted list."""
    for name, value in wanted.items():
        table = table[table[name].isin(value if isinstance(value, list) else [value])]
    return table


def strongest(pairs):
    """Of each trunk the pair of linear heads whose first one explains most."""
    return pairs.loc[pairs.groupby("trunk", sort=False)["value"].idxmax()]


def distinct(pairs):
    """`pairs` without those that say the same again: of a layer whose grid is the same either way,
    or of a best layer that is the last one."""
    names = ["trunk", "phase", "target", "one", "other", *INTERVAL]
    return pairs.drop_duplicates([name for name in names if name in pairs])


# ---- in words ------------------------------------------------------------------------------------


def number(pair):
    """Difference and interval: "+0.056 [+0.044, +0.068]"."""
    return f"{pair.difference:+.3f} [{pair.low:+.3f}, {pair.high:+.3f}]"


def how(pair):
    """The verdict as an adverb: "reads HOW from one than from the other"."""
    unclear = "neither clearly better nor clearly worse"
    words = {"undecided": unclear, FAINT: f"neither better nor worse ({FAINT})"}
    return f"**{words.get(pair.verdict, pair.verdict)}**"


def told(pairs):
    """A Markdown list of the verdicts, each with the pairs that it holds for."""
    lines = []
    for verdict in ("better", "undecided", "worse", FAINT):
        each = [
            f"*{pair.trunk}*, {pair.label}: {number(pair)}{_seeds_note(pair)}"
            for pair in pick(pairs, verdict=verdict).itertuples()
        ]
        if each:
            lines.append(f"- **{verdict.capitalize()}**: {'; '.join(each)}.")
    return "\n".join(lines or ["- No such heads were trained."])


def _seeds_note(pair):
    clear = pair.low > 0 or pair.high < 0
    return " (its seeds disagree)" if pair.verdict == "undecided" and clear else ""


def beyond_twin(contrasts, contrast, heads="Linear heads", better=1, **wanted):
    """What the recogniser gains by one choice of layers instead of another beyond its untrained
    twin, in sentences.

    contrasts: contrasts.csv or head_contrasts.csv    contrast: "ONE - OTHER"
    better: the sign of a gain, 1 or -1    wanted: for `pick`, what else names the row
    """
    found = pick(contrasts, contrast=contrast, **wanted).assign(explained=1)
    found = judge(found.rename(columns={"value": "difference"}), better).iloc[0]
    name = contrast.replace(" - ", " − ")
    unclear = "neither clearly more nor clearly less"
    gains = dict(better="more", worse="less").get(found.verdict, unclear)
    return (
        f"{heads}: *{name}* on the recogniser minus *{name}* on its untrained twin is "
        f"{number(found)}{_seeds_note(found)}. So the recogniser gains **{gains}** by this change "
        "than a network with random weights."
    )
