"""Thermal mean of the wave that a column scatters: what interferes with the wave of its neighbours."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from ..structure import Atoms
from .atoms import thermal_displacement
from .grid import Grid

__all__ = ["mean_amplitude"]


def mean_amplitude(grid: Grid, column: Atoms, orders: np.ndarray, slope: tuple[float, float] = (0.0, 0.0)) -> Tensor:
    """Scatter plane waves by the thermally averaged gratings of a column at the origin.

    Parameters
    ----------
    grid : Grid
        Periodic cell that holds the column.
    column : tuple
        ``((element, z), ...)`` sorted along the beam, z in Å.
    orders : ndarray of int, shape (wave, 2)
        Incident plane waves on the reciprocal lattice of the cell.
    slope : tuple of float
        Displacement of the atoms along x and y per height.

    Returns
    -------
    Tensor, shape (wave, pixel)
        Amplitude on every detected pixel per unit of incident amplitude, phases referred to z = 0.

    Notes
    -----
    Atoms vibrate independently, so that the mean of a product of gratings is the product of their means, Gaussian blurs.
    """
    waves = []
    for chunk in np.array_split(orders, max(1, len(orders) // 32)):
        scattered, height = torch.zeros(len(chunk), *grid.size, dtype=torch.complex64), None
        for element, z in column:
            if height is not None:
                scattered = torch.fft.ifft2(torch.fft.fft2(scattered) * grid.propagator(z - height))
            variance = thermal_displacement(element) ** 2
            incident = grid.plane_waves(chunk, z) + scattered
            scattered = scattered + incident * grid.grating(element, variance, shift=(slope[0] * z, slope[1] * z))
            height = z
        back = torch.from_numpy(np.exp(1j * np.pi * grid.wavelength * grid.k**2 * (height or 0.0))).to(torch.complex64)
        waves.append((torch.fft.fft2(scattered, norm="forward") * back).flatten(1)[:, grid.detected])
    return torch.cat(waves)
