"""The moves of the chains of a scan against its Pyro program."""

import itertools
import math
from dataclasses import replace

import pyro
import pytest
import torch
from crystals import MATERIAL, RINGS

from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import CODOPED_SPECIES, DOPED_SPECIES, SPECIES
from bayesctx.model import SitePrior
from bayesctx.prior import reference_prior
from bayesctx.scan import PERFECT, Coordinates, Field, Material, Scan
from bayesctx.scan.conditional import NUM_ALIKE, covariance_of_excess, spread_of_sites
from bayesctx.scan.generative import sample_scan_program, sample_sites, values_of
from bayesctx.scan.noise import _draw_noise_of
from bayesctx.scan.occupation import draw_occupation, draw_share_of_codopant, log_occupation
from bayesctx.scan.rows import draw_rows
from bayesctx.scan.shared import evaluate
from bayesctx.scan.signal import draw_signal, error_size
from bayesctx.scan.view import look
from bayesctx.scan.world import CLASS, JITTERS, begin

PIXELS, SAMPLING = 40, 0.25
PRIOR = reference_prior().given({"host": "WSe2", "dopant": "Ti", "dose": 1e5})


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def known(request):
    """A small scan and a world that explains it."""
    generator = torch.Generator().manual_seed(0)
    coordinates = Coordinates(PRIOR.conditions[0], PRIOR.nuisances, request.param)
    num = coordinates.num_detectors
    z = 0.3 * torch.randn(len(coordinates.names), generator=generator, dtype=torch.float64)
    z[-2:] = 0
    field = Field((PIXELS, PIXELS), SAMPLING).limited(coordinates.values(z[None]))
    constant = HOSTS["WSe2"].lattice_constant
    steps = torch.arange(-6, 7)
    cells = torch.cartesian_prod(steps, steps).float()
    vectors = constant * torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]])
    positions = torch.cat([cells @ vectors + k / 3 * vectors.sum(0) for k in range(3)])
    kind = torch.arange(3).repeat_interleave(len(cells))
    near = (positions.abs() < PIXELS * SAMPLING / 2 + 8.0).all(-1)
    abundance = SitePrior.of_lattice(PRIOR, torch.zeros(1, dtype=torch.long)).abundance
    scan = Scan(
        torch.zeros(num, PIXELS, PIXELS),
        field,
        Material(list(HOSTS).index("WSe2"), METALS.index("Ti")),
        coordinates,
        positions[near],
        kind[near],
        abundance,
        lambda dose: -math.log(dose),
    )
    world = begin(scan, z)
    sites, drawn = len(scan.kind), scan.updated[:, None]
    world = replace(
        world,
        signal=torch.tensor([30.0, 50.0])[:num],
        disorder=0.04,
        floor=torch.tensor([0.02, 0.03])[:num],
        slope=torch.tensor([0.02, 0.034])[:num],
        shift=0.02 * torch.randn(sites, 2, generator=generator) * drawn,
        excess=0.01 * torch.randn(sites, num, generator=generator) * drawn,
        row_shift=world.jitters * torch.randn(PIXELS, 3, generator=generator),
        errors=0.01 * torch.randn(world.errors.shape, generator=generator),
    )
    view = look(scan, world)
    noise = torch.randn(view.expected.shape, generator=generator)
    return replace(scan, image=view.expected + view.variance.sqrt() * noise), world


def log_joint(scan, world):
    """Log density of the program at a world."""
    conditioned = pyro.condition(sample_scan_program, data=values_of(scan, world))
    return float(pyro.poutine.trace(conditioned).get_trace(scan).log_prob_sum())


def test_the_program_runs_and_states_every_latent(known):
    scan, world = known
    trace = pyro.poutine.trace(sample_scan_program).get_trace(scan)
    sampled = {n for n, s in trace.nodes.items() if s["type"] == "sample" and not s["is_observed"]}
    assert sampled >= set(values_of(scan, world))
    assert trace.nodes["pixels"]["is_observed"]


def test_columns_beyond_the_border_are_perfect_and_tell_nothing(known):
    scan, world = known
    beyond = ~scan.updated
    assert beyond.any()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        found = pyro.poutine.trace(sample_scan_program)(scan)
    assert torch.equal(found.species[beyond], PERFECT[scan.kind[beyond]])
    assert torch.equal(found.shift[beyond], (scan.basis @ found.drift)[beyond])
    assert torch.equal(found.excess[beyond], scan.mean_excess(found.tone)[beyond])
    assert not (found.is_wide | found.is_coarse)[beyond].any()
    # so that no scale is held by columns that nobody sees
    conditioned = pyro.condition(sample_sites, data=values_of(scan, world))
    trace = pyro.poutine.trace(conditioned).get_trace(scan, world)
    trace.compute_log_prob()
    for name in ("species", "is_wide", "is_coarse", "own", "excess"):
        assert float(trace.nodes[name]["log_prob"][beyond].abs().max()) == 0


def test_the_program_gives_back_a_world(known):
    scan, world = known
    conditioned = pyro.condition(sample_scan_program, data=values_of(scan, world))
    found = conditioned(scan)
    assert torch.allclose(found.shift, world.shift, atol=1e-5)
    assert torch.allclose(look(scan, found).expected, look(scan, world).expected, atol=1e-4)
    assert torch.allclose(found.slope, world.slope)


def test_a_step_of_the_shared_variables_has_the_ratio_of_the_program(known):
    """What is linear is summed out by ``evaluate``: at each point compare with its best fit."""
    scan, world = known
    scan = replace(scan, log_dose=None)
    view = look(scan, world)
    found, wanted = [], []
    for change in (0.0, 0.05):
        z = world.z.clone()
        z[5] += change
        state = evaluate(scan, world, view, z)
        other = replace(world, z=z)
        # a Gaussian density summed out is its value at the mode times a volume
        fitted = draw_signal(scan, other, replace(look(scan, other), variance=view.variance), None)
        # the prior of the errors is stated in units of the signal
        assert torch.allclose(fitted.signal, world.signal, rtol=0.1)
        volume = float(state.regression.factor.diagonal(dim1=1, dim2=2).log().sum())
        seen = look(scan, fitted)
        rest = (scan.image - seen.expected).square() / view.variance
        found.append(state.log_prob + volume)
        errors = fitted.errors[:, view.used].double()
        errors = errors * (fitted.signal / world.signal)[:, None]
        scale = error_size(state.shared[0], world.additivity)[:, None]
        penalty = 0.5 * (errors / scale).square().sum() + len(view.used) * scale.log().sum()
        wanted.append(float(-0.5 * rest.double().sum() - penalty - 0.5 * z.square().sum()))
    assert found[1] - found[0] == pytest.approx(wanted[1] - wanted[0], abs=0.05)
    # and the same from the program, whose variance moves with what is expected by a few per cent
    assert math.isfinite(log_joint(scan, world))


def test_the_mean_excess_is_part_of_the_program(known):
    """Where every column goes with its mean only the size of the mean changes the density."""
    scan, world = known
    tone = 0.02 * torch.linspace(-1, 1, world.tone.shape[-1]).expand_as(world.tone)
    before, after = world, replace(world, tone=tone, excess=world.excess + scan.mean_excess(tone))
    # two pixels of hardly a signal, so that only the prior is left
    before, after = (replace(w, signal=1e-6 * w.signal) for w in (before, after))
    valid = torch.zeros(scan.field.shape, dtype=torch.bool)
    valid[0, :2] = True
    blind = replace(scan, valid=valid)
    law = torch.distributions.Normal(0.0, world.tone_size[:, None, None].expand_as(tone))
    wanted = law.log_prob(tone).sum() - law.log_prob(torch.zeros_like(tone)).sum()
    found = log_joint(blind, after) - log_joint(blind, before)
    assert found == pytest.approx(float(wanted), abs=0.02)


def test_rows_are_where_the_program_is_largest(known):
    """The mean of the conditional of the rows: no row of the program is better elsewhere."""
    scan, world = known
    view = look(scan, world)
    best = world
    for _ in range(3):  # the image is linear in small shifts only
        best = draw_rows(scan, best, look(scan, best), None)
    middle = log_joint(scan, best)
    for change in (0.08, -0.08):
        for row, part in itertools.product((3, 17, 30), range(len(JITTERS))):
            rows = best.row_shift.clone()
            rows[row, part] += change * world.jitters[part]
            # the conditional holds the variance of the noise, which the program lets move
            assert log_joint(scan, replace(best, row_shift=rows)) < middle + 0.05
    assert view.expected.shape == scan.image.shape


@pytest.mark.parametrize("detector", [0, 1])
def test_noise_has_the_ratio_of_the_program(known, detector):
    """Many draws of the noise of a detector: mean and spread against the program on a grid."""
    scan, world = known
    if detector >= len(scan.image):
        pytest.skip("the scan has one detector")
    generator = torch.Generator().manual_seed(1)
    view, drawn = look(scan, world), []
    chain = world
    for _ in range(150):
        seen = replace(view, variance=look(scan, chain).variance)
        chain = _draw_noise_of(detector, scan, chain, seen, generator)
        drawn.append(torch.stack([chain.floor[detector], chain.slope[detector].log()]))
    drawn = torch.stack(drawn).double()
    floors = torch.linspace(float(drawn[:, 0].min()), float(drawn[:, 0].max()), 9)
    slopes = torch.linspace(float(drawn[:, 1].min()), float(drawn[:, 1].max()), 9)

    def log_prob(floor, log_slope):
        floors, slopes = world.floor.clone(), world.slope.clone()
        floors[detector], slopes[detector] = floor, log_slope.exp()
        return log_joint(scan, replace(world, floor=floors, slope=slopes))

    grid = torch.tensor([[log_prob(f, s) for s in slopes] for f in floors]).double()
    weight = (grid - grid.max()).exp()
    weight /= weight.sum()
    for k, (values, axis) in enumerate(((floors, 1), (slopes, 0))):
        mean = float((weight.sum(axis) * values.double()).sum())
        spread = float(drawn[:, k].std())
        # of some thirty independent draws, and a coarse grid
        assert float(drawn[:, k].mean()) == pytest.approx(mean, abs=0.6 * spread)


def test_species_of_a_site_have_the_odds_of_the_program(known):
    """One site: displacement and amplitude integrated out by Laplace's approximation."""
    scan, world = known
    view = look(scan, world)
    # two detectors tell species apart by more than single precision has digits
    view = replace(view, variance=4 * view.variance)
    site = int((scan.positions.square().sum(-1) + 100 * (scan.kind != 0)).argmin())
    _, probability = draw_occupation(scan, world, view, [torch.tensor([site])], None)
    perfect = int(PERFECT[scan.kind[site]])
    assert int(probability[site].argmax()) == perfect
    # the metal and the dopant in its place
    other = next(i for i, s in enumerate(SPECIES) if s.defect == "D_M")
    totals = [_log_evidence(scan, world, view, site, k) for k in (perfect, other)]
    share = world.abundance[scan.kind[site]]
    prior = [float((share[CLASS[k]] / NUM_ALIKE[k]).log()) for k in (perfect, other)]
    wanted = totals[0] - totals[1] + prior[0] - prior[1]
    found = float(probability[site, perfect].log() - probability[site, other].log())
    # kernels are windows of 3 Å, and linear in the displacement
    assert found == pytest.approx(wanted, rel=0.1, abs=0.5)


def _log_evidence(scan, world, view, site, species):
    """Over both components of the amplitude, with the exact image of each trial."""
    held = world.species.clone()
    held[site] = species
    spread, totals = spread_of_sites(world)[site].double(), []
    for is_coarse, share in ((False, 1 - world.share_coarse), (True, world.share_coarse)):
        covariance = covariance_of_excess(world.scatter.double(), torch.tensor(is_coarse))
        width = torch.linalg.cholesky(covariance)
        scale = torch.block_diag(spread * torch.eye(2), width)

        def density(point, scale=scale):
            shift, excess = world.shift.clone(), world.excess.clone()
            shift[site], excess[site] = (scale @ point).float().tensor_split([2])
            moved = replace(world, species=held, shift=shift, excess=excess)
            rest = (scan.image - look(scan, moved).expected).square() / view.variance
            return -0.5 * float(rest.double().sum()) - 0.5 * float(point.square().sum())

        place = torch.zeros(len(scale), dtype=torch.float64)
        for _ in range(3):  # Newton
            gradient, hessian = _derivatives(density, place)
            place = place - torch.linalg.solve(hessian, gradient)
        _, hessian = _derivatives(density, place)
        volume = 0.5 * float(torch.logdet(-hessian))
        totals.append(density(place) - volume + math.log(share))
    return float(torch.tensor(totals, dtype=torch.float64).logsumexp(0))


def _derivatives(function, place, step=0.05):
    """Gradient and Hessian by central differences."""
    num = len(place)
    eye = step * torch.eye(num, dtype=torch.float64)
    gradient = torch.tensor(
        [(function(place + e) - function(place - e)) / (2 * step) for e in eye]
    ).double()
    hessian = torch.tensor([
        [(function(place + a + b) - function(place + a - b) - function(place - a + b)
          + function(place - a - b)) / (4 * step**2) for b in eye]
        for a in eye
    ]).double()  # fmt: skip
    return gradient, hessian


CODOPED = replace(MATERIAL, codopant=METALS.index("Mo"))


def codoped(scan, world, share):
    """The same with a second dopant, as yet on no site."""
    errors = torch.cat([world.errors, 0.01 * torch.ones(len(world.errors), 1)], -1)
    scan = replace(scan, material=CODOPED)
    return scan, replace(world, errors=errors, share_codopant=share)


def test_the_dopants_of_a_site_have_the_odds_of_the_program(known):
    scan, world = codoped(*known, 0.2)
    view = look(scan, world)
    view = replace(view, variance=4 * view.variance)
    site = int((scan.positions.square().sum(-1) + 100 * (scan.kind != 0)).argmin())
    _, probability = draw_occupation(scan, world, view, [torch.tensor([site])], None)
    totals = [_log_evidence(scan, world, view, site, k) for k in (DOPED_SPECIES, CODOPED_SPECIES)]
    wanted = totals[0] - totals[1] + math.log(0.8 / 0.2)
    found = probability[site].log()
    difference = float(found[DOPED_SPECIES] - found[CODOPED_SPECIES])
    assert difference == pytest.approx(wanted, rel=0.1, abs=0.5)


def test_the_share_of_the_second_dopant_is_that_of_the_program(known):
    """Its density given what the sites hold is a Beta density, which is drawn from."""
    scan, world = codoped(*known, 0.5)
    species, metal = world.species.clone(), ((scan.kind == 0) & scan.updated).nonzero()[:, 0]
    species[metal[:3]], species[metal[3:4]] = CODOPED_SPECIES, DOPED_SPECIES
    world = replace(world, species=species)
    law = torch.distributions.Beta(4.0, 2.0)
    here, there = (replace(world, share_codopant=share) for share in (0.3, 0.6))
    difference = log_joint(scan, there) - log_joint(scan, here)
    wanted = float(law.log_prob(torch.tensor(0.6)) - law.log_prob(torch.tensor(0.3)))
    assert difference == pytest.approx(wanted, abs=1e-2)
    generator, among = torch.Generator().manual_seed(0), scan.updated
    drawn = [draw_share_of_codopant(species, among, generator) for _ in range(500)]
    assert sum(drawn) / 500 == pytest.approx(float(law.mean), abs=4 * float(law.stddev) / 500**0.5)


def test_the_program_of_a_co_doped_crystal_draws_both_dopants(known):
    scan, world = codoped(*known, 0.5)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        prior = SitePrior.of_lattice(
            PRIOR.given({"abundance": {"D_M": 0.5}}), torch.zeros(1, dtype=torch.long)
        )
        scan = replace(scan, prior=prior.abundance)
        program = pyro.condition(sample_scan_program, data={"share_codopant": torch.tensor(0.5)})
        drawn = program(scan).species
    assert min(int((drawn == k).sum()) for k in (DOPED_SPECIES, CODOPED_SPECIES)) > 1
    assert "share_codopant" in values_of(scan, world)


def test_prior_probabilities_of_sites_have_the_shares_of_dopants_summed_out(known):
    """Against a sum over the share, in a small crystal."""
    scan, world = codoped(*known, 0.5)
    inside = ((scan.kind == 0) & scan.inside).nonzero()[:, 0]
    species = PERFECT[scan.kind]
    species[inside[:2]], species[inside[2:5]] = CODOPED_SPECIES, DOPED_SPECIES
    world = replace(world, species=species)
    share = (torch.arange(2000, dtype=torch.float64) + 0.5) / 2000
    integral = float((share**2 * (1 - share) ** 3).mean().log())
    single = replace(scan, material=MATERIAL)
    plain = torch.where(species == CODOPED_SPECIES, DOPED_SPECIES, species)
    without = log_occupation(single, replace(world, species=plain))
    assert log_occupation(scan, world) - without == pytest.approx(integral, abs=1e-4)
