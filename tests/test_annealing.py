"""Fits that annealing leaves and finds again."""

from dataclasses import replace

import pytest
from crystals import noisy_crystal

from bayesctx.scan import fits
from bayesctx.scan.fits import anneal_until_settled, fit_world, log_density
from bayesctx.scan.view import look
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
    ("gains", "kept", "tries"),
    [([500.0, 70.0, 3.0, 900.0], 573.0, 3), ([59.0, 900.0], 59.0, 1), ([-4.0, 900.0], 0.0, 1)],
    ids=["while it gains", "little gain", "loss"],
)
def test_annealing_ends_when_it_gains_little(monkeypatch, gains, kept, tries):
    worlds = []
    monkeypatch.setattr(fits, "look", lambda scan, world: None)
    monkeypatch.setattr(fits, "log_density", lambda scan, world, view: world)
    monkeypatch.setattr(
        fits, "anneal", lambda scan, world, seed: worlds.append(world) or world + gains[seed]
    )
    assert anneal_until_settled(None, 0.0, 0.0, 0) == (kept, kept)
    assert len(worlds) == tries
