"""What may be known about an image: names, units and domains, and the checks at the door."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
import xarray as xr
from pyro.distributions import TorchDistribution as Distribution

from .elements import METALS

__all__ = ["CONTEXT", "HOST_NAMES", "Variable", "check_context", "check_imaging"]

HOST_NAMES = (
    "MoS2",
    "MoSe2",
    "MoTe2",
    "WS2",
    "WSe2",
    "WTe2",
    "NbS2",
    "NbSe2",
    "TaS2",
    "TaSe2",
    "VS2",
    "VSe2",
)

Value = float | str | np.ndarray | tuple | Distribution
"""A context value after the check: observed (a number, a name or an array over images), candidates (a tuple) or soft."""


@dataclass(frozen=True)
class Variable:
    """A variable of the imaging context.

    Attributes
    ----------
    name, unit, title : str
        Name everywhere in the package, unit, and words for a plot.
    domain : tuple
        Smallest and largest value, or the names that it can take.
    slips : tuple of (str, float)
        Units that people use by mistake, and the factor from them to ``unit``.
    """

    name: str
    unit: str
    title: str
    domain: tuple
    slips: tuple[tuple[str, float], ...] = ()

    @property
    def is_name(self) -> bool:
        """Whether the values are names."""
        return isinstance(self.domain[0], str)

    @property
    def label(self) -> str:
        """Name with its unit in brackets."""
        return f"{self.name} [{self.unit}]" if self.unit else self.name


_ANGLE_SLIPS = (("rad", 1e3), ("µrad", 1e-3))
_LENGTH_SLIPS = (("nm", 10.0), ("pm", 0.01), ("m", 1e10))

CONTEXT = {
    v.name: v
    for v in (
        Variable("host", "", "host", HOST_NAMES),
        Variable("dopant", "", "dopant", METALS),
        Variable(
            "beam_energy",
            "eV",
            "beam energy",
            (30e3, 300e3),
            (("keV", 1e3), ("J", 1 / 1.602176634e-19)),
        ),
        Variable(
            "convergence_semiangle", "mrad", "convergence semi-angle", (15.0, 40.0), _ANGLE_SLIPS
        ),
        Variable(
            "inner_collection_angle", "mrad", "inner collection angle", (25.0, 250.0), _ANGLE_SLIPS
        ),
        Variable(
            "outer_collection_angle", "mrad", "outer collection angle", (30.0, 300.0), _ANGLE_SLIPS
        ),
        Variable("defocus", "Å", "defocus", (-100.0, 100.0), _LENGTH_SLIPS),
        Variable("dose", "e/Å²", "dose", (1e2, 1e8), (("e/nm²", 0.01),)),
        Variable("sampling", "Å/px", "sampling", (0.02, 0.6), _LENGTH_SLIPS),
    )
}
"""Every variable of the context and what the physics of this package covers."""


def check_context(
    context: Mapping[str, object] | xr.Dataset | None, domains: Mapping[str, tuple] | None = None
) -> dict[str, Value]:
    """Check what is known of an image and bring it into one form.

    Parameters
    ----------
    context : mapping or Dataset, optional
        Values by the names of ``CONTEXT``: a number or name (observed), a list of candidates, a Pyro distribution (soft
        evidence), or an array over images. What is left out is inferred.
    domains : mapping of str to tuple, optional
        Narrower domains: those of a model.

    Returns
    -------
    dict
        Name to value: ``float`` or ``str``, ``ndarray`` of shape (image,), ``tuple`` of candidates, or ``Distribution``.

    Raises
    ------
    TypeError
        If a value is of the wrong kind.
    ValueError
        For an unknown name, a value outside the domain, NaN, or a combination that cannot be.

    Examples
    --------
    >>> check_context({"host": "WSe2", "beam_energy": 80})
    Traceback (most recent call last):
        ...
    ValueError: beam_energy [eV] was expected between 30000 and 300000, got 80; 80 keV is 80000 eV
    """
    if context is None:
        return {}
    if not isinstance(context, Mapping):
        raise TypeError(
            f"the context was expected as a mapping such as {{'host': 'WSe2'}}, got {type(context).__name__}; {{}} infers all"
        )
    checked = {}
    for name, value in context.items():
        if name not in CONTEXT:
            close = difflib.get_close_matches(str(name), CONTEXT, 1)
            hint = f"did you mean {close[0]!r}?" if close else "leave a variable out to infer it"
            raise ValueError(
                f"unknown context variable {name!r}; known are {', '.join(v.label for v in CONTEXT.values())}; {hint}"
            )
        variable = CONTEXT[name]
        checked[name] = _check_value(variable, value, (domains or {}).get(name, variable.domain))
    _check_combination(checked)
    return checked


def check_imaging(
    beam_energy: float,
    convergence_semiangle: float,
    inner_collection_angle: float,
    outer_collection_angle: float,
) -> None:
    """Raise ``ValueError`` for a condition that the physics does not cover.

    Parameters
    ----------
    beam_energy, convergence_semiangle, inner_collection_angle, outer_collection_angle : float
        In eV and mrad.

    Raises
    ------
    ValueError
        See ``check_context``.
    """
    check_context(
        {
            "beam_energy": beam_energy,
            "convergence_semiangle": convergence_semiangle,
            "inner_collection_angle": inner_collection_angle,
            "outer_collection_angle": outer_collection_angle,
        }
    )


def _check_value(variable: Variable, value: object, domain: tuple) -> Value:
    """One value in its one form."""
    if value is None:
        raise TypeError(
            f"{variable.label} was expected to have a value, got None; leave it out to infer it"
        )
    if isinstance(value, Distribution | torch.distributions.Distribution):
        return _check_distribution(variable, value, domain)
    if isinstance(value, xr.DataArray):
        value = value.values
    if isinstance(value, torch.Tensor):
        value = value.detach().cpu().numpy()
    if isinstance(value, np.ndarray) and value.ndim:
        if value.ndim > 1:
            raise ValueError(
                f"{variable.label} was expected as one value per image, got an array of shape {value.shape}"
            )
        return np.array([_check_scalar(variable, v, domain) for v in value.tolist()])
    if isinstance(value, list | tuple | set | frozenset | range):
        candidates = tuple(_check_scalar(variable, v, domain) for v in value)
        if not candidates:
            raise ValueError(
                f"{variable.label} was expected to have candidates, got an empty list; leave it out to infer it"
            )
        return candidates
    return _check_scalar(
        variable, value.item() if isinstance(value, np.ndarray | np.generic) else value, domain
    )


def _check_scalar(variable: Variable, value: object, domain: tuple) -> float | str:
    """A name or a number inside the domain."""
    if variable.is_name:
        if not isinstance(value, str):
            raise TypeError(
                f"{variable.name} was expected as a name, got {value!r}; choose from {', '.join(domain)}"
            )
        if value not in domain:
            spelled = [name for name in domain if name.lower() == value.lower()]
            close = spelled or difflib.get_close_matches(value, domain, 1)
            hint = f"did you mean {close[0]!r}?" if close else f"choose from {', '.join(domain)}"
            raise ValueError(f"{variable.name} {value!r} is not known to this model; {hint}")
        return value
    if isinstance(value, bool | str) or not isinstance(value, int | float):
        raise TypeError(
            f"{variable.label} was expected as a number, a list of candidates or a distribution, got {value!r}"
        )
    low, high = domain
    if math.isnan(value):
        raise ValueError(
            f"{variable.label} was expected between {low:g} and {high:g}, got NaN; leave it out to infer it"
        )
    # float32 arrays carry bounds inexactly
    slack = 1e-6 * max(abs(low), abs(high))
    if not low - slack <= value <= high + slack:
        message = f"{variable.label} was expected between {low:g} and {high:g}, got {value:g}"
        for unit, factor in variable.slips:
            if low <= value * factor <= high:
                raise ValueError(
                    f"{message}; {value:g} {unit} is {value * factor:g} {variable.unit}"
                )
        raise ValueError(f"{message}; leave it out to infer it")
    return float(min(max(value, low), high))


def _check_distribution(
    variable: Variable, value: torch.distributions.Distribution, domain: tuple
) -> Distribution:
    """A univariate distribution with mass inside the domain."""
    if variable.is_name:
        raise TypeError(
            f"{variable.name} was expected as a name or a list of names, got a distribution; weigh names by repeating them"
        )
    if tuple(value.batch_shape) + tuple(value.event_shape):
        raise ValueError(
            f"{variable.label} was expected as a distribution of one number, got one of shape {tuple(value.shape())}"
        )
    low, high = domain
    with torch.random.fork_rng():
        torch.manual_seed(0)
        inside = [(low <= v <= high) for v in value.sample((256,)).tolist()]
    if not any(inside):
        raise ValueError(
            f"{variable.label} was expected to have mass between {low:g} and {high:g}, got {value}; check its unit"
        )
    return value


def _options(checked: Mapping[str, Value], name: str) -> tuple | None:
    """All values that a variable can take, None where that is not a finite set."""
    value = checked.get(name)
    if isinstance(value, tuple):
        return value
    if isinstance(value, np.ndarray):
        return tuple(value.tolist())
    return (value,) if isinstance(value, float | str) else None


def _pairs(checked: Mapping[str, Value], first: str, second: str) -> Iterable[tuple]:
    """Combinations of two variables: image by image where both are arrays, every one otherwise."""
    a, b = _options(checked, first), _options(checked, second)
    if a is None or b is None:
        return []
    if isinstance(checked[first], np.ndarray) and isinstance(checked[second], np.ndarray):
        if len(a) != len(b):
            raise ValueError(
                f"{first} and {second} were expected for the same images, got {len(a)} and {len(b)} values"
            )
        return list(zip(a, b, strict=True))
    return [(u, v) for u in a for v in b]


def _check_combination(checked: Mapping[str, Value]) -> None:
    """Raise for values that exclude each other."""
    rules = (
        ("inner_collection_angle", "outer_collection_angle", lambda a, b: a < b, "an inner below the outer collection angle"),
        ("convergence_semiangle", "inner_collection_angle", lambda a, b: a <= b, "a detector outside of the probe's cone"),
        ("host", "dopant", lambda a, b: re.match("[A-Z][a-z]?", a)[0] != b, "a dopant other than the metal of the host"),
    )  # fmt: skip
    for first, second, allowed, expected in rules:
        pairs = _pairs(checked, first, second)
        observed_by_image = all(isinstance(checked.get(n), np.ndarray) for n in (first, second))
        verdicts = [allowed(a, b) for a, b in pairs]
        # of candidates, one possible combination is enough
        if verdicts and not (all(verdicts) if observed_by_image else any(verdicts)):
            a, b = pairs[verdicts.index(False)]
            raise ValueError(
                f"{expected} was expected, got {first} {a} and {second} {b}; check both or leave one out"
            )
