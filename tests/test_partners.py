"""Jumps between worlds that look nearly the same."""

import math
from dataclasses import replace

import pyro.distributions as dist
import pytest
import torch
from crystals import PRIOR, crystal, log_posterior, noisy_crystal

from bayesctx.scan import partners, sampling
from bayesctx.scan.chain import Mode
from bayesctx.scan.coordinates import Coordinates
from bayesctx.scan.moves import linearise_jointly, moved
from bayesctx.scan.partners import draw_partner, log_ratios, partners_of
from bayesctx.scan.view import look
from bayesctx.scan.world import MIRROR, World

STEP = 1e-4  # of a coordinate


@pytest.fixture(scope="module")
def noisy():
    scan, world, view = noisy_crystal(pixels=48, noise=0.2)
    return scan, world, view, linearise_jointly(scan, world, view, exactly=False)


@pytest.mark.parametrize("defocus", [PRIOR.conditions[0]["defocus"], dist.Normal(40.0, 60.0)])
def test_a_partner_of_a_partner_is_the_point_itself(defocus):
    condition = dict(PRIOR.conditions[0]) | {"defocus": defocus}
    coordinates = Coordinates(condition, PRIOR.nuisances, ())
    z = torch.linspace(-0.6, 0.7, len(coordinates.names), dtype=torch.float64)
    for k in range(3):
        there = partners_of(coordinates, z)[k][0]
        back = partners_of(coordinates, there)[k][0]
        assert torch.allclose(back, z, atol=1e-6)
        # against differences of all coordinates with all; there and back changes no volume
        slopes = [partners._slopes(coordinates, *pair) for pair in ((z, there), (there, z))]
        for found, point in zip(slopes, (z, there), strict=True):
            wanted = [
                (
                    partners_of(coordinates, point + step)[k][0]
                    - partners_of(coordinates, point)[k][0]
                )
                / STEP
                for step in STEP * torch.eye(len(z), dtype=z.dtype)
            ]
            assert torch.allclose(torch.diag(found), torch.stack(wanted, -1), atol=1e-4)
        assert float(sum(s.abs().log().sum() for s in slopes)) == pytest.approx(0.0, abs=1e-4)


def test_ratios_are_those_of_the_posterior(noisy):
    scan, world, view, near = noisy
    before, wanted = log_posterior(scan, world, view.variance), []
    for z, turned in partners_of(scan.coordinates, world.z):
        species = MIRROR[world.species] if turned else world.species
        other = replace(world, z=z, species=species)
        wanted.append(log_posterior(scan, other, view.variance) - before)
    assert log_ratios(scan, world, view, near) == pytest.approx(wanted, abs=0.05)


def test_worlds_are_drawn_by_their_densities(noisy, monkeypatch):
    scan, world, view, near = noisy
    weight = torch.tensor([0.4, 0.3, 0.2, 0.1])
    ratios = (weight[1:] / weight[0]).log().tolist()
    monkeypatch.setattr(partners, "log_ratios", lambda *_: ratios)
    generator, num = torch.Generator().manual_seed(0), 300
    points = [world.z, *(z for z, _ in partners_of(scan.coordinates, world.z))]
    count = torch.zeros(4)
    for _ in range(num):
        there, _, _ = draw_partner(scan, world, view, near, generator)
        count[[torch.equal(there.z, z) for z in points].index(True)] += 1
    error = (weight * (1 - weight) / num).sqrt()
    assert bool(((count / num - weight).abs() < 4 * error).all())
    monkeypatch.setattr(partners, "log_ratios", lambda *_: [-math.inf] * 3)
    same = draw_partner(scan, world, view, near, generator)
    assert same[0] is world
    assert same[2] is near


def test_a_jump_turns_the_layer_and_leaves_the_rest(noisy, monkeypatch):
    scan, world, view, near = noisy
    monkeypatch.setattr(partners, "log_ratios", lambda *_: [-100.0, 100.0, -100.0])
    generator = torch.Generator().manual_seed(0)
    other, seen, carried = draw_partner(scan, world, view, near, generator)
    tilt = [n.startswith("tilt") for n in scan.coordinates.names]
    assert torch.equal(other.z, torch.where(torch.tensor(tilt), -world.z, world.z))
    assert torch.equal(other.species, MIRROR[world.species])
    for name in ("shift", "excess", "row_shift", "drift", "floor", "abundance"):
        assert getattr(other, name) is getattr(world, name)
    again = look(scan, other)
    assert torch.allclose(seen.expected, again.expected, atol=1e-5)
    assert torch.allclose(seen.variance, again.variance, rtol=1e-4)
    # and back: steps there are the images of steps here
    back, _, returned = draw_partner(scan, other, seen, carried, generator)
    assert torch.equal(back.z, world.z)
    assert torch.equal(back.species, world.species)
    assert torch.allclose(returned.factor, near.factor, atol=1e-6)
    change = near.factor @ torch.linspace(-1, 1, near.factor.shape[1], dtype=torch.float64)
    sign = torch.ones_like(change)
    sign[: len(tilt) - 2][torch.tensor(tilt[:-2])] = -1
    here, there = moved(scan, world, near, change), moved(scan, other, carried, sign * change)
    assert torch.allclose(there.shift, here.shift, atol=1e-5)
    assert torch.allclose(there.excess, here.excess, atol=1e-5)
    assert torch.allclose(there.row_shift, here.row_shift, atol=1e-5)


def test_modes_that_are_reached_are_sampled_as_one(monkeypatch):
    """Tilts are reached from each other, opposite focus is not."""
    scan, world, *_ = crystal(3, 24)
    explored = []

    def explore(scan, world: World, seed):
        explored.append(world)
        return Mode(world, None, -1.0, (0.001, 0.4, 0.002))

    monkeypatch.setattr(sampling, "explore_mode", explore)
    worlds = [replace(world, disorder=0.1 * (k + 1)) for k in range(4)]
    near = {0: (-2.0, worlds[0]), 1: (0.0, worlds[1]), 2: (-1.0, worlds[2]), 3: (-3.0, worlds[3])}
    modes, log_weight = sampling._explore_modes(scan, near, 0, jumps=True)
    assert [m.world for m in modes] == explored == [worlds[1], worlds[2]]
    pairs = torch.tensor([[0.0, -3.0], [-1.0, -2.0]])
    assert log_weight == pytest.approx((pairs.logsumexp(-1) - 1.0).tolist())
    # chains that do not jump sample each by itself
    explored.clear()
    modes, log_weight = sampling._explore_modes(scan, near, 0, jumps=False)
    assert [m.world for m in modes] == explored == [worlds[k] for k in (1, 2, 0, 3)]
    assert log_weight == pytest.approx([-1.0, -2.0, -3.0, -4.0])
