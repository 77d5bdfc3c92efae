"""Whether chains have mixed: ArviZ's effective sample sizes and r-hat."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from ..storage import warn

__all__ = ["diagnose_chains", "errors_of_means", "warn_of_chains"]

LEAST_SHARE = 0.2  # effective share of the draws
LARGEST_RHAT = 1.01  # as Vehtari et al. recommend
LEAST_DRAWS = 4  # of a chain, that ArviZ asks for
NAMED = 4  # variables in a warning


def diagnose_chains(
    draws: Mapping[str, np.ndarray], num_chains: int
) -> dict[str, tuple[float, float]]:
    """Effective number of draws and r-hat of every continuous variable.

    Parameters
    ----------
    draws : mapping of str to ndarray, shape (draw,)
        Draws of all chains, one after the other.
    num_chains : int
        Number of chains.

    Returns
    -------
    dict of str to tuple of float
        ``ess_bulk`` and ``r_hat`` by name; not a number where a chain has fewer than four draws.

    References
    ----------
    Vehtari, Gelman, Simpson, Carpenter and Bürkner, Bayesian Analysis 16, 667 (2021),
    doi:10.1214/20-BA1221.
    """
    import arviz

    found = {}
    for name, values in draws.items():
        chains = np.asarray(values, float).reshape(num_chains, -1)
        enough = chains.shape[1] >= LEAST_DRAWS and np.ptp(chains) > 0
        if enough:
            found[name] = float(arviz.ess(chains)), float(arviz.rhat(chains))
        else:
            found[name] = np.nan, np.nan
    return found


def errors_of_means(draws: np.ndarray, num_chains: int) -> np.ndarray:
    """Monte Carlo standard errors of means over draws.

    Parameters
    ----------
    draws : ndarray, shape (draw, ...)
        Draws of all chains, one after the other.
    num_chains : int
        Number of chains.

    Returns
    -------
    ndarray, shape (...)
        Standard deviation over the root of ArviZ's effective number of draws, in single precision;
        not a number where a chain has fewer than four draws.
    """
    import arviz

    flat = np.asarray(draws, float).reshape(num_chains, -1, int(np.prod(draws.shape[1:])))
    if flat.shape[1] < LEAST_DRAWS:
        return np.full(draws.shape[1:], np.nan, np.float32)
    # what does not vary is known
    each = [arviz.mcse(c) if np.ptp(c) > 0 else 0.0 for c in np.moveaxis(flat, 2, 0)]
    return np.array(each, np.float32).reshape(draws.shape[1:])


def warn_of_chains(diagnosis: Mapping[str, tuple[float, float]], num_draws: int) -> None:
    """Warn of variables whose chains have not mixed.

    Parameters
    ----------
    diagnosis : mapping of str to tuple of float
        See ``diagnose_chains``.
    num_draws : int
        Draws of all chains together.

    Warns
    -----
    UserWarning
        If a variable has less than a fifth of the draws as effective ones, or an r-hat of 1.01.
    """
    poor = {
        n: rhat
        for n, (ess, rhat) in diagnosis.items()
        if ess < LEAST_SHARE * num_draws or rhat >= LARGEST_RHAT
    }
    if poor:
        worst = sorted(poor, key=lambda n: -poor[n])
        more = f" and {len(worst) - NAMED} more" if len(worst) > NAMED else ""
        warn(
            f"mixed chains were expected, got r_hat up to {poor[worst[0]]:.2f} for "
            f"{', '.join(worst[:NAMED])}{more} (sample_stats.r_hat); their intervals are rough: "
            "raise num_draws, or give more of the context"
        )
