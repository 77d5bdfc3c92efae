"""What a command prints: a text for people, or JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

__all__ = ["Answer"]


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
