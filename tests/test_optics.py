from dataclasses import replace

import numpy as np
import pytest
import torch

from bayesctx.context import ABERRATIONS, Probe
from bayesctx.optics import (
    HC,
    REST_ENERGY,
    geometric_reach,
    pupil,
    wavelength,
)
from bayesctx.transfer import transfer


def test_wavelength_of_textbook_energies():
    # de Graef, Introduction to Conventional TEM (2003), table 2.2, in pm
    for energy, length in ((60e3, 4.866), (80e3, 4.176), (200e3, 2.508), (300e3, 1.969)):
        assert wavelength(energy) == pytest.approx(length * 1e-2, rel=3e-4)


def make(*shape, **values):
    """A probe of tensors of one shape."""
    value = {"beam_energy": 80e3, "convergence_semiangle": 30.0, "focal_spread": 0.0} | values
    return Probe.of({n: torch.full(shape, v, dtype=torch.float64) for n, v in value.items()})


def test_pupil_is_normalised():
    k = torch.arange(-20, 21, dtype=torch.float64) / 20
    psi = pupil(k, k[:, None], make(3, 1, 1, **dict.fromkeys(ABERRATIONS, 0.3)), softness=0.05)
    assert torch.allclose(psi.abs().square().sum((-2, -1)), torch.ones(3, dtype=torch.float64))


def test_transfer_is_the_autocorrelation_of_the_pupil():
    """Product of fields in real space against the double sum over wave vectors."""
    cell, modes = (9.0, 10.0), (8, 9)
    aberrations = {"C10": 40.0, "C12": 20.0, "phi12": 0.4, "C21": 200.0, "phi21": 1.0, "C30": 1e4}
    fast = transfer(make(1, **aberrations), cell=cell, num_modes=modes)[:, 0]

    n = 9
    kx, ky = (
        torch.arange(-n, n + 1, dtype=torch.float64) / cell[0],
        torch.arange(-n, n + 1, dtype=torch.float64)[:, None] / cell[1],
    )
    psi = pupil(kx, ky, Probe(80e3, 30.0, aberrations), softness=(1 / cell[0] + 1 / cell[1]) / 2)
    p = (kx**2 + ky**2) * (wavelength(80e3) / 40e-3) ** 2
    slow = np.zeros((6, 2 * modes[1] + 1, modes[0] + 1), complex)
    f = {m: (psi * p**m).numpy() for m in range(3)}
    for qy in range(-modes[1], modes[1] + 1):
        for qx in range(modes[0] + 1):
            # sum over k of f_m(k) f_n*(k + Q)
            inside = (
                slice(max(0, -qy), 2 * n + 1 - max(0, qy)),
                slice(max(0, -qx), 2 * n + 1 - max(0, qx)),
            )
            moved = (
                slice(max(0, qy), 2 * n + 1 + min(0, qy)),
                slice(max(0, qx), 2 * n + 1 + min(0, qx)),
            )
            c = {
                (a, b): (f[a][inside] * f[b][moved].conj()).sum()
                for a in range(3)
                for b in range(3)
            }
            slow[:, qy if qy >= 0 else modes[1] - qy, qx] = [
                c[0, 0],
                c[1, 0] + c[0, 1],
                1j * (c[1, 0] - c[0, 1]),
                c[1, 1],
                c[2, 0] + c[0, 2],
                1j * (c[2, 0] - c[0, 2]),
            ]
    assert np.abs(fast.numpy() - slow).max() < 1e-12


def test_transfer_at_zero_frequency_is_one():
    t = transfer(make(1), cell=(60.0, 60.0), num_modes=(2, 2))
    assert t[0, 0, 0, 0].item() == pytest.approx(1)
    # twice the mean of p over a uniform aperture; the soft edge lowers it by 0.8 %
    assert t[1, 0, 0, 0].real.item() == pytest.approx((30 / 40) ** 2, rel=0.01)


def test_refinement_leaves_frequencies_out():
    """Frequencies of a cell, of the probe in a cell that is three times as large."""
    probe = make(1, C10=40.0, C21=200.0, C30=1e4, focal_spread=30.0)
    fine = transfer(probe, cell=(27.0, 30.0), num_modes=(24, 27))
    found = transfer(probe, cell=(9.0, 10.0), num_modes=(8, 9), refinement=3)
    rows = [*range(0, 28, 3), *range(30, 55, 3)]
    assert torch.allclose(found, fine[..., rows, :][..., ::3], atol=1e-12)


@pytest.mark.parametrize("aberrations", [
    {"C10": -50.0}, {"C12": 40.0, "phi12": 0.4}, {"C21": 1e3, "phi21": 1.0},
    {"C23": 1e3, "phi23": 2.0}, {"C30": 2e5}, {"C10": 30.0, "C12": 20.0, "C23": 500.0},
])  # fmt: skip
def test_reach_is_that_of_the_outermost_ray(aberrations):
    """The largest gradient of the phase of the pupil over the aperture, by differences."""
    probe = Probe(80e3, 30.0, aberrations)
    edge = 30e-3 / wavelength(80e3)
    k = torch.linspace(-edge, edge, 401, dtype=torch.float64)
    psi = pupil(k, k[:, None], probe, softness=1e-6)
    turns = [
        (psi.narrow(d, 1, 400) * psi.narrow(d, 0, 400).conj()).angle() / (k[1] - k[0])
        for d in (0, 1)
    ]
    distance = torch.hypot(turns[0][:, :400], turns[1][:400]) / (2 * torch.pi)
    inside = torch.hypot(k, k[:, None])[:400, :400] < 0.98 * edge
    farthest, reach = float(distance[inside].max()), float(geometric_reach(probe))
    # a bound, which one aberration alone reaches
    assert farthest <= reach
    assert len(aberrations) > 2 or farthest > 0.9 * reach


def test_batch_matches_single_conditions():
    energies, angles = (
        torch.tensor([60e3, 200e3, 80e3, 300e3, 41e3]),
        torch.tensor([30.0, 22.0, 36.0, 25.0, 20.0]),
    )
    spread = torch.tensor([20.0, 10.0, 30.0, 60.0, 10.0])
    kwargs = {"cell": (15.0, 15.0), "num_modes": (12, 12)}
    # numbers stand for all conditions of a batch
    together = transfer(Probe(energies, angles, {"C10": 30.0}, focal_spread=spread), **kwargs)
    for i in range(5):
        c10 = {"C10": torch.tensor(30.0)}
        one = transfer(Probe(energies[i], angles[i], c10, focal_spread=spread[i]), **kwargs)
        assert torch.allclose(together[:, i], one, atol=2e-6)


@pytest.mark.parametrize("spread", [0.0, 5.0, 25.0, 60.0, 150.0])
def test_focal_spread_is_a_gaussian_average_over_defocus(spread):
    """Every term, up to a phase of 10 rad at the rim of the aperture."""
    kwargs = {"cell": (12.0, 12.0), "num_modes": (8, 8)}
    blurred = transfer(make(1, C10=20.0, focal_spread=spread), **kwargs)
    nodes = np.linspace(-5, 5, 201)
    weights = np.exp(-(nodes**2) / 2)
    total = sum(
        w * transfer(make(1, C10=20.0 + spread * n), **kwargs)
        for n, w in zip(nodes, weights / weights.sum(), strict=True)
    )
    error, size = (v.abs().flatten(1).amax(1) for v in (blurred - total, total))
    # the error of the kernel, of two terms that are added
    assert bool((error < 2e-4 * size[0]).all()), error / size[0]


def test_what_is_remembered_is_what_is_computed():
    """Without a derivative the last results are kept."""
    given = {"cell": (12.0, 11.0), "num_modes": (8, 8)}
    for defocus in (20.0, 40.0, 20.0):
        probe = make(1, C10=defocus)
        slow = transfer(replace(probe, beam_energy=probe.beam_energy.requires_grad_()), **given)
        probe.beam_energy.requires_grad_(False)
        first, second = (transfer(probe, **given) for _ in range(2))
        assert slow.requires_grad
        assert not first.requires_grad
        assert torch.equal(first, second)
        assert torch.allclose(first, slow, atol=1e-12)


def test_constants_are_those_of_codata():
    """Exact since 2019 (h c / e), and to the last digit that was quoted (m c²)."""
    from scipy import constants

    assert HC == pytest.approx(constants.h * constants.c / constants.e * 1e10, rel=1e-9)
    # editions of CODATA differ by 1.4e-9
    assert REST_ENERGY == pytest.approx(
        constants.physical_constants["electron mass energy equivalent in MeV"][0] * 1e6, rel=3e-9
    )


@pytest.mark.parametrize(
    "name",
    ["beam_energy", "convergence_semiangle", "focal_spread", "C10", "C12", "phi12", "C21", "C30"],
)
def test_gradient_of_the_transfer_is_the_finite_difference(name):
    optics = {"beam_energy": [80e3] * 2, "convergence_semiangle": [30.0] * 2}
    optics |= {"focal_spread": [20.0] * 2}
    aberrations = {"C10": 30.0, "C12": 15.0, "phi12": 0.4, "C21": 150.0, "phi21": 1.0, "C30": 8e3}
    optics |= {n: [v, 1.3 * v] for n, v in aberrations.items()}
    known = {n: torch.tensor(v, dtype=torch.float64) for n, v in optics.items()}

    def at(value):
        return transfer(Probe.of(known | {name: value}), cell=(7.0, 8.0), num_modes=(3, 3))

    # central differences with a relative step h = 1e-6: rounding of 1e-16 / h
    scale = known[name].clone()
    relative = torch.ones(2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda r: at(r * scale), relative, eps=1e-6, atol=1e-7, rtol=1e-5, fast_mode=True
    )
