"""Readers of data sets of real faces. The folders are tiny ones made in the owners' formats; no
picture, scan or number of theirs is contained."""

import gzip
import os
import pickle
import re
import shutil

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

from e2far import camera
from e2far.benchmark.datasets import READERS, frgc, now, open_dataset
from e2far.benchmark.metrics import NOW_LANDMARKS

RNG = np.random.default_rng(5)
VERTICES = np.array([[0, 0, 0], [4, 0, 1], [4, 4, 2], [0, 4, 3.5], [8, 0, 0]])
TRIANGLES = np.array([[0, 1, 2], [0, 2, 3], [1, 4, 2]])
SEVEN = RNG.normal(0, 30, (7, 3)).round(3)
LANDMARKS = RNG.uniform(100, 300, (68, 2)).round(3)
KEYPOINTS = RNG.normal(0, 5, (85, 3)).round(4)


def write(folder, files):
    """Files by their path: texts, bytes, arrays for a .mat, or None for a picture."""
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if content is None:
            Image.new("RGB", (6, 4), (200, 150, 120)).save(path)
        elif isinstance(content, dict):
            savemat(path, content)
        else:
            path.write_bytes(content if isinstance(content, bytes) else content.encode())


def expand(pattern):
    """Sorted paths, with {a,b} as a shell expands it."""
    if not (braces := re.search(r"{([^{}]*)}", pattern)):
        return [pattern]
    before, after = pattern[: braces.start()], pattern[braces.end() :]
    return sorted({path for way in braces[1].split(",") for path in expand(before + way + after)})


def points_obj(points):
    return "".join("v {} {} {}\n".format(*point) for point in points)


def obj(vertices=VERTICES, triangles=TRIANGLES, seam=True):
    """With `seam`, one vertex has two places in the texture, as scanners write it."""
    n = len(vertices)
    corner = lambda f, i: f"{i + 1}/{i + 1 + n * (seam and f == 1)}"
    places = "".join(f"vt 0.{i} 0.5\n" for i in range(2 * n))
    faces = ["f " + " ".join(corner(f, i) for i in t) for f, t in enumerate(triangles)]
    return f"mtllib a.mtl\n{points_obj(vertices)}{places}usemtl a\n" + "\n".join(faces) + "\n"


def picked(points=SEVEN):
    """As MeshLab writes it: attributes in any order."""
    orders = 'x="{0}" y="{1}" z="{2}" active="1" name="a"', 'name="a" z="{2}" x="{0}" y="{1}"'
    rows = [f" <point {orders[i % 2].format(*point)}/>" for i, point in enumerate(points)]
    head = '<!DOCTYPE PickedPoints>\n<PickedPoints>\n <DocumentData><User name="me"/>'
    return "\n".join([head, "</DocumentData>", *rows, "</PickedPoints>\n"])


def wrl(vertices=VERTICES, faces="0, 1, 2, 3 -1, 1,4,2,-1"):
    """The first polygon is a quadrilateral."""
    return f"""#VRML V2.0 utf8
Shape {{ geometry IndexedFaceSet {{ coord Coordinate {{
 point [
{",".join(" {} {} {}".format(*vertex) for vertex in vertices)} ] }}
 coordIndex [ {faces} ]
 texCoord TextureCoordinate {{ point [ 0 0, 1 0, 1 1 ] }}
 texCoordIndex [ 0 1 2 -1 ] }} }}"""


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


def gz(text):
    return gzip.compress(text.encode())


def box(sides, protocol=4):
    """What numpy writes for an array that holds a dict; `protocol` 2 is what Python 2's wrote."""
    array = np.array(sides, dtype=object)
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': %s, }" % str(array.shape).encode()
    start = b"\x93NUMPY\x01\x00" + np.uint16(len(header) + 1).tobytes() + header + b"\n"
    return start + pickle.dumps(array, protocol=protocol)


SIDES = dict(left=100, top=np.float32(50), right=np.int64(200), bottom=150.0)
POINTS, POSE = np.vstack((LANDMARKS.T, np.zeros(68))), [[0.1, -np.pi / 4, 0, 5, 5, 0, 0.001]]
FRGC = "{Fall2003range/02463d562,Spring2004range/04202d099}"
BU3DFE = "{F0001/F0001_{AN03,NE00}WH,M0002/M0002_SU04IN}"
NOW = "FaMoS_{1_TA/{multiview_neutral/IMG_0001,selfie/IMG_0002},2_TA/selfie/IMG_0001}"
NOW_LISTED = [f"{name}.jpg" for name in expand(NOW)]
W300 = "{AFW,HELEN,IBUG,LFPW}/134212_1_{0,1}"
PATHS = {
    "bu3dfe": [BU3DFE + "_{F3D.wrl,F2D.bmp,F3D.bmp}"],
    "frgc": [
        "nd1/{Fall2003range/02463d56{2.abs.gz,3.ppm},Spring2004range/04202d{099.abs.gz,100.ppm}}"
    ],
    "now": [
        f"final_release_version/{{iphone_pictures/{NOW}.jpg,detected_face/{NOW}.npy}}",
        "scans{/FaMoS_{1,2}_TA/head.obj,_lmks_onlypp/FaMoS_{1,2}_TA/head_picked_points.pp}",
        "imagepaths{validation,test}.txt",
    ],
    "aflw2000": ["image0000{2,4}.{jpg,mat}"],
    "300w-lp": [W300 + ".{jpg,mat}", f"landmarks/{W300}_pts.mat", "AFW_Flip/134212_1_0.jpg"],
    "realy": [
        "REALY_image/{crop_image_frontal/{1,2}.jpg,crop_image_other/2_3.jpg,depth/1.png}",
        "REALY_{HIFI3D_keypoints/{1,2},scan_region/{1,2}/{nose,mouth,forehead,cheek}}.obj",
        "metrical_scale.txt",
    ],
    "florence": [
        "subject_0{1/Model/frontal{1,2},2/Model/frontal2}/obj/1109.obj",
        "subject_0{1/Video/{Indoor-Cooperative/0001,PTZ-Outdoor/0007},2/Video/PTZ-Indoor/01}.jpg",
        "subject_01/Video/Indoor-Cooperative.mjpg",
    ],
}
PATHS["now-test"] = PATHS["now"]
CONTENTS = {  # of a file by the end of its path; the others are pictures
    "nose.obj": obj(seam=False),
    "mouth.obj": obj(VERTICES + 1, seam=False),
    "forehead.obj": obj(VERTICES + 2, seam=False),
    "cheek.obj": obj(VERTICES + 3, seam=False),
    "keypoints/1.obj": points_obj(KEYPOINTS),
    "keypoints/2.obj": points_obj(KEYPOINTS),
    "1/Model/frontal2/obj/1109.obj": "not to be read",
    ".obj": obj(),
    ".pp": picked(),
    ".wrl": wrl(),
    ".gz": gz(range_text()),
    "_pts.mat": dict(pts_3d=LANDMARKS, pts_2d=np.zeros((68, 2))),
    ".mat": dict(pt3d_68=POINTS, Pose_Para=POSE, pt2d=np.zeros((2, 21))),
    ".npy": box(SIDES),
    "validation.txt": "\n".join(NOW_LISTED),
    "test.txt": NOW_LISTED[2],
    "scale.txt": "8.0\n9.5\n",
    ".mjpg": "a video",
}
ANGRY = dict(expression="angry", level=3, ethnicity_code="WH", sex="female")
TURNED = dict(pitch_deg=pytest.approx(np.degrees(0.1)), yaw_deg=pytest.approx(-45), roll_deg=0)
VIDEOS = "subject_0{1/{Indoor-Cooperative/0001,PTZ-Outdoor/0007},2/PTZ-Indoor/01}"
KNOWN = {  # names of pictures, who is on them, what was varied in the first
    "bu3dfe": (BU3DFE, r"[FM]\d{4}", ANGRY),
    "frgc": (FRGC, r"\d{5}", dict(session="Fall2003")),
    "now": (NOW, r"FaMoS_\d_TA", dict(challenge="multiview_neutral")),
    "now-test": ("FaMoS_2_TA/selfie/IMG_0001", r"FaMoS_2_TA", dict(challenge="selfie")),
    "aflw2000": ("image0000{2,4}", r".*", TURNED),
    "300w-lp": (W300, r".*(?=_)", TURNED),
    "realy": ("crop_image_{frontal/{1,2},other/2_3}", r"\d(?=_\d$|$)", dict(pictures="frontal")),
    "florence": (VIDEOS, r"subject_\d+", dict(situation="Indoor-Cooperative")),
}
GIVEN = {  # what is known of each picture
    "now": "box scan scan_landmarks7",
    "now-test": "box",
    "aflw2000": "box landmarks",
    "300w-lp": "box landmarks",
    "realy": "scan scan_landmarks7 scan_points scan_regions",
}
each = pytest.mark.parametrize("name", READERS)


def made(name, folder, contents=(), landmarks7=None):
    """A tiny data set with some other `contents`."""
    contents = dict(contents) | {end: CONTENTS[end] for end in CONTENTS if end not in contents}
    paths = [path for pattern in PATHS[name] for path in expand(pattern)]
    held = lambda path: next((x for end, x in contents.items() if path.endswith(end)), None)
    write(folder, {path: held(path) for path in paths})
    return open_dataset(name, folder, landmarks7)


@each
def test_a_record_sent_to_a_worker_has_what_its_documentation_says(name, tmp_path):
    samples, (names, person, varied) = made(name, tmp_path), KNOWN[name]
    assert [item.name for item in samples] == expand(names)
    assert [item.person for item in samples] == [re.search(person, x)[0] for x in expand(names)]
    assert samples[0].condition == varied
    for item in pickle.loads(pickle.dumps(list(samples))):
        assert Image.open(item.image).size == (6, 4)
        keys = "box landmarks scan scan_landmarks7 scan_points scan_regions".split()
        given = {key: getattr(item, key) for key in keys if getattr(item, key) is not None}
        assert " ".join(given) == GIVEN.get(name, "scan")
        if "box" in given:
            x0, y0, x1, y1 = item.box
            assert x1 - x0 == pytest.approx(y1 - y0) and x1 > x0
        if "landmarks" in given:
            np.testing.assert_allclose(item.landmarks, LANDMARKS)
            np.testing.assert_allclose(item.box, camera.crop_box(torch.from_numpy(LANDMARKS)))
        if name in ("bu3dfe", "now", "florence"):
            vertices, triangles = item.scan  # the texture's seams do not double vertices
            np.testing.assert_allclose(vertices, VERTICES)
            np.testing.assert_array_equal(triangles, TRIANGLES)
        if name == "now":
            np.testing.assert_allclose(item.scan_landmarks7, SEVEN)


@each
def test_nothing_is_read_before_it_is_asked_for_and_broken_files_are_named_in_a_line(
    name, tmp_path
):
    made(name, tmp_path)
    for path in tmp_path.rglob("*"):
        if path.is_file() and not path.name.startswith("imagepaths"):
            path.write_bytes(path.read_bytes()[:25])
    item = open_dataset(name, tmp_path)[0]
    for key in item.sources:
        with pytest.raises(ValueError, match="; it should be ") as caught:
            getattr(item, key)
        assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


@each
def test_an_empty_or_missing_folder_says_where_the_data_are_requested(name, tmp_path):
    message = "; it should be .*, (requested|from) "
    for folder in (tmp_path, tmp_path / "missing"):
        with pytest.raises(FileNotFoundError, match=message) as caught:
            open_dataset(name, folder)
        assert str(folder) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name, gone, complaint",
    [
        ("bu3dfe", "F0001/F0001_NE00WH_F2D.bmp", "1 of 3"),
        ("now", "final_release_version/iphone_pictures/FaMoS_1_TA/selfie/IMG_0002.jpg", "1 of 3"),
        ("now", "scans_lmks_onlypp/FaMoS_2_TA", "1 of 2"),
        ("now", "imagepathsvalidation.txt", "imagepathsvalidation.txt is missing"),
        ("aflw2000", "image00004.mat", "1 of 2"),
        ("300w-lp", "landmarks", "8 of 16"),
        ("realy", "REALY_scan_region/2/mouth.obj", "1 of 10"),
        ("realy", "metrical_scale.txt", "metrical_scale.txt is missing"),
    ],
)
def test_what_is_missing_is_counted_and_named(name, gone, complaint, tmp_path):
    made(name, tmp_path)
    path = tmp_path / gone
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.raises(FileNotFoundError, match=f"{complaint}.*; it should be ") as caught:
        open_dataset(name, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "gone, read, told",
    [
        (["HELEN", "landmarks/HELEN", "LFPW"], 4, "HELEN is missing; LFPW is missing"),
        (
            ["landmarks/AFW"],
            6,
            "2 photos without .* first without landmarks/AFW/134212_1_0_pts.mat",
        ),
        (["IBUG", "AFW/134212_1_0.mat"], 5, "IBUG is missing; 1 photos without .* AFW/134212_1_0"),
    ],
)
def test_a_copy_that_lacks_parts_is_read_for_what_it_has(gone, read, told, tmp_path):
    made("300w-lp", tmp_path)
    for path in (tmp_path / name for name in gone):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with pytest.warns(UserWarning, match=f"{tmp_path.name}: {read} photos are read; {told}"):
        samples = open_dataset("300w-lp", tmp_path)
    assert len(samples) == read
    for item in samples:
        np.testing.assert_allclose(item.landmarks, LANDMARKS)
        assert item.image.exists() and item.condition == TURNED


BAD = [  # data set, what is asked of its first record, end of the file's path, content, complaint
    ("now", "scan", ".obj", obj(np.where(VERTICES == 3.5, np.nan, VERTICES)), "not finite"),
    ("now", "scan_landmarks7", ".pp", picked(SEVEN[:6]), "the picked points"),
    ("now", "box", ".npy", box(dict(left=0, top=0, right=9)), "a part is missing: .bottom"),
    ("now", "box", ".npy", box(SIDES | dict(bottom=np.nan)), "not finite"),
    ("now", "box", ".npy", box(SIDES | dict(right=0)), "is empty"),
    ("now", "box", ".npy", box([1, 2, 3]), "size 1"),
    ("bu3dfe", "scan", ".wrl", wrl().replace("8.0 0.0 0.0", "8.0 0.0"), "reshape"),
    ("bu3dfe", "scan", ".wrl", wrl(faces="0 1 2 -1, 1,9,2"), "name vertices"),
    ("bu3dfe", "scan", ".wrl", wrl(faces=""), "zero-size"),
    ("bu3dfe", "scan", ".wrl", wrl().replace("coordIndex", "index"), "no coordIndex"),
    ("frgc", "scan", ".gz", gz(range_text()[:-40]), "reshape"),
    ("frgc", "scan", ".gz", gz(range_text().replace("columns", "cols")), "does not begin"),
    ("aflw2000", "landmarks", ".mat", dict(pt3d_68=POINTS * np.nan), "not finite"),
    ("aflw2000", "box", ".mat", dict(pt3d_68=POINTS[:, :21]), "has shape"),
    ("300w-lp", "condition", "0.mat", dict(Pose_Para=np.full((1, 7), np.nan)), "not finite"),
    ("realy", "scan_points", "scale.txt", "\n", "out of bounds"),
]


@pytest.mark.parametrize("name, key, end, content, complaint", BAD, ids=range(len(BAD)))
@pytest.mark.filterwarnings("ignore:loadtxt")
def test_bad_contents_are_refused_by_name(name, key, end, content, complaint, tmp_path):
    item = made(name, tmp_path, {end: content})[0]
    with pytest.raises(ValueError, match=rf"{end}: .*{complaint}.*; it should be "):
        getattr(item, key)


def test_an_unknown_data_set_is_refused():
    with pytest.raises(ValueError, match="no data set is called 'lfw': give one of bu3dfe, frgc"):
        open_dataset("lfw", ".")


@pytest.mark.parametrize(
    "name, place",
    [
        ("bu3dfe", "F0001/F0001_AN03WH"),
        ("frgc", "Fall2003range/02463d562"),
        ("florence", "subject_01"),
    ],
)
def test_landmarks_that_the_owner_lacks_can_be_picked(name, place, tmp_path):
    with pytest.raises(FileNotFoundError, match="7 picked points"):
        made(name, tmp_path / "data", landmarks7=tmp_path / "picked")
    write(tmp_path / "picked", {f"{place}.pp": picked()})
    samples = open_dataset(name, tmp_path / "data", tmp_path / "picked")
    np.testing.assert_allclose(samples[0].scan_landmarks7, SEVEN)
    with pytest.raises(FileNotFoundError, match="it should be 7 points"):
        samples[-1].scan_landmarks7


def test_a_range_scan_pairs_with_the_next_picture(tmp_path):
    first, second = made("frgc", tmp_path)
    assert (first.image.name, second.image.name) == ("02463d563.ppm", "04202d100.ppm")
    second.image.unlink()
    assert [item.image is None for item in open_dataset("frgc", tmp_path)] == [False, True]


def test_a_range_scan_is_a_mesh_of_its_valid_pixels(tmp_path):
    # A corner of one triangle is a hole, in a file that is not compressed; one jumps in range.
    texts = {"corner.abs": range_text(hole=11), "jump.abs": range_text(jump=0)}
    write(tmp_path, texts | {"a.abs.gz": gz(range_text())})
    vertices, triangles = frgc.read_abs(tmp_path / "a.abs.gz")
    assert len(vertices) == 11 and vertices[:, 2].max() == vertices[:, 2].min() == -1500
    a, b, c = vertices[triangles].transpose(1, 0, 2)
    assert (np.cross(b - a, c - a)[:, 2] == 1).all()  # every triangle faces the camera
    # six squares of a 3 x 4 grid are twelve triangles; pixel 5 = (1, 1) is a corner of six of them
    assert len(triangles) == 12 - 6
    assert len(frgc.read_abs(tmp_path / "corner.abs")[1]) == 12 - 1
    vertices, triangles = frgc.read_abs(tmp_path / "jump.abs")
    assert len(vertices) == 11  # no triangle spans a jump of range
    assert np.ptp(vertices[triangles][:, :, 2], axis=1).max() == 0


def test_now_lists_and_scans_may_lie_in_final_release_version(tmp_path):
    assert made("now", tmp_path)[0].box == pytest.approx((150 - 80, 100 - 80, 150 + 80, 100 + 80))
    for name in ("imagepathsvalidation.txt", "scans", "scans_lmks_onlypp"):
        (tmp_path / name).rename(tmp_path / "final_release_version" / name)
    np.testing.assert_allclose(open_dataset("now", tmp_path)[0].scan_landmarks7, SEVEN)
    assert len(open_dataset("now", tmp_path / "final_release_version")) == 3


@pytest.mark.parametrize("protocol", [2, 4])
def test_boxes_of_any_pickle_protocol_are_read(protocol, tmp_path):
    sides = dict(left=np.float64(10), top=20, right=np.int32(110), bottom=np.float32(140))
    write(tmp_path, {"a.npy": box(sides | dict(score=np.ones(3)), protocol)})
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
    evil = Evil(os.mkdir, str(tmp_path / "ran"))
    write(tmp_path, {"a.npy": box(SIDES | dict(left=evil) if inside else evil)})
    with pytest.raises(ValueError, match=r"a\.npy: the pickle asks for (posix|nt)\.mkdir"):
        now.read_box(tmp_path / "a.npy")
    assert not (tmp_path / "ran").exists()
    np.load(tmp_path / "a.npy", allow_pickle=True)  # the file is what it is meant to be
    assert (tmp_path / "ran").exists()


def test_a_list_that_leaves_the_folder_is_refused(tmp_path):
    with pytest.raises(ValueError, match="is not PERSON/CHALLENGE/IMG.jpg"):
        made("now", tmp_path, {"validation.txt": "../../secret.jpg\n"})


def test_a_list_from_any_editor_is_read(tmp_path):
    lines = [f"./{name}" for name in NOW_LISTED]
    text = "\ufeff" + "\r\n".join(["", *lines, ""])
    samples = made("now", tmp_path, {"validation.txt": text})
    assert [item.name for item in samples] == expand(NOW)
    made("realy", tmp_path / "realy", {"scale.txt": "\ufeff8.0\r\n9.5\r\n"})[0].scan_points


def test_realy_is_in_millimetres_by_the_persons_own_scale(tmp_path):
    for item, scale in zip(made("realy", tmp_path), (8.0, 9.5)):
        np.testing.assert_allclose(item.scan_points, KEYPOINTS * scale)
        np.testing.assert_allclose(item.scan_landmarks7, KEYPOINTS[list(NOW_LANDMARKS)] * scale)
        assert list(item.scan_regions) == ["nose", "mouth", "forehead", "cheeks"]
        vertices, triangles = item.scan
        np.testing.assert_allclose(vertices, np.vstack([VERTICES + i for i in range(4)]) * scale)
        np.testing.assert_allclose(vertices[item.scan_regions["mouth"]], (VERTICES + 1) * scale)
        np.testing.assert_array_equal(triangles[-3:], TRIANGLES + 15)


def test_without_a_scan_or_pictures_florence_says_what_is_missing(tmp_path):
    made("florence", tmp_path)
    shutil.rmtree(tmp_path / "subject_02/Model")
    assert open_dataset("florence", tmp_path)[2].scan is None
    for folder in tmp_path.glob("*/Video/*/"):
        shutil.rmtree(folder) if folder.is_dir() else None
    command = "ffmpeg -i subject_01/Video/Indoor-Cooperative.mjpg"
    with pytest.raises(FileNotFoundError, match=f"take them out of the videos: {command}"):
        open_dataset("florence", tmp_path)
