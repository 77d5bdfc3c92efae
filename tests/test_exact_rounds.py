"""Transitions of the exact model against its Pyro program.

A world is drawn from the prior, pixels from the world, and another world by a transition given the
pixels. If the transition leaves the posterior invariant, both worlds are draws of the prior. This
is one step of the joint distribution test of Geweke, Journal of the American Statistical
Association 99, 799 (2004), doi:10.1198/016214504000001132, repeated independently.
"""

import math
from dataclasses import replace

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from crystals import ABUNDANCE, MATERIAL, PRIOR

from bayesctx.crystal import HOSTS, METALS
from bayesctx.exact import row_moves, scale_moves, site_moves
from bayesctx.exact.linear_moves import Linear, draw_linear
from bayesctx.exact.row_moves import draw_noise, draw_rows
from bayesctx.exact.scale_moves import draw_given_columns, draw_scales
from bayesctx.exact.shared_moves import draw_dopant, draw_shared
from bayesctx.exact.site_moves import draw_sites
from bayesctx.exact.target import Target
from bayesctx.exact.tuning import Tuning
from bayesctx.scan import PERFECT, Coordinates, Field, Scan
from bayesctx.scan.generative import WIDE_LOG, sample_scan_program
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.rows import proposed
from bayesctx.scan.view import look, spectra_of
from bayesctx.scan.world import begin

PIXELS, SAMPLING, REACH = (16, 18), 0.35, 3.4
SIGNAL, SIGNAL_SPREAD, FLOOR, FLOOR_SPREAD = 30.0, 0.1, 0.5, 0.05
FILM_SPREAD, DOSE, DOSE_SPREAD = 0.3, 2.0e3, 0.2
DOPANTS = METALS.index("Ti"), METALS.index("Re")
FIXED = {
    "beam_energy": 80e3, "convergence_semiangle": 30.0, "inner_collection_angle": 60.0,
    "outer_collection_angle": 200.0,
}  # fmt: skip
# few shared variables are open, so that all of them are visited in a short run
NUISANCES = {
    "line_jitter": dist.Uniform(0.02, 0.15), "disorder": dist.Uniform(0.01, 0.05),
    "additivity": dist.HalfNormal(1.0), "C12": dist.Uniform(0.0, 30.0),
    "phi12": dist.Uniform(0.0, math.pi), "strain": dist.Normal(0.0, 0.005), "source_size": 0.8,
}  # fmt: skip


@pytest.fixture(autouse=True)
def small_priors(monkeypatch):
    """Sites near the border take the place of those beyond it, which the image hardly shows."""
    monkeypatch.setattr("bayesctx.scan.world.UPDATED", -0.5)
    # a film of the size of the image would make it negative
    monkeypatch.setattr("bayesctx.scan.film.PLANE_SIZE", FILM_SPREAD)
    monkeypatch.setattr("bayesctx.scan.scale_prior.FILM_SCALE", FILM_SPREAD)


def small_scan():
    """A scan of some dozen sites, half of which are inside of its image."""
    prior = PRIOR.given(FIXED | {"defocus": dist.Normal(0.0, 20.0)})
    coordinates = Coordinates(prior.conditions[0], NUISANCES)
    z = coordinates.draw(200, torch.Generator().manual_seed(0))
    field = Field(PIXELS, SAMPLING).limited(coordinates.values(z))
    steps = torch.arange(-3, 4)
    cells = torch.cartesian_prod(steps, steps).float()
    vectors = HOSTS["WSe2"].lattice_constant * torch.tensor([[1.0, 0.0], [0.5, 0.75**0.5]])
    positions = torch.cat([cells @ vectors + k / 3 * vectors.sum(0) for k in range(3)])
    kind = torch.arange(3).repeat_interleave(len(cells))
    near = (positions.abs() < REACH).all(-1)
    valid = torch.ones(PIXELS, dtype=torch.bool)
    valid[3:5, 4:9] = False
    return Scan(
        torch.zeros(1, *PIXELS), field, MATERIAL, coordinates, positions[near], kind[near],
        ABUNDANCE, lambda dose: -0.5 * (math.log(dose / DOSE) / DOSE_SPREAD) ** 2, valid=valid,
    )  # fmt: skip


def log_known(world):
    """What is all but flat in the program: signal and floor of the noise."""
    signal = (world.signal / SIGNAL).log() / SIGNAL_SPREAD
    floor = (world.floor - FLOOR) / FLOOR_SPREAD
    return -0.5 * float((signal.double().square() + floor.double().square()).sum())


def draw_world(scan):
    """A draw of the program under what is known, and its spectra."""
    z = scan.coordinates.draw(1, _generator())[0]
    z[-2:] = 0
    size = scan.field.sampling * (1 + float(scan.coordinates.values(z[None])["strain"]))
    # the logarithm of the signal: normal as known, times the wide normal of the program
    narrow = SIGNAL_SPREAD**-2
    precision = narrow + WIDE_LOG**-2
    signal = (math.log(SIGNAL) * narrow / precision + torch.randn(1) * precision**-0.5).exp()
    # that of the slope: normal given the dose, times the wide one
    mean, narrow = math.log(float(signal) / size**2 / DOSE), DOSE_SPREAD**-2
    precision = narrow + WIDE_LOG**-2
    data = {
        "z": z,
        "signal": signal,
        "floor": FLOOR + FLOOR_SPREAD * torch.randn(1),
        "log_slope": mean * narrow / precision + torch.randn(1) * precision**-0.5,
    }
    shared = spectra_of(scan, z)
    return pyro.condition(sample_scan_program, data=data)(scan, shared), shared


def _generator():
    """Random numbers that follow the global seed."""
    return torch.Generator().manual_seed(int(torch.randint(2**31, (1,))))


def statistics(scan, world, shared=None):
    """Numbers that describe a world, and how well it explains the pixels."""
    view = look(scan, world, shared)
    misfit = (scan.image - view.expected) / view.variance.sqrt()
    drawn = scan.updated
    own, excess = (world.shift - scan.basis @ world.drift)[drawn], world.excess[drawn]
    perfect = world.species[drawn] == PERFECT[scan.kind[drawn]]
    found = {
        "misfit": scan.seen(misfit.square()).mean(),
        "dopant": torch.tensor(float(scan.material.dopant == DOPANTS[0])),
        "z": world.z[:-2],
        "z²": world.z[:-2].square(),
        "drift": world.drift[0],
        "drift²": world.drift.square().mean(),
        "rows²": world.row_shift.square().mean(0).sqrt(),
        "jitter": world.jitters,
        "disorder": torch.tensor(world.disorder),
        "scatter": world.scatter,
        "additivity": torch.tensor(world.additivity),
        "own²": own.square().mean().sqrt(),
        "own": own.mean(),
        "excess": excess.mean(),
        "excess²": excess.square().mean().sqrt(),
        "wide": world.is_wide[drawn].float().mean(),
        "share_wide": torch.tensor(world.share_wide),
        "coarse": world.is_coarse[drawn].float().mean(),
        "perfect": perfect.float().mean(),
        "species": world.species[drawn].float().mean(),
        "abundance": world.abundance[0, :2],
        "signal": world.signal,
        "film": world.film[0, :2],
        "tone": world.tone[:, 0, 0],
        "tone²": world.tone.square().mean().sqrt(),
        "tone_size": world.tone_size.mean(),
        "film²": world.film.square().mean(),
        "film_size": world.film_size,
        "errors²": world.errors.square().mean().sqrt(),
        "floor": world.floor,
        "log_slope": world.slope.log(),
    }
    return {
        f"{n}[{k}]": float(v)
        for n, values in found.items()
        for k, v in enumerate(values.reshape(-1))
    }


def draw_pixels(scan, world, shared):
    """Pixels of a world."""
    view = look(scan, world, shared)
    noise = torch.randn(view.expected.shape)
    return view.expected + noise * torch.where(scan.valid, view.variance, 1.0).sqrt()


def tuned(scan):
    """Target and tuning, by a world in the middle of the prior and its pixels without noise."""
    z = torch.zeros(len(scan.coordinates.names), dtype=torch.float64)
    middle = replace(
        begin(scan, z), signal=torch.tensor([SIGNAL]), floor=torch.tensor([FLOOR]), disorder=0.03,
        slope=torch.tensor([SIGNAL / SAMPLING**2 / DOSE]),
    )  # fmt: skip
    seen = replace(scan, image=look(scan, middle).expected)
    near = linearise_jointly(seen, middle, look(seen, middle), 0.4, exactly=False)
    return Target(known=log_known), Tuning.of(seen, middle, near)


def deviations(transition, number, seed=0):
    """Mean change of every statistic by a transition, over its standard error.

    Each time a world is drawn from the prior, then pixels from the world, then another world by the
    transition given the pixels: both worlds are draws of the prior.
    """
    scan = small_scan()
    target, tuning = tuned(scan)
    changes = []
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(seed)
        generator = _generator()
        for k in range(number):
            scan = replace(scan, material=replace(MATERIAL, dopant=DOPANTS[k % 2]))
            world, shared = draw_world(scan)
            scan = replace(scan, image=draw_pixels(scan, world, shared))
            after = transition(scan, world, shared, target, tuning, generator)
            seen, after = after if isinstance(after, tuple) else (scan, after)
            density = [target.log_density(*pair) for pair in ((scan, world), (seen, after))]
            before, after = statistics(scan, world, shared), statistics(seen, after)
            before["density"], after["density"] = density
            changes.append([after[n] - before[n] for n in before])
    changes = np.array(changes)
    error = changes.std(0, ddof=1) / number**0.5
    each = zip(before, changes.mean(0), error, strict=True)
    return {name: mean / e for name, mean, e in each if e > 0}


TRANSITIONS = {
    "sites": lambda s, w, f, t, u, g: draw_sites(s, w, f, t, u, s.colours(), g)[0],
    "given columns": lambda s, w, f, t, u, g: draw_given_columns(s, w, f, t, g),
    "shared": lambda s, w, f, t, u, g: draw_shared(s, w, f, t, u, g)[0],
    "linear": lambda s, w, f, t, u, g: draw_linear(s, w, f, t, u, g)[0],
    "rows": lambda s, w, f, t, u, g: draw_rows(s, w, f, t, u, g)[0],
    "scales": lambda s, w, f, t, u, g: draw_scales(s, w, f, t, g)[0],
    "noise": lambda s, w, f, t, u, g: draw_noise(s, w, f, t, u, g),
    "dopant": lambda s, w, f, t, u, g: draw_dopant(s, w, t, DOPANTS, g),
}
"""By name, with scan, world, spectra, target, tuning and generator."""

NUMBERS = {"linear": 160, "shared": 80}  # of worlds, beside
NUMBER = 80
# of some seventy statistics none is so far off by chance, with a probability of 0.99
LIMIT = 4.0


@pytest.mark.parametrize("name", TRANSITIONS)
def test_a_transition_leaves_the_prior_invariant_over_its_pixels(name):
    found = deviations(TRANSITIONS[name], NUMBERS.get(name, NUMBER))
    assert found
    assert max(map(abs, found.values())) < LIMIT, found


def _with_the_linear_law_wrong(law, world, log_prob=Linear.log_prob):
    """Density of signal, film and errors that counts the wrong way."""
    return -log_prob(law, world)


def _with_a_third_of_the_density(target, *given, log_density=Target.log_density):
    """Density of the program, of which only a third counts."""
    return log_density(target, *given) / 3


def _without_the_volume(*given, follow=scale_moves._follow):
    """What follows a scale, without the change of its volume."""
    return follow(*given)[0], 0


def _with_the_wrong_sign(law, columns, log_prob=site_moves._Proposal.log_prob):
    """Density of a proposal that counts the wrong way."""
    return -log_prob(law, columns)


WRONG = {
    "sites": (site_moves._Proposal, "log_prob", _with_the_wrong_sign),
    "given columns": (scale_moves, "FREQUENT", torch.tensor([5.0, 1.0])),
    "shared": (Target, "log_density", _with_a_third_of_the_density),
    "linear": (Linear, "log_prob", _with_the_linear_law_wrong),
    "rows": (row_moves, "proposed", lambda law, g: 2 * proposed(law, g) - law.mean),
    "scales": (scale_moves, "_follow", _without_the_volume),
    "noise": (Target, "log_noise", lambda *_: 0.0),
}
"""A fault of every transition: in the density of its proposal, or a part of the target left out."""


QUICK = ("sites", "rows", "noise")


@pytest.mark.parametrize(
    "name", [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in WRONG]
)
def test_a_wrong_transition_is_found(name, monkeypatch):
    monkeypatch.setattr(*WRONG[name])
    found = deviations(TRANSITIONS[name], NUMBERS.get(name, NUMBER))
    assert max(map(abs, found.values())) > LIMIT
