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
QUICK ?=
INIT ?=
SEED ?= 0
ARGS ?=
VENV ?= .venv
PYTHON ?= $(shell for python in python3 python3.12 python3.11 python3.10; do \
	$$python -c '$(SUPPORTED)' 2> /dev/null && echo $$python && break; done)

# Names with spaces: make splits lists at spaces, so a space within a name is written as GAP until the name is quoted.
SPACE := $(subst ,, )
GAP := <space>
as_word = $(subst $(SPACE),$(GAP),$(1))
as_name = $(subst $(GAP),$(SPACE),$(1))
absolute = $(call as_word,$(abspath $(call as_word,$(1))))
as_list = $(subst :,$(SPACE),$(call as_word,$(1)))
given = $(filter command environment,$(firstword $(origin $(1))))

# the defaults of SHARDS and RUN contain the names of the DATA folders, or that of SHARDS if only SHARDS is given; the
# default recipe depends on DATA or SHARDS, NPROC and HOSTS
FOLDERS = $(call as_list,$(DATA))
ONLY_SHARDS = $(if $(call given,DATA),,$(call given,SHARDS))
NAME = $(call as_name,$(if $(ONLY_SHARDS),$(notdir $(call absolute,$(SHARDS))),$(subst $(SPACE),+,$(notdir $(foreach folder,$(FOLDERS),$(call absolute,$(folder)))))))
IS_DEMO = $(if $(ONLY_SHARDS),$(filter $(call absolute,shards/demo) $(call absolute,shards/quick),$(call absolute,$(SHARDS))),$(filter $(call absolute,data/demo) $(call absolute,data/quick),$(foreach folder,$(FOLDERS),$(call absolute,$(folder)))))
RECIPE = $(if $(IS_DEMO),demo,$(if $(filter-out 1,$(NPROC) $(HOSTS)),openpose_8p,openpose))
SUPPORTED = import sys; sys.exit(not (3, 10) <= sys.version_info[:2] <= (3, 12))
# the Python of VENV, or the active one if VENV is empty
PY = $(if $(VENV),'$(VENV)'/bin/python,python3)
BUILD = $(PY) -m pipeline.shards $(WORKERS:%=--workers %)
MACHINES = $(if $(filter-out 1,$(HOSTS)),--hosts '$(HOSTS)') $(NODE_RANK:%=--node-rank %) $(MASTER:%=--master %) \
	$(MASTER_PORT:%=--master-port %)
# The following set the positional parameters of the shell.
# options of the set for training: SHARDS/train, or SHARDS if it is itself a set
TRAIN_SET = if [ -e '$(SHARDS)'/manifest.json ]; then set -- '$(SHARDS)'; else set -- '$(SHARDS)'/train; fi
# the existing sets; SHARDS if there are none, so that the command reports what is missing
SETS = set --; for set in '$(SHARDS)' '$(SHARDS)'/train '$(SHARDS)'/val; do \
	if [ -e "$$set"/manifest.json ]; then set -- "$$@" "$$set"; fi; done; [ $$\# -gt 0 ] || set -- '$(SHARDS)'
# options of pipeline.shards for each split in $(1), for each folder of DATA that has its annotations
SOURCES = set --; for split in $(1); do for folder in $(foreach folder,$(FOLDERS),'$(call as_name,$(folder))'); do \
	if [ -f "$$folder/annotations/person_keypoints_$$split.json" ]; then \
	set -- "$$@" --coco "$$folder" --split "$$split"; fi; done; done

.DEFAULT_GOAL := help
.PHONY: help setup demo data shards train eval export plot stats verify preview test bench faults check clean

help: ## print this list
	@echo 'Targets'
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  \1|\2/p' $(firstword $(MAKEFILE_LIST)) | awk -F'|' '{ printf "%-11s %s\n", $$1, $$2 }'
	@echo
	@echo 'Variables  [current value]'
	@echo '  DATA        COCO folder with annotations/, train2017/, val2017/; several separated by colons  [$(DATA)]'
	@echo '  TRAIN, VAL  one or more splits for SHARDS/train and for SHARDS/val  [$(TRAIN), $(VAL)]'
	@echo '  SHARDS      folder of the MindRecord sets train/ and val/, or one set for training  [$(SHARDS)]'
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
	@echo '  QUICK       1: make demo in about 90 seconds, with a low AP  [$(QUICK)]'
	@echo '  INIT        initial weights: checkpoint, or run folder (its newest checkpoint)  [$(INIT)]'
	@echo '  SEED        random seed of make faults  [$(SEED)]'
	@echo '  ARGS        additional options for the command that the target runs  [$(ARGS)]'
	@echo '  VENV        environment to use; another one than .venv is never changed, but for what it lacks; empty: the active Python  [$(VENV)]'
	@echo '  PYTHON      Python 3.10, 3.11 or 3.12 to create VENV  [$(PYTHON)]'

setup: ## create VENV and install the pinned dependencies; in an environment of others, what is missing
	@$(SETUP)

# The file made-here marks an environment that was created here, ready one that is complete. Another one, or a symbolic
# link, is left as it is, but for packages that it lacks.
OURS = [ -n '$(VENV)' ] && [ ! -L '$(VENV)' ] && [ -e '$(VENV)'/made-here -o -e '$(VENV)'/ready ]
SETUP = if [ -n '$(VENV)' ] && [ ! -e '$(VENV)' ]; then $(CREATE) && $(INSTALL); \
	elif $(OURS); then $(INSTALL); else $(PY) pipeline/system/requirements.py requirements-run.txt; fi
CREATE = if [ -z '$(PYTHON)' ]; then echo 'Error: no Python 3.10, 3.11 or 3.12 found; install one, or give its path: make setup PYTHON=/path/to/python3.11' >&2; exit 2; fi; \
	$(PYTHON) -c '$(SUPPORTED)' || { echo "Error: PYTHON=$(PYTHON) is $$($(PYTHON) -V 2>&1); expected Python 3.10, 3.11 or 3.12" >&2; exit 2; }; \
	echo "$(PYTHON) -m venv '$(VENV)'"; $(PYTHON) -m venv '$(VENV)' && touch '$(VENV)'/made-here
INSTALL = echo "$(PY) -m pip install --requirement requirements.txt"; \
	$(PY) -m pip install --quiet --disable-pip-version-check --require-hashes --requirement requirements.txt && touch '$(VENV)'/ready

.PHONY: ready
ready:
	@if $(OURS) && [ -e '$(VENV)'/ready ] && [ ! requirements.txt -nt '$(VENV)'/ready ]; then :; \
	elif [ -n '$(VENV)' ] && [ ! -e '$(VENV)' ] || $(OURS); then $(SETUP); \
	else $(PY) pipeline/system/requirements.py --check requirements-run.txt; fi

# the embedded dataset in data/demo, or a part of it in data/quick
EMBEDDED = $(if $(QUICK)$(filter $(call absolute,data/quick),$(IS_DEMO)),quick,demo)
QUICK_ARGS = --set training.max_steps=300 --set training.eval_every=100

demo: ## generate the embedded dataset, build shards, train, and evaluate; QUICK=1: in about 90 seconds, with a low AP
	@$(MAKE) --no-print-directory shards DATA=data/$(EMBEDDED)
	@$(MAKE) --no-print-directory train DATA=data/$(EMBEDDED) RESUME=1 $(if $(QUICK),ARGS='$(QUICK_ARGS)')
	@$(MAKE) --no-print-directory eval DATA=data/$(EMBEDDED)
	@$(MAKE) --no-print-directory where DATA=data/$(EMBEDDED)
	@$(if $(QUICK),echo 'This was a short training: make demo trains about eight times as long and finds more people')

# the command that opens a file or a folder
OPEN = $(if $(filter Darwin,$(shell uname)),open,xdg-open)

.PHONY: where
where:
	@echo 'Dataset     $(DATA)'
	@echo 'Shards      $(SHARDS)'
	@echo 'Run         $(RUN)'
	@echo 'AP          $(RUN)/eval.json'
	@echo 'Report      $(RUN)/report/index.html    $(OPEN) $(RUN)/report/index.html'
	@echo 'Pictures    $(RUN)/pictures    $(OPEN) $(RUN)/pictures'

data: ready ## generate the embedded dataset in data/demo
	@$(PY) -m pipeline.synthetic --out data/$(EMBEDDED) $(if $(filter quick,$(EMBEDDED)),--train 600 --val 50) $(WORKERS:%=--workers %)

shards: ready $(if $(IS_DEMO),data) ## build SHARDS/train and SHARDS/val from DATA
	@for wanted in $(if $(call given,TRAIN),$(TRAIN)) $(if $(call given,VAL),$(VAL)) '$(TRAIN) $(VAL)'; do \
		$(call SOURCES,$$wanted); \
		if [ $$# = 0 ]; then echo "Error: DATA=$(DATA): no annotations/person_keypoints_SPLIT.json for SPLIT in: $$wanted; set DATA to COCO folders, separated by colons, and TRAIN and VAL to their splits" >&2; exit 2; fi; \
	done
	@$(call SOURCES,$(TRAIN)); if [ $$# -gt 0 ]; then $(BUILD) "$$@" --out '$(SHARDS)'/train $(ARGS); fi
	@$(call SOURCES,$(VAL)); if [ $$# -gt 0 ]; then $(BUILD) "$$@" --out '$(SHARDS)'/val $(ARGS); fi

train: ready ## train the network of CONFIG on SHARDS/train; write RUN
	@$(TRAIN_SET); set -- --shards "$$1"; if [ -e '$(SHARDS)'/val ]; then set -- "$$@" --val '$(SHARDS)'/val; fi; \
	$(PY) -m training.train --config '$(CONFIG)' "$$@" --out '$(RUN)' \
		--nproc $(NPROC) $(MACHINES) --device $(DEVICE) $(if $(RESUME),--resume) $(if $(INIT),--init '$(INIT)') $(ARGS)

eval: ready ## compute COCO keypoint AP of CKPT on SHARDS/val; write RUN/report and RUN/pictures
	@$(PY) -m evaluation.evaluate --ckpt '$(CKPT)' --shards '$(SHARDS)'/val --out '$(RUN)' \
		--nproc $(NPROC) --device $(DEVICE) $(ARGS)

export: ready ## export CKPT as a graph in FORMAT, in the folder of the checkpoint
	@$(PY) -m training.export --ckpt '$(CKPT)' --format $(FORMAT) --device $(DEVICE) $(ARGS)

plot: ready ## plot the training curves of one or more runs (RUN) to curves.png in the first run folder
	@$(PY) -m training.plot $(foreach run,$(call as_list,$(RUN)),'$(call as_name,$(run))') $(ARGS)

stats: ready ## print statistics of SHARDS/train and SHARDS/val
	@$(SETS); $(PY) -m pipeline.stats "$$@" $(ARGS)

verify: ready ## check size and hash of every file in SHARDS against the manifests
	@$(SETS); for set in "$$@"; do $(PY) -m pipeline.verify "$$set" $(ARGS) || exit; done

preview: ready ## write SHARDS/preview.png: augmented training samples with their targets
	@$(TRAIN_SET); $(PY) -m pipeline.preview "$$@" --out '$(SHARDS)'/preview.png $(ARGS)

test: ready ## run all tests, two files at a time
	@$(PY) -m pytest --numprocesses 2 --dist loadfile $(ARGS)

bench: ready ## measure the throughput of each part; write bench.json; takes about 3 minutes
	@$(PY) -m tests.benchmarks $(if $(IS_DEMO),,--coco '$(call as_name,$(firstword $(FOLDERS)))' --split '$(firstword $(TRAIN))') $(ARGS)

faults: ready ## run the fault injection, fuzzing and soak tests; takes about 20 minutes
	@$(PY) -m tests.faults --seed $(SEED) $(ARGS)

check: ready ## run ruff (lint, format) and mypy
	@$(PY) -m ruff check . && $(PY) -m ruff format --check . && $(PY) -m mypy

clean: ## remove the embedded dataset, its shards and its run
	rm -rf data/demo shards/demo runs/demo data/quick shards/quick runs/quick
