"""Whether an image agrees with what was claimed of it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..evidence import Codoped
from ..model import DefectModel, SitePrior
from ..prior import CONTINUOUS
from ..storage import warn
from .cases import group_images, tabulate
from .image import log_marginal

__all__ = ["CLAIMS", "NUM_SITES", "conflict_with", "warn_of_conflict", "warn_of_outliers"]

CLAIMS = {name: (name,) for name in ("host", "dopant", *CONTINUOUS) if name != "dose"} | {
    "detector": ("inner_collection_angle", "outer_collection_angle"),
    "abundance": ("abundance",),
}
"""Variables that are freed together to test a claim.

The dose is left out: resampling an image removes noise.
"""

# of a micrograph; twice as many, and twice the draws, change no claim by more than 2 nats of 17
NUM_SITES = 64
NUM_DRAWS = 128
MOST = 0.5  # share of outliers among the patches that is warned of; of the prior 5 % are


def conflict_with(
    known: Mapping[str, object], features: Tensor, sites: SitePrior, model: DefectModel, seed: int
) -> dict[str, float]:
    """Evidence of one image against each of the claims about it.

    Parameters
    ----------
    known : mapping
        The checked context of the image, one value per variable.
    features : Tensor, shape (patch, feature)
        Contrast features.
    sites : SitePrior
        Sublattices, their assignments, and the abundances expected on each kind of site.
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
    some = sites.take(chosen)

    def evidence(context: Mapping[str, object]) -> float:
        (case,) = group_images(model.prior, context, 1, NUM_DRAWS, seed)
        enumerated = case.materials.row(0), case.possible[0]
        table, own = tabulate(model, case), some.given(model.prior, context)
        return log_marginal(table, features[chosen], *enumerated, own, float(model.correlation))

    given, found = evidence(known), {}
    for claim, names in CLAIMS.items():
        if all(_is_claim(known, n) for n in names):
            found[claim] = evidence({n: v for n, v in known.items() if n not in names}) - given
    return found


def _is_claim(known: Mapping[str, object], name: str) -> bool:
    """Whether one value is given, or a share as a number."""
    value = known.get(name)
    if isinstance(value, Mapping):
        return any(isinstance(v, float) for v in value.values())
    return isinstance(value, float | str | Codoped) or (name in known and value is None)


def warn_of_conflict(
    conflict: Mapping[str, float],
    known: Mapping[str, object],
    limit: float,
    doubts: Sequence[str] = (),
) -> None:
    """Warn of the claim that the evidence is strongest against, if true claims have less.

    Parameters
    ----------
    conflict : mapping of str to float
        From ``conflict_with``.
    known : mapping
        The claims.
    limit : float
        In nats, from the card of the model: 99 % of images with true claims stay below it.
    doubts : sequence of str
        What was done to the image, by the names of ``micrograph.diagnose``: a plainer cause.

    Warns
    -----
    UserWarning
        If the evidence against a claim exceeds the limit.
    """
    strong = {claim: value for claim, value in conflict.items() if value > limit}
    if strong:
        worst = max(strong, key=strong.get)
        values = ", ".join(f"{n} = {known[n]}" for n in CLAIMS[worst])
        if doubts:
            warn(
                f"an image as it was recorded was expected, got signs of another "
                f"({', '.join(doubts)}), which may be why it speaks against {values} by "
                f"{strong[worst]:.1f} nats; pass the recorded counts first"
            )
            return
        warn(
            f"the image speaks against {values}: {strong[worst]:.1f} nats better without it; "
            "check it, or leave it out"
        )


def warn_of_outliers(surprise: np.ndarray | None, limit: float) -> None:
    """Warn where most patches look like nothing that the prior can make.

    Parameters
    ----------
    surprise : ndarray, shape (image, patch), or None
        In nats, of patches with crystal.
    limit : float
        In nats; 95 % of the patches of the prior stay below it.

    Warns
    -----
    UserWarning
        If more than half of the patches exceed it.
    """
    share = 0.0 if surprise is None else float((surprise > limit).mean())
    if share > MOST:
        warn(
            f"{100 * share:.0f} % of the patches look like nothing that the model was trained for "
            f"(sample_stats.surprise above {limit:.1f} nats), and their classes mean little; check "
            "sampling and focus, and that the image is of one layer"
        )
