# Needs Python (3.11 or newer) with pip, and make. Everything is installed into $(VENV), nothing elsewhere.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/$(if $(filter Windows_NT,$(OS)),Scripts,bin)
INSTALLED := $(VENV)/.installed
SOURCES := $(wildcard rltr tests scripts benchmarks examples docs/*.py docs/_ext)
SITE ?= docs/_build/html

.PHONY: help setup demo test check lint docs links format wheel clean

help: ## list what can be made
	@grep -E '^[a-z]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(INSTALLED) ## install rltr and the tested versions of what it needs

# torch comes first and alone: it is by far the largest, and with it fixed the rest resolves at once.
$(INSTALLED): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	@touch $@

demo: setup ## train, measure and export on the embedded data, in less than eight minutes on two cores
	$(BIN)/rltr demo

# One process per processor core; tests use one thread each.
test: setup ## run the tests, in an order of chance that the first lines name
	$(BIN)/python -m pytest --numprocesses auto

lint: setup ## check format, style and types
	$(BIN)/ruff format --check $(SOURCES)
	$(BIN)/ruff check $(SOURCES)
	$(BIN)/mypy

docs: setup ## build the documentation into docs/_build/html; warnings are errors
	$(BIN)/python -m sphinx --fail-on-warning --keep-going --quiet docs $(SITE)

check: lint test docs ## everything above: format, style, types, tests, documentation

links: setup ## ask every web address in the documentation whether it is there; needs the network
	$(BIN)/python -m sphinx -b linkcheck --quiet docs docs/_build/links

format: setup ## format the code and fix what can be fixed
	$(BIN)/ruff check --fix $(SOURCES)
	$(BIN)/ruff format $(SOURCES)

wheel: setup ## build the wheel into dist/
	rm -rf build dist
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	rm -rf build

clean: ## remove the environment and everything built
	rm -rf $(VENV) build dist docs/_build docs/reference *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
