"""The conditional log score: how probable the true class is, given the features and a random part of the context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..likelihood import HYPOTHESES, describe, log_sum_exp
from ..model import DefectModel, Materials, outcome_classes
from ..prior import CONTINUOUS, MAX_TRIES, Prior
from ..simulation import BLOCK, SPECIES, Patches
from ..structure import DEFECTS

__all__ = ["EVERYTHING", "Question", "ask", "conditional_log_scores", "generative_log_score", "random_subset"]

DISCRETE = ("host", "dopant")
EVERYTHING = frozenset((*DISCRETE, *CONTINUOUS))
HYPOTHESIS_OF_SPECIES = torch.tensor([
    max(i for i, (d, v) in enumerate(HYPOTHESES) if d == defect and v <= alternative) for defect, alternative in SPECIES
])  # fmt: skip


@dataclass(frozen=True)
class Question:
    """What is known of the images of a batch, and what is enumerated or drawn in the place of the rest.

    Attributes
    ----------
    known : frozenset of str
        Names of the variables of the context.
    context : mapping of str to Tensor, shape (row, draw)
        The true context of every image of the row, in the order of the images, then draws of the continuous context with the
        known ones at their value. A row is an image, or all images of a block where nothing is known.
    materials : Materials
        Hosts and dopants to enumerate, with a leading dimension (row).
    """

    known: frozenset[str]
    context: Mapping[str, Tensor]
    materials: Materials


def ask(
    batch: Patches,
    prior: Prior,
    known: frozenset[str],
    generator: torch.Generator,
    num_draws: int,
    rank: tuple[int, int] = (0, 1),
) -> Question:
    """Set up the marginalisation over everything that is not known.

    Parameters
    ----------
    batch : Patches
        Images with their truth.
    prior : Prior
        Gives hosts, dopants and draws of what is not known.
    known : frozenset of str
        Names of the variables that are known of every image.
    generator : torch.Generator
        Source of randomness.
    num_draws : int
        Draws of the latent continuous context.
    rank : tuple of int
        Which of how many equal shares of a larger batch this is: it gets the numbers that the share would get in the whole.

    Returns
    -------
    Question
        For the whole batch; shared by the images of a block where nothing is known.
    """
    num_images, num_patches = batch.defect.shape
    blocks, rest = divmod(num_images * num_patches, BLOCK)
    rows = num_images if known else 1 if rest else blocks
    truth = {n: batch.context[n].unflatten(0, (rows, -1)) for n in CONTINUOUS}
    materials = _materials(batch, prior, known, rows)
    if EVERYTHING - set(DISCRETE) <= known:
        return Question(known, truth, materials)
    every = rows * rank[1] if known else 1
    u = torch.rand(every, num_draws, MAX_TRIES, 1 + len(CONTINUOUS), generator=generator)
    u = u.chunk(rank[1])[rank[0]] if known else u
    context = {n: v.to(batch.host.device) for n, v in prior.quantiles(u)[0].items()}
    for name in known & set(CONTINUOUS):
        context[name] = truth[name][..., None].expand_as(context[name])
    inner, outer = context["inner_collection_angle"], context["outer_collection_angle"]
    possible = (context["convergence_semiangle"] <= inner) & (inner * 1.05 < outer)
    first = possible.long().argmax(-1, keepdim=True)
    # where no try was possible the truth, which is, takes its place
    found = possible.any(-1)
    draws = {n: torch.where(found, v.gather(-1, first)[..., 0], truth[n][:, :1]) for n, v in context.items()}
    return Question(known, {n: torch.cat([truth[n], v], 1) for n, v in draws.items()}, materials)


def _materials(batch: Patches, prior: Prior, known: frozenset[str], rows: int) -> Materials:
    """Hosts and dopants that agree with what is known of every image."""
    every = Materials.of(prior).map(lambda field: field.to(batch.host.device))
    if not known & set(DISCRETE):
        fields = (every.host, every.dopant, every.host_weight, every.dopant_weight)
        return Materials(*(f[None].expand(rows, *f.shape) for f in fields))
    if "host" in known:
        position = (every.host == batch.host[:, None]).long().argmax(-1)
        host, dopant, weight = batch.host[:, None], every.dopant[position][:, None], every.dopant_weight[position][:, None]
    else:
        host, dopant, weight = (f[None].expand(rows, *f.shape) for f in (every.host, every.dopant, every.dopant_weight))
    if "dopant" in known:
        # a known dopant speaks for the hosts that take it
        weight = (weight * (dopant == batch.dopant[:, None, None])).sum(-1, keepdim=True)
        dopant = batch.dopant[:, None, None].expand_as(weight)
    host_weight = weight.sum(-1)
    return Materials(
        host, dopant, host_weight / host_weight.sum(-1, keepdim=True), weight / weight.sum(-1, keepdim=True).clamp(min=1e-9)
    )


def conditional_log_scores(model: DefectModel, features: Tensor, batch: Patches, question: Question) -> tuple[Tensor, Tensor]:
    """Log probability of the true class given the features and what is known, and of the class with all that is not known.

    Parameters
    ----------
    model : DefectModel
        The model.
    features : Tensor, shape (image, patch, feature)
        Contrast features.
    batch : Patches
        The truth.
    question : Question
        What is known, and draws of the rest.

    Returns
    -------
    of_class : Tensor, shape (image, patch)
        log p(defect | features, known context) in nats; the rest is summed out over draws that are not the truth.
    of_all : Tensor, shape (image, patch)
        log p(defect, host, dopant if it is there, context | features, known context) in nats, where the true context is one of
        the draws and nobody says which (the contrastive estimate of likelihood ratios).

    References
    ----------
    Durkan, Murray and Papamakarios, On contrastive learning for likelihood-free inference, ICML (2020), arXiv 2002.03712.
    """
    materials = question.materials
    rows, num_draws = question.context["dose"].shape
    outcomes = model.outcomes(question.context, materials)
    log_prob = outcomes.log_prob(features.reshape(rows, -1, features.shape[-1]))
    doped = (materials.dopant_weight * materials.host_weight[..., None]).log()
    plain = materials.host_weight.log()[..., None].expand(*materials.host_weight.shape, len(DEFECTS) - 1)
    joint = (log_prob + torch.cat([plain, doped], -1)[:, None, None]).clamp(min=-1e5)
    # shape (row, image, patch, draw, host, outcome)
    joint = joint.unflatten(1, (len(features) // rows, -1))
    classes = outcome_classes(materials.dopant.shape[-1]).to(joint.device)
    is_class = (classes == batch.defect[..., None]).unflatten(0, (rows, -1))[..., None, None, :]
    true = torch.eye(joint.shape[1], num_draws, dtype=torch.bool, device=joint.device)[:, None, :, None, None]
    of_all = _log_sum(joint, is_class & true & _is_material(batch, materials)) - _log_sum(joint)
    if num_draws > 1:
        joint = joint.masked_fill(true, -torch.inf)
    of_class = _log_sum(joint, is_class) - _log_sum(joint)
    return of_class.flatten(0, 1), of_all.flatten(0, 1)


def _is_material(batch: Patches, materials: Materials) -> Tensor:
    """Whether an outcome is of the true host and, if it is doped, dopant, shape (row, image, 1, 1, host, outcome)."""
    rows = len(materials.host)
    host, dopant = (v.unflatten(0, (rows, -1))[..., None] for v in (batch.host, batch.dopant))
    is_dopant = materials.dopant[:, None] == dopant[..., None]
    plain = is_dopant.new_ones(*is_dopant.shape[:-1], len(DEFECTS) - 1)
    is_host = materials.host[:, None] == host
    return (is_host[..., None] & torch.cat([plain, is_dopant], -1))[:, :, None, None]


def _log_sum(joint: Tensor, chosen: Tensor | None = None) -> Tensor:
    """Logarithm of the sum over draws, hosts and outcomes, or over those that are chosen."""
    joint = joint if chosen is None else joint.masked_fill(~chosen, -torch.inf)
    return log_sum_exp(joint.flatten(-3))


def generative_log_score(model: DefectModel, features: Tensor, batch: Patches) -> Tensor:
    """Log density of the features under the truth; the encoder learns nothing from it, or it would collapse.

    Parameters
    ----------
    model : DefectModel
        The model.
    features : Tensor, shape (image, patch, feature)
        Contrast features.
    batch : Patches
        The truth.

    Returns
    -------
    Tensor, shape (image, patch)
        log p(features | everything) in nats.
    """
    inputs = describe(batch.host, batch.dopant, batch.context)
    hypothesis = HYPOTHESIS_OF_SPECIES.to(batch.species.device)[batch.species]
    picked = inputs.gather(1, hypothesis[..., None].expand(-1, -1, inputs.shape[-1]))
    return model.likelihood(picked).log_prob(features.detach())


def random_subset(generator: torch.Generator) -> frozenset[str]:
    """Draw which variables are known: none, or each with a probability that is itself drawn.

    Parameters
    ----------
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    frozenset of str
        Names of variables.
    """
    kind = float(torch.rand((), generator=generator))
    if kind < 0.1:
        return frozenset()
    share = float(torch.rand((), generator=generator))
    return frozenset(n for n in (*DISCRETE, *CONTINUOUS) if float(torch.rand((), generator=generator)) < share)
