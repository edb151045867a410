import io
from itertools import product

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.colors import to_rgb
from numpy.testing import assert_allclose, assert_array_equal
from PIL import Image

from e2far import plots
from e2far.analysis import figures
from e2far.benchmark.figures import cumulative_errors
from e2far.facemodels import anthropometry
from e2far.facemodels.figures import face_measures
from e2far.morphable import toy_model


@pytest.fixture(scope="module")
def toy():
    return toy_model(dtype=torch.float32)


def table(columns, rows):
    return pd.DataFrame(rows, columns=columns.split())


def labelled(figure):
    """Every axis that shows data says what it shows."""
    shown = [axis for axis in figure.axes if axis.axison and (axis.lines or axis.patches)]
    return all(axis.get_xlabel() and axis.get_ylabel() for axis in shown)


def titles(axes):
    return [axis.get_title() for axis in axes]


def texts(labels):
    return [label.get_text() for label in labels]


def opened(png):
    return np.asarray(Image.open(io.BytesIO(png)))


def test_methods_that_are_compared_have_colours_of_their_own():
    variants = ("mean face", "shared head", "two heads", "control", "fusion", "shipped", "oracle")
    for methods in (variants, ("identity", "expression", "pose")):
        assert len({to_rgb(plots.COLOURS[method]) for method in methods}) == len(methods)


def test_saved_pictures_repeat_to_the_byte(tmp_path):
    one, two = tmp_path / "made" / "one.png", tmp_path / "made" / "two.png"
    for path in (one, two):
        figure, axis = plt.subplots()
        axis.plot([1, 2, 4])
        assert plots.save(figure, path) is figure
    assert one.read_bytes() == two.read_bytes() and "Software" not in Image.open(one).info
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    assert_array_equal(opened(plots.png(picture)), picture)


# ---- faces ---------------------------------------------------------------------------------------


def test_faces_are_drawn_by_one_camera_and_turn_to_the_right_of_the_picture(toy):
    shapes = toy.neutral(torch.randn(3, 6, generator=torch.Generator().manual_seed(0)))
    pictures = plots.face_images(shapes, toy, size=60)
    assert pictures.shape == (3, 60, 60, 3) and pictures.dtype == np.uint8
    assert (pictures[:, 0, 0] == 255).all() and (pictures[:, 30, 30] < 250).all()  # on white
    assert_array_equal(plots.face_images(shapes[1:2], toy, size=60)[0], pictures[1])
    area = lambda pictures: (pictures[0] < 255).any(-1).sum()
    assert area(plots.face_images(1.2 * shapes, toy, size=60)) > 1.3 * area(pictures)

    nose = (toy.mean - toy.mean[toy.mean[:, 2].argmax()]).norm(dim=1) < 12
    colours = np.where(nose.numpy()[:, None], [1.0, 0, 0], [0, 0, 1.0])[None]

    def column(yaw):
        views = plots.face_images(toy.mean[None], toy, size=80, yaw_deg=yaw, albedo=colours)
        red, _, blue = np.moveaxis(views[0].astype(int), -1, 0)
        return np.nonzero(red > blue + 30)[1].mean()

    assert column(-30) < column(0) < column(30)


def test_only_margins_that_are_white_in_all_pictures_are_cut():
    pictures = np.full((2, 9, 9, 3), 255, np.uint8)
    pictures[0, 2, 3], pictures[1, 5, 6] = 0, 10
    assert_array_equal(plots.trim(pictures), pictures[:, 2:6, 3:7])


def test_errors_on_faces_share_one_scale_and_what_has_none_is_grey(toy):
    errors = torch.rand(5, toy.n_vertices)
    several = toy.mean.expand(5, -1, -1)
    figure = plots.value_maps(several, errors, toy, list("abcde"), columns=3, inch=0.32)
    *maps, scale = [axis for axis in figure.axes if axis.axison or axis.images]
    assert titles(maps) == list("abcde") and scale.get_ylabel() == "mm"
    assert scale.get_ylim() == pytest.approx((0, float(errors.max())))
    errors[0, ::2] = torch.nan

    def grey(values):
        figure = plots.value_maps(several[:1], values[:1], toy, ["map"], limit=1.0)
        return (np.ptp(np.asarray(figure.axes[0].images[0].get_array(), int), axis=-1) == 0).sum()

    assert grey(errors) > grey(errors.nan_to_num())


# ---- curves --------------------------------------------------------------------------------------


def test_training_curves_show_what_the_logs_hold():
    rows = (10, 3.0, np.nan, np.nan), (20, 2.0, 4.0, 4.2), (30, 1.0, 3.5, 4.2)
    log = table("images loss neutral_mm neutral_mean_face_mm", rows)
    figure = plots.training_curves({"fusion, seed 0": log, "control": log[["images", "loss"]]})
    loss, neutral = (axis for axis in figure.axes if axis.axison)
    assert (loss.get_ylabel(), neutral.get_ylabel()) == ("loss", "neutral shape (mm)")
    assert labelled(figure)
    colours = [line.get_color() for line in loss.lines]
    assert colours == [plots.COLOURS["fusion"], plots.COLOURS["control"]]
    assert len(neutral.lines) == 2  # one method and the mean face
    plots.training_curves({})  # before the first step


def test_cumulative_curves_reach_their_shares():
    errors = {"fusion": np.array([1.0, 2, 3, 4]), "mean face": np.array([9.0, 9.0])}
    figure = cumulative_errors(errors, 8, "errors")
    x, y = figure.axes[0].lines[0].get_data()
    assert labelled(figure) and (np.diff(y) >= 0).all()
    assert y[np.searchsorted(x, 2.5)] == 50 and y[-1] == 100
    assert figure.axes[0].lines[1].get_ydata()[-1] == 0


# ---- the wings' figures --------------------------------------------------------------------------


def test_depth_is_drawn_with_a_line_for_each_trunk_and_the_pixels_at_0():
    cases = product(("identity", "expression", "pose"), ("recogniser", "end to end"), range(5))
    rows = [(*who, f"pool{i}", i / 4, i / 10, i / 10 - 0.05, i / 10 + 0.05) for *who, i in cases]
    depths = table("target trunk layer depth value low high", rows)
    figure = figures.depth_panels(depths, "explained variance", columns=2)
    assert titles(figure.axes) == ["identity", "expression", "pose", ""]
    assert figure.axes[0].get_ylabel() == "explained variance"
    assert texts(figure.axes[1].get_xticklabels()) == ["0", "1", "2", "3", "4"]
    lines = figure.axes[0].lines[:2]
    assert_allclose(lines[0].get_xydata(), [(i / 4, i / 10) for i in range(5)])
    looks = {(line.get_linestyle(), line.get_marker()) for line in lines}
    assert len(looks) == 2  # readable without colour


def test_what_is_kept_is_a_dot_and_its_interval_for_each_trunk():
    rows = [
        ("net", "smile", 0.5, 0.4, 0.7),
        ("net", "jaw", 0.2, 0.1, 0.3),
        ("twin", "jaw", 1, 1, 1),
    ]
    figure = figures.kept_at_top(table("trunk target kept kept_low kept_high", rows))
    net, twin = figure.axes[0].containers
    assert list(net.lines[0].get_xdata()) == [0.5, 0.2]
    ends = [part[:, 0] for part in net.lines[2][0].get_segments()]
    assert_allclose(ends, [(0.4, 0.7), (0.1, 0.3)])
    assert texts(figure.axes[0].get_yticklabels()) == ["smile", "jaw"]
    places = [*net.lines[0].get_ydata(), *twin.lines[0].get_ydata()]
    assert np.round(places).tolist() == [0, 1, 1] and len(set(places)) == 3

    longer = [("net", "smile", -0.1, -0.9, 0.7)]  # an arrow where the bar leaves the axis
    (axis,) = figures.kept_at_top(table("trunk target kept kept_low kept_high", longer)).axes
    assert axis.get_xlim()[0] == -0.5
    assert [line.get_xdata() for line in axis.lines if line.get_marker() == "<"] == [[-0.48]]


def test_pictures_that_are_compared_stand_beside_each_other():
    generator = np.random.default_rng(0)
    faces = lambda n: generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)
    photos, meshes, truth = faces(2), dict(stage1=faces(2), stage5=faces(2)), faces(2)
    columns = dict(photo=photos) | meshes | dict(truth=truth)
    rows = [dict(zip(columns, row)) for row in zip(*columns.values())]
    axes = figures.memories(dict(enumerate(rows))).axes
    assert titles(axes[:5]) == ["photo", "stage1", "stage5", "truth", ""]
    assert_array_equal(axes[6].images[0].get_array(), meshes["stage5"][1])
    axes = figures.memories(dict(one=rows[0], other=dict(photo=photos[1]))).axes
    assert titles(axes[:5]) == ["photo", "stage1", "stage5", "truth", "photo"]
    assert [text.get_text() for text in axes[4].texts] == ["other"]

    maps = dict(stage1=np.zeros((2, 5, 4, 4)))
    maps["stage1"][1, 3] = 2.0  # the channel that tells the pictures apart
    axes = figures.channel_maps(dict(neutral=photos[0], smile=photos[1]), maps, count=1).axes
    assert titles(axes[3:]) == ["neutral", "smile", "difference"]
    assert [axis.images[0].get_array().max() for axis in axes[3:]] == [0, 2, 2]

    nine, made = faces(9), faces(1)[0]
    sheet, other = figures.favourites({"unit 3": (nine, made)}).axes[:2]
    assert_array_equal(sheet.images[0].get_array()[8:16, 16:], nine[5])
    assert_array_equal(other.images[0].get_array(), made)

    images = torch.from_numpy(faces(6)).permute(0, 3, 1, 2)
    sheet = figures.neighbour_sheet(images, [[0, 2], [5, 1]])
    assert_array_equal(sheet[8:, :8], images[5].permute(1, 2, 0))


def test_a_map_of_faces_numbers_people_and_is_coloured_by_a_quantity():
    places = dict(middle=np.eye(2), top=2 * np.eye(2))
    figure = figures.face_maps(places, np.array([3, 4]), np.array([0.1, 0.9]), "jaw opening")
    above, below = figure.axes[:2], figure.axes[2:4]
    assert titles(above) == ["middle", "top"]
    assert texts(above[1].texts) == ["1", "2"] and above[1].texts[1].get_position() == (0, 2)
    assert below[0].get_ylabel() == "coloured by jaw opening"
    assert_allclose(above[1].collections[0].get_offsets(), 2 * np.eye(2))
    assert_allclose(below[1].collections[0].get_array(), [0.1, 0.9])


def test_maps_that_are_compared_share_one_scale():
    heat = lambda top: pd.DataFrame([[0.0, top], [0.5, 1]], ["blink", "jaw"], ["pool1", "pool5"])
    figure = figures.heat_maps(dict(a=heat(0.2), b=heat(3.0)), "explained variance")
    images = [axis.images[0] for axis in figure.axes[:2]]
    assert {image.get_clim() for image in images} == {(0.0, 3.0)}
    assert images[0].get_array()[0, 1] == pytest.approx(0.2)
    assert texts(figure.axes[0].get_yticklabels()) == ["blink", "jaw"]

    row = lambda one, other: dict(pool4=one * torch.ones(4, 4), pool5=other * torch.ones(4, 4))
    maps = dict(identity=row(1, 2), expression=row(6, 5))
    figure = figures.place_maps(torch.rand(3, 16, 16), maps, patch=4, stride=4)
    shown = [axis for axis in figure.axes if len(axis.images) == 2]
    assert [axis.images[1].get_clim() for axis in shown] == [(0, 2), (0, 2), (0, 6), (0, 6)]
    assert titles(shown) == ["pool4", "pool5", "", ""]


def test_face_measures_stand_beside_the_survey():
    """Each mark is where its mean is, as a difference from the survey's; the dashed line is the
    geometric mean."""
    names = list(anthropometry.NORMS)
    population = lambda name: anthropometry.population(name)[0]
    found = {name: population(name) + torch.tensor([1.0, 2.0, 3.0]) for name in names}
    cases = product((0.1, 0.2), (("face height", 2.0), ("nasal index", 8.0)))
    rows = [(sd, measure, sd * factor) for sd, (measure, factor) in cases]
    figure = face_measures(found, table("local_sd measure spread_ratio", rows), 0.2)

    left, right = figure.axes
    assert labelled(figure) and len(left.get_yticks()) == len(names) - len(anthropometry.INDICES)
    # Of the first measure: ours, women, men
    marks = [bar.lines[0].get_xydata()[0, 0] for bar in left.containers[:3]]
    women, men = (anthropometry.NORMS[names[0]][sex][0] for sex in ("female", "male"))
    assert_allclose(marks, [2, (women - men) / 2, (men - women) / 2], atol=1e-5)
    dashed = next(line for line in right.lines if line.get_linestyle() == "--")
    assert_allclose(dashed.get_xydata(), [(0.1, 0.4), (0.2, 0.8)])
