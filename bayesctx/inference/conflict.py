"""Whether an image agrees with what was claimed of it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..model import DefectModel
from ..prior import CONTINUOUS
from ..storage import warn
from .cases import questions, tabulate
from .image import Sites, log_marginal

__all__ = ["CLAIMS", "conflict_with", "warn_of_conflict", "warn_of_strangers"]

CLAIMS = {name: (name,) for name in ("host", "dopant", *CONTINUOUS) if name != "dose"} | {
    "detector": ("inner_collection_angle", "outer_collection_angle")
}
"""What is freed together to see whether the image speaks against it. Not the dose: resampling takes noise from an image."""

NUM_SITES = 64  # of a micrograph; twice as many, and twice the draws, change no claim by more than 2 nats of 17
NUM_DRAWS = 128
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
        return log_marginal(
            outcomes, features[chosen], materials, possible, some, float(model.correlation)
        )

    given, found = evidence(known), {}
    for claim, names in CLAIMS.items():
        if all(isinstance(known.get(n), float | str) for n in names):
            found[claim] = evidence({n: v for n, v in known.items() if n not in names}) - given
    return found


def warn_of_conflict(
    conflict: Mapping[str, float], known: Mapping[str, object], limit: float
) -> None:
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
