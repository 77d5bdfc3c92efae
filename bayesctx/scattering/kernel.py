"""Multislice of one isolated column: the scattering kernel G(k1, k2) of its atoms for every ring of the detector."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ..optics import MAX_SEMIANGLE, wavelength
from ..structure import Atoms
from .atoms import thermal_displacement, transmission

__all__ = ["Kernel", "scattering_kernel"]


@dataclass(frozen=True)
class Kernel:
    """Scattering kernel of a column on pairs of incident plane waves.

    Attributes
    ----------
    k : ndarray, shape (wave, 2)
        Incident wave vectors in 1/Å.
    values : ndarray, shape (ring, wave, wave)
        G(k1, k2) in Å²; the image of a probe psi is sum psi(k1) psi*(k2) G(k1, k2) over the area of the cell.
    displacement : float
        Root mean square displacement in Å of the column as a whole, which is not yet in ``values``: it multiplies them
        with exp(-2 pi² u² |k1 - k2|²).
    """

    k: np.ndarray
    values: np.ndarray
    displacement: float


class _Grid:
    """Square periodic grid that holds one column; spatial frequencies in 1/Å."""

    def __init__(self, beam_energy: float, max_angle: float, num_slices: int) -> None:
        self.beam_energy, self.wavelength = beam_energy, wavelength(beam_energy)
        # one reciprocal pixel is at most 4 mrad, so that rings are resolved
        self.length = max(8.0, self.wavelength / 4e-3)
        detected = max_angle * 1e-3 / self.wavelength + 3 / self.length
        self.band = detected + MAX_SEMIANGLE * 1e-3 / self.wavelength
        # a product of two waves of this band must not alias into the detector
        size = 2 * self.band + (detected if num_slices > 1 else 0)
        self.size = next_fast_len(int(math.ceil(size * self.length)) + 2)
        f = np.fft.fftfreq(self.size, self.length / self.size)
        self.kx, self.ky = np.meshgrid(f, f, indexing="ij")
        self.k = np.hypot(self.kx, self.ky)
        self.detected = torch.from_numpy(np.flatnonzero(self.k <= detected))

    def grating(
        self,
        element: str,
        variance: float = 0.0,
        *,
        shift: tuple[float, float] = (0.0, 0.0),
        moment: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Band-limited t - 1 of an atom: blurred (Å² per axis), displaced (Å), its spectrum times gx^i gy^j."""
        spectrum = transmission(element, self.beam_energy, float(np.ceil(self.k.max())) + 1)(self.k) * (self.k <= self.band)
        spectrum = (
            spectrum
            * self.kx ** moment[0]
            * self.ky ** moment[1]
            * np.exp(-2 * np.pi**2 * variance * self.k**2 - 2j * np.pi * (self.kx * shift[0] + self.ky * shift[1]))
        )
        return torch.from_numpy(np.fft.ifft2(spectrum) * (self.size / self.length) ** 2).to(torch.complex64)

    def propagator(self, distance: float) -> Tensor:
        """Fresnel propagator over a distance in Å."""
        values = np.exp(-1j * np.pi * self.wavelength * self.k**2 * distance) * (self.k <= self.band)
        return torch.from_numpy(values).to(torch.complex64)

    def plane_waves(self, orders: np.ndarray, z: float) -> Tensor:
        """Plane waves of integer orders at height z, phases referred to z = 0, shape (wave, x, y)."""
        x = torch.arange(self.size, dtype=torch.float64) / self.size
        order = torch.from_numpy(orders).double()
        k2 = order.square().sum(1) / self.length**2
        wx = torch.exp(2j * math.pi * order[:, :1] * x - 1j * math.pi * self.wavelength * k2[:, None] * z)
        wy = torch.exp(2j * math.pi * order[:, 1:] * x)
        return (wx[:, :, None] * wy[:, None, :]).to(torch.complex64)


def scattering_kernel(
    column: Atoms, beam_energy: float, edges: tuple[float, ...], *, num_waves: int = 96, num_radii: int = 4, seed: int = 0
) -> Kernel:
    """Scatter plane waves by a column of one or two atoms and collect every ring of the detector.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam, z in Å.
    beam_energy : float
        In eV.
    edges : tuple of float
        Edges of the detector rings in mrad.
    num_waves : int
        Incident plane waves, drawn from the lattice of the cell inside the largest aperture.
    num_radii : int
        Rings of the average over the relative thermal displacement of two atoms, three nodes each.
    seed : int
        Chooses the incident waves.

    Returns
    -------
    Kernel
        The thermally averaged kernel without the common motion of the atoms.

    Raises
    ------
    ValueError
        If the column has more than two atoms.

    Notes
    -----
    S = U + V: U passed the upper atom only, V was scattered by the lower one as well. In <S S*> the phase of the relative
    displacement cancels in V V*, which is smooth and averaged over a few displacements, and is averaged exactly in U V*
    (a Gaussian blur of the lower grating), so that no oscillating phase is ever sampled.
    """
    grid = _Grid(beam_energy, edges[-1], len(column))
    orders = _incident_orders(grid, num_waves, seed)
    weights = torch.from_numpy(_ring_weights(grid, np.array(edges))).float()
    if not column:
        return Kernel(orders / grid.length, np.zeros((len(edges) - 1, len(orders), len(orders)), np.complex64), 0.0)
    if len(column) == 1:
        (element, z), displacement = column[0], thermal_displacement(column[0][0])
        scattered = _detect(grid, grid.plane_waves(orders, z) * grid.grating(element))
        values = _collect(scattered, scattered, weights)
    elif len(column) == 2:
        values, displacement = _pair(grid, column, orders, weights, num_radii)
    else:
        raise ValueError(f"a column of one or two atoms was expected, got {len(column)}: {column}")
    return Kernel(orders / grid.length, values.numpy(), displacement)


def _pair(grid: _Grid, column: Atoms, orders: np.ndarray, weights: Tensor, num_radii: int) -> tuple[Tensor, float]:
    """Kernel of two atoms and the rms displacement of their common motion.

    Displacements: upper atom c - share * rho, lower atom c + (1 - share) * rho with c and rho independent.
    """
    (upper, z_upper), (lower, z_lower) = column
    u2_upper, u2_lower = thermal_displacement(upper) ** 2, thermal_displacement(lower) ** 2
    relative, share = u2_upper + u2_lower, u2_upper / (u2_upper + u2_lower)
    rho, share_of_node = _normal_nodes(num_radii)
    rho = rho * math.sqrt(relative)
    gap = grid.propagator(z_lower - z_upper)
    # moments of the lower grating under the Gaussian of rho: 1, g, g g^T in Fourier space
    moments = [grid.grating(lower, relative, moment=m) for m in ((0, 0), (1, 0), (0, 1), (2, 0), (1, 1), (0, 2))]
    shifted = [grid.grating(lower, shift=tuple(shift)) for shift in rho]
    passed, mean, scattered = [], [[] for _ in moments], [[] for _ in shifted]
    for chunk in np.array_split(orders, math.ceil(len(orders) / 16)):
        wave = torch.fft.fft2(grid.plane_waves(chunk, z_upper) * grid.grating(upper)) * gap
        passed.append(wave.flatten(1)[:, grid.detected] / grid.size**2 * grid.length)
        wave = torch.fft.ifft2(wave) + grid.plane_waves(chunk, z_lower)
        for found, grating in zip(mean + scattered, moments + shifted, strict=True):
            found.append(_detect(grid, wave * grating))
    u, mean, scattered = torch.cat(passed), [torch.cat(v) for v in mean], [torch.cat(v) for v in scattered]

    k = torch.from_numpy(orders / grid.length)
    q = k[:, None] - k
    values = _collect(u, u, weights) * torch.exp(-2 * math.pi**2 * relative * share**2 * q.square().sum(-1))
    for v, shift, weight in zip(scattered, rho, share_of_node, strict=True):
        turned = v * torch.exp(-2j * math.pi * share * (k @ torch.from_numpy(shift)))[:, None].to(v.dtype)
        values = values + _collect(turned, turned, weights) * weight
    # E exp(-2 pi i (g - share q).rho), second order in g.q
    qx, qy = (4 * math.pi**2 * relative * share * q).unbind(-1)
    factors = (torch.ones_like(qx), qx, qy, qx**2 / 2, qx * qy, qy**2 / 2)
    cross = sum(_collect(u, v, weights) * f for v, f in zip(mean, factors, strict=True))
    cross = cross * torch.exp(-2 * math.pi**2 * relative * share**2 * q.square().sum(-1))
    values = values + cross + cross.mT.conj()
    return values.to(torch.complex64), math.sqrt(u2_upper * u2_lower / relative)


def _detect(grid: _Grid, wave: Tensor) -> Tensor:
    """Scattered amplitude of exit waves on the pixels of the detector, shape (wave, pixel)."""
    return torch.fft.fft2(wave, norm="forward").flatten(1)[:, grid.detected] * grid.length


def _collect(a: Tensor, b: Tensor, weights: Tensor) -> Tensor:
    """Sum of a(k1) b*(k2) over the pixels of every ring, shape (ring, k1, k2)."""
    rings = []
    for weight in weights.T:
        seen = weight != 0
        rings.append((a[:, seen] * weight[seen]) @ b[:, seen].mH)
    return torch.stack(rings)


def _incident_orders(grid: _Grid, num_waves: int, seed: int) -> np.ndarray:
    """Integer orders of incident waves inside the largest aperture, shape (wave, 2).

    The set is symmetric under the eight symmetries of the cell, which averages every pair over them for nothing.
    """
    largest = MAX_SEMIANGLE * 1e-3 / grid.wavelength * grid.length
    n = np.arange(int(largest) + 1)
    octant = np.array([(i, j) for i in n for j in n if j <= i and math.hypot(i, j) <= largest])
    chosen = np.random.default_rng(seed).permutation(octant)[: math.ceil(num_waves / 8)]
    signed = [chosen[:, ::step] * (a, b) for step in (1, -1) for a in (1, -1) for b in (1, -1)]
    return np.unique(np.concatenate(signed), axis=0)


def _ring_weights(grid: _Grid, edges: np.ndarray, oversampling: int = 8) -> np.ndarray:
    """Integral of the cubic interpolation kernel of every detected pixel over every ring, shape (pixel, ring)."""
    offset = (np.arange(4 * oversampling) - (4 * oversampling - 1) / 2) / oversampling
    t = np.abs(offset)
    keys = np.where(t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2) / oversampling
    share = np.outer(keys, keys).ravel()
    pixels = grid.detected.numpy()
    weights = np.zeros((len(pixels), len(edges) - 1))
    for rows in np.array_split(np.arange(len(pixels)), math.ceil(len(pixels) / 4000)):
        kx, ky = grid.kx.ravel()[pixels[rows], None, None], grid.ky.ravel()[pixels[rows], None, None]
        angle = np.hypot(kx + offset[:, None] / grid.length, ky + offset / grid.length) * grid.wavelength * 1e3
        ring = np.searchsorted(edges, angle.reshape(len(rows), -1), side="right") - 1
        for r in range(len(edges) - 1):
            weights[rows, r] = (ring == r) @ share
    return weights


def _normal_nodes(num_radii: int, num_angles: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Nodes, shape (node, 2), and weights of the average over a standard normal in the plane (Gauss-Laguerre rings)."""
    x, weight = np.polynomial.laguerre.laggauss(num_radii)
    turn = 2 * np.pi / num_angles
    angle = turn * (np.arange(num_angles) + (np.arange(num_radii)[:, None] + 0.25) / num_radii)
    nodes = np.sqrt(2 * x)[:, None, None] * np.stack([np.cos(angle), np.sin(angle)], -1)
    return nodes.reshape(-1, 2), np.repeat(weight / num_angles, num_angles)
