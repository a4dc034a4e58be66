# Keyledger. Run `make help` for a list of targets.
PYTHON ?= python3
BIN := .venv/bin

# Long strings and names such as `password` are common in tests, so these detectors only report false positives.
NO_SECRETS := $(addprefix --disable-plugin ,KeywordDetector HexHighEntropyString Base64HighEntropyString)

# One file for all supported versions of Python, on Linux and macOS.
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-header --no-annotate

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:  # so that an interrupted set-up isn't taken for a complete one
.PHONY: help setup run test drill check format bench screenshots build lock

help: ## list all targets
	@awk -F':.*## ' '/^[a-z]+:.*## / {printf "  make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: .venv/installed ## install into .venv

run: .venv/installed ## install and start everything, with the embedded store
	@$(BIN)/keyledger up

test: .venv/dev ## install and run the tests (without the drills)
	$(BIN)/pytest -m "not drill" -n 3 --dist loadfile

drill: .venv/dev ## run the long fault and load tests
	$(BIN)/pytest -m "drill and not alone" -n 3 --dist loadscope -raP
	$(BIN)/pytest -m "drill and alone" -s

check: .venv/dev ## check format, lint, types, import contracts, secrets, the Compose file and the workflows
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/bandit --quiet --configfile pyproject.toml --recursive --severity-level medium services shared
	git ls-files -z -- ':!requirements*.txt' | xargs -0 $(BIN)/detect-secrets-hook $(NO_SECRETS)
	! git grep -nE '_[0-9A-Za-z]{50}\b' # strings that look like Keyledger keys
	$(BIN)/check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.github-workflows .github/workflows/*.yml
	$(BIN)/check-jsonschema --builtin-schema vendor.dependabot .github/dependabot.yml

format: .venv/dev ## format the code and fix what the linter can
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: .venv/dev ## measure performance, and write docs/figures.md
	$(BIN)/python -m bench

screenshots: .venv/dev ## save screenshots of every page and state in screenshots/
	$(BIN)/python -m tests.screenshots

build: .venv/dev ## build the wheel and the source distribution in dist/
	$(BIN)/hatchling build -t sdist -t wheel

lock: .venv/dev ## pin the newest allowed dependencies with hashes
	$(LOCK) --extra embedded --extra postgresql -o requirements.txt pyproject.toml
	$(LOCK) --group dev -c requirements.txt -o requirements-dev.txt pyproject.toml
	echo hatchling | $(LOCK) -c requirements-dev.txt -o requirements-build.txt -

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Keyledger needs Python 3.11 or later: name one, as in `make $(or $(MAKECMDGOALS),setup) PYTHON=python3.12`.")'
	$(PYTHON) -m venv .venv

.venv/installed: requirements.txt requirements-build.txt pyproject.toml | .venv/bin/python
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt -r requirements-build.txt
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

.venv/dev: requirements-dev.txt .venv/installed
	$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dev.txt
	@touch $@
