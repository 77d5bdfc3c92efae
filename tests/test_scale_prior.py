"""Priors of the scales of a scan: the moves of the chains take them from the prior."""

import itertools
import math
from dataclasses import replace

import pyro
import pyro.distributions as dist
import pytest
import torch
from crystals import KNOWN_PROBE, check_distribution, noisy_crystal
from torch.distributions import MultivariateNormal, Normal

from bayesctx.distributions import log_uniform
from bayesctx.inference.convergence import diagnose_chains
from bayesctx.nuisances import NUISANCES
from bayesctx.scan import PERFECT, Coordinates, chain, occupation
from bayesctx.scan.chain import explore_mode, sample_worlds
from bayesctx.scan.conditional import HAS_ATOMS, covariance_of_excess, spread_of_sites
from bayesctx.scan.fits import fit_world
from bayesctx.scan.generative import sample_scan_program, values_of
from bayesctx.scan.kernels import Kernels
from bayesctx.scan.occupation import draw_occupation
from bayesctx.scan.rows import draw_rows
from bayesctx.scan.scale_prior import LEAST, ScalePrior, scale_priors
from bayesctx.scan.signal import (
    _equations_of_species,
    _solve,
    accepts,
    draw_additivity,
    draw_film_size,
    draw_signal,
    error_size,
    regress_species,
)
from bayesctx.scan.view import look
from bayesctx.scan.world import JITTERS

NAMES = {"jitter": "line_jitter", "disorder": "disorder", "additivity": "additivity"}
UNUSUAL = {
    "line_jitter": log_uniform(5e-3, 0.4),
    "disorder": dist.Gamma(4.0, 100.0),  # without quantiles in closed form
    "additivity": dist.Uniform(0.2, 5.0),
}
DEFAULT = {n: NUISANCES[n][1] for n in UNUSUAL}


@pytest.fixture(scope="module")
def noisy():
    scan, world, _ = noisy_crystal(3, 32)
    world = replace(world, jitter=0.05, disorder=0.03, slope=1e-3 * world.floor)
    return scan, world, look(scan, world)


def under(scan, **nuisances):
    """A scan under a prior with other nuisances."""
    prior = replace(KNOWN_PROBE, nuisances={**KNOWN_PROBE.nuisances, **nuisances})
    return replace(scan, coordinates=Coordinates(prior.conditions[0], prior.nuisances))


@pytest.mark.parametrize("priors", [DEFAULT, UNUSUAL])
def test_nodes_draws_and_steps_are_those_of_the_distribution(priors):
    found, generator = scale_priors(priors), torch.Generator().manual_seed(0)
    for name, nuisance in NAMES.items():
        law, prior = priors[nuisance], found[name]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            draws = law.sample((20_000,)).double()
        check_distribution(draws, prior, 20_000)
        check_distribution(prior.draw(0.0, generator, 20_000), prior, 20_000)
        value, steps = float(prior.nodes[600]), []
        for _ in range(4000):
            there, log_ratio = prior.step(value, 1.0, generator)
            value = there if accepts(log_ratio, generator) else value
            steps.append(value)
        steps = torch.tensor(steps, dtype=torch.float64)
        num = diagnose_chains({"value": steps.numpy()}, 4)["value"][0]
        assert num > 300
        check_distribution(steps, prior, num)


def test_nodes_reach_where_an_image_may_move_a_scale():
    """A likelihood far in the tail of the prior is not held at a bound."""
    prior = scale_priors({"disorder": dist.HalfNormal(0.02)})["disorder"]
    log_likelihood = -1000 * (prior.nodes.log() + 0.09**2 / prior.nodes**2 / 2)
    draws = prior.draw(log_likelihood, torch.Generator().manual_seed(0), 400)
    # the likelihood is largest at x = 0.09, with a curvature of 2000 in the logarithm of x;
    # the prior adds x exp(-1250 x²)
    wanted = 0.09 * math.exp((1 - 2500 * 0.09**2) / 2000)
    assert float(draws.mean()) == pytest.approx(wanted, rel=4 / (2000 * 400) ** 0.5 + 5e-4)
    assert float(draws.std() / draws.mean()) == pytest.approx(2000**-0.5, rel=0.15)


def test_numbers_candidates_and_missing_priors():
    found = scale_priors({"line_jitter": 0.07, "additivity": (0.0, 1.0, 1.0)})
    assert found["jitter"].nodes.tolist() == [0.07]
    assert found["additivity"].nodes.tolist() == [LEAST, 1.0, 1.0]
    # what is missing is zero, and no column is held exactly
    assert found["disorder"].nodes.tolist() == [LEAST]
    assert [found[n].is_open for n in NAMES] == [False, False, True]
    assert not scale_priors({"disorder": (0.02, 0.02)})["disorder"].is_open
    assert found["additivity"].at_least(0.5) == found["additivity"].at_least(2.0) == 1.0
    # steps of a number stay, those of candidates go to each in proportion to its probability
    generator = torch.Generator().manual_seed(0)
    assert found["jitter"].step(0.07, 0.25, generator) == (0.07, 0.0)
    steps = [found["additivity"].step(1.0, 0.25, generator) for _ in range(900)]
    assert {r for _, r in steps} == {0.0}
    assert sum(v == 1.0 for v, _ in steps) == pytest.approx(600, abs=4 * 200**0.5)
    # a distribution below what an image shows, and one that reaches below
    below = scale_priors({"disorder": dist.HalfNormal(1e-4), "line_jitter": dist.Uniform(0, 0.04)})
    assert below["disorder"].nodes.tolist() == [LEAST]
    assert float(below["jitter"].nodes.min()) >= LEAST


def test_the_program_takes_numbers_and_candidates(noisy):
    scan, world, _ = noisy
    scan = under(scan, line_jitter=0.0, disorder=0.03, additivity=(0.5, 1.0))
    # where the detector goes with the probe
    with torch.random.fork_rng():
        torch.manual_seed(0)
        drawn = pyro.condition(sample_scan_program, data={"z": world.z})(scan)
    assert (drawn.jitter, drawn.disorder) == pytest.approx((LEAST, 0.03))
    assert drawn.additivity in (0.5, 1.0)
    held = replace(world, jitter=LEAST, row_shift=LEAST * torch.ones_like(world.row_shift))
    conditioned = pyro.condition(sample_scan_program, data=values_of(scan, held))
    trace = pyro.poutine.trace(conditioned).get_trace(scan)
    trace.compute_log_prob()
    found = [float(trace.nodes[n]["log_prob"]) for n in NAMES]
    assert found == pytest.approx([0.0, 0.0, math.log(0.5)])


def log_joint(scan, world):
    """Log density of the program, without sites and species about which the image tells nothing.

    The moves leave these out: they are drawn anew from the prior.
    """
    conditioned = pyro.condition(sample_scan_program, data=values_of(scan, world))
    value = pyro.poutine.trace(conditioned).get_trace(scan).log_prob_sum()
    others = scan.updated & ~_counted(scan, world)
    own = (world.shift - scan.basis @ world.drift)[others]
    value = value - Normal(0.0, spread_of_sites(world)[others, None]).log_prob(own).sum()
    excess, covariance = (
        world.excess[others],
        covariance_of_excess(world.scatter, world.is_coarse)[others],
    )
    value = value - MultivariateNormal(0 * excess, covariance).log_prob(excess).sum()
    view = look(scan, world)
    unused = torch.ones(world.errors.shape[1], dtype=torch.bool)
    unused[view.used] = False
    size = error_size(view.values, world.additivity)[:, None]
    return float(value - Normal(0.0, size).log_prob(world.errors[:, unused]).sum())


def _counted(scan, world):
    return scan.updated & HAS_ATOMS[world.species]


@pytest.mark.parametrize("priors", [DEFAULT, UNUSUAL])
@pytest.mark.parametrize("name", [*JITTERS, "disorder"])
def test_conditionals_of_scales_are_those_of_the_program(noisy, name, priors, monkeypatch):
    scan, world, view = noisy
    scan, generator, found = under(scan, **priors), torch.Generator().manual_seed(0), {}

    def draw(self, log_likelihood, _):
        found[id(self)] = log_likelihood
        return self.nodes[len(self.nodes) // 2]

    monkeypatch.setattr(ScalePrior, "draw", draw)
    if name in JITTERS:
        world = draw_rows(scan, world, view, generator)
    else:
        world, _ = draw_occupation(scan, world, view, scan.colours(), generator)
        assert bool((_counted(scan, world) & world.is_wide).any())
    prior = scan.coordinates.scale_priors[name]
    grid, log_prob = prior.nodes, found[id(prior)]
    # the weights are those of cells that are even in the logarithm
    density = log_prob + prior.log_weight - grid.log()
    # where the scale may be, with respect to its own most probable value
    best = int(density.argmax())
    probable = (density > density.max() - 8).nonzero()[:, 0]
    chosen = probable[:: max(len(probable) // 5, 1)].tolist()
    wanted = [log_joint(scan, replace(world, **{name: float(grid[k])})) for k in (best, *chosen)]
    found = [float(density[k] - density[best]) for k in chosen]
    assert found == pytest.approx([w - wanted[0] for w in wanted[1:]], abs=0.02)


@pytest.mark.parametrize("priors", [DEFAULT, UNUSUAL])
def test_the_scale_of_errors_is_drawn_by_the_evidence_of_the_image(noisy, priors, monkeypatch):
    """With a regression under each of its values as the truth."""
    scan, world, view = noisy
    scan, seen = under(scan, **priors), []
    monkeypatch.setattr(ScalePrior, "draw", lambda self, value, _: seen.append(value) or 1.0)
    equations = _equations_of_species(scan, view.images, view.variance)
    prior = scan.coordinates.scale_priors["additivity"]
    for begun in (float(prior.nodes[0]), float(prior.nodes[-1])):
        own = replace(world, additivity=begun)
        draw_additivity(scan, own, view, _solve(equations, own, view.values), torch.Generator())
    chosen = torch.linspace(0, len(prior.nodes) - 1, 7).long()
    exact = torch.stack([
        _solve(equations, replace(world, additivity=float(v)), view.values).evidence
        for v in prior.nodes[chosen]
    ])  # fmt: skip
    for found in seen:
        own = found[chosen]
        assert (own - own[0]).tolist() == pytest.approx((exact - exact[0]).tolist(), abs=1e-3)


def test_the_size_of_the_film_is_drawn_by_the_evidence_of_the_image(noisy, monkeypatch):
    """With a regression under each of its values as the truth."""
    scan, world, view = noisy
    seen = []
    monkeypatch.setattr(
        ScalePrior, "draw", lambda self, value, _: seen.append(value) or torch.ones(1)
    )
    equations = _equations_of_species(scan, view.images, view.variance)
    prior = scan.coordinates.scale_priors["film_size"]
    for begun in (float(prior.nodes[0]), float(prior.nodes[-1])):
        own = replace(world, film_size=torch.full_like(world.film_size, begun))
        draw_film_size(scan, own, _solve(equations, own, view.values), torch.Generator())
    chosen = torch.linspace(0, len(prior.nodes) - 1, 7).long()
    for k, found in enumerate(seen):
        detector, exact = k % len(world.film_size), []
        for size in prior.nodes[chosen]:
            sizes = world.film_size.clone()
            sizes[detector] = size
            other = replace(world, film_size=sizes)
            exact.append(float(_solve(equations, other, view.values).evidence))
        own = found[chosen]
        wanted = [value - exact[0] for value in exact]
        assert (own - own[0]).tolist() == pytest.approx(wanted, abs=1e-3)
    assert len(seen) == 2 * len(world.film_size)


def test_steps_of_scales_take_the_prior(noisy, monkeypatch):
    """The same step under two priors: the ratios differ by those of their densities."""
    scan, world, view = noisy
    ratios, seed = [], 2
    monkeypatch.setattr(chain, "accepts", lambda ratio, _: ratios.append(ratio))
    narrow = {"disorder": dist.HalfNormal(0.01), "additivity": log_uniform(1e-3, 5.0)}
    for priors in (DEFAULT, narrow):
        generator = torch.Generator().manual_seed(seed)
        chain._draw_scales(under(scan, **priors), world, view, generator)
    again = torch.Generator().manual_seed(seed)
    wanted = []
    for name, size in itertools.product(chain.STEPPED, chain.STEPS_OF_SCALE):
        change = size * float(torch.randn(1, generator=again))
        here, there = (
            torch.tensor(float(getattr(world, name)) * math.exp(c)) for c in (0.0, change)
        )
        laws = [p.get(name) for p in (narrow, DEFAULT)]
        gains = [float(law.log_prob(there) - law.log_prob(here)) if law else 0.0 for law in laws]
        wanted.append(gains[0] - gains[1])
    num = len(wanted)
    found = [b - a for a, b in zip(ratios[:num], ratios[num:], strict=True)]
    assert len(ratios) == 2 * num
    assert min(abs(w) for w in wanted[-len(chain.STEPS_OF_SCALE) :]) > 0.01
    assert found == pytest.approx(wanted, abs=1e-3)


def alone(scan, world, num=2):
    """A few metals that hardly overlap, in an image of noise that tells nothing."""
    middle = scan.positions.square().sum(-1) + 1e4 * (scan.kind != 0)
    kept = middle.argsort()[:num]
    parts = ("species", "shift", "excess", "is_wide", "is_coarse")
    world = replace(
        world, **{n: getattr(world, n)[kept] for n in parts}, floor=torch.tensor([1e10])
    )
    world = replace(world, species=PERFECT[torch.zeros_like(kept)])
    return replace(scan, positions=scan.positions[kept], kind=scan.kind[kept]), world


@pytest.mark.parametrize("name", [*NAMES, "film_size"])
def test_the_prior_is_drawn_where_the_image_tells_nothing(noisy, name, monkeypatch):
    monkeypatch.setattr(occupation, "LIMITS", (9.0, 0.9))
    scan, world, _ = noisy
    priors = UNUSUAL | {"line_jitter": log_uniform(0.02, 0.1)}
    scan, world = alone(under(scan, **priors), world)
    view, generator, draws = look(scan, world), torch.Generator().manual_seed(0), []
    kernels = Kernels.of(scan.field, view.values, scan.material)
    monkeypatch.setattr(occupation.Kernels, "of", lambda *_: kernels)  # always the same
    for _ in range(4000 if name == "jitter" else 1500):
        if name == "jitter":
            world = draw_rows(scan, world, view, generator)
        elif name == "disorder":
            world, _ = draw_occupation(scan, world, view, scan.colours(), generator)
        else:
            found = regress_species(scan, world, view.values, view.images, view.variance)
            world = draw_additivity(scan, world, view, found, generator)
            world = draw_film_size(scan, world, found, generator)
        draws.append(float(getattr(world, name)))
    draws = torch.tensor(draws, dtype=torch.float64)
    num = diagnose_chains({"value": draws.log().numpy()}, 4)["value"][0]
    assert num > 100
    check_distribution(draws, scan.coordinates.scale_priors[name], num)


def test_the_smaller_candidate_is_found_where_it_is_true(noisy):
    scan, world, _ = noisy
    world = replace(world, row_shift=torch.zeros_like(world.row_shift))
    expected, generator = look(scan, world).expected, torch.Generator().manual_seed(0)
    noise = world.floor**0.5 * torch.randn(expected.shape, generator=generator)
    scan = under(replace(scan, image=expected + noise), line_jitter=(0.0, 0.05))
    # where fits and chains begin
    world = replace(world, jitter=scan.coordinates.scale_priors["jitter"].at_least(0.05))
    assert world.jitter == 0.05
    view, draws = look(scan, world), []
    for _ in range(60):
        world = draw_rows(scan, world, view, generator)
        world, _ = chain._draw_scales(scan, world, look(scan, world), generator)
        view = look(scan, world)
        draws.append(world.jitter)
    assert draws[-20:] == [LEAST] * 20


def test_candidates_are_exchanged_where_the_image_tells_nothing(noisy):
    scan, world, _ = noisy
    # errors of the only species are those of the signal, on which there is no prior
    scan, alike = alone(under(scan, line_jitter=0.0, disorder=0.0, additivity=(0, 2)), world)
    world = replace(alike, floor=world.floor)
    scan = replace(scan, image=look(scan, world).expected)
    view, generator, draws = look(scan, world), torch.Generator().manual_seed(0), []
    for _ in range(200):
        world = draw_signal(scan, world, view, generator)
        draws.append(world.additivity)
    assert set(draws) == {LEAST, 2.0}
    assert draws.count(2.0) == pytest.approx(100, abs=4 * 50**0.5)


@pytest.mark.parametrize(
    ("nuisances", "ranges"),
    [
        (
            {"line_jitter": 0.02, "disorder": 0.0, "additivity": 0.0},
            {"jitter": (0.02, 0.02), "disorder": (LEAST, LEAST), "additivity": (LEAST, LEAST)},
        ),
        (
            {
                "line_jitter": (0.2, 0.4),
                "disorder": dist.Uniform(0.08, 0.12),
                "additivity": dist.Uniform(4.0, 9.0),
            },
            {"jitter": (0.2, 0.4), "disorder": (0.08, 0.12), "additivity": (4.0, 9.0)},
        ),
    ],
)
def test_fits_and_chains_keep_to_the_prior(nuisances, ranges, monkeypatch):
    monkeypatch.setattr(chain, "EXPLORED", 2)
    scan, world, _ = noisy_crystal(3, 40)
    scan = under(scan, **nuisances)
    fitted, _ = fit_world(scan, world)
    draws = sample_worlds(scan, explore_mode(scan, fitted, 0), 0)
    worlds = [fitted, *(next(draws).world for _ in range(3))]
    for name, (low, high) in ranges.items():
        values = [getattr(w, name) for w in worlds]
        # bounds of distributions are in single precision
        slack = 1e-6 * high
        assert all(low - slack <= v <= high + slack for v in values), (name, values)
    last = worlds[-1]
    for part in (last.shift, last.row_shift, last.errors, last.film):
        assert bool(torch.isfinite(part).all())
    assert math.isfinite(last.signal)
