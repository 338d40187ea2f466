# The front door: `make help` lists every target. Each target is one visible `python` line.
#   DATA         cohort table (CSV or TSV), anywhere
#   CONFIG       your own YAML, on top of the shipped one
#   RUN, INIT    name of a run, or its folder; INIT=hf:NAME: an encoder of other people; RUNS: several, or a folder of runs
#   SPLITS       splits.csv, or a run that has one
#   METHOD       of a pretraining: autoencoder, masked, contrastive, hybrid, lesions; without it autoencoder
#   LIKE         run or cohort table whose voxel size and window a pretraining takes
#   FOLD, REPEAT do one of them alone
#   SWEEP        sweep file, or the id of a W&B sweep; WORKERS: processes on this machine
#   RETRY, TABLE, WANDB  =1 for a sweep: train again what failed, only write the table, create it for agents
#   TASKS        tasks that share the folds on a cluster: as many as folds × repeats, or fewer
#   SLURM_ARGS   partition, account, time, GPUs: options of sbatch, as they are
#   OUT          folder for results (predict, export, features, import-dicom, import-bids)
#   PREDICTIONS  table of another program's predictions
#   ARGS         more settings, as they are
PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
READY := $(VENV)/.ready

RUN ?= $@
common = $(if $(CONFIG),-c "$(CONFIG)") $(if $(DATA),--data.table="$(DATA)") --run="$(RUN)" \
	$(if $(FOLD),--fold=$(FOLD)) $(if $(REPEAT),--repeat=$(REPEAT))
settings = -c configs/finetune.yaml $(common) $(if $(SPLITS),--data.splits.path="$(SPLITS)") $(if $(INIT),--init="$(INIT)")
pretrain = $(PY) main.py pretrain -c configs/pretrain.yaml $(if $(METHOD),-c "configs/pretrain/$(METHOD).yaml") $(common) $(if $(SPLITS),--data.splits_path="$(SPLITS)") $(if $(INIT),--init="$(INIT)") $(if $(LIKE),--like="$(LIKE)") $(ARGS)
finetune = $(PY) main.py finetune $(settings) $(if $(WORKERS),--workers=$(WORKERS)) $(ARGS)
TASKS ?= 25

.PHONY: help setup demo check-data pretrain finetune sweep agent slurm-pretrain slurm-finetune learning-curve baseline classical report sanity verify compare predict evaluate export features import-predictions import-dicom import-bids bench test check
.DEFAULT_GOAL := help

help: ## List every target
	@sed -n '/^PYTHON/q; s/^#  \{0,1\}//p' Makefile
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):[^#]*## /\1\t/' | expand -t 20

setup: $(READY) ## Make .venv with the exact versions of requirements.lock

$(READY): requirements.lock
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check "uv>=0.9,<1"
	$(PY) -m uv pip install --quiet --compile-bytecode --python $(PY) --requirements requirements.lock
	touch $@

demo: $(READY) ## The main job on synthetic brains; ends with runs/demo/finetune/report.md
	$(PY) main.py synthesize --out=runs/demo/data
	$(PY) main.py pretrain -c configs/pretrain.yaml -c configs/demo/pretrain.yaml --run=runs/demo/pretrain $(ARGS)
	$(PY) main.py finetune -c configs/finetune.yaml -c configs/demo/finetune.yaml --run=runs/demo/finetune --init=runs/demo/pretrain $(ARGS)

check-data: $(READY) ## List what is wrong with DATA, or what two cohorts share: A=one.csv B=other.csv
	$(PY) main.py check_data $(if $(CONFIG),-c "$(CONFIG)") $(if $(DATA),--data.table="$(DATA)") $(if $(A),--a="$(A)") $(if $(B),--b="$(B)") --run="$(RUN)" $(ARGS)

pretrain: $(READY) ## Train an encoder on patches of DATA by METHOD, from INIT or random weights (fold by fold with SPLITS)
	$(pretrain)

finetune: $(READY) ## Cross-validate a classifier on DATA, from INIT or random weights; WORKERS=2 share the folds
	$(finetune)

sweep: $(READY) ## Cross-validate the settings of SWEEP=configs/sweeps/x.yaml with WORKERS=2; RETRY=1, TABLE=1, WANDB=1
	$(PY) main.py sweep --sweep="$(SWEEP)" $(if $(WANDB),--by_wandb) $(if $(TABLE),--table) $(if $(WORKERS),--workers=$(WORKERS)) $(if $(RETRY),--retry_failed) $(settings) $(ARGS)

agent: $(READY) ## Cross-validate the settings that the W&B sweep SWEEP=id asks for; COUNT=n of them
	$(PY) main.py agent --sweep="$(SWEEP)" $(if $(COUNT),--count=$(COUNT)) $(settings) $(ARGS)

learning-curve: $(READY) ## AUROC at 25, 50, 75, 100 % of the training patients, from random weights and INIT
	$(PY) main.py learning_curve $(settings) $(if $(WORKERS),--workers=$(WORKERS)) $(ARGS)

baseline: $(READY) ## Cross-validate a 2D network on slices of DATA, pretrained on ImageNet
	$(PY) main.py finetune -c configs/finetune.yaml $(common) -c configs/baseline.yaml $(if $(SPLITS),--data.splits.path="$(SPLITS)") $(if $(INIT),--init="$(INIT)") $(ARGS)

classical: $(READY) ## Cross-validate classical methods on DATA; on INIT's features as well, with probes
	$(PY) main.py classical $(settings) $(ARGS)

slurm-pretrain: $(READY) ## Submit `make pretrain` to SLURM, on several nodes (DDP)
	mkdir -p runs/slurm
	sbatch $(SLURM_ARGS) configs/cluster/pretrain.sbatch $(pretrain)

slurm-finetune: $(READY) ## Submit `make finetune` to SLURM: an array of TASKS, then a job that gathers
	mkdir -p runs/slurm
	$(finetune) --only=prepare
	array=$$(sbatch --parsable --array=0-$$(($(TASKS) - 1)) $(SLURM_ARGS) configs/cluster/array.sbatch $(finetune) --only=train --num_tasks=$(TASKS) --task=%a) && echo "Submitted array job $$array" && \
	sbatch --dependency=afterany:$${array%;*} $(SLURM_ARGS) configs/cluster/gather.sbatch $(finetune) --only=gather

report: $(READY) ## Write report.html of RUN again; OTHERS="a b" shows other runs next to it
	$(PY) main.py report --run="$(RUN)" $(if $(OTHERS),--others="$(OTHERS)") $(ARGS)

sanity: $(READY) ## Check RUN: random labels at chance? label in the headers? site in the features?
	$(PY) main.py sanity --run="$(RUN)" $(ARGS)

verify: $(READY) ## Compare the files of RUN with their hashes, its tables and figures with each other
	$(PY) main.py verify --run="$(RUN)" $(ARGS)

compare: $(READY) ## Compare RUNS="a b c" with the first or REFERENCE=a; ENSEMBLE="a b" adds votes
	$(PY) main.py compare --runs="$(RUNS)" --run="$(RUN)" $(if $(REFERENCE),--reference="$(REFERENCE)") $(if $(ENSEMBLE),--ensemble="$(ENSEMBLE)") $(ARGS)

predict: $(READY) ## Predict the scans of DATA with all folds of RUN; ranked by confidence in OUT
	$(PY) main.py predict --run="$(RUN)" --data="$(DATA)" --out="$(OUT)" $(ARGS)

evaluate: $(READY) ## Measure RUN on the labelled patients of DATA, who come from elsewhere; report in OUT
	$(PY) main.py evaluate --run="$(RUN)" --data="$(DATA)" --out="$(OUT)" $(ARGS)

export: $(READY) ## Write RUN as a bundle into OUT: safetensors, ONNX and a model card
	$(PY) main.py export --run="$(RUN)" $(if $(OUT),--out="$(OUT)") $(ARGS)

features: $(READY) ## Write what RUN's encoders see in every scan, fold by fold, for other programs
	$(PY) main.py features --run="$(RUN)" $(if $(OUT),--out="$(OUT)") $(ARGS)

import-predictions: $(READY) ## Make a run of PREDICTIONS=file.csv of another program on DATA and the folds of SPLITS
	$(PY) main.py import_predictions $(settings) --predictions="$(PREDICTIONS)" $(ARGS)

import-dicom: $(READY) ## Import the DICOM series under SRC into OUT; SERIES=pattern, MAPPING=who.csv, KEY=file
	$(PY) main.py import_dicom --src="$(SRC)" --out="$(OUT)" $(if $(SERIES),--series="$(SERIES)") $(if $(MAPPING),--mapping="$(MAPPING)") $(if $(KEY),--key="$(KEY)") $(ARGS)

import-bids: $(READY) ## Make the cohort table OUT of the BIDS tree SRC; SUFFIX=T1w, LABEL=column
	$(PY) main.py import_bids --src="$(SRC)" --out="$(OUT)" $(if $(SUFFIX),--suffix="$(SUFFIX)") $(if $(LABEL),--label="$(LABEL)") $(ARGS)

bench: $(READY) ## Measure this machine within BUDGET=8 minutes, or training on its GPU=1; writes docs/benchmarks.md
	$(PY) -m benchmarks $(if $(GPU),--gpu) $(if $(BUDGET),--budget="$(BUDGET)") $(ARGS)

test: $(READY) ## Run every test that this machine can run; FAST=1 those that take less than a minute together
	$(PY) -m pytest --dist worksteal $(if $(FAST),-n 2 -m "not slow and not real_data",-n 3) $(ARGS)

check: $(READY) ## Format, lint, check types and run the fast tests
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .
	$(PY) -m mypy
	$(PY) -m pytest -n 2 --dist worksteal -m "not slow and not real_data" $(ARGS)
