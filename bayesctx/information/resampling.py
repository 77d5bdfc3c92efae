"""Means over images with standard errors by the paired bootstrap."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

__all__ = ["NUM_RESAMPLES", "bootstrap"]

NUM_RESAMPLES = 1000
Statistic = Callable[[np.ndarray], np.ndarray]


def bootstrap(
    values: np.ndarray,
    *,
    statistic: Statistic | None = None,
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> tuple[np.ndarray, np.ndarray]:
    """Statistic of the means of several values over images, and its standard error.

    Parameters
    ----------
    values : ndarray, shape (image, value)
        Of every image; not a number where a value does not exist.
    statistic : callable, optional
        Maps means, shape (..., value), to (..., statistic); default: the means themselves.
    num_resamples : int
        Resamples of the images, the same for all values: differences and ratios are paired.
    seed : int
        Of the resamples.

    Returns
    -------
    estimate, error : ndarray, shape (statistic,)
        Of all images, and the standard deviation over the resamples; of one image the error is not
        a number.

    References
    ----------
    Efron and Tibshirani, An Introduction to the Bootstrap (1993).
    """
    exists = np.isfinite(values)
    filled, num = np.where(exists, values, 0.0), len(values)
    rng = np.random.default_rng(seed)

    def means(weight: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            return (weight @ filled) / (weight @ exists)

    resampled = np.stack([
        means(np.bincount(rng.integers(num, size=num), minlength=num).astype(float))
        for _ in range(num_resamples)
    ])  # fmt: skip
    apply = statistic or (lambda mean: mean)
    estimate = apply(means(np.ones(num)))
    if num < 2:
        return estimate, np.full_like(estimate, np.nan)
    return estimate, np.nanstd(apply(resampled), 0)
