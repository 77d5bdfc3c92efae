"""Periodic grid of a multislice calculation: atomic gratings, propagators, detector rings."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

from ..context import Probe
from ..optics import pupil, wavelength
from .atoms import transmission

__all__ = ["Grid", "WAVE_ANGLE"]

WAVE_ANGLE = 300.0
"""Smallest band limit of the waves between slices, in mrad, independent of the detector.

Electrons scattered beyond the detector by one atom can be scattered back into it by the next. With
a band limit at the outer edge of a detector of 60-163 mrad two Ta are 2 % too dark at 40 keV; with
300 mrad the error is 0.2 %.
"""


class Grid:
    """Periodic grid of a multislice calculation; spatial frequencies in 1/Å.

    Parameters
    ----------
    cell : tuple of float
        Periods (Lx, Ly) in Å.
    beam_energy : float
        In eV.
    semiangle, max_angle : float
        Largest angle of incidence and largest detected angle, in mrad.
    num_slices : int
        Number of gratings in a row; with more than one the wave itself must not alias either.
    wave_angle : float
        Smallest band limit in mrad of the waves between the slices, see ``WAVE_ANGLE``.

    Attributes
    ----------
    kx, ky, k : ndarray, shape (x, y)
        Spatial frequencies and their modulus.
    softness : float
        Half the width in 1/Å of the edge of an aperture: the mean spacing of the reciprocal
        lattice.
    band, reach : float
        Band limit of gratings and waves, and largest frequency of a pixel that the detector may
        need, in 1/Å.
    detected : Tensor of int, shape (pixel,)
        Indices of the pixels up to ``reach`` in the flattened grid.
    """

    def __init__(
        self,
        cell: tuple[float, float],
        beam_energy: float,
        semiangle: float,
        max_angle: float,
        num_slices: int,
        wave_angle: float = WAVE_ANGLE,
    ) -> None:
        self.cell, self.beam_energy, self.wavelength = (
            tuple(cell),
            beam_energy,
            wavelength(beam_energy),
        )
        detected = max_angle * 1e-3 / self.wavelength + 3 / min(cell)
        widest = max(detected, wave_angle * 1e-3 / self.wavelength) if num_slices > 1 else detected
        self.band = widest + semiangle * 1e-3 / self.wavelength
        # the product of a wave and a grating must not alias into the detector
        extent = 2 * self.band + (detected if num_slices > 1 else 0)
        self.size = tuple(next_fast_len(int(math.ceil(extent * length)) + 2) for length in cell)
        self.kx, self.ky = _frequencies(cell, self.size)
        self.k = np.hypot(self.kx, self.ky)
        self.area = cell[0] * cell[1]
        self.softness = sum(1 / length for length in cell) / 2
        self.detected = torch.from_numpy(np.flatnonzero(self.k <= detected))
        self.reach = detected
        self._spectra: dict[str, np.ndarray] = {}

    def spectrum(self, element: str) -> np.ndarray:
        """Band-limited spectrum of the grating of an atom minus one.

        Parameters
        ----------
        element : str
            Chemical symbol.

        Returns
        -------
        ndarray, shape (x, y)
            Complex, in Å².
        """
        if element not in self._spectra:
            inside = self.k <= self.band
            values = np.zeros(self.size, complex)
            values[inside] = transmission(element, self.beam_energy, float(np.ceil(self.band)) + 1)(
                self.k[inside]
            )
            self._spectra[element] = values
        return self._spectra[element]

    def grating(
        self,
        element: str,
        variance: float = 0.0,
        *,
        shift: tuple[float, float] = (0.0, 0.0),
        moment: tuple[int, int] = (0, 0),
    ) -> Tensor:
        """Band-limited grating of an atom minus one, optionally blurred, shifted, differentiated.

        Parameters
        ----------
        element : str
            Chemical symbol.
        variance : float
            Variance of a Gaussian blur in Å² per axis.
        shift : tuple of float
            Position of the atom in Å.
        moment : tuple of int
            Powers (i, j) of the factor gx^i gy^j applied to the spectrum.

        Returns
        -------
        Tensor, shape (x, y)
            Complex, single precision.
        """
        # the phase factor of a shift separates into the two axes
        px, py = (
            np.exp(-2j * np.pi * k * s)
            for k, s in zip((self.kx[:, :1], self.ky[:1]), shift, strict=True)
        )
        spectrum = self.spectrum(element) * (px * py)
        if variance:
            spectrum = spectrum * np.exp(-2 * np.pi**2 * variance * self.k**2)
        if any(moment):
            spectrum = spectrum * self.kx ** moment[0] * self.ky ** moment[1]
        spectrum = torch.from_numpy(spectrum / self.area).to(torch.complex64)
        return torch.fft.ifft2(spectrum, norm="forward")

    def propagator(self, distance: float) -> Tensor:
        """Fresnel propagator in Fourier space.

        Parameters
        ----------
        distance : float
            Distance along the beam in Å.

        Returns
        -------
        Tensor, shape (x, y)
            Complex, zero beyond the band limit.
        """
        values = np.exp(-1j * np.pi * self.wavelength * self.k**2 * distance) * (
            self.k <= self.band
        )
        return torch.from_numpy(values).to(torch.complex64)

    def plane_waves(self, orders: np.ndarray, z: float) -> Tensor:
        """Plane waves of integer orders at a height, with phases relative to z = 0.

        Parameters
        ----------
        orders : ndarray of int, shape (wave, 2)
            Orders on the reciprocal lattice of the cell.
        z : float
            Height in Å along the beam.

        Returns
        -------
        Tensor, shape (wave, x, y)
            Complex, of modulus one.
        """
        k = torch.from_numpy(orders / np.array(self.cell))
        ax, ay = (
            torch.arange(n, dtype=torch.float64) * (length / n)
            for n, length in zip(self.size, self.cell, strict=True)
        )
        phase = (
            2 * math.pi * k[:, :1] * ax
            - math.pi * self.wavelength * k.square().sum(1, keepdim=True) * z
        )
        wx, wy = (torch.polar(torch.ones_like(p), p) for p in (phase, 2 * math.pi * k[:, 1:] * ay))
        return (wx[:, :, None] * wy[:, None, :]).to(torch.complex64)

    def pupil(self, kx: np.ndarray, ky: np.ndarray, probe: Probe) -> Tensor:
        """Pupil function of the probe on wave vectors of the grid, see ``optics.pupil``.

        Parameters
        ----------
        kx, ky : ndarray
            Wave vectors in 1/Å, which broadcast against each other.
        probe : Probe
            Numbers; the beam energy is that of the grid.

        Returns
        -------
        Tensor
            Complex, double precision.
        """
        return pupil(torch.from_numpy(kx), torch.from_numpy(ky), probe, self.softness)

    def ring_weights(
        self, edges: Sequence[float], *, smooth: bool = True, oversampling: int = 8
    ) -> Tensor:
        """Fraction of every detected pixel that lies in every ring of the detector.

        Parameters
        ----------
        edges : sequence of float
            Edges of the rings in mrad.
        smooth : bool
            Interpolate the intensity between pixels (cubic kernel of Keys). Otherwise a pixel is a
            square of constant intensity: less accurate, but no direct beam leaks into a ring that
            begins two pixels beyond it.
        oversampling : int
            Quadrature points along each side of a pixel.

        Returns
        -------
        Tensor, shape (pixel, ring)
            One for a pixel inside a ring, zero for one outside.
        """
        weights = _ring_weights(
            self.cell,
            self.size,
            self.wavelength,
            self.reach,
            tuple(map(float, edges)),
            smooth,
            oversampling,
        )
        return torch.from_numpy(weights).float()


def _frequencies(cell: tuple[float, float], size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Spatial frequencies of the pixels of a grid, each of shape (x, y)."""
    return tuple(
        np.meshgrid(
            *(np.fft.fftfreq(n, length / n) for n, length in zip(size, cell, strict=True)),
            indexing="ij",
        )
    )


@functools.lru_cache(maxsize=64)
def _ring_weights(
    cell: tuple[float, float],
    size: tuple[int, int],
    wavelength: float,
    reach: float,
    edges: tuple[float, ...],
    smooth: bool,
    oversampling: int,
) -> np.ndarray:
    """Fraction of every pixel with |k| <= reach in every ring, shape (pixel, ring)."""
    kx, ky = (k.ravel() for k in _frequencies(cell, size))
    kx, ky = (k[np.hypot(kx, ky) <= reach] for k in (kx, ky))
    bounds = np.array(edges)
    angle = np.hypot(kx, ky) * wavelength * 1e3
    weights = (
        np.searchsorted(bounds, angle, side="right")[:, None] - 1 == np.arange(len(edges) - 1)
    ).astype(float)
    offset = (np.arange(4 * oversampling) - (4 * oversampling - 1) / 2) / oversampling
    t = np.abs(offset)
    keys = np.where(t < 1, 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2)
    share = np.outer(*[(keys if smooth else t < 0.5) / oversampling] * 2).ravel()
    # only pixels close to an edge need the quadrature
    cut = np.flatnonzero(
        np.abs(angle[:, None] - bounds).min(1)
        <= 2 * math.hypot(*(1 / c for c in cell)) * wavelength * 1e3
    )
    for rows in np.array_split(cut, max(1, math.ceil(len(cut) / 2000))):
        fine = np.hypot(
            kx[rows, None, None] + (offset / cell[0])[:, None],
            ky[rows, None, None] + offset / cell[1],
        )
        ring = (
            np.searchsorted(bounds, fine.reshape(len(rows), -1) * wavelength * 1e3, side="right")
            - 1
        )
        for r in range(len(edges) - 1):
            weights[rows, r] = (ring == r) @ share
    return weights
