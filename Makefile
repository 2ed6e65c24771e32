# Both targets do all the set-up on a machine that has only Python (>= 3.10), in a virtual environment of
# their own. PYTHON and VENV may be given on the command line.
PYTHON ?= python3
VENV ?= .venv
BIN = $(VENV)/bin
READY = $(VENV)/.ready
WORKERS = -n 2 --dist loadfile --no-loadscope-reorder

.PHONY: demo test lint bench clean

demo: $(READY)
	$(BIN)/smd-evo finetune

# What is computed in floating point is tested twice: with the processor's own kernels and with the plainest ones, which
# round as no modern processor does by itself.
test: $(READY) lint
	$(BIN)/python -m pytest $(WORKERS)
	ATEN_CPU_CAPABILITY=default ONEDNN_MAX_CPU_ISA=SSE41 $(BIN)/python -m pytest $(WORKERS) -m numeric tests

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# The engine's costs as ratios, one table after the other; a quarter of an hour of a quiet core.
bench: $(READY)
	for name in noise reuse evaluation memory; do $(BIN)/python benchmarks/$$name.py || exit 1; done

$(READY): pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
