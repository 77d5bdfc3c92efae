"""Columns, optics and detector to an image: annular dark field as a sum of column responses, batched in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
import xarray as xr
from torch import Tensor

from .context import check_imaging
from .optics import ABERRATIONS, MAX_SEMIANGLE, transfer, wavelength
from .scattering import chebyshev, column_response

__all__ = ["column_image", "column_spectra", "interpolation_matrix", "structure_factors", "synthesize"]

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations


def column_spectra(
    coefficients: Tensor,
    displacement: Tensor,
    *,
    beam_energy: Tensor,
    convergence_semiangle: Tensor,
    aberrations: Mapping[str, Tensor],
    source_size: Tensor,
    focal_spread: Tensor,
    cell: tuple[float, float],
    num_modes: tuple[int, int],
) -> Tensor:
    """Fourier coefficients of the image of one column at the origin, for every column of a batch of conditions.

    Parameters
    ----------
    coefficients : Tensor, shape (*batch, column, term, order)
        Responses of the columns to the detector, see ``scattering.ResponseTable.coefficients``.
    displacement : Tensor, shape (*batch, column)
        Root mean square thermal displacement of the columns in Å.
    beam_energy, convergence_semiangle : Tensor, shape (*batch,)
        In eV and mrad.
    aberrations : mapping of str to Tensor, shape (*batch,)
        Any of ``optics.ABERRATIONS``, in Å and rad.
    source_size, focal_spread : Tensor, shape (*batch,)
        Full width at half maximum of the source and rms focal spread in Å.
    cell : tuple of float
        Periods (Lx, Ly) of the image in Å.
    num_modes : tuple of int
        Largest orders (mx, my) of the spatial frequencies.

    Returns
    -------
    Tensor, shape (*batch, column, 2 my + 1, mx + 1)
        Complex coefficients, as a fraction of the beam; qx >= 0 only.

    Notes
    -----
    H(Q) = exp(-2 pi² (u² + sigma_s²) Q²) / (Lx Ly) sum_t O_t(|Q|) T_t(Q).
    """
    probe = transfer(
        beam_energy=beam_energy,
        convergence_semiangle=convergence_semiangle,
        aberrations=aberrations,
        focal_spread=focal_spread,
        cell=cell,
        num_modes=num_modes,
    )
    qx = torch.arange(num_modes[0] + 1).to(beam_energy) / cell[0]
    qy = torch.arange(-num_modes[1], num_modes[1] + 1).to(beam_energy)[:, None] / cell[1]
    q2 = qx**2 + qy**2
    scale = wavelength(beam_energy) / (2 * MAX_SEMIANGLE * 1e-3)
    polynomials = chebyshev(q2.sqrt() * scale[..., None, None])
    # one real matrix product: (column, term and order) times (term and order, mode and part)
    basis = torch.view_as_real(probe[:, None] * polynomials).flatten(0, 1).movedim(0, -4).flatten(-3)
    spectra = torch.view_as_complex((coefficients.flatten(-2) @ basis).unflatten(-1, (*q2.shape, 2)))
    blur = displacement**2 + (source_size[..., None] / FWHM) ** 2
    return spectra * torch.exp(-2 * math.pi**2 * blur[..., None, None] * q2) / (cell[0] * cell[1])


def structure_factors(positions: Tensor, *, cell: tuple[float, float], num_modes: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Phases exp(-2 pi i Q.r) of positions, separated in the two axes.

    Parameters
    ----------
    positions : Tensor, shape (*batch, column, 2)
        x and y in Å.
    cell : tuple of float
        Periods in Å.
    num_modes : tuple of int
        Largest orders (mx, my).

    Returns
    -------
    tuple of Tensor, shapes (*batch, column, 2 my + 1) and (*batch, column, mx + 1)
        Phases along y and along x.
    """
    like = {"dtype": positions.dtype, "device": positions.device}
    mx, my = torch.arange(num_modes[0] + 1, **like), torch.arange(-num_modes[1], num_modes[1] + 1, **like)
    ax = positions[..., :1] * (-2 * math.pi / cell[0]) * mx
    ay = positions[..., 1:] * (-2 * math.pi / cell[1]) * my
    return torch.polar(torch.ones_like(ay), ay), torch.polar(torch.ones_like(ax), ax)


def synthesize(spectrum: Tensor, x: Tensor, y: Tensor, *, cell: tuple[float, float], row_shift: Tensor | None = None) -> Tensor:
    """Image on a grid of pixels from its Fourier coefficients: two matrix products, exact at any position.

    Parameters
    ----------
    spectrum : Tensor, shape (*batch, 2 my + 1, mx + 1)
        Fourier coefficients, qx >= 0 only.
    x, y : Tensor, shapes (*batch, x) and (*batch, y)
        Positions of the pixels in Å.
    cell : tuple of float
        Periods in Å.
    row_shift : Tensor, shape (*batch, y), optional
        Displacement of the beam along x in every scan row, in Å.

    Returns
    -------
    Tensor, shape (*batch, y, x)
        The real image.
    """
    my, mx = (spectrum.shape[-2] - 1) // 2, spectrum.shape[-1] - 1
    qx = torch.arange(mx + 1).to(x) / cell[0]
    qy = torch.arange(-my, my + 1).to(y) / cell[1]
    ay = 2 * math.pi * y[..., :, None] * qy
    rows = torch.polar(torch.ones_like(ay), ay) @ spectrum
    if row_shift is not None:
        turn = 2 * math.pi * row_shift[..., None] * qx
        rows = rows * torch.polar(torch.ones_like(turn), turn)
    ax = 2 * math.pi * qx[:, None] * x[..., None, :]
    twice = torch.full_like(qx, 2.0)
    twice[0] = 1.0
    rows = rows * twice
    return rows.real @ ax.cos() - rows.imag @ ax.sin()


def interpolation_matrix(positions: Tensor, num_pixels: int, spacing: float | Tensor) -> Tensor:
    """Weights of pixels 0 ... num_pixels - 1 in values at positions between them: cubic, averaging where it is coarser.

    Parameters
    ----------
    positions : Tensor, shape (*batch, target)
        In units of the source pixels.
    num_pixels : int
        Number of source pixels.
    spacing : float or Tensor, shape (*batch, 1, 1)
        Distance of the targets in source pixels; above 1 the kernel widens to average over it.

    Returns
    -------
    Tensor, shape (*batch, target, num_pixels)
        Rows that sum to one.

    References
    ----------
    Keys, IEEE Trans. Acoust. Speech Signal Process. 29, 1153 (1981), doi:10.1109/TASSP.1981.1163711.
    """
    width = torch.as_tensor(spacing, dtype=positions.dtype, device=positions.device).clamp(min=1)
    t = ((positions[..., :, None] - torch.arange(num_pixels).to(positions)) / width).abs()
    near = (1.5 * t - 2.5) * t**2 + 1
    far = ((-0.5 * t + 2.5) * t - 4) * t + 2
    weights = torch.where(t < 1, near, torch.where(t < 2, far, torch.zeros_like(t)))
    return weights / weights.sum(-1, keepdim=True)


def column_image(
    columns: Sequence[tuple[float, float, Sequence[tuple[str, float]]]],
    *,
    beam_energy: float,
    convergence_semiangle: float,
    inner_collection_angle: float,
    outer_collection_angle: float,
    x: np.ndarray,
    y: np.ndarray,
    aberrations: Mapping[str, float] | None = None,
    source_size: float = 0.0,
    focal_spread: float = 0.0,
    cell: tuple[float, float] | None = None,
) -> xr.DataArray:
    """Noise-free annular dark-field image of columns of atoms, as a fraction of the beam.

    Parameters
    ----------
    columns : sequence of tuple
        ``(x, y, [(element, z), ...])``: position in Å and the atoms of the column, z in Å along the beam.
    beam_energy : float
        In eV, 30e3 to 300e3.
    convergence_semiangle : float
        In mrad, up to 40.
    inner_collection_angle, outer_collection_angle : float
        In mrad, between 25 and 300.
    x, y : ndarray, shapes (x,) and (y,)
        Positions of the probe in Å.
    aberrations : mapping of str to float, optional
        Polar coefficients C10 (= -defocus), C12, phi12, C21, phi21, C23, phi23, C30 in Å and rad; the focus refers to
        z = 0. Default: none.
    source_size : float
        Full width at half maximum of the effective source in Å.
    focal_spread : float
        Root mean square spread of the focus in Å.
    cell : tuple of float, optional
        Periods (Lx, Ly) in Å: the columns repeat, wave vectors live on the reciprocal lattice of the cell, and the aperture
        falls off over one spacing of it, as in a multislice calculation. Default: isolated columns in a cell that is
        wide enough for them.

    Returns
    -------
    DataArray, dimensions (y, x)
        Fraction of the incident electrons that reach the detector.

    Raises
    ------
    ValueError
        For an impossible or unknown condition, and for a column that cannot be computed.

    Notes
    -----
    Every column scatters by itself and coherently; images of columns add. The response of a column is its scattering
    kernel G(k1, k2), expanded in |k2 - k1| and in powers of k1² and k2², fitted to multislice (docs/physics.md). The columns
    of doped dichalcogenides stand in a table; for others the multislice runs once, which takes seconds.

    Examples
    --------
    >>> import numpy as np
    >>> axis = np.linspace(-2, 2, 5)
    >>> image = column_image([(0.0, 0.0, [("W", 0.0)])], beam_energy=80e3, convergence_semiangle=30,
    ...                      inner_collection_angle=80, outer_collection_angle=250, x=axis, y=axis)
    >>> image.dims, int(image.values.argmax())
    (('y', 'x'), 12)
    """
    check_imaging(beam_energy, convergence_semiangle, inner_collection_angle, outer_collection_angle)
    unknown = set(aberrations or {}) - set(ABERRATIONS)
    if unknown:
        raise ValueError(f"aberrations among {', '.join(ABERRATIONS)} were expected, got {sorted(unknown)[0]!r}")
    x, y = np.atleast_1d(np.asarray(x, float)), np.atleast_1d(np.asarray(y, float))
    points = np.array([(cx, cy) for cx, cy, _ in columns], float).reshape(-1, 2)
    if cell is None:
        # the rim of the aperture, one spacing of the lattice wide, lifts a peak by spacing / (3 radius): here by 0.7 %
        cell = tuple(np.ptp(np.append(points[:, axis], v)) + 60.0 for axis, v in enumerate((x, y)))
    stacks = [tuple(sorted(((e, float(z)) for e, z in atoms), key=lambda atom: atom[1])) for *_, atoms in columns]
    kinds = list(dict.fromkeys(stacks))
    kind_of = np.array([kinds.index(stack) for stack in stacks])

    def scalar(value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float64)

    responses = [column_response(k, beam_energy, inner_collection_angle, outer_collection_angle) for k in kinds]
    cutoff = 2 * convergence_semiangle * 1e-3 / wavelength(beam_energy)
    num_modes = tuple(int(cutoff * length) + 2 for length in cell)
    spectra = column_spectra(
        torch.stack([c for c, _ in responses]),
        torch.tensor([u for _, u in responses], dtype=torch.float64),
        beam_energy=scalar(beam_energy),
        convergence_semiangle=scalar(convergence_semiangle),
        aberrations={name: scalar(value) for name, value in (aberrations or {}).items()},
        source_size=scalar(source_size),
        focal_spread=scalar(focal_spread),
        cell=cell,
        num_modes=num_modes,
    )
    spectrum = torch.zeros_like(spectra[0])
    for i, response in enumerate(spectra):
        rows, cols = structure_factors(torch.from_numpy(points[kind_of == i]), cell=cell, num_modes=num_modes)
        spectrum = spectrum + response * (rows.mT @ cols)
    image = synthesize(spectrum, torch.from_numpy(x), torch.from_numpy(y), cell=cell)
    axes = {"y": ("y", y, {"units": "Å"}), "x": ("x", x, {"units": "Å"})}
    return xr.DataArray(image.numpy(), axes, ("y", "x"), "intensity", {"units": "1", "long_name": "fraction of the beam"})
