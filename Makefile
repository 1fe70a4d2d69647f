# The commands of this project. `make demo` is all a fresh machine needs: make, and Python 3.11 or newer.

PYTHON ?= python3
VENV ?= .venv
# More options for pip, for example an index with CUDA or CPU-only builds of torch (docs/using.md, "GPU").
PIP_FLAGS ?=
# More arguments: make demo ARGS="--cfg-path eval_configs/minigpt_v2.yaml --device cuda:0", make train-tiny ARGS="--only minigpt_v2"
ARGS ?=
# Of make train-tiny: 2 share the work of every step, on two cores or two GPUs.
PROCESSES ?= 1
# Of make test, at most: each takes a core and about 1 GiB.
MOST_WORKERS ?= 8

BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check

.PHONY: help demo space test fuzz check lint format types train-tiny lock clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "make %-11s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: $(VENV)/.installed ## install what is missing and open the chat on http://127.0.0.1:7860
	$(BIN)/python demo.py $(ARGS)

space: $(VENV)/.installed ## write a folder for a Hugging Face Space: ARGS="--lane cpu|gpu|zerogpu --cfg-path … --out DIR"
	$(BIN)/python -m app.spaces $(ARGS)

test: $(VENV)/.installed-dev ## all tests, on all cores
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses $(MOST_WORKERS) --dist loadfile $(ARGS)

fuzz: $(VENV)/.installed-dev ## 10,000 made-up inputs of every kind, other ones with FUZZ_SEED=2 (minutes)
	FUZZ_CASES=$${FUZZ_CASES:-10000} $(BIN)/python -m pytest -q tests/fuzz
	FUZZ_CASES=$${FUZZ_CASES:-10000} $(BIN)/python -m pytest -q -m hypothesis --hypothesis-seed $${FUZZ_SEED:-1} tests

lint: $(VENV)/.installed-dev ## formatting and lint rules, nothing is changed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(VENV)/.installed-dev ## static types
	$(BIN)/mypy

check: lint types test ## all that CI runs

format: $(VENV)/.installed-dev ## rewrite the files as `make lint` wants them
	$(BIN)/ruff check --fix-only --exit-zero .
	$(BIN)/ruff format .

train-tiny: $(VENV)/.installed-dev ## train the bundled tiny checkpoints again, from nothing (hours; PROCESSES=2 for two cores)
	$(BIN)/torchrun --standalone --nproc-per-node $(PROCESSES) -m training.tiny.train_tiny $(ARGS)

# Raise a version in requirements*.txt, install it, run `make check`, then this.
lock: $(VENV)/.installed-dev ## write the installed versions to constraints.txt
	{ sed '/^[^#]/,$$d' constraints.txt; $(PIP) freeze | grep -viE '^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z0-9-]+)[ =@]'; } > constraints.tmp
	mv constraints.tmp constraints.txt

clean: ## remove caches; the virtual environment stays
	rm -rf .pytest_cache .mypy_cache .ruff_cache
	find . -name __pycache__ -not -path './$(VENV)/*' -prune -exec rm -rf {} +

# The stamps say: everything in these files is installed. Touch a requirements file and the next command installs again.
$(VENV)/.installed: requirements.txt constraints.txt | $(BIN)/python
	@echo "Installing the requirements into $(VENV) (a few minutes the first time) …"
	$(PIP) install $(PIP_FLAGS) -r requirements.txt
	@touch $@

$(VENV)/.installed-dev: requirements-dev.txt $(VENV)/.installed
	@echo "Installing the development requirements into $(VENV) …"
	$(PIP) install $(PIP_FLAGS) -r requirements-dev.txt
	@touch $@

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	    { echo "error: Python 3.11 or newer is needed; name one with: make PYTHON=python3.12 demo" >&2; exit 1; }
	@# Debian keeps the pip of new environments in a package of its own.
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || \
	    { test "$$(id -u)" = 0 && command -v apt-get >/dev/null && apt-get update -q && apt-get install -qy python3-venv; } || \
	    { echo "error: this Python can't make virtual environments; run: sudo apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV) || { rm -rf $(VENV); exit 1; }
