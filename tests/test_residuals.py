"""Whether residuals show that noise is that of single pixels."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from crystals import RINGS, noisy_crystal

from bayesctx.inference import misfit
from bayesctx.scan.chain import describe
from bayesctx.scan.mosaic import cover, spread
from bayesctx.scan.noise import correlation_of_residuals
from bayesctx.scan.windows import tile

SIGMAS = 4.0
SHARE = 0.3  # of the noise of a pixel, that is left in the next one along a row


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two"])
def noisy(request):
    """A scan at its true world."""
    return noisy_crystal(pixels=64, rings=request.param)


def with_noise(scan, view, share, seed=0):
    """The scan with noise that is correlated along its rows."""
    noise = torch.randn(scan.image.shape, generator=torch.Generator().manual_seed(seed))
    for k in range(1, noise.shape[-1]):
        noise[..., k] = share * noise[..., k - 1] + math.sqrt(1 - share**2) * noise[..., k]
    return replace(scan, image=view.expected + noise * view.variance.sqrt())


def test_noise_of_single_pixels_is_not_correlated(noisy):
    scan, _, view = noisy
    found = correlation_of_residuals(with_noise(scan, view, 0.0), view)
    assert found.shape == (len(scan.image), 2, 2)
    assert float(found.abs().max()) < SIGMAS / math.sqrt(scan.image[0].numel())
    assert not misfit.signs_in_residuals(found.numpy())


def test_noise_of_a_slow_detector_is_correlated_along_rows(noisy):
    scan, _, view = noisy
    found = correlation_of_residuals(with_noise(scan, view, SHARE), view)
    error = SIGMAS / math.sqrt(scan.image[0].numel())
    along_y, along_x = found.unbind(1)
    assert float(along_y.abs().max()) < 2 * error
    wanted = torch.tensor([SHARE, SHARE**2], dtype=torch.float64)
    assert torch.allclose(along_x, wanted.expand_as(along_x), atol=2 * error)
    (sign,) = misfit.signs_in_residuals(found.numpy())
    assert "noise of neighbouring pixels is correlated by 0.2" in sign


def test_pixels_that_are_not_valid_do_not_count(noisy):
    scan, _, view = noisy
    valid = torch.ones_like(scan.image[0], dtype=torch.bool)
    valid[10:20, 5:40] = valid[50] = False
    variance = torch.where(valid, view.variance, math.inf)
    for share in (0.0, SHARE):
        own = with_noise(scan, view, share)
        hidden = replace(own, image=torch.where(valid, own.image, 1e4), valid=valid)
        found = correlation_of_residuals(hidden, replace(view, variance=variance))
        error = 2 * SIGMAS / math.sqrt(float(valid.sum()))
        assert torch.allclose(found[:, 1, 0], torch.full_like(found[:, 1, 0], share), atol=error)
    nothing = replace(hidden, valid=torch.zeros_like(valid))
    seen = replace(view, variance=torch.full_like(variance, math.inf))
    assert torch.equal(correlation_of_residuals(nothing, seen), torch.zeros_like(found))


def test_what_is_smooth_is_no_noise_of_a_slow_detector():
    """A misfit of the width of a probe is like that of the next pixel and of the next but one."""
    number = torch.arange(64.0)
    ripple = torch.cos(2 * math.pi * number / 12.0)[:, None] * torch.ones(64)
    scan, _, view = noisy_crystal(pixels=64)
    own = with_noise(scan, view, 0.0)
    own = replace(own, image=own.image + 0.5 * ripple * view.variance.sqrt())
    found = correlation_of_residuals(own, view)
    assert float(found[0, 0, 0]) > misfit.MOST_CORRELATED / 2
    assert not misfit.signs_in_residuals(found.numpy())


def test_draws_of_a_scan_and_of_its_windows_agree(noisy):
    """As far as the residuals of draws do."""
    scan, world, view = noisy
    own = with_noise(scan, view, SHARE)
    certain = torch.zeros(len(scan.kind), scan.material.num_species)
    draw = describe(own, world, view, certain)
    assert torch.equal(draw.correlation, correlation_of_residuals(own, view))
    (found,) = spread(cover(own, tile(own), world, 0, world.species), [draw], 0)
    error = SIGMAS / math.sqrt(scan.image[0].numel())
    assert found.correlation.shape == draw.correlation.shape
    assert float((found.correlation - draw.correlation).abs().max()) < 2 * error


def test_the_largest_of_all_detectors_is_named():
    found = np.zeros((2, 2, 2))
    found[1, 1] = 0.4, 0.1
    (sign,) = misfit.signs_in_residuals(found)
    assert sign.endswith("0.30")
    found[1, 1] = 0.4, 0.35
    assert not misfit.signs_in_residuals(found)
    found[1, 1] = -0.3, -0.6
    assert not misfit.signs_in_residuals(found)
