"""Is a posterior as sure as it may be: log score, reliability, ranks."""

from __future__ import annotations

import numpy as np
import xarray as xr

from .context import CONTEXT
from .inference import infer
from .model import DefectModel
from .simulation import simulate
from .structure import DEFECTS

__all__ = ["confusion", "log_score", "ranks", "reliability", "score_model"]


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
        raise ValueError(f"a truth of shape {shape} was expected, got {np.shape(truth)}; give one class per patch")
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


def log_score(probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, *, dim: str = "defect_class") -> xr.DataArray:
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
    index = xr.DataArray(_indices(probabilities, truth, dim), dims=[d for d in probabilities.dims if d != dim])
    chosen = probabilities.isel({dim: index}).drop_vars(dim, errors="ignore")
    # single precision holds no smaller probability
    return np.log(chosen.clip(min=1e-38)).rename("log_score").assign_attrs(units="nat")


def reliability(
    probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, *, dim: str = "defect_class", num_bins: int = 10
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
    index = _indices(probabilities, truth, dim).ravel()
    values = probabilities.transpose(..., dim).values.reshape(-1, probabilities.sizes[dim])
    confidence, right = values.max(-1), values.argmax(-1) == index
    bins = np.clip((confidence * num_bins).astype(int), 0, num_bins - 1)
    count = np.bincount(bins, minlength=num_bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(bins, confidence, num_bins) / count
        accuracy = np.bincount(bins, right, num_bins) / count
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


def confusion(probabilities: xr.DataArray, truth: xr.DataArray | np.ndarray, *, dim: str = "defect_class") -> xr.DataArray:
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
    index = _indices(probabilities, truth, dim).ravel()
    values = probabilities.transpose(..., dim).values.reshape(-1, probabilities.sizes[dim])
    table = np.zeros((values.shape[1],) * 2, int)
    np.add.at(table, (index, values.argmax(-1)), 1)
    names = probabilities[dim].values
    return xr.DataArray(table, {"truth": names, "prediction": names}, ("truth", "prediction"), "count")


def ranks(draws: xr.DataArray, truth: xr.DataArray | np.ndarray, *, seed: int = 0) -> xr.DataArray:
    """Rank of the truth among posterior draws, for simulation-based calibration.

    Parameters
    ----------
    draws : DataArray, dimensions (chain, draw, ...)
        Posterior draws of one variable.
    truth : DataArray or ndarray, shape (...)
        Values that the data were simulated with.
    seed : int
        Breaks ties, which discrete variables have.

    Returns
    -------
    DataArray, dimensions (...)
        Rank over the number of draws, in [0, 1]; uniform where the posterior is calibrated.

    References
    ----------
    Talts, Betancourt, Simpson, Vehtari and Gelman, arXiv 1804.06788 (2018).
    """
    stacked = draws.stack(sample=("chain", "draw")).transpose("sample", ...)
    values, true = stacked.values, np.asarray(truth).reshape(stacked.shape[1:])
    below, equal = (values < true).sum(0), (values == true).sum(0)
    share = np.random.default_rng(seed).random(true.shape)
    rank = (below + share * (equal + 1)) / (len(values) + 1)
    return xr.DataArray(rank, dims=[d for d in draws.dims if d not in ("chain", "draw")], name="rank", attrs={"units": "1"})


def score_model(model: DefectModel, *, num_patches: int = 4000, seed: int = 1, num_draws: int = 256) -> xr.Dataset:
    """Score a model on patches simulated from its own prior, with everything, the host, and nothing known.

    Parameters
    ----------
    model : DefectModel
        The model.
    num_patches : int
        Patches to simulate.
    seed : int
        Names their stream; another than that of the training.
    num_draws : int
        Draws of the latent context.

    Returns
    -------
    Dataset, dimension known
        ``accuracy``; ``entropy`` and ``log_score`` in bits per patch with its ``standard_error``. Calibrated, the log score
        is minus the entropy.
    """
    data = simulate(model.prior, num_patches, seed=seed)
    truth = np.array([DEFECTS.index(d) for d in data.defect.values])
    subsets = {"everything": [n for n in CONTEXT if n in data], "host": ["host"], "nothing": []}
    rows = []
    for names in subsets.values():
        probabilities = infer(data.intensity, data[names], model, num_draws=num_draws)["class_posterior"].defect[:, 0]
        score = log_score(probabilities, truth) / np.log(2)
        entropy = -(probabilities * np.log2(probabilities.clip(min=1e-38))).sum("defect_class").mean()
        right = (probabilities.values.argmax(-1) == truth).mean()
        rows.append((right, float(entropy), float(score.mean()), float(score.std()) / num_patches**0.5))
    columns = zip(("accuracy", "entropy", "log_score", "standard_error"), np.array(rows).T, strict=True)
    units = {"accuracy": "1"}
    return xr.Dataset({n: ("known", v, {"units": units.get(n, "bit")}) for n, v in columns}, {"known": list(subsets)})
