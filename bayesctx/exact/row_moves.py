"""Transitions of the scan rows and of the noise."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import MultivariateNormal

from ..scan import Scan, World
from ..scan.noise import NOISE_SCALE, NOISE_STEPS
from ..scan.rows import proposed, rows_given, slopes_of_rows
from ..scan.signal import accepts
from ..scan.view import View, look, variance_of
from .target import Target
from .tuning import Tuning

__all__ = ["draw_noise", "draw_rows"]


def draw_rows(
    scan: Scan,
    world: World,
    shared: tuple,
    target: Target,
    tuning: Tuning,
    generator: torch.Generator,
) -> tuple[World, float]:
    """Draw the displacement of every scan row, each accepted for itself.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The rest.
    shared : tuple
        ``spectra_of`` its coordinates.
    target : Target
        What stays invariant.
    tuning : Tuning
        What proposals are made by.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world : World
        With new values.
    rate : float
        Mean probability with which proposals are taken.

    Notes
    -----
    A pixel knows the displacement of its own row only, so that rows are independent given the rest.
    The least variance of the noise is that of all pixels together: where it counts, before or
    after, all rows stay.
    """
    here, law = _look_at_rows(scan, world, shared, tuning)
    there = replace(world, row_shift=proposed(law, generator))
    far, back = _look_at_rows(scan, there, shared, tuning)
    if _is_bounded(scan, world, here):
        return world, 0.0
    log_ratio = target.power * (
        _log_prob_of_rows(scan, there, far) - _log_prob_of_rows(scan, world, here)
    )
    prior = torch.distributions.Normal(0.0, world.jitters)
    of_prior = prior.log_prob(there.row_shift) - prior.log_prob(world.row_shift)
    log_ratio += of_prior.sum(-1).double()
    log_ratio += back.log_prob(world.row_shift) - law.log_prob(there.row_shift)
    chance = torch.rand(len(log_ratio), generator=generator, dtype=torch.float64)
    taken = (chance + 1e-30).log() < log_ratio
    row_shift = torch.where(taken[:, None], there.row_shift, world.row_shift)
    found = replace(world, row_shift=row_shift)
    if _is_bounded(scan, found, look(scan, found, shared)):
        return world, 0.0
    return found, float(log_ratio.clamp(max=0.0).exp().mean())


def _look_at_rows(
    scan: Scan, world: World, shared: tuple, tuning: Tuning
) -> tuple[View, MultivariateNormal]:
    """View of a world, and a law of its rows by their slopes there."""
    view = look(scan, world, shared)
    variance, slopes = tuning.variance(scan, world), slopes_of_rows(scan, world, view)
    return view, rows_given(scan, world, view.expected, variance, slopes)


def _log_prob_of_rows(scan: Scan, world: World, view: View) -> Tensor:
    """Log density of the valid pixels of every row, shape (y,), without the least variance."""
    variance = _linear_variance(world, view)
    found = (scan.image - view.expected).square() / variance + variance.log()
    if scan.valid is not None:
        found = torch.where(scan.valid, found, 0.0)
    return -0.5 * found.double().sum((0, -1))


def _linear_variance(world: World, view: View) -> Tensor:
    """Variance of the noise without its least value, shape (detector, y, x)."""
    return world.floor[:, None, None] + world.slope[:, None, None] * view.expected


def _is_bounded(scan: Scan, world: World, view: View) -> bool:
    """Whether the least variance counts in any pixel."""
    given = replace(scan, valid=None), view.expected, world.floor, world.slope
    return bool((variance_of(*given) > _linear_variance(world, view)).any())


def draw_noise(
    scan: Scan,
    world: World,
    shared: tuple,
    target: Target,
    tuning: Tuning,
    generator: torch.Generator,
) -> World:
    """Draw floor and slope of the variance of the noise by random walks.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        The rest.
    shared : tuple
        ``spectra_of`` its coordinates.
    target : Target
        What stays invariant.
    tuning : Tuning
        Gives the size of the steps.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        After some steps of each detector.
    """
    view = look(scan, world, shared)

    def density(world: World) -> float:
        prior = target.log_noise(scan, world, view.values)
        return prior + target.log_pixels(scan, world, view.expected)

    before = density(world)
    for k, factor in enumerate(tuning.noise):
        for _ in range(NOISE_STEPS):
            step = NOISE_SCALE * factor @ torch.randn(2, generator=generator, dtype=torch.float64)
            floor, slope = world.floor.clone(), world.slope.clone()
            floor[k] += step[0]
            slope[k] *= step[1].exp()
            there = replace(world, floor=floor, slope=slope)
            after = density(there)
            if accepts(after - before, generator):
                world, before = there, after
    return world
