# Every target does its own set-up: a fresh clone, Python 3.11 and a package index are enough.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
STAMP := .venv/.installed
DATA ?= ../shared/data
PHOTO ?= $(shell $(BIN)/python -c "import importlib.util as u; print(u.find_spec('ultralytics').submodule_search_locations[0])")/assets/bus.jpg

.PHONY: accuracy performance detect demo docs screenshots chromium test test-fast test-slow test-elsewhere lint types contracts format wheel starter clean help

help: ## List the targets.
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 14

detect: $(STAMP) ## Find things in a real photo and save the labelled picture in out/.
	$(BIN)/openvocab detect "$(PHOTO)" --classes "bus, pedestrian, traffic light, dog" --save out

demo: $(STAMP) ## Open the demo page.
	$(BIN)/openvocab demo

docs: $(STAMP) ## Build the documentation in out/site.
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

screenshots: $(STAMP) chromium ## Pictures of the demo's tabs, in out/screenshots/, and the one that README shows.
	PYTHONPATH=tests $(BIN)/python tests/browser/screenshots.py out/screenshots
	cp out/screenshots/demo-image-light-1440.jpg docs/images/

# The browser tests skip, with their reason, where there is no Chromium.
chromium:
	@command -v chromium > /dev/null || { test "$$(id -u)" = 0 && command -v apt-get > /dev/null && \
		apt-get update -qq && apt-get install -qq -y chromium > /dev/null; } || \
		echo "No Chromium: the demo's tests will be skipped; apt-get install chromium brings it."

PYTEST := $(BIN)/python -m pytest -n 2 --dist loadgroup

test: lint types contracts $(STAMP) chromium ## All checks that CI runs, with the coverage of openvocab/.
	$(PYTEST) -m "not slow" --cov --cov-report=term:skip-covered

test-fast: lint types contracts $(STAMP) ## Style, types, and the tests that need no trained weights: for every edit.
	$(PYTEST) -m "not slow and not weights" openvocab tests/unit tests/property tests/contract

test-slow: $(STAMP) ## The checks that take minutes.
	$(BIN)/python -m pytest -m slow

test-elsewhere: $(STAMP) ## The tests as on another machine: processor, cores, encoding, time zone, home, PATH.
	tests/elsewhere/run "$(abspath $(BIN))/python" -m pytest -n 2 --dist loadgroup -m "not slow"

accuracy: $(STAMP) ## Measure what each part of the starter preset is worth (half an hour), and write docs/accuracy.md.
	$(BIN)/python benchmarks/tiling.py $(DATA)/coco-dev --json benchmarks/results/tiling.json
	$(BIN)/python benchmarks/accuracy.py $(DATA)/coco-dev --features out/features --json benchmarks/results/accuracy.json --page docs/accuracy.md

performance: $(STAMP) ## Measure how fast the two networks and everything else run (half an hour), and write docs/performance.md.
	$(BIN)/python benchmarks/dense.py $(DATA)/coco-dev --features out/features --json benchmarks/results/dense.json
	$(BIN)/python benchmarks/latency.py $(DATA)/coco-dev/images --json benchmarks/results/latency.json
	$(BIN)/python benchmarks/performance.py benchmarks/results docs

lint: $(STAMP) ## Style and formatting.
	$(BIN)/ruff check
	$(BIN)/ruff format --check

types: $(STAMP) ## Types, strictly.
	$(BIN)/mypy

contracts: $(STAMP) ## Which module may import which.
	$(BIN)/lint-imports

format: $(STAMP) ## Mend style and formatting.
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

wheel: $(STAMP) ## The package with its starter weights, in dist/.
	$(BIN)/pip wheel --no-deps --wheel-dir dist .

# Work folder of the training; what a step left there is not made again.
STARTER ?= out/starter
TRAIN := .venv-training/bin/python

starter: .venv-training/.installed ## Train the bundled encoder anew (about 70 minutes on two cores).
	mkdir -p $(STARTER)/data
	for set in coco-train caltech81 imagenet-sample tinyimagenet-80; do \
		test -d $(STARTER)/data/$$set || { mkdir $(STARTER)/data/$$set && tar xf $(DATA)/train/$$set.tar -C $(STARTER)/data/$$set; }; done
	test -f $(STARTER)/text.pt || $(TRAIN) training/text.py --data $(STARTER)/data --work $(STARTER)
	test -f $(STARTER)/upper.pt || $(TRAIN) training/images.py --data $(STARTER)/data --work $(STARTER) --yolo $(DATA)/models/yolo11n.onnx
	$(TRAIN) training/bundle.py --work $(STARTER)
	$(TRAIN) training/export.py
	$(TRAIN) -m openvocab calibrate --unlabelled $(STARTER)/data/coco-train --out weights/starter  # prototypes.npz
	$(TRAIN) training/evaluate.py --data $(STARTER)/data --coco $(DATA)/coco-dev --json $(STARTER)/figures.json
	$(TRAIN) -m openvocab calibrate $(DATA)/coco-dev --part calibration --classes-map coco --out $(STARTER)/accuracy || test $$? -eq 1  # 1: no better
	$(TRAIN) -m openvocab eval $(DATA)/coco-dev --part test --classes-map coco --out $(STARTER)/accuracy

.venv-training/.installed: pyproject.toml constraints.txt training/requirements.txt
	$(PYTHON) -m venv .venv-training
	$(TRAIN) -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[dev]" --requirement training/requirements.txt
	@touch $@

clean: ## Remove the virtual environment and everything made here.
	rm -rf .venv .venv-training out dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache

$(STAMP): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "No Python 3.11 or newer found; install one, or run make PYTHON=/path/to/python."; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "$(PYTHON) is older than 3.11; run make PYTHON=/path/to/python3.11."; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt --editable ".[dev]"
	@touch $@
