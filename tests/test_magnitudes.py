"""The prior of magnitudes with an azimuth as a mixture of normal distributions."""

from dataclasses import replace

import pytest
import torch
from crystals import COORDINATES, noisy_crystal
from scipy import stats

from bayesctx.inference.convergence import diagnose_chains
from bayesctx.scan.hamiltonian import travel
from bayesctx.scan.magnitudes import Widths
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.signal import accepts

NUM_PAIRS = 4  # C12, C21, C23 and tilt


def test_a_normal_density_of_the_drawn_width_is_half_normal_on_average():
    """Distances given widths given distances: the law of the prior stays."""
    generator = torch.Generator().manual_seed(0)
    z = COORDINATES.draw(2000, generator)
    widths = [Widths.draw(COORDINATES, point, generator).width for point in z]
    width = torch.cat(widths)
    normal = torch.randn(len(width), 2, generator=generator, dtype=torch.float64)
    again = width * normal.norm(dim=-1)
    assert len(width) == NUM_PAIRS * len(z)
    assert stats.kstest(again.numpy(), stats.halfnorm.cdf).pvalue > 0.001
    # s² has the law Beta(1/2, 1/2)
    assert stats.kstest(width.square().numpy(), stats.beta(0.5, 0.5).cdf).pvalue > 0.001


def test_the_density_given_the_widths_is_normal():
    """Without the masses of angles, which stay if these do."""
    z = COORDINATES.draw(1, torch.Generator().manual_seed(1))[0]
    widths = Widths(COORDINATES, torch.tensor([0.1, 0.4, 0.7, 1.0], dtype=torch.float64))
    other = z.clone()
    for k in COORDINATES.first_of_pairs:
        other[k : k + 2] = 0.3 * z[k : k + 2].flip(0)
    log_density = [
        float(COORDINATES.log_prior(p[None])[0] + widths.log_ratio(p)) for p in (z, other)
    ]
    squares = (COORDINATES.distances(z) / widths.width).square().sum()
    expected = 0.5 * (1 - 0.3**2) * float(squares)
    assert log_density[1] - log_density[0] == pytest.approx(expected, rel=1e-6)


def test_directions_given_the_widths_have_their_precision_too():
    scan, world, view = noisy_crystal()
    joint = linearise_jointly(scan, world, view, exactly=False)
    widths = Widths.draw(scan.coordinates, world.z, torch.Generator().manual_seed(0))
    added = (widths.narrow(joint).hessian - joint.hessian).diagonal()
    expected = torch.zeros_like(added)
    for k, width in zip(scan.coordinates.first_of_pairs, widths.width, strict=True):
        expected[k : k + 2] = width**-2 - 1
    assert torch.allclose(added, expected, atol=1e-6 * float(joint.hessian.diagonal().max()))
    unit = replace(widths, width=torch.ones_like(widths.width))
    assert torch.allclose(unit.narrow(joint).hessian, joint.hessian, rtol=1e-6)


def test_trajectories_cross_the_origin_where_an_image_says_nothing(monkeypatch):
    """Of a magnitude its prior is left, which is densest at zero."""
    monkeypatch.setattr("bayesctx.scan.hamiltonian.LENGTH", 1.6)  # a quarter of a period
    scan, world, view = noisy_crystal(5, 40, 0.05)
    joint = linearise_jointly(scan, world, view, 0.6, exactly=False)
    joint = replace(joint, factor=torch.eye(len(joint.factor), dtype=torch.float64))
    generator, distances = torch.Generator().manual_seed(0), []
    for _ in range(500):
        here, there, gain = travel(scan, world, view, joint, 4, generator, _prior)
        if there and accepts(there.log_density - here.log_density + gain, generator):
            world = there.world
        distances.append(scan.coordinates.distances(world.z))
    distances = torch.stack(distances).numpy()
    assert distances.shape[1] == NUM_PAIRS
    for own in distances.T:
        ess = min(diagnose_chains({"own": own}, 1)["own"][0], len(own))
        assert ess > 30
        sd = stats.halfnorm.std() / ess**0.5
        assert own.mean() == pytest.approx(stats.halfnorm.mean(), abs=3.5 * sd)
        # half of the probability is below 0.67, 8 % below 0.1
        assert (own < 0.1).mean() == pytest.approx(0.08, abs=3.5 * (0.08 * 0.92 / ess) ** 0.5)


def _prior(scan, world, view, joint):
    """Log prior density of the coordinates."""
    return scan.coordinates.log_prior(world.z[None])[0], {}
