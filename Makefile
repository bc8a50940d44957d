# OpenPose on MindSpore. `make` prints what there is; every variable can be set on the command line.

DATA ?= data/demo
TRAIN ?= train2017
VAL ?= val2017
SHARDS ?= shards/$(NAME)
RUN ?= runs/$(NAME)
NPROC ?= 1
HOSTS ?= 1
NODE_RANK ?=
MASTER ?=
MASTER_PORT ?=
CONFIG ?= configs/$(RECIPE).yaml
CKPT ?= $(RUN)
FORMAT ?= onnx
WORKERS ?=
DEVICE ?= auto
RESUME ?=
INIT ?=
SEED ?= 0
ARGS ?=
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c '$(SUPPORTED)' 2> /dev/null && echo $$python && break; done)

# SHARDS and RUN are named after the data folders; the recipe follows from the data and the number of processes
NAME = $(subst $(SPACE),+,$(notdir $(abspath $(DATA))))
SPACE = $(subst ,, )
IS_DEMO = $(filter $(abspath data/demo),$(abspath $(DATA)))
RECIPE = $(if $(IS_DEMO),demo,$(if $(filter-out 1,$(NPROC) $(HOSTS)),openpose_8p,openpose))
SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
BIN = .venv/bin
READY = .venv/ready
# the sets that are there, or what ought to be
SETS = $(or $(wildcard $(SHARDS)/train $(SHARDS)/val),$(SHARDS))
BUILD = $(BIN)/python -m pipeline.shards $(WORKERS:%=--workers %)
MACHINES = $(if $(filter-out 1,$(HOSTS)),--hosts '$(HOSTS)') $(NODE_RANK:%=--node-rank %) $(MASTER:%=--master %) \
	$(MASTER_PORT:%=--master-port %)
# every split of $(1) in every folder of DATA that holds it, as options of pipeline.shards
SOURCES = $(foreach folder,$(DATA),$(foreach split,$(1),$(if $(call ANNOTATED,$(folder),$(split)),--coco '$(folder)' --split '$(split)')))
ANNOTATED = $(shell test -f '$(1)/annotations/person_keypoints_$(2).json' && echo yes)

.DEFAULT_GOAL := help
.PHONY: help setup demo data shards train eval export plot stats verify preview test bench faults check clean

help: ## print this
	@echo 'Targets'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-11s %s\n", $$1, $$2 }'
	@echo
	@echo 'Variables, with their values here'
	@echo '  DATA        COCO folder with annotations/, train2017/, val2017/, or several of them  [$(DATA)]'
	@echo '  TRAIN, VAL  splits for SHARDS/train and SHARDS/val, each one or several  [$(TRAIN), $(VAL)]'
	@echo '  SHARDS      folder of the MindRecord sets train/ and val/  [$(SHARDS)]'
	@echo '  RUN         folder of the training run  [$(RUN)]'
	@echo '  CONFIG      recipe  [$(CONFIG)]'
	@echo '  NPROC       processes that train or evaluate, one a device; in training on each machine  [$(NPROC)]'
	@echo '  HOSTS       machines that train: how many, or the names of all, number 0 first  [$(HOSTS)]'
	@echo '  NODE_RANK   which of HOSTS this one is, from 0; of names it is found  [$(NODE_RANK)]'
	@echo '  MASTER      address of machine 0 for the others; of names it is the first  [$(MASTER)]'
	@echo '  MASTER_PORT on it, free  [$(or $(MASTER_PORT),8118)]'
	@echo '  CKPT        checkpoint to evaluate or export, or a run: its newest  [$(CKPT)]'
	@echo '  FORMAT      of the exported graph: onnx, mindir or air  [$(FORMAT)]'
	@echo '  WORKERS     processes that write shards  [$(or $(WORKERS),one a core)]'
	@echo '  DEVICE      auto, cpu or ascend  [$(DEVICE)]'
	@echo '  RESUME      1 goes on from the newest checkpoint in RUN  [$(RESUME)]'
	@echo '  INIT        weights to begin a training with: a checkpoint, or a run: its newest  [$(INIT)]'
	@echo '  SEED        of the faults that are tried  [$(SEED)]'
	@echo '  ARGS        more options for the command behind the target  [$(ARGS)]'
	@echo '  PYTHON      Python 3.10 to 3.12 for .venv  [$(PYTHON)]'

setup: $(READY) ## create .venv and install the pinned dependencies

$(READY): requirements.txt
	@test -n '$(PYTHON)' || { echo 'Error: no Python 3.10, 3.11 or 3.12 found; install one, or name it: make setup PYTHON=/path/to/python3.11' >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "Error: PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1); expected Python 3.10, 3.11 or 3.12" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@touch $@

demo: ## from nothing to an AP table and pictures, on the embedded dataset, in minutes
	@$(MAKE) --no-print-directory shards DATA=data/demo
	@$(MAKE) --no-print-directory train DATA=data/demo RESUME=1
	@$(MAKE) --no-print-directory eval DATA=data/demo
	@$(MAKE) --no-print-directory where DATA=data/demo

.PHONY: where
where:
	@echo 'Dataset     $(DATA)'
	@echo 'Shards      $(SHARDS)'
	@echo 'Run         $(RUN)'
	@echo 'AP          $(RUN)/eval.json'
	@echo 'Report      $(RUN)/report/index.html'
	@echo 'Pictures    $(RUN)/pictures'

data: $(READY) ## make the embedded dataset in data/demo
	@$(BIN)/python -m pipeline.synthetic --out data/demo $(WORKERS:%=--workers %)

shards: $(READY) $(if $(IS_DEMO),data) ## DATA -> SHARDS/train and SHARDS/val
	@$(if $(strip $(call SOURCES,$(TRAIN) $(VAL))),,echo 'Error: DATA=$(DATA): no annotations/person_keypoints_SPLIT.json with SPLIT one of: $(TRAIN) $(VAL); DATA has to be COCO folders, TRAIN and VAL splits in them' >&2; exit 2)
	@$(if $(strip $(call SOURCES,$(TRAIN))),$(BUILD) $(call SOURCES,$(TRAIN)) --out '$(SHARDS)'/train $(ARGS))
	@$(if $(strip $(call SOURCES,$(VAL))),$(BUILD) $(call SOURCES,$(VAL)) --out '$(SHARDS)'/val $(ARGS))

train: $(READY) ## train CONFIG on SHARDS/train into RUN
	@$(BIN)/python -m training.train --config '$(CONFIG)' --shards '$(SHARDS)'/train \
		$(if $(wildcard $(SHARDS)/val),--val '$(SHARDS)'/val) --out '$(RUN)' \
		--nproc $(NPROC) $(MACHINES) --device $(DEVICE) $(if $(RESUME),--resume) $(if $(INIT),--init '$(INIT)') $(ARGS)

eval: $(READY) ## COCO keypoint AP of CKPT on SHARDS/val; RUN/report explains it, RUN/pictures shows it
	@$(BIN)/python -m evaluation.evaluate --ckpt '$(CKPT)' --shards '$(SHARDS)'/val --out '$(RUN)' \
		--nproc $(NPROC) --device $(DEVICE) $(ARGS)

export: $(READY) ## CKPT as a graph of FORMAT, beside the checkpoint
	@$(BIN)/python -m training.export --ckpt '$(CKPT)' --format $(FORMAT) --device $(DEVICE) $(ARGS)

plot: $(READY) ## curves of RUN, or of several runs in one picture, in the first one's folder: curves.png
	@$(BIN)/python -m training.plot $(RUN) $(ARGS)

stats: $(READY) ## what is in SHARDS/train and SHARDS/val
	@$(BIN)/python -m pipeline.stats $(SETS) $(ARGS)

verify: $(READY) ## check every byte of SHARDS against its manifests
	@for set in $(SETS); do $(BIN)/python -m pipeline.verify $$set $(ARGS) || exit; done

preview: $(READY) ## a contact sheet of augmented samples with their targets, SHARDS/preview.png
	@$(BIN)/python -m pipeline.preview '$(SHARDS)'/train --out '$(SHARDS)'/preview.png $(ARGS)

test: $(READY) ## the whole test suite
	@$(BIN)/python -m pytest $(ARGS)

bench: $(READY) ## what the decoder allows and what each part reaches, in about three minutes, into bench.json
	@$(BIN)/python -m tests.benchmarks $(if $(IS_DEMO),,--coco '$(firstword $(DATA))' --split '$(firstword $(TRAIN))') $(ARGS)

faults: $(READY) ## break, kill, fill up and fuzz everything, drawn by SEED: what holds, as a table; twenty minutes
	@$(BIN)/python -m tests.faults --seed $(SEED) $(ARGS)

check: $(READY) ## lint, format and types
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean: ## remove the embedded dataset, its shards and its run
	rm -rf data/demo shards/demo runs/demo
