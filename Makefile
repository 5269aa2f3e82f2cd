# Two commands: `make run` and `make test`. Both create .venv and install what they need.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: run test slow lint clean

run: .venv/installed
	$(BIN)/optsteps $(ARGS)

# a process of one thread for each core, of at most eight: the tests are many and small
test: .venv/installed-dev lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --maxprocesses 8 --dist worksteal $(ARGS)

slow: .venv/installed-dev
	$(BIN)/python -m pytest -m slow --timeout 1800 $(ARGS)

lint: .venv/installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --recursive --configfile pyproject.toml optsteps

.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/installed: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable .
	touch $@

.venv/installed-dev: .venv/bin/python pyproject.toml
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@ .venv/installed

clean:
	rm -rf .venv outputs build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache
