"""Readers of data sets of real faces. The folders are tiny ones made in the owners' formats; no
picture, scan or number of theirs is contained."""

import gzip
import os
import pickle
import shutil
import sys

import numpy as np
import pytest
import torch
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
KEYPOINTS = RNG.normal(0, 5, (85, 3)).round(4)


def put(path, content=""):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (6, 4), (200, 150, 120)).save(path)


def points_obj(points):
    return "".join("v {} {} {}\n".format(*point) for point in points)


def obj(path, vertices=VERTICES, triangles=TRIANGLES, seam=False):
    """With `seam`, one vertex has two places in the texture, as scanners write it."""
    n = len(vertices)
    corner = lambda f, i: f"{i + 1}/{i + 1 + n * (seam and f == 1)}"
    places = "".join(f"vt 0.{i} 0.5\n" for i in range(2 * n))
    faces = ["f " + " ".join(corner(f, i) for i in t) for f, t in enumerate(triangles)]
    text = "mtllib a.mtl\n" + points_obj(vertices) + places + "usemtl a\n" + "\n".join(faces)
    put(path, text + "\n")


def picked(path, points=SEVEN):
    """As MeshLab writes it: attributes in any order."""
    orders = 'x="{0}" y="{1}" z="{2}" active="1" name="a"', 'name="a" z="{2}" x="{0}" y="{1}"'
    rows = [f" <point {orders[i % 2].format(*point)}/>" for i, point in enumerate(points)]
    head = (
        '<!DOCTYPE PickedPoints>\n<PickedPoints>\n <DocumentData><User name="me"/></DocumentData>'
    )
    put(path, "\n".join([head, *rows, "</PickedPoints>\n"]))


def wrl(vertices=VERTICES, faces="0, 1, 2, -1,\n 0 2 3 -1, 1,4,2,-1"):
    return f"""#VRML V2.0 utf8
Shape {{ geometry IndexedFaceSet {{ coord Coordinate {{
 point [
{",".join(" {} {} {}".format(*vertex) for vertex in vertices)} ] }}
 coordIndex [ {faces} ]
 texCoord TextureCoordinate {{ point [ 0 0, 1 0, 1 1 ] }}
 texCoordIndex [ 0 1 2 -1 ] }} }}"""


def make_bu3dfe(folder):
    for name in ("F0001_NE00WH", "F0001_AN03WH", "M0002_SU04IN"):
        place = folder / name[:5]
        put(place / f"{name}_F3D.wrl", wrl())
        put(place / f"{name}_RAW.wrl", "not to be read")
        put(place / f"{name}_F3D.bnd", "".join(f"{i}\t\t{i}.5 {i + 1} {-i}\n" for i in range(83)))
        picture(place / f"{name}_F2D.bmp")
        picture(place / f"{name}_F3D.bmp")


def range_text(rows=3, columns=4, hole=5, jump=None):
    """A plane at z = -1500 mm, with one pixel that holds nothing and perhaps one that is nearer."""
    x, y = np.meshgrid(np.arange(columns) * 1.0, -np.arange(rows) * 1.0)
    flag, z = np.ones((rows, columns), int), np.full((rows, columns), -1500.0)
    flag.flat[hole] = 0
    if jump is not None:
        z.flat[jump] += 100
    line = lambda values, form: " ".join(form % value for value in values.ravel())
    lines = [line(flag, "%d"), *(line(np.where(flag, a, -999999.0), "%f") for a in (x, y, z))]
    return f"{rows} rows\n{columns} columns\npixels (flag X Y Z):\n" + "\n".join(lines) + "\n"


def write_gzip(path, text):
    put(path, gzip.compress(text.encode()))


def make_frgc(folder):
    for session, name in (("Fall2003range", "02463d562"), ("Spring2004range", "04202d099")):
        write_gzip(folder / "nd1" / session / f"{name}.abs.gz", range_text())
    picture(folder / "nd1/Fall2003range/02463d563.ppm")
    picture(folder / "nd1/Spring2004range/04202d100.ppm")


def box_file(path, box, protocol=4):
    """What numpy writes for an array that holds a dict; `protocol` 2 is what Python 2's wrote."""
    path.parent.mkdir(parents=True, exist_ok=True)
    array = np.array(box, dtype=object)
    header = dict(descr="|O", fortran_order=False, shape=array.shape)
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, header)
        file.write(pickle.dumps(array, protocol=protocol))


NOW_SCAN = "natural_head_rotation.000001"


def make_now(folder, vertices=VERTICES, triangles=TRIANGLES, seven=SEVEN):
    one, two, three = keys = [
        "FaMoS_1_TA/multiview_neutral/IMG_0001.jpg",
        "FaMoS_1_TA/selfie/IMG_0002.jpg",
        "FaMoS_2_TA/selfie/IMG_0001.jpg",
    ]
    put(folder / "imagepathsvalidation.txt", f"{one}\n{two}\n{three}\n")
    put(folder / "imagepathstest.txt", f"{three}\n")
    box = dict(left=100, top=np.float32(50), right=np.int64(200), bottom=150.0)
    for key in keys:
        picture(folder / "final_release_version/iphone_pictures" / key)
        box_path = folder / "final_release_version/detected_face" / key
        box_file(box_path.with_suffix(".npy"), box)
    for person in ("FaMoS_1_TA", "FaMoS_2_TA"):
        obj(folder / "scans" / person / f"{NOW_SCAN}.obj", vertices, triangles, seam=True)
        picked(folder / "scans_lmks_onlypp" / person / f"{NOW_SCAN}_picked_points.pp", seven)


def make_aflw2000(folder):
    points, pose = np.vstack((LANDMARKS.T, np.zeros(68))), [0.1, -np.pi / 4, 0, 5, 5, 0, 0.001]
    for name in ("image00002", "image00004"):
        picture(folder / f"{name}.jpg")
        truth = dict(pt3d_68=points, Pose_Para=[pose], pt2d=np.zeros((2, 21)))
        savemat(folder / f"{name}.mat", truth)


def make_300w_lp(folder):
    ignored = np.zeros((68, 2))
    for part in ("AFW", "HELEN", "IBUG", "LFPW"):
        (folder / "landmarks" / part).mkdir(parents=True, exist_ok=True)
        for name in (f"{part}/{part}_134212_1_{view}" for view in (0, 1)):
            picture(folder / f"{name}.jpg")
            truth = dict(pt2d=ignored.T, Pose_Para=[[0, 0.5, 0, 5, 5, 0, 0.001]])
            savemat(folder / f"{name}.mat", truth)
            landmarks = dict(pts_3d=LANDMARKS, pts_2d=ignored)
            savemat(folder / "landmarks" / f"{name}_pts.mat", landmarks)
        picture(folder / f"{part}_Flip" / f"{part}_134212_1_0.jpg")


def make_realy(folder):
    put(folder / "metrical_scale.txt", "8.0\n9.5\n")
    for person in (1, 2):
        picture(folder / f"REALY_image/crop_image_frontal_512x512/{person}.jpg")
        picture(folder / f"REALY_image/depth_frontal/{person}.png")
        for i, region in enumerate(("nose", "mouth", "forehead", "cheek")):
            obj(folder / f"REALY_scan_region/{person}/{region}.obj", VERTICES + i)
        put(folder / f"REALY_HIFI3D_keypoints/{person}.obj", points_obj(KEYPOINTS))


def make_florence(folder):
    for person, model in (("subject_01", "frontal1"), ("subject_02", "frontal2")):
        obj(folder / person / "Model" / model / "obj" / "110920150452.obj", seam=True)
        put(folder / person / "Video" / "Indoor-Cooperative.mjpg", "a video")
        picture(folder / person / "Video" / "Indoor-Cooperative" / "0001.jpg")
    picture(folder / "subject_01/Video/PTZ-Outdoor/0007.jpg")


MAKERS = {  # what writes a tiny one, how many pictures that has, what is known of each
    "bu3dfe": (make_bu3dfe, 3, "scan scan_points"),
    "frgc": (make_frgc, 2, "scan"),
    "now": (make_now, 3, "box scan scan_landmarks7"),
    "now-test": (make_now, 1, "box"),
    "aflw2000": (make_aflw2000, 2, "box landmarks"),
    "300w-lp": (make_300w_lp, 8, "box landmarks"),
    "realy": (make_realy, 2, "scan scan_landmarks7 scan_points scan_regions"),
    "florence": (make_florence, 3, "scan"),
}
each = pytest.mark.parametrize("name", READERS)


def made(name, folder):
    folder.mkdir(exist_ok=True)
    MAKERS[name][0](folder)
    return open_dataset(name, folder)


# What holds of all -------------------------------------------------------------------------------


@each
def test_a_record_sent_to_a_worker_has_what_its_documentation_says(name, tmp_path):
    samples, (_, n, known) = made(name, tmp_path), MAKERS[name]
    assert len(samples) == n == len(list(samples)) == len({item.name for item in samples})
    for item in pickle.loads(pickle.dumps(list(samples))):
        assert Image.open(item.image).size == (6, 4)
        assert isinstance(item.person, str) and isinstance(item.condition, dict)
        keys = "box landmarks scan scan_landmarks7 scan_points scan_regions".split()
        given = {key: getattr(item, key) for key in keys if getattr(item, key) is not None}
        assert " ".join(given) == known
        if "box" in given:
            x0, y0, x1, y1 = item.box
            assert x1 - x0 == pytest.approx(y1 - y0) and x1 > x0
        for key, shape in dict(landmarks=(68, 2), scan_landmarks7=(7, 3)).items():
            assert key not in given or given[key].shape == shape
        if "scan" in given:
            vertices, triangles = item.scan
            assert vertices.shape[1:] == triangles.shape[1:] == (3,)
            assert 0 <= triangles.min() and triangles.max() < len(vertices)
            assert np.isfinite(vertices).all()


@each
def test_nothing_is_read_or_listed_before_it_is_asked_for(name, tmp_path):
    made(name, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.name.startswith("imagepaths"):
            path.write_bytes(b"broken")
    samples = open_dataset(name, tmp_path)
    shutil.rmtree(tmp_path)
    assert len([(item.name, item.person, item.image) for item in samples]) == MAKERS[name][1]


@each
def test_broken_files_are_named_in_one_line(name, tmp_path):
    made(name, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.suffix in (".wrl", ".bnd", ".gz", ".npy", ".obj", ".pp", ".mat"):
            path.write_bytes(path.read_bytes()[:25])
    item = open_dataset(name, tmp_path)[0]
    for key in item.sources:
        with pytest.raises(ValueError, match="; it should be ") as caught:
            getattr(item, key)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@each
def test_an_empty_or_missing_folder_says_where_the_data_are_requested(name, tmp_path):
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(
            FileNotFoundError, match="; it should be .*, (requested|from) "
        ) as caught:
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
        ("300w-lp", "landmarks/IBUG/IBUG_134212_1_1_pts.mat", "1 of 16"),
        ("realy", "REALY_scan_region/2/mouth.obj", "1 of 10"),
        ("realy", "REALY_HIFI3D_keypoints/1.obj", "1 of 10"),
        ("now", "imagepathsvalidation.txt", "imagepathsvalidation.txt is missing"),
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
    with pytest.raises(FileNotFoundError, match="no file at .*it should be 7 points"):
        samples[-1].scan_landmarks7


def test_a_bad_scan_is_refused(tmp_path):
    obj(tmp_path / "scan.obj", np.where(VERTICES == 3.5, np.nan, VERTICES))
    with pytest.raises(ValueError, match="not finite"):
        records.read_mesh(tmp_path / "scan.obj")
    with pytest.raises(ValueError, match="zero-size"):
        records.as_mesh(VERTICES, TRIANGLES[:0])


@pytest.mark.parametrize("points", [SEVEN[:6], np.where(np.arange(7)[:, None] == 3, np.nan, SEVEN)])
def test_seven_points_must_be_seven_numbers(points, tmp_path):
    picked(tmp_path / "a.pp", points)
    with pytest.raises(ValueError, match="the picked points"):
        records.read_picked_points(tmp_path / "a.pp")


# BU-3DFE -----------------------------------------------------------------------------------------


def test_bu3dfe_names_say_who_does_what(tmp_path):
    angry, neutral, man = made("bu3dfe", tmp_path)
    assert (angry.name, angry.person) == ("F0001/F0001_AN03WH", "F0001")
    assert angry.image.name == "F0001_AN03WH_F2D.bmp"
    known = dict(expression="angry", level=3, ethnicity_code="WH", sex="female")
    assert angry.condition == known
    assert neutral.condition["expression"] == "neutral" and man.condition["sex"] == "male"


def test_bu3dfe_faces_and_points_are_read(tmp_path):
    item = made("bu3dfe", tmp_path)[0]
    np.testing.assert_allclose(item.scan[0], VERTICES)
    np.testing.assert_array_equal(item.scan[1], TRIANGLES)
    np.testing.assert_allclose(item.scan_points[7], (7.5, 8, -7))
    put(tmp_path / "F0001/F0001_AN03WH_F3D.wrl", wrl(faces="0 1 2 3 -1, 1,4,2,-1"))
    np.testing.assert_array_equal(item.scan[1], TRIANGLES)  # a quad is two triangles
    (tmp_path / "F0001/F0001_AN03WH_F3D.bnd").unlink()
    assert open_dataset("bu3dfe", tmp_path)[0].scan_points is None


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
    assert old in wrl()
    put(tmp_path / "F0001/F0001_AN03WH_F3D.wrl", wrl().replace(old, new))
    with pytest.raises(ValueError, match=reason):
        item.scan


# FRGC --------------------------------------------------------------------------------------------


def test_a_range_scan_pairs_with_the_next_picture(tmp_path):
    first, second = made("frgc", tmp_path)
    assert (first.name, first.person) == ("Fall2003range/02463d562", "02463")
    assert first.condition == dict(session="Fall2003")
    assert (first.image.name, second.image.name) == ("02463d563.ppm", "04202d100.ppm")
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
    put(tmp_path / "a.abs", range_text(hole=11))  # uncompressed; a corner of one triangle
    assert len(frgc.read_abs(tmp_path / "a.abs")[1]) == 12 - 1
    put(tmp_path / "a.abs", range_text(jump=0))
    vertices, triangles = frgc.read_abs(tmp_path / "a.abs")
    assert len(vertices) == 11  # no triangle spans a jump of range
    assert np.ptp(vertices[triangles][:, :, 2], axis=1).max() == 0


@pytest.mark.parametrize(
    "text, reason",
    [
        (range_text()[:-40], "reshape"),
        (range_text().replace("columns", "cols"), "does not begin"),
        (range_text().replace("-1500.000000", "nan"), "not finite"),
    ],
)
def test_a_bad_range_scan_is_refused(text, reason, tmp_path):
    write_gzip(tmp_path / "a.abs.gz", text)
    with pytest.raises(ValueError, match=f"a.abs.gz: .*{reason}.*; it should be FRGC"):
        frgc.read_abs(tmp_path / "a.abs.gz")


# NoW ---------------------------------------------------------------------------------------------


def test_now_pictures_have_their_persons_scan(tmp_path):
    samples = made("now", tmp_path)
    assert [(item.name, item.person, item.condition["challenge"]) for item in samples] == [
        ("FaMoS_1_TA/multiview_neutral/IMG_0001", "FaMoS_1_TA", "multiview_neutral"),
        ("FaMoS_1_TA/selfie/IMG_0002", "FaMoS_1_TA", "selfie"),
        ("FaMoS_2_TA/selfie/IMG_0001", "FaMoS_2_TA", "selfie"),
    ]
    vertices, triangles = samples[1].scan  # the texture's seams do not double vertices
    np.testing.assert_allclose(vertices, VERTICES)
    np.testing.assert_array_equal(triangles, TRIANGLES)
    np.testing.assert_allclose(samples[1].scan_landmarks7, SEVEN)
    assert samples[0].box == pytest.approx((150 - 80, 100 - 80, 150 + 80, 100 + 80))


def test_now_lists_and_scans_may_lie_in_final_release_version(tmp_path):
    made("now", tmp_path)
    for name in ("imagepathsvalidation.txt", "scans", "scans_lmks_onlypp"):
        (tmp_path / name).rename(tmp_path / "final_release_version" / name)
    assert open_dataset("now", tmp_path)[0].scan_landmarks7.shape == (7, 3)
    assert len(open_dataset("now", tmp_path / "final_release_version")) == 3


@pytest.mark.parametrize("protocol", [2, 4])
def test_boxes_of_any_pickle_protocol_are_read(protocol, tmp_path):
    sides = dict(left=np.float64(10), top=20, right=np.int32(110), bottom=np.float32(140))
    box_file(tmp_path / "a.npy", sides | dict(score=np.ones(3)), protocol)
    half = 0.8 * 110
    expected = (60 - half, 80 - half, 60 + half, 80 + half)
    assert now.read_box(tmp_path / "a.npy") == pytest.approx(expected)


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
    "box, reason",
    [
        (dict(left=0, top=0, right=9), "a part is missing: .bottom"),
        (dict(left=0, top=0, right=9, bottom=np.nan), "not finite"),
        (dict(left=9, top=0, right=0, bottom=9), "is empty"),
        ([1, 2, 3], "size 1"),
    ],
)
def test_a_bad_box_is_refused(box, reason, tmp_path):
    box_file(tmp_path / "a.npy", box)
    with pytest.raises(ValueError, match=f"a.npy: .*{reason}.*; it should be the NoW dataset"):
        now.read_box(tmp_path / "a.npy")


def test_a_list_that_leaves_the_folder_is_refused(tmp_path):
    made("now", tmp_path)
    put(tmp_path / "imagepathsvalidation.txt", "../../secret.jpg\n")
    with pytest.raises(ValueError, match="is not PERSON/CHALLENGE/IMG.jpg"):
        open_dataset("now", tmp_path)


# AFLW2000-3D and 300W-LP -------------------------------------------------------------------------


@pytest.mark.parametrize("name, yaw_deg", [("aflw2000", -45), ("300w-lp", np.degrees(0.5))])
def test_landmarks_box_and_pose_of_a_photo(name, yaw_deg, tmp_path):
    item = made(name, tmp_path)[0]
    np.testing.assert_allclose(item.landmarks, LANDMARKS)
    np.testing.assert_allclose(item.box, camera.crop_box(torch.from_numpy(LANDMARKS)))
    assert item.condition["yaw_deg"] == pytest.approx(yaw_deg)


def test_turned_copies_of_a_photo_are_one_person(tmp_path):
    samples = made("300w-lp", tmp_path)
    assert samples[0].person == samples[1].person == "AFW/AFW_134212_1"
    assert len({item.person for item in samples}) == 4
    assert not [item for item in samples if "Flip" in str(item.image)]


@pytest.mark.parametrize("points", [np.full((3, 68), np.nan), np.zeros((3, 21))])
def test_bad_landmarks_of_a_photo_are_refused(points, tmp_path):
    item = made("aflw2000", tmp_path)[0]
    bad = dict(pt3d_68=points, Pose_Para=[[0, np.nan, 0, 0, 0, 0, 0]])
    savemat(tmp_path / "image00002.mat", bad)
    for key in ("landmarks", "box", "condition"):
        with pytest.raises(ValueError, match="image00002.mat: .*(not finite|has shape)"):
            getattr(item, key)


# REALY -------------------------------------------------------------------------------------------


def test_realy_is_in_millimetres_by_the_persons_own_scale(tmp_path):
    for item, scale in zip(made("realy", tmp_path), (8.0, 9.5)):
        np.testing.assert_allclose(item.scan_points, KEYPOINTS * scale)
        np.testing.assert_allclose(item.scan_landmarks7, KEYPOINTS[list(NOW_LANDMARKS)] * scale)
        assert list(item.scan_regions) == ["nose", "mouth", "forehead", "cheek"]
        vertices, triangles = item.scan
        np.testing.assert_allclose(vertices, np.vstack([VERTICES + i for i in range(4)]) * scale)
        np.testing.assert_allclose(vertices[item.scan_regions["mouth"]], (VERTICES + 1) * scale)
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
    put(tmp_path / "metrical_scale.txt", "8.0\n")
    with pytest.raises(ValueError, match="metrical_scale.txt: .*out of bounds.*; it should be"):
        second.scan_points


# Florence ----------------------------------------------------------------------------------------


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
    command = "ffmpeg -i subject_01/Video/Indoor-Cooperative.mjpg"
    with pytest.raises(FileNotFoundError, match=f"take them out of the videos: {command}"):
        open_dataset("florence", tmp_path)
