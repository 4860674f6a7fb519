# `make demo` and `make test` need Python 3.11 or newer and nothing else: each makes .venv when the requirements changed.
PYTHON ?= python3
BIN := .venv/bin
TESTS := $(BIN)/python -m pytest -n 2

# Two test processes share two cores: one thread each.
export OMP_NUM_THREADS ?= 1
export MPLBACKEND ?= Agg

.PHONY: demo test test-quick test-examples test-slow lint format docs gallery universality readme clean
.DELETE_ON_ERROR:

demo: .venv/installed
	$(BIN)/pellucid demo --out demo/index.html --force

test: test-quick test-examples test-slow

test-quick: .venv/installed
	$(TESTS) -m "not slow" tests

# Every example in the docstrings; what the functions get and give is held against their signatures.
test-examples: .venv/installed
	$(TESTS) --doctest-modules --jaxtyping-packages=pellucid,signatures.hold src/pellucid

test-slow: .venv/installed
	$(TESTS) -m slow tests

lint: .venv/lint
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/house/test_layers.py tests/house/test_security.py

docs: .venv/docs
	$(BIN)/sphinx-build -W -q docs docs/_build

gallery: .venv/installed
	$(BIN)/python docs/gallery.py

universality: .venv/installed
	$(BIN)/python docs/universality.py

readme: .venv/installed
	$(BIN)/python docs/readme.py

format: .venv/lint
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: pyproject.toml constraints.txt | .venv/bin/python
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[test]"
	touch $@

.venv/lint: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[lint]"
	touch $@

.venv/docs: .venv/installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	touch $@

clean:
	rm -rf .venv demo docs/_build dist build .ruff_cache .mypy_cache .hypothesis
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +
