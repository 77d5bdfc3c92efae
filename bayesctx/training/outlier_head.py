"""Fit the outlier head of a model, which detects patches outside of its prior."""

from __future__ import annotations

import torch
import xarray as xr
from scipy.stats import mannwhitneyu
from torch import Tensor, nn
from tqdm import tqdm

from ..model import DefectModel
from ..simulation import BLOCK, OUTLIERS, draw_block, draw_outliers

__all__ = ["fit_outliers"]

PATCHES_PER_IMAGE = 16
FALSE_ALARMS = 0.05  # share of the patches of the prior
HELD_OUT = 16  # blocks of the prior, and of each kind of outlier


def fit_outliers(
    model: DefectModel,
    *,
    num_patches: int = 200_000,
    seed: int = 0,
    kinds: tuple[str, ...] = tuple(OUTLIERS),
    progress: bool = True,
) -> xr.Dataset:
    """Fit the density ratio of outliers to patches of the prior, and write its limit into the card.

    Parameters
    ----------
    model : DefectModel
        Its ``outliers`` are fitted, encoder and likelihood are not changed. Its card gets
        ``surprise_limit`` in nats, the 95 % quantile of patches of the prior.
    num_patches : int
        Patches to simulate, half of them outliers.
    seed : int
        Seed of their streams.
    kinds : tuple of str
        Kinds of outlier to learn from, of ``simulation.OUTLIERS``. All are scored.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension kind
        Of held-out patches: ``area`` under the receiver operating characteristic, and ``caught``,
        the share of outliers beyond the limit.

    Notes
    -----
    A perceptron classifies patches by the output of the encoder's first layer. Half of the patches
    are outliers, so that its logit is log p(patch | outlier) - log p(patch | prior).

    References
    ----------
    Hendrycks, Mazeika and Dietterich, Deep anomaly detection with outlier exposure, ICLR (2019),
    arXiv 1812.04606.
    """
    num_steps = max(1, num_patches // (2 * BLOCK))
    head = model.outliers.train()
    optimizer = torch.optim.AdamW(head.parameters(), 3e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, 3e-3, total_steps=num_steps + 1, pct_start=0.1
    )
    target = torch.tensor([0.0, 1.0], dtype=torch.float32).repeat_interleave(BLOCK)
    for step in tqdm(range(num_steps), disable=not progress, unit="step"):
        blocks = (
            _invariants(model, None, seed, step),
            _invariants(model, kinds[step % len(kinds)], seed, step),
        )
        loss = nn.functional.binary_cross_entropy_with_logits(head(torch.cat(blocks))[:, 0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    head.eval()
    usual = _score(model, None, seed, num_steps)
    found = {kind: _score(model, kind, seed, num_steps) for kind in OUTLIERS}
    limit = float(usual.quantile(1 - FALSE_ALARMS))
    model.card["surprise_limit"] = limit
    area = [float(mannwhitneyu(v, usual).statistic) / (len(v) * len(usual)) for v in found.values()]
    caught = [float((v > limit).float().mean()) for v in found.values()]
    return xr.Dataset({"area": ("kind", area), "caught": ("kind", caught)}, {"kind": list(found)})


@torch.no_grad()
def _invariants(model: DefectModel, kind: str | None, seed: int, block: int) -> Tensor:
    """Invariants of one block of outliers, or of patches of the prior, shape (patch, unit)."""
    options = {"patches_per_image": PATCHES_PER_IMAGE}
    if kind is None:
        patches = draw_block(model.prior, seed, block, **options).intensity
    else:
        patches = draw_outliers(model.prior, seed, block, kind, **options)
    return model.encoder.invariants(patches.flatten(0, 1))


@torch.no_grad()
def _score(model: DefectModel, kind: str | None, seed: int, first: int) -> Tensor:
    """Surprise of held-out patches."""
    return torch.cat(
        [
            model.outliers(_invariants(model, kind, seed, b))[:, 0]
            for b in range(first, first + HELD_OUT)
        ]
    )
