# What a newcomer needs: `make demo`, then `make test`. Everything lies in .venv; nothing but
# Python 3.11 or later and make is expected of the machine.

CANDIDATES := python3 python3.14 python3.13 python3.12 python3.11 python
NEW_ENOUGH := import sys; sys.exit(sys.version_info < (3, 11))
# The first interpreter here that is new enough; name another one with PYTHON=...
PYTHON ?= $(shell for p in $(CANDIDATES); do \
	"$$p" -c '$(NEW_ENOUGH)' 2>/dev/null && { echo "$$p"; break; }; done)

VENV := .venv
VLLM := .venv-vllm
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check
WORKERS ?= 2
FUZZ_SECONDS ?= 60
LOAD_SECONDS ?= 60
BENCH ?= full

.DEFAULT_GOAL := help
.PHONY: help demo demo-stack stack stack-servers servers install engines vllm test lint bench bench-report load docs docs-write fuzz clean

help:
	@echo "make demo    see the whole of it on a real model (installs what it needs into .venv)"
	@echo "make stack   a whole served vault on loopback, to try things on; Ctrl-C ends it"
	@echo "make demo-stack  the demo through such a vault"
	@echo "make test    all tests, with branch coverage"
	@echo "make engines  torch, transformers, onnxruntime, ... for the tests that need them (6 GB)"
	@echo "make vllm    vLLM on a CPU, in .venv-vllm, for its tests (6 GB)"
	@echo "make lint    ruff, mypy, import layers"
	@echo "make bench   the numbers of README.md, one JSON line each (BENCH=quick: a few of them)"
	@echo "make bench-report  docs/speed.md, its plots and README's table, from that"
	@echo "make load    a thousand pods, then everything at once for LOAD_SECONDS=$(LOAD_SECONDS)"
	@echo "make docs    check the documents: help texts, links, names of tests"
	@echo "make fuzz    the fuzz targets, FUZZ_SECONDS=$(FUZZ_SECONDS) each"
	@echo "make clean   remove .venv and everything that was built"

demo: $(VENV)/.demo $(VENV)/.project
	@$(BIN)/modelvault demo

# HashiCorp Vault, OPA, S3, PostgreSQL, an issuer and two brokers: real, on loopback.
stack: stack-servers
	@PYTHONPATH=tests exec $(BIN)/python -m support.run_stack

demo-stack: stack-servers
	@PYTHONPATH=tests exec $(BIN)/python -m support.run_stack --demo

stack-servers: install
	@servers/build.sh opa versitygw hcvault

servers: install
	@servers/build.sh

install: $(VENV)/.dev $(VENV)/.project

engines: $(VENV)/.engines $(VENV)/.project

vllm: $(VLLM)/.project

# A file of tests is one worker's, so that what it starts is started once. Hundreds of short-lived
# Pythons read compiled modules, also where the environment forbids to write them.
test: install
	@PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(WORKERS) \
		--dist loadfile --no-loadscope-reorder \
		--cov --cov-report=term --cov-fail-under=95 $(PYTEST)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	@$(BIN)/python tests/bench/run.py --effort $(BENCH)

# From the last run's lines; docs/speed/lines.jsonl keeps them.
bench-report: install
	@$(BIN)/python tests/bench/page.py

load: servers
	@PYTHONPATH=tests $(BIN)/python -m support.run_load --seconds $(LOAD_SECONDS)

docs: install
	$(BIN)/python -m pytest -q tests/docs

docs-write: install
	$(BIN)/python tests/support/cli_reference.py
	$(BIN)/python -c 'import sys; from modelvault.server import openapi; \
		sys.stdout.buffer.write(openapi.text())' > docs/openapi.json

fuzz: install
	@for target in tests/fuzz/fuzz_*.py; do echo "$$target"; \
		PYTHONPATH=tests $(BIN)/python "$$target" -max_total_time=$(FUZZ_SECONDS) || exit 1; done

clean:
	rm -rf $(VENV) $(VLLM) build dist .coverage .coverage.* .mypy_cache .ruff_cache .pytest_cache \
		.hypothesis .import_linter_cache
	find . -name __pycache__ -o -name '*.egg-info' | xargs rm -rf

$(VENV)/.made:
	@test -n '$(PYTHON)' || { echo "modelvault needs Python 3.11 or later, and none was found:" \
		"install one, or name it: make PYTHON=/path/to/python3.12 demo" >&2; exit 1; }
	@"$(PYTHON)" -c '$(NEW_ENOUGH)' || { echo "modelvault needs Python 3.11 or later;" \
		"$(PYTHON) is `"$(PYTHON)" -V 2>&1`. Name a newer one: make PYTHON=/path/to/python3.12 demo" \
		>&2; exit 1; }
	@echo "making $(VENV) with `"$(PYTHON)" -V`"
	@"$(PYTHON)" -m venv $(VENV) || { echo "$(PYTHON) can't make a virtual environment;" \
		"on Debian and Ubuntu install the package python3-venv" >&2; exit 1; }
	@touch $@

# Versions and hashes are in the lock files; where packages come from is pip's own setting.
$(VENV)/.demo: requirements/demo.lock | $(VENV)/.made
	@echo "installing requirements/demo.lock"
	@$(PIP) install --quiet --require-hashes --no-deps -r requirements/demo.lock
	@touch $@

$(VENV)/.dev: requirements/dev.lock | $(VENV)/.made
	@echo "installing requirements/dev.lock"
	@$(PIP) install --quiet --require-hashes --no-deps -r requirements/dev.lock
	@touch $@ $(VENV)/.demo

# All of dev.lock is in it, in the same versions.
$(VENV)/.engines: requirements/engines.lock | $(VENV)/.made
	@echo "installing requirements/engines.lock: several GB"
	@$(PIP) install --quiet --require-hashes --no-deps -r requirements/engines.lock
	@touch $@ $(VENV)/.dev $(VENV)/.demo

# vLLM pins most of what it uses, so it has an environment of its own.
$(VLLM)/.vllm: requirements/vllm.lock | $(VENV)/.made
	@echo "installing requirements/vllm.lock into $(VLLM): several GB"
	@test -x $(VLLM)/bin/python || "$(PYTHON)" -m venv $(VLLM)
	@$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet --require-hashes \
		--no-deps -r requirements/vllm.lock
	@touch $@

$(VLLM)/.project: pyproject.toml | $(VLLM)/.vllm
	@$(VLLM)/bin/python -m pip --disable-pip-version-check install --quiet --no-deps \
		--no-build-isolation --editable .
	@touch $@

# An editable install: it changes when pyproject.toml does, not with the code.
$(VENV)/.project: pyproject.toml | $(VENV)/.demo
	@$(PIP) install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
