"""Sizes of the modules and functions of the package, and the call path of ``infer``."""

from __future__ import annotations

import argparse
import ast
import inspect
import json
import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
from report import table, write

BEFORE = "bb87a23"
TITLE = "Sizes of modules and functions"
NOTE = """Lines are counted without docstrings in functions and with them in modules. The last three
rows are of `infer` of a micrograph of 128 x 128 px with the host known, in its second call;
comprehensions are not counted as functions. `micrograph/diagnosis.py`, `regions.py`, the checks of
the context and the refinement of patches came after the left column."""
CONDITION = {
    "beam_energy": 80e3,
    "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
    "dose": 1e5,
}


def measure_modules(package: Path) -> dict[str, float]:
    """Sizes of modules and functions, without docstrings, and lines that are too long."""
    files = sorted(package.rglob("*.py"))
    lines = [f.read_text().splitlines() for f in files]
    sizes = [len(text) for text in lines]
    functions = []
    for f in files:
        for node in ast.walk(ast.parse(f.read_text())):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                docstring = (ast.get_docstring(node) or "").count("\n")
                functions.append(node.end_lineno - node.lineno + 1 - docstring)
    stems = [f.stem for f in files if f.stem not in ("__init__", "__main__")]
    return {
        "modules": len(files),
        "names of modules that occur twice": len(stems) - len(set(stems)),
        "lines of a module, median": np.median(sizes),
        "lines of a module, longest": max(sizes),
        "functions": len(functions),
        "lines of a function, median": np.median(functions),
        "lines of a function, 90 %": np.quantile(functions, 0.9),
        "lines of a function, longest": max(functions),
        "lines over 100 columns": sum(len(line) > 100 for text in lines for line in text),
    }


def trace_infer(package: Path) -> dict[str, float]:
    """Functions and files that ``infer`` of a micrograph enters, and changes between files."""
    import bayesctx as bc

    prior = bc.reference_prior().given(CONDITION | {"host": "WSe2", "dopant": "Ti"})
    image = bc.simulate_micrograph(prior, seed=0, num_pixels=128, sampling=0.2).intensity
    # earlier versions had no other way
    has_choice = "likelihood" in inspect.signature(bc.infer).parameters
    way = {"likelihood": "network"} if has_choice else {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bc.infer(image, {"host": "WSe2"}, num_draws=16, **way)  # fills the caches
        order: list[tuple[str, str, int]] = []
        seen = set()

        def note(frame: object, event: str, _: object) -> None:
            code = frame.f_code
            if (
                event == "call"
                and code.co_filename.startswith(str(package))
                and not code.co_name.startswith("<")
            ):
                key = (code.co_filename, code.co_name, code.co_firstlineno)
                if key not in seen:
                    seen.add(key)
                    order.append(key)

        sys.setprofile(note)
        try:
            bc.infer(image, {"host": "WSe2"}, num_draws=16, **way)
        finally:
            sys.setprofile(None)
    files = [k[0] for k in order]
    return {
        "functions that infer enters": len(order),
        "files that infer enters": len(set(files)),
        "changes of file between functions first entered": sum(
            a != b for a, b in zip(files, files[1:], strict=False)
        ),
    }


def measure(root: Path) -> dict[str, float]:
    """All numbers of the package in a checkout, by a process of its own."""
    command = [sys.executable, __file__, "--json"]
    environment = os.environ | {"PYTHONPATH": str(root)}
    found = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    return json.loads(found.stdout)


def main() -> None:
    """Print the table, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="print the numbers alone")
    parser.add_argument(
        "--before", type=Path, metavar="FOLDER", help=f"a checkout of {BEFORE}; writes the page"
    )
    arguments = parser.parse_args()
    if arguments.json:
        import bayesctx

        package = Path(bayesctx.__file__).parent
        print(json.dumps(measure_modules(package) | trace_infer(package)))
        return
    now = measure(Path(__file__).parents[1])
    if arguments.before is None:
        print(table(["", "now"], [[name, f"{value:.0f}"] for name, value in now.items()]))
        return
    before = measure(arguments.before)
    rows = [[name, f"{before[name]:.0f}", f"{value:.0f}"] for name, value in now.items()]
    write("house", TITLE, f"{table(['', BEFORE, 'now'], rows)}\n\n{NOTE}", 0)


if __name__ == "__main__":
    main()
