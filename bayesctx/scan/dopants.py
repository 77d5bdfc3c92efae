"""Which metal is the dopant, by all metal sites."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from ..abundance import Abundance
from ..defects import DEFECTS, SPECIES
from .collapsed import sum_by_class
from .conditional import ALLOWED, IS_DOPED, KINDS, LEAST_SHARE, NUM_ALIKE, Sites
from .kernels import Kernels
from .occupation import draw_occupation
from .overlaps import Overlaps
from .signal import accepts
from .view import View, look, spectra_of
from .world import Scan, World

__all__ = ["best_dopant", "draw_dopant", "with_dopant", "without_dopant"]

AT_ONCE = 256  # sites
METAL, DOPANT = KINDS.index("metal"), DEFECTS.index("D_M")
HOST = next(i for i, s in enumerate(SPECIES) if s.defect == "M")
SWEEPS = 2  # over the metal sites with another dopant: the first has metal of the host beside them
LOGITS, NUM_SHARES = (-16.0, 6.0), 512  # of the dopant's share of what is not known, and how many

Seen = tuple[Scan, World, View, Tensor]
"""Scan, world, view, and which sites count."""


def best_dopant(seen: Iterable[Seen], dopants: Sequence[int]) -> int:
    """Find the metal that explains the metal sites best, whatever is the dopant now.

    Parameters
    ----------
    seen : iterable of tuple of Scan, World, View and Tensor of bool
        One scan, or windows of one, and which of the sites count.
    dopants : sequence of int
        Metals that may be the dopant, at least one.

    Returns
    -------
    int
        The metal of the largest pseudo-likelihood: species, displacement and amplitude of every
        metal site summed out given the other sites.

    References
    ----------
    Besag, The Statistician 24, 179 (1975), doi:10.2307/2987782.
    """
    total = torch.zeros(len(dopants), dtype=torch.float64)
    for scan, world, view, counted in seen:
        log_share = _log_shares(scan, world)
        found = _log_likelihoods(scan, world, view, counted, dopants)
        total += torch.stack([(f + log_share).logsumexp(-1).sum() for f in found])
    return dopants[int(total.argmax())]


def draw_dopant(
    seen: Sequence[Seen], dopants: Sequence[int], generator: torch.Generator
) -> tuple[int, Tensor]:
    """Draw the dopant and its abundance, whatever the metal sites hold now.

    Parameters
    ----------
    seen : sequence of tuple of Scan, World, View and Tensor of bool
        One scan, or windows of one with the same abundances, and which of the sites count.
    dopants : sequence of int
        Metals that may be the dopant, equally probable.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    dopant : int
        One of two: the one that is now, and another one.
    abundance : Tensor, shape (kind, defect_class)
        Shares of the classes; those of other metal sites in proportion to what they were.

    Notes
    -----
    A metal that looks like that of the host may be anywhere, and one that does not may be nowhere.
    Given what the sites hold neither would ever be left for the other. Here the species of every
    metal site is summed out given the other sites, as in ``best_dopant``, and the abundance of the
    dopant is summed over: the first holds nearly, since columns overlap little. The metal sites
    have to be drawn next, see ``with_dopant``.
    """
    scan, world = seen[0][:2]
    now = scan.material.dopant
    others = [d for d in dopants if d != now]
    proposed = others[int(torch.randint(len(others), (1,), generator=generator))]
    shares, log_weight = _possible_shares(scan.prior, world.abundance)
    densities = log_weight.repeat(2, 1)
    for given in seen:
        found = torch.stack(_log_likelihoods(*given, (now, proposed)))
        top = found.amax(-1, keepdim=True)
        densities = densities + (((found - top).exp() @ shares.mT).log() + top).sum(1)
    evidence = densities.logsumexp(-1).tolist()
    taken = accepts(evidence[1] - evidence[0], generator)
    weight = densities[int(taken)].softmax(0)
    node = int(torch.multinomial(weight, 1, generator=generator))
    abundance = world.abundance.clone()
    abundance[METAL] = shares[node].float()
    return (proposed if taken else now), abundance


def with_dopant(
    scan: Scan, world: World, dopant: int, generator: torch.Generator
) -> tuple[Scan, World]:
    """Change the dopant, and draw what the metal sites hold.

    Parameters
    ----------
    scan : Scan
        With another dopant.
    world : World
        With the abundances that go with the new one.
    dopant : int
        The new one.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    scan, world : Scan, World
        With it.

    Notes
    -----
    The metal sites come before all that overlaps with them: beside a metal of the host where the
    dopant is, chalcogens would become vacancies, and it took ten rounds until they were none again.
    """
    scan = replace(scan, material=replace(scan.material, dopant=dopant))
    world = without_dopant(world)
    metal = [mine[scan.kind[mine] == METAL] for mine in scan.colours()]
    metal, shared = [mine for mine in metal if len(mine)], spectra_of(scan, world.z)
    for _ in range(SWEEPS):
        world, _ = draw_occupation(scan, world, look(scan, world, shared), metal, generator)
    return scan, world


def without_dopant(world: World) -> World:
    """Put metal of the host where the dopant is.

    Parameters
    ----------
    world : World
        With another dopant than the next one.

    Returns
    -------
    World
        Errors of additivity of the dopant, which were those of the other metal, are those of the
        metal of the host.
    """
    doped = IS_DOPED[world.species]
    errors = torch.where(IS_DOPED, world.errors[:, HOST, None], world.errors)
    return replace(world, species=torch.where(doped, HOST, world.species), errors=errors)


def _possible_shares(prior: Abundance, abundance: Tensor) -> tuple[Tensor, Tensor]:
    """Shares of the classes of metal sites for many of the dopant's, and log weights of these.

    The shares of other classes stay in proportion to each other, but for those that are known.
    """
    share = abundance[METAL].double().clamp(min=LEAST_SHARE)
    order, fraction = prior.order[METAL], prior.fraction[METAL]
    is_known = torch.zeros(len(share), dtype=torch.bool)
    is_known[order] = ~prior.is_free[METAL] & (fraction < 1)
    if is_known[DOPANT]:
        return abundance[METAL].double()[None], torch.zeros(1, dtype=torch.float64)
    share = torch.where(prior.mean[METAL] > 0, share, 0.0)
    moving = (share > 0) & ~is_known
    left = 1 - share[is_known].sum()
    logit = torch.linspace(*LOGITS, NUM_SHARES, dtype=torch.float64)
    own, others = logit.sigmoid(), (-logit).sigmoid()
    shares = share.repeat(NUM_SHARES, 1)
    shares[:, moving] *= (left * others / (share[moving].sum() - share[DOPANT]))[:, None]
    shares[:, DOPANT] = left * own
    whole = abundance.double().clamp(min=LEAST_SHARE).repeat(NUM_SHARES, 1, 1)
    whole[:, METAL] = shares
    # of the logit, and of the proportions of the others, which are K - 1 numbers that add up to one
    volume = own.log() + (int(moving.sum()) - 1) * others.log()
    return shares, prior.log_density(whole)[:, METAL] + volume


def _log_shares(scan: Scan, world: World) -> Tensor:
    """Logarithms of the shares of the classes of metal sites, shape (defect_class,)."""
    # zero excludes a class only where the prior does
    share = world.abundance[METAL].double().clamp(min=LEAST_SHARE).log()
    return torch.where(scan.prior.mean[METAL] > 0, share, -math.inf)


def _log_likelihoods(
    scan: Scan, world: World, view: View, counted: Tensor, dopants: Sequence[int]
) -> list[Tensor]:
    """Log density of the pixels around metal sites under each dopant, (site, defect_class)."""
    sites, allowed = Sites.of(scan, world, view), ALLOWED["metal"]
    known, found = _log_likelihood(scan, sites, sites.kernels, counted, allowed), []
    for dopant in dopants:
        own = known
        if dopant != scan.material.dopant:  # the other classes hold no dopant
            kernels = Kernels.of(scan.field, view.values, replace(scan.material, dopant=dopant))
            doped = _log_likelihood(scan, sites, kernels, counted, allowed[IS_DOPED[allowed]])
            own = torch.where(doped > -math.inf, doped, known)
        found.append(own)
    return found


def _log_likelihood(
    scan: Scan, sites: Sites, kernels: Kernels, counted: Tensor, allowed: Tensor
) -> Tensor:
    """Log density of the pixels around metal sites with some species, (site, defect_class)."""
    # errors of additivity that were fitted to another metal would speak for it, and columns of the
    # host that are not as bright as simulated for a dopant that looks like it
    amplitude = torch.where(IS_DOPED, sites.amplitude[:, HOST, None], sites.amplitude)
    alike = -NUM_ALIKE.log().expand(len(KINDS), -1)
    other = replace(
        sites, kernels=kernels, allowed=allowed[None], overlaps=Overlaps.of(kernels, [allowed]),
        amplitude=amplitude, log_prior=alike,
    )  # fmt: skip
    total = []
    for mine in (counted & (scan.kind == METAL)).nonzero()[:, 0].split(AT_ONCE):
        present = sites.present(scan, mine)
        given = other.conditional(scan, mine, present)
        rest = sites.canvas.at(sites.canvas.rest, given.index) + present
        weight = sites.canvas.at(sites.canvas.weight, given.index)
        square = (rest.square() * weight).sum((1, 2))
        total.append(given.log_prob.logsumexp(1).double() - 0.5 * square[:, None].double())
    by_species = torch.cat(total) if total else torch.zeros(0, len(allowed), dtype=torch.float64)
    return sum_by_class(by_species, allowed)
