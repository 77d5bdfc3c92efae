"""Fits that follow the training of a model, on held-out patches; results go into its card."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..checks import MAX_SEED, check_whole_number
from ..context import CONTEXT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS
from ..inference import conflict_with, draw_context, infer
from ..inference.conflict import NUM_SITES
from ..inference.image import log_evidence
from ..metrics import log_score
from ..model import DefectModel, Materials, SitePrior
from ..simulation import BLOCK, draw_block, simulate
from .objective import EVERYTHING, ask, log_score_of_table
from .outlier_head import fit_outliers

__all__ = ["calibrate", "fit_conflict", "fit_correlation", "fit_width", "score_model"]

PATCHES_PER_IMAGE = 16
WIDTHS = np.linspace(0.86, 1.1, 5)
# of which the posterior is an exact sum: draws of a latent context are too few for the narrow
# posteriors at high doses, and the width would become too large
SUBSETS = (EVERYTHING, EVERYTHING - {"host"}, EVERYTHING - {"host", "dopant"})
CORRELATIONS = np.concatenate([[0.0], np.geomspace(0.005, 1.0, 24)])
FALSE_WARNINGS = 0.01  # share of images of which all that is claimed is true
MOST_HELD_OUT = 10**6  # patches; those of the scores are held in memory, 4 kB each
OUTLIER_PATCHES = 160  # patches to fit the outlier head, for each patch of width and scores


def calibrate(
    model: DefectModel, *, num_patches: int = 9600, seed: int = 1, progress: bool = True
) -> xr.Dataset:
    """Fit everything that follows the training of a model, and write it into the card.

    Parameters
    ----------
    model : DefectModel
        Changed in place: width of the likelihood, correlation, outlier head, and the card with the
        limits of the warnings and the scores.
    num_patches : int
        Patches to simulate for width and scores, at most 1e6. The outlier head takes 160 times as
        many, correlation and conflict one image of 64 patches for every 64.
    seed : int
        Seed of their stream, other than that of the training.
    progress : bool
        Show progress bars.

    Returns
    -------
    Dataset
        Scores, see ``score_model``.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If ``num_patches`` or ``seed`` is out of range.
    """
    num_patches = check_whole_number("num_patches", num_patches, 1, MOST_HELD_OUT)
    seed = check_whole_number("seed", seed, 0, MAX_SEED - 1)  # the conflict takes the next one
    num_images = -(-num_patches // NUM_SITES)
    fit_width(model, num_patches=num_patches, seed=seed, progress=progress)
    fit_correlation(model, num_images=num_images, seed=seed, progress=progress)
    fit_conflict(model, num_images=num_images, seed=seed + 1, progress=progress)
    scores = score_model(model, num_patches=num_patches, seed=seed)
    outliers = fit_outliers(
        model, num_patches=OUTLIER_PATCHES * num_patches, seed=seed, progress=progress
    )
    model.card |= {
        "outliers": outliers.to_dict(),
        "correlation": float(model.correlation),
        "scores": scores.to_dict(),
        "held_out": num_patches,
        "width": float(model.likelihood.width),
    }
    return scores


@torch.no_grad()
def fit_width(
    model: DefectModel,
    *,
    num_patches: int = 9600,
    seed: int = 0,
    progress: bool = True,
) -> xr.Dataset:
    """Choose the width of the likelihood by the log score of the classes of held-out patches.

    Parameters
    ----------
    model : DefectModel
        The ``width`` of its likelihood is set.
    num_patches : int
        Patches to simulate.
    seed : int
        Seed of their stream.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension width
        Mean ``log_score`` in nats, over patches with everything known, all but the host, and all
        but host and dopant.

    Notes
    -----
    The generative term of the training makes the densities as wide as the scatter of the features,
    misfit included; the posterior of the classes scores best with a somewhat smaller width. The
    width at the maximum of a cubic polynomial through the scores is taken.
    """
    likelihood, totals = model.likelihood, np.zeros(len(WIDTHS))
    likelihood.width.fill_(1.0)
    num_blocks = max(1, num_patches // BLOCK)
    for block in tqdm(range(num_blocks), disable=not progress, unit="block"):
        batch = draw_block(model.prior, seed, block, patches_per_image=PATCHES_PER_IMAGE)
        features = model.encoder(batch.intensity)
        for known in SUBSETS:
            question = ask(batch, model.prior, known, torch.Generator(), num_draws=1)
            table = model.tabulate(question.context, question.materials)
            for i, width in enumerate(WIDTHS):
                # the network is evaluated once: the width is a factor of its scales
                wider = replace(table, scale=float(width) * table.scale)
                scores = log_score_of_table(wider, features, batch.defect, question)
                totals[i] += float(scores.mean())
    score = totals / (num_blocks * len(SUBSETS))
    curve = np.polynomial.Polynomial.fit(WIDTHS, score, 3)
    fine = np.linspace(WIDTHS[0], WIDTHS[-1], 301)
    likelihood.width.fill_(float(fine[curve(fine).argmax()]))
    return xr.Dataset({"log_score": ("width", score, {"units": "nat"})}, {"width": WIDTHS})


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
        Images to simulate, of which nothing is known.
    num_patches : int
        Patches of each, which share its context and optics; divides ``BLOCK``.
    num_draws : int
        Draws of the continuous context.
    seed : int
        Seed of the stream of images.
    progress : bool
        Show a progress bar.

    Returns
    -------
    Dataset, dimension correlation
        Mean ``log_score`` of the true host and mean ``entropy`` of its posterior, in nats.

    Notes
    -----
    With n patches the evidence is raised to the power 1 / (1 + (n - 1) correlation). A correlation
    of zero is right if patches are independent given the context; a positive one accounts for
    their common source size, aberrations, background and strain.
    """
    prior = model.prior
    context, materials = draw_context(prior, num_draws, seed), Materials.of(prior)
    table, sites = model.tabulate(context, materials), SitePrior.of_patches(prior, num_patches)
    log_prior = (materials.host_weight[:, None] * materials.dopant_weight).log()
    num_blocks = -(-num_images * num_patches // BLOCK)
    scores, entropies = [], []
    for block in tqdm(range(num_blocks), disable=not progress, unit="block"):
        patches = draw_block(prior, seed, block, patches_per_image=num_patches)
        for features, host in zip(model.encoder(patches.intensity), patches.host, strict=True):
            evidence = log_evidence(table, features, sites)[0, 0]
            true = int((materials.host == host).nonzero()[0, 0])
            found = [_host_posterior(evidence, log_prior, num_patches, c) for c in CORRELATIONS]
            found = torch.stack(found)
            scores.append(found[:, true])
            entropies.append(-(found.exp() * found).sum(-1))
    score, entropy = torch.stack(scores).double(), torch.stack(entropies).double()
    best = int(score.mean(0).argmax())
    model.correlation.fill_(float(CORRELATIONS[best]))
    return xr.Dataset(
        {
            "log_score": ("correlation", score.mean(0).numpy(), {"units": "nat"}),
            "entropy": ("correlation", entropy.mean(0).numpy(), {"units": "nat"}),
        },
        {"correlation": CORRELATIONS},
    )


def _host_posterior(
    evidence: Tensor, log_prior: Tensor, num_patches: int, correlation: float
) -> Tensor:
    """Log probability of every host; evidence has shape (draw, host, dopant)."""
    joint = log_prior + evidence / (1 + (num_patches - 1) * correlation)
    by_host = joint.logsumexp((0, 2)).clamp(min=-1e4)
    return by_host.log_softmax(0)


@torch.no_grad()
def fit_conflict(
    model: DefectModel, *, num_images: int = 400, seed: int = 0, progress: bool = True
) -> xr.DataArray:
    """Compute the evidence against true claims, and write its limit into the card of the model.

    Parameters
    ----------
    model : DefectModel
        Its card gets ``conflict_limit`` in nats: the 99 % quantile of the largest evidence against
        one of the claims of an image, where everything but the dose is claimed and true.
    num_images : int
        Images of 64 patches to simulate.
    seed : int
        Seed of their stream.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataArray, dimensions (image, claim)
        The evidence in nats.

    Notes
    -----
    With an exact likelihood at most one image in a hundred exceeds ln(100 k) in any of its k
    claims, by Markov's inequality: 6.7 nats for eight claims.
    """
    sites = SitePrior.of_patches(model.prior, NUM_SITES)
    found = []
    for block in tqdm(
        range(-(-num_images * NUM_SITES // BLOCK)), disable=not progress, unit="block"
    ):
        batch = draw_block(model.prior, seed, block, patches_per_image=NUM_SITES)
        for i, features in enumerate(model.encoder(batch.intensity)):
            told = {n: float(v[i]) for n, v in batch.context.items() if n != "dose"}
            told |= {"host": list(HOSTS)[batch.host[i]], "dopant": METALS[batch.dopant[i]]}
            found.append(conflict_with(told, features, sites, model, seed))
    rows, claims = [list(f.values()) for f in found], {"claim": list(found[0])}
    values = xr.DataArray(rows, claims, ("image", "claim"), attrs={"units": "nat"})
    model.card["conflict_limit"] = float(values.max("claim").quantile(1 - FALSE_WARNINGS))
    return values


def score_model(
    model: DefectModel, *, num_patches: int = 4000, seed: int = 1, num_draws: int = 256
) -> xr.Dataset:
    """Score a model on simulated patches with everything, the host, and nothing known.

    Parameters
    ----------
    model : DefectModel
        The model; patches come from its prior.
    num_patches : int
        Patches to simulate, at most 1e6.
    seed : int
        Seed of their stream, other than that of the training.
    num_draws : int
        Draws of the latent context.

    Returns
    -------
    Dataset, dimension known
        ``accuracy``; ``entropy`` and ``log_score`` in bits per patch with its ``standard_error``.
        For a calibrated model the log score is minus the entropy.

    Raises
    ------
    TypeError
        If a number is not an integer.
    ValueError
        If a number is out of range.
    """
    num_patches = check_whole_number("num_patches", num_patches, 1, MOST_HELD_OUT)
    data = simulate(model.prior, num_patches, seed=seed)
    truth = np.array([DEFECTS.index(d) for d in data.defect.values])
    subsets = {"everything": [n for n in CONTEXT if n in data], "host": ["host"], "nothing": []}
    rows = []
    for names in subsets.values():
        result = infer(data.intensity, data[names], model, num_draws=num_draws, progress=False)
        p = result["class_posterior"].defect[:, 0]
        score = log_score(p, truth) / np.log(2)
        bits = -(p * np.log2(p.clip(min=1e-38))).sum("defect_class")
        right = (p.values.argmax(-1) == truth).mean()
        error = float(score.std()) / num_patches**0.5
        rows.append((right, float(bits.mean()), float(score.mean()), error))
    names = ("accuracy", "entropy", "log_score", "standard_error")
    units = {"accuracy": "1"}
    return xr.Dataset(
        {
            name: ("known", values, {"units": units.get(name, "bit")})
            for name, values in zip(names, np.array(rows).T, strict=True)
        },
        {"known": list(subsets)},
    )
