"""Quantiles of any univariate distribution on an interval, without torch's global generator."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.distributions import Distribution, TransformedDistribution
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["NUM_DRAWS", "Table", "closed_form", "density", "evaluate", "in_double", "tabulate"]

NUM_DRAWS = 2**16
"""Draws of a distribution that has no cdf; their quantiles err by 0.002 in probability."""

NUM_CELLS, MAX_CELLS = 256, 50_000  # of the grid, before and after its cells are split
UNEVEN = 0.02  # relative difference of the masses of quarters of a cell that is split
NEGLIGIBLE = 1e-8  # mass of a cell that is not split
NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)
# what a distribution may raise where a method is not implemented or fails
FAILURES = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True)
class Table:
    """Masses of an interval below ascending positions.

    Attributes
    ----------
    x, cumulative : ndarray, shape (position,)
        Positions, one twice where a point has mass, and the mass below each.
    has_density : bool
        Whether ``log_prob`` of the distribution is the density that was tabulated.
    """

    x: np.ndarray
    cumulative: np.ndarray
    has_density: bool = True


class _OwnGenerator(TorchDispatchMode):
    """Random operations of this thread draw from a new generator, not from the global one."""

    def __init__(self) -> None:
        super().__init__()
        self.generator = torch.Generator().manual_seed(0)

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Do without the compiler, whose import takes a second."""
        return False

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        kwargs = dict(kwargs or {})
        if torch.Tag.nondeterministic_seeded in func.tags:
            if all(a.name != "generator" for a in func._schema.arguments):
                # rand and its like take a generator in another overload
                overload = func._overloadname.replace("default", "")
                func = getattr(func.overloadpacket, f"{overload}_generator".lstrip("_"))
            kwargs["generator"] = self.generator
        return func(*args, **kwargs)


def in_double(value: Any) -> Any:
    """Copy a distribution in double precision on the CPU that does not check its arguments.

    Parameters
    ----------
    value : Distribution, Tensor or object
        A distribution, or one of its attributes.

    Returns
    -------
    Distribution, Tensor or object
        The copy; what is neither distribution nor tensor is returned as it is.

    Raises
    ------
    ValueError
        If a tensor holds no numbers.
    """
    if isinstance(value, Distribution):
        changed = copy.copy(value)
        changed.__dict__.update({name: in_double(v) for name, v in vars(value).items()})
        changed.__dict__["_validate_args"] = False
        return changed
    if isinstance(value, Tensor):
        if value.is_meta:
            raise ValueError(
                "a distribution with numbers as parameters was expected, got one with tensors on "
                "the device meta, which hold none; build it on the CPU"
            )
        value = value.detach().cpu()
        return value.double() if value.is_floating_point() else value
    return value


@torch.no_grad()
def evaluate(method: Callable[[Tensor], Tensor], x: np.ndarray) -> np.ndarray | None:
    """Evaluate a method of a distribution.

    Parameters
    ----------
    method : callable
        ``cdf``, ``icdf`` or ``log_prob``.
    x : ndarray
        Arguments.

    Returns
    -------
    ndarray, of the shape of x, or None
        None where the method is not implemented or fails.
    """
    try:
        values = method(torch.from_numpy(x)).detach().cpu().double().numpy()
    except FAILURES:
        return None
    return values if values.shape == x.shape else None


def _supported(law: Distribution, x: Tensor) -> Tensor:
    """1 in the support and 0 outside, whose formulas may give anything there."""
    inside = torch.ones_like(x, dtype=torch.bool)
    while isinstance(law, TransformedDistribution):
        for transform in reversed(law.transforms):
            inside &= transform.codomain.check(x)
            x = transform.inv(x)
        law = law.base_dist
    return inside & law.support.check(x)


def _inside(law: Distribution, x: np.ndarray) -> np.ndarray:
    """Whether positions are in the support, as far as it is known."""
    found = evaluate(lambda t: _supported(law, t), x)
    return np.ones(x.shape, bool) if found is None else found > 0


def _cdf(law: Distribution, x: np.ndarray) -> np.ndarray | None:
    """Cumulative probabilities at ascending positions; 0 or 1 outside of the support."""
    values = evaluate(law.cdf, x)
    if values is None:
        return None
    known = _inside(law, x) & ~np.isnan(values)
    if not known.any():
        return None
    values[~known] = np.interp(x[~known], x[known], values[known], left=0.0, right=1.0)
    return np.maximum.accumulate(values)


def density(law: Distribution, x: np.ndarray) -> np.ndarray | None:
    """Probability density, or probability of points.

    Parameters
    ----------
    law : Distribution
        From ``in_double``.
    x : ndarray
        Where.

    Returns
    -------
    ndarray, of the shape of x, or None
        0 outside of the support and where ``log_prob`` is not finite; None without ``log_prob``.
    """
    values = evaluate(law.log_prob, x)
    if values is None:
        return None
    return np.nan_to_num(np.exp(values), nan=0.0, posinf=0.0) * _inside(law, x)


def closed_form(law: Distribution, low: float, high: float) -> tuple[float, float] | None:
    """Cumulative probabilities of the bounds of an interval in closed form.

    Parameters
    ----------
    law : Distribution
        From ``in_double``.
    low, high : float
        Bounds.

    Returns
    -------
    tuple of float, or None
        None unless the distribution has ``cdf`` and ``icdf``, inverse to each other.
    """
    support = evaluate(law.icdf, np.array([0.0, 1.0]))
    if support is None or np.isnan(support).any():
        return None
    # the mass of a point at the lower bound belongs to the interval
    ends = _cdf(law, np.clip([np.nextafter(low, -np.inf), high], *support))
    if ends is None or not ends[1] > ends[0]:
        return None
    some = ends[0] + np.ptp(ends) * np.array([0.1, 0.5, 0.9])
    found = evaluate(law.icdf, some)
    again = None if found is None else _cdf(law, found)
    if again is None or not np.abs(again - some).max() < 1e-6:
        return None
    return float(ends[0]), float(ends[1])


def tabulate(law: Distribution, low: float, high: float) -> Table:
    """Tabulate the cumulative probabilities of any univariate distribution in an interval.

    Parameters
    ----------
    law : Distribution
        From ``in_double``.
    low, high : float
        Bounds; infinite ones are replaced by some far outside of the draws.

    Returns
    -------
    Table
        From the ``cdf``; else from integrals of the density, on a grid that includes draws in order
        to resolve narrow peaks; else from the probabilities of the points that were drawn; else
        from the draws.

    Raises
    ------
    ValueError
        If the distribution has neither a ``cdf`` nor a ``log_prob`` nor a ``sample`` that works.
    """
    draws = _draws(law)
    low, high = _finite(low, high, draws)
    grid = np.linspace(low, high, NUM_CELLS + 1)
    if _cdf(law, grid) is not None:
        grid[0] = np.nextafter(low, -np.inf)
        return _refine(lambda x: np.diff(_cdf(law, x)), grid)
    has_density = density(law, grid) is not None
    if draws is None:
        if not has_density:
            raise ValueError(
                "a distribution with a cdf, log_prob or sample method that works was expected, "
                f"got a {type(law).__name__}; give candidates in a list"
            )
        return _refine(lambda x: _integrals(law, x), grid)
    points, counts = np.unique(draws, return_counts=True)
    if has_density and len(points) == len(draws):
        grid = np.unique(np.clip(np.concatenate([grid, _ladder(draws)]), low, high))
        table = _refine(lambda x: _integrals(law, x), grid)
        share = ((draws >= low) & (draws <= high)).sum() / NUM_DRAWS
        if abs(table.cumulative[-1] - share) < 0.02:
            return table
    weight = density(law, points)
    is_exact = weight is not None and abs(weight.sum() - 1) < 0.01
    weight = (weight if is_exact else counts) / (weight.sum() if is_exact else NUM_DRAWS)
    inside = (points >= low) & (points <= high)
    edges = np.repeat(np.append(0.0, weight[inside].cumsum()), 2)
    return Table(np.append(low, np.repeat(points[inside], 2)), edges[:-1], is_exact)


def _ladder(draws: np.ndarray) -> np.ndarray:
    """Grid positions: a thousand quantiles, and steps of increasing width beyond them."""
    draws = draws[np.isfinite(draws)]
    if not len(draws):
        return draws
    some = np.append(draws[:: NUM_DRAWS // 1024], draws[-1])
    steps = np.ptp(some[len(some) // 4 : -len(some) // 4]) * 2.0 ** np.arange(-10, 80)
    return np.concatenate([some[0] - steps, some, some[-1] + steps])


def _draws(law: Distribution) -> np.ndarray | None:
    """Sorted draws, None where the distribution gives none."""
    try:
        with torch.no_grad(), _OwnGenerator():
            values = law.sample(torch.Size([NUM_DRAWS])).double().numpy()
    except FAILURES:
        return None
    return np.sort(values[~np.isnan(values)]) if values.shape == (NUM_DRAWS,) else None


def _finite(low: float, high: float, draws: np.ndarray | None) -> tuple[float, float]:
    """Bounds of an interval; infinite ones are replaced by some far outside of the draws."""
    if np.isfinite(high - low):
        return low, high
    finite = np.zeros(0) if draws is None else draws[np.isfinite(draws)]
    if not len(finite):
        raise ValueError(
            f"finite bounds were expected for a distribution without draws, got {low:g} to "
            f"{high:g}; truncate it"
        )
    spread = 3 * (finite[-1] - finite[0])
    return max(low, finite[0] - spread), min(high, finite[-1] + spread)


def _integrals(law: Distribution, x: np.ndarray) -> np.ndarray:
    """Integrals of the density between ascending positions by Gauss-Legendre quadrature."""
    half = np.diff(x)[:, None] / 2
    return (half * WEIGHTS * density(law, x[:-1, None] + half * (1 + NODES))).sum(1)


def _refine(masses: Callable[[np.ndarray], np.ndarray], x: np.ndarray) -> Table:
    """Table on a grid whose cells are split until their mass is known and even."""
    span = x[-1] - x[0]
    while True:
        # the halves of a cell around a symmetric peak are equal, its quarters are not
        fine = np.append(x[:-1, None] + np.diff(x)[:, None] * np.arange(4) / 4, x[-1])
        quarters = masses(fine).reshape(-1, 4)
        whole = quarters.sum(1)
        total = whole.sum()
        uneven = np.ptp(quarters, 1) > UNEVEN * whole / 4
        wrong = np.abs(whole - masses(x)) > 1e-6 * total
        split = (uneven & (whole > NEGLIGIBLE * total) | wrong) & (np.diff(x) > 1e-13 * span)
        if not split.any() or len(x) > MAX_CELLS:
            return Table(fine, np.append(0.0, quarters.cumsum()))
        x = np.sort(np.append(x, fine[2::4][split]))
