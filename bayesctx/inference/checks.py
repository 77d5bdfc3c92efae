"""Whether an image agrees with what was claimed of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import xarray as xr
from torch import Tensor
from tqdm import tqdm

from ..model import DefectModel
from ..notices import warn
from ..prior import CONTINUOUS
from ..simulation import BLOCK, draw_block
from ..structure import DEFECTS, HOSTS, METALS
from .composition import Sites, log_marginal
from .conditioning import questions, tabulate

__all__ = ["CLAIMS", "conflict_with", "fit_conflict", "warn_of_conflict", "warn_of_strangers"]

CLAIMS = {name: (name,) for name in ("host", "dopant", *CONTINUOUS) if name != "dose"} | {
    "detector": ("inner_collection_angle", "outer_collection_angle")
}
"""What is freed together to see whether the image speaks against it. Not the dose: resampling takes noise from an image."""

NUM_SITES = 64  # of a micrograph; twice as many, and twice the draws, change no claim by more than 2 nats of 17
NUM_DRAWS = 128
TRUE_CLAIMS = 0.01  # share of images about which all is true that are warned of
MOST = 0.5  # share of the patches that must be strangers for a warning; five in a hundred of the prior are


def conflict_with(
    known: Mapping[str, object],
    features: Tensor,
    sites: Sites,
    model: DefectModel,
    seed: int,
) -> dict[str, float]:
    """Evidence of one image against each of the claims about it.

    Parameters
    ----------
    known : mapping
        The checked context of the image, one value per variable.
    features : Tensor, shape (patch, feature)
        Contrast features.
    sites : Sites
        Sublattices, their readings, and the composition expected of each kind of site.
    model : DefectModel
        The model.
    seed : int
        Of the draws of what is freed.

    Returns
    -------
    dict of str to float
        For each claim the log Bayes factor, in nats, of leaving it open against taking it as given.
    """
    chosen = torch.linspace(0, len(features) - 1, min(NUM_SITES, len(features))).long()
    some = Sites(sites.group[chosen], sites.readings, sites.strength)

    def evidence(context: Mapping[str, object]) -> float:
        (question,) = questions(model.prior, context, 1, NUM_DRAWS, seed)
        outcomes = tabulate(model, question)
        materials, possible = question.materials.row(0), question.possible[0].float()
        return log_marginal(outcomes, features[chosen], materials, possible, some, float(model.correlation))

    given, found = evidence(known), {}
    for claim, names in CLAIMS.items():
        if all(isinstance(known.get(n), float | str) for n in names):
            found[claim] = evidence({n: v for n, v in known.items() if n not in names}) - given
    return found


@torch.no_grad()
def fit_conflict(model: DefectModel, *, num_images: int = 400, seed: int = 0, progress: bool = True) -> xr.DataArray:
    """Find out what evidence there is against true claims, and note its limit on the card of the model.

    Parameters
    ----------
    model : DefectModel
        Its card gets ``conflict_limit`` in nats, which one in a hundred images exceeds of which all but the dose is told, truly.
    num_images : int
        Images of 64 patches to simulate.
    seed : int
        Names their stream.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataArray, dimensions (image, claim)
        The evidence in nats.

    Notes
    -----
    If the likelihood were exact, one image in a hundred at most would exceed ln(100 k) in any of its k claims, by Markov's
    inequality: 6.7 nats for eight.
    """
    weight = torch.tensor([float(d in model.prior.defects) for d in DEFECTS])
    sites = Sites(torch.zeros(NUM_SITES, dtype=torch.long), torch.zeros(1, 1, dtype=torch.long), weight[None] + 1e-9)
    found = []
    for block in tqdm(range(-(-num_images * NUM_SITES // BLOCK)), disable=not progress, unit="block"):
        batch = draw_block(model.prior, seed, block, patches_per_image=NUM_SITES)
        for i, features in enumerate(model.encoder(batch.intensity)):
            told = {n: float(v[i]) for n, v in batch.context.items() if n != "dose"}
            told |= {"host": list(HOSTS)[batch.host[i]], "dopant": METALS[batch.dopant[i]]}
            found.append(conflict_with(told, features, sites, model, seed))
    rows, claims = [list(f.values()) for f in found], {"claim": list(found[0])}
    values = xr.DataArray(rows, claims, ("image", "claim"), attrs={"units": "nat"})
    model.card["conflict_limit"] = float(values.max("claim").quantile(1 - TRUE_CLAIMS))
    return values


def warn_of_conflict(conflict: Mapping[str, float], known: Mapping[str, object], limit: float) -> None:
    """Warn of the claim that the image speaks against most, if it does so more than true ones do.

    Parameters
    ----------
    conflict : mapping of str to float
        From ``conflict_with``.
    known : mapping
        The claims.
    limit : float
        In nats, from the card of the model: what images that were simulated with the claimed context hardly exceed.

    Warns
    -----
    UserWarning
        If the evidence against a claim exceeds the limit.
    """
    strong = {claim: value for claim, value in conflict.items() if value > limit}
    if strong:
        worst = max(strong, key=strong.get)
        values = ", ".join(f"{n} = {known[n]}" for n in CLAIMS[worst])
        warn(
            f"the image speaks against {values}: {strong[worst]:.1f} nats better without it; check it, or leave it out",
        )


def warn_of_strangers(surprise: np.ndarray | None, limit: float) -> None:
    """Warn where most patches look like nothing that the prior can make.

    Parameters
    ----------
    surprise : ndarray, shape (image, patch), or None
        In nats.
    limit : float
        What patches of the prior hardly exceed.

    Warns
    -----
    UserWarning
        If more than half of the patches exceed it.
    """
    share = 0.0 if surprise is None else float((surprise > limit).mean())
    if share > MOST:
        warn(
            f"{100 * share:.0f} % of the patches look like nothing that the model was trained for (sample_stats.surprise above "
            f"{limit:.1f} nats), and their classes mean little; check sampling and focus, and that the image is of one layer",
        )
