"""Images from Fourier coefficients, on the pixels of a scan and of its displaced rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .fourier import phases

__all__ = ["synthesize", "synthesize_rows"]

# Å by which a slanted row moves between places where it is computed, and least distance of these
STEP, LEAST = 0.2, 2.0


def synthesize(
    spectrum: Tensor,
    x: Tensor,
    y: Tensor,
    *,
    cell: tuple[float, float],
    row_shift: Tensor | None = None,
) -> Tensor:
    """Image on a grid of pixels from its Fourier coefficients.

    Parameters
    ----------
    spectrum : Tensor, shape (*batch, 2 my + 1, mx + 1)
        Fourier coefficients; rows by ``optics.mode_orders``, columns qx >= 0.
    x, y : Tensor, shapes (*batch, x) and (*batch, y)
        Positions of the pixels in Å; need not be a grid point of the cell.
    cell : tuple of float
        Periods in Å.
    row_shift : Tensor, shape (*batch, y), optional
        Displacement of the beam along x in every scan row, in Å.

    Returns
    -------
    Tensor, shape (*batch, y, x)
        The real image, without interpolation error.
    """
    rows = _row_spectra(spectrum, y, cell=cell, row_shift=row_shift)
    return rows @ _row_basis(x, spectrum.shape[-1] - 1, cell=cell).mT


def synthesize_rows(
    spectrum: Tensor, x: Tensor, y: Tensor, row_shift: Tensor, *, cell: tuple[float, float]
) -> Tensor:
    """Image on the displaced rows of a scan.

    Parameters
    ----------
    spectrum : Tensor, shape (*batch, 2 my + 1, mx + 1)
        Fourier coefficients, see ``synthesize``.
    x, y : Tensor, shapes (x,) and (y,)
        Positions of the pixels in Å; those along x, two at least, in ascending order.
    row_shift : Tensor, shape (y, 3)
        Displacement of the beam along x and y in every scan row in Å, where x is zero, and the
        slant of the row: the change of the latter along it, per Å.
    cell : tuple of float
        Periods in Å.

    Returns
    -------
    Tensor, shape (*batch, y, x)
        The real image.

    Notes
    -----
    Rows without a slant are exact. Others are computed at places between which they move by
    ``STEP`` at most, and are linear between two of them: of a wave along y of frequency q, an
    error of (2 pi q STEP)² / 8 at most. Slants above ``STEP`` over ``LEAST`` are none of a scan.
    """
    along_x, along_y, slant = row_shift.unbind(-1)
    length = float(x[-1] - x[0])
    # at least one, for the slope with a slant of zero; what a sampler tries may be anything
    steps = (slant.detach().abs().max() * length / STEP).nan_to_num().clamp(1, length / LEAST)
    places = torch.linspace(float(x[0]), float(x[-1]), 1 + math.ceil(steps)).to(x)
    there = y + along_y + slant * places[:, None]
    rows = _row_spectra(
        spectrum, there.flatten(), cell=cell, row_shift=along_x.repeat(len(places))
    ).unflatten(-2, there.shape)
    basis = _row_basis(x, spectrum.shape[-1] - 1, cell=cell)
    after = torch.searchsorted(places, x).clamp(1, len(places) - 1)  # the place behind every pixel
    weight = ((x - places[after - 1]) / (places[1] - places[0]))[:, None]
    both = torch.cat([basis * (1 - weight), basis * weight], -1)
    sizes = after.bincount(minlength=len(places))[1:].tolist()
    return torch.cat([
        torch.cat([rows[..., k, :, :], rows[..., k + 1, :, :]], -1) @ part.mT
        for k, part in enumerate(both.split(sizes))
    ], -1)  # fmt: skip


def _row_spectra(
    spectrum: Tensor, y: Tensor, *, cell: tuple[float, float], row_shift: Tensor | None = None
) -> Tensor:
    """Coefficients along x of every row, real and imaginary part in turn, (*batch, y, 2 mx + 2)."""
    my, mx = (spectrum.shape[-2] - 1) // 2, spectrum.shape[-1] - 1
    up, down = (
        spectrum[..., : my + 1, :],
        torch.nn.functional.pad(spectrum[..., my + 1 :, :], (0, 0, 1, 0)),
    )
    # orders qy and -qy use the same cosine and sine
    odd = up - down
    folded = torch.cat([up + down, torch.complex(-odd.imag, odd.real)], -2)
    at_y = phases(2 * math.pi / cell[1] * y, my)
    rows = torch.cat([at_y.real, at_y.imag], -1) @ torch.view_as_real(folded).flatten(-2)
    if row_shift is None:
        return rows
    turn = phases(2 * math.pi / cell[0] * row_shift, mx)
    return torch.view_as_real(torch.view_as_complex(rows.unflatten(-1, (-1, 2))) * turn).flatten(-2)


def _row_basis(x: Tensor, largest: int, *, cell: tuple[float, float]) -> Tensor:
    """Waves that these coefficients are multiplied with, shape (*batch, x, 2 mx + 2)."""
    # the sum over qx and -qx is twice the real part of the sum over qx > 0
    twice = x.new_full((largest + 1,), 2.0)
    twice[0] = 1.0
    waves = phases(2 * math.pi / cell[0] * x, largest) * twice
    return torch.view_as_real(waves.conj().resolve_conj()).flatten(-2)
