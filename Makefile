# Nothing but make and a Python of 3.11 or later; with a C compiler the Kafka connector gets a little faster.
# PYTHON=/path/to/python picks another one, VENV=folder another place for it.
VENV ?= .venv
PYTHON ?= $(shell for p in python3.13 python3.12 python3.11 python3 python; do \
  $$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
TESTS ?=
# Most tests wait for brokers, so more processes than cores; each broker's tests share one (tests/groups.py).
JOBS ?= 6
PYTEST := $(BIN)/python -m pytest --dist loadgroup
CHAOS ?=
RUNS ?= 100000
MUTANTS ?=
PEERS ?= --write

.PHONY: demo test unit check format bench bench-peers profile chaos simulation mutants clean

demo: $(VENV)/.installed
	$(BIN)/worker demo

test: $(VENV)/.dev
	$(PYTEST) -n $(JOBS) $(TESTS)

unit: $(VENV)/.test
	$(PYTEST) -n 4 -m 'not docker and not embedded' $(TESTS)

check: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(VENV)/.dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.peers --only works,queues --peers ours,bare,C,Select,socket,stomp.py --rounds 5
	$(BIN)/python -m benchmarks.isolation

bench-peers: $(VENV)/.dev
	$(BIN)/python -m benchmarks.peers $(PEERS)

profile: $(VENV)/.dev
	$(BIN)/python -m benchmarks.profile

chaos: $(VENV)/.dev
	$(BIN)/python -m tests.chaos $(CHAOS)
	WORKER_TEST_KILLS=20 $(PYTEST) -n 3 tests/integration/test_dead_letters.py -k killed_at_random

simulation: $(VENV)/.dev
	$(BIN)/python -m tests.simulation --runs $(RUNS)

mutants: $(VENV)/.dev
	$(BIN)/python -m tests.mutants $(MUTANTS)

clean:
	rm -rf $(VENV) build dist connectors/*.so benchmarks/peers/.environments .mypy_cache .pytest_cache .ruff_cache .hypothesis

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "no Python of 3.11 or later found: make PYTHON=/path/to/python" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/.installed: pyproject.toml connectors/_kafka_scan.c | $(BIN)/python
	$(PIP) install -e .
	@touch $@

$(VENV)/.test: pyproject.toml connectors/_kafka_scan.c | $(BIN)/python
	$(PIP) install -e '.[test]'
	@touch $@ $(VENV)/.installed

$(VENV)/.dev: pyproject.toml connectors/_kafka_scan.c | $(BIN)/python
	$(PIP) install -e '.[dev]'
	@touch $@ $(VENV)/.installed $(VENV)/.test
