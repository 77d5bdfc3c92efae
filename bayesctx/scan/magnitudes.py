"""The prior of magnitudes with an azimuth, as a mixture of normal distributions.

The distance of the coordinates of such a pair from their origin is half-normal and their direction
uniform, so that their density is infinite at the origin: near it no step of a trajectory is short
enough. Given a width, which is drawn before each trajectory, it is a normal density.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .coordinates import Coordinates
from .following import Joint, principal

__all__ = ["Widths"]

LEAST_WIDTH = 1e-4  # of a pair, for a finite precision


@dataclass(frozen=True, eq=False)
class Widths:
    """Standard deviations of pairs of coordinates.

    Attributes
    ----------
    coordinates : Coordinates
        Says which are pairs.
    width : Tensor, shape (pair,)
        Between 0 and 1, in double precision.
    """

    coordinates: Coordinates
    width: Tensor

    @staticmethod
    def draw(coordinates: Coordinates, z: Tensor, generator: torch.Generator) -> Widths:
        """Draw the widths given the coordinates.

        Parameters
        ----------
        coordinates : Coordinates
            Says which are pairs.
        z : Tensor, shape (coordinate,)
            Where.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Widths
            Of the law of the width given the distance.

        Notes
        -----
        If a square s² has the law Beta(1/2, 1/2) and two coordinates are normal with the standard
        deviation s, half the square of their distance is the product of s² and an exponential
        variable, which has the law Gamma(1/2) of half the square of a normal variable: the distance
        is half-normal. Given it, s² is its square over the sum of its square and that of an
        independent normal variable.

        References
        ----------
        Andrews and Mallows, Journal of the Royal Statistical Society B 36, 99 (1974),
        doi:10.1111/j.2517-6161.1974.tb00989.x.
        """
        distance = coordinates.distances(z)
        other = torch.randn(len(distance), generator=generator, dtype=z.dtype)
        width = distance / torch.hypot(distance, other)
        return Widths(coordinates, width.clamp(min=LEAST_WIDTH))

    def log_ratio(self, z: Tensor) -> Tensor:
        """Log of the prior density given the widths over that without, up to a constant.

        Parameters
        ----------
        z : Tensor, shape (coordinate,)
            Where.

        Returns
        -------
        Tensor, shape ()
            With it trajectories leave the law of the coordinates as it is, if the widths are drawn
            anew before each.
        """
        distance = self.coordinates.distances(z)
        return (distance.log() - 0.5 * distance.square() * (self.width**-2 - 1)).sum()

    def narrow(self, near: Joint) -> Joint:
        """Directions given the widths.

        Parameters
        ----------
        near : Joint
            Whose directions are those of the standard normal density of all coordinates.

        Returns
        -------
        Joint
            The same with others.
        """
        added = torch.zeros(len(near.factor), dtype=near.factor.dtype)
        for k, precision in zip(self.coordinates.first_of_pairs, self.width**-2 - 1, strict=True):
            added[k : k + 2] = precision
        unit = torch.eye(near.factor.shape[1], dtype=added.dtype)
        turn, _ = principal(unit + near.factor.mT * added @ near.factor)
        return replace(near, factor=near.factor @ turn)
