"""Windows of pixels around sites, and the images of columns in them."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from .kernels import Kernels
from .view import View
from .world import UPDATED, Scan, World

__all__ = ["Canvas"]

DISPLACED = 1.0  # Å that a column may be displaced


@dataclass(eq=False)
class Canvas:
    """Residuals, weights and row shifts with a margin, in which windows are found by index.

    Attributes
    ----------
    rest, weight : Tensor, shape (detector, pixel)
        Image without what is expected, and inverse variance, with the margin.
    rows : Tensor, shape (row, 3)
        Displacement of the scan rows, see ``World``.
    along : Tensor, shape (column,)
        Place of the pixels along a row in Å from its middle.
    width, pad, half : int
        Pixels of a row, of the margin, and of half a window.
    """

    rest: Tensor
    weight: Tensor
    rows: Tensor
    along: Tensor
    width: int
    pad: int
    half: int

    @classmethod
    def of(cls, scan: Scan, world: World, view: View, half: int) -> Canvas:
        """Pad the image.

        Parameters
        ----------
        scan : Scan
            The scan.
        world, view : World, View
            Give the row shifts, the expectation and the variance.
        half : int
            Half of a window in px.

        Returns
        -------
        Canvas
            With weights of zero in the margin.
        """
        # windows of sites beyond the border, which may be displaced
        pad = 2 * half + math.ceil((UPDATED + DISPLACED) / scan.field.sampling)
        padded = [
            torch.nn.functional.pad(v, (pad,) * 4).flatten(1)
            for v in (scan.image - view.expected, 1 / view.variance)
        ]
        rows = torch.nn.functional.pad(world.row_shift, (0, 0, pad, pad))
        along = torch.nn.functional.pad(scan.field.axes[0], (pad, pad))
        return cls(*padded, rows, along, len(along), pad, half)

    def pad_images(self, images: Tensor) -> Tensor:
        """Put the margin around images.

        Parameters
        ----------
        images : Tensor, shape (*batch, y, x)
            Without it.

        Returns
        -------
        Tensor, shape (*batch, pixel)
            Zero in the margin.
        """
        return torch.nn.functional.pad(images, (self.pad,) * 4).flatten(-2)

    def cut_images(self, padded: Tensor, shape: tuple[int, int]) -> Tensor:
        """Take the margin off.

        Parameters
        ----------
        padded : Tensor, shape (*batch, pixel)
            See ``pad_images``.
        shape : tuple of int
            Pixels (y, x) of the scan.

        Returns
        -------
        Tensor, shape (*batch, y, x)
            Without it.
        """
        pad = self.pad
        whole = padded.unflatten(-1, (-1, self.width))
        return whole[..., pad : pad + shape[0], pad : pad + shape[1]]

    def windows(self, base: Tensor) -> tuple[Tensor, Tensor]:
        """List the pixels of windows.

        Parameters
        ----------
        base : Tensor of int, shape (site, 2)
            Pixels (x, y) at their centres.

        Returns
        -------
        index : Tensor of int, shape (site, pixel)
            Into the pixels of ``rest`` and ``weight``.
        rows : Tensor, shape (site, 2, pixel)
            Displacement (x, y) of every pixel with its scan row in Å.
        """
        window = torch.arange(-self.half, self.half + 1)
        offsets = (window[:, None] * self.width + window).flatten()
        index = ((base[:, 1] + self.pad) * self.width + base[:, 0] + self.pad)[:, None] + offsets
        x, y = (base + self.pad)[..., None].unbind(1)
        along_x, along_y, slant = self.rows[y + window][:, :, None].unbind(-1)
        along_y = along_y + slant * self.along[x + window][:, None]
        return index, torch.stack([along_x.expand_as(along_y), along_y], 1).flatten(2)

    def at(self, values: Tensor, index: Tensor) -> Tensor:
        """Take the pixels of windows.

        Parameters
        ----------
        values : Tensor, shape (detector, pixel)
            Such as ``rest``.
        index : Tensor of int, shape (site, pixel)
            Their pixels.

        Returns
        -------
        Tensor, shape (site, detector, pixel)
            In the windows.
        """
        return values[:, index].movedim(0, 1)

    def windows_at(
        self, scan: Scan, kernels: Kernels, positions: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """List the pixels of the windows of columns.

        Parameters
        ----------
        scan : Scan
            Size of the image.
        kernels : Kernels
            Tabulated columns.
        positions : Tensor, shape (site, 2)
            Of the columns, (x, y) in Å from the centre.

        Returns
        -------
        step, rest : Tensor, shapes (site,) and (site, 2)
            See ``Kernels.locate``.
        index, rows : Tensor, shapes (site, pixel) and (site, 2, pixel)
            See ``windows``.
        """
        base, step, rest = kernels.locate(_place(scan, positions))
        return step, rest, *self.windows(base)

    def columns_at(
        self, scan: Scan, kernels: Kernels, positions: Tensor, species: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Columns of some species at some positions, at a signal of one.

        Parameters
        ----------
        scan : Scan
            Size of the image.
        kernels : Kernels
            Tabulated columns.
        positions : Tensor, shape (site, 2)
            Of the columns, (x, y) in Å from the centre.
        species : Tensor of int, shape (site,)
            Theirs.

        Returns
        -------
        columns : Tensor, shape (site, detector, 3, pixel)
            Value, and derivatives along x and y.
        index : Tensor of int, shape (site, pixel)
            Their pixels.
        """
        columns, base = kernels.at(species, _place(scan, positions))
        index, turn = self.windows(base)
        # a row that is displaced sees the column displaced the other way
        columns[:, :, 0] -= (turn[:, None] * columns[:, :, 1:]).sum(2)
        return columns, index

    def slopes(
        self, scan: Scan, world: World, kernels: Kernels, sites: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Change of the image with excess and displacement of what some sites hold.

        Parameters
        ----------
        scan, world : Scan, World
            Species, positions and displacements.
        kernels : Kernels
            Tabulated columns.
        sites : Tensor of int, shape (site,)
            Which.

        Returns
        -------
        slopes : Tensor, shape (site, detector, 3, pixel)
            With the excess, and along x and y.
        index : Tensor of int, shape (site, pixel)
            Their pixels.
        """
        positions, species = scan.positions[sites] + world.shift[sites], world.species[sites]
        slopes, index = self.columns_at(scan, kernels, positions, species)
        amplitude = world.amplitude[:, species]
        slopes = slopes * amplitude.mT[..., None, None]
        slopes[:, :, 1:] *= 1 + world.excess[sites][..., None, None]
        return slopes, index


def _place(scan: Scan, positions: Tensor) -> Tensor:
    """Positions in px from the corner of the image."""
    return positions / scan.field.sampling + (torch.tensor(scan.field.shape[::-1]) - 1) / 2
