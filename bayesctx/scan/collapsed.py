"""Abundances of the classes, with what the sites hold summed out."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor

from ..defects import DEFECTS
from .conditional import KINDS, LEAST_SHARE, Sites
from .view import View
from .world import CLASS, Scan, World

__all__ = ["draw_abundances", "log_likelihood_of_classes", "sum_by_class"]

AT_ONCE = 256  # sites
SWEEPS = 64  # draws of classes and abundances in turn, each of which takes little time


def draw_abundances(
    seen: Iterable[tuple[Scan, World, View, Tensor]], generator: torch.Generator
) -> Tensor:
    """Draw the abundances, whatever the sites hold now.

    Parameters
    ----------
    seen : iterable of tuple of Scan, World, View and Tensor
        The scan, or windows that cover it, and of each the sites that are counted, shape (site,);
        at least one.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Tensor, shape (kind, defect_class)
        Other abundances; the sites have to be drawn next.

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
    found = []
    for scan, world, view, counted in seen:
        found.append(log_likelihood_of_classes(scan, world, view, counted))
        prior, abundance = scan.prior, world.abundance.double()
    log_likelihood, kind = (torch.cat(parts) for parts in zip(*found, strict=True))
    shape = len(KINDS), len(DEFECTS)
    for _ in range(SWEEPS):
        log_share = abundance.clamp(min=LEAST_SHARE).log()[kind]
        weight = (log_likelihood + log_share).softmax(-1)
        held = torch.multinomial(weight, 1, generator=generator)[:, 0] + len(DEFECTS) * kind
        counts = torch.bincount(held, minlength=shape[0] * shape[1]).view(shape).double()
        abundance = prior.draw(counts, generator)
    return abundance.float()


def log_likelihood_of_classes(
    scan: Scan, world: World, view: View, counted: Tensor
) -> tuple[Tensor, Tensor]:
    """Log density of the pixels around every site under every class, given the other sites.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    counted : Tensor of bool, shape (site,)
        Sites that are looked at.

    Returns
    -------
    log_likelihood : Tensor, shape (site, defect_class)
        Of these sites, up to a constant of each: species of the class, displacement
        and amplitude are summed out; minus infinity for classes that cannot be.
    kind : Tensor of int, shape (site,)
        Theirs.
    """
    sites = Sites.of(scan, world, view)
    log_share = world.abundance.clamp(min=LEAST_SHARE).log()
    every, found = counted.nonzero()[:, 0], [torch.zeros(0, len(DEFECTS)).double()]
    for mine in every.split(AT_ONCE):
        given = sites.conditional(scan, mine)
        own = sum_by_class(given.log_prob.logsumexp(1).double(), given.species)
        found.append(own - log_share[scan.kind[mine]])
    kind = scan.kind[every]
    return torch.cat(found).masked_fill(scan.prior.mean[kind] == 0, -math.inf), kind


def sum_by_class(log_prob: Tensor, species: Tensor) -> Tensor:
    """Sum probabilities of the species of each class.

    Parameters
    ----------
    log_prob : Tensor, shape (site, species)
        Their logarithms.
    species : Tensor of int, shape (site, species)
        Which species these are.

    Returns
    -------
    Tensor, shape (site, defect_class)
        Logarithms; minus infinity for classes of which there is no species.
    """
    classes = CLASS[species]
    parts = [log_prob.masked_fill(classes != k, -math.inf) for k in range(len(DEFECTS))]
    return torch.stack(parts, 1).logsumexp(-1)
