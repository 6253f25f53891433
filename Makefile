# One command each; all make their own environment in .venv first.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: help reproduce reproduce-full test lint smoke bench device clean

help:            ## this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# one environment for everything: made once, remade when what it is made from changes
.venv/done: pyproject.toml .ci/constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[cli]'
	touch $@

.venv/test: .venv/done
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint .ci/constraints.txt --editable '.[test,lint]'
	touch $@

reproduce: .venv/done  ## measure the paper's claims on real digits; writes results/report.html
	$(BIN)/linvae reproduce

reproduce-full: .venv/done  ## the paper's table on all of MNIST, for a GPU; ARGS="--manual-dir DIR"
	$(BIN)/linvae reproduce --full --out results/full $(ARGS)

test: .venv/test       ## the whole test suite
	$(BIN)/python -m pytest --numprocesses 2

lint: .venv/test       ## style, types, and which module may import which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

smoke: .venv/done      ## the main job in a minute, on the embedded digits
	$(BIN)/linvae reproduce --smoke --out results/smoke

bench: .venv/done      ## time everything against its peers; minutes, on an idle machine
	$(BIN)/python -m benchmarks.run

device: .venv/done     ## what an accelerator does, in 9 minutes; ARGS="--manual-dir DIR --out DIR"
	$(BIN)/python -m benchmarks.device $(ARGS)

clean:                 ## remove environment and results
	rm -rf .venv results
