# make demo: a simulated micrograph to its posterior.   make test: lint and tests.   Both set up .venv on a fresh machine.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint slow clean

demo: .venv/ready
	$(BIN)/bayesctx demo

test: .venv/ready lint
	$(BIN)/python -m pytest -q -m "not slow"

slow: .venv/ready
	$(BIN)/python -m pytest -q -m slow

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/numpydoc lint $$(git ls-files "bayesctx/*.py" 2>/dev/null || find bayesctx -name "*.py")

.venv/ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or later was expected, got " + sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[plot,test]"
	touch $@

clean:
	rm -rf .venv demo.nc demo.png
