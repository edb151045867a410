"""Nothing here is tested by time: clocks are made by hand."""

from itertools import count
from types import SimpleNamespace

import pandas as pd
import pytest
import torch

from e2far.benchmark import speed, speed_figures, training_speed
from e2far.morphable import toy_model
from e2far.network import E2FAR

CONFIG = dict(n_identity=3, n_expression=2, image_size=48, width=1 / 16, batch_norm=True)


@pytest.fixture
def clock(monkeypatch):
    """A clock that goes on by one second whenever it is read."""
    ticks = count()
    monkeypatch.setattr(speed.time, "process_time", lambda: float(next(ticks)))


def test_rounds_leave_out_the_first_and_run_all_functions_in_turn(clock):
    calls = []
    found = speed.rounds({name: lambda name=name: calls.append(name) for name in "ab"}, 3)
    assert found == dict(a=[1.0] * 3, b=[1.0] * 3) and calls == list("abababab")
    made = speed.table("part", "s", dict(a=[3.0, 1.0, 2.0])).iloc[0]
    assert (made["median"], made.low, made.high, made.repeats) == (2, 1, 3, 3)


def test_time_in_a_part_inside_another_counts_once(clock):
    owner = SimpleNamespace(inner=lambda: None, idle=lambda: None)
    owner.outer = outer = lambda: (owner.inner(), owner.inner())
    parts = {name: (owner, name) for name in ("outer", "inner", "idle")}
    work = lambda: [owner.outer()]
    assert speed.watched(parts, work) == {"outer": 3, "inner": 2, "idle": 0, "the rest": 2}
    assert owner.outer is outer  # no stopwatch is left on it
    found = speed.parts_of("part", parts, work, repeats=2, count=10).set_index("name")["median"]
    assert found.to_dict() == {"outer": 300, "inner": 200, "the rest": 200, "total": 700}


def test_a_step_is_taken_apart_as_often_as_asked_and_moves_the_weights(tmp_path):
    torch.manual_seed(0)
    network, model = E2FAR(**CONFIG), toy_model(n_identity=3, n_expression=2)
    faces = training_speed.noise_faces(tmp_path, 8, network)
    before = network.identity_head[-1].bias.clone()
    settings = dict(
        batch_size=4, optimizer="adam", clip=1.0, expression_weight=1.0, pose_weight=1.0
    )
    learn = training_speed.training_loop(network, model, faces, 2, **settings)
    learn()
    found = training_speed.step_parts(learn, "adam", repeats=1, count=8)
    assert not torch.equal(network.identity_head[-1].bias, before)
    wanted = {
        "forward",
        "backward",
        "reading pictures",
        "clipping gradients",
        "moving the weights",
        "total",
    }
    assert wanted <= set(found["name"]) and (found.repeats == 1).all()


def test_memory_and_operations_are_counted_from_shapes():
    network = E2FAR(**CONFIG)
    small, large = (training_speed.by_count(CONFIG, n, "32-true") for n in (2, 4))
    assert small.parameters == sum(w.numel() for w in network.parameters())
    memory, more = small.memory_gb, large.memory_gb
    assert memory["weights"] * 2**30 == 4 * small.parameters == memory["gradients"] * 2**30
    assert more["kept for backward"] == pytest.approx(2 * memory["kept for backward"], rel=0.1)
    assert memory["in all"] == pytest.approx(sum(memory.values()) / 2)
    assert small.gflop == pytest.approx(large.gflop)
    half = training_speed.by_count(CONFIG, 4, "bf16-mixed")
    assert half.memory_gb["kept for backward"] < more["kept for backward"]


def test_each_method_gets_the_time_of_its_own_iterations(monkeypatch):
    rows = [("a", 0), ("a", 1), ("b", 5), ("b", 9)]
    iterations = pd.DataFrame(rows, columns=["method", "iteration"])
    monkeypatch.setattr(speed.iterative, "one_by_one", lambda one, n: (one(n), None))
    clocks = lambda name, counts: {
        "a": [lambda n: [[0.001, 0.002], [0.003, 0.004], [0.002, 0.006]]],
        "b": [lambda n, count=count: [[count]] for count in counts],
    }[name]
    assert speed.time_methods(iterations, clocks, 3).ms.tolist() == [2, 4, 5000, 9000]


def test_bars_stand_with_their_names_and_numbers_and_share_an_axis():
    table = speed.table("part", "ms", dict(long=[5.0, 6.0, 7.0], short=[0.25]))
    one, other = speed_figures.time_bars({"ours": table, "theirs": table[1:]}, "ms").axes
    assert [label.get_text() for label in one.get_yticklabels()] == ["long", "short"]
    assert [bar.get_width() for bar in one.patches] == [6, 0.25]
    assert [text.get_text() for text in one.texts] == ["6.00", "0.25"]
    assert other.get_xlim() == one.get_xlim() and other.get_title() == "theirs"


def test_a_method_that_looks_once_is_a_point_and_starts_from_the_mean_face_are_left_out():
    rows = [("refined from the mean face", i, 1 - i / 10, 0.5, 1, i + 1) for i in range(3)]
    rows += [("shipped", 1, 0.9, 0.8, 1, 2.0)]
    table = pd.DataFrame(rows, columns="method iteration ratio low high ms".split())
    axis = speed_figures.error_against_time(table).axes[0]
    found = {line.get_label(): len(line.get_xdata()) for line in axis.lines}
    assert found["shipped"] == 1 and found["refined from the mean face"] == 2
