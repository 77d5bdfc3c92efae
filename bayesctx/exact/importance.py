"""Evidence of patches for every column: modes by Fisher scoring, then importance sampling."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from .density import Box, Crystal, log_density, score

__all__ = ["Evidence", "evidence"]

PERIOD = 2 * math.pi / MONOLAYER_1H.rotation_order  # rad, of the crystal under rotation
ANGLES, SHIFTS = 24, (-0.16, 0.0, 0.16)  # starts of fits: angles in a period, and offsets in Å
APART = math.radians(20)  # least angle between the two starts of a patch and column
ROUNDS = (6, 10)  # of Fisher scoring, before and after the second sieve
ACTIVE = 6  # rounds in which a step finds its active bounds
# nats below the best column of a patch beyond which a column is left out: by the templates, after a
# few rounds of the fit, and at the mode
SIEVES = (40.0, 60.0, 25.0)
# relative error of the log likelihood by templates, whose grid leaves half a step to the patch
COARSENESS = 0.2
FREEDOM = 5.0  # degrees of freedom of Student's t, from which the nuisances are drawn
WIDER = 1.2  # scale of the draws over that of the curvature at the mode
LOW_ESS = 16.0  # effective draws below which a pair is drawn again
MORE, AGAIN = 8, 4  # factor of the number of draws then, and largest number of repetitions
COUNTS = 7.0  # nats below the best column of a patch within which draws are repeated
PAIRS_AT_ONCE = 1024


@dataclass(frozen=True)
class Evidence:
    """Evidence of every column for every patch.

    Attributes
    ----------
    log_evidence : Tensor, shape (patch, crystal, column)
        Log of the mean likelihood under the prior of the nuisances; minus infinity for columns that
        a threshold of ``SIEVES`` left out.
    ess : Tensor, shape (patch, crystal, column)
        Effective number of draws, zero where none was made.
    """

    log_evidence: Tensor
    ess: Tensor


def evidence(
    crystals: Sequence[Crystal],
    columns: Tensor,
    patches: Tensor,
    box: Box,
    *,
    num_draws: int = 128,
    sieves: tuple[float, float, float] = SIEVES,
    seed: int = 0,
) -> Evidence:
    """Integrate the nuisances out of the likelihood of patches.

    Parameters
    ----------
    crystals : sequence of Crystal
        Hosts and imaging conditions.
    columns : Tensor of int, shape (column,)
        Columns of the central site, see ``Crystal.render``.
    patches : Tensor, shape (patch, y, x)
        Intensities.
    box : Box
        Bounds of the nuisances.
    num_draws : int
        Draws of the importance sampling. Where their effective number is below 16, eight times as
        many are drawn around the mean of the former ones, up to four times.
    sieves : tuple of float
        In nats: columns so far below the best one of a patch are left out, by the correlation with
        templates, after a few rounds of the fit, and at the mode. Infinite: nothing is left out.
    seed : int
        Seed of the draws.

    Returns
    -------
    Evidence
        Evidence of all columns, for every patch and crystal.

    Notes
    -----
    Draws come from Student's t around up to two modes of every column. Orientations that the
    rotation axis of the crystal makes equivalent count as one mode.
    """
    generator = torch.Generator().manual_seed(seed)
    starts, fits = zip(
        *(_start(crystal, columns, patches, box) for crystal in crystals), strict=True
    )
    fit = torch.stack(fits).permute(2, 0, 1, 3)  # (patch, crystal, column, start)
    best = fit.flatten(1).amax(1)
    pairs = (fit > (best * (1 - COARSENESS) - sieves[0])[:, None, None, None]).nonzero()
    mode = torch.stack(starts).permute(2, 0, 1, 3, 4)[tuple(pairs.T)]
    for rounds, sieve in zip(ROUNDS, sieves[1:], strict=True):
        climb = partial(_climb, box=box, rounds=rounds)
        mode, value, promise, covariance = _each(climb, crystals, columns, patches, pairs, mode)
        value = value + _log_volume(covariance, box)
        best = torch.full((len(patches),), -torch.inf, dtype=value.dtype).scatter_reduce(
            0, pairs[:, 0], value, "amax"
        )
        kept = value + promise > best[pairs[:, 0]] - sieve
        pairs, mode, covariance = pairs[kept], mode[kept], covariance[kept]
    kept = _distinct(pairs, mode, box)
    pairs, mode, covariance = pairs[kept], mode[kept], covariance[kept]
    draw = partial(_sample, box=box, generator=generator)
    first = _each(
        partial(draw, num_draws=num_draws), crystals, columns, patches, pairs, mode, covariance
    )
    found, ess, mode, covariance = first
    best = torch.full((len(patches),), -torch.inf, dtype=found.dtype).scatter_reduce(
        0, pairs[:, 0], found, "amax"
    )
    counts = found > best[pairs[:, 0]] - COUNTS
    for _ in range(AGAIN):
        low = ((ess < LOW_ESS) & counts).nonzero()[:, 0]
        if len(low):
            work = partial(draw, num_draws=MORE * num_draws)
            drawn = _each(work, crystals, columns, patches, pairs[low], mode[low], covariance[low])
            found[low], ess[low], mode[low], covariance[low] = drawn
    return _collect(found, ess, pairs, fit.shape)


def _each(
    work: Callable,
    crystals: Sequence[Crystal],
    columns: Tensor,
    patches: Tensor,
    pairs: Tensor,
    *of_pair: Tensor,
) -> tuple[Tensor, ...]:
    """Results of work(crystal, column, patch, *of_pair) for all pairs, in their order."""
    groups = [
        rows
        for i in pairs[:, 1].unique()
        for rows in (pairs[:, 1] == i).nonzero()[:, 0].split(PAIRS_AT_ONCE)
    ]
    results = [
        work(
            crystals[int(pairs[rows[0], 1])],
            columns[pairs[rows, 2]],
            patches[pairs[rows, 0]],
            *(v[rows] for v in of_pair),
        )
        for rows in groups
    ]
    order = torch.cat(groups).argsort()
    return tuple(torch.cat(r)[order] for r in zip(*results, strict=True))


def _log_volume(covariance: Tensor, box: Box) -> Tensor:
    """Log of the share of the prior that a normal posterior of this covariance fills."""
    free = covariance[:, box.free][:, :, box.free]
    return (
        0.5 * (torch.linalg.slogdet(free)[1] + free.shape[-1] * math.log(2 * math.pi))
        - box.log_volume()
    )


def _distinct(pairs: Tensor, mode: Tensor, box: Box) -> Tensor:
    """Whether a fit found another mode than the first fit of the same patch and column."""
    kept = torch.ones(len(pairs), dtype=torch.bool)
    again = (pairs[1:, :3] == pairs[:-1, :3]).all(1).nonzero()[:, 0] + 1
    turned = _wrap(mode[again, 0] - mode[again - 1, 0])
    kept[again] = (turned.abs() > APART / 2) & box.free[0]
    return kept


def _wrap(angle: Tensor) -> Tensor:
    """Smallest equivalent of a difference of rotations, in rad."""
    return (angle + PERIOD / 2) % PERIOD - PERIOD / 2


def _collect(found: Tensor, ess: Tensor, pairs: Tensor, shape: torch.Size) -> Evidence:
    """Add up the modes of every patch and column."""
    log_evidence = torch.full(shape, -torch.inf, dtype=found.dtype)
    log_evidence[tuple(pairs.T)] = found
    draws = torch.zeros(shape, dtype=ess.dtype)
    draws[tuple(pairs.T)] = ess
    return Evidence(log_evidence.logsumexp(-1), draws.sum(-1))


def _climb(
    crystal: Crystal, column: Tensor, patches: Tensor, start: Tensor, box: Box, rounds: int
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Modes by damped Fisher scoring, log likelihoods, gains of one more step, and covariances."""
    best, damping = start, torch.full((len(start),), 1e-2, dtype=torch.float64)
    value = log_density(crystal, column, best, patches)
    gradient, information = score(crystal, column, best, patches, box)
    for _ in range(rounds):
        damped = information + torch.diag_embed(
            information.diagonal(dim1=-2, dim2=-1) * damping[:, None]
        )
        tried = torch.minimum(
            torch.maximum(best + _step(damped, gradient, best, box).float(), box.low), box.high
        )
        found = log_density(crystal, column, tried, patches)
        better = found > value
        best, value = torch.where(better[:, None], tried, best), torch.where(better, found, value)
        damping = torch.where(better, damping / 5, damping * 8).clamp(1e-4, 1e4)
        gradient, information = score(crystal, column, best, patches, box)
    step = _step(information, gradient, best, box)
    promise = (gradient * step).sum(-1) - 0.5 * (
        (information @ step[..., None])[..., 0] * step
    ).sum(-1)
    return best, value, promise.clamp(min=0.0), torch.linalg.inv(information)


def _step(information: Tensor, gradient: Tensor, place: Tensor, box: Box) -> Tensor:
    """Newton's step inside of the box."""
    # by the primal-dual active set method of Hintermüller, Ito and Kunisch (2002)
    low, high = (box.low - place).double(), (box.high - place).double()
    step, held = torch.zeros_like(gradient), (~box.free).expand_as(low)
    for _ in range(ACTIVE):
        loose, fixed = (~held).double(), step * held
        matrix = information * loose[:, :, None] * loose[:, None] + torch.diag_embed(held.double())
        rest = (gradient - (information @ fixed[..., None])[..., 0]) * loose
        step = torch.linalg.solve(matrix, rest[..., None])[..., 0] + fixed
        force = gradient - (information @ step[..., None])[..., 0]
        # a bound is active where the step would leave it, or the force points out of the box
        above, below = (
            torch.where(held, force > 0, step > high),
            torch.where(held, force < 0, step < low),
        )
        above, below = above & (~held | (step >= high)), below & (~held | (step <= low))
        step = torch.minimum(torch.maximum(step, low), high)
        held = above | below | ~box.free
    return step


def _start(crystal: Crystal, column: Tensor, patches: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Two starts (column, patch, 2, nuisance) by templates, and their log likelihoods."""
    middle = (box.low + box.high) / 2
    angle = (
        torch.arange(ANGLES, dtype=torch.float32) * (PERIOD / ANGLES) if box.free[0] else middle[:1]
    )
    shifts = [
        torch.tensor(SHIFTS, dtype=torch.float32) if box.free[i] else middle[i : i + 1]
        for i in (1, 2)
    ]
    places = torch.cartesian_prod(angle, *shifts, middle[3:4])
    templates = crystal.render(
        column.repeat_interleave(len(places)), places.repeat(len(column), 1)
    ).flatten(1)
    centred = templates - templates.mean(-1, keepdim=True)
    scale = centred.norm(dim=-1).clamp(min=1e-12)
    values = patches.flatten(1)
    rest = values - values.mean(-1, keepdim=True)
    match = ((centred / scale[:, None]) @ (rest / rest.norm(dim=-1, keepdim=True)).T).unflatten(
        0, (len(column), len(places))
    )
    first = match.argmax(1)
    # (column, patch, place)
    turned = _wrap(places[:, 0] - places[first, 0][..., None])
    second = match.movedim(1, -1).masked_fill(turned.abs() < APART, -1.0).argmax(-1)
    chosen = torch.stack([first, second], -1)
    found = match.movedim(1, -1).gather(-1, chosen)
    fit = -0.5 * values.shape[-1] * (1 - found.clamp(0, 0.99999).square()).log()
    index = torch.arange(len(column))[:, None, None] * len(places) + chosen
    return _levels(
        places[chosen], templates[index], values[None, :, None], crystal.exposure, box
    ), fit


def _levels(place: Tensor, template: Tensor, values: Tensor, exposure: float, box: Box) -> Tensor:
    """Add gain, background and dark level to places, by linear regression on the template."""
    mean = template.mean(-1, keepdim=True)
    slope = ((template - mean) * values).sum(-1) / (template - mean).square().sum(-1).clamp(
        min=1e-12
    )
    offset = values.mean(-1) - slope * mean[..., 0]
    gain = (slope / exposure).clamp(min=1e-9).log()
    background = (offset / (slope.clamp(min=1e-9) * template.amax(-1))).clamp(
        float(box.low[4]), float(box.high[4])
    )
    found = torch.cat([place, torch.stack([background, gain, torch.zeros_like(gain)], -1)], -1)
    return torch.where(
        box.free, torch.minimum(torch.maximum(found, box.low), box.high), (box.low + box.high) / 2
    )


def _sample(
    crystal: Crystal,
    column: Tensor,
    patches: Tensor,
    mode: Tensor,
    covariance: Tensor,
    box: Box,
    num_draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Log evidence and effective number of draws of pairs; mode and covariance for repetition."""
    num, free = len(column), box.free
    size = int(free.sum())
    lower = torch.linalg.cholesky(covariance[:, free][:, :, free] * WIDER**2).float()
    normal = torch.randn(num, num_draws, size, generator=generator, dtype=torch.float32)
    chi = (
        torch._standard_gamma(
            torch.full((num, num_draws), FREEDOM / 2, dtype=torch.float32), generator=generator
        )
        * 2
    )
    student = normal * (FREEDOM / chi).sqrt()[..., None]
    drawn = mode[:, None].repeat(1, num_draws, 1)
    drawn[..., free] += student @ lower.mT
    inside = ((drawn >= box.low) & (drawn <= box.high))[
        ..., free & (torch.arange(len(free)) != 0)
    ].all(-1)
    log_q = _student(student, size) - lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)[:, None]
    log_p = torch.full((num, num_draws), -torch.inf, dtype=torch.float64)
    at = inside.nonzero()
    if len(at):
        log_p[inside] = log_density(crystal, column[at[:, 0]], drawn[inside], patches[at[:, 0]])
    log_weight = log_p - log_q - box.log_volume()
    total = log_weight.logsumexp(1)
    share = (log_weight - total[:, None].clamp(min=-1e300)).exp()
    # draws surround one of the equivalent orientations; the others have the same evidence
    symmetry = math.log(MONOLAYER_1H.rotation_order) if free[0] else 0.0
    # for repetition: moments with the square roots of the weights, wider than the posterior
    flat = (log_weight / 2).softmax(1).float()[..., None]
    mean = (flat * drawn).sum(1)
    rest = drawn - mean[:, None]
    spread = (rest.mT @ (flat * rest)).double() + 0.1 * covariance
    # where no draw is inside of the box the next ones are closer to the mode
    hit = inside.any(1)
    mean, spread = (
        torch.where(hit[:, None], mean, mode),
        torch.where(hit[:, None, None], spread, covariance / 4),
    )
    ess = torch.where(hit, share.square().sum(1).reciprocal(), 0.0)
    return total - math.log(num_draws) + symmetry, ess, mean, spread


def _student(x: Tensor, size: int) -> Tensor:
    """Log density of Student's t of unit scale in ``size`` dimensions."""
    constant = (
        math.lgamma((FREEDOM + size) / 2)
        - math.lgamma(FREEDOM / 2)
        - size / 2 * math.log(FREEDOM * math.pi)
    )
    return constant - (FREEDOM + size) / 2 * (x.square().sum(-1) / FREEDOM).log1p()
