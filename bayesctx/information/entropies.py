"""Entropy and log score of one variable of a posterior, and their change by further context."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import entr

from ..metrics import log_score
from .resampling import NUM_RESAMPLES, bootstrap

__all__ = ["entropy", "entropy_reduction"]

VARIABLES = ("defect", "host", "dopant", "assignment")
SAME_SITE = 1.0  # px; neighbouring sites are several pixels apart


def entropy(
    result: xr.DataTree, truth: xr.DataArray | np.ndarray | None = None, *, variable: str = "defect"
) -> xr.Dataset:
    """Shannon entropy of a discrete posterior.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    truth : DataArray or ndarray, optional
        True values, by name or by index.
    variable : str
        A variable of ``class_posterior``: defect, host, dopant or, of a micrograph, assignment.

    Returns
    -------
    Dataset
        ``entropy`` in bits and, with the truth, ``log_score`` in bits: log2 of the probability of
        the truth. For a calibrated posterior the mean entropy equals minus the mean log score; if
        the mean entropy is lower, the posterior is overconfident.

    Raises
    ------
    ValueError
        If the result has no such variable or the truth does not fit.
    """
    found = result["class_posterior"].to_dataset()
    known = [n for n in found.data_vars if n in VARIABLES]
    if variable not in known:
        raise ValueError(
            f"a variable among {', '.join(known)} was expected, got {variable!r}; "
            "others are continuous or joint probabilities"
        )
    probabilities = found[variable]
    dim = str(probabilities.dims[-1])
    # a certain probability is rounded, to more than one as well
    bits = (xr.apply_ufunc(entr, probabilities).sum(dim) / np.log(2)).clip(min=0.0)
    values = {"entropy": bits.assign_attrs(units="bit")}
    if truth is not None:
        values["log_score"] = (log_score(probabilities, truth, dim=dim) / np.log(2)).assign_attrs(
            units="bit"
        )
    return xr.Dataset(values)


def entropy_reduction(
    before: xr.DataTree,
    after: xr.DataTree,
    truth: xr.DataArray | np.ndarray,
    *,
    variable: str = "defect",
    num_resamples: int = NUM_RESAMPLES,
    seed: int = 0,
) -> xr.Dataset:
    """Reduction of the posterior entropy by additional context, with the gain of the log score.

    Parameters
    ----------
    before, after : DataTree
        From ``infer`` on the same image or patches, with less and with more context.
    truth : DataArray or ndarray
        True values, by name or by index. It is required: an overconfident posterior reduces the
        entropy as well, which only the log score shows.
    variable : str
        A variable of ``class_posterior``.
    num_resamples, seed : int
        Of the paired bootstrap over images; over sites where there is one image.

    Returns
    -------
    Dataset
        In bits: ``entropy_reduction`` and ``log_score_gain`` of every patch, which may be negative
        for a single one, and over the images ``mean_reduction``, ``mean_gain`` and
        ``overconfidence``, the difference of these two, each with its standard error
        (``mean_reduction_error`` and so on).

    Raises
    ------
    ValueError
        If the results are not of the same patches, or the truth does not fit. The sizes are
        compared and, where both results have them, the observed intensities (missing pixels
        included) and the positions of the sites (to 1 px).
    """
    widths = (entropy(r, variable=variable).entropy for r in (before, after))
    difference = _differ(before, after, *widths)
    if difference:
        raise ValueError(
            f"two results on the same patches were expected, got {difference}; "
            "infer both from the same image or patches"
        )
    first, second = (entropy(r, truth, variable=variable) for r in (before, after))
    reduction, gain = first.entropy - second.entropy, second.log_score - first.log_score
    values = np.stack([reduction.values, gain.values], -1)
    if reduction.dims == ("image", "patch"):
        values = values[0] if len(values) == 1 else values.mean(1)
    estimate, error = bootstrap(
        values.reshape(-1, 2),
        statistic=lambda mean: np.concatenate([mean, mean[..., :1] - mean[..., 1:]], -1),
        num_resamples=num_resamples,
        seed=seed,
    )
    found = {"entropy_reduction": reduction, "log_score_gain": gain}
    for name, value, own in zip(
        ("mean_reduction", "mean_gain", "overconfidence"), estimate, error, strict=True
    ):
        found |= {name: xr.DataArray(value), f"{name}_error": xr.DataArray(own)}
    return xr.Dataset({n: v.assign_attrs(units="bit") for n, v in found.items()})


def _differ(
    before: xr.DataTree, after: xr.DataTree, first: xr.DataArray, second: xr.DataArray
) -> str | None:
    """How two results differ in their patches, None if they are of the same ones."""
    if first.sizes != second.sizes:
        return f"{dict(first.sizes)} and {dict(second.sizes)}"
    images = _stored("observed_data", "intensity", before, after)
    if images and not np.array_equal(*images, equal_nan=True):
        return "results on different observed intensities"
    for name in ("site_y", "site_x") if "patch" in first.dims else ():
        sites = _stored("constant_data", name, before, after)
        if sites and not np.allclose(*sites, rtol=0, atol=SAME_SITE):
            return f"results on different sites ({name})"
    return None


def _stored(group: str, name: str, *results: xr.DataTree) -> list[np.ndarray]:
    """A variable of every result; empty if one of them has none."""
    groups = [r.children.get(group, {}) for r in results]
    return [g[name].values for g in groups] if all(name in g for g in groups) else []
