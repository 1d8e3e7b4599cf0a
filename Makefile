# `make demo` and `make test` do everything a bare Debian machine needs; running them again is quick.
VENV := .venv
BIN := $(VENV)/bin
SEEDS ?= 0

.PHONY: help setup demo test lint wheel clean

help:  ## List the targets.
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup:  ## Make .venv with all packages, and FFCV's system libraries when rights allow.
	@tools/setup.sh $(VENV)

demo: setup  ## Convert, train and evaluate real images, beside k-means on pixels (SEEDS="0 1 2" for more).
	@$(BIN)/python tools/demo.py --seeds $(SEEDS)

test: setup lint  ## Run every check.
	@$(BIN)/python -m pytest -n auto --dist loadfile

lint: setup  ## Style and types.
	@$(BIN)/ruff check . && $(BIN)/ruff format --check . && $(BIN)/mypy

wheel: setup  ## Build the wheel and the source distribution into dist/.
	@$(BIN)/python -m build

clean:  ## Remove what the targets made, but for data/ and runs/.
	rm -rf $(VENV) build dist *.egg-info
