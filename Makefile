# `make quick` and `make test` need nothing but Python >= 3.10 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: quick test lint lock speed strength masks docs clean install

quick: $(STAMP)
	$(BIN)/bench run --grid quick

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --durations=15 --durations-min=5

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

lock: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.lock

strength: $(STAMP)
	$(BIN)/python -m tests.strength

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

masks: $(STAMP)
	$(BIN)/python -m tests.masks_table

speed: $(STAMP)
	$(BIN)/python -m tests.speed

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache
