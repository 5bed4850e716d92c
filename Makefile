# make demo   train on real data, print the table and where the run is
# make test   the whole test suite
# make check  lint, types, import directions
# Each sets up .venv first when it has to.

PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/set-up
# TORCH_INDEX=URL takes PyTorch from that index, e.g. its CPU wheels, instead of the registry's CUDA build.
PIP := $(BIN)/python -m pip --disable-pip-version-check install $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX))

.PHONY: setup demo test check defaults clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "manyhot needs Python 3.11 or newer: make PYTHON=python3.11 $(MAKECMDGOALS)"; exit 2; }
	@echo "Setting up .venv with the $$(grep -c == constraints.txt) packages of constraints.txt, PyTorch among them."
	@command -v nvidia-smi >/dev/null || test -n "$(TORCH_INDEX)" || echo "No NVIDIA driver here: make setup TORCH_INDEX=https://download.pytorch.org/whl/cpu takes PyTorch's CPU wheel and leaves out several GB of CUDA packages."
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(PIP) --quiet -c constraints.txt scikit-build-core
	$(PIP) --quiet -c constraints.txt --no-build-isolation -e ".[dev]"
	@touch $@

demo: $(STAMP)
	$(BIN)/manyhot demo

test: $(STAMP)
	$(BIN)/python -m pytest

check: $(STAMP)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/pyright
	$(BIN)/python -m pytest -q -n 0 tests/test_imports.py

# Chooses the defaults of `manyhot train` on training files alone; about a quarter of an hour.
defaults: $(STAMP)
	$(BIN)/python benchmarks/defaults.py

clean:
	rm -rf .venv build dist .pytest_cache .ruff_cache
