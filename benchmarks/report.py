"""Tables of the benchmarks under docs/benchmarks, with commit, seed and machine."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from pathlib import Path

import torch

FOLDER = Path(__file__).parents[1] / "docs" / "benchmarks"
MODELS = (
    Path(__file__).parent / "models"
)  # trained for one comparison, and not shipped with the package


def origin(seed: int) -> str:
    """Commit, seed and machine in one line."""
    commit = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"],
        capture_output=True,
        text=True,
        cwd=FOLDER.parents[1],
    ).stdout.strip()
    dirty = subprocess.run(
        ["git", "status", "--porcelain", "--untracked-files=no"],
        capture_output=True,
        text=True,
        cwd=FOLDER.parents[1],
    ).stdout
    cpu = next(
        (
            x.split(":")[1].strip()
            for x in Path("/proc/cpuinfo").read_text().splitlines()
            if x.startswith("model name")
        ),
        platform.machine(),
    )
    return (
        f"commit {commit}{' and changes' if dirty.strip() else ''}, seed {seed}, {cpu}, "
        f"{torch.get_num_threads()} threads, Python {platform.python_version()}, "
        f"torch {torch.__version__}"
    )


def table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """A markdown table."""
    cells = [[str(c) for c in row] for row in (header, *rows)]
    lines = ["| " + " | ".join(row) + " |" for row in cells]
    return "\n".join([lines[0], "|" + "---|" * len(header), *lines[1:]])


def write(name: str, title: str, body: str, seed: int) -> None:
    """Print a result and write it to docs/benchmarks/<name>.md."""
    made = f"Made by `python benchmarks/{name}.py`, see its `--help`."
    text = f"# {title}\n\n{body}\n\n{origin(seed)}.\n{made}\n"
    print(text)
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.md").write_text(text)
