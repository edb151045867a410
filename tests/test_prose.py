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
PRINTED = [("docs/results.md", "benchmark"), (CARD, "benchmark"), (CARD, "groups")]
OF_THE_CARD = ("| mean face |", "| our network, shipped weights |")
NUMBER = r"-?[\d.]*\d(?: %)?(?: \[-?[\d.]+, -?[\d.]+\])?"  # as a claim writes it
REFINED = ("refined from the network", "refined from the mean face", "eos, 2 px noise")
AT_RANDOM = dict(layer="descriptor", mixtures="stage5, 128 of it at random")
CONTRAST = dict(readout="pooled", target="expression", contrast="stage3 - stage5", view="all poses")
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


def share(layer, target, trunk="recogniser"):
    wanted = dict(view="all poses", readout="pooled", trunk=trunk, layer=layer, target=target)
    return percent(row("layers/probes", **wanted).value)


def mixed(target):
    return percent(row("layers/sizes", target=target, **AT_RANDOM).mixtures_explain)


def kept(target):
    wanted = dict(view="all poses", readout="pooled", trunk="recogniser", target=target)
    return interval(row("layers/peaks", **wanted), "kept", percent)


def peak(target, view):
    wanted = dict(view=view, readout="pooled", trunk="recogniser", target=target)
    return row("layers/peaks", **wanted).peak


def linear(layer, column, readout="heads"):
    wanted = dict(readout=readout, trunk="recogniser", target="expression", layer=layer)
    return interval(row("layers/linear", **wanted), column)


def gain(one, other, trunk="recogniser", phase="frozen"):
    """By how much a trained head on `one` has less error than a head on `other`."""
    table = pd.read_csv(METRICS / "layers" / "pairs.csv")
    asked = table.question.str.split("[?:] ").str[-1] == f"{one} - {other}"
    asked &= table.trunk == trunk
    (found,) = table[asked & (table.phase == phase) & (table.error == "expression")].itertuples()
    low, high = sorted((-found.low, -found.high))
    return f"{-found.difference:.3f} [{low:.3f}, {high:.3f}]"


def error(method, kind):
    return f"{row('benchmark_errors', method=method, error=kind).ratio + 1e-9:.3f}"


def elsewhere(world):
    wanted = dict(method="shipped", world=world, error="expressive")
    return f"{row('benchmark_elsewhere', **wanted).ratio:.2f}"


def start(name):
    found = json.loads((METRICS / "training.json").read_text())["starts"][name]
    return f"{found['neutral_ratio']:.3f}"


# ---- what the documents say ----------------------------------------------------------------------

CLAIMS = {
    "README.md": [
        (
            (
                "From stages 2 and 3 of five a linear reader explains {} and {} of what faces do, "
                "from stage 5 {}, from the 128 numbers that say who it is {}. So {} of the peak is "
                "left at the top. 128 random mixtures of stage 5 hold {}, no less."
            ),
            lambda: (
                [share(name, "expression") for name in ("stage2", "stage3", "stage5", "descriptor")]
                + [kept("expression"), mixed("expression")]
            ),
        ),
        (
            (
                "The shape of the face is read best from stage 4 ({}), and {} of that is left in "
                "the 128 numbers. Random mixtures hold {}, the 128 numbers {}. Of faces that "
                "look ahead it is read best from stage {}."
            ),
            lambda: (
                [share("stage4", "identity"), kept("identity")]
                + [mixed("identity"), share("descriptor", "identity")]
                + [peak("identity", "looking ahead").removeprefix("stage")]
            ),
        ),
        (
            (
                "With random weights the same network explains {} from the pixels, {} from stage 3 "
                "and {} from stage 5. Stage 3's lead over stage 5 is {} larger in the trained one."
            ),
            lambda: [
                *(
                    share(name, "expression", "recogniser, untrained")
                    for name in ("pixels", "stage3", "stage5")
                ),
                interval(row("layers/contrasts", **CONTRAST), "value"),
            ],
        ),
        (
            (
                "A linear head on stage 3 beats one on stage 5 by {} of explained variance; shrunk "
                "to stage 5's grid, where it has half as many numbers, by {}."
            ),
            lambda: [
                linear("stage3", "less_last", readout) for readout in ("heads", "heads, one grid")
            ],
        ),
        (
            (
                "The paper's head on stage 4 has {} less of the mean face's error than the same "
                "head on stage 5; with stage 4 on stage 5's grid {}. The untrained twin gains {} "
                "as well."
            ),
            lambda: [
                gain("middle twice", "control"),
                gain("coarse fusion", "control"),
                gain("middle twice", "control", "recogniser, untrained"),
            ],
        ),
        (
            (
                "Stage 3 with stage 4 gains a linear head {} over stage 3 alone. The paper's "
                "fusion-CNN on stages 4 and 5 beats the same CNN on stage 5 by {} (after short "
                "tuning {}), on stage 4 by {}."
            ),
            lambda: [
                linear("stage3 + stage4", "less_best"),
                gain("fusion", "control"),
                gain("fusion", "control", phase="tuned"),
                gain("fusion", "middle twice"),
            ],
        ),
        (
            "Expressions are in pool4 ({}) and hardly in pool5 ({}), where the person is.",
            lambda: [share(name, "expression", "end to end") for name in ("pool4", "pool5")],
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
}


def table(document, name):
    """A table of reports/metrics between the marks that a document holds it by."""
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


@pytest.mark.parametrize("document", DOCUMENTS)
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
    for document in [*DOCUMENTS, CARD]:
        write(document)
