"""What is reported of sites where there is no crystal."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from ..model import SitePrior
from .arrays import Posterior

__all__ = ["add_absent_sites"]


def add_absent_sites(
    posterior: Posterior,
    surprise: np.ndarray | None,
    present: np.ndarray,
    sites: SitePrior,
    seed: int,
) -> tuple[Posterior, np.ndarray | None]:
    """Put sites without crystal between those of a posterior.

    Parameters
    ----------
    posterior : Posterior
        Of one micrograph, of its sites with crystal.
    surprise : ndarray, shape (image, patch), optional
        Of the same sites, in nats.
    present : ndarray of bool, shape (patch,)
        Whether there is crystal at each of all sites.
    sites : SitePrior
        Of all sites.
    seed : int
        Of the draws.

    Returns
    -------
    posterior : Posterior
        Of all sites. Those without crystal are no data: they have the mean abundances of the prior
        over the kinds of site, draws from these, and a log likelihood of zero.
    surprise : ndarray, shape (image, patch), or None
        Zero where there is no crystal.
    """
    if present.all():
        return posterior, surprise
    rng = np.random.default_rng([seed, len(present)])
    # without a lattice around it a site is of any kind
    abundance = sites.mean.double().numpy().mean(0)
    abundance /= abundance.sum()
    shape = posterior.num_draws, np.count_nonzero(~present)
    classes = rng.choice(len(abundance), shape, p=abundance)
    nothing = np.zeros(1)
    if surprise is not None:
        surprise = _interleave(surprise, nothing, present, 1)
    posterior = replace(
        posterior,
        defect=_interleave(posterior.defect, abundance, present, 1),
        defect_draws=_interleave(posterior.defect_draws, classes, present, 2),
        log_likelihood=_interleave(posterior.log_likelihood, nothing, present, 2),
    )
    return posterior, surprise


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
