# Every target does its own set-up: a virtual environment made with python3 and the package index, and nothing else.
# It is made again only when pyproject.toml changes, so everything works offline after the first time.

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint format bench docs pictures clean

PYTHON := .venv/bin/python
ARGS ?=

help: ## show this list
	@echo "gitops-ml: experiments reviewed like code"
	@echo
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1@\2/p' Makefile | awk -F@ '{ printf "%-14s %s\n", $$1, $$2 }'
	@echo
	@echo "ARGS reaches the program behind a target: make demo ARGS='--keep /tmp/demo', make test ARGS='-k ledger'"

demo: ## the whole loop on a real training, in a throw-away repository
	@.ci/setup demo
	@$(PYTHON) -m gitops_ml demo $(ARGS)

test: ## all tests; what is skipped is named with its reason, and with CI=true it is a failure
	@.ci/setup dev
	@$(PYTHON) -m pytest -n auto $(ARGS)

lint: ## format, style, types and the layers
	@.ci/setup dev
	@$(PYTHON) -m ruff format --check .
	@$(PYTHON) -m ruff check .
	@$(PYTHON) -m mypy
	@.venv/bin/lint-imports --no-cache

format: ## rewrite the code as `make lint` wants it
	@.ci/setup dev
	@$(PYTHON) -m ruff format .
	@$(PYTHON) -m ruff check --fix .

bench: ## the benchmarks beside their peers: medians, ratios, targets (installs the peers, large)
	@.ci/setup dev
	@.ci/setup bench
	@$(PYTHON) -m bench $(ARGS)

docs: ## write the generated pages of docs/ anew
	@.ci/setup dev
	@$(PYTHON) docs/generate.py

pictures: ## take the README's pictures anew (needs an installed Chromium)
	@.ci/setup dev
	@$(PYTHON) -m docs.pictures

clean: ## remove what the targets made
	rm -rf .venv .venv-bench dist build .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
