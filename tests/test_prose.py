"""Every measured number in the documents' prose is the one in reports/metrics.

After a run that moved numbers, `python tests/test_prose.py` writes them into the sentences, and the
tables into results and card; read the sentences again, since a word may have become wrong.
"""

import json
import re
from pathlib import Path

import pandas as pd
import pytest

from e2far.pipeline import params

ROOT = Path(__file__).resolve().parent.parent
METRICS = ROOT / "reports" / "metrics"
CARD = "e2far/shipped/MODEL_CARD.md"
DOCUMENTS = ["README.md", "docs/results.md"]
PRINTED = [
    ("docs/reproducibility.md", "minutes"),
    ("docs/results.md", "benchmark"),
    (CARD, "benchmark"),
    (CARD, "groups"),
]
OF_THE_CARD = ("| mean face |", "| the shipped network |")
NUMBER = r"-?[\d.]*\d(?: %)?(?: \[-?[\d.]+, -?[\d.]+\])?"  # as a claim writes it
REFINED = ("refined from the network", "refined from the mean face", "eos, 2 px noise")
RECOGNISER, TWIN = "recogniser", "recogniser, untrained"
MIDDLE_AND_LAST = "stage3", "stage5"
AT_RANDOM = dict(layer="descriptor", mixtures="average, 128 of it at random")
CONTRAST = dict(readout="pooled", target="expression", contrast="stage3 - stage5", view="all poses")
JOINED = CONTRAST | dict(readout="heads, one grid", contrast="stage3 + stage4 + stage5 - stage3")
SETTINGS = {  # numbers of prose that were set, not measured
    "README.md": ["95 %", "3.11", "3.12", "3.13"],
    "docs/results.md": ["95 %"],
}


def row(name, **wanted):
    """The one row of a table in which the columns have the values `wanted`."""
    table = pd.read_csv(METRICS / f"{name}.csv")
    for column, value in wanted.items():
        table = table[table[column] == value]
    assert len(table) == 1, f"{len(table)} rows of {name}.csv have {wanted}"
    return table.iloc[0]


# ---- how numbers are written ---------------------------------------------------------------------


def percent(value, digits=0):
    return f"{100 * value:.{digits}f} %"


def interval(found, name, write="{:.3f}".format):
    """A column of a row with its interval, "0.046 [0.037, 0.053]"."""
    ends = ("low", "high") if name == "value" else (f"{name}_low", f"{name}_high")
    low, high = (write(found[end]) for end in ends)
    return f"{write(found[name])} [{low.removesuffix(' %')}, {high.removesuffix(' %')}]"


def explained(layer, target, trunk=RECOGNISER):
    wanted = dict(view="all poses", readout="pooled", trunk=trunk, layer=layer, target=target)
    return row("layers/probes", **wanted).value


def left_of_middle(trunk):
    middle, last = (explained(layer, "expression", trunk) for layer in MIDDLE_AND_LAST)
    return percent(last / middle)


def mixed(target):
    return row("layers/sizes", target=target, **AT_RANDOM)


def kept(target):
    wanted = dict(view="all poses", readout="pooled", trunk=RECOGNISER, target=target)
    return interval(row("layers/peaks", **wanted), "kept", percent)


def linear(layer, readout="heads"):
    """By how much a linear head on `layer` explains more than one on the last layer."""
    wanted = dict(readout=readout, trunk=RECOGNISER, target="expression", layer=layer)
    return interval(row("layers/linear", **wanted), "less_last")


def trained(one, other):
    """How a trained head on `one` differs in error from a head on `other`, both on frozen trunks."""
    table = pd.read_csv(METRICS / "layers" / "pairs.csv")
    asked = table.question.str.split("[?:] ").str[-1] == f"{one} - {other}"
    asked &= (table.trunk == RECOGNISER) & (table.phase == "frozen") & (table.error == "expression")
    assert asked.sum() == 1
    return table[asked].rename(columns=dict(difference="value")).iloc[0]


def gain(one, other):
    return less(trained(one, other))


def worse(one, other):
    return interval(trained(one, other), "value")


def beyond_twin(contrast):
    """`gain` on the recogniser beyond that on its untrained twin."""
    return less(row("layers/head_contrasts", target="expression", contrast=contrast))


def less(found):
    """By how much the value of a row lies below zero, with its interval."""
    low, high = sorted((-found.low, -found.high))
    return f"{-found.value:.3f} [{low:.3f}, {high:.3f}]"


def error(method, kind):
    return f"{row('benchmark_errors', method=method, error=kind).ratio + 1e-9:.3f}"


def elsewhere(world):
    wanted = dict(method="shipped", world=world, error="expressive")
    return f"{row('benchmark_elsewhere', **wanted).ratio:.2f}"


def start(name):
    found = json.loads((METRICS / "training.json").read_text())["starts"][name]
    return f"{found['neutral_ratio']:.3f}"


def agreement(what):
    found = json.loads((METRICS / "benchmark.json").read_text())["confidence"]
    return f"{found[what]:.2f}"


# ---- what the documents say ----------------------------------------------------------------------

CLAIMS = {
    "README.md": [
        (
            (
                "From stage 3 of five a linear reader explains {} of what faces do, from the last "
                "stage {}. With random weights the same network explains {} and {}. The lead of "
                "stage 3 is {} larger in the trained one. As a share, though, the trained one "
                "keeps more: {} of stage 3's at stage 5, with random weights {}."
            ),
            lambda: [
                *(percent(explained(layer, "expression")) for layer in MIDDLE_AND_LAST),
                *(percent(explained(layer, "expression", TWIN)) for layer in MIDDLE_AND_LAST),
                interval(row("layers/contrasts", **CONTRAST), "value"),
                *(left_of_middle(trunk) for trunk in (RECOGNISER, TWIN)),
            ],
        ),
        (
            (
                "A linear head on it beats one on stage 5 by {}; shrunk to stage 5's grid, where it "
                "has half as many numbers, by {}; added to stage 5 there it gains {}."
            ),
            lambda: [
                linear("stage3"),
                linear("stage3", "heads, one grid"),
                linear("stage3 + stage5", "heads, one grid"),
            ],
        ),
        (
            (
                "The paper's head errs less on stage 4 than on stage 5 by {} of the mean face's "
                "error; of this {} is beyond random weights."
            ),
            lambda: [gain("middle twice", "control"), beyond_twin("middle twice - control")],
        ),
        (
            (
                "In the 128 numbers that say who it is, {} of the best reading of expressions is "
                "left, and {} of that of the neutral shape."
            ),
            lambda: [kept(target) for target in ("expression", "identity")],
        ),
        (
            (
                "128 random mixtures of the average explain {} of expressions, the 128 numbers {}. "
                "Being trained costs them {}, and saves the person {}."
            ),
            lambda: [
                *(percent(mixed("expression")[side]) for side in ("mixtures_explain", "explained")),
                less(mixed("expression")),
                interval(mixed("identity"), "value"),
            ],
        ),
        (
            (
                "The paper's fusion-CNN on stages 4 and 5 beats the same CNN on stage 5 by {}; of "
                "this {} is beyond random weights. It does not measurably beat the same CNN on "
                "stage 4: {}. A head on stage 4 without it is better by {}. Linear heads gain from "
                "joining on one coarse grid alone: stages 3 to 5 together gain {} over stage 3 "
                "beyond random weights."
            ),
            lambda: [
                gain("fusion", "control"),
                beyond_twin("fusion - control"),
                gain("fusion", "middle twice"),
                worse("fusion", "middle"),
                interval(row("layers/contrasts", **JOINED), "value"),
            ],
        ),
        (
            "expressions in pool4 ({}) and hardly in pool5 ({}), where the person is.",
            lambda: [
                percent(explained(name, "expression", "end to end")) for name in ("pool4", "pool5")
            ],
        ),
    ],
    "docs/results.md": [
        (
            (
                "A fit to the same noisy landmarks that starts from the network's answer ends at {} of "
                "the mean face's error. From the mean face it ends at {}, and eos at {}."
            ),
            lambda: [error(method, "expressive") for method in REFINED],
        ),
        (
            (
                "under another light ({} of the mean face's error, where it has {} in its own "
                "world), and all of it with a bad camera ({}). On a grey bust it has {}."
            ),
            lambda: [elsewhere(name) for name in ("light", "as in training", "camera", "clay")],
        ),
        (
            (
                "ends where one from scratch does: {} against {} of the mean face's error in the "
                "neutral shape, one seed each."
            ),
            lambda: [start(name) for name in ("from the recogniser", "from scratch")],
        ),
    ],
    CARD: [
        (
            "the rank correlation of predicted and found errors is {} for landmarks",
            lambda: [agreement("landmark_error_percent, all faces")],
        ),
    ],
}


def minutes():
    """The lines of the table of how long stages took."""
    took = pd.read_csv(METRICS / "speed.csv").query("part == 'make reproduce'")
    rows = [*took[["name", "median"]].itertuples(index=False), ("in all", took["median"].sum())]
    return ["| stage | minutes |\n", "|---|---|\n"] + [f"| {x} | {y:.1f} |\n" for x, y in rows]


def table(document, name):
    """A table of reports/metrics between the marks that a document holds it by."""
    if name == "minutes":
        lines = minutes()
    else:
        lines = (METRICS / f"{name}.md").read_text().splitlines(keepends=True)
    if (document, name) == (CARD, "benchmark"):
        lines[2:] = [line for line in lines[2:] if line.startswith(OF_THE_CARD)]
    assert len(lines) >= 4, f"{name}.md lacks rows"
    return f"<!-- {name} -->\n{''.join(lines)}<!-- /{name} -->"


@pytest.mark.parametrize(("document", "name"), PRINTED)
def test_a_document_prints_the_table_of_the_default_profile(document, name):
    others = params.load("benchmark").profile != "default"  # which are not printed
    assert others or table(document, name) in (ROOT / document).read_text()


def told(claim):
    sentence, values = claim
    return sentence.format(*values())


@pytest.mark.parametrize("document", CLAIMS)
def test_a_document_says_what_the_tables_say(document):
    prose = (ROOT / document).read_text()
    for claim in CLAIMS[document]:
        assert told(claim) in prose


@pytest.mark.parametrize("document", DOCUMENTS)
def test_no_measured_number_of_prose_is_left_unchecked(document):
    prose = (ROOT / document).read_text()
    prose = re.sub(r"(?ms)^```.*?^```|^\|.*?$|\]\([^)]*\)|`[^`]*`|<!--.*?-->", "", prose)
    for claim in CLAIMS[document]:
        prose = prose.replace(told(claim), "")
    left = re.findall(r"(?<![\d.])\d+\.\d+(?!\.?\d)|\d+ %", prose)
    assert [number for number in left if number not in SETTINGS[document]] == []


def with_numbers(prose, claim):
    """The prose with the claim's numbers as they are now."""
    return re.sub(re.escape(claim[0]).replace(r"\{\}", NUMBER), lambda _: told(claim), prose)


@pytest.mark.parametrize(
    "before", ["ends at 9.1, or 8 % [-7, 0.5]. On.", "ends at -0.1 [-9, 8], or 12.5. On."]
)
def test_old_numbers_are_replaced_as_a_whole(before):
    claim = ("at {}, or {}. On", lambda: ["0.672", "35 %"])
    assert with_numbers(before, claim) == "ends at 0.672, or 35 %. On."


def write(document):
    """Write the document with its numbers and tables as they are now."""
    prose = (ROOT / document).read_text()
    for claim in CLAIMS.get(document, ()):
        prose = with_numbers(prose, claim)
    for _, name in (one for one in PRINTED if one[0] == document):
        before, rest = prose.split(f"<!-- {name} -->")
        prose = before + table(document, name) + rest.split(f"<!-- /{name} -->")[1]
    (ROOT / document).write_text(prose)


if __name__ == "__main__":
    for document in dict.fromkeys([*DOCUMENTS, *(document for document, _ in PRINTED)]):
        write(document)
