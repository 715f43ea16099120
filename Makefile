# `make quick` and `make test` need nothing but Python >= 3.10 and make.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.PHONY: quick test lint lock costs speed faults mutants strength masks docs clean install

quick: $(STAMP)
	$(BIN)/bench run --grid quick

test: $(STAMP) lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist worksteal --durations=15 --durations-min=5

# mypy and import-linter do not follow `package_dir`: they check one tree of links, laid out as in a wheel.
TREE := .lint

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	rm -rf $(TREE)
	mkdir -p $(TREE)/benchmark
	cd $(TREE)/benchmark && ln -s ../../benchmark/* ../../attacks ../../defenses ../../targets .
	cd $(TREE) && ln -s ../studies .
	cd $(TREE) && ../$(BIN)/mypy --config-file ../setup.cfg --cache-dir ../.mypy_cache
	cd $(TREE) && ../$(BIN)/lint-imports ../setup.cfg

lock: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.lock

faults: $(STAMP)
	$(BIN)/python -m studies.faults

mutants: $(STAMP)
	$(BIN)/python -m studies.mutants

strength: $(STAMP)
	$(BIN)/python -m studies.strength

docs: $(STAMP)
	$(BIN)/mkdocs build --strict

masks: $(STAMP)
	$(BIN)/python -m studies.masking.table

costs: $(STAMP)
	OMP_NUM_THREADS=1 $(BIN)/python -m studies.costs

speed: $(STAMP)
	$(BIN)/python -m studies.speed

install: $(STAMP)

$(STAMP): setup.cfg pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet -c constraints.txt -e ".[dev]"
	touch $@

clean:
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .lint
