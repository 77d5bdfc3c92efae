"""The summary of a result as JSON values."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..context import CONTEXT
from ..defects import DEFECTS
from ..plots import on_crystal
from ..tables import counts

__all__ = ["list_numbers"]

ENUMERATED = ("host", "dopant", "assignment")


def list_numbers(result: xr.DataTree) -> dict[str, object]:
    """List what ``describe_result`` says, in full precision.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    dict
        Numbers of sites and draws; ``classes`` by name, each with its numbers of most probable and
        expected sites and the bounds of their 90 % interval; ``context`` by name, of one image:
        a value that is known, or mean, standard deviation and 90 % interval of draws, or the
        probability of each name.
    """
    is_crystal = on_crystal(result)
    probabilities = result["class_posterior"].defect.values.reshape(-1, len(DEFECTS))[is_crystal]
    best, number = probabilities.argmax(-1), counts(result)
    classes = {}
    for k, name in enumerate(DEFECTS):
        row = number.sel(outcome=name)
        classes[name] = {
            "sites": int((best == k).sum()),
            "expected": float(probabilities[:, k].sum()),
            "number_90_low": float(row.number_90_low),
            "number_90_high": float(row.number_90_high),
        }
    sizes = result["posterior"].sizes
    numbers = {
        "num_sites": int(is_crystal.sum()),
        "num_sites_without_crystal": int((~is_crystal).sum()),
        "num_draws": sizes["chain"] * sizes["draw"],
        "effective_draws": float(np.median(result["sample_stats"].ess)),
        "classes": classes,
    }
    if result["class_posterior"].sizes.get("image", 1) > 1:
        return numbers
    return numbers | {"context": _context(result)}


def _context(result: xr.DataTree) -> dict[str, object]:
    """Every variable of the context and of the state of one image."""
    known, shares = result["constant_data"].to_dataset(), result["class_posterior"].to_dataset()
    found: dict[str, object] = {}
    for name in (*CONTEXT, "assignment"):
        if name in known:
            values = known[name].values
            found[name] = {"value": values.ravel()[0] if values.size == 1 else values.tolist()}
        elif name in ENUMERATED and name in shares:
            labels = shares[name][shares[name].dims[-1]].values.tolist()
            values = shares[name].values.ravel().tolist()
            found[name] = {"probability": dict(zip(labels, values, strict=True))}
    for name, draws in result["posterior"].data_vars.items():
        is_number = draws.dtype.kind == "f" and set(draws.dims) <= {"chain", "draw", "image"}
        if is_number and name not in found:
            values = draws.values.ravel().astype(float)
            low, high = np.quantile(values, [0.05, 0.95])
            found[str(name)] = {
                "mean": values.mean(), "standard_deviation": values.std(), "low_90": low,
                "high_90": high, "unit": draws.attrs.get("units", "1"),
            }  # fmt: skip
    return found
