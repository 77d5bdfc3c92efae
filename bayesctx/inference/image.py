"""Posterior of the sites of one image, which share its context and the composition of its crystal."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ..defects import DEFECTS
from ..model import Materials, Outcomes
from .patches import BUDGET, NUM_PLAIN

__all__ = ["ImagePosterior", "Sites", "log_evidence", "log_marginal", "one_image"]

EVIDENCE_SITES = (
    1024  # more sites of one image hardly say more about the context: they share its nuisances
)
KEPT_MASS, KEPT_CELLS = 1 - 1e-4, 1024
FLOOR = 1e-6  # of the best density: what no hypothesis explains does not decide the context
ROUNDS = 50


@dataclass(frozen=True)
class Sites:
    """What is known of the sites of one image before their contrast is seen.

    Attributes
    ----------
    group : Tensor of int, shape (patch,)
        Sublattice of every site.
    readings : Tensor of int, shape (reading, group)
        Kind of site that every sublattice is, under each reading of the lattice.
    strength : Tensor, shape (kind, defect_class)
        Dirichlet parameters of the classes of each kind of site.
    """

    group: Tensor
    readings: Tensor
    strength: Tensor


@dataclass(frozen=True)
class ImagePosterior:
    """Posterior of the sites of one image, which share its context.

    Attributes
    ----------
    defect : Tensor, shape (reading, patch, defect_class)
        Class probabilities given the reading.
    reading : Tensor, shape (reading,)
        Probabilities of the readings.
    material : Tensor, shape (host, dopant)
        Probabilities of the materials that were enumerated.
    ess : float
        Effective number of draws of the context.
    cells : Tensor of int, shape (cell, 4)
        The combinations (reading, draw, host, dopant) that carry the posterior.
    weight : Tensor, shape (cell,)
        Their probabilities.
    log_likelihood : Tensor, shape (cell, patch)
        Log density of the contrast of every patch given the combination.
    """

    defect: Tensor
    reading: Tensor
    material: Tensor
    ess: float
    cells: Tensor
    weight: Tensor
    log_likelihood: Tensor


def one_image(
    outcomes: Outcomes,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: Sites,
    correlation: float,
) -> ImagePosterior:
    """Posterior of the sites of one image.

    Parameters
    ----------
    outcomes : Outcomes, shapes (draw, host, hypothesis, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    materials : Materials, shapes (host, ...)
        What was enumerated.
    possible : Tensor of bool, shape (draw,)
        Draws of the context that can be.
    sites : Sites
        Sublattices, their readings, and the composition expected of each kind of site.
    correlation : float
        Correlation of the evidence of two patches: see ``DefectModel``.

    Returns
    -------
    ImagePosterior
        For all sites.

    Notes
    -----
    p(cell | image) ~ p(cell) prod_i p(contrast_i | cell)^tau, tau = 1 / (1 + (n - 1) correlation): a composite likelihood
    that counts n patches which share their nuisances as n tau independent ones. The classes of the sites share the
    composition of the crystal; it is integrated out by collapsed variational Bayes (CVB0), exact for one patch. There too
    the counts of the others weigh tau: what makes a thousand tungsten columns look like two seleniums is one aberration.

    References
    ----------
    Varin, Reid and Firth, Statistica Sinica 21, 5 (2011). Kish, Survey Sampling (1965).
    Asuncion, Welling, Smyth and Teh, UAI (2009).
    """
    num = len(features)
    mean = sites.strength / sites.strength.sum(-1, keepdim=True)
    log_prior, tempered, num_used = _joint(
        outcomes, features, materials, possible, sites, correlation
    )
    tau, tau_others = (1 / (1 + max(n - 1, 0) * correlation) for n in (num, num - 1))
    posterior = (log_prior + tempered).flatten().softmax(0).view(tempered.shape)

    cells = _keep(posterior) if num > 1 else (posterior >= 0).nonzero()
    index = tuple(cells.T)
    # what the other patches say of the context: without the patch itself, which speaks through its own density
    others = log_prior.expand_as(tempered)[index] + tempered[index] * (tau_others / tau)
    own = tau_others * (num == num_used)
    likelihood, log_likelihood = _site_likelihood(
        outcomes, features, cells, sites, mean, others, own
    )
    kinds = sites.readings[:, sites.group]
    defect = torch.stack(
        [
            _share_composition(v, k, sites.strength, tau)
            for v, k in zip(likelihood, kinds, strict=True)
        ]
    )
    weight = posterior[index] / posterior[index].sum()
    ess = float(posterior.sum((0, 2, 3)).square().sum().reciprocal())
    return ImagePosterior(
        defect, posterior.sum((1, 2, 3)), posterior.sum((0, 1)), ess, cells, weight, log_likelihood
    )


def _joint(
    outcomes: Outcomes,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: Sites,
    correlation: float,
) -> tuple[Tensor, Tensor, int]:
    """Log prior and tempered log evidence of every cell, shape (reading, draw, host, dopant), and the sites they rest on."""
    num = len(features)
    mean = sites.strength / sites.strength.sum(-1, keepdim=True)
    chosen = (
        torch.arange(num)
        if num <= EVIDENCE_SITES
        else torch.linspace(0, num - 1, EVIDENCE_SITES).long()
    )
    evidence = log_evidence(outcomes, features[chosen], sites.group[chosen], mean)
    by_reading = sum(evidence[g, sites.readings[:, g]] for g in range(sites.readings.shape[1]))
    log_prior = (materials.host_weight[:, None] * materials.dopant_weight).log() + possible.log()[
        :, None, None
    ]
    tau = 1 / (1 + max(num - 1, 0) * correlation)
    return log_prior, by_reading * (tau * num / len(chosen)), len(chosen)


def log_marginal(
    outcomes: Outcomes,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: Sites,
    correlation: float,
) -> float:
    """Log evidence of an image, everything that was enumerated or drawn summed out.

    Parameters
    ----------
    outcomes : Outcomes, shapes (draw, host, hypothesis, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    materials : Materials, shapes (host, ...)
        What was enumerated.
    possible : Tensor of bool, shape (draw,)
        Draws of the context that can be.
    sites : Sites
        Sublattices, their readings, and the composition expected of each kind of site.
    correlation : float
        Of the evidence of two patches.

    Returns
    -------
    float
        In nats, tempered as in ``one_image``.
    """
    log_prior, tempered, _ = _joint(outcomes, features, materials, possible, sites, correlation)
    return float(
        (log_prior + tempered).logsumexp((0, 1, 2, 3))
        - possible.sum().log()
        - math.log(len(sites.readings))
    )


def log_evidence(outcomes: Outcomes, features: Tensor, group: Tensor, mean: Tensor) -> Tensor:
    """Log evidence of every sublattice being every kind of site.

    Parameters
    ----------
    outcomes : Outcomes, shapes (draw, host, hypothesis, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    group : Tensor of int, shape (patch,)
        Sublattice of every patch.
    mean : Tensor, shape (kind, defect_class)
        Expected composition of every kind of site.

    Returns
    -------
    Tensor, shape (group, kind, draw, host, dopant)
        Sum over the patches of a group of the log density of their contrast.
    """
    num_groups = int(group.max()) + 1
    doped = DEFECTS.index("D_M")
    plain = mean[:, [i for i in range(len(DEFECTS)) if i != doped]]
    total = 0
    for rows in torch.arange(len(features)).split(max(1, BUDGET // outcomes.log_weight.numel())):
        density, peak = outcomes.density(features[rows])
        same = density[..., :NUM_PLAIN] @ plain.T  # (patch, draw, host, kind)
        own = (
            density[..., None, NUM_PLAIN:] * mean[:, doped, None]
        )  # (patch, draw, host, kind, dopant)
        log_density = (same[..., None] + own + FLOOR).log() + peak[:, None, None, None, None]
        member = torch.nn.functional.one_hot(group[rows], num_groups).to(features)
        total = total + torch.einsum("pg,pjhkd->gkjhd", member, log_density)
    return total


def _keep(posterior: Tensor) -> Tensor:
    """Combinations that carry nearly all of the mass, most probable first."""
    mass, order = posterior.flatten().sort(descending=True)
    count = min(int((mass.cumsum(0) < KEPT_MASS).sum()) + 1, KEPT_CELLS)
    return torch.stack(torch.unravel_index(order[:count], posterior.shape), -1)


def _site_likelihood(
    outcomes: Outcomes,
    features: Tensor,
    cells: Tensor,
    sites: Sites,
    mean: Tensor,
    others: Tensor,
    own: float,
) -> tuple[Tensor, Tensor]:
    """Likelihood of the classes under each reading, (reading, patch, class), and log evidence per cell, (cell, patch).

    ``others`` are the log weights of the cells, ``own`` is the power with which they contain the patch itself.
    """
    pairs, which = cells[:, 1:3].unique(dim=0, return_inverse=True)
    table = outcomes[pairs[:, 0], pairs[:, 1]][:, None]
    plain = [i for i in range(len(DEFECTS)) if i != DEFECTS.index("D_M")]
    of_reading = torch.nn.functional.one_hot(cells[:, 0], len(sites.readings)).to(features)
    likelihoods, evidence = [], []
    size = max(1, BUDGET // max(table.log_weight.numel(), 4 * len(cells) * len(DEFECTS)))
    for rows in torch.arange(len(features)).split(size):
        found, peak = table.density(features[rows])
        found = found[:, which, 0]  # (patch, cell, outcome)
        density = torch.empty(*found.shape[:2], len(DEFECTS))
        density[..., plain] = found[..., :NUM_PLAIN]
        dopant = (NUM_PLAIN + cells[:, 3]).expand(len(rows), -1)[..., None]
        density[..., DEFECTS.index("D_M")] = found.gather(-1, dopant)[..., 0]
        prior = mean[sites.readings[cells[:, 0]][:, sites.group[rows]].T]  # (patch, cell, class)
        log_density = (density * prior).sum(-1).add(FLOOR).log() + peak[:, None]
        weight = (others - own * log_density).softmax(-1)
        likelihoods.append(torch.einsum("pc,cr,pck->rpk", weight, of_reading, density))
        evidence.append(log_density.T)
    return torch.cat(likelihoods, 1), torch.cat(evidence, 1)


def _share_composition(likelihood: Tensor, kind: Tensor, strength: Tensor, tau: float) -> Tensor:
    """Class probabilities of sites that share an unknown composition, shape (patch, defect_class)."""
    alpha = strength[kind]
    # a class that no hypothesis explains keeps its prior
    likelihood = likelihood + FLOOR * likelihood.amax(-1, keepdim=True) + 1e-38
    q = alpha * likelihood
    q = q / q.sum(-1, keepdim=True)
    for _ in range(ROUNDS):
        counts = torch.zeros_like(strength).index_add_(0, kind, q)
        q = (alpha + tau * (counts[kind] - q).clamp(min=0)) * likelihood
        q = q / q.sum(-1, keepdim=True)
    return q
