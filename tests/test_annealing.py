"""Fits that annealing leaves and finds again."""

from dataclasses import replace

import pytest
import torch
from crystals import noisy_crystal

from bayesctx.scan import Candidate, fits, search
from bayesctx.scan.fits import anneal_until_settled, fit_world, log_density
from bayesctx.scan.view import look
from bayesctx.scan.windows import crop
from bayesctx.scan.world import begin


def test_annealing_finds_what_a_short_fit_does_not():
    scan, world, _ = noisy_crystal()
    short, view = fit_world(scan, begin(scan, world.z + 0.7), rounds=1)
    value = log_density(scan, short, view)
    found, settled = anneal_until_settled(scan, short, value, 0)
    assert found == pytest.approx(log_density(scan, settled, look(scan, settled)), abs=1e-3)
    # from the truth the same density is reached, within the errors of fits
    true, view = fit_world(scan, replace(world))
    assert found > value + 1
    assert found > log_density(scan, true, view) - 4 * 8.0


@pytest.mark.parametrize(
    ("heat", "gains", "kept", "tries"),
    [
        (100.0, [500.0, 70.0, 3.0, 19.0, 900.0], 592.0, 4),
        (100.0, [19.0, 40.0, -4.0, -5.0, 900.0], 59.0, 4),
        (100.0, [-4.0, -5.0, 900.0], 0.0, 2),
        (100.0, [50.0] * 20, 500.0, 10),
        (fits.LEAST_HEAT, [70.0, 3.0, 900.0], 73.0, 2),
    ],
    ids=["while it gains", "after one in vain", "loss", "at most", "low dose"],
)
def test_annealing_ends_when_it_gains_little(monkeypatch, heat, gains, kept, tries):
    hot = []

    def anneal(scan, world, seed, *, is_hot):
        hot.append(is_hot)
        return world + gains[seed]

    monkeypatch.setattr(fits, "_first_heat", lambda scan, world: heat)
    monkeypatch.setattr(fits, "look", lambda scan, world: None)
    monkeypatch.setattr(fits, "log_density", lambda scan, world, view: world)
    monkeypatch.setattr(fits, "anneal", anneal)
    assert anneal_until_settled(None, 0.0, 0.0, 0) == (kept, kept)
    assert hot == [k % 2 == 0 for k in range(tries)]


def test_the_first_heat_is_that_of_the_dose_of_the_columns():
    scan, world, _ = noisy_crystal(noise=1e-4)
    hot = fits._first_heat(scan, world)
    assert hot > 4 * fits.LEAST_HEAT
    # four times the variance of the noise is a quarter of the dose
    assert fits._first_heat(scan, replace(world, floor=4 * world.floor)) == pytest.approx(hot / 4)
    # images have an offset that tells nothing of the dose
    lower = replace(scan, image=scan.image - 30), replace(world, film=world.film - 30)
    assert fits._first_heat(*lower) == pytest.approx(hot, rel=1e-3)
    few = noisy_crystal(noise=0.3)
    assert fits._first_heat(*few[:2]) == fits.LEAST_HEAT


def test_what_one_candidate_finds_of_the_probe_is_tried_for_the_other(monkeypatch):
    """Of the same host: the coordinates of another one are relative to another lattice."""

    def settle(scan, world, value, seed):
        return value, world

    monkeypatch.setattr(search, "anneal_until_settled", settle)
    scan, world, _ = noisy_crystal()
    turned = replace(scan, kind=torch.tensor([1, 0, 2])[scan.kind])
    foreign = replace(scan, material=replace(scan.material, host=0))
    candidates = [Candidate(own, (own.material.dopant,)) for own in (scan, turned, foreign)]
    candidates[0] = replace(candidates[0], species=world.species)
    middles = {i: crop(c.scan, search.MIDDLE)[0] for i, c in enumerate(candidates)}

    def fit(i, z):
        found, view = fit_world(middles[i], begin(middles[i], z), rounds=1)
        return log_density(middles[i], found, view), i, found

    begun = [fit(0, world.z + 1.5), fit(1, world.z), fit(2, world.z - 1.0)]
    best = sorted(begun, key=lambda found: -found[0])
    exchanged = search._exchange(candidates, middles, best, 0, 1)
    assert exchanged == sorted(exchanged, key=lambda found: -found[0])
    (value, _, own), (_, _, other) = (next(f for f in exchanged if f[1] == i) for i in (0, 2))
    middle, kept = crop(scan, search.MIDDLE)
    true, view = fit_world(middle, begin(middle, world.z, world.species[kept]))
    assert value > begun[0][0] + 8.0
    assert value > log_density(middle, true, view) - 4 * 8.0
    assert value == pytest.approx(log_density(middle, own, look(middle, own)), abs=1e-3)
    assert other is begun[2][2]
    # a single candidate has none to learn from
    assert search._exchange(candidates[:1], middles, begun[:1], 0, 1) == begun[:1]
