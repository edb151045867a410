"""A wheel is enough for a photo: away from the clone, with pyproject.toml's `dependencies` alone."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from skimage.data import astronaut

pytestmark = pytest.mark.slow
ROOT = Path(__file__).resolve().parent.parent
OUTSIDE = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
LIBRARY = """
import e2far, importlib, pkgutil, sys
assert e2far.__file__.startswith(sys.prefix), f"{e2far.__file__} is not the wheel's"
assert e2far.Reconstructor.from_pretrained()("photo.png").confidence.score > 0.85  # found: .93
for module in pkgutil.walk_packages(e2far.__path__, "e2far."):
    try:
        module.name == "e2far.__main__" or importlib.import_module(module.name)
    except ModuleNotFoundError as error:
        assert "pip install '.[" in str(error), f"{module.name}: {error}"
"""


def run(*command, folder, status=0):
    """What a command says, run in `folder` without the clone on its path."""
    options = dict(cwd=folder, env=OUTSIDE, text=True, capture_output=True)
    ended = subprocess.run([str(word) for word in command], **options)
    assert ended.returncode == status, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr


@pytest.fixture(scope="module")
def uv():
    pytest.importorskip("uv")
    return sys.executable, "-m", "uv", "--quiet"


@pytest.fixture(scope="module")
def wheel(uv, tmp_path_factory):
    folder = tmp_path_factory.mktemp("wheel")
    run(*uv, "build", "--wheel", "--out-dir", folder, ROOT, folder=folder)
    return next(folder.glob("*.whl"))


@pytest.mark.parametrize("version", ["3.11", "3.12", "3.13"])
def test_a_wheel_in_a_clean_environment_makes_faces_and_names_the_extras(
    version, uv, wheel, tmp_path
):
    find = (*uv, "python", "find", "--no-python-downloads", version)
    if not os.environ.get("CI") and subprocess.run(find, capture_output=True).returncode:
        pytest.skip(f"no Python {version} here")
    run(*uv, "venv", "--no-python-downloads", "--python", version, "env", folder=tmp_path)
    python, e2far = (tmp_path / "env" / "bin" / name for name in ("python", "e2far"))
    constraints = ("--constraint", ROOT / "constraints.txt")
    run(*uv, "pip", "install", "--python", python, *constraints, wheel, folder=tmp_path)

    Image.fromarray(astronaut()).save(tmp_path / "photo.png")
    run(e2far, "reconstruct", "photo.png", "--out", "faces", folder=tmp_path)
    made = {path.name for path in (tmp_path / "faces").iterdir()}
    assert {"photo.obj", "photo.glb", "photo.json", "photo_overlay.png", "photo.html"} <= made
    run(python, "-c", LIBRARY, folder=tmp_path)
    said = run(e2far, "train", folder=tmp_path, status=1)
    assert said.count("\n") == 1 and "pip install '.[study]'" in said
