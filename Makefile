# Everything a developer or a CI machine runs. Needs python3 (3.11 or newer) with venv, and make; nothing else by hand.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
SPHINXOPTS ?=
DEMO := out/demo

# Two workers with torch's default threads spin against each other: one thread each, and waiting threads sleep.
export OMP_NUM_THREADS := 1
export MKL_NUM_THREADS := 1
export OMP_WAIT_POLICY := PASSIVE
PYTEST := $(BIN)/python -m pytest -n 2

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint format types imports no-torchvision tests slow docs bench wheel clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 24

setup: $(STAMP) ## make .venv with the package (editable) and its tools; done once, and by every target that needs it

$(STAMP): pyproject.toml constraints.txt no-deps.txt
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "$(PYTHON) must be Python 3.11 or newer with venv (Debian: apt-get install python3-venv)"; exit 1; }
	@echo "Setting up $(VENV): a minute or two, once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --no-input -c constraints.txt -e '.[all,dev,docs]'
	$(BIN)/python -m pip install --quiet --no-input --no-deps -r no-deps.txt
	@touch $@

demo: $(STAMP) ## train a small network on embedded data, audit it, say where the report is
	$(BIN)/nonvacuous train --model mlp:64-64-10 --train digits --epochs 30 --seed 0 \
		--out $(DEMO)/weights.safetensors --force
	$(BIN)/nonvacuous audit --model mlp:64-64-10 --weights $(DEMO)/weights.safetensors \
		--initial-weights $(DEMO)/weights.initial.safetensors \
		--train digits --test digits --delta 0.05 --out $(DEMO)/audit --force
	@echo "The report: $(CURDIR)/$(DEMO)/audit/audit.html"

test: lint types imports no-torchvision tests ## all that must hold: lint, types, import direction, doctests, tests

lint: $(STAMP) ## ruff: rules and format
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(STAMP) ## let ruff rewrite what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(STAMP) ## mypy, strict where certificates are made and checked
	$(BIN)/mypy

imports: $(STAMP) ## the direction of imports, as pyproject.toml states it
	$(BIN)/lint-imports --no-logo

no-torchvision: $(STAMP) ## the project must work, and be tested, without torchvision and torchaudio
	@$(BIN)/python -c 'import importlib.util as u, sys; there = [m for m in ("torchvision", "torchaudio") if u.find_spec(m)]; \
		there and sys.exit("%s must not be installed in $(VENV): what works with it may fail for users, who need not have it. \
	Remedy: $(BIN)/pip uninstall %s" % (" and ".join(there), " ".join(there)))'

tests: $(STAMP) ## doctests and tests, without the slow ones
	$(PYTEST)

slow: $(STAMP) ## the slow tests
	$(PYTEST) -m slow || [ $$? -eq 5 ] # 5: there are none

docs: $(STAMP) ## the documentation, warnings as errors, into docs/_build/html
	$(BIN)/python -m sphinx -W --keep-going $(SPHINXOPTS) -b html docs docs/_build/html

bench: $(STAMP) ## time and peak memory, each benchmark in a process of its own
	@for page in benchmarks/[!_]*.py; do echo "== $$page"; $(BIN)/python $$page || exit 1; done

wheel: $(STAMP) ## sdist and wheel into dist/
	$(BIN)/python -m build

clean: ## remove what the targets made, .venv excepted
	rm -rf build dist out docs/_build docs/api docs/bounds docs/gallery docs/sg_execution_times.rst
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis
