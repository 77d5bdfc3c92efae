"""Scores of a model on patches of its own prior."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..context import CONTEXT
from ..defects import DEFECTS
from ..inference import infer
from ..metrics import log_score
from ..model import DefectModel
from ..simulation import simulate

__all__ = ["score_model"]


def score_model(
    model: DefectModel, *, num_patches: int = 4000, seed: int = 1, num_draws: int = 256
) -> xr.Dataset:
    """Score a model on patches simulated from its own prior, with everything, the host, and nothing known.

    Parameters
    ----------
    model : DefectModel
        The model.
    num_patches : int
        Patches to simulate.
    seed : int
        Names their stream; another than that of the training.
    num_draws : int
        Draws of the latent context.

    Returns
    -------
    Dataset, dimension known
        ``accuracy``; ``entropy`` and ``log_score`` in bits per patch with its ``standard_error``. Calibrated, the log score
        is minus the entropy.
    """
    data = simulate(model.prior, num_patches, seed=seed)
    truth = np.array([DEFECTS.index(d) for d in data.defect.values])
    subsets = {"everything": [n for n in CONTEXT if n in data], "host": ["host"], "nothing": []}
    rows = []
    for names in subsets.values():
        probabilities = infer(data.intensity, data[names], model, num_draws=num_draws)[
            "class_posterior"
        ].defect[:, 0]
        score = log_score(probabilities, truth) / np.log(2)
        entropy = (
            -(probabilities * np.log2(probabilities.clip(min=1e-38))).sum("defect_class").mean()
        )
        right = (probabilities.values.argmax(-1) == truth).mean()
        rows.append(
            (right, float(entropy), float(score.mean()), float(score.std()) / num_patches**0.5)
        )
    columns = zip(
        ("accuracy", "entropy", "log_score", "standard_error"), np.array(rows).T, strict=True
    )
    units = {"accuracy": "1"}
    return xr.Dataset(
        {n: ("known", v, {"units": units.get(n, "bit")}) for n, v in columns},
        {"known": list(subsets)},
    )
