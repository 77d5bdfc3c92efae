"""Responses of columns to Fourier coefficients and pixels of an image, batched in torch."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor

from ..optics import MAX_SEMIANGLE, transfer, wavelength
from ..scattering import chebyshev

__all__ = ["column_spectra", "interpolation_matrix", "structure_factors", "synthesize"]

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
