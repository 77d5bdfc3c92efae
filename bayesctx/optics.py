"""Optics of the probe: electron wavelength, aberrations and aperture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
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
