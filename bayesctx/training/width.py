"""How wide the likelihood should be: the last step of the training."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from tqdm import tqdm

from ..model import DefectModel
from ..simulation import BLOCK, draw_block
from .fit import PATCHES_PER_IMAGE
from .objective import EVERYTHING, ask, conditional_log_score

__all__ = ["fit_width"]

CANDIDATES = np.linspace(0.86, 1.1, 5)
SUBSETS = (EVERYTHING, frozenset({"host"}), frozenset())


@torch.no_grad()
def fit_width(
    model: DefectModel,
    *,
    num_patches: int = 9600,
    num_draws: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Choose the width of the likelihood by the log score of the classes of patches that were not learnt from.

    Parameters
    ----------
    model : DefectModel
        The ``width`` of its likelihood is set.
    num_patches : int
        Patches to simulate.
    num_draws : int
        Draws of the latent context. Few miss the sharp posteriors of high doses, and too wide a density then looks best.
    seed : int
        Names their stream.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension width
        Mean ``log_score`` in nats, over patches with everything, the host and nothing known.

    Notes
    -----
    The generative term of the training wants the densities as wide as the features scatter, misfit and all; the posterior of
    the classes is best a little narrower. The score is nearly a parabola of the width; its top is taken.
    """
    likelihood, totals = model.likelihood, np.zeros(len(CANDIDATES))
    num_blocks = max(1, num_patches // BLOCK)
    for block in tqdm(range(num_blocks), disable=not progress, unit="block"):
        batch = draw_block(model.prior, seed, block, patches_per_image=PATCHES_PER_IMAGE)
        features = model.encoder(batch.intensity)
        questions = [
            ask(batch, model.prior, s, torch.Generator().manual_seed(block), num_draws)
            for s in SUBSETS
        ]
        for i, width in enumerate(CANDIDATES):
            likelihood.width.fill_(float(width))
            totals[i] += sum(
                float(conditional_log_score(model, features, batch.defect, q).mean())
                for q in questions
            )
    score = totals / (num_blocks * len(SUBSETS))
    curve = np.polynomial.Polynomial.fit(CANDIDATES, score, 3)
    fine = np.linspace(CANDIDATES[0], CANDIDATES[-1], 301)
    likelihood.width.fill_(float(fine[curve(fine).argmax()]))
    return xr.Dataset({"log_score": ("width", score, {"units": "nat"})}, {"width": CANDIDATES})
