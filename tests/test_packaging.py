"""What an installed package offers: names loaded when used, a version, a description."""

import ast
import re
import subprocess
import sys
import tomllib
import types
from pathlib import Path

import pytest

import bayesctx as bc

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "bayesctx"


def python(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return done.stdout.split()


def listed():
    """Names in the stub, by the module that they come from; modules themselves under None."""
    found = {}
    for node in ast.parse((PACKAGE / "__init__.pyi").read_text()).body:
        if isinstance(node, ast.ImportFrom):
            found.setdefault(node.module, []).extend(alias.name for alias in node.names)
    return found


@pytest.mark.parametrize("words", [["--help"], ["infer", "--help"], ["--version"]])
def test_help_loads_none_of_the_large_libraries(words):
    large = ["torch", "pyro", "xarray", "scipy", "arviz", "matplotlib", "netCDF4", "numpy"]
    code = f"""
import sys
from bayesctx.cli import main
try:
    main({words})
except SystemExit:
    print("loaded", *set({large}) & set(sys.modules))
"""
    assert python(code)[-1] == "loaded"


def test_the_package_offers_what_the_stub_lists():
    names = [name for group in listed().values() for name in group]
    assert sorted(bc.__all__) == sorted(names) == sorted(dir(bc))
    for module, group in listed().items():
        for name in group:
            is_module = isinstance(getattr(bc, name), types.ModuleType)
            assert is_module == (module is None), name
    with pytest.raises(AttributeError, match="simulat"):
        _ = bc.simulat


def test_every_module_is_an_attribute():
    found = {p.stem for p in PACKAGE.iterdir() if p.suffix == ".py" or (p / "__init__.py").exists()}
    hidden = set().union(*(group for module, group in listed().items() if module))
    # a function that is called as its module takes precedence
    assert found - {"__init__", "__main__"} - hidden == set(listed()[None])


def test_a_star_import_gives_functions_also_where_a_module_has_the_same_name():
    code = "import bayesctx.metrics; from bayesctx import *; print(callable(coverage), infer)"
    assert python(code)[:2] == ["True", "<function"]


def test_python_runs_the_package():
    command = [sys.executable, "-m", "bayesctx", "--version"]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    assert done.stdout == f"bayesctx {bc.__version__}\n"


def test_the_description_of_the_package_has_no_link_that_leads_nowhere():
    hooks = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["metadata"]
    readme = hooks["hooks"]["fancy-pypi-readme"]
    text = (ROOT / readme["fragments"][0]["path"]).read_text()
    assert "](docs/" in text
    for rule in readme["substitutions"]:
        text = re.sub(rule["pattern"], rule["replacement"], text)
    assert [u for u in re.findall(r"\]\(([^)]*)\)", text) if not u.startswith("https://")] == []
    # what is named instead exists, in a folder that the source distribution contains
    files = re.findall(r"\(`([^`]*)`\)", text)
    assert files
    assert all((ROOT / f).exists() and f.startswith(("docs/", "CHANGELOG")) for f in files)
