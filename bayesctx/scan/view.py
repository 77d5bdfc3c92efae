"""What follows from a world: images, expectation and variance of the pixels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .field import frequencies
from .world import Scan, World

__all__ = ["View", "look", "render", "rescaled", "spectra_of", "total_spectrum", "variance_of"]

LEAST_VARIANCE = 0.02  # of its mean


@dataclass(frozen=True, eq=False)
class View:
    """What follows from a world.

    Attributes
    ----------
    values : dict of str to Tensor, shape (1,)
        The shared variables; collection angles have the shape (1, detector).
    spectra : Tensor, shape (detector, species, qy, qx)
        Coefficients of one column of every species.
    factors : dict of int to Tensor, shape (detector, qy, qx)
        Structure factors of the species that occur.
    images : Tensor, shape (detector, species that occur, y, x), or None
        Their images at a signal of one, if they were asked for.
    columns : Tensor, shape (detector, y, x)
        Image of all columns with their errors of additivity, at a signal of one.
    expected : Tensor, shape (detector, y, x)
        Expected intensities.
    variance : Tensor, shape (detector, y, x)
        Of the noise; infinite where a pixel is not valid.
    """

    values: dict[str, Tensor]
    spectra: Tensor
    factors: dict[int, Tensor]
    images: Tensor | None
    columns: Tensor
    expected: Tensor
    variance: Tensor

    @property
    def used(self) -> list[int]:
        """The species that occur, in the order of the factors."""
        return list(self.factors)


def spectra_of(
    scan: Scan,
    z: Tensor,
    kept: Sequence[int] | None = None,
    values: dict[str, Tensor] | None = None,
) -> tuple[dict[str, Tensor], Tensor]:
    """Shared variables, and the spectra of the columns, moved as the coordinates say.

    Parameters
    ----------
    scan : Scan
        The scan.
    z : Tensor, shape (coordinate,)
        The last two are the common displacement, in units of ``Coordinates.translation``.
    kept : sequence of int, optional
        Species that are looked at; the spectra of the others are zero then.
    values : dict of str to Tensor, optional
        The shared variables, if known.

    Returns
    -------
    values : dict of str to Tensor, shape (1,)
        By name, see ``Coordinates.values``.
    spectra : Tensor, shape (detector, species, qy, qx)
        Of one column of every species.
    """
    values = scan.coordinates.values(z[None]) if values is None else values
    spectra = scan.field.spectra(values, scan.material, kept=kept)[0]
    if kept is not None:
        num_species = scan.material.num_species
        empty = spectra.new_zeros(len(spectra), num_species, *spectra.shape[2:])
        spectra = empty.index_copy(1, torch.tensor(kept), spectra)
    shift = scan.coordinates.translation(z)
    if bool(shift.any()):
        turns = [
            torch.polar(torch.ones_like(q), -2 * torch.pi * q * float(t))
            for q, t in zip(frequencies(scan.field.cell, scan.field.num_modes), shift, strict=True)
        ]
        spectra = spectra * (turns[1][:, None] * turns[0])
    return values, spectra


def look(
    scan: Scan,
    world: World,
    shared: tuple | None = None,
    factors: dict | None = None,
    *,
    apart: bool = True,
) -> View:
    """Compute what follows from a world.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The world.
    shared : tuple, optional
        ``spectra_of`` its coordinates, if known.
    factors : dict, optional
        Its structure factors, if known.
    apart : bool
        Render an image of every species. That of all columns alone takes a fraction of the time,
        and suffices as long as the errors of additivity stay.

    Returns
    -------
    View
        Images, expectation and variance, see ``variance_of``.
    """
    values, spectra = shared or spectra_of(scan, world.z)
    if factors is None:
        factors = scan.field.factors(scan.positions + world.shift, 1 + world.excess, world.species)
    if apart:
        images = render(scan, spectra, factors, world.row_shift)
        columns = _together(world, list(factors), images)
    else:
        images, total = None, total_spectrum(1 + world.errors, spectra, factors)
        columns = scan.field.images(total, world.row_shift)
    return View(values, spectra, factors, images, columns, *_expect(scan, world, columns))


def rescaled(scan: Scan, world: World, view: View) -> View:
    """Compute what follows from a world whose signal, errors, film or noise are others.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The world.
    view : View
        Of a world with the same columns and rows; and the same errors, if it has no images.

    Returns
    -------
    View
        As by ``look``, but the images are not rendered again.
    """
    has_images = view.images is not None
    columns = _together(world, view.used, view.images) if has_images else view.columns
    expected, variance = _expect(scan, world, columns)
    return replace(view, columns=columns, expected=expected, variance=variance)


def _together(world: World, used: Sequence[int], images: Tensor) -> Tensor:
    """Image of all columns with their errors, from those of the species that occur."""
    return torch.einsum("dk,dkyx->dyx", 1 + world.errors[:, used], images)


def _expect(scan: Scan, world: World, columns: Tensor) -> tuple[Tensor, Tensor]:
    """Expectation and variance of the pixels, from the image of all columns."""
    expected = world.signal[:, None, None] * columns + scan.film.images(world.film)
    return expected, variance_of(scan, expected, world.floor, world.slope)


def total_spectrum(amplitude: Tensor, spectra: Tensor, factors: dict[int, Tensor]) -> Tensor:
    """Coefficients of all columns together.

    Parameters
    ----------
    amplitude : Tensor, shape (detector, species)
        Of the columns of every species.
    spectra : Tensor, shape (detector, species, qy, qx)
        Of one column of every species.
    factors : dict of int to Tensor, shape (detector, qy, qx)
        Structure factors by species; at least one.

    Returns
    -------
    Tensor, shape (detector, qy, qx)
        Complex.
    """
    return sum(spectra[:, k] * f * amplitude[:, k, None, None] for k, f in factors.items())


def variance_of(scan: Scan, expected: Tensor, floor: Tensor, slope: Tensor) -> Tensor:
    """Variance of the noise.

    Parameters
    ----------
    scan : Scan
        Says which pixels are valid, and gives the heat.
    expected : Tensor, shape (detector, y, x)
        Expected intensities.
    floor, slope : Tensor, shape (detector,)
        Of the variance.

    Returns
    -------
    Tensor, shape (detector, y, x)
        Linear in the expectation, at least ``LEAST_VARIANCE`` of its mean; infinite where a pixel
        is not valid.
    """
    variance = floor[:, None, None] + slope[:, None, None] * expected
    # a line through the squares may cross zero where little is expected
    least = LEAST_VARIANCE * variance.mean((-2, -1), keepdim=True).abs()
    variance = scan.heat * variance.maximum(least)
    return variance if scan.valid is None else torch.where(scan.valid, variance, math.inf)


def render(scan: Scan, spectra: Tensor, factors: dict[int, Tensor], row_shift: Tensor) -> Tensor:
    """Images of the species that occur, at a signal of one.

    Parameters
    ----------
    scan : Scan
        The scan.
    spectra : Tensor, shape (detector, species, qy, qx)
        Of one column of every species.
    factors : dict of int to Tensor, shape (detector, qy, qx)
        Structure factors by species; at least one.
    row_shift : Tensor, shape (y, 3)
        Displacement of the scan rows, see ``World``.

    Returns
    -------
    Tensor, shape (detector, species that occur, y, x)
        In the order of the factors.
    """
    stacked = torch.stack([spectra[:, k] * f for k, f in factors.items()], 1)
    return scan.field.images(stacked, row_shift)
