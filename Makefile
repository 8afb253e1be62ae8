# Everything runs in .venv, which is made once and reused; PYTHON chooses the interpreter it is made from.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install quickstart test test-foundry lint format clean

help:  ## Show this help
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

$(INSTALLED): setup.py
	@$(PYTHON) -c 'import sys; v = sys.version_info[:2]; sys.exit(0 if (3, 10) <= v < (3, 13) else \
	  "composer_kd needs Python 3.10, 3.11 or 3.12; $(PYTHON) is %d.%d. Run: make PYTHON=python3.11 ..." % v)'
	$(PYTHON) -m venv $(VENV)
	@echo 'Installing composer_kd and what it needs (PyTorch among it): some minutes, once.'
	@# pip before 24 takes half an hour to find out which versions go together
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24.2'
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	@touch $@

install: $(INSTALLED)  ## Make .venv and install everything into it

quickstart: $(INSTALLED)  ## Show what distillation from an earlier run saves, on real data (about 4 minutes)
	$(BIN)/composer-kd study run yamls/studies/quickstart.yaml
	$(BIN)/composer-kd study report yamls/studies/quickstart.yaml

# Two files of tests at a time, a thread each: more threads would only wait for each other.
test: $(INSTALLED)  ## Run the tests (part of them: make test ARGS=tests/functional)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder $(ARGS)

# llm-foundry pins other versions of much that we ask for, and pip tries for hours to find what goes together: it is installed by
# itself, with what its training imports.
.venv-foundry/.installed: setup.py tests/foundry/requirements.txt
	$(PYTHON) -m venv .venv-foundry
	.venv-foundry/bin/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=24.2'
	.venv-foundry/bin/python -m pip install --quiet --disable-pip-version-check --editable '.[test]'
	.venv-foundry/bin/python -m pip install --quiet --disable-pip-version-check -r tests/foundry/requirements.txt
	.venv-foundry/bin/python -m pip install --quiet --disable-pip-version-check --no-deps llm-foundry==0.22.0
	@touch $@

test-foundry: .venv-foundry/.installed  ## Train with llm-foundry's own command, in an environment of its own
	OMP_NUM_THREADS=1 .venv-foundry/bin/python -m pytest tests/foundry

lint: $(INSTALLED)  ## Check style and types
	$(BIN)/ruff check --no-cache .
	$(BIN)/mypy

format: $(INSTALLED)  ## Mend what ruff can mend
	$(BIN)/ruff check --fix .

clean:  ## Remove the environment and caches, not your runs
	rm -rf $(VENV) .venv-foundry .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info
