"""Scores of class probabilities with errors by the paired bootstrap over patches."""

from __future__ import annotations

import numpy as np

from bayesctx.information.resampling import bootstrap

__all__ = ["COLUMNS", "compare", "perfect_calibration_error", "scores"]

COLUMNS = ("accuracy", "balanced_accuracy", "entropy", "log_score", "calibration_error")
"""Names of the scores; entropy and log score in bits, the others as shares."""
NUM_BINS = 10  # of the confidence, as in bayesctx.metrics.reliability
SMALLEST = 1e-38


def _terms(probabilities: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Values per patch whose means determine all scores, shape (patch, value)."""
    p = np.asarray(probabilities, np.float64)
    confidence, right = p.max(-1), (p.argmax(-1) == truth).astype(float)
    bins = np.minimum((confidence * NUM_BINS).astype(int), NUM_BINS - 1)
    gap = (confidence - right)[:, None] * np.eye(NUM_BINS)[bins]
    is_class = np.eye(p.shape[-1])[truth]
    entropy = -(p * np.log2(p.clip(min=SMALLEST))).sum(-1)
    score = np.log2(p[np.arange(len(p)), truth].clip(min=SMALLEST))
    parts = [right[:, None], entropy[:, None], score[:, None], gap]
    return np.concatenate([*parts, is_class * right[:, None], is_class], -1)


def _of_means(mean: np.ndarray) -> np.ndarray:
    """The scores, by ``COLUMNS``, from means of the terms, shape (..., value)."""
    right, entropy, score = np.moveaxis(mean[..., :3], -1, 0)
    gap, classes = mean[..., 3 : 3 + NUM_BINS], mean[..., 3 + NUM_BINS :]
    hit, frequency = np.split(classes, 2, -1)
    with np.errstate(invalid="ignore"):
        balanced = np.nanmean(hit / frequency, -1)
    return np.stack([right, balanced, entropy, score, np.abs(gap).sum(-1)], -1)


def scores(
    probabilities: np.ndarray, truth: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Scores and their standard errors.

    Parameters
    ----------
    probabilities : ndarray, shape (patch, class)
        Posterior probabilities.
    truth : ndarray of int, shape (patch,)
        True classes.
    seed : int
        Of the resamples.

    Returns
    -------
    value, error : ndarray, shape (score,)
        By ``COLUMNS``.
    """
    return bootstrap(_terms(probabilities, truth), statistic=_of_means, seed=seed)


def compare(
    probabilities: np.ndarray, reference: np.ndarray, truth: np.ndarray, *, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of the scores of two methods on the same patches, and their standard errors.

    Parameters
    ----------
    probabilities, reference : ndarray, shape (patch, class)
        Of the two methods.
    truth : ndarray of int, shape (patch,)
        True classes.
    seed : int
        Of the resamples, which are the same for both.

    Returns
    -------
    value, error : ndarray, shape (score,)
        Those of the first minus those of the reference, by ``COLUMNS``.
    """
    both = [_terms(probabilities, truth), _terms(reference, truth)]

    def statistic(mean: np.ndarray) -> np.ndarray:
        mine, other = np.split(mean, 2, -1)
        return _of_means(mine) - _of_means(other)

    return bootstrap(np.concatenate(both, -1), statistic=statistic, seed=seed)


def perfect_calibration_error(
    probabilities: np.ndarray, *, num_draws: int = 200, seed: int = 0
) -> tuple[float, float]:
    """Calibration error where the truth is drawn from the posterior itself.

    Parameters
    ----------
    probabilities : ndarray, shape (patch, class)
        Posterior probabilities.
    num_draws : int
        Draws of the truth of all patches.
    seed : int
        Of the draws.

    Returns
    -------
    mean, deviation : float
        Over the draws.
    """
    rng = np.random.default_rng(seed)
    edges = np.cumsum(np.asarray(probabilities, np.float64), -1)
    errors = []
    for _ in range(num_draws):
        u = rng.random((len(edges), 1)) * edges[:, -1:]
        truth = (edges < u).sum(-1)
        errors.append(_of_means(_terms(probabilities, truth).mean(0))[-1])
    return float(np.mean(errors)), float(np.std(errors))
