"""Optics of the probe: electron wavelength, aberrations, aperture and transfer function."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from scipy.fft import next_fast_len
from torch import Tensor

from .context import ABERRATIONS, Probe

__all__ = [
    "as_tensor",
    "beam_energy",
    "bilinear",
    "chebyshev",
    "lorentz_factor",
    "mode_orders",
    "pupil",
    "transfer",
    "wavelength",
]

REST_ENERGY = 510_998.95  # m c² of the electron, eV
HC = 12_398.419_84  # h c, eV Å

MAX_SEMIANGLE = 40.0
"""Largest convergence semi-angle for which column responses are expanded, in mrad."""

NO_RADIUS = 1e-10  # 1/Å, so that the modulus of a wave vector has a derivative at zero

# fields for an error below 1e-4 of the average over the focal spread; the phase is that at the rim
# of the aperture for a defocus of one standard deviation
LEAST_FIELDS, FIELDS_PER_PHASE = 4, 2

POWERS = ((0, 0), (1, 0), (1, 1), (2, 0))
"""Exponents (m, n) of p1**m p2**n in the scattering kernel, p = (k wavelength / MAX_SEMIANGLE)²."""


def wavelength(beam_energy: float | Tensor) -> float | Tensor:
    """Relativistic de Broglie wavelength of an electron.

    Parameters
    ----------
    beam_energy : float or Tensor
        Kinetic energy in eV.

    Returns
    -------
    float or Tensor
        Wavelength in Å, same shape as ``beam_energy``.

    Notes
    -----
    wavelength = h c / sqrt(E (E + 2 m c²)).

    Examples
    --------
    >>> round(wavelength(80e3), 6)
    0.041757
    """
    return HC / (beam_energy * (beam_energy + 2 * REST_ENERGY)) ** 0.5


def beam_energy(wavelength: float | Tensor) -> float | Tensor:
    """Kinetic energy of an electron of a wavelength.

    Parameters
    ----------
    wavelength : float or Tensor
        In Å.

    Returns
    -------
    float or Tensor
        In eV, same shape as ``wavelength``.
    """
    return (REST_ENERGY**2 + (HC / wavelength) ** 2) ** 0.5 - REST_ENERGY


def lorentz_factor(beam_energy: float | Tensor) -> float | Tensor:
    """Lorentz factor of the electron: relativistic mass over rest mass.

    Parameters
    ----------
    beam_energy : float or Tensor
        Kinetic energy in eV.

    Returns
    -------
    float or Tensor
        gamma = 1 + E / m c², same shape as ``beam_energy``.
    """
    return 1 + beam_energy / REST_ENERGY


def as_tensor(value: float | Tensor, like: Tensor) -> Tensor:
    """A number as a tensor on the device and in the precision of another; tensors are unchanged.

    Parameters
    ----------
    value : float or Tensor
        Number or tensor.
    like : Tensor
        Gives device and precision.

    Returns
    -------
    Tensor
        Of the value.
    """
    return value if isinstance(value, Tensor) else torch.tensor(value, dtype=like.dtype).to(like)


def bilinear(u: Sequence[Tensor], v: Sequence[Tensor]) -> list[Tensor]:
    """Hermitian products of two sequences of powers, in the order of ``POWERS``.

    Parameters
    ----------
    u, v : sequence of Tensor
        ``u[m]`` is the m-th power belonging to the first wave vector, ``v[n]`` the n-th power
        belonging to the second one.

    Returns
    -------
    list of Tensor
        For every (m, n) of ``POWERS``: u_m v_n if m = n, otherwise the two terms
        u_m v_n + u_n v_m and i (u_m v_n - u_n v_m). All terms are real if ``v`` is the complex
        conjugate of ``u``.
    """
    terms = []
    for m, n in POWERS:
        if m == n:
            terms.append(u[m] * v[n])
        else:
            terms += [u[m] * v[n] + u[n] * v[m], 1j * (u[m] * v[n] - u[n] * v[m])]
    return terms


def chebyshev(x: Tensor, num_orders: int) -> Tensor:
    """Chebyshev polynomials of the first kind on [0, 1], zero above one.

    Parameters
    ----------
    x : Tensor
        Arguments, >= 0.
    num_orders : int
        Number of polynomials.

    Returns
    -------
    Tensor, shape (order, *x)
        T_n(2 x - 1).
    """
    t = 2 * x.clamp(max=1) - 1
    polynomials = [torch.ones_like(t), t]
    for _ in range(num_orders - 2):
        polynomials.append(2 * t * polynomials[-1] - polynomials[-2])
    return torch.stack(polynomials) * (x <= 1)


def pupil(kx: Tensor, ky: Tensor, probe: Probe, softness: float) -> Tensor:
    """Normalised complex pupil function of the probe-forming lens on a grid of wave vectors.

    Parameters
    ----------
    kx, ky : Tensor
        Wave vectors in 1/Å; both broadcast against each other and against the batch.
    probe : Probe
        Numbers, or tensors of shape (*batch, 1, 1). The focal spread and the size of the source are
        not part of the pupil.
    softness : float
        Half the width in 1/Å of the edge of the aperture; use the mean spacing of the grid.

    Returns
    -------
    Tensor, shape (*batch, ky, kx)
        A(k) exp(-2 pi i W / wavelength), scaled so that the squared modulus sums to one.

    Notes
    -----
    W = theta²/2 [C10 + C12 cos 2(phi - phi12)] + theta³/3 [C21 cos(phi - phi21)
    + C23 cos 3(phi - phi23)] + theta⁴/4 C30, with theta = k wavelength.

    References
    ----------
    Krivanek, Dellby and Lupini, Ultramicroscopy 78, 1 (1999), doi:10.1016/S0304-3991(99)00013-3.
    """
    lam = wavelength(as_tensor(probe.beam_energy, kx))
    c10, c12, phi12, c21, phi21, c23, phi23, c30 = (
        as_tensor(probe.aberrations.get(name, 0.0), kx) for name in ABERRATIONS
    )
    # theta^n cos n(phi - phi0) is a polynomial in x and y, so the angle phi is not needed
    x, y = kx * lam, ky * lam
    square, difference, product = x**2 + y**2, x**2 - y**2, 2 * x * y
    path = (
        square
        / 2
        * (c10 + square * c30 / 2 + (x * (c21 * phi21.cos()) + y * (c21 * phi21.sin())) * (2 / 3))
        + difference
        * (
            c12 * (2 * phi12).cos() / 2
            + x * (c23 * (3 * phi23).cos() / 3)
            + y * (c23 * (3 * phi23).sin() / 3)
        )
        + product
        * (
            c12 * (2 * phi12).sin() / 2
            + x * (c23 * (3 * phi23).sin() / 3)
            - y * (c23 * (3 * phi23).cos() / 3)
        )
    )
    edge = probe.convergence_semiangle * 1e-3 / lam
    # the integral of a Hann window: sums over the grid hardly change as the edge passes its points
    radius = (kx**2 + ky**2 + NO_RADIUS**2).sqrt()
    inside = torch.clamp((edge - radius) / (2 * softness) + 0.5, 0, 1)
    amplitude = inside - torch.sin(2 * math.pi * inside) / (2 * math.pi)
    amplitude = amplitude / amplitude.square().sum((-2, -1), keepdim=True).sqrt()
    return torch.polar(amplitude, -2 * math.pi / lam * path)


def mode_orders(largest: int) -> Tensor:
    """Orders of the spatial frequencies along y, in the row order of every spectrum.

    Parameters
    ----------
    largest : int
        Largest order m.

    Returns
    -------
    Tensor of int, shape (2 m + 1,)
        0, 1 ... m, -1 ... -m: rows n and m + n hold the orders n and -n.
    """
    upward = torch.arange(largest + 1)
    return torch.cat([upward, -upward[1:]])


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
    # CPU: one row at a time, so that the transforms fit into the cache; GPU: all rows in one launch
    parts = rows.split(1 if rows.device.type == "cpu" else len(rows))
    given = cell, num_modes, refinement
    found = torch.cat([_transfer_rows(part, *given) for part in parts], 1)
    return found.view(len(found), *batch, *found.shape[-2:])


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


def geometric_reach(probe: Probe) -> Tensor:
    """Distance from the middle of a probe to the outermost ray of geometrical optics, at most.

    Parameters
    ----------
    probe : Probe
        Numbers or tensors.

    Returns
    -------
    Tensor
        In Å; without diffraction and source.
    """
    theta = torch.as_tensor(probe.convergence_semiangle) * 1e-3
    c10, c12, _, c21, _, c23, _, c30 = (
        torch.as_tensor(probe.aberrations.get(name, 0.0)).abs() for name in ABERRATIONS
    )
    # the gradient of W, and rays that lose energy
    first = theta * (c10 + c12 + 2 * torch.as_tensor(probe.focal_spread))
    return first + theta**2 * (c21 + c23) + theta**3 * c30


def _take(spectrum: Tensor, rows: Tensor, num_columns: int) -> Tensor:
    """Rows by signed order and first columns of a half spectrum, zero beyond its band limit."""
    size = spectrum.shape[-2]
    inside = (rows.abs() <= (size - 1) // 2)[:, None]
    picked = spectrum[..., rows % size, : min(num_columns, spectrum.shape[-1])] * inside
    return torch.nn.functional.pad(picked, (0, num_columns - picked.shape[-1]))
