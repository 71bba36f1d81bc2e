# weaksam: set up, run the stages on a dataset, test.  `make help` lists the targets.
#
#   make all DATASET=demo                      the whole pipeline on made images, no weights needed
#   make all DATASET=voc07                     the same on PASCAL VOC 2007, which is looked for in its usual places
#   make all DATASET=pets DATA=path/to/pets    the same on a dataset of yours, in any layout
#
# A stage makes those before it where they are not fresh: make wsod DATASET=demo

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DELETE_ON_ERROR:
.DEFAULT_GOAL := help

DATASET ?= demo
DATA    ?= $(if $(filter demo,$(DATASET)),demo,)
PROFILE ?= auto
SEED    ?= 0
PYTHON  ?= python3
ARGS    ?=

VENV    := .venv
BIN     := $(VENV)/bin
RUN     := runs/$(DATASET)
OPTIONS := --dataset $(DATASET) --run-dir $(RUN) --profile $(PROFILE) --seed $(SEED) $(ARGS)
WEAKSAM := $(BIN)/weaksam
.PHONY: help setup all data cam prompt propose wsod pgt retrain eval report status doctor test lint types docs bench gpu-check size clean distclean fuzz kill

help:
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# ---------------------------------------------------------------- set-up
setup: $(VENV)/.ready ## a virtual environment with everything, detectron2 and the edges' weights included (about 3 minutes)

# pip 26.3 and newer refuse the detectron2 sdist by policy, so the environment brings its own pip.
$(VENV)/.ready: requirements.txt requirements-detectron2.txt detectron2-sdist.cfg requirements-hed.txt constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=23.2.1,<26.3'
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel hatchling editables
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements.txt
	DIST_EXTRA_CONFIG=$(CURDIR)/detectron2-sdist.cfg $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation \
	    --use-pep517 --no-cache-dir -r requirements-detectron2.txt
	$(BIN)/python -m pip install --quiet --no-deps -r requirements-hed.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[detectron2,dev]'
	touch $@

# ---------------------------------------------------------------- the pipeline
all: setup ## every stage, from labels to the table of results
	$(WEAKSAM) all $(DATA) $(OPTIONS)

# The program decides what is fresh, by one rule for make, `weaksam status` and the stages: each is asked in turn.
NAMED := cam prompt propose wsod pgt retrain eval
data: setup ## labels/*.json from DATA, or of voc07, voc12, coco14, coco17 where they usually lie
	@if [ -n "$(DATA)" ] || [ ! -f $(RUN)/labels/source.json ]; then \
	    $(WEAKSAM) data $(DATA) --dataset $(DATASET) --run-dir $(RUN) --seed $(SEED); fi
cam: data ## class activation maps
prompt: cam ## peak points
propose: prompt ## proposals
wsod: propose ## weakly supervised detector and its detections
pgt: wsod ## pseudo ground truth
retrain: pgt ## retrained detector and its detections
eval: retrain ## metrics of every artifact of the run
$(NAMED):
	$(WEAKSAM) $@ $(OPTIONS)
report: eval ## the page of the run, an HTML file
	$(WEAKSAM) report --dataset $(DATASET) --run-dir $(RUN)
status: setup ## what is fresh, stale, partial or missing
	$(WEAKSAM) status --dataset $(DATASET) --run-dir $(RUN)
doctor: setup ## is this machine ready
	$(WEAKSAM) doctor

# ---------------------------------------------------------------- development
test: setup ## the test suite (under 8 minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests
fuzz: setup ## N (10000) hostile inputs through the command line: what fails, by reader (an hour on two cores)
	$(BIN)/python -m tests.fuzz -n $(or $(N),10000)
kill: setup ## SIGKILL at every file operation of every stage, and at N (1000) random moments (half an hour)
	$(BIN)/python -m tests.kill -n $(or $(N),1000)
lint: setup ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
types: setup ## mypy --strict
	$(BIN)/mypy
docs: setup ## the documentation as a site, in site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet --strict
bench: setup ## the benchmarks that need no dataset
	$(BIN)/python benchmarks/pgt.py
gpu-check: setup ## on a CUDA machine: speed, memory and tests that only a GPU can show, in gpu-check.md (10 minutes)
	$(BIN)/python benchmarks/gpu_check.py --out gpu-check.md
size: setup ## count code lines by package
	$(BIN)/python benchmarks/size.py
clean: ## remove the run of DATASET
	rm -rf $(RUN)
distclean: clean ## remove the environment, too
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
