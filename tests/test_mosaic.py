"""Large scans: windows that cover them, what is linear over windows, and worlds of the whole."""

import math
from dataclasses import replace

import pytest
import torch
from crystals import RINGS, SAMPLING, crystal, noisy_crystal

from bayesctx.crystal import METALS
from bayesctx.defects import SPECIES
from bayesctx.scan import (
    contenders,
    mosaic as mosaic_module,
    occupation,
    sampling,
    signal,
    windows,
    world as world_module,
)
from bayesctx.scan.chain import Draw, log_prob_of_pixels
from bayesctx.scan.conditional import COARSE, HAS_ATOMS, IS_DOPED, covariance_of_excess
from bayesctx.scan.dopants import best_dopant
from bayesctx.scan.mosaic import cover, spread
from bayesctx.scan.occupation import _draw_tone
from bayesctx.scan.signal import draw_brightness
from bayesctx.scan.starts import Candidate, Start
from bayesctx.scan.view import look
from bayesctx.scan.windows import MARGIN, tile
from bayesctx.scan.world import CLASS, PERFECT, begin


@pytest.fixture
def narrow(monkeypatch):
    """Windows of 13 Å, so that small scans have several, and few rounds before the first draw."""
    monkeypatch.setattr(mosaic_module, "MOST_BLOCKS", 2)
    monkeypatch.setattr(mosaic_module, "BLOCK", 2)
    monkeypatch.setattr(windows, "SIDE", 13.0)
    monkeypatch.setattr(windows, "MARGIN", 4.0)


@pytest.fixture(scope="module")
def noisy():
    return noisy_crystal(pixels=96, noise=0.03)


@pytest.fixture(scope="module")
def twofold():
    return noisy_crystal(pixels=96, noise=0.03, rings=RINGS)


def as_window(scan, world, _):
    """A small scan as the only window of it, with film and tone."""
    (only,) = tile(scan)
    empty = begin(only.scan, world.z)
    sites = {n: getattr(world, n)[only.sites] for n in mosaic_module.OF_SITES}
    return only.scan, replace(world, film=empty.film, tone=empty.tone, **sites)


def draw_of(scan, world):
    """A draw that is a given world."""
    values = {n: v[0].tolist() for n, v in scan.coordinates.values(world.z[None]).items()}
    return Draw(world, scan.material, values, 1e5, torch.zeros(0), 0.0, torch.zeros(0))


@pytest.mark.parametrize("shape", [(80, 80), (90, 151), (300, 40)])
def test_every_site_and_pixel_belongs_to_one_window(narrow, shape):
    scan, *_ = crystal(3, shape)
    number = torch.arange(math.prod(shape)).view(shape).float()
    tiles = tile(replace(scan, image=number[None]))
    assert len(tiles) > 1
    held = torch.cat([t.sites[t.own] for t in tiles])
    assert torch.equal(held.sort().values, torch.arange(len(scan.kind))[held.sort().values])
    assert len(held.unique()) == len(held)
    # sites that are drawn are the own of a window in which they are drawn
    drawn = torch.cat([t.sites[t.own & t.scan.updated] for t in tiles])
    assert torch.equal(drawn.sort().values, scan.updated.nonzero()[:, 0])
    pixels = torch.cat([t.scan.image[0, t.core] for t in tiles])
    assert torch.equal(pixels.sort().values, number.flatten())
    for t in tiles:
        assert torch.equal(t.scan.kind, scan.kind[t.sites])
        assert t.scan.image.shape == tiles[0].scan.image.shape


def test_own_pixels_are_away_from_the_border_of_their_window(narrow):
    scan, *_ = crystal(3, (64, 151))
    place = torch.arange(151.0).expand(64, 151)
    for t in tile(replace(scan, image=place[None])):
        own = t.scan.image[0, t.core]
        for border, end in ((t.scan.image.min(), 0.0), (t.scan.image.max(), 150.0)):
            if float(border) != end:
                assert float((own - border).abs().min()) >= windows.MARGIN / SAMPLING - 1


def test_windows_without_valid_pixels_are_left_out(narrow):
    scan, *_ = crystal(3, (64, 151))
    valid = torch.ones(64, 151, dtype=torch.bool)
    valid[:, 60:] = False
    tiles = tile(replace(scan, valid=valid))
    assert len(tiles) < len(tile(scan))
    assert all(t.scan.valid.any() for t in tiles)


def test_a_scan_of_one_window_is_its_own_window():
    scan, *_ = crystal(3, 64)
    (only,) = tile(scan)
    assert torch.equal(only.scan.image, scan.image)
    assert only.core.all()
    assert only.own.all()
    assert MARGIN > 3.0  # half the window of pixels around a site


def test_worlds_in_windows_are_of_all_detectors(narrow, twofold, monkeypatch):
    monkeypatch.setattr(mosaic_module, "WARMUP", 2)
    scan, world, _ = twofold
    tiles = tile(scan)
    mosaic = cover(scan, tiles, world, 0, world.species)
    (found,) = spread(mosaic, [draw_of(scan, world)], 0)
    assert found.world.excess.shape == (len(scan.kind), 2)
    assert found.world.scatter.shape == found.world.signal.shape == (2,)
    for t, own in zip(tiles, mosaic.worlds, strict=True):
        expected = look(t.scan, own).expected
        rest = (t.scan.image - expected)[:, t.core]
        assert (rest.std(-1) < 1.3 * world.floor.sqrt()).all()


def test_signal_and_film_of_a_window_are_drawn_given_the_errors(noisy, monkeypatch):
    monkeypatch.setattr(world_module, "FILM", 12.0)
    monkeypatch.setattr(signal, "draw_film_size", lambda _scan, world, *_: world)
    scan, world = as_window(*noisy)
    errors = 0.1 * torch.linspace(-1, 1, len(SPECIES))[None]
    world = replace(world, errors=errors)
    view = look(scan, world)
    columns = ((1 + errors[0, view.used])[:, None, None] * view.images[0]).sum(0)
    film = scan.film.images(torch.eye(scan.film.num_terms))
    design = torch.cat([columns[None], film]).flatten(1).double()
    precision = (design / view.variance[0].flatten().double()) @ design.T
    precision[1:, 1:] += scan.film.precision(world.film_size)[0]
    pull = (design / view.variance[0].flatten().double()) @ scan.image[0].flatten().double()
    mean, covariance = torch.linalg.solve(precision, pull), torch.linalg.inv(precision)
    generator = torch.Generator().manual_seed(0)
    drawn = [draw_brightness(scan, world, view, generator) for _ in range(400)]
    values = torch.stack([torch.cat([w.signal, w.film[0]]) for w in drawn]).double()
    width = covariance.diagonal().sqrt()
    assert ((values.mean(0) - mean).abs() < 4.5 * width / len(drawn) ** 0.5).all()
    # relative error of a standard deviation by 400 draws: 1 / sqrt(2 x 400) = 3.5 %
    assert torch.allclose(values.std(0), width, rtol=0.17)
    assert all(torch.equal(w.errors, errors) for w in drawn)


def test_a_film_that_varies_is_no_part_of_the_columns(narrow, noisy, monkeypatch):
    """A patch of film in a corner, which a plane does not follow."""
    monkeypatch.setattr(mosaic_module, "WARMUP", 6)
    scan, world, view = noisy
    x, y = scan.field.axes
    patch = torch.exp(-((x - 6) ** 2 + (y[:, None] - 6) ** 2) / (2 * 4.0**2))
    film = 0.3 * float(view.expected.max()) * patch
    tiles = tile(replace(scan, image=scan.image + film))
    mosaic = cover(replace(scan, image=scan.image + film), tiles, world, 0, world.species)
    for t, own in zip(mosaic.tiles, mosaic.worlds, strict=True):
        mine = t.own & t.scan.inside
        assert torch.equal(CLASS[own.species[mine]], CLASS[world.species[t.sites[mine]]])
        expected = look(t.scan, own).expected
        rest = (t.scan.image - expected)[:, t.core]
        assert (rest.std(-1) < 1.3 * world.floor.sqrt()).all()


def test_columns_that_are_darker_somewhere_are_no_defects(noisy):
    """The brightness of one sublattice falls by a tenth over a window."""
    scan, world = as_window(*noisy)
    metal = scan.kind == 0
    fall = torch.where(metal, 0.05 * torch.tanh(scan.positions[:, 0] / 5), 0.0)
    own = replace(world, excess=world.excess + fall[:, None])
    generator = torch.Generator().manual_seed(0)
    drawn = [_draw_tone(scan, own, scan.updated, generator).tone for _ in range(60)]
    mean = torch.stack([scan.mean_excess(t) for t in drawn]).mean(0)[scan.inside, 0]
    seen = fall[scan.inside]
    slope = float((mean * seen).sum() / seen.square().sum())
    assert 0.8 < slope < 1.2
    assert float(mean[seen == 0].abs().mean()) < 0.02


def test_columns_that_are_alike_everywhere_leave_no_mean_excess(noisy):
    """How far the mean goes is inferred: where nothing varies it hardly adds to the scatter."""
    scan, world = as_window(*noisy)
    generator = torch.Generator().manual_seed(0)
    scatter = float(world.scatter)
    excess = scatter * torch.randn(world.excess.shape, generator=generator)
    own = replace(world, excess=excess)
    drawn = [_draw_tone(scan, own, scan.updated, generator).tone for _ in range(60)]
    mean = torch.stack([scan.mean_excess(t)[scan.inside] for t in drawn])
    assert float(mean.square().mean().sqrt()) < 0.5 * scatter


def test_the_mean_excess_is_drawn_from_its_posterior(twofold, monkeypatch):
    size = 0.04
    monkeypatch.setattr(occupation, "TONES", torch.tensor([size], dtype=torch.float64))
    scan, world = as_window(*twofold)
    generator = torch.Generator().manual_seed(0)
    counted = scan.updated
    drawn = [_draw_tone(scan, world, counted, generator).tone for _ in range(400)]
    kind, num = 1, len(scan.image)
    values = torch.stack([t[kind].flatten() for t in drawn]).double()
    mine = counted & (scan.kind == kind)
    basis = scan.tone_basis[mine].double()
    # all sites and detectors in one dense system
    covariance = covariance_of_excess(world.scatter, world.is_coarse)[mine].double()
    design = torch.cat([
        torch.cat([basis[i] if d == e else 0 * basis[i] for e in range(num)])[None]
        for i in range(len(basis)) for d in range(num)
    ])  # fmt: skip
    weight = torch.block_diag(*torch.linalg.inv(covariance))
    precision = design.T @ weight @ design + size**-2 * torch.eye(design.shape[1]).double()
    mean = torch.linalg.solve(precision, design.T @ weight @ world.excess[mine].flatten().double())
    width = torch.linalg.inv(precision).diagonal().sqrt()
    assert ((values.mean(0) - mean).abs() < 4.5 * width / len(drawn) ** 0.5).all()
    assert torch.allclose(values.std(0), width, rtol=0.17)


def test_a_scan_that_is_less_even_than_its_window_is_covered_with_its_own_scatter(
    narrow, noisy, monkeypatch
):
    """Bright columns are no dopant that is a little brighter than the host."""
    monkeypatch.setattr(mosaic_module, "WARMUP", 2)
    monkeypatch.setattr(mosaic_module, "MOST_BLOCKS", 10)
    monkeypatch.setattr(mosaic_module, "BLOCK", 4)
    scan, world, _ = noisy
    plain = torch.where(IS_DOPED[world.species], PERFECT[0], world.species)
    generator = torch.Generator().manual_seed(5)
    scatter = 0.05
    excess = scatter * torch.randn(world.excess.shape, generator=generator)
    moving = HAS_ATOMS[plain] & scan.updated
    rough = replace(world, species=plain, excess=world.excess + excess * moving[:, None])
    noise = world.floor.sqrt() * torch.randn(scan.image.shape, generator=generator)
    rhenium = replace(scan.material, dopant=METALS.index("Re"))
    scan = replace(scan, image=look(scan, rough).expected + noise, material=rhenium)
    even = replace(world, scatter=torch.full_like(world.scatter, 0.01))
    mosaic = cover(scan, tile(scan), even, 0, plain, [METALS.index(m) for m in ("Re", "Ti")])
    # of all columns, fine and coarse
    found = torch.stack([
        (1 - w.share_coarse) * w.scatter[0] ** 2 + w.share_coarse * COARSE**2
        for w in mosaic.worlds
    ])  # fmt: skip
    number = torch.tensor([float((t.own & moving[t.sites]).sum()) for t in mosaic.tiles])
    # some hundred columns leave it open whether a tenth of them is coarse, which the truth is not
    found = float((found @ number / number.sum()).sqrt())
    assert 0.75 * scatter < found < (scatter**2 + 0.1 * COARSE**2) ** 0.5
    doped = sum(
        int((IS_DOPED[w.species] & t.own & t.scan.inside).sum())
        for t, w in zip(mosaic.tiles, mosaic.worlds, strict=True)
    )
    assert doped < 0.15 * int((scan.inside & (scan.kind == 0)).sum())


def test_the_signal_of_a_window_follows_its_brightness(narrow, noisy, monkeypatch):
    """Brightness that varies over a scan is not read as another class."""
    monkeypatch.setattr(mosaic_module, "WARMUP", 4)
    scan, world, _ = noisy
    half = scan.field.shape[1] // 2
    image = scan.image.clone()
    image[..., half:] *= 1.1
    uneven = replace(scan, image=image)
    mosaic = cover(uneven, tile(uneven), world, 0, world.species)
    (found,) = spread(mosaic, [draw_of(uneven, world)], 0)
    signals = torch.stack([w.signal[0] for w in mosaic.worlds])
    assert float(signals.max() / signals.min()) == pytest.approx(1.1, abs=0.05)
    same = (found.world.species == world.species)[scan.inside]
    assert float(same.float().mean()) > 0.93


def test_worlds_in_windows_are_those_of_the_whole_scan(noisy, monkeypatch):
    """Small windows against one that holds the whole scan: the slow truth."""
    scan, world, _ = noisy
    draw, found = draw_of(scan, world), {}
    for side in (14.0, 30.0):
        monkeypatch.setattr(windows, "SIDE", side)
        tiles = tile(scan)
        mosaic = cover(scan, tiles, world, 0, world.species)
        draws = list(spread(mosaic, [draw] * 20, 1))
        found[len(tiles)] = torch.stack([d.probability for d in draws]).mean(0)
    several, whole = found[max(found)], found[1]
    assert max(found) >= 4
    mine = scan.inside
    assert torch.allclose(several[mine].sum(-1), torch.ones(int(mine.sum())), atol=1e-4)
    distance = 0.5 * (several - whole)[mine].abs().sum(-1)
    # of two means over 20 draws of probabilities that differ from draw to draw by .2 at most
    assert float(distance.mean()) < 0.02
    assert float(distance.quantile(0.95)) < 0.1
    truth = world.species[mine]
    assert float((several[mine].argmax(-1) == truth).float().mean()) > 0.95


def test_a_draw_of_the_whole_keeps_the_shared_variables_and_counts_all_sites(narrow, noisy):
    scan, world, view = noisy
    draw = replace(draw_of(scan, world), dose=3e4)
    mosaic = cover(scan, tile(scan), world, 0, world.species)
    (found,) = spread(mosaic, [draw], 0)
    assert found.values == draw.values
    assert found.dose == draw.dose
    assert found.world.species.shape == scan.kind.shape
    assert found.world.shift.shape == scan.positions.shape
    assert found.probability.shape == (len(scan.kind), len(SPECIES))
    # near that of the true world; every site and row explains a few nats of the noise, or does not
    truth = log_prob_of_pixels(scan, view)
    assert abs(found.log_prob - truth) < 2 * int(scan.updated.sum()) + len(world.row_shift)
    again, other = (next(spread(mosaic, [draw], seed)) for seed in (0, 1))
    assert torch.equal(again.world.species, found.world.species)
    assert again.log_prob == found.log_prob != other.log_prob


def test_the_dopant_is_drawn_with_all_windows(narrow, noisy, monkeypatch):
    monkeypatch.setattr(mosaic_module, "WARMUP", 2)
    scan, world, _ = noisy
    other = METALS.index("W" if scan.material.dopant != METALS.index("W") else "Mo")
    assert any(SPECIES[k].defect == "D_M" for k in world.species[scan.inside].tolist())
    wrong = replace(scan, material=replace(scan.material, dopant=other))
    draw, dopants = draw_of(wrong, world), (scan.material.dopant, other)
    mosaic = cover(wrong, tile(scan), world, 0, world.species)
    assert next(spread(mosaic, [draw], 0)).material.dopant == other
    # another metal of another period is told apart by all pixels
    monkeypatch.setattr(mosaic_module, "WARMUP", 8)
    mosaic = cover(wrong, tile(scan), world, 0, None, dopants)
    draws = list(spread(mosaic, [draw] * 2, 0, dopants))
    assert draws[-1].material == scan.material


@pytest.mark.parametrize("now", ["Ti", "W", "Mo"])
def test_the_dopant_is_found_whatever_it_is_now(noisy, now):
    """Columns that are not explained yet, as those of metals in the place of the dopant."""
    scan, world, _ = noisy
    scan = replace(scan, material=replace(scan.material, dopant=METALS.index(now)))
    doped = torch.tensor([s.holds_dopant for s in SPECIES])[world.species]
    world = replace(world, species=torch.where(doped, PERFECT[scan.kind], world.species))
    dopants = [METALS.index(metal) for metal in ("Mo", "Ti", "W")]
    seen = [(scan, world, look(scan, world), scan.updated)]
    assert METALS[best_dopant(seen, dopants)] == "Ti"


def test_large_scans_are_searched_in_a_window(monkeypatch):
    scan, *_ = crystal(3, 96)
    candidate = Candidate(scan, (0,), species=PERFECT[scan.kind])
    assert contenders._windows([candidate])[0] is candidate
    monkeypatch.setattr(contenders, "MOST_SITES", 20)
    monkeypatch.setattr(contenders, "IN_WINDOW", 20)
    (window,) = contenders._windows([candidate])
    number = int(window.scan.inside.sum())
    assert 10 <= number <= 40
    assert len(window.species) == len(window.scan.kind)
    assert window.dopants == candidate.dopants


def test_a_large_scan_is_read_whole(narrow, monkeypatch):
    """Draws of the whole scan, each with a species at every site."""
    scan, world, _ = noisy_crystal(pixels=120, noise=0.03)
    monkeypatch.setattr(contenders, "MOST_SITES", 20)
    monkeypatch.setattr(contenders, "IN_WINDOW", 60)
    monkeypatch.setattr(mosaic_module, "WARMUP", 2)
    (window,) = contenders._windows([Candidate(scan, (scan.material.dopant,))])
    assert window.scan.image.shape != scan.image.shape
    start = Start(0, window.scan, _within(scan, world, window.scan), 0.0)
    contender = contenders.Contender(start, [(0.0, start.world)], 0.0)
    whole = Candidate(scan, (scan.material.dopant,), species=world.species)
    ticks = []
    chains = sampling._sample_candidate(whole, contender, [2, 2], 3, 0, 1, lambda: ticks.append(1))
    assert [len(c) for c in chains] == [2, 2]
    assert len(ticks) == 4
    for draw in chains[0]:
        assert len(draw.world.species) == len(scan.kind)
        right = draw.world.species[scan.inside] == world.species[scan.inside]
        assert float(right.float().mean()) > 0.75


def _within(scan, world, window):
    """The part of a world in a window in the middle of its scan."""
    near = torch.cdist(window.positions, scan.positions).argmin(1)
    parts = ("species", "shift", "excess", "is_wide", "is_coarse")
    inside = {n: getattr(world, n)[near] for n in parts}
    first = (scan.field.shape[0] - window.field.shape[0]) // 2
    mine = slice(first, first + window.field.shape[0])
    # splines of its own for what is seen of the film
    seen = scan.film.images(world.film)[:, mine, mine].flatten(1)
    splines = window.film.images(torch.eye(window.film.num_terms)).flatten(1)
    film = torch.linalg.lstsq(splines.mT, seen.mT).solution.mT
    return replace(world, row_shift=world.row_shift[mine], film=film, **inside)


def test_a_view_of_all_windows_adds_up(narrow, noisy):
    scan, world, _ = noisy
    for t in tile(scan):
        inside = {n: getattr(world, n)[t.sites] for n in ("species", "shift", "excess")}
        own = replace(world, is_wide=t.own, is_coarse=t.own, **inside)
        empty = begin(t.scan, world.z)
        film = (empty.film + world.film[:, :1]).expand_as(empty.film)  # a constant
        assert bool((world.film == world.film[:, :1]).all())
        own = replace(own, row_shift=empty.row_shift, film=film, tone=empty.tone)
        expected = look(t.scan, own).expected
        rest = (t.scan.image - expected)[:, t.core]
        assert float(rest.std()) < 1.2 * float(world.floor) ** 0.5
