# Everything runs in .venv, which the first target that needs it builds from requirements.lock. `make help` lists the targets.
PYTHON ?= python3
VENV := .venv
export PATH := $(CURDIR)/$(VENV)/bin:$(PATH)

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint repro bench lock clean

help:  ## list the targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-8s %s\n", $$1, $$2}'

setup: $(VENV)/.complete  ## build .venv from the lock; done once, and again when the lock changes

$(VENV)/.complete: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' || { \
	  echo "ferflow needs Python 3.11 to 3.13 (TensorFlow has no wheel for others); name one: make PYTHON=python3.12 ..."; exit 1; }
	@echo "Setting up $(VENV): about 1 GB of packages, a few minutes, once"
	@$(PYTHON) -m venv $(VENV)
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@$(VENV)/bin/python -c 'import cv2' || { echo "OpenCV needs the system's libGL and GLib, which desktops have;" \
	  "on Debian or Ubuntu: apt-get install libgl1 libglib2.0-0"; exit 1; }
	@touch $@

demo: setup  ## the whole pipeline on a made set, in a scratch copy, then four photos labelled by the champion
	@ferflow demo

test: setup  ## every test
	@pytest

lint: setup  ## format, lint, types
	@ruff format --check .
	@ruff check .
	@mypy

repro: setup  ## the whole pipeline on the data in data/raw
	@dvc repro

bench: setup  ## the benchmarks whose figures README and docs/ quote
	@for script in tests/benchmarks/*.py; do echo "== $$script"; python $$script || exit 1; done

lock: setup  ## resolve the newest versions that pyproject.toml allows into requirements.lock
	@uv pip compile pyproject.toml --group dev --universal --python-version 3.11 --generate-hashes --no-annotate \
	  --no-header --no-emit-index-url --overrides requirements.overrides --upgrade --quiet --output-file requirements.lock

clean:  ## remove .venv, the demonstrations and caches; data and models stay
	@rm -rf $(VENV) demo demo-nights build *.egg-info .mypy_cache .pytest_cache .ruff_cache .hypothesis
