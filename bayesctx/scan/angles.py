"""Angles of probe and detectors, which bound each other."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..context import ANGLES, CONTEXT, MIN_ANGLE_RATIO
from ..distributions import quantile

__all__ = ["NO_SHARE", "Angle", "Angles"]

NUM_NODES = 16385  # of tabulated quantiles
NO_SHARE = 1e-12  # probability that stands for none, so that its logarithm is finite
LEAST_WIDTH = 1e-12  # mrad between two of them

Angle = tuple[str, int]
"""Name of an angle and position of the detector, zero for that of the probe."""


@dataclass(frozen=True, eq=False)
class Angles:
    """What is known of the angles that are open, each given those that come before it.

    Attributes
    ----------
    priors : mapping of Angle to Distribution
        Of those that are open.
    num_detectors : int
        Number of detectors.
    order : sequence of int
        Detectors whose angles do not decrease.
    """

    priors: Mapping[Angle, object]
    num_detectors: int
    order: Sequence[int] = ()

    def within(self, angle: Angle, u: Tensor, found: Mapping[Angle, Tensor]) -> Tensor:
        """Quantile of an angle among those that go with others.

        Parameters
        ----------
        angle : Angle
            One that is open.
        u : Tensor, shape (point,)
            Probabilities.
        found : mapping of Angle to Tensor, shape (point,)
            Angles that are known.

        Returns
        -------
        Tensor, shape (point,)
            In mrad.
        """
        low, high = self._bounds(angle, found)
        smallest, share = self.room(angle, found)
        value = quantile(self.priors[angle], smallest + share * u, CONTEXT[angle[0]].domain)
        return value.clamp(min=low, max=high)

    def room(self, angle: Angle, found: Mapping[Angle, Tensor]) -> tuple[Tensor, Tensor]:
        """Prior probability of an angle below those that go with others, and of these.

        Parameters
        ----------
        angle : Angle
            One that is open.
        found : mapping of Angle to Tensor, shape (point,)
            Angles that are known.

        Returns
        -------
        smallest, share : Tensor, shape (point,) or ()
            Probabilities.
        """
        smallest, largest = (self._law(angle, bound) for bound in self._bounds(angle, found))
        return smallest, (largest - smallest).clamp(min=0.0)

    def before(self, angle: Angle, values: Mapping[str, Tensor]) -> dict[Angle, Tensor]:
        """Select the angles that are known when one of them is read.

        Parameters
        ----------
        angle : Angle
            One that is open.
        values : mapping of str to Tensor, shape (point,) or (point, detector)
            Of all angles.

        Returns
        -------
        dict of Angle to Tensor, shape (point,)
            Those that are not open, and those that come first.
        """
        names = list(self.priors)
        later, found = names[names.index(angle) :], {}
        for name in ANGLES:
            columns = values[name].view(len(values[name]), -1).unbind(-1)
            found |= {(name, k): v for k, v in enumerate(columns) if (name, k) not in later}
        return found

    def log_mass(self, values: Mapping[str, Tensor]) -> Tensor:
        """Log of the prior probability that every open angle goes with those before it.

        Parameters
        ----------
        values : mapping of str to Tensor, shape (point,) or (point, detector)
            Of all angles.

        Returns
        -------
        Tensor, shape (point,)
            At least the logarithm of ``NO_SHARE`` for each.
        """
        found = torch.zeros_like(values[ANGLES[0]])
        for angle in self.priors:
            share = self.room(angle, self.before(angle, values))[1]
            found = found + share.clamp(min=NO_SHARE).log()
        return found

    def _bounds(self, angle: Angle, found: Mapping[Angle, Tensor]) -> tuple[Tensor, Tensor]:
        """Smallest and largest angle that goes with others."""
        pairs = self._pairs
        lows = [found[a] * ratio for a, b, ratio in pairs if b == angle and a in found]
        highs = [found[b] / ratio for a, b, ratio in pairs if a == angle and b in found]
        low = torch.stack(lows).amax(0) if lows else torch.tensor(-math.inf)
        high = torch.stack(highs).amin(0) if highs else torch.tensor(math.inf)
        return low, high

    @functools.cached_property
    def _pairs(self) -> list[tuple[Angle, Angle, float]]:
        """Angles of which the first, times a number, is not larger than the second."""
        semiangle, inner, outer = ANGLES
        found = []
        for k in range(self.num_detectors):
            found.append(((semiangle, 0), (inner, k), 1.0))
            found.append(((inner, k), (outer, k), MIN_ANGLE_RATIO))
        for low, high in itertools.pairwise(self.order):
            found += [((name, low), (name, high), 1.0) for name in (inner, outer)]
        return found

    def _law(self, angle: Angle, value: Tensor) -> Tensor:
        """Prior probability of smaller values, between tabulated quantiles."""
        table = self._tables[angle]
        above = torch.searchsorted(table, value.detach().to(table)).clamp(1, NUM_NODES - 1)
        width = (table[above] - table[above - 1]).clamp(min=LEAST_WIDTH)
        share = ((value - table[above - 1]) / width).clamp(0, 1)
        return (above - 1 + share) / (NUM_NODES - 1)

    @functools.cached_property
    def _tables(self) -> dict[Angle, Tensor]:
        """Quantiles."""
        u = torch.linspace(0, 1, NUM_NODES, dtype=torch.float64)
        return {(n, k): quantile(p, u, CONTEXT[n].domain) for (n, k), p in self.priors.items()}
