"""bayesctx, trained from random weights within the budget, and with the shipped weights."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

import numpy as np
import xarray as xr

import bayesctx as bc
from bayesctx.training import fit_width

from .budget import Clock
from .stream import SEEDS

__all__ = ["Posterior", "fit_own", "load_shipped"]

TRIAL = 8192  # patches that measure the rate
CHECKPOINT = 300  # steps between checkpoints
FOR_TRAINING = 0.9  # of the budget that is left: the rate varies, and the width follows
FOR_WIDTH = 4096  # patches


class Posterior:
    """Class probabilities by ``bayesctx.infer``.

    Parameters
    ----------
    model : DefectModel
        The model.
    """

    def __init__(self, model: bc.DefectModel) -> None:
        self.model = model

    def predict(self, data: xr.Dataset, known: Collection[str]) -> np.ndarray:
        """Logarithms of the class probabilities, shape (patch, class)."""
        context = data[list(known)] if known else None
        found = bc.infer(data.intensity, context, self.model, num_draws=128)
        return np.log(found["class_posterior"].defect.values[:, 0].clip(min=1e-38))


def fit_own(
    clock: Clock,
    *,
    learning_rate: float,
    num_passes: int,
    partly_known: float,
    width: int,
    seed: int,
    checkpoint: Path | None = None,
) -> tuple[Posterior, int]:
    """Train bayesctx as a user would, on its own stream, then fit the width.

    Parameters
    ----------
    clock : Clock
        With the budget.
    learning_rate : float
        Peak of the schedule.
    num_passes : int
        How often a patch is used.
    partly_known : float
        Share of the steps that score with a part of the context.
    width : int
        Units of the encoder.
    seed : int
        Of the weights; the stream is that of all methods.
    checkpoint : Path, optional
        Of a run that may be continued.

    Returns
    -------
    model : Posterior
        The trained model.
    num_patches : int
        Number of patches that were simulated.
    """

    def begin() -> bc.DefectModel:
        return bc.DefectModel(bc.tmd_prior(), width=width, seed=seed)

    def run(model: bc.DefectModel, num_patches: int, checkpoint: Path | None) -> None:
        bc.train(
            model, num_patches=num_patches, seed=SEEDS["training"], learning_rate=learning_rate,
            num_passes=num_passes, partly_known=partly_known, num_held_out=0, num_workers=0,
            checkpoint=checkpoint, checkpoint_interval=CHECKPOINT, progress=False,
        )  # fmt: skip

    plan = None if checkpoint is None else checkpoint.with_suffix(".plan")
    if plan is not None and plan.exists():
        num_patches = int(plan.read_text())
    else:
        run(begin(), 512, None)  # tables are loaded once
        start = clock.own
        run(begin(), TRIAL, None)
        seconds = (clock.own - start) / TRIAL
        num_patches = max(512, int(FOR_TRAINING * clock.left / seconds))
        if plan is not None:
            plan.write_text(str(num_patches))
            clock.save()
    model = begin()
    with clock.saving():
        run(model, num_patches, checkpoint)
    fit_width(model, num_patches=FOR_WIDTH, seed=SEEDS["training"] + 1, progress=False)
    return Posterior(model), num_patches


def load_shipped() -> Posterior:
    """The shipped weights under the prior of the benchmark."""
    return Posterior(bc.load_model().with_prior(bc.tmd_prior()))
