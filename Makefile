# `make help` lists what there is. `make report` is for users, the rest for who works on mpsprobe.
PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= requirements/constraints.txt
BIN := $(VENV)/bin

.PHONY: help report test faults benchmark lint examples count develop install clean
.DEFAULT_GOAL := help

help:  ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/\1\t\2/p' $(MAKEFILE_LIST) | expand -t 12

report: install  ## run the suite on a small model, leave reports/latest/{run.json, report.md, report.html, junit.xml}
	$(BIN)/mpsprobe run

test: develop  ## run the project's own tests
	$(BIN)/python tools/run_tests.py

faults: develop  ## run the fault campaign: hundreds of faults and bad inputs through the real command (FAULTS=--short as in CI)
	PYTHONPATH=tools $(BIN)/python -m faults $(FAULTS)

benchmark: develop  ## measure speed, as ratios within one run
	$(BIN)/python -m pytest -m benchmark

lint: develop  ## check style and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

examples: install  ## draw reports/examples anew, HTML and Markdown
	$(BIN)/python tools/examples.py

count: install  ## count rooms, modules and names with two meanings, for CONTRIBUTING
	$(BIN)/python tools/house.py

install: $(VENV)/installed  ## make a virtual environment with what a user needs

develop: $(VENV)/developed  ## add what tests and linters need

$(VENV)/installed: pyproject.toml $(CONSTRAINTS)
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable .
	touch $@

$(VENV)/developed: $(VENV)/installed
	$(BIN)/python -m pip install --quiet --constraint $(CONSTRAINTS) --editable '.[dev]'
	touch $@

clean:  ## remove the virtual environment
	rm -rf $(VENV)
