"""How much the patches of one image repeat each other: the correlation that tempers the evidence for their context."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..defects import DEFECTS
from ..inference import draw_context
from ..inference.image import log_evidence
from ..model import DefectModel, Materials
from ..simulation import draw_block

__all__ = ["fit_correlation"]

CANDIDATES = np.concatenate([[0.0], np.geomspace(0.005, 1.0, 24)])


@torch.no_grad()
def fit_correlation(
    model: DefectModel,
    *,
    num_images: int = 400,
    num_patches: int = 64,
    num_draws: int = 256,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Choose the correlation of a model by the log score of the host of simulated images.

    Parameters
    ----------
    model : DefectModel
        Its ``correlation`` is set to the best value.
    num_images : int
        Images to simulate, with everything latent.
    num_patches : int
        Patches in each, which share its context and optics; divides 64.
    num_draws : int
        Draws of the continuous context.
    seed : int
        Names the stream of images.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension correlation
        Mean ``log_score`` of the true host and mean ``entropy`` of its posterior, in nats.

    Notes
    -----
    With n patches the evidence is raised to the power 1 / (1 + (n - 1) correlation). Zero would be right if the patches
    were independent given the context; they share source size, aberrations, background and strain.
    """
    prior = model.prior
    context = draw_context(prior, num_draws, seed)
    materials = Materials.of(prior)
    outcomes = model.outcomes(context, materials)
    weight = torch.tensor([float(d in prior.defects) for d in DEFECTS])[None]
    images_per_block = 64 // num_patches
    scores, entropies = [], []
    for block in tqdm(
        range(-(-num_images // images_per_block)), disable=not progress, unit="block"
    ):
        patches = draw_block(prior, seed, block, patches_per_image=num_patches)
        for features, host in zip(model.encoder(patches.intensity), patches.host, strict=True):
            group = torch.zeros(num_patches, dtype=torch.long)
            evidence = log_evidence(outcomes, features, group, weight / weight.sum())[0, 0]
            log_prior = (materials.host_weight[:, None] * materials.dopant_weight).log()
            true = int((materials.host == host).nonzero()[0, 0])
            found = torch.stack(
                [_host_posterior(evidence, log_prior, num_patches, c) for c in CANDIDATES]
            )
            scores.append(found[:, true])
            entropies.append(-(found.exp() * found).sum(-1))
    score, entropy = torch.stack(scores).double(), torch.stack(entropies).double()
    best = int(score.mean(0).argmax())
    model.correlation.fill_(float(CANDIDATES[best]))
    return xr.Dataset(
        {
            "log_score": ("correlation", score.mean(0).numpy(), {"units": "nat"}),
            "entropy": ("correlation", entropy.mean(0).numpy(), {"units": "nat"}),
        },
        {"correlation": CANDIDATES},
    )


def _host_posterior(
    evidence: Tensor, log_prior: Tensor, num_patches: int, correlation: float
) -> Tensor:
    """Log probability of every host; evidence has shape (draw, host, dopant)."""
    joint = log_prior + evidence / (1 + (num_patches - 1) * correlation)
    by_host = joint.logsumexp((0, 2)).clamp(min=-1e4)
    return by_host.log_softmax(0)
