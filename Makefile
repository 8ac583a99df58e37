# Needs Python 3.11 or 3.12 with its venv module, nothing else. `make help` lists what there is.
# CHURN_* on the command line or in the environment reach every command: make run CHURN_API_PORT=9090

PYTHON ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.synced
PYTEST := $(PY) -m pytest

.DEFAULT_GOAL := help
.PHONY: help run status why card down release rollback reproduce quarantine redrive backfill forget retention study check lint unit test bench-memory bench-data bench-train bench-run docs install

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
	  printf '  make %-14s %s\n' "$$name" "$$text"; done

run: $(STAMP) ## start the local platform and run the lifecycle once; AS_OF=2025-02-01 moves the clock
	@$(PY) -m deploy.local.run

status: $(STAMP) ## what is live, the canary, the last checks, open alarms; JSON=1 for machines
	@$(PY) -m deploy.local.status $(if $(filter-out 0,$(JSON)),--json)

why: $(STAMP) ## the verdicts behind what is live
	@$(PY) -m deploy.local.why

card: $(STAMP) ## the model card of what is live, or of VERSION=3, with its verdicts so far: HTML and Markdown
	@$(PY) -m deploy.local.card

down: $(STAMP) ## stop everything `make run` started; data stays
	@$(PY) -m deploy.local.down

release: $(STAMP) ## release a registered model by hand: VERSION=3 WHO=name WHY=text
	@$(PY) -m deploy.local.release_by_hand release

rollback: $(STAMP) ## end the open rollout, or bring back the champion before: WHO=name WHY=text
	@$(PY) -m deploy.local.release_by_hand rollback

reproduce: $(STAMP) ## data and model of an MLflow run again, from its record: RUN=id
	@$(PY) -m deploy.local.reproduce

quarantine: $(STAMP) ## the bad rows: how many for which reason, and the newest of them with file and line
	@$(PY) -m deploy.local.quarantine quarantine

redrive: $(STAMP) ## put the quarantine through today's checks again; DRY_RUN=1 only says what would happen
	@$(PY) -m deploy.local.quarantine redrive

backfill: $(STAMP) ## ingest and features for a range of days: START=2024-01-01 END=2024-12-01 STEP_MONTHS=1 (or STEP_DAYS)
	@$(PY) -m deploy.local.backfill

forget: $(STAMP) ## remove a person from everything: CUSTOMER=c000123 WHO=name WHY=text; YES=1 does it
	@$(PY) -m deploy.local.forget

retention: $(STAMP) ## which files of the lake nothing needs any more; APPLY=1 drops them
	@$(PY) -m deploy.local.retention

study: $(STAMP) ## how often to retrain and which feature groups pay, measured on history (40 CPU s); AS_OF, ESTIMATOR=boosting, SECONDS
	@$(PY) -m deploy.local.study

check: $(STAMP) ## every check and test that needs no service
	@$(MAKE) --no-print-directory -j2 lint unit

lint: $(STAMP) ## ruff, mypy strict, import-linter
	@$(VENV)/bin/ruff check .
	@$(PY) -m mypy
	@$(VENV)/bin/lint-imports

unit: $(STAMP) ## the tests that need no service
	@$(PYTEST) -q -n auto --maxprocesses=4 -m "not service"

test: check ## every check and every test
	@$(PYTEST) -q -m service

bench-memory: $(STAMP) ## resident memory of the running platform, as PSS
	@$(PY) -m deploy.local.memory

bench-data: $(STAMP) ## CPU seconds and memory of the data stages at 10 thousand to a million customers: a table (half an hour)
	@$(PY) -m tests.bench.bench_data

bench-train: $(STAMP) ## CPU seconds of training beside scikit-learn, AUC beside the truth, errors of the gate: a table (ten minutes)
	@$(PY) -m tests.bench.bench_train

bench-run: $(STAMP) ## seconds of `make run` by stage, of check and down, and memory: a table (five minutes)
	@$(PY) -m tests.bench.bench_run

docs: $(STAMP) ## write docs/features.md from the contract
	@$(PY) -m tasks.feature_docs

install: $(STAMP) ## only set up what is missing

$(STAMP): uv.lock pyproject.toml | $(PY)
	@wanted=$$(sed -n '/^name = "uv"$$/{n;s/^version = "\(.*\)"$$/\1/p;}' uv.lock); \
	if [ "$$($(VENV)/bin/uv --version 2>/dev/null | cut -d' ' -f2)" != "$$wanted" ]; then \
	  echo "installing uv $$wanted into $(VENV)"; \
	  { $(PY) -m pip --version >/dev/null 2>&1 || $(PY) -m ensurepip >/dev/null; } && \
	  $(PY) -m pip install --quiet --disable-pip-version-check "uv==$$wanted" || exit 1; \
	fi
	@echo "installing the locked packages into $(VENV) (about a minute the first time)"
	@unset VIRTUAL_ENV; UV_PROJECT_ENVIRONMENT=$(VENV) UV_PYTHON_DOWNLOADS=never UV_COMPILE_BYTECODE=1 \
	  $(VENV)/bin/uv sync --quiet --frozen
	@touch $(STAMP)

$(PY):
	@why="no Python 3.11 or 3.12 found. Install one (Debian: apt install python3 python3-venv), or set PYTHON="; \
	for python in $(or $(PYTHON),python3.12 python3.11 python3); do \
	  said=$$($$python -m deploy.local.supported 2>/dev/null); code=$$?; \
	  if [ $$code = 0 ]; then \
	    echo "making $(VENV) with $$($$python --version)"; \
	    exec $$python -m venv $(VENV); \
	  fi; \
	  if [ $$code = 12 ]; then why="$$python has no venv module. Install it (Debian: apt install python3-venv)"; fi; \
	  if [ $$code = 13 ]; then why="$$said"; break; fi; \
	done; \
	echo "error: cannot set up $(VENV): $$why" >&2; exit 1
