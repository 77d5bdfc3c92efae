"""Scatter of the amplitudes and the excess of the columns, drawn together."""

from dataclasses import replace

import pytest
import torch
from crystals import RINGS, check_distribution, noisy_crystal
from torch.distributions import LowRankMultivariateNormal

from bayesctx.scan import amplitudes
from bayesctx.scan.amplitudes import draw_amplitudes
from bayesctx.scan.conditional import covariance_of_excess
from bayesctx.scan.view import look


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def noisy(request):
    scan, world, view = noisy_crystal(rings=request.param)
    # a few columns are not as simulated
    is_coarse = torch.zeros_like(world.is_coarse)
    is_coarse[scan.updated.nonzero()[::20, 0]] = True
    return scan, replace(world, is_coarse=is_coarse), view


def simulated(scan, world, scatter, generator):
    """A world with such a scatter, and a scan of it."""
    covariance = covariance_of_excess(scatter, world.is_coarse)
    noise = torch.randn(*world.excess.shape, 1, generator=generator)
    own = (torch.linalg.cholesky(covariance) @ noise)[..., 0]
    mean = scan.mean_excess(world.tone)
    excess = torch.where(scan.updated[:, None], mean + own, mean)
    world = replace(world, scatter=scatter, excess=excess)
    expected = look(scan, world).expected
    noise = torch.randn(expected.shape, generator=generator)
    return replace(scan, image=expected + world.floor.sqrt()[:, None, None] * noise), world


def test_the_evidence_is_that_of_the_whole_image(noisy):
    """With the image of every column as a column of a dense design."""
    scan, world, _ = noisy
    generator = torch.Generator().manual_seed(0)
    scan, world = simulated(scan, world, torch.full_like(world.scatter, 0.03), generator)
    view, sites = look(scan, world), scan.updated.nonzero()[:, 0]
    now = (world.excess - scan.mean_excess(world.tone))[sites].double()
    found = amplitudes._Quadratic.of(scan, world, view, sites, now)
    columns = []
    for site in sites.tolist():
        one = world.excess.index_add(0, torch.tensor([site]), torch.ones(1, len(scan.image)))
        columns.append(look(scan, replace(world, excess=one)).expected - view.expected)
    design = torch.stack(columns, 1).flatten(2).double()
    rest = (scan.image - view.expected).flatten(1).double()
    rest = rest + torch.einsum("dsp,sd->dp", design, now)

    def wanted(scatter):
        covariance = covariance_of_excess(scatter, world.is_coarse)[sites].double()
        root = torch.linalg.cholesky(covariance)
        # pixels of all detectors, and unknowns of all columns
        factor = torch.einsum("dsp,sdk->dpsk", design, root).flatten(0, 1).flatten(1)
        law = LowRankMultivariateNormal(
            torch.zeros(rest.numel(), dtype=torch.float64), factor, view.variance.flatten().double()
        )
        return float(law.log_prob(rest.flatten()))

    pairs = []
    for value in (0.003, 0.01, 0.03, 0.1):
        scatter = value * torch.linspace(1.0, 2.0, len(scan.image))
        given = covariance_of_excess(scatter.double(), world.is_coarse[sites])
        pairs.append((found.posterior(given).log_evidence, wanted(scatter)))
    (first, exact), *others = pairs
    gains = [w - exact for _, w in others]
    # kernels end at their windows
    assert [f - first for f, _ in others] == pytest.approx(gains, rel=0.03)


def test_draws_keep_the_prior_where_images_are_drawn_from_it(noisy, monkeypatch):
    """Scatter and excess from the prior, an image of them, and one draw given the image."""
    scan, world, view = noisy
    kernels = amplitudes.Kernels.of(scan.field, view.values, scan.material)
    monkeypatch.setattr(amplitudes.Kernels, "of", lambda *_: kernels)  # always the same
    prior, generator, num = scan.coordinates.scale_priors["scatter"], torch.Generator(), 200
    generator.manual_seed(0)
    moved, found, square, sites = 0, [], [], scan.updated
    for _ in range(num):
        scatter = prior.draw(0.0, generator, len(scan.image)).float()
        own, true = simulated(scan, world, scatter, generator)
        drawn, seen = draw_amplitudes(own, true, look(own, true), generator)
        moved += bool((drawn.excess != true.excess).any())
        assert seen.expected.equal(look(own, drawn).expected)
        found.append(drawn.scatter)
        law = covariance_of_excess(drawn.scatter, world.is_coarse)[sites]
        excess = (drawn.excess - scan.mean_excess(world.tone))[sites, :, None]
        white = torch.linalg.solve_triangular(torch.linalg.cholesky(law), excess, upper=False)
        square.append(white.square().mean((0, 2)))
    assert moved > 0.6 * num
    for k in range(len(scan.image)):
        check_distribution(torch.stack(found)[:, k].double(), prior, num)
    error = (2 / (num * int(sites.sum()))) ** 0.5
    assert torch.stack(square).mean(0).tolist() == pytest.approx(
        [1.0] * len(scan.image), abs=4 * error
    )


def test_a_scatter_is_left(noisy):
    """Neither a small one nor a large one is held by the amplitudes that it has led to."""
    scan, world, _ = noisy
    generator = torch.Generator().manual_seed(1)
    last = []
    for true, begun in ((0.08, 0.002), (0.002, 0.08)):
        scan_of, _ = simulated(scan, world, torch.full_like(world.scatter, true), generator)
        _, state = simulated(scan, world, torch.full_like(world.scatter, begun), generator)
        view = look(scan_of, state)
        for _ in range(40):
            state, view = draw_amplitudes(scan_of, state, view, generator)
        last.append(float(state.scatter.mean()))
    assert last[0] > 0.04
    assert last[1] < 0.02


def test_sites_that_are_not_drawn_stay(noisy):
    scan, world, view = noisy
    drawn, _ = draw_amplitudes(scan, world, view, torch.Generator().manual_seed(0))
    assert drawn.excess[~scan.updated].equal(world.excess[~scan.updated])
    others = ("z", "species", "shift", "drift", "errors", "is_coarse", "tone", "signal")
    assert all(getattr(drawn, n) is getattr(world, n) for n in others)
