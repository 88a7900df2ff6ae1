# `make demo` and `make test` are all a new machine needs: Python 3.11+, make and a package index.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
UV_VERSION := 0.13.8
LOCK   := --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
          --no-annotate --custom-compile-command 'make lock' --quiet

.PHONY: help demo test check setup images lock bench bench-peers chaos soak
.DEFAULT_GOAL := help

help:  ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  make %-12s %s\n", $$1, $$2}'

demo: setup  ## start the embedded stack, train on a sample dataset, promote, serve (EXIT=1: stop afterwards)
	$(BIN)/tire demo $(if $(EXIT),--exit)

setup: $(VENV)/.ready  ## make .venv from the hash-pinned requirements

$(VENV)/.ready: requirements.txt requirements-dev.txt pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(0 if (3, 11) <= sys.version_info < (3, 14) else f"Python 3.11 to 3.13 is needed, this is {sys.version.split()[0]}; try make PYTHON=python3.12")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	$(BIN)/uv pip install --quiet --require-hashes --compile-bytecode -r requirements.txt -r requirements-dev.txt
	$(BIN)/uv pip install --quiet --no-deps --no-build-isolation --editable .
	touch $@

test: check  ## the whole test suite
	$(BIN)/python -m pytest

check: setup  ## lint, types and import contracts
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

images:  ## build the images of docker-compose.yaml (BASE_IMAGE=…, DOCKER_BUILD=… for options of docker build)
	for image in trainer serving airflow mlflow s3; do \
	  docker build $(DOCKER_BUILD) $(if $(BASE_IMAGE),--build-arg BASE_IMAGE=$(BASE_IMAGE)) \
	    --file docker/$$image.Dockerfile --tag tire-$$image . || exit 1; done

lock: setup  ## resolve requirements*.in again
	$(BIN)/uv pip compile $(LOCK) requirements.in -o requirements.txt
	$(BIN)/uv pip compile $(LOCK) requirements-dev.in -o requirements-dev.txt
	$(BIN)/uv pip compile $(LOCK) requirements-bench.in -o requirements-bench.txt
	for image in trainer serving airflow mlflow s3; do \
	  $(BIN)/uv pip compile $(LOCK) --constraints requirements.txt docker/$$image.in -o docker/$$image.txt || exit 1; done

bench: setup  ## the measured promises, minutes long
	$(BIN)/python -m pytest -s -m bench tests

bench-peers: .venv-bench/.ready  ## make .venv-bench, with the loaders and servers that `tire bench` compares

.venv-bench/.ready: requirements-bench.txt | setup
	test -x .venv-bench/bin/python || $(PYTHON) -m venv .venv-bench
	$(BIN)/uv pip install --quiet --python .venv-bench/bin/python --require-hashes --compile-bytecode -r requirements-bench.txt
	touch $@

chaos: setup  ## kill -9 of the parts of a running stack, minutes long
	$(BIN)/python -m pytest -s -m chaos tests

soak: setup  ## long repetitions: kills of a training, promotions at once, a server under load
	$(BIN)/python -m pytest -s -m soak tests
