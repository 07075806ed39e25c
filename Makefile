# make diagnose   set up what is missing, then diagnose this host        (options: make diagnose ARGS="--window 10")
# make test       set up what the tests need, then run all of them       (options: make test ARGS="-k cpu")
# make check      lint, types, import floors, documentation
# make bench      print every figure of the README
PYTHON ?= python3
VENV   ?= .venv
ARGS   ?=
BIN    := $(VENV)/bin

.PHONY: diagnose test check wheel bench bench-faults bench-watch bench-ebpf bench-start bench-detectors bench-vmcore lock clean
.DEFAULT_GOAL := diagnose

diagnose: $(VENV)/.ready
	@$(BIN)/diagnose $(ARGS)

test: $(VENV)/.ready-dev
	@$(BIN)/pytest $(ARGS)

check: $(VENV)/.ready-dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports
	@$(BIN)/python -m tests.docs.check

# The wheel is built from the sdist, installed in an empty environment and run from another folder.
wheel: $(VENV)/.ready-dev
	@$(BIN)/python -m tests.packaging.wheel

bench: bench-start bench-detectors bench-vmcore bench-ebpf bench-watch bench-faults

bench-start: $(VENV)/.ready-dev
	@$(BIN)/python -m benchmarks.start $(ARGS)

bench-detectors: $(VENV)/.ready-dev
	@$(BIN)/python -m benchmarks.detectors $(ARGS)

bench-ebpf: $(VENV)/.ready-dev
	@$(BIN)/python -m benchmarks.ebpf_overhead $(ARGS)

bench-watch: $(VENV)/.ready-dev
	@$(BIN)/python -m benchmarks.watch $(ARGS)

bench-vmcore: $(VENV)/.ready-dev
	@$(BIN)/python -m benchmarks.vmcore $(ARGS)

bench-faults: $(VENV)/.ready-dev
	@$(BIN)/python -m benchmarks.faults $(ARGS)

# Runtime first, so that `make diagnose` downloads nothing that only tests need.
$(VENV)/.ready: requirements.lock pyproject.toml deploy/system-packages.sh
	@sh deploy/system-packages.sh diagnose
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Wardround needs Python 3.11 or newer; $(PYTHON) is older (set PYTHON=...)" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { echo "no virtual environment could be made: install python3-venv" >&2; exit 1; }
	@echo "installing Python packages into $(VENV)" >&2
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements.lock
	@$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps --no-build-isolation -e .
	@$(BIN)/python -m compileall -q wardround collectors detectors rca remediation agents cli
	@touch $@

$(VENV)/.ready-dev: $(VENV)/.ready requirements-dev.lock
	@sh deploy/system-packages.sh test
	@$(BIN)/python -m pip install -q --disable-pip-version-check --require-hashes -r requirements-dev.lock
	@touch $@

# Exact versions with hashes, for every platform, without the address of any registry.
LOCK = uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-emit-find-links \
       --no-header --no-annotate --upgrade
lock:
	$(LOCK) pyproject.toml --group build -o requirements.lock
	$(LOCK) pyproject.toml --group build --group dev -o requirements-dev.lock

clean:
	rm -rf $(VENV) dist build .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
