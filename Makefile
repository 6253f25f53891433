# One command each; all make their own environment first. PYTHON= takes another Python than
# python3, VENV= another folder for the environment, and PINS= (empty) the newest releases of
# everything instead of those that were tested.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

FOUND := $(shell .ci/python '$(PYTHON)')
VERSION := $(shell test '$(FOUND)' && '$(FOUND)' -c 'import sys; print("%d.%d" % sys.version_info[:2])')
PINS ?= $(wildcard .ci/constraints/python$(VERSION).txt)
INSTALL := $(BIN)/python -m pip install --quiet --disable-pip-version-check \
	$(if $(PINS),--constraint $(PINS),--upgrade --upgrade-strategy eager) --editable
# named after what they are made from: another Python, or other pins, is another environment
READY := $(VENV)/ready-$(VERSION)-$(or $(notdir $(PINS)),newest)
TESTING := $(READY)-testing

.PHONY: help reproduce reproduce-full check test lint wheel smoke bench mutation device clean

help:            ## print this list
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

# one environment for everything: made once, remade when what it is made from changes
$(READY): pyproject.toml $(PINS)
	@test '$(FOUND)' || { echo '$(PYTHON): no such Python runs here' >&2; exit 1; }
	@'$(FOUND)' -c 'import sys; sys.exit("Python 3.11 or newer is needed, not " + sys.version) if sys.version_info < (3, 11) else None'
	@$(if $(PINS),,echo 'Python $(VERSION) without pins: the newest releases are installed')
	@# venv would put one Python into the other's environment
	if test -e $(VENV)/pyvenv.cfg && ! grep -qE '^version(_info)? = $(VERSION)\.' $(VENV)/pyvenv.cfg; \
		then rm -rf $(VENV); fi
	rm -f $(VENV)/ready-*
	'$(FOUND)' -m venv $(VENV)
	$(INSTALL) '.[cli]'
	touch $@

$(TESTING): $(READY)
	$(INSTALL) '.[test,lint]'
	touch $@

reproduce: $(READY)    ## measure the paper's claims on real digits, in 10 minutes; writes results/report.html
	$(BIN)/linvae reproduce

reproduce-full: $(READY)  ## train the paper's table on all of MNIST, on a GPU; ARGS="--manual-dir DIR"
	$(BIN)/linvae reproduce --full --out results/full $(ARGS)

check: lint            ## run before each commit, in 2 minutes: lint, and all tests that are not slow
	$(BIN)/python -m pytest --numprocesses 2 -m 'not slow'

test: $(TESTING)       ## run the whole test suite, in 11 minutes
	$(BIN)/python -m pytest --numprocesses 2

lint: $(TESTING)       ## check style, types, and which module imports which
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/basedpyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports

wheel: $(READY)        ## build the wheel; install it into an empty environment and try it there
	.ci/wheel $(BIN)/python $(PINS)

smoke: $(READY)        ## run every stage of reproduce in a minute, with little training
	$(BIN)/linvae reproduce --smoke --out results/smoke

bench: $(READY)        ## time everything against its peers, in minutes; wants an idle machine
	$(BIN)/python -m benchmarks.run

mutation: $(TESTING)   ## measure which share of wrong formulas the tests catch, in an hour; ARGS="--count 400"
	$(BIN)/python -m benchmarks.mutation --write $(ARGS)

device: $(READY)       ## measure an accelerator, in 9 minutes; ARGS="--manual-dir DIR --out DIR"
	$(BIN)/python -m benchmarks.device $(ARGS)

clean:                 ## remove environments and results
	rm -rf .venv .venv-newest results
