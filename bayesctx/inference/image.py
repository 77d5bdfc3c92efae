"""Posterior of the sites of one image, which share its context and abundances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..abundance import Abundance
from ..defects import DEFECTS, DOPED
from ..model import NUM_PLAIN, Materials, SitePrior, Table
from .patches import BUDGET

__all__ = ["ImagePosterior", "log_evidence", "log_marginal", "one_image"]

# sites that the evidence for the context is computed from; since all share their nuisances, more
# of them add hardly any
EVIDENCE_SITES = 1024
KEPT_MASS, KEPT_CELLS = 1 - 1e-4, 1024  # of the posterior of the context
# of the best density: bounds the influence on the context of a patch that no hypothesis explains
FLOOR = 1e-6
ROUNDS = 50  # of the variational updates of the abundances
DOPED_CLASS = DEFECTS.index(DOPED)
PLAIN_CLASSES = [i for i in range(len(DEFECTS)) if i != DOPED_CLASS]


@dataclass(frozen=True)
class ImagePosterior:
    """Posterior of the sites of one image, which share its context.

    Attributes
    ----------
    log_evidence : float
        Log of the tempered marginal likelihood in nats.
    defect : Tensor, shape (assignment, patch, defect_class)
        Class probabilities given the assignment.
    assignment : Tensor, shape (assignment,)
        Probabilities of the assignments.
    material : Tensor, shape (host, dopant)
        Probabilities of the materials that were enumerated.
    ess : float
        Effective number of draws of the context.
    cells : Tensor of int, shape (cell, 4)
        The most probable combinations (assignment, draw, host, dopant).
    weight : Tensor, shape (cell,)
        Their probabilities, normalised.
    log_likelihood : Tensor, shape (cell, patch)
        Log density of the contrast of every patch given the combination.
    """

    log_evidence: float
    defect: Tensor
    assignment: Tensor
    material: Tensor
    ess: float
    cells: Tensor
    weight: Tensor
    log_likelihood: Tensor

    @property
    def marginal(self) -> Tensor:
        """Class probabilities summed over the assignments, shape (patch, defect_class)."""
        return torch.einsum("r,rpk->pk", self.assignment, self.defect)


def one_image(
    table: Table,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: SitePrior,
    correlation: float,
) -> ImagePosterior:
    """Posterior of the sites of one image.

    Parameters
    ----------
    table : Table, shape (draw, host, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    materials : Materials, shapes (host, ...)
        Hosts and dopants that are enumerated.
    possible : Tensor of bool, shape (draw,)
        Draws of the context with a detector outside of the probe's cone.
    sites : SitePrior
        Sublattices, their assignments, and the abundances expected on each kind of site.
    correlation : float
        Correlation of the evidence of two patches, see ``DefectModel``.

    Returns
    -------
    ImagePosterior
        For all sites.

    Notes
    -----
    p(cell | image) ~ p(cell) prod_i p(contrast_i | cell)^tau, tau = 1 / (1 + (n - 1) correlation):
    a composite likelihood in which n patches with common nuisances count as n tau independent ones.
    The abundances of the crystal, which the sites share, are integrated out by collapsed
    variational Bayes (CVB0), which is exact for one patch. The counts of the other sites are
    tempered as well, since an aberration changes the contrast of all columns of an image alike.

    References
    ----------
    Varin, Reid and Firth, Statistica Sinica 21, 5 (2011). Kish, Survey Sampling (1965).
    Asuncion, Welling, Smyth and Teh, UAI (2009).
    """
    num = len(features)
    log_prior, tempered, num_used = _joint(table, features, materials, possible, sites, correlation)
    tau, tau_others = (1 / (1 + max(n - 1, 0) * correlation) for n in (num, num - 1))
    total = (log_prior + tempered).flatten().logsumexp(0)
    posterior = (log_prior + tempered - total).exp()

    cells = _keep(posterior) if num > 1 else (posterior >= 0).nonzero()
    index = tuple(cells.T)
    # evidence of the other patches for the context; a patch itself enters by its own density
    others = log_prior.expand_as(tempered)[index] + tempered[index] * (tau_others / tau)
    own = tau_others * (num == num_used)
    likelihood, log_likelihood = _site_likelihood(table, features, cells, sites, others, own)
    defect = torch.stack([
        _share_abundance(v, k, sites.abundance, tau)
        for v, k in zip(likelihood, sites.kinds, strict=True)
    ])  # fmt: skip
    return ImagePosterior(
        log_evidence=_normalise(total, possible, sites),
        defect=defect,
        assignment=posterior.sum((1, 2, 3)),
        material=posterior.sum((0, 1)),
        ess=float(posterior.sum((0, 2, 3)).square().sum().reciprocal()),
        cells=cells,
        weight=posterior[index] / posterior[index].sum(),
        log_likelihood=log_likelihood,
    )


def _joint(
    table: Table,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: SitePrior,
    correlation: float,
) -> tuple[Tensor, Tensor, int]:
    """Log prior and tempered log evidence (assignment, draw, host, dopant), and sites used."""
    num = len(features)
    most = min(num, EVIDENCE_SITES)
    chosen = torch.arange(num) if num == most else torch.linspace(0, num - 1, most).long()
    evidence = log_evidence(table, features[chosen], sites.take(chosen))
    by_assignment = sum(
        evidence[g, sites.assignments[:, g]] for g in range(sites.assignments.shape[1])
    )
    log_prior = (materials.host_weight[:, None] * materials.dopant_weight).log()
    log_prior = log_prior + possible.float().log()[:, None, None]
    tau = 1 / (1 + max(num - 1, 0) * correlation)
    return log_prior, by_assignment * (tau * num / most), most


def _normalise(total: Tensor, possible: Tensor, sites: SitePrior) -> float:
    """Log of the mean over assignments and possible draws, from the log of the sum."""
    return float(total - (possible.sum() * len(sites.assignments)).log())


def log_marginal(
    table: Table,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: SitePrior,
    correlation: float,
) -> float:
    """Log evidence of an image, marginalised over materials, assignments and draws.

    Parameters
    ----------
    table : Table, shape (draw, host, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    materials : Materials, shapes (host, ...)
        Hosts and dopants that are enumerated.
    possible : Tensor of bool, shape (draw,)
        Draws of the context with a detector outside of the probe's cone.
    sites : SitePrior
        Sublattices, their assignments, and the abundances expected on each kind of site.
    correlation : float
        Correlation of the evidence of two patches.

    Returns
    -------
    float
        In nats, tempered as in ``one_image``.
    """
    log_prior, tempered, _ = _joint(table, features, materials, possible, sites, correlation)
    return _normalise((log_prior + tempered).flatten().logsumexp(0), possible, sites)


def log_evidence(table: Table, features: Tensor, sites: SitePrior) -> Tensor:
    """Log evidence for every kind of site on every sublattice.

    Parameters
    ----------
    table : Table, shape (draw, host, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    sites : SitePrior
        Sublattices, and the abundances expected on each kind of site.

    Returns
    -------
    Tensor, shape (sublattice, kind, draw, host, dopant)
        Sum over the patches of a sublattice of the log density of their contrast.
    """
    mean, total = sites.mean, 0
    for rows in torch.arange(len(features)).split(max(1, BUDGET // _size(table))):
        density, peak = table.density(features[rows])
        same = density[..., :NUM_PLAIN] @ mean[:, PLAIN_CLASSES].T  # (patch, draw, host, kind)
        # (patch, draw, host, kind, dopant)
        own = density[..., None, NUM_PLAIN:] * mean[:, DOPED_CLASS, None]
        log_density = (same[..., None] + own + FLOOR).log() + peak[:, None, None, None, None]
        num_sublattices = sites.assignments.shape[1]
        member = torch.nn.functional.one_hot(sites.sublattice[rows], num_sublattices).to(features)
        total = total + torch.einsum("pg,pjhkd->gkjhd", member, log_density)
    return total


def _size(table: Table) -> int:
    """Numbers in the table for each patch."""
    return torch.Size(table.shape).numel()


def _keep(posterior: Tensor) -> Tensor:
    """Combinations that carry nearly all of the mass, most probable first."""
    mass, order = posterior.flatten().sort(descending=True)
    count = min(int((mass.cumsum(0) < KEPT_MASS).sum()) + 1, KEPT_CELLS)
    return torch.stack(torch.unravel_index(order[:count], posterior.shape), -1)


def _site_likelihood(
    table: Table, features: Tensor, cells: Tensor, sites: SitePrior, others: Tensor, own: float
) -> tuple[Tensor, Tensor]:
    """Likelihood of the classes, (assignment, patch, class), and log evidence, (cell, patch)."""
    # others are log weights of the cells; they contain the density of the patch to the power own
    pairs, which = cells[:, 1:3].unique(dim=0, return_inverse=True)
    kept = table[pairs[:, 0], pairs[:, 1]][:, None]
    by_assignment = torch.nn.functional.one_hot(cells[:, 0], len(sites.assignments)).to(features)
    mean, likelihoods, evidence = sites.mean, [], []
    size = max(1, BUDGET // max(_size(kept), 4 * len(cells) * len(DEFECTS)))
    for rows in torch.arange(len(features)).split(size):
        found, peak = kept.density(features[rows])
        found = found[:, which, 0]  # (patch, cell, outcome)
        density = features.new_empty(*found.shape[:2], len(DEFECTS))
        density[..., PLAIN_CLASSES] = found[..., :NUM_PLAIN]
        dopant = (NUM_PLAIN + cells[:, 3]).expand(len(rows), -1)[..., None]
        density[..., DOPED_CLASS] = found.gather(-1, dopant)[..., 0]
        prior = mean[sites.take(rows).kinds[cells[:, 0]].T]  # (patch, cell, class)
        log_density = (density * prior).sum(-1).add(FLOOR).log() + peak[:, None]
        weight = (others - own * log_density).softmax(-1)
        likelihoods.append(torch.einsum("pc,cr,pck->rpk", weight, by_assignment, density))
        evidence.append(log_density.T)
    return torch.cat(likelihoods, 1), torch.cat(evidence, 1)


def _share_abundance(likelihood: Tensor, kind: Tensor, abundance: Abundance, tau: float) -> Tensor:
    """Class probabilities of sites that share unknown abundances, shape (patch, defect_class)."""
    prior = abundance.rows(kind)
    # where no class explains a patch the prior remains
    likelihood = likelihood + FLOOR * likelihood.amax(-1, keepdim=True) + 1e-38
    q = prior.mean.to(likelihood) * likelihood
    q = q / q.sum(-1, keepdim=True)
    for _ in range(ROUNDS):
        counts = q.new_zeros(abundance.order.shape).index_add_(0, kind, q)
        q = prior.posterior_mean(tau * (counts[kind] - q).clamp(min=0)) * likelihood
        q = q / q.sum(-1, keepdim=True)
    return q
