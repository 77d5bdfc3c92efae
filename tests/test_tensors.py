import pytest
import torch

from bayesctx.tensors import interpolation_matrix, pixel_axis


def test_interpolation_is_exact_for_polynomials():
    pixels = torch.arange(20, dtype=torch.float64)
    at = torch.linspace(4, 14, 23, dtype=torch.float64)
    weights = interpolation_matrix(at, 20, 0.5)
    assert torch.allclose(weights.sum(-1), torch.ones(23, dtype=torch.float64))
    assert torch.allclose(weights @ pixels**2, at**2)
    # coarser targets average: the noise of three pixels falls accordingly
    coarse = interpolation_matrix(torch.tensor([9.5], dtype=torch.float64), 20, 3.0)
    assert float((coarse**2).sum()) < 0.5
    assert float(coarse @ pixels) == pytest.approx(9.5)


@pytest.mark.parametrize("num_pixels", [1, 4, 5])
def test_pixel_axis_is_centred(num_pixels):
    axis = pixel_axis(num_pixels, 0.25)
    assert axis.dtype == torch.float32
    assert float(axis.sum()) == 0
    assert torch.equal(axis.diff(), torch.full((num_pixels - 1,), 0.25))
