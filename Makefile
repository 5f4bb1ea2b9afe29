# make start   install what is needed into .venv and serve the bundled model
# make test    install what the tests need, run every check and every test
# make check   the checks alone;  make spec   which specification items have passing tests
# make bench   the benchmarks;    make clean  remove .venv and build folders

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The lock is exact for one Python version; others resolve from the bounds in pyproject.toml.
LOCK   := .ci/constraints-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
PINS   := $(if $(wildcard $(LOCK)),--constraint $(LOCK))

.PHONY: start test check unit spec bench clean

start: $(VENV)/.installed
	@exec $(BIN)/openllm start $(ARGS)

test: check unit

check: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.test-installed
	$(BIN)/python -m pytest $(ARGS)

spec: $(VENV)/.test-installed
	$(BIN)/python -m pytest --quiet --spec-report $(ARGS)

bench: $(VENV)/.test-installed
	$(BIN)/python -m benchmarks all

clean:
	rm -rf $(VENV) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml $(wildcard $(LOCK)) | $(VENV)/bin/python
	$(PIP) install $(PINS) --editable .
	@touch $@

$(VENV)/.test-installed: pyproject.toml $(wildcard $(LOCK)) | $(VENV)/bin/python
	$(PIP) install $(PINS) --editable '.[test]'
	@touch $(VENV)/.installed $@
