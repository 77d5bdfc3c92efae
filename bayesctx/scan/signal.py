"""Signal, film and errors of additivity: what is linear."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from ..simulation.spectra import additivity_error
from .regression import Equations, Regression
from .view import View, look, rescaled
from .world import Scan, World

__all__ = [
    "arrive",
    "draw_additivity",
    "draw_brightness",
    "draw_film_size",
    "draw_signal",
    "regress_species",
]

WEAK = 1e-12  # prior precision of the signal, in units of the image
LEAST_ERROR = 1e-4  # relative, of a species: a prior without width has no precision


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


def regress_species(
    scan: Scan, world: World, values: Mapping[str, Tensor], images: Tensor, variance: Tensor
) -> Regression:
    """Fit signal, errors of additivity and film.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Gives the size of the errors of additivity, and a signal near its own.
    values : mapping of str to Tensor
        The shared variables.
    images : Tensor, shape (detector, species, y, x)
        Of the species that occur.
    variance : Tensor, shape (detector, y, x)
        Of the noise.

    Returns
    -------
    Regression
        Of the signal, the errors times the signal, and the film, given the rest of the world.
    """
    equations = _equations_of_species(scan, images, variance)
    return _solve(equations, _with_fitted_signal(equations, world, values), values)


def _equations_of_species(scan: Scan, images: Tensor, variance: Tensor) -> Equations:
    """Normal equations of the signal, of the errors of every species times it, and of the film."""
    return Equations.of(scan, torch.cat([images.sum(1, keepdim=True), images], 1), variance)


def _solve(equations: Equations, world: World, values: Mapping[str, Tensor]) -> Regression:
    """Fit with errors that are scaled by the signal of the world."""
    size = error_size(values, world.additivity) * world.signal
    errors = (size**-2)[:, None].expand(-1, equations.columns.shape[1] - 1)
    precision = torch.cat([WEAK * torch.ones_like(errors[:, :1]), errors], 1)
    return equations.solve(precision, world.film_size)


def _with_fitted_signal(equations: Equations, world: World, values: Mapping[str, Tensor]) -> World:
    """A world with the signal of a fit, so that the density does not depend on the one before."""
    return replace(world, signal=_solve(equations, world, values).size_of_signal)


def draw_signal(scan: Scan, world: World, view: View, generator: torch.Generator | None) -> World:
    """Draw signal, film and errors of additivity, and the scales of both.

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
    equations, values = _equations_of_species(scan, view.images, view.variance), view.values
    world = _with_fitted_signal(equations, world, values)
    found = _solve(equations, world, values)
    if generator is not None:
        world = draw_additivity(scan, world, view, found, generator)
        world = draw_film_size(scan, world, _solve(equations, world, values), generator)
        found = _solve(equations, world, values)
    signal, own, film = found.draw(generator).tensor_split([1, 1 + len(view.used)], -1)
    errors = torch.zeros_like(world.errors)
    if generator is not None:  # species that do not occur have errors of the prior
        size = error_size(view.values, world.additivity).float()[:, None]
        errors = torch.randn(errors.shape, generator=generator) * size
    errors[:, view.used] = (own / signal).float()
    return replace(world, signal=signal[:, 0].float(), errors=errors, film=film.float())


def arrive(
    scan: Scan,
    world: World,
    view: View,
    generator: torch.Generator,
    factors: dict[int, Tensor] | None = None,
) -> tuple[World, View]:
    """Draw signal, film and errors after a step that was accepted with these summed out.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        After the step.
    view : View
        Before it: the step was accepted at its variance of the noise.
    generator : torch.Generator
        Source of randomness.
    factors : dict of int to Tensor, optional
        Structure factors of the world, if known.

    Returns
    -------
    world, view : World, View
        With the new values, and the variance that follows from them.
    """
    seen = replace(look(scan, world, factors=factors), variance=view.variance)
    world = draw_signal(scan, world, seen, generator)
    return world, rescaled(scan, world, seen)


def draw_brightness(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw signal and film, and the size of the film, given the errors of additivity.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new values.
    """
    equations = Equations.of(scan, view.columns[:, None], view.variance)
    flat = torch.full((len(scan.image), 1), WEAK)
    world = draw_film_size(scan, world, equations.solve(flat, world.film_size), generator)
    found = equations.solve(flat, world.film_size)
    signal, film = found.draw(generator).float().tensor_split([1], -1)
    return replace(world, signal=signal[:, 0], film=film)


def draw_additivity(
    scan: Scan, world: World, view: View, found: Regression, generator: torch.Generator
) -> World:
    """Draw the scale of the errors of additivity, with signal, errors and film summed out.

    Parameters
    ----------
    scan : Scan
        Gives the prior.
    world, view : World, View
        The rest.
    found : Regression
        Under the scale that the world has, with errors that its signal scales.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new value; its errors are still those of the former one.
    """
    prior = scan.coordinates.scale_priors["additivity"]
    num = 1 + len(view.used)
    scale = world.signal.double()[:, None]
    now, sizes = (
        scale * error_size(view.values, 1.0)[:, None].mul(v).clamp(min=LEAST_ERROR)
        for v in (torch.tensor([world.additivity]).double(), prior.nodes)
    )
    errors = torch.diag(torch.tensor([0.0] + [1.0] * (num - 1), dtype=torch.float64))
    log_evidence = found.log_evidence(slice(num), errors, now, sizes)
    return replace(world, additivity=float(prior.draw(log_evidence.sum(0), generator)))


def draw_film_size(
    scan: Scan, world: World, found: Regression, generator: torch.Generator
) -> World:
    """Draw the size of the film, with signal, errors and film summed out.

    Parameters
    ----------
    scan : Scan
        Gives film and prior.
    world : World
        The rest.
    found : Regression
        Under the size that the world has.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With the new value; its film is still that of the former one.
    """
    prior, film = scan.coordinates.scale_priors["film_size"], scan.film
    part = slice(found.mean.shape[1] - film.num_terms, None)
    now = world.film_size.double()[:, None]
    log_evidence = found.log_evidence(part, film.rough, now, prior.nodes.expand(len(now), -1))
    drawn = [prior.draw(own, generator) for own in log_evidence]
    return replace(world, film_size=torch.cat(drawn).float())


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
