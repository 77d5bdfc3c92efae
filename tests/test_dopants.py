"""Draws of the dopant, of the errors of its columns and of its abundance."""

import itertools
from dataclasses import replace

import pytest
import torch
from crystals import PRIOR, RINGS, abundance_of, noisy_crystal

from bayesctx.crystal import HOSTS, METALS
from bayesctx.defects import DEFECTS, DOPED_SPECIES, SITES
from bayesctx.scan import chain, dopants
from bayesctx.scan.dopants import Doping, draw_dopant, with_dopant
from bayesctx.scan.field import Material
from bayesctx.scan.occupation import draw_occupation
from bayesctx.scan.signal import error_size
from bayesctx.scan.view import look
from bayesctx.scan.world import CLASS, PERFECT

COUNT = 400  # draws
DOPED = DEFECTS.index("D_M")


@pytest.fixture(scope="module", params=[(), RINGS], ids=["one detector", "two detectors"])
def noisy(request):
    return noisy_crystal(rings=request.param)


def noise_of(world, view):
    noise = torch.randn(view.expected.shape, generator=torch.Generator().manual_seed(7))
    return world.floor.sqrt()[:, None, None] * noise


def undoped(scan, world):
    """The same with metal of the host where the dopant is, and an image of it."""
    species = torch.where(CLASS[world.species] == DOPED, PERFECT[0], world.species)
    world = replace(world, species=species, errors=torch.zeros_like(world.errors))
    image = look(scan, world).expected + noise_of(world, look(scan, world))
    return replace(scan, image=image), world


def test_dopant_and_errors_have_their_joint_density():
    """Draws in turn against a sum over the metals and a grid of the error."""
    scan, world, _ = noisy_crystal()
    _, world = undoped(scan, world)
    world = replace(world, additivity=1.0)
    metal = ((scan.kind == 0) & scan.inside).nonzero()[:, 0]
    doped = world.species.clone()
    doped[metal[:: len(metal) // 2][:2]] = DOPED_SPECIES
    seen = look(scan, replace(world, species=doped))
    scan = replace(scan, image=seen.expected + noise_of(world, seen))
    metals = tuple(METALS.index(m) for m in ("Ti", "V", "Cr", "Re"))
    size = float(error_size(seen.values, world.additivity)[0])
    nodes = torch.linspace(-5, 5, 61, dtype=torch.float64)
    # what is there holds no dopant, so that the density of a doping is the same at every draw
    shares, log_weight = dopants._possible_shares(scan.prior, world.abundance)
    densities = []
    for metal in metals:
        dopings = []
        for node in nodes:
            errors = world.errors.clone()
            errors[:, DOPED_SPECIES] = float(node) * size
            dopings.append(Doping(metal, errors, world.abundance))
        found = torch.stack(
            dopants._log_likelihoods(scan, world, look(scan, world), scan.inside, dopings)
        )
        each = (found[..., None, :] + shares.log()).logsumexp(-1).sum(1) + log_weight
        densities.append(each.logsumexp(-1) - 0.5 * nodes**2)
    weight = torch.stack(densities).flatten().softmax(0).view(len(metals), -1)
    generator, found = torch.Generator().manual_seed(2), []
    for _ in range(COUNT):
        doping = draw_dopant([(scan, world, look(scan, world), scan.inside)], metals, generator)
        scan = replace(scan, material=replace(scan.material, dopant=doping.metal))
        world = replace(world, errors=doping.errors)
        found.append((metals.index(doping.metal), float(doping.errors[0, DOPED_SPECIES]) / size))
    drawn = torch.tensor(found, dtype=torch.float64)
    wanted = [
        *weight.sum(1),
        *(weight.sum(0) @ torch.stack([nodes, nodes**2], 1)),
    ]
    kept = torch.stack([
        *((drawn[:, 0] == k).double() for k in range(len(metals))), drawn[:, 1], drawn[:, 1] ** 2,
    ])  # fmt: skip
    for values, mean in zip(kept, wanted, strict=True):
        # 20 parts of the chain, which are nearly independent
        parts = values.view(20, -1).mean(1)
        assert abs(float(parts.mean() - mean)) < 4 * float(parts.std()) / 20**0.5 + 1e-3


def test_metals_that_are_nowhere_are_equally_probable(noisy):
    """Without a column of the dopant all metals do."""
    scan, world, _ = noisy
    scan, world = undoped(scan, world)
    metals, generator = (0, 2, 5), torch.Generator().manual_seed(0)
    found = [chain._draw_dopant(scan, world, look(scan, world), metals, generator)]
    for _ in range(180):
        found.append(chain._draw_dopant(*found[-1], metals, generator))
    drawn = [scan.material.dopant for scan, *_ in found[1:]]
    # every sixth proposal is the same metal, and a half is as bright as the one that is
    changes = sum(a != b for a, b in itertools.pairwise(drawn)) / 180
    assert changes > 0.2
    # a chain that goes to each of the others equally often
    correlation = 1 - 1.5 * changes
    width = (180 * 2 / 9 * (1 + correlation) / (1 - correlation)) ** 0.5
    assert all(abs(drawn.count(d) - 60) <= 3 * width for d in metals)


def test_a_dopant_that_looks_like_the_host_is_left_again(noisy):
    """Given columns that are named so, no other metal would ever be possible."""
    scan, world, _ = noisy
    scan = replace(scan, material=Material(list(HOSTS).index("WSe2"), METALS.index("Re")))
    scan, world = undoped(scan, world)
    named = world.species.clone()
    named[(named == PERFECT[0]).nonzero()[::4, 0]] = DOPED_SPECIES
    share = world.abundance.clone()
    share[0, [DEFECTS.index("M"), DOPED]] = torch.tensor([0.7, 0.25])
    world = replace(world, species=named, abundance=share)
    metals, generator = tuple(METALS.index(m) for m in ("Re", "Ti", "V")), torch.Generator()
    view, found, colours = look(scan, world), [], scan.colours()
    for _ in range(90):
        scan, world, view = chain._draw_dopant(scan, world, view, metals, generator)
        found.append(scan.material.dopant)
        world, _ = draw_occupation(scan, world, view, colours, generator)
        view = look(scan, world)
    counts = [found.count(d) for d in metals]
    # Ti and V are told from W, Re hardly is: what the abundance leaves makes it less probable only
    assert min(counts) > 10, counts


def test_columns_beside_the_dopant_stay_when_it_becomes_another_metal(noisy):
    """Vanadium is as bright as titanium: the same sites hold it, and all else is what it was."""
    scan, world, _ = noisy
    species = torch.where(scan.kind == 0, PERFECT[0], PERFECT[scan.kind])
    inner = (scan.positions.abs() < 3.0).all(-1) & (scan.kind == 0)
    species[inner] = DOPED_SPECIES
    world = replace(world, species=species, errors=torch.zeros_like(world.errors))
    scan = replace(scan, image=look(scan, world).expected + noise_of(world, look(scan, world)))
    assert int(inner.sum()) > 3
    generator = torch.Generator().manual_seed(0)
    vanadium = Doping(METALS.index("V"), world.errors, world.abundance)
    other, there = with_dopant(scan, world, vanadium, generator)
    assert other.material.dopant == METALS.index("V")
    seen = scan.inside | (scan.kind != 0)  # a metal beyond the border may be any
    assert torch.equal(CLASS[there.species][seen], CLASS[world.species][seen])
    # the image is described nearly as well, unlike with metal of the host in their places
    plain = replace(world, species=PERFECT[scan.kind])
    before, after, empty = (
        ((s.image - look(s, w).expected).square().mean((1, 2)) / world.floor)
        for s, w in ((scan, world), (other, there), (scan, plain))
    )
    assert (after - before < 0.05 * (empty - before)).all()


def test_the_metal_of_the_dopant_is_chosen_by_the_density(noisy):
    scan, world, _ = noisy
    species = world.species.clone()
    species[(species == PERFECT[0]).nonzero()[::3, 0]] = DOPED_SPECIES
    world = replace(world, species=species, errors=torch.zeros_like(world.errors))
    true, other = scan.material.dopant, METALS.index("Nb")
    view = look(scan, world)
    scan = replace(scan, image=view.expected + noise_of(world, view))
    wrong = replace(scan, material=replace(scan.material, dopant=other))
    now, generator, found = (wrong, world, look(wrong, world)), torch.Generator(), []
    colours = scan.colours()
    for _ in range(12):
        drawn, world, view = chain._draw_dopant(*now, (true, other), generator)
        world, _ = draw_occupation(drawn, world, view, colours, generator)
        now = drawn, world, look(drawn, world)
        found.append(drawn.material.dopant)
    assert found[-8:] == [true] * 8


@pytest.mark.parametrize("stated", [0.1, None], ids=["known", "open"])
def test_the_abundance_of_the_dopant_is_drawn_with_it(noisy, stated):
    """The draws of many rounds are those of the pseudo-likelihood times the prior."""
    scan, world, view = noisy
    if stated:
        scan = replace(scan, prior=abundance_of(PRIOR.given({"abundance": {"D_M": stated}})))
        world = replace(world, abundance=scan.prior.mean.float())
    seen = [(scan, world, view, scan.inside)]
    now, generator = scan.material.dopant, torch.Generator().manual_seed(1)
    other = METALS.index("Nb")
    shares = []
    for _ in range(200):
        abundance = draw_dopant(seen, (now, other), generator).abundance
        assert torch.allclose(abundance[0].sum(), torch.tensor(1.0), atol=1e-5)
        shares.append(float(abundance[0, DOPED]))
        assert torch.equal(abundance[1:], world.abundance[1:])
    if stated:
        assert max(abs(s - stated) for s in shares) < 1e-6
        return
    # columns of this image are told apart, so that the pseudo-likelihood counts them
    held = scan.counts(world.species, scan.inside)[0]
    alpha = PRIOR.dirichlet_alpha["D_M"] + float(held[DOPED])
    rest = sum(v for d, v in PRIOR.dirichlet_alpha.items() if d in SITES["metal"])
    total = rest + float(held.sum())
    mean = alpha / total
    width = (mean * (1 - mean) / (total + 1)) ** 0.5
    assert sum(shares) / len(shares) == pytest.approx(mean, abs=4 * width / len(shares) ** 0.5)
