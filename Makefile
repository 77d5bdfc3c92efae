# make demo: a simulated micrograph to its posterior. make test: lint and tests. make matrix: the
# tests on other versions of Python and of the libraries. make docs: the site of documents, in
# docs/_build/html. make bench: all pages of docs/benchmarks, resumable; make bench-quick: some of
# them small, in five minutes. Each sets up what it needs, once.
# BENCH="--list" and others are options of benchmarks/suite.py.
# TORCH_INDEX=URL takes torch from another package index, e.g. one of builds without CUDA.
PYTHON ?= python3
TORCH_INDEX ?=
BENCH ?=
BIN := .venv/bin
# what a step does is said by STEP; pip tells of errors only, but for the largest download
PIP := $(BIN)/python -m pip install --disable-pip-version-check
# one process per core, files with their fixtures whole; WORKERS=0 runs one test after the other
WORKERS ?= logical
PYTEST := $(BIN)/python -m pytest -q -n $(WORKERS) --maxprocesses 4 --dist loadfile
STEP := @echo "bayesctx set-up, step"

.PHONY: demo test lint slow docs bench bench-quick matrix clean

demo: .venv/ready
	@echo "bayesctx demo: simulates a micrograph of WSe2:Ti and infers it twice, some 20 s"
	@$(BIN)/bayesctx demo
	@echo "bayesctx is in $(BIN); 'source $(BIN)/activate' makes it a command"

test: .venv/ready lint
	$(PYTEST) -m "not slow"

slow: .venv/ready
	$(PYTEST) -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/numpydoc lint $$(git ls-files "bayesctx/*.py" 2>/dev/null || find bayesctx -name "*.py")

# runs the notebooks of the site, and fails for any warning
docs: .venv/docs
	@rm -rf docs/generated
	OMP_NUM_THREADS=1 $(BIN)/python -m sphinx -E -W --keep-going -q -b html docs docs/_build/html
	@echo "bayesctx docs: docs/_build/html/index.html"

bench: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/suite.py $(BENCH)

bench-quick: .venv/ready
	@OMP_NUM_THREADS=1 $(BIN)/python benchmarks/suite.py --quick $(BENCH)

.venv/docs: .venv/ready
	@$(PIP) --quiet -c constraints.txt -e ".[docs]"
	@touch $@

matrix:
	TORCH_INDEX="$(TORCH_INDEX)" bash .ci/matrix $(TESTS)

.venv/ready: pyproject.toml constraints.txt
	$(STEP) "1 of 3: an empty environment in .venv"
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later was expected, got " + sys.version.split()[0])'
	@$(PYTHON) -m venv .venv
	$(STEP) "2 of 3: torch, 0.2 GB to download without CUDA, up to 3 GB with it (some minutes)"
	@$(PIP) -c constraints.txt $(if $(TORCH_INDEX),--index-url $(TORCH_INDEX)) torch
	$(STEP) "3 of 3: the other libraries, 0.2 GB, and bayesctx itself (a minute or two, in silence)"
	@$(PIP) --quiet -c constraints.txt -e ".[plot,test]"
	@echo "bayesctx set-up: done, $$(du -sh .venv | cut -f1) in .venv; 'source $(BIN)/activate' to use it"
	@touch $@

clean:
	rm -rf .venv .venv-matrix demo.nc demo.png docs/_build docs/generated
