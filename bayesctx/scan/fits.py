"""Fits of a world to a scan, and the round of draws that fits and chains have in common."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from ..parallel import side_by_side
from .dose import log_prior_of_signal
from .following import FIRST_SIZE, Joint, heated
from .hamiltonian import draw_jointly
from .moves import linearise_jointly
from .noise import fit_noise
from .occupation import (
    FIELD_PRECISION,
    draw_occupation,
    log_evidence_of_sites,
    log_occupation,
)
from .partners import partners_of
from .ring import draw_rings
from .rows import draw_rows, rows_given, slopes_of_rows
from .shared import climb
from .sides import draw_tilt
from .signal import draw_signal, regress_species
from .view import View, look, rescaled
from .world import MIRROR, Scan, World

__all__ = [
    "adapt_steps",
    "advance",
    "anneal",
    "anneal_until_settled",
    "fit_world",
    "follow_partners",
    "log_density",
    "resize_steps",
]

ROUNDS = 8  # of a fit at most
# scales at which all fits of an image are made, so that their densities can be compared
SCALES = {"share_wide": 0.1, "share_coarse": 0.01, "share_codopant": 0.5}
EACH = {"scatter": 0.03, "film_size": 0.1}  # the same, of every detector
# those of the prior, of which fits take the next larger value; jitter and disorder in Å
PREFERRED = {
    "additivity": 1.0, "jitter": 0.05, "jitter_y": 0.05, "slant": 0.002, "disorder": 0.05,
}  # fmt: skip
FIRST_DISORDER, ROUNDS_WIDER = 0.1, 2  # Å, and rounds of a fit until disorder is the preferred one
SETTLED = 20.0  # nats of gain of the log density below which a fit ends
# mean of exp(-|error of the energy|) if three of four trajectories are taken and errors are normal,
# and speed of the adaptation
TARGET_RATE, LEARNING = 0.63, 0.4
SMALLEST_STEP, LARGEST_STEP = 0.05, 1.2
# steps at most of a trajectory of the shared variables between two sweeps over the sites
MOVES, ANNEAL_MOVES = 24, 4
# annealing begins at the noise of a dose at which modes are hardly apart, and ends near its own
HOT_DOSE, LEAST_HEAT, LAST_HEAT = 1.2e4, 8.0, 2.0
COOLING, DRAWS_PER_HEAT = 2.5, 5  # factor between two heats
LINEARISED = 2  # heats between two linearisations
# nats of gain by annealing below which a try is in vain, how many of these in turn end it, and
# tries at most
UNSETTLED, PATIENCE, MOST_TRIES = 20.0, 2, 10
NOISY = 2.0  # first heat, in units of the least one, up to which one try in vain suffices


def fit_world(
    scan: Scan, world: World, *, rounds: int = ROUNDS, adapted: int = 0
) -> tuple[World, View]:
    """Fit a world: shared variables, rows, noise and sites in turn.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        Where to begin.
    rounds : int
        At most.
    adapted : int
        How often all else is fitted to the shared variables before these are.

    Returns
    -------
    world, view : World, View
        A mode.
    """
    calm = torch.zeros_like(world.is_wide)
    scales = {n: scan.coordinates.scale_priors[n].at_least(v) for n, v in PREFERRED.items()}
    change = scales.pop("disorder") / FIRST_DISORDER
    each = {n: torch.full_like(getattr(world, n), v) for n, v in EACH.items()}
    even = torch.zeros_like(world.tone)
    world = replace(world, is_wide=calm, is_coarse=calm, tone=even)
    world = replace(world, **SCALES, **scales, **each)
    view, colours, last = look(scan, world), scan.colours(), -math.inf
    world = draw_signal(scan, world, view, None)
    for _ in range(adapted):
        world, view = _adapt(scan, world, look(scan, world, _shared(view)), colours)
    for k in range(rounds):
        disorder = FIRST_DISORDER * change ** min(k / ROUNDS_WIDER, 1)
        world, view, log_prob = climb(scan, replace(world, disorder=disorder), view)
        for _ in range(2):
            world, view = _adapt(scan, world, view, colours)
        if k >= ROUNDS_WIDER and log_prob - last < SETTLED:
            break
        last = log_prob
    return world, view


def _adapt(scan: Scan, world: World, view: View, colours: Sequence[Tensor]) -> tuple[World, View]:
    """Fit rows, signal, sites and noise to the shared variables."""
    world = draw_signal(scan, world, view, None)
    world = fit_noise(scan, world, rescaled(scan, world, view))
    view = rescaled(scan, world, view)
    world = draw_rows(scan, world, view, None)
    view = look(scan, world, _shared(view), view.factors)
    world = draw_signal(scan, world, view, None)
    view = rescaled(scan, world, view)
    world, _ = draw_occupation(scan, world, view, colours, None)
    view = look(scan, world, _shared(view))
    world = draw_signal(scan, world, view, None)
    return world, rescaled(scan, world, view)


def _shared(view: View) -> tuple[dict[str, Tensor], Tensor]:
    """What stays as long as the shared variables do."""
    return view.values, view.spectra


def log_density(scan: Scan, world: World, view: View) -> float:
    """Log evidence of the image around a fitted world, up to a constant: compares modes.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        A fitted world, at the scales of all fits.

    Returns
    -------
    float
        Signal, film and errors of additivity are integrated out, rows, displacements and amplitudes
        by Laplace's approximation, each given the others; the shared variables are not. Nothing
        is known of the dose.
    """
    square, variance = scan.seen(scan.image.square()), scan.seen(view.variance)
    value = float(regress_species(scan, world, view.values, view.images, view.variance).evidence)
    value -= 0.5 * float((square / variance + variance.log()).sum())
    rows = rows_given(scan, world, view.expected, view.variance, slopes_of_rows(scan, world, view))
    scaled = rows.scale_tril / world.jitters[:, None]
    value -= 0.5 * float((world.row_shift / world.jitters).square().sum())
    value += float(scaled.diagonal(dim1=-2, dim2=-1).log().sum())
    value -= 0.5 * FIELD_PRECISION * float(world.drift.square().sum())
    value += log_evidence_of_sites(scan, world, view) + log_occupation(scan, world)
    blind = replace(scan, log_dose=None)
    value += float(log_prior_of_signal(blind, world.signal, world.slope, view.values))
    return value + float(scan.coordinates.log_prior(world.z[None]))


def follow_partners(scan: Scan, world: World, num_workers: int = 1) -> list[tuple[float, World]]:
    """Fit the worlds that look nearly the same, see ``partners_of``.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        A fitted world.
    num_workers : int
        Workers that may be used, see ``parallel.side_by_side``.

    Returns
    -------
    list of tuple of float and World
        Log density and world, the given one first.
    """
    colours = scan.colours()

    def fit(partner: tuple[Tensor, bool]) -> tuple[float, World]:
        z, turned = partner
        species = MIRROR[world.species] if turned else world.species
        other = replace(world, z=z, species=species)
        view = look(scan, other)
        for _ in range(2):
            other, view, _ = climb(scan, other, view)
            other, view = _adapt(scan, other, view, colours)
        return log_density(scan, other, view), other

    partners = [(world.z, False), *partners_of(scan.coordinates, world.z)]
    return side_by_side(fit, partners, num_workers)


def anneal(scan: Scan, world: World, seed: int, *, is_hot: bool = False) -> World:
    """Leave a mode: draw worlds at a noise that is too high and falls, then fit the last one.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        A fitted world.
    seed : int
        Of the draws.
    is_hot : bool
        Begin at the noise of a low dose, at which the variables of a fit are nearly forgotten,
        instead of at ``LEAST_HEAT`` times its variance.

    Returns
    -------
    World
        Another fitted world, or the same.

    References
    ----------
    Kirkpatrick, Gelatt and Vecchi, Science 220, 671 (1983), doi:10.1126/science.220.4598.671.
    """
    generator, colours = torch.Generator().manual_seed(seed), scan.colours()
    near, heats = None, _heats(_first_heat(scan, world) if is_hot else LEAST_HEAT)
    for k, heat in enumerate(heats):
        hot = replace(scan, heat=heat)
        view = look(hot, world)
        if k % LINEARISED == 0:
            size = near.size if near else FIRST_SIZE
            near = linearise_jointly(hot, world, view, size, exactly=False)
        else:  # the posterior is narrower by the change of the noise
            near = heated(near, heat / heats[k - 1])
        for _ in range(DRAWS_PER_HEAT):
            given = hot, world, view, near, colours, generator, ANNEAL_MOVES
            world, view, _, log_ratio = advance(*given)
            near = adapt_steps(near, log_ratio)
    return fit_world(scan, world, rounds=3)[0]


def anneal_until_settled(scan: Scan, world: World, value: float, seed: int) -> tuple[float, World]:
    """Anneal a fit until that hardly gains.

    Parameters
    ----------
    scan : Scan
        The scan.
    world : World
        A fitted world.
    value : float
        Its ``log_density``.
    seed : int
        Of the draws.

    Returns
    -------
    value, world : float, World
        The best that was found.

    Notes
    -----
    Every other try is a hot one. From a fit of 256 x 256 pixels at 1e6 e/Å² 340 nats below the best
    each of five hot tries led to it, but two of five pairs of others did not; where hot ones end
    scatters by up to 100 nats, of which others gain what is left. A single one in vain says little:
    a fit 110 nats below the best gained 7. Where the noise is that of a low dose no try is hotter
    than others, and those after the first were in vain: fits of a real scan gained 30 to 120 nats
    by one and at most 3 by each of the next.
    """
    vain, patience = 0, PATIENCE if _first_heat(scan, world) > NOISY * LEAST_HEAT else 1
    for k in range(MOST_TRIES):
        other = anneal(scan, world, seed + k, is_hot=k % 2 == 0)
        found = log_density(scan, other, look(scan, other))
        vain = vain + 1 if found < value + UNSETTLED else 0
        if found > value:
            value, world = found, other
        if vain == patience:
            break
    return value, world


def _first_heat(scan: Scan, world: World) -> float:
    """Factor of the variance of the noise that makes it that of a low dose."""
    view = look(scan, world)
    # the dose of counts of which columns have this mean and variance; misfit counts as noise
    mean = scan.seen(view.expected - scan.film.images(world.film)).mean(-1)
    ratio = mean / scan.seen(view.variance).mean(-1)
    size = scan.field.sampling * (1 + float(view.values["strain"]))
    return max(float((world.signal * ratio).mean()) / size**2 / HOT_DOSE, LEAST_HEAT)


def _heats(first: float) -> list[float]:
    """Factors of the variance of the noise, from the first one down to a small one."""
    number = 1 + math.ceil(math.log(first / LAST_HEAT) / math.log(COOLING))
    return np.geomspace(first, LAST_HEAT, number).tolist()


def advance(
    scan: Scan,
    world: World,
    view: View,
    near: Joint,
    colours: Sequence[Tensor],
    generator: torch.Generator,
    moves: int = MOVES,
) -> tuple[World, View, Tensor, float]:
    """Draw everything but the noise once, given the rest: one round of a blocked Gibbs sampler.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        Where.
    near : Joint
        Of the steps of the shared variables.
    colours : sequence of Tensor
        See ``Scan.colours``.
    generator : torch.Generator
        Source of randomness.
    moves : int
        Steps of the shared variables at most.

    Returns
    -------
    world, view : World, View
        After the round.
    probability : Tensor, shape (site, species)
        Of the species of every site given all else.
    log_ratio : float
        See ``draw_jointly``.
    """
    world, probability = draw_occupation(scan, world, view, colours, generator)
    view = look(scan, world, _shared(view))
    world, view, log_ratio = draw_jointly(scan, world, view, near, moves, generator)
    world = draw_signal(scan, world, view, generator)
    world, view = draw_tilt(scan, world, rescaled(scan, world, view), near, generator)
    world = draw_rows(scan, world, view, generator)
    view = look(scan, world, _shared(view), view.factors)
    world, view = draw_rings(scan, world, view, near, generator)
    return world, view, probability, log_ratio


def adapt_steps(near: Joint, log_ratio: float, speed: float = LEARNING) -> Joint:
    """Change the size of the steps such that most trajectories are taken.

    Parameters
    ----------
    near : Joint
        With some size.
    log_ratio : float
        Of a trajectory, see ``draw_jointly``.
    speed : float
        Change of the logarithm of the size for each unit of the rate.

    Returns
    -------
    Joint
        With another.

    Notes
    -----
    An energy that falls is as much of an error as one that rises: on the way down to the posterior
    trajectories are taken whatever their errors are, and steps would become too long for it.
    """
    return resize_steps(near, speed * (math.exp(-abs(log_ratio)) - TARGET_RATE))


def resize_steps(near: Joint, change: float) -> Joint:
    """Change the size of the steps within bounds.

    Parameters
    ----------
    near : Joint
        With some size.
    change : float
        Of its logarithm.

    Returns
    -------
    Joint
        With another.
    """
    size = near.size * math.exp(change)
    return replace(near, size=min(max(size, SMALLEST_STEP), LARGEST_STEP))
