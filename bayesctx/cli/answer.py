"""What a command prints: a text for people, or JSON for programs."""

from __future__ import annotations

import json
import math
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

__all__ = ["Answer", "propose"]

LINE = 69  # columns of a command: with indent and backslash within those of a terminal


@dataclass(frozen=True)
class Answer:
    """Text, the same as JSON values, and the exit code of a command.

    Attributes
    ----------
    text : str
        For people.
    data : mapping
        For programs, printed instead of the text by ``--json``.
    code : int
        Exit code.
    """

    text: str
    data: Mapping[str, object] = field(default_factory=dict)
    code: int = 0

    def as_json(self, warnings: list[str]) -> str:
        """Write the answer as one JSON object.

        Parameters
        ----------
        warnings : list of str
            That were printed.

        Returns
        -------
        str
            JSON in ASCII, without NaN, which other programs do not read: null stands for it.
        """
        return json.dumps(_plain({**self.data, "warnings": warnings}), indent=1, allow_nan=False)


def propose(*words: str) -> str:
    """Write a command of this program that can be copied into the shell.

    Parameters
    ----------
    *words : str
        Its arguments, of which an option and its value are one.

    Returns
    -------
    str
        Lines that end with a backslash where they are continued, for a place of six columns.
    """
    lines = [_own_name()]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= LINE:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return " \\\n        ".join(lines)


def _own_name() -> str:
    """How this program is called: by its name if the shell finds that, else as it was called."""
    called = Path(sys.argv[0])
    if shutil.which("bayesctx") is None:
        if called.name == "bayesctx":  # of an environment that is not active
            return shlex.quote(str(called))
        if called.parts[-2:] == ("bayesctx", "__main__.py"):
            return "python -m bayesctx"
    return "bayesctx"


def _plain(value: object) -> object:
    """A value as JSON can hold it."""
    if isinstance(value, Mapping):
        return {str(n): _plain(v) for n, v in value.items()}
    if isinstance(value, np.ndarray | np.generic):
        return _plain(value.tolist())
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return value if isinstance(value, str | int | bool | None) else str(value)
