# make demo, make test: each sets up .venv by itself, and again only when pyproject.toml or constraints.txt has changed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed-$(shell cat pyproject.toml constraints.txt | cksum | tr ' ' '-')
SHARDS := data
JOBS := 2
# One thread each: processes that share cores slow each other down many times over if torch's threads spin.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.PHONY: help install demo test test-slow test-full lint format clean

help:
	@echo "make demo       prepare digits, run the matrix of experiments/digits.yaml, write its report"
	@echo "make test       the test suite"
	@echo "make test-slow  kills, several processes, samples of the grids"
	@echo "make test-full  the whole grids"
	@echo "make lint       ruff and mypy"

install: $(INSTALLED)

$(INSTALLED):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "en_bench needs Python >= 3.11 and $(PYTHON) is older: make PYTHON=/path/to/python3.11 $(MAKECMDGOALS)"; exit 1; }
	@echo "setting up $(VENV) (some minutes and 6 GB at the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --progress-bar on -c constraints.txt -e '.[dev]'
	@rm -f $(VENV)/installed-*
	@touch $@

demo: install
	@$(BIN)/python data_scripts/digits.py --out $(SHARDS)/digits --resume
	@$(BIN)/en-bench matrix run experiments/digits.yaml --data-root $(SHARDS)

test: install
	@$(PYTEST) -n $(JOBS) --dist worksteal

test-slow: install
	@$(PYTEST) -m slow -n $(JOBS) --dist loadgroup

test-full: install
	@$(PYTEST) -m 'slow or full'

lint: install
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: install
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

clean:
	rm -rf $(VENV) data results .pytest_cache .mypy_cache .ruff_cache .hypothesis
