import json
import re
import struct
import zlib

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from skimage.data import astronaut

from e2far import camera, morphable
from e2far.facemodels import truncate
from e2far.network import E2FAR
from e2far.photo import confidence, reconstructor, squares
from e2far.photo.confidence import Calibration
from e2far.photo.detection import NoFace, check_box, detect
from e2far.photo.pictures import load_image
from e2far.photo.reconstructor import Reconstructor
from e2far.photo.squares import crop
from e2far.weights import save_network

BOX = (150.0, 70.0, 280.0, 200.0)  # around the astronaut's face


@pytest.fixture(scope="module")
def picture():
    return astronaut()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A toy face model and the weights of a tiny, untrained network for it."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    morphable.toy_model(dtype=torch.float32).save(folder / "toy.npz")
    save_network(
        E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32),
        folder / "tiny.safetensors",
    )
    return folder / "tiny.safetensors", folder / "toy.npz"


@pytest.fixture(scope="module")
def tiny(files):
    return Reconstructor.from_pretrained(*files)


@pytest.fixture(scope="module")
def face(tiny, picture):
    return tiny(picture, BOX)


# Reading


def gradient(height=20, width=30):
    y, x = np.mgrid[:height, :width]
    return np.dstack((x * 8, y * 12, x + y)).astype(np.uint8)


def test_a_path_an_array_and_a_pil_image_are_the_same_picture(tmp_path):
    pixels = gradient()
    Image.fromarray(pixels).save(tmp_path / "a.png")
    for source in (tmp_path / "a.png", str(tmp_path / "a.png"), pixels, Image.fromarray(pixels)):
        np.testing.assert_array_equal(load_image(source), pixels)


def test_exif_rotation_is_applied(tmp_path):
    exif = Image.Exif()
    exif[0x112] = (
        6  # the camera was held a quarter turn: top of the scene is at the right of the stored picture
    )
    Image.fromarray(gradient()).save(tmp_path / "turned.png", exif=exif)
    np.testing.assert_array_equal(load_image(tmp_path / "turned.png"), np.rot90(gradient(), -1))


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA"])
def test_grey_and_palette_pictures_become_rgb(tmp_path, mode):
    grey = Image.fromarray(gradient()).convert("L" if mode != "1" else "1")
    grey.convert(mode).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        load_image(tmp_path / "grey.png"), np.asarray(grey.convert("RGB"))
    )


def test_a_16_bit_picture_keeps_its_range(tmp_path):
    deep = np.linspace(0, 65535, 600).reshape(20, 30).astype(np.uint16)
    Image.fromarray(deep).save(tmp_path / "deep.png")
    loaded = load_image(tmp_path / "deep.png")
    np.testing.assert_allclose(loaded[..., 1], deep / 257, atol=0.51)


def test_16_bit_colour(tmp_path):
    """A PNG of 16 bits a channel, written by hand: signature, IHDR (depth 16, colour type 2), IDAT of unfiltered rows, IEND."""
    deep = np.random.default_rng(0).integers(0, 65536, (20, 30, 3)).astype(">u2")
    chunk = lambda name, content: (
        struct.pack(">I", len(content))
        + name
        + content
        + struct.pack(">I", zlib.crc32(name + content))
    )
    rows = b"".join(b"\0" + row.tobytes() for row in deep)
    (tmp_path / "deep.png").write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 30, 20, 16, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )
    np.testing.assert_allclose(load_image(tmp_path / "deep.png"), deep / 257, atol=1.01)


def test_transparent_pixels_turn_white(tmp_path):
    rgba = np.dstack((gradient(), np.full((20, 30), 255, np.uint8)))
    rgba[:5, :, 3] = 0
    Image.fromarray(rgba).save(tmp_path / "clear.png")
    loaded = load_image(tmp_path / "clear.png")
    assert (loaded[:5] == 255).all()
    np.testing.assert_array_equal(loaded[5:], gradient()[5:])
    np.testing.assert_array_equal(load_image(rgba), loaded)


def test_cmyk_and_the_first_frame_of_a_gif(tmp_path):
    red, blue = Image.new("RGB", (30, 20), "red"), Image.new("RGB", (30, 20), "blue")
    red.convert("CMYK").save(tmp_path / "ink.jpg")
    red.save(tmp_path / "film.gif", save_all=True, append_images=[blue])
    for name in ("ink.jpg", "film.gif"):
        np.testing.assert_allclose(load_image(tmp_path / name)[10, 10], (255, 0, 0), atol=3)


@pytest.mark.parametrize(
    "array, named",
    [
        (np.zeros((3, 20, 30), np.uint8), r"\(3, 20, 30\)"),
        (np.zeros((20, 30, 2), np.uint8), r"\(20, 30, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), r"\(0, 5, 3\)"),
        (np.zeros((20, 30, 3)), "float64"),
        (np.zeros((20, 30, 3), np.uint16), "uint16"),
    ],
)
def test_a_wrong_array_is_named(array, named):
    with pytest.raises(ValueError, match=named):
        load_image(array)


def test_files_that_are_no_pictures(tmp_path):
    (tmp_path / "text.jpg").write_text("this is a text file\n" * 9)
    (tmp_path / "empty.png").write_bytes(b"")
    Image.fromarray(gradient(200, 300) % 31).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:-900])
    for name, said in (
        ("text.jpg", "not a picture"),
        ("empty.png", "not a picture"),
        ("cut.jpg", "damaged or cut short"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            load_image(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent.jpg: no such file"):
        load_image(tmp_path / "absent.jpg")
    with pytest.raises(ValueError, match="folder"):
        load_image(tmp_path)


# Cropping


def test_a_crop_of_a_ramp_is_the_ramp():
    """A picture whose value at image point x is x (pixel centres at .5) must read back as the crop's own coordinates."""
    x = np.arange(200) + 0.5
    ramp = np.repeat(np.repeat(x[None, :, None], 150, 0), 3, 2).round().astype(np.uint8)
    box = (20.25, 10.5, 120.25, 110.5)
    for size in (25, 50, 200):  # reduced 4 and 2 times, enlarged twice
        expected = box[0] + (np.arange(size) + 0.5) * 100 / size
        np.testing.assert_allclose(
            crop(ramp, box, size)[size // 2, 2:-2, 0], expected[2:-2], atol=1.01
        )


def test_a_whole_pixel_crop_of_its_own_size_copies():
    np.testing.assert_array_equal(crop(gradient(), (3, 2, 15, 14), 12), gradient()[2:14, 3:15])


def test_outside_the_photo_the_edge_is_repeated():
    out = crop(gradient(), (-10, -10, 10, 10), 20)
    np.testing.assert_array_equal(out[10:, 10:], gradient()[:10, :10])
    np.testing.assert_array_equal(out[:10, :10], np.broadcast_to(gradient()[0, 0], (10, 10, 3)))


def test_reduction_is_antialiased():
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(crop(stripes, (0, 0, 64, 64), 16)[2:-2, 2:-2].astype(int)) <= 2


@pytest.mark.parametrize(
    "box, said",
    [
        ((1, 2, 3), "not four numbers"),
        ("face", "not four numbers"),
        ((0, 0, np.nan, 9), "not four numbers"),
        ([[0, 0, 50, 50]], "not four numbers"),
        ((50, 50, 20, 90), "empty"),
        ((10, 10, 60, 10), "empty"),
        ((600, 600, 700, 700), "does not lie in the photo"),
        ((-1e9, -1e9, 1e9, 1e9), "does not lie in the photo"),
        ((0.2, 0.2, 0.6, 0.6), "too small"),
    ],
)
def test_a_wrong_box_is_named(box, said):
    with pytest.raises(ValueError, match=said) as error:
        check_box(box, 512, 400)
    assert "\n" not in str(error.value)


def test_a_box_becomes_a_square_about_the_same_centre():
    np.testing.assert_array_equal(check_box((100, 100, 200, 140), 512, 400), (100, 70, 200, 170))
    np.testing.assert_array_equal(check_box(BOX, 512, 512), BOX)


@pytest.mark.parametrize(
    "box",
    [
        (7.3, 2.1, 17.3, 12.1),
        (0, 0, 20, 20),
        (10, 0, 30, 20),
        (-3.5, 1.2, 14.5, 19.2),
        (25, 15, 45, 35),
        (40, 30, 60, 50),
    ],
)
def test_a_crop_inside_on_the_edge_and_outside_is_one_of_the_photo_with_a_wide_border(box):
    wide = np.pad(gradient(), ((40, 40), (40, 40), (0, 0)), mode="edge")
    np.testing.assert_array_equal(
        crop(gradient(), box, 16), crop(wide, tuple(value + 40 for value in box), 16)
    )


# Detection


def test_the_astronaut_is_found_whatever_the_size_of_the_photo(picture):
    reference = np.array(detect(picture)[0][0])
    assert reference[2] - reference[0] == pytest.approx(reference[3] - reference[1])
    np.testing.assert_allclose(reference, (161, 69, 290, 198), atol=10)
    for zoom in (0.25, 3):
        resized = np.asarray(
            Image.fromarray(picture).resize((round(512 * zoom),) * 2, Image.Resampling.BILINEAR)
        )
        np.testing.assert_allclose(np.array(detect(resized)[0][0]) / zoom, reference, atol=8)


def test_a_picture_of_40_pixels_and_one_of_50_million(tiny, picture, tmp_path):
    """A face that fills a thumbnail, and one in the corner of what a large camera takes."""
    face = Image.fromarray(picture[30:240, 120:330])
    face.resize((40, 40), Image.Resampling.BOX).save(tmp_path / "small.png")
    small = tiny(tmp_path / "small.png")
    assert small.box[0] > 0 and small.box[2] < 40 and np.isfinite(small.image_landmarks).all()
    large = Image.new("RGB", (8700, 5800), "grey")
    large.paste(face.resize((2100, 2100)), (6400, 3500))
    large.save(tmp_path / "large.jpg", quality=80)
    found = tiny(tmp_path / "large.jpg", refine=False)
    np.testing.assert_allclose(
        (np.array(found.box) - [6400, 3500, 6400, 3500]) / 10,
        np.array((161, 69, 290, 198)) - [120, 30, 120, 30],
        atol=10,
    )


def test_two_faces_the_larger_one_first(picture):
    small = np.asarray(Image.fromarray(picture[:256, 100:356]).resize((180, 180)))
    both = np.zeros((400, 700, 3), np.uint8)
    both[:256, :256], both[:180, 400:580] = picture[:256, 100:356], small
    boxes = [box for box, score in detect(both)]
    assert len(boxes) == 2 and boxes[0][0] < 256 < boxes[1][0]


def test_no_face(tiny):
    assert detect(np.zeros((90, 120, 3), np.uint8)) == []
    with pytest.raises(NoFace, match="no face found in the picture: .*box="):
        tiny(np.zeros((90, 120, 3), np.uint8))


# Reconstruction


def test_a_face_has_what_its_class_promises(face, tiny):
    model = tiny.model
    assert (
        face.vertices.shape == face.neutral_vertices.shape == (model.n_vertices, 3)
        and face.vertices.dtype == np.float32
    )
    assert face.landmarks.shape == (68, 3) and face.image_landmarks.shape == (68, 2)
    assert face.identity.shape == (6,) and face.expression.shape == (4,)
    np.testing.assert_array_equal(face.triangles, model.triangles)
    np.testing.assert_allclose(face.landmarks, face.vertices[model.landmarks])
    np.testing.assert_allclose(face.image_landmarks, face.pose.project(face.landmarks), atol=1e-3)
    np.testing.assert_allclose(face.pose.rotation @ face.pose.rotation.T, np.eye(3), atol=1e-5)
    offset = model.expression_offset(torch.from_numpy(face.expression)[None])[0].numpy()
    np.testing.assert_allclose(face.vertices - face.neutral_vertices, offset, atol=1e-4)


@pytest.fixture(scope="module")
def symmetric(face_model):
    """A few modes of the shipped face model: symmetric, as toy models are not."""
    return truncate(face_model, 6, 4, None)


class Told(torch.nn.Module):
    """A network that answers what it is told: zero coefficients and pose vectors (1 or B, 9), one call after the other.

    To the mirror images, the second half of a batch, it gives the mirrored pose, but `doubts` of the crop's side off.
    """

    n_identity, n_expression, image_size = 6, 4, 48

    def __init__(self, *poses, doubts=(0.0,)):
        super().__init__()
        self.poses, self.doubts, self.calls = poses, doubts, 0

    def forward(self, image):
        pose, doubt = (told[min(self.calls, len(told) - 1)] for told in (self.poses, self.doubts))
        self.calls += 1
        own = pose.float().expand(len(image) // 2, -1)
        other = camera.mirrored_pose(own) + doubt * torch.eye(9)[7]
        n = 2 * len(own)
        return dict(
            identity=torch.zeros(n, 6), expression=torch.zeros(n, 4), pose=torch.cat((own, other))
        )


def camera_of_a_photo(roll=0.05):
    return (
        camera.euler_to_matrix(torch.tensor([0.3, -0.1, roll])),
        torch.tensor(0.6),
        torch.tensor([230.0, 140.0]),
    )


def pose_in(box, rotation, scale, translation):
    """The pose vector that a perfect network gives for the crop `box` of a photo with this camera."""
    side = box[2] - box[0]
    return camera.encode_pose(
        rotation[None], scale[None], translation[None] - torch.tensor([box[:2]]), side
    )


def right_box(model, truth, off=0.0):
    """The square that our rule gives a face, moved by a share of its side."""
    box = np.array(
        camera.crop_box(camera.weak_perspective(model.mean[model.landmarks], *truth)).tolist()
    )
    return (box + off * (box[2] - box[0])).tolist()


def test_a_pose_in_the_crop_lands_where_it_belongs_in_the_photo(picture, symmetric):
    rotation, scale, translation = camera_of_a_photo()
    expected = camera.weak_perspective(
        symmetric.mean[symmetric.landmarks], rotation, scale, translation
    )
    for box in (BOX, (100.0, 20.0, 400.0, 320.0)):
        told = Reconstructor(Told(pose_in(box, rotation, scale, translation)), symmetric)(
            picture, box, refine=False
        )
        np.testing.assert_allclose(told.image_landmarks, expected, atol=1e-3)
        np.testing.assert_allclose(told.pose.angles_deg, np.degrees([0.3, -0.1, 0.05]), atol=1e-3)
        assert told.pose.scale == pytest.approx(0.6, rel=1e-5) and told.box == box


def test_another_look_crops_where_the_first_landmarks_are(picture, symmetric):
    truth = camera_of_a_photo()
    right, shifted, far = (right_box(symmetric, truth, off) for off in (0.0, 0.1, 0.8))
    net = Told(pose_in(shifted, *truth), pose_in(right, *truth), doubts=(0.002, 0.0))
    told = Reconstructor(net, symmetric)(picture, shifted)
    assert net.calls == 2
    np.testing.assert_allclose(told.box, right, atol=0.2)
    assert Reconstructor(Told(pose_in(far, *truth)), symmetric)(picture, far).box == pytest.approx(
        far
    )  # too far off to be believed


def test_a_look_that_agrees_less_with_its_mirror_image_is_refused(picture, symmetric):
    truth = camera_of_a_photo()
    right, shifted = right_box(symmetric, truth), right_box(symmetric, truth, 0.1)
    net = Told(pose_in(shifted, *truth), pose_in(right, *truth), doubts=(0.002, 0.02))
    told = Reconstructor(net, symmetric)(picture, shifted)
    assert net.calls == 2 and told.box == pytest.approx(shifted)


def test_looks_end_when_the_box_is_close_and_after_three(picture, symmetric):
    truth = camera_of_a_photo()
    close, off = right_box(symmetric, truth, 0.02), right_box(symmetric, truth, 0.1)
    net = Told(pose_in(close, *truth))
    assert (
        Reconstructor(net, symmetric)(picture, close).box == pytest.approx(close) and net.calls == 1
    )
    restless = Told(
        pose_in(off, *truth), doubts=(0.003, 0.002, 0.001, 0.0)
    )  # says in every crop that the face is a tenth further off
    Reconstructor(restless, symmetric)(picture, off)
    assert restless.calls == 3


def test_only_faces_in_loose_boxes_are_looked_at_again(picture, symmetric):
    """Two faces in one batch, of which one box is right: the other moves alone."""
    truth = camera_of_a_photo()
    right, loose = right_box(symmetric, truth), right_box(symmetric, truth, 0.12)
    net = Told(
        torch.cat([pose_in(box, *truth) for box in (right, loose)]),
        pose_in(right, *truth),
        doubts=(0.002, 0.0),
    )
    first, second = Reconstructor(net, symmetric).batch([picture, picture], [right, loose])
    assert (
        net.calls == 2
        and first.box == pytest.approx(right)
        and second.box == pytest.approx(right, abs=0.3)
    )
    np.testing.assert_allclose(first.image_landmarks, second.image_landmarks, atol=0.5)


def test_a_plain_reconstructor_takes_the_networks_word(picture, symmetric):
    truth = camera_of_a_photo(roll=0.6)
    box = right_box(symmetric, truth, 0.1)
    net = E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32).eval()
    told = Reconstructor(net, symmetric, plain=True)(picture, box)
    crops = (
        torch.from_numpy(squares.crop(picture, box, 48).copy()).permute(2, 0, 1)[None].float() / 255
    )
    assert told.box == pytest.approx(box) and told.confidence is None
    with torch.no_grad():
        np.testing.assert_allclose(told.identity, net(crops)["identity"][0], atol=1e-5)


def test_a_tilted_head_is_looked_at_upright(picture, symmetric):
    """The second crop is turned by the roll that was read; what is read there is turned back."""
    rotation, scale, translation = camera_of_a_photo(roll=0.5)
    box = right_box(symmetric, (rotation, scale, translation))
    upright = camera.euler_to_matrix(torch.tensor([0.3, -0.1, 0.0]))
    arm = np.array(translation) - np.mean(np.reshape(box, (2, 2)), 0)
    back = (
        np.array([[np.cos(0.5), -np.sin(0.5)], [np.sin(0.5), np.cos(0.5)]]) @ arm
    )  # image y points down, so roll is anticlockwise there
    turned_box = np.array(box) - np.mean(np.reshape(box, (2, 2)), 0)[[0, 1, 0, 1]]
    seen_upright = pose_in(turned_box.tolist(), upright, scale, torch.from_numpy(back).float())
    net = Told(pose_in(box, rotation, scale, translation), seen_upright, doubts=(0.002, 0.0))
    told = Reconstructor(net, symmetric)(picture, box)
    assert net.calls >= 2 and abs(told.turn_deg) == pytest.approx(np.degrees(0.5), abs=0.5)
    assert told.pose.angles_deg[2] == pytest.approx(np.degrees(0.5), abs=0.5)


@pytest.fixture(scope="module")
def shipped():
    return Reconstructor.from_pretrained()


ASTRONAUT_BOX = (159.4, 67.1, 283.6, 191.3)  # where the detector, and then the landmarks, put it


def test_a_mirrored_photo_gives_the_mirrored_mesh(shipped):
    picture = astronaut()
    x0, y0, x1, y1 = ASTRONAUT_BOX
    face = shipped(picture, ASTRONAUT_BOX)
    other = shipped(np.ascontiguousarray(picture[:, ::-1]), (512 - x1, y0, 512 - x0, y1))
    mirrored = shipped.model.mirror(torch.from_numpy(face.vertices)).numpy()
    assert np.linalg.norm(other.vertices - mirrored, axis=1).max() < 0.1
    assert other.pose.angles_deg == pytest.approx(
        np.multiply(face.pose.angles_deg, [-1, 1, -1]), abs=0.1
    )


@pytest.mark.parametrize("angle", [-35, -20])
def test_a_turned_photo_gives_the_turned_answer(shipped, angle):
    """The same mesh, its pose turned; the network's own word is millimetres off."""
    x0, y0, x1, y1 = ASTRONAUT_BOX
    upright = Image.fromarray(astronaut())
    turned = upright.rotate(angle, Image.Resampling.BICUBIC, center=((x0 + x1) / 2, (y0 + y1) / 2))
    plain = Reconstructor(shipped.network, shipped.model, plain=True)
    before, after, word = (
        shipped(upright, ASTRONAUT_BOX),
        shipped(turned, ASTRONAUT_BOX),
        plain(turned, ASTRONAUT_BOX),
    )
    apart = lambda face: np.linalg.norm(face.vertices - before.vertices, axis=1)[face.region].mean()
    assert after.pose.angles_deg[2] - before.pose.angles_deg[2] == pytest.approx(angle, abs=1)
    assert apart(after) < 0.3 < 1.5 < apart(word)
    stored = after.to_dict()
    assert stored["box_turn_deg"] == pytest.approx(-angle, abs=5)
    straight = crop(np.asarray(upright), before.box, 60)[10:50, 10:50].astype(float)
    right, wrong = (
        np.abs(
            crop(np.asarray(turned), stored["box_px"], 60, np.radians(turn))[10:50, 10:50]
            - straight
        ).mean()
        for turn in (stored["box_turn_deg"], -stored["box_turn_deg"])
    )
    assert right < wrong / 2  # whoever crops by the numbers sees the upright face


def test_several_faces_in_one_batch_are_the_single_ones(tiny, picture):
    boxes = [BOX, (120.0, 50.0, 300.0, 230.0)]
    for box, one in zip(boxes, tiny.reconstruct(picture, boxes, refine=False)):
        alone = tiny(picture, box, refine=False)
        np.testing.assert_allclose(one.vertices, alone.vertices, atol=1e-3)
        np.testing.assert_allclose(one.image_landmarks, alone.image_landmarks, atol=1e-3)


def test_faces_of_several_photos_in_one_batch(tiny, picture):
    other = np.ascontiguousarray(picture[:300, ::-1])
    for one, (image, box) in zip(
        tiny.batch([picture, other], [BOX, (200.0, 60.0, 340.0, 200.0)]),
        [(picture, BOX), (other, (200.0, 60.0, 340.0, 200.0))],
    ):
        alone = tiny(image, box)
        np.testing.assert_allclose(one.vertices, alone.vertices, atol=1e-3)
        np.testing.assert_allclose(one.box, alone.box, atol=1e-3)
    assert tiny.batch([], []) == []


def test_confidence_comes_with_the_calibration_of_these_weights_and_no_other(
    files, tiny, picture, tmp_path
):
    assert (
        tiny.calibration is None
        and tiny(picture, BOX).confidence is None
        and tiny(picture, BOX).to_dict()["confidence"] is None
    )
    weights = tmp_path / "tiny.safetensors"
    weights.write_bytes(files[0].read_bytes())
    calibration = Calibration(tiny.version, (1e-3, 1e3), (1.0, 0.0), (1.0, 50.0), (2.0, 9.0), 1e-6)
    calibration.save(confidence.beside(weights))
    calibrated = Reconstructor.from_pretrained(weights, files[1])
    sure = calibrated(picture, BOX).confidence
    assert calibrated.version == tiny.version and sure.unlike_training and 0 < sure.score < 1
    stored = calibrated(picture, BOX).to_dict()["confidence"]
    assert json.loads(json.dumps(stored)) == stored and stored["score"] == pytest.approx(
        sure.score, abs=1e-3
    )
    np.testing.assert_allclose(
        calibrated(picture, BOX).vertices, tiny(picture, BOX).vertices, atol=1e-3
    )
    torch.manual_seed(1)
    save_network(E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32), weights)
    assert Reconstructor.from_pretrained(weights, files[1]).calibration is None
    confidence.beside(weights).write_text("{")
    with pytest.raises(ValueError, match="tiny.confidence.json"):
        Reconstructor.from_pretrained(weights, files[1])


def test_missing_and_mismatched_weights(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="make reproduce PROFILE=weights"):
        Reconstructor.from_pretrained(tmp_path / "absent.safetensors", files[1])
    morphable.toy_model(n_identity=5, dtype=torch.float32).save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="6 identity and 4 expression .* 5 and 4"):
        Reconstructor.from_pretrained(files[0], tmp_path / "other.npz")


def test_an_unknown_device_is_named(files):
    with pytest.raises(ValueError, match="device 'abacus' .* choose cpu"):
        Reconstructor.from_pretrained(*files, device="abacus")


# Results


@pytest.mark.parametrize("kind", ["obj", "ply", "glb"])
def test_a_saved_mesh_comes_back(face, tmp_path, kind):
    """A GLB is in metres and at rest: its morph targets make the expression (test_export.py)."""
    face.save(tmp_path / f"face.{kind}")
    mesh = trimesh.load(tmp_path / f"face.{kind}", process=False, force="mesh")
    np.testing.assert_allclose(
        mesh.vertices, face.neutral_vertices / 1000 if kind == "glb" else face.vertices, atol=1e-4
    )
    np.testing.assert_array_equal(mesh.faces, face.triangles)


@pytest.mark.parametrize("kind", ["obj", "ply", "glb"])
def test_a_photo_or_its_texture_colours_a_mesh_alike(face, picture, tmp_path, kind):
    (tmp_path / "other").mkdir()
    face.save(tmp_path / f"face.{kind}", picture)
    face.save(tmp_path / "other" / f"face.{kind}", texture=face.texture(picture))
    files = [
        {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
        for folder in (tmp_path, tmp_path / "other")
    ]
    assert files[0] == files[1] and len(files[0]) == (3 if kind == "obj" else 1)
    face.save(tmp_path / f"plain.{kind}")
    assert (tmp_path / f"plain.{kind}").read_bytes() != files[0][f"face.{kind}"]


def test_a_mesh_beside_its_photo_leaves_the_photo_alone(face, picture, tmp_path):
    Image.fromarray(picture).save(tmp_path / "face.png")
    before = (tmp_path / "face.png").read_bytes()
    face.save(tmp_path / "face.obj", picture)
    assert (tmp_path / "face.png").read_bytes() == before


def test_an_unknown_kind_of_file(face, tmp_path):
    with pytest.raises(ValueError, match="choose .obj, .ply, .glb"):
        face.save(tmp_path / "face.stl")
    assert not list(tmp_path.iterdir())


def test_a_face_without_its_model_says_so(face, picture, tmp_path):
    import dataclasses

    lost = dataclasses.replace(face, model=None)
    for write in (
        lambda: lost.save(tmp_path / "face.obj"),
        lambda: lost.to_html(tmp_path / "face.html", picture),
        lambda: lost.texture(picture),
    ):
        with pytest.raises(ValueError, match="does not know its face model"):
            write()
    lost.save(tmp_path / "face.json")


def test_numbers_come_back_from_json(face, tmp_path):
    face.save(tmp_path / "face.json")
    stored = json.loads((tmp_path / "face.json").read_text())
    np.testing.assert_allclose(stored["landmarks_px"], face.image_landmarks, atol=0.006)
    np.testing.assert_allclose(list(stored["pose"].values()), face.pose.angles_deg, atol=0.006)


def test_the_overlay_changes_the_face_and_nothing_else(picture):
    model, truth = morphable.toy_model(dtype=torch.float32), camera_of_a_photo()
    told = Reconstructor(Told(pose_in(BOX, *truth)), model)(picture, BOX, refine=False)
    overlay = told.overlay(picture)
    assert overlay.shape == picture.shape and overlay.dtype == np.uint8
    changed = np.argwhere((overlay != picture).any(2))[:, ::-1]
    points = told.pose.project(told.vertices)
    assert len(changed) > 1000
    assert (changed > points.min(0) - 4).all() and (changed < points.max(0) + 4).all()


def test_the_html_page_needs_no_network(face, picture, tmp_path):
    face.to_html(tmp_path / "face.html", picture)
    page = (tmp_path / "face.html").read_text(encoding="utf-8")
    outside_scripts = re.sub(r"<script[^>]*>.*?</script>", "", page, flags=re.S)
    assert not re.search(r"<script[^>]*\ssrc=", page) and not re.search(
        r"<(link|iframe)\b", outside_scripts
    )
    assert all(
        source.startswith("data:image") for source in re.findall(r'src="(.{12})', outside_scripts)
    )


def test_the_shipped_weights_put_the_mesh_on_the_astronaut(picture):
    """Her eyes, nose and mouth, read off the photo by hand (px), and her head tilted to her right."""
    eyes_nose_mouth = [(202, 101), (248, 103.5), (223.5, 126.5), (225, 145)]
    face = Reconstructor.from_pretrained()(picture)
    assert reconstructor.WEIGHTS.stat().st_size < 15e6
    groups = [range(36, 42), range(42, 48), [30], range(48, 68)]
    centres = np.array([face.image_landmarks[list(group)].mean(0) for group in groups])
    side = face.box[2] - face.box[0]
    assert np.linalg.norm(centres - eyes_nose_mouth, axis=1).max() < 0.08 * side
    yaw, pitch, roll = face.pose.angles_deg
    assert abs(yaw) < 30 and abs(pitch) < 25 and abs(roll) < 20
