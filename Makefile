# `make demo` and `make test` need Python 3.11+ and make, nothing else.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: package demo test test-fast test-thorough soak lint docs snapshots format bench setup picture clean

demo: $(VENV)/.ready
	$(BIN)/esops demo

test: $(VENV)/.ready
	$(BIN)/python -m pytest

# under a minute: each part over the store in memory, with an embedded Postgres for the read model
test-fast: $(VENV)/.ready
	$(BIN)/python -m pytest tests/unit tests/fast

# the rest: each guarantee in its other forms, and the most expensive tests; after a large change,
# and in CI
test-thorough: $(VENV)/.ready
	$(BIN)/python -m pytest -m thorough

# before a release: everything with long series of kills and writers, and once more on each
# Postgres that is installed (apt-get install postgresql); some hours
soak: $(VENV)/.ready
	ESOPS_TEST_SOAK=1 $(BIN)/python -m pytest --timeout 1800
	$(BIN)/python -m tests.support.installed_postgres -- \
	  $(BIN)/python -m pytest -n 0 -m 'thorough or not thorough' \
	    tests/contract tests/integration tests/faults

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(MAKE) --no-print-directory docs

# the documentation as a site, in build/site; any broken link or page without a place is an error
docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet --site-dir build/site

# help and error texts in tests/snapshots, after a change of wording that is wanted
snapshots: $(VENV)/.ready
	ESOPS_RENEW_SNAPSHOTS=1 $(BIN)/python -m pytest -q -n 0 tests/unit/test_snapshots.py

format: $(VENV)/.ready
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.ready
	$(BIN)/python -m benchmarks.rebuild
	$(BIN)/python -m benchmarks.spill
	$(BIN)/python -m benchmarks.startup
	$(BIN)/python -m benchmarks.settle
	$(BIN)/python -m benchmarks.eventstoredb
	$(BIN)/python -m benchmarks.archive
	$(BIN)/python -m benchmarks.audit
	$(BIN)/python -m benchmarks.newest
	$(BIN)/python -m benchmarks.kinds
	$(BIN)/python -m benchmarks.workers
	$(BIN)/python -m benchmarks.follow
	$(BIN)/python -m benchmarks.check

# wheel and sdist, checked, and the wheel tried in an environment with nothing else in it
package: $(VENV)/.ready
	.ci/package

# the terminal in the README, recorded from a real run
picture: $(VENV)/.ready
	$(BIN)/python docs/picture/record.py

setup: $(VENV)/.ready

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c "import sys; assert sys.version_info >= (3, 11), 'esops needs Python 3.11 or later'"
	@echo "setting up $(VENV), once"
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) .esops-demo .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
