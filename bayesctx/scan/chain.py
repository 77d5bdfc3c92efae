"""Markov chains over the worlds behind a scan."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .amplitudes import draw_amplitudes
from .collapsed import draw_abundances
from .conditional import HAS_ATOMS, spread_of_sites
from .dopants import draw_dopant, with_dopant
from .dose import dose_of
from .field import Material
from .fits import adapt_steps, advance
from .moves import Joint, averaged, heated, linearise_jointly
from .noise import draw_noise
from .partners import draw_partner, log_ratios
from .shared import evaluate
from .signal import accepts, draw_signal
from .view import View, look, rescaled
from .wavelength import draw_wavelength
from .world import Scan, World

__all__ = [
    "Draw",
    "Mode",
    "depart",
    "describe",
    "explore_mode",
    "log_prob_of_pixels",
    "sample_worlds",
]

STEPPED = "jitter", "disorder"  # scales; others are drawn with what they scale summed out
STEPS_OF_SCALE = 0.25, 0.7  # standard deviations of steps of its logarithm
DEPARTURES, PER_HEAT = (8.0, 4.0, 2.0), 1  # factors of the variance of the noise, and draws at each
EXPLORED = 12  # draws around a mode before those that are kept
EXPLORING_SIZE = 0.13  # of their first steps, in standard deviations
LEARNT = (2, 4, 7)  # of these, before which the posterior is approximated anew


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of the posterior.

    Attributes
    ----------
    world : World
        Everything behind the pixels.
    material : Material
        Host and dopant.
    values : dict of str to float or list of float
        The shared variables; collection angles of every detector.
    dose : float
        Electrons per Å² that signal and noise imply.
    probability : Tensor, shape (site, species)
        Of the species of every site given all else.
    log_prob : float
        Log density of the valid pixels given the world, in nats.
    """

    world: World
    material: Material
    values: dict[str, float | list[float]]
    dose: float
    probability: Tensor
    log_prob: float


@dataclass(frozen=True, eq=False)
class Mode:
    """A mode of the shared variables, around which a chain was warmed up.

    Attributes
    ----------
    world : World
        The last world of the chain.
    near : Joint
        Of the trajectories, with steps of a size that most of them are taken.
    log_volume : float
        Of the shared variables around the fitted world, by Laplace's approximation.
    reached : tuple of float
        Mean ratio of the density of each partner to that here, at most one, see ``log_ratios``.
    """

    world: World
    near: Joint
    log_volume: float
    reached: tuple[float, ...]


def explore_mode(scan: Scan, world: World, seed: int) -> Mode:
    """Draw worlds around a mode.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        A fitted world.
    seed : int
        Of the draws.

    Returns
    -------
    Mode
        With the size of the steps adapted.
    """
    generator, colours = torch.Generator().manual_seed(seed), scan.colours()
    near = linearise_jointly(scan, world, look(scan, world), EXPLORING_SIZE)
    hessians, log_volume = [near.hessian], near.log_volume
    # the fitted world is no typical one: near it longer steps would do
    world = _heat_up(scan, world, near, colours, generator)
    view, ratios = look(scan, world), []
    for k in range(EXPLORED):
        if k in LEARNT:
            near = linearise_jointly(scan, world, view, near.size)
            hessians.append(near.hessian)
            near = averaged(near, hessians)
        world = _draw_abundances(scan, world, view, generator)
        world, view, _, rate = advance(scan, world, view, near, colours, generator)
        near = adapt_steps(near, rate)
        world, view = _draw_scales(scan, world, view, generator)
        world, view = draw_amplitudes(scan, world, view, generator)
        world = draw_noise(scan, world, view, generator)
        view = rescaled(scan, world, view)
        if k >= min(LEARNT[-1], EXPLORED - 1):
            ratios.append(log_ratios(scan, world, view, near))
    taken = torch.tensor(ratios).clamp(max=0.0).exp().mean(0)
    return Mode(world, near, log_volume, tuple(taken.tolist()))


def _heat_up(
    scan: Scan, world: World, near: Joint, colours: Sequence[Tensor], generator: torch.Generator
) -> World:
    """Draw a world at a noise that is too high and falls."""
    for heat in DEPARTURES:
        hot, wide = replace(scan, heat=heat), heated(near, heat)
        view = look(hot, world)
        for _ in range(PER_HEAT):
            world, view, _, _ = advance(hot, world, view, wide, colours, generator)
    return world


def depart(scan: Scan, mode: Mode, seed: int) -> Mode:
    """Draw worlds at a noise that is too high, so that chains begin far from each other.

    Parameters
    ----------
    scan : Scan
        The scan.
    mode : Mode
        Where to begin.
    seed : int
        Of the draws.

    Returns
    -------
    Mode
        With another world.

    References
    ----------
    Gelman and Rubin, Statistical Science 7, 457 (1992), doi:10.1214/ss/1177011136: starts that are
    farther apart than the posterior is wide show whether chains have mixed.
    """
    generator = torch.Generator().manual_seed(seed)
    return replace(mode, world=_heat_up(scan, mode.world, mode.near, scan.colours(), generator))


def sample_worlds(
    scan: Scan, mode: Mode, seed: int, dopants: Sequence[int] = (), num_warmup: int = 0
) -> Iterator[Draw]:
    """Draw worlds by blocked Gibbs sampling; the shared variables by Metropolis steps.

    Parameters
    ----------
    scan : Scan
        The scan.
    mode : Mode
        Where to begin.
    seed : int
        Of the chain.
    dopants : sequence of int
        Metals that may be the dopant, equally probable; default: that of the scan.
    num_warmup : int
        Draws that are left out.

    Yields
    ------
    Draw
        Without end.

    Notes
    -----
    The steps of the shared variables are those of the mode: they are not adapted here.
    """
    generator = torch.Generator().manual_seed(seed)
    world, near, colours = mode.world, mode.near, scan.colours()
    view, count = look(scan, world), 0
    while True:
        if len(dopants) > 1:
            scan, world, view = _draw_dopant(scan, world, view, dopants, generator)
        world = _draw_abundances(scan, world, view, generator)
        world, view, probability, _ = advance(scan, world, view, near, colours, generator)
        world, view, near = draw_partner(scan, world, view, near, generator)
        world, view, near = draw_wavelength(scan, world, view, near, generator)
        world, view = _draw_scales(scan, world, view, generator)
        world, view = draw_amplitudes(scan, world, view, generator)
        world = draw_noise(scan, world, view, generator)
        view = rescaled(scan, world, view)
        count += 1
        if count > num_warmup:
            yield describe(scan, world, view, probability)


def _draw_abundances(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw abundances; the sites have to be drawn next."""
    seen = [(scan, world, view, scan.updated)]
    return replace(world, abundance=draw_abundances(seen, generator))


def _draw_scales(
    scan: Scan, world: World, view: View, generator: torch.Generator
) -> tuple[World, View]:
    """Steps of the scales of rows and displacements with what they scale.

    What a scale multiplies goes with it, so that the scale is not held by the values that it had
    led to.
    """
    shared = view.values, view.spectra
    calm, mean = HAS_ATOMS[world.species] & ~world.is_wide, scan.basis @ world.drift
    before = evaluate(scan, world, view, world.z, shared)
    priors = scan.coordinates.scale_priors
    for name, size in itertools.product(STEPPED, STEPS_OF_SCALE):
        now = getattr(world, name)
        value, log_ratio = priors[name].step(now, size, generator)
        if value == now or log_ratio == -math.inf:
            continue
        grown, factors, other = value / now, view.factors, replace(world, **{name: value})
        if name == "jitter":
            other = replace(other, row_shift=grown * world.row_shift)
        if name == "disorder":
            own = torch.where(calm[:, None], grown * (world.shift - mean), world.shift - mean)
            other = replace(other, shift=mean + own)
            positions = scan.positions + other.shift
            factors = scan.field.factors(positions, 1 + other.excess, other.species)
        seen = replace(view, factors=factors)
        after = evaluate(scan, other, seen, world.z, shared)
        log_ratio += float(after.log_density_with_dose(scan, world.slope))
        log_ratio -= float(before.log_density_with_dose(scan, world.slope))
        log_ratio += _log_prior_of_wide(scan, other) - _log_prior_of_wide(scan, world)
        if accepts(log_ratio, generator):
            world, view = other, seen
            view = look(scan, world, shared, factors)
            world = draw_signal(scan, world, view, generator)
            view = rescaled(scan, world, view)
            before = evaluate(scan, world, view, world.z, shared)
    return world, view


def _log_prior_of_wide(scan: Scan, world: World) -> float:
    """Log prior of the wide displacements, which do not go with their scale but have it in it."""
    spread = spread_of_sites(world)
    wide = HAS_ATOMS[world.species] & scan.updated & world.is_wide
    own = (world.shift - scan.basis @ world.drift)[wide] / spread[wide, None]
    return float(-0.5 * own.square().sum() - 2 * spread[wide].log().sum())


def describe(scan: Scan, world: World, view: View, probability: Tensor) -> Draw:
    """Describe a state of a chain as a draw.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The state, and what follows from it.
    probability : Tensor, shape (site, species)
        Of the species of every site.

    Returns
    -------
    Draw
        With dose and log density of the pixels.
    """
    values = {n: v[0].tolist() for n, v in view.values.items()}
    dose = dose_of(scan, world.signal, world.slope, view.values)
    return Draw(world, scan.material, values, dose, probability, log_prob_of_pixels(scan, view))


def log_prob_of_pixels(scan: Scan, view: View) -> float:
    """Log density of the valid pixels given a world.

    Parameters
    ----------
    scan : Scan
        The scan.
    view : View
        What follows from the world.

    Returns
    -------
    float
        In nats, for intensities in the units of the scan.
    """
    square, variance = scan.seen((scan.image - view.expected).square()), scan.seen(view.variance)
    return -0.5 * float((square / variance + (2 * math.pi * variance).log()).sum())


def _draw_dopant(
    scan: Scan, world: World, view: View, dopants: Sequence[int], generator: torch.Generator
) -> tuple[Scan, World, View]:
    """Draw the dopant, with abundances and what the metal sites hold if it is another one."""
    seen = [(scan, world, view, scan.updated)]
    dopant, abundance = draw_dopant(seen, dopants, generator)
    world = replace(world, abundance=abundance)
    if dopant == scan.material.dopant:
        return scan, world, view
    scan, world = with_dopant(scan, world, dopant, generator)
    return scan, world, look(scan, world)
