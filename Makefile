# make demo   see the idea work (trains a tiny model, evaluates it, writes one page)
# make test   every test, then lint; make quick leaves the slow tests out
# Each makes the virtual environment .venv first, once, and uses it again. PYTHON=... chooses the interpreter.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
.PHONY: help demo test quick lint clean

BIN := .venv/bin
STAMP := .venv/.installed
PYTEST_ARGS ?=
# Two processes of one thread each, whole files at a time; WORKERS=0 tests in one process.
WORKERS ?= 2
PYTEST := OMP_NUM_THREADS=$${OMP_NUM_THREADS:-1} $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile
DEMO_RUN := $(or $(LRAS_RUNS),runs)/demo/$(shell date +%Y%m%d-%H%M%S)

help:
	@sed -n '1,3s/^# //p' Makefile

# Stamped only when everything is in, so an interrupted installation is taken up again.
$(STAMP): pyproject.toml
	@python=""; \
	for candidate in $(PYTHON) python3.11 python3.12 python3.13 python3; do \
	    if "$$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then \
	        python="$$candidate"; break; \
	    fi; \
	done; \
	if [ -z "$$python" ]; then \
	    echo "No Python >= 3.11 found (tried: $(strip $(PYTHON) python3.11 python3.12 python3.13 python3)); install one, or type make PYTHON=/path/to/python." >&2; \
	    exit 1; \
	fi; \
	[ -x $(BIN)/python ] || "$$python" -m venv .venv
	$(BIN)/python -m pip install --quiet -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/python train.py experiment=demo hydra.run.dir=$(DEMO_RUN)
	$(BIN)/python eval.py ckpt=$(DEMO_RUN) task=synthetic report=true hydra.run.dir=$(DEMO_RUN)/eval

test: $(STAMP)
	$(PYTEST) $(PYTEST_ARGS)
	$(MAKE) --no-print-directory lint

quick: $(STAMP)
	$(PYTEST) -m "not slow" $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# Leaves .venv and runs/ alone: both are dear to make again.
clean:
	rm -rf .pytest_cache .ruff_cache .hypothesis build dist *.egg-info
	find . -name __pycache__ -type d -not -path "./.venv/*" -prune -exec rm -rf {} +
