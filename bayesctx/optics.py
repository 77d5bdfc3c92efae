"""The probe: electron wavelength, aberrations, aperture, and the bilinear transfer of the probe to the image."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from scipy.fft import next_fast_len
from torch import Tensor

__all__ = ["ABERRATIONS", "bilinear", "focal_nodes", "lorentz_factor", "pupil", "transfer", "wavelength"]

ABERRATIONS = ("C10", "C12", "phi12", "C21", "phi21", "C23", "phi23", "C30")
"""Polar aberration coefficients up to third order, in Å and rad (Krivanek's notation; C10 = -defocus)."""

REST_ENERGY = 510_998.95  # m c² of the electron, eV
HC = 12_398.419_84  # h c, eV Å

MAX_SEMIANGLE = 40.0
"""Largest convergence semi-angle of the expansion of the column response, in mrad."""

POWERS = ((0, 0), (1, 0), (1, 1), (2, 0))
"""Exponents (m, n) of p1**m p2**n in the expansion of the scattering kernel, p = (k wavelength / MAX_SEMIANGLE)²."""


def wavelength(beam_energy: float | Tensor) -> float | Tensor:
    """Relativistic de Broglie wavelength of an electron.

    Parameters
    ----------
    beam_energy : float or Tensor
        Kinetic energy in eV.

    Returns
    -------
    float or Tensor
        Wavelength in Å, of the same shape.

    Notes
    -----
    h c / sqrt(E (E + 2 m c²)).

    Examples
    --------
    >>> round(wavelength(80e3), 6)
    0.041757
    """
    return HC / (beam_energy * (beam_energy + 2 * REST_ENERGY)) ** 0.5


def lorentz_factor(beam_energy: float | Tensor) -> float | Tensor:
    """Relativistic mass of an electron over its rest mass.

    Parameters
    ----------
    beam_energy : float or Tensor
        Kinetic energy in eV.

    Returns
    -------
    float or Tensor
        1 + E / m c², of the same shape.
    """
    return 1 + beam_energy / REST_ENERGY


def bilinear(u: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """Hermitian products of two sequences of powers, in the order of ``POWERS``.

    Parameters
    ----------
    u, v : sequence of Tensor
        ``u[m]`` belongs to the first wave vector to the m-th power, ``v[n]`` to the second one to the n-th.

    Returns
    -------
    list of Tensor
        u_m v_m where m = n; otherwise u_m v_n + u_n v_m and i (u_m v_n - u_n v_m). If ``v`` is the conjugate of ``u``
        all of them are real.
    """
    terms = []
    for m, n in POWERS:
        if m == n:
            terms.append(u[m] * v[n])
        else:
            terms += [u[m] * v[n] + u[n] * v[m], 1j * (u[m] * v[n] - u[n] * v[m])]
    return terms


def pupil(
    kx: Tensor,
    ky: Tensor,
    *,
    beam_energy: Tensor,
    convergence_semiangle: Tensor,
    aberrations: Mapping[str, Tensor],
    softness: float,
) -> Tensor:
    """Normalised complex aperture of the probe-forming lens on a lattice of wave vectors.

    Parameters
    ----------
    kx, ky : Tensor
        Wave vectors in 1/Å, broadcasting against each other and against the batch.
    beam_energy, convergence_semiangle : Tensor, shape (*batch, 1, 1)
        In eV and mrad.
    aberrations : mapping of str to Tensor, shape (*batch, 1, 1)
        Any of ``ABERRATIONS``, in Å and rad; those left out are zero.
    softness : float
        Width in 1/Å over which the aperture falls from one to zero: the mean spacing of the lattice.

    Returns
    -------
    Tensor, shape (*batch, ky, kx)
        exp(-2 pi i W / wavelength) inside the aperture; the squared modulus sums to one.

    Notes
    -----
    W = theta²/2 [C10 + C12 cos 2(phi - phi12)] + theta³/3 [C21 cos(phi - phi21) + C23 cos 3(phi - phi23)]
    + theta⁴/4 C30, with theta = k wavelength.

    References
    ----------
    Krivanek, Dellby and Lupini, Ultramicroscopy 78, 1 (1999), doi:10.1016/S0304-3991(99)00013-3.
    """
    lam = wavelength(beam_energy)
    k = torch.hypot(kx, ky)
    theta, phi = k * lam, torch.atan2(ky, kx)
    zero = torch.zeros((), dtype=k.dtype, device=k.device)
    c10, c12, phi12, c21, phi21, c23, phi23, c30 = (aberrations.get(name, zero) for name in ABERRATIONS)
    path = (
        theta**2 / 2 * (c10 + c12 * torch.cos(2 * (phi - phi12)))
        + theta**3 / 3 * (c21 * torch.cos(phi - phi21) + c23 * torch.cos(3 * (phi - phi23)))
        + theta**4 / 4 * c30
    )
    edge = convergence_semiangle * 1e-3 / lam
    amplitude = torch.clamp((edge - k) / softness + 0.5, 0, 1)
    amplitude = amplitude / amplitude.square().sum((-2, -1), keepdim=True).sqrt()
    return torch.polar(amplitude, -2 * math.pi / lam * path)


def transfer(
    *,
    beam_energy: Tensor,
    convergence_semiangle: Tensor,
    aberrations: Mapping[str, Tensor],
    focal_spread: Tensor,
    cell: tuple[float, float],
    num_modes: tuple[int, int],
    num_foci: int = 5,
) -> Tensor:
    """Transfer of the probe to the image for every term of the scattering kernel.

    Parameters
    ----------
    beam_energy, convergence_semiangle : Tensor, shape (*batch,)
        In eV and mrad.
    aberrations : mapping of str to Tensor, shape (*batch,)
        Any of ``ABERRATIONS``, in Å and rad.
    focal_spread : Tensor, shape (*batch,)
        Root mean square spread of the focus in Å.
    cell : tuple of float
        Periods (Lx, Ly) of the image in Å; wave vectors and spatial frequencies are multiples of 1/Lx and 1/Ly.
    num_modes : tuple of int
        Largest orders (mx, my) of the spatial frequencies that are returned.
    num_foci : int
        Nodes of the Gauss-Hermite average over the focal spread; one node where every spread is zero.

    Returns
    -------
    Tensor, shape (term, *batch, 2 my + 1, mx + 1)
        T(Q) for qy = -my/Ly ... my/Ly and qx = 0 ... mx/Lx (the other half is the complex conjugate).

    Notes
    -----
    T_t(Q) = sum_k b_t(psi(k) p(k)^m, psi*(k + Q) p(k + Q)^n): the autocorrelation of the pupil weighted with powers of
    the squared angle, computed as the product of the fields in real space.
    """
    batch = beam_energy.shape
    parameters = [beam_energy, convergence_semiangle, focal_spread, *(aberrations.get(n, beam_energy * 0) for n in ABERRATIONS)]
    rows = torch.stack([p.expand(batch) for p in parameters], -1).reshape(-1, len(parameters))
    # chunks of similar apertures: the transforms stay small and in the cache
    order = (rows[:, 1] / wavelength(rows[:, 0])).argsort()
    num_foci = num_foci if bool((focal_spread > 0).any()) else 1
    chunks = [_transfer_chunk(rows[c], cell, num_modes, num_foci) for c in order.split(4)]
    return torch.cat(chunks, 1)[:, order.argsort()].unflatten(1, batch) if batch else chunks[0][:, 0]


def _transfer_chunk(rows: Tensor, cell: tuple[float, float], num_modes: tuple[int, int], num_foci: int) -> Tensor:
    """Transfer for rows of (energy, semiangle, spread, aberrations), shape (term, row, qy, qx)."""
    energy, angle, spread, *coefficients = (v[:, None, None] for v in rows.unbind(-1))
    lx, ly = cell
    reach = float((angle * 1e-3 / wavelength(energy)).max())
    nx, ny = (int(math.ceil(reach * length)) + 1 for length in cell)
    # aliases of the autocorrelation must stay outside of the modes that are returned
    size_x, size_y = (next_fast_len(2 * n + min(2 * n, m) + 1) for n, m in ((nx, num_modes[0]), (ny, num_modes[1])))
    kx = torch.arange(-nx, nx + 1).to(rows) / lx
    ky = torch.arange(-ny, ny + 1).to(rows)[:, None] / ly
    power = (kx**2 + ky**2) * (wavelength(energy) / (MAX_SEMIANGLE * 1e-3)) ** 2
    psi = pupil(
        kx,
        ky,
        beam_energy=energy,
        convergence_semiangle=angle,
        aberrations=dict(zip(ABERRATIONS, coefficients, strict=True)),
        softness=(1 / lx + 1 / ly) / 2,
    )
    # an extra defocus C turns the pupil by exp(-i pi wavelength k² C)
    turn = math.pi * (MAX_SEMIANGLE * 1e-3) ** 2 / wavelength(energy) * spread * power
    total = 0
    for node, weight in focal_nodes(num_foci):
        field = psi * torch.polar(torch.full_like(turn, math.sqrt(weight)), -node * turn)
        fields = [torch.fft.fft2(f, s=(size_y, size_x)) for f in (field, field * power, field * power**2)]
        total = total + torch.stack([t.real for t in bilinear(fields, [f.conj() for f in fields])])
    orders = torch.arange(-num_modes[1], num_modes[1] + 1, device=rows.device)
    return _take(torch.fft.rfft2(total, norm="forward"), orders, num_modes[0] + 1)


def focal_nodes(num_foci: int) -> list[tuple[float, float]]:
    """Nodes and weights of the average over a standard normal.

    Parameters
    ----------
    num_foci : int
        Number of nodes.

    Returns
    -------
    list of tuple of float
        In standard deviations; the weights sum to one.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(num_foci)
    return [(float(n), float(w)) for n, w in zip(nodes, weights / weights.sum(), strict=True)]


def _take(spectrum: Tensor, rows: Tensor, num_columns: int) -> Tensor:
    """Rows (by signed order) and first columns of a half spectrum, zero where the transform is too small to hold them."""
    size = spectrum.shape[-2]
    inside = (rows.abs() <= (size - 1) // 2)[:, None]
    picked = spectrum[..., rows % size, : min(num_columns, spectrum.shape[-1])] * inside
    return torch.nn.functional.pad(picked, (0, num_columns - picked.shape[-1]))
