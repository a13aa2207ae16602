# make demo  runs the paper's experiment at a small size
# make test  runs the tests
# make docs  builds the documentation in docs/_build/html
# Each creates the virtual environment .venv first. A newcomer needs Python only.

PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
DEMO_OUT ?= demo-results

# The numerical tests, with OpenBLAS's kernels for another processor.
NUMERICAL := tests/physics tests/tissue tests/relaxometry tests/novelty tests/neural/training

.PHONY: demo test test-haswell docs lint format bench clean

demo: $(VENV)/.installed
	$(BIN)/corrsk reproduce --samples 400000 --out $(DEMO_OUT) --resume

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest -n auto --dist worksteal

test-haswell: $(VENV)/.installed-dev
	OPENBLAS_CORETYPE=Haswell $(BIN)/python -m pytest -n auto --dist worksteal -q $(NUMERICAL) -m "not slow"

docs: $(VENV)/.installed-dev
	$(BIN)/python -m sphinx -b html -n -W --keep-going $(SPHINXOPTS) docs docs/_build/html

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.installed-dev
	$(BIN)/python -m benchmarks

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[cli,fast]"
	touch $@

$(VENV)/.installed-dev: pyproject.toml constraints.txt | $(VENV)/bin/python
	$(PIP) install --quiet --constraint constraints.txt --editable ".[dev]"
	touch $@ $(VENV)/.installed

clean:
	rm -rf $(VENV) $(DEMO_OUT) docs/_build docs/gallery docs/reference build *.egg-info .mypy_cache .ruff_cache .pytest_cache
