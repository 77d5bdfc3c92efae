"""Posterior of patches that are images of their own: cases tabulated, refined and drawn from."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..model import NUM_UNDOPED, DefectModel, Materials, PatchModel, Table, outcomes_of_hypotheses
from .cases import Case, rows_of
from .refinement import SMALLEST, Block, Tally, empty_tally, fold_model, log_prior_of, weigh

__all__ = ["BUDGET", "PatchPosterior", "plan_draws", "solve_patches", "split_case"]

BUDGET = 2**23  # numbers that are held at once
MOST_ENTRIES = 200_000  # of the tables of images that each have their own
PATCHES_AT_ONCE = 512  # that share a table of the likelihood under many draws
MOST_FOLDED = 128  # images by whose contexts the network is folded
# draws of the context for every patch, or one for eight that are returned, doubled up to ALL for
# patches whose class they do not settle
FIRST, RETURNED_FOR_EACH, ALL = 128, 8, 8192
# standard error of a class probability that is settled; two seeds then differ by 0.02 at the 90 %
# quantile of the patches
TOLERANCE = 0.007
# expected shares of two dopants, of which a site holds one, under a uniform prior of them
SHARE_GIVEN_SITE = torch.tensor([[2.0, 1.0], [1.0, 2.0]]) / 3
REST = 0.5  # of it: standard error of the terms together that are not weighed under more draws


@dataclass(frozen=True)
class PatchPosterior:
    """Posterior of patches that are images of their own.

    Attributes
    ----------
    defect : Tensor, shape (image, defect_class)
        Class probabilities.
    share : Tensor, shape (image, host, hypothesis)
        Probabilities of host and hypothesis together, see ``hypothesis_classes``.
    material : Tensor, shape (image, host, dopant)
        Probabilities of the materials that were enumerated.
    ess : Tensor, shape (image,)
        Effective number of draws of the context.
    draw, host, dopant, outcome : Tensor of int, shape (image, num_draws)
        Joint draws: index of the draw of the context, of the host, the dopant and the outcome.
    log_likelihood : Tensor, shape (image, num_draws)
        Log density of the contrast given the drawn host, dopant and context.
    """

    defect: Tensor
    share: Tensor
    material: Tensor
    ess: Tensor
    draw: Tensor
    host: Tensor
    dopant: Tensor
    outcome: Tensor
    log_likelihood: Tensor


def plan_draws(model: PatchModel, num_draws: int) -> list[int]:
    """Choose numbers of draws of the context for patches that are images of their own.

    Parameters
    ----------
    model : PatchModel
        An ``ExactModel`` evaluates every draw anew, so that it gets no more than the first.
    num_draws : int
        Joint draws to return; where they are few, so are the draws of the context.

    Returns
    -------
    list of int
        Draws for all patches, then more and more for those whose class is not settled.
    """
    first = min(num_draws, max(FIRST, num_draws // RETURNED_FOR_EACH))
    steps = int(math.log2(ALL // FIRST)) if isinstance(model, DefectModel) else 0
    return [first] + [first * 2**k for k in range(1, steps + 1) if first * 2**k <= ALL]


def solve_patches(
    cases: Iterable[Case],
    features: Tensor,
    model: PatchModel,
    plan: Sequence[int],
    *,
    num_draws: int,
    seed: int,
) -> Iterator[tuple[Case, PatchPosterior]]:
    """Solve cases of patches that are images of their own.

    Parameters
    ----------
    cases : iterable of Case
        With as many draws of the latent context as the plan has in the end.
    features : Tensor, shape (image, feature)
        Of all images.
    model : PatchModel
        The model.
    plan : sequence of int
        From ``plan_draws``.
    num_draws : int
        Joint draws to return.
    seed : int
        Of these draws.

    Yields
    ------
    tuple of Case and PatchPosterior
        Images with what was enumerated and drawn for them, and their posterior.
    """
    for case in cases:
        generator = torch.Generator().manual_seed(seed)
        levels = [min(n, case.possible.shape[1]) for n in plan]
        some = torch.linspace(0, len(case.images) - 1, MOST_FOLDED).long().unique()
        is_refined = levels[-1] > levels[0]
        own = fold_model(model, _computable(rows_of(case, some))) if is_refined else model
        table = None
        for part in map(_computable, split_case(case, levels[0])):
            rows, is_shared = features[part.images], len(part.possible) == 1
            if table is None or not is_shared:
                first = {n: v[:, : levels[0]] for n, v in part.context.items()}
                table = own.tabulate(first, part.materials)
            log_prior = log_prior_of(part.materials, part.class_weight)
            blocks = [_tabulated(table, rows, log_prior, part.possible[:, : levels[0]])]
            tally = empty_tally(*blocks[0].active.shape).add(blocks[0])
            active = blocks[0].active
            for start, stop in itertools.pairwise(dict.fromkeys(levels)):
                active = active & _unsettled(tally)
                for images in [active] if is_shared else _one_by_one(active):
                    if images.any():
                        given = *_draws_of(part, images, start, stop), start, rows, part.materials
                        blocks.append(weigh(own, *given, log_prior, images))
                        tally = tally.add(blocks[-1])
            yield part, _draw(blocks, tally, part.materials, num_draws, generator)


def _tabulated(table: Table, features: Tensor, log_prior: Tensor, possible: Tensor) -> Block:
    """All terms under the draws of a table."""
    joint, log_peak = [], []
    for rows in torch.arange(len(features)).split(max(1, BUDGET // math.prod(table.shape[1:]))):
        pick = table if table.shape[0] == 1 else table[rows]
        own = features[rows][None] if table.shape[0] == 1 else features[rows][:, None]
        density, peak = pick.density(own, by_hypothesis=True)
        prior, allowed = (v[rows] if len(v) > 1 else v for v in (log_prior, possible))
        density = density.flatten(0, 1) * prior.exp()[:, None] * allowed[..., None, None]
        joint.append(density.permute(0, 2, 3, 1))  # (patch, host, hypothesis, draw)
        log_peak.append(peak.flatten())
    together = torch.cat(joint)
    active = torch.ones(together.shape[:3], dtype=torch.bool)
    return Block(0, active, together.flatten(0, 2), torch.cat(log_peak))


def _unsettled(tally: Tally) -> Tensor:
    """Terms that are to be weighed under more draws, shape (patch, host, hypothesis)."""
    ranked, order = tally.term_error.flatten(1).sort(1)
    rest = ranked.square().cumsum(1).sqrt() <= REST * TOLERANCE
    rest = torch.zeros_like(rest).scatter(1, order, rest).view(tally.total.shape)
    return ~rest & (tally.standard_error > TOLERANCE)[:, None, None]


def _one_by_one(active: Tensor) -> list[Tensor]:
    """Terms of one image at a time."""
    images = active.any(2).any(1).nonzero()[:, 0]
    return [active & (torch.arange(len(active)) == i)[:, None, None] for i in images]


def _computable(case: Case) -> Case:
    """The case with a draw that can be in the place of those that cannot, which have no density."""
    first = case.possible.long().argmax(1, keepdim=True)
    context = {
        n: torch.where(case.possible, v, v.gather(1, first)) if len(v) == len(first) else v
        for n, v in case.context.items()
    }
    return replace(case, context=context)


def _draws_of(
    case: Case, active: Tensor, start: int, stop: int
) -> tuple[dict[str, Tensor], Tensor]:
    """Some draws of the context of the images that are active, which share them."""
    image = int(active.any(2).any(1).nonzero()[0])
    draws = {n: v[image % len(v), start:stop] for n, v in case.context.items()}
    return draws, case.possible[image % len(case.possible), start:stop]


def _draw(
    blocks: Sequence[Block],
    tally: Tally,
    materials: Materials,
    num_draws: int,
    generator: torch.Generator,
) -> PatchPosterior:
    """Draw from the posterior of patches."""
    share, num_hypotheses = tally.share, tally.total.shape[2]
    at = torch.arange(len(share))[:, None]
    cell, within = _systematic(share.flatten(1), num_draws, generator)
    host, hypothesis = cell // num_hypotheses, cell % num_hypotheses
    weights = (w.expand(len(share), *w.shape[1:]) for w in materials.fields()[2:])
    host_weight, dopant_weight = weights
    dopant = (hypothesis - NUM_UNDOPED).clamp(min=0)
    if num_hypotheses > NUM_UNDOPED + 1:  # which one it is, where the site does not hold it
        edges = dopant_weight.cumsum(-1)[at, host]
        u = torch.rand(cell.shape, generator=generator, dtype=torch.float32)
        other = (edges < u[..., None] * edges[..., -1:]).sum(-1)
        dopant = torch.where(hypothesis >= NUM_UNDOPED, dopant, other)
    outcome = outcomes_of_hypotheses(num_hypotheses - NUM_UNDOPED)[hypothesis]
    block, draw = _locate(blocks, tally, cell, within)

    log_likelihood = torch.empty(cell.shape, dtype=torch.float32)
    patch = at.expand_as(cell)
    for i, b in enumerate(blocks):
        chosen = block == i if len(blocks) > 1 else ...
        place = patch[chosen], host[chosen], dopant[chosen], draw[chosen]
        given = b, share, host_weight, dopant_weight, materials.is_codoped
        log_likelihood[chosen] = _log_densities(*given, *place)
        draw[chosen] += b.start
    plain, doped = share[..., :NUM_UNDOPED].sum(-1, keepdim=True), share[..., NUM_UNDOPED:]
    # the crystal has its dopant whether or not the central site holds it
    material = plain * materials.dopant_weight + doped
    if materials.is_codoped:  # a site that holds one of the dopants tells of the shares of both
        material = plain / 2 + doped @ SHARE_GIVEN_SITE
    found = tally.defect, share, material, tally.ess
    return PatchPosterior(*found, draw, host, dopant, outcome, log_likelihood)


def _locate(
    blocks: Sequence[Block], tally: Tally, cell: Tensor, within: Tensor
) -> tuple[Tensor, ...]:
    """Block and column at a fraction of the sum of a term, shapes (patch, num_draws)."""
    found = torch.zeros_like(cell), torch.zeros_like(cell)
    if len(blocks) == blocks[0].joint.shape[1] == 1:  # a context that is known
        return found
    patch = torch.arange(len(cell))[:, None]
    left = within * tally.total.flatten(1)[patch, cell].double()
    for i, block in enumerate(blocks):
        row = block.row.flatten(1)[patch, cell]
        here = (row >= 0) & (left >= 0)
        patches, rows = here.nonzero()[:, 0], row[here]
        scale = (block.log_peak - tally.log_peak)[patches].double().exp()
        size = block.joint.shape[1]
        sums = block.joint.double().flatten().cumsum(0)
        before = torch.where(rows > 0, sums[rows * size - 1], 0)
        target = before + left[here] / scale
        column = torch.searchsorted(sums, target, right=True) - rows * size
        for values, value in zip(found, (i, column.clamp(0, size - 1)), strict=True):
            values[here] = value
        # what is not reached in this block is sought in the next
        rest = (target - sums[rows * size + size - 1]) * scale
        left[here] = torch.where(rest >= 0, rest, -1.0)
    return found


def _log_densities(
    block: Block,
    share: Tensor,
    host_weight: Tensor,
    dopant_weight: Tensor,
    is_codoped: bool,
    *place: Tensor,
) -> Tensor:
    """Log density at places (patch, host, dopant, draw) of any shape, see ``_log_density``."""
    given = block, share, host_weight, dopant_weight, is_codoped
    sizes = *dopant_weight.shape, block.joint.shape[1]
    if math.prod(sizes) < place[0].numel():  # each place is drawn several times
        every = torch.cartesian_prod(*map(torch.arange, sizes)).T
        return _log_density(*given, *every).view(sizes)[place]
    return _log_density(*given, *(p.flatten() for p in place)).view_as(place[0])


def _log_density(
    block: Block,
    share: Tensor,
    host_weight: Tensor,
    dopant_weight: Tensor,
    is_codoped: bool,
    patch: Tensor,
    host: Tensor,
    dopant: Tensor,
    draw: Tensor,
) -> Tensor:
    """Log density of the features given host, dopant (unless co-doped) and context, (chosen,)."""
    rows, own = block.row[patch, host], share[patch, host]
    is_known = rows >= 0
    joint = block.joint[rows.clamp(min=0), draw[:, None]] * is_known
    if is_codoped:
        holding = joint[:, NUM_UNDOPED:].sum(1)
    else:
        holding = joint[:, NUM_UNDOPED:].gather(1, dopant[:, None])[:, 0]
        holding = holding / dopant_weight[patch, host, dopant].clamp(min=SMALLEST)
    # terms that were not weighed under this draw enter by their share of the posterior
    rest = own.sum(1) / (own * is_known).sum(1).clamp(min=SMALLEST)
    density = (joint[:, :NUM_UNDOPED].sum(1) + holding) * rest / host_weight[patch, host]
    return density.clamp(min=SMALLEST).log() + block.log_peak[patch]


def _systematic(
    weight: Tensor, num_draws: int, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Draw categories in random order, and where in each of them, shapes (row, draw)."""
    edges = weight.double().cumsum(-1)
    u = torch.rand(len(weight), 1, generator=generator, dtype=torch.float32).double()
    order = torch.randperm(num_draws, generator=generator)
    place = ((order + u) / num_draws) * edges[:, -1:]
    chosen = torch.searchsorted(edges, place, right=True).clamp(max=weight.shape[1] - 1)
    size = weight.gather(1, chosen).double()
    within = (place - edges.gather(1, chosen) + size) / size.clamp(min=SMALLEST)
    return chosen, within.clamp(0, 1)


def split_case(case: Case, num_draws: int, most: int = MOST_ENTRIES) -> list[Case]:
    """Split a case into parts whose tables of the likelihood stay small.

    Parameters
    ----------
    case : Case
        Of patches that are images of their own.
    num_draws : int
        Draws of the context in a table.
    most : int
        Entries (draw, host, hypothesis) of the table of a part.

    Returns
    -------
    list of Case
        Of 512 images where they share one table.
    """
    images = torch.arange(len(case.images))
    if max(len(v) for v in (*case.context.values(), case.materials.host)) == 1:
        return [rows_of(case, p) for p in images.split(PATCHES_AT_ONCE)]
    num_hosts, num_dopants = case.materials.dopant.shape[-2:]
    per_image = num_draws * num_hosts * (NUM_UNDOPED + num_dopants)
    at_once = min(max(1, most // per_image), PATCHES_AT_ONCE)
    return [rows_of(case, p) for p in images.split(at_once)]
