"""Pairs of heads: what the tables say is gathered, judged by the right side of zero, and told."""

import numpy as np
import pandas as pd
import pytest

from e2far.analysis import comparisons, head_figures
from e2far.analysis.layers import Scores, compare_heads
from e2far.analysis.subjects import END_TO_END, RECOGNISER, TWIN


@pytest.fixture
def trained():
    questions = ["does an earlier layer help? middle - control", "worth: fusion - coarse fusion"]
    numbers = dict(difference=[-0.03, 0.01], low=[-0.04, -0.01], high=[-0.02, 0.03])
    numbers |= dict(lowest_seed=[-0.035, 0.0], highest_seed=[-0.025, 0.02])
    names = dict(trunk=[RECOGNISER, TWIN], phase="frozen", error="expression", question=questions)
    designs = dict(
        design=["middle", "control", "fusion", "coarse fusion"], ratio=[0.8, 0.9, 1, 0.97]
    )
    about = dict(trunk=[RECOGNISER] * 2 + [TWIN] * 2, phase="frozen", error="expression")
    return comparisons.trained_pairs(pd.DataFrame(names | numbers), pd.DataFrame(about | designs))


def test_a_table_that_is_missing_empty_or_lacks_a_column_is_named(tmp_path):
    (tmp_path / "networks.csv").write_text("network,top1,more\na,0.5,1\n")
    (tmp_path / "heads.csv").write_text(",".join(comparisons.COLUMNS["heads"].split()) + "\n")
    (tmp_path / "pairs.csv").write_text("trunk,phase\na,b\n")
    (table,) = comparisons.read_tables(tmp_path, "networks")
    assert table.top1.tolist() == [0.5]
    faults = dict(heads="it has no rows", pairs="it has no column difference or error or high")
    for name, fault in faults.items():
        with pytest.raises(ValueError, match=f"{name}.csv: {fault}.*; .*git checkout reports"):
            comparisons.read_tables(tmp_path, "networks", name)
    with pytest.raises(FileNotFoundError, match="moved.csv.*git checkout reports"):
        comparisons.read_tables(tmp_path, "moved")


def test_a_question_ends_in_its_pair(trained):
    assert trained.one.tolist() == ["middle", "fusion"]
    assert trained.other.tolist() == ["control", "coarse fusion"]
    assert trained.explained.tolist() == pytest.approx([0.2, 0.03])


def test_less_error_is_better_and_more_variance_is(trained):
    assert trained.verdict.tolist() == ["better", "undecided"]
    assert comparisons.judge(trained, better=1).verdict.tolist() == ["worse", "undecided"]


def test_one_seed_on_the_other_side_leaves_it_undecided(trained):
    lucky = comparisons.judge(trained.assign(highest_seed=0.001), better=-1)
    assert lucky.verdict.tolist() == ["undecided", "undecided"]


def test_linear_heads_are_compared_with_the_last_and_the_best_layer():
    """Errors for S of 1: explained are .5, .2, .6 and .1. No head is compared with itself."""
    scores = Scores()
    errors = {"stage4": 0.5, "stage5": 0.8, "stage4 + stage5": 0.4, "descriptor": 0.9}
    for layer, error in errors.items():
        found = dict(expression=(np.full(6, error), np.ones(6)))
        scores.add("all poses", [0, 0, 1, 1, 2, 2], RECOGNISER, 0, "heads", layer, found)
    table = compare_heads(scores, scores.table({RECOGNISER: {}}, 20), 20)
    pairs = comparisons.linear_pairs(table).set_index("label")
    assert pairs.difference.to_dict() == pytest.approx(
        {
            "stage4 − stage5": 0.3,
            "(stage4 + stage5) − stage5": 0.4,
            "(stage4 + stage5) − stage4": 0.1,
            "the 128 numbers − stage5": -0.1,
        }
    )
    assert pairs.explained.tolist() == pytest.approx([0.5, 0.6, 0.6, 0.2])
    assert pairs.verdict.tolist() == ["better"] * 3 + ["worse"]
    assert comparisons.strongest(pairs).one.tolist() == ["stage4 + stage5"]


def test_verdicts_are_told_with_their_numbers(trained):
    better, undecided = comparisons.told(trained).split("\n")
    assert better == f"- **Better**: *{RECOGNISER}*, middle − control: -0.030 [-0.040, -0.020]."
    assert undecided.startswith(f"- **Undecided**: *{TWIN}*, fusion − coarse fusion: +0.010")


def test_seeds_that_stand_against_the_people_are_told(trained):
    lucky = comparisons.judge(trained.assign(highest_seed=0.001), better=-1)
    assert comparisons.told(lucky).count("(its seeds disagree)") == 1
    assert "-0.020] (its seeds disagree); " in comparisons.told(lucky)


def test_heads_that_know_nothing_are_not_ranked(trained):
    faint = comparisons.judge(trained.assign(explained=[0.009, 0.01]), better=-1)
    assert faint.verdict.tolist() == [comparisons.FAINT, "undecided"]
    assert comparisons.told(faint).endswith("[-0.040, -0.020].")
    assert "Both explain less than 1 %" in comparisons.told(faint)
    assert comparisons.FAINT in comparisons.how(faint.iloc[0])


@pytest.mark.parametrize(
    "low, better, word", [(0.01, 1, "more"), (0.01, -1, "less"), (-0.1, 1, "nei")]
)
def test_what_is_gained_beyond_the_twin_is_told(low, better, word):
    table = dict(target=["identity", "expression"], contrast="stage3 - stage5")
    table = pd.DataFrame(table | dict(value=[1, 0.04], low=low, high=0.06))
    told = comparisons.beyond_twin(table, "stage3 - stage5", better=better, target="expression")
    assert f"twin is +0.040 [{low:+.3f}, +0.060]" in told
    assert f"gains **{word}" in told


def test_a_trunk_has_one_place_in_all_panels(trained):
    sides = dict(one=(trained, "error", -1), other=(trained[1:], "error", -1))
    left, right = head_figures.differences(sides).axes
    height = {text.get_text(): text.get_position()[1] for text in left.get_yticklabels()}
    for text in right.get_yticklabels():
        assert text.get_position()[1] == height[text.get_text()]
    low, high = left.get_xlim()
    assert low < -0.04 and high > 0.03  # nothing is cut
    assert "← better" in left.get_xlabel()


def test_a_trunk_far_beyond_the_others_is_an_arrow_with_its_numbers(trained):
    far = trained.assign(trunk=[RECOGNISER, END_TO_END])
    far.loc[1, comparisons.INTERVAL] = 0.5, 0.4, 0.6
    (axis,) = head_figures.differences({"heads": (far, "error", -1)}).axes
    assert axis.get_xlim()[1] < 0.1
    assert [text.get_text() for text in axis.texts] == ["+0.500 [+0.400, +0.600]"]


def test_rows_of_levels_name_their_layers():
    layers = ["stage4", "pool4", "stage5", "descriptor", "stage4 + stage5", "pool4 + pool5"]
    table = pd.DataFrame(dict(layer=layers, target="identity", value=0.2, low=0.1, high=0.3))
    table["trunk"] = np.where(table.layer.str.contains("pool"), END_TO_END, RECOGNISER)
    (axis,) = head_figures.levels(table, "explained variance").axes
    names = [text.get_text() for text in axis.get_yticklabels()]
    assert names[:3] == ["stage4 / pool4", "stage5", "the 128 numbers"]
    assert names[3] == "stage4 + stage5 / pool4 + pool5"
