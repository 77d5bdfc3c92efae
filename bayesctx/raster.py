"""Images on the displaced rows of a scan."""

from __future__ import annotations

import torch
from torch import Tensor

from .fourier import synthesize

__all__ = ["steps_along", "synthesize_rows"]

STEP = 8.0  # Å along a scan row, over which its displacement is taken as constant


def synthesize_rows(
    spectrum: Tensor, x: Tensor, y: Tensor, row_shift: Tensor, *, cell: tuple[float, float]
) -> Tensor:
    """Image on the displaced rows of a scan.

    Parameters
    ----------
    spectrum : Tensor, shape (*batch, 2 my + 1, mx + 1)
        Fourier coefficients, see ``synthesize``.
    x, y : Tensor, shapes (x,) and (y,)
        Positions of the pixels in Å.
    row_shift : Tensor, shape (y, 3)
        Displacement of the beam along x and y in every scan row in Å, where x is zero, and the
        slant of the row: the change of the latter along it, per Å.
    cell : tuple of float
        Periods in Å.

    Returns
    -------
    Tensor, shape (*batch, y, x)
        As by ``synthesize``; slanted rows go in steps, see ``steps_along``.
    """
    along_x, along_y, slant = row_shift.unbind(-1)
    places, sizes = steps_along(x).unique_consecutive(return_counts=True)
    return torch.cat([
        synthesize(spectrum, part, y + along_y + slant * place, cell=cell, row_shift=along_x)
        for part, place in zip(x.split(sizes.tolist()), places, strict=True)
    ], -1)  # fmt: skip


def steps_along(x: Tensor) -> Tensor:
    """Where along a scan row the displacement is that of each pixel.

    Parameters
    ----------
    x : Tensor, shape (x,)
        Positions of the pixels in Å, in their order and at equal distances.

    Returns
    -------
    Tensor, shape (x,)
        In Å: the middle of steps of ``STEP`` at most.
    """
    parts = x.tensor_split(1 + int(float(x[-1] - x[0]) / STEP))
    return torch.cat([part.mean().expand_as(part) for part in parts])
