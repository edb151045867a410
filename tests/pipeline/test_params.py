import pytest

from e2far import SHIPPED
from e2far.pipeline import params


@pytest.fixture(autouse=True)
def no_environment(monkeypatch):
    monkeypatch.delenv("E2FAR_PROFILE", raising=False)
    monkeypatch.delenv("E2FAR_OUT", raising=False)


FILE = """\
profile: small        # the choice
seed: 7
profiles:
  small: {speed: {n: 1, rate: 1.0e-3}}
  large: {speed: {n: 9, rate: 1.0e-3}}
"""


@pytest.fixture
def root(tmp_path, monkeypatch):
    """A repository of one params.yaml."""
    (tmp_path / "params.yaml").write_text(FILE)
    monkeypatch.setattr(params, "ROOT", tmp_path)
    return tmp_path


def test_a_section_becomes_attributes(root):
    p = params.load("speed")
    assert (p.profile, p.seed, p.n, p.rate) == ("small", 7, 1, 0.001)
    assert (p.data, p.reports) == (root / "data", root / "reports")
    assert p.weights == SHIPPED


def test_argument_goes_before_environment_before_file(root, monkeypatch):
    assert params.load("speed", "large").n == 9
    monkeypatch.setenv("E2FAR_PROFILE", "large")
    assert params.load("speed").n == 9 and params.load("speed", "small").n == 1
    monkeypatch.setenv("E2FAR_PROFILE", "")
    assert params.load("speed").n == 1


def test_an_unknown_profile_or_section_is_named_with_the_known_ones(root, monkeypatch):
    for ask in (lambda: params.load("speed", "huge"), lambda: params.choose("huge")):
        with pytest.raises(ValueError, match="no profile 'huge' .*: choose one of small, large"):
            ask()
    with pytest.raises(ValueError, match="no section 'sped' .*: choose one of speed"):
        params.load("sped")


@pytest.mark.parametrize("out", ["scratch", "{root}/scratch"])
def test_e2far_out_moves_what_is_written_and_not_the_shipped_weights(root, monkeypatch, out):
    monkeypatch.chdir(root)
    monkeypatch.setenv("E2FAR_OUT", out.format(root=root))
    p = params.load("speed")
    assert (p.data, p.reports) == (root / "scratch/data", root / "scratch/reports")
    assert p.weights == SHIPPED


def test_choosing_a_profile_changes_one_line(root):
    params.choose("large")
    assert (root / "params.yaml").read_text() == FILE.replace("profile: small ", "profile: large ")
    assert params.load("speed").n == 9
