"""Moves of the sampler of a scan, each against the density that it should leave invariant."""

import itertools
import math
from dataclasses import replace

import pyro
import pytest
import torch
from crystals import (
    KNOWN_PROBE,
    PRIOR,
    RINGS,
    SAMPLING,
    abundance_of,
    designs,
    log_posterior,
    noisy_crystal,
    position,
)
from torch.distributions import LogNormal, LowRankMultivariateNormal, Normal

from bayesctx.crystal import METALS
from bayesctx.defects import DEFECTS, SITES, SPECIES
from bayesctx.inference.convergence import diagnose_chains
from bayesctx.scan import chain, signal
from bayesctx.scan.chain import depart, explore_mode, sample_worlds
from bayesctx.scan.conditional import ALLOWED, COARSE, HAS_ATOMS, NUM_ALIKE, Sites
from bayesctx.scan.coordinates import Coordinates
from bayesctx.scan.dose import (
    dose_of,
    log_prior_of_dose,
    log_prior_of_signal,
    precision_of_dose,
)
from bayesctx.scan.field import Field, Material
from bayesctx.scan.generative import WIDE_LOG, sample_scan_program, values_of
from bayesctx.scan.kernels import site_conditional, solve_upper
from bayesctx.scan.moves import linearise_jointly, log_density_along, moved
from bayesctx.scan.noise import draw_noise
from bayesctx.scan.occupation import draw_occupation, log_evidence_of_sites
from bayesctx.scan.overlaps import overlaps_of
from bayesctx.scan.regression import Regression
from bayesctx.scan.rows import draw_rows
from bayesctx.scan.shared import evaluate
from bayesctx.scan.signal import draw_signal
from bayesctx.scan.view import look
from bayesctx.scan.world import CLASS, JITTERS, PERFECT, Scan, begin

DOPED = next(i for i, s in enumerate(SPECIES) if s.defect == "D_M")
SOFT = 0.08  # size of a direction, above which the density is not Gaussian


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def noisy(request):
    return noisy_crystal(rings=request.param)


@pytest.fixture(scope="module")
def joint(noisy):
    return linearise_jointly(*noisy, exactly=False)


def seeded(seed):
    return torch.Generator().manual_seed(seed)


def without(joint, *names):
    """The same directions along which some parts of a world do not follow."""
    return replace(joint, **{n: torch.zeros_like(getattr(joint, n)) for n in names})


def density(scan, world, view, joint):
    """Log density of a world that is not moved."""
    return float(log_density_along(scan, world, view, joint)[0])


def test_sites_and_rows_that_follow_make_the_posterior_wider(noisy):
    scan, world, view = noisy
    # residuals add a curvature of their own
    scan = replace(scan, image=view.expected)
    joint = linearise_jointly(scan, world, view, exactly=False)
    still = without(joint, "own", "excess", "rows")
    less, more = (replace(joint, own=k * joint.own, excess=k * joint.excess) for k in (0.6, 1.4))
    distance, ratios, others = 0.3, [], []
    narrow = joint.factor.norm(dim=0) < SOFT
    for direction in joint.factor.T[narrow][::2]:
        falls = []
        for own in (joint, still, less, more):
            around = [
                density(scan, moved(scan, world, own, s * distance * direction), view, own)
                for s in (1, -1)
            ]
            falls.append(density(scan, world, view, own) - sum(around) / 2)
        # half a nat at one standard deviation; slopes of columns are known to some per cent
        assert falls[0] == pytest.approx(distance**2 / 2, rel=0.2)
        ratios.append(falls[1] / falls[0])
        others.append([fall / falls[0] for fall in falls[2:]])
    assert min(ratios) > 1.5
    assert sorted(ratios)[len(ratios) // 2] > 5
    # and neither half of that nor more would do as well
    assert torch.tensor(others).mean(0).min() > 1.1


def test_joint_moves_look_at_the_density_of_the_whole_world(noisy, joint):
    """Every prior once: differences between worlds, against plain normal densities."""
    scan, world, view = noisy
    generator = torch.Generator().manual_seed(0)
    world = replace(world, is_wide=torch.rand(len(world.is_wide), generator=generator) < 0.2)
    world = replace(world, is_coarse=torch.rand(len(world.is_wide), generator=generator) < 0.2)
    found, wanted = [], []
    for _ in range(4):
        noise = torch.randn(joint.factor.shape[1], generator=generator, dtype=torch.float64)
        other = moved(scan, world, joint, joint.factor @ noise)
        found.append(density(scan, other, view, joint))
        wanted.append(log_posterior(scan, other, view.variance))
    assert [f - found[0] for f in found] == pytest.approx([w - wanted[0] for w in wanted], abs=0.01)


def lone_site(kind, species, noise, excess=0.0, seed=0):
    """Scan, world and view of a site in the middle, of some kind, and a metal far from it."""
    coordinates = Coordinates(KNOWN_PROBE.conditions[0], KNOWN_PROBE.nuisances)
    z = torch.zeros(len(coordinates.names), dtype=torch.float64)
    field = Field((45, 49), SAMPLING).limited(coordinates.values(z[None]))
    positions = torch.tensor([[0.33, -0.25], [-4.0, 4.0]])
    material = Material(0, METALS.index("Ti"))
    prior = abundance_of(PRIOR)
    scan = Scan(
        torch.zeros(1, 45, 49),
        field,
        material,
        coordinates,
        positions,
        torch.tensor([kind, 0]),
        prior,
    )
    world = begin(scan, z, torch.tensor([species, int(PERFECT[0])]))
    shift = torch.tensor([[0.02, -0.03], [0.0, 0.0]])
    world = replace(
        world, shift=shift, signal=torch.tensor([10.0]), disorder=0.05, share_coarse=0.05
    )
    errors = 0.03 * torch.randn(1, len(SPECIES), generator=torch.Generator().manual_seed(seed))
    world = replace(world, errors=errors)
    expected = look(scan, replace(world, excess=torch.tensor([[excess], [0.0]]))).expected
    sigma = noise * float(expected.max())
    generator = torch.Generator().manual_seed(seed)
    image = expected + sigma * torch.randn(expected.shape, generator=generator)
    scan, world = replace(scan, image=image), replace(world, floor=torch.tensor([sigma**2]))
    return scan, world, look(scan, world)


def site_slopes(scan, world):
    """Image with an excess of zero, and its slopes with displacement and excess of the site."""
    excess = world.excess.clone()
    excess[0] = 0

    def at(dx=0.0, dy=0.0, more=0.0):
        change = torch.zeros_like(world.shift)
        change[0] = torch.tensor([dx, dy])
        more = torch.tensor([[more], [0.0]])
        return look(
            scan, replace(world, shift=world.shift + change, excess=excess + more)
        ).expected.double()

    h = 0.02
    slopes = [(at(h) - at(-h)) / (2 * h), (at(0, h) - at(0, -h)) / (2 * h), at(0, 0, 1) - at()]
    return at().flatten(), torch.stack(slopes, -1).flatten(0, 2)


def law_of_image(scan, world, view, scatter, slopes, middle):
    """Of the pixels, displacement and excess of the site integrated out."""
    mean = torch.cat([(scan.basis @ world.drift - world.shift)[0], torch.zeros(1)]).double()
    scale = torch.tensor([world.disorder, world.disorder, scatter]).double()
    variance = view.variance.flatten().double()
    return LowRankMultivariateNormal(middle + slopes @ mean, slopes * scale, variance)


@pytest.mark.parametrize(
    ("defect", "noise", "excess"),
    [
        ("X2", 0.4, 0.0),
        ("X2", 0.1, -0.25),  # fine or coarse, or another species
        ("V_X", 0.2, 0.0),
        ("M", 1.5, 0.0),
        ("V_M", 0.5, 0.0),
        ("V_X2", 0.4, 0.0),
    ],
)
def test_probabilities_of_a_site_are_those_of_integrated_normal_densities(defect, noise, excess):
    index, held = next((i, s) for i, s in enumerate(SPECIES) if s.defect == defect)
    kind = list(SITES).index(held.site)
    scan, world, view = lone_site(kind, index, noise, excess)
    _, found = draw_occupation(scan, world, view, [torch.tensor([0])], None)
    log_prob = torch.full((len(SPECIES),), -math.inf, dtype=torch.float64)
    share = world.abundance[kind].double()
    for k in ALLOWED[held.site].tolist():
        if not share[CLASS[k]]:
            continue
        other = replace(world, species=torch.tensor([k, world.species[1]]))
        middle, slopes = site_slopes(scan, other)
        both = [
            math.log(part)
            + law_of_image(scan, other, view, scatter, slopes, middle).log_prob(
                scan.image.flatten().double()
            )
            for part, scatter in (
                (1 - world.share_coarse, float(world.scatter)),
                (world.share_coarse, math.hypot(float(world.scatter), COARSE)),
            )
        ]
        log_prob[k] = torch.logsumexp(torch.stack(both), 0) + (share[CLASS[k]] / NUM_ALIKE[k]).log()
    wanted = log_prob.softmax(0)
    # not a matter of course
    assert float(wanted.max()) < 0.999
    assert float((found[0] - wanted).abs().max()) < 0.01


@pytest.mark.parametrize("num", [1, 2, 3])
def test_displacement_and_excess_of_a_site_have_their_conditional_distribution(num):
    """Against the posterior of a linear model, of a fine and a coarse component."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(1, num, 2, 3, 30, generator=generator, dtype=torch.float64)
    rest = torch.randn(1, num, 30, generator=generator, dtype=torch.float64)
    weight = 0.5 + torch.rand(1, num, 30, generator=generator, dtype=torch.float64)
    mean = torch.tensor([[0.3, -0.2, *[0.0] * num]], dtype=torch.float64)
    place, own = 4 * torch.eye(2), torch.eye(num)
    # a coarse excess is the same on all detectors
    fine, coarse = 100 * own, torch.linalg.inv(0.01 * own + 0.5)
    precision = torch.stack([torch.block_diag(place, e) for e in (fine, coarse)])[None].double()
    products = overlaps_of(kernels, rest, weight)
    log_prob, location, factor = site_conditional(*products, mean, precision)
    noise = torch.eye(2 + num, dtype=torch.float64)
    image, variance, wanted = rest.flatten(), 1 / weight.flatten(), []
    for c in range(2):
        for k in range(2):
            value, *along = kernels[0, :, k].unbind(1)
            # an excess changes the image on its own detector only
            own = [torch.eye(num)[d, :, None] * value for d in range(num)]
            slopes = torch.stack([*along, *own], -1).flatten(0, 1)
            inverse = torch.linalg.inv(slopes.T @ (slopes / variance[:, None]) + precision[0, c])
            pull = slopes.T @ ((image - value.flatten()) / variance)
            middle = inverse @ (pull + precision[0, c] @ mean[0])
            assert torch.allclose(location[0, c, k], middle)
            root = solve_upper(factor[0, c, k].expand(2 + num, -1), noise)
            assert torch.allclose(root.T @ root, inverse)
            law = LowRankMultivariateNormal(
                value.flatten() + slopes @ mean[0],
                slopes @ torch.linalg.cholesky(torch.linalg.inv(precision[0, c])),
                variance,
            )
            wanted.append(float(law.log_prob(image)))
    found = log_prob[0].flatten()
    assert (found - found[0]).tolist() == pytest.approx([w - wanted[0] for w in wanted])


def test_tabulated_products_are_those_of_the_columns_where_they_stand(noisy):
    """Sums over pixels, against columns of every species that are written out."""
    scan, world, view = noisy
    rows = world.jitters * torch.randn(world.row_shift.shape, generator=seeded(1))
    world = replace(world, row_shift=rows)
    sites, mine = Sites.of(scan, world, view), scan.updated.nonzero()[:, 0]
    given = sites.conditional(scan, mine)
    rest = sites.canvas.at(sites.canvas.rest, given.index) + given.present
    weight = sites.canvas.at(sites.canvas.weight, given.index)
    positions = scan.positions[mine] + world.shift[mine]
    columns = [
        sites.canvas.columns_at(scan, sites.kernels, positions, species)[0]
        * sites.amplitude[:, species].mT[..., None, None]
        for species in given.species.unbind(1)
    ]
    # log densities of up to 4e4 have an error of 0.004 in single precision
    written_out = (v.double() for v in (torch.stack(columns, 2), rest, weight))
    gram, dot = overlaps_of(*written_out)
    real = sites.log_prior[scan.kind[mine][:, None], given.species] > -math.inf
    assert sorted(set(real.sum(1).tolist())) == sorted({len(scan.allowed(k)) for k in range(3)})
    found, wanted = (v.movedim(2, 1)[real] for v in (sites.gram(scan, mine), gram))
    # rounding, in single precision
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    mean = torch.cat([sites.mean_shift - world.shift, sites.mean_excess], -1)[mine]
    precision = sites.prior.precision(mine)
    wanted, location, _ = site_conditional(gram, dot, mean.double(), precision.double())
    wanted = wanted + sites.log_prior[scan.kind[mine][:, None], given.species][:, None]
    wanted = wanted + sites.prior.log_share[:, None]
    law, same = (v.flatten(1).softmax(-1) for v in (wanted, given.log_prob))
    assert float((law - same).abs().max()) < 1e-3
    at = real[:, None].expand(wanted.shape)
    assert torch.allclose(given.location[at].double(), location[at], atol=1e-3)


def test_where_no_site_is_drawn_all_stay(noisy):
    """As in a window without a metal site, when the dopant changes."""
    scan, world, view = noisy
    found, probability = draw_occupation(scan, world, view, [], torch.Generator().manual_seed(0))
    assert torch.equal(found.species, world.species)
    assert torch.equal(found.shift[scan.updated], world.shift[scan.updated])
    assert not probability.any()


@pytest.mark.parametrize("is_coarse", [False, True])
def test_evidence_of_a_site_is_an_integral(is_coarse):
    """At the mode of a linear image Laplace's approximation is exact."""
    scan, world, view = lone_site(0, int(PERFECT[0]), 0.05)
    world = replace(world, is_coarse=torch.tensor([is_coarse, False]))
    scatter = float(world.scatter)
    scatter = math.hypot(scatter, COARSE) if is_coarse else scatter
    excess = torch.tensor([[0.01], [0.0]])
    _, slopes = site_slopes(scan, world)
    world = replace(world, excess=excess)
    expected = look(scan, world).expected
    scale = torch.tensor([world.disorder, world.disorder, scatter]).double()
    values = torch.cat([world.shift[0], excess[0]]).double()
    # an image at which the world is the mode: the pull of the pixels is that of the prior
    variance = view.variance.flatten().double()
    pull = torch.linalg.solve(slopes.T @ slopes, values / scale**2)
    rest = variance * (slopes @ pull)
    law = LowRankMultivariateNormal(
        expected.flatten().double() - slopes @ values, slopes * scale, variance
    )
    at_mode = torch.distributions.Normal(0.0, variance.sqrt()).log_prob(rest).sum()
    wanted = float(law.log_prob(expected.flatten().double() + rest) - at_mode)
    # of this site, without the other one
    alone = replace(scan, positions=scan.positions[:1], kind=scan.kind[:1])
    parts = ("species", "shift", "excess", "is_wide", "is_coarse")
    only = replace(world, **{n: getattr(world, n)[:1] for n in parts})
    assert log_evidence_of_sites(alone, only, view) == pytest.approx(wanted, abs=0.05)


def test_steps_of_scales_are_taken_by_the_density_of_the_whole_world(noisy, monkeypatch):
    scan, world, view = noisy
    generator = torch.Generator().manual_seed(4)
    moving = HAS_ATOMS[world.species] & scan.updated
    excess = torch.randn(world.excess.shape, generator=generator) * moving[:, None]
    excess = scan.mean_excess(world.tone) + world.scatter * excess
    rows = 0.2 * world.jitters * torch.randn(world.row_shift.shape, generator=generator)
    world = replace(world, excess=excess, row_shift=rows, disorder=0.03)
    view = replace(look(scan, world), variance=view.variance)
    ratios = []
    monkeypatch.setattr(chain, "accepts", lambda ratio, _: ratios.append(ratio))
    seed = 2
    chain._draw_scales(scan, world, view, torch.Generator().manual_seed(seed))
    again = torch.Generator().manual_seed(seed)
    before, mean = log_posterior(scan, world, view.variance), scan.basis @ world.drift
    wanted = []
    for name, size in itertools.product(chain.STEPPED, chain.STEPS_OF_SCALE):
        change = size * float(torch.randn(1, generator=again))
        grown, num = math.exp(change), 0
        other = replace(world, **{name: grown * getattr(world, name)})
        if name in JITTERS:
            rows = world.row_shift.clone()
            rows[:, JITTERS.index(name)] *= grown
            other, num = replace(other, row_shift=rows), len(rows)
        if name == "disorder":
            shift = torch.where(moving[:, None], mean + grown * (world.shift - mean), world.shift)
            other, num = replace(other, shift=shift), 2 * int(moving.sum())
        # the Jacobian of what goes with the scale, and of the logarithm
        volume = (num + 1) * change
        wanted.append(log_posterior(scan, other, view.variance) - before + volume)
    assert ratios == pytest.approx(wanted, abs=0.02)


def test_excluded_classes_are_never_drawn(noisy):
    scan, world, view = noisy
    given = PRIOR.given({"abundance": {"X2": 0.3, "Y_X": 0.0, "V_X": 0.0, "D_M": 0.0}})
    abundance = abundance_of(given)
    excluded = torch.tensor([float(abundance.mean[:, c].sum()) == 0 for c in CLASS[: len(SPECIES)]])
    assert int(excluded.sum()) > 3
    scan = replace(scan, prior=abundance)
    generator = torch.Generator().manual_seed(0)
    for _ in range(10):
        world = replace(
            world,
            abundance=abundance.draw(scan.counts(world.species, scan.updated), generator).float(),
        )
        world, probability = draw_occupation(scan, world, view, scan.colours(), generator)
        view = look(scan, world)
        assert float(probability[:, excluded].max()) == 0
        assert not excluded[world.species[scan.updated]].any()


def test_a_signal_that_pixels_leave_open_is_positive():
    """Its mean is that of a normal variable above zero."""
    mean, unit = torch.tensor([[0.5, 2.0]]).double(), torch.eye(2).double()
    found = Regression(torch.zeros(()), mean, unit[None], None)
    drawn = torch.stack([found.draw(seeded(k))[0] for k in range(1000)])
    assert (drawn[:, 0] > 0).all()
    law = Normal(0.0, 1.0)
    share = law.log_prob(torch.tensor(0.5)).exp() / law.cdf(torch.tensor(0.5))
    assert float(drawn[:, 0].mean()) == pytest.approx(0.5 + float(share), abs=0.1)
    assert float(drawn[:, 1].mean()) == pytest.approx(2.0, abs=0.13)
    assert torch.equal(found.draw(None), mean)
    darker = Regression(torch.zeros(()), -mean, unit[None], None)
    assert torch.allclose(darker.draw(None), torch.tensor([[1.25**0.5, -2.0]]).double())


def test_signal_and_film_are_drawn_from_their_conditional(noisy, monkeypatch):
    """Under one scale of the errors, and one of the film."""
    for name in ("draw_additivity", "draw_film_size"):
        monkeypatch.setattr(signal, name, lambda _scan, world, *_: world)
    scan, world, view = noisy
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_signal(scan, world, view, generator) for _ in range(1600)]
    for k, (design, root) in enumerate(zip(*designs(scan, world), strict=True)):
        weighted = design / view.variance[k].flatten()
        covariance = torch.linalg.inv(weighted @ design.T + torch.linalg.inv(root @ root.T))
        mean = covariance @ (weighted @ scan.image[k].flatten().double())
        draws = [
            torch.cat([w.signal[k, None], w.errors[k, view.used] * w.signal[k], w.film[k]])
            for w in drawn
        ]
        draws = torch.stack(draws).double()
        # independent of each other: by squared distances from the mean, each of which is one
        turned = torch.linalg.solve_triangular(
            torch.linalg.cholesky(covariance), (draws - mean).T, upper=False
        )
        assert float(turned.mean(1).abs().max()) < 4 / 1600**0.5
        square = turned @ turned.T / 1600
        assert float((square - torch.eye(len(mean))).abs().max()) < 4 * (2 / 1600) ** 0.5


def test_scan_rows_are_drawn_from_their_conditional(noisy):
    """Against the density of the displacement of every row on a grid."""
    scan, world, view = noisy
    generator = torch.Generator().manual_seed(0)
    off = 0.2 * world.jitters * torch.randn(world.row_shift.shape, generator=generator)
    scales = {"jitter": 0.02, "jitter_y": 0.03, "slant": 0.002}
    world = replace(world, row_shift=off, **scales)
    draws = []
    for _ in range(400):  # most are taken, so that they are nearly independent
        seen = replace(look(scan, world), variance=view.variance)
        world = replace(draw_rows(scan, world, seen, generator), **scales)
        draws.append(world.row_shift)
    centre, width = torch.stack(draws).mean(0), torch.stack(draws).std(0)
    axis = torch.linspace(-4, 4, 9)
    # rows do not see each other, so that one image has a point of the grid of each
    grid = torch.cartesian_prod(axis, axis, axis)
    log_prob = []
    for point in grid:
        there = replace(world, row_shift=centre + point * width)
        square = (scan.image - look(scan, there).expected).square() / view.variance
        prior = (there.row_shift / there.jitters).square().sum(-1)
        log_prob.append(-0.5 * (square.sum((0, -1)) + prior))
    density = torch.stack(log_prob).double().softmax(0)
    mean = density.mT @ grid.double()
    sd = (density.mT @ grid.double().square() - mean**2).sqrt()
    assert float(mean.abs().max()) < 5 / 400**0.5
    assert sd.mean(0).tolist() == pytest.approx([1, 1, 1], abs=0.05)


def test_noise_is_drawn_from_its_conditional():
    """Floor and slope against their density on a grid, with the prior of the dose."""
    scan, world, view = noisy_crystal()
    generator = torch.Generator().manual_seed(1)
    floor, slope = 0.5 * world.floor, 0.5 * world.floor / view.expected.mean()
    sigma = (floor + slope * view.expected).sqrt()
    image = view.expected + sigma * torch.randn(sigma.shape, generator=generator)
    dose = dose_of(scan, world.signal, slope, view.values)
    scan = replace(scan, image=image, log_dose=lambda d: -0.5 * (math.log(d / dose) / 0.2) ** 2)
    world, draws = replace(world, floor=floor, slope=slope), []
    for _ in range(500):
        view = replace(view, variance=world.floor + world.slope * view.expected)
        world = draw_noise(scan, world, view, generator)
        draws.append(torch.cat([world.floor, world.slope.log()]))
    draws = torch.stack(draws).double()
    middle, width = draws.mean(0), draws.std(0)
    grid = torch.cartesian_prod(*(middle + width * torch.linspace(-5, 5, 41)[:, None].double()).T)
    variance = grid[:, :1] + grid[:, 1:].exp() * view.expected.flatten()
    square = (image - view.expected).square().flatten()
    log_prob = -0.5 * (square / variance + variance.log()).sum(-1)
    log_prob += torch.tensor([
        scan.log_dose(dose_of(scan, world.signal, slope, view.values))
        for slope in grid[:, 1:].exp()
    ])  # fmt: skip
    density = torch.where((variance > 0).all(-1), log_prob, -math.inf).softmax(0)
    for k in range(2):
        mean = float(density @ grid[:, k])
        sd = float(density @ (grid[:, k] - mean).square()) ** 0.5
        ess = diagnose_chains({"noise": draws[:, k].numpy()}, 4)["noise"][0]
        assert ess > 100
        assert float(middle[k]) == pytest.approx(mean, abs=3.5 * sd / ess**0.5)
        assert float(width[k]) == pytest.approx(sd, rel=3.5 / (2 * ess) ** 0.5)


def only_metals(scan, world):
    """The perfect metal sublattice alone: one species in the image."""
    kept = (scan.kind == 0).nonzero()[:, 0]
    parts = ("species", "shift", "excess", "is_wide", "is_coarse")
    world = replace(world, **{n: getattr(world, n)[kept] for n in parts})
    world = replace(world, species=PERFECT[torch.zeros_like(kept)])
    return replace(scan, positions=scan.positions[kept], kind=scan.kind[kept]), world


def all_certain(scan, world):
    """Every site holds what the perfect crystal has there, for sure."""
    perfect = {SITES[kind][0] for kind in SITES}
    none = {d: 0.0 for d in DEFECTS if d not in perfect and d != "D_M"}
    abundance = abundance_of(PRIOR.given({"dopant": None, "abundance": none}))
    return replace(scan, prior=abundance), replace(world, species=PERFECT[scan.kind])


def as_it_is(scan, world):
    return scan, world


@pytest.mark.parametrize(
    ("pixels", "change"),
    [(40, as_it_is), ((40, 60), as_it_is), ((60, 40), only_metals), (48, all_certain)],
)
def test_chains_of_unusual_images_are_finite(pixels, change, monkeypatch):
    monkeypatch.setattr(chain, "EXPLORED", 2)
    scan, world, _ = noisy_crystal(3, pixels)
    scan, world = change(scan, world)
    expected = look(scan, world).expected
    noise = torch.randn(expected.shape, generator=torch.Generator().manual_seed(0))
    scan = replace(scan, image=expected + float(world.floor) ** 0.5 * noise)
    mode = explore_mode(scan, world, 0)
    draw = next(sample_worlds(scan, mode, 0))
    assert math.isfinite(draw.log_prob)
    assert all(torch.tensor(v).isfinite().all() for v in draw.values.values())
    assert torch.isfinite(draw.world.shift).all()
    drawn = draw.probability[scan.updated]
    assert torch.allclose(drawn.sum(-1), torch.ones(len(drawn)), atol=1e-5)
    if change is all_certain:
        assert torch.equal(draw.world.species, PERFECT[scan.kind])


def test_chains_begin_farther_apart_than_the_posterior_is_wide(monkeypatch):
    monkeypatch.setattr(chain, "EXPLORED", 8)
    scan, world, _ = noisy_crystal(3, 40)
    mode = explore_mode(scan, world, 0)
    inverse = torch.linalg.pinv(mode.near.factor)
    here = position(mode.world)
    begun = [depart(scan, mode, seed).world for seed in range(4)]
    away = torch.stack([inverse @ (position(w) - here) for w in begun])
    assert float(away.square().mean()) > 1  # standard deviations of the Gaussian approximation
    # three trajectories of a scan so small are often refused: which ones is a matter of rounding
    assert len({tuple(w.z.tolist()) for w in begun}) > 1


def test_the_noise_stays_where_a_drawn_signal_changes(noisy):
    """The signal goes with the shared variables; the variance of the pixels must not."""
    scan, world, view = noisy
    other = replace(world, signal=3 * world.signal)  # as after a step of the shared variables
    drawn = draw_signal(scan, other, view, torch.Generator().manual_seed(0))
    assert torch.allclose(drawn.signal, world.signal, rtol=0.5)
    assert torch.equal(drawn.slope, other.slope)


def log_prob_of_program(scan, world, names):
    """Log density of some sites of the program."""
    conditioned = pyro.condition(sample_scan_program, data=values_of(scan, world))
    trace = pyro.poutine.trace(conditioned).get_trace(scan)
    trace.compute_log_prob(lambda name, site: name in names)
    return sum(float(trace.nodes[n]["log_prob_sum"]) for n in names)


def test_the_prior_of_the_signal_is_that_of_the_program(noisy):
    """Prior of the program at two signals, of which the second implies twice the dose."""
    scan, world, view = noisy
    slope = world.signal * 1e-3
    known = replace(scan, log_dose=lambda d: -0.5 * (math.log(d / 1e4) / 0.5) ** 2)
    worlds = [replace(world, signal=f * world.signal, slope=slope) for f in (1.0, 2.0)]
    program = [log_prob_of_program(known, w, ("signal", "dose")) for w in worlds]
    wide = [LogNormal(0.0, WIDE_LOG).log_prob(w.signal) + w.signal.log() for w in worlds]
    moves = [log_prior_of_signal(known, w.signal, slope, view.values) for w in worlds]
    expected = float(moves[1] - moves[0]) + float((wide[1] - wide[0]).sum())
    assert program[1] - program[0] == pytest.approx(expected, abs=1e-3)
    beyond = replace(world, signal=-world.signal)
    assert float(log_prior_of_signal(scan, beyond.signal, slope, view.values)) == -math.inf
    # flat in the logarithm where nothing is known of the dose
    blind = [log_prior_of_signal(scan, w.signal, slope, view.values) for w in worlds]
    assert float(blind[0] - blind[1]) == pytest.approx(len(slope) * math.log(2))


def test_steps_of_the_shared_variables_know_the_dose(noisy):
    """Density, and its derivatives in the logarithm of the dose, against the prior of it."""
    scan, world, view = noisy
    slope = 0.1 * world.floor / view.expected.mean((1, 2))
    # detectors that imply one dose
    slope = world.signal * (slope / world.signal).mean()
    world = replace(world, slope=slope)
    dose = dose_of(scan, world.signal, slope, view.values)
    known = replace(scan, log_dose=lambda d: -0.5 * (math.log(d / dose) / 0.1) ** 2)
    strain = view.values["strain"].double()
    logs = torch.full((len(slope),), 0.05, dtype=torch.float64, requires_grad=True)
    more = strain.clone().requires_grad_()
    value = log_prior_of_dose(
        known, world.signal * logs.exp(), slope, view.values | {"strain": more}
    )
    of_logs, of_strain = torch.autograd.grad(value, [logs, more])
    assert float(of_logs.sum()) == pytest.approx(-100 * 0.05, rel=1e-5)
    # a larger pixel has a smaller dose
    expected = -2 * float(of_logs.sum()) / (1 + float(strain))
    assert float(of_strain) == pytest.approx(expected, rel=1e-5)
    second = precision_of_dose(known, world.signal, slope, view.values)
    assert float(second.sum()) == pytest.approx(100, rel=1e-6)
    # of each detector, by differences
    for k in range(len(slope)):
        step = torch.eye(len(slope))[k] * 0.02
        values = [
            float(log_prior_of_dose(known, world.signal * (j * step).exp(), slope, view.values))
            for j in (0, 1)
        ]
        assert values[1] - values[0] == pytest.approx(
            -0.5 * 0.02**2 * float(second[k, k]), rel=1e-3
        )
    joint = linearise_jointly(known, world, view, exactly=False)
    with_dose, without = (density(s, world, view, joint) for s in (known, scan))
    signal = evaluate(scan, world, view, world.z).regression.size_of_signal
    expected = float(log_prior_of_dose(known, signal, slope, view.values))
    assert with_dose - without == pytest.approx(expected, abs=1e-6)
