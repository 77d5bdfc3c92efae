"""How sure the classes are, and what the context was worth, in words and numbers."""

from __future__ import annotations

import json
from collections.abc import Mapping

import numpy as np
import xarray as xr

from ..information import entropy, entropy_change
from ..tables import crystal_of
from .context_rows import describe_stated
from .trust import is_by_simulator, likelihood_of

__all__ = ["describe_certainty"]

LADDER = (
    (0.99, 1.01, "above 0.99"),
    (0.9, 0.99, "0.9 to 0.99"),
    (0.5, 0.9, "0.5 to 0.9"),
    (0.0, 0.5, "below 0.5"),
)
CERTAIN = 5e-4  # bit, which are shown as zero


def describe_certainty(
    result: xr.DataTree, compared: tuple[xr.DataTree, xr.DataTree] | None
) -> dict[str, object]:
    """Certainty of the classes, and entropies with less and with more context.

    Parameters
    ----------
    result : DataTree
        From ``infer``.
    compared : tuple of DataTree, optional
        Results of the same image with less and with more context.

    Returns
    -------
    dict
        In words and numbers.
    """
    crystal = crystal_of(result)
    largest = result["class_posterior"].defect.values.max(-1)[crystal]
    ladder = []
    for low, high, label in LADDER:
        count = int(((largest >= low) & (largest < high)).sum())
        ladder.append({"label": label, "count": count, "share": count / max(largest.size, 1)})
    found = {
        "ladder": ladder,
        "wrong": f"{(1 - largest).sum():.1f}",
        "num_sites": int(largest.size),
        "compared": None,
        "alone": "Without and with context: not compared, since only this result is at hand. Infer "
        "the same image with less context, by the same likelihood, and pass both results "
        "(compared=(less, more)); the command line does so for micrographs of one detector.",
    }
    before, after = compared or (None, result)
    rows = []
    for name, what in (
        ("defect", "class of a site (mean)"),
        ("host", "host"),
        ("dopant", "dopant"),
        ("assignment", "assignment of the sublattices"),
    ):
        if any(name not in r["class_posterior"] for r in (before, after) if r is not None):
            continue
        values = [_bits(r, name, crystal) for r in (before, after) if r is not None]
        if max(values) < CERTAIN and name != "defect":
            continue
        values += [values[0] - values[1]] if before is not None else []
        texts = [f"{round(v, 3) + 0.0:.3f}".replace("-", "−") for v in values]
        rows.append({"what": what, "values": texts})
    found["entropies"] = rows
    if before is not None:
        found["compared"] = _comparison(result, before, after, crystal)
    return found


def _bits(result: xr.DataTree, name: str, crystal: np.ndarray) -> float:
    """Mean entropy of a variable, of the class over sites with crystal."""
    values = entropy(result, variable=name).entropy.values
    return float(values[crystal].mean() if name == "defect" else values.mean())


def _comparison(
    result: xr.DataTree, before: xr.DataTree, after: xr.DataTree, crystal: np.ndarray
) -> dict[str, str]:
    """What two results with less and more context say of one image."""
    bits = entropy_change(before, after)[crystal]
    best = [r["class_posterior"].defect.values.argmax(-1)[crystal] for r in (before, after)]
    error = bits.std() / np.sqrt(max(bits.size, 1))
    changed = int((best[0] != best[1]).sum())
    text = (
        f"Per site {bits.mean():.3f} ± {error:.3f} bit (standard error over sites, which share one "
        f"context); the most probable class changed at {changed} of {bits.size} sites, and "
        f"{int((bits < 0).sum())} sites became less certain."
    )
    first, second = likelihood_of(before), likelihood_of(after)
    note = ""
    if first != second:
        note = (
            f"The likelihoods differ ({first}; {second}), and so the difference is not only "
            "due to the context."
        )
    elif is_by_simulator(result) != is_by_simulator(after):
        note = (
            f"Both by the {first}, since the simulator would take minutes for each; the classes "
            "of this report are by the simulator."
        )
    return {
        "before": _given(before),
        "after": _given(after),
        "changed": text,
        "note": note,
    }


def _given(result: xr.DataTree) -> str:
    """Context of a result in a line."""
    try:
        stated = json.loads(result.attrs.get("context", "{}"))
    except (TypeError, ValueError):
        return "unknown"
    if not isinstance(stated, Mapping) or not stated:
        return "nothing"
    return "; ".join(f"{n} = {describe_stated(v)}" for n, v in stated.items())
