"""Whether the pixels of a micrograph agree with what was claimed of it."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

import torch
from scipy.special import logsumexp, softmax
from torch.distributions import Normal

from ..context import CONTEXT
from ..distributions import quantile
from ..evidence import Codoped
from ..prior import CONTINUOUS, Prior
from ..scan import Weight
from ..storage import warn
from .candidates import Lattices
from .detectors import Rings

__all__ = [
    "PIXEL_LIMIT",
    "SCREENED",
    "WHOLE",
    "conflict_by_pixels",
    "warn_of_claims",
    "weigh_lattices",
]

WHOLE, SEVERAL = "context", "several"  # all claims together
DOSE = "dose"
CLAIMS = {
    "host": ("host",),
    "dopant": ("dopant",),
    "detector": ("inner_collection_angle", "outer_collection_angle"),
} | {
    name: (name,) for name in CONTINUOUS if name != "dose" and not name.endswith("collection_angle")
}
"""Variables that are freed together. The dose is weighed by itself: fits are blind to it."""
# nats: gain of the best fit from which claims are weighed one by one, and log Bayes factors that
# are warned of; fits have errors of some 8 nats, and misfit of a real image is explained by no
# single claim but by all of them together (22 nats on one)
SCREENED, PIXEL_LIMIT, LIMIT_OF_ALL = 15.0, 15.0, 60.0
# relative, of the dose that the noise of a fit implies: what is not fitted counts as noise, and a
# detector adds some of its own
DOSE_SPREAD = 0.15
NODES = 64  # quantiles by which a prior of the dose is represented


def weigh_lattices(lattices: Lattices, weights: Mapping[int, Weight]) -> Weight:
    """Weigh a context by the middle of an image.

    Parameters
    ----------
    lattices : Lattices
        What may be behind the image: hosts and assignments.
    weights : mapping of int to Weight
        Of the candidates, see ``scan.weigh_scan``.

    Returns
    -------
    Weight
        Density at the best fit of all, and volume such that their evidence adds up with their
        prior probabilities.
    """
    prior = [lattices.candidates[i].log_prior for i in weights]
    densities = [w.log_density + p for w, p in zip(weights.values(), prior, strict=True)]
    evidence = [w.log_evidence + p for w, p in zip(weights.values(), prior, strict=True)]
    best = max(densities)
    index, fit = list(weights.items())[densities.index(best)]
    volume, assignment = float(logsumexp(evidence)) - best, lattices.assignments[index]
    return replace(fit, log_density=best, log_volume=volume, assignment=assignment)


def conflict_by_pixels(
    rings: Rings, given: Weight, weigh: Callable[..., Weight], prior: Prior
) -> dict[str, float]:
    """What speaks in an image against what is claimed of it, exactly or softly.

    Parameters
    ----------
    rings : Rings
        What is known.
    given : Weight
        Of this context.
    weigh : callable
        Weight of another context, from weights at whose fits its search also begins: a wider
        context is never explained worse.
    prior : Prior
        Where the dose may be if it is left open.

    Returns
    -------
    dict of str to float
        In nats: "context", the log density that the best fit gains if all claims are left open; and
        if that exceeds ``SCREENED`` the log Bayes factor of leaving each claim alone open
        against taking it as given, and of "several" for all of them. "dose" is the log Bayes factor
        of the dose, by itself, since fits do not know it. Empty if nothing is claimed.

    Notes
    -----
    The Bayes factor of all claims together has a penalty of some five nats for each of them, so
    that one that is wrong can hide behind the others. The density at the best fit has none: if the
    claims are true it grows by half of their number, and by the errors of the fits.
    """
    stated, found = rings.shared.get(DOSE), {}
    if stated is not None:
        free = [condition[DOSE] for condition in prior.conditions]
        found[DOSE] = _log_evidence_of_dose(given, free) - _log_evidence_of_dose(given, [stated])
    claims = {c: names for c, names in CLAIMS.items() if _is_claim(rings, names)}
    if not claims:
        return found
    everything = weigh(rings.without(sum(claims.values(), ())), given)
    if everything.log_density - given.log_density > SCREENED:
        # what else the second search found may be found under the claims as well
        given = max(given, weigh(rings, everything), key=lambda weight: weight.log_density)
    found[WHOLE] = everything.log_density - given.log_density
    if found[WHOLE] > SCREENED:
        alone = dict.fromkeys(claims, everything)  # as it is for a single claim
        if len(claims) > 1:
            near = given, everything
            alone = {c: weigh(rings.without(names), *near) for c, names in claims.items()}
            alone[SEVERAL] = everything
        found |= {c: w.log_evidence - given.log_evidence for c, w in alone.items()}
    return found


def _log_evidence_of_dose(fit: Weight, priors: Sequence[object]) -> float:
    """Log density of the logarithm of the dose that a fit implies, under priors of the dose."""
    u = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    nodes = torch.cat([quantile(prior, u, CONTEXT[DOSE].domain) for prior in priors])
    law = Normal(nodes.log(), math.hypot(DOSE_SPREAD, fit.dose_spread))
    return float(law.log_prob(torch.tensor(math.log(fit.dose))).logsumexp(0)) - math.log(len(nodes))


def _is_claim(rings: Rings, names: Sequence[str]) -> bool:
    """Whether something is claimed that can be left open."""
    values = [own.get(name) for own in rings.own for name in names]
    return any(not isinstance(value, Codoped | None) for value in values)


def warn_of_claims(conflict: Mapping[str, float], rings: Rings, doubts: Sequence[str] = ()) -> None:
    """Warn if the pixels speak against the context, and name the claim that is wrong.

    Parameters
    ----------
    conflict : mapping of str to float
        From ``conflict_by_pixels``.
    rings : Rings
        The claims.
    doubts : sequence of str
        What was done to the image, by the names of ``micrograph.diagnose``: a plainer cause.

    Warns
    -----
    UserWarning
        If the claim that explains most is contradicted by more than ``PIXEL_LIMIT``, or, where all
        of them together explain more than one, these by more than ``LIMIT_OF_ALL``.
    """
    if conflict.get(DOSE, -math.inf) > PIXEL_LIMIT:
        cause = f"was the image processed ({', '.join(doubts)})" if doubts else "was it processed"
        warn(
            f"signal and noise of the image speak against dose = {rings.shared[DOSE]} by "
            f"{conflict[DOSE]:.0f} nats; check it, or leave it out ({cause}?)"
        )
    weighed = {c: v for c, v in conflict.items() if c in CLAIMS or c == SEVERAL}
    worst = max(weighed, key=weighed.get, default=SEVERAL)
    # misfit of a real image is explained by several variables, and a little by each of them
    if weighed.get(worst, -math.inf) <= (LIMIT_OF_ALL if worst == SEVERAL else PIXEL_LIMIT):
        return
    total = conflict.get(WHOLE, -math.inf)
    if doubts:
        warn(
            f"an image as it was recorded was expected, got signs of another "
            f"({', '.join(doubts)}), which may be why it speaks against its context by "
            f"{total:.0f} nats; pass the recorded counts first"
        )
        return
    # all equally suspect: one of the claims, or several of them
    share = dict(zip(weighed, softmax(list(weighed.values())), strict=True))
    what = "more than one value"
    if worst != SEVERAL:
        names, stated = (*CLAIMS[worst], worst), rings.stated()
        what = ", ".join(f"{n} = {stated[n]}" for n in dict.fromkeys(names) if n in stated)
    warn(
        f"the image speaks against what is known of it: the best fit gains {total:.0f} nats "
        f"without it, most likely wrong is {what} ({100 * share[worst]:.0f} %); check it, or leave "
        "it out"
    )
