"""Data sets of one's own are judged rightly: answers known by hand on tiny folders in the owners' formats, by a reconstructor that answers what it is told."""

import pickle

import joblib
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from test_datasets import (
    LANDMARKS,
    make_bu3dfe,
    make_300w_lp,
    make_aflw2000,
    make_frgc,
    make_now,
    make_realy,
    obj,
    picked,
    picture,
    put,
    range_text,
    write_gzip,
)
from test_protocols import SEVEN, bumpy, sheet

from e2far.benchmark import judge, metrics, protocols
from e2far.benchmark.datasets import open_dataset, records
from e2far.morphable import MorphableModel, toy_model
from e2far.network import E2FAR
from e2far.photo import reconstructor as reconstructors
from e2far.photo.face import Face, Pose
from e2far.photo.pictures import load_image

FLAT, TRIANGLES = sheet(8.0, 88.0)
N, UP = len(FLAT), np.array([0, 0, 2.5])
REST, MOOD = (
    FLAT.copy(),
    FLAT.copy(),
)  # what the network answers: a person at rest, and with an expression
REST[:, 2], MOOD[:, 2] = bumpy(*FLAT.T[:2]), -0.7 * bumpy(*FLAT[:, [1, 0]].T)
INDEX = np.random.default_rng(1).permutation(N)[:68]
INDEX[list(metrics.NOW_LANDMARKS)] = CORNERS = [
    np.linalg.norm(FLAT[:, :2] - place, axis=1).argmin() for place in SEVEN
]
POSE = Pose(np.eye(3), 1.5, np.array([200.0, 210.0]))


class Reconstructor:
    """Answers the same face to every picture. Its meshes have a second sheet, off the region, 2.5 mm above the first, which nothing must be measured to."""

    def __init__(self, rest=REST, mood=MOOD, mean=FLAT, image_landmarks=LANDMARKS):
        both = lambda x: np.concatenate((x, x + UP)).astype(np.float32)
        triangles = np.concatenate((TRIANGLES, TRIANGLES + N))
        none = torch.zeros(2 * N, 3, 1)
        self.model = MorphableModel(
            torch.from_numpy(both(mean)),
            none,
            none,
            torch.from_numpy(triangles),
            torch.from_numpy(INDEX),
            torch.arange(N),
        )
        self.face = Face(
            both(mood),
            both(rest),
            triangles,
            both(mood)[INDEX],
            image_landmarks,
            np.zeros(1),
            np.zeros(1),
            POSE,
            np.arange(N),
            (0, 0, 1, 1),
        )
        self.asked = []

    def __call__(self, image, box=None):
        self.asked.append((image.name, box))
        if load_image(image).mean() < 10:
            raise ValueError(
                f"no face found in {image.name}: say where it is with box=(x0, y0, x1, y1)"
            )
        return self.face


def moved(points, scale=1.0):
    return scale * points @ Rotation.from_rotvec([0.4, -0.2, 0.3]).as_matrix().T + [
        5.0,
        -80.0,
        300.0,
    ]


def now(folder, scan=REST, landmarks=None, scale=1.0):
    """NoW's folder, the two people's scans being `scan`, turned."""
    make_now(folder)
    landmarks = scan[CORNERS] if landmarks is None else landmarks
    for person in ("FaMoS_1_TA", "FaMoS_2_TA"):
        obj(
            folder / "scans" / person / "natural_head_rotation.000001.obj",
            moved(scan, scale).round(6),
            TRIANGLES,
        )
        picked(
            folder / "scans_lmks_onlypp" / person / "natural_head_rotation.000001_picked_points.pp",
            moved(landmarks, scale).round(6),
        )
    return open_dataset("now", folder)


def value(table, method, measure):
    return table[(table.method == method) & (table.measure == measure)].value.item()


# Scans ------------------------------------------------------------------------------------------------------------------------------------------


def test_now_lays_the_neutral_face_on_the_scan(tmp_path):
    reconstructor = Reconstructor()
    judged = judge.judge("now", now(tmp_path), reconstructor)
    assert list(judged.method) == ["network", "mean face"] * 3 and judged.failed.isna().all()
    assert list(judged.challenge[::2]) == ["multiview_neutral", "selfie", "selfie"] and list(
        judged.person[::2]
    ) == ["FaMoS_1_TA", "FaMoS_1_TA", "FaMoS_2_TA"]
    assert reconstructor.asked[0] == (
        "IMG_0001.jpg",
        pytest.approx((150 - 80, 100 - 80, 150 + 80, 100 + 80)),
    )
    errors = judged[["NoW", "NoW, metrical", "Feng"]][judged.method == "network"].to_numpy()
    assert (
        errors.max() < 1e-4
    )  # mm: the expressive face, and the sheet off the region, are elsewhere
    scan = moved(REST)
    direct = metrics.now_error((FLAT, TRIANGLES, FLAT[CORNERS]), scan, scan[CORNERS])
    assert np.median(direct) > 0.5
    np.testing.assert_allclose(
        judged.NoW[judged.method == "mean face"], np.median(direct), rtol=1e-4
    )
    table = judge.table(judged, 50)
    assert value(table, "mean face", "NoW, mean") == pytest.approx(
        direct.mean(), rel=1e-4
    ) and value(table, "mean face", "NoW, std") == pytest.approx(direct.std(), rel=1e-4)
    assert (
        value(table, "mean face", "NoW, median") == pytest.approx(np.median(direct), abs=0.003)
        and set(table.n) == {3}
        and set(table.unit) == {"mm"}
    )


def test_the_mean_face_is_judged_once_on_a_scan(tmp_path, monkeypatch):
    asked, samples, kept = [], now(tmp_path), judge.scan_errors
    monkeypatch.setattr(
        judge, "scan_errors", lambda mesh, item: asked.append(mesh.vertices) or kept(mesh, item)
    )
    judged = judge.judge("now", samples, Reconstructor())
    assert [np.array_equal(x[:N], FLAT.astype(np.float32)) for x in asked] == [
        False,
        True,
        False,
        False,
        True,
    ] and list(judged.person[::2]) == ["FaMoS_1_TA", "FaMoS_1_TA", "FaMoS_2_TA"]
    each = pd.DataFrame(
        [row for item in samples for row in judge.judge_scan([item], Reconstructor(), True)[0]]
    )
    pd.testing.assert_frame_equal(judged.drop(columns="pooled"), each.drop(columns="pooled"))


def test_only_the_metrical_error_and_not_now_sees_a_wrong_size(tmp_path):
    row = judge.judge("now", now(tmp_path, scale=1.1), Reconstructor(), limit=1).iloc[0]
    assert row["NoW"] < 1e-3 and row["Feng"] < 1e-3 and row["NoW, metrical"] > 0.2


def test_a_scan_above_its_landmarks_is_off_by_that_in_fengs_protocol_alone(tmp_path):
    judged = judge.judge(
        "now", now(tmp_path, FLAT + UP, FLAT[CORNERS]), Reconstructor(rest=FLAT, mean=REST)
    )
    table = judge.table(judged, 50)
    network = table[table.method == "network"].set_index("measure")
    assert tuple(network.loc["Feng, root mean square", ["value", "low", "high"]]) == pytest.approx(
        (2.5, 2.5, 2.5), abs=1e-4
    )  # 0 to the sheet off the region
    assert (
        network.loc["NoW, mean", "value"] < 1e-4
        and value(table, "mean face", "Feng, root mean square") > 2.6
    )


def bu(folder):
    """BU-3DFE's folder: the scans show the expression. Returns the folder of points picked on them."""
    make_bu3dfe(folder / "data")
    for wrl in (folder / "data").glob("*/*_F3D.wrl"):
        points, faces = (
            "\n".join(" ".join(map(str, row)) + end for row in array)
            for array, end in ((moved(MOOD).round(6), ","), (TRIANGLES, " -1,"))
        )
        wrl.write_text(
            f"#VRML V2.0 utf8\nShape {{ geometry IndexedFaceSet {{ coord Coordinate {{ point [ {points} ] }} coordIndex [ {faces} ] }} }}"
        )
        picked(
            folder / "picked" / wrl.parent.name / wrl.name.replace("_F3D.wrl", ".pp"),
            moved(MOOD)[CORNERS].round(6),
        )
    return folder / "picked"


def test_bu3dfe_lays_the_expressive_face_on_the_scan_by_picked_landmarks(tmp_path):
    picked_points = bu(tmp_path)
    judged = judge.judge(
        "bu3dfe", open_dataset("bu3dfe", tmp_path / "data", picked_points), Reconstructor()
    )
    assert (
        judged.NoW[judged.method == "network"].max()
        < 1e-4
        < 0.5
        < judged.NoW[judged.method == "mean face"].min()
    )
    assert list(judged.expression[::2]) == ["angry", "neutral", "surprise"] and list(
        judged.level[::2]
    ) == [3, 0, 4]


def test_scans_without_landmarks_are_counted_and_cost_no_reconstruction(tmp_path):
    bu(tmp_path)
    reconstructor = Reconstructor()
    table = judge.table(
        judge.judge("bu3dfe", open_dataset("bu3dfe", tmp_path / "data"), reconstructor)
    )
    assert len(table) == 1 and not reconstructor.asked
    assert table.measure[0].startswith("failed: the scan has no 7 landmarks: pick them") and (
        table.value[0],
        table.n[0],
        table.unit[0],
    ) == (3, 3, "pictures")


def test_frgc_lays_the_expressive_face_on_the_range_scan(tmp_path):
    make_frgc(tmp_path / "data")
    corners = FLAT[CORNERS] + [
        50,
        -45,
        -1500,
    ]  # the scan is the plane z = -1500, x from 0, y down to -99
    for name in ("Fall2003range/02463d562", "Spring2004range/04202d099"):
        write_gzip(tmp_path / "data/nd1" / f"{name}.abs.gz", range_text(100, 100))
        picked(tmp_path / "picked" / f"{name}.pp", corners)
    (tmp_path / "data/nd1/Spring2004range/04202d100.ppm").unlink()
    judged = judge.judge(
        "frgc",
        open_dataset("frgc", tmp_path / "data", tmp_path / "picked"),
        Reconstructor(mood=FLAT),
    )
    assert (
        judged.NoW[0] < 1e-4
        and judged.session[0] == "Fall2003"
        and list(judged.failed[2:]) == ["the owner gives no picture"]
    )


def test_points_of_no_triangle_are_no_surface(tmp_path):
    vertices = np.concatenate((REST, REST[:20] * [1, 1, 0] + [0, 0, 40]))
    sources = dict(scan=lambda: (vertices, TRIANGLES), scan_landmarks7=lambda: REST[CORNERS])
    picture(tmp_path / "a.png")
    errors = judge.measure(
        records.Item("a", "a", tmp_path / "a.png", sources=sources), Reconstructor(), True, {}
    )["network"]
    assert errors["Feng"] < 1e-4


def test_realy_reports_its_regions(tmp_path):
    make_realy(tmp_path)
    put(tmp_path / "metrical_scale.txt", "2.0\n2.0\n")
    for person in (1, 2):
        for region in ("nose", "mouth", "forehead", "cheek"):
            obj(
                tmp_path / f"REALY_scan_region/{person}/{region}.obj",
                moved(MOOD, 0.5).round(6),
                TRIANGLES,
            )
        put(
            tmp_path / f"REALY_HIFI3D_keypoints/{person}.obj",
            "".join(
                "v {:.6f} {:.6f} {:.6f}\n".format(*point)
                for point in [*moved(MOOD, 0.5)[INDEX], *np.zeros((17, 3))]
            ),
        )
    table = judge.table(
        judge.judge("realy", open_dataset("realy", tmp_path), Reconstructor(), every=2), 50
    )
    network, mean = (table[table.method == method] for method in ("network", "mean face"))
    assert list(network.measure) == list(mean.measure) == [
        f"REALY, {region}" for region in ("nose", "mouth", "forehead", "cheek", "all")
    ] and set(table.n) == {1}
    assert network.value.max() < 1e-3 < 0.5 < mean.value.min() and mean.value.iloc[
        -1
    ] == pytest.approx(mean.value[:-1].mean())


def test_the_real_reconstructor_does_and_can_be_sent_to_workers(tmp_path):
    torch.manual_seed(0)
    real = reconstructors.Reconstructor(
        E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32),
        toy_model(dtype=torch.float32),
    )
    samples = now(tmp_path)
    Image.new("RGB", (300, 200), (200, 150, 120)).save(samples[0].image)
    job = joblib.delayed(judge.judge_scan)([samples[0]], real, True)
    function, arguments, _ = pickle.loads(pickle.dumps(job))
    here, there = judge.judge("now", samples, real, limit=1), pd.DataFrame(function(*arguments)[0])
    assert (
        here.failed.isna().all()
        and here.NoW.tolist() == there.NoW.tolist()
        and here.NoW[0] != here.NoW[1]
    )
    found = real(samples[0].image, samples[0].box)
    scan, seven = moved(REST), real.model.landmarks.numpy()[list(metrics.NOW_LANDMARKS)]
    direct = metrics.now_error(
        (found.neutral_vertices, found.triangles, found.neutral_vertices[seven]),
        scan,
        scan[CORNERS],
    )
    assert here.NoW[0] == pytest.approx(np.median(direct), rel=1e-3)


# Landmarks --------------------------------------------------------------------------------------------------------------------------------------


def test_aflw2000_counts_landmarks_in_percent_of_the_box_by_yaw(tmp_path):
    make_aflw2000(tmp_path)
    samples = open_dataset("aflw2000", tmp_path)
    reconstructor = Reconstructor(image_landmarks=LANDMARKS + [3, 4])
    judged = judge.judge("aflw2000", samples, reconstructor)
    table = judge.table(judged, 50).set_index(["method", "measure"])
    percent = 100 / np.sqrt(np.ptp(LANDMARKS, axis=0).prod())
    assert table.loc[
        ("network", "NME, yaw 30-60 degrees"), ["value", "low", "high", "n"]
    ].tolist() == pytest.approx([5 * percent] * 3 + [2]) and judged.NME[0] == pytest.approx(
        5 * percent
    )
    assert table.loc[("network", "NME, yaw 0-30 degrees"), "n"] == 0 and np.isnan(
        table.loc[("network", "NME, mean of the bins"), "value"]
    )
    seen = FLAT[INDEX, :2] * [1.5, -1.5] + [200, 210]  # the mean face, by the network's camera
    assert judged.NME[judged.method == "mean face"].tolist() == pytest.approx(
        [np.linalg.norm(seen - LANDMARKS, axis=1).mean() * percent] * 2
    )
    assert reconstructor.asked[0][1] == samples[0].box and set(table.unit) == {"%"}


def test_turned_copies_of_one_photo_are_drawn_together(tmp_path):
    make_300w_lp(tmp_path)
    judged = judge.judge("300w-lp", open_dataset("300w-lp", tmp_path), Reconstructor(), limit=2)
    judged.pooled[0]["pred"] += 40  # the errors of the photo's two pictures differ now
    network = judge.table(judged, 50).iloc[0]
    assert (
        network.measure == "NME, yaw 0-30 degrees"
        and network.n == 2
        and network.low == pytest.approx(network.value) == network.high
        and network.value > 1
    )


# Failures, pooling ------------------------------------------------------------------------------------------------------------------------------


def test_failures_are_counted_by_reason_and_do_not_stop_the_rest(tmp_path):
    samples = now(tmp_path)
    samples[0].image.write_text("no picture")
    Image.new("RGB", (6, 4)).save(samples[1].image)
    judged = judge.judge("now", samples, Reconstructor())
    assert (
        list(judged.failed.isna()) == [False, False, True, True]
        and not judged.failed.str.contains(str(tmp_path)).any()
    )
    table = judge.table(judged, 50)
    failed = table[table.unit == "pictures"]
    assert sorted(text[:45] for text in failed.measure) == [
        "failed: no face found in the picture",
        "failed: the file is not a picture that can be",
    ]
    assert (
        list(failed.value) == [1, 1]
        and set(failed.n) == {3}
        and set(table.n[table.unit == "mm"]) == {1}
    )


def test_one_reason_has_one_row(tmp_path):
    samples = now(tmp_path)
    for person in (samples[0].person, samples[2].person):
        (
            tmp_path
            / "scans_lmks_onlypp"
            / person
            / "natural_head_rotation.000001_picked_points.pp"
        ).write_text("<PickedPoints></PickedPoints>")
    table = judge.table(judge.judge("now", samples, Reconstructor()))
    assert table.value.tolist() == [3] and "the file: the picked points" in table.measure[0]


def test_pictures_are_chosen_evenly(tmp_path):
    samples = now(tmp_path)
    assert [
        len(judge.judge("now", samples, Reconstructor(), **chosen)) // 2
        for chosen in (dict(limit=2), dict(every=2), dict(every=2, limit=1))
    ] == [2, 2, 1]
    assert list(judge.judge("now", samples, Reconstructor(), every=2).person.unique()) == [
        "FaMoS_1_TA",
        "FaMoS_2_TA",
    ]


def test_pooled_statistics_are_those_of_all_distances():
    rng = np.random.default_rng(0)
    distances = [rng.gamma(2, size, count) for size, count in ((0.4, 3000), (0.9, 500), (15.0, 40))]
    summed, everything = (
        np.stack([judge.histogram(d) for d in distances]),
        np.concatenate(distances),
    )
    found = judge.pooled_intervals(summed, ["a", "a", "b"], 4000, 0)
    for name, expected, tolerance in (
        ("median", np.median(everything), 0.003),
        ("mean", everything.mean(), 1e-5),
        ("std", everything.std(), 1e-4),
        ("root mean square", np.sqrt((everything**2).mean()), 1e-5),
    ):
        assert (
            found[name][0] == pytest.approx(expected, abs=tolerance)
            and found[name][1] <= found[name][0] <= found[name][2]
        )
    first, second = (
        np.concatenate(distances[:2]).mean(),
        distances[2].mean(),
    )  # of two people, a quarter of the draws is one of them twice
    assert found["mean"][1:] == pytest.approx((first, second), rel=1e-5)
    assert judge.statistics(judge.histogram(np.full(9, 50.0)))["median"] == pytest.approx(
        20, abs=0.01
    )  # beyond the bins: at least 20 mm


# NoW's test set ---------------------------------------------------------------------------------------------------------------------------------


def test_a_submission_holds_neutral_skin_and_says_what_is_missing(tmp_path):
    make_now(tmp_path / "data")
    samples = open_dataset("now-test", tmp_path / "data")
    assert judge.submit(samples, Reconstructor(), tmp_path / "out") == {}
    vertices, triangles = records.read_mesh(tmp_path / "out" / f"{samples[0].name}.obj")
    np.testing.assert_allclose(vertices, REST, atol=1e-4)
    np.testing.assert_array_equal(triangles, TRIANGLES)
    np.testing.assert_allclose(
        np.load(tmp_path / "out" / f"{samples[0].name}.npy"), REST[CORNERS], atol=1e-4
    )
    samples[0].image.write_text("no picture")
    missing = judge.submit(samples, Reconstructor(), tmp_path / "none")
    assert (
        list(missing) == [samples[0].name]
        and "not a picture" in missing[samples[0].name]
        and not (tmp_path / "none").exists()
    )
    assert (
        "neither a scan nor landmarks"
        in judge.judge("now-test", samples, Reconstructor()).failed[0]
    )


def test_the_protocols_are_given_the_owners_names_of_regions():
    from e2far.benchmark.datasets.realy import REGIONS

    assert (
        set(REGIONS) <= set(judge.REALY_KEYPOINTS)
        and judge.REALY_KEYPOINTS["cheek"] == protocols.REALY_KEYPOINTS["cheeks"]
    )
