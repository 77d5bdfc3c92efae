"""Imaging conditions of a prior: a number, candidates or a distribution for every variable."""

from __future__ import annotations

from .checks import check_keys, check_sequence
from .context import ADF_RULE, CONTEXT, Detector, is_annular_dark_field
from .distributions import check_value, support

__all__ = ["CONTINUOUS", "as_tuple", "check_conditions"]

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
        # the smallest inner angle outside of the smallest cone
        nearest = min(max(inner[0], convergence[0]), inner[1])
        if not is_annular_dark_field(convergence[0], Detector(nearest, outer[1])):
            raise ValueError(f"{ADF_RULE} was expected, got {known}; correct the angles")
        checked.append(known)
    return tuple(checked)


def as_tuple(value: object) -> tuple:
    """Values that a variable can take.

    Parameters
    ----------
    value : object
        An observed value, candidates, or None.

    Returns
    -------
    tuple
        The values, empty for None.
    """
    if isinstance(value, list | tuple):
        return tuple(value)
    return () if value is None else (value,)
