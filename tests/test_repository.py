"""The files of the repository agree with each other: packages, notebooks, stages, parameters, figures."""

import ast
import re
import subprocess
import tomllib
from pathlib import Path

import nbformat
import pytest
import yaml

import e2far
from e2far.pipeline import long_training, trunk_trial

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
NAMES = [
    "00_quickstart",
    "01_data_synthesis",
    "02_training",
    "03_layer_features",
    "04_benchmark",
    "05_speed",
]
PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
STAGES = yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]
PARAMS = yaml.safe_load((ROOT / "params.yaml").read_text())

each_notebook = pytest.mark.parametrize("name", NAMES)
each_stage = pytest.mark.parametrize("stage", STAGES)


def plain(entries):
    """Paths of a stage's deps or outs, without their options."""
    return [entry if isinstance(entry, str) else next(iter(entry)) for entry in entries]


def outputs(stage):
    return plain(
        [
            *STAGES[stage].get("outs", []),
            *STAGES[stage].get("metrics", []),
            *STAGES[stage].get("plots", []),
        ]
    )


ALL_OUTPUTS = {out for stage in STAGES for out in outputs(stage)}


def source(name):
    return nbformat.read(ROOT / "notebooks" / f"{name}.ipynb", as_version=4)


def executed(name):
    return nbformat.read(ROOT / "reports" / "notebooks" / f"{name}.ipynb", as_version=4)


def code(notebook):
    """Sources of the code cells, papermill's own left out."""
    return [
        cell.source
        for cell in notebook.cells
        if cell.cell_type == "code" and "injected-parameters" not in cell.metadata.get("tags", [])
    ]


def requirements(*extras):
    return [
        r
        for group in (
            PYPROJECT["project"]["dependencies"],
            *(PYPROJECT["project"]["optional-dependencies"][e] for e in extras),
        )
        for r in group
    ]


def package(requirement):
    return re.match(r"[\w.-]+", requirement)[0].lower().replace("_", "-")


def tracked():
    """Files that git holds, or would."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "-z"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


# Packages -----------------------------------------------------------------------------------------------------------------------------------------


def test_environment_yml_lists_the_packages_of_pyproject():
    listed = next(
        entry["pip"]
        for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        if isinstance(entry, dict)
    )
    options = [entry for entry in listed if entry.startswith("--")]
    assert sorted(set(listed) - set(options)) == sorted(
        requirements("notebooks", "test", "readers", "cluster", "speed", "video", "facemodel")
    )
    assert options == ["--constraint constraints.txt", "--editable ."]


def test_environment_yml_asks_for_a_python_that_ci_tests():
    python = next(
        entry
        for entry in yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
        if str(entry).startswith("python")
    )
    tested = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"][
        "strategy"
    ]["matrix"]["python"]
    assert (
        python
        == f"python{PYPROJECT['project']['requires-python']},<3.{int(tested[-1].split('.')[1]) + 1}"
    )


def test_constraints_pin_every_package():
    pins = {
        package(line): line
        for line in (ROOT / "constraints.txt").read_text().splitlines()
        if line and not line.startswith("#")
    }
    assert all("==" in line for line in pins.values())
    assert not [
        r
        for r in requirements(
            "notebooks", "test", "readers", "cluster", "speed", "video", "facemodel", "dev"
        )
        if package(r) not in pins and "==" not in r
    ]


def test_makefile_installs_the_face_models_package_as_pyproject_names_it():
    assert all(
        f"'{requirement}'" in (ROOT / "Makefile").read_text()
        for requirement in requirements("facemodel")[-1:]
    )


def test_one_version_everywhere():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert (
        e2far.__version__
        == citation["version"]
        == re.search(r"(?m)^## (.*)", (ROOT / "CHANGELOG.md").read_text())[1]
    )
    assert citation["references"][0]["identifiers"][0]["value"] == "arXiv:1704.05020"


def test_ci_runs_the_readmes_commands():
    steps = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text())["jobs"]["test"]["steps"]
    runs = [step["run"] for step in steps if "run" in step]
    assert [" ".join(run.split()[:2]) for run in runs] == ["make test", "make reproduce"]
    readme = (ROOT / "README.md").read_text()
    assert all(" ".join(run.split()[:2]) in readme for run in runs)


def test_every_wing_has_its_tests():
    wings = {path.parent.name for path in (ROOT / "e2far").glob("*/__init__.py")}
    assert {
        path.name for path in (ROOT / "tests").iterdir() if path.is_dir() and path.name[0] != "_"
    } == {"core", *wings}


# Notebooks ----------------------------------------------------------------------------------------------------------------------------------------


def test_the_notebooks_are_those_of_the_design():
    assert [path.stem for path in NOTEBOOKS] == NAMES


@each_notebook
def test_sources_are_stripped_and_use_the_common_kernel(name):
    notebook = source(name)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == [] and cell.execution_count is None


@each_notebook
def test_code_cells_compile(name):
    cells = code(source(name))
    for cell in cells:
        ast.parse(cell)


@each_notebook
def test_a_notebook_asks_takes_parameters_explains_and_ends_with_what_was_found(name):
    cells = source(name).cells
    assert cells[0].cell_type == "markdown" and cells[0].source.startswith("# ")
    assert [
        cell.source.split("#")[0].strip()
        for cell in cells
        if "parameters" in cell.metadata.get("tags", [])
    ] == ["profile = None"]
    prose = [cell.source for cell in cells if cell.cell_type == "markdown"]
    assert (
        re.search(r"\?|[Ww]hether", " ".join(prose))
        and cells[-1].cell_type == "markdown"
        and "found" in re.findall(r"(?m)^## (.*)", "\n".join(prose))[-1].lower()
    )
    assert sum(len(text.split()) < 12 for text in prose) <= 1, "a heading alone explains nothing"
    assert len(prose) >= sum(text.count("\n## ") + text.startswith("## ") for text in prose)
    assert sum(len(text.split()) for text in prose) >= 250


@each_notebook
def test_an_executed_copy_ran_to_its_end_without_an_error(name):
    notebook = executed(name)
    for cell in notebook.cells:
        if cell.cell_type == "code" and cell.source.strip():
            assert cell.execution_count, f"a cell was not executed:\n{cell.source}"
            assert not [out for out in cell.outputs if out.output_type == "error"]


def results_version():
    """The version that the committed results are of; where it is not this one, the README says so."""
    behind = re.search(
        r"committed results are those of version (\d+\.\d+\.\d+)", (ROOT / "README.md").read_text()
    )
    return behind[1] if behind else e2far.__version__


@each_notebook
def test_an_executed_copy_is_of_the_committed_code(name):
    if results_version() != e2far.__version__:
        pytest.skip(f"the committed results are of {results_version()}")
    assert code(executed(name)) == code(source(name))


@each_notebook
def test_executed_copies_hold_no_machines_paths(name):
    text = (ROOT / "reports" / "notebooks" / f"{name}.ipynb").read_text()
    assert str(ROOT) not in text and not re.search(
        r"/(home|Users|root|tmp)/", re.sub(r'"image/\w+": "[^"]*"', "", text)
    )


# Stages and parameters ----------------------------------------------------------------------------------------------------------------------------


def test_every_profile_has_the_same_sections_with_the_same_keys():
    profiles = PARAMS["profiles"]
    assert (
        list(profiles) == ["smoke", "default", "weights", "paper"] and PARAMS["profile"] in profiles
    )
    first = {section: set(values) for section, values in profiles["smoke"].items()}
    for name, sections in profiles.items():
        assert {section: set(values) for section, values in sections.items()} == first, name


def test_small_numbers_are_numbers():
    """YAML reads 1e-4 as text."""

    def texts(value):
        if isinstance(value, dict):
            return [t for v in value.values() for t in texts(v)]
        if isinstance(value, list):
            return [t for v in value for t in texts(v)]
        return [value] if isinstance(value, str) else []

    assert not [text for text in texts(PARAMS) if re.fullmatch(r"[\d.]+e[+-]?\d+", text)]


@each_stage
def test_a_stage_declares_files_that_exist_or_are_made(stage):
    for dep in plain(STAGES[stage]["deps"]):
        assert dep in ALL_OUTPUTS or (ROOT / dep).exists(), (
            f"{stage} depends on {dep}, which nobody makes"
        )


@each_stage
def test_a_stage_runs_its_notebook_and_keeps_the_copy(stage):
    commands = STAGES[stage]["cmd"]
    notebooks = re.findall(
        r"papermill.* (notebooks/\S+\.ipynb) (\S+)",
        "\n".join([commands] if isinstance(commands, str) else commands),
    )
    assert len(notebooks) == (stage not in ("environment", "facemodel"))
    for notebook, copy in notebooks:
        assert (
            notebook in STAGES[stage]["deps"]
            and copy == f"reports/{notebook}"
            and copy in outputs(stage)
        )


@each_stage
def test_a_stage_depends_on_the_modules_that_its_notebook_imports(stage):
    """But for those that only read params.yaml, whose blocks are watched, and draw."""
    deps = plain(STAGES[stage]["deps"])
    for notebook in [ROOT / dep for dep in deps if dep.endswith(".ipynb")]:
        tree = ast.parse("\n".join(code(nbformat.read(notebook, as_version=4))))
        names = {
            name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom) and node.module.startswith("e2far")
            for name in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names))
        }
        paths = {name.replace(".", "/") for name in names} - {
            "e2far",
            "e2far/pipeline",
            "e2far/pipeline/params",
            "e2far/plots",
        }
        used = {
            path + ending
            for path in paths
            for ending in (".py", "/__init__.py")
            if (ROOT / (path + ending)).exists()
        }
        assert not {
            path
            for path in used
            if not any(path == dep or path.startswith(f"{dep}/") for dep in deps)
        }


@each_stage
def test_a_stage_watches_blocks_that_every_profile_has(stage):
    watched = STAGES[stage]["params"]
    assert "profile" in watched
    for profile in PARAMS["profiles"]:
        for entry in watched:
            value = PARAMS
            for key in entry.replace("${profile}", profile).split("."):
                value = value[key]


def test_no_two_stages_write_the_same_place():
    places = [out for stage in STAGES for out in outputs(stage)]
    assert len(set(places)) == len(places)


@pytest.mark.parametrize("document", ["README.md", "data/README.md", "CONTRIBUTING.md"])
def test_figures_and_links_exist_and_figures_have_a_stage(document):
    text = (ROOT / document).read_text()
    for link in re.findall(r"\]\((?!https?:|#|mailto:)([^)\s#]+)", text):
        path = (ROOT / document).parent / link
        assert path.exists(), f"{document} links to {link}, which does not exist"
        if path.suffix in (".png", ".svg", ".ipynb") and "reports" in link:
            place = path.resolve().relative_to(ROOT).as_posix()
            assert any(place == out or place.startswith(f"{out}/") for out in ALL_OUTPUTS), (
                f"no stage makes {link}"
            )


def test_the_front_page_prints_the_table_that_the_default_profile_made():
    if PARAMS["profile"] != "default":
        pytest.skip("the other profiles' numbers are not for the front page")
    assert (ROOT / "reports/metrics/benchmark.md").read_text() in (ROOT / "README.md").read_text()


def test_the_first_screen_rounds_that_table():
    rows = {
        cells[0]: cells[1:]
        for line in (ROOT / "README.md").read_text().splitlines()
        if line.startswith("| ")
        for cells in [[cell.strip() for cell in line.strip("|").split("|")]]
    }
    for first, below in {
        "our network, one look": "our network, shipped weights",
        "eos, a classic, fitted to 68 landmarks 2 px off the truth": "eos, 2 px noise",
        "our network, then a fit to such landmarks": "our network, refined on landmarks with 2 px noise",
    }.items():
        assert rows[first] == [f"{float(cell.split()[0]) + 1e-9:.2f}" for cell in rows[below][:2]]


@pytest.mark.parametrize("table", ["benchmark", "groups"])
def test_the_model_card_prints_the_shipped_networks_numbers(table):
    if PARAMS["profile"] != "default":
        pytest.skip("the other profiles' numbers are not for the card")
    printed = re.search(
        rf"(?s)<!-- {table} -->\n(.*?)<!-- /{table} -->",
        (ROOT / "data/weights/MODEL_CARD.md").read_text(),
    )[1]
    lines = (ROOT / f"reports/metrics/{table}.md").read_text().splitlines(keepends=True)
    wanted = (
        lines
        if table == "groups"
        else [
            *lines[:2],
            *(
                line
                for line in lines[2:]
                if line.startswith(("| mean face |", "| our network, shipped weights |"))
            ),
        ]
    )
    assert len(wanted) >= 4 and printed == "".join(wanted)


def test_every_committed_figure_belongs_to_a_stage():
    """Or to a make target of hours, which no profile runs: `make trunks` and `make long`."""
    by_target = {trunk_trial.TABLE, long_training.CURVES}
    for path in (ROOT / "reports").rglob("*"):
        if path.is_file() and path.name != ".gitignore" and path not in by_target:
            place = path.relative_to(ROOT).as_posix()
            assert any(place == out or place.startswith(f"{out}/") for out in ALL_OUTPUTS), (
                f"no stage makes {place}"
            )


# Sizes --------------------------------------------------------------------------------------------------------------------------------------------


def test_what_is_shipped_is_small():
    weights = sum(path.stat().st_size for path in (ROOT / "data/weights").iterdir())
    reports = sum(path.stat().st_size for path in (ROOT / "reports").rglob("*") if path.is_file())
    assert weights < 15e6 and reports < 30e6


def test_no_other_file_is_large():
    assert not [
        path
        for path in tracked()
        if path.stat().st_size > 5e6
        and not {"weights", "reports"} & set(path.relative_to(ROOT).parts)
    ]


def test_nothing_unfinished_is_tracked():
    assert not [
        path
        for path in tracked()
        if path.suffix in (".partial", ".pyc", ".log") or ".ipynb_checkpoints" in path.parts
    ]
