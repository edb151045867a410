import json
import sys

import numpy as np
import pygltflib
import pytest
import torch
from PIL import Image
from scipy.spatial.transform import Rotation
from skimage.data import astronaut
from test_mesh_files import read, validate  # noqa: F401 (a fixture)
from typer.testing import CliRunner

from e2far import morphable
from e2far.cli import app
from e2far.photo import detection, squares, video, video_files
from e2far.photo.detection import NoFace
from e2far.photo.reconstructor import Reconstructor
from e2far.synthesis.studio import Studio

av = pytest.importorskip("av", reason="needs the extra `video`")
COUNT, RATE, SIZE = 16, 20.0, 112
GAP = slice(6, 9)


def grey(height=SIZE, width=3 * SIZE // 2):
    return np.full((height, width, 3), 90, np.uint8)


@pytest.fixture(scope="module")
def clip(face_model, tmp_path_factory):
    """One person who opens the mouth, smiles and turns, all smoothly, while moving through a grey picture: the video's path, its pictures, and the true identity, expressions and landmarks."""
    studio = Studio(face_model, SIZE, without=("obstacles", "glasses"))
    person, pictures, expression, landmarks = (
        studio.dress(*studio.draw_person(0, "test", 3)),
        [],
        [],
        [],
    )
    for i in range(COUNT):
        t = i / COUNT
        units = dict(
            jawOpen=0.4 - 0.4 * np.cos(2 * np.pi * t),
            mouthSmileLeft=0.8 * t,
            mouthSmileRight=0.8 * t,
        )
        expression.append(
            studio.units_to_modes
            @ np.array([units.get(name, 0.0) for name in face_model.unit_names], np.float32)
        )
        angles = np.array([0.3 * np.sin(4 * t), 0.08 * t, 0.06 * np.cos(3 * t)])
        scene = studio.draw_scene(person, expression[-1], angles, np.random.default_rng(1))
        row = studio.expose(scene)
        pictures.append(grey(SIZE + 20))
        x = round(SIZE / 2 * t)
        pictures[-1][10 : 10 + SIZE, x : x + SIZE] = row["image"]
        landmarks.append(row["landmarks"] + [x, 10])
    path = tmp_path_factory.mktemp("video") / "clip.mp4"
    video_files.write(path, pictures, RATE)
    return path, pictures, person["identity"], np.array(expression), np.array(landmarks)


@pytest.fixture(scope="module")
def shipped():
    return Reconstructor.from_pretrained()


@pytest.fixture(scope="module")
def raw(clip, shipped):
    return video.reconstruct(clip[0], shipped, smooth=0)


@pytest.fixture(scope="module")
def track(clip, shipped):
    return video.reconstruct(clip[0], shipped)


def error_mm(basis, difference):
    """Mean distance (T,) in mm that differences (T, K) of coefficients make."""
    return np.linalg.norm(
        np.einsum("ndk,tk->tnd", basis.double().numpy(), np.atleast_2d(difference)), axis=-1
    ).mean(1)


# Files


def test_frames_come_back_in_order_and_in_time(clip):
    path, pictures, *_ = clip
    times, found = zip(*video_files.frames(path))
    np.testing.assert_allclose(times, np.arange(COUNT) / RATE, atol=1e-3)
    for one, picture in zip(found, pictures, strict=True):
        assert (
            one.shape == picture.shape
            and one.dtype == np.uint8
            and abs(one.astype(int) - picture).mean() < 4
        )
    some = list(video_files.frames(path, every=3, limit=4))
    np.testing.assert_allclose([time for time, _ in some], np.arange(4) * 3 / RATE, atol=1e-3)
    assert all(np.array_equal(picture, found[3 * i]) for i, (_, picture) in enumerate(some))


def test_a_video_held_upright_is_turned(tmp_path):
    """The camera was held a quarter turn, and the file says by how much pictures are to be turned back, counterclockwise."""
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
        assert (
            picture.shape[:2] == ((64, 96) if degrees % 180 == 0 else (96, 64))
            and picture[place].mean() > 200
            and (picture > 200).mean() == pytest.approx(1 / 6, abs=0.03)
        )


def test_an_odd_last_row_and_column_are_left_out(tmp_path):
    video_files.write(tmp_path / "odd.mp4", [grey(51, 77)] * 3, 12.5)
    assert [picture.shape for _, picture in video_files.frames(tmp_path / "odd.mp4")] == [
        (50, 76, 3)
    ] * 3


def sound(path):
    with av.open(str(path), "w", format="wav") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 800), np.int16), format="s16", layout="mono"
        )
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))
        container.mux(stream.encode())


def test_files_that_are_no_videos(clip, tmp_path):
    content = clip[0].read_bytes()
    third = len(content) // 3
    (tmp_path / "cut.mp4").write_bytes(content[: 2 * third])
    (tmp_path / "spoilt.mp4").write_bytes(content[:third] + bytes(third) + content[2 * third :])
    (tmp_path / "text.mp4").write_text("this is a text file\n" * 9)
    (tmp_path / "empty.mp4").write_bytes(b"")
    sound(tmp_path / "sound.wav")
    for name, said in (
        ("cut.mp4", "not a video"),
        ("spoilt.mp4", "damaged after"),
        ("text.mp4", "not a video"),
        ("empty.mp4", "not a video"),
        ("sound.wav", "only sound"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            list(video_files.frames(tmp_path / name))
        assert name in str(error.value) and "\n" not in str(error.value)
    with pytest.raises(FileNotFoundError, match="absent.mp4: no such file"):
        next(video_files.frames(tmp_path / "absent.mp4"))
    with pytest.raises(ValueError, match="folder"):
        next(video_files.frames(tmp_path))


def test_wrong_numbers_are_named(clip, shipped):
    for wrong, said in (
        (dict(every=0), "every=0"),
        (dict(limit=0), "limit=0"),
        (dict(smooth=-1.0), "smooth=-1"),
        (dict(smooth=np.nan), "smooth=nan"),
        (dict(box=(900, 900, 990, 990)), "does not lie"),
    ):
        with pytest.raises(ValueError, match=said) as error:
            video.reconstruct(clip[0], shipped, **wrong)
        assert "\n" not in str(error.value)


def test_without_the_package_the_extra_is_named(clip, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match=r"pip install -e '\.\[video\]'"):
        next(video_files.frames(clip[0]))


# Over time


def test_the_middle_is_the_mean_of_what_is_even_and_ignores_what_is_far_off():
    rng = np.random.default_rng(0)
    cross = np.concatenate((np.eye(5), -np.eye(5))) + 3.0
    np.testing.assert_allclose(video.middle(cross, np.ones(10)), np.full(5, 3.0), atol=1e-6)
    np.testing.assert_allclose(video.middle(cross[:1], np.ones(1)), cross[0])
    near = rng.standard_normal((30, 5)) * 0.1
    rows = np.concatenate((near, np.full((3, 5), 50.0)))
    assert (
        np.linalg.norm(video.middle(rows, np.ones(33)) - near.mean(0))
        < 0.1
        < np.linalg.norm(rows.mean(0) - near.mean(0))
    )
    weight = np.where(np.arange(33) < 30, 1e-3, 1.0)
    assert np.linalg.norm(video.middle(rows, weight) - 50) < 0.1  # who is believed counts
    far = rng.standard_normal((21, 3))
    total = lambda point: np.linalg.norm(far - point, axis=1).sum()
    middle = video.middle(far, np.ones(21))
    assert all(
        total(middle) <= total(middle + shift) + 1e-9
        for shift in rng.standard_normal((50, 3)) * 0.05
    )


def test_smoothing_keeps_even_motion_and_takes_noise_away():
    rng = np.random.default_rng(0)
    times = np.sort(rng.uniform(0, 4, 100))
    line = np.stack((times, 3 - 2 * times), 1)
    np.testing.assert_allclose(
        video.smoothed(times, line, rng.uniform(0.1, 1, 100), 0.2), line, atol=1e-9
    )
    noise = rng.standard_normal((100, 2))
    assert video.smoothed(times, noise, np.ones(100), 0.2).std() < 0.5 * noise.std()
    np.testing.assert_array_equal(video.smoothed(times, noise, np.ones(100), 0), noise)
    np.testing.assert_allclose(
        video.smoothed(times, noise, np.ones(100), 1e-9), noise, atol=1e-9
    )  # nobody is near


def test_smoothing_does_not_lag_and_weighs():
    times, values = np.arange(40) / 25, np.random.default_rng(0).standard_normal((40, 3))
    forth, back = (
        video.smoothed(times, values, np.ones(40), 0.1),
        video.smoothed(times, values[::-1], np.ones(40), 0.1),
    )
    np.testing.assert_allclose(forth, back[::-1], atol=1e-4)
    spike, weight = np.zeros((40, 1)), np.ones(40)
    spike[20], weight[20] = 100.0, 1e-6
    assert abs(video.smoothed(times, spike, weight, 0.1)).max() < 1e-2


def test_the_fixed_identity_is_not_worse_than_that_of_single_frames(clip, raw, shipped):
    path, _, identity, *_ = clip
    assert raw.found.all() and len(raw) == COUNT
    pictures = [picture for _, picture in video_files.frames(path)]
    singles = np.array([face.identity for face in shipped.batch(pictures, raw.boxes, refine=False)])
    basis = shipped.model.identity_basis[shipped.model.region]
    assert error_mm(basis, raw.identity - identity) < error_mm(basis, singles - identity).mean()
    assert np.ptp(singles, axis=0).max() > 0.01
    np.testing.assert_array_equal(
        raw.face(0).neutral_vertices, raw.face(COUNT - 1).neutral_vertices
    )


def test_smoothing_calms_the_expression_without_moving_it_away(clip, raw, track, shipped):
    *_, truth, landmarks = clip
    basis = shipped.model.expression_basis[shipped.model.region]
    jitter = lambda expression: error_mm(basis, np.diff(expression, 2, axis=0)).mean()
    assert jitter(track.expression) < 0.7 * jitter(raw.expression)
    assert (
        error_mm(basis, track.expression - truth).mean()
        <= error_mm(basis, raw.expression - truth).mean()
    )
    for one in (raw, track):
        seen = np.array([one.face(i).image_landmarks for i in range(COUNT)])
        assert np.linalg.norm(seen - landmarks, axis=-1).mean() < 0.04 * SIZE
    np.testing.assert_allclose(
        track.rotation @ track.rotation.transpose(0, 2, 1),
        np.broadcast_to(np.eye(3), (COUNT, 3, 3)),
        atol=1e-5,
    )


def test_the_face_is_detected_once_and_then_followed(clip, shipped, raw, monkeypatch):
    calls = []
    monkeypatch.setattr(
        detection, "detect", lambda image, detect=detection.detect: calls.append(1) or detect(image)
    )
    video.reconstruct(clip[0], shipped)
    assert len(calls) == 1
    told = video.reconstruct(clip[0], shipped, box=raw.boxes[0] + 5, smooth=0)
    assert (
        len(calls) == 1 and told.found.all() and told.boxes[-1, 0] - told.boxes[0, 0] > SIZE / 4
    )  # it moved, and the box with it
    np.testing.assert_allclose(told.boxes[-1], raw.boxes[-1], atol=3)


def test_a_lost_face_is_bridged_and_found_again(clip, shipped, raw, tmp_path):
    _, pictures, _, truth, _ = clip
    video_files.write(
        tmp_path / "lost.mp4",
        [
            grey(SIZE + 20) if i in range(COUNT)[GAP] else picture
            for i, picture in enumerate(pictures)
        ],
        RATE,
    )
    bridged = video.reconstruct(tmp_path / "lost.mp4", shipped, smooth=0)
    lost = ~bridged.found
    assert (
        list(np.flatnonzero(lost)) == list(range(COUNT)[GAP])
        and np.isnan(bridged.boxes[lost]).all()
        and bridged.confidence[GAP] == (None,) * 3
    )
    before, after = bridged.expression[[GAP.start - 1, GAP.stop]]
    np.testing.assert_allclose(
        bridged.expression[GAP],
        before + np.array([[0.25], [0.5], [0.75]]) * (after - before),
        atol=1e-5,
    )
    basis = shipped.model.expression_basis[shipped.model.region]
    assert (
        error_mm(basis, bridged.expression[GAP] - truth[GAP]).mean()
        < 0.7 * error_mm(basis, truth[GAP]).mean()
    )
    np.testing.assert_allclose(bridged.boxes[~lost], raw.boxes[~lost], atol=SIZE / 10)
    for field in ("rotation", "scale", "translation"):
        assert np.isfinite(getattr(bridged, field)).all()
    rows = bridged.to_dict()
    assert (
        rows["frames_without_a_face"] == 3
        and [row["found"] for row in rows["frames"]] == list(bridged.found)
        and rows["frames"][GAP.start]["box_px"] is None
    )
    video_files.save(bridged, tmp_path, ["overlay"])
    overlay = [picture for _, picture in video_files.frames(tmp_path / "lost_overlay.mp4")]
    assert (
        abs(overlay[GAP.start].astype(int) - 90).max() < 10
        and abs(overlay[0].astype(int) - pictures[0]).mean() > 10
    )


def test_a_video_without_a_face(shipped, tmp_path):
    video_files.write(tmp_path / "empty.mp4", [grey()] * 2, RATE)
    with pytest.raises(NoFace, match="no face found in empty.mp4: .*--box"):
        video.reconstruct(tmp_path / "empty.mp4", shipped)


# Outputs


def at_key(document, key):
    """Vertices (N, 3) of an animated GLB at one key of its animation, by the rules of glTF: morph, then turn."""
    animation, mesh = document.animations[0], document.meshes[0]
    moves = {
        channel.target.path: values(document, animation.samplers[channel.sampler].output)
        for channel in animation.channels
    }
    vertices = read(document, mesh.primitives[0].attributes.POSITION).astype(float)
    if "weights" in moves:
        shares = moves["weights"].reshape(-1, len(mesh.weights))[key]
        vertices += np.einsum(
            "j,jnd->nd",
            shares,
            [read(document, target["POSITION"]) for target in mesh.primitives[0].targets],
        )
    return Rotation.from_quat(moves["rotation"].reshape(-1, 4)[key]).apply(vertices)


def values(document, index):
    """All numbers of one float accessor, flat."""
    accessor = document.accessors[index]
    return np.frombuffer(
        document.binary_blob(),
        np.float32,
        accessor.count * dict(SCALAR=1, VEC4=4)[accessor.type],
        document.bufferViews[accessor.bufferView].byteOffset,
    )


def test_what_is_saved_says_what_was_found(track, tmp_path, validate):
    paths = video_files.save(track, tmp_path / "new")
    assert [path.name for path in paths] == [
        "clip.json",
        "clip_overlay.mp4",
        "clip.glb",
    ] and sorted(path.name for path in (tmp_path / "new").iterdir()) == sorted(
        path.name for path in paths
    )
    stored = json.loads(paths[0].read_text())
    np.testing.assert_allclose(stored["identity"], track.identity, atol=1e-4)
    assert len(stored["frames"]) == COUNT and stored["face_model"] == "makehuman"
    for i, row in enumerate(stored["frames"]):
        assert (
            row["time_s"] == pytest.approx(i / RATE, abs=1e-3)
            and len(row["units"]) == len(stored["unit_names"])
            and 0 < row["confidence"]["score"] < 1
        )
        np.testing.assert_allclose(row["expression"], track.expression[i], atol=1e-4)
        np.testing.assert_allclose(row["landmarks_px"], track.face(i).image_landmarks, atol=0.01)
    times, _ = zip(*video_files.frames(paths[1]))
    np.testing.assert_allclose(times, track.times, atol=2e-3)
    report = validate(paths[2])
    assert (
        report["issues"]["messages"] == []
        and report["info"]["animationCount"] == 1
        and report["info"]["hasMorphTargets"]
        and report["info"]["hasTextures"]
    )
    document, n = pygltflib.GLTF2.load(paths[2]), track.model.n_vertices
    np.testing.assert_allclose(
        values(document, document.animations[0].samplers[0].input), track.times, atol=1e-6
    )
    for key in (0, COUNT // 2):
        wanted = track.face(key).vertices @ track.rotation[key].T
        assert (
            np.linalg.norm(at_key(document, key)[:n] * 1000 - wanted, axis=1)[
                track.face(0).region
            ].mean()
            < 0.05
        )


def test_the_strengths_of_units_are_those_of_single_faces(track):
    from e2far.photo import mesh_files

    strengths = track.unit_strengths()
    alone, _ = mesh_files.unit_strengths(track.face(5), track.model)
    np.testing.assert_allclose(strengths[5], alone, atol=0.01)


@pytest.mark.parametrize("units", [True, False])
def test_any_face_model_is_animated(units, clip, validate, tmp_path):
    toy = morphable.toy_model(dtype=torch.float32)
    model = (
        toy
        if units
        else morphable.MorphableModel(
            toy.mean, toy.identity_basis, toy.expression_basis, toy.triangles, toy.landmarks
        )
    )
    quarter = (
        Rotation.from_euler("y", [[0.0], [20.0], [70.0]], degrees=True)
        .as_matrix()
        .astype(np.float32)
    )
    made = video.Track(
        clip[0],
        1,
        model,
        np.arange(3) / RATE,
        np.array([True, True, False]),
        np.zeros((3, 4)),
        np.zeros(3),
        (None,) * 3,
        np.zeros(6, np.float32),
        np.zeros((3, 4), np.float32),
        quarter,
        np.full(3, 0.4, np.float32),
        np.full((3, 2), 60, np.float32),
    )
    (path,) = video_files.save(made, tmp_path, ["glb"])
    assert validate(path)["issues"]["messages"] == []
    document = pygltflib.GLTF2.load(path)
    assert [channel.target.path for channel in document.animations[0].channels] == [
        "rotation",
        "weights",
    ][: 1 + units]
    np.testing.assert_allclose(
        at_key(document, 2)[: model.n_vertices] * 1000, toy.mean.numpy() @ quarter[2].T, atol=1e-3
    )


# The command line


def test_the_command_writes_what_save_does_and_ends_with_one_line_where_it_cannot(clip, tmp_path):
    run = lambda *arguments: CliRunner().invoke(app, ["video", *map(str, arguments)])
    done = run(clip[0], "--out", tmp_path / "out", "--limit", 3, "--only", "json,overlay")
    assert done.exit_code == 0 and "3 frames, 0 of them without a face" in done.stdout
    assert (
        sorted(path.name for path in (tmp_path / "out").iterdir())
        == ["clip.json", "clip_overlay.mp4"]
        and len(json.loads((tmp_path / "out" / "clip.json").read_text())["frames"]) == 3
    )
    (tmp_path / "empty.mp4").write_bytes(b"")
    for arguments, said in (
        (["absent.mp4"], "absent.mp4: no such file"),
        ([tmp_path / "empty.mp4"], "not a video"),
        ([clip[0], "--only", "obj"], "no 'obj'"),
        ([clip[0], "--box", "1,2"], "--box"),
    ):
        failed = run(*arguments, "--out", tmp_path / "none")
        assert (
            failed.exit_code == 1
            and said in failed.stderr
            and failed.stderr.startswith("e2far: ")
            and len(failed.stderr.strip().splitlines()) == 1
        )
    assert not (tmp_path / "none").exists()


def test_a_turned_head_stays_turned_from_frame_to_frame(shipped):
    """The next frame is looked at as the last one ended: the same picture gives the same answer, in one look."""
    turned = np.asarray(
        Image.fromarray(astronaut()).rotate(-35, Image.Resampling.BICUBIC, center=(221.5, 129))
    )
    first = shipped(turned, (159.4, 67.1, 283.6, 191.3))
    last, rolls = squares.next_square(first), []
    for _ in range(3):
        face = video.follow(shipped, turned, last)
        last = squares.next_square(face)
        rolls.append(face.pose.angles_deg[2])
        assert face.turn_deg == pytest.approx(first.turn_deg, abs=5)
    assert rolls == pytest.approx([first.pose.angles_deg[2]] * 3, abs=1.5)
