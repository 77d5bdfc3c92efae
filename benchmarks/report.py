"""Pages of the benchmarks with commit, seed and machine, and their tables as netCDF.

Pages are written to docs/benchmarks. Where the environment variable BAYESCTX_PAGES names a folder,
that folder takes the place of docs: a short run then leaves the committed pages as they are.
"""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import xarray as xr

ROOT = Path(__file__).parents[1]
PAGES = os.environ.get("BAYESCTX_PAGES")
FOLDER = (Path(PAGES) if PAGES else ROOT / "docs") / "benchmarks"
RESULTS = (Path(PAGES) if PAGES else ROOT / "runs") / "results"
MODELS = (
    Path(__file__).parent / "models"
)  # trained for one comparison, and not shipped with the package
NUMBER = r"[+-]?(?:(?:\d[\d,]*)?\.?\d+(?:e[+-]?\d+)?|inf|nan)"
PARTS = ("", "_error", "_in_brackets", "_in_brackets_error")
CELL = re.compile(rf"({NUMBER})(?: ± ({NUMBER}))?(?: \(({NUMBER})(?: ± ({NUMBER}))?\))?")
"""A number, its error, and both once more in brackets, each but the first where there is one."""
MISSING = ("", "-", "–")


def git(*arguments: str) -> str:
    """What git says of the checkout; nothing where there is none."""
    try:
        done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=ROOT)
    except FileNotFoundError:
        return ""
    return done.stdout.strip()


def machine() -> str:
    """The CPU, threads and versions in one line."""
    known = Path("/proc/cpuinfo")
    lines = known.read_text().splitlines() if known.exists() else []
    cpu = next(
        (x.split(":")[1].strip() for x in lines if x.startswith("model name")), platform.machine()
    )
    return (
        f"{cpu}, {torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def commit() -> str:
    """The commit, and whether there are changes to it but for pages, which are results."""
    changes = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + (" and changes" if changes else "")


def origin(seed: int) -> str:
    """Commit, seed and machine in one line."""
    return f"commit {commit()}, seed {seed}, {machine()}"


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def with_error(values: np.ndarray, digits: int = 4) -> str:
    """Mean, with its standard error where there are several values."""
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    error = values.std(ddof=1) / len(values) ** 0.5
    return f"{values.mean():.{digits}f} ± {error:.{digits}f}"


def write(name: str, title: str, body: str, seed: int) -> None:
    """Print a result, write it to docs/benchmarks/<name>.md, and its tables as netCDF."""
    made = f"Made by `python benchmarks/{name}.py`, see its `--help`."
    text = f"# {title}\n\n{body}\n\n{origin(seed)}.\n{made}\n"
    print(text)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.md").write_text(text)
    RESULTS.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    about = {"title": title, "seed": seed, "commit": commit(), "machine": machine()}
    tree_of(body, about | {"command": command}).to_netcdf(RESULTS / f"{name}.nc")


def tree_of(body: str, attributes: dict[str, object]) -> xr.DataTree:
    """The tables of a page as groups ``table_1``, ``table_2`` and so on."""
    found: dict[str, xr.Dataset] = {"/": xr.Dataset(attrs=attributes)}
    heading, caption = "", ""  # what tells tables of one page from each other
    for block in re.split(r"\n{2,}", body):
        lines = block.splitlines()
        if block.startswith("|"):
            data = dataset_of(cells_of(lines[0]), [cells_of(line) for line in lines[2:]])
            texts = {"heading": heading, "caption": caption}
            data.attrs = {name: text for name, text in texts.items() if text}
            found[f"table_{len(found)}"] = data
        elif block.startswith("#"):
            heading, caption = lines[0].lstrip("# "), " ".join(lines[1:])
        else:
            caption = " ".join(lines)
    return xr.DataTree.from_dict(found)


def cells_of(line: str) -> list[str]:
    """Cells of a row of a markdown table."""
    return [c.strip().replace("\\|", "|") for c in re.split(r"(?<!\\)\|", line)[1:-1]]


def dataset_of(header: Sequence[str], rows: Sequence[Sequence[str]]) -> xr.Dataset:
    """One table: columns of numbers as numbers, with their errors in columns of their own."""
    data = xr.Dataset()
    for number, title in enumerate(header):
        name = re.sub(r"\W+", "_", title, flags=re.ASCII).strip("_").lower()
        name = name or f"column_{number + 1}"
        while name in data or name == "row":
            name += "_2"
        for suffix, values in columns_of([row[number] for row in rows]).items():
            data[name + suffix] = ("row", values, {"long_name": title} if title else {})
    return data


def columns_of(cells: Sequence[str]) -> dict[str, np.ndarray]:
    """Values and errors of a column; text where a cell is neither a number nor missing."""
    matched = [None if c in MISSING else CELL.fullmatch(c) for c in cells]
    text = any(m is None and c not in MISSING for m, c in zip(matched, cells, strict=True))
    if text or not any(matched):
        return {"": np.array(cells, dtype=object)}
    parts = [m.groups(default="nan") if m else ["nan"] * len(PARTS) for m in matched]
    values = np.array([[float(part.replace(",", "")) for part in row] for row in parts])
    return {n: v for n, v in zip(PARTS, values.T, strict=True) if not (n and np.isnan(v).all())}
