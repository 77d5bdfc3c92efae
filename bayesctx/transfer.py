"""The transfer function of the probe."""

from __future__ import annotations

import functools
import math

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from .context import ABERRATIONS, Probe
from .optics import MAX_SEMIANGLE, POWERS, as_tensor, chebyshev, mode_orders, pupil, wavelength

__all__ = ["transfer"]

# fields for an error below 1e-4 of the average over the focal spread; the phase is that at the rim
# of the aperture for a defocus of one standard deviation
LEAST_FIELDS, FIELDS_PER_PHASE = 4, 2


def transfer(
    probe: Probe,
    *,
    cell: tuple[float | Tensor, float | Tensor],
    num_modes: tuple[int, int],
    refinement: int = 1,
) -> Tensor:
    """Transfer function of the probe for every term of the scattering kernel.

    Parameters
    ----------
    probe : Probe
        The beam energy as a tensor of shape (*batch,), the rest as tensors of that shape or
        numbers. The size of the source is not part of the transfer function.
    cell : tuple of float or Tensor
        Periods (Lx, Ly) of the image in Å, of which spatial frequencies are multiples of 1/Lx and
        1/Ly.
    num_modes : tuple of int
        Largest orders (mx, my) of the spatial frequencies that are returned.
    refinement : int
        Wave vectors are multiples of 1/Lx and 1/Ly over this number: the edge of the aperture is as
        sharp as they are dense.

    Returns
    -------
    Tensor, shape (term, *batch, 2 my + 1, mx + 1)
        T(Q) for qy = ``mode_orders(my)`` / Ly and qx = 0 ... mx/Lx; the values at -Q are the
        complex conjugates.

    Notes
    -----
    T_t(Q) = sum_k b_t(psi(k) p(k)^m, psi*(k + Q) p(k + Q)^n), the autocorrelation of the pupil
    weighted with powers of the squared angle p. A Gaussian focal spread multiplies every product by
    exp(-(c p(k) - c p(k + Q))² / 2). Powers and Gaussian are expanded in Chebyshev polynomials of
    both p, so that T is computed from products of few fields in real space.
    """
    energy = probe.beam_energy
    batch = energy.shape
    parameters = [
        as_tensor(value, energy).expand(batch)
        for value in (
            energy,
            probe.convergence_semiangle,
            probe.focal_spread,
            *(probe.aberrations.get(name, 0.0) for name in ABERRATIONS),
        )
    ]
    rows = torch.stack(parameters, -1).reshape(-1, len(parameters))
    if len(rows) == 1 and rows.device.type == "cpu" and not _has_slopes(rows, *cell):
        row, lengths = tuple(rows[0].tolist()), tuple(map(float, cell))
        found = _remembered(row, rows.dtype, lengths, num_modes, refinement)
    else:
        # CPU: one at a time, so that the transforms fit into the cache; GPU: all in one launch
        parts = rows.split(1 if rows.device.type == "cpu" else len(rows))
        given = cell, num_modes, refinement
        found = torch.cat([_transfer_rows(part, *given) for part in parts], 1)
    return found.view(len(found), *batch, *found.shape[-2:])


def _has_slopes(*values: float | Tensor) -> bool:
    """Whether a derivative with respect to one of these is asked for."""
    return torch.is_grad_enabled() and any(getattr(v, "requires_grad", False) for v in values)


@functools.lru_cache(maxsize=8)  # of one image, whose detectors, sites and tilt change
def _remembered(
    row: tuple[float, ...],
    dtype: torch.dtype,
    cell: tuple[float, float],
    num_modes: tuple[int, int],
    refinement: int,
) -> Tensor:
    """Transfer of one row; whoever is given it must not write to it."""
    return _transfer_rows(torch.tensor([row], dtype=dtype), cell, num_modes, refinement)


def _transfer_rows(
    rows: Tensor,
    cell: tuple[float | Tensor, float | Tensor],
    num_modes: tuple[int, int],
    refinement: int,
) -> Tensor:
    """Transfer for rows of (energy, semi-angle, spread, aberrations), shape (term, row, qy, qx)."""
    energy, angle, spread, *coefficients = rows.T[..., None, None]
    lam = wavelength(energy)
    lx, ly = (length * refinement for length in cell)
    reach = float((angle * 1e-3 / lam).detach().max())
    lengths = [float(torch.as_tensor(length).detach()) for length in (lx, ly)]
    nx, ny = (math.ceil(reach * length) + 1 for length in lengths)
    # padding keeps aliases of the autocorrelation outside the returned modes
    size_x, size_y = (
        next_fast_len(2 * n + min(2 * n, refinement * m) + 1)
        for n, m in ((nx, num_modes[0]), (ny, num_modes[1]))
    )
    kx = torch.arange(-nx, nx + 1).to(rows) / lx
    ky = torch.arange(-ny, ny + 1).to(rows)[:, None] / ly
    probe = Probe(energy, angle, dict(zip(ABERRATIONS, coefficients, strict=True)))
    psi = pupil(kx, ky, probe, softness=(1 / lx + 1 / ly) / 2)
    power = (kx**2 + ky**2) * (lam / (MAX_SEMIANGLE * 1e-3)) ** 2
    largest = (power * (psi != 0)).max()
    # an extra defocus C multiplies the pupil by exp(-i pi wavelength k² C)
    turn = math.pi * (MAX_SEMIANGLE * 1e-3) ** 2 / lam * spread
    num = math.ceil(LEAST_FIELDS + FIELDS_PER_PHASE * float(largest.detach() * turn.detach().max()))
    fields = psi[:, None] * chebyshev(power / largest, num).transpose(0, 1)
    # one axis at a time: rows outside of the pupil have nothing to be transformed
    fields = torch.fft.fft(torch.fft.fft(fields, n=size_x), n=size_y, dim=-2)
    total = _products(fields, _kernels(turn, largest, num))
    return _take(
        torch.fft.rfft2(total, norm="forward"),
        refinement * mode_orders(num_modes[1]).to(rows.device),
        refinement * num_modes[0] + 1,
    )[..., ::refinement]


def _kernels(turn: Tensor, largest: Tensor, num: int) -> Tensor:
    """Coefficients of p^m q^n exp(-turn² (p - q)² / 2) in products of Chebyshev polynomials.

    Shape (row, power, order of p, order of q); p and q are at most the largest.
    """
    order = torch.arange(num, dtype=torch.float64)
    angle = (order + 0.5) * (math.pi / num)
    by_order = torch.cos(order[:, None] * angle) * (2 / num)
    by_order[0] /= 2
    by_order, q = by_order.to(turn), largest * ((1 + angle.cos()) / 2).to(turn)
    p = q[:, None]
    powers = torch.stack([p**m * q**n for m, n in POWERS])
    spread = torch.exp(-((turn * (p - q)) ** 2) / 2)
    return by_order @ (spread[:, None] * powers) @ by_order.mT


def _products(fields: Tensor, kernels: Tensor) -> Tensor:
    """Terms of ``bilinear`` of fields and their conjugates, shape (term, row, y, x); all are real.

    Fields have the shape (row, order, y, x), kernels (row, power, order, order).
    """
    flat, terms = torch.view_as_real(fields).flatten(2), []
    for (m, n), kernel in zip(POWERS, kernels.unbind(1), strict=True):
        other = torch.view_as_complex((kernel @ flat).view(*fields.shape, 2))
        total = torch.linalg.vecdot(other, fields, dim=1)
        terms += [total.real] if m == n else [2 * total.real, -2 * total.imag]
    return torch.stack(terms)


def _take(spectrum: Tensor, rows: Tensor, num_columns: int) -> Tensor:
    """Rows by signed order and first columns of a half spectrum, zero beyond its band limit."""
    size = spectrum.shape[-2]
    inside = (rows.abs() <= (size - 1) // 2)[:, None]
    picked = spectrum[..., rows % size, : min(num_columns, spectrum.shape[-1])] * inside
    return torch.nn.functional.pad(picked, (0, num_columns - picked.shape[-1]))
