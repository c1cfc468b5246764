# Everything a person or CI does with this checkout. `make` alone lists it.

PYTHON ?= python3
BIN := .venv/bin
ARGS ?=
NAME ?=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-faults soak lint docs bench clean

help: ## list these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-11s %s\n", $$1, $$2 }' Makefile

setup: ## make .venv from the lock and fetch Asterisk (PYTHON=... picks the interpreter)
	@$(PYTHON) -c 'import sys; sys.version_info >= (3, 11) or sys.exit("trunkline needs Python 3.11 or newer; this is " + sys.version.split()[0] + ": make setup PYTHON=/path/to/python3")'
	@PYTHONDONTWRITEBYTECODE=1 $(PYTHON) -m deploy.bootstrap

demo: setup ## dial a small campaign through a carrier of our own, on this machine
	@$(BIN)/trunkline demo $(ARGS)

test: setup lint ## lint, types and all tests (ARGS="-k word" picks some)
	@$(BIN)/python -m pytest -m "not long" $(ARGS)

test-faults: setup ## every fault, the long ones too (up to 45 minutes)
	@$(BIN)/python -m pytest tests/faults $(ARGS)

lint: setup ## ruff and mypy
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

soak: setup ## ten minutes of faults at random (ARGS="--seed N" has an earlier run again)
	@$(BIN)/python -m tests.faults.soak $(ARGS)

docs: setup ## write the README's table of explanations anew, from models/explanations.py
	@$(BIN)/python -m models.explanations README.md

bench: setup ## measure (NAME="..." picks some, ARGS="--rounds N")
	@$(BIN)/python -m tests.bench $(NAME) $(ARGS)

clean: ## stop what runs here, then remove .venv, .trunkline and caches (not the shared Debian tree)
	@if [ -d .trunkline ] && [ -x $(BIN)/trunkline ]; then $(BIN)/trunkline down || true; fi
	rm -rf .venv .trunkline .pytest_cache .mypy_cache .ruff_cache .hypothesis .schemathesis dist
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +
