"""Markov chains over the worlds behind a scan."""

from __future__ import annotations

import itertools
import math
import statistics
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
from .following import Joint, averaged, heated
from .moves import linearise_jointly
from .noise import correlation_of_residuals, draw_noise
from .partners import draw_partner, log_ratios
from .rows import stretched
from .shared import evaluate
from .signal import accepts, draw_signal
from .view import View, look, rescaled
from .wavelength import draw_wavelength
from .world import JITTERS, Scan, World

__all__ = [
    "Draw",
    "Mode",
    "depart",
    "describe",
    "explore_mode",
    "log_prob_of_pixels",
    "sample_worlds",
]

STEPPED = *JITTERS, "disorder"  # scales; others are drawn with what they scale summed out
STEPS_OF_SCALE = 0.25, 0.7  # standard deviations of steps of its logarithm
DEPARTURES, PER_HEAT = (8.0, 4.0, 2.0), 1  # factors of the variance of the noise, and draws at each
# draws around a mode, and of every chain where it begins, before which the posterior is
# approximated anew at some of them: where it is bent, steps that suit a mode do not suit a chain
EXPLORED, LEARNT = 12, (2, 4, 7)
TUNED, LEARNT_AGAIN = 6, (0, 3)
FAST = 0.8  # speed of the adaptation of their steps
RECENT = 5  # last ones, of which steps and ratios of partners are averaged
EXPLORING_SIZE = 0.13  # of their first steps, in standard deviations


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
    correlation : Tensor, shape (detector, 2, 2)
        Of the residuals of neighbouring pixels, see ``correlation_of_residuals``.
    """

    world: World
    material: Material
    values: dict[str, float | list[float]]
    dose: float
    probability: Tensor
    log_prob: float
    correlation: Tensor


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
    hessians : sequence of Tensor, shape (parameter, parameter)
        Of the worlds by which the posterior was approximated.
    """

    world: World
    near: Joint
    log_volume: float
    reached: tuple[float, ...]
    hessians: Sequence[Tensor] = ()


@dataclass(frozen=True, eq=False)
class _Tuned:
    """A world, and by what steps of which size the next one is drawn; see ``Mode``."""

    world: World
    view: View
    near: Joint
    hessians: Sequence[Tensor]


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
    generator = torch.Generator().manual_seed(seed)
    near = linearise_jointly(scan, world, look(scan, world), EXPLORING_SIZE)
    # the fitted world is no typical one: near it longer steps would do
    hot = _heat_up(scan, world, near, scan.colours(), generator)
    begun = _Tuned(hot, look(scan, hot), near, [near.hessian])
    rounds = list(itertools.islice(_tune(scan, begun, LEARNT, generator), EXPLORED))[-RECENT:]
    ratios = [log_ratios(scan, r.world, r.view, r.near) for r in rounds]
    taken = torch.tensor(ratios).clamp(max=0.0).exp().mean(0)
    given = near.log_volume, tuple(taken.tolist()), rounds[-1].hessians
    return Mode(rounds[-1].world, _with_steps_of(rounds), *given)


def _tune(
    scan: Scan, tuned: _Tuned, learnt: Sequence[int], generator: torch.Generator
) -> Iterator[_Tuned]:
    """Draw worlds, with steps that follow the posterior where they are."""
    world, view, near, hessians = tuned.world, tuned.view, tuned.near, tuned.hessians
    colours = scan.colours()
    for k in itertools.count():
        if k in learnt:
            near = linearise_jointly(scan, world, view, near.size)
            hessians = [*hessians, near.hessian]
            near = averaged(near, hessians)
        world = _draw_abundances(scan, world, view, generator)
        world, view, _, log_ratio = advance(scan, world, view, near, colours, generator)
        near = adapt_steps(near, log_ratio, FAST)
        world, view = _draw_scales(scan, world, view, generator)
        world, view = draw_amplitudes(scan, world, view, generator)
        world = draw_noise(scan, world, view, generator)
        view = rescaled(scan, world, view)
        yield _Tuned(world, view, near, hessians)


def _with_steps_of(rounds: Sequence[_Tuned]) -> Joint:
    """The last directions with the mean size of the steps of some rounds."""
    size = statistics.geometric_mean([r.near.size for r in rounds])
    return replace(rounds[-1].near, size=size)


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
    """Begin a chain far from others, and fit its steps to where it is.

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
        With another world, drawn at a noise that was too high and fell, and steps of its own.

    Notes
    -----
    Of five chains around two explorations of a mode (144 x 144 px, 1e5 e/Å²) 3, 19, 39, 41 and 87 %
    of the trajectories with directions of the mode were taken, though their steps were fitted to
    the chain in ten rounds; 57, 74, 99, 55 and 91 % with two linearisations of the chain too.

    References
    ----------
    Gelman and Rubin, Statistical Science 7, 457 (1992), doi:10.1214/ss/1177011136: starts that are
    farther apart than the posterior is wide show whether chains have mixed.
    """
    generator = torch.Generator().manual_seed(seed)
    world = _heat_up(scan, mode.world, mode.near, scan.colours(), generator)
    begun = _Tuned(world, look(scan, world), mode.near, mode.hessians)
    rounds = list(itertools.islice(_tune(scan, begun, LEARNT_AGAIN, generator), TUNED))
    own = _with_steps_of(rounds[-RECENT:])
    return replace(mode, world=rounds[-1].world, near=own, hessians=rounds[-1].hessians)


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
        if name in JITTERS:
            other = replace(other, row_shift=stretched(world.row_shift, name, grown))
        if name == "disorder":
            own = torch.where(calm[:, None], grown * (world.shift - mean), world.shift - mean)
            other = replace(other, shift=mean + own)
            positions = scan.positions + other.shift
            factors = scan.field.factors(positions, 1 + other.excess, other.species)
        seen = replace(view, factors=factors)
        after = evaluate(scan, other, seen, world.z, shared)
        log_ratio += float(after.log_density_with_signal(scan, world.slope))
        log_ratio -= float(before.log_density_with_signal(scan, world.slope))
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
        With dose, log density of the pixels and correlation of their residuals.
    """
    values = {n: v[0].tolist() for n, v in view.values.items()}
    dose = dose_of(scan, world.signal, world.slope, view.values)
    of_pixels = log_prob_of_pixels(scan, view), correlation_of_residuals(scan, view)
    return Draw(world, scan.material, values, dose, probability, *of_pixels)


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
    doping = draw_dopant([(scan, world, view, scan.updated)], dopants, generator)
    if not doping.is_new:
        return scan, replace(world, abundance=doping.abundance), view
    scan, world = with_dopant(scan, world, doping, generator)
    return scan, world, look(scan, world)
