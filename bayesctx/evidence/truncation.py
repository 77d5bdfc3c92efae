"""Soft evidence: univariate distributions truncated to an interval."""

from __future__ import annotations

import copy
from typing import ClassVar

import numpy as np
import torch
from pyro.distributions import TorchDistribution
from pyro.distributions.torch_distribution import TorchDistributionMixin
from torch import Tensor
from torch.distributions import Distribution, constraints

from .inversion import NUM_DRAWS, closed_form, density, evaluate, in_double, tabulate

__all__ = ["FEW_OUTSIDE", "MIN_MASS", "TINY", "Truncated", "truncate"]

MIN_MASS = 0.01
"""Share of its mass that a distribution must have inside of an interval to be truncated to it."""

FEW_OUTSIDE = 0.01
"""Largest share of the mass of a distribution that is cut off without a warning."""

TINY = 2.0**-25
"""Probability of the outermost quantiles: half a step of uniform numbers in single precision."""

STEP = 1e-3  # of a probability, for the derivative of a quantile


class Truncated(TorchDistribution):
    """A univariate distribution restricted to an interval and normalised there.

    Parameters
    ----------
    base : torch.distributions.Distribution
        Of one number: batch and event shape are empty.
    low, high : float
        Bounds of the interval; they may be infinite.

    Attributes
    ----------
    mass : float
        Probability of the interval under ``base``; the integral of a density without a norm.

    Raises
    ------
    ValueError
        If ``base`` has neither a ``cdf`` nor a ``log_prob`` nor a ``sample`` method that works.

    Notes
    -----
    Quantiles are exact where ``base`` has ``cdf`` and ``icdf``. Otherwise the ``cdf``, or else the
    integral of the density, is inverted on a grid whose cells are split until the density in each
    is constant to 2 %; for a density the first grid includes draws, which resolve narrow peaks. For
    a distribution of points, those among 65536 draws are weighted by their probability. Quantiles
    of these draws are used where there is neither ``cdf`` nor density, or where points and a
    density are mixed. The draws come from a separate generator with a fixed seed.
    """

    arg_constraints: ClassVar = {}

    def __init__(self, base: Distribution, low: float, high: float) -> None:
        self.base, self.low, self.high = base, float(low), float(high)
        super().__init__(validate_args=False)
        self._law = in_double(base)
        ends = closed_form(self._law, self.low, self.high)
        self._table = None if ends else tabulate(self._law, self.low, self.high)
        self._below, end = ends or (0.0, self._table.cumulative[-1])
        self.mass = float(end - self._below)

    def __repr__(self) -> str:
        return f"{' '.join(str(self.base).split())} between {self.low:g} and {self.high:g}"

    @property
    def support(self) -> constraints.Constraint:
        """The interval."""
        return constraints.interval(self.low, self.high)

    def expand(self, batch_shape: torch.Size, _instance: object = None) -> Truncated:
        """Return independent copies.

        Parameters
        ----------
        batch_shape : torch.Size
            Of the copies.
        _instance : object
            Not used.

        Returns
        -------
        Truncated
            With that batch shape.
        """
        expanded = copy.copy(self)
        expanded._batch_shape = torch.Size(batch_shape)
        return expanded

    def icdf(self, value: Tensor) -> Tensor:
        """Quantiles.

        Parameters
        ----------
        value : Tensor
            Probabilities.

        Returns
        -------
        Tensor, of the shape, dtype and device of value
            Inside of the interval.
        """
        # probabilities of 0 and 1 would give the bounds of the interval, also where it has no mass
        p = value.detach().cpu().double().clamp(TINY, 1 - TINY)
        p = (self._below + self.mass * p).numpy()
        if self._table is None:
            found = evaluate(self._law.icdf, p)
        else:
            found = np.interp(p, self._table.cumulative, self._table.x)
        found = torch.from_numpy(np.asarray(np.clip(found, self.low, self.high))).to(value)
        if not value.requires_grad:
            return found
        fixed = value.detach()
        near = [(fixed + s * STEP).clamp(0, 1) for s in (1, -1)]
        slope = (self.icdf(near[0]) - self.icdf(near[1])) / (near[0] - near[1])
        return found + (value - fixed) * slope

    def log_prob(self, value: Tensor) -> Tensor:
        """Log density, or log probability of a point.

        Parameters
        ----------
        value : Tensor
            Where.

        Returns
        -------
        Tensor, of the shape, dtype and device of value
            Minus infinity outside of the interval. Where the quantiles are those of draws, of the
            share of the draws within a thousandth of the interval.
        """
        x = value.detach().cpu().double().numpy()
        found = density(self._law, x)
        if found is None or not (self._table is None or self._table.has_density):
            p = torch.linspace(0, 1, NUM_DRAWS, dtype=torch.float64)
            edges, half = self.icdf(p).numpy(), (self.high - self.low) / 1000
            above, below = (edges.searchsorted(x + s * half) for s in (1, -1))
            found = (above - below) / NUM_DRAWS / (2 * half) * self.mass
        found = np.where((x >= self.low) & (x <= self.high), found / self.mass, 0.0)
        return torch.from_numpy(np.asarray(found)).log().to(value)

    def sample(self, sample_shape: torch.Size | tuple[int, ...] = ()) -> Tensor:
        """Draw by torch's global generator, as Pyro does.

        Parameters
        ----------
        sample_shape : torch.Size or tuple of int
            Of independent draws.

        Returns
        -------
        Tensor, shape (*sample_shape, *batch_shape)
            Draws.
        """
        return self.icdf(torch.rand(self._extended_shape(sample_shape)))


def truncate(
    distribution: Distribution, low: float, high: float, name: str = "the variable"
) -> tuple[TorchDistribution, float]:
    """Truncate a univariate distribution to an interval.

    Parameters
    ----------
    distribution : torch.distributions.Distribution
        Of one number.
    low, high : float
        Bounds; they may be infinite.
    name : str
        Of what is distributed, for errors.

    Returns
    -------
    truncated : TorchDistribution
        The same object if it is one of Pyro with its support inside, else a ``Truncated``.
    mass : float
        Share of the mass of ``distribution`` that is inside.

    Raises
    ------
    ValueError
        If less than 1 % of the mass is inside, or nothing can be computed of the distribution.
    """
    if isinstance(distribution, TorchDistributionMixin):
        ends = evaluate(in_double(distribution).icdf, np.array([0.0, 1.0]))
        # distributions hold their bounds in single precision
        if ends is not None and low - 1e-6 * abs(low) <= ends[0] <= ends[1]:
            if ends[1] <= high + 1e-6 * abs(high):
                return distribution, 1.0
    base, whole = distribution, 1.0
    if isinstance(distribution, Truncated):
        base, whole = distribution.base, distribution.mass
        low, high = max(low, distribution.low), min(high, distribution.high)
    cut = Truncated(base, low, high) if low < high else None
    mass = min(cut.mass / whole, 1.0) if cut else 0.0
    # not smaller: the mass is NaN where parameters are
    if not mass >= MIN_MASS:
        shown = " ".join(str(distribution).split())
        raise ValueError(
            f"{name} was expected to have mass between {low:g} and {high:g}, got {shown} with "
            f"{100 * mass:.2g} % of it there; check its unit"
        )
    return cut, mass
