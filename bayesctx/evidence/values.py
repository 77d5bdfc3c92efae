"""Values of one variable of the context: each is converted to one form or refused."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Mapping, Sequence
from decimal import Decimal
from numbers import Real

import numpy as np
import torch
from torch.distributions import Distribution

from ..checks import shorten
from ..context import NO_DOPANT, Variable
from ..storage import warn
from .codoping import JOINED, Codoped
from .truncation import FEW_OUTSIDE, truncate

__all__ = ["Value", "check_value"]

Value = float | str | list | np.ndarray | Distribution | Codoped | None
"""A checked value: observed (number, name, or array over images), candidates (list) or soft; the
dopant may also be that of a co-doped crystal, or None for a crystal without one."""

MOST_CANDIDATES = 1000


def check_value(variable: Variable, value: object, domain: tuple, margin: float) -> Value:
    """Check the value of a variable and convert it to one form.

    Parameters
    ----------
    variable : Variable
        Its name and unit.
    value : object
        What was given.
    domain : tuple
        Smallest and largest value, or names.
    margin : float
        A number beyond a bound by at most this share of it is taken as the bound, with a warning.

    Returns
    -------
    float, str, list, ndarray, Distribution, Codoped or None
        See ``Value``.

    Raises
    ------
    TypeError
        If the value is of the wrong kind.
    ValueError
        If it is not in the domain.
    """
    if value is None and variable.name != "dopant":
        raise TypeError(
            f"{variable.label} was expected to have a value, got None; leave it out to infer it"
        )
    if isinstance(value, Distribution):
        return _check_distribution(variable, value, domain)
    array = _to_array(variable, value)
    if array is not None and array.ndim:
        return np.array(_alone(_check_values(variable, array, domain, margin)))
    if isinstance(value, list | tuple | set | frozenset | range):
        return _check_candidates(variable, value, domain, margin)
    (one,) = _check_values(variable, [value if array is None else array.item()], domain, margin)
    return one


def _check_candidates(
    variable: Variable, values: Sequence | set | frozenset, domain: tuple, margin: float
) -> list | float | str:
    """Candidates as a list, or a single one by itself."""
    if isinstance(values, tuple) and not variable.is_name:
        raise TypeError(
            f"{variable.label} was expected as a number, a list of candidates or a distribution, "
            f"got the tuple {shorten(values)}; use a list for candidates, or for a range "
            "pyro.distributions.Uniform(low, high)"
        )
    some = list(itertools.islice(values, MOST_CANDIDATES + 1))
    if not some or len(some) > MOST_CANDIDATES:
        raise ValueError(
            f"{variable.label} was expected to have 1 to {MOST_CANDIDATES} candidates, got "
            f"{'more' if some else 'none (an empty list)'}; leave it out to infer it, or give a "
            "distribution"
        )
    checked = _alone(_check_values(variable, some, domain, margin))
    if None in checked and len(set(checked)) > 1:
        raise ValueError(
            f"{variable.name} was expected as names, or as None alone for an undoped crystal, got "
            f"{shorten(values)}; leave None out, or call infer for each"
        )
    if isinstance(values, set | frozenset):
        # the order of a set of names changes from process to process
        checked.sort()
    return checked[0] if len(set(checked)) == 1 else checked


def _alone(checked: list) -> list:
    """Values of which none is a co-doped crystal, which stands alone."""
    found = [value for value in checked if isinstance(value, Codoped)]
    if found:
        raise ValueError(
            f"names of dopants, or one co-doped crystal alone, were expected, got {found[0]!r} "
            f"among {len(checked)} values; call infer for each"
        )
    return checked


def _check_values(
    variable: Variable, values: Sequence | np.ndarray, domain: tuple, margin: float
) -> list:
    """Names or numbers inside of the domain."""
    if variable.is_name:
        return [_check_name(variable, value, domain) for value in values]
    numbers = values
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "iuf":
        numbers = [_to_number(variable, value, domain) for value in values]
    return _check_numbers(variable, np.array(numbers, float), domain, margin).tolist()


def _check_name(variable: Variable, value: object, domain: tuple) -> str | Codoped | None:
    """A name of the domain; of the dopant also None for none, and a co-doped crystal."""
    if variable.name == "dopant":
        if value is None or str(value) == NO_DOPANT:
            return None
        if isinstance(value, Codoped):
            return value
        if isinstance(value, str) and JOINED in value:
            return Codoped.parse(value)
    if not isinstance(value, str):
        raise TypeError(
            f"{variable.name} was expected as a name, got {shorten(value)}; choose from "
            f"{', '.join(domain)}"
        )
    if value not in domain:
        spelled = [name for name in domain if name.lower() == value.lower()]
        close = spelled or difflib.get_close_matches(value, domain, 1)
        hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(domain)}"
        raise ValueError(f"{variable.name} {shorten(value)} is not known to this model; {hint}")
    return str(value)


def _to_number(variable: Variable, value: object, domain: tuple) -> float:
    """A number as float; numpy's and torch's scalars may stand in lists."""
    array = _to_array(variable, value)
    value = value if array is None or array.ndim else array.item()
    if isinstance(value, bool) or not isinstance(value, Real | Decimal):
        raise TypeError(
            f"{variable.label} was expected as a number, a list of candidates or a distribution, "
            f"got {shorten(value)}; give it in {variable.unit}"
        )
    try:
        return float(value)
    except (OverflowError, ValueError):
        raise ValueError(
            f"{variable.label} was expected between {domain[0]:g} and {domain[1]:g}, got "
            f"{shorten(value)}; leave it out to infer it"
        ) from None


def _check_numbers(
    variable: Variable, values: np.ndarray, domain: tuple, margin: float
) -> np.ndarray:
    """Numbers inside of the domain; those a little beyond a bound become the bound."""
    low, high = domain
    expected = f"{variable.label} was expected between {low:g} and {high:g}"
    if np.isnan(values).any():
        raise ValueError(f"{expected}, got NaN; leave it out to infer it")
    nearest = np.clip(values, low, high)
    beyond = np.abs(values - nearest)
    # arrays in single precision hold bounds inexactly
    slack = 1e-6 * np.abs(nearest)
    outside = beyond > np.maximum(slack, margin * np.abs(nearest))
    if outside.any():
        value = float(values[outside][0])
        message = f"{expected}, got {value:g}"
        for unit, factor in variable.slips:
            if low <= value * factor <= high:
                converted = f"{value:g} {unit} is {value * factor:g} {variable.unit}"
                raise ValueError(f"{message}; {converted}")
        raise ValueError(f"{message}; leave it out to infer it")
    if (beyond > slack).any():
        worst = int(np.argmax(beyond))
        warn(
            f"{variable.label} {values[worst]:g} is beyond {nearest[worst]:g}, where the domain "
            f"of the model ends, and is taken as {nearest[worst]:g}; check it, or leave it out"
        )
    # 0.0 for -0.0
    return nearest + 0.0


def _check_distribution(variable: Variable, value: Distribution, domain: tuple) -> Distribution:
    """A univariate distribution, truncated to the domain."""
    if variable.is_name:
        raise TypeError(
            f"{variable.name} was expected as a name or a list of names, got a distribution; "
            "weigh names by repeating them"
        )
    shape = tuple(value.batch_shape) + tuple(value.event_shape)
    if shape:
        raise ValueError(
            f"{variable.label} was expected as a distribution of one number, got one of shape "
            f"{shape}; give one distribution for all images, or observed values in an array"
        )
    low, high = domain
    if low == high:
        raise ValueError(
            f"{variable.label} was expected to be {low:g}, all that this model covers, got "
            f"{shorten(value)}; leave it out"
        )
    truncated, mass = truncate(value, low, high, variable.label)
    if mass < 1 - FEW_OUTSIDE:
        warn(
            f"{variable.label}: {100 * (1 - mass):.0f} % of the mass of {shorten(value)} is "
            f"outside of {low:g} to {high:g}, which the model covers, and is cut off; check its "
            "unit"
        )
    return truncated


def _to_array(variable: Variable, value: object) -> np.ndarray | None:
    """Arrays and their scalars as an array in the unit of the variable, other values as None."""
    if not hasattr(value, "__array__"):
        return None
    try:
        if isinstance(value, torch.Tensor):
            value = value.detach().cpu()
            # numpy has no bfloat16
            value = value.double() if value.is_floating_point() else value
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):
        return None
    expected = f"{variable.label} was expected as one value or one value per image"
    if array.ndim > 1:
        raise ValueError(f"{expected}, got an array of shape {array.shape}; select one dimension")
    has_gaps = np.ma.isMA(value) and bool(np.ma.getmaskarray(value).any())
    if not array.size or has_gaps:
        problem = "masked values" if has_gaps else "an empty array"
        raise ValueError(f"{expected}, got {problem}; leave the variable out to infer it")
    if array.dtype.kind not in ("OUT" if variable.is_name else "Oiuf"):
        kind = "names" if variable.is_name else f"numbers in {variable.unit}"
        raise TypeError(
            f"{variable.label} was expected as {kind}, got {shorten(value)}; convert it to {kind}"
        )
    factor = _factor(variable, value)
    return array if factor == 1 else array * factor


def _factor(variable: Variable, value: object) -> float:
    """Factor from the unit that a DataArray or quantity carries to that of the variable."""
    attributes = getattr(value, "attrs", None)
    unit = attributes.get("units") if isinstance(attributes, Mapping) else None
    for name in ("unit", "units"):
        unit = unit or getattr(value, name, None)
    text = str(unit or "").replace("\u212b", "Å").removesuffix("/px")
    factors = {variable.unit.removesuffix("/px"): 1.0, "": 1.0, "1": 1.0, **dict(variable.slips)}
    if text not in factors:
        raise ValueError(
            f"{variable.label} was expected in {variable.unit or 'names'}, got values in "
            f"{shorten(text)}; convert them"
        )
    return factors[text]
