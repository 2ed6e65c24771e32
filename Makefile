# Each target does all the set-up on a machine that has only Python (>= 3.10), in a virtual environment of
# its own. PYTHON and VENV may be given on the command line.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
# More than two cores, as tests wait for processes.
WORKERS = -n 3 --dist loadfile --no-loadscope-reorder

# What a hundred processes import is compiled once.
export PYTHONDONTWRITEBYTECODE =

.PHONY: help demo test quick test-lowest coverage lint docs notebooks bench figures dist hooks clean

help:  ## what there is
	@awk -F ':.*## ' '/^[a-z-]*:.*## / {printf "%-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(READY)  ## fine-tunes and ensembles a small CNN on real scans of digits
	$(BIN)/smd-evo finetune

# What is computed in floating point is tested twice: with the processor's own kernels and with the plainest ones, which
# round as no modern processor does by itself.
test: $(READY) lint docs  ## everything, as continuous integration does
	$(BIN)/python -m pytest $(WORKERS)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest $(WORKERS) -m numeric $$(grep -rl --include='*.py' mark.numeric tests)

quick: $(READY)  ## tests of the method itself, in a minute: no other processes, no Ray
	$(BIN)/python -m pytest $(WORKERS) -m "not slow" tests/core tests/evaluation tests/ensemble tests/controls

# PYTHON=python3.10 for the oldest Python, too. What old versions say of the new ones beside them is not our affair.
test-lowest:  ## everything with the oldest versions
	$(PYTHON) -m venv --clear build/lowest
	build/lowest/bin/python -m pip install --quiet --disable-pip-version-check uv
	build/lowest/bin/uv pip install --quiet --python build/lowest/bin/python --resolution lowest-direct --editable '.[dev]'
	build/lowest/bin/uv pip uninstall --quiet --python build/lowest/bin/python torchao  # needs a newer torch: an extra
	build/lowest/bin/python -m pytest $(WORKERS) -W ignore::DeprecationWarning -W ignore::FutureWarning -W 'ignore:Please use the new API:UserWarning'

# Twice as long as the tests alone.
coverage: $(READY)  ## lines and branches that no test runs
	rm -rf build/coverage
	mkdir -p build/coverage
	$(BIN)/coverage run -m pytest $(WORKERS)
	$(BIN)/coverage combine -q
	$(BIN)/coverage report

lint: $(READY)  ## style, spelling, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/codespell
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# What is wrong with a page or a docstring is an error.
docs: $(READY)  ## the site, in build/site
	$(BIN)/sphinx-build -W --keep-going -q -j 2 docs build/site

notebooks: $(READY)  ## those among the examples again, with what they show
	mkdir -p build/notebooks
	cp examples/*.ipynb build/notebooks
	cd build/notebooks && $(abspath $(BIN))/jupyter-execute --inplace *.ipynb
	cp build/notebooks/*.ipynb examples

# The engine's costs as ratios, one table after the other; a quarter of an hour of a quiet core.
bench: $(READY)  ## what the engine costs, measured
	for name in noise reuse evaluation memory freed_memory; do $(BIN)/python benchmarks/$$name.py || exit 1; done

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

figures: $(READY)  ## those of README and pages that come from benchmarks' results files
	$(BIN)/python benchmarks/figures.py

# A release: this, then a tag and the upload of dist.
dist: $(READY)  ## sdist and wheel; the wheel is tried where the repository is not
	rm -rf dist build/wheel
	$(BIN)/python -m build --outdir dist
	$(BIN)/twine check --strict dist/*
	$(PYTHON) -m venv build/wheel
	build/wheel/bin/python -m pip install --quiet --disable-pip-version-check dist/*.whl mypy
	cp examples/finetune_your_network.py build/wheel
	cd build/wheel && bin/python -I finetune_your_network.py
	cd build/wheel && bin/mypy --strict finetune_your_network.py
	cd build/wheel && bin/smd-evo finetune --children 16

hooks: $(READY)  ## checks of style before each commit
	$(BIN)/pre-commit install

clean:  ## removes what the others have made
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
