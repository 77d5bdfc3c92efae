"""Imaging conditions of a prior: a number, candidates or a distribution for every variable."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from .checks import check_keys, check_sequence
from .context import CONTEXT
from .distributions import check_value, support

__all__ = ["CONTINUOUS", "as_tuple", "check_conditions", "condition_on"]

CONTINUOUS = (
    "beam_energy",
    "convergence_semiangle",
    "inner_collection_angle",
    "outer_collection_angle",
    "defocus",
    "dose",
)
"""The continuous variables of the context, in the order of every array over them."""


def check_conditions(values: object) -> tuple[dict[str, object], ...]:
    """Check alternative imaging conditions.

    Parameters
    ----------
    values : object
        What should be a tuple of mappings with all names of ``CONTINUOUS``.

    Returns
    -------
    tuple of dict
        Of ``float``, ``tuple`` of candidates or ``Distribution`` by name.

    Raises
    ------
    TypeError
        If a value is of another type.
    ValueError
        If a name is missing or unknown, a value is outside of the domain of ``CONTEXT``, or the
        detector cannot lie outside of the probe's cone.
    """
    checked = []
    for condition in check_sequence(values, "conditions"):
        known = {
            n: check_value(v, CONTEXT[n].label, CONTEXT[n].domain)
            for n, v in check_keys(condition, "condition variable", CONTINUOUS).items()
        }
        convergence, inner, outer = (support(known[n]) for n in CONTINUOUS[1:4])
        if not (convergence[0] <= inner[1] and inner[0] * 1.05 < outer[1]):
            raise ValueError(
                "a detector outside of the probe's cone was expected, convergence <= inner < "
                f"outer / 1.05, got {known}; correct the angles"
            )
        checked.append(known)
    return tuple(checked)


def condition_on(
    condition: Mapping[str, object], known: Mapping[str, object]
) -> dict[str, object] | None:
    """Condition imaging conditions on what is known of an image.

    Parameters
    ----------
    condition : mapping
        One of ``check_conditions``.
    known : mapping
        A checked context.

    Returns
    -------
    dict or None
        The condition with what is known instead of its candidates and distributions; None if a
        number of the condition contradicts it.
    """
    updated = dict(condition)
    for name in CONTINUOUS:
        if name not in known:
            continue
        fixed, value = condition[name], known[name]
        if isinstance(fixed, float) and not _agrees(fixed, value):
            return None
        updated[name] = fixed if isinstance(fixed, float) else value
    return updated


def as_tuple(value: object) -> tuple:
    """Values that a variable can take.

    Parameters
    ----------
    value : object
        An observed value, a tuple of candidates, or None.

    Returns
    -------
    tuple
        The values, empty for None.
    """
    return value if isinstance(value, tuple) else () if value is None else (value,)


def _agrees(fixed: float, value: object) -> bool:
    """Whether evidence allows a value."""
    if isinstance(value, torch.distributions.Distribution):
        try:
            return math.isfinite(float(value.log_prob(torch.tensor(fixed))))
        except ValueError:  # outside of the support
            return False
    return any(math.isclose(fixed, v, rel_tol=1e-6) for v in as_tuple(value))
