"""Scores of posteriors: log score, reliability and confusion of classes, ranks and coverage."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .matching import MATCH as MATCH, match_sites as match_sites

__all__ = [
    "MATCH",
    "class_reliability",
    "confusion",
    "coverage",
    "log_score",
    "match_sites",
    "ranks",
    "reliability",
]


def _indices(probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, dim: str) -> np.ndarray:
    """True classes as indices along ``dim``, in the shape of the other dimensions."""
    others = [d for d in probabilities.dims if d != dim]
    if isinstance(truth, xr.DataArray) and set(truth.dims) == set(others):
        truth = truth.transpose(*others)
    values = np.asarray(truth)
    shape = tuple(n for d, n in probabilities.sizes.items() if d != dim)
    if values.shape != shape and values.size == np.prod(shape, dtype=int):
        values = values.reshape(shape)
    if values.shape != shape:
        raise ValueError(
            f"a truth of shape {shape} was expected, got {np.shape(truth)}; give a class per patch"
        )
    if values.dtype.kind in "iu":
        if values.size and not 0 <= values.min() <= values.max() < probabilities.sizes[dim]:
            raise ValueError(
                f"class indices from 0 to {probabilities.sizes[dim] - 1} were expected, "
                f"got {values.min()} to {values.max()}; index the classes of {dim!r}"
            )
        return values
    names = [str(n) for n in probabilities[dim].values]
    unknown = set(values.ravel().tolist()) - set(names)
    if unknown:
        raise ValueError(
            f"classes among {', '.join(names)} were expected, "
            f"got {sorted(map(str, unknown))[0]!r}; rename the labels"
        )
    return np.vectorize(names.index, otypes=[int])(values)


def _flat(
    probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, dim: str
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities, shape (patch, class), and the index of the true class of every patch."""
    values = probabilities.transpose(..., dim).values.reshape(-1, probabilities.sizes[dim])
    return values, _indices(probabilities, truth, dim).ravel()


def log_score(
    probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, *, dim: str = "defect_class"
) -> xr.DataArray:
    """Logarithmic score: log probability of the truth under a posterior.

    Parameters
    ----------
    probabilities : DataArray, dimensions (..., dim)
        For example ``result["class_posterior"].defect``.
    truth : DataArray or ndarray, shape (...)
        True classes, by name or by index.
    dim : str
        Dimension of the classes.

    Returns
    -------
    DataArray, dimensions (...)
        ln p(truth) in nats, at most 0; larger is better. The score is strictly proper: its mean is
        largest for the true posterior. Probabilities below 1e-38 count as 1e-38.

    Raises
    ------
    ValueError
        If ``truth`` has another shape or holds unknown classes.

    References
    ----------
    Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), doi:10.1198/016214506000001437.

    Examples
    --------
    >>> p = xr.DataArray(
    ...     [[0.5, 0.5], [0.25, 0.75]],
    ...     dims=("patch", "defect_class"),
    ...     coords={"defect_class": ["M", "X2"]},
    ... )
    >>> log_score(p, np.array(["M", "X2"])).values.round(3)
    array([-0.693, -0.288])
    """
    index = xr.DataArray(
        _indices(probabilities, truth, dim), dims=[d for d in probabilities.dims if d != dim]
    )
    chosen = probabilities.isel({dim: index}).drop_vars(dim, errors="ignore")
    # smallest normal number of single precision
    return np.log(chosen.clip(min=1e-38)).rename("log_score").assign_attrs(units="nat")


def reliability(
    probabilities: xr.DataArray,
    truth: xr.DataArray | np.ndarray,
    *,
    dim: str = "defect_class",
    num_bins: int = 10,
) -> xr.Dataset:
    """Reliability diagram of the most probable class: confidence against accuracy.

    Parameters
    ----------
    probabilities : DataArray, dimensions (..., dim)
        Class probabilities.
    truth : DataArray or ndarray, shape (...)
        True classes, by name or by index.
    dim : str
        Dimension of the classes.
    num_bins : int
        Number of bins of equal width in the confidence.

    Returns
    -------
    Dataset, dimension bin
        ``confidence`` (mean probability of the most probable class), ``accuracy`` (fraction of
        patches where it is the true one) and ``count`` per bin; scalars
        ``expected_calibration_error``, the mean absolute difference of confidence and accuracy
        weighted by ``count``, and ``accuracy_overall``.

    Raises
    ------
    ValueError
        If ``truth`` has another shape or holds unknown classes.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, ICML (2017), arXiv 1706.04599.
    """
    values, index = _flat(probabilities, truth, dim)
    confidence, right = values.max(-1), values.argmax(-1) == index
    mean_confidence, accuracy, count = _bins(confidence, right, num_bins)
    error = np.nansum(np.abs(mean_confidence - accuracy) * count) / count.sum()
    return xr.Dataset(
        {
            "confidence": ("bin", mean_confidence),
            "accuracy": ("bin", accuracy),
            "count": ("bin", count),
            "expected_calibration_error": ((), error),
            "accuracy_overall": ((), right.mean()),
        },
        {"bin": (np.arange(num_bins) + 0.5) / num_bins},
    )


def class_reliability(
    probabilities: xr.DataArray,
    truth: xr.DataArray | np.ndarray,
    *,
    dim: str = "defect_class",
    num_bins: int = 10,
) -> xr.Dataset:
    """Reliability diagram of every class: predicted probability against observed frequency.

    Parameters
    ----------
    probabilities : DataArray, dimensions (..., dim)
        Class probabilities, with names as coordinate.
    truth : DataArray or ndarray, shape (...)
        True classes, by name or by index.
    dim : str
        Dimension of the classes.
    num_bins : int
        Number of bins of equal width in the probability.

    Returns
    -------
    Dataset, dimensions (dim, bin)
        ``confidence`` (mean probability of the class), ``accuracy`` (fraction of patches of that
        class) and ``count`` per bin; ``expected_calibration_error`` (dim), the mean absolute
        difference of the two weighted by ``count``.

    Raises
    ------
    ValueError
        If ``truth`` has another shape or holds unknown classes.

    References
    ----------
    Kull et al., NeurIPS (2019), arXiv 1910.12656.
    """
    values, index = _flat(probabilities, truth, dim)
    is_class = index[:, None] == np.arange(values.shape[1])
    bins = [_bins(c, r, num_bins) for c, r in zip(values.T, is_class.T, strict=True)]
    confidence, accuracy, count = (np.stack(v) for v in zip(*bins, strict=True))
    error = np.nansum(np.abs(confidence - accuracy) * count, -1) / len(values)
    columns = {"confidence": confidence, "accuracy": accuracy, "count": count}
    return xr.Dataset(
        {n: ((dim, "bin"), v) for n, v in columns.items()}
        | {"expected_calibration_error": (dim, error)},
        {dim: probabilities[dim].values, "bin": (np.arange(num_bins) + 0.5) / num_bins},
    )


def _bins(
    confidence: np.ndarray, right: np.ndarray, num_bins: int
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Mean confidence, fraction correct and count, in bins of equal width of the confidence."""
    bins = np.clip((confidence * num_bins).astype(int), 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        return (
            np.bincount(bins, confidence, num_bins) / count,
            np.bincount(bins, right, num_bins) / count,
            count,
        )


def confusion(
    probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, *, dim: str = "defect_class"
) -> xr.DataArray:
    """Confusion matrix of the true and the most probable classes.

    Parameters
    ----------
    probabilities : DataArray, dimensions (..., dim)
        Class probabilities, with names as coordinate.
    truth : DataArray or ndarray, shape (...)
        True classes, by name or by index.
    dim : str
        Dimension of the classes.

    Returns
    -------
    DataArray, dimensions (truth, prediction)
        Numbers of patches.

    Raises
    ------
    ValueError
        If ``truth`` has another shape or holds unknown classes.
    """
    values, index = _flat(probabilities, truth, dim)
    table = np.zeros((values.shape[1],) * 2, int)
    np.add.at(table, (index, values.argmax(-1)), 1)
    names = probabilities[dim].values
    return xr.DataArray(
        table, {"truth": names, "prediction": names}, ("truth", "prediction"), "count"
    )


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
    Every variable is scaled by the range of its true values. The reference points are uniform in
    that range and do not depend on the data, so that a posterior equal to the prior is accepted,
    too.

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
