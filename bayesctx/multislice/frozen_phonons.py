"""Reference images: multislice with frozen phonons of a periodic crystal."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
import xarray as xr
from scipy.stats import norm, qmc
from torch import Tensor
from tqdm import tqdm

from ..context import Detector, Probe
from ..evidence import check_imaging
from .atoms import thermal_displacement
from .columns import FRACTION
from .grid import Grid

__all__ = ["multislice_image"]

SLICE = 0.01  # Å; atoms closer than this along the beam share a slice
BATCH = 2**21  # largest number of pixels of all waves that are propagated together


def multislice_image(
    columns: Sequence[tuple[float, float, Sequence[tuple[str, float]]]],
    probe: Probe,
    detectors: Detector | Sequence[Detector],
    *,
    x: np.ndarray,
    y: np.ndarray,
    cell: tuple[float, float],
    tilt: tuple[float, float] = (0.0, 0.0),
    vibration: float = 1.0,
    num_configurations: int = 24,
    seed: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """Annular dark-field image of a periodic crystal by multislice with frozen phonons.

    It is slow, and the reference for ``column_image``.

    Parameters
    ----------
    columns : sequence of tuple
        ``(x, y, [(element, z), ...])``: position in Å and the atoms of the column, z in Å along
        the beam.
    probe : Probe
        Numbers, as for ``column_image``. A point source without focal spread: neither
        ``source_size`` nor ``focal_spread`` may differ from zero.
    detectors : Detector or sequence of Detector
        Numbers, as for ``column_image``.
    x, y : ndarray, shapes (x,) and (y,)
        Positions of the probe in Å.
    cell : tuple of float
        Periods (Lx, Ly) in Å. Wave vectors are those of the reciprocal lattice, and the edge of the
        aperture is one spacing of it wide.
    tilt : tuple of float
        Tilt of the specimen in degrees: atoms at height z are displaced by z tan(tilt) along x
        and y.
    vibration : float
        Factor on the thermal displacements; 0 for atoms at rest.
    num_configurations : int
        Number of frozen configurations of the thermal motion.
    seed : int
        Seed of the configurations.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataArray, dimensions (y, x) or (detector, y, x)
        Fraction of the incident electrons that reach the detector; with the dimension ``detector``
        for a sequence of detectors. The coordinate
        ``standard_error`` (same dimensions) estimates the error due to the finite number of
        configurations as if they were independent; it is an upper bound, since Latin hypercube
        sampling lowers the error by a third to a half.

    Raises
    ------
    TypeError
        If ``probe`` is no ``Probe`` or a detector no ``Detector``.
    ValueError
        For an impossible condition, an unknown element, no detector, or a probe with a source size
        or a focal spread.

    Notes
    -----
    Every atom is a phase grating t = exp(i gamma wavelength V(r)), known analytically in Fourier
    space (``scattering_factor``). Atoms at one height share a slice; slices are connected by
    Fresnel propagation. Atoms vibrate independently across the beam (Einstein model); displacements
    are drawn by Latin hypercube sampling in pairs of opposite sign. Pixels at the edge of a ring
    count by their area inside it.

    References
    ----------
    Kirkland, Advanced Computing in Electron Microscopy (2020), doi:10.1007/978-3-030-33260-0.

    Examples
    --------
    >>> import numpy as np
    >>> image = multislice_image(
    ...     [(4.0, 4.0, [("S", -1.6), ("S", 1.6)])],
    ...     Probe(beam_energy=80e3, convergence_semiangle=30),
    ...     [Detector(50, 80), Detector(80, 100)],
    ...     x=np.array([2.0, 4.0]),
    ...     y=np.array([4.0]),
    ...     cell=(8.0, 8.0),
    ...     num_configurations=2,
    ... )
    >>> image.dims, bool((image[:, 0, 1] > image[:, 0, 0]).all())
    (('detector', 'y', 'x'), True)
    """
    several = isinstance(detectors, Sequence)
    probe, inner, outer = _check_optics(probe, detectors if several else [detectors])
    if vibration < 0:
        raise ValueError(
            f"vibration was expected to be at least 0, got {vibration}; 0 is no motion"
        )
    if num_configurations < 1:
        raise ValueError(
            f"num_configurations was expected to be at least 1, got {num_configurations}; use 24"
        )
    x, y = (np.atleast_1d(np.asarray(v, float)) for v in (x, y))
    atoms = _place_atoms(columns, tilt)
    slices = _cut_slices(atoms)
    semiangle, widest = probe.convergence_semiangle, float(outer.max())
    grid = Grid(cell, probe.beam_energy, semiangle, widest, len(slices))
    rings = _detector_weights(grid, inner, outer)
    probes = _probes(grid, probe, x, y)
    found = []
    displacements = vibration * _displacements(atoms, num_configurations, seed)
    for displacement in tqdm(displacements, disable=not progress, unit="configuration"):
        gratings = [_slice_grating(grid, atoms, members, displacement) for members in slices]
        found.append(_scatter(grid, probes, gratings, slices, atoms, rings))
    return _as_image(torch.stack(found), inner, outer, x, y, several)


def _check_optics(
    probe: Probe, detectors: Sequence[Detector]
) -> tuple[Probe, np.ndarray, np.ndarray]:
    """The checked probe, and inner and outer angles of the detectors, each of shape (detector,)."""
    if not len(detectors):
        raise ValueError("one detector or more were expected, got none; give a Detector")
    checked = [check_imaging(probe, detector) for detector in detectors]
    probe = checked[0][0]
    for name in ("source_size", "focal_spread"):
        if getattr(probe, name):
            raise ValueError(
                f"{name} = 0 was expected, got {getattr(probe, name):g}; multislice_image has a "
                "point source without focal spread, column_image computes both"
            )
    inner, outer = np.array([detector.edges for _, detector in checked]).T
    return probe, inner, outer


def _detector_weights(grid: Grid, inner: np.ndarray, outer: np.ndarray) -> Tensor:
    """Fraction of every detected pixel on every detector, shape (pixel, detector)."""
    edges = np.unique(np.concatenate([inner, outer]))
    rings = grid.ring_weights(edges, smooth=False)
    covered = [
        rings[:, (edges[:-1] >= a) & (edges[:-1] < b)].sum(1)
        for a, b in zip(inner, outer, strict=True)
    ]
    return torch.stack(covered, 1)


def _place_atoms(
    columns: Sequence, tilt: tuple[float, float]
) -> list[tuple[str, float, float, float]]:
    """Element, x, y and z of every atom of the tilted specimen."""
    slope = [math.tan(math.radians(t)) for t in tilt]
    return [
        (e, cx + slope[0] * z, cy + slope[1] * z, float(z))
        for cx, cy, stack in columns
        for e, z in stack
    ]


def _cut_slices(atoms: list[tuple[str, float, float, float]]) -> list[list[int]]:
    """Indices of the atoms of every slice, in the order of the beam."""
    slices: list[list[int]] = []
    for i in sorted(range(len(atoms)), key=lambda i: atoms[i][3]):
        if slices and atoms[i][3] - atoms[slices[-1][0]][3] < SLICE:
            slices[-1].append(i)
        else:
            slices.append([i])
    return slices


def _displacements(
    atoms: list[tuple[str, float, float, float]], num_configurations: int, seed: int
) -> np.ndarray:
    """Thermal displacements in pairs of opposite sign, shape (configuration, atom, 2)."""
    half = -(-num_configurations // 2)
    u = qmc.LatinHypercube(2 * max(1, len(atoms)), rng=np.random.default_rng(seed)).random(half)
    scale = np.array([thermal_displacement(e) for e, *_ in atoms])
    drawn = norm.ppf(u).reshape(half, -1, 2)[:, : len(atoms)] * scale[:, None]
    return np.concatenate([drawn, -drawn])[:num_configurations]


def _slice_grating(grid: Grid, atoms: list, members: list[int], displacement: np.ndarray) -> Tensor:
    """Phase grating of one slice: the product of those of its atoms."""
    grating = torch.ones(grid.size, dtype=torch.complex64)
    for i in members:
        element, ax, ay, _ = atoms[i]
        grating *= 1 + grid.grating(
            element, shift=(ax + displacement[i, 0], ay + displacement[i, 1])
        )
    return grating


def _probes(
    grid: Grid, probe: Probe, x: np.ndarray, y: np.ndarray
) -> tuple[Tensor, Tensor, Tensor]:
    """Spectrum of the probe at z = 0, and its phase factors at the positions along x and y."""
    psi = grid.pupil(grid.kx, grid.ky, probe)
    kx, ky = torch.from_numpy(grid.kx), torch.from_numpy(grid.ky)
    at_x = torch.exp(-2j * math.pi * torch.from_numpy(x)[:, None] * kx[:, 0])
    at_y = torch.exp(-2j * math.pi * torch.from_numpy(y)[:, None] * ky[0])
    return psi, at_x, at_y


def _scatter(
    grid: Grid, probes: tuple, gratings: list[Tensor], slices: list, atoms: list, rings: Tensor
) -> Tensor:
    """Fraction of the beam on every detector for every probe, shape (detector, y, x)."""
    psi, at_x, at_y = probes
    heights = [atoms[members[0]][3] for members in slices]
    gaps = [grid.propagator(b - a) for a, b in zip(heights, heights[1:], strict=False)]
    start = (
        psi
        * torch.from_numpy(
            np.exp(-1j * np.pi * grid.wavelength * grid.k**2 * (heights or [0.0])[0])
        )
    ).to(torch.complex64)
    positions = torch.cartesian_prod(torch.arange(len(at_y)), torch.arange(len(at_x)))
    collected = []
    for chunk in positions.split(max(1, BATCH // math.prod(grid.size))):
        phases = at_x[chunk[:, 1], :, None] * at_y[chunk[:, 0], None, :]
        wave = start * phases.to(torch.complex64)
        for i, grating in enumerate(gratings):
            wave = torch.fft.fft2(torch.fft.ifft2(wave) * grating)
            if i < len(gaps):
                wave = wave * gaps[i]
        intensity = wave.flatten(1)[:, grid.detected].abs().square()
        collected.append(intensity @ rings)
    return torch.cat(collected).T.unflatten(1, (len(at_y), len(at_x)))


def _as_image(
    found: Tensor, inner: np.ndarray, outer: np.ndarray, x: np.ndarray, y: np.ndarray, several: bool
) -> xr.DataArray:
    """Mean over the configurations with its standard error, as a DataArray."""
    # a pair of opposite displacements counts as one independent draw
    num_pairs = len(found) // 2
    pairs = (found[:num_pairs] + found[-num_pairs:]) / 2 if num_pairs > 1 else found
    error = (
        pairs.std(0) / len(pairs) ** 0.5 if len(pairs) > 1 else torch.full_like(found[0], torch.nan)
    )
    dims = ("detector", "y", "x")
    axes = {
        "y": ("y", y, {"units": "Å"}),
        "x": ("x", x, {"units": "Å"}),
        "inner_collection_angle": ("detector", inner, {"units": "mrad"}),
        "outer_collection_angle": ("detector", outer, {"units": "mrad"}),
        "standard_error": (dims, error.numpy(), {"units": "1"}),
    }
    image = xr.DataArray(found.mean(0).numpy(), axes, dims, "intensity", FRACTION)
    return image if several else image.isel(detector=0)
