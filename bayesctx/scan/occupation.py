"""What every site holds, where its column stands and how bright it is, given everything else."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor

from ..defects import CODOPED_SPECIES, DOPED_SPECIES
from .canvas import Canvas
from .conditional import (
    HAS_ATOMS,
    KINDS,
    NUM_ALIKE,
    WIDE,
    Sites,
    covariance_of_excess,
    precision_of_sites,
)
from .kernels import Kernels, gram_of_unknowns, solve_upper
from .scale_prior import ScalePrior
from .view import View
from .world import TONE_SIZE, Scan, World

__all__ = [
    "FIELD_PRECISION",
    "draw_occupation",
    "draw_share_of_codopant",
    "log_evidence_of_sites",
    "log_occupation",
]

AT_ONCE = 256  # columns
# of one change of displacement along x and y (Å), beyond which kernels are not linear, and of an
# excess, so that no column is dark
LIMITS = 0.15, 0.9
RARE = torch.tensor([0.5, 50.0])  # Beta prior of the share of coarse columns
FREQUENT = torch.tensor([1.0, 5.0])  # and of that of columns that are displaced more
EVEN = torch.tensor([1.0, 1.0])  # and of that of the second of two dopants
SHARE_WIDE = 1e-3, 0.6  # smallest and largest share of the latter: neither kind is given up
NO_SHARE = 1e-6  # of the share of a kind of column that is drawn, for finite logarithms
FIELD_PRECISION = 100.0  # Å^-2, of the coefficients of the mean displacement
# values of the standard deviation of the coefficients of the mean excess
TONES = torch.logspace(-3, -0.7, 128, dtype=torch.float64)


def draw_occupation(
    scan: Scan,
    world: World,
    view: View,
    colours: list[Tensor],
    generator: torch.Generator | None,
) -> tuple[World, Tensor]:
    """Draw species, displacement and amplitude of every site, then their scales and abundances.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        The rest.
    colours : list of Tensor
        See ``Scan.colours``; every site at most once.
    generator : torch.Generator or None
        Source of randomness; None takes the most probable species and leaves the scales.

    Returns
    -------
    world : World
        With the new values.
    probability : Tensor, shape (site, species)
        Of the species given the other sites; zero for sites that are not drawn.

    Notes
    -----
    The sites of one colour do not overlap and are drawn together, each species with its
    displacement and amplitude integrated out. This is exact for columns that are linear in the
    displacement from where they stand; changes are limited to ``LIMITS``.
    """
    sites = Sites.of(scan, world, view)
    now, canvas = sites.world, sites.canvas
    probability = torch.zeros(len(now.species), scan.material.num_species)
    every = torch.cat([torch.zeros(0, dtype=torch.long), *colours])
    grams = sites.gram(scan, every).split([len(mine) for mine in colours])
    for mine, gram in zip(colours, grams, strict=True):
        given = sites.conditional(scan, mine, gram=gram)
        found = given.log_prob.flatten(1).softmax(-1)
        probability[mine[:, None], given.species] = found.view_as(given.log_prob).sum(1)
        located = given.location.flatten(1, 2), given.factor.flatten(1, 2)
        chosen, move = _choose(found, *located, generator)
        number = given.species.shape[1]
        species = given.species[torch.arange(len(mine)), chosen % number]
        change = given.present - sites.moved(scan, mine, species, move)
        canvas.rest.index_add_(1, given.index.flatten(), change.movedim(1, 0).flatten(1))
        now.species[mine], now.is_coarse[mine] = species, chosen >= number
        now.shift[mine] += move[:, :2]
        now.excess[mine] = move[:, 2:]
    return _draw_scales(scan, now, sites.prior.spread, generator), probability


def log_occupation(scan: Scan, world: World) -> float:
    """Log prior probability of what the sites hold, the abundances summed out.

    Parameters
    ----------
    scan : Scan
        Gives the prior.
    world : World
        The world.

    Returns
    -------
    float
        Of the sites in the image.
    """
    total = float(scan.prior.log_evidence(scan.counts(world.species, scan.inside)).sum())
    held = world.species[scan.inside]
    if scan.material.codopant is not None:  # the shares of both dopants summed out
        numbers = torch.stack([(held == k).sum() for k in (DOPED_SPECIES, CODOPED_SPECIES)])
        parameters = numbers.double() + EVEN
        total += float(parameters.lgamma().sum() - parameters.sum().lgamma())
    return total - float(NUM_ALIKE[held].double().log().sum())


def draw_share_of_codopant(species: Tensor, counted: Tensor, generator: torch.Generator) -> float:
    """Draw the share of the second dopant of a co-doped crystal, given what the sites hold.

    Parameters
    ----------
    species : Tensor of int, shape (site,)
        What they hold.
    counted : Tensor of bool, shape (site,)
        Sites that count.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    float
        Among the sites that hold one of both dopants; its prior is uniform.
    """
    is_second = species == CODOPED_SPECIES
    return _draw_share(
        is_second, counted & (is_second | (species == DOPED_SPECIES)), EVEN, generator
    )


def log_evidence_of_sites(scan: Scan, world: World, view: View) -> float:
    """Log prior of displacements and amplitudes, and the volume that the image leaves to them.

    Parameters
    ----------
    scan : Scan
        The scan.
    world, view : World, View
        A fitted world.

    Returns
    -------
    float
        Over all columns, each given the others: what Laplace's approximation adds to the log
        likelihood.
    """
    mine = (scan.updated & HAS_ATOMS[world.species]).nonzero()[:, 0]
    kernels = Kernels.of(scan.field, view.values, scan.material)
    canvas = Canvas.of(scan, world, view, kernels.half)
    precision = precision_of_sites(world)[mine].double()
    own = (world.shift - scan.basis @ world.drift)[mine]
    excess = world.excess - scan.mean_excess(world.tone)
    values = torch.cat([own, excess[mine]], -1).double()
    square = torch.einsum("su,suv,sv->s", values, precision, values)
    total = 0.5 * float((torch.logdet(precision) - square).sum())
    for rows in torch.arange(len(mine)).split(AT_ONCE):
        columns, index = canvas.slopes(scan, world, kernels, mine[rows])
        weight = canvas.weight[:, index].movedim(0, 1)[:, :, None]
        gram = gram_of_unknowns((columns * weight) @ columns.mT)
        total -= 0.5 * float(torch.logdet(gram + precision[rows]).sum())
    return total


def _choose(
    probability: Tensor, location: Tensor, factor: Tensor, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Component and species by position, and change of displacement and amplitude."""
    sites, num = torch.arange(len(probability)), location.shape[-1]
    limit = torch.tensor([LIMITS[0]] * 2 + [LIMITS[1]] * (num - 2))
    if generator is None:
        chosen = probability.argmax(-1)
        return chosen, location[sites, chosen].clamp(-limit, limit)
    chosen = torch.multinomial(probability, 1, generator=generator)[:, 0]
    noise = torch.randn(len(sites), num, generator=generator)
    move = location[sites, chosen] + solve_upper(factor[sites, chosen], noise)
    return chosen, move.clamp(-limit, limit)


def _draw_scales(
    scan: Scan, world: World, spread: Tensor, generator: torch.Generator | None
) -> World:
    """Means and scales of displacements and amplitudes, and abundances."""
    basis, counted = scan.basis, HAS_ATOMS[world.species] & scan.updated
    weight = counted / spread**2
    gram = (basis.T * weight) @ basis + FIELD_PRECISION * torch.eye(basis.shape[1])
    factor = torch.linalg.cholesky(gram)
    drift = torch.cholesky_solve((basis.T * weight) @ world.shift, factor)
    if generator is not None:
        noise = torch.randn(drift.shape, generator=generator)
        drift = drift + torch.linalg.solve_triangular(factor.T, noise, upper=True)
    mean = basis @ drift
    shift = torch.where(scan.updated[:, None], world.shift, mean)
    world = replace(world, drift=drift, shift=shift, abundance=_abundance(scan, world, generator))
    if generator is None:
        return world
    world = _draw_tone(scan, world, counted, generator)
    square = (shift - mean).square().sum(-1)
    world = _draw_wide(world, square, counted, generator)
    priors = scan.coordinates.scale_priors
    disorder = _draw_disorder(priors["disorder"], square, counted, world.is_wide, generator)
    tone = scan.mean_excess(world.tone)
    world = replace(world, excess=torch.where(scan.updated[:, None], world.excess, tone))
    excess = world.excess - tone
    scatter = _draw_scatter(priors["scatter"], world, excess, counted, generator)
    share = _draw_share(world.is_coarse, counted, RARE, generator)
    world = replace(world, disorder=disorder, scatter=scatter, share_coarse=share)
    if scan.material.codopant is None:
        return world
    share = draw_share_of_codopant(world.species, scan.updated, generator)
    return replace(world, share_codopant=share)


def _draw_disorder(
    prior: ScalePrior, square: Tensor, counted: Tensor, is_wide: Tensor, generator: torch.Generator
) -> float:
    """Scale of displacements given their squares."""
    log_likelihood = torch.zeros_like(prior.nodes)
    for mine, extra in ((counted & ~is_wide, 0.0), (counted & is_wide, WIDE)):
        variance = prior.nodes.square() + extra**2
        log_likelihood -= mine.sum() * variance.log()
        log_likelihood -= 0.5 * square[mine].double().sum() / variance
    return float(prior.draw(log_likelihood, generator))


def _draw_tone(scan: Scan, world: World, counted: Tensor, generator: torch.Generator) -> World:
    """Mean excess of the columns of each kind of site, smooth over the scan, and its scale."""
    tone, num, sizes = world.tone.clone(), world.tone[0].numel(), []
    covariance = covariance_of_excess(world.scatter, torch.tensor([False, True])).double()
    precision = torch.linalg.inv(covariance)[world.is_coarse.long()]
    basis, excess = scan.tone_basis.double(), world.excess.double()
    for kind in range(len(KINDS)):
        mine = counted & (scan.kind == kind)
        gram = torch.einsum("sde,st,su->dteu", precision[mine], basis[mine], basis[mine])
        pull = torch.einsum("sde,se,st->dt", precision[mine], excess[mine], basis[mine])
        known, turn = torch.linalg.eigh(gram.reshape(num, num))
        pull = turn.mT @ pull.flatten()
        # the coefficients summed out
        taken = TONES[:, None] ** 2 / (1 + TONES[:, None] ** 2 * known)
        log_evidence = 0.5 * (taken / TONES[:, None] ** 2).log() + 0.5 * pull.square() * taken
        log_prior = (
            TONES.log() - 0.5 * (TONES / TONE_SIZE) ** 2
        )  # half-normal, even in the logarithm
        weight = (log_evidence.sum(-1) + log_prior).softmax(0)
        node = torch.multinomial(weight, 1, generator=generator)[0]
        variance = taken[node]
        sizes.append(TONES[node].float())
        noise = torch.randn(num, generator=generator, dtype=torch.float64)
        drawn = turn @ (variance * pull + variance.sqrt() * noise)
        tone[kind] = drawn.view_as(tone[kind]).float()
    return replace(world, tone=tone, tone_size=torch.stack(sizes))


def _draw_scatter(
    prior: ScalePrior, world: World, excess: Tensor, counted: Tensor, generator: torch.Generator
) -> Tensor:
    """Scatter of the amplitudes on every detector, given that on the others."""
    scatter, excess = world.scatter.double(), excess.double()
    for k in range(len(scatter)):
        nodes, log_likelihood = scatter.repeat(len(prior.nodes), 1), 0.0
        nodes[:, k] = prior.nodes
        for mine, is_coarse in ((~world.is_coarse, False), (world.is_coarse, True)):
            own = excess[counted & mine]
            covariance = covariance_of_excess(nodes, torch.full((len(nodes),), is_coarse))
            square = (torch.linalg.inv(covariance) * (own.mT @ own)).sum((-2, -1))
            log_likelihood = log_likelihood - 0.5 * square
            log_likelihood = log_likelihood - 0.5 * len(own) * torch.logdet(covariance)
        scatter[k] = float(prior.draw(log_likelihood, generator))
    return scatter.float()


def _draw_wide(world: World, square: Tensor, counted: Tensor, generator: torch.Generator) -> World:
    """Which columns are displaced more than by disorder, and their share."""
    wide = math.hypot(world.disorder, WIDE)
    log_odds = math.log(world.share_wide / (1 - world.share_wide))
    log_odds += 2 * math.log(world.disorder / wide)
    log_odds = log_odds + 0.5 * square * (world.disorder**-2 - wide**-2)
    is_wide = torch.rand(len(square), generator=generator) < torch.sigmoid(log_odds)
    share = _draw_share(is_wide, counted, FREQUENT, generator)
    return replace(world, is_wide=is_wide, share_wide=min(max(share, SHARE_WIDE[0]), SHARE_WIDE[1]))


def _draw_share(is_so: Tensor, counted: Tensor, prior: Tensor, generator: torch.Generator) -> float:
    """Share of columns of a kind, given a Beta prior."""
    numbers = torch.stack([(is_so & counted).sum(), (~is_so & counted).sum()]) + prior
    gamma = torch._standard_gamma(numbers.double(), generator=generator)
    return float((gamma[0] / gamma.sum()).clamp(NO_SHARE, 1 - NO_SHARE))


def _abundance(scan: Scan, world: World, generator: torch.Generator | None) -> Tensor:
    """Abundances on each kind of site: a draw, or the mean, given what the sites hold."""
    # a fit keeps to what is expected: counts of wrong classes would confirm themselves
    if generator is None:
        return scan.prior.mean.float()
    return scan.prior.draw(scan.counts(world.species, scan.updated), generator).float()
