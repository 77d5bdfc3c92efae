"""Transitions of abundances, mean displacement, shares and scales."""

from __future__ import annotations

import math
from dataclasses import replace

import torch
from torch import Tensor
from torch.distributions import HalfNormal, Normal

from ..scan import Scan, World
from ..scan.conditional import WIDE, covariance_of_excess
from ..scan.occupation import FIELD_PRECISION, FREQUENT, RARE, draw_share_of_codopant
from ..scan.rows import stretched
from ..scan.scale_prior import PER_DETECTOR
from ..scan.signal import accepts, error_size
from ..scan.view import look
from ..scan.world import JITTERS, TONE_SIZE
from .target import Target, chance, log_prior_of_sites

__all__ = ["draw_given_columns", "draw_scales"]

STEP_ALONE, TIMES = 0.15, 4  # of the logarithm of a scale given what it scales, and how often
STEP_OF_SIZE = 0.5  # of the logarithm of the size of the mean excess
STEP_TOGETHER = 0.1  # the same where what it scales goes with it
SMALLEST_SHARE = 1e-7  # of Beta draws in single precision


def draw_given_columns(
    scan: Scan, world: World, shared: tuple, target: Target, generator: torch.Generator
) -> World:
    """Draw what columns have in common, given where they stand: hardly a pixel tells more of it.

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
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    World
        With abundances, means of displacement and excess, which columns are displaced more, and
        both shares of their conditional distributions, and the scales after some Metropolis steps.
        Columns that are not drawn go with the means: a draw of these is accepted by the pixels.
    """
    counts = scan.counts(world.species, scan.updated)
    world = replace(world, abundance=scan.prior.draw(counts, generator).float())
    for draw in (_draw_drift, _draw_tone):
        there = draw(scan, world, generator)
        before, after = (
            target.log_pixels(scan, w, look(scan, w, shared).expected) for w in (world, there)
        )
        world = there if accepts(after - before, generator) else world
    world = _draw_wide(scan, world, generator)
    shares = {
        name: _draw_share(getattr(world, which)[scan.updated], prior, generator)
        for name, which, prior in (
            ("share_wide", "is_wide", FREQUENT),
            ("share_coarse", "is_coarse", RARE),
        )
    }
    if scan.material.codopant is not None:
        shares["share_codopant"] = draw_share_of_codopant(world.species, scan.updated, generator)
    world = replace(world, **shares)
    for _ in range(TIMES):
        world = _step_alone(scan, world, generator)
    return world


def _draw_drift(scan: Scan, world: World, generator: torch.Generator) -> World:
    """Mean displacement given where columns stand; those that are not drawn go with it."""
    basis = scan.basis.double()
    variance = torch.where(world.is_wide, world.disorder**2 + WIDE**2, world.disorder**2).double()
    weight = scan.updated / variance
    gram = (basis.T * weight) @ basis + FIELD_PRECISION * torch.eye(basis.shape[1]).double()
    factor = torch.linalg.cholesky(gram)
    mean = torch.cholesky_solve((basis.T * weight) @ world.shift.double(), factor)
    noise = torch.randn(mean.shape, generator=generator, dtype=torch.float64)
    drift = mean + torch.linalg.solve_triangular(factor.T, noise, upper=True)
    return settled(scan, replace(world, drift=drift.float()))


def _draw_tone(scan: Scan, world: World, generator: torch.Generator) -> World:
    """Mean excess of each kind of site given that of the columns, which are drawn."""
    tone, num = world.tone.clone(), world.tone[0].numel()
    covariance = covariance_of_excess(world.scatter.double(), world.is_coarse)
    precision = torch.linalg.inv(covariance)
    basis, excess = scan.tone_basis.double(), world.excess.double()
    for kind, size in enumerate(world.tone_size.double()):
        mine = scan.updated & (scan.kind == kind)
        gram = torch.einsum("sde,st,su->dteu", precision[mine], basis[mine], basis[mine])
        pull = torch.einsum("sde,se,st->dt", precision[mine], excess[mine], basis[mine])
        known = gram.reshape(num, num) + size**-2 * torch.eye(num, dtype=torch.float64)
        factor = torch.linalg.cholesky(known)
        noise = torch.randn(num, 1, generator=generator, dtype=torch.float64)
        drawn = torch.cholesky_solve(pull.reshape(num, 1), factor)
        drawn = drawn + torch.linalg.solve_triangular(factor.T, noise, upper=True)
        tone[kind] = drawn.view_as(tone[kind]).float()
    return settled(scan, replace(world, tone=tone))


def settled(scan: Scan, world: World) -> World:
    """Put the columns that are not drawn at the means of displacement and excess.

    Parameters
    ----------
    scan : Scan
        Says which.
    world : World
        The rest.

    Returns
    -------
    World
        With these columns.
    """
    drawn, mean, tone = (
        scan.updated[:, None],
        scan.basis @ world.drift,
        scan.mean_excess(world.tone),
    )
    shift, excess = torch.where(drawn, world.shift, mean), torch.where(drawn, world.excess, tone)
    return replace(world, shift=shift, excess=excess)


def _draw_wide(scan: Scan, world: World, generator: torch.Generator) -> World:
    """Which columns are displaced more, by their displacements."""
    square = (world.shift - scan.basis @ world.drift).double().square().sum(-1)
    narrow, wide = world.disorder**2, world.disorder**2 + WIDE**2
    log_odds = math.log(world.share_wide) - math.log1p(-world.share_wide)
    log_odds = log_odds + math.log(narrow / wide) + 0.5 * square * (1 / narrow - 1 / wide)
    u = torch.rand(len(square), generator=generator, dtype=torch.float64)
    return replace(world, is_wide=(u < log_odds.sigmoid()) & scan.updated)


def _draw_share(is_so: Tensor, prior: Tensor, generator: torch.Generator) -> float:
    """Share of columns of a kind under a Beta prior."""
    numbers = torch.stack([is_so.sum(), (~is_so).sum()]).double() + prior
    first, second = torch._standard_gamma(numbers, generator=generator).tolist()
    return min(max(first / (first + second), SMALLEST_SHARE), 1 - SMALLEST_SHARE)


def _step_alone(scan: Scan, world: World, generator: torch.Generator) -> World:
    """One Metropolis step of every scale given what it scales."""
    values = scan.coordinates.values(world.z[None])

    def density(world: World, name: str) -> float:
        if name in JITTERS:
            return float(Normal(0.0, world.jitters).log_prob(world.row_shift).double().sum())
        if name == "additivity":
            size = error_size(values, world.additivity)[:, None]
            return float(Normal(0.0, size).log_prob(world.errors.double()).sum())
        if name == "film_size":
            square = (world.film.double() @ scan.film.rough).square().sum(-1)
            volume = scan.film.log_volume(world.film_size)
            return float((volume - 0.5 * square / world.film_size.double() ** 2).sum())
        return float(log_prior_of_sites(scan, world).sum())

    world = _step_tone_size(world, generator)
    for name, k in _scales(scan):
        other, log_ratio = _propose(scan, world, name, k, STEP_ALONE, generator)
        if log_ratio == -math.inf or other is world:
            continue
        log_ratio += density(other, name) - density(world, name)
        world = other if accepts(log_ratio, generator) else world
    return world


def _step_tone_size(world: World, generator: torch.Generator) -> World:
    """One Metropolis step of the size of the mean excess of each kind of site."""
    change = STEP_OF_SIZE * torch.randn(world.tone_size.shape, generator=generator)
    there = world.tone_size * change.exp()

    def density(size: Tensor) -> Tensor:
        prior = HalfNormal(TONE_SIZE).log_prob(size) + size.log()  # steps are of the logarithm
        return prior + Normal(0.0, size[:, None, None]).log_prob(world.tone).sum((1, 2))

    u = torch.rand(there.shape, generator=generator)
    taken = (u + 1e-30).log() < density(there) - density(world.tone_size)
    return replace(world, tone_size=torch.where(taken, there, world.tone_size))


def _scales(scan: Scan) -> list[tuple[str, int]]:
    """Scales, those of every detector for themselves."""
    names = [n for n in scan.coordinates.scale_priors if n not in PER_DETECTOR]
    each = [(n, k) for n in PER_DETECTOR for k in range(len(scan.image))]
    return [(n, 0) for n in names] + each


def _propose(
    scan: Scan, world: World, name: str, k: int, size: float, generator: torch.Generator
) -> tuple[World, float]:
    """Another value of a scale; log ratio of its prior and of the proposal."""
    now, prior = _value(world, name, k), scan.coordinates.scale_priors[name]
    value, log_ratio = prior.step(now, size, generator)
    # in single precision, as the program takes it, a value may be beyond an end of its range
    if value == now or not bool(prior.law.support.check(torch.tensor(value))):
        return world, -math.inf
    if not math.isfinite(log_ratio):
        return world, -math.inf
    if name not in PER_DETECTOR:
        return replace(world, **{name: value}), log_ratio
    values = getattr(world, name).clone()
    values[k] = value
    return replace(world, **{name: values}), log_ratio


def draw_scales(
    scan: Scan, world: World, shared: tuple, target: Target, generator: torch.Generator
) -> tuple[World, float]:
    """Draw scales together with what they scale, so that these do not hold them.

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
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    world : World
        After one Metropolis step of each scale.
    rate : float
        Mean probability with which proposals are taken.
    """
    before, rates = target.log_density(scan, world, shared), []
    for name, k in _scales(scan):
        law = scan.coordinates.scale_priors[name].law
        other, log_ratio = _propose(scan, world, name, k, STEP_TOGETHER, generator)
        if log_ratio == -math.inf or other is world:
            continue
        values = [torch.tensor(_value(w, name, k)) for w in (world, other)]
        other, num_scaled = _follow(scan, world, other, name, k)
        after = target.log_density(scan, other, shared)
        # the density holds the prior of the scale, which is in the ratio already
        log_ratio += after - before - float(law.log_prob(values[1]) - law.log_prob(values[0]))
        log_ratio += num_scaled * math.log(float(values[1] / values[0]))
        rates.append(chance(log_ratio))
        if accepts(log_ratio, generator):
            world, before = other, after
    return world, sum(rates) / max(len(rates), 1)


def _value(world: World, name: str, k: int) -> float:
    """A scale, of one detector where every one has its own."""
    value = getattr(world, name)
    return float(value[k]) if name in PER_DETECTOR else value


def _follow(scan: Scan, world: World, other: World, name: str, k: int) -> tuple[World, int]:
    """What a scale multiplies, under another value of it, and how many numbers that are."""
    grown = _value(other, name, k) / _value(world, name, k)
    if name in JITTERS:
        row_shift = stretched(world.row_shift, name, grown)
        return replace(other, row_shift=row_shift), len(row_shift)
    if name == "additivity":
        return replace(other, errors=grown * world.errors), world.errors.numel()
    if name == "disorder":
        mean, calm = scan.basis @ world.drift, scan.updated & ~world.is_wide
        own = world.shift - mean
        own = torch.where(calm[:, None], grown * own, own)
        return replace(other, shift=mean + own), 2 * int(calm.sum())
    if name == "film_size":
        film, rough = world.film.clone(), scan.film.rough
        film[k] += (grown - 1) * (rough @ film[k].double()).float()
        return replace(other, film=film), round(float(rough.trace()))
    fine, excess = scan.updated & ~world.is_coarse, world.excess.clone()
    mean = scan.mean_excess(world.tone)[:, k]
    excess[fine, k] = (mean + grown * (excess[:, k] - mean))[fine]
    return replace(other, excess=excess), int(fine.sum())
