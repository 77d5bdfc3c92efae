from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import CELL, PROBE, crystal, rms

from bayesctx import Detector, column_image, multislice_image
from bayesctx.crystal import HOSTS, THERMAL_DISPLACEMENT
from bayesctx.multislice import Grid, mean_amplitude


def test_waves_of_columns_add():
    """Wave of the whole crystal against the sum of the waves of its columns."""
    columns = crystal()
    grid = Grid(CELL, 60e3, 25.0, 100.0, 3)
    orders = np.array([[0, 0], [1, 0], [2, -3]])
    kinds = {c: mean_amplitude(grid, c, orders) for c in {tuple(c) for *_, c in columns}}
    waves = grid.plane_waves(orders, -1.565)
    for height, elements in ((-1.565, "S"), (0.0, "Mo"), (1.565, "S")):
        grating = torch.ones(grid.size, dtype=torch.complex64)
        for x, y, stack in columns:
            if any(abs(z - height) < 0.01 for _, z in stack):
                grating *= 1 + grid.grating(
                    elements, THERMAL_DISPLACEMENT[elements] ** 2, shift=(x, y)
                )
        waves = torch.fft.fft2(waves * grating)
        waves = (
            torch.fft.ifft2(waves * grid.propagator(1.565))
            if height < 1
            else waves / waves[0].numel()
        )
    back = torch.from_numpy(np.exp(1j * np.pi * grid.wavelength * grid.k**2 * 1.565)).to(
        torch.complex64
    )
    whole = (waves * back).flatten(1)[:, grid.detected]
    order = np.stack(
        [
            k.ravel()[grid.detected] * length
            for k, length in zip((grid.kx, grid.ky), CELL, strict=True)
        ],
        1,
    )
    total = 0
    for x, y, stack in columns:
        kx = (order[:, 0] - orders[:, None, 0]) / CELL[0]
        ky = (order[:, 1] - orders[:, None, 1]) / CELL[1]
        total = total + kinds[tuple(stack)] * torch.from_numpy(
            np.exp(-2j * np.pi * (kx * x + ky * y))
        )
    angle = torch.from_numpy(grid.k.ravel())[grid.detected] * grid.wavelength * 1e3
    outside = (angle > 30) & (angle < 100)
    error = (whole - total)[:, outside].abs().square().sum() / whole[
        :, outside
    ].abs().square().sum()
    # the layer is thinner than the distance of its columns, so that no wave is scattered twice
    assert float(error) ** 0.5 < 0.02


@pytest.mark.parametrize(
    ("inner", "outer", "limit", "without"), [(35.0, 60.0, 0.01, 0.02), (60.0, 200.0, 0.015, 0.0)]
)
def test_image_with_interference_matches_multislice(inner, outer, limit, without):
    rng = np.random.default_rng(0)
    columns = crystal((("W", 0.0),))
    probe = replace(PROBE, aberrations={"C10": 30.0, "C12": 15.0, "phi12": 0.4})
    optics = columns, probe, Detector(inner, outer)
    place = {"x": rng.uniform(0, CELL[0], 6), "y": rng.uniform(0, CELL[1], 6), "cell": CELL}
    slow = multislice_image(*optics, **place, num_configurations=32)
    fast = column_image(*optics, **place)
    plain = column_image(*optics, **place, interference=False)
    # the sampling error of the multislice image is 0.6 to 1 %
    assert rms(fast, slow) < limit
    assert rms(plain, slow) > without


def test_tiles_match_the_periodic_crystal():
    """Without a cell the field is computed in tiles, here in the middle of a large crystal."""
    a = HOSTS["MoS2"].lattice_constant
    tiles = [(i, j) for i in range(-3, 4) for j in range(-2, 3)]
    wide = [(x + i * CELL[0], y + j * CELL[1], c) for i, j in tiles for x, y, c in crystal()]
    axis = np.linspace(0, a, 5)
    probe = replace(PROBE, source_size=0.8, focal_spread=30.0)

    def interference(columns, **kwargs):
        whole, plain = (
            column_image(
                columns, probe, Detector(35.0, 60.0), x=axis, y=axis, interference=i, **kwargs
            )
            for i in (True, False)
        )
        return whole - plain

    big = [c for c in wide if abs(c[0]) < 12 and abs(c[1]) < 12]
    cell = (3 * CELL[0], 2 * CELL[1])
    many = [
        (x + i * CELL[0], y + j * CELL[1], c)
        for i in range(3)
        for j in range(2)
        for x, y, c in crystal()
    ]
    exact, tiled = interference(many, cell=cell), interference(big)
    # another lattice of wave vectors samples aperture and rings; columns end at the margin
    assert np.abs(tiled - exact).max() < 0.15 * np.abs(exact).max()


def test_empty_column_has_no_effect():
    vacancy = crystal()
    vacancy[0] = (*vacancy[0][:2], ())

    def at(columns):
        detector = Detector(40.0, 80.0)
        return column_image(columns, PROBE, detector, x=[0.5], y=[0.3], cell=CELL).item()

    assert at(vacancy) == pytest.approx(at(vacancy[1:]), rel=1e-6)
    assert at(vacancy) != pytest.approx(at(crystal()), rel=0.1)
