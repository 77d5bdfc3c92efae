"""What the sum of the images of columns omits: interference between them, and shear by a tilt."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..context import Detector, Probe
from ..defects import Atoms
from ..fourier import FWHM
from ..optics import mode_orders, wavelength
from ..raster import synthesize
from .grid import Grid
from .kernel import mean_amplitude, scattering_kernel

__all__ = ["coherent_angle", "interference_image", "sheared_parts"]

# 1/Å; beyond it thermal motion leaves less than a tenth of the interference, averaged out by rings
MAX_FREQUENCY = 3.5
TILE, MARGIN = 6.0, 6.0  # Å; columns beyond the margin do not reach the pixels of a tile
BATCH = 2**22  # largest number of elements of a matrix of amplitudes


def coherent_angle(beam_energy: float) -> float:
    """Scattering angle above which the interference between columns is negligible.

    Parameters
    ----------
    beam_energy : float
        In eV.

    Returns
    -------
    float
        In mrad.
    """
    return MAX_FREQUENCY * wavelength(beam_energy) * 1e3


def interference_image(
    columns: Mapping[Atoms, np.ndarray],
    parts: Mapping[Atoms, np.ndarray],
    probe: Probe,
    detector: Detector,
    *,
    slope: tuple[float, float],
    x: np.ndarray,
    y: np.ndarray,
    cell: tuple[float, float] | None,
) -> np.ndarray:
    """Image of the interference between columns, to be added to the sum of their images.

    Parameters
    ----------
    columns : mapping of tuple to ndarray, shape (column, 3)
        Positions x and y in Å, and a weight of one, of the columns ``((element, z), ...)``.
    parts : mapping of tuple to ndarray, shape (part, 3)
        Columns or single atoms whose images were added incoherently, with their weights.
    probe : Probe
        Numbers.
    detector : Detector
        Numbers.
    slope : tuple of float
        Displacement of the atoms of the columns along x and y per height.
    x, y : ndarray, shapes (x,) and (y,)
        Positions of the probe in Å.
    cell : tuple of float, optional
        Periods in Å of a periodic crystal. If it is missing or larger than a tile, the field is
        computed in tiles, each with the columns around it.

    Returns
    -------
    ndarray, shape (y, x)
        Fraction of the beam, of either sign.

    Notes
    -----
    The waves S_a of the columns add, their intensities do not. With independent vibrations of the
    columns

    X(k1, k2) = sum_q [sum_a S_a(k1, q)] [sum_b S_b(k2, q)]* - sum_p w_p S_p(k1, q) S_p*(k2, q)

    where S are thermal mean amplitudes (``kernel.mean_amplitude``) and q covers the detector. The
    Fourier coefficients of the image are sum_k psi(k) psi*(k + Q) X(k, k + Q). This is the Bragg
    scattering of the crystal into the detector: about ten per cent if the detector begins close to
    the bright-field disk, negligible beyond 100 mrad.
    """
    image = np.zeros((len(y), len(x)))
    energy, inner = probe.beam_energy, detector.inner_collection_angle
    outer = min(detector.outer_collection_angle, coherent_angle(energy))
    tiled = cell is None or max(cell) > TILE + 2 * MARGIN
    alone = tiled and sum(map(len, columns.values())) == 1 and columns.keys() == parts.keys()
    if outer <= inner or alone:
        return image
    period = (TILE + 2 * MARGIN,) * 2 if tiled else cell
    # waves scattered beyond the coherent angle are incoherent, so no wider band is needed
    grid = Grid(period, energy, probe.convergence_semiangle, outer, 2, wave_angle=0.0)
    orders = _aperture(grid, probe.convergence_semiangle)
    amplitudes = [mean_amplitude(grid, column, orders, slope) for column in columns]
    of_parts = [mean_amplitude(grid, part, orders) for part in parts]
    weights = grid.ring_weights((inner, outer))[:, 0]
    illumination = _illumination(grid, orders, probe)
    for rows, cols in _tiles(y, x) if tiled else [np.ix_(np.arange(len(y)), np.arange(len(x)))]:
        tx, ty = x[cols[0]], y[rows[:, 0]]
        centre = np.array([tx[0] + tx[-1], ty[0] + ty[-1]]) / 2
        crystal, added = (
            [
                (a, _around(p, centre, cell) if tiled else p - [*centre, 0])
                for a, p in zip(waves, places.values(), strict=True)
            ]
            for waves, places in ((amplitudes, columns), (of_parts, parts))
        )
        kernel = _coherent(grid, orders, crystal, weights)
        kernel = kernel - _incoherent(grid, orders, added, weights)
        spectrum = _spectrum(grid, orders, kernel * illumination, probe.source_size)
        pixels = (torch.from_numpy(v - c) for v, c in zip((tx, ty), centre, strict=True))
        image[rows, cols] = synthesize(spectrum, *pixels, cell=period).numpy()
    return image


def _around(places: np.ndarray, centre: np.ndarray, cell: tuple[float, float] | None) -> np.ndarray:
    """Positions relative to the centre of a tile within its margin, nearest periodic images."""
    moved = places - [*centre, 0]
    if cell is not None:
        moved[:, :2] -= np.round(moved[:, :2] / cell) * cell
    return moved[(np.abs(moved[:, :2]) < TILE / 2 + MARGIN).all(1)]


def _aperture(grid: Grid, convergence_semiangle: float) -> np.ndarray:
    """Integer orders of the waves inside the aperture and its soft edge, shape (wave, 2)."""
    edge = convergence_semiangle * 1e-3 / grid.wavelength + grid.softness
    kx, ky = np.nonzero(grid.k < edge)
    return np.stack(
        [np.where(k > n / 2, k - n, k) for k, n in zip((kx, ky), grid.size, strict=True)], 1
    )


def _illumination(grid: Grid, orders: np.ndarray, probe: Probe) -> Tensor:
    """Mutual coherence psi(k1) psi*(k2), averaged over the focal spread, shape (wave, wave)."""
    kx, ky = (orders / np.array(grid.cell)).T[:, None]
    psi = grid.pupil(kx, ky, probe)[0]
    turn = math.pi * grid.wavelength * probe.focal_spread * torch.from_numpy(kx**2 + ky**2)[0]
    return psi[:, None] * psi.conj() * torch.exp(-((turn[:, None] - turn) ** 2) / 2)


def _coherent(
    grid: Grid, orders: np.ndarray, crystal: list[tuple[Tensor, np.ndarray]], weights: Tensor
) -> Tensor:
    """Intensity of the sum of the waves of all columns, shape (wave, wave)."""
    factors = [_structure_factor(grid, places) for _, places in crystal]
    seen = torch.from_numpy(np.flatnonzero(weights.numpy()))
    order = np.stack(np.unravel_index(grid.detected[seen].numpy(), grid.size), 1)
    total = torch.zeros(len(orders), len(orders), dtype=torch.complex64)
    for part in np.array_split(np.arange(len(seen)), math.ceil(len(seen) * len(orders) / BATCH)):
        step = [(order[part, axis] - orders[:, None, axis]) % grid.size[axis] for axis in (0, 1)]
        pixel = seen[part]
        wave = sum(
            a[:, pixel] * factor[step[0], step[1]]
            for (a, _), factor in zip(crystal, factors, strict=True)
        )
        total += (wave * weights[pixel]) @ wave.mH
    return total


def _incoherent(
    grid: Grid, orders: np.ndarray, added: list[tuple[Tensor, np.ndarray]], weights: Tensor
) -> Tensor:
    """Sum of the intensities of the waves of all parts, shape (wave, wave)."""
    step = [(orders[None, :, axis] - orders[:, None, axis]) % grid.size[axis] for axis in (0, 1)]
    seen = weights != 0
    own = (((a[:, seen] * weights[seen]) @ a[:, seen].mH, places) for a, places in added)
    return sum(
        intensity * _structure_factor(grid, places)[step[0], step[1]] for intensity, places in own
    )


def _structure_factor(grid: Grid, places: np.ndarray) -> Tensor:
    """Weighted sum of exp(-2 pi i k.r) over positions, shape (x, y)."""
    px, py = (
        np.exp(-2j * np.pi * places[:, axis, None] * k)
        for axis, k in enumerate((grid.kx[:, 0], grid.ky[0]))
    )
    return torch.from_numpy((px * places[:, 2:]).T @ py).to(torch.complex64)


def _spectrum(grid: Grid, orders: np.ndarray, pairs: Tensor, source_size: float) -> Tensor:
    """Fourier coefficients of the image at Q = k2 - k1, shape (2 my + 1, mx + 1)."""
    steps = orders[None, :] - orders[:, None]
    mx, my = (int(np.abs(steps[..., axis]).max()) for axis in (0, 1))
    forward = steps[..., 0] >= 0
    row = np.where(steps[..., 1] < 0, my - steps[..., 1], steps[..., 1])
    index = torch.from_numpy(row[forward] * (mx + 1) + steps[forward][:, 0])
    spectrum = torch.zeros((2 * my + 1) * (mx + 1), dtype=torch.complex128)
    spectrum.index_add_(0, index, pairs[torch.from_numpy(forward)].to(torch.complex128))
    qx = torch.arange(mx + 1).float() / grid.cell[0]
    qy = mode_orders(my).float()[:, None] / grid.cell[1]
    blur = torch.exp(-2 * math.pi**2 * (source_size / FWHM) ** 2 * (qx**2 + qy**2))
    return spectrum.reshape(2 * my + 1, mx + 1) * blur


def _tiles(y: np.ndarray, x: np.ndarray) -> list[tuple[np.ndarray, np.ndarray]]:
    """Index arrays of the rows and columns of the pixels of every tile."""

    def split(axis: np.ndarray) -> list[np.ndarray]:
        number = ((axis - axis.min()) // TILE).astype(int)
        return [np.flatnonzero(number == n) for n in np.unique(number)]

    return [np.ix_(rows, cols) for rows in split(y) for cols in split(x)]


# number of incident plane waves by the number of atoms; three atoms need frozen displacements
NUM_WAVES = {2: 24, 3: 16}
CUTOFF = 0.03  # relative cutoff of singular values; the kernels of the parts are nearly collinear


def sheared_parts(
    column: Atoms,
    slope: tuple[float, float],
    probe: Probe,
    detector: Detector,
    *,
    interference: bool,
) -> list[tuple[Atoms, float, float, float]]:
    """Upright columns and single atoms whose kernels add up to that of a sheared column.

    Parameters
    ----------
    column : tuple
        ``((element, z), ...)`` sorted along the beam, z in Å.
    slope : tuple of float
        Displacement of the atoms along x and y per height.
    probe : Probe
        Numbers.
    detector : Detector
        Numbers.
    interference : bool
        Fit the kernel without the intensity of the thermal mean wave, which ``interference_image``
        adds.

    Returns
    -------
    list of tuple
        ``(part, x, y, weight)``: the upright column and its atoms, with displacements in Å. For an
        upright column only the column itself.

    Notes
    -----
    Least-squares fit to the multislice kernel of the sheared column (``scattering_kernel``). The
    sum over its diagonal, the number of electrons on the detector, has the same weight as all pairs
    of waves together. The residual is anisotropic: 1.4 % of the kernel of Te2 at 219 keV and 4.3
    degrees, 9 % of that of two W at 235 keV and 3.4 degrees.
    """
    heights = [z for _, z in column]
    centre = sum(heights) / max(1, len(heights))
    if len(column) < 2 or not any(slope):
        return [(column, centre * slope[0], centre * slope[1], 1.0)]
    # aberrations do not change the kernel, so that they are no part of the key of the cache
    optics = (
        probe.beam_energy,
        probe.convergence_semiangle,
        detector,
        NUM_WAVES[min(3, len(column))],
        interference,
    )
    atoms: list[Atoms] = [(atom,) for atom in column]
    places = [(part, z) for part in (column, *atoms) for z in sorted({*heights, centre})]
    alone = np.array([float(len(part) == 1 and part[0][1] == z) for part, z in places])
    q, target = _kernel(column, slope, *optics)
    rows = np.stack(
        [
            _kernel(part, (0.0, 0.0), *optics)[1] * np.exp(2j * np.pi * z * (q @ slope))
            for part, z in places
        ]
    )
    matrix, (target,) = _weigh(rows), _weigh(target[None])
    weights = alone + np.linalg.lstsq(matrix.T, target - alone @ matrix, rcond=CUTOFF)[0]
    return [
        (part, z * slope[0], z * slope[1], float(w))
        for (part, z), w in zip(places, weights, strict=True)
    ]


def _weigh(kernels: np.ndarray) -> np.ndarray:
    """Real rows of the fit to kernels (kernel, wave, wave): all pairs, and the trace once more."""
    flat, total = kernels.reshape(len(kernels), -1), np.trace(kernels, axis1=1, axis2=2).real
    return np.concatenate([flat.real, flat.imag, total[:, None]], 1)


@functools.lru_cache(maxsize=1024)
def _kernel(
    column: Atoms,
    slope: tuple[float, float],
    beam_energy: float,
    convergence_semiangle: float,
    detector: Detector,
    num_waves: int,
    diffuse: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Differences of incident waves in 1/Å, shape (wave, wave, 2), and the kernel in Å²."""
    kernel = scattering_kernel(
        column,
        beam_energy,
        detector.edges,
        slope=slope,
        num_waves=num_waves,
        max_semiangle=convergence_semiangle,
    )
    q = kernel.k[:, None] - kernel.k
    values = kernel.values[0] * np.exp(-2 * np.pi**2 * kernel.displacement**2 * (q**2).sum(-1))
    inner = detector.inner_collection_angle
    outer = min(detector.outer_collection_angle, coherent_angle(beam_energy))
    if diffuse and outer > inner:
        grid = Grid(kernel.cell, beam_energy, convergence_semiangle, outer, 2, wave_angle=0.0)
        waves = mean_amplitude(grid, column, kernel.orders, slope)
        ring = grid.ring_weights((inner, outer))[:, 0]
        values = values - ((waves * ring) @ waves.mH).numpy() * grid.area
    return q, values
