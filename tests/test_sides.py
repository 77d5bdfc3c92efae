"""The tilt is drawn together with the sides of the atoms that it displaces."""

from dataclasses import replace

import pytest
import torch
from crystals import log_posterior, noisy_crystal

from bayesctx.defects import SPECIES
from bayesctx.scan import PERFECT, sides
from bayesctx.scan.moves import linearise_jointly
from bayesctx.scan.sides import Sides, draw_tilt
from bayesctx.scan.view import look
from bayesctx.scan.world import MIRROR

TOP = next(i for i, s in enumerate(SPECIES) if s.defect == "V_X" and MIRROR[i] != i)


@pytest.fixture(scope="module")
def vacant():
    """A crystal with five vacancies on one side, and steps of its shared variables."""
    scan, world, _ = noisy_crystal(3, 40, 0.05)
    assert any(n.startswith("tilt") for n in scan.coordinates.names)
    middle = scan.positions.square().sum(-1) + 1e4 * (scan.kind != 1)
    mine = middle.argsort()[:30:6]
    held = torch.where(MIRROR[world.species] != world.species, PERFECT[scan.kind], world.species)
    held[mine] = TOP
    world = replace(world, species=held, disorder=0.03)
    image = look(scan, world).expected
    noise = torch.randn(image.shape, generator=torch.Generator().manual_seed(0))
    scan = replace(scan, image=image + world.floor.sqrt()[:, None, None] * noise)
    view = look(scan, world)
    return scan, world, view, linearise_jointly(scan, world, view, exactly=False)


def test_sides_are_drawn_with_the_density_that_is_stated(vacant):
    scan, world, view, _ = vacant
    mine = (world.species == TOP).nonzero()[:, 0]
    found = Sides.of(scan, world, view, mine)
    assert found.species[:, 0].tolist() == [TOP] * len(mine)
    assert found.species[:, 1].tolist() == [int(MIRROR[TOP])] * len(mine)
    generator = torch.Generator().manual_seed(0)
    draws = [found.draw(generator) for _ in range(2000)]
    chosen = torch.stack([c for c, _ in draws])
    share = found.log_prob.exp()[:, 1]
    error = (share * (1 - share) / 2000).sqrt()
    assert ((chosen.float().mean(0) - share).abs() < 4.5 * error + 1e-3).all()
    # log densities of normal draws: their mean is that of the law, half a unit below for each value
    given = [(c, v, found.log_density(c, v)) for c, v in draws[:400]]
    num = found.location.shape[-1] * len(mine)
    squares = []
    for c, v, value in given:
        top = found.log_density(c, found.location[torch.arange(len(mine)), c])
        squares.append(2 * (top - value))
        assert torch.isfinite(v).all()
    assert sum(squares) / 400 == pytest.approx(num, abs=4 * (2 * num / 400) ** 0.5)


def test_the_way_back_is_as_probable_as_it_is_taken_to_be(vacant, monkeypatch):
    """Both densities of a proposal, against those of the step that undoes it."""
    scan, world, view, near = vacant
    seen = []
    of = Sides.of.__func__

    def keep(cls, *given):
        found = of(cls, *given)
        seen.append((given, found))
        return found

    monkeypatch.setattr(Sides, "of", classmethod(keep))
    monkeypatch.setattr(sides, "STEPS", (1.0,))
    monkeypatch.setattr(sides, "accepts", lambda *_: True)
    monkeypatch.setattr(sides, "arrive", lambda _scan, world, view, *_: (world, view))
    there, _ = draw_tilt(scan, world, view, near, torch.Generator().manual_seed(1))
    (forth, _), (_, back) = seen
    mine = forth[3]
    stays = torch.cat([torch.zeros(len(mine), 2), world.excess[mine]], -1)
    # the columns as the step back finds them: at the old tilt, where the new ones stand
    away = there.shift - forth[1].shift
    old = replace(world, species=there.species, shift=world.shift + away, excess=there.excess)
    again = Sides.of(scan, old, replace(look(scan, old), variance=view.variance), mine)
    values = stays.clone()
    values[:, :2] = -away[mine]
    chosen = (world.species[mine] != there.species[mine]).long()
    found = again.log_density(chosen, values)
    # kernels are linear in the displacement
    assert found == pytest.approx(back.log_density(torch.zeros_like(chosen), stays), abs=0.3)


def test_steps_are_taken_by_the_density_of_the_posterior(vacant, monkeypatch):
    scan, world, view, near = vacant
    ratios, proposed, laws = [], [], []
    monkeypatch.setattr(sides, "accepts", lambda ratio, _: ratios.append(ratio) or False)
    with_sides, density = sides._with_sides, Sides.log_density
    monkeypatch.setattr(
        sides, "_with_sides", lambda *given: proposed.append(with_sides(*given)) or proposed[-1]
    )
    monkeypatch.setattr(
        Sides, "log_density", lambda *given: laws.append(density(*given)) or laws[-1]
    )
    before = log_posterior(scan, world, view.variance)
    for seed in range(4):
        draw_tilt(scan, world, view, near, torch.Generator().manual_seed(seed))
        back, forth = laws[-2:]
        wanted = log_posterior(scan, proposed[-1], view.variance) - before + back - forth
        assert ratios[-1] == pytest.approx(wanted, abs=0.05)
    assert any((p.species != world.species).any() for p in proposed)


def test_the_prior_of_the_tilt_stays_where_the_image_tells_nothing(vacant, monkeypatch):
    """Draws of the prior are draws of it after two steps."""
    monkeypatch.setattr(sides, "STEPS", (0.5, 1.5))
    scan, world, _, _ = vacant
    world = replace(world, floor=torch.tensor([1e10]))
    near = linearise_jointly(scan, world, look(scan, world), exactly=False)
    at = [k for k, n in enumerate(scan.coordinates.names) if n.startswith("tilt")]
    generator, num, found = torch.Generator().manual_seed(0), 200, []
    for z in scan.coordinates.draw(num, generator)[:, at]:
        own = replace(world, z=world.z.index_copy(0, torch.tensor(at), z))
        view = look(scan, own)
        for _ in range(2):
            own, view = draw_tilt(scan, own, view, near, generator)
        found.append((z.norm(), own.z[at].norm()))
    before, after = torch.tensor(found).double().T
    assert float((before != after).double().mean()) > 0.5
    # the distance of the coordinates from the origin is half-normal
    share = torch.erf(after / 2**0.5)
    assert float(share.mean()) == pytest.approx(0.5, abs=4 / (12 * num) ** 0.5)
    assert float(share.square().mean()) == pytest.approx(1 / 3, abs=4 * 0.3 / num**0.5)


def test_a_perfect_crystal_is_left_as_it_is(vacant):
    scan, world, view, near = vacant
    plain = replace(world, species=PERFECT[scan.kind])
    seen = look(scan, plain)
    found, _ = draw_tilt(scan, plain, seen, near, torch.Generator().manual_seed(0))
    assert found is plain
