"""The files of the repository agree with each other: packages, notebooks, stages, parameters,
figures. Files of a user's own beside them, which git does not track, do not matter."""

import ast
import functools
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pandas as pd
import pytest
import yaml

import e2far
from e2far.pipeline import long_training, race

ROOT = Path(__file__).resolve().parent.parent
NAMES = "00_quickstart 01_data_synthesis 02_training 03_layer_features 04_which_layers"
NAMES = f"{NAMES} 05_benchmark appendix_speed".split()
CARD = "e2far/shipped/MODEL_CARD.md"
DOCUMENTS = ["README.md", "data/README.md", "CONTRIBUTING.md", CARD]
DOCUMENTS += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob("docs/*.md"))
EXTRAS = "study notebooks test readers cluster video heic facemodel recogniser".split()


def text(path):
    return (ROOT / path).read_text()


PROJECT = tomllib.loads(text("pyproject.toml"))["project"]
STAGES = yaml.safe_load(text("dvc.yaml"))["stages"]
PARAMS = yaml.safe_load(text("params.yaml"))
CI = yaml.safe_load(text(".github/workflows/ci.yml"))["jobs"]["test"]
each_notebook = pytest.mark.parametrize("name", NAMES)
each_stage = pytest.mark.parametrize("stage", STAGES)


def plain(entries):
    """Paths of a stage's deps or outs, without their options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outputs(stage):
    kinds = ("outs", "metrics", "plots")
    return [path for kind in kinds for path in plain(STAGES[stage].get(kind, []))]


ALL_OUTPUTS = {out for stage in STAGES for out in outputs(stage)}


def is_in(path, places):
    """Whether `path` is one of `places`, or lies in one."""
    return any(path == place or path.startswith(f"{place}/") for place in places)


@functools.cache
def notebook(name, folder="notebooks"):
    return nbformat.read(ROOT / folder / f"{name}.ipynb", as_version=4)


def code(notebook):
    """Sources of the code cells, papermill's own left out."""
    own = lambda cell: "injected-parameters" in cell.metadata.get("tags", [])
    return [x.source for x in notebook.cells if x.cell_type == "code" and not own(x)]


def requirements(*extras):
    """What the package and its `extras` need; two extras may need the same."""
    return {*PROJECT["dependencies"]}.union(*map(PROJECT["optional-dependencies"].get, extras))


@functools.cache
def tracked(folder=""):
    """Paths below `folder` that git holds."""
    command = ["git", "ls-files", "-z", "--", f"./{folder}"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stdout
    if not listed:
        pytest.skip("not a git checkout")
    return [Path(name) for name in listed.split("\0") if name and (ROOT / name).is_file()]


def test_environment_yml_lists_the_packages_of_pyproject_and_a_python_that_ci_tests():
    *packages, last = yaml.safe_load(text("environment.yml"))["dependencies"]
    options = [entry for entry in last["pip"] if entry.startswith("--")]
    assert set(last["pip"]) - set(options) == requirements(*EXTRAS)
    assert options == ["--constraint constraints.txt", "--editable ."]
    newest = int(CI["strategy"]["matrix"]["python"][-1].split(".")[1])
    assert f"python{PROJECT['requires-python']},<3.{newest + 1}" in packages


def test_constraints_pin_every_package_and_make_takes_the_face_models_from_pyproject():
    lines = [line for line in text("constraints.txt").splitlines() if line and line[0] != "#"]
    assert all("==" in line for line in lines)
    package = lambda line: re.match(r"[\w.-]+", line)[0].lower().replace("_", "-")
    needed = {package(line) for line in requirements(*EXTRAS, "dev", "site") if "==" not in line}
    assert needed <= {package(line) for line in lines}
    for extra in ("facemodel", "recogniser"):
        (package,) = PROJECT["optional-dependencies"][extra]
        assert f"'{package}'" in text("Makefile")


def test_one_version_everywhere():
    citation = yaml.safe_load(text("CITATION.cff"))
    newest = re.search(r"(?m)^## (.*)", text("CHANGELOG.md"))[1]
    assert e2far.__version__ == citation["version"] == newest
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:1704.05020"


def test_ci_runs_the_readmes_commands():
    runs = [" ".join(step["run"].split()[:2]) for step in CI["steps"] if "run" in step]
    assert runs == ["make test", "make reproduce"]
    assert all(run in text("README.md") for run in runs)


def test_every_wing_has_its_tests_and_the_notebooks_are_those_of_the_design():
    modules = [path for path in tracked("e2far") if path.suffix == ".py"]
    wings = {path.parts[1] for path in modules if len(path.parts) == 3}
    assert {path.parts[1] for path in tracked("tests") if len(path.parts) == 3} == {"core", *wings}
    assert [path.stem for path in tracked("notebooks") if path.suffix == ".ipynb"] == NAMES


@each_notebook
def test_sources_are_stripped_take_parameters_explain_and_end_with_what_was_found(name):
    nbformat.validate(notebook(name))
    cells = notebook(name).cells
    assert notebook(name).metadata.kernelspec.name == "python3"
    for cell in cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None
            ast.parse(cell.source)
    told = [cell.source for cell in cells if "parameters" in cell.metadata.get("tags", [])]
    assert [source.split("#")[0].strip() for source in told] == ["profile = None"]

    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    headings = re.findall(r"(?m)^## (.*)", "\n".join(prose))
    assert cells[0].source == prose[0] and prose[0].startswith("# ")
    assert re.search(r"\?|[Ww]hether", " ".join(prose))
    assert cells[-1].source == prose[-1] and "found" in headings[-1].lower()
    assert sum(len(source.split()) < 12 for source in prose) <= 1, "a heading explains nothing"
    assert len(prose) >= len(headings) and sum(len(source.split()) for source in prose) >= 250


@each_notebook
def test_code_is_short_and_links_hold_for_the_executed_copy_too(name):
    """At most 100 columns, and 12 lines where the cell is not folded away."""
    for cell in notebook(name).cells:
        lines = cell.source.splitlines()
        if cell.cell_type == "code":
            assert max(map(len, lines), default=0) <= 100, cell.source
            assert len(lines) <= 12 or "hide-input" in cell.metadata.get("tags", []), cell.source
        else:
            assert not re.findall(r"\]\(\.\.?/[^)]*", cell.source)


def results_are_behind():
    """Whether README says that the committed results are those of another version."""
    return re.search(r"committed results are those of version ([\d.]+\d)", text("README.md"))


@each_notebook
def test_an_executed_copy_ran_to_its_end_without_an_error_or_a_machines_path(name):
    if not (ROOT / "reports" / "notebooks" / f"{name}.ipynb").exists() and results_are_behind():
        pytest.skip("not executed yet")
    for cell in notebook(name, "reports/notebooks").cells:
        if cell.cell_type == "code" and cell.source.strip():
            assert cell.execution_count, f"a cell was not executed:\n{cell.source}"
            assert not [out for out in cell.outputs if out.output_type == "error"]
    copy = text(f"reports/notebooks/{name}.ipynb")
    without_pictures = re.sub(r'"image/\w+": "[^"]*"', "", copy)
    assert str(ROOT) not in copy
    assert not re.search(r"/(home|Users|root|tmp|site-packages)/", without_pictures)


@each_notebook
def test_an_executed_copy_is_of_the_committed_code(name):
    """Unless the README says that the results are of another version."""
    behind = results_are_behind()
    if behind and behind[1] != e2far.__version__:
        pytest.skip(f"the committed results are of {behind[1]}")
    assert code(notebook(name, "reports/notebooks")) == code(notebook(name))


def test_every_profile_has_the_same_sections_with_the_same_keys_and_numbers_are_numbers():
    profiles = PARAMS["profiles"]
    assert list(profiles) == ["smoke", "default", "weights", "paper"]
    assert PARAMS["profile"] in profiles
    keys = lambda profile: {section: set(values) for section, values in profile.items()}
    for name, profile in profiles.items():
        assert keys(profile) == keys(profiles["smoke"]), name
    assert not re.search(r"'[\d.]+e[+-]?\d+'", str(PARAMS)), "YAML reads 1e-4 as text"


@each_stage
def test_a_stage_needs_what_exists_or_is_made_runs_its_notebook_and_watches_its_numbers(stage):
    deps, watched = plain(STAGES[stage]["deps"]), STAGES[stage]["params"]
    for dep in deps:
        assert dep in ALL_OUTPUTS or (ROOT / dep).exists(), f"nobody makes {dep}"
    runs = re.findall(r"papermill.*? (notebooks/\S+\.ipynb) (\S+)", str(STAGES[stage]["cmd"]))
    assert len(runs) == (stage not in ("environment", "facemodel", "layer_study", "head_study"))
    for source, copy in runs:
        assert source in deps and copy == f"reports/{source}" and copy in outputs(stage)
    assert "profile" in watched
    for profile in PARAMS["profiles"]:  # every one has the blocks
        for entry in watched:
            keys = entry.replace("${profile}", profile).split(".")
            functools.reduce(lambda block, key: block[key], keys, PARAMS)


def imported(source):
    """Files of ours that Python `source` imports, anywhere in it, but for the two packages whose
    names alone are used."""
    names = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            names |= {node.module, *(f"{node.module}.{one.name}" for one in node.names)}
        elif isinstance(node, ast.Import):
            names |= {one.name for one in node.names}
    names = {e2far.HOMES.get(name.removeprefix("e2far."), name) for name in names}
    names = {name for name in names if name.startswith("e2far.")} - {"e2far.pipeline"}
    paths = [name.replace(".", "/") + end for name in names for end in (".py", "/__init__.py")]
    return {path for path in paths if (ROOT / path).is_file()}


@each_stage
def test_a_stage_depends_on_all_modules_that_its_code_imports(stage):
    """And on those that these import, but not on the record of its seconds."""
    deps, command = plain(STAGES[stage]["deps"]), str(STAGES[stage]["cmd"])
    sources = re.findall(r'python -c "([^"]*)"', command)
    sources += [f"import {name}" for name in re.findall(r"python -m (\S+)", command)]
    for dep in deps:
        if dep.endswith(".ipynb"):
            sources += code(notebook(Path(dep).stem))
    record = "e2far/pipeline/record.py"
    needed, waiting = {record}, set().union(*map(imported, sources))
    while waiting := waiting - needed:
        needed |= waiting
        waiting = set().union(*(imported(text(path)) for path in waiting))
    assert sorted(path for path in needed - {record} if not is_in(path, deps)) == []


@pytest.mark.parametrize("document", DOCUMENTS)
def test_figures_and_links_exist_and_figures_have_a_stage(document):
    for link in re.findall(r"""(?:\]\(|src=")(?!https?:|#|mailto:)([^)"\s#]+)""", text(document)):
        path = (ROOT / document).parent / link
        assert path.exists(), f"{document} links to {link}, which does not exist"
        if path.suffix in (".png", ".svg", ".webp", ".ipynb") and "reports" in link:
            place = path.resolve().relative_to(ROOT).as_posix()
            assert is_in(place, ALL_OUTPUTS), f"no stage makes {link}"


def test_the_front_page_rounds_the_table_of_the_results():
    lines = f"{text('README.md')}\n{text('docs/results.md')}".splitlines()
    lines = [line for line in lines if line.startswith("| ")]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    rows = {name: numbers for name, *numbers in cells}
    for first, below in (
        (
            "eos, a classic, on 68 landmarks that a trained detector finds",
            "eos, landmarks detected",
        ),
        ("eos on true landmarks with noise of 2 px", "eos, 2 px noise"),
        (
            "our fit to these, from the network's answer",
            "refined from the network, 2 px noise",
        ),
    ):
        assert rows[first] == [f"{float(cell.split()[0]) + 1e-9:.2f}" for cell in rows[below][1:3]]
    errors, paired = (
        pd.read_csv(ROOT / f"reports/metrics/benchmark_{n}.csv") for n in ("errors", "paired")
    )
    eos = errors[errors.method == "eos, 2 px noise"].set_index("error")
    more = paired[(paired.method == "eos, 2 px noise") & (paired.than == "shipped")].set_index(
        "error"
    )
    ours = (eos.mm - more.mm) / (eos.mm / eos.ratio)  # on the same people
    assert rows["the shipped network, one look"] == [
        f"{ours[k]:.2f}" for k in ("neutral", "expression")
    ]


def test_every_committed_figure_belongs_to_a_stage():
    """Or to a make target of hours, which no profile runs: `make looks` and `make long`."""
    assert len(ALL_OUTPUTS) == sum(len(outputs(stage)) for stage in STAGES), "two write one place"
    by_target = {race.LOOKS, long_training.CURVES}
    for path in tracked("reports"):
        if path.name != ".gitignore" and ROOT / path not in by_target:
            assert is_in(path.as_posix(), ALL_OUTPUTS), f"no stage makes {path}"


def test_what_is_shipped_is_small_and_finished():
    size = lambda paths: sum((ROOT / path).stat().st_size for path in paths)
    assert size(tracked("e2far/shipped")) < 15e6 and size(tracked("reports")) < 30e6
    others = [path for path in tracked() if not {"shipped", "reports"} & set(path.parts)]
    assert not [path for path in others if size([path]) > 5e6]
    unfinished = {".partial", ".pyc", ".log"}
    assert not [path for path in tracked() if path.suffix in unfinished]
    assert not [path for path in tracked() if ".ipynb_checkpoints" in path.parts]


@each_stage
def test_an_interrupted_stage_leaves_the_committed_reports(stage):
    """DVC deletes what is not persistent before it runs a stage."""
    entries = [one for kind in ("outs", "metrics") for one in STAGES[stage].get(kind, [])]
    for entry in entries:
        (path,) = plain([entry])
        assert not path.startswith("reports/") or entry[path]["persist"]
