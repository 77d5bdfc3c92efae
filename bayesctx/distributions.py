"""Numbers, candidates and distributions of a prior: checks, quantiles and JSON."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping
from numbers import Real

import numpy as np
import pyro.distributions as dist
import torch
from pyro.distributions import TorchDistribution as Distribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions.transforms import ExpTransform

from .checks import LARGEST, check_number, check_sequence, shorten
from .evidence import TINY, Truncated, truncate

__all__ = [
    "check_value",
    "decode",
    "encode",
    "log_uniform",
    "quantile",
    "support",
]

FAMILIES = {
    "Uniform": ("low", "high"),
    "Normal": ("loc", "scale"),
    "HalfNormal": ("scale",),
    "Beta": ("concentration1", "concentration0"),
}
"""Distributions that can be written to a file, besides ``log_uniform``, and their parameters."""

NAMES = {getattr(module, n): n for module in (dist, torch.distributions) for n in FAMILIES}


def log_uniform(low: float, high: float) -> Distribution:
    """Distribution whose logarithm is uniform.

    Parameters
    ----------
    low, high : float
        Bounds, 0 < low < high.

    Returns
    -------
    Distribution
        With density 1 / (x log(high / low)).

    Raises
    ------
    TypeError
        If a bound is not a number.
    ValueError
        If the bounds are not positive, or not in order.
    """
    bounds = [check_number(low, "low", (1e-37, LARGEST)), check_number(high, "high")]
    if not low < high:
        raise ValueError(
            f"bounds low < high were expected for log_uniform, got {low:g} and {high:g}; "
            "exchange them"
        )
    logarithms = [math.log(b) for b in bounds]
    _check_parameters("log_uniform", logarithms, "the prior")
    return dist.TransformedDistribution(dist.Uniform(*map(_single, logarithms)), [ExpTransform()])


def _single(value: float) -> Tensor:
    """A number in single precision, whatever the default of torch is."""
    return torch.tensor(value, dtype=torch.float32)


def quantile(
    value: object, u: Tensor, domain: tuple[float, float] = (-math.inf, math.inf)
) -> Tensor:
    """Quantiles of a number, of candidates or of a distribution.

    Parameters
    ----------
    value : float, tuple or Distribution
        What may occur; candidates are equally probable.
    u : Tensor
        Probabilities from 0 to 1.
    domain : tuple of float
        Bounds to which a distribution is truncated.

    Returns
    -------
    Tensor, of the shape and dtype of u
        Always finite: at 0 and 1 an unbounded distribution is at its quantiles of 2**-25 and
        1 - 2**-25. A distribution without ``icdf`` is tabulated, see ``evidence.Truncated``; the
        tables of the last 256 distributions are kept.

    Raises
    ------
    ValueError
        If a distribution has less than 1 % of its mass in the domain.
    """
    if isinstance(value, tuple):
        values = torch.tensor(value, dtype=u.dtype, device=u.device)
        return values[(u * len(value)).long().clamp(max=len(value) - 1)]
    if not isinstance(value, torch.distributions.Distribution):
        return torch.full_like(u, float(value))
    inside = _truncated(value, *domain)
    values = inside.icdf(u).to(u)
    if bool(values.isfinite().all()):
        return values
    bounded = inside.icdf(u.double().clamp(TINY, 1 - TINY)).to(u)
    return torch.where(values.isfinite(), values, bounded)


@functools.lru_cache(maxsize=256)
def _truncated(value: Distribution, low: float, high: float) -> Distribution:
    """A distribution within bounds, the same for the same object."""
    return truncate(value, low, high)[0]


def support(value: object) -> tuple[float, float]:
    """Bounds of a number, of candidates or of a distribution.

    Parameters
    ----------
    value : float, tuple or Distribution
        What may occur.

    Returns
    -------
    tuple of float
        Smallest and largest value, infinite where there is none.
    """
    if isinstance(value, tuple):
        return min(value), max(value)
    if not isinstance(value, torch.distributions.Distribution):
        return value, value
    name, parameters = _family(value)
    if name == "Uniform":
        return tuple(parameters)
    if name == "log_uniform":
        return math.exp(parameters[0]), math.exp(parameters[1])
    constraint = _constraint(value)
    low = getattr(constraint, "lower_bound", -math.inf)
    return float(low), float(getattr(constraint, "upper_bound", math.inf))


def _constraint(value: Distribution) -> object:
    """The support of a distribution as torch states it, None if it does not."""
    try:
        return value.support
    except NotImplementedError:
        return None


def _family(value: Distribution) -> tuple[str | None, list[float]]:
    """Name (None if it cannot be written) and parameters, of log_uniform as logarithms."""
    name = NAMES.get(type(value))
    if name is not None:
        return name, [float(getattr(value, n)) for n in FAMILIES[name]]
    if isinstance(value, torch.distributions.TransformedDistribution):
        base, transforms = value.base_dist, value.transforms
        is_exp = [type(t) for t in transforms] == [ExpTransform]
        if is_exp and isinstance(base, torch.distributions.Uniform):
            return "log_uniform", [float(base.low), float(base.high)]
    return None, []


def _check_parameters(name: str, parameters: list[float], label: str) -> None:
    """Raise for parameters with which a distribution is not defined in single precision."""
    least = -87.0 if name == "log_uniform" else -LARGEST
    for value in parameters:
        check_number(value, f"a parameter of {name} for {label}", (least, -least))
    singles = [np.float32(p) for p in parameters]
    rules = {"Uniform": "low < high", "log_uniform": "low < high", "Beta": "both parameters > 0"}
    rule = rules.get(name, "scale > 0")
    is_positive = min(singles) > 0 if name == "Beta" else singles[-1] > 0
    if not (singles[0] < singles[1] if rule == "low < high" else is_positive):
        raise ValueError(
            f"{name} with {rule} was expected for {label}, got {parameters}; correct it"
        )


def check_value(value: object, label: str, domain: tuple[float, float]) -> object:
    """Check a number, candidates or a distribution.

    Parameters
    ----------
    value : object
        What should be one of them.
    label : str
        Its name, for errors.
    domain : tuple of float
        Smallest and largest value.

    Returns
    -------
    float, tuple of float, or Distribution
        The value; a distribution that can be written to a file is in single precision.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is outside of the domain or not finite, or a distribution of several numbers.
    """
    if isinstance(value, torch.distributions.Distribution):
        return _check_distribution(value, label, domain)
    if isinstance(value, tuple | list):
        return tuple(check_number(v, label, domain) for v in check_sequence(value, label))
    if isinstance(value, bool) or not isinstance(value, Real):
        raise TypeError(
            f"a number, a tuple of candidates or a distribution was expected for {label}, "
            f"got {shorten(value)}; correct it"
        )
    return check_number(value, label, domain)


def _check_distribution(
    value: Distribution, label: str, domain: tuple[float, float]
) -> Distribution:
    """A distribution of one number inside the domain; open ends need only overlap with it."""
    if value.batch_shape or value.event_shape:
        raise ValueError(
            f"a distribution of one number was expected for {label}, got one of shape "
            f"{tuple(value.shape())}; give one distribution per variable"
        )
    name, parameters = _family(value)
    if name is not None:
        _check_parameters(name, parameters, label)
    low, high = support(value)
    if math.isfinite(low) and math.isfinite(high):
        check_number(low, f"the lower bound of {label}", domain)
        check_number(high, f"the upper bound of {label}", domain)
    elif not (low < domain[1] and high > domain[0]):
        raise ValueError(
            f"{label} was expected between {domain[0]:g} and {domain[1]:g}, got "
            f"{shorten(value)}; correct it"
        )
    if name is None:
        if getattr(_constraint(value), "is_discrete", False):
            raise ValueError(
                f"a continuous distribution was expected for {label}, got {shorten(value)}; "
                "give candidates as a tuple"
            )
        return value
    first = value.base_dist.low if name == "log_uniform" else getattr(value, FAMILIES[name][0])
    is_own = isinstance(value, TorchDistributionMixin) and first.dtype == torch.float32
    return value if is_own else decode(encode(value))


def encode(value: object) -> object:
    """Write a number, candidates or a distribution as JSON values.

    Parameters
    ----------
    value : float, tuple or Distribution
        Uniform, Normal, HalfNormal, Beta or log-uniform, or one of them truncated.

    Returns
    -------
    object
        Read back by ``decode`` without any difference.

    Raises
    ------
    ValueError
        If it is another distribution.
    """
    if isinstance(value, tuple):
        return list(value)
    if not isinstance(value, torch.distributions.Distribution):
        return value
    if isinstance(value, Truncated):
        return {"Truncated": [encode(value.base), value.low, value.high]}
    name, parameters = _family(value)
    if name is None:
        raise ValueError(
            f"a distribution among {', '.join(FAMILIES)} and log_uniform was expected, "
            f"got {value}; use one of them, since others cannot be written to a file"
        )
    if name == "log_uniform":
        return {name: [_shortest(math.exp(p), p) for p in parameters]}
    return {name: [float(str(np.float32(p))) + 0.0 for p in parameters]}


def _shortest(value: float, logarithm: float) -> float:
    """The number of fewest digits that has a logarithm in single precision."""
    found = (float(f"{value:.{digits}g}") for digits in range(1, 18))
    return next((v for v in found if np.float32(math.log(v)) == np.float32(logarithm)), value)


def decode(value: object) -> object:
    """Read a number, candidates or a distribution from JSON values.

    Parameters
    ----------
    value : object
        As returned by ``encode``.

    Returns
    -------
    float, tuple or Distribution
        The value; numbers and candidates are not checked, see ``check_value``.

    Raises
    ------
    TypeError, ValueError
        If it is no distribution of this package.

    Examples
    --------
    >>> decode({"Normal": [0.0, 2.0]})
    Normal(loc: 0.0, scale: 2.0)
    """
    if not isinstance(value, Mapping):
        return tuple(value) if isinstance(value, list) else value
    name, arguments = next(iter(value.items()), (None, None))
    known = {**FAMILIES, "log_uniform": ("low", "high"), "Truncated": ("base", "low", "high")}
    if len(value) != 1 or name not in known:
        raise ValueError(
            f"a distribution among {', '.join(known)} was expected, got {shorten(dict(value))}; "
            "write it as {name: [parameters]}"
        )
    if not isinstance(arguments, list) or len(arguments) != len(known[name]):
        raise ValueError(
            f"a list of {', '.join(known[name])} was expected for {name}, "
            f"got {shorten(arguments)}; correct it"
        )
    base = _decode_base(arguments[0]) if name == "Truncated" else None
    numbers = [
        check_number(a, f"{p} of {name}")
        for a, p in zip(arguments, known[name], strict=True)
        if p != "base"
    ]
    if base is not None:
        return _truncate_base(base, *numbers)
    if name == "log_uniform":
        return log_uniform(*numbers)
    _check_parameters(name, numbers, "the prior")
    return getattr(dist, name)(*map(_single, numbers))


def _decode_base(value: object) -> Distribution:
    """The distribution that is truncated, which is not truncated itself."""
    if not isinstance(value, Mapping) or "Truncated" in value:
        raise ValueError(
            f"a distribution was expected as base of Truncated, got {shorten(value)}; correct it"
        )
    return decode(value)


def _truncate_base(base: Distribution, low: float, high: float) -> Truncated:
    """A distribution truncated to an interval in which it has mass."""
    found = Truncated(base, low, high) if low < high else None
    if found is None or not found.mass > 0:
        raise ValueError(
            f"an interval in which {base} has mass was expected, got {low:g} to {high:g}; "
            "correct its bounds"
        )
    return found
