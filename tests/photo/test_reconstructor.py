import json
import shutil
import struct
import sys

import numpy as np
import pytest
import torch
from PIL import Image, ImageCms
from skimage.data import astronaut
from untrained import faint, untrained

from e2far import camera, morphable
from e2far.facemodels import truncate
from e2far.photo import confidence, reconstructor
from e2far.photo.confidence import Calibration
from e2far.photo.pictures import crop, load_image
from e2far.photo.reconstructor import Reconstructor
from e2far.photo.units import unit_strengths
from e2far.weights import save_network

BOX = (150.0, 70.0, 280.0, 200.0)  # around the astronaut's face


@pytest.fixture(scope="module")
def picture():
    return astronaut()


@pytest.fixture(scope="module")
def face(tiny, picture):
    return tiny(picture, BOX)


# Reading


def gradient(height=20, width=30):
    y, x = np.mgrid[:height, :width]
    return np.dstack((x * 8, y * 12, x + y)).astype(np.uint8)


def saved(picture, path, **options):
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(path, **options)
    return path


def test_whatever_a_picture_is_kept_in_it_becomes_upright_rgb(tmp_path):
    pixels, exif = gradient(), Image.Exif()
    path = saved(pixels, tmp_path / "a.png")
    for source in (path, str(path), pixels, Image.fromarray(pixels)):
        np.testing.assert_array_equal(load_image(source), pixels)
    exif[0x112] = 6  # the top of the scene is at the right of the stored picture
    turned = load_image(saved(pixels, tmp_path / "turned.png", exif=exif))
    np.testing.assert_array_equal(turned, np.rot90(pixels, -1))
    for mode in ("L", "1", "P", "LA"):
        grey = Image.fromarray(pixels).convert("L" if mode != "1" else "1")
        loaded = load_image(saved(grey.convert(mode), tmp_path / "grey.png"))
        np.testing.assert_array_equal(loaded, np.asarray(grey.convert("RGB")))
    red, blue = (Image.new("RGB", (30, 20), name) for name in ("red", "blue"))
    ink = saved(red.convert("CMYK"), tmp_path / "ink.jpg")
    film = saved(red, tmp_path / "film.gif", save_all=True, append_images=[blue])
    for path in (ink, film):
        np.testing.assert_allclose(load_image(path)[10, 10], (255, 0, 0), atol=3)
    for bits in (8, 10, 12, 16):  # of the camera, in a file of 16
        deep = np.random.default_rng(0).integers(0, 2**bits, (20, 30)).astype(np.uint16)
        deep[0, 0] = 2**bits - 1
        loaded = load_image(saved(deep, tmp_path / "deep.png"))
        np.testing.assert_allclose(loaded[..., 1], deep / (2**bits - 1) * 255, atol=0.51)
    clear = np.dstack((pixels, np.full((20, 30), 255, np.uint8)))
    clear[:5, :, 3] = 0
    for source in (clear, saved(clear, tmp_path / "clear.png")):
        loaded = load_image(source)
        assert (loaded[:5] == 255).all() and (loaded[5:] == pixels[5:]).all()


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.jpg").write_text("this is a text file\n" * 9)
    (tmp_path / "empty.png").write_bytes(b"")
    whole = saved(gradient(200, 300) % 31, tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes(whole.read_bytes()[:-900])
    for source, kind, said in (
        (tmp_path / "text.jpg", ValueError, "text.jpg is not a picture"),
        (tmp_path / "empty.png", ValueError, "empty.png is not a picture"),
        (tmp_path / "cut.jpg", ValueError, "cut.jpg is damaged or cut short"),
        (tmp_path / "absent.jpg", FileNotFoundError, "absent.jpg: no such file or folder"),
        (tmp_path, ValueError, "folder"),
        (np.zeros((3, 20, 30), np.uint8), ValueError, r"\(3, 20, 30\)"),
        (np.zeros((20, 30, 2), np.uint8), ValueError, r"\(20, 30, 2\)"),
        (np.zeros((0, 5, 3), np.uint8), ValueError, r"\(0, 5, 3\)"),
        (np.zeros((20, 30, 3)), ValueError, "float64"),
    ):
        with pytest.raises(kind, match=said) as error:
            load_image(source)
        assert "\n" not in str(error.value)


def display_p3():
    """The ICC profile of phones, written by hand: three primaries (D50) and a gamma of 2.2."""
    fixed = lambda *numbers: struct.pack(f">{len(numbers)}i", *(round(65536 * x) for x in numbers))
    xyz = lambda *numbers: b"XYZ \0\0\0\0" + fixed(*numbers)
    curve = b"curv\0\0\0\0\0\0\0\1" + struct.pack(">H", round(2.2 * 256)) + b"\0\0"
    text = b"Display P3\0"
    told = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(79)
    tags = dict(rXYZ=xyz(0.51512, 0.2412, -0.00105), gXYZ=xyz(0.29198, 0.69225, 0.04189))
    tags |= dict(bXYZ=xyz(0.1571, 0.06657, 0.78407), wtpt=xyz(0.9642, 1.0, 0.8249), desc=told)
    tags |= dict.fromkeys(("rTRC", "gTRC", "bTRC"), curve)
    table, body, start = struct.pack(">I", len(tags)), b"", 132 + 12 * len(tags)
    for name, content in tags.items():
        table += struct.pack(">4sII", name.encode(), start + len(body), len(content))
        body += content + bytes(-len(content) % 4)
    head = struct.pack(">I4sI4s4s4s", start + len(body), b"", 0x02100000, b"mntr", b"RGB ", b"XYZ ")
    head = head.ljust(36, b"\0") + b"acsp"
    return head.ljust(68, b"\0") + fixed(0.9642, 1.0, 0.8249) + bytes(48) + table + body


def test_colours_are_what_the_profile_says(tmp_path):
    """Display P3's (234, 51, 35) is sRGB's red; a damaged profile changes nothing."""
    for colour, mode in (((234, 51, 35), "RGB"), ((234, 51, 35, 255), "RGBA")):
        picture = Image.new(mode, (8, 8), colour)
        for name in ("a.png", "a.webp", "a.tif"):
            path = saved(picture, tmp_path / name, icc_profile=display_p3(), lossless=True)
            np.testing.assert_allclose(load_image(path)[4, 4], (255, 0, 0), atol=6)
        path = saved(picture, tmp_path / "b.png", icc_profile=b"damaged")
        assert load_image(path)[4, 4].tolist() == [234, 51, 35]
    grey = saved(Image.new("L", (8, 8), 77), tmp_path / "grey.png", icc_profile=display_p3())
    assert load_image(grey)[4, 4].tolist() == [77, 77, 77]
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    pixels = gradient()
    np.testing.assert_array_equal(
        load_image(saved(pixels, tmp_path / "c.png", icc_profile=srgb)), pixels
    )


def test_pictures_of_phones(tmp_path, monkeypatch):
    photo, exif = Image.fromarray(gradient(64, 96)), Image.Exif()
    exif[0x112] = 6
    loaded = load_image(saved(photo, tmp_path / "a.avif", quality=95, exif=exif)).astype(int)
    assert abs(loaded - np.rot90(np.asarray(photo), -1)).mean() < 6
    with monkeypatch.context() as without:
        without.setitem(sys.modules, "pillow_heif", None)
        (tmp_path / "b.jpg").write_bytes(b"\0\0\0\x24ftypheic" + bytes(99))
        with pytest.raises(ModuleNotFoundError, match=r"b.jpg is a HEIC.*pip install pillow-heif"):
            load_image(tmp_path / "b.jpg")
    pytest.importorskip("pillow_heif", reason="needs the extra `heic`").register_heif_opener()
    with pytest.raises(ValueError, match="b.jpg is not a picture|b.jpg is damaged"):
        load_image(tmp_path / "b.jpg")
    loaded = load_image(saved(photo, tmp_path / "c.heic", quality=95)).astype(int)
    assert abs(loaded - np.asarray(photo)).mean() < 6


def test_what_cannot_be_meant_is_told_in_a_sentence(tiny, face, picture, tmp_path):
    for call, said in (
        (lambda: tiny(None), "None is no picture: give one path"),
        (lambda: tiny([tmp_path, tmp_path]), "this list is no picture"),
        (lambda: tiny.reconstruct(3), "this int is no picture"),
        (lambda: Reconstructor.from_pretrained(3), "this int names no file"),
        (lambda: Reconstructor.from_pretrained(face_model=[1]), "this list names no file"),
        (lambda: face.save(None), "None names no file"),
        (lambda: face.to_html(None, picture), "None names no file"),
    ):
        with pytest.raises(TypeError, match=said):
            call()
    with pytest.raises(FileNotFoundError, match="missing: no such file or folder"):
        tiny(tmp_path / "missing")


def test_what_is_printed_is_one_line(tiny, face):
    for thing in (tiny, tiny.model, face):
        assert "\n" not in repr(thing) and len(repr(thing)) < 100
    assert "yaw" in repr(face) and f"{tiny.model.n_vertices} vertices" in repr(tiny.model)


# Cropping


def test_a_crop_of_a_ramp_is_the_ramp():
    """Values that are x (pixel centres at .5) read back as the crop's own coordinates."""
    ramp = np.tile((np.arange(200) + 0.5).round().astype(np.uint8)[:, None], (150, 1, 3))
    for size in (25, 50, 200):  # reduced 4 and 2 times, enlarged twice
        expected = 20.25 + (np.arange(size) + 0.5) * 100 / size
        row = crop(ramp, (20.25, 10.5, 120.25, 110.5), size)[size // 2, 2:-2, 0]
        np.testing.assert_allclose(row, expected[2:-2], atol=1.01)


def test_a_whole_pixel_crop_copies_and_a_smaller_one_is_antialiased():
    np.testing.assert_array_equal(crop(gradient(), (3, 2, 15, 14), 12), gradient()[2:14, 3:15])
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    assert np.ptp(crop(stripes, (0, 0, 64, 64), 16)[2:-2, 2:-2].astype(int)) <= 2


@pytest.mark.parametrize("x", [7.3, -3.5, 25, 40])
@pytest.mark.parametrize("y, side", [(2.1, 10), (-10, 20), (30, 20)])
def test_outside_the_photo_its_edge_is_repeated(x, y, side):
    wide = np.pad(gradient(), ((40, 40), (40, 40), (0, 0)), mode="edge")
    box = np.array((x, y, x + side, y + side))
    np.testing.assert_array_equal(crop(gradient(), box, 16), crop(wide, box + 40, 16))


# Reconstruction


def test_a_face_has_what_its_class_promises(face, tiny):
    model = tiny.model
    assert face.vertices.shape == face.neutral_vertices.shape == (model.n_vertices, 3)
    assert face.vertices.dtype == np.float32
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
    return truncate(face_model, 6, 4)


class Told(torch.nn.Module):
    """Answers zero coefficients and the pose vectors (1 or B, 9) it is told, call after call.

    To the mirror images, the second half of a batch, it gives the mirrored pose, but `doubts` of
    the crop's side off.
    """

    n_identity, n_expression, image_size = 6, 4, 48

    def __init__(self, *poses, doubts=(0.0,)):
        super().__init__()
        self.poses, self.doubts, self.calls = poses, doubts, 0

    def features(self, image):
        return dict(pool5=image)

    def heads(self, features):
        image = features["pool5"]
        pose, doubt = (told[min(self.calls, len(told) - 1)] for told in (self.poses, self.doubts))
        self.calls += 1
        own = pose.float().expand(len(image) // 2, -1)
        pose = torch.cat((own, camera.mirrored_pose(own) + doubt * torch.eye(9)[7]))
        n = len(pose)
        return dict(identity=torch.zeros(n, 6), expression=torch.zeros(n, 4), pose=pose)


def camera_of_a_photo(roll=0.05):
    rotation = camera.euler_to_matrix(torch.tensor([0.3, -0.1, roll]))
    return rotation, torch.tensor(0.6), torch.tensor([230.0, 140.0])


TRUTH = camera_of_a_photo()


def pose_in(box, truth=TRUTH):
    """The pose vector that a perfect network gives for the crop `box` of a photo."""
    rotation, scale, translation = (part[None] for part in truth)
    return camera.encode_pose(
        rotation, scale, translation - torch.tensor([box[:2]]), box[2] - box[0]
    )


def right_box(model, off=0.0, truth=TRUTH):
    """The square that our rule gives a face, moved by a share of its side."""
    points = camera.weak_perspective(model.mean[model.landmarks], *truth)
    box = np.array(camera.crop_box(points).tolist())
    return (box + off * (box[2] - box[0])).tolist()


def test_a_pose_in_the_crop_lands_where_it_belongs_in_the_photo(picture, symmetric):
    expected = camera.weak_perspective(symmetric.mean[symmetric.landmarks], *TRUTH)
    for box in (BOX, (100.0, 20.0, 400.0, 320.0)):
        told = Reconstructor(Told(pose_in(box)), symmetric)(picture, box, refine=False)
        np.testing.assert_allclose(told.image_landmarks, expected, atol=1e-3)
        np.testing.assert_allclose(told.pose.angles_deg, np.degrees([0.3, -0.1, 0.05]), atol=1e-3)
        assert told.pose.scale == pytest.approx(0.6, rel=1e-5) and told.box == box


def test_another_look_is_taken_where_the_landmarks_ask_for_it_and_believed_if_it_agrees_better(
    picture, symmetric
):
    """Boxes are shifted by a share of their side; doubts: of each look, how far images disagree."""
    for off, net, doubts, believed, calls in (
        (0.02, [0.02], [0.0], 0.02, 1),  # close enough
        (0.1, [0.1, 0.0], [0.002, 0.0], 0.0, 2),
        (0.1, [0.1, 0.0], [0.002, 0.02], 0.1, 2),  # refused
        (0.8, [0.8], [0.0], 0.8, 1),  # unbelievable
        (0.1, [0.1], [0.003, 0.002, 0.001, 0.0], None, 3),  # says always: a tenth further off
    ):
        told = Told(*(pose_in(right_box(symmetric, one)) for one in net), doubts=doubts)
        found = Reconstructor(told, symmetric)(picture, right_box(symmetric, off))
        assert told.calls == calls
        if believed is not None:
            assert found.box == pytest.approx(right_box(symmetric, believed), abs=0.2)


def test_only_faces_in_loose_boxes_are_looked_at_again(picture, symmetric):
    """Two faces in one batch, of which one box is right: the other moves alone."""
    right, loose = right_box(symmetric), right_box(symmetric, 0.12)
    net = Told(torch.cat((pose_in(right), pose_in(loose))), pose_in(right), doubts=(0.002, 0.0))
    first, second = Reconstructor(net, symmetric).batch([picture, picture], [right, loose])
    assert first.box == pytest.approx(right) and second.box == pytest.approx(right, abs=0.3)
    np.testing.assert_allclose(first.image_landmarks, second.image_landmarks, atol=0.5)
    assert net.calls == 2


def test_a_plain_reconstructor_takes_the_networks_word(picture, symmetric):
    box = right_box(symmetric, 0.1, camera_of_a_photo(roll=0.6))
    net = untrained()
    told = Reconstructor(net, symmetric, plain=True)(picture, box)
    assert told.box == pytest.approx(box) and told.confidence is None
    crops = torch.from_numpy(crop(picture, box, 48).copy()).permute(2, 0, 1)[None].float() / 255
    with torch.no_grad():
        np.testing.assert_allclose(told.identity, net(crops)["identity"][0], atol=1e-5)


def test_a_tilted_head_is_looked_at_upright(picture, symmetric):
    """The second crop is turned by the roll that was read; what is read there is turned back."""
    truth = camera_of_a_photo(roll=0.5)
    box = right_box(symmetric, truth=truth)
    middle = np.mean(np.reshape(box, (2, 2)), 0)
    cos, sin = np.cos(0.5), np.sin(0.5)
    back = [[cos, -sin], [sin, cos]] @ (truth[2].numpy() - middle)  # y points down: anticlockwise
    upright = camera_of_a_photo(roll=0.0)[0], truth[1], torch.from_numpy(back).float()
    seen_upright = pose_in((np.array(box) - [*middle, *middle]).tolist(), upright)
    net = Told(pose_in(box, truth), seen_upright, doubts=(0.002, 0.0))
    told = Reconstructor(net, symmetric)(picture, box)
    assert net.calls >= 2 and abs(told.turn_deg) == pytest.approx(np.degrees(0.5), abs=0.5)
    assert told.pose.angles_deg[2] == pytest.approx(np.degrees(0.5), abs=0.5)


ASTRONAUT_BOX = (159.4, 67.1, 283.6, 191.3)  # where the detector, and then the landmarks, put it


def test_a_mirrored_photo_gives_the_mirrored_mesh(shipped, picture):
    x0, y0, x1, y1 = ASTRONAUT_BOX
    face = shipped(picture, ASTRONAUT_BOX)
    other = shipped(np.ascontiguousarray(picture[:, ::-1]), (512 - x1, y0, 512 - x0, y1))
    mirrored = shipped.model.mirror(torch.from_numpy(face.vertices)).numpy()
    assert np.linalg.norm(other.vertices - mirrored, axis=1).max() < 0.1
    angles = np.multiply(face.pose.angles_deg, [-1, 1, -1])
    assert other.pose.angles_deg == pytest.approx(angles, abs=0.1)


def test_a_turned_photo_gives_the_turned_answer(shipped, picture):
    """The same mesh, its pose turned; the network's own word is millimetres off."""
    middle, angle = tuple(np.mean(np.reshape(ASTRONAUT_BOX, (2, 2)), 0)), -60
    turned = Image.fromarray(picture).rotate(angle, Image.Resampling.BICUBIC, center=middle)
    before, after = (shipped(photo, ASTRONAUT_BOX) for photo in (picture, turned))
    word = Reconstructor(shipped.network, shipped.model, plain=True)(turned, ASTRONAUT_BOX)
    apart = lambda face: np.linalg.norm(face.vertices - before.vertices, axis=1)[face.region].mean()
    assert after.pose.angles_deg[2] - before.pose.angles_deg[2] == pytest.approx(angle, abs=1)
    assert apart(after) < 0.7 < 2.5 < apart(word)

    stored = after.to_dict()  # whoever crops by its numbers sees the upright face
    box, turn = stored["box_px"], np.radians(stored["box_turn_deg"])
    assert stored["box_turn_deg"] == pytest.approx(-angle, abs=5)
    inner = lambda *given: crop(*given)[10:50, 10:50].astype(float)
    straight = inner(picture, before.box, 60)
    right, wrong = (abs(inner(np.asarray(turned), box, 60, t) - straight) for t in (turn, -turn))
    assert right.mean() < wrong.mean() / 2


def test_faces_in_one_batch_are_the_single_ones(tiny, picture):
    other, box = np.ascontiguousarray(picture[:300, ::-1]), (200.0, 60.0, 340.0, 200.0)
    several = [
        *zip(tiny.reconstruct(picture, [BOX, box], refine=False), (BOX, box), (picture,) * 2),
        *zip(tiny.batch([picture, other], [BOX, box]), (BOX, box), (picture, other)),
    ]
    for i, (one, box, photo) in enumerate(several):
        alone = tiny(photo, box, refine=i >= 2)
        for name in ("vertices", "image_landmarks", "box"):
            np.testing.assert_allclose(getattr(one, name), getattr(alone, name), atol=1e-3)
    assert tiny.batch([], []) == []


def test_confidence_comes_with_the_calibration_of_these_weights_and_no_other(
    files, tiny, face, picture, tmp_path
):
    assert tiny.calibration is None and face.confidence is None
    assert face.to_dict()["confidence"] is None
    weights = shutil.copy(files[0], tmp_path / "tiny.safetensors")
    curves = (1e-3, 1e3), (1.0, 50.0), (2.0, 9.0)
    signs = tiny.estimate([np.asarray(picture)], [BOX])["signs"][0]
    kinds = faint(len(signs)), faint(len(signs), bias=-3.0)
    calibration = Calibration(tiny.version, *curves, *kinds)
    calibration.save(confidence.beside(weights))
    calibrated = Reconstructor.from_pretrained(weights, files[1])
    told = calibrated(picture, BOX)
    assert calibrated.version == tiny.version and told.confidence.doubtful and told.doubtful
    assert 0 < told.confidence.score < 1
    np.testing.assert_allclose(told.vertices, face.vertices, atol=1e-3)
    stored = json.loads(json.dumps(told.to_dict()["confidence"]))
    assert stored["score"] == pytest.approx(told.confidence.score, abs=1e-3)

    save_network(untrained(seed=1), weights)
    assert Reconstructor.from_pretrained(weights, files[1]).calibration is None
    confidence.beside(weights).write_text("{")
    with pytest.raises(ValueError, match="tiny.confidence.json"):
        Reconstructor.from_pretrained(weights, files[1])


def test_missing_and_mismatched_weights_and_an_unknown_device(files, tmp_path):
    with pytest.raises(FileNotFoundError, match="name none for the shipped"):
        Reconstructor.from_pretrained(tmp_path / "absent.safetensors", files[1])
    morphable.toy_model(n_identity=5, dtype=torch.float32).save(tmp_path / "other.npz")
    with pytest.raises(ValueError, match="6 identity and 4 expression .* 5 identity and 4"):
        Reconstructor.from_pretrained(files[0], tmp_path / "other.npz")
    with pytest.raises(ValueError, match="device 'abacus' .* choose cpu"):
        Reconstructor.from_pretrained(*files, device="abacus")


# Results (what meshes are saved as: test_mesh_files.py, pages: test_viewer.py)


def test_numbers_come_back_from_json_and_no_other_kind_is_written(face, tmp_path):
    face.save(tmp_path / "face.json")
    stored = json.loads((tmp_path / "face.json").read_text())
    np.testing.assert_allclose(stored["landmarks_px"], face.image_landmarks, atol=0.006)
    np.testing.assert_allclose(list(stored["pose"].values()), face.pose.angles_deg, atol=0.006)
    with pytest.raises(ValueError, match="choose .glb, .obj, .ply, .stl"):
        face.save(tmp_path / "face.fbx")
    assert [path.name for path in tmp_path.iterdir()] == ["face.json"]


def test_the_overlay_changes_the_face_and_nothing_else(toy, picture):
    told = Reconstructor(Told(pose_in(BOX)), toy)(picture, BOX, refine=False)
    overlay = told.overlay(picture)
    assert overlay.shape == picture.shape and overlay.dtype == np.uint8
    changed = np.argwhere((overlay != picture).any(2))[:, ::-1]
    points = told.pose.project(told.vertices)
    assert len(changed) > 1000
    assert (changed > points.min(0) - 4).all() and (changed < points.max(0) + 4).all()


def test_the_shipped_overlay_is_large_and_never_hides_the_photo(shipped, picture):
    face = shipped(picture)
    drawn = face.overlay(picture)
    low, high = face.image_landmarks.min(0).astype(int), face.image_landmarks.max(0).astype(int)
    inside = np.s_[low[1] : high[1], low[0] : high[0]]
    assert 0.1 < (drawn != picture).any(2)[inside].mean()
    alike = np.corrcoef(drawn[inside].ravel(), picture[inside].ravel())[0, 1]
    assert alike > 0.6
    assert max(face.overlay(picture, close=True).shape) == 900


def test_a_smile_stays_a_smile_where_it_is_tilted_dark_or_grey(shipped, picture):
    """Found: .72 to .81 of the units that raise the corners of the mouth, on both sides."""
    photo = Image.fromarray(picture)
    grey = np.asarray(photo.convert("L")).astype(np.uint16) * 257  # as a scan of 16 bits
    tilted = [photo.rotate(angle, Image.Resampling.BICUBIC) for angle in (30, -30)]
    dark = Image.fromarray((0.3 * picture).astype(np.uint8))
    smiles = [shipped.model.unit_names.index(f"mouthSmile{side}") for side in ("Left", "Right")]
    for one in (photo, *tilted, dark, Image.fromarray(grey)):
        assert unit_strengths(shipped(one), shipped.model)[0][smiles].min() > 0.6


def test_the_shipped_weights_put_the_mesh_on_the_astronaut(shipped, picture):
    """Her eyes, nose and mouth, read off the photo by hand (px)."""
    eyes_nose_mouth = [(202, 101), (248, 103.5), (223.5, 126.5), (225, 145)]
    face = shipped(picture)
    assert reconstructor.WEIGHTS.stat().st_size < 15e6
    groups = [range(36, 42), range(42, 48), [30], range(48, 68)]
    centres = np.array([face.image_landmarks[list(group)].mean(0) for group in groups])
    side = face.box[2] - face.box[0]
    assert np.linalg.norm(centres - eyes_nose_mouth, axis=1).max() < 0.08 * side
    assert (np.abs(face.pose.angles_deg) < [30, 25, 20]).all()  # yaw, pitch, roll
