# Every task of the project; `make` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## install for development, with the versions of constraints.txt
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

test:  ## the fast tests, a process a core
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto

check: lint test  ## lint, types and the fast tests

check-all: lint  ## everything, the long tests included
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto -m ''

parity:  ## hold the methods against plain PEFT and the adapters library (docs/parity.md)
	$(PYTHON) -m pytest -m '' tests/parity

matrix:  ## try every method on every family and head, and write docs/matrix.md (minutes)
	$(PYTHON) -m peftkit job=matrix

lint:  ## ruff and mypy
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

format:  ## let ruff format the code
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .

build:  ## wheel and sdist into dist/
	$(PYTHON) -m build

lock:  ## write constraints.txt anew from a clean environment (Python 3.11, CPU)
	docker/lock.sh

docker-build:  ## build both images (needs a Docker engine)
	docker build -f docker/Dockerfile.cpu -t peftkit:cpu . && docker build -f docker/Dockerfile -t peftkit:cuda .

docker-smoke:  ## run the smoke steps in the CPU image
	docker compose -f docker/compose.yaml run --rm --entrypoint bash cpu docker/smoke.sh

clean:  ## remove builds and caches, not outputs
	rm -rf dist build .pytest_cache .mypy_cache .ruff_cache *.egg-info

.PHONY: help install test check check-all parity matrix lint format build lock docker-build docker-smoke clean
