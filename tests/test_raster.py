"""Images from Fourier coefficients, on rows that are displaced and slanted."""

import pytest
import torch

from bayesctx.optics import mode_orders
from bayesctx.raster import STEP, synthesize, synthesize_rows


def test_row_shift_moves_rows():
    generator = torch.Generator().manual_seed(0)
    spectrum = torch.randn(2, 9, 5, dtype=torch.complex128, generator=generator)
    spectrum[..., 0] = spectrum[..., 0].real + 0j
    x, y = (
        torch.linspace(0, 9, 7, dtype=torch.float64),
        torch.linspace(1, 4, 5, dtype=torch.float64),
    )
    shift = torch.full((2, 5), 0.3, dtype=torch.float64)
    moved = synthesize(spectrum, x, y, cell=(10.0, 10.0), row_shift=shift)
    assert torch.allclose(moved, synthesize(spectrum, x + 0.3, y, cell=(10.0, 10.0)))
    still = synthesize(
        spectrum, x, y, cell=(10.0, 10.0), row_shift=torch.zeros(2, 5, dtype=torch.float64)
    )
    assert torch.equal(still, synthesize(spectrum, x, y, cell=(10.0, 10.0)))


@pytest.mark.parametrize("slant", [0.0, 0.002, 0.05])
def test_slanted_rows_are_linear_between_places(slant):
    """Every pixel for itself, where its row has the beam."""
    generator = torch.Generator().manual_seed(1)
    cell, size = (40.0, 30.0), (23, 4)
    spectrum = torch.randn(2, 9, 7, dtype=torch.complex128, generator=generator)
    spectrum[..., 0] = spectrum[..., 0].real + 0j
    x = torch.linspace(-11, 11, size[0], dtype=torch.float64)
    y = torch.linspace(-3, 3, size[1], dtype=torch.float64)
    rows = torch.randn(size[1], 3, dtype=torch.float64, generator=generator)
    rows[:, 2] *= slant
    found = synthesize_rows(spectrum, x, y, rows, cell=cell)
    wanted = torch.stack([
        torch.cat([
            synthesize(spectrum, place[None] + row[0], (height + row[1] + row[2] * place)[None],
                       cell=cell)
            for place in x
        ], -1)[..., 0, :]
        for height, row in zip(y, rows, strict=True)
    ], -2)  # fmt: skip
    q = mode_orders(4).double()[:, None] / cell[1]
    size_of_waves = spectrum.abs() * torch.tensor([1.0] + 6 * [2.0])
    step = min(STEP, float(rows[:, 2].abs().max()) * 22)
    limit = (size_of_waves * (2 * torch.pi * q * step) ** 2 / 8).sum((-2, -1))[:, None, None]
    assert torch.all((found - wanted).abs() <= limit + 1e-12)
    assert found.shape == (2, 4, 23)


def test_an_image_has_a_slope_with_a_slant_of_zero():
    """Which is that with a displacement of the row, times the place along it."""
    spectrum = torch.randn(5, 4, dtype=torch.complex128, generator=torch.Generator().manual_seed(2))
    x, y = torch.linspace(-9, 9, 37).double(), torch.linspace(0, 4, 3).double()

    def image(rows):
        return synthesize_rows(spectrum, x, y, rows, cell=(30.0, 30.0))

    slopes = torch.autograd.functional.jacobian(image, torch.zeros(3, 3).double())
    assert torch.allclose(slopes[..., 2], slopes[..., 1] * x[:, None], atol=1e-9)
    assert float(slopes[..., 2].abs().max()) > 0.1


@pytest.mark.parametrize("slant", [1e9, float("inf"), float("nan")])
def test_slants_of_no_scan_take_no_longer_than_others(slant):
    """A trajectory that leaves the posterior tries them."""
    rows = torch.tensor([[0.0, 0.0, slant], [0.0, 0.0, 0.0]])
    found = synthesize_rows(
        torch.ones(5, 4, dtype=torch.complex64), torch.linspace(-9, 9, 64), torch.zeros(2), rows,
        cell=(30.0, 30.0),
    )  # fmt: skip
    assert found.shape == (2, 64)
