# `make demo` and `make test` work from a fresh clone with Python 3.11 or 3.12, make and git: they set up what they need.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
INSTALL := $(PIP) install --require-hashes --no-deps
CHECKPOINT := slm_swap/models/smollm2-135m-instruct/config.json
LAB := $(BIN)/jupyter lab --LabApp.default_url=/lab/tree/notebooks/01_data.ipynb
DEMO := set -a; . ./demo.env; set +a;
HAS_GPU := $(shell nvidia-smi -L 2>/dev/null | grep -q GPU && echo yes)

.DEFAULT_GOAL := setup

.PHONY: help setup lock check-packages demo test test-fast test-long mastra lab lint stand-in

# What stands behind `##` in a target's line is what this shows.
help: ## list the targets
	@sed -n 's/^\([a-z.-]*\):.*## /\1|/p' $(MAKEFILE_LIST) | while IFS='|' read -r target line; do \
		printf '  make %-16s%s\n' "$$target" "$$line"; done

setup: .venv/.done ## install what the lock files name into .venv

# Every package is the one that the locks name by version and sha256, and no package asks for more: Unsloth would bring
# torchvision, and a CUDA build of that beside a CPU torch makes `import unsloth` fail. Without a GPU a CPU build of torch is
# taken where pip knows of one (`PIP_FIND_LINKS`); else the index gives a CUDA build, and requirements-cuda.lock its
# libraries. What Unsloth needs on a GPU is in requirements-gpu.lock.
.venv/.done: pyproject.toml requirements.lock requirements-cpu.lock requirements-cuda.lock requirements-gpu.lock
	@echo "== setting up .venv ($(if $(HAS_GPU),with,without) a GPU); the first time takes a few minutes"
	$(PYTHON) -m venv .venv
	$(if $(HAS_GPU),,$(INSTALL) -r requirements-cpu.lock 2>/dev/null || echo "== pip finds no CPU build of torch")
	$(INSTALL) -r requirements.lock
	if $(BIN)/python scripts/lock.py has-cuda; then $(INSTALL) -r requirements-cuda.lock; fi
	$(if $(HAS_GPU),$(INSTALL) -r requirements-gpu.lock)
	$(PIP) install --no-deps --no-build-isolation --editable .
	touch $@

# Pins that still fit stay. `make lock UPGRADE=--upgrade` takes the newest.
lock: .venv/.done ## write the lock files again after a change of a pin
	$(BIN)/python scripts/lock.py $(UPGRADE)

check-packages: .venv/.done ## pip check, but for what only a GPU needs
	$(BIN)/python scripts/lock.py check

$(CHECKPOINT): | .venv/.done
	$(DEMO) $(BIN)/swap download smollm2-135m-instruct

demo: .venv/.done $(CHECKPOINT) ## run the whole job on the embedded default: no key, no GPU, no account
	$(DEMO) PATH="$(CURDIR)/$(BIN):$$PATH" swap stand-in scripts/demo.sh

# Two processes, each with one thread: what a machine of 2 cores does soonest.
test: .venv/.done $(CHECKPOINT) lint ## lint and run every test but the longest, the notebooks too
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --nbmake --numprocesses 2 --dist worksteal --durations=8

# What loads no model, starts no kernel and kills no process.
test-fast: .venv/.done $(CHECKPOINT) lint ## lint and run what loads no model, starts no kernel and kills no process
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not long" --numprocesses 2 --dist worksteal --durations=8

# Every fault of docs/reliability.md, those that take minutes too; writes the page's table.
test-long: .venv/.done $(CHECKPOINT) ## try every fault of docs/reliability.md and write its table
	$(BIN)/python -m pytest tests/test_reliability.py -m "long or not long" --table --durations=8

# Yours to fill in; it will hold keys, so nobody else may read it. An existing one is left alone.
.env: ## make the file of keys and addresses, yours alone to read
	install -m 600 .env.example $@

# The TypeScript package alone: its tests against a real server. `make test` runs them, too.
mastra: .venv/.done $(CHECKPOINT) ## test the TypeScript package against a real server
	$(BIN)/python -m pytest tests/test_mastra.py

# Opens on your .env when there is one, else on the demo's environment with the stand-in up.
lab: .venv/.done $(CHECKPOINT) ## open the notebooks in JupyterLab
	if [ -f .env ]; then $(LAB); else $(DEMO) $(BIN)/swap stand-in $(LAB); fi

stand-in: .venv/.done $(CHECKPOINT) ## serve the demo's hosted LLM until Ctrl-C
	$(DEMO) $(BIN)/swap stand-in

lint: .venv/.done ## ruff, mypy, and whether the notebooks are stripped
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/nbstripout --keep-id --verify notebooks/*.ipynb
