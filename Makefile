# OpenPose on MindSpore. `make` lists all targets and variables; every variable can be set on the command line.

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

# the defaults of SHARDS and RUN contain the names of the DATA folders; the default recipe depends on DATA, NPROC and HOSTS
NAME = $(subst $(SPACE),+,$(notdir $(abspath $(DATA))))
SPACE = $(subst ,, )
IS_DEMO = $(filter $(abspath data/demo),$(abspath $(DATA)))
RECIPE = $(if $(IS_DEMO),demo,$(if $(filter-out 1,$(NPROC) $(HOSTS)),openpose_8p,openpose))
SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
BIN = .venv/bin
READY = .venv/ready
# the existing shard sets; SHARDS itself if there are none, so that the command reports what is missing
SETS = $(or $(wildcard $(SHARDS)/train $(SHARDS)/val),$(SHARDS))
BUILD = $(BIN)/python -m pipeline.shards $(WORKERS:%=--workers %)
MACHINES = $(if $(filter-out 1,$(HOSTS)),--hosts '$(HOSTS)') $(NODE_RANK:%=--node-rank %) $(MASTER:%=--master %) \
	$(MASTER_PORT:%=--master-port %)
# options of pipeline.shards for each split in $(1), from each folder of DATA that has its annotations
SOURCES = $(foreach folder,$(DATA),$(foreach split,$(1),$(if $(call ANNOTATED,$(folder),$(split)),--coco '$(folder)' --split '$(split)')))
ANNOTATED = $(shell test -f '$(1)/annotations/person_keypoints_$(2).json' && echo yes)

.DEFAULT_GOAL := help
.PHONY: help setup demo data shards train eval export plot stats verify preview test bench faults check clean

help: ## print this list
	@echo 'Targets'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-11s %s\n", $$1, $$2 }'
	@echo
	@echo 'Variables  [current value]'
	@echo '  DATA        one or more COCO folders with annotations/, train2017/, val2017/  [$(DATA)]'
	@echo '  TRAIN, VAL  one or more splits for SHARDS/train and for SHARDS/val  [$(TRAIN), $(VAL)]'
	@echo '  SHARDS      folder of the MindRecord sets train/ and val/  [$(SHARDS)]'
	@echo '  RUN         folder of the training run  [$(RUN)]'
	@echo '  CONFIG      recipe: YAML file with the configuration  [$(CONFIG)]'
	@echo '  NPROC       processes for training (on each host) or evaluation, one per device  [$(NPROC)]'
	@echo '  HOSTS       training hosts: their number, or their names with host 0 first  [$(HOSTS)]'
	@echo '  NODE_RANK   rank of this host, from 0; default: its position in the names of HOSTS  [$(NODE_RANK)]'
	@echo '  MASTER      address of host 0; default: the first name in HOSTS  [$(MASTER)]'
	@echo '  MASTER_PORT free port on host 0  [$(or $(MASTER_PORT),8118)]'
	@echo '  CKPT        checkpoint, or run folder (its newest checkpoint), to evaluate or export  [$(CKPT)]'
	@echo '  FORMAT      format of the exported graph: onnx, mindir or air  [$(FORMAT)]'
	@echo '  WORKERS     processes that generate images and write shards  [$(or $(WORKERS),one per CPU core)]'
	@echo '  DEVICE      auto, cpu or ascend  [$(DEVICE)]'
	@echo '  RESUME      1: resume from the newest checkpoint in RUN  [$(RESUME)]'
	@echo '  INIT        initial weights: checkpoint, or run folder (its newest checkpoint)  [$(INIT)]'
	@echo '  SEED        random seed of make faults  [$(SEED)]'
	@echo '  ARGS        additional options for the command that the target runs  [$(ARGS)]'
	@echo '  PYTHON      Python 3.10, 3.11 or 3.12 to create .venv  [$(PYTHON)]'

setup: $(READY) ## create .venv and install the pinned dependencies

$(READY): requirements.txt
	@test -n '$(PYTHON)' || { echo 'Error: no Python 3.10, 3.11 or 3.12 found; install one, or give its path: make setup PYTHON=/path/to/python3.11' >&2; exit 2; }
	@$(PYTHON) -c '$(SUPPORTED)' || { echo "Error: PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1); expected Python 3.10, 3.11 or 3.12" >&2; exit 2; }
	$(PYTHON) -m venv --clear .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt
	@touch $@

demo: ## generate the embedded dataset, build shards, train, and evaluate; takes about 12 minutes
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

data: $(READY) ## generate the embedded dataset in data/demo
	@$(BIN)/python -m pipeline.synthetic --out data/demo $(WORKERS:%=--workers %)

shards: $(READY) $(if $(IS_DEMO),data) ## build SHARDS/train and SHARDS/val from DATA
	@$(if $(strip $(call SOURCES,$(TRAIN) $(VAL))),,echo 'Error: DATA=$(DATA): no annotations/person_keypoints_SPLIT.json for SPLIT in: $(TRAIN) $(VAL); set DATA to COCO folders, and TRAIN and VAL to their splits' >&2; exit 2)
	@$(if $(strip $(call SOURCES,$(TRAIN))),$(BUILD) $(call SOURCES,$(TRAIN)) --out '$(SHARDS)'/train $(ARGS))
	@$(if $(strip $(call SOURCES,$(VAL))),$(BUILD) $(call SOURCES,$(VAL)) --out '$(SHARDS)'/val $(ARGS))

train: $(READY) ## train the network of CONFIG on SHARDS/train; write RUN
	@$(BIN)/python -m training.train --config '$(CONFIG)' --shards '$(SHARDS)'/train \
		$(if $(wildcard $(SHARDS)/val),--val '$(SHARDS)'/val) --out '$(RUN)' \
		--nproc $(NPROC) $(MACHINES) --device $(DEVICE) $(if $(RESUME),--resume) $(if $(INIT),--init '$(INIT)') $(ARGS)

eval: $(READY) ## compute COCO keypoint AP of CKPT on SHARDS/val; write RUN/report and RUN/pictures
	@$(BIN)/python -m evaluation.evaluate --ckpt '$(CKPT)' --shards '$(SHARDS)'/val --out '$(RUN)' \
		--nproc $(NPROC) --device $(DEVICE) $(ARGS)

export: $(READY) ## export CKPT as a graph in FORMAT, in the folder of the checkpoint
	@$(BIN)/python -m training.export --ckpt '$(CKPT)' --format $(FORMAT) --device $(DEVICE) $(ARGS)

plot: $(READY) ## plot the training curves of one or more runs (RUN) to curves.png in the first run folder
	@$(BIN)/python -m training.plot $(RUN) $(ARGS)

stats: $(READY) ## print statistics of SHARDS/train and SHARDS/val
	@$(BIN)/python -m pipeline.stats $(SETS) $(ARGS)

verify: $(READY) ## check size and hash of every file in SHARDS against the manifests
	@for set in $(SETS); do $(BIN)/python -m pipeline.verify $$set $(ARGS) || exit; done

preview: $(READY) ## write SHARDS/preview.png: augmented training samples with their targets
	@$(BIN)/python -m pipeline.preview '$(SHARDS)'/train --out '$(SHARDS)'/preview.png $(ARGS)

test: $(READY) ## run all tests
	@$(BIN)/python -m pytest $(ARGS)

bench: $(READY) ## measure the throughput of each part; write bench.json; takes about 3 minutes
	@$(BIN)/python -m tests.benchmarks $(if $(IS_DEMO),,--coco '$(firstword $(DATA))' --split '$(firstword $(TRAIN))') $(ARGS)

faults: $(READY) ## run the fault injection, fuzzing and soak tests; takes about 20 minutes
	@$(BIN)/python -m tests.faults --seed $(SEED) $(ARGS)

check: $(READY) ## run ruff (lint, format) and mypy
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

clean: ## remove the embedded dataset, its shards and its run
	rm -rf data/demo shards/demo runs/demo
