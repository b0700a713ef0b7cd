# Two commands do everything on a fresh machine: `make sample` and `make test`.
VENV ?= .venv
PYTHON ?= python3
BIN := $(VENV)/bin
export PATH := $(abspath $(BIN)):$(PATH)

# torch stands apart from the lock: which build (CPU, CUDA) is yours to choose. It comes first, so
# that nothing else pulls another one.
TORCH ?= torch==2.13.0

.PHONY: help setup sample test fast check audit lock

help:           ## list the targets
	@grep -E '^[a-z]+:.*##' Makefile | sed 's/:[^#]*##/\t/'

setup: $(BIN)/.done  ## make the virtual environment

$(BIN)/.done: requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet "$(TORCH)"
	$(BIN)/pip install --quiet -r requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/pip check
	touch $@

sample: setup   ## run the sample campaign to reports/sample-smoke/report.html
	snakemake --cores 2 --resources gpu=2
	@echo "open reports/sample-smoke/report.html"

check: setup    ## formatting, lint, layers
	ruff check .
	ruff format --check .
	snakefmt --check Snakefile workflow
	snakemake --lint
	lint-imports
	resegment plan --check

test: check     ## every test, the slow ones included
	pytest -n 2 --dist worksteal

fast: setup     ## the tests that take seconds
	pytest -n 2 --dist worksteal -m "not slow and not campaign"

audit:          ## known vulnerabilities of what requirements.lock names (asks pypi.org)
	$(PYTHON) -m venv .audit
	.audit/bin/pip install --quiet pip-audit
	{ cat requirements.lock; echo "$(TORCH)"; } > .audit/audited.txt
	.audit/bin/pip-audit --requirement .audit/audited.txt --no-deps --disable-pip --strict

lock: setup     ## write the versions of this environment to requirements.lock
	$(BIN)/pip freeze --exclude-editable --exclude torch > requirements.lock
