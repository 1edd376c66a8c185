# Python, Java 17 and make are all that must be there: every target does its own set-up, and a second time asks the network for nothing.
.DEFAULT_GOAL := help
PYTHON ?= python3
WORKERS ?= 2
DATASET ?= stocks
CONF ?= conf/local.yml
RUNTIME ?=
export DATASET CONF DATA AS_OF SET SCORE_ONLY ARGS
unexport PYTHONPATH PYTHONHOME
BIN := "$(CURDIR)/.venv/bin"
SIDE_BY_SIDE := -n $(WORKERS) --no-loadscope-reorder
LONGEST_FIRST := tests/line tests/property tests/notebooks tests/s3 tests

.PHONY: help setup run cluster-run test check lint types unit faults protections soak bench bench-compare bench-windows bench-operators bench-history bench-targets bench-store bench-table bench-far-trans bench-reasons bench-monitoring docs wheel bundle-check bundle-replay bundle-proof compat lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1 - \2/'
	@echo '  make run [DATASET=stocks|sp500|retail|funds] [DATA=folder] [AS_OF=YYYY-MM-DD] [SCORE_ONLY=1] [SET="key=value ..."]'

setup: ## virtual environment from requirements.lock, JVM jars from jars.lock
	@command -v "$(PYTHON)" >/dev/null || { echo "set-up: $(PYTHON) was not found: install Python 3.11 or newer" \
	  "(Debian, Ubuntu: sudo apt-get install python3 python3-venv) or name yours: make setup PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" scripts/bootstrap.py

run: setup ## the whole line on one data set, from its sources to published scores and a report
	@$(BIN)/propensity run --conf "$$CONF" --dataset "$$DATASET" $${DATA:+--data "$$DATA"} $${AS_OF:+--as-of "$$AS_OF"} \
	  $${SCORE_ONLY:+--score-only} $${SET:+--settings "$$SET"} $${ARGS:-}

cluster-run: setup wheel ## the whole line on a Spark cluster on loopback (a master, WORKERS=2 workers), one spark-submit a stage
	@$(BIN)/python -m scripts.cluster_run --wheel dist/*.whl --workers $(WORKERS) --dataset "$$DATASET" $${DATA:+--data "$$DATA"} \
	  $${AS_OF:+--as-of "$$AS_OF"} $${SET:+--settings "$$SET"} $${ARGS:-}

test: setup ## every test but the replay of the deployed jobs and the matrix of faults, with branch coverage of the package
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) --durations=10 --cov --cov-report=term:skip-covered --cov-report=xml $${ARGS:-$(LONGEST_FIRST)}

check: lint types unit ## lint, types and unit tests

lint: setup ## ruff, rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy, strict
	@$(BIN)/mypy

unit: setup ## unit tests alone
	@$(BIN)/python -m pytest $(SIDE_BY_SIDE) tests/unit $${ARGS:-}

faults: setup ## the full matrix of kills and faults: storage, feed, cluster, disks (about an hour)
	@$(BIN)/python -m pytest -m faults $(SIDE_BY_SIDE) --durations=10 $${ARGS:-$(LONGEST_FIRST)}

protections: setup ## each protection taken out, one at a time: is it missed by the test that plants its fault? ARGS="s3 feed": some topics (minutes)
	@$(BIN)/python -m scripts.protections $${ARGS:-}

soak: setup ## the line killed at any moment, over and over, each end held against an undisturbed run (PROPENSITY_SOAK_MINUTES=30)
	@$(BIN)/python -m pytest -m soak -s tests $${ARGS:-}

bench: setup ## speed on two cores: the line, its next day, user features; beside targets and single-machine references (minutes)
	@$(BIN)/python -m benchmarks $${SET:+--settings "$$SET"} $${ARGS:-}

bench-compare: setup ## the newest results beside the stored figures; exit code 1 when something is a fifth slower than it was
	@$(BIN)/python benchmarks/compare.py $${ARGS:-}

bench-windows: setup ## user features of one date, counts and sums of 52, beside DuckDB; ARGS="--events 2000000 --users 20000" (minutes)
	@$(BIN)/python -m benchmarks.windows $${ARGS:-}

bench-operators: setup ## where the time of a line goes, stage by stage and operator by operator, from Spark's event log (minutes)
	@$(BIN)/python -m benchmarks.operators $${ARGS:-}

bench-history: setup ## one more day after a history and after one five times as long; ARGS="--days 400 --rows-per-day 5000" (half an hour)
	@$(BIN)/python -m benchmarks.history $${ARGS:-}

bench-targets: setup ## parts of the line beside the same work without Spark: start, windows, fit, scoring, tuning, evaluation, as-of join, grades, skew (minutes)
	@$(BIN)/python -m benchmarks.targets $${ARGS:-}

bench-store: setup ## keep results as the stored figures, from which docs/performance.md is made; ARGS="benchmarks/results/….json"
	@$(BIN)/python -m benchmarks.stored $${ARGS:-}
	@$(BIN)/python -m scripts.readme

bench-table: setup ## `propensity table` on a click stream of 455,401 visitors and on real customers: seconds, and what it says (minutes)
	@$(BIN)/python -m benchmarks.own_table $${ARGS:-}

bench-far-trans: setup ## ranking for real investors beside popularity and EASE on 14 dates; needs DATA=folder that has far_trans/ (minutes)
	@$(BIN)/python -m benchmarks.far_trans --data "$$DATA" $${ARGS:-}

bench-reasons: setup ## SHAP values of many rows on one core: looked up, and XGBoost's own (a minute)
	@$(BIN)/python -m benchmarks.reasons $${ARGS:-}

bench-monitoring: setup ## what monitoring 10 million rows costs; ARGS=alarms: how often its defaults are right (minutes)
	@$(BIN)/python -m benchmarks.monitoring $${ARGS:-speed}

docs: setup ## write the generated tables of README.md and of the runbook, performance and databricks pages of docs/ anew
	@$(BIN)/python -m scripts.readme
	@$(BIN)/python -m scripts.bundle.docs

wheel: setup ## build the wheel into dist/
	@sh scripts/wheel.sh
	@ls dist/*.whl

bundle-replay: setup ## the deployed jobs on local Spark by the wheel's entry points, and by spark-submit on a standalone cluster (minutes)
	@$(BIN)/python -m pytest -m replay tests/databricks --durations=5 $${ARGS:-}

bundle-proof: bundle-check ## all that is proven of the bundle without a workspace: its checks, their tests, recorded calls, the replay (minutes)
	@$(BIN)/python -m pytest -m "not faults" tests/bundle tests/databricks --durations=5 $${ARGS:-}

bundle-check: setup ## the Databricks bundle, every target: official packages and a lint of our own, no workspace needed
	@$(BIN)/python -m scripts.bundle

compat: ## `make test` with the library versions of the Databricks runtimes: 18 LTS ML and 17.3 LTS ML, or RUNTIME=18-lts-ml
	@COMPAT_PYTHON="$(if $(filter-out file,$(origin PYTHON)),$(PYTHON))" "$(PYTHON)" scripts/compat $(RUNTIME) -- $${ARGS:-}

lock: ## resolve requirements.lock anew from pyproject.toml, and those of `make compat` (needs uv)
	@sed -n '/^[^#]/q;p' requirements.lock > .requirements.header
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --extra local --extra dev pyproject.toml --output-file requirements.lock
	@cat .requirements.header requirements.lock > .requirements.new
	@mv .requirements.new requirements.lock && rm .requirements.header
	@for runtime in 18-lts-ml 17.3-lts-ml; do \
	  uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	    --extra local --extra dev --override scripts/compat/$$runtime/libraries.txt pyproject.toml \
	    --output-file scripts/compat/$$runtime/requirements.lock || exit 1; done

clean: ## remove caches and build outputs; keeps .venv, .jars, lake/ and published/
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage coverage.xml spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
