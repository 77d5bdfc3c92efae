import math

import numpy as np
import pytest
import torch

from bayesctx.crystal import THERMAL_DISPLACEMENT
from bayesctx.multislice import Grid, kernel as kernels, scattering_kernel
from bayesctx.multislice.atoms import transmission
from bayesctx.optics import wavelength


def test_kernel_of_one_atom_is_an_integral_over_the_ring():
    """The grid of the multislice against polar quadrature of the analytic grating."""
    edges, energy = (50.0, 80.0, 150.0), 80e3
    kernel = scattering_kernel((("W", 0.0),), energy, edges, num_waves=24)
    lam = wavelength(energy)
    amplitude = transmission("W", energy, 8.0)
    for ring, (low, high) in enumerate(zip(edges, edges[1:], strict=False)):
        x, w = np.polynomial.legendre.leggauss(12)
        radius = ((low + high) / 2 + (high - low) / 2 * x) * 1e-3 / lam
        phi = (np.arange(128) + 0.5) * 2 * np.pi / 128
        points = np.stack(
            [np.outer(radius, np.cos(phi)), np.outer(radius, np.sin(phi))], -1
        ).reshape(-1, 2)
        weight = np.repeat(w * (high - low) / 2 * 1e-3 / lam * radius * 2 * np.pi / 128, 128)
        scattered = amplitude(np.linalg.norm(points[None] - kernel.k[:, None], axis=-1))
        exact = (scattered * weight) @ scattered.conj().T
        # pixels of 4 mrad at the edges: cubic interpolation has an error of a per mille
        assert np.linalg.norm(kernel.values[ring] - exact) < 4e-3 * np.linalg.norm(exact)


@pytest.mark.slow
def test_kernel_of_a_pair_is_the_average_over_displacements():
    """Smooth and oscillating parts against an average over 400 frozen displacements."""
    column, energy, edges = (("Se", -1.67), ("Se", 1.67)), 80e3, (60.0, 100.0, 200.0)
    kernel = scattering_kernel(column, energy, edges, num_waves=24, num_radii=6)
    length = wavelength(energy) / 4e-3
    grid = Grid((length, length), energy, 40.0, edges[-1], 2)
    orders = kernels._incident_orders(grid, 40.0, 24, 0)
    weights = grid.ring_weights(edges)
    u = THERMAL_DISPLACEMENT["Se"]
    rng, total, num = np.random.default_rng(0), 0, 400
    gap = grid.propagator(3.34)
    for upper, lower in rng.normal(0, u, (num, 2, 2)):
        wave = (
            torch.fft.fft2(
                grid.plane_waves(orders, -1.67) * (1 + grid.grating("Se", shift=tuple(upper)))
            )
            * gap
        )
        out = torch.fft.fft2(
            torch.fft.ifft2(wave) * (1 + grid.grating("Se", shift=tuple(lower))), norm="forward"
        )
        direct = orders % np.array(grid.size)
        k2 = torch.from_numpy((orders**2).sum(1) / length**2)
        out[torch.arange(len(orders)), direct[:, 0], direct[:, 1]] -= torch.exp(
            -1j * math.pi * grid.wavelength * k2 * 1.67
        ).to(out)
        scattered = out.flatten(1)[:, grid.detected] * length
        total = total + kernels._collect(scattered, scattered, weights) / num
    q2 = ((kernel.k[:, None] - kernel.k) ** 2).sum(-1)
    averaged = kernel.values * np.exp(-2 * np.pi**2 * kernel.displacement**2 * q2)
    for ring in range(2):
        # sampling error: 5 % of a fluctuation that is 20 % of the signal
        assert np.linalg.norm(averaged[ring] - total[ring].numpy()) < 0.02 * np.linalg.norm(
            total[ring].numpy()
        )


def test_frozen_displacements_of_a_pair_agree_with_the_exact_average():
    """The average used for three and more atoms, applied to two."""
    column, energy, edges = (("Se", -1.67), ("Se", 1.67)), 80e3, (60.0, 100.0, 200.0)
    exact = scattering_kernel(column, energy, edges, num_waves=24)
    q2 = ((exact.k[:, None] - exact.k) ** 2).sum(-1)
    length = wavelength(energy) / 4e-3
    grid = Grid((length, length), energy, 40.0, edges[-1], 2)
    orders = kernels._incident_orders(grid, 40.0, 24, 0)
    frozen = kernels._stack(grid, column, (0.0, 0.0), orders, grid.ring_weights(edges), 0).numpy()
    averaged = exact.values * np.exp(-2 * np.pi**2 * exact.displacement**2 * q2)
    for ring in range(2):
        # the trace is the response to a broad beam; sampling error: 1 % of a fluctuation of 20 %
        ratio = np.trace(frozen[ring]).real / np.trace(averaged[ring]).real
        assert ratio == pytest.approx(1, abs=0.01)


def test_band_limit_of_the_waves_suffices():
    """Two heavy atoms, detector up to 163 mrad: a limit of 450 mrad is as good as 300 mrad."""
    pair, edges = (("Ta", -1.28), ("Ta", 1.28)), (98.7, 162.9)
    narrow, wide = (
        scattering_kernel(pair, 39e3, e, num_waves=8).values[0] for e in (edges, (*edges, 450.0))
    )
    # with a band limit at the outer angle of the detector 2 % are missing
    assert np.trace(narrow).real == pytest.approx(np.trace(wide).real, rel=3e-3)


def test_kernel_of_a_strong_shear_is_that_of_single_atoms():
    """A shear of 1.6 Å separates the atoms; a small one has little effect."""
    pair, optics = (
        (("Se", -1.6), ("Se", 1.6)),
        {"beam_energy": 200e3, "edges": (100.0, 200.0), "num_waves": 8},
    )
    far, near, upright = (
        np.trace(scattering_kernel(pair, **optics, slope=(s, 0.0)).values[0]).real
        for s in (0.5, 0.01, 0.0)
    )
    alone = 2 * np.trace(scattering_kernel(pair[:1], **optics).values[0]).real
    assert far == pytest.approx(alone, rel=0.02)
    assert near == pytest.approx(upright, rel=0.02)
    assert upright > 1.15 * alone


def test_kernel_does_not_depend_on_the_direction_of_shear():
    pair, tilt = (("Te", -1.815), ("Te", 1.815)), math.tan(math.radians(4.3))
    slopes = [(tilt * math.cos(a), tilt * math.sin(a)) for a in (0.0, 0.7, 2.4, 3.9)]
    kernels = [
        scattering_kernel(pair, 218e3, (60.0, 160.0), slope=slope, num_waves=24) for slope in slopes
    ]
    totals = [np.trace(kernel.values[0]).real for kernel in kernels]
    # six nodes on every ring of the average over the thermal motion
    assert np.ptp(totals) < 0.01 * np.mean(totals)
