"""Objectives of the training: log scores of the true class given features and context."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..context import Detector, is_annular_dark_field
from ..defects import HYPOTHESIS_OF_SPECIES
from ..likelihood import describe, log_sum_exp
from ..model import NUM_PLAIN, DefectModel, LikelihoodTable, Materials, outcome_classes
from ..prior import CONTINUOUS, MAX_TRIES, Prior
from ..simulation import Patches

__all__ = [
    "EVERYTHING",
    "Question",
    "ask",
    "conditional_log_score",
    "generative_log_score",
    "log_score_of_table",
    "log_scores_among_images",
    "random_subset",
]

DISCRETE = ("host", "dopant")
EVERYTHING = frozenset((*DISCRETE, *CONTINUOUS))


@dataclass(frozen=True)
class Question:
    """Known variables of the images of a batch, and the draws and materials to marginalise over.

    Attributes
    ----------
    known : frozenset of str
        Names of the variables of the context.
    context : mapping of str to Tensor, shape (image or 1, draw)
        Draws of the continuous context, the known ones at their value.
    materials : Materials
        Hosts and dopants to enumerate, with a leading dimension (image or 1).
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
        Prior of hosts, dopants and continuous context.
    known : frozenset of str
        Names of the variables that are known of every image.
    generator : torch.Generator
        Source of randomness.
    num_draws : int
        Draws of the latent continuous context.
    rank : tuple of int
        Index of this share of a larger batch and number of equal shares: it gets the same random
        numbers as in the whole batch.

    Returns
    -------
    Question
        For all images of the batch; if nothing is known they share one set of draws.
    """
    num_images = len(batch.host)
    latent = [n for n in CONTINUOUS if n not in known]
    rows = 1 if len(latent) == len(CONTINUOUS) and not known & set(DISCRETE) else num_images
    draws = num_draws if latent else 1
    if latent:
        every = rows if rows == 1 else rows * rank[1]
        u = torch.rand(
            every, draws, MAX_TRIES, 1 + len(CONTINUOUS), generator=generator, dtype=torch.float32
        )
        u = u if rows == 1 else u.chunk(rank[1])[rank[0]]
        context = {n: v.to(batch.host.device) for n, v in prior.quantiles(u)[0].items()}
        for name in known & set(CONTINUOUS):
            context[name] = batch.context[name][:, None, None].expand_as(context[name])
        possible = is_annular_dark_field(context["convergence_semiangle"], Detector.of(context))
        first = possible.long().argmax(-1, keepdim=True)
        # where no try is possible the true context is used
        found = possible.any(-1)
        context = {
            n: torch.where(found, v.gather(-1, first)[..., 0], batch.context[n][:rows, None])
            for n, v in context.items()
        }
    else:
        context = {n: batch.context[n][:, None] for n in CONTINUOUS}
    return Question(known, context, _materials(batch, prior, known, rows))


def _materials(batch: Patches, prior: Prior, known: frozenset[str], rows: int) -> Materials:
    """Hosts and dopants that agree with what is known of every image."""
    every = Materials.of(prior).map(lambda field: field.to(batch.host.device))
    if not known & set(DISCRETE):
        fields = (every.host, every.dopant, every.host_weight, every.dopant_weight)
        return Materials(*(f[None].expand(rows, *f.shape) for f in fields))
    if "host" in known:
        position = (every.host == batch.host[:, None]).long().argmax(-1)
        host, dopant, weight = (
            batch.host[:, None],
            every.dopant[position][:, None],
            every.dopant_weight[position][:, None],
        )
    else:
        host, dopant, weight = (
            f[None].expand(rows, *f.shape) for f in (every.host, every.dopant, every.dopant_weight)
        )
    if "dopant" in known:
        # a known dopant excludes the hosts that do not take it
        weight = (weight * (dopant == batch.dopant[:, None, None])).sum(-1, keepdim=True)
        dopant = batch.dopant[:, None, None].expand_as(weight)
    host_weight = weight.sum(-1)
    return Materials(
        host,
        dopant,
        host_weight / host_weight.sum(-1, keepdim=True),
        weight / weight.sum(-1, keepdim=True).clamp(min=1e-9),
    )


def conditional_log_score(
    model: DefectModel, features: Tensor, defect: Tensor, question: Question
) -> Tensor:
    """Log probability of the true class given the features and what is known.

    Parameters
    ----------
    model : DefectModel
        The model.
    features : Tensor, shape (image, patch, feature)
        Contrast features.
    defect : Tensor of int, shape (image, patch)
        True classes.
    question : Question
        What is known, and draws of the rest.

    Returns
    -------
    Tensor, shape (image, patch)
        log p(defect | features, known context) in nats.
    """
    table = model.tabulate(question.context, question.materials)
    return log_score_of_table(table, features, defect, question)


def log_score_of_table(
    table: LikelihoodTable, features: Tensor, defect: Tensor, question: Question
) -> Tensor:
    """Log probability of the true class given a table of the likelihood.

    Parameters
    ----------
    table : LikelihoodTable
        Of the context and the materials of the question.
    features : Tensor, shape (image, patch, feature)
        Contrast features.
    defect : Tensor of int, shape (image, patch)
        True classes.
    question : Question
        What is known, and draws of the rest.

    Returns
    -------
    Tensor, shape (image, patch)
        log p(defect | features, known context) in nats.
    """
    materials = question.materials
    shared = len(next(iter(question.context.values()))) == 1 and len(features) > 1
    rows = features.flatten(0, 1)[None] if shared else features
    log_prob = table.log_prob(rows)
    num_dopants = materials.dopant.shape[-1]
    doped = (materials.dopant_weight * materials.host_weight[..., None]).log()
    plain = materials.host_weight.log()[..., None].expand(*materials.host_weight.shape, NUM_PLAIN)
    joint = log_prob + torch.cat([plain, doped], -1)[:, None, None]
    if shared:
        joint = joint[0].unflatten(0, features.shape[:2])
    is_true = outcome_classes(num_dopants).to(defect.device) == defect[..., None, None, None]
    joint = joint.clamp(min=-1e5)
    return log_sum_exp(joint.masked_fill(~is_true, -torch.inf).flatten(2)) - log_sum_exp(
        joint.flatten(2)
    )


def log_scores_among_images(
    model: DefectModel, features: Tensor, batch: Patches, num_images: int
) -> tuple[Tensor, Tensor]:
    """Log probability of the true class given the context, and of class and image without it.

    Parameters
    ----------
    model : DefectModel
        The model.
    features : Tensor, shape (image, patch, feature)
        Contrast features.
    batch : Patches
        The truth.
    num_images : int
        Number of consecutive images of the batch that are the candidates for the image of a patch;
        the whole batch if its size is not a multiple.

    Returns
    -------
    of_class : Tensor, shape (image, patch)
        log p(defect | features, whole context) in nats.
    of_both : Tensor, shape (image, patch)
        log p(defect, host, dopant, context | features) in nats, where host, dopant and context are
        those of one of these images: all are draws from the prior, so that this is a contrastive
        estimate of likelihood ratios.

    References
    ----------
    Durkan, Murray and Papamakarios, On contrastive learning for likelihood-free inference, ICML
    (2020), arXiv 2002.03712.
    """
    groups, rest = divmod(len(features), num_images)
    groups = 1 if rest else groups
    question = ask(batch, model.prior, EVERYTHING, torch.Generator(), num_draws=1)
    # the images of a group as if they were draws of the context
    outcomes = model.tabulate(question.context, question.materials).map(
        lambda v: v.unflatten(0, (groups, -1)).flatten(1, 2)
    )
    rows = features.reshape(groups, -1, features.shape[-1])
    joint = outcomes.log_prob(rows)[..., 0, :].clamp(min=-1e5)
    # (group, image, patch, draw, outcome)
    joint = joint.unflatten(1, (len(features) // groups, -1))
    own = joint.diagonal(dim1=1, dim2=3).movedim(-1, 1)
    is_true = (outcome_classes(1).to(joint.device) == batch.defect[..., None]).unflatten(
        0, (groups, -1)
    )
    true = own[is_true].view(own.shape[:-1])
    of_class, of_both = true - log_sum_exp(own), true - log_sum_exp(joint.flatten(-2))
    return of_class.flatten(0, 1), of_both.flatten(0, 1)


def generative_log_score(model: DefectModel, features: Tensor, batch: Patches) -> Tensor:
    """Log density of the features given the true species and context.

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
        log p(features | species, context) in nats. It has no gradient with respect to the encoder,
        which could raise it without limit by making all features equal.
    """
    inputs = describe(batch.host, batch.dopant, batch.context)
    hypothesis = torch.tensor(HYPOTHESIS_OF_SPECIES).to(batch.species.device)[batch.species]
    picked = inputs.gather(1, hypothesis[..., None].expand(-1, -1, inputs.shape[-1]))
    return model.likelihood(picked).log_prob(features.detach())


def random_subset(generator: torch.Generator) -> frozenset[str]:
    """Draw which variables are known.

    Parameters
    ----------
    generator : torch.Generator
        Source of randomness.

    Returns
    -------
    frozenset of str
        Names of variables: none with a probability of 0.1; otherwise each is known with a
        probability that is drawn uniformly.
    """
    kind = float(torch.rand((), generator=generator, dtype=torch.float32))
    if kind < 0.1:
        return frozenset()
    share = float(torch.rand((), generator=generator, dtype=torch.float32))
    return frozenset(
        n
        for n in (*DISCRETE, *CONTINUOUS)
        if float(torch.rand((), generator=generator, dtype=torch.float32)) < share
    )
