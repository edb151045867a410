"""The tables of notebook 5 on errors that are known."""

from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from e2far.benchmark import report, subgroups, tables, words

RNG = np.random.default_rng(0)
PEOPLE = np.repeat(np.arange(40), 2)


def errors(share, people=PEOPLE, noise=0.0):
    """Errors of a method that leaves `share` of the mean face's in each picture."""
    theirs = np.random.default_rng(1).uniform(3, 6, len(people))
    mine = share * theirs + noise * RNG.normal(size=len(people))
    found = {f"{kind}_mean_face_mm": theirs for kind in tables.KINDS}
    return found | {f"{kind}_mm": mine for kind in tables.KINDS} | dict(person=people)


@pytest.fixture
def race():
    """Two networks that see all pictures, one trained twice, and a rival that sees every second."""
    some = torch.arange(0, len(PEOPLE), 2)
    every, few = errors(0.8), {name: values[::2] for name, values in errors(0.5).items()}
    found = {"mean face": [errors(1.0)], "fusion": [every], "eos, 2 px noise": [few]}
    found["fusion (short)"] = [errors(0.7), errors(0.9)]
    test = SimpleNamespace(person=torch.from_numpy(PEOPLE))
    return SimpleNamespace(errors=found, fitted=some, test=test)


def test_ratios_are_those_of_the_errors_and_seeds_span_their_range(race):
    table = tables.errors_of_all(race, 50).query("error == 'neutral'").set_index("method")
    assert list(table.index) == list(race.errors)
    expected = dict(zip(race.errors, (1, 0.8, 0.5, 0.8)))
    for method, row in table.iterrows():
        found = row[["ratio", "ratio_low", "ratio_high"]].astype(float)
        np.testing.assert_allclose(found, expected[method])
    assert (table.pictures == [80, 80, 40, 80]).all()
    np.testing.assert_allclose(table.loc["fusion (short)", ["seeds_low", "seeds_high"]], [0.7, 0.9])


def test_pairs_are_decided_on_the_pictures_that_both_see(race):
    race.errors["alike"] = [errors(0.8, noise=0.5)]
    every = tables.paired(race, "fusion", 500)
    assert list(every.error.unique()) == list(tables.KINDS)
    assert every.method.iloc[-1] == "eos, 2 px noise" and every.handed.sum() == 3
    pairs = every[every.error == "neutral"].set_index("method")
    assert pairs.loc["mean face", "decided"] == "worse"
    assert pairs.loc["eos, 2 px noise", "decided"] == "better"
    theirs = race.errors["fusion"][0]["neutral_mean_face_mm"][::2]
    np.testing.assert_allclose(pairs.loc["eos, 2 px noise", "mm"], -0.3 * theirs.mean())
    assert pairs.loc["alike", "decided"] == "no" and "fusion" not in pairs.index
    told = words.listed(pairs.reset_index())
    assert told.splitlines()[2] == "- Worse: *mean face*."


def test_landmarks_are_as_far_off_as_they_were_moved(race):
    true = torch.zeros(80, 68, 2)
    true[:, 0], race.test.image_size = 50.0, 112
    moved = true[race.fitted] + torch.tensor([3.0, 4.0])
    race.test.landmarks, race.landmarks = true, {"2 px noise": moved}
    row = tables.landmarks(race, tables.errors_of_all(race, 50)).loc["2 px noise"]
    row = row.astype(float)
    np.testing.assert_allclose(row[["px of 224", "% of the face", "eos leaves"]], [10, 10, 0.5])
    assert np.isnan(row["refined leaves"])


def test_a_person_is_in_one_group_of_each_kind():
    looks = dict(covered=False, shell=1.0, style=dict(fringe=0.2), glasses=True, lens_dark=False)
    looks |= dict(tone=0.99, beard=np.zeros(3))
    expected = ["dark skin", "no beard", "clear glasses", "hair over the forehead"]
    assert list(subgroups.groups_of(looks).values()) == expected
    other = looks | dict(covered=True, lens_dark=True, tone=0.0, beard=np.eye(3)[0])
    expected = ["light skin", "beard", "dark glasses", "cap or scarf"]
    assert list(subgroups.groups_of(other).values()) == expected


def test_groups_without_people_have_no_row():
    beards = np.where(np.arange(80) < 20, "beard", "no beard")
    groups = pd.DataFrame(dict(all="all pictures", beard=beards))
    both = errors(0.8)
    both["neutral_mm"] = np.where(beards == "beard", 1.0, 0.5) * both["neutral_mean_face_mm"]
    table = subgroups.group_table(groups, both, 50).query("error == 'neutral'").set_index("group")
    assert list(table.index) == ["all pictures", "no beard", "beard"]
    np.testing.assert_allclose(table.ratio[["beard", "no beard"]], [1, 0.5])
    assert list(table.people[["beard", "no beard"]]) == [10, 30]
    printed = report.groups_md(table.reset_index().assign(error="neutral"))
    assert "| beard | 10 | 20 | 1.000 [1.000, 1.000] of" in printed


def test_the_printed_table_names_methods_and_leaves_out_what_did_not_run(race):
    table = tables.errors_of_all(race, 50)
    lines = report.benchmark_md(table, {"fusion": dict(median=1.049), "mean face": dict(median=2)})
    name = "the default run's network"
    rows = [line.strip("| ").split(" | ") for line in lines.splitlines()]
    assert rows[3] == [name, "80", *["0.800 [0.800, 0.800]"] * 3, "1.05 mm"]
    assert rows[2][0] == "mean face" and rows[2][-1] == "2.00 mm"
    assert len(rows) == 2 + len(race.errors) and "shipped" not in lines
