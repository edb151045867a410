import base64
import io

import matplotlib.colors
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from e2far import plots
from e2far.analysis import figures
from e2far.benchmark.figures import cumulative_errors, error_curves, growth, throughput, time_bars
from e2far.facemodels import anthropometry
from e2far.facemodels.figures import face_measures
from e2far.morphable import toy_model


@pytest.fixture(scope="module")
def toy():
    return toy_model(dtype=torch.float32)


def labelled(figure):
    """Every axis that shows data says what it shows."""
    return all(
        axis.get_xlabel() and axis.get_ylabel()
        for axis in figure.axes
        if axis.axison and (axis.lines or axis.patches)
    )


def test_every_method_has_a_colour_of_its_own():
    for methods in (
        ("mean face", "shared head", "two heads", "control", "fusion", "shipped", "oracle"),
        ("eos, true landmarks", "eos, 2 px noise"),
        ("identity", "expression", "pose"),
    ):
        colours = [matplotlib.colors.to_rgb(plots.COLOURS[m]) for m in methods]
        assert len(set(colours)) == len(methods)


def test_a_saved_figure_repeats_to_the_byte(tmp_path):
    for name in ("one", "two"):
        figure, axis = plt.subplots()
        axis.plot([1, 2, 4])
        assert plots.save(figure, tmp_path / "made" / f"{name}.png") is figure
    assert (tmp_path / "made/one.png").read_bytes() == (tmp_path / "made/two.png").read_bytes()
    assert "Software" not in Image.open(tmp_path / "made/one.png").info


def test_faces_are_drawn_by_one_camera(toy):
    shapes = toy.neutral(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
    pictures = plots.face_images(shapes, toy, size=60)
    assert pictures.shape == (3, 60, 60, 3) and pictures.dtype == np.uint8
    assert (pictures[:, 0, 0] == 255).all() and (
        pictures[:, 30, 30] < 250
    ).all()  # white behind, a face in the middle
    np.testing.assert_array_equal(plots.face_images(shapes[1:2], toy, size=60)[0], pictures[1])
    larger = (plots.face_images(1.2 * shapes[:1], toy, size=60)[0] < 255).any(-1).sum()
    assert larger > 1.3 * (pictures[0] < 255).any(-1).sum()  # a larger face is drawn larger


def test_a_turned_face_moves_its_nose_to_the_right_of_the_picture(toy):
    nose = (toy.mean - toy.mean[toy.mean[:, 2].argmax()]).norm(dim=1) < 12
    colours = np.where(nose.numpy()[:, None], [1.0, 0, 0], [0, 0, 1.0])[None]

    def column(yaw):
        picture = plots.face_images(toy.mean[None], toy, size=80, yaw_deg=yaw, albedo=colours)[
            0
        ].astype(int)
        red = picture[..., 0] > picture[..., 2] + 30
        return np.nonzero(red)[1].mean()

    assert column(-30) < column(0) < column(30)


def test_pictures_of_both_layouts_go_into_a_grid():
    figure = plots.image_grid(torch.rand(5, 3, 8, 8), columns=3, titles=list("abcde"), title="five")
    assert len(figure.axes) == 6 and [axis.get_title() for axis in figure.axes] == [*"abcde", ""]
    assert figure.axes[0].images[0].get_array().shape == (8, 8, 3)
    same = plots.image_grid(np.zeros((2, 8, 8, 3), np.uint8), columns=2)
    assert len(same.axes) == 2


def test_the_interactive_mesh_has_a_button_a_shape(toy):
    figure = plots.mesh_view(
        {"neutral": toy.mean.numpy(), "smile": toy.mean.numpy() + 1}, toy.triangles.numpy()
    )
    assert [trace.visible for trace in figure.data] == [True, False] and len(
        figure.layout.updatemenus[0].buttons
    ) == 2
    assert len(figure.data[0].x) == toy.n_vertices and len(figure.data[0].i) == len(toy.triangles)
    assert (
        figure.layout.scene.camera.projection.type != "orthographic"
    )  # plotly lights the back then, and the face is black


def test_training_curves_show_what_the_logs_hold():
    log = pd.DataFrame(
        dict(
            images=[10, 20, 30],
            loss=[3.0, 2, 1],
            neutral_mm=[np.nan, 4.0, 3.5],
            neutral_mean_face_mm=[np.nan, 4.2, 4.2],
        )
    )
    figure = plots.training_curves({"fusion, seed 0": log, "control": log[["images", "loss"]]})
    shown = [axis for axis in figure.axes if axis.axison]
    assert [axis.get_ylabel() for axis in shown] == ["loss", "neutral shape (mm)"] and labelled(
        figure
    )
    assert [len(axis.lines) for axis in shown] == [
        2,
        2,
    ]  # two methods; one method and the mean face
    assert (
        shown[0].lines[0].get_color() == plots.COLOURS["fusion"]
        and shown[0].lines[1].get_color() == plots.COLOURS["control"]
    )
    plots.training_curves({})  # before the first step


def test_cumulative_curves_reach_their_shares():
    figure = cumulative_errors(
        {"fusion": np.array([1.0, 2, 3, 4]), "mean face": np.array([9.0, 9.0])}, 8, "errors"
    )
    x, y = figure.axes[0].lines[0].get_data()
    assert (
        labelled(figure)
        and (np.diff(y) >= 0).all()
        and y[np.searchsorted(x, 2.5)] == 50
        and y[-1] == 100
    )
    assert figure.axes[0].lines[1].get_ydata()[-1] == 0


def depth_table(trunks=("looks fixed", "random")):
    return pd.DataFrame(
        [
            (target, trunk, f"pool{i}", i / 10, i / 10 - 0.05, i / 10 + 0.05)
            for target in ("identity", "expression", "pose")
            for trunk in trunks
            for i in range(1, 6)
        ],
        columns=["target", "trunk", "layer", "value", "low", "high"],
    )


def test_depth_is_drawn_in_the_order_of_the_layers():
    figure = figures.depth_panels(depth_table(), "explained variance", columns=2)
    assert [axis.get_title() for axis in figure.axes] == [
        "identity",
        "expression",
        "pose",
        "",
    ] and figure.axes[0].get_ylabel() == "explained variance"
    assert [text.get_text() for text in figure.axes[1].get_xticklabels()] == [
        f"pool{i}" for i in range(1, 6)
    ]
    np.testing.assert_allclose(figure.axes[0].lines[0].get_ydata(), [0.1, 0.2, 0.3, 0.4, 0.5])
    fixed, random = figure.axes[0].lines[:2]
    assert (fixed.get_linestyle(), fixed.get_marker()) != (
        random.get_linestyle(),
        random.get_marker(),
    )  # readable without colour
    assert (
        len(figures.depth_panels(depth_table("abcdefg"), "").axes[0].lines) == 8
    )  # seven trunks and zero


def test_depth_can_be_explored():
    figure = figures.depth_view(depth_table(), "explained variance")
    assert [trace.name for trace in figure.data if trace.visible] == [
        "looks fixed",
        "random",
    ] and len(figure.data) == 6
    button = figure.layout.updatemenus[0].buttons[2]
    assert button.label == "pose" and [
        trace.meta for trace, shown in zip(figure.data, button.args[0]["visible"]) if shown
    ] == ["pose", "pose"]
    assert list(figure.data[0].error_y.array) == pytest.approx([0.05] * 5)


def test_heat_maps_share_one_scale():
    tables = {
        name: pd.DataFrame([[0.0, scale], [0.5, 1.0]], ["blink", "jaw"], ["pool1", "pool5"])
        for name, scale in (("a", 0.2), ("b", 3.0))
    }
    figure = figures.heat_maps(tables, "explained variance")
    images = [axis.images[0] for axis in figure.axes[:2]]
    assert {image.get_clim() for image in images} == {(0.0, 3.0)} and images[0].get_array()[
        0, 1
    ] == pytest.approx(0.2)
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == [
        "blink",
        "jaw",
    ] and figure.axes[-1].get_ylabel() == "explained variance"


def test_a_gallery_shows_one_picture_at_a_time():
    pictures = {
        name: np.full((8, 12, 3), grey, np.uint8) for name, grey in (("pool1", 0), ("pool5", 255))
    }
    figure = figures.layer_gallery(pictures)
    assert [trace.visible for trace in figure.data] == [True, False] and [
        step.label for step in figure.layout.sliders[0].steps
    ] == ["pool1", "pool5"]
    assert figure.layout.sliders[0].steps[1].args[0]["visible"] == [False, True]
    assert (
        np.asarray(
            Image.open(io.BytesIO(base64.b64decode(figure.data[1].source.split(",")[1])))
        ).mean()
        == 255
    )


def test_each_row_of_places_has_its_own_scale():
    maps = {
        row: {
            layer: scale * torch.ones(4, 4) for layer, scale in (("pool4", one), ("pool5", other))
        }
        for row, one, other in (("identity", 1, 2), ("expression", 6, 5))
    }
    figure = figures.place_maps(torch.rand(3, 16, 16), maps, patch=4, stride=4)
    limits = [axis.images[1].get_clim() for axis in figure.axes if len(axis.images) == 2]
    assert limits == [(0, 2), (0, 2), (0, 6), (0, 6)]
    assert [axis.get_title() for axis in figure.axes if len(axis.images) == 2] == [
        "pool4",
        "pool5",
        "",
        "",
    ]


def test_errors_on_faces_share_one_scale(toy):
    errors = torch.rand(2, toy.n_vertices) * torch.tensor([[1.0], [3.0]])
    figure = plots.value_maps(toy.mean.expand(2, -1, -1), errors, toy, ["a", "b"])
    assert [axis.get_title() for axis in figure.axes[:2]] == ["a", "b"] and len(
        figure.axes
    ) == 3  # the third is the colour bar


def test_times_are_bars_with_their_spread():
    table = pd.DataFrame(dict(name=["a", "b"], median=[2.0, 5.0], low=[1.5, 4.0], high=[3.0, 7.0]))
    figure = time_bars(table, "ms a picture", "one picture")
    assert labelled(figure) and [bar.get_width() for bar in figure.axes[0].patches] == [2, 5]
    assert [text.get_text() for text in figure.axes[0].get_yticklabels()] == ["a", "b"]


def test_growth_in_proportion_lies_on_its_dashed_line():
    table = pd.DataFrame(
        [
            dict(stage=stage, pictures=n, seconds=n * rate, more_gb=0.0)
            for stage, rate in (("synthesis", 0.01), ("training", 0.002))
            for n in (1000, 4000, 16000)
        ]
    )
    figure = growth(table)
    time, memory = figure.axes
    for marks, dashes in (time.lines[:2], time.lines[2:]):
        assert np.allclose(marks.get_ydata(), dashes.get_ydata())
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "synthesis",
        "training",
    ] and [tick.get_text() for tick in memory.get_xticklabels()] == ["1,000", "4,000", "16,000"]


def test_throughput_has_a_line_for_each_work_and_number_of_threads():
    table = pd.DataFrame(
        [
            (w, t, b, b * t, b * t - 0.5, b * t + 0.5)
            for w in ("forward", "training")
            for t in (1, 2)
            for b in (1, 16)
        ],
        columns=["work", "threads", "batch_size", "median", "low", "high"],
    )
    figure = throughput(table, "pictures")
    axis = figure.axes[0]
    assert axis.get_xlabel() and axis.get_ylabel() and len(axis.containers) == 4
    np.testing.assert_allclose(axis.containers[1].lines[0].get_xydata(), [(1, 2), (16, 32)])


def test_seeds_are_points_beside_their_mean():
    table = pd.DataFrame(
        [
            ("small", v, e, r)
            for v in ("control", "fusion")
            for e in ("light", "full")
            for r in (0.8, 0.9, 1.0)
        ],
        columns=["trunk", "variant", "regime", "ratio"],
    )
    means = (
        table.groupby(["trunk", "variant", "regime"], sort=False)["ratio"]
        .agg(mean="mean", low="min", high="max")
        .reset_index()
    )
    figure = figures.seed_points(table, means)
    assert [axis.get_title() for axis in figure.axes] == [
        "light, small",
        "full, small",
    ] and figure.axes[0].get_ylabel()
    points = [line for line in figure.axes[0].lines if len(line.get_xdata()) == 3]
    assert len(points) == 2 and points[1].get_color() == plots.COLOURS["fusion"]
    untried = figures.seed_points(
        table[(table.variant == "control") | (table.regime == "light")], means
    )
    assert [sum(len(line.get_xdata()) == 3 for line in axis.lines) for axis in untried.axes] == [
        2,
        1,
    ]


def test_occlusion_maps_share_one_scale():
    maps = {"identity": torch.rand(2, 4, 4), "expression": 3 * torch.rand(2, 4, 4)}
    figure = figures.occlusion_maps(torch.rand(2, 3, 16, 16), maps, patch=4, stride=4)
    shown = [image for axis in figure.axes[2:6] for image in axis.images]
    assert len(shown) == 4 and len({image.get_clim() for image in shown}) == 1


def test_face_measures_stand_beside_the_survey():
    """Each mark is where its mean is, as a difference from the survey's; the dashed line is the geometric mean."""
    names = list(anthropometry.NORMS)
    found = {
        name: anthropometry.population(name)[0] + torch.tensor([1.0, 2.0, 3.0]) for name in names
    }
    spread = pd.DataFrame(
        [
            (sd, name, sd * factor)
            for sd in (0.1, 0.2)
            for name, factor in (("face height", 2.0), ("nasal index", 8.0))
        ],
        columns=["local_sd", "measure", "spread_ratio"],
    )
    figure = face_measures(found, spread, 0.2)
    left, right = figure.axes
    assert labelled(figure) and len(left.get_yticks()) == len(names) - len(anthropometry.INDICES)
    marks = [
        bar.lines[0].get_xydata()[0] for bar in left.containers[:3]
    ]  # ours, women, men of the first measure
    women, men = (anthropometry.NORMS[names[0]][sex][0] for sex in ("female", "male"))
    np.testing.assert_allclose(
        [x for x, _ in marks], [2, (women - men) / 2, (men - women) / 2], atol=1e-5
    )
    dashed = next(line for line in right.lines if line.get_linestyle() == "--")
    np.testing.assert_allclose(dashed.get_xydata(), [(0.1, 0.4), (0.2, 0.8)])


def test_png_holds_the_picture():
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(plots.png(picture)))), picture)


def test_value_maps_wrap_into_rows(face_model):
    figure = plots.value_maps(
        face_model.mean[None].repeat(5, 1, 1),
        np.zeros((5, face_model.n_vertices)),
        face_model,
        list("abcde"),
        columns=3,
        inch=0.32,
    )
    shown = [axis for axis in figure.axes if axis.images]
    assert len(shown) == 5 and [axis.get_title() for axis in shown] == list("abcde")


def test_curves_have_an_axis_that_fits_and_a_single_answer_is_a_point():
    table = pd.DataFrame(
        dict(
            method=["goes on"] * 3 + ["looks once"],
            iteration=[0, 1, 50, 1],
            ratio=[1.0, 0.8, 0.7, 0.6],
            low=[1.0, 0.7, 0.6, 0.5],
            high=[1.0, 0.9, 0.8, 0.7],
        )
    )
    axis = error_curves(table, "iteration", "iterations").axes[0]
    many, once = (container.lines[0] for container in axis.containers)
    assert (
        axis.get_xscale() == "log"
        and list(many.get_xdata()) == [1, 50]
        and list(once.get_ydata()) == [0.6]
        and once.get_linestyle() == "None"
    )
    few = error_curves(table[table.iteration < 2], "iteration", "iterations").axes[0]
    assert few.get_xscale() == "linear" and list(few.containers[0].lines[0].get_xdata()) == [0, 1]


def test_what_has_no_value_is_grey(toy):
    values = torch.zeros(1, toy.n_vertices)
    values[0, ::2] = torch.nan
    blank, half = (
        plots.value_maps(toy.mean[None], given, toy, ["map"], limit=1.0)
        .axes[0]
        .images[0]
        .get_array()
        for given in (values.nan_to_num(), values)
    )
    assert (np.ptp(np.asarray(half, int), axis=-1) == 0).sum() > (
        np.ptp(np.asarray(blank, int), axis=-1) == 0
    ).sum()
