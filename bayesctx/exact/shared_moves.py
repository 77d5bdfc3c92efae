"""Transitions of probe and context, and of the dopant."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..scan import Scan, World
from ..scan.conditional import IS_DOPED
from ..scan.dose import log_prior_of_signal
from ..scan.fits import MOVES
from ..scan.following import Joint
from ..scan.hamiltonian import Density, travel
from ..scan.moves import log_prior_along
from ..scan.regression import Regression
from ..scan.signal import accepts, error_size, regress_species
from ..scan.view import View, render, spectra_of
from .linear_moves import LEAST_SIGNAL, Linear, signal_around
from .target import Target, chance
from .tuning import Tuning

__all__ = ["draw_dopant", "draw_shared"]


def draw_shared(
    scan: Scan,
    world: World,
    shared: tuple,
    target: Target,
    tuning: Tuning,
    generator: torch.Generator,
) -> tuple[World, tuple, float]:
    """Draw shared variables, mean displacement, and what follows them, by one trajectory.

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
        At the end of the trajectory, with signal, film and errors of their law there; or as it was.
    shared : tuple
        ``spectra_of`` its coordinates.
    rate : float
        Probability with which the end is taken.

    Notes
    -----
    The trajectory is that of a density with signal, film and errors summed out around those that
    fit best, see ``hamiltonian.travel``. Its end is accepted by the density of the program.

    References
    ----------
    Neal, in Handbook of Markov Chain Monte Carlo (2011), chapter 5.
    """
    view = tuning.see(scan, world, shared)
    law = Linear.of(scan, world, view, tuning)
    held, density = replace(world, signal=tuning.signal), _density_by(tuning)
    _, end, gain = travel(scan, held, view, tuning.near, MOVES, generator, density)
    if end is None:
        return world, shared, 0.0
    there = replace(end.world, signal=world.signal)
    far = spectra_of(scan, there.z)
    law_there = Linear.of(scan, there, tuning.see(scan, there, far), tuning)
    there = law_there.draw(there, generator)
    log_ratio = target.log_density(scan, there, far) - target.log_density(scan, world, shared)
    log_ratio += law.log_prob(world) - law_there.log_prob(there) + gain
    taken = accepts(log_ratio, generator)
    return *((there, far) if taken else (world, shared)), chance(log_ratio)


def _density_by(tuning: Tuning) -> Density:
    """Log density whose gradient is followed: where few electrons are, their variance tells too."""

    def density(
        scan: Scan, world: World, view: View, joint: Joint
    ) -> tuple[Tensor, dict[int, Tensor]]:
        factors = scan.field.factors(scan.positions + world.shift, 1 + world.excess, world.species)
        values = scan.coordinates.values(world.z[None])
        prior = scan.coordinates.log_prior(world.z[None], values)[0]
        if not bool(prior.isfinite()):
            return prior, factors
        _, spectra = spectra_of(scan, world.z, list(factors), values)
        images = render(scan, spectra, factors, world.row_shift)
        found = regress_species(scan, world, values, images, view.variance)
        image, variance = tuning.pixels_around(scan, world, found.expected)
        fitted = replace(world, signal=found.signal.clamp(min=LEAST_SIGNAL))
        found = regress_species(replace(scan, image=image), fitted, values, images, variance)
        value = prior + log_prior_along(scan, world, joint) + found.evidence
        value = value + _log_mean_of_prior(scan, world, values, found)
        # at what fits best the density of the pixels themselves, not of those around
        weight, image, mean = (scan.seen(v) for v in (1 / variance, image, found.expected))
        value = value + (weight * (0.5 * mean.square() - image * mean)).sum()
        variance = scan.seen(tuning.variance(scan, world, found.expected))
        of_noise = (scan.seen(scan.image) - mean).square() / variance
        return value - 0.5 * (of_noise + tuning.power * variance.log()).sum(), factors

    return density


def _log_mean_of_prior(
    scan: Scan, world: World, values: dict[str, Tensor], found: Regression
) -> Tensor:
    """Log of the mean of the prior of the signal over signals that the pixels leave open.

    At the fitted signals alone a known dose would hold the shared variables, while errors of
    additivity leave the signal open by some per cent.
    """
    signal = found.signal.double().clamp(min=LEAST_SIGNAL)
    fitted = replace(world, signal=signal.detach().float())
    known = log_prior_of_signal(scan, fitted.signal, world.slope, values).detach()
    size = 2 * values["strain"][0].double().log1p()  # of a pixel, whose dose it is
    values = {n: v.detach() for n, v in values.items()}
    rise, precision = signal_around(scan, fitted, values)
    inverse = torch.cholesky_inverse(found.factor.detach())
    spread = inverse[:, 0, 0] / fitted.signal.double() ** 2  # relative variance of the signals
    mixed = torch.eye(len(spread)) + precision * spread  # I + C T
    slope = torch.linalg.solve(mixed, rise)
    value = known + 0.5 * (rise * spread) @ slope - 0.5 * torch.logdet(mixed)
    change = signal.log() - size
    return value + slope @ (change - change.detach())


def draw_dopant(
    scan: Scan, world: World, target: Target, dopants: Sequence[int], generator: torch.Generator
) -> tuple[Scan, World]:
    """Draw the metal of the dopant, with the errors of additivity of its columns.

    Parameters
    ----------
    scan : Scan
        Holds the dopant.
    world : World
        Its columns of the dopant stay such columns.
    target : Target
        What stays invariant.
    dopants : sequence of int
        Metals that may be the dopant, equally probable.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    scan : Scan
        With another dopant, or the same.
    world : World
        Likewise.
    """
    others = [d for d in dopants if d != scan.material.dopant]
    if not others:
        return scan, world
    proposed = others[int(torch.randint(len(others), (1,), generator=generator))]
    other = replace(scan, material=replace(scan.material, dopant=proposed))
    size = error_size(scan.coordinates.values(world.z[None]), world.additivity)[:, None]
    drawn = torch.randn(world.errors.shape, generator=generator) * size.float()
    doped = IS_DOPED[: world.errors.shape[1]]
    there = replace(world, errors=torch.where(doped, drawn, world.errors))
    log_ratio = target.log_density(other, there) - target.log_density(scan, world)
    # errors are proposed by their prior, which the density holds
    change = (world.errors.square() - there.errors.square()).double() / size**2
    log_ratio -= 0.5 * float(change.sum())
    return (other, there) if accepts(log_ratio, generator) else (scan, world)
