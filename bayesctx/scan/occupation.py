"""What every site holds, where its column stands and how bright it is, given everything else."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..defects import SPECIES
from .canvas import Canvas
from .kernels import Kernels, gram_of_unknowns, site_conditional, solve_upper
from .scale_prior import ScalePrior
from .world import CLASS, Scan, View, World

__all__ = [
    "FIELD_PRECISION",
    "HAS_ATOMS",
    "draw_occupation",
    "log_evidence_of_sites",
    "log_occupation",
    "scales_of_sites",
]

WIDE = 0.1  # Å, displacement of columns beside defects
COARSE = 0.2  # relative excess of columns that are not what the simulator describes
AT_ONCE = 256  # columns
# of one change of displacement along x and y (Å), beyond which kernels are not linear, and of an
# excess, so that no column is dark
LIMITS = 0.15, 0.9
RARE = torch.tensor([0.5, 50.0])  # Beta prior of the share of coarse columns
FREQUENT = torch.tensor([1.0, 5.0])  # and of that of columns that are displaced more
SHARE_WIDE = 1e-3, 0.6  # smallest and largest share of the latter: neither kind is given up
NO_SHARE = 1e-6  # of the share of a kind of column that is drawn, for finite logarithms
FIELD_PRECISION = 100.0  # Å^-2, of the coefficients of the mean displacement
ALLOWED = {
    kind: torch.tensor([i for i, s in enumerate(SPECIES) if s.site == kind])
    for kind in MONOLAYER_1H.sites
}
NUM_ALIKE = torch.tensor([
    sum((t.defect, t.site) == (s.defect, s.site) for t in SPECIES) for s in SPECIES
])  # fmt: skip
"""Species of the same class on the same kind of site, among which its abundance is divided."""
HAS_ATOMS = torch.tensor([bool(s.slots) for s in SPECIES])


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
        See ``Scan.colours``.
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
    kernels = Kernels.of(scan.field, view.values, scan.material)
    canvas = Canvas.of(scan, world, view, kernels.half)
    species, shift, excess = world.species.clone(), world.shift.clone(), world.excess.clone()
    is_coarse = world.is_coarse.clone()
    probability = torch.zeros(len(species), len(SPECIES))
    mean_shift, prior = scan.basis() @ world.drift, _Amplitudes.of(world)
    amplitude = (world.signal[:, None] * (1 + world.errors))[..., None, None]
    # drawn shares underflow to zero, which excludes a class only where the prior does
    log_share = world.abundance.clamp(min=1e-30).log()
    log_share = torch.where(scan.prior.mean > 0, log_share, -math.inf)
    log_prior = log_share[:, CLASS] - NUM_ALIKE.log()
    for colour in colours:
        for k, kind in enumerate(MONOLAYER_1H.sites):
            mine, allowed = colour[scan.kind[colour] == k], ALLOWED[kind]
            if not len(mine):
                continue
            columns, index = canvas.kernels_at(scan, world, kernels, mine, allowed)
            columns = columns * amplitude[:, allowed]
            sites = torch.arange(len(mine))
            now = (allowed == species[mine][:, None]).long().argmax(1)
            present = columns[sites, :, now, 0] * (1 + excess[mine])[..., None]
            mean = torch.cat([mean_shift[mine] - shift[mine], torch.zeros_like(excess[mine])], -1)
            rest, weight = (v[:, index].movedim(0, 1) for v in (canvas.rest, canvas.weight))
            log_prob, location, factor = site_conditional(
                columns, rest + present, weight, mean, prior.precision(mine)
            )
            log_prob = log_prob + log_prior[k, allowed] + prior.log_share[:, None]
            found = log_prob.flatten(1).softmax(-1)
            probability[mine[:, None], allowed] = found.view_as(log_prob).sum(1)
            chosen, move = _choose(found, location.flatten(1, 2), factor.flatten(1, 2), generator)
            coarse, chosen = chosen >= len(allowed), chosen % len(allowed)
            value, along_x, along_y = columns[sites, :, chosen].unbind(2)
            along = along_x * move[:, :1, None] + along_y * move[:, 1:2, None]
            made = value * (1 + move[:, 2:, None]) + along
            canvas.rest.index_add_(1, index.flatten(), (present - made).movedim(1, 0).flatten(1))
            species[mine], is_coarse[mine] = allowed[chosen], coarse
            shift[mine] += move[:, :2]
            excess[mine] = move[:, 2:]
    world = replace(world, species=species, shift=shift, excess=excess, is_coarse=is_coarse)
    return _draw_scales(scan, world, prior.spread, generator), probability


@dataclass(frozen=True, eq=False)
class _Amplitudes:
    """Prior of displacement and amplitude of every site: a fine and a coarse component."""

    spread: Tensor
    scatter: Tensor
    log_share: Tensor

    @classmethod
    def of(cls, world: World) -> _Amplitudes:
        """Under the scales of a world."""
        scatter = torch.stack([world.scatter, _coarse(world)])
        share = torch.tensor([1 - world.share_coarse, world.share_coarse])
        return cls(_spread(world), scatter, share.log())

    def precision(self, sites: Tensor) -> Tensor:
        """Of displacement and excess, shape (site, component, unknown)."""
        place = (self.spread[sites] ** -2)[:, None, None].expand(-1, 2, 2)
        return torch.cat([place, (self.scatter**-2).expand(len(sites), -1, -1)], -1)


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
    return total - float(NUM_ALIKE[held].double().log().sum())


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
    spread, scatter = (scale[mine] for scale in scales_of_sites(world))
    own = (world.shift - scan.basis() @ world.drift)[mine]
    scale = torch.cat([spread[:, None].expand(-1, 2), scatter], -1)
    values = torch.cat([own, world.excess[mine]], -1) / scale
    total = -0.5 * float(values.square().double().sum())
    for rows in torch.arange(len(mine)).split(AT_ONCE):
        columns, index = canvas.slopes(scan, world, kernels, mine[rows])
        weight = canvas.weight[:, index].movedim(0, 1)[:, :, None]
        gram = gram_of_unknowns((columns * weight) @ columns.mT)
        gram = gram * scale[rows, :, None] * scale[rows, None]
        total -= 0.5 * float(torch.logdet((gram + torch.eye(gram.shape[-1])).double()).sum())
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


def _spread(world: World) -> Tensor:
    """Standard deviation of the displacements of every site along an axis, in Å."""
    wide = math.hypot(world.disorder, WIDE)
    return torch.where(world.is_wide, wide, world.disorder)


def _coarse(world: World) -> Tensor:
    """Standard deviation of the excess of coarse columns, shape (detector,)."""
    return (world.scatter.square() + COARSE**2).sqrt()


def scales_of_sites(world: World) -> tuple[Tensor, Tensor]:
    """Standard deviations of displacement, in Å, and of excess of every site.

    Parameters
    ----------
    world : World
        The world.

    Returns
    -------
    spread : Tensor, shape (site,)
        Of the displacement.
    scatter : Tensor, shape (site, detector)
        Of the excess.
    """
    return _spread(world), torch.where(world.is_coarse[:, None], _coarse(world), world.scatter)


def _draw_scales(
    scan: Scan, world: World, spread: Tensor, generator: torch.Generator | None
) -> World:
    """Mean displacement, scales of displacements and amplitudes, and abundances."""
    basis, counted = scan.basis(), HAS_ATOMS[world.species] & scan.updated
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
    square = (shift - mean).square().sum(-1)
    world = _draw_wide(world, square, counted, generator)
    priors = scan.coordinates.scale_priors
    disorder = _draw_scale(priors["disorder"], square, counted, world.is_wide, 2, WIDE, generator)
    given = counted, world.is_coarse, 1, COARSE, generator
    scatter = [_draw_scale(priors["scatter"], own.square(), *given) for own in world.excess.T]
    share = _draw_share(world.is_coarse, counted, RARE, generator)
    return replace(world, disorder=disorder, scatter=torch.tensor(scatter), share_coarse=share)


def _draw_scale(
    prior: ScalePrior,
    square: Tensor,
    counted: Tensor,
    is_more: Tensor,
    num: int,
    more: float,
    generator: torch.Generator,
) -> float:
    """Scale of values of ``num`` components given their squares; some are off by ``more``."""
    log_likelihood = torch.zeros_like(prior.nodes)
    for mine, extra in ((counted & ~is_more, 0.0), (counted & is_more, more)):
        variance = prior.nodes.square() + extra**2
        log_likelihood -= 0.5 * num * mine.sum() * variance.log()
        log_likelihood -= 0.5 * square[mine].double().sum() / variance
    return float(prior.draw(log_likelihood, generator))


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
