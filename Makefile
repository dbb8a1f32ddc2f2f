# Two commands matter: `make report` (the suite on the default target) and `make test` (the project's own tests).
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
BIN := $(VENV)/bin

.PHONY: report test benchmark lint install clean

report: install  ## run the suite, leave reports/latest/{run.json, report.md, report.html, junit.xml}
	$(BIN)/mpsprobe run

test: install  ## the project's own tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not benchmark" --numprocesses auto --dist loadfile

benchmark: install  ## speed, as ratios within one run
	$(BIN)/python -m pytest -m benchmark

lint: install  ## style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

install: $(VENV)/installed

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV)
