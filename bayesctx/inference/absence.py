"""What is reported of sites where there is no crystal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..model import SitePrior
from .arrays import Posterior

__all__ = ["add_absent_sites"]


def add_absent_sites(
    posterior: Posterior, present: np.ndarray, sites: SitePrior, seed: int
) -> Posterior:
    """Put sites without crystal between those of a posterior.

    Parameters
    ----------
    posterior : Posterior
        Of one micrograph, of its sites with crystal.
    present : ndarray of bool, shape (patch,)
        Whether there is crystal at each of all sites.
    sites : SitePrior
        Of all sites.
    seed : int
        Of the draws.

    Returns
    -------
    Posterior
        Of all sites. Those without crystal are no data: they have the mean abundances of the prior
        over the kinds of site, draws from these, and a log likelihood of zero.
    """
    if present.all():
        return posterior
    rng = np.random.default_rng([seed, len(present)])
    # without a lattice around it a site is of any kind
    abundance = sites.mean.double().numpy().mean(0)
    abundance /= abundance.sum()
    shape = posterior.num_draws, np.count_nonzero(~present)
    classes = rng.choice(len(abundance), shape, p=abundance)
    return replace(
        posterior,
        defect=_interleave(posterior.defect, abundance, present, 1),
        defect_draws=_interleave(posterior.defect_draws, classes, present, 2),
        log_likelihood=_interleave(posterior.log_likelihood, np.zeros(1), present, 2),
    )


def _interleave(
    with_crystal: np.ndarray, without: np.ndarray, present: np.ndarray, axis: int
) -> np.ndarray:
    """Values of all sites along an axis, in the order of the sites."""
    shape = list(with_crystal.shape)
    shape[axis] = len(present)
    values = np.empty(shape, with_crystal.dtype)
    before = (slice(None),) * axis
    values[(*before, present)] = with_crystal
    values[(*before, ~present)] = without
    return values
