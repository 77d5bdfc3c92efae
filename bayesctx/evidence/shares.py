"""Evidence on the abundances: shares of defect classes among the sites of their kind."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import pyro.distributions as dist
import torch
from torch.distributions import Distribution

from ..checks import check_known, shorten
from ..context import Variable
from ..defects import DEFECTS, DOPED, SITES
from .codoping import Codoped
from .truncation import truncate
from .values import check_value

__all__ = ["Stick", "check_doping", "check_shares", "sticks_of"]

PERFECT = {classes[0]: kind for kind, classes in SITES.items()}
NODES = 4096  # of the quadrature of moments
ROUNDING = 1e-9  # of a sum of shares


@dataclass(frozen=True)
class Stick:
    """Fraction that one class takes of what the classes before it leave, a Beta distribution.

    Attributes
    ----------
    defect : str
        The class.
    mean : float
        Mean of the fraction.
    strength : float
        Sum of the parameters of the Beta distribution; infinite for a known fraction.
    """

    defect: str
    mean: float
    strength: float


def check_shares(values: object) -> dict[str, float | Distribution]:
    """Check what is known of the abundances.

    Parameters
    ----------
    values : mapping of str to float, tuple of float, or Distribution
        By defect class, its share of the sites of its own kind. A tuple (low, high) is uniform.

    Returns
    -------
    dict of str to float or Distribution
        In the order of ``DEFECTS``; a distribution is truncated to what numbers leave. Checking it
        again does not change it.

    Raises
    ------
    TypeError
        If it is no mapping, or a share is of the wrong kind.
    ValueError
        For an unknown class, a share that is not between 0 and 1, the class of the perfect crystal
        at 0, or shares on one kind of site that add up to more than 1, or to less where none of
        its classes is left open.
    """
    if not isinstance(values, Mapping):
        raise TypeError(
            "abundance was expected as a mapping such as {'V_X': 0.03, 'Y_X': 0.0}, got "
            f"{shorten(values)}; name the classes"
        )
    for name in values:
        check_known(name, "defect class in abundance", DEFECTS)
    shares = {n: _check_share(n, values[n]) for n in DEFECTS if n in values}
    for name, value in shares.items():
        if value == 0 and name in PERFECT:
            raise ValueError(
                f"a share above 0 was expected for {name}, the perfect {PERFECT[name]} site, got "
                "0; leave it out to infer it"
            )
    for name, value in shares.items():
        if isinstance(value, Distribution):
            room = min(_room(shares, kind) for kind, c in SITES.items() if name in c)
            shares[name] = truncate(value, 0.0, room, f"the share of {name}")[0]
    for kind in SITES:
        sticks_of(shares, kind)
    return shares


def check_doping(checked: Mapping[str, object]) -> dict[str, object]:
    """Make what is known of the dopant and of its abundance agree.

    Parameters
    ----------
    checked : mapping
        A context whose values were checked one by one.

    Returns
    -------
    dict
        The same; where the class of the dopant has a share of 0 the dopant is None.

    Raises
    ------
    ValueError
        If an undoped crystal has a share of the dopant, or a named dopant the share 0.
    """
    share = checked.get("abundance", {}).get(DOPED)
    if share is None:
        return dict(checked)
    is_undoped, dopant = bool(share == 0), checked.get("dopant")
    each = [dopant] if dopant is None or isinstance(dopant, str | Codoped) else dopant
    if "dopant" in checked and any((d is None) != is_undoped for d in each):
        raise ValueError(
            f"a dopant and a share of {DOPED} above 0, or neither, was expected, got dopant "
            f"{shorten(dopant)} and {DOPED} {shorten(share)}; leave one of them out"
        )
    return dict(checked) | ({"dopant": None} if is_undoped else {})


def sticks_of(shares: Mapping[str, float | Distribution], kind: str) -> list[Stick]:
    """Break the sites of one kind into the shares of the classes with evidence.

    Parameters
    ----------
    shares : mapping of str to float or Distribution
        By class; those that sites of this kind cannot hold are ignored.
    kind : str
        A key of ``SITES``.

    Returns
    -------
    list of Stick
        Numbers first, then distributions from the narrowest to the widest: the fraction that each
        class takes of what those before it leave.

    Raises
    ------
    ValueError
        If the shares cannot be independent fractions: they add up to more than 1, or to less where
        none of the classes is left open.

    Notes
    -----
    The share of class j is v_j prod_{i<j} (1 - v_i) with independent v of Beta distributions, whose
    parameters follow from the first two moments of the given shares. Where the shares before a
    class vary more than its own share may, its fraction is fixed and its mean alone is matched.
    """
    given = {n: _moments(shares[n]) for n in SITES[kind] if n in shares}
    order = sorted(given, key=lambda n: given[n][1] - given[n][0] ** 2)
    total, left, square, found = sum(m for m, _ in given.values()), 1.0, 1.0, []
    listed = ", ".join(f"{n} {shorten(shares[n])}" for n in given)
    if total > 1 + ROUNDING:
        raise ValueError(
            f"shares of the {kind} sites that add up to at most 1 were expected, got {listed} "
            f"(mean {total:.4g}); correct one of them"
        )
    if len(given) == len(SITES[kind]) and abs(total - 1) > ROUNDING:
        raise ValueError(
            f"shares of the {kind} sites that add up to 1 were expected where all classes are "
            f"given, got {listed} (mean {total:.4g}); leave one of them out"
        )
    for name in order:
        first, second = (given[name][0] / left, given[name][1] / square) if left > 0 else (0, 0)
        if first > 1 - ROUNDING:
            first = second = 1.0
        variance = second - first**2
        is_free = isinstance(shares[name], Distribution) and variance > ROUNDING * first**2
        # a fraction of 0 or 1, or beyond
        if is_free and second > first * (1 - ROUNDING):
            raise ValueError(
                f"shares of the {kind} sites with a density between 0 and 1, which never add up to "
                f"more than 1, were expected, got {listed}; give narrower distributions"
            )
        found.append(Stick(name, first, (first - second) / variance if is_free else math.inf))
        second = second if is_free else first**2
        left, square = left * (1 - first), square * (1 - 2 * first + second)
        if left <= ROUNDING:
            left = square = 0.0
    return found


def _check_share(name: str, value: object) -> float | Distribution:
    """A number from 0 to 1, or a distribution there."""
    variable = Variable(f"abundance of {name}", "share", "", (0.0, 1.0), (("%", 0.01),), 0.0)
    if isinstance(value, tuple) and len(value) == 2:
        low, high = (check_value(variable, end, variable.domain, 0.0) for end in value)
        if not low < high:
            raise ValueError(
                f"{variable.label} was expected as (low, high), got {value}; give one number if "
                "they are the same"
            )
        value = dist.Uniform(torch.tensor(low).float(), torch.tensor(high).float())
    found = None if value is None else check_value(variable, value, variable.domain, 0.0)
    if not isinstance(found, float | Distribution):
        raise TypeError(
            f"{variable.label} was expected as a number, as (low, high) or as a distribution, got "
            f"{shorten(value)}; leave it out to infer it"
        )
    return found


def _room(shares: Mapping[str, float | Distribution], kind: str) -> float:
    """What the known shares leave of the sites of a kind."""
    return 1.0 - sum(v for n, v in shares.items() if n in SITES[kind] and isinstance(v, float))


def _moments(share: float | Distribution) -> tuple[float, float]:
    """Mean of a share and of its square."""
    if isinstance(share, float):
        return share, share**2
    u = (torch.arange(NODES, dtype=torch.float64) + 0.5) / NODES
    values = share.icdf(u).double().clamp(0.0, 1.0)
    return float(values.mean()), float(values.square().mean())
