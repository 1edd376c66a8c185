# Python, Java 17 and make are all that must be there: every target does its own set-up, and a second time asks the network for nothing.
.DEFAULT_GOAL := help
PYTHON ?= python3
WORKERS ?= 2
DATASET ?= stocks
CONF ?= conf/local.yml
export DATASET CONF DATA AS_OF SET SCORE_ONLY ARGS
unexport PYTHONPATH PYTHONHOME
BIN := "$(CURDIR)/.venv/bin"

.PHONY: help setup run test check lint types unit deaths faults bench bench-monitoring docs wheel bundle-check bundle-replay lock clean

help: ## list the targets
	@grep -hE '^[a-z-]+:.*## ' Makefile | sed -E 's/^([a-z-]+):[^#]*## (.*)/  make \1 - \2/'
	@echo '  make run [DATASET=stocks|sp500|retail] [DATA=folder] [AS_OF=YYYY-MM-DD] [SCORE_ONLY=1] [SET="key=value ..."]'

setup: ## virtual environment from requirements.lock, JVM jars from jars.lock
	@command -v "$(PYTHON)" >/dev/null || { echo "set-up: $(PYTHON) was not found: install Python 3.11 or newer" \
	  "(Debian, Ubuntu: sudo apt-get install python3 python3-venv) or name yours: make setup PYTHON=python3.12" >&2; exit 2; }
	@"$(PYTHON)" scripts/bootstrap.py

run: setup ## the whole line on one data set, from its sources to published scores and a report
	@$(BIN)/propensity run --conf "$$CONF" --dataset "$$DATASET" $${DATA:+--data "$$DATA"} $${AS_OF:+--as-of "$$AS_OF"} \
	  $${SCORE_ONLY:+--score-only} $${SET:+--settings "$$SET"} $${ARGS:-}

test: setup ## every test but the replay of the deployed jobs and the matrix of faults, with branch coverage of the package
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --cov --cov-report=term:skip-covered --cov-report=xml $${ARGS:-}

check: lint types unit ## lint, types and unit tests

lint: setup ## ruff, rules and format
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .

types: setup ## mypy, strict
	@$(BIN)/mypy

unit: setup ## unit tests alone
	@$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile tests/unit $${ARGS:-}

deaths: setup ## kill (SIGKILL) a process of the line after each of its writes and hold the end against an undisturbed run (half an hour)
	@PYTHONPATH="$(CURDIR)/tests" $(BIN)/python tests/line/test_deaths.py

faults: setup ## the full matrix of kills and faults: storage, feed, cluster, disks (minutes)
	@$(BIN)/python -m pytest -m faults --durations=10 $${ARGS:-}

bench: setup ## speed on two cores: the line, its next day, user features; beside targets and single-machine references (minutes)
	@$(BIN)/python -m benchmarks $${SET:+--settings "$$SET"} $${ARGS:-}

bench-monitoring: setup ## what monitoring 10 million rows costs; ARGS=alarms: how often its defaults are right (minutes)
	@$(BIN)/python -m benchmarks.monitoring $${ARGS:-speed}

docs: setup ## write the generated tables of README.md and docs/databricks.md anew
	@$(BIN)/python scripts/readme.py
	@$(BIN)/python -m scripts.bundle.docs

wheel: setup ## build the wheel into dist/
	@sh scripts/wheel.sh
	@ls dist/*.whl

bundle-replay: setup ## the deployed jobs on local Spark by the wheel's entry points, and by spark-submit on a standalone cluster (minutes)
	@$(BIN)/python -m pytest -m replay tests/databricks --durations=5 $${ARGS:-}

bundle-check: setup ## the Databricks bundle, every target: official packages and a lint of our own, no workspace needed
	@$(BIN)/python -m scripts.bundle

lock: ## resolve requirements.lock anew from pyproject.toml (needs uv)
	@sed -n '/^[^#]/q;p' requirements.lock > .requirements.header
	@uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-header --no-annotate --no-emit-index-url \
	  --extra local --extra dev pyproject.toml --output-file requirements.lock
	@cat .requirements.header requirements.lock > .requirements.new
	@mv .requirements.new requirements.lock && rm .requirements.header

clean: ## remove caches and build outputs; keeps .venv, .jars, lake/ and published/
	@rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage coverage.xml spark-warehouse metastore_db derby.log
	@find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
