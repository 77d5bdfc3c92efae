"""Five convolutional networks with context dropout, averaged, with a fitted temperature."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import minimize_scalar

from .budget import Clock
from .encoding import draw_known
from .networks import Classifier, fit_network
from .stream import KNOWN, Labelled, Stream

__all__ = ["NUM_MEMBERS", "Ensemble", "fit_ensemble", "mixed", "temperature_of"]

NUM_MEMBERS = 5
FOR_TEMPERATURE = 4096  # patches of the stream that no member is trained on
MASKS = 8  # random parts of the context that the temperature is fitted for


def mixed(logits: Sequence[np.ndarray], temperature: float) -> np.ndarray:
    """Log of the mean of the members' probabilities at a temperature, shape (patch, class)."""
    scaled = np.stack(logits) / temperature
    log_p = scaled - np.logaddexp.reduce(scaled, -1, keepdims=True)
    return np.logaddexp.reduce(log_p, 0) - np.log(len(log_p))


def temperature_of(logits: Sequence[np.ndarray], truth: np.ndarray) -> float:
    """The temperature with the best log score of the true classes."""
    rows = np.arange(len(truth))
    found = minimize_scalar(
        lambda t: -mixed(logits, np.exp(t))[rows, truth].mean(), bounds=(-1.5, 1.5)
    )
    return float(np.exp(found.x))


class Ensemble:
    """Members and their common temperature.

    Parameters
    ----------
    members : sequence of Classifier
        Trained networks.
    temperature : float
        Divides their logits.
    """

    def __init__(self, members: Sequence[Classifier], temperature: float = 1.0) -> None:
        self.members, self.temperature = members, temperature

    def predict(self, patches: Labelled, known: Collection[str]) -> np.ndarray:
        """Logarithms of the class probabilities, shape (patch, class)."""
        return mixed([m.predict(patches, known) for m in self.members], self.temperature)


def fit_ensemble(
    stream: Stream,
    clock: Clock,
    *,
    learning_rate: float,
    epochs: int,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[Ensemble, int]:
    """Train every member within a fifth of the budget, on the same patches.

    Parameters
    ----------
    stream : Stream
        Of the patches; their simulation is charged once.
    clock : Clock
        With the budget.
    learning_rate : float
        Peak of the schedule of every member.
    epochs : int
        How often every member uses a patch.
    seed : int
        Of the first member; the others take the next ones.
    checkpoint : Path, optional
        Of a run that may be continued.

    Returns
    -------
    model : Ensemble
        The members with their temperature.
    num_patches : int
        Number of different patches.
    """
    members, most = [], 0
    for i in range(NUM_MEMBERS):
        torch.manual_seed(seed + i)
        own = None if checkpoint is None else checkpoint.with_suffix(f".{i}")
        net, most_left = Classifier("mask"), clock.budget * (i + 1) / NUM_MEMBERS
        most = max(most, fit_network(
            net, stream, clock, until=most_left, skipped=FOR_TEMPERATURE,
            learning_rate=learning_rate, epochs=epochs, seed=seed + i, checkpoint=own,
        ))  # fmt: skip
        members.append(net)
    kept = stream.load(FOR_TEMPERATURE)
    masks = draw_known(np.random.default_rng(seed), MASKS)
    names = [[n for n, k in zip(KNOWN, m, strict=True) if k] for m in masks]
    part = np.array_split(np.arange(len(kept)), MASKS)
    logits = [
        np.concatenate([m.predict(kept.take(p), n) for p, n in zip(part, names, strict=True)])
        for m in members
    ]
    return Ensemble(members, temperature_of(logits, kept.defect)), most
