"""Calibration of posterior draws of continuous variables: rank statistics and coverage (TARP)."""

from __future__ import annotations

import numpy as np
import xarray as xr

__all__ = ["coverage", "ranks"]


def ranks(draws: xr.DataArray, truth: xr.DataArray | np.ndarray, *, seed: int = 0) -> xr.DataArray:
    """Rank of the truth among posterior draws, for simulation-based calibration.

    Parameters
    ----------
    draws : DataArray, dimensions (chain, draw, ...)
        Posterior draws of one variable.
    truth : DataArray or ndarray, shape (...)
        Values that the data were simulated with.
    seed : int
        Seed for breaking ties, which discrete variables have.

    Returns
    -------
    DataArray, dimensions (...)
        Rank over the number of draws, in [0, 1]; uniformly distributed if the posterior is
        calibrated.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari and Gelman, arXiv 1804.06788 (2018).
    """
    stacked = draws.stack(sample=("chain", "draw")).transpose("sample", ...)
    values, true = stacked.values, np.asarray(truth).reshape(stacked.shape[1:])
    rng = np.random.default_rng(seed)
    return _rank(values, true, [d for d in draws.dims if d not in ("chain", "draw")], rng).rename(
        "rank"
    )


def coverage(draws: xr.Dataset, truth: xr.Dataset, *, seed: int = 0) -> xr.DataArray:
    """Joint coverage of several variables by tests of accuracy with random points (TARP).

    Parameters
    ----------
    draws : Dataset, dimensions (chain, draw, ...)
        Posterior draws of the variables, for example ``result["posterior"][names]``.
    truth : Dataset, dimensions (...)
        Values that the data were simulated with, by the same names.
    seed : int
        Seed of the random points and for breaking ties.

    Returns
    -------
    DataArray, dimensions (...)
        Fraction of draws that are closer to a random reference point than the truth is, in [0, 1];
        uniformly distributed if the joint posterior is calibrated.

    Raises
    ------
    ValueError
        If a variable is missing from the truth.

    Notes
    -----
    Every variable is scaled by the range of its true values; the reference points are uniform in
    that range and do not depend on the data, so that a posterior equal to the prior passes too.

    References
    ----------
    Lemos, Coogan, Hezaveh and Perreault-Levasseur, ICML (2023), arXiv 2302.03026.
    """
    names = list(draws.data_vars)
    missing = [n for n in names if n not in truth]
    if missing:
        raise ValueError(
            f"true values of {', '.join(names)} were expected, {missing[0]} is missing; "
            "add it to the truth or drop it from the draws"
        )
    rng = np.random.default_rng(seed)
    near, far = 0.0, 0.0
    for name in names:
        stacked = draws[name].stack(sample=("chain", "draw")).transpose("sample", ...)
        values, true = stacked.values, np.asarray(truth[name]).reshape(stacked.shape[1:])
        low, high = true.min(), true.max()
        point = rng.uniform(low, high, true.shape)
        near, far = (
            near + ((values - point) / (high - low)) ** 2,
            far + ((true - point) / (high - low)) ** 2,
        )
    return _rank(near, far, [d for d in stacked.dims if d != "sample"], rng).rename("coverage")


def _rank(
    values: np.ndarray, true: np.ndarray, dims: list[str], rng: np.random.Generator
) -> xr.DataArray:
    """Fraction of values below the true one, ties broken at random."""
    below, equal = (values < true).sum(0), (values == true).sum(0)
    rank = (below + rng.random(true.shape) * (equal + 1)) / (len(values) + 1)
    return xr.DataArray(rank, dims=dims, attrs={"units": "1"})
