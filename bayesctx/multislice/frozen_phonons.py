"""The slow truth: annular dark field of a whole crystal by multislice with frozen phonons."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from scipy.stats import norm, qmc
from torch import Tensor
from tqdm import tqdm

from ..evidence import check_imaging
from ..optics import ABERRATIONS, pupil
from .atoms import thermal_displacement
from .grid import Grid

__all__ = ["multislice_image"]

SLICE = 0.01  # Å; atoms closer than this along the beam share a slice
BATCH = 2**21  # pixels of waves that are propagated together


def multislice_image(
    columns: Sequence[tuple[float, float, Sequence[tuple[str, float]]]],
    *,
    beam_energy: float,
    convergence_semiangle: float,
    inner_collection_angle: float | Sequence[float],
    outer_collection_angle: float | Sequence[float],
    x: np.ndarray,
    y: np.ndarray,
    cell: tuple[float, float],
    aberrations: Mapping[str, float] | None = None,
    tilt: tuple[float, float] = (0.0, 0.0),
    vibration: float = 1.0,
    num_configurations: int = 24,
    seed: int = 0,
    progress: bool = False,
) -> xr.DataArray:
    """Annular dark-field image of a periodic crystal by multislice with frozen phonons: what ``column_image`` is held against.

    Parameters
    ----------
    columns : sequence of tuple
        ``(x, y, [(element, z), ...])``: position in Å and the atoms of the column, z in Å along the beam.
    beam_energy : float
        In eV, 30e3 to 300e3.
    convergence_semiangle : float
        In mrad, up to 40.
    inner_collection_angle, outer_collection_angle : float or sequence of float
        In mrad; of several detectors at once as sequences of one length.
    x, y : ndarray, shapes (x,) and (y,)
        Positions of the probe in Å.
    cell : tuple of float
        Periods (Lx, Ly) in Å. Wave vectors live on its reciprocal lattice, and the aperture falls off over one spacing of it.
    aberrations : mapping of str to float, optional
        As for ``column_image``; the focus refers to z = 0.
    tilt : tuple of float
        Tilt of the specimen in degrees: atoms at height z are displaced by z tan(tilt) along x and y.
    vibration : float
        Factor on the thermal displacements; 0 holds the atoms still.
    num_configurations : int
        Frozen configurations of the thermal motion.
    seed : int
        Names the configurations.
    progress : bool
        Show a progress bar.

    Returns
    -------
    DataArray, dimensions (y, x) or (detector, y, x)
        Fraction of the incident electrons that reach the detector. The coordinate ``standard_error``, over the same
        dimensions, is an upper bound of what the finite number of configurations leaves: as if they had been drawn
        independently; the Latin hypercube is better by a third to a half.

    Raises
    ------
    ValueError
        For an impossible condition or an unknown element.

    Notes
    -----
    Every atom is a grating t = exp(i gamma wavelength V(r)) of its own, known analytically in Fourier space
    (``scattering_factor``); atoms of one height share a slice, slices are joined by Fresnel propagation. Atoms vibrate
    independently and in the plane (Einstein), drawn by Latin hypercube in pairs of opposite sign. Rings are cut by area.

    References
    ----------
    Kirkland, Advanced Computing in Electron Microscopy (2020), doi:10.1007/978-3-030-33260-0.

    Examples
    --------
    >>> import numpy as np
    >>> image = multislice_image([(4.0, 4.0, [("S", -1.6), ("S", 1.6)])], beam_energy=80e3, convergence_semiangle=30,
    ...                          inner_collection_angle=[50, 80], outer_collection_angle=[80, 100],
    ...                          x=np.array([2.0, 4.0]), y=np.array([4.0]), cell=(8.0, 8.0), num_configurations=2)
    >>> image.dims, bool((image[:, 0, 1] > image[:, 0, 0]).all())
    (('detector', 'y', 'x'), True)
    """
    inner, outer = (
        np.atleast_1d(np.asarray(a, float))
        for a in (inner_collection_angle, outer_collection_angle)
    )
    if inner.shape != outer.shape:
        raise ValueError(
            f"as many inner as outer collection angles were expected, got {inner.size} and {outer.size}"
        )
    for pair in zip(inner.tolist(), outer.tolist(), strict=True):
        check_imaging(beam_energy, convergence_semiangle, *pair)
    if vibration < 0:
        raise ValueError(f"a vibration of at least 0 was expected, got {vibration}")
    if num_configurations < 1:
        raise ValueError(
            f"num_configurations was expected to be at least 1, got {num_configurations}"
        )
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    atoms = _place_atoms(columns, tilt)
    slices = _cut_slices(atoms)
    edges = np.unique(np.concatenate([inner, outer]))
    grid = Grid(cell, beam_energy, convergence_semiangle, float(edges[-1]), len(slices))
    weights = grid.ring_weights(edges, smooth=False)
    rings = torch.stack(
        [
            weights[:, (edges[:-1] >= a) & (edges[:-1] < b)].sum(1)
            for a, b in zip(inner, outer, strict=True)
        ],
        1,
    )
    probes = _probes(grid, convergence_semiangle, aberrations or {}, x, y)
    found = []
    for displacement in tqdm(
        vibration * _displacements(atoms, num_configurations, seed),
        disable=not progress,
        unit="configuration",
    ):
        gratings = [_slice_grating(grid, atoms, members, displacement) for members in slices]
        found.append(_scatter(grid, probes, gratings, slices, atoms, rings))
    return _as_image(torch.stack(found), inner, outer, x, y, np.ndim(inner_collection_angle) > 0)


def _place_atoms(
    columns: Sequence, tilt: tuple[float, float]
) -> list[tuple[str, float, float, float]]:
    """Element, x, y and z of every atom; the tilt shears the columns."""
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
    """Thermal displacements, shape (configuration, atom, 2): Latin hypercube, in pairs of opposite sign."""
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
    grid: Grid,
    convergence_semiangle: float,
    aberrations: Mapping[str, float],
    x: np.ndarray,
    y: np.ndarray,
) -> tuple[Tensor, Tensor, Tensor]:
    """Spectrum of the probe at z = 0, and its phases at the positions along x and y."""
    unknown = set(aberrations) - set(ABERRATIONS)
    if unknown:
        raise ValueError(
            f"aberrations among {', '.join(ABERRATIONS)} were expected, got {sorted(unknown)[0]!r}"
        )
    kx, ky = torch.from_numpy(grid.kx), torch.from_numpy(grid.ky)
    psi = pupil(
        kx,
        ky,
        beam_energy=torch.tensor(grid.beam_energy, dtype=torch.float64),
        convergence_semiangle=torch.tensor(convergence_semiangle, dtype=torch.float64),
        aberrations={n: torch.tensor(v, dtype=torch.float64) for n, v in aberrations.items()},
        softness=sum(1 / length for length in grid.cell) / 2,
    )
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
    """Mean over the configurations with its standard error."""
    # an opposite pair is one independent draw
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
    attributes = {"units": "1", "long_name": "fraction of the beam"}
    image = xr.DataArray(found.mean(0).numpy(), axes, dims, "intensity", attributes)
    return image if several else image.isel(detector=0)
