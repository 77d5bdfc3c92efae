"""Posterior of patches that are images of their own: cases put together, then solved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ..distributions import encode
from ..model import (
    NUM_PLAIN,
    DefectModel,
    Materials,
    PatchModel,
    SitePrior,
    Table,
    outcome_classes,
)
from ..prior import Prior
from .cases import Case, rows_of
from .refinement import fold_model, levels_of, refined_patches
from .terms import PatchPosterior, Terms, draw_noise, draw_terms, join_patches, summarise

__all__ = [
    "BUDGET",
    "Plan",
    "each_patch",
    "join_cases",
    "plan_draws",
    "solve_patches",
    "split_case",
]

BUDGET = 2**23  # numbers that are held at once
MOST_ENTRIES = 200_000  # of the tables of images that each have their own
# draws of the context for every patch, or one for eight that are returned, and for those whose
# class they do not settle: two seeds then differ by 0.02 in p(class) at the 90 % quantile
FIRST, RETURNED_FOR_EACH, ALL = 128, 8, 2048
NUM_DOSES = 8  # with which a draw is combined: more do not change the error, four double it


@dataclass(frozen=True)
class Plan:
    """Numbers of draws of the context.

    Attributes
    ----------
    num_first : int
        For every patch.
    num_base, num_doses : int
        Draws and doses of each for patches whose class the first do not settle.
    """

    num_first: int
    num_base: int
    num_doses: int


def plan_draws(model: PatchModel, known: Mapping[str, object], num_draws: int) -> Plan:
    """Choose the numbers of draws of the context for patches that are images of their own.

    Parameters
    ----------
    model : PatchModel
        An ``ExactModel`` evaluates every draw anew, so that it gets no more than the first.
    known : mapping
        The checked context.
    num_draws : int
        Joint draws to return; where they are few, so are the draws of the context.

    Returns
    -------
    Plan
        A draw is combined with several doses where the dose is independent of the other variables.
    """
    num_first = min(num_draws, max(FIRST, num_draws // RETURNED_FOR_EACH))
    if not isinstance(model, DefectModel):
        return Plan(num_first, num_first, 1)
    most = max(num_first, min(ALL // FIRST * num_first, ALL))
    num_doses = min(NUM_DOSES, most // num_first) if _is_dose_free(model.prior, known) else 1
    return Plan(num_first, most // num_doses, num_doses)


def _is_dose_free(prior: Prior, known: Mapping[str, object]) -> bool:
    """Whether the dose is drawn, from one distribution under all conditions of the prior."""
    if isinstance(known.get("dose"), np.ndarray):
        return False
    shared = {n: v for n, v in known.items() if not isinstance(v, np.ndarray) and n != "sampling"}
    doses = [c["dose"] for c in prior.given(shared).conditions]
    return not isinstance(doses[0], float | int) and len({repr(encode(d)) for d in doses}) == 1


def solve_patches(
    cases: Sequence[Case],
    features: Tensor,
    model: PatchModel,
    plan: Plan,
    *,
    num_draws: int,
    seed: int,
) -> Iterator[tuple[Case, PatchPosterior]]:
    """Solve cases of patches that are images of their own.

    Parameters
    ----------
    cases : sequence of Case
        With ``plan.num_base`` draws of the latent context.
    features : Tensor, shape (image, feature)
        Of all images.
    model : PatchModel
        The model.
    plan : Plan
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
    weight = SitePrior.of_patches(model.prior, 1).mean[0]
    if not isinstance(model, DefectModel) or cases[0].possible.shape[1] == 1:
        for case in cases:
            generator = torch.Generator().manual_seed(seed)
            for part in split_case(case):
                table = model.tabulate(part.context, part.materials)
                given = table, features[part.images], part.materials, part.possible, weight
                yield part, each_patch(*given, num_draws=num_draws, generator=generator)
        return
    folded = fold_model(model, cases)
    for case in join_cases(cases):
        generator = torch.Generator().manual_seed(seed)
        is_shared = len(case.possible) == 1
        images = torch.arange(len(case.images))
        for part in [case] if is_shared else [rows_of(case, i) for i in images.split(1)]:
            levels = levels_of(part, plan.num_first, plan.num_doses)
            given = folded, levels, features[part.images], part.materials, weight
            found = refined_patches(*given, num_draws=num_draws, generator=generator)
            context = levels[-1].context
            possible = torch.ones_like(context["dose"], dtype=torch.bool)
            yield replace(part, context=context, possible=possible), found


def each_patch(
    table: Table,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    class_weight: Tensor,
    *,
    num_draws: int,
    generator: torch.Generator,
) -> PatchPosterior:
    """Posterior of patches, each with a context of its own, under all draws of a table.

    Parameters
    ----------
    table : Table, shape (image or 1, draw, host, hypothesis, ...)
        The tabulated likelihood.
    features : Tensor, shape (image, feature)
        Contrast features.
    materials : Materials, shapes (image or 1, host, ...)
        What was enumerated.
    possible : Tensor of bool, shape (image or 1, draw)
        Draws of the context that can be.
    class_weight : Tensor, shape (defect_class,)
        Prior probability of the classes.
    num_draws : int
        Joint draws to return.
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    PatchPosterior
        For all patches.
    """
    shared = table.shape[0] == 1
    classes = outcome_classes(materials.dopant.shape[-1])
    parts = []
    for rows in torch.arange(len(features)).split(max(1, BUDGET // math.prod(table.shape[1:]))):
        f = features[rows][None] if shared else features[rows][:, None]
        density, peak = (table if shared else table[rows]).density(f)
        own = materials.map(lambda v, rows=rows: v[rows] if len(v) > 1 else v)
        allowed = possible[rows] if len(possible) > 1 else possible
        weight = class_weight[classes].repeat(*own.host.shape, 1)
        weight[..., NUM_PLAIN:] *= own.dopant_weight
        weight *= own.host_weight[..., None]
        joint = density.flatten(0, 1) * weight[:, None] * allowed[..., None, None]
        joint = joint.permute(0, 2, 3, 1)  # (patch, host, outcome, draw)
        place = torch.cartesian_prod(*(torch.arange(n) for n in joint.shape[:3]))
        terms = Terms(*place.T, joint.flatten(0, 2), peak.flatten())
        noise = draw_noise(len(rows), num_draws, generator)
        found = summarise(terms, own)
        parts.append(draw_terms(terms, found, own, num_draws, noise))
    return join_patches(parts)


def join_cases(cases: Sequence[Case]) -> list[Case]:
    """Join cases with the same draws of the context, so that they share a table.

    Parameters
    ----------
    cases : sequence of Case
        Of different images.

    Returns
    -------
    list of Case
        Joined ones have all hosts and dopants, at the weights of every image.
    """
    groups: dict[object, list[Case]] = {}
    for i, case in enumerate(cases):
        shared = len(case.possible) == 1 and len(case.materials.host) == 1
        values = (*case.context.values(), case.possible)
        key = tuple(v.numpy().tobytes() for v in values) if shared else i
        groups.setdefault(key, []).append(case)
    return [_side_by_side(group) if len(group) > 1 else group[0] for group in groups.values()]


def _side_by_side(cases: Sequence[Case]) -> Case:
    """One case of those with the same draws."""
    together: dict[int, dict[int, int]] = {}
    for case in cases:
        materials = case.materials.row(0)
        for host, dopants in zip(materials.host.tolist(), materials.dopant.tolist(), strict=True):
            places = together.setdefault(host, {})
            for dopant in dopants:
                places.setdefault(dopant, len(places))
    hosts = {host: i for i, host in enumerate(together)}
    shape = len(cases), len(hosts), max(map(len, together.values()))
    dopant = torch.zeros(shape[1:], dtype=torch.long)
    for host, places in together.items():
        dopant[hosts[host], list(places.values())] = torch.tensor(list(places))
    host_weight = torch.zeros(shape[:2], dtype=torch.float32)
    dopant_weight = torch.zeros(shape, dtype=torch.float32)
    for c, case in enumerate(cases):
        own = case.materials.row(0)
        for i, host in enumerate(own.host.tolist()):
            host_weight[c, hosts[host]] = own.host_weight[i]
            at = torch.tensor([together[host][d] for d in own.dopant[i].tolist()])
            dopant_weight[c, hosts[host]].index_add_(0, at, own.dopant_weight[i])
    owner = torch.repeat_interleave(torch.tensor([len(c.images) for c in cases]))
    materials = Materials(
        torch.tensor(list(hosts)).expand(len(owner), -1),
        dopant.expand(len(owner), -1, -1),
        host_weight[owner],
        dopant_weight[owner],
    )
    images = np.concatenate([c.images for c in cases])
    return replace(cases[0], images=images, materials=materials)


def split_case(case: Case, most: int = MOST_ENTRIES) -> list[Case]:
    """Split a case into parts whose tables of the likelihood stay small.

    Parameters
    ----------
    case : Case
        Of patches that are images of their own.
    most : int
        Entries (draw, host, hypothesis) of the table of a part.

    Returns
    -------
    list of Case
        The case itself where its images share one table.
    """
    rows = max(len(v) for v in (*case.context.values(), case.materials.host))
    if rows == 1:
        return [case]
    num_draws = next(iter(case.context.values())).shape[1]
    num_hosts, num_dopants = case.materials.dopant.shape[-2:]
    per_image = num_draws * num_hosts * (NUM_PLAIN + 2 + num_dopants)
    parts = torch.arange(len(case.images)).split(max(1, most // per_image))
    return [rows_of(case, p) for p in parts]
