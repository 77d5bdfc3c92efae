"""Which metal is the dopant, by all metal sites."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..abundance import Abundance
from ..defects import DEFECTS, SPECIES
from .collapsed import sum_by_class
from .conditional import ALLOWED, IS_DOPED, KINDS, LEAST_SHARE, NUM_ALIKE, Sites
from .kernels import Kernels
from .occupation import draw_occupation
from .overlaps import Overlaps
from .signal import accepts, error_size
from .view import View, look, spectra_of
from .world import Scan, World

__all__ = ["Doping", "best_dopant", "draw_dopant", "with_dopant", "with_errors_of_host"]

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
        # errors that were fitted to another metal would speak for it, and columns of the host that
        # are not as bright as simulated for a dopant that looks like it
        errors = with_errors_of_host(world).errors
        dopings = [Doping(d, errors, world.abundance) for d in dopants]
        found = _log_likelihoods(scan, world, view, counted, dopings)
        total += torch.stack([(f + log_share).logsumexp(-1).sum() for f in found])
    return dopants[int(total.argmax())]


@dataclass(frozen=True, eq=False)
class Doping:
    """Which metal is the dopant, how bright its columns are, and how many there are.

    Attributes
    ----------
    metal : int
        The dopant.
    errors : Tensor, shape (detector, species)
        Errors of additivity; of species without the dopant those of the world.
    abundance : Tensor, shape (kind, defect_class)
        Shares of the classes.
    is_new : bool
        Whether the metal sites have to be drawn anew.
    """

    metal: int
    errors: Tensor
    abundance: Tensor
    is_new: bool = False


def draw_dopant(seen: Sequence[Seen], dopants: Sequence[int], generator: torch.Generator) -> Doping:
    """Draw the dopant with its errors and its abundance, whatever the metal sites hold now.

    Parameters
    ----------
    seen : sequence of tuple of Scan, World, View and Tensor of bool
        One scan, or windows of one with the same abundances and errors, and which of the sites
        count.
    dopants : sequence of int
        Metals that may be the dopant, equally probable, at least two.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    Doping
        That of now, or another one; shares of other classes of metal sites in proportion to what
        they were.

    Notes
    -----
    A metal that looks like that of the host may be anywhere, and one that does not may be nowhere.
    Given what the sites hold neither would ever be left for the other. Here the species of every
    metal site is summed out given the other sites, as in ``best_dopant``, and the abundance of the
    dopant is summed over: the first holds nearly, since columns overlap little. The metal sites
    have to be drawn next, see ``with_dopant``.
    """
    scan, world, view = seen[0][:3]
    now = Doping(scan.material.dopant, world.errors, world.abundance)
    propose = (_propose_anew, _propose_as_bright)[int(torch.randint(2, (1,), generator=generator))]
    proposed, log_ratio = propose(scan, world, view, dopants, generator)
    shares, log_weight = _possible_shares(scan.prior, world.abundance)
    densities = log_weight.repeat(2, 1)
    for given in seen:
        found = torch.stack(_log_likelihoods(*given, (now, proposed)))
        top = found.amax(-1, keepdim=True)
        densities = densities + (((found - top).exp() @ shares.mT).log() + top).sum(1)
    evidence = densities.logsumexp(-1).tolist()
    taken = accepts(evidence[1] - evidence[0] + log_ratio, generator)
    weight = densities[int(taken)].softmax(0)
    node = int(torch.multinomial(weight, 1, generator=generator))
    abundance = world.abundance.clone()
    abundance[METAL] = shares[node].float()
    return replace(proposed if taken else now, abundance=abundance)


def _propose_anew(
    scan: Scan, world: World, view: View, dopants: Sequence[int], generator: torch.Generator
) -> tuple[Doping, float]:
    """Any metal with errors of the prior; log ratio of the priors and of the proposals."""
    metal = dopants[int(torch.randint(len(dopants), (1,), generator=generator))]
    size = error_size(view.values, world.additivity).float()[:, None]
    drawn = torch.randn(world.errors.shape, generator=generator) * size
    return _with_errors(world, metal, drawn), 0.0


def _propose_as_bright(
    scan: Scan, world: World, view: View, dopants: Sequence[int], generator: torch.Generator
) -> tuple[Doping, float]:
    """Another metal with columns as bright as those of the dopant are; log ratio likewise.

    With new errors a dopant that many sites determine would hardly ever be another metal.
    """
    others = [d for d in dopants if d != scan.material.dopant]
    metal = others[int(torch.randint(len(others), (1,), generator=generator))]
    now, other = (_brightness(scan, view, m)[:, IS_DOPED] for m in (scan.material.dopant, metal))
    errors = torch.zeros_like(world.errors)
    before = world.errors[:, IS_DOPED]
    errors[:, IS_DOPED] = after = (1 + before) * now / other - 1
    size = error_size(view.values, world.additivity)[:, None]
    prior = 0.5 * (before.square() - after.square()).double() / size**2
    log_ratio = float((prior + (now / other).double().log()).sum())
    return _with_errors(world, metal, errors), log_ratio


def _with_errors(world: World, metal: int, errors: Tensor) -> Doping:
    """Another dopant, of whose columns some errors are."""
    errors = torch.where(IS_DOPED, errors, world.errors)
    return Doping(metal, errors, world.abundance, is_new=True)


def _brightness(scan: Scan, view: View, metal: int) -> Tensor:
    """Integrated intensity of a column of every species, shape (detector, species)."""
    material = replace(scan.material, dopant=metal)
    return Kernels.of(scan.field, view.values, material).values[0, :, :, 0].sum(-1)


def with_dopant(
    scan: Scan, world: World, doping: Doping, generator: torch.Generator
) -> tuple[Scan, World]:
    """Change the dopant, and draw what the metal sites hold.

    Parameters
    ----------
    scan : Scan
        With another dopant.
    world : World
        Likewise.
    doping : Doping
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
    scan = replace(scan, material=replace(scan.material, dopant=doping.metal))
    species = torch.where(IS_DOPED[world.species], HOST, world.species)
    world = replace(world, species=species, errors=doping.errors, abundance=doping.abundance)
    metal = [mine[scan.kind[mine] == METAL] for mine in scan.colours()]
    metal, shared = [mine for mine in metal if len(mine)], spectra_of(scan, world.z)
    for _ in range(SWEEPS):
        view = look(scan, world, shared, apart=False)
        world, _ = draw_occupation(scan, world, view, metal, generator)
    return scan, world


def with_errors_of_host(world: World) -> World:
    """Let columns of the dopant deviate from what is simulated as those of the host do.

    Parameters
    ----------
    world : World
        With errors of the dopant that were those of another metal.

    Returns
    -------
    World
        With those of the metal of the host: what all columns of metal lack speaks for no dopant.
    """
    errors = torch.where(IS_DOPED, world.errors[:, HOST, None], world.errors)
    return replace(world, errors=errors)


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
    scan: Scan, world: World, view: View, counted: Tensor, dopings: Sequence[Doping]
) -> list[Tensor]:
    """Log density of the pixels around metal sites under each doping, (site, defect_class).

    Up to a constant of every site, the same under each.
    """
    sites, allowed = Sites.of(scan, world, view), ALLOWED["metal"]
    parts = [_holding(sites, allowed[~IS_DOPED[allowed]])]
    for doping in dopings:
        kernels = Kernels.of(scan.field, view.values, replace(scan.material, dopant=doping.metal))
        amplitude = world.signal[:, None] * (1 + doping.errors)
        other = replace(sites, kernels=kernels, amplitude=amplitude)
        parts.append(_holding(other, allowed[IS_DOPED[allowed]]))
    rows = [[torch.zeros(0, len(DEFECTS), dtype=torch.float64)] * len(parts)]
    for mine in (counted & (scan.kind == METAL)).nonzero()[:, 0].split(AT_ONCE):
        present = sites.present(scan, mine)  # under the dopant of the world
        rows.append([_log_densities(scan, part, mine, present) for part in parts])
    plain, *doped = (torch.cat(part) for part in zip(*rows, strict=True))
    return [torch.logaddexp(plain, own) for own in doped]


def _holding(sites: Sites, allowed: Tensor) -> Sites:
    """The same where metal sites hold some species only, each equally probable in its class."""
    return replace(
        sites, allowed=allowed[None], overlaps=Overlaps.of(sites.kernels, [allowed]),
        log_prior=-NUM_ALIKE.log().expand(len(KINDS), -1),
    )  # fmt: skip


def _log_densities(scan: Scan, sites: Sites, mine: Tensor, present: Tensor) -> Tensor:
    """Log density of the pixels around metal sites by class, (site, defect_class)."""
    log_prob = sites.conditional(scan, mine, present).log_prob.logsumexp(1)
    return sum_by_class(log_prob.double(), sites.allowed[0])
