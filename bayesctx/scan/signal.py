"""Signal, film, errors of additivity, noise and scan rows: what is linear, or nearly so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..defects import SPECIES
from ..simulation.spectra import additivity_error
from .world import Scan, View, World

__all__ = [
    "Regression",
    "dose_of",
    "draw_additivity",
    "draw_noise",
    "draw_rows",
    "draw_signal",
    "fit_noise",
    "log_prior_of_dose",
    "regress",
]

NUM_FILM = 3
WEAK = 1e-12  # prior precision of signal and film, in units of the image
LEAST_ERROR = 1e-4  # relative, of a species: a prior without width has no precision
LARGEST_SHIFT, FARTHEST = 0.5, 4.0  # of a scan row, in Å or standard deviations: the larger one
NOISE_STEPS, NOISE_SCALE = 6, 1.6  # Metropolis steps, and their size in standard deviations
NO_SLOPE = 1e-12  # of the variance, for a finite dose
NO_DOSE = 1e-30  # e/Å², for a finite logarithm where a signal is negative
LEAST_SLOPE = 1e-9  # of the variance: its logarithm is drawn
WEAK_FLOOR, WEAK_SLOPE = 1e-9, 0.05  # precisions that keep steps finite if pixels tell nothing
OUTLYING = 25.0  # squares over the variance that are left out of a fit of the noise
LEAST_NOISE = 0.05  # of the mean square, anywhere


@dataclass(frozen=True, eq=False)
class Regression:
    """Gaussian posterior of signal, errors of additivity (times the signal) and film.

    Attributes
    ----------
    evidence : float
        Log of the density of the image with these summed out, up to a constant.
    mean : Tensor, shape (parameter,)
        Double precision.
    factor : Tensor, shape (parameter, parameter)
        Cholesky factor of the precision.
    expected : Tensor, shape (y, x)
        The image at the mean.
    """

    evidence: float
    mean: Tensor
    factor: Tensor
    expected: Tensor

    @property
    def signal(self) -> float:
        """Mean of the signal."""
        return float(self.mean[0])


def error_size(values: Mapping[str, Tensor], additivity: float) -> float:
    """Standard deviation of the errors of additivity.

    Parameters
    ----------
    values : mapping of str to Tensor, shape (1,)
        Shared variables; beam energy, inner angle and tilt count.
    additivity : float
        Scale of the errors, see ``NUISANCES``.

    Returns
    -------
    float
        Relative to the amplitude of a column, at least ``LEAST_ERROR``.
    """
    size = additivity_error(values["beam_energy"], values["inner_collection_angle"], values["tilt"])
    return max(float(size) * additivity, LEAST_ERROR)


def regress(
    scan: Scan, world: World, values: Mapping[str, Tensor], images: Tensor, variance: Tensor
) -> Regression:
    """Fit what is linear.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Gives the signal by which errors of additivity are scaled, and their size.
    values : mapping of str to Tensor
        The shared variables.
    images : Tensor, shape (species, y, x)
        Of the species that occur.
    variance : Tensor, shape (y, x)
        Of the noise.

    Returns
    -------
    Regression
        Given the rest of the world.
    """
    total = images.sum(0, keepdim=True)
    design = torch.cat([total, images, scan.film_columns()]).flatten(1).double()
    weight = (1 / variance).flatten().double()
    prior = torch.full((len(design),), WEAK, dtype=torch.float64)
    prior[1:-NUM_FILM] = (error_size(values, world.additivity) * world.signal) ** -2
    weighted = design * weight
    dot = weighted @ scan.image.flatten().double()
    factor = torch.linalg.cholesky(weighted @ design.T + torch.diag(prior))
    mean = torch.cholesky_solve(dot[:, None], factor)[:, 0]
    evidence = 0.5 * (dot @ mean) - factor.diagonal().log().sum() + 0.5 * prior.log().sum()
    return Regression(float(evidence), mean, factor, (mean @ design).view_as(scan.image).float())


def draw_signal(scan: Scan, world: World, view: View, generator: torch.Generator | None) -> World:
    """Draw signal, film and errors of additivity.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator or None
        Source of randomness; None takes the mean.

    Returns
    -------
    World
        With the new values.
    """
    found = regress(scan, world, view.values, view.images, view.variance)
    mean, errors = found.mean, torch.zeros_like(world.errors)
    if generator is not None:
        noise = torch.randn(len(mean), 1, generator=generator, dtype=torch.float64)
        mean = mean + torch.linalg.solve_triangular(found.factor.T, noise, upper=True)[:, 0]
    signal = float(mean[0])
    errors[view.used] = (mean[1:-NUM_FILM] / signal).float()
    if generator is None:
        return replace(world, signal=signal, errors=errors, film=mean[-NUM_FILM:].float())
    world = replace(world, signal=signal, errors=errors, film=mean[-NUM_FILM:].float())
    world = draw_additivity(scan, world, view, generator)
    # species that do not occur have errors of the prior
    size = error_size(view.values, world.additivity)
    errors = torch.randn(len(SPECIES), generator=generator) * size
    errors[view.used] = world.errors[view.used]
    return replace(world, errors=errors)


def draw_additivity(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw the scale of the errors of additivity given these.

    Parameters
    ----------
    scan : Scan
        Gives the prior.
    world, view : World, View
        The rest; the errors of species that do not occur tell nothing.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new value.
    """
    prior = scan.coordinates.scale_priors["additivity"]
    sizes = (error_size(view.values, 1.0) * prior.nodes).clamp(min=LEAST_ERROR)
    square = world.errors[view.used].square().sum()
    log_likelihood = -len(view.used) * sizes.log() - 0.5 * square / sizes**2
    return replace(world, additivity=float(prior.draw(log_likelihood, generator)))


def dose_of(scan: Scan, signal: float, slope: float, values: Mapping[str, Tensor]) -> float:
    """Dose that signal and noise imply.

    Parameters
    ----------
    scan : Scan
        Gives the size of a pixel.
    signal : float
        Intensity per fraction of the beam.
    slope : float
        Increase of the variance with the intensity.
    values : mapping of str to Tensor, shape (1,)
        Shared variables, of which the strain counts.

    Returns
    -------
    float
        Electrons per Å² of the strained crystal.
    """
    size = scan.field.sampling * (1 + float(values["strain"]))
    return signal / (max(slope, NO_SLOPE) * size**2)


def log_prior_of_dose(
    scan: Scan, signal: float, slope: float, values: Mapping[str, Tensor]
) -> float:
    """Log prior density of the dose that signal and noise imply, up to a constant.

    Parameters
    ----------
    scan : Scan
        Gives the prior, and the size of a pixel.
    signal : float
        Intensity per fraction of the beam.
    slope : float
        Increase of the variance with the intensity.
    values : mapping of str to Tensor, shape (1,)
        Shared variables, of which the strain counts.

    Returns
    -------
    float
        Zero if nothing is known of the dose.
    """
    if scan.log_dose is None:
        return 0.0
    return scan.log_dose(max(dose_of(scan, signal, slope, values), NO_DOSE))


def draw_noise(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw the variance of the noise, linear in the intensity.

    Parameters
    ----------
    scan : Scan
        Its prior of the dose, which is signal over slope, is part of the target.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        After some Metropolis steps; the floor has a flat prior.
    """
    square, mean = scan.seen((scan.image - view.expected).square()), scan.seen(view.expected)

    def target(floor: float, log_slope: float) -> float:
        variance = floor + math.exp(log_slope) * mean
        if float(variance.min()) <= 0:
            return -math.inf
        value = -0.5 * float((square / variance + variance.log()).sum())
        return value + log_prior_of_dose(scan, world.signal, math.exp(log_slope), view.values)

    slope = max(world.slope, LEAST_SLOPE)
    change = torch.stack([torch.ones_like(mean), slope * mean]) / scan.seen(view.variance)
    information = 0.5 * change @ change.T + torch.diag(change.new_tensor([WEAK_FLOOR, WEAK_SLOPE]))
    factor = torch.linalg.cholesky(torch.linalg.inv(information))
    here = torch.tensor([world.floor, math.log(slope)], dtype=torch.float64)
    log_prob = target(*here.tolist())
    for _ in range(NOISE_STEPS):
        step = factor @ torch.randn(2, generator=generator, dtype=torch.float64)
        there = here + NOISE_SCALE * step
        found = target(*there.tolist())
        if accepts(found - log_prob, generator):
            here, log_prob = there, found
    return replace(world, floor=float(here[0]), slope=math.exp(float(here[1])))


def accepts(log_ratio: float, generator: torch.Generator) -> bool:
    """Whether a Metropolis step is taken.

    Parameters
    ----------
    log_ratio : float
        Log of the ratio of acceptance.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    bool
        True with the probability min(1, ratio).
    """
    # a random number may be zero
    return math.log(float(torch.rand(1, generator=generator)) + 1e-30) < log_ratio


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
    square, mean = scan.seen((scan.image - view.expected).square()), scan.seen(view.expected)
    variance, least = scan.seen(view.variance), LEAST_NOISE * float(square.mean())
    low = float(mean.min())
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
    return replace(world, floor=floor, slope=slope)


def draw_rows(scan: Scan, world: World, view: View, generator: torch.Generator | None) -> World:
    """Draw the displacement of every scan row, and the scale of these displacements.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator or None
        Source of randomness; None takes the mean.

    Returns
    -------
    World
        With the new values. The image is linearised in the displacements.
    """
    amplitude = world.signal * (1 + world.errors)
    total = sum(view.spectra[k] * f * amplitude[k] for k, f in view.factors.items())
    slope = scan.field.images(scan.field.slope_x(total), world.row_shift)
    rest = scan.image - view.expected
    precision = (slope.square() / view.variance).sum(-1) + world.jitter**-2
    gradient = (slope * rest / view.variance).sum(-1) - world.row_shift * world.jitter**-2
    change = gradient / precision
    if generator is not None:
        change = change + torch.randn(len(change), generator=generator) / precision.sqrt()
    limit = max(LARGEST_SHIFT, FARTHEST * world.jitter)
    shift = (world.row_shift + change).clamp(-limit, limit)
    if generator is None:
        return replace(world, row_shift=shift)
    prior = scan.coordinates.scale_priors["jitter"]
    log_likelihood = -len(shift) * prior.nodes.log() - 0.5 * shift.square().sum() / prior.nodes**2
    return replace(world, row_shift=shift, jitter=float(prior.draw(log_likelihood, generator)))
