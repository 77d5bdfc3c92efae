"""Noise of a scan: its variance, and whether neighbouring pixels share some."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from .dose import log_prior_of_dose
from .signal import accepts
from .view import View
from .world import Scan, World

__all__ = ["correlation_of_residuals", "draw_noise", "fit_noise"]

NOISE_STEPS, NOISE_SCALE = 6, 1.6  # Metropolis steps, and their size in standard deviations
LEAST_SLOPE = 1e-9  # of the variance: its logarithm is drawn
WEAK_FLOOR, WEAK_SLOPE = 1e-9, 0.05  # precisions that keep steps finite if pixels tell nothing
OUTLYING = 25.0  # squares over the variance that are left out of a fit of the noise
LEAST_NOISE = 0.05  # of the mean square, anywhere
LAGS = 1, 2  # pixels
LEAST_SQUARE = 1e-30  # of a residual: there may be none


def draw_noise(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw the variance of the noise, linear in the intensity.

    Parameters
    ----------
    scan : Scan
        Its prior of the dose, which follows from signal and slope, is part of the target.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        After some Metropolis steps of each detector; the floor has a flat prior.
    """
    for k in range(len(scan.image)):
        world = _draw_noise_of(k, scan, world, view, generator)
    return world


def _draw_noise_of(
    k: int, scan: Scan, world: World, view: View, generator: torch.Generator
) -> World:
    """Draw the noise of one detector."""
    square = scan.seen((scan.image[k] - view.expected[k]).square())
    mean = scan.seen(view.expected[k])

    def with_noise(floor: float, log_slope: float) -> World:
        floors, slopes = world.floor.clone(), world.slope.clone()
        floors[k], slopes[k] = floor, math.exp(log_slope)
        return replace(world, floor=floors, slope=slopes)

    def target(floor: float, log_slope: float) -> float:
        variance = floor + math.exp(log_slope) * mean
        if float(variance.min()) <= 0:
            return -math.inf
        value = -0.5 * float((square / variance + variance.log()).sum())
        slope = with_noise(floor, log_slope).slope
        return value + float(log_prior_of_dose(scan, world.signal, slope, view.values))

    slope = max(float(world.slope[k]), LEAST_SLOPE)
    change = torch.stack([torch.ones_like(mean), slope * mean]) / scan.seen(view.variance[k])
    information = 0.5 * change @ change.T + torch.diag(change.new_tensor([WEAK_FLOOR, WEAK_SLOPE]))
    factor = torch.linalg.cholesky(torch.linalg.inv(information))
    here = torch.tensor([float(world.floor[k]), math.log(slope)], dtype=torch.float64)
    log_prob = target(*here.tolist())
    for _ in range(NOISE_STEPS):
        step = factor @ torch.randn(2, generator=generator, dtype=torch.float64)
        there = here + NOISE_SCALE * step
        found = target(*there.tolist())
        if accepts(found - log_prob, generator):
            here, log_prob = there, found
    return with_noise(*here.tolist())


def fit_noise(scan: Scan, world: World, view: View) -> World:
    """Fit the variance of the noise to the squares of the residuals.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.

    Returns
    -------
    World
        With the fit; the variance is at least a twentieth of its mean.
    """
    squares, means = scan.seen((scan.image - view.expected).square()), scan.seen(view.expected)
    found = []
    for square, mean, variance in zip(squares, means, scan.seen(view.variance), strict=True):
        least, low = LEAST_NOISE * float(square.mean()), float(mean.min())
        for _ in range(3):  # the weights of the squares follow from the fit
            used = square < OUTLYING * variance
            design = torch.stack([torch.ones_like(mean), mean])[:, used]
            weight = variance[used] ** -2
            floor, slope = torch.linalg.solve(
                (design * weight) @ design.T, (design * weight) @ square[used]
            ).tolist()
            slope = max(slope, LEAST_SLOPE)
            floor += max(least - (floor + slope * low), 0.0)
            variance = floor + slope * mean
        found.append((floor, slope))
    floor, slope = torch.tensor(found).T
    return replace(world, floor=floor, slope=slope)


def correlation_of_residuals(scan: Scan, view: View) -> Tensor:
    """Correlation of the residuals of neighbouring pixels, in standard deviations of the noise.

    Parameters
    ----------
    scan : Scan
        The scan.
    view : View
        What follows from a world.

    Returns
    -------
    Tensor, shape (detector, 2, 2)
        Along y and along x, of the next pixel and of the next but one. Given a draw of the
        posterior near zero, but for one over the root of the number of pixels, if the model holds.
        Zero without valid pixels.
    """
    valid = torch.ones_like(scan.image[0], dtype=torch.bool) if scan.valid is None else scan.valid
    rest = torch.where(valid, (scan.image - view.expected) / view.variance.sqrt(), 0).double()
    mean_square = (rest.square().sum((-2, -1)) / valid.sum().clamp(min=1)).clamp(min=LEAST_SQUARE)

    def along(axis: int, lag: int) -> Tensor:
        number = rest.shape[axis] - lag
        before, after = rest.narrow(axis, 0, number), rest.narrow(axis, lag, number)
        both = valid.narrow(axis, 0, number) & valid.narrow(axis, lag, number)
        return (before * after).sum((-2, -1)) / both.sum().clamp(min=1) / mean_square

    return torch.stack([torch.stack([along(a, k) for k in LAGS], -1) for a in (-2, -1)], -2)
