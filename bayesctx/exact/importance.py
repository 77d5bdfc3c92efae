"""Evidence of a patch for every column in its centre: posterior modes by Fisher scoring, importance sampling around them."""

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

TURN = 2 * math.pi / MONOLAYER_1H.num_turns  # rad; a crystal turned by it is the same crystal
ANGLES, SHIFTS = 24, (-0.16, 0.0, 0.16)  # angles in a TURN, and Å: where a fit may start
APART = math.radians(20)  # of a second start from the first
ROUNDS = (6, 10)  # of Fisher scoring, before and after the second sieve
ACTIVE = 6  # rounds in which a step finds the bounds that hold it
SIEVES = (
    40.0,
    60.0,
    25.0,
)  # nats below the best column of a patch: by the templates, after a few rounds, and at the mode
COARSENESS = 0.2  # of what a template explains, its error: it lies up to half a step of the grid beside the patch
FREEDOM = 5.0  # of Student's t, from which the nuisances are drawn
WIDER = 1.2  # than the curvature at the mode says
LOW_ESS, MORE, AGAIN = (
    16.0,
    8,
    4,
)  # effective draws below which a pair is drawn again, how many times as often, how often at most
COUNTS = 7.0  # nats below the best column of a patch, beyond which an evidence need not be exact
PAIRS_AT_ONCE = 1024


@dataclass(frozen=True)
class Evidence:
    """Evidence of every column for every patch.

    Attributes
    ----------
    log_evidence : Tensor, shape (patch, crystal, column)
        Log of the mean likelihood under the prior of the nuisances; minus infinity where a sieve held the column back.
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
        What the centre may hold, see ``Crystal.render``.
    patches : Tensor, shape (patch, y, x)
        Intensities.
    box : Box
        Bounds of the nuisances.
    num_draws : int
        Draws of the importance sampling; where less than sixteen of them count, eight times as many around
        the mean of the first ones.
    sieves : tuple of float
        In nats: columns so far below the best one of a patch are left out, by the correlation with templates, after a few
        rounds of the fit, and at the mode. Infinite: nothing is left out.
    seed : int
        Of the draws.

    Returns
    -------
    Evidence
        Of all columns.

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
    """Apply work(crystal, column, patch, *of_pair) to the pairs of every crystal; results in the order of the pairs."""
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
    """Share of the prior that a normal posterior of this covariance fills, by its logarithm."""
    free = covariance[:, box.free][:, :, box.free]
    return (
        0.5 * (torch.linalg.slogdet(free)[1] + free.shape[-1] * math.log(2 * math.pi))
        - box.log_volume()
    )


def _distinct(pairs: Tensor, mode: Tensor, box: Box) -> Tensor:
    """Whether a pair is a mode of its own: second fits often end in the first."""
    kept = torch.ones(len(pairs), dtype=torch.bool)
    again = (pairs[1:, :3] == pairs[:-1, :3]).all(1).nonzero()[:, 0] + 1
    turned = _wrap(mode[again, 0] - mode[again - 1, 0])
    kept[again] = (turned.abs() > APART / 2) & box.free[0]
    return kept


def _wrap(angle: Tensor) -> Tensor:
    """Smallest equivalent of a difference of rotations, in rad."""
    return (angle + TURN / 2) % TURN - TURN / 2


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
    """Modes, shape (image, nuisance), log likelihood there, what one more step promises to add, and covariances.

    Fisher scoring, damped as Levenberg does.
    """
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
    """Newton's step inside of the box, by the primal-dual active set method of Hintermüller, Ito and Kunisch (2002)."""
    low, high = (box.low - place).double(), (box.high - place).double()
    step, held = torch.zeros_like(gradient), (~box.free).expand_as(low)
    for _ in range(ACTIVE):
        loose, fixed = (~held).double(), step * held
        matrix = information * loose[:, :, None] * loose[:, None] + torch.diag_embed(held.double())
        rest = (gradient - (information @ fixed[..., None])[..., 0]) * loose
        step = torch.linalg.solve(matrix, rest[..., None])[..., 0] + fixed
        force = gradient - (information @ step[..., None])[..., 0]
        # a bound holds what would leave it, and what is pressed against it
        above, below = (
            torch.where(held, force > 0, step > high),
            torch.where(held, force < 0, step < low),
        )
        above, below = above & (~held | (step >= high)), below & (~held | (step <= low))
        step = torch.minimum(torch.maximum(step, low), high)
        held = above | below | ~box.free
    return step


def _start(crystal: Crystal, column: Tensor, patches: Tensor, box: Box) -> tuple[Tensor, Tensor]:
    """Starts of the fits by correlation with templates: two for every patch and column, shape (column, patch, 2, nuisance).

    The second tensor is the log likelihood that the correlation stands for, shape (column, patch, 2).
    """
    middle = (box.low + box.high) / 2
    angle = (
        torch.arange(ANGLES, dtype=torch.float32) * (TURN / ANGLES) if box.free[0] else middle[:1]
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
    """Add gain, background and dark level to places: by the line of the values against the template."""
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
    """Log evidence and effective number of draws of every pair, and where to draw from the next time.

    That is the mean and the covariance of the draws with the square roots of their weights: not narrower than the posterior.
    """
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
    # the draws are around one of the equivalent orientations
    symmetry = math.log(MONOLAYER_1H.num_turns) if free[0] else 0.0
    flat = (log_weight / 2).softmax(1).float()[..., None]
    mean = (flat * drawn).sum(1)
    rest = drawn - mean[:, None]
    spread = (rest.mT @ (flat * rest)).double() + 0.1 * covariance
    # where no draw has hit the box the next ones keep closer to the mode
    hit = inside.any(1)
    mean, spread = (
        torch.where(hit[:, None], mean, mode),
        torch.where(hit[:, None, None], spread, covariance / 4),
    )
    ess = torch.where(hit, share.square().sum(1).reciprocal(), 0.0)
    return total - math.log(num_draws) + symmetry, ess, mean, spread


def _student(x: Tensor, size: int) -> Tensor:
    """Log density of Student's t in so many dimensions, of unit scale."""
    constant = (
        math.lgamma((FREEDOM + size) / 2)
        - math.lgamma(FREEDOM / 2)
        - size / 2 * math.log(FREEDOM * math.pi)
    )
    return constant - (FREEDOM + size) / 2 * (x.square().sum(-1) / FREEDOM).log1p()
