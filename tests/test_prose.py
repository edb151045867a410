"""Every measured number in the documents' prose is the one in reports/metrics.

After a run that moved numbers, `python tests/test_prose.py` writes them into the sentences, and the
tables into results and card; read the sentences again, since a word may have become wrong.
"""

import json
import re
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from e2far.pipeline import params

ROOT = Path(__file__).resolve().parent.parent
METRICS = ROOT / "reports" / "metrics"
CARD = "e2far/shipped/MODEL_CARD.md"
DOCUMENTS = ["README.md", "docs/results.md", CARD]
PRINTED = [
    ("docs/reproducibility.md", "minutes"),
    ("docs/results.md", "benchmark"),
    (CARD, "benchmark"),
    (CARD, "groups"),
    (CARD, "looks"),
    (CARD, "long"),
]
OF_THE_CARD = ("| mean face |", "| the shipped network |")
NUMBER = r"-?[\d.]*\d(?: %| mm)?(?: \[-?[\d.]+, -?[\d.]+\])?"  # as a claim writes it
REFINED = ("refined from the network", "refined from the mean face", "eos, 2 px noise")
RECOGNISER, TWIN = "recogniser", "recogniser, untrained"
MIDDLE_AND_LAST = "stage3", "stage5"
OF_PEAKS = dict(view="all poses", readout="pooled", trunk=RECOGNISER)
ONE_GRID = dict(readout="heads, one grid")
AT_RANDOM = dict(layer="descriptor", mixtures="average, 128 of it at random")
CONTRAST = dict(readout="pooled", target="expression", contrast="stage3 - stage5", view="all poses")
SETTINGS = {  # numbers of prose that were set, not measured
    "README.md": ["95 %", "3.11", "3.12", "3.13"],
    "docs/results.md": ["95 %", "5.7"],
    CARD: ["95 %", *"0.70 0.50 0.64".split(), "4.3", "5 %", "0.1", "4 %", "8 %", "6.1", "1.0"],
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


def kept_by_mixtures(target):
    """The share that as many random mixtures of the average keep of what the best layer explains."""
    mixed = row("layers/sizes", target=target, **AT_RANDOM).mixtures_explain
    best = row("layers/peaks", **OF_PEAKS, target=target)
    return percent(mixed / best.at_peak)


def kept(target):
    return interval(row("layers/peaks", **OF_PEAKS, target=target), "kept", percent)


def linear(layer, readout="heads", than="last"):
    """By how much a linear head on `layer` explains more than one on the last, or best, layer."""
    wanted = dict(readout=readout, trunk=RECOGNISER, target="expression", layer=layer)
    return interval(row("layers/linear", **wanted), f"less_{than}")


def trained(one, other, phase="frozen"):
    """How a trained head on `one` differs in error from a head on `other`; phase: of the trunks."""
    table = pd.read_csv(METRICS / "layers" / "pairs.csv")
    asked = table.question.str.split("[?:] ").str[-1] == f"{one} - {other}"
    asked &= (table.trunk == RECOGNISER) & (table.phase == phase) & (table.error == "expression")
    assert asked.sum() == 1
    return table[asked].rename(columns=dict(difference="value")).iloc[0]


def gain(one, other):
    return less(trained(one, other))


def worse(one, other):
    return interval(trained(one, other), "value")


def beyond_twin(contrast):
    """`gain` on the recogniser beyond that on its untrained twin."""
    return less(row("layers/head_contrasts", target="expression", contrast=contrast))


def less(found, digits=3):
    """By how much the value of a row lies below zero, with its interval."""
    low, high = sorted((-found.low, -found.high))
    return "{:.{n}f} [{:.{n}f}, {:.{n}f}]".format(-found.value, low, high, n=digits)


def error(method, kind):
    return f"{row('benchmark_errors', method=method, error=kind).ratio:.3f}"


def elsewhere(world, method="shipped"):
    wanted = dict(method=method, world=world, error="expressive")
    return f"{row('benchmark_elsewhere', **wanted).ratio:.2f}"


def mm(method, than, write=lambda found: interval(found, "value", "{:.2f}".format)):
    """How much more a method errs than another, in mm, on the people that both have seen."""
    found = row("benchmark_paired", method=method, than=than, error="expressive")
    return write(found.rename(dict(mm="value"))).replace(" [", " mm [")


def on_300(kind):
    """What the shipped network leaves on the people whom methods that iterate see."""
    other = dict(method="eos, 2 px noise", error=kind)
    eos, more = row("benchmark_errors", **other), row("benchmark_paired", **other, than="shipped")
    return f"{(eos.mm - more.mm) / eos.mm * eos.ratio:.3f}"


def longer(method):
    """How much more a network of `make looks` errs than one that looks once, in mm."""
    found = row("looks", method=method, error="expressive").rename(dict(mm_more="value"))
    return interval(found, "value", "{:.2f}".format).replace(" [", " mm [")


def training():
    return json.loads((METRICS / "training.json").read_text())


def recogniser(what):
    """Of the recogniser that the regressor starts from."""
    return training()["recognisers"][training()["trunk"]][what]


def started(error, over):
    """The row of `paired` that says what starting from it brings."""
    rows = pd.DataFrame(training()["paired"]).rename(columns=dict(difference="value"))
    wanted = rows.label.str.startswith("from the recogniser") & (rows.error == error)
    return rows[wanted & (rows.over == over)].iloc[0]


def agreement(what):
    found = json.loads((METRICS / "benchmark.json").read_text())["confidence"]
    return f"{found[what]:.2f}"


# ---- what the documents say ----------------------------------------------------------------------

CLAIMS = {
    "README.md": [
        (
            (
                "keep {} of that, and {} of the shape of who it is; as many random mixtures of the "
                "layer below keep {} and {}:"
            ),
            lambda: [
                *(kept(target) for target in ("expression", "identity")),
                *(kept_by_mixtures(target) for target in ("expression", "identity")),
            ],
        ),
        (
            (
                "From stage 3 a linear reader explains {} of what faces do, from the last "
                "stage {}; with random weights {} and {}, less than from the pixels ({}). The lead "
                "of stage 3 is {} larger in the trained network; on stage 5's grid, {}."
            ),
            lambda: [
                *(percent(explained(layer, "expression")) for layer in MIDDLE_AND_LAST),
                *(percent(explained(layer, "expression", TWIN)) for layer in MIDDLE_AND_LAST),
                percent(explained("pixels", "expression")),
                interval(row("layers/contrasts", **CONTRAST), "value"),
                interval(row("layers/contrasts", **CONTRAST | ONE_GRID), "value"),
            ],
        ),
        (
            (
                "A linear head on it beats one on stage 5 by {}; shrunk to stage 5's grid, where it "
                "has half as many numbers, by {}. Both stages together gain {} over stage 3."
            ),
            lambda: [
                linear("stage3"),
                linear("stage3", "heads, one grid"),
                linear("stage3 + stage5", than="best"),
            ],
        ),
        (
            (
                "our fusion-CNN errs less if fed stage 4 twice than if fed stage 5 "
                "twice, by {} of the mean face's error; of this {} is beyond random weights. A plain "
                "head on stage 4 leads one on stage 5 by {}, of this {} beyond them."
            ),
            lambda: [
                each
                for one, other in (("middle twice", "control"), ("middle", "last"))
                for each in (gain(one, other), beyond_twin(f"{one} - {other}"))
            ],
        ),
        (
            "explain more of expressions: {} against {}.",
            lambda: [
                percent(explained("descriptor", target)) for target in ("expression", "identity")
            ],
        ),
        (
            (
                "The fusion-CNN on stages 4 and 5 errs less than if fed stage 5 twice, by {}, and "
                "less than a plain head on stage 5, by {}; of these {} and {} are beyond random "
                "weights. It does not measurably beat itself fed stage 4 twice: {}. A plain head on "
                "stage 4 is better by {}. With the trunk trained, too, fusing leads its control by {},"
            ),
            lambda: [
                *(gain("fusion", other) for other in ("control", "last")),
                *(beyond_twin(f"fusion - {other}") for other in ("control", "last")),
                gain("fusion", "middle twice"),
                worse("fusion", "middle"),
                less(trained("fusion", "control", "tuned")),
            ],
        ),
        (
            "in shape and expression together by {}.",
            lambda: [mm("eos, landmarks detected", "shipped")],
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
            "On these the shipped network leaves {}, {} and {}.",
            lambda: [on_300(kind) for kind in ("neutral", "expression", "expressive")],
        ),
        (
            (
                "A fit to the same noisy landmarks that starts from the network's answer ends at {} of "
                "the mean face's error. From the mean face it ends at {}, and eos at {}."
            ),
            lambda: [error(method, "expressive") for method in REFINED],
        ),
        (
            (
                "it leaves {} of the mean face's error under another light, where it leaves {} in "
                "its own world, {} with a bad camera, {} on a grey bust, and {} with all three at "
                "once."
            ),
            lambda: [
                elsewhere(name)
                for name in ("light", "as in training", "camera", "clay", "all three")
            ],
        ),
        (
            "it errs by {} more than the look itself.",
            lambda: [mm("eos, our landmarks", "shipped")],
        ),
        (
            (
                "eos errs by {} more than one look, our Levenberg-Marquardt by {} more. On 300 real "
                "photos this detector finds the landmarks a little better than one look of the "
                "network ({} against {},"
            ),
            lambda: [
                *(mm(f"{fit}, landmarks detected", "shipped") for fit in ("eos", "refined")),
                *(
                    f"{by_hand('looks', name)[-1]:.2f} %"
                    for name in ("a detector of landmarks alone, one plain look", "one plain look")
                ),
            ],
        ),
        (
            (
                "behind it in every world: {}, where it leaves {} in the world of training, {}, {} "
                "and {}."
            ),
            lambda: [
                elsewhere(name, "eos, landmarks detected")
                for name in ("light", "as in training", "camera", "clay", "all three")
            ],
        ),
        (
            "eos errs by {} more than *fusion, short training*, and ends near the mean face.",
            lambda: [mm("eos, landmarks detected (short)", "fusion (short)")],
        ),
        (
            "eos then errs by {} less.",
            lambda: [mm("eos, 2 px noise", "shipped", partial(less, digits=2))],
        ),
        (
            "four looks err by {} more than *fusion, short training*.",
            lambda: [mm("iterative, 4 looks (short)", "fusion (short)")],
        ),
        (
            ("one look beside a rendering errs by {} more than one without, four looks by {}."),
            lambda: [longer(f"iterative, {looks}") for looks in ("1 look", "4 looks")],
        ),
        (
            (
                "it names people no better than chance ({} of 400 people), and explains {} of "
                "their shape."
            ),
            lambda: [
                percent(recogniser("top1"), 1),
                interval(
                    pd.Series(recogniser("neutral shape")), "value", partial(percent, digits=1)
                ),
            ],
        ),
        (
            "is ahead in expressions after 400 steps, by {} of the mean face's error",
            lambda: [less(started("expression", "seeds"))],
        ),
        (
            "it errs by {} more in the shape and {} more in expressions",
            lambda: [
                interval(started(error, "people"), "value") for error in ("neutral", "expression")
            ],
        ),
        (
            (
                "{} of the units of the identity head's last hidden layer still answer any picture "
                "after 400 steps; with it {} do. The error in the shape is then {} and {} of the "
                "mean face's."
            ),
            lambda: [
                write(training()["short"][name][column])
                for column, write in (("identity fc2", percent), ("neutral", "{:.3f}".format))
                for name in ("heads without BatchNorm", "from scratch")
            ],
        ),
    ],
    CARD: [
        (
            "4.3 % on the real photos below. It reaches {}, {} and {}, and {}.",
            lambda: [
                *(error("shipped", kind) for kind in ("neutral", "expression", "expressive")),
                f"{by_hand('looks', 'and other looks, upright and moved')[-1]:.2f} %",
            ],
        ),
        (
            "of the mean face's error {} is left by one picture and {} by the mean of eight",
            lambda: [of_averages(pictures) for pictures in ("1", "8")],
        ),
        (
            (
                "{} of the mean face's error is left in the expressive shape, with medium skin {}, "
                "with dark skin {}."
            ),
            lambda: [
                interval(row("benchmark_groups", group=f"{skin} skin", error="expressive"), "ratio")
                for skin in ("light", "medium", "dark")
            ],
        ),
        (
            (
                "dimmed to 25 % of their brightness are called doubtful in {} of cases, though {} "
                "have landmarks off by less than 5 % (undimmed: {} and {})."
            ),
            lambda: [
                percent(by_hand("score_on_synthetic", "dimmed", light, what))
                for light in ("0.25", "1.0")
                for what in ("doubtful", "good")
            ],
        ),
        (
            "lies {} mm from the mean face (root mean square)",
            lambda: [f"{by_hand('bias_mm'):.2f}"],
        ),
        (
            (
                "the rank correlation of score and landmarks' error is {}; {} whole faces are "
                "doubtful. Where the second probability is above 0.9, {} of landmarks are that "
                "good; between 0.7 and 0.9, {}."
            ),
            lambda: [
                f"{by_hand('score_on_synthetic', 'rank_correlation'):.2f}",
                by_hand("score_on_synthetic", "doubtful_whole"),
                *(percent(by_hand("score_on_synthetic", f"good_above_0{n}")) for n in (9, 7)),
            ],
        ),
        (
            (
                "{} have a face, {} of them are doubtful ({} beyond 60 degrees of yaw, {} below "
                "30). Of the doubtful ones {} are off by more than 5 % in the 51 inner landmarks, "
                "of the others {}; of the 100 surest {} is. The rank correlation of score and error "
                "is {}."
            ),
            lambda: [
                *(on_photos(name) for name in ("with_a_face", "doubtful")),
                *(percent(on_photos(f"doubtful_{name}")) for name in ("beyond_60", "below_30")),
                *(percent(on_photos(f"{name}_are_off")) for name in ("doubtful", "others")),
                on_photos("surest_100_off"),
                f"{on_photos('rank_correlation'):.2f}",
            ],
        ),
        (
            "the area under the curve is {}; {} of those are doubtful.",
            lambda: [f"{on_photos('area'):.2f}", percent(on_photos("impostors_doubtful"))],
        ),
        (
            "moves the score of real faces by {} in the mean, one 8 % off by {}.",
            lambda: [f"{by_hand('box_resized', name):.2f}" for name in ("by_4", "by_8")],
        ),
        (
            (
                "each doubling of the pictures took about {} off the expressive error (a line through "
                "all points from 0.4 million pictures on). Where the rate fell, half as many pictures again took {}."
            ),
            lambda: [f"{gained:.3f}" for gained in gains()],
        ),
        (
            "after 0.67 million pictures it left {}, version 0.7.0's recipe on the same faces {}.",
            lambda: [f"{curve(name).iloc[-1]:.3f}" for name in ("scratch", "before")],
        ),
        (
            "the rank correlation of predicted and found errors is {} for landmarks",
            lambda: [agreement("landmark_error_percent, all faces")],
        ),
    ],
}


def by_hand(*names):
    """A number of tests/photo/card.json."""
    found = json.loads((ROOT / "tests" / "photo" / "card.json").read_text())
    for name in names:
        found = found[name]
    return found


def on_photos(name):
    return by_hand("score_on_photos", name)


def of_averages(pictures):
    found = json.loads((METRICS / "benchmark.json").read_text())["neutral_ratio_of_averages"]
    return f"{found['shipped'][pictures]:.3f}"


def curve(recipe):
    """The expressive error of a recipe against its pictures, as far as "scratch" went."""
    rows = pd.read_csv(METRICS / "long_training.csv").set_index(["recipe", "images"])
    known = rows.expressive_ratio[recipe]
    return known.loc[: rows.expressive_ratio["scratch"].index[-1]]


def gains():
    """What a doubling took off the expressive error at a constant rate, and what its fall took."""
    rows = pd.read_csv(METRICS / "long_training.csv")
    of = lambda recipe: rows[rows.recipe == recipe]
    ours, last = of("ours"), of("ours-cooldown").expressive_ratio.iloc[-1]
    steady = ours[ours.images > 400_000]  # before, the pictures were new to it
    slope = np.polyfit(np.log2(steady.images), steady.expressive_ratio, 1)[0]
    return -slope, ours.expressive_ratio.iloc[-1] - last


def looks():
    """The lines of the card's table of real photos."""
    named = {name: [f"{x:.2f}" for x in found] for name, found in by_hand("looks").items()}
    lines = [f"| {name} | {' | '.join(found)} |\n" for name, found in named.items()]
    return ["| | 0-30 degrees | 30-60 | above 60 | mean |\n", "|---|---|---|---|---|\n", *lines]


def long():
    """The lines of the card's learning curve."""
    rows = pd.read_csv(METRICS / "long_training.csv")
    lines, before = [], 0
    for recipe, rate in (("ours", "constant"), ("ours-cooldown", "falling")):
        own = rows[rows.recipe == recipe]
        shown = [
            own[own.images >= share * own.images.max()].iloc[0] for share in (0.125, 0.25, 0.5, 1)
        ]
        for one in shown:
            ratios = one[["neutral_ratio", "expression_ratio", "expressive_ratio"]]
            cells = [f"{(before + one.images) / 1e6:.1f}", rate, *(f"{x:.3f}" for x in ratios)]
            lines.append(f"| {' | '.join(cells)} |\n")
        before = own.images.max()
    head = "| million pictures | rate | neutral shape | expression offset | expressive shape |\n"
    return [head, "|---|---|---|---|---|\n", *lines]


def minutes():
    """The lines of the table of how long stages took."""
    took = pd.read_csv(METRICS / "speed.csv").query("part == 'make reproduce'")
    rows = [*took[["name", "median"]].itertuples(index=False), ("in all", took["median"].sum())]
    return ["| stage | minutes |\n", "|---|---|\n"] + [f"| {x} | {y:.1f} |\n" for x, y in rows]


def table(document, name):
    """A table of reports/metrics between the marks that a document holds it by."""
    makers = dict(minutes=minutes, looks=looks, long=long)
    if name in makers:
        lines = makers[name]()
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
