"""What a benchmark has finished: a line of JSON for each row, with which a later run goes on."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

__all__ = ["append_row", "read_rows"]


def read_rows(path: Path) -> list[dict]:
    """Rows that were written so far; a line that was cut off is left out."""
    rows = []
    for line in path.read_text().splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return rows


def append_row(path: Path, row: Mapping[str, object]) -> None:
    """Add one row, on the disk when this returns, on a line of its own."""
    path.parent.mkdir(parents=True, exist_ok=True)
    broken = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    with path.open("a") as file:
        file.write(("\n" if broken else "") + json.dumps(row) + "\n")
        file.flush()
        os.fsync(file.fileno())
