"""The plan of the package: imports run one way, modules and functions stay small."""

import ast
from pathlib import Path

PACKAGE = Path(__file__).parents[1] / "bayesctx"
ORDER = (
    "checks",
    "storage",
    "tensors",
    "parallel",
    "crystal",
    "defects",
    "context",
    "files",
    "evidence",
    "abundance",
    "optics",
    "transfer",
    "responses",
    "fourier",
    "raster",
    "distributions",
    "composition",
    "nuisances",
    "prior",
    "multislice",
    "simulation",
    "archive",
    "encoder",
    "likelihood",
    "model",
    "micrograph",
    "scan",
    "exact",
    "prediction",
    "inference",
    "matching",
    "metrics",
    "training",
    "information",
    "tables",
    "series",
    "plots",
    "report",
    "cli",
    "__main__",
)


def parts_of(path, package):
    """Folder or module of the package that a file belongs to, and those that it imports."""
    parts = path.relative_to(package).parts
    imported = [
        node.module.split(".")[0]
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.level == len(parts) and node.module
    ]
    return parts[0].removesuffix(".py"), imported


def length_of(function):
    """Lines of a function without its docstring."""
    first = function.body[0]
    documentation = first.end_lineno - first.lineno + 1 if ast.get_docstring(function) else 0
    return function.end_lineno - function.lineno + 1 - documentation


def faults_of(path, package):
    """What a module breaks of the plan, in words."""
    text, name = path.read_text(), str(path.relative_to(package))
    own, imported = parts_of(path, package)
    for part in imported:
        if ORDER.index(part) >= ORDER.index(own):
            yield f"{name} imports {part}, which is not above {own}"
    num_lines = len(text.splitlines())
    if num_lines > 400:
        yield f"{name} has {num_lines} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and length_of(node) > 60:
            yield f"{name}: {node.name} has {length_of(node)} lines"


def test_the_package_keeps_its_plan():
    files = [f for f in sorted(PACKAGE.rglob("*.py")) if f != PACKAGE / "__init__.py"]
    found = [fault for path in files for fault in faults_of(path, PACKAGE)]
    stems = [f.stem for f in files if f.stem not in ("__init__", "__main__")]
    found += [f"two modules are called {s}" for s in sorted(set(stems)) if stems.count(s) > 1]
    assert not found


def test_what_breaks_the_plan_is_found(tmp_path):
    path = tmp_path / "prior.py"
    path.write_text("from .cli import main\ndef long():\n    'One line.'\n" + "    pass\n" * 400)
    assert list(faults_of(path, tmp_path)) == [
        "prior.py imports cli, which is not above prior",
        "prior.py has 403 lines",
        "prior.py: long has 401 lines",
    ]
