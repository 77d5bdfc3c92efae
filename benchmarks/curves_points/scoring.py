"""Scores of class probabilities in bits, and the file of what is finished."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import torch
from rows import append_row, read_rows

MEASURES = {"entropy": "bit", "log_score": "bit", "accuracy": "1"}
LEAST = 1e-12  # probability of a class that the exact model left out

Points = dict[tuple[str, float], np.ndarray]
"""Entropy, log score and accuracy (measure, unit) by reading and abscissa. Units are what errors
are computed over: cases, patches or images, the same for every reading."""


def score(probability: torch.Tensor, truth: torch.Tensor) -> np.ndarray:
    """Entropy and log score in bits, and whether the class is right: (measure, patch)."""
    p = probability.double()
    entropy = -torch.xlogy(p, p).sum(-1) / np.log(2)
    log_score = p.gather(1, truth[:, None])[:, 0].clamp(min=LEAST).log2()
    return torch.stack([entropy, log_score, (p.argmax(-1) == truth).double()]).numpy()


class Finished:
    """Results by task, which a file keeps for a later run; without a file they are not kept."""

    def __init__(self, file: Path | None) -> None:
        self.file = file
        rows = [] if file is None else read_rows(file)
        self.found = {json.dumps(r["task"], sort_keys=True): r["found"] for r in rows}

    def get(
        self, task: Mapping[str, object], work: Callable[[], dict[str, object]]
    ) -> dict[str, object]:
        """What is known of a task, or else what the work gives."""
        key = json.dumps(task, sort_keys=True)
        if key not in self.found:
            self.found[key] = work()
            if self.file is not None:
                append_row(self.file, {"task": task, "found": self.found[key]})
        return self.found[key]
