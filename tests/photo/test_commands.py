import errno
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import trimesh
from PIL import Image
from skimage.data import astronaut
from test_training import model, root  # noqa: F401 (fixtures)
from typer.testing import CliRunner
from untrained import faint, untrained

import e2far
from e2far import facemodels, morphable
from e2far.cli import app
from e2far.photo import confidence
from e2far.photo.face import Face
from e2far.photo.results import find_photos
from e2far.weights import load_network, save_network

BOX = "150,70,280,200"


@pytest.fixture(scope="module")
def folder(files, tmp_path_factory):
    """Photos with one face, with two and with none, a text file named .jpg; network and model."""
    folder = tmp_path_factory.mktemp("cli")
    Image.fromarray(astronaut()).save(folder / "astronaut.png")
    Image.fromarray(np.hstack([astronaut()[:256, 100:356]] * 2)).save(folder / "twins.png")
    Image.new("RGB", (160, 120), "grey").save(folder / "wall.png")
    (folder / "text.jpg").write_text("not a photo")
    for file in files:
        shutil.copy(file, folder)
    return folder


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def given(folder, out):
    """The arguments of `e2far reconstruct` for photos in `folder` or elsewhere."""

    def given(*photos, options=(), weights="tiny.safetensors"):
        tiny = ["--weights", folder / weights, "--face-model", folder / "toy.npz"]
        photos = [folder / photo for photo in photos]  # an absolute path stays as it is
        return ["reconstruct", *map(str, [*photos, "--out", out, *tiny, *options])]

    return given


@pytest.fixture
def run(given):
    return lambda *photos, **more: CliRunner().invoke(app, given(*photos, **more))


def one_line(result):
    """The single line on stderr of a run that failed without a traceback."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    (line,) = result.stderr.splitlines()
    assert "Traceback" not in result.output
    return line


def written(out):
    """Time of writing of each file under `out`."""
    files = (file for file in out.rglob("*") if file.is_file())
    return {file.relative_to(out).as_posix(): file.stat().st_mtime_ns for file in files}


def test_a_photo_becomes_a_mesh_landmarks_an_overlay_and_a_page(run, out):
    result = run("astronaut.png")
    assert result.exit_code == 0 and result.stderr == ""
    ends = (".glb", ".html", ".json", ".mtl", ".obj", "_overlay.png", "_texture.png")
    assert set(written(out)) == {f"astronaut{end}" for end in ends}
    assert len(trimesh.load(out / "astronaut.obj", process=False).vertices) == 224
    stored = json.loads((out / "astronaut.json").read_text())
    assert np.shape(stored["landmarks_px"]) == (68, 2)
    assert set(stored["pose"]) == {"yaw_deg", "pitch_deg", "roll_deg"}
    overlay = np.asarray(Image.open(out / "astronaut_overlay.png"))
    assert max(overlay.shape) == 900  # the face alone, large
    assert "<title>astronaut.png</title>" in (out / "astronaut.html").read_text()


def test_what_cannot_be_done_is_said_in_one_line(run, folder, out):
    (folder / "cut.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes()[:500])
    for photo, more, said in (
        ("wall.png", {}, "wall.png: .*--box x0,y0,x1,y1"),
        ("text.jpg", {}, "text.jpg is not a picture"),
        ("absent.png", {}, "absent.png: no such file"),
        ("astronaut.png", dict(weights="absent.safetensors"), "name none for the shipped"),
        ("astronaut.png", dict(weights="cut.safetensors"), "cut.safetensors"),
        ("astronaut.png", dict(options=["--box", "1,2,3"]), "four numbers"),
        ("astronaut.png", dict(options=["--box", "a,b,c,d"]), "four numbers"),
        ("astronaut.png", dict(options=["--box", "900,900,990,990"]), "512 x 512 px"),
        ("astronaut.png", dict(options=["--only", "json,fbx"]), "there is no 'fbx'; .* json, glb"),
    ):
        assert re.search(said, one_line(run(photo, **more)))
        assert not written(out)
    options = ["--out", str(folder / "text.jpg" / "faces")]
    assert one_line(run("astronaut.png", options=options)).endswith("faces: Not a directory")


def test_what_cannot_be_meant_is_refused_before_anything_is_begun(run, train, out):
    out.write_text("taken")
    empty = CliRunner().invoke(app, ["reconstruct", "", "--out", "elsewhere"])
    assert empty.exit_code == 2 and "an empty name" in empty.output
    for result in (run("astronaut.png"), train("--steps", 2)):
        assert result.exit_code == 2 and "--out" in result.output
    for option, value in (("--steps", 0), ("--devices", "foo"), ("--devices", 0), ("--seed", -1)):
        result = train("--out", "elsewhere", option, value)
        assert result.exit_code == 2 and option in result.output and not Path("elsewhere").exists()


def test_photos_of_one_name_do_not_overwrite_each_other_and_a_given_box_is_used(run, folder, out):
    (folder / "twin").mkdir()
    shutil.copy(folder / "wall.png", folder / "twin" / "astronaut.png")
    options = ["--box", "40,20,120,100", "--only", "json"]
    assert run("astronaut.png", "twin/astronaut.png", options=options).exit_code == 0
    assert set(written(out)) == {"astronaut.json", "astronaut_2.json"}
    stored = json.loads((out / "astronaut_2.json").read_text())
    assert stored["detector_score"] is None
    x0, y0, x1, y1 = stored["box_px"]
    assert x1 - x0 == pytest.approx(y1 - y0, abs=0.02)


def test_the_faces_of_one_photo_do_not_overwrite_another_photo():
    def names(*photos, **more):
        return [place.name for _, place in find_photos([*map(Path, photos)], **more)[0]]

    given = ("x.png", "x_face1.png", "other/X.jpg")
    assert names(*given, all_faces=True) == ["x", "x_face1_2", "X_2"]
    assert names(*given[:2]) == ["x", "x_face1"]


# Folders


@pytest.fixture
def album(tmp_path):
    """Three small photos of a face, one in a subfolder, and one without; and what is no photo."""
    album = tmp_path / "album"
    (album / "sub").mkdir(parents=True)
    for name in ("a.png", "b.JPG", "sub/a.png"):
        Image.fromarray(astronaut()[30:240, 120:330]).save(album / name)
    Image.new("RGB", (160, 120), "grey").save(album / "wall.png")
    (album / "notes.txt").write_text("not a photo")
    (album / "._a.png").write_text("what some file systems put beside a photo")
    return album


def test_a_folder_with_its_subfolders(run, album, out):
    """One bad photo does not stop the rest, and what is no picture is named."""
    (album / "broken.jpg").write_text("not a photo")
    result = run(album, options=["--only", "json"])
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 3
    assert f"left out 1 that are no pictures: {album / 'notes.txt'}" in result.stderr
    assert "no face found in wall.png" in result.stderr
    assert "broken.jpg is not a picture" in result.stderr
    assert set(written(out)) == {"a.json", "b.json", "sub/a.json"}
    counts = result.stdout.splitlines()[-1]
    assert re.match(
        r"5 photos: 3 reconstructed, 0 doubtful, 0 finished before, 1 .*, 1 unreadable, 0", counts
    )
    stored = json.loads((out / "sub" / "a.json").read_text())
    assert stored["made_with"]["photo"] == "../album/sub/a.png"
    assert (stored["face"], stored["faces"]) == (1, 1)


def test_a_doubtful_face_is_told_written_and_counted_apart(run, album, folder, out):
    tiny = e2far.Reconstructor.from_pretrained(folder / "tiny.safetensors", folder / "toy.npz")
    signs = tiny.estimate([astronaut()], [[150, 70, 280, 200]])["signs"][0]
    curves = (1e-3, 1e3), (1.0, 50.0), (2.0, 9.0)
    kinds = faint(len(signs), bias=-30.0), faint(len(signs))
    wary = confidence.Calibration(tiny.version, *curves, *kinds)
    wary.save(
        confidence.beside(shutil.copy(folder / "tiny.safetensors", folder / "wary.safetensors"))
    )
    result = run(album, options=["--only", "json"], weights="wary.safetensors")
    *told, counts = result.stdout.splitlines()
    assert len([line for line in told if ": doubtful: " in line]) == 3
    assert counts.startswith("4 photos: 0 reconstructed, 3 doubtful, 0 finished before, 1 without")
    stored = json.loads((out / "a.json").read_text())["confidence"]
    assert stored["doubtful"] is True and stored["score"] < 0.5


def test_finished_photos_are_skipped(run, folder, album, out):
    """Unless forced, a photo is newer, a file gone or empty, or other weights or options asked for."""
    (album / "wall.png").unlink()
    everything, usual = {"a", "b", "sub/a"}, ["--only", "json,overlay", "--box", "30,40,160,170"]
    assert run(album, options=usual).exit_code == 0
    first = written(out)

    def changed(*options, **more):
        for name, time in first.items():
            if (out / name).exists():
                os.utime(out / name, ns=(time, time))
        result = run(album, options=[*usual, *options], **more)
        assert result.exit_code == 0, result.output
        again = [name for name, time in written(out).items() if time != first.get(name)]
        return {name.split(".")[0].removesuffix("_overlay") for name in again}

    assert changed() == set()
    assert changed("--only", "json") == set()
    assert changed("--force") == everything
    (out / "b_overlay.png").unlink()
    assert changed() == {"b"}
    (out / "a_overlay.png").write_bytes(b"")  # a full disk
    assert changed() == {"a"}
    os.utime(album / "a.png", (2e9, 2e9))
    assert changed() == {"a"}
    os.utime(album / "a.png", (1e9, 1e9))
    (out / "sub" / "a.json").write_text('{"made_with": {"e2far": ')
    assert changed() == {"sub/a"}
    assert changed("--box", "40,40,170,170") == everything
    assert changed("--box", "40,40,170,170") == set()
    save_network(untrained(seed=7), folder / "other.safetensors")
    assert changed("--box", "40,40,170,170", weights="other.safetensors") == everything


def test_the_users_own_json_is_kept(run, out):
    out.mkdir()
    (out / "twins.json").write_text('{"path": "/home/e2far/x", "mine": 1}')
    result = run("twins.png", options=["--only", "json"])
    assert result.exit_code == 1 and "e2far did not write it" in one_line(result)
    assert "mine" in (out / "twins.json").read_text()


def test_other_faces_are_counted(run, out):
    result = run("twins.png", options=["--only", "json"])
    assert result.stdout.splitlines()[0].endswith(", and 1 more: --all-faces")
    assert json.loads((out / "twins.json").read_text())["other_faces"] == 1
    result = run("twins.png", options=["--only", "json", "--all-faces"])
    assert "more" not in result.stdout
    assert json.loads((out / "twins_face2.json").read_text())["other_faces"] == 0


def test_all_faces_are_finished_only_together(run, out):
    options = ["--all-faces", "--only", "json"]
    assert run("twins.png", options=options).exit_code == 0
    first = written(out)
    assert set(first) == {"twins_face1.json", "twins_face2.json"}
    run("twins.png", options=options)
    assert written(out) == first
    (out / "twins_face2.json").unlink()
    run("twins.png", options=options)
    assert set(written(out)) == set(first) and written(out) != first


def test_an_interrupted_folder_is_taken_up_again(run, album, out, monkeypatch):
    """The second photo's overlay was written when the user gave up: it goes."""
    whole, faces = Face.to_dict, []

    def interrupt(self):
        faces.append(self)
        if len(faces) == 2:
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(Face, "to_dict", interrupt)
    result = run(album, options=["--only", "overlay"])
    first = written(out)
    assert result.exit_code == 130 and "1 reconstructed" in result.stdout
    assert "run the same command again" in result.stderr and "Traceback" not in result.output
    assert set(first) == {"a_overlay.png", "a.json"} == {path.name for path in out.iterdir()}
    result = run(album, options=["--only", "overlay"])
    assert "2 reconstructed, 0 doubtful, 1 finished before" in result.stdout
    names = {name + end for name in ("a", "b", "sub/a") for end in (".json", "_overlay.png")}
    assert set(written(out)) == names and first.items() <= written(out).items()


def test_a_full_disk_ends_the_run(run, out, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Face, "to_dict", full)
    line = one_line(run("astronaut.png", options=["--only", "json"]))
    assert line.endswith(
        "is full: make room and run the same command again, which skips what is finished"
    )


def test_results_are_not_taken_for_photos_nor_other_files_for_results(run, album):
    """Also where they lie beside the photos; a file of the user's own stays as it is."""
    (album / "notes.txt").unlink()
    (album / "bare").mkdir()
    assert "bare is a folder, not a picture" in one_line(run(album / "bare"))
    everything = "obj,ply,stl,glb,json,overlay,html"
    for _ in range(2):
        result = run(album, options=["--out", str(album), "--only", everything, "--force"])
        assert result.stdout.splitlines()[-1].startswith("4 photos: 3 reconstructed"), result.output
        assert "left out" not in result.stderr
    shutil.copy(album / "a.png", album / "my_overlay.png")
    (album / "b.glb").write_bytes(b"glTF, as another program wrote it")
    (album / "b_face1.json").write_text("{}")
    found, others = find_photos([album])
    names = {"a.png", "b.JPG", "sub/a.png", "wall.png", "my_overlay.png"}
    assert {photo.relative_to(album).as_posix() for photo, _ in found} == names
    assert {path.name for path in others} == {"b.glb", "b_face1.json"}
    usual = ["--out", str(album), "--only", "json,glb", "--force"]
    assert "b.glb is there already" in one_line(run(album / "b.JPG", options=usual))
    assert (album / "b.glb").read_bytes().startswith(b"glTF, as")


def test_a_photo_with_spaces_and_a_hash_in_its_name_and_the_folder_that_is_not_named(
    given, album, monkeypatch
):
    monkeypatch.chdir(album)
    shutil.move("a.png", "at sea #1 ä.png")
    arguments = given(album / "at sea #1 ä.png", options=["--only", "obj"])
    at = arguments.index("--out")
    assert CliRunner().invoke(app, arguments[:at] + arguments[at + 2 :]).exit_code == 0
    paths = {path.suffix: path for path in Path("faces").iterdir()}
    assert paths[".obj"].name == "at sea #1 ä.obj" and paths[".json"].name == "at sea #1 ä.json"
    texts = paths[".obj"].read_text(), paths[".mtl"].read_text()
    words = [text.split("\n")[i].split() for text, i in zip(texts, (1, -1))]
    assert words == [["mtllib", paths[".mtl"].name], ["map_Kd", paths[".png"].name]]
    assert re.fullmatch(r"at_sea__1___\w{6}\.mtl", paths[".mtl"].name)
    assert trimesh.load(paths[".obj"]).visual.material.image.size[0] > 1
    wavefront = pytest.importorskip("pywavefront").Wavefront(str(paths[".obj"]))
    (material,) = wavefront.materials.values()
    assert Path(material.texture.find()).name == paths[".png"].name


@pytest.mark.skipif(sys.platform != "linux", reason="names of files are text")
def test_a_photo_whose_name_is_not_utf_8(given, folder, out, tmp_path):
    latin = tmp_path / os.fsdecode(b"caf\xe9.png")
    shutil.copy(folder / "astronaut.png", latin)
    command = [sys.executable, "-m", "e2far", *given(latin, options=["--only", "html"])]
    asked = os.environ | dict(PYTHONUTF8="1", PYTHONIOENCODING="utf-8:strict")
    done = subprocess.run(command, env=asked, capture_output=True)
    assert done.returncode == 0 and done.stdout.startswith(rb"caf\udce9.png: "), done.stderr
    assert "caf?.png</title>" in (out / f"{latin.stem}.html").read_text()


# The package


def test_the_version_is_shown_and_a_run_that_skips_all_photos_loads_no_torch(run, given, out):
    """Nor does the import of the package."""
    assert "--all-faces" in CliRunner().invoke(app, ["reconstruct", "-h"]).output
    assert CliRunner().invoke(app, ["--version"]).stdout.split() == ["e2far", e2far.__version__]
    options = ["--box", BOX, "--only", "json"]
    assert run("astronaut.png", options=options).exit_code == 0
    first, again = written(out), given("astronaut.png", options=options)
    code = f"from e2far.cli import app; app({again}, standalone_mode=False); import sys; "
    code += "print({'torch', 'numba', 'scipy', 'trimesh'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1:] == ["set()"], done.stderr
    assert written(out) == first


def test_a_shell_completes_commands_and_options():
    for words, completed in (("rec", "reconstruct"), ("reconstruct --al", "--all-faces")):
        asked = dict(COMP_WORDS=f"e2far {words}", COMP_CWORD=str(len(words.split())))
        command = [
            sys.executable,
            "-c",
            "import sys; sys.argv = ['e2far']; import e2far.cli as c; c.app()",
        ]
        asked |= os.environ | dict(_E2FAR_COMPLETE="complete_bash")
        done = subprocess.run(command, env=asked, capture_output=True, text=True)
        assert done.stdout.split() == [completed], done.stderr


def test_public_names():
    assert e2far.Reconstructor.__module__ == "e2far.photo.reconstructor"
    assert e2far.load_face_model is facemodels.load_face_model
    assert e2far.MorphableModel is morphable.MorphableModel
    assert e2far.SHIPPED == morphable.SHIPPED.parent  # known without the import of morphable
    with pytest.raises(AttributeError, match="nothing"):
        e2far.nothing


@pytest.fixture
def train(root, out):
    """Runs `e2far train` on the small training's faces; options given again win."""
    given = ["train", "--profile", "smoke", "--accelerator", "cpu", "--faces", root, "--out", out]
    given += ["--face-model", root / "toy.npz"]
    return lambda *options: CliRunner().invoke(app, [*map(str, given), *map(str, options)])


def test_train_makes_a_network_from_a_profile(train, out):
    done = train("--steps", 2)
    assert done.exit_code == 0, done.output
    weights, result = out / "network.safetensors", json.loads((out / "result.json").read_text())
    assert load_network(weights).config["width"] == 0.125
    assert f"neutral {result['neutral_ratio']:.3f}" in done.output


def test_train_says_what_is_missing(train, tmp_path):
    for options, message in (
        (["--faces", tmp_path / "none"], "dvc repro synthesis"),
        (["--profile", "huge"], "no profile 'huge'"),
        (["--profile", "paper"], "make resume PROFILE=paper STAGES=synthesis"),
        (["--trunk", tmp_path / "vgg_face.mat"], "requested from the Visual Geometry Group"),
    ):
        done = train(*options)
        assert done.exit_code == 1 and message in done.output, done.output
        assert "Traceback" not in done.output
