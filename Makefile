# Keyledger. `make help` lists what there is.
PYTHON ?= python3
BIN := .venv/bin

# What is only long, or only called a password, says little: the tests and their fixtures are full of it.
NO_SECRETS := $(addprefix --disable-plugin ,KeywordDetector HexHighEntropyString Base64HighEntropyString)

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:  # else a .venv that was left half made would be taken for a whole one
.PHONY: help setup run test drill check format bench screenshots lock

help: ## list the targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## set up into .venv, and nothing else

run: .venv/installed ## set up, and start everything on the embedded server
	@$(BIN)/keyledger up

test: .venv/dev ## set up, and run all tests
	$(BIN)/pytest -m "not drill" -n 3 --dist loadfile

drill: .venv/dev ## the long fault and load drills
	$(BIN)/pytest -m "drill and not alone" -n 3 --dist loadscope -raP
	$(BIN)/pytest -m "drill and alone" -s

check: .venv/dev ## format, lint, types, import contracts, secrets, the Compose file
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive --severity-level medium services shared
	git ls-files -z -- ':!*.lock' | xargs -0 $(BIN)/detect-secrets-hook $(NO_SECRETS)
	! git grep -nE '_[0-9A-Za-z]{50}\b' # what looks like an API key of ours
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml

format: .venv/dev ## format the code and mend what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev ## measure, each figure beside its floor in the same run
	$(BIN)/python -m bench

screenshots: .venv/dev ## pictures of every page and state, into screenshots/
	$(BIN)/python -m tests.screenshots

lock: .venv/dev ## pin the newest allowed dependencies with their hashes
	$(BIN)/pip install --quiet pip-tools
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header --upgrade -o requirements.lock pyproject.toml
	$(BIN)/pip-compile --quiet --strip-extras --generate-hashes --allow-unsafe --no-emit-index-url --no-emit-find-links --no-header --upgrade --extra dev -c requirements.lock -o requirements-dev.lock pyproject.toml

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Keyledger needs Python 3.11 or later: name one, as in `make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12`.")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.lock pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.lock
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements-dev.lock .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@
