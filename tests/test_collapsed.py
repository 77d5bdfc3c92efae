"""Abundances that are drawn with what the sites hold summed out."""

import math
from dataclasses import replace

import pytest
import torch
from crystals import noisy_crystal

from bayesctx.defects import DEFECTS
from bayesctx.scan import collapsed
from bayesctx.scan.collapsed import draw_abundances, log_likelihood_of_classes
from bayesctx.scan.conditional import Sites
from bayesctx.scan.world import CLASS

NUM = 200


@pytest.fixture(scope="module")
def noisy():
    return noisy_crystal()


def drawn(scan, world, view, num=NUM):
    """Draws one after the other, shape (draw, kind, defect_class)."""
    generator, found = torch.Generator().manual_seed(0), []
    for _ in range(num):
        abundance = draw_abundances([(scan, world, view, scan.updated)], generator)
        world = replace(world, abundance=abundance)
        found.append(abundance)
    return torch.stack(found)


def agree(draws, mean):
    """Means of independent draws, within four standard errors of the largest of them."""
    error = draws.std(0) / math.sqrt(len(draws))
    return bool(((draws.mean(0) - mean).abs() <= 4.5 * error + 1e-6).all())


def test_densities_of_classes_and_abundances_give_the_conditional_of_a_site(noisy):
    scan, world, view = noisy
    log_likelihood, kind = log_likelihood_of_classes(*noisy, noisy[0].updated)
    log_share = world.abundance.clamp(min=1e-30).log()[kind]
    found = (log_likelihood + log_share).softmax(-1)
    mine = scan.updated.nonzero()[:, 0]
    given = Sites.of(*noisy).conditional(scan, mine)
    log_prob = given.log_prob.double()
    by_species = log_prob.flatten(1).softmax(-1).view_as(log_prob).sum(1)
    expected = by_species.new_zeros(len(mine), len(DEFECTS))
    expected.scatter_add_(1, CLASS[given.species], by_species)
    assert torch.equal(kind, scan.kind[mine])
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)


def test_sites_that_tell_nothing_leave_the_prior(noisy, monkeypatch):
    """Of classes that all look the same any number is as probable as the prior says."""
    log_likelihood, kind = log_likelihood_of_classes(*noisy, noisy[0].updated)
    flat = torch.where(log_likelihood > -math.inf, 0.0, -math.inf)
    monkeypatch.setattr(collapsed, "log_likelihood_of_classes", lambda *given: (flat, kind))
    assert agree(drawn(*noisy), noisy[0].prior.mean)


def test_sites_that_are_certain_are_counted(noisy, monkeypatch):
    scan, world, _ = noisy
    log_likelihood, kind = log_likelihood_of_classes(*noisy, noisy[0].updated)
    held = log_likelihood.argmax(-1)
    sure = torch.full_like(log_likelihood, -math.inf).scatter_(1, held[:, None], 0.0)
    monkeypatch.setattr(collapsed, "log_likelihood_of_classes", lambda *given: (sure, kind))
    counts = torch.zeros(3, len(DEFECTS), dtype=torch.float64)
    counts.index_put_((kind, held), torch.ones(len(kind), dtype=torch.float64), accumulate=True)
    assert agree(drawn(*noisy), scan.prior.posterior(counts).mean)


def test_windows_are_taken_together(noisy, monkeypatch):
    """Two halves of the sites as two windows: the same densities, in another order."""
    scan, world, view = noisy
    left = scan.positions[:, 0] < 0
    counted = [scan.updated & left, scan.updated & ~left]
    given = []
    monkeypatch.setattr(
        torch, "multinomial", lambda w, *_, **__: given.append(w) or w.argmax(-1, True)
    )
    for parts in ([scan.updated], counted):
        seen = [(scan, world, view, part) for part in parts]
        draw_abundances(seen, torch.Generator().manual_seed(0))
    once, twice = given[0], given[collapsed.SWEEPS]
    order = torch.cat([part[scan.updated].nonzero()[:, 0] for part in counted])
    torch.testing.assert_close(once, twice[order.argsort()], atol=1e-5, rtol=1e-3)
