"""Data sets of one's own are judged rightly: answers known by hand on tiny folders in the owners'
formats, by a reconstructor that answers what it is told."""

import pickle

import numpy as np
import pandas as pd
import pytest
import test_datasets as owners
import torch
from PIL import Image
from test_protocols import SEVEN, bumpy, moved, sheet

from e2far.benchmark import judge, metrics
from e2far.benchmark.datasets import open_dataset, realy, records
from e2far.morphable import MorphableModel, toy_model
from e2far.network import E2FAR
from e2far.photo import reconstructor as reconstructors
from e2far.photo.face import Face, Pose
from e2far.photo.pictures import load_image

FLAT, TRIANGLES = sheet(8.0, 88.0)
N, UP = len(FLAT), np.array([0, 0, 2.5])
X, Y = FLAT[:, 0], FLAT[:, 1]
# What the network answers: a person at rest, and with an expression.
REST, MOOD = np.c_[X, Y, bumpy(X, Y)], np.c_[X, Y, -0.7 * bumpy(Y, X)]
INDEX = np.random.default_rng(1).permutation(N)[:68]
CORNERS = [np.linalg.norm(FLAT[:, :2] - place, axis=1).argmin() for place in SEVEN]
INDEX[list(metrics.NOW_LANDMARKS)] = CORNERS
POSE = Pose(np.eye(3), 1.5, np.array([200.0, 210.0]))


class Reconstructor:
    """Answers the same face to every picture. Its meshes have a second sheet, off the region,
    2.5 mm above the first, which nothing must be measured to."""

    def __init__(self, rest=REST, mood=MOOD, mean=FLAT, image_landmarks=owners.LANDMARKS):
        rest, mood, mean = (np.vstack((x, x + UP)).astype(np.float32) for x in (rest, mood, mean))
        triangles = np.concatenate((TRIANGLES, TRIANGLES + N))
        no_basis, tensor = torch.zeros(2 * N, 3, 1), torch.from_numpy
        indices = tensor(triangles), tensor(INDEX), torch.arange(N)
        self.model = MorphableModel(tensor(mean), no_basis, no_basis, *indices)
        coefficients = np.zeros(1), np.zeros(1)
        camera = POSE, np.arange(N), (0, 0, 1, 1)
        landmarks = mood[INDEX], image_landmarks
        self.face = Face(mood, rest, triangles, *landmarks, *coefficients, *camera)
        self.asked = []

    def __call__(self, image, box=None):
        self.asked.append((image.name, box))
        if load_image(image).mean() < 10:
            raise ValueError(f"no face found in {image.name}: say where it is with box=(x0, y0)")
        return self.face


def turned(points, scale=1.0):
    return moved(points, scale).round(6)


def now(folder, scan=REST, landmarks=None, scale=1.0):
    """NoW's folder, the two people's scans being `scan`, turned."""
    seven = turned(scan[CORNERS] if landmarks is None else landmarks, scale)
    contents = {".obj": owners.obj(turned(scan, scale), TRIANGLES), ".pp": owners.picked(seven)}
    return owners.made("now", folder, contents)


def by_measure(judged):
    """Of the network, then of the mean face: the table's rows by their measure."""
    table = judge.table(judged, 50)
    ours = table.method == "network"
    return table[ours].set_index("measure"), table[~ours].set_index("measure")


def by_method(judged, measure="NoW"):
    """A row for each picture: the network's error, the mean face's."""
    assert list(judged.method) == ["network", "mean face"] * (len(judged) // 2)
    return judged[measure].to_numpy().reshape(-1, 2).T


def test_now_lays_the_neutral_face_on_the_scan(tmp_path):
    reconstructor = Reconstructor()
    judged = judge.judge("now", now(tmp_path), reconstructor)
    assert judged.failed.isna().all()
    assert list(judged.challenge[::2]) == ["multiview_neutral", "selfie", "selfie"]
    assert list(judged.person[::2]) == ["FaMoS_1_TA", "FaMoS_1_TA", "FaMoS_2_TA"]
    box = (150 - 80, 100 - 80, 150 + 80, 100 + 80)
    assert reconstructor.asked[0] == ("IMG_0001.jpg", pytest.approx(box))
    # The expressive face, and the sheet off the region, are elsewhere.
    for measure in ("NoW", "NoW, metrical", "Feng"):
        assert by_method(judged, measure)[0].max() < 1e-4
    scan = turned(REST)
    direct = metrics.now_error((FLAT, TRIANGLES, FLAT[CORNERS]), scan, scan[CORNERS])
    assert np.median(direct) > 0.5
    np.testing.assert_allclose(by_method(judged)[1], np.median(direct), rtol=1e-4)
    _, mean = by_measure(judged)
    assert mean.value["NoW, median"] == pytest.approx(np.median(direct), abs=0.003)
    assert mean.value["NoW, mean"] == pytest.approx(direct.mean(), rel=1e-4)
    assert mean.value["NoW, std"] == pytest.approx(direct.std(), rel=1e-4)
    assert set(mean.n) == {3} and set(mean.unit) == {"mm"}


def test_pictures_of_one_scan_are_judged_as_they_are_alone_and_chosen_evenly(tmp_path):
    samples, reconstructor = now(tmp_path), Reconstructor()
    together = judge.judge("now", samples, reconstructor).drop(columns="pooled")
    alone = [judge.judge_scan([item], reconstructor, True)[0] for item in samples]
    alone = pd.DataFrame([row for rows in alone for row in rows]).drop(columns="pooled")
    pd.testing.assert_frame_equal(together, alone)
    second = judge.judge("now", samples, reconstructor, every=2).drop(columns="pooled")
    pd.testing.assert_frame_equal(second, together.iloc[[0, 1, 4, 5]].reset_index(drop=True))


def test_only_the_metrical_error_and_not_now_sees_a_wrong_size(tmp_path):
    row = judge.judge("now", now(tmp_path, scale=1.1), Reconstructor(), every=3).iloc[0]
    assert row["NoW"] < 1e-3 and row["Feng"] < 1e-3 and row["NoW, metrical"] > 0.2


def test_a_scan_above_its_landmarks_is_off_by_that_in_fengs_protocol_alone(tmp_path):
    samples = now(tmp_path, FLAT + UP, FLAT[CORNERS])
    network, mean = by_measure(judge.judge("now", samples, Reconstructor(rest=FLAT, mean=REST)))
    feng = network.loc["Feng, root mean square", ["value", "low", "high"]]
    assert feng.tolist() == pytest.approx([2.5] * 3, abs=1e-4)  # 0 to the sheet off the region
    assert network.value["NoW, mean"] < 1e-4 and mean.value["Feng, root mean square"] > 2.6


def test_scans_without_landmarks_are_counted_and_cost_no_reconstruction(tmp_path):
    reconstructor = Reconstructor()
    judged = judge.judge("bu3dfe", owners.made("bu3dfe", tmp_path), reconstructor)
    (row,) = judge.table(judged).itertuples()
    assert row.measure.startswith("failed: the scan has no 7 landmarks: pick them")
    assert (row.value, row.n, row.unit) == (3, 3, "pictures") and not reconstructor.asked


def test_frgc_lays_the_expressive_face_on_the_range_scan(tmp_path):
    names = "Fall2003range/02463d562", "Spring2004range/04202d099"
    # The scan is the plane z = -1500, x from 0, y down to -99.
    points = owners.picked(FLAT[CORNERS] + [50, -45, -1500])
    owners.write(tmp_path / "picked", {f"{name}.pp": points for name in names})
    scan = {".gz": owners.gz(owners.range_text(100, 100))}
    owners.made("frgc", tmp_path / "data", scan)[1].image.unlink()
    samples = open_dataset("frgc", tmp_path / "data", tmp_path / "picked")
    judged = judge.judge("frgc", samples, Reconstructor(mood=FLAT))
    assert judged.NoW[0] < 1e-4 and judged.session[0] == "Fall2003"
    assert list(judged.failed[2:]) == ["the owner gives no picture"]


def test_points_of_no_triangle_are_no_surface(tmp_path):
    vertices = np.concatenate((REST, REST[:20] * [1, 1, 0] + [0, 0, 40]))
    sources = dict(scan=lambda: (vertices, TRIANGLES), scan_landmarks7=lambda: REST[CORNERS])
    owners.write(tmp_path, {"a.png": None})
    item = records.Item("a", "a", tmp_path / "a.png", sources=sources)
    assert judge.measure(item, Reconstructor(), True, {})["network"]["Feng"] < 1e-4


def test_realy_reports_its_regions(tmp_path):
    scan = turned(MOOD, 0.5)
    changes = {f"{x}.obj": owners.obj(scan, TRIANGLES, seam=False) for x in realy.REGIONS}
    changes["keypoints/1.obj"] = owners.points_obj([*scan[INDEX], *np.zeros((17, 3))])
    samples = owners.made("realy", tmp_path, changes | {"scale.txt": "2.0\n2.0\n"})
    judged = judge.judge("realy", samples, Reconstructor(), every=3)
    network, mean = by_measure(judged)
    regions = [f"REALY, {name}" for name in ("nose", "mouth", "forehead", "cheeks", "all")]
    assert list(network.index) == list(mean.index) == regions and set(mean.n) == {1}
    assert network.value.max() < 1e-3 < 0.5 < mean.value.min()
    assert mean.value.iloc[-1] == pytest.approx(mean.value[:-1].mean())


def test_the_real_reconstructor_does_and_can_be_sent_to_workers(tmp_path):
    torch.manual_seed(0)
    net = E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32)
    real = reconstructors.Reconstructor(net, toy_model(dtype=torch.float32))
    samples = now(tmp_path)
    Image.new("RGB", (300, 200), (200, 150, 120)).save(samples[0].image)
    item, sent = pickle.loads(pickle.dumps((samples[0], real)))
    here = judge.judge("now", samples, real, every=3)
    there = pd.DataFrame(judge.judge_scan([item], sent, True)[0])
    assert here.failed.isna().all() and here.NoW.tolist() == there.NoW.tolist()
    found, scan = real(samples[0].image, samples[0].box), turned(REST)
    shape, seven = found.neutral_vertices, real.model.landmarks[list(metrics.NOW_LANDMARKS)]
    direct = metrics.now_error((shape, found.triangles, shape[seven]), scan, scan[CORNERS])
    assert here.NoW[0] == pytest.approx(np.median(direct), rel=1e-3) != here.NoW[1]


def test_aflw2000_counts_landmarks_in_percent_of_the_box_by_yaw(tmp_path):
    samples = owners.made("aflw2000", tmp_path)
    reconstructor = Reconstructor(image_landmarks=owners.LANDMARKS + [3, 4])
    judged = judge.judge("aflw2000", samples, reconstructor)
    assert reconstructor.asked[0][1] == samples[0].box
    percent = 100 / np.sqrt(np.ptp(owners.LANDMARKS, axis=0).prod())
    seen = FLAT[INDEX, :2] * [1.5, -1.5] + [200, 210]  # the mean face, by the network's camera
    off = np.linalg.norm(seen - owners.LANDMARKS, axis=1).mean()
    expected = np.array([[5 * percent] * 2, [off * percent] * 2])
    assert by_method(judged, "NME") == pytest.approx(expected)
    network, _ = by_measure(judged)
    turned_ones = network.loc["NME, yaw 30-60 degrees", ["value", "low", "high", "n"]]
    assert turned_ones.tolist() == pytest.approx([5 * percent] * 3 + [2])
    assert network.n["NME, yaw 0-30 degrees"] == 0 and set(network.unit) == {"%"}
    assert np.isnan(network.value["NME, mean of the bins"])


def test_turned_copies_of_one_photo_are_drawn_together(tmp_path):
    judged = judge.judge("300w-lp", owners.made("300w-lp", tmp_path), Reconstructor()).iloc[:4]
    judged.pooled[0]["pred"] += 40  # the errors of the photo's two pictures differ now
    row = by_measure(judged)[0].loc["NME, yaw 30-60 degrees"]
    assert row.n == 2 and row.value > 1
    assert row.low == pytest.approx(row.value) == row.high


def test_failures_are_counted_by_reason_and_do_not_stop_the_rest(tmp_path):
    samples = now(tmp_path)
    samples[0].image.write_text("no picture")
    Image.new("RGB", (6, 4)).save(samples[1].image)
    judged = judge.judge("now", samples, Reconstructor())
    assert list(judged.failed.isna()) == [False, False, True, True]
    assert not judged.failed.str.contains(str(tmp_path)).any()
    table = judge.table(judged, 50)
    failed, found = table[table.unit == "pictures"], table[table.unit == "mm"]
    assert list(failed.value) == [1, 1] and set(failed.n) == {3} and set(found.n) == {1}
    reasons = sorted(failed.measure)
    assert reasons[0].startswith("failed: no face found in the picture")
    assert reasons[1].startswith("failed: the file is not a picture that can be")
    for path in tmp_path.glob("scans_lmks_onlypp/*/*.pp"):
        path.write_text("<PickedPoints></PickedPoints>")
    samples[0].image.write_bytes(samples[2].image.read_bytes())
    samples[1].image.write_bytes(samples[2].image.read_bytes())
    table = judge.table(judge.judge("now", samples, Reconstructor()))  # one reason has one row
    assert table.value.tolist() == [3] and "the file: the picked points" in table.measure[0]


def test_pooled_statistics_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    sizes = (0.4, 3000), (0.9, 500), (15.0, 40)
    distances = [rng.gamma(2, size, count) for size, count in sizes]
    everything = np.concatenate(distances)
    histograms = np.stack([judge.histogram(d) for d in distances])
    found = judge.pooled_intervals(histograms, ["a", "a", "b"], 1000, 0)
    square = np.sqrt((everything**2).mean())
    expected = np.median(everything), everything.mean(), everything.std(), square
    assert [value for value, _, _ in found.values()] == pytest.approx(expected, abs=0.003)
    assert all(low <= value <= high for value, low, high in found.values())
    # Of two people, a quarter of the draws is one of them twice.
    extremes = np.concatenate(distances[:2]).mean(), distances[2].mean()
    assert found["mean"][1:] == pytest.approx(extremes, rel=1e-5)

    far = judge.histogram(np.full(9, 50.0))  # beyond the bins
    assert judge.statistics(far)["median"] == pytest.approx(20, abs=0.01)


def test_a_submission_holds_neutral_skin_and_says_what_is_missing(tmp_path):
    samples = owners.made("now-test", tmp_path / "data")
    judged = judge.judge("now-test", samples, Reconstructor())
    assert "neither a scan nor landmarks" in judged.failed[0]
    name, out = samples[0].name, tmp_path / "out"
    assert judge.submit(samples, Reconstructor(), out) == {}
    vertices, triangles = records.read_mesh(out / f"{name}.obj")
    np.testing.assert_allclose(vertices, REST, atol=1e-4)
    np.testing.assert_array_equal(triangles, TRIANGLES)
    np.testing.assert_allclose(np.load(out / f"{name}.npy"), REST[CORNERS], atol=1e-4)
    samples[0].image.write_text("no picture")
    missing = judge.submit(samples, Reconstructor(), tmp_path / "none")
    assert list(missing) == [name] and "not a picture" in missing[name]
    assert not (tmp_path / "none").exists()
