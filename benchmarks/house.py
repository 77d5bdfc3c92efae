"""Sizes of the modules and functions of the package, and the call path of ``infer``."""

from __future__ import annotations

import argparse
import ast
import sys
import warnings
from pathlib import Path

import numpy as np

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
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bc.infer(image, {"host": "WSe2"}, num_draws=16)  # fills the caches
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
            bc.infer(image, {"host": "WSe2"}, num_draws=16)
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


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.parse_args()
    import bayesctx

    package = Path(bayesctx.__file__).parent
    for name, value in (measure_modules(package) | trace_infer(package)).items():
        print(f"| {name} | {value:.0f} |")


if __name__ == "__main__":
    main()
