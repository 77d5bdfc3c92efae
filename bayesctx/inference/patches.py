"""Posterior of patches alone: exact sums over classes, hosts and dopants, weighted sums over draws of the context."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..defects import DEFECTS
from ..model import NUM_PLAIN, Materials, Table, outcome_classes
from .cases import Case, rows_of

__all__ = ["BUDGET", "PatchPosterior", "each_patch", "split_case"]

BUDGET = 2**23  # numbers that are held at once
MOST_ENTRIES = 200_000  # of the tables of images that each have their own


@dataclass(frozen=True)
class PatchPosterior:
    """Posterior of patches that are images of their own.

    Attributes
    ----------
    defect : Tensor, shape (image, defect_class)
        Class probabilities.
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
    material: Tensor
    ess: Tensor
    draw: Tensor
    host: Tensor
    dopant: Tensor
    outcome: Tensor
    log_likelihood: Tensor


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
    """Posterior of patches, each with a context of its own.

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
    size = max(1, BUDGET // math.prod(table.shape[1:]))
    parts = []
    for rows in torch.arange(len(features)).split(size):
        pick = slice(None) if shared else rows
        f = features[rows][None] if shared else features[rows][:, None]
        density, peak = (table if shared else table[rows]).density(f)
        own = Materials(*(v[pick] if len(v) > 1 else v for v in materials.fields()))
        allowed = possible[pick] if len(possible) > 1 else possible
        found = _weigh(density.flatten(0, 1), own, allowed, class_weight, num_draws, generator)
        parts.append((*found[:-1], found[-1] + peak.flatten()[:, None]))
    return PatchPosterior(*(torch.cat(p) for p in zip(*parts, strict=True)))


def _weigh(
    density: Tensor,
    materials: Materials,
    possible: Tensor,
    class_weight: Tensor,
    num_draws: int,
    generator: torch.Generator,
) -> tuple[Tensor, ...]:
    """Posterior of a chunk of patches in the order of ``PatchPosterior``; density has shape (patch, draw, host, outcome)."""
    num_dopants = materials.dopant.shape[-1]
    classes = outcome_classes(num_dopants)
    weight = class_weight[classes].expand(*materials.host.shape, -1).clone()
    weight[..., NUM_PLAIN:] *= materials.dopant_weight
    weight *= materials.host_weight[..., None]
    joint = density * weight[:, None] * possible[..., None, None]
    total = joint.flatten(1).sum(-1).clamp(min=1e-38)
    cells = joint.sum(1) / total[:, None, None]
    defect = torch.zeros(len(joint), len(DEFECTS), dtype=torch.float32).index_add_(
        1, classes, cells.sum(1)
    )
    # the crystal has its dopant whether or not the central site holds it
    material = (
        cells[..., :NUM_PLAIN].sum(-1, keepdim=True) * materials.dopant_weight
        + cells[..., NUM_PLAIN:]
    )
    ess = (joint.flatten(2).sum(-1) / total[:, None]).square().sum(-1).reciprocal()

    chosen = _systematic(joint.flatten(1), num_draws, generator)
    outcome, chosen = chosen % joint.shape[-1], chosen // joint.shape[-1]
    host, draw = chosen % joint.shape[2], chosen // joint.shape[2]
    at = torch.arange(len(joint))[:, None]
    if num_dopants == 1:
        dopant = torch.zeros_like(host)
    else:
        edges = materials.dopant_weight.cumsum(-1).expand(len(joint), -1, -1)[at, host]
        u = torch.rand(host.shape, generator=generator, dtype=torch.float32)
        drawn = (edges < u[..., None] * edges[..., -1:]).sum(-1)
        dopant = torch.where(outcome >= NUM_PLAIN, outcome - NUM_PLAIN, drawn)
    plain = density[..., :NUM_PLAIN] @ class_weight[classes[:NUM_PLAIN]]
    given = (
        plain[at, draw, host]
        + density[at, draw, host, NUM_PLAIN + dopant] * class_weight[DEFECTS.index("D_M")]
    )
    return defect, material, ess, draw, host, dopant, outcome, given.clamp(min=1e-38).log()


def _systematic(weight: Tensor, num_draws: int, generator: torch.Generator) -> Tensor:
    """Draw categories by systematic resampling, in random order, shape (row, draw)."""
    edges = weight.cumsum(-1)
    u = (
        torch.arange(num_draws)
        + torch.rand(len(weight), 1, generator=generator, dtype=torch.float32)
    ) / max(num_draws, 1)
    chosen = torch.searchsorted(edges, u * edges[:, -1:], right=True).clamp(
        max=weight.shape[-1] - 1
    )
    return chosen[:, torch.randperm(num_draws, generator=generator)]


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
