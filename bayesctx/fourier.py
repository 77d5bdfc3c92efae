"""Fourier coefficients of images of columns."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable

from .context import Probe
from .optics import MAX_SEMIANGLE, NO_RADIUS, as_tensor, chebyshev, mode_orders, wavelength
from .responses import NUM_ORDERS
from .transfer import transfer

__all__ = [
    "bandwidth",
    "column_phases",
    "column_spectra",
    "embed",
    "phases",
    "structure_factor",
]

FWHM = 2 * math.sqrt(2 * math.log(2))  # of a Gaussian, in standard deviations


def column_spectra(
    coefficients: Tensor,
    displacement: Tensor,
    probe: Probe,
    *,
    cell: tuple[float | Tensor, float | Tensor],
    num_modes: tuple[int, int],
    positions: Tensor | None = None,
    refinement: int = 1,
) -> Tensor:
    """Fourier coefficients of the image of one column, for every column and condition of a batch.

    Parameters
    ----------
    coefficients : Tensor, shape (*batch, column, term, order)
        Responses of the columns to the detector, see ``responses.ResponseTable.coefficients``.
    displacement : Tensor, shape (*batch, column)
        Root mean square thermal displacement of the columns in Å.
    probe : Probe
        Numbers, or tensors of shape (*batch,).
    cell : tuple of float or Tensor
        Periods (Lx, Ly) of the image in Å.
    num_modes : tuple of int
        Largest orders (mx, my) of the spatial frequencies.
    positions : Tensor, shape (*batch, column, 2), optional
        x and y of the columns in Å. Default: the origin.
    refinement : int, optional
        See ``transfer.transfer``.

    Returns
    -------
    Tensor, shape (*batch, column, 2 my + 1, mx + 1)
        Complex coefficients, as a fraction of the beam; rows by ``optics.mode_orders``, columns
        qx >= 0.

    Notes
    -----
    H(Q) = exp(-2 pi² (u² + sigma_s²) Q²) / (Lx Ly) sum_t O_t(|Q|) T_t(Q).
    """
    energy = as_tensor(probe.beam_energy, coefficients)
    terms = transfer(
        replace(probe, beam_energy=energy), cell=cell, num_modes=num_modes,
        refinement=refinement,
    )  # fmt: skip
    qx = torch.arange(num_modes[0] + 1).to(energy) / cell[0]
    qy = mode_orders(num_modes[1]).to(energy) / cell[1]
    scale = wavelength(energy) / (2 * MAX_SEMIANGLE * 1e-3)
    radius = (qx**2 + qy[:, None] ** 2 + NO_RADIUS**2).sqrt()
    polynomials = chebyshev(radius * scale[..., None, None], NUM_ORDERS)
    # one real matrix product: (column, term * order) times (term * order, mode * re and im)
    basis = (
        torch.view_as_real(terms[:, None] * polynomials).flatten(0, 1).movedim(0, -4).flatten(-3)
    )
    spectra = (coefficients.flatten(-2) @ basis).unflatten(-1, (len(qy), len(qx), 2))
    source = as_tensor(probe.source_size, energy)[..., None] / FWHM
    blur = -2 * math.pi**2 * (displacement**2 + source**2)[..., None]
    along_x, along_y = torch.exp(blur * qx**2) / (cell[0] * cell[1]), torch.exp(blur * qy**2)
    if positions is None:
        return torch.view_as_complex(
            spectra * (along_y[..., :, None] * along_x[..., None, :])[..., None]
        )
    at_x, at_y = column_phases(positions, cell=cell, num_modes=num_modes)
    return torch.view_as_complex(spectra) * (
        (along_y * at_y)[..., :, None] * (along_x * at_x)[..., None, :]
    )


def embed(
    spectrum: Tensor,
    *,
    cell: tuple[float, float],
    larger: tuple[float, float],
    num_modes: tuple[int, int],
) -> Tensor:
    """Fourier coefficients, in a larger cell, of an image that is zero outside of a small one.

    Parameters
    ----------
    spectrum : Tensor, shape (*batch, 2 my + 1, mx + 1)
        Coefficients in the small cell, around the origin.
    cell, larger : tuple of float
        Periods (Lx, Ly) of both cells in Å.
    num_modes : tuple of int
        Largest orders (Mx, My) in the larger cell.

    Returns
    -------
    Tensor, shape (*batch, 2 My + 1, Mx + 1)
        Complex, in the same order.

    Notes
    -----
    The interpolation between frequencies by the sinc function, which is exact for such an image.
    """
    sizes = (spectrum.shape[-1] - 1, (spectrum.shape[-2] - 1) // 2)
    ratios = (small / large for small, large in zip(cell, larger, strict=True))
    between_x, between_y, turned = (
        v.to(spectrum.device) for v in _between(sizes, num_modes, tuple(ratios))
    )
    rows = between_y.to(spectrum.real) @ torch.view_as_real(spectrum).flatten(-2)
    real, imag = rows.unflatten(-1, (-1, 2)).unbind(-1)
    columns = between_x.to(spectrum.real).mT
    return torch.complex(
        torch.cat([real, real[..., turned, :]], -1) @ columns,
        torch.cat([imag, -imag[..., turned, :]], -1) @ columns,
    )


@functools.lru_cache(maxsize=32)  # part of every gradient, for few geometries
def _between(
    small: tuple[int, int], large: tuple[int, int], ratios: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Interpolation along x, of orders q and -q beside each other, and y; rows of -qy."""

    def weights(orders: Tensor, wanted: Tensor, ratio: float) -> Tensor:
        return ratio * torch.sinc(orders.double() - ratio * wanted.double()[:, None])

    qx, all_qx, all_qy = (
        torch.arange(small[0] + 1),
        torch.arange(large[0] + 1),
        mode_orders(large[1]),
    )
    upward, downward = (weights(sign * qx, all_qx, ratios[0]) for sign in (1, -1))
    downward[:, 0] = 0
    # the coefficients at -q are the complex conjugates of those at q
    turned = torch.where(all_qy > 0, large[1] + all_qy, -all_qy)
    along_y = weights(mode_orders(small[1]), all_qy, ratios[1])
    return torch.cat([upward, downward], 1), along_y, turned


def bandwidth(probe: Probe, displacement: Tensor, *, tolerance: float) -> Tensor:
    """Spatial frequency beyond which the image of a point scatterer is negligible.

    Parameters
    ----------
    probe : Probe
        Numbers, or tensors of shape (*batch,).
    displacement : Tensor, shape (*batch,)
        Root mean square thermal displacement of the scatterer in Å.
    tolerance : float
        Fraction of the peak intensity that may be lost.

    Returns
    -------
    Tensor, shape (*batch,)
        In 1/Å, at most twice the radius of the aperture.

    Notes
    -----
    An upper bound: the transfer function of an aberration-free lens,
    (2 / pi) (acos s - s sqrt(1 - s²)) with s = |Q| / Q_max, times exp(-2 pi² blur² Q²), where blur
    is the root mean square width of source and thermal motion. Aberrations and the width of the
    atomic profiles only lower the transfer.

    References
    ----------
    Goodman, Introduction to Fourier Optics (2005), sec. 6.3.
    """
    energy, angle, source = (
        as_tensor(v, displacement)
        for v in (probe.beam_energy, probe.convergence_semiangle, probe.source_size)
    )
    blur = torch.hypot(displacement, source / FWHM)
    edge = 2e-3 * angle / wavelength(energy)
    s = (torch.arange(128).to(edge) + 0.5) / 128
    ideal = (s.acos() - s * (1 - s**2).sqrt()) * s
    weight = ideal * torch.exp(-2 * math.pi**2 * (blur * edge)[..., None] ** 2 * s**2)
    beyond = weight.flip(-1).cumsum(-1).flip(-1) / weight.sum(-1, keepdim=True)
    return edge * (beyond > tolerance).sum(-1) / 128


def phases(angle: Tensor, largest: int) -> Tensor:
    """Powers exp(i n angle) for n = 0 ... largest.

    Parameters
    ----------
    angle : Tensor, shape (*batch,)
        In rad.
    largest : int
        Largest power.

    Returns
    -------
    Tensor, shape (*batch, largest + 1)
        Complex.

    Notes
    -----
    Computed by repeated doubling: one complex product per power instead of a sine and a cosine.
    """
    return _Phases.apply(angle, largest)


class _Phases(torch.autograd.Function):
    """``phases``, with a derivative in closed form instead of one through every doubling."""

    @staticmethod
    def forward(ctx: FunctionCtx, angle: Tensor, largest: int) -> Tensor:
        powers = torch.polar(torch.ones_like(angle), angle)[..., None]
        while powers.shape[-1] < largest:
            more = powers[..., : largest - powers.shape[-1]] * powers[..., -1:]
            powers = torch.cat([powers, more], -1)
        powers = torch.cat([torch.ones_like(powers[..., :1]), powers[..., :largest]], -1)
        ctx.save_for_backward(powers)
        return powers

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, gradient: Tensor) -> tuple[Tensor, None]:
        (powers,) = ctx.saved_tensors
        order = torch.arange(powers.shape[-1]).to(powers.real)
        turned = gradient.imag * powers.real - gradient.real * powers.imag
        return turned @ order, None


def column_phases(
    positions: Tensor, *, cell: tuple[float, float], num_modes: tuple[int, int]
) -> tuple[Tensor, Tensor]:
    """Phase factors exp(-2 pi i Q.r) of single positions, separated into the two axes.

    Parameters
    ----------
    positions : Tensor, shape (*batch, 2)
        x and y in Å.
    cell : tuple of float
        Periods in Å.
    num_modes : tuple of int
        Largest orders (mx, my).

    Returns
    -------
    tuple of Tensor, shapes (*batch, mx + 1) and (*batch, 2 my + 1)
        Factors along x and, ordered by ``optics.mode_orders``, along y.
    """
    x, y = (phases(positions[..., i] * (-2 * math.pi / cell[i]), num_modes[i]) for i in (0, 1))
    return x, torch.cat([y, y[..., 1:].conj()], -1)


def structure_factor(
    positions: Tensor,
    weights: Tensor,
    *,
    cell: tuple[float, float],
    num_modes: tuple[int, int],
    sizes: Sequence[int] | None = None,
) -> Tensor:
    """Structure factor: weighted sum of exp(-2 pi i Q.r) over positions.

    Parameters
    ----------
    positions : Tensor, shape (*batch, column, 2)
        x and y in Å.
    weights : Tensor, shape (*batch, column)
        Weight of every position.
    cell : tuple of float
        Periods in Å.
    num_modes : tuple of int
        Largest orders (mx, my).
    sizes : sequence of int, optional
        Numbers of successive columns that are summed apart; default: one sum over all.

    Returns
    -------
    Tensor, shape (*batch, 2 my + 1, mx + 1), with sizes (*batch, sum, 2 my + 1, mx + 1)
        Complex, rows by ``optics.mode_orders``.
    """
    x, y = (phases(positions[..., i] * (-2 * math.pi / cell[i]), num_modes[i]) for i in (0, 1))
    # the real product of cosines and sines gives both orders qy and -qy, at half the cost
    rows, columns = (torch.view_as_real(v).flatten(-2) for v in (y * weights[..., None], x))
    if sizes is None:
        parts = rows.mT @ columns
    else:
        apart = zip(*(v.split(list(sizes), -2) for v in (rows, columns)), strict=True)
        parts = torch.stack([a.mT @ b for a, b in apart], -3)
    parts = parts.unflatten(-2, (-1, 2)).unflatten(-1, (-1, 2))
    cc, cs, sc, ss = (parts[..., i, :, j] for i in (0, 1) for j in (0, 1))
    return torch.cat(
        [torch.complex(cc - ss, cs + sc), torch.complex(cc + ss, cs - sc)[..., 1:, :]], -2
    )
