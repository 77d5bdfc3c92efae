"""Markov chains over the worlds behind a scan."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from .field import Material
from .fits import advance
from .shared import Proposal, evaluate, linearise
from .signal import accepts, draw_noise, draw_signal
from .world import Scan, View, World, look

__all__ = ["Draw", "Mode", "explore_mode", "sample_worlds"]

EXPLORED = 16  # draws around a mode before those that are kept


@dataclass(frozen=True, eq=False)
class Draw:
    """One draw of the posterior.

    Attributes
    ----------
    world : World
        Everything behind the pixels.
    material : Material
        Host and dopant.
    values : dict of str to float
        The shared variables.
    dose : float
        Electrons per Å² that signal and noise imply.
    probability : Tensor, shape (site, species)
        Of the species of every site given all else.
    log_prob : float
        Log density of the pixels, what is linear summed out, and prior of the shared variables.
    """

    world: World
    material: Material
    values: dict[str, float]
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
    near : Proposal
        Of the steps, of a size that is taken half of the time.
    """

    world: World
    near: Proposal


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
    view = look(scan, world)
    near = linearise(scan, world, view)
    for k in range(EXPLORED):
        if k == EXPLORED // 2:
            near = linearise(scan, world, view, near.step)
        world, view, _, near = advance(scan, world, view, near, colours, generator)
        world = draw_noise(scan, world, view, generator)
        view = look(scan, world, (view.values, view.spectra), view.factors)
    return Mode(world, near)


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
    """
    generator = torch.Generator().manual_seed(seed)
    world, near, colours = mode.world, mode.near, scan.colours()
    view, count = look(scan, world), 0
    while True:
        world, view, probability, _ = advance(scan, world, view, near, colours, generator)
        if len(dopants) > 1:
            scan, world, view = _draw_dopant(scan, world, view, dopants, generator)
        world = draw_noise(scan, world, view, generator)
        view = look(scan, world, (view.values, view.spectra), view.factors)
        count += 1
        if count > num_warmup:
            yield describe(scan, world, view, probability)


def describe(scan: Scan, world: World, view: View, probability: Tensor) -> Draw:
    """A state of a chain as a draw."""
    values = {n: float(v) for n, v in view.values.items()}
    size = scan.field.sampling * (1 + values["strain"])
    dose = world.signal / (max(world.slope, 1e-12) * size**2)
    square, variance = scan.seen((scan.image - view.expected).square()), scan.seen(view.variance)
    log_prob = -0.5 * float((square / variance + (2 * math.pi * variance).log()).sum())
    return Draw(world, scan.material, values, dose, probability, log_prob)


def _draw_dopant(
    scan: Scan, world: World, view: View, dopants: Sequence[int], generator: torch.Generator
) -> tuple[Scan, World, View]:
    """Propose another metal as the dopant of the columns that hold one."""
    others = [d for d in dopants if d != scan.material.dopant]
    chosen = others[int(torch.randint(len(others), (1,), generator=generator))]
    other = replace(scan, material=Material(scan.material.host, chosen))
    before, after = (evaluate(s, world, view, world.z) for s in (scan, other))
    if not accepts(after.log_prob - before.log_prob, generator):
        return scan, world, view
    view = look(other, world, after.shared, view.factors)
    world = draw_signal(other, world, view, generator)
    return other, world, look(other, world, after.shared, view.factors)
