"""The house keeps its plan: imports run one way, modules and functions stay small."""

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "bayesctx"
ORDER = (
    "checks", "storage", "tensors", "elements", "crystal", "defects", "context", "evidence", "optics", "responses", "fourier", "nuisances", "prior",
    "multislice", "simulation", "archive", "encoder", "hypotheses", "likelihood", "model", "exact", "micrograph", "inference",
    "metrics", "coverage", "training", "information", "plots", "cli",
)  # fmt: skip
FILES = [f for f in sorted(PACKAGE.rglob("*.py")) if f != PACKAGE / "__init__.py"]


def floor(path):
    return ORDER.index(path.relative_to(PACKAGE).parts[0].removesuffix(".py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_run_upward(path):
    depth = len(path.relative_to(PACKAGE).parts)
    nodes = [
        n
        for n in ast.walk(ast.parse(path.read_text()))
        if isinstance(n, ast.ImportFrom) and n.level == depth and n.module
    ]
    assert all(ORDER.index(n.module.split(".")[0]) < floor(path) for n in nodes)


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_and_functions_stay_small(path):
    text = path.read_text()
    assert text.count("\n") <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef):
            documentation = (ast.get_docstring(node) or "").count("\n")
            assert node.end_lineno - node.lineno + 1 - documentation <= 60, node.name
