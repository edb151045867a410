import json
import re
import sys
from collections import namedtuple

import numpy as np
import pygltflib
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage.data import astronaut
from test_mesh_files import without_units, read, validate  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from e2far import camera
from e2far.cli import app
from e2far.photo import detection, squares, video, video_files
from e2far.synthesis.studio import Studio

av = pytest.importorskip("av", reason="needs the extra `video`")
COUNT, RATE, SIZE = 16, 20.0, 112
GAP = slice(6, 9)


def grey(height=SIZE + 20, width=3 * SIZE // 2):
    return np.full((height, width, 3), 90, np.uint8)


Clip = namedtuple("Clip", "path pictures identity expression landmarks")


@pytest.fixture(scope="module")
def clip(face_model, tmp_path_factory):
    """One person opens the mouth, smiles and turns, smoothly, moving through a grey picture."""
    studio = Studio(face_model, SIZE, without=("obstacles", "glasses"))
    person = studio.dress(*studio.draw_person(0, "test", 3))
    pictures, expression, landmarks = [], [], []
    for t in np.arange(COUNT) / COUNT:
        units = dict.fromkeys(("mouthSmileLeft", "mouthSmileRight"), 0.8 * t)
        units["jawOpen"] = 0.4 - 0.4 * np.cos(2 * np.pi * t)
        strengths = [units.get(name, 0.0) for name in face_model.unit_names]
        expression.append(studio.units_to_modes @ np.array(strengths, np.float32))
        angles = np.array([0.3 * np.sin(4 * t), 0.08 * t, 0.06 * np.cos(3 * t)])
        scene = studio.draw_scene(person, expression[-1], angles, np.random.default_rng(3))
        row, x = studio.expose(scene), round(SIZE / 2 * t)
        pictures.append(grey())
        pictures[-1][10 : 10 + SIZE, x : x + SIZE] = row["image"]
        landmarks.append(row["landmarks"] + [x, 10])
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    video_files.write(path, pictures, RATE)
    return Clip(path, pictures, person["identity"], np.array(expression), np.array(landmarks))


@pytest.fixture(scope="module")
def raw(clip, shipped):
    return video.reconstruct(clip.path, shipped, smooth=0)


@pytest.fixture(scope="module")
def track(clip, shipped):
    return video.reconstruct(clip.path, shipped)


def error_mm(basis, difference):
    """Mean distance in mm that differences (T, K) of coefficients make, over all pictures."""
    moved = np.einsum("ndk,tk->tnd", basis.double().numpy(), np.atleast_2d(difference))
    return np.linalg.norm(moved, axis=-1).mean()


# Files


def test_frames_come_back_in_order_and_in_time(clip, tmp_path):
    times, found = zip(*video_files.frames(clip.path))
    np.testing.assert_allclose(times, np.arange(COUNT) / RATE, atol=1e-3)
    assert np.shape(found) == np.shape(clip.pictures) and found[0].dtype == np.uint8
    assert (abs(np.array(found, int) - clip.pictures).mean((1, 2, 3)) < 4).all()
    some = list(video_files.frames(clip.path, every=3, limit=4))
    np.testing.assert_allclose([time for time, _ in some], np.arange(4) * 3 / RATE, atol=1e-3)
    np.testing.assert_array_equal([picture for _, picture in some], found[:12:3])
    video_files.write(tmp_path / "odd.mp4", [grey(51, 77)] * 3, 12.5)  # an odd row is left out
    assert next(video_files.frames(tmp_path / "odd.mp4"))[1].shape == (50, 76, 3)


def test_a_video_held_upright_is_turned(tmp_path):
    """The file says by how much its pictures are to be turned back, counterclockwise."""
    corner = grey(64, 96)
    corner[:32, :32] = 250
    for degrees, place in ((0, (0, 0)), (90, (-1, 0)), (-90, (0, -1)), (180, (-1, -1))):
        with av.open(str(tmp_path / "turned.mp4"), "w") as container:
            stream = container.add_stream("libx264", rate=25)
            stream.width, stream.height, stream.pix_fmt = 96, 64, "yuv420p"
            stream.set_display_rotation(degrees)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(corner, format="rgb24")))
            container.mux(stream.encode())
        picture = next(video_files.frames(tmp_path / "turned.mp4"))[1]
        assert picture.shape[:2] == ((64, 96) if degrees % 180 == 0 else (96, 64))
        assert picture[place].mean() > 200
        assert (picture > 200).mean() == pytest.approx(1 / 6, abs=0.03)


def sound(path):
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        silence = np.zeros((1, 800), np.int16)
        frame = av.AudioFrame.from_ndarray(silence, format="s16", layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_files_that_are_no_videos_and_wrong_numbers(clip, shipped, tmp_path, monkeypatch):
    content = clip.path.read_bytes()
    third = len(content) // 3
    (tmp_path / "cut.mp4").write_bytes(content[: 2 * third])
    (tmp_path / "spoilt.mp4").write_bytes(content[:third] + bytes(third) + content[2 * third :])
    (tmp_path / "empty.mp4").write_bytes(b"")
    sound(tmp_path / "sound.wav")
    for name, kind, said, wrong in (
        ("cut.mp4", ValueError, "cut.mp4 is not a video", {}),
        ("spoilt.mp4", ValueError, "spoilt.mp4 is damaged after", {}),
        ("empty.mp4", ValueError, "empty.mp4 is not a video", {}),
        ("sound.wav", ValueError, "sound.wav .* only sound", {}),
        ("absent.mp4", FileNotFoundError, "absent.mp4: no such file", {}),
        ("", ValueError, "folder", {}),
        (clip.path, ValueError, "every=0", dict(every=0)),
        (clip.path, ValueError, "limit=0", dict(limit=0)),
        (clip.path, ValueError, "smooth=nan", dict(smooth=np.nan)),
        (clip.path, ValueError, "does not lie", dict(box=(900, 900, 990, 990))),
    ):
        with pytest.raises(kind, match=said) as error:
            video.reconstruct(tmp_path / name, shipped, **wrong)
        assert "\n" not in str(error.value)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install '.\[video\]'"):
        next(video_files.frames(clip.path))


# Over time


def test_the_middle_is_the_mean_of_what_is_even_and_ignores_what_is_far_off():
    rng = np.random.default_rng(0)
    cross = np.concatenate((np.eye(5), -np.eye(5))) + 3.0
    np.testing.assert_allclose(video.middle(cross, np.ones(10)), np.full(5, 3.0), atol=1e-6)
    np.testing.assert_allclose(video.middle(cross[:1], np.ones(1)), cross[0])
    near = rng.standard_normal((30, 5)) * 0.1
    rows, weight = np.concatenate((near, np.full((3, 5), 50.0))), np.ones(33)
    assert np.linalg.norm(video.middle(rows, weight) - near.mean(0)) < 0.1
    weight[:30] = 1e-3
    assert np.linalg.norm(video.middle(rows, weight) - 50) < 0.1  # who is believed counts


def test_smoothing_keeps_even_motion_takes_noise_away_and_does_not_lag():
    rng, one = np.random.default_rng(0), np.ones(100)
    times = np.sort(rng.uniform(0, 4, 100))
    line = np.stack((times, 3 - 2 * times), 1)
    smooth = video.smoothed(times, line, rng.uniform(0.1, 1, 100), 0.2)
    np.testing.assert_allclose(smooth, line, atol=1e-9)
    noise = rng.standard_normal((100, 2))
    assert video.smoothed(times, noise, one, 0.2).std() < 0.5 * noise.std()
    for width in (0, 1e-9):  # nobody is near
        np.testing.assert_allclose(video.smoothed(times, noise, one, width), noise, atol=1e-9)
    even = np.arange(100) / 25
    forth, back = (video.smoothed(even, v, one, 0.1) for v in (noise, noise[::-1]))
    np.testing.assert_allclose(forth, back[::-1], atol=1e-4)
    spike, weight = 100.0 * np.eye(100)[:, 20:21], np.where(np.arange(100) == 20, 1e-6, 1)
    assert abs(video.smoothed(even, spike, weight, 0.1)).max() < 1e-2


def test_one_identity_and_a_calm_expression_are_not_worse_than_single_frames(
    clip, raw, track, shipped
):
    assert raw.found.all() and len(raw) == COUNT
    pictures = [picture for _, picture in video_files.frames(clip.path)]
    singles = np.array([face.identity for face in shipped.batch(pictures, raw.boxes, refine=False)])
    basis = shipped.model.identity_basis[shipped.model.region]
    assert error_mm(basis, raw.identity - clip.identity) < error_mm(basis, singles - clip.identity)
    assert np.ptp(singles, axis=0).max() > 0.01
    np.testing.assert_array_equal(*(raw.face(i).neutral_vertices for i in (0, COUNT - 1)))

    basis = shipped.model.expression_basis[shipped.model.region]
    jitter = lambda track: error_mm(basis, np.diff(track.expression, 2, axis=0))
    error = lambda track: error_mm(basis, track.expression - clip.expression)
    assert jitter(track) < 0.7 * jitter(raw) and error(track) <= error(raw)
    for one in (raw, track):
        seen = np.array([one.face(i).image_landmarks for i in range(COUNT)])
        assert np.linalg.norm(seen - clip.landmarks, axis=-1).mean() < 0.04 * SIZE
    squared = track.rotation @ track.rotation.transpose(0, 2, 1)
    np.testing.assert_allclose(squared, np.tile(np.eye(3), (COUNT, 1, 1)), atol=1e-5)


def test_the_face_is_detected_once_and_then_followed(clip, shipped, raw, monkeypatch):
    calls, detect = [], detection.detect
    monkeypatch.setattr(detection, "detect", lambda image: calls.append(1) or detect(image))
    video.reconstruct(clip.path, shipped, limit=5)
    assert len(calls) == 1
    told = video.reconstruct(clip.path, shipped, box=raw.boxes[0] + 5, smooth=0)
    assert len(calls) == 1 and told.found.all()
    assert told.boxes[-1, 0] - told.boxes[0, 0] > SIZE / 4  # it moved, and the box with it
    np.testing.assert_allclose(told.boxes[-1], raw.boxes[-1], atol=3)


def test_a_turned_head_stays_turned_from_frame_to_frame(shipped):
    """The next frame is looked at as the last one ended: the same picture, the same answer."""
    upright = Image.fromarray(astronaut())
    turned = np.asarray(upright.rotate(-35, Image.Resampling.BICUBIC, center=(221.5, 129)))
    roll = lambda seen: camera.matrix_to_euler(torch.from_numpy(seen["rotation"]))[0, 2].item()
    seen = first = shipped.estimate([turned], [(159.4, 67.1, 283.6, 191.3)])
    assert abs(first["turn"]) == pytest.approx(0.6, abs=0.1)
    for _ in range(3):
        seen = video.follow(shipped, turned, squares.next_square(seen))
        assert seen["turn"] == pytest.approx(first["turn"], abs=0.09)
        assert roll(seen) == pytest.approx(roll(first), abs=0.026)


def test_a_lost_face_is_bridged_and_found_again(clip, shipped, raw, tmp_path):
    pictures = [grey() if i in range(COUNT)[GAP] else one for i, one in enumerate(clip.pictures)]
    video_files.write(tmp_path / "lost.mp4", pictures, RATE)
    bridged = video.reconstruct(tmp_path / "lost.mp4", shipped, smooth=0)
    found = bridged.found
    assert list(np.flatnonzero(~found)) == list(range(COUNT)[GAP])
    assert np.isnan(bridged.boxes[~found]).all() and bridged.confidence[GAP] == (None,) * 3
    np.testing.assert_allclose(bridged.boxes[found], raw.boxes[found], atol=SIZE / 10)
    for field in ("rotation", "scale", "translation"):
        assert np.isfinite(getattr(bridged, field)).all()

    before, after = bridged.expression[[GAP.start - 1, GAP.stop]]
    between = before + np.array([[0.25], [0.5], [0.75]]) * (after - before)
    np.testing.assert_allclose(bridged.expression[GAP], between, atol=1e-5)

    told = bridged.to_dict()
    assert told["frames_without_a_face"] == 3 and told["frames"][GAP.start]["box_px"] is None
    assert [row["found"] for row in told["frames"]] == list(found)
    video_files.save(bridged, tmp_path, ["overlay"])
    overlay = [picture for _, picture in video_files.frames(tmp_path / "lost_overlay.mp4")]
    assert abs(overlay[GAP.start].astype(int) - 90).max() < 10
    assert abs(overlay[0].astype(int) - pictures[0]).mean() > 10


# Outputs


def at_key(document, key):
    """Vertices (N, 3) in mm of an animated GLB at one key, as glTF says: morph, then turn."""
    animation, mesh = document.animations[0], document.meshes[0]
    moves = {
        channel.target.path: read(document, animation.samplers[channel.sampler].output)
        for channel in animation.channels
    }
    vertices = read(document, mesh.primitives[0].attributes.POSITION).astype(float)
    if "weights" in moves:
        shares = moves["weights"].reshape(-1, len(mesh.weights))[key]
        targets = [read(document, target["POSITION"]) for target in mesh.primitives[0].targets]
        vertices += np.einsum("j,jnd->nd", shares, targets)
    return 1000 * Rotation.from_quat(moves["rotation"][key]).apply(vertices)


def test_what_is_saved_says_what_was_found(track, tmp_path, validate):
    numbers, overlay, mesh = paths = video_files.save(track, tmp_path / "new")
    assert [path.name for path in paths] == ["clip.json", "clip_overlay.mp4", "clip.glb"]
    assert set((tmp_path / "new").iterdir()) == set(paths)
    stored = json.loads(numbers.read_text())
    np.testing.assert_allclose(stored["identity"], track.identity, atol=1e-4)
    assert len(stored["frames"]) == COUNT and stored["face_model"] == "makehuman"
    for i, row in enumerate(stored["frames"]):
        assert row["time_s"] == pytest.approx(i / RATE, abs=1e-3)
        assert len(row["units"]) == len(stored["unit_names"])
        assert 0 < row["confidence"]["score"] < 1
        np.testing.assert_allclose(row["expression"], track.expression[i], atol=1e-4)
        np.testing.assert_allclose(row["landmarks_px"], track.face(i).image_landmarks, atol=0.01)
    times, _ = zip(*video_files.frames(overlay))
    np.testing.assert_allclose(times, track.times, atol=2e-3)

    report = validate(mesh)
    assert report["issues"]["messages"] == [] and report["info"]["animationCount"] == 1
    assert report["info"]["hasMorphTargets"] and report["info"]["hasTextures"]
    document = pygltflib.GLTF2.load(mesh)
    keys = read(document, document.animations[0].samplers[0].input)
    np.testing.assert_allclose(keys[:, 0], track.times, atol=1e-6)
    basis = track.model.units.cpu().numpy()
    for key in (0, COUNT // 2):  # the sliders' shape exactly, and near the one that was found
        face, turn = track.face(key), track.rotation[key].T
        shape = face.neutral_vertices + basis @ track.unit_strengths()[key]
        for wanted, bound in ((shape, 0.01), (face.vertices, 0.2)):
            apart = at_key(document, key)[: len(face.vertices)] - wanted @ turn
            assert np.linalg.norm(apart, axis=1)[face.region].mean() < bound


def test_a_face_model_without_units_is_animated(toy, clip, validate, tmp_path):
    turns = Rotation.from_euler("y", [[0.0], [20.0], [70.0]], degrees=True).as_matrix()
    made = video.Track(
        clip.path,
        1,
        without_units(toy),
        times=np.arange(3) / RATE,
        found=np.array([True, True, False]),
        boxes=np.zeros((3, 4)),
        turns_deg=np.zeros(3),
        confidence=(None,) * 3,
        identity=np.zeros(6, np.float32),
        expression=np.zeros((3, 4), np.float32),
        rotation=turns.astype(np.float32),
        scale=np.full(3, 0.4, np.float32),
        translation=np.full((3, 2), 60, np.float32),
    )
    (path,) = video_files.save(made, tmp_path, ["glb"])
    assert validate(path)["issues"]["messages"] == []
    document = pygltflib.GLTF2.load(path)
    assert [one.target.path for one in document.animations[0].channels] == ["rotation"]
    wanted = toy.mean.numpy() @ turns[2].T
    np.testing.assert_allclose(at_key(document, 2)[: len(wanted)], wanted, atol=1e-3)


# The command line


def test_the_command_writes_what_save_does_and_ends_with_one_line_where_it_cannot(clip, tmp_path):
    run = lambda *arguments: CliRunner().invoke(app, ["video", *map(str, arguments)])
    done = run(clip.path, "--out", tmp_path / "out", "--limit", 3, "--only", "json,overlay")
    assert done.exit_code == 0 and "3 frames, 0 of them without a face" in done.stdout
    numbers, overlay = sorted((tmp_path / "out").iterdir())
    assert (numbers.name, overlay.name) == ("clip.json", "clip_overlay.mp4")
    assert len(json.loads(numbers.read_text())["frames"]) == 3
    video_files.write(tmp_path / "empty.mp4", [grey()] * 2, RATE)
    for arguments, said in (
        ([tmp_path / "empty.mp4"], "no face found in empty.mp4: .*--box"),
        (["absent.mp4"], "absent.mp4: no such file"),
        ([clip.path, "--only", "obj"], "no 'obj'"),
        ([clip.path, "--box", "1,2"], "--box"),
    ):
        failed = run(*arguments, "--out", tmp_path / "none")
        assert failed.exit_code == 1 and re.match(f"e2far: .*{said}", failed.stderr)
        assert failed.stderr.strip().count("\n") == 0
    assert not (tmp_path / "none").exists()


def test_noise_is_no_face_and_another_face_at_once_is_told(shipped, tmp_path):
    rng, picture = np.random.default_rng(0), astronaut()[30:240, 120:330]
    noise = rng.integers(0, 256, picture.shape, dtype=np.uint8)
    still, other = [picture] * 3, [255 - picture[:, ::-1] // 2] * 3  # a brighter, mirrored one
    video_files.write(tmp_path / "noisy.mp4", [*still, noise, *still], RATE)
    track = video.reconstruct(tmp_path / "noisy.mp4", shipped)
    assert list(np.flatnonzero(~track.found)) == [3] and not track.cuts
    video_files.write(tmp_path / "noise.mp4", [noise] * 2, RATE)
    with pytest.raises(detection.NoFace):
        video.reconstruct(tmp_path / "noise.mp4", shipped)
    seen = shipped.estimate([picture], [(30, 30, 160, 160)])
    before = video.glimpse(picture, squares.square_of(seen))
    last = squares.next_square(seen)
    assert video.follow(shipped, noise, last, before) is None
    assert abs(video.glimpse(other[0], last) - before).mean() > video.CUT


def test_a_file_of_the_users_own_is_not_replaced(clip, tmp_path):
    (tmp_path / "clip.glb").write_bytes(b"glTF, as another program wrote it")
    run = ["video", str(clip.path), "--out", str(tmp_path), "--only", "glb"]
    failed = CliRunner().invoke(app, run)
    assert failed.exit_code == 1 and "clip.glb is there already" in failed.stderr
