"""Information in bits: entropy of posteriors, and their log score if the truth is known."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import entr

from .metrics import log_score

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
    truth: xr.DataArray | np.ndarray | None = None,
    *,
    variable: str = "defect",
) -> xr.Dataset:
    """Reduction of the posterior entropy by additional context.

    Parameters
    ----------
    before, after : DataTree
        From ``infer`` on the same image or patches, with less and with more context.
    truth : DataArray or ndarray, optional
        True values, by name or by index.
    variable : str
        A variable of ``class_posterior``.

    Returns
    -------
    Dataset
        ``entropy_reduction`` in bits and, with the truth, ``log_score_gain`` in bits. Both may be
        negative for a single patch. The difference of a mean reduction and a smaller mean gain is
        due to overconfidence.

    Raises
    ------
    ValueError
        If the results are not of the same patches, or the truth does not fit. The sizes are
        compared and, where both results have them, the observed intensities (missing pixels
        included) and the positions of the sites (to 1 px).
    """
    first, second = (
        entropy(before, truth, variable=variable),
        entropy(after, truth, variable=variable),
    )
    difference = _differ(before, after, first.entropy, second.entropy)
    if difference:
        raise ValueError(
            f"two results on the same patches were expected, got {difference}; "
            "infer both from the same image or patches"
        )
    values = {"entropy_reduction": (first.entropy - second.entropy).assign_attrs(units="bit")}
    if truth is not None:
        values["log_score_gain"] = (second.log_score - first.log_score).assign_attrs(units="bit")
    return xr.Dataset(values)


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
