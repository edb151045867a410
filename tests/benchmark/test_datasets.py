"""Readers of data sets of real faces. The folders are tiny ones made in the owners' formats; no picture, scan or number of theirs is contained."""

import gzip
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
from PIL import Image
from scipy.io import savemat

from e2far import camera
from e2far.benchmark.datasets import READERS, frgc, now, open_dataset, records
from e2far.benchmark.metrics import NOW_LANDMARKS

RNG = np.random.default_rng(5)
VERTICES = np.array([[0, 0, 0], [4, 0, 1], [4, 4, 2], [0, 4, 3.5], [8, 0, 0]])
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 2]])
SEVEN = RNG.normal(0, 30, (7, 3)).round(3)
LANDMARKS = RNG.uniform(100, 300, (68, 2)).round(3)


def put(path, text=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (200, 150, 120)).save(path)


def obj(path, vertices=VERTICES, triangles=TRIANGLES, seam=False):
    """With `seam`, a material is named and one vertex has two places in the texture, as scanners write it."""
    corner = lambda f, i: f"{i + 1}/{i + 1 + (len(vertices) if seam and f == 1 else 0)}"
    lines = [
        "mtllib a.mtl",
        *(f"v {x} {y} {z}" for x, y, z in vertices),
        *(f"vt 0.{i} 0.5" for i in range(2 * len(vertices))),
        "usemtl a",
    ]
    put(
        path,
        "\n".join(
            [*lines, *("f " + " ".join(corner(f, i) for i in t) for f, t in enumerate(triangles))]
        )
        + "\n",
    )


def picked(path, points=SEVEN):
    """As MeshLab writes it: attributes in any order."""
    rows = [
        f' <point x="{x}" y="{y}" z="{z}" active="1" name="{i}"/>'
        if i % 2
        else f' <point name="{i}" z="{z}" active="1" x="{x}" y="{y}"/>'
        for i, (x, y, z) in enumerate(points)
    ]
    put(
        path,
        "\n".join(
            [
                "<!DOCTYPE PickedPoints>",
                "<PickedPoints>",
                " <DocumentData>",
                '  <User name="me"/>',
                " </DocumentData>",
                *rows,
                "</PickedPoints>",
            ]
        )
        + "\n",
    )


def bu3dfe(folder):
    faces = "0, 1, 2, -1,\n 0 2 3 -1, 1,4,2,-1"
    wrl = f"""#VRML V2.0 utf8
Shape {{ geometry IndexedFaceSet {{ coord Coordinate {{
 point [
{",".join(f" {x} {y} {z}" for x, y, z in VERTICES)} ] }}
 coordIndex [ {faces} ]
 texCoord TextureCoordinate {{ point [ 0 0, 1 0, 1 1 ] }}
 texCoordIndex [ 0 1 2 -1 ] }} }}"""
    for name in ("F0001_NE00WH", "F0001_AN03WH", "M0002_SU04IN"):
        place = folder / name[:5]
        put(place / f"{name}_F3D.wrl", wrl)
        put(place / f"{name}_RAW.wrl", "not to be read")
        put(place / f"{name}_F3D.bnd", "".join(f"{i}\t\t{i}.5 {i + 1} {-i}\n" for i in range(83)))
        picture(place / f"{name}_F2D.bmp")
        picture(place / f"{name}_F3D.bmp")


def range_text(rows=3, columns=4, hole=5, jump=None):
    x, y = np.meshgrid(np.arange(columns) * 1.0, -np.arange(rows) * 1.0)
    flag, z = np.ones((rows, columns), int), np.full((rows, columns), -1500.0)
    flag.flat[hole] = 0
    if jump is not None:
        z.flat[jump] += 100
    x, y, z = (np.where(flag == 1, values, -999999.0) for values in (x, y, z))
    return (
        f"{rows} rows\n{columns} columns\npixels (flag X Y Z):\n"
        + "\n".join(
            " ".join(f"{v:f}" if a is not flag else str(v) for v in a.ravel())
            for a in (flag, x, y, z)
        )
        + "\n"
    )


def write_gzip(path, text):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(text.encode()))


def make_frgc(folder):
    for session, name in (("Fall2003range", "02463d562"), ("Spring2004range", "04202d099")):
        write_gzip(folder / "nd1" / session / f"{name}.abs.gz", range_text())
    picture(folder / "nd1/Fall2003range/02463d563.ppm")
    picture(folder / "nd1/Spring2004range/04202d100.ppm")


def box_file(path, box, protocol=None):
    """What numpy writes for an array that holds a dict; `protocol` 2 is what Python 2's wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(box, dtype=object)
    if protocol is None:
        np.save(path, array, allow_pickle=True)
    else:
        with open(path, "wb") as file:
            np.lib.format.write_array_header_1_0(
                file, dict(descr="|O", fortran_order=False, shape=())
            )
            file.write(pickle.dumps(array, protocol=protocol))


def make_now(folder):
    keys = [
        "FaMoS_1_TA/multiview_neutral/IMG_0001.jpg",
        "FaMoS_1_TA/selfie/IMG_0002.jpg",
        "FaMoS_2_TA/selfie/IMG_0001.jpg",
    ]
    put(folder / "imagepathsvalidation.txt", "\n".join(keys) + "\n")
    put(folder / "imagepathstest.txt", keys[2] + "\n")
    for key in keys:
        picture(folder / "final_release_version/iphone_pictures" / key)
        box_file(
            folder / "final_release_version/detected_face" / key.replace(".jpg", ".npy"),
            dict(left=100, top=np.float32(50), right=np.int64(200), bottom=150.0),
        )
    for person in ("FaMoS_1_TA", "FaMoS_2_TA"):
        obj(folder / "scans" / person / "natural_head_rotation.000001.obj", seam=True)
        picked(
            folder / "scans_lmks_onlypp" / person / "natural_head_rotation.000001_picked_points.pp"
        )


def make_aflw2000(folder):
    for i in (2, 4):
        picture(folder / f"image{i:05d}.jpg")
        savemat(
            folder / f"image{i:05d}.mat",
            dict(
                pt3d_68=np.vstack((LANDMARKS.T, np.zeros(68))),
                Pose_Para=[[0.1, -np.pi / 4, 0, 5, 5, 0, 0.001]],
                pt2d=np.zeros((2, 21)),
            ),
        )


def make_300w_lp(folder):
    for part in ("AFW", "HELEN", "IBUG", "LFPW"):
        for view in (0, 1):
            picture(folder / part / f"{part}_134212_1_{view}.jpg")
            savemat(
                folder / part / f"{part}_134212_1_{view}.mat",
                dict(pt2d=np.zeros((2, 68)), Pose_Para=[[0, 0.5, 0, 5, 5, 0, 0.001]]),
            )
            (folder / "landmarks" / part).mkdir(parents=True, exist_ok=True)
            savemat(
                folder / "landmarks" / part / f"{part}_134212_1_{view}_pts.mat",
                dict(pts_3d=LANDMARKS, pts_2d=np.zeros((68, 2))),
            )
        picture(folder / f"{part}_Flip" / f"{part}_134212_1_0.jpg")


KEYPOINTS = RNG.normal(0, 5, (85, 3)).round(4)


def make_realy(folder):
    put(folder / "metrical_scale.txt", "8.0\n9.5\n")
    for person in (1, 2):
        picture(folder / f"REALY_image/crop_image_frontal_512x512/{person}.jpg")
        picture(folder / f"REALY_image/depth_frontal/{person}.png")
        for i, region in enumerate(("nose", "mouth", "forehead", "cheek")):
            obj(folder / f"REALY_scan_region/{person}/{region}.obj", VERTICES + i)
        put(
            folder / f"REALY_HIFI3D_keypoints/{person}.obj",
            "".join(f"v {x} {y} {z}\n" for x, y, z in KEYPOINTS),
        )


def make_florence(folder):
    for person, model in (("subject_01", "frontal1"), ("subject_02", "frontal2")):
        obj(folder / person / "Model" / model / "obj" / "110920150452.obj", seam=True)
        put(folder / person / "Video" / "Indoor-Cooperative.mjpg", "a video")
        picture(folder / person / "Video" / "Indoor-Cooperative" / "0001.jpg")
    picture(folder / "subject_01/Video/PTZ-Outdoor/0007.jpg")


MAKERS = {
    "bu3dfe": bu3dfe,
    "frgc": make_frgc,
    "now": make_now,
    "now-test": make_now,
    "aflw2000": make_aflw2000,
    "300w-lp": make_300w_lp,
    "realy": make_realy,
    "florence": make_florence,
}
LENGTHS = {
    "bu3dfe": 3,
    "frgc": 2,
    "now": 3,
    "now-test": 1,
    "aflw2000": 2,
    "300w-lp": 8,
    "realy": 2,
    "florence": 3,
}
each = pytest.mark.parametrize("name", READERS)


def made(name, folder):
    folder.mkdir(exist_ok=True)
    MAKERS[name](folder)
    return open_dataset(name, folder)


# What holds of all ----------------------------------------------------------------------------------------------------------------------------------


@each
def test_a_record_has_what_its_documentation_says(name, tmp_path):
    samples = made(name, tmp_path)
    assert (
        len(samples) == LENGTHS[name] == len(list(samples)) == len({item.name for item in samples})
    )
    for item in samples:
        assert (
            Image.open(item.image).size == (6, 4)
            and isinstance(item.person, str)
            and isinstance(item.condition, dict)
        )
        box, landmarks, scan, seven = item.box, item.landmarks, item.scan, item.scan_landmarks7
        assert box is None or (
            len(box) == 4 and box[2] - box[0] == pytest.approx(box[3] - box[1]) and box[2] > box[0]
        )
        assert landmarks is None or landmarks.shape == (68, 2)
        assert seven is None or seven.shape == (7, 3)
        if scan is not None:
            vertices, triangles = scan
            assert (
                vertices.shape[1:] == (3,)
                and triangles.shape[1:] == (3,)
                and 0 <= triangles.min()
                and triangles.max() < len(vertices)
                and np.isfinite(vertices).all()
            )
    given = {
        key
        for key in ("box", "landmarks", "scan", "scan_landmarks7", "scan_points", "scan_regions")
        if getattr(samples[0], key) is not None
    }
    assert (
        given
        == {
            "bu3dfe": {"scan", "scan_points"},
            "frgc": {"scan"},
            "now": {"box", "scan", "scan_landmarks7"},
            "now-test": {"box"},
            "aflw2000": {"box", "landmarks"},
            "300w-lp": {"box", "landmarks"},
            "realy": {"scan", "scan_points", "scan_regions", "scan_landmarks7"},
            "florence": {"scan"},
        }[name]
    )


@each
def test_nothing_is_read_before_it_is_asked_for_and_folders_are_listed_once(
    name, tmp_path, monkeypatch
):
    made(name, tmp_path)
    for path in [
        p
        for p in tmp_path.rglob("*")
        if p.is_file() and p.name not in ("imagepathsvalidation.txt", "imagepathstest.txt")
    ]:
        path.write_bytes(b"broken")
    listed, truly = [], os.listdir
    monkeypatch.setattr(
        records.os, "listdir", lambda folder: (listed.append(str(folder)), truly(folder))[1]
    )
    samples = open_dataset(name, tmp_path)
    assert len(listed) == len(set(listed)) > 0
    shutil.rmtree(tmp_path)
    listed.clear()
    assert (
        len([(item.name, item.person, item.image) for item in samples]) == LENGTHS[name]
        and not listed
    )


@each
def test_broken_files_are_named_in_one_line(name, tmp_path):
    made(name, tmp_path)
    for path in [
        p
        for p in tmp_path.rglob("*")
        if p.suffix in (".wrl", ".bnd", ".gz", ".npy", ".obj", ".pp", ".mat")
    ]:
        path.write_bytes(path.read_bytes()[:25])
    item = open_dataset(name, tmp_path)[0]
    for key in item.sources:
        with pytest.raises(ValueError) as caught:
            getattr(item, key)
        assert (
            str(tmp_path) in str(caught.value)
            and "; it should be " in str(caught.value)
            and "\n" not in str(caught.value)
        )


@each
@pytest.mark.parametrize("exists", [True, False])
def test_an_empty_or_missing_folder_says_where_the_data_are_requested(name, exists, tmp_path):
    folder = tmp_path / "data"
    if exists:
        folder.mkdir()
    with pytest.raises(FileNotFoundError, match="; it should be .*, (requested|from) ") as caught:
        open_dataset(name, folder)
    assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, gone, count",
    [
        ("bu3dfe", "F0001/F0001_NE00WH_F2D.bmp", "1 of 3"),
        ("now", "final_release_version/iphone_pictures/FaMoS_1_TA/selfie/IMG_0002.jpg", "1 of 3"),
        ("now", "scans/FaMoS_2_TA/natural_head_rotation.000001.obj", "1 of 2"),
        ("now", "scans_lmks_onlypp/FaMoS_2_TA", "1 of 2"),
        ("aflw2000", "image00004.mat", "1 of 2"),
        ("300w-lp", "landmarks/IBUG/IBUG_134212_1_1_pts.mat", "1 of 8"),
        ("realy", "REALY_scan_region/2/mouth.obj", "1 of 10"),
        ("realy", "REALY_HIFI3D_keypoints/1.obj", "1 of 10"),
        ("now", "imagepathsvalidation.txt", "imagepathsvalidation.txt is missing"),
        ("now", "scans", "scans is missing"),
        ("300w-lp", "landmarks", "landmarks/AFW is missing"),
        ("realy", "metrical_scale.txt", "metrical_scale.txt is missing"),
    ],
)
def test_what_is_missing_is_counted_and_named(name, gone, count, tmp_path):
    made(name, tmp_path)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{count}.*; it should be ") as caught:
        open_dataset(name, tmp_path)
    assert "\n" not in str(caught.value)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="no data set is called 'lfw': give one of bu3dfe, frgc"):
        open_dataset("lfw", ".")


def test_items_can_be_sent_to_workers(tmp_path):
    for name in ("now", "realy"):
        item = made(name, tmp_path / name)[0]
        sent = pickle.loads(pickle.dumps(item))
        np.testing.assert_array_equal(sent.scan[0], item.scan[0])


@pytest.mark.parametrize(
    "name, place",
    [
        ("bu3dfe", "F0001/F0001_AN03WH.pp"),
        ("frgc", "Fall2003range/02463d562.pp"),
        ("florence", "subject_01.pp"),
    ],
)
def test_landmarks_that_the_owner_lacks_can_be_picked(name, place, tmp_path):
    made(name, tmp_path / "data")
    with pytest.raises(FileNotFoundError, match="7 picked points"):
        open_dataset(name, tmp_path / "data", tmp_path / "picked")
    picked(tmp_path / "picked" / place)
    samples = open_dataset(name, tmp_path / "data", tmp_path / "picked")
    np.testing.assert_allclose(samples[0].scan_landmarks7, SEVEN)
    with pytest.raises(FileNotFoundError, match="is missing: it should be 7 points"):
        samples[-1].scan_landmarks7


def test_seams_of_the_texture_do_not_double_a_scans_vertices(tmp_path):
    obj(tmp_path / "scan.obj", seam=True)
    vertices, triangles = records.read_mesh(tmp_path / "scan.obj")
    np.testing.assert_allclose(vertices, VERTICES)
    np.testing.assert_array_equal(triangles, TRIANGLES)


@pytest.mark.parametrize(
    "vertices, triangles, reason",
    [
        (np.where(VERTICES == 3.5, np.nan, VERTICES), TRIANGLES, "not finite"),
        (VERTICES, TRIANGLES[:0], "zero-size"),
        (VERTICES, TRIANGLES + 3, "name vertices"),
        (VERTICES[:, :2], TRIANGLES, r"\(None, 3\)"),
    ],
)
def test_a_bad_mesh_is_refused(vertices, triangles, reason):
    with pytest.raises(ValueError, match=reason):
        records.as_mesh(vertices, triangles)


def test_a_scan_with_a_number_that_is_none_is_refused(tmp_path):
    obj(tmp_path / "scan.obj", np.where(VERTICES == 3.5, np.nan, VERTICES))
    with pytest.raises(ValueError, match="not finite"):
        records.read_mesh(tmp_path / "scan.obj")


@pytest.mark.parametrize("points", [SEVEN[:6], np.where(np.arange(7)[:, None] == 3, np.nan, SEVEN)])
def test_seven_points_must_be_seven_numbers(points, tmp_path):
    picked(tmp_path / "a.pp", points)
    with pytest.raises(ValueError, match="the picked points"):
        records.read_picked_points(tmp_path / "a.pp")


# BU-3DFE --------------------------------------------------------------------------------------------------------------------------------------------


def test_bu3dfe_names_say_who_does_what(tmp_path):
    neutral, angry = {item.name: item for item in made("bu3dfe", tmp_path)}, "F0001/F0001_AN03WH"
    assert neutral[angry].person == "F0001" and neutral[angry].condition == dict(
        expression="angry", level=3, ethnicity_code="WH", sex="female"
    )
    assert (
        neutral[angry].image.name == "F0001_AN03WH_F2D.bmp"
        and neutral["M0002/M0002_SU04IN"].condition["sex"] == "male"
    )
    assert neutral["F0001/F0001_NE00WH"].condition["expression"] == "neutral"


def test_bu3dfe_faces_and_points_are_read(tmp_path):
    item = made("bu3dfe", tmp_path)[0]
    np.testing.assert_allclose(item.scan[0], VERTICES)
    np.testing.assert_array_equal(item.scan[1], TRIANGLES)
    np.testing.assert_allclose(item.scan_points[7], (7.5, 8, -7))
    wrl = tmp_path / "F0001/F0001_AN03WH_F3D.wrl"
    wrl.write_text(wrl.read_text().replace("0 2 3 -1", "0 2 3 4 -1"))
    np.testing.assert_array_equal(
        item.scan[1], [[0, 1, 2], [0, 2, 3], [0, 3, 4], [1, 4, 2]]
    )  # a quad is two triangles


@pytest.mark.parametrize(
    "old, new, reason",
    [
        ("8.0 0.0 0.0", "8.0 nan 0.0", "not finite"),
        ("8.0 0.0 0.0", "8.0 0.0", "reshape"),
        ("1,4,2", "1,9,2", "name vertices"),
        ("coordIndex", "index", "no coordIndex"),
    ],
)
def test_a_bad_wrl_is_refused(old, new, reason, tmp_path):
    item = made("bu3dfe", tmp_path)[0]
    wrl = tmp_path / "F0001/F0001_AN03WH_F3D.wrl"
    assert old in wrl.read_text()
    wrl.write_text(wrl.read_text().replace(old, new))
    with pytest.raises(ValueError, match=reason):
        item.scan


def test_a_face_without_marked_points_has_none(tmp_path):
    made("bu3dfe", tmp_path)
    (tmp_path / "F0001/F0001_AN03WH_F3D.bnd").unlink()
    assert open_dataset("bu3dfe", tmp_path)[0].scan_points is None


# FRGC -----------------------------------------------------------------------------------------------------------------------------------------------


def test_a_range_scan_pairs_with_the_next_picture(tmp_path):
    first, second = made("frgc", tmp_path)
    assert (first.name, first.person, first.image.name, first.condition) == (
        "Fall2003range/02463d562",
        "02463",
        "02463d563.ppm",
        dict(session="Fall2003"),
    )
    assert second.image.name == "04202d100.ppm"
    second.image.unlink()
    assert [item.image is None for item in open_dataset("frgc", tmp_path)] == [False, True]


def test_a_range_scan_is_a_mesh_of_its_valid_pixels(tmp_path):
    write_gzip(tmp_path / "a.abs.gz", range_text())
    vertices, triangles = frgc.read_abs(tmp_path / "a.abs.gz")
    assert len(vertices) == 11 and vertices[:, 2].max() == vertices[:, 2].min() == -1500
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    assert (np.cross(b - a, c - a)[:, 2] == 1).all()  # every triangle faces the camera
    # six squares of a 3 x 4 grid are twelve triangles; pixel 5 = (1, 1) is a corner of six of them
    assert len(triangles) == 12 - 6


def test_no_triangle_spans_a_jump_of_range(tmp_path):
    write_gzip(tmp_path / "a.abs.gz", range_text(jump=0))
    vertices, triangles = frgc.read_abs(tmp_path / "a.abs.gz")
    assert len(vertices) == 11 and np.ptp(vertices[triangles][:, :, 2], axis=1).max() == 0
    (tmp_path / "a.abs").write_text(range_text(hole=11))
    assert (
        len(frgc.read_abs(tmp_path / "a.abs")[1]) == 12 - 1
    )  # uncompressed too; a corner of the grid belongs to one triangle


@pytest.mark.parametrize(
    "change, reason",
    [
        (lambda t: t[:-40], "reshape"),
        (lambda t: t.replace("columns", "cols"), "does not begin"),
        (lambda t: t.replace("pixels", "points"), "does not begin"),
        (lambda t: t.replace("-1500.000000", "nan"), "not finite"),
    ],
)
def test_a_bad_range_scan_is_refused(change, reason, tmp_path):
    write_gzip(tmp_path / "a.abs.gz", change(range_text()))
    with pytest.raises(ValueError, match=f"a.abs.gz: .*{reason}.*; it should be FRGC"):
        frgc.read_abs(tmp_path / "a.abs.gz")


# NoW ------------------------------------------------------------------------------------------------------------------------------------------------


def test_now_pictures_have_their_persons_scan(tmp_path):
    samples = made("now", tmp_path)
    assert [(item.name, item.person, item.condition["challenge"]) for item in samples] == [
        ("FaMoS_1_TA/multiview_neutral/IMG_0001", "FaMoS_1_TA", "multiview_neutral"),
        ("FaMoS_1_TA/selfie/IMG_0002", "FaMoS_1_TA", "selfie"),
        ("FaMoS_2_TA/selfie/IMG_0001", "FaMoS_2_TA", "selfie"),
    ]
    np.testing.assert_allclose(samples[1].scan[0], VERTICES)
    np.testing.assert_allclose(samples[1].scan_landmarks7, SEVEN)
    assert samples[0].box == pytest.approx((150 - 80, 100 - 80, 150 + 80, 100 + 80))


def test_now_lists_and_scans_may_lie_in_final_release_version(tmp_path):
    made("now", tmp_path)
    for name in ("imagepathsvalidation.txt", "scans", "scans_lmks_onlypp"):
        (tmp_path / name).rename(tmp_path / "final_release_version" / name)
    assert open_dataset("now", tmp_path)[0].scan_landmarks7.shape == (7, 3)
    assert len(open_dataset("now", tmp_path / "final_release_version")) == 3


@pytest.mark.parametrize("protocol", [None, 2, 4])
def test_boxes_of_any_pickle_protocol_are_read(protocol, tmp_path):
    box_file(
        tmp_path / "a.npy",
        dict(
            left=np.float64(10),
            top=20,
            right=np.int32(110),
            bottom=np.float32(140),
            score=np.ones(3),
        ),
        protocol,
    )
    x0, y0, x1, y1 = now.read_box(tmp_path / "a.npy")
    assert ((x0 + x1) / 2, (y0 + y1) / 2, x1 - x0, y1 - y0) == pytest.approx(
        (60, 80, 1.6 * 110, 1.6 * 110)
    )


class Evil:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("inside", [False, True])
def test_code_in_a_box_does_not_run(inside, tmp_path):
    evil = Evil(os.system, f"touch {tmp_path / 'ran'}")
    box_file(tmp_path / "a.npy", dict(left=evil, top=0, right=9, bottom=9) if inside else evil)
    with pytest.raises(ValueError, match=r"a\.npy: the pickle asks for (posix|nt)\.system"):
        now.read_box(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)  # the file is what it is meant to be
    assert sys.platform == "win32" or (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    "write, reason",
    [
        (lambda p: box_file(p, dict(left=0, top=0, right=9)), "a part is missing: .bottom"),
        (lambda p: box_file(p, dict(left=0, top=0, right=9, bottom=np.nan)), "not finite"),
        (lambda p: box_file(p, dict(left=9, top=0, right=0, bottom=9)), "is empty"),
        (lambda p: np.save(p, np.arange(4)), ""),
        (lambda p: box_file(p, [1, 2, 3]), "size 1"),
    ],
)
def test_a_bad_box_is_refused(write, reason, tmp_path):
    write(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=f"a.npy: .*{reason}.*; it should be the NoW dataset"):
        now.read_box(tmp_path / "a.npy")


def test_a_list_that_leaves_the_folder_is_refused(tmp_path):
    made("now", tmp_path)
    (tmp_path / "imagepathsvalidation.txt").write_text("../../secret.jpg\n")
    with pytest.raises(ValueError, match="is not PERSON/CHALLENGE/IMG.jpg"):
        open_dataset("now", tmp_path)


# AFLW2000-3D and 300W-LP ----------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["aflw2000", "300w-lp"])
def test_landmarks_box_and_pose_of_a_photo(name, tmp_path):
    import torch

    item = made(name, tmp_path)[0]
    np.testing.assert_allclose(item.landmarks, LANDMARKS)
    np.testing.assert_allclose(item.box, camera.crop_box(torch.from_numpy(LANDMARKS)))
    assert item.condition["yaw_deg"] == pytest.approx(
        -45 if name == "aflw2000" else np.degrees(0.5)
    )


def test_turned_copies_of_a_photo_are_one_person(tmp_path):
    samples = made("300w-lp", tmp_path)
    assert (
        len({item.person for item in samples}) == 4
        and samples[0].person == samples[1].person == "AFW/AFW_134212_1"
    )
    assert not [item for item in samples if "Flip" in str(item.image)]


@pytest.mark.parametrize("points", [np.full((3, 68), np.nan), np.zeros((3, 21))])
def test_bad_landmarks_of_a_photo_are_refused(points, tmp_path):
    item = made("aflw2000", tmp_path)[0]
    savemat(
        tmp_path / "image00002.mat", dict(pt3d_68=points, Pose_Para=[[0, np.nan, 0, 0, 0, 0, 0]])
    )
    for key in ("landmarks", "box", "condition"):
        with pytest.raises(ValueError, match="image00002.mat: .*(not finite|has shape)"):
            getattr(item, key)


# REALY ----------------------------------------------------------------------------------------------------------------------------------------------


def test_realy_is_in_millimetres_by_the_persons_own_scale(tmp_path):
    for item, scale in zip(made("realy", tmp_path), (8.0, 9.5)):
        np.testing.assert_allclose(item.scan_points, KEYPOINTS * scale)
        np.testing.assert_allclose(item.scan_landmarks7, KEYPOINTS[list(NOW_LANDMARKS)] * scale)
        assert list(item.scan_regions) == ["nose", "mouth", "forehead", "cheek"]
        vertices, triangles = item.scan
        np.testing.assert_allclose(vertices[item.scan_regions["mouth"]], (VERTICES + 1) * scale)
        np.testing.assert_allclose(
            vertices, np.concatenate([VERTICES + i for i in range(4)]) * scale
        )
        np.testing.assert_array_equal(triangles[-3:], TRIANGLES + 15)


def test_realy_takes_cropped_pictures_of_all_views_in_order_of_people(tmp_path):
    made("realy", tmp_path)
    picture(tmp_path / "REALY_image/crop_image_other/2_3.jpg")
    assert [(item.name, item.person) for item in open_dataset("realy", tmp_path)] == [
        ("crop_image_frontal_512x512/1", "1"),
        ("crop_image_frontal_512x512/2", "2"),
        ("crop_image_other/2_3", "2"),
    ]


def test_a_scale_that_is_missing_in_the_list_is_reported(tmp_path):
    second = made("realy", tmp_path)[1]
    (tmp_path / "metrical_scale.txt").write_text("8.0\n")
    with pytest.raises(ValueError, match="metrical_scale.txt: .*out of bounds.*; it should be"):
        second.scan_points


# Florence -------------------------------------------------------------------------------------------------------------------------------------------


def test_florence_pictures_have_a_frontal_scan(tmp_path):
    samples = made("florence", tmp_path)
    assert [(item.name, item.person, item.condition["situation"]) for item in samples] == [
        ("subject_01/Indoor-Cooperative/0001", "subject_01", "Indoor-Cooperative"),
        ("subject_01/PTZ-Outdoor/0007", "subject_01", "PTZ-Outdoor"),
        ("subject_02/Indoor-Cooperative/0001", "subject_02", "Indoor-Cooperative"),
    ]
    np.testing.assert_allclose(samples[2].scan[0], VERTICES)  # frontal2, there is no frontal1
    shutil.rmtree(tmp_path / "subject_02/Model")
    assert open_dataset("florence", tmp_path)[2].scan is None


def test_without_pictures_florence_says_how_to_take_them_out_of_the_videos(tmp_path):
    made("florence", tmp_path)
    for folder in tmp_path.glob("*/Video/*/"):
        shutil.rmtree(folder)
    with pytest.raises(
        FileNotFoundError,
        match="take them out of the videos: ffmpeg -i subject_01/Video/Indoor-Cooperative.mjpg",
    ):
        open_dataset("florence", tmp_path)
