# Two commands matter: `make report` (the suite on the default target) and `make test` (the project's own tests).
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
BIN := $(VENV)/bin

.PHONY: report test faults benchmark lint install clean

report: install  ## run the suite, leave reports/latest/{run.json, report.md, report.html, junit.xml}
	$(BIN)/mpsprobe run

# The virtual device changes the process that it is on in, so each file of its tests has a process of its own.
ALONE := $(wildcard tests/device/virtual/test_*.py tests/suite/test_*.py) tests/prediction/test_predict.py \
  $(addprefix tests/ops/test_,campaign.py isolation.py probes.py replay.py) \
  tests/forecast/test_memory.py tests/forecast/test_calibrate.py tests/models/alpamayo/test_adapter.py

test: install  ## the project's own tests
	printf '%s\n' $(ALONE) | OMP_NUM_THREADS=1 xargs -P 2 -n 1 $(BIN)/python -m pytest -q -m "not benchmark"
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -m "not benchmark" --benchmark-disable --numprocesses auto --dist loadfile \
	  $(addprefix --ignore=,$(ALONE))

faults: install  ## the fault campaign: hundreds of faults and bad inputs through the real command (FAULTS=--short as in CI)
	PYTHONPATH=tools $(BIN)/python -m faults $(FAULTS)

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
