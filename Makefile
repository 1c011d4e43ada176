# allstop: `make run` shows it, `make test` proves it. CI calls the same targets.

PYTHON ?= python3
PYTHONS := 3.11 3.12 3.13 3.14
VENV   := .venv
BIN    = $(VENV)/bin
PIP    = $(BIN)/python -m pip install --quiet --disable-pip-version-check

# mypy reads the stubs of the NumPy that is installed: today's
CHECKS_TYPES := tests/unit/test_project.py::test_make_check_sees_a_wrong_type_of_the_public_face

.PHONY: run test pythons lowest check docs-data bench chaos fuzz cluster-up cluster-down clean help
.DELETE_ON_ERROR:

help:
	@echo "make run     install into $(VENV) and run the example sweep (Ctrl+C stops it)"
	@echo "make test    install what the tests need and run all checks and tests"
	@echo "make pythons  make test on each of Python $(PYTHONS) that is installed"
	@echo "make lowest   the quick tests with the oldest versions that pyproject.toml allows"
	@echo "make check   ruff, mypy --strict, import-linter"
	@echo "make docs-data  write the table of formats in docs/data.md from the tests' inputs"
	@echo "make bench   measure against floors and peers"
	@echo "make chaos   1,000 rounds of random kills at random instants, here and on a cluster (hours)"
	@echo "make fuzz    damage everything that is read back, FUZZ_ROUNDS=20000 times from FUZZ_SEED=0 on"
	@echo "make cluster-up    start a real SLURM and sshd on this machine, to try things out"
	@echo "make cluster-down  stop them; nothing is left (CLUSTER_ARGS='--dir DIR' if it was given)"
	@echo "make clean   remove $(VENV) and caches"

run: $(VENV)/.core
	$(BIN)/python -m supervisor run

test: $(VENV)/.test check
	@$(BIN)/python -m tests.cluster install  # what cannot be installed is named and left out
	@$(BIN)/python -m tests.support.optional  # likewise: PyTorch, CuPy, numba-cuda
	$(BIN)/pytest -n auto --dist loadgroup $(PYTEST_ARGS)

pythons:
	@for v in $(PYTHONS); do \
	  if command -v python$$v >/dev/null; then \
	    $(MAKE) test PYTHON=python$$v VENV=.venv-$$v || exit 1; \
	  else echo "python$$v is not installed: left out"; fi; done

# resolves with uv, which knows how to take the oldest; what those need is the newest there is
lowest: VENV := .venv-lowest
lowest:
	@$(MAKE) VENV=$(VENV) $(VENV)/bin/python
	@$(PIP) uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --resolution lowest-direct \
	  --editable '.[test,slurm,plots]'
	$(BIN)/python -m pytest -n auto -W default --deselect $(CHECKS_TYPES) tests/unit \
	  $(addprefix tests/process/,test_bad_input.py test_output.py test_signals.py) $(PYTEST_ARGS)

check: $(VENV)/.test
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs-data: $(VENV)/.test
	$(BIN)/python -m tests.support.formats

bench: $(VENV)/.test
	$(BIN)/python -m bench $(BENCH_ARGS)

chaos: $(VENV)/.test
	$(BIN)/python -m tests.chaos --rounds 1000 $(CHAOS_ARGS)
	$(BIN)/python -m tests.chaos --cluster --rounds 1000 --jobs 4 $(CLUSTER_CHAOS_ARGS)

fuzz: $(VENV)/.test
	$(BIN)/python -m tests.fuzz

cluster-up: $(VENV)/.core
	@$(BIN)/python -m tests.cluster up $(CLUSTER_ARGS)

cluster-down: $(VENV)/.core
	@$(BIN)/python -m tests.cluster down $(CLUSTER_ARGS)

clean:
	rm -rf $(VENV) .venv-* build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "allstop needs Python 3.11 or later: make PYTHON=python3.12 …"; exit 2; }
	@$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); \
	  if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
	    echo "installing python3-venv"; \
	    apt-get update -qq && apt-get install -y -qq python3-venv && $(PYTHON) -m venv $(VENV); \
	  else echo "python3 has no venv: apt-get install python3-venv, then again"; exit 2; fi; }

$(VENV)/.core: $(VENV)/bin/python pyproject.toml
	@echo "installing allstop into $(VENV) (once)"
	@$(PIP) --editable .
	@touch $@

$(VENV)/.test: $(VENV)/bin/python pyproject.toml
	@echo "installing allstop and what its tests need into $(VENV) (once)"
	@$(PIP) --editable '.[test]'
	@touch $(VENV)/.core $@
