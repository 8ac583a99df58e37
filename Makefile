# Needs Python 3.11 or 3.12 with its venv module, nothing else. `make help` lists what there is.
# CHURN_* on the command line or in the environment reach every command: make run CHURN_API_PORT=9090

PYTHON ?=
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.synced
PYTEST := $(PY) -m pytest

.DEFAULT_GOAL := help
.PHONY: help run status why card down release promote rollback pause resume rollout-demo keep score reproduce quarantine redrive backfill api-key forget retention drift-ui study check lint unit test bench-memory bench-data bench-train bench-serving bench-run bench-canary docs install bench-drift why-retrain approve demo

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1|/p' $(firstword $(MAKEFILE_LIST)) | while IFS='|' read -r name text; do \
	  printf '  make %-14s %s\n' "$$name" "$$text"; done

run: $(STAMP) ## start the local platform and run the lifecycle once; AS_OF=2025-02-01 moves the clock
	@$(PY) -m deploy.local.run

status: $(STAMP) ## what is live, the canary, the last checks, open alarms; JSON=1 for machines
	@$(PY) -m deploy.local.status $(if $(filter-out 0,$(JSON)),--json)

why: $(STAMP) ## the verdicts behind what is live
	@$(PY) -m deploy.local.why

why-retrain: $(STAMP) ## each check and its verdict: why there was a retraining, or none; LAST=24 checks, and a page
	@$(PY) -m deploy.local.why_retrain

card: $(STAMP) ## the model card of what is live, or of VERSION=3, with its verdicts so far: HTML and Markdown
	@$(PY) -m deploy.local.card

down: $(STAMP) ## stop everything `make run` started; data stays
	@$(PY) -m deploy.local.down

release: $(STAMP) ## release a registered model by hand: VERSION=3 WHO=name WHY=text; STRATEGY=basic, shadow or canary
	@$(PY) -m deploy.local.release_by_hand release

approve: $(STAMP) ## release a version that waits for a person (CHURN_MATURITY 1 or 2): VERSION=3 WHO=name WHY=text; REJECT=1 turns it down
	@$(PY) -m deploy.local.release_by_hand approve

promote: $(STAMP) ## make the open rollout's release champion without waiting for the judge: WHO=name WHY=text
	@$(PY) -m deploy.local.release_by_hand promote

rollback: $(STAMP) ## end the open rollout, or bring back the champion before: WHO=name WHY=text; FURTHER=1 just after another
	@$(PY) -m deploy.local.release_by_hand rollback

pause: $(STAMP) ## let the open rollout stay where it is: WHO=name WHY=text
	@$(PY) -m deploy.local.release_by_hand pause

resume: $(STAMP) ## let a paused rollout go on: WHO=name WHY=text
	@$(PY) -m deploy.local.release_by_hand resume

rollout-demo: $(STAMP) ## two canaries under generated traffic, one of them faulty, on a platform of its own (four minutes)
	@$(PY) -m deploy.local.rollout_demo

demo: $(STAMP) ## the sample world month by month under traffic: drifts, a broken delivery, a bad candidate (five minutes); SHORT=1
	@$(PY) -m deploy.local.demo

keep: $(STAMP) ## end the champion's bake: the release before it is not kept warm any more: WHO=name WHY=text
	@$(PY) -m deploy.local.release_by_hand keep

score: $(STAMP) ## everybody by the champion, ranked by what a contact would bring; AS_OF=2025-02-01: as of then
	@$(PY) -m deploy.local.score

reproduce: $(STAMP) ## data and model of an MLflow run again, from its record: RUN=id
	@$(PY) -m deploy.local.reproduce

quarantine: $(STAMP) ## the bad rows: how many for which reason, and the newest of them with file and line
	@$(PY) -m deploy.local.quarantine quarantine

redrive: $(STAMP) ## put the quarantine through today's checks again; DRY_RUN=1 only says what would happen
	@$(PY) -m deploy.local.quarantine redrive

backfill: $(STAMP) ## ingest and features for a range of days: START=2024-01-01 END=2024-12-01 STEP_MONTHS=1 (or STEP_DAYS)
	@$(PY) -m deploy.local.backfill

api-key: $(STAMP) ## a new key for callers of the API, printed once; its hash goes to CHURN_API_KEYS: NAME=crm
	@$(PY) -m deploy.local.api_key

forget: $(STAMP) ## remove a person from everything: CUSTOMER=c000123 WHO=name WHY=text; YES=1 does it
	@$(PY) -m deploy.local.forget

retention: $(STAMP) ## which files of the lake nothing needs any more; APPLY=1 drops them
	@$(PY) -m deploy.local.retention

drift-ui: $(STAMP) ## Evidently's UI: share of drifted columns, prediction drift, AUC and value over time, until Ctrl-C
	@exec $(PY) -m deploy.local.drift_ui

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
	@$(PYTEST) -q -m service -n 2 --dist loadscope --no-loadscope-reorder

bench-memory: $(STAMP) ## resident memory of the running platform, as PSS
	@$(PY) -m deploy.local.memory

bench-data: $(STAMP) ## CPU seconds and memory of the data stages at 10 thousand to a million customers: a table (half an hour)
	@$(PY) -m tests.bench.bench_data

bench-train: $(STAMP) ## CPU seconds of training beside scikit-learn, AUC beside the truth, errors of the gate: a table (ten minutes)
	@$(PY) -m tests.bench.bench_train

bench-serving: $(STAMP) ## CPU of a request beside BentoML's and MLflow's usual ways, start-up, tail, batch scoring: a table (ten minutes)
	@$(PY) -m tests.bench.bench_serving

bench-run: $(STAMP) ## seconds of `make run` by stage, of check and down, and memory: a table (five minutes)
	@$(PY) -m tests.bench.bench_run

bench-canary: $(STAMP) ## failed requests while releases are killed, hung, ramped and rolled back; the judge's errors: a table (half an hour)
	@$(PY) -m tests.bench.bench_canary

bench-drift: $(STAMP) ## false alarms and power of the drift check beside Evidently's defaults, delay of concept drift: a table (half an hour)
	@$(PY) -m tests.bench.bench_drift

docs: $(STAMP) ## write docs/features.md from the contract
	@$(PY) -m tasks.features.feature_docs

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
