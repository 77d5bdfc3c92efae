"""Steps of the angles of a detector that keep the contrast of the columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from scipy.optimize import brentq
from torch import Tensor

from .coordinates import Coordinates
from .following import Joint
from .partners import log_density_at
from .signal import accepts, arrive
from .view import View
from .world import PERFECT, Scan, World

__all__ = ["Ring", "draw_rings", "rings_of"]

STEPS = 0.4, 1.2  # standard deviations of steps of the coordinate of the outer angle
REACH = 1.5  # of the coordinate of the inner angle, within which the contrast is the same again
CLOSE = 1e-6  # of that coordinate, up to which it is found
STEP = 0.01  # of a coordinate, for the slope of the contrast
COLUMNS = PERFECT[
    :2
].tolist()  # the species of the metals and of the chalcogens of a perfect crystal


@dataclass(frozen=True, eq=False)
class Ring:
    """Coordinates of a detector whose angles are both open.

    Attributes
    ----------
    detector : int
        Its position.
    inner, outer : int
        Positions of the coordinates of its angles.
    """

    detector: int
    inner: int
    outer: int

    def brightness(self, scan: Scan, z: Tensor) -> Tensor:
        """Intensity of the columns of a perfect crystal.

        Parameters
        ----------
        scan : Scan
            The scan.
        z : Tensor, shape (point, coordinate)
            Where.

        Returns
        -------
        Tensor, shape (point, column)
            Of a metal and of a pair of chalcogens, summed over all pixels, at a signal of one.
        """
        values, cell = scan.coordinates.values(z), (scan.field.column_cell,) * 2
        spectra = scan.field.spectra(values, scan.material, cell, (0, 0), COLUMNS)
        return spectra[:, self.detector, :, 0, 0].real.double()

    def step(self, scan: Scan, z: Tensor, change: float) -> tuple[Tensor, float] | None:
        """Change the outer angle, and the inner one such that the contrast stays.

        Parameters
        ----------
        scan : Scan
            The scan.
        z : Tensor, shape (coordinate,)
            Where.
        change : float
            Of the coordinate of the outer angle.

        Returns
        -------
        z : Tensor, shape (coordinate,)
            There.
        log_slope : float
            Log of the Jacobian of the map.
            None if the contrast is not found again.
        """
        wide, at = _placed(z, self.outer, float(z[self.outer]) + change), float(z[self.inner])
        asked = self._log_contrast(scan, z[None])[0]

        def excess(inner: float) -> float:
            return self._log_contrast(scan, _placed(wide, self.inner, inner)[None])[0] - asked

        try:
            there = _placed(wide, self.inner, brentq(excess, at - REACH, at + REACH, xtol=CLOSE))
        except ValueError:  # it has one sign at both ends
            return None
        before, after = (self._slope(scan, point) for point in (z, there))
        if before * after <= 0:
            return None
        return there, math.log(before / after)

    def _log_contrast(self, scan: Scan, z: Tensor) -> list[float]:
        """Log of the ratio of a metal to a pair of chalcogens at some points."""
        metal, chalcogen = self.brightness(scan, z).log().unbind(-1)
        return (metal - chalcogen).tolist()

    def _slope(self, scan: Scan, z: Tensor) -> float:
        """Slope of the log contrast along the coordinate of the inner angle."""
        inner = float(z[self.inner])
        ends = torch.stack([_placed(z, self.inner, inner + s * STEP) for s in (-1, 1)])
        low, high = self._log_contrast(scan, ends)
        return (high - low) / (2 * STEP)


def _placed(z: Tensor, k: int, value: float) -> Tensor:
    """A point with another value of one coordinate."""
    there = z.clone()
    there[k] = value
    return there


def rings_of(coordinates: Coordinates) -> Iterator[Ring]:
    """Detectors whose angles are both open.

    Parameters
    ----------
    coordinates : Coordinates
        Of the shared variables.

    Yields
    ------
    Ring
        One after the other.
    """
    names = coordinates.names
    for k in range(coordinates.num_detectors):
        ending = f"_{k}" if coordinates.detectors else ""
        pair = [f"{end}_collection_angle{ending}" for end in ("inner", "outer")]
        if all(name in names for name in pair):
            yield Ring(k, *(names.index(name) for name in pair))


def draw_rings(
    scan: Scan, world: World, view: View, near: Joint, generator: torch.Generator
) -> tuple[World, View]:
    """Draw the angles of every detector with the contrast of the columns kept.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    near : Joint
        Of the steps of the shared variables.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world, view : World, View
        After a Metropolis step of each of ``STEPS``, with signal, film and errors drawn anew, or as
        they were.

    Notes
    -----
    An image tells the angles of its detector by the ratio of heavy to light columns, to which a
    wide ring and a narrow one that begins farther out lead alike: the posterior is a long and bent
    ridge, along which signal and dose change too. Here the inner angle follows the outer one such
    that a metal and a pair of chalcogens have the same ratio, which is taken to change in one sense
    with the inner angle. The ratio of acceptance has the Jacobian of the map (Liu and Sabatti,
    Biometrika 87, 353 (2000), doi:10.1093/biomet/87.2.353).
    """
    rings = list(rings_of(scan.coordinates))
    if not rings:
        return world, view
    there, before = world, log_density_at(scan, world, view, near)
    for ring, size in itertools.product(rings, STEPS):
        change = size * float(torch.randn(1, generator=generator, dtype=torch.float64))
        found = ring.step(scan, there.z, change)
        if found is None:
            continue
        z, log_slope = found
        other = replace(there, z=z)
        after = log_density_at(scan, other, view, near)
        if accepts(after - before + log_slope, generator):
            there, before = other, after
    return (world, view) if there is world else arrive(scan, there, view, generator)
