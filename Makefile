# Everything lives in .venv and .cache of this folder. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 4
N ?= 20
SEED ?=
KEEP ?=
PART ?=
SIZES ?=
MODE ?=
SCENARIO ?=

# What hundreds of processes import is compiled once, wherever the environment forbids it.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help demo test soak bench lint format clean

help: ## what can be made
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):[^#]*## /\1\t/' | expand -t 12

$(STAMP): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { echo "missing tool: $(PYTHON) (install Python 3.11 or later, or set PYTHON=)"; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "missing tool: Python 3.11 or later ($(PYTHON) is older; set PYTHON=)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing tool: Python's venv module (on Debian: apt install python3-venv)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	@touch $@

demo: $(STAMP) ## run the whole path for about a minute and compare source and target (KEEP=1 leaves it running; MODE=poll or poll-tables: without a stream; SCENARIO=slot-lost or recovery)
	KEEP=$(KEEP) $(BIN)/python -m demo $(if $(MODE),--mode $(MODE)) $(if $(SCENARIO),--scenario $(SCENARIO))

test: $(STAMP) ## every test, on real servers
	$(BIN)/pytest -n $(WORKERS) --dist loadgroup -m 'not soak' --durations 20

soak: $(STAMP) ## N random kills under traffic (N=20, SEED= repeats a run), and Kafka away for long
	SOAK_KILLS=$(N) SOAK_SEED=$(SEED) $(BIN)/pytest -m soak -s

$(VENV)/.bench: $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,bench]'
	@touch $@

bench: $(VENV)/.bench ## docs/benchmarks.md anew: what has no figures of this code yet, or one part (PART=reader, guard...; SIZES='--rows 20000 --rounds 1' tries it out)
	$(BIN)/python -m bench $(PART) $(SIZES)

lint: $(STAMP) ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP) ## let ruff put the layout right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean: ## remove what was installed and cached here
	rm -rf $(VENV) .cache .mypy_cache .ruff_cache .pytest_cache .hypothesis dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
