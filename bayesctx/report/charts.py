"""Geometry of small charts: densities of draws, bars of probabilities, intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = ["Chart", "density_chart", "format_number", "format_spread"]

WIDTH, HEIGHT, BASE = 240.0, 74.0, 56.0
MOST_BINS, FEWEST_BINS = 40, 3
STEPS = (1, 2, 2.5, 5, 10)


@dataclass(frozen=True)
class Chart:
    """Prior and posterior of one variable, in units of a drawing of 240 x 74.

    Attributes
    ----------
    prior, posterior : str
        Outlines as data of an SVG path; empty where there are no draws.
    ticks : list of tuple
        Position along x, and the number there.
    is_log : bool
        Whether the axis is logarithmic.
    """

    prior: str
    posterior: str
    ticks: list[tuple[float, str]]
    is_log: bool


def density_chart(
    before: np.ndarray | None, after: np.ndarray, effective: float, *, is_log: bool = False
) -> Chart:
    """Chart of the densities of draws before and after the image was seen.

    Parameters
    ----------
    before : ndarray, shape (draw,), optional
        Draws of the prior.
    after : ndarray, shape (draw,)
        Of the posterior.
    effective : float
        Effective number of the latter, on which the number of bins depends.
    is_log : bool
        Whether the axis is logarithmic, if all draws are above zero.

    Returns
    -------
    Chart
        Both densities have an area of one, so that their heights compare.
    """
    every = after if before is None else np.concatenate([before, after])
    low, high = float(every.min()), float(every.max())
    is_log = is_log and low > 0
    if low == high:
        low, high = low - max(abs(low) * 1e-3, 1e-6), high + max(abs(high) * 1e-3, 1e-6)
    ends = np.log10([low, high]) if is_log else np.array([low, high])
    found = []
    for draws, number in ((before, 0 if before is None else before.size), (after, effective)):
        values = None if draws is None else np.log10(draws) if is_log else draws
        found.append(None if values is None else _density(values, number, np.ptp(ends)))
    top = max(d.max() for d, _ in (f for f in found if f is not None))
    paths = ["" if f is None else _outline(*f, ends, top) for f in found]
    place = [(v, t) for v, t in _ticks(low, high, is_log)]
    span = ends[1] - ends[0]
    ticks = [(WIDTH * ((np.log10(v) if is_log else v) - ends[0]) / span, t) for v, t in place]
    return Chart(*paths, ticks, is_log)


def _density(values: np.ndarray, number: float, whole: float) -> tuple[np.ndarray, np.ndarray]:
    """Density of draws, with as many bins as their effective number supports (Rice's rule)."""
    num_bins = int(np.clip(np.ceil(2 * max(number, 1) ** (1 / 3)), FEWEST_BINS, MOST_BINS))
    middle, reach = (values.min() + values.max()) / 2, max(np.ptp(values), 1e-3 * whole)
    edges = np.linspace(middle - reach / 2, middle + reach / 2, num_bins + 1)
    edges[0], edges[-1] = min(edges[0], values.min()), max(edges[-1], values.max())
    return np.histogram(values, edges, density=True)


def _outline(density: np.ndarray, edges: np.ndarray, ends: np.ndarray, top: float) -> str:
    """Steps of a histogram as data of an SVG path."""
    x = WIDTH * (edges - ends[0]) / (ends[1] - ends[0])
    y = BASE - (BASE - 4) * density / top
    steps = "".join(f"V{h:.1f}H{right:.1f}" for h, right in zip(y, x[1:], strict=True))
    return f"M{x[0]:.1f} {BASE:.1f}{steps}V{BASE:.1f}Z"


def _ticks(low: float, high: float, is_log: bool) -> list[tuple[float, str]]:
    """Two to five round numbers within an axis."""
    if is_log:
        powers = np.arange(np.ceil(np.log10(low)), np.floor(np.log10(high)) + 1)
        every = max(1, -(-len(powers) // 5))
        return [(float(10**p), _power(int(p))) for p in powers[::every]]
    rough = (high - low) / 4
    power = 10 ** np.floor(np.log10(rough))
    step = power * next(s for s in STEPS if s * power >= rough * (1 - 1e-9))
    values = step * np.arange(np.ceil(low / step - 1e-9), np.floor(high / step + 1e-9) + 1)
    digits = max(0, int(np.ceil(-np.log10(step) + 1e-9 + (step / power == 2.5))))
    return [(float(v), _signed(f"{v + 0.0:.{digits}f}")) for v in values]


def _power(exponent: int) -> str:
    """A power of ten with a raised exponent."""
    return "10" + str(exponent).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _signed(text: str) -> str:
    """A number with a minus instead of a hyphen."""
    return text.replace("-", "−")


def format_number(value: float, like: Sequence[float] = ()) -> str:
    """Write a number with the digits that an interval supports.

    Parameters
    ----------
    value : float
        The number.
    like : sequence of float
        Ends of the interval, the width of which keeps two digits. Of equal ends three digits of
        the number are kept, without an interval five.

    Returns
    -------
    str
        A dash for what is no number.
    """
    if not np.isfinite(value):
        return "–"
    width = float(np.ptp(like)) if len(like) else 0.0
    if 0 < width < np.inf:
        # a small end of an interval above zero is not rounded to zero
        scale = min(width, abs(value)) if min(like) > 0 else width
        digits = 1 - int(np.floor(np.log10(scale)))
        # minus zero is zero
        text = f"{round(value, digits) + 0.0:,.{min(max(digits, 0), 9)}f}"
    else:
        text = f"{float(f'{value:.{3 if len(like) else 5}g}') + 0.0:,}".removesuffix(".0")
    return _signed(text.replace(",", "\u202f"))


def format_spread(mean: float, deviation: float) -> str:
    """Write a mean with a standard deviation, to two digits of the latter.

    Parameters
    ----------
    mean, deviation : float
        Of draws.

    Returns
    -------
    str
        The mean alone, to five digits, where nothing varies.
    """
    if not deviation > 0:
        return format_number(mean)
    digits = 1 - int(np.floor(np.log10(deviation)))
    both = (f"{round(v, digits) + 0.0:,.{max(digits, 0)}f}" for v in (mean, deviation))
    return _signed(" ± ".join(both).replace(",", "\u202f"))
