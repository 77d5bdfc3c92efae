"""Abundances of the classes, with what the sites hold summed out."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..defects import DEFECTS
from .conditional import KINDS, LEAST_SHARE, Sites, sum_by_class
from .view import View
from .world import Scan, World

__all__ = ["draw_abundances", "log_likelihood_of_classes"]

AT_ONCE = 256  # sites
SWEEPS = 64  # draws of classes and abundances in turn, each of which takes little time


def draw_abundances(scan: Scan, world: World, view: View, generator: torch.Generator) -> World:
    """Draw the abundances, whatever the sites hold now.

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
        With other abundances; the sites have to be drawn next.

    Notes
    -----
    Where a class looks like another one, as two sulphur atoms at low angles like a molybdenum atom,
    its number in an image can be anything that the prior of its abundance allows. Drawn in turn
    with the abundance that number changes by a few sites in a round. Here both are drawn many times
    while the density of every site under every class stays, given the other sites, which hardly
    depends on these, since columns overlap little.

    References
    ----------
    van Dyk and Park, Journal of the American Statistical Association 103, 790 (2008),
    doi:10.1198/016214508000000409: what is summed out of one step is drawn in the next.
    """
    log_likelihood, kind = log_likelihood_of_classes(scan, world, view)
    abundance = world.abundance.double()
    shape = len(KINDS), len(DEFECTS)
    for _ in range(SWEEPS):
        log_share = abundance.clamp(min=LEAST_SHARE).log()[kind]
        weight = (log_likelihood + log_share).softmax(-1)
        held = torch.multinomial(weight, 1, generator=generator)[:, 0] + len(DEFECTS) * kind
        counts = torch.bincount(held, minlength=shape[0] * shape[1]).view(shape).double()
        abundance = scan.prior.draw(counts, generator)
    return replace(world, abundance=abundance.float())


def log_likelihood_of_classes(scan: Scan, world: World, view: View) -> tuple[Tensor, Tensor]:
    """Log density of the pixels around every site under every class, given the other sites.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.

    Returns
    -------
    log_likelihood : Tensor, shape (site, defect_class)
        Of the sites that are drawn, up to a constant of each: species of the class, displacement
        and amplitude are summed out; minus infinity for classes that cannot be.
    kind : Tensor of int, shape (site,)
        Of these sites.
    """
    sites, found, kinds = Sites.of(scan, world, view), [], []
    log_share = world.abundance.clamp(min=LEAST_SHARE).log()
    for kind in range(len(KINDS)):
        allowed = scan.allowed(kind)
        for mine in (scan.updated & (scan.kind == kind)).nonzero()[:, 0].split(AT_ONCE):
            given = sites.conditional(scan, mine, kind).log_prob.logsumexp(1).double()
            own = sum_by_class(given, allowed) - log_share[kind]
            found.append(own.masked_fill(scan.prior.mean[kind] == 0, -math.inf))
            kinds.append(torch.full((len(mine),), kind))
    return torch.cat(found), torch.cat(kinds)
