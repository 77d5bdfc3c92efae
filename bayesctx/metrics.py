"""Is the posterior of a class as sure as it may be: log score, reliability, confusion."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

__all__ = ["MATCH", "class_reliability", "confusion", "log_score", "match_sites", "reliability"]


def _indices(probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, dim: str) -> np.ndarray:
    """Truth as an index along ``dim``, of the shape of the other dimensions."""
    others = [d for d in probabilities.dims if d != dim]
    if isinstance(truth, xr.DataArray) and set(truth.dims) == set(others):
        truth = truth.transpose(*others)
    values = np.asarray(truth)
    shape = tuple(n for d, n in probabilities.sizes.items() if d != dim)
    if values.shape != shape and values.size == np.prod(shape, dtype=int):
        values = values.reshape(shape)
    if values.shape != shape:
        raise ValueError(
            f"a truth of shape {shape} was expected, got {np.shape(truth)}; give one class per patch"
        )
    if values.dtype.kind in "iu":
        if values.size and not 0 <= values.min() <= values.max() < probabilities.sizes[dim]:
            raise ValueError(
                f"classes from 0 to {probabilities.sizes[dim] - 1} were expected, got {values.min()} to {values.max()}"
            )
        return values
    names = [str(n) for n in probabilities[dim].values]
    unknown = set(values.ravel().tolist()) - set(names)
    if unknown:
        raise ValueError(
            f"classes among {', '.join(names)} were expected, got {sorted(map(str, unknown))[0]!r}; rename the labels"
        )
    return np.vectorize(names.index, otypes=[int])(values)


def _flat(
    probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, dim: str
) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities of shape (patch, class), and the index of the true class of every patch."""
    values = probabilities.transpose(..., dim).values.reshape(-1, probabilities.sizes[dim])
    return values, _indices(probabilities, truth, dim).ravel()


def log_score(
    probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, *, dim: str = "defect_class"
) -> xr.DataArray:
    """Log probability that a posterior gave to the truth.

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
        ln p(truth) in nats, at most 0; the larger the better, and proper: only the true posterior maximises its mean.

    Raises
    ------
    ValueError
        If the truth does not fit.

    References
    ----------
    Gneiting and Raftery, J. Am. Stat. Assoc. 102, 359 (2007), doi:10.1198/016214506000001437.

    Examples
    --------
    >>> p = xr.DataArray([[0.5, 0.5], [0.25, 0.75]], dims=("patch", "defect_class"), coords={"defect_class": ["M", "X2"]})
    >>> log_score(p, np.array(["M", "X2"])).values.round(3)
    array([-0.693, -0.288])
    """
    index = xr.DataArray(
        _indices(probabilities, truth, dim), dims=[d for d in probabilities.dims if d != dim]
    )
    chosen = probabilities.isel({dim: index}).drop_vars(dim, errors="ignore")
    # single precision holds no smaller probability
    return np.log(chosen.clip(min=1e-38)).rename("log_score").assign_attrs(units="nat")


def reliability(
    probabilities: xr.DataArray,
    truth: xr.DataArray | np.ndarray,
    *,
    dim: str = "defect_class",
    num_bins: int = 10,
) -> xr.Dataset:
    """Compare the confidence of the most probable class with how often it is right.

    Parameters
    ----------
    probabilities : DataArray, dimensions (..., dim)
        Class probabilities.
    truth : DataArray or ndarray, shape (...)
        True classes, by name or by index.
    dim : str
        Dimension of the classes.
    num_bins : int
        Bins of equal width in the confidence.

    Returns
    -------
    Dataset, dimension bin
        ``confidence``, ``accuracy`` and ``count`` per bin; ``expected_calibration_error``, the mean of their distance, and
        ``accuracy_overall`` as scalars.

    Raises
    ------
    ValueError
        If the truth does not fit.

    References
    ----------
    Guo, Pleiss, Sun and Weinberger, ICML (2017).
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
    """Compare the probability of every class with how often it is the true one.

    Parameters
    ----------
    probabilities : DataArray, dimensions (..., dim)
        Class probabilities, with names as coordinate.
    truth : DataArray or ndarray, shape (...)
        True classes, by name or by index.
    dim : str
        Dimension of the classes.
    num_bins : int
        Bins of equal width in the probability.

    Returns
    -------
    Dataset, dimensions (dim, bin)
        ``confidence``, ``accuracy`` (the share of patches that are of the class) and ``count`` per bin;
        ``expected_calibration_error`` (dim), the mean of their distance.

    Raises
    ------
    ValueError
        If the truth does not fit.

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
    """Mean confidence, share that is right, and number in bins of equal width of the confidence."""
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
    """Count the most probable class against the true one.

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
        If the truth does not fit.
    """
    values, index = _flat(probabilities, truth, dim)
    table = np.zeros((values.shape[1],) * 2, int)
    np.add.at(table, (index, values.argmax(-1)), 1)
    names = probabilities[dim].values
    return xr.DataArray(
        table, {"truth": names, "prediction": names}, ("truth", "prediction"), "count"
    )


MATCH = 0.7  # Å, a third of the distance between neighbouring sites


def match_sites(data: xr.Dataset, result: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Find the true class of the sites of a micrograph.

    Parameters
    ----------
    data : Dataset
        From ``simulate_micrograph``.
    result : DataTree
        From ``infer``.

    Returns
    -------
    matched : ndarray of bool, shape (patch,)
        Sites of the result that lie within ``MATCH`` Å of a true one.
    truth : ndarray of str, shape (matched patch,)
        Classes there.
    """
    sites = result["constant_data"]
    distance, nearest = cKDTree(np.stack([data.site_x, data.site_y], -1)).query(
        np.stack([sites.site_x, sites.site_y], -1)
    )
    matched = distance * float(data.sampling) < MATCH
    return matched, data.defect.values[nearest[matched]]
