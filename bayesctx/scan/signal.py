"""Signal, film, errors of additivity, noise and scan rows: what is linear, or nearly so."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..simulation.spectra import additivity_error
from .dose import log_prior_of_dose
from .view import View
from .world import Scan, World

__all__ = [
    "Regression",
    "draw_additivity",
    "draw_noise",
    "draw_rows",
    "draw_signal",
    "fit_noise",
    "regress",
    "slope_along_x",
    "total_spectrum",
]

NUM_FILM = 3
WEAK = 1e-12  # prior precision of signal and film, in units of the image
LEAST_ERROR = 1e-4  # relative, of a species: a prior without width has no precision
LARGEST_SHIFT, FARTHEST = 0.5, 4.0  # of a scan row, in Å or standard deviations: the larger one
NOISE_STEPS, NOISE_SCALE = 6, 1.6  # Metropolis steps, and their size in standard deviations
LEAST_SLOPE = 1e-9  # of the variance: its logarithm is drawn
WEAK_FLOOR, WEAK_SLOPE = 1e-9, 0.05  # precisions that keep steps finite if pixels tell nothing
OUTLYING = 25.0  # squares over the variance that are left out of a fit of the noise
LEAST_NOISE = 0.05  # of the mean square, anywhere


@dataclass(frozen=True, eq=False)
class Regression:
    """Gaussian posterior of signal, errors of additivity (times the signal) and film.

    Attributes
    ----------
    evidence : Tensor, shape ()
        Log of the density of the images with these summed out, up to a constant.
    mean : Tensor, shape (detector, parameter)
        Double precision.
    factor : Tensor, shape (detector, parameter, parameter)
        Cholesky factors of the precision.
    expected : Tensor, shape (detector, y, x)
        The images at the mean.
    """

    evidence: Tensor
    mean: Tensor
    factor: Tensor
    expected: Tensor

    @property
    def signal(self) -> Tensor:
        """Mean of the signal, shape (detector,)."""
        return self.mean[:, 0].float()


def error_size(values: Mapping[str, Tensor], additivity: float) -> Tensor:
    """Standard deviation of the errors of additivity.

    Parameters
    ----------
    values : mapping of str to Tensor, shape (1,)
        Shared variables; beam energy, inner angle and tilt count.
    additivity : float
        Scale of the errors, see ``NUISANCES``.

    Returns
    -------
    Tensor, shape (detector,)
        Relative to the amplitude of a column, at least ``LEAST_ERROR``.
    """
    inner = values["inner_collection_angle"][0]
    size = additivity_error(values["beam_energy"], inner, values["tilt"])
    return (size.double() * additivity).clamp(min=LEAST_ERROR)


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
    images : Tensor, shape (detector, species, y, x)
        Of the species that occur.
    variance : Tensor, shape (detector, y, x)
        Of the noise.

    Returns
    -------
    Regression
        Given the rest of the world.
    """
    size = error_size(values, world.additivity) * world.signal
    found = []
    for k, image in enumerate(scan.image):
        design = columns_of(scan, images[k])
        weighted = design * (1 / variance[k]).flatten().double()
        weak = torch.full((1 + NUM_FILM,), WEAK, dtype=torch.float64)
        prior = torch.cat([weak[:1], (size[k] ** -2).expand(len(images[k])), weak[1:]])
        dot = weighted @ image.flatten().double()
        factor = torch.linalg.cholesky(weighted @ design.T + torch.diag(prior))
        mean = torch.cholesky_solve(dot[:, None], factor)[:, 0]
        evidence = 0.5 * (dot @ mean) - factor.diagonal().log().sum() + 0.5 * prior.log().sum()
        found.append((evidence, mean, factor, (mean @ design).view_as(image).float()))
    evidence, mean, factor, expected = (torch.stack(v) for v in zip(*found, strict=True))
    return Regression(evidence.sum(), mean, factor, expected)


def columns_of(scan: Scan, images: Tensor) -> Tensor:
    """What the image on one detector is linear in.

    Parameters
    ----------
    scan : Scan
        Gives the film.
    images : Tensor, shape (species, y, x)
        Of the species that occur.

    Returns
    -------
    Tensor, shape (parameter, pixel)
        All columns, those of each species, and film, in double precision.
    """
    parts = [images.sum(0, keepdim=True), images, scan.film_columns]
    return torch.cat(parts).flatten(1).double()


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
        noise = torch.randn(*mean.shape, 1, generator=generator, dtype=torch.float64)
        mean = mean + torch.linalg.solve_triangular(found.factor.mT, noise, upper=True)[..., 0]
    signal, film = mean[:, 0].float(), mean[:, -NUM_FILM:].float()
    errors[:, view.used] = (mean[:, 1:-NUM_FILM] / mean[:, :1]).float()
    world = replace(world, signal=signal, errors=errors, film=film)
    if generator is None:
        return world
    world = draw_additivity(scan, world, view, generator)
    # species that do not occur have errors of the prior
    size = error_size(view.values, world.additivity).float()[:, None]
    errors = torch.randn(errors.shape, generator=generator) * size
    errors[:, view.used] = world.errors[:, view.used]
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
    sizes = (error_size(view.values, 1.0)[:, None] * prior.nodes).clamp(min=LEAST_ERROR)
    square = world.errors[:, view.used].square().sum(-1, keepdim=True)
    log_likelihood = -len(view.used) * sizes.log() - 0.5 * square / sizes**2
    return replace(world, additivity=float(prior.draw(log_likelihood.sum(0), generator)))


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
    slope = slope_along_x(scan, world, view)
    rest = scan.image - view.expected
    precision = (slope.square() / view.variance).sum((0, -1)) + world.jitter**-2
    gradient = (slope * rest / view.variance).sum((0, -1)) - world.row_shift * world.jitter**-2
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


def slope_along_x(scan: Scan, world: World, view: View) -> Tensor:
    """Change of the images with the displacement of their rows.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.

    Returns
    -------
    Tensor, shape (detector, y, x)
        Intensity per Å.
    """
    total = total_spectrum(world, view, view.factors)
    return scan.field.images(scan.field.slope_x(total), world.row_shift)


def total_spectrum(world: World, view: View, factors: dict[int, Tensor]) -> Tensor:
    """Coefficients of all columns together.

    Parameters
    ----------
    world, view : World, View
        Amplitudes, and spectra.
    factors : dict of int to Tensor, shape (detector, qy, qx)
        Structure factors by species.

    Returns
    -------
    Tensor, shape (detector, qy, qx)
        Complex.
    """
    amplitude = (world.signal[:, None] * (1 + world.errors))[..., None, None]
    return sum(view.spectra[:, k] * f * amplitude[:, k] for k, f in factors.items())
