"""Multislice of one isolated column: its scattering kernel G(k1, k2) for every detector ring."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.stats import norm, qmc
from torch import Tensor

from ..defects import Atoms
from ..optics import MAX_SEMIANGLE, wavelength
from .atoms import thermal_displacement
from .grid import Grid

__all__ = ["Kernel", "mean_amplitude", "scattering_kernel"]

NUM_FROZEN = 64  # displacements of a column of three and more atoms


@dataclass(frozen=True)
class Kernel:
    """Scattering kernel of a column on pairs of incident plane waves.

    Attributes
    ----------
    orders : ndarray of int, shape (wave, 2)
        Incident waves on the reciprocal lattice of the cell.
    cell : tuple of float
        Periods of the cell in Å.
    values : ndarray, shape (ring, wave, wave)
        G(k1, k2) in Å²; the image of a probe psi is sum psi(k1) psi*(k2) G(k1, k2) over the area of
        the cell.
    displacement : float
        Root mean square thermal displacement u in Å of the column as a whole. It is not included in
        ``values``: multiply them by exp(-2 pi² u² |k1 - k2|²).
    """

    orders: np.ndarray
    cell: tuple[float, float]
    values: np.ndarray
    displacement: float

    @property
    def k(self) -> np.ndarray:
        """Incident wave vectors in 1/Å, shape (wave, 2)."""
        return self.orders / self.cell


def scattering_kernel(
    column: Atoms,
    beam_energy: float,
    edges: tuple[float, ...],
    *,
    slope: tuple[float, float] = (0.0, 0.0),
    max_semiangle: float = MAX_SEMIANGLE,
    num_waves: int = 96,
    num_radii: int = 4,
    seed: int = 0,
) -> Kernel:
    """Scatter plane waves by a column of atoms and integrate over every ring of the detector.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam, z in Å.
    beam_energy : float
        In eV.
    edges : tuple of float
        Edges of the detector rings in mrad.
    slope : tuple of float
        Displacement of the atoms along x and y per height.
    max_semiangle : float
        Radius of the aperture in mrad.
    num_waves : int
        Number of incident plane waves, drawn from the reciprocal lattice inside the aperture.
    num_radii : int
        Radii of the quadrature over the relative thermal displacement of two atoms, with three
        nodes each, or six for a sheared column.
    seed : int
        Seed of the choice of incident waves.

    Returns
    -------
    Kernel
        Thermal average, without the common motion of the atoms.

    Notes
    -----
    One atom needs no average. For two atoms S = U + V, where U is scattered by the upper atom only
    and V also by the lower one. In <S S*> the phase of the relative displacement cancels in V V*,
    which is smooth and averaged by quadrature, and it is averaged exactly in U V* (a Gaussian blur
    of the lower grating), so that no oscillating phase is sampled. Three and more atoms are
    averaged over frozen displacements (Sobol sequence); the eight symmetries of the incident waves
    multiply their number by eight.
    """
    # a reciprocal pixel of at most 4 mrad resolves the rings
    length = max(8.0, wavelength(beam_energy) / 4e-3)
    grid = Grid((length, length), beam_energy, max_semiangle, edges[-1], len(column))
    orders = _incident_orders(grid, max_semiangle, num_waves, seed)
    weights = grid.ring_weights(edges)
    if not column:
        return Kernel(
            orders,
            grid.cell,
            np.zeros((len(edges) - 1, len(orders), len(orders)), np.complex64),
            0.0,
        )
    if len(column) == 1:
        (element, z), displacement = column[0], thermal_displacement(column[0][0])
        scattered = _detect(
            grid,
            grid.plane_waves(orders, z) * grid.grating(element, shift=(slope[0] * z, slope[1] * z)),
        )
        values = _collect(scattered, scattered, weights)
    elif len(column) == 2:
        values, displacement = _pair(grid, column, slope, orders, weights, num_radii)
    else:
        values, displacement = _stack(grid, column, slope, orders, weights, seed), 0.0
    return Kernel(orders, grid.cell, values.numpy(), displacement)


def _pair(
    grid: Grid,
    column: Atoms,
    slope: tuple[float, float],
    orders: np.ndarray,
    weights: Tensor,
    num_radii: int,
) -> tuple[Tensor, float]:
    """Kernel of two atoms and the root mean square displacement of their common motion."""
    # displacements are c - share * rho (upper atom) and c + (1 - share) * rho (lower atom), with c
    # and rho independent
    (upper, z_upper), (lower, z_lower) = column
    u2_upper, u2_lower = thermal_displacement(upper) ** 2, thermal_displacement(lower) ** 2
    relative, share = u2_upper + u2_lower, u2_upper / (u2_upper + u2_lower)
    # for a sheared column the symmetries of the waves add no angles: three give 4 % error for Te2
    rho, share_of_node = _normal_nodes(num_radii, 6 if any(slope) else 3)
    rho = rho * math.sqrt(relative)
    above, below = (np.array(slope) * z for z in (z_upper, z_lower))
    # moments of the lower grating under the Gaussian of rho: 1, g, g g^T in Fourier space
    moments = [
        grid.grating(lower, relative, shift=tuple(below), moment=m)
        for m in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))
    ]
    shifted = [grid.grating(lower, shift=tuple(below + shift)) for shift in rho]
    first = grid.grating(upper, shift=tuple(above))
    u, found = _pair_waves(grid, orders, (z_upper, z_lower), first, moments + shifted)
    mean, scattered = found[: len(moments)], found[len(moments) :]
    k = torch.from_numpy(orders / grid.cell)
    q = k[:, None] - k
    values = _collect(u, u, weights) * torch.exp(
        -2 * math.pi**2 * relative * share**2 * q.square().sum(-1)
    )
    for v, shift, weight in zip(scattered, rho, share_of_node, strict=True):
        turned = v * torch.exp(-2j * math.pi * share * (k @ torch.from_numpy(shift)))[:, None].to(
            v.dtype
        )
        values = values + _collect(turned, turned, weights) * weight
    # E exp(-2 pi i (g - share q).rho), second order in g.q
    qx, qy = (4 * math.pi**2 * relative * share * q).unbind(-1)
    factors = (torch.ones_like(qx), qx, qy, qx**2 / 2, qx * qy, qy**2 / 2)
    cross = sum(_collect(u, v, weights) * f for v, f in zip(mean, factors, strict=True))
    cross = cross * torch.exp(-2 * math.pi**2 * relative * share**2 * q.square().sum(-1))
    values = values + cross + cross.mT.conj()
    return values.to(torch.complex64), math.sqrt(u2_upper * u2_lower / relative)


def _pair_waves(
    grid: Grid, orders: np.ndarray, heights: tuple[float, float], upper: Tensor, lower: list[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """Amplitudes scattered by the upper atom only, and also by every lower grating."""
    gap = grid.propagator(heights[1] - heights[0])
    passed, scattered = [], [[] for _ in lower]
    for chunk in np.array_split(orders, math.ceil(len(orders) / 16)):
        wave = torch.fft.fft2(grid.plane_waves(chunk, heights[0]) * upper) * gap
        passed.append(
            wave.flatten(1)[:, grid.detected] / math.prod(grid.size) * math.sqrt(grid.area)
        )
        wave = torch.fft.ifft2(wave) + grid.plane_waves(chunk, heights[1])
        for found, grating in zip(scattered, lower, strict=True):
            found.append(_detect(grid, wave * grating))
    return torch.cat(passed), [torch.cat(found) for found in scattered]


def _stack(
    grid: Grid,
    column: Atoms,
    slope: tuple[float, float],
    orders: np.ndarray,
    weights: Tensor,
    seed: int,
) -> Tensor:
    """Kernel of any number of atoms by frozen displacements, including their common motion."""
    u = qmc.Sobol(2 * len(column), rng=np.random.default_rng(seed)).random(NUM_FROZEN)
    scale = np.array([thermal_displacement(element) for element, _ in column])
    displacements = norm.ppf(u).reshape(NUM_FROZEN, len(column), 2) * scale[:, None]
    displacements += np.outer([z for _, z in column], slope)
    gaps = [grid.propagator(b - a) for (_, a), (_, b) in zip(column, column[1:], strict=False)]
    values = 0
    for displacement in displacements:
        gratings = [
            grid.grating(e, shift=tuple(d)) for (e, _), d in zip(column, displacement, strict=True)
        ]
        found = []
        for chunk in np.array_split(orders, math.ceil(len(orders) / 16)):
            scattered = grid.plane_waves(chunk, column[0][1]) * gratings[0]
            for gap, grating, (_, z) in zip(gaps, gratings[1:], column[1:], strict=True):
                scattered = torch.fft.ifft2(torch.fft.fft2(scattered) * gap)
                scattered = scattered + (grid.plane_waves(chunk, z) + scattered) * grating
            found.append(_detect(grid, scattered))
        scattered = torch.cat(found)
        values = values + _collect(scattered, scattered, weights) / NUM_FROZEN
    return values


def _detect(grid: Grid, wave: Tensor) -> Tensor:
    """Scattered amplitude of exit waves on the pixels of the detector, shape (wave, pixel)."""
    return torch.fft.fft2(wave, norm="forward").flatten(1)[:, grid.detected] * math.sqrt(grid.area)


def _collect(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Sum of a(k1) b*(k2) over the pixels of every ring, shape (ring, k1, k2)."""
    rings = []
    for weight in weights.T:
        seen = weight != 0
        rings.append((a[:, seen] * weight[seen]) @ b[:, seen].mH)
    return torch.stack(rings)


def _incident_orders(grid: Grid, max_semiangle: float, num_waves: int, seed: int) -> np.ndarray:
    """Integer orders of incident waves in the aperture, closed under the symmetries of a square."""
    largest = max_semiangle * 1e-3 / grid.wavelength * grid.cell[0]
    n = np.arange(int(largest) + 1)
    octant = np.array([(i, j) for i in n for j in n if j <= i and math.hypot(i, j) <= largest])
    chosen = np.random.default_rng(seed).permutation(octant)[: math.ceil(num_waves / 8)]
    signed = [chosen[:, ::step] * (a, b) for step in (1, -1) for a in (1, -1) for b in (1, -1)]
    return np.unique(np.concatenate(signed), axis=0)


def _normal_nodes(num_radii: int, num_angles: int) -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights of a 2D standard normal average (Gauss-Laguerre radii, equal angles)."""
    x, weight = np.polynomial.laguerre.laggauss(num_radii)
    turn = 2 * np.pi / num_angles
    angle = turn * (np.arange(num_angles) + (np.arange(num_radii)[:, None] + 0.25) / num_radii)
    nodes = np.sqrt(2 * x)[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return nodes.reshape(-1, 2), np.repeat(weight / num_angles, num_angles)


def mean_amplitude(
    grid: Grid, column: Atoms, orders: np.ndarray, slope: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
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
        Amplitude on every detected pixel per unit of incident amplitude, phases relative to z = 0.

    Notes
    -----
    Atoms vibrate independently, so that the mean of a product of gratings is the product of the
    mean gratings, which are Gaussian blurs.
    """
    waves = []
    for chunk in np.array_split(orders, max(1, len(orders) // 32)):
        scattered, height = torch.zeros(len(chunk), *grid.size, dtype=torch.complex64), None
        for element, z in column:
            if height is not None:
                scattered = torch.fft.ifft2(torch.fft.fft2(scattered) * grid.propagator(z - height))
            variance = thermal_displacement(element) ** 2
            incident = grid.plane_waves(chunk, z) + scattered
            scattered = scattered + incident * grid.grating(
                element, variance, shift=(slope[0] * z, slope[1] * z)
            )
            height = z
        back = torch.from_numpy(
            np.exp(1j * np.pi * grid.wavelength * grid.k**2 * (height or 0.0))
        ).to(torch.complex64)
        waves.append(
            (torch.fft.fft2(scattered, norm="forward") * back).flatten(1)[:, grid.detected]
        )
    return torch.cat(waves)
