"""Pairs of heads: what the tables say is gathered, judged by the right side of zero, and told."""

import numpy as np
import pandas as pd
import pytest

from e2far.analysis import comparisons, head_figures
from e2far.analysis.layers import Scores, compare_heads
from e2far.analysis.subjects import RECOGNISER, TWIN


@pytest.fixture
def trained():
    questions = ["does an earlier layer help? middle - control", "worth: fusion - fusion, one grid"]
    numbers = dict(difference=[-0.03, 0.01], low=[-0.04, -0.01], high=[-0.02, 0.03])
    numbers |= dict(lowest_seed=[-0.035, 0.0], highest_seed=[-0.025, 0.02])
    names = dict(trunk=[RECOGNISER, TWIN], phase="frozen", error="expression", question=questions)
    return comparisons.trained_pairs(pd.DataFrame(names | numbers))


def test_a_question_ends_in_its_pair(trained):
    assert trained.one.tolist() == ["middle", "fusion"]
    assert trained.other.tolist() == ["control", "fusion, one grid"]


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
        {"4 less 5": 0.3, "4 + 5 less 5": 0.4, "4 + 5 less 4": 0.1, "128 numbers less 5": -0.1}
    )
    assert pairs.verdict.tolist() == ["better"] * 3 + ["worse"]
    assert comparisons.strongest(pairs).one.tolist() == ["stage4 + stage5"]


def test_verdicts_are_told_with_their_numbers(trained):
    better, undecided = comparisons.told(trained).split("\n")
    assert better == f"- **Better**: *{RECOGNISER}*, middle less control: -0.030 [-0.040, -0.020]."
    assert undecided.startswith(f"- **Undecided**: *{TWIN}*, fusion less fusion, one grid")


def test_a_trunk_has_one_place_in_all_panels(trained):
    sides = dict(one=(trained, "error", -1), other=(trained[1:], "error", -1))
    left, right = head_figures.differences(sides).axes
    height = {text.get_text(): text.get_position()[1] for text in left.get_yticklabels()}
    for text in right.get_yticklabels():
        assert text.get_position()[1] == height[text.get_text()]
    low, high = left.get_xlim()
    assert low < -0.04 and high > 0.03  # nothing is cut
    assert "← better" in left.get_xlabel()
