"""How much is known, in bits: entropies of posteriors, always beside the log score where the truth is known."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.special import entr

from .metrics import log_score

__all__ = ["entropy", "entropy_reduction"]


def entropy(
    result: xr.DataTree, truth: xr.DataArray | np.ndarray | None = None, *, variable: str = "defect"
) -> xr.Dataset:
    """Shannon entropy of a posterior probability.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    truth : DataArray or ndarray, optional
        True values, by name or by index.
    variable : str
        One of ``class_posterior``: defect, host, dopant or reading.

    Returns
    -------
    Dataset
        ``entropy`` in bits and, with the truth, ``log_score`` in bits: log2 of the probability of the truth. The means of a
        calibrated posterior are equal up to their sign; a sharper one with a lower score is overconfident.

    Raises
    ------
    ValueError
        If the result has no such variable or the truth does not fit.
    """
    found = result["class_posterior"].to_dataset()
    if variable not in found:
        raise ValueError(
            f"a variable among {', '.join(found.data_vars)} was expected, got {variable!r}; others are continuous"
        )
    probabilities = found[variable]
    dim = str(probabilities.dims[-1])
    bits = xr.apply_ufunc(entr, probabilities).sum(dim) / np.log(2)
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
    """Bits that ``after`` knows and ``before`` did not: what context is worth.

    Parameters
    ----------
    before, after : DataTree
        From ``infer`` on the same image with less and with more context.
    truth : DataArray or ndarray, optional
        True values, by name or by index.
    variable : str
        One of ``class_posterior``.

    Returns
    -------
    Dataset
        ``entropy_reduction`` in bits and, with the truth, ``log_score_gain`` in bits. For a single patch either may be
        negative; a mean reduction that exceeds the mean gain is overconfidence, not information.

    Raises
    ------
    ValueError
        If the results are not of the same patches, or the truth does not fit.
    """
    first, second = (
        entropy(before, truth, variable=variable),
        entropy(after, truth, variable=variable),
    )
    if first.sizes != second.sizes:
        raise ValueError(
            f"two results on the same patches were expected, got {dict(first.sizes)} and {dict(second.sizes)}"
        )
    values = {"entropy_reduction": (first.entropy - second.entropy).assign_attrs(units="bit")}
    if truth is not None:
        values["log_score_gain"] = (second.log_score - first.log_score).assign_attrs(units="bit")
    return xr.Dataset(values)
