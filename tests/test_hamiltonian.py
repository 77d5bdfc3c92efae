"""Hamiltonian dynamics of the shared variables: derivatives, energy and invariance."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from crystals import PRIOR, RINGS, log_posterior, noisy_crystal, position

from bayesctx.inference.convergence import diagnose_chains
from bayesctx.scan.dose import dose_of
from bayesctx.scan.following import averaged
from bayesctx.scan.hamiltonian import _stand, draw_jointly, travel
from bayesctx.scan.moves import linearise_jointly, log_density_along, moved
from bayesctx.scan.shared import image_slopes

SOFT_PROBE = PRIOR.given({"inner_collection_angle": dist.Normal(60.0, 5.0)})


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def noisy(request):
    scan, world, view = noisy_crystal(prior=SOFT_PROBE, rings=request.param)
    world = replace(world, slope=1e-3 * world.signal)  # of one dose
    dose = dose_of(scan, world.signal, world.slope, view.values)
    return replace(scan, log_dose=lambda d: -0.5 * (math.log(d / dose) / 0.05) ** 2), world, view


def test_gradients_are_those_of_the_density(noisy):
    """Every shared variable and a few directions of the drift, against central differences."""
    scan, world, view = noisy
    joint = linearise_jointly(scan, world, view, exactly=False)
    point = _stand(scan, world, view, joint)
    for k, direction in enumerate(joint.factor.T):
        step = 0.05
        ahead, behind = (
            float(log_density_along(scan, moved(scan, world, joint, s * direction), view, joint)[0])
            for s in (step, -step)
        )
        # of a normal density the difference is exact; its third derivative is of the order of one
        found = (ahead - behind) / (2 * step)
        assert float(point.gradient[k]) == pytest.approx(found, rel=0.02, abs=0.05)


def test_the_density_has_no_ripples_finer_than_the_posterior(noisy):
    """The aperture passes points of a grid as the semi-angle changes: its edge must be smooth."""
    scan, world, view = noisy
    joint = linearise_jointly(scan, world, view)
    place = scan.coordinates.names.index("convergence_semiangle")
    change = torch.zeros_like(joint.factor[0])
    width = float(joint.factor[place].norm())
    gradients = []
    for along in torch.linspace(-0.5, 0.5, 21).tolist():
        change[place] = along * width
        point = _stand(scan, moved(scan, world, joint, change), view, joint)
        slope = torch.linalg.solve(joint.factor.mT, point.gradient)[place]
        gradients.append(float(slope) * width)
    # the gradient over one standard deviation: a straight line, up to the bend of the posterior
    gradients = torch.tensor(gradients, dtype=torch.float64)
    x = torch.linspace(-1, 1, len(gradients), dtype=torch.float64)
    design = torch.stack([x**k for k in range(4)], -1)
    smooth = design @ torch.linalg.lstsq(design, gradients[:, None]).solution[:, 0]
    assert float((gradients - smooth).abs().max()) < 0.25


def test_short_steps_keep_the_energy(noisy, monkeypatch):
    monkeypatch.setattr("bayesctx.scan.hamiltonian.LENGTH", 0.4)
    scan, world, view = noisy
    joint = linearise_jointly(scan, world, view, 0.05)
    generator = torch.Generator().manual_seed(0)
    other, _, log_ratio = draw_jointly(scan, world, view, joint, 8, generator)
    assert abs(log_ratio) < 0.1
    assert not torch.equal(other.z, world.z)


def test_trajectories_leave_the_posterior_invariant():
    """Along two directions, a soft one and a narrow one, against the density on a grid."""
    scan, world, view = noisy_crystal(5, 40, 0.05)
    joint = linearise_jointly(scan, world, view, 0.8)
    picked = [0, 16]
    joint = replace(joint, factor=joint.factor[:, picked])
    generator, worlds, here = torch.Generator().manual_seed(0), [], world
    for _ in range(250):
        here, _, _ = draw_jointly(scan, here, view, joint, 3, generator)
        worlds.append(here)
    place = torch.stack([position(w) for w in worlds]) - position(world)
    draws = place @ joint.factor / joint.factor.square().sum(0)
    middle, width = draws.mean(0), draws.std(0)
    axes = (middle + width * torch.linspace(-4.0, 4.0, 13)[:, None].double()).T
    grid = torch.cartesian_prod(*axes)
    density = [
        log_posterior(scan, moved(scan, world, joint, joint.factor @ point), view.variance)
        for point in grid
    ]
    density = torch.tensor(density, dtype=torch.float64).softmax(0)
    # the grid holds nearly everything
    edge = (grid == grid.min(0).values) | (grid == grid.max(0).values)
    assert float(density[edge.any(-1)].sum()) < 0.01
    for k in range(2):
        mean = float(density @ grid[:, k])
        sd = float(density @ (grid[:, k] - mean).square()) ** 0.5
        ess = diagnose_chains({"along": draws[1:, k].numpy()}, 1)["along"][0]
        assert ess > 80
        # the estimate for draws that alternate, which exceeds their number, is itself uncertain
        ess = min(ess, len(draws))
        assert float(middle[k]) == pytest.approx(mean, abs=3.5 * sd / ess**0.5)
        # of a normal density the standard deviation is known to 1 / sqrt(2 n)
        assert float(width[k]) == pytest.approx(sd, rel=3.5 / (2 * ess) ** 0.5)


def test_averaged_directions_lie_between_the_mean_precision_and_the_mean_covariance(noisy):
    """Of two precisions that differ by a factor: arithmetic and harmonic means, then geometric."""
    joint = linearise_jointly(*noisy, exactly=False)
    again = averaged(joint, [joint.hessian, 3 * joint.hessian])
    # mean precision 2, mean covariance 2 / 3
    assert torch.allclose(again.hessian, 3**0.5 * joint.hessian, rtol=1e-6)
    same = averaged(joint, [joint.hessian, joint.hessian])
    assert torch.allclose(same.hessian, joint.hessian, rtol=1e-6)


def test_the_average_does_not_depend_on_the_units_of_the_directions(noisy):
    """It is the geometric mean: G P^-1 G is the mean covariance for the mean precision P^-1."""
    joint = linearise_jointly(*noisy, exactly=False)
    torch.manual_seed(0)
    turn = torch.randn(*joint.factor.shape, dtype=torch.float64)
    hessians = [joint.hessian, joint.hessian + 0.1 * turn @ turn.mT]
    covariance = averaged(joint, hessians).factor
    covariance = covariance @ covariance.mT
    precision = sum(hessians) / 2
    wide = sum(torch.linalg.inv(h) for h in hessians) / 2
    assert torch.allclose(covariance @ precision @ covariance, wide, rtol=1e-4, atol=1e-10)


def test_slopes_of_the_signal_are_those_of_the_image_and_the_drift_has_none(noisy):
    joint = linearise_jointly(*noisy, exactly=False)
    _, expected = image_slopes(*noisy)
    num = len(expected) - 2
    assert torch.equal(joint.signal[:num], expected[:-2])
    assert not joint.signal[num:].any()


def test_a_trajectory_that_meets_a_singular_fit_has_no_end(noisy):
    scan, world, view = noisy
    joint, calls = linearise_jointly(scan, world, view, 0.05, exactly=False), []

    def density(*given):
        calls.append(given)
        if len(calls) > 1:
            raise torch.linalg.LinAlgError("not positive-definite")
        return log_density_along(*given)

    generator = torch.Generator().manual_seed(0)
    here, there, _ = travel(scan, world, view, joint, 4, generator, density)
    assert there is None
    assert len(calls) == 2
    assert here.world is world
