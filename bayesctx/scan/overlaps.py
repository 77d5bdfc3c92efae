"""Sums over the pixels around sites with the columns that may stand there."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .kernels import STEPS, Kernels

__all__ = ["Overlaps", "overlaps_of"]

PAIRS = list(itertools.combinations_with_replacement(range(3), 2))  # of value and derivatives
# rows and columns of a symmetric matrix of its elements in this order
SQUARE = torch.tensor([[0, 1, 2], [1, 3, 4], [2, 4, 5]])


@dataclass(frozen=True, eq=False)
class Overlaps:
    """Sums over the pixels of windows with the columns of species, wherever they stand.

    Attributes
    ----------
    columns : Tensor, shape (step, detector, species, 3, pixel)
        See ``Kernels``; the species of each kind of site after each other.
    products : Tensor, shape (step, detector, species, 6, pixel)
        Of any two of the image and its derivatives, in the order of ``PAIRS``.
    sizes : tuple of int
        Numbers of species of every kind.

    Notes
    -----
    A column that is displaced by u from a tabulated position, in a row that is displaced by t, is
    K + (u_x - t_x) dK/dx + (u_y - t_y) dK/dy. Sums over its pixels are those of tabulated columns
    with weights times powers of t: matrix products, without the columns of every species at every
    site.
    """

    columns: Tensor
    products: Tensor
    sizes: tuple[int, ...]

    @classmethod
    def of(cls, kernels: Kernels, species: Sequence[Tensor]) -> Overlaps:
        """Tabulate products.

        Parameters
        ----------
        kernels : Kernels
            Columns of all species.
        species : sequence of Tensor of int, shape (species,)
            Which of them are looked at, at every kind of site.

        Returns
        -------
        Overlaps
            Of these, in this order.
        """
        columns = kernels.values[:, :, torch.cat(list(species))]
        parts = columns.unbind(-2)
        products = torch.stack([parts[i] * parts[j] for i, j in PAIRS], -2)
        return cls(columns, products, tuple(map(len, species)))

    def gram(
        self, kind: Tensor, step: Tensor, rest: Tensor, weight: Tensor, turn: Tensor
    ) -> Tensor:
        """Sums of products of columns.

        Parameters
        ----------
        kind : Tensor of int, shape (site,)
            Of every site.
        step, rest : Tensor, shapes (site,) and (site, 2)
            See ``Kernels.locate``.
        weight : Tensor, shape (site, detector, pixel)
            Of the pixels.
        turn : Tensor, shape (site, 2, pixel)
            Displacement (x, y) of their rows in Å.

        Returns
        -------
        Tensor, shape (site, detector, species, 3, 3)
            Of value and derivatives.
        """
        powers = torch.cat([_to_first_order(weight, turn), _to_second_order(weight, turn)], 2)
        found = self._sums(self.products, kind, step, powers)[..., SQUARE]
        plain, along_x, along_y, xx, xy, yy = found.unbind(2)
        moved = _displaced(rest)
        crossed = along_x[..., 1:2, :] @ moved.mT + along_y[..., 2:, :] @ moved.mT
        gram = moved @ plain @ moved.mT
        gram[..., 0, :] -= crossed[..., 0, :]
        gram[..., 0] -= crossed[..., 0, :]
        gram[..., 0, 0] += xx[..., 1, 1] + 2 * xy[..., 1, 2] + yy[..., 2, 2]
        return gram

    def dot(self, kind: Tensor, step: Tensor, rest: Tensor, seen: Tensor, turn: Tensor) -> Tensor:
        """Sums of products of columns and an image.

        Parameters
        ----------
        kind, step, rest : Tensor
            See ``gram``.
        seen : Tensor, shape (site, detector, pixel)
            The image times the weight of the pixels.
        turn : Tensor, shape (site, 2, pixel)
            See ``gram``.

        Returns
        -------
        Tensor, shape (site, detector, species, 3)
            Of value and derivatives.
        """
        found = self._sums(self.columns, kind, step, _to_first_order(seen, turn))
        plain, along_x, along_y = found.unbind(2)
        dot = plain @ _displaced(rest)[:, 0].mT
        dot[..., 0] -= along_x[..., 1] + along_y[..., 2]
        return dot

    def _sums(self, table: Tensor, kind: Tensor, step: Tensor, seen: Tensor) -> Tensor:
        """Products of what is seen at sites with a table, (site, detector, power, species, ...).

        Those of kinds with fewer species than others are filled with zeros.
        """
        shape = *seen.shape[:3], max(self.sizes), table.shape[3]
        found, first = seen.new_zeros(shape), [0, *itertools.accumulate(self.sizes)]
        for key in (kind * STEPS**2 + step).unique().tolist():
            k, s = divmod(key, STEPS**2)
            mine = ((kind == k) & (step == s)).nonzero()[:, 0]
            rows = table[s, :, first[k] : first[k + 1]].flatten(1, 2)
            part = seen[mine].transpose(0, 1).flatten(1, 2) @ rows.mT
            part = part.view(len(part), len(mine), -1, self.sizes[k], table.shape[3])
            found[mine, :, :, : self.sizes[k]] = part.transpose(0, 1)
        return found


def _to_first_order(weight: Tensor, turn: Tensor) -> Tensor:
    """Weights, and these times the displacement of rows, shape (site, detector, 3, pixel)."""
    return weight[:, :, None] * torch.cat([torch.ones_like(turn[:, :1]), turn], 1)[:, None]


def _to_second_order(weight: Tensor, turn: Tensor) -> Tensor:
    """Weights times products x², xy and y² of the displacement, (site, detector, 3, pixel)."""
    x, y = turn.unbind(1)
    return weight[:, :, None] * torch.stack([x * x, x * y, y * y], 1)[:, None]


def _displaced(rest: Tensor) -> Tensor:
    """Matrices that displace (value, derivatives) of a column, shape (site, 1, 1, 3, 3)."""
    found = torch.eye(3).to(rest).repeat(len(rest), 1, 1)
    found[:, 0, 1:] = rest
    return found[:, None, None]


def overlaps_of(columns: Tensor, rest: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Sums over the pixels of windows with given columns.

    Parameters
    ----------
    columns : Tensor, shape (site, detector, species, 3, pixel)
        Value of the column and derivatives along x and y.
    rest, weight : Tensor, shape (site, detector, pixel)
        Image without the column of the site, and weight of the pixels.

    Returns
    -------
    gram, dot : Tensor, shapes (site, detector, species, 3, 3) and (site, detector, species, 3)
        As by ``Overlaps``.
    """
    weighted = columns * weight[:, :, None, None]
    return weighted @ columns.mT, (weighted @ rest[:, :, None, :, None])[..., 0]
