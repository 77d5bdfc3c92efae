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
    "focal_nodes",
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
    focal_phase: float | None = None,
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
    focal_phase : float, optional
        Phase for which the average over the focal spread is computed, see ``focal_nodes``; at
        least that of ``rim_phase``. Default: that, rounded up to a multiple of 1/2 rad, so that
        the result is piecewise smooth in the probe; a number makes it smooth.
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
    weighted with powers of the squared angle p. It is computed as a product of the fields in real
    space and averaged over the focal spread (``focal_nodes``).
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
    given = cell, num_modes, focal_phase, refinement
    found = torch.cat([_transfer_rows(part, *given) for part in parts], 1)
    return found.view(len(found), *batch, *found.shape[-2:])


def _transfer_rows(
    rows: Tensor,
    cell: tuple[float | Tensor, float | Tensor],
    num_modes: tuple[int, int],
    focal_phase: float | None,
    refinement: int,
) -> Tensor:
    """Transfer for rows of (energy, semi-angle, spread, aberrations), shape (term, row, qy, qx)."""
    energy, angle, spread, *coefficients = rows.T[..., None, None]
    lam = wavelength(energy)
    lx, ly = (length * refinement for length in cell)
    reach = (angle * 1e-3 / lam).detach()
    lengths = [float(torch.as_tensor(length).detach()) for length in (lx, ly)]
    nx, ny = (math.ceil(float(reach.max()) * length) + 1 for length in lengths)
    # padding keeps aliases of the autocorrelation outside the returned modes
    size_x, size_y = (
        next_fast_len(2 * n + min(2 * n, refinement * m) + 1)
        for n, m in ((nx, num_modes[0]), (ny, num_modes[1]))
    )
    kx = torch.arange(-nx, nx + 1).to(rows) / lx
    ky = torch.arange(-ny, ny + 1).to(rows)[:, None] / ly
    power = (kx**2 + ky**2) * (lam / (MAX_SEMIANGLE * 1e-3)) ** 2
    probe = Probe(energy, angle, dict(zip(ABERRATIONS, coefficients, strict=True)))
    psi = pupil(kx, ky, probe, softness=(1 / lx + 1 / ly) / 2)
    # an extra defocus C multiplies the pupil by exp(-i pi wavelength k² C)
    turn = math.pi * (MAX_SEMIANGLE * 1e-3) ** 2 / lam * spread * power
    # rounded up to steps of 1/2, so that the nodes are constant when a gradient is taken
    rim = (2 * rim_phase(reach, (lam * spread).detach())).ceil() / 2
    if focal_phase is not None:
        rim = torch.full_like(rim, focal_phase)
    nodes, weights = (
        v.to(rows)[..., None, None] for v in focal_nodes(rim[:, 0, 0])
    )  # (row, focus, 1, 1)
    field = psi[:, None] * torch.polar(
        weights.sqrt().expand(-1, -1, *turn.shape[-2:]), -nodes * turn[:, None]
    )
    powers = torch.stack([torch.ones_like(power), power, power**2])[:, :, None]
    f0, f1, f2 = torch.fft.fft2(field * powers, s=(size_y, size_x))
    cross, twice = ((f * f0.conj()).sum(1) for f in (f1, f2))
    square = [(f * f.conj()).sum(1).real for f in (f0, f1)]
    # the terms of bilinear(f, conj f), which are all real
    total = torch.stack(
        [square[0], 2 * cross.real, -2 * cross.imag, square[1], 2 * twice.real, -2 * twice.imag]
    )
    return _take(
        torch.fft.rfft2(total, norm="forward"),
        refinement * mode_orders(num_modes[1]).to(rows.device),
        refinement * num_modes[0] + 1,
    )[..., ::refinement]


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


def rim_phase(reach: Tensor, spread: Tensor) -> Tensor:
    """Phase of the rim of the aperture at a defocus of one focal spread.

    Parameters
    ----------
    reach : Tensor
        Radius of the aperture in 1/Å.
    spread : Tensor
        Wavelength times focal spread in Å².

    Returns
    -------
    Tensor
        In rad, double precision.
    """
    return math.pi * reach.double() ** 2 * spread.double()


def focal_nodes(phase: Tensor) -> tuple[Tensor, Tensor]:
    """Nodes and weights of the average over a Gaussian focal spread.

    Parameters
    ----------
    phase : Tensor, shape (*batch,)
        Phase difference in rad between the edge and the centre of the aperture for a defocus of
        one standard deviation.

    Returns
    -------
    nodes, weights : Tensor, shape (*batch, node)
        Nodes in standard deviations. The weights sum to one; surplus nodes of a batch element that
        needs fewer nodes have weight zero.

    Notes
    -----
    The nodes are equidistant with a step of 2 pi / (phase + 3.8), which keeps aliases of the
    Gaussian beyond every phase of the pupil. The average of exp(i t x) has an error below 2e-3 for
    all t <= phase (tests/test_optics.py) with about phase + 4 nodes; Gauss-Hermite quadrature needs
    phase² / 2.
    """
    step = 2 * math.pi / (phase + 3.8)
    num_foci = torch.where(phase > 0, (6.6 / step).ceil(), 1)[..., None]
    place = torch.arange(int(num_foci.max())).to(step)
    nodes = (place - (num_foci - 1) / 2) * step[..., None]
    weights = torch.exp(-(nodes**2) / 2) * (place < num_foci)
    return nodes, weights / weights.sum(-1, keepdim=True)


def _take(spectrum: Tensor, rows: Tensor, num_columns: int) -> Tensor:
    """Rows by signed order and first columns of a half spectrum, zero beyond its band limit."""
    size = spectrum.shape[-2]
    inside = (rows.abs() <= (size - 1) // 2)[:, None]
    picked = spectrum[..., rows % size, : min(num_columns, spectrum.shape[-1])] * inside
    return torch.nn.functional.pad(picked, (0, num_columns - picked.shape[-1]))
