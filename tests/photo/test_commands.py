import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from skimage.data import astronaut
from test_training import model, root  # noqa: F401 (fixtures)
from typer.testing import CliRunner

import e2far
from e2far import facemodels, morphable
from e2far.cli import app
from e2far.network import E2FAR
from e2far.weights import load_network, save_network

BOX = "150,70,280,200"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A photo with a face, one without, a text file named .jpg, and a tiny untrained network with its toy face model."""
    folder = tmp_path_factory.mktemp("cli")
    Image.fromarray(astronaut()).save(folder / "astronaut.png")
    Image.new("RGB", (160, 120), "grey").save(folder / "wall.png")
    (folder / "text.jpg").write_text("not a photo")
    torch.manual_seed(0)
    morphable.toy_model(dtype=torch.float32).save(folder / "toy.npz")
    save_network(
        E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32),
        folder / "tiny.safetensors",
    )
    return folder


@pytest.fixture
def run(folder, tmp_path):
    """Runs `e2far reconstruct` on photos in `folder` with the tiny network; results go to `tmp_path / "out"`."""

    def run(*photos, weights="tiny.safetensors", options=()):
        names = [str(folder / photo) for photo in photos]  # an absolute path stays as it is
        files = [
            "--out",
            str(tmp_path / "out"),
            "--weights",
            str(folder / weights),
            "--face-model",
            str(folder / "toy.npz"),
        ]
        return CliRunner().invoke(app, ["reconstruct", *names, *files, *options])

    return run


def one_line(result):
    """The single line on stderr of a run that failed without a traceback."""
    assert result.exit_code == 1 and isinstance(result.exception, SystemExit)
    lines = result.stderr.splitlines()
    assert len(lines) == 1 and "Traceback" not in result.output
    return lines[0]


def test_a_photo_becomes_a_mesh_landmarks_an_overlay_and_a_page(run, tmp_path):
    result = run("astronaut.png")
    assert result.exit_code == 0 and result.stderr == ""
    out = tmp_path / "out"
    assert sorted(file.name for file in out.iterdir()) == [
        "astronaut.glb",
        "astronaut.html",
        "astronaut.json",
        "astronaut.mtl",
        "astronaut.obj",
        "astronaut_overlay.png",
        "astronaut_texture.png",
    ]
    mesh = trimesh.load(out / "astronaut.obj", process=False)
    stored = json.loads((out / "astronaut.json").read_text())
    assert (
        len(mesh.vertices) == 224
        and np.shape(stored["landmarks_px"]) == (68, 2)
        and set(stored["pose"]) == {"yaw_deg", "pitch_deg", "roll_deg"}
    )
    overlay = np.asarray(Image.open(out / "astronaut_overlay.png"))
    assert overlay.shape == (512, 512, 3) and (overlay != astronaut()).any()


def test_a_given_box_is_used(run, tmp_path):
    assert run("wall.png", options=["--box", "40,20,120,100"]).exit_code == 0
    stored = json.loads((tmp_path / "out" / "wall.json").read_text())
    x0, y0, x1, y1 = stored["box_px"]
    assert stored["detector_score"] is None and x1 - x0 == pytest.approx(y1 - y0, abs=0.02)


@pytest.mark.parametrize(
    "photo, said",
    [
        ("wall.png", "wall.png: .*--box x0,y0,x1,y1"),
        ("text.jpg", "text.jpg is not a picture"),
        ("absent.png", "absent.png: no such file"),
    ],
)
def test_a_bad_photo_gives_one_line(run, tmp_path, photo, said):

    assert re.search(said, one_line(run(photo)))
    assert not list((tmp_path / "out").iterdir())


def test_missing_and_damaged_weights_give_one_line(run, folder):
    assert "make reproduce PROFILE=weights" in one_line(
        run("astronaut.png", weights="absent.safetensors")
    )
    (folder / "cut.safetensors").write_bytes((folder / "tiny.safetensors").read_bytes()[:500])
    assert "cut.safetensors" in one_line(run("astronaut.png", weights="cut.safetensors"))


@pytest.mark.parametrize(
    "box, said",
    [
        ("1,2,3", "four numbers"),
        ("a,b,c,d", "four numbers"),
        ("1,2,3,nan", "four numbers"),
        ("200,70,150,200", "empty"),
        ("900,900,990,990", "512 x 512 px"),
    ],
)
def test_a_wrong_box_gives_one_line(run, box, said):
    assert said in one_line(run("astronaut.png", options=["--box", box]))


def test_an_output_folder_that_is_a_file_gives_one_line(run, tmp_path):
    (tmp_path / "out").write_text("taken")
    assert "out" in one_line(run("astronaut.png"))


def test_all_faces_of_a_photo(run, folder, tmp_path):
    Image.fromarray(np.hstack([astronaut()[:256, 100:356]] * 2)).save(folder / "twins.png")
    assert run("twins.png", options=["--all-faces"]).exit_code == 0
    assert {file.name for file in (tmp_path / "out").glob("*.obj")} == {
        "twins_face1.obj",
        "twins_face2.obj",
    }


def test_one_bad_photo_does_not_stop_the_rest(run, tmp_path):
    result = run("text.jpg", "astronaut.png", "wall.png")
    assert result.exit_code == 1 and len(result.stderr.splitlines()) == 2
    assert (tmp_path / "out" / "astronaut.obj").exists()


def test_photos_of_one_name_do_not_overwrite_each_other(run, folder, tmp_path):
    (folder / "twin").mkdir()
    shutil.copy(folder / "astronaut.png", folder / "twin" / "astronaut.png")
    assert run("astronaut.png", "twin/astronaut.png", options=["--box", BOX]).exit_code == 0
    assert {file.name for file in (tmp_path / "out").glob("*.obj")} == {
        "astronaut.obj",
        "astronaut_2.obj",
    }


def test_an_interruption_leaves_no_half_files(run, tmp_path, monkeypatch):
    from e2far.photo.face import Face

    def interrupt(self, path, *_):
        path.write_text("half a pa")
        raise KeyboardInterrupt

    monkeypatch.setattr(Face, "to_html", interrupt)
    result = run("astronaut.png", options=["--box", BOX])
    assert (
        result.exit_code == 130
        and "run the same command again" in result.stderr
        and "Traceback" not in result.output
    )
    assert not list((tmp_path / "out").iterdir())


# Folders


@pytest.fixture
def album(folder, tmp_path):
    """A folder with three small photos of a face, one in a subfolder, and one without; beside them what is no photo."""
    album = tmp_path / "album"
    (album / "sub").mkdir(parents=True)
    face = Image.fromarray(astronaut()[30:240, 120:330])
    for name in ("a.png", "b.JPG", "sub/a.png"):
        face.save(album / name)
    Image.new("RGB", (160, 120), "grey").save(album / "wall.png")
    (album / "notes.txt").write_text("not a photo")
    (album / "._a.png").write_text("what some file systems put beside a photo")
    return album


def written(out):
    """Time of writing of each file under `out`."""
    return {
        file.relative_to(out).as_posix(): file.stat().st_mtime_ns
        for file in out.rglob("*")
        if file.is_file()
    }


def test_a_folder_with_its_subfolders(run, album, tmp_path):
    (album / "broken.jpg").write_text("not a photo")
    result = run(album, options=["--only", "json"])
    assert result.exit_code == 1 and "Traceback" not in result.output
    assert set(written(tmp_path / "out")) == {"a.json", "b.json", "sub/a.json"}
    summary = result.stdout.splitlines()[-3:]
    assert summary[0].startswith(
        "5 photos: 3 reconstructed, 0 finished before, 1 without a face, 1 unreadable, 0 failed otherwise"
    )
    assert (
        "without a face" in summary[1]
        and "wall.png" in summary[1]
        and "unreadable" in summary[2]
        and "broken.jpg" in summary[2]
    )
    assert len(result.stderr.splitlines()) == 2
    stored = json.loads((tmp_path / "out" / "sub" / "a.json").read_text())
    assert (stored["made_with"]["photo"], stored["face"], stored["faces"]) == (
        "../album/sub/a.png",
        1,
        1,
    )


def test_finished_photos_are_skipped(run, folder, album, tmp_path):
    """Unless forced, the photo is newer, a file is missing, or other weights or options are asked for."""
    (album / "wall.png").unlink()
    out, only = tmp_path / "out", ["--only", "json,ply"]
    assert run(album, options=only).exit_code == 0
    first = written(out)

    def changed(*options, weights="tiny.safetensors"):
        for file in out.rglob("*.*"):
            os.utime(file, ns=(first[file.relative_to(out).as_posix()],) * 2)
        result = run(album, options=[*only, *options], weights=weights)
        assert result.exit_code == 0, result.output
        return {
            name.split(".")[0] for name, time in written(out).items() if time != first.get(name)
        }

    assert changed() == set()
    assert changed("--only", "json") == set()
    assert changed("--force") == {"a", "b", "sub/a"}
    (out / "b.ply").unlink()
    assert changed() == {"b"}
    os.utime(album / "a.png", (2e9, 2e9))
    assert changed() == {"a"}
    os.utime(album / "a.png", (1e9, 1e9))
    (out / "sub" / "a.json").write_text("[]")
    assert changed() == {"sub/a"}
    assert changed("--box", "40,40,170,170") == {"a", "b", "sub/a"}
    assert changed("--box", "40,40,170,170") == set()
    torch.manual_seed(7)
    save_network(
        E2FAR(n_identity=6, n_expression=4, image_size=48, width=1 / 32),
        folder / "other.safetensors",
    )
    assert changed("--box", "40,40,170,170", weights="other.safetensors") == {"a", "b", "sub/a"}


def test_all_faces_are_finished_only_together(run, folder, tmp_path):
    Image.fromarray(np.hstack([astronaut()[:256, 100:356]] * 2)).save(folder / "pair.png")
    out, options = tmp_path / "out", ["--all-faces", "--only", "json"]
    run("pair.png", options=options)
    first = written(out)
    assert set(first) == {"pair_face1.json", "pair_face2.json"}
    run("pair.png", options=options)
    assert written(out) == first
    (out / "pair_face2.json").unlink()
    run("pair.png", options=options)
    assert set(written(out)) == set(first) and written(out) != first


def test_an_interrupted_folder_is_taken_up_again(run, album, tmp_path, monkeypatch):
    from e2far.photo.face import Face

    whole, count = Face.to_dict, []

    def interrupt(self):
        count.append(0)
        if len(count) == 2:
            raise KeyboardInterrupt
        return whole(self)

    monkeypatch.setattr(Face, "to_dict", interrupt)
    result = run(album, options=["--only", "ply"])
    first = written(tmp_path / "out")
    assert (
        result.exit_code == 130
        and set(first) == {"a.ply", "a.json"}
        and "1 reconstructed" in result.stdout
    )
    result = run(album, options=["--only", "ply"])
    assert "2 reconstructed, 1 finished before" in result.stdout and set(
        written(tmp_path / "out")
    ) == {f"{name}.{kind}" for name in ("a", "b", "sub/a") for kind in ("ply", "json")}
    assert all(written(tmp_path / "out")[name] == time for name, time in first.items())


def test_results_are_not_taken_for_photos(run, album, tmp_path):
    """The next run of a folder must not find its own overlays."""
    assert "name another" in one_line(run(album, options=["--out", str(album)]))
    for _ in range(2):
        result = run(album, options=["--out", str(album / "out"), "--only", "overlay"])
        assert result.stdout.splitlines()[-2].startswith("4 photos"), result.output
    assert {file.name for file in (album / "out").rglob("*.png")} == {
        "a_overlay.png",
        "b_overlay.png",
    }


def test_a_folder_without_pictures_and_an_unknown_kind_of_file(run, tmp_path):
    (tmp_path / "bare").mkdir()
    assert "bare is a folder, not a picture" in one_line(run(tmp_path / "bare"))
    result = run(tmp_path / "bare", "astronaut.png", options=["--only", "json"])
    assert (
        result.exit_code == 1
        and "1 reconstructed" in result.stdout
        and set(written(tmp_path / "out")) == {"astronaut.json"}
    )
    assert "there is no 'stl'; choose from json, obj" in one_line(
        run("astronaut.png", options=["--only", "json,stl"])
    )


def test_the_faces_of_one_photo_do_not_overwrite_another_photo():
    from e2far.photo.results import find_photos

    work = find_photos(
        [Path("x.png"), Path("x_face1.png"), Path("other/X.jpg")], Path("out"), all_faces=True
    )
    assert [place.name for _, place in work] == ["x", "x_face1_2", "X_2"]
    assert [
        place.name for _, place in find_photos([Path("x.png"), Path("x_face1.png")], Path("out"))
    ] == ["x", "x_face1"]


def heavy(code):
    """Which of the libraries that take long to import are loaded after some code."""
    code += "\nimport sys; print({'torch', 'numba', 'scipy', 'trimesh'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()[-1]


def test_the_version_is_shown_and_the_package_imports_without_torch():
    assert CliRunner().invoke(app, ["--version"]).stdout.split() == ["e2far", e2far.__version__]
    assert heavy("import e2far, e2far.cli") == "set()"


def test_a_run_that_skips_all_photos_loads_no_torch(run, folder, tmp_path):
    assert run("astronaut.png", options=["--box", BOX, "--only", "json"]).exit_code == 0
    first = written(tmp_path / "out")
    given = ["reconstruct", str(folder / "astronaut.png"), "--out", str(tmp_path / "out")]
    given += ["--weights", str(folder / "tiny.safetensors"), "--box", BOX, "--only", "json"]
    given += ["--face-model", str(folder / "toy.npz")]
    assert heavy(f"from e2far.cli import app; app({given}, standalone_mode=False)") == "set()"
    assert written(tmp_path / "out") == first


def test_the_shipped_files_are_where_the_command_line_takes_them_for():
    assert e2far.SHIPPED == morphable.SHIPPED.parent


def test_public_names():
    assert (
        e2far.Reconstructor.__module__ == "e2far.photo.reconstructor"
        and e2far.load_face_model is facemodels.load_face_model
        and e2far.MorphableModel is morphable.MorphableModel
    )
    with pytest.raises(AttributeError, match="nothing"):
        e2far.nothing


def test_train_makes_a_network_from_a_profile(root, tmp_path):
    given = [
        "train",
        "--profile",
        "smoke",
        "--faces",
        str(root),
        "--face-model",
        str(root / "toy.npz"),
        "--out",
        str(tmp_path / "out"),
        "--accelerator",
        "cpu",
        "--steps",
        "2",
    ]
    done = CliRunner().invoke(app, given)
    assert done.exit_code == 0, done.output
    network, result = (
        load_network(tmp_path / "out" / "network.safetensors"),
        json.loads((tmp_path / "out" / "result.json").read_text()),
    )
    assert (
        network.config["width"] == 0.125 and f"neutral {result['neutral_ratio']:.3f}" in done.output
    )
    further = CliRunner().invoke(
        app, [*given, "--start", str(tmp_path / "out" / "network.safetensors")]
    )
    assert further.exit_code == 0, further.output


def test_train_says_what_is_missing(root, tmp_path):
    for options, message in (
        (["--faces", str(tmp_path / "none")], "dvc repro synthesis"),
        (["--faces", str(root), "--profile", "huge"], "no profile 'huge'"),
        (
            ["--faces", str(root), "--profile", "paper"],
            "make resume PROFILE=paper STAGES=synthesis",
        ),
        (
            ["--faces", str(root), "--trunk", str(tmp_path / "vgg_face.mat")],
            "requested from the Visual Geometry Group",
        ),
    ):
        done = CliRunner().invoke(
            app,
            [
                "train",
                "--profile",
                "smoke",
                "--face-model",
                str(root / "toy.npz"),
                "--out",
                str(tmp_path),
                "--accelerator",
                "cpu",
                *options,
            ],
        )
        assert done.exit_code == 1 and message in done.output and "Traceback" not in done.output, (
            done.output
        )
