# weaksam: set up, run the stages on a dataset, test.  `make help` lists the targets.
#
#   make all DATASET=demo                      the whole pipeline on made images, no weights needed
#   make all DATASET=voc07 DATA=path/to/VOC    the same on a dataset of yours
#
# Stages are file targets; `weaksam status` agrees with what make would do.

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
.PHONY: help setup all data cam prompt propose wsod pgt retrain eval report status doctor test lint types bench size clean distclean

help:
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 12

# ---------------------------------------------------------------- set-up
setup: $(VENV)/.ready ## a virtual environment with everything, detectron2 included (about 3 minutes)

# pip 26.3 and newer refuse the detectron2 sdist by policy, so the environment brings its own pip.
$(VENV)/.ready: requirements.txt requirements-detectron2.txt detectron2-sdist.cfg constraints.txt pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'pip>=23.2.1,<26.3'
	$(BIN)/python -m pip install --quiet -c constraints.txt setuptools wheel hatchling editables
	$(BIN)/python -m pip install --quiet -c constraints.txt -r requirements.txt
	DIST_EXTRA_CONFIG=$(CURDIR)/detectron2-sdist.cfg $(BIN)/python -m pip install --quiet --no-deps --no-build-isolation \
	    --use-pep517 --no-cache-dir -r requirements-detectron2.txt
	$(BIN)/python -m pip install --quiet -c constraints.txt --no-build-isolation -e '.[detectron2,dev]'
	touch $@

# ---------------------------------------------------------------- the pipeline
all: setup ## every stage, from labels to the table of results
	@if [ -z "$(DATA)" ] && [ ! -f $(RUN)/labels/source.json ]; then \
	    echo "which dataset? give its folder: make all DATASET=$(DATASET) DATA=path/to/dataset" >&2; exit 2; fi
	$(WEAKSAM) all $(DATA) $(OPTIONS)

# The splits of a run are known once `data` has read it; make reads this file anew after it is made.
STAGES := cam prompt propose wsod pgt retrain
ifneq ($(filter $(STAGES),$(MAKECMDGOALS)),)
include $(RUN)/splits.mk
endif
$(RUN)/splits.mk: $(RUN)/labels/source.json
	$(BIN)/python -c 'import json, sys; s = json.load(open(sys.argv[1]))["splits"]; print("SPLITS :=", *s); \
	    print("TRAIN :=", *(k for k in s if s[k] == "train"))' $< > $@

data: setup $(RUN)/labels/source.json ## labels/*.json from DATA
cam: $(foreach s,$(SPLITS),$(RUN)/cam/$(s).h5) ## class activation maps
prompt: $(foreach s,$(SPLITS),$(RUN)/prompts/$(s).h5) ## peak points
propose: $(foreach s,$(SPLITS),$(RUN)/proposals/$(s).h5) ## proposals
wsod: $(foreach s,$(SPLITS),$(RUN)/wsod/detections/$(s).json) ## weakly supervised detector and its detections
pgt: $(foreach s,$(TRAIN),$(RUN)/pgt/$(s).json) ## pseudo ground truth
retrain: $(foreach s,$(SPLITS),$(RUN)/retrain/detections/$(s).json) ## retrained detector and its detections
eval: setup ## judge every artifact of the run
	$(WEAKSAM) eval $(OPTIONS)
report: eval ## the table of results
status: setup ## what is fresh, stale, partial or missing
	$(WEAKSAM) status --dataset $(DATASET) --run-dir $(RUN)
doctor: setup ## is this machine ready
	$(WEAKSAM) doctor

$(RUN)/labels/source.json: | setup
	$(WEAKSAM) data $(DATA) --dataset $(DATASET) --run-dir $(RUN) --seed $(SEED)
$(RUN)/labels/%.json: $(RUN)/labels/source.json ;
$(RUN)/cam/%.h5: $(RUN)/labels/%.json
	$(WEAKSAM) cam --split $* $(OPTIONS)
$(RUN)/prompts/%.h5: $(RUN)/cam/%.h5
	$(WEAKSAM) prompt --split $* $(OPTIONS)
$(RUN)/proposals/%.h5: $(RUN)/prompts/%.h5
	$(WEAKSAM) propose --split $* $(OPTIONS)
$(RUN)/wsod/detections/%.json: $(RUN)/proposals/%.h5
	$(WEAKSAM) wsod --split $* $(OPTIONS)
$(RUN)/pgt/%.json: $(RUN)/wsod/detections/%.json
	$(WEAKSAM) pgt --split $* $(OPTIONS)
$(RUN)/retrain/detections/%.json: $(foreach s,$(TRAIN),$(RUN)/pgt/$(s).json)
	$(WEAKSAM) retrain --split $* $(OPTIONS)

# ---------------------------------------------------------------- development
test: setup ## the test suite (under 8 minutes on two cores)
	$(BIN)/python -m pytest -q -n 2 --dist loadfile tests
lint: setup ## ruff
	$(BIN)/ruff check . && $(BIN)/ruff format --check .
types: setup ## mypy --strict
	$(BIN)/mypy
bench: setup ## the benchmarks that need no dataset
	$(BIN)/python benchmarks/pgt.py
size: setup ## count code lines by package
	$(BIN)/python benchmarks/size.py
clean: ## remove the run of DATASET
	rm -rf $(RUN)
distclean: clean ## remove the environment, too
	rm -rf $(VENV) .mypy_cache .ruff_cache .pytest_cache
