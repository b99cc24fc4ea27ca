# make setup | demo | test | lint | clean: each makes the virtual environment first where it is missing or outdated.
#
#   PYTHON=python3.12     the interpreter to build .venv with (default: python3, if it is 3.10 or later)
#   PIP_FLAGS="..."       passed to pip, e.g. --extra-index-url https://download.pytorch.org/whl/cpu for the small
#                         CPU build of torch
#   DEMO_FLAGS="..."      passed to cogaze demo, e.g. --seed 1 --out runs/demo-1
#   PYTEST_FLAGS="..."    passed to pytest, e.g. -m 'not slow'

VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
JOBS   ?= 2

.PHONY: help setup demo test lint format clean

help:
	@awk '!/^#/ { exit } { sub(/^# ?/, ""); print }' Makefile

setup: $(STAMP)

# A Python of 3.10 or later that can make virtual environments. Debian and Ubuntu ship `ensurepip` apart.
$(STAMP): pyproject.toml constraints.txt
	@set -e; \
	if [ ! -x $(BIN)/python ] || ! $(BIN)/python -c 'import pip' 2>/dev/null; then \
	  found=; unusable=; \
	  for python in $(PYTHON) python3 python3.12 python3.11 python3.13 python3.10 python3.14 python; do \
	    command -v $$python >/dev/null 2>&1 || continue; \
	    $$python -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null || continue; \
	    if $$python -c 'import venv, ensurepip' 2>/dev/null; then found=$$python; break; fi; \
	    unusable="$$unusable $$python"; \
	  done; \
	  if [ -z "$$found" ]; then \
	    if [ -n "$$unusable" ]; then \
	      echo "make:$$unusable cannot make virtual environments. On Debian or Ubuntu: apt install python3-venv" >&2; \
	    else \
	      echo "make: no Python 3.10 or later on PATH. Install one, or name it: make setup PYTHON=/path/to/python3" >&2; \
	    fi; \
	    exit 1; \
	  fi; \
	  echo "$(VENV): $$($$found --version), $$(command -v $$found)"; \
	  $$found -m venv $(VENV); \
	fi
	$(BIN)/python -m pip install --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt -e '.[dev]'
	@touch $(STAMP)

demo: $(STAMP)
	$(BIN)/cogaze demo $(DEMO_FLAGS)

# Whole files go to one worker each, so that what a file's fixtures build is built once; every draw of hypothesis is
# fixed. Tests that start two ranks do so with one thread a rank.
test: $(STAMP)
	$(BIN)/pytest -n $(JOBS) --dist loadfile --hypothesis-profile=ci $(PYTEST_FLAGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(STAMP)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:
	rm -rf $(VENV) build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
