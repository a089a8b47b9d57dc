# Tasks of the project; `make` lists them.
.DEFAULT_GOAL := help
PYTHON ?= python

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

install:  ## install for development, with the versions of constraints.txt
	$(PYTHON) -m pip install -c constraints.txt -e '.[dev]'

test:  ## the fast tests, one process per core
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto

check: lint test  ## lint, types and the fast tests

check-all: lint  ## everything, including the slow tests
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest -n auto -m ''

parity:  ## compare the methods with plain PEFT and the adapters library (docs/explanation/parity.md)
	$(PYTHON) -m pytest -m '' tests/parity

check-gpu:  ## what one NVIDIA GPU shows, sized for ten minutes, into outputs/gpu/gpu.md (without one, what a CPU can do)
	$(PYTHON) -m pytest -rs -m gpu tests/test_gpu.py && $(PYTHON) tests/benchmarks/gpu.py

matrix:  ## try every method on every model and head, and write docs/reference/matrix.md (minutes)
	$(PYTHON) -m peftkit job=matrix

bench:  ## measure training beside plain scripts, and write outputs/bench/index.html (an hour on 2 cores)
	$(PYTHON) -m peftkit recipe=bench $(BENCH)

docs:  ## build the documentation into site/, warnings are errors
	NO_MKDOCS_2_WARNING=1 $(PYTHON) -m mkdocs build --strict

lint:  ## ruff and mypy
	$(PYTHON) -m ruff check . && $(PYTHON) -m ruff format --check . && $(PYTHON) -m mypy

format:  ## format the code with ruff
	$(PYTHON) -m ruff check --fix . && $(PYTHON) -m ruff format .

build:  ## wheel and sdist into dist/
	$(PYTHON) -m build

lock:  ## write constraints.txt from a clean environment (Python 3.11, CPU)
	docker/lock.sh

docker-build:  ## build both images (needs a Docker engine)
	docker build -f docker/Dockerfile.cpu -t peftkit:cpu . && docker build -f docker/Dockerfile -t peftkit:cuda .

docker-check:  ## build both images and run the smoke steps in them without a Docker engine (buildah, root, Debian)
	docker/image.sh docker/Dockerfile.cpu && docker/image.sh docker/Dockerfile

docker-smoke:  ## run the smoke steps in the CPU image
	docker compose -f docker/compose.yaml run --rm --entrypoint bash cpu docker/smoke.sh

clean:  ## remove builds and caches, not outputs
	rm -rf dist build site .pytest_cache .mypy_cache .ruff_cache *.egg-info

.PHONY: help install test check check-all check-gpu parity matrix bench docs lint format build lock docker-build docker-check docker-smoke clean
