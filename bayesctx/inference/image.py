"""Posterior of the sites of one image, which share its context and abundances."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import NUM_PLAIN, Materials, SitePrior, Table
from ..model.mixing import SHARES, mix_dopants
from .joint import DOPED_CLASS, PLAIN_CLASSES, Cells, ClassProbabilities, classify
from .patches import BUDGET

__all__ = ["ImagePosterior", "log_density_of_kinds", "log_evidence", "log_marginal", "one_image"]

# sites that the evidence for the context is computed from; since all share their nuisances, more
# of them add hardly any
EVIDENCE_SITES = 1024
KEPT_MASS, KEPT_CELLS = 1 - 1e-4, 512  # of the posterior of the context
# of the best density: bounds the influence on the context of a patch that no hypothesis explains
FLOOR = 1e-6


@dataclass(frozen=True)
class ImagePosterior:
    """Posterior of the sites of one image, which share its context.

    Attributes
    ----------
    log_evidence : float
        Log of the tempered marginal likelihood in nats.
    assignment : Tensor, shape (assignment,)
        Probabilities of the assignments.
    material : Tensor, shape (host, dopant)
        Probabilities of the materials that were enumerated; of a co-doped crystal those of the host
        times the expected shares of both dopants.
    ess : float
        Effective number of draws of the context.
    cells : Cells
        Combinations (assignment, draw, host, composition) that represent the posterior.
    weight : Tensor, shape (cell,)
        Their probabilities, normalised.
    classes : ClassProbabilities
        Summed over these combinations.
    """

    log_evidence: float
    assignment: Tensor
    material: Tensor
    ess: float
    cells: Cells
    weight: Tensor
    classes: ClassProbabilities


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

    Raises
    ------
    ValueError
        If the evidence is not finite, as with weights of a model that are NaN.

    Notes
    -----
    p(cell | image) ~ p(cell) prod_i p(contrast_i | cell)^tau, tau = 1 / (1 + (n - 1) correlation):
    a composite likelihood in which n patches with common nuisances count as n tau independent ones.
    The context is weighed at the expected abundances of the crystal. The abundances, which the
    sites share, are integrated out for each cell with the same power, see ``classify``: an
    aberration changes the contrast of all columns of an image alike.

    References
    ----------
    Varin, Reid and Firth, Statistica Sinica 21, 5 (2011). Kish, Survey Sampling (1965).
    """
    num = len(features)
    log_prior, tempered, _ = _joint(table, features, materials, possible, sites, correlation)
    total = (log_prior + tempered).flatten().logsumexp(0)
    if not total.isfinite():
        raise ValueError(
            f"finite evidence of the image was expected, got {float(total)}; check the weights of "
            "the model"
        )
    posterior = (log_prior + tempered - total).exp()

    index, weight = _represent(posterior, KEPT_CELLS if num > 1 else posterior.numel())
    power = 1 / (1 + max(num - 1, 0) * correlation)
    cells = Cells.of(table, index, features, power, materials.is_codoped)
    material = posterior.sum((0, 1))
    return ImagePosterior(
        log_evidence=_normalise(total, possible, sites),
        assignment=posterior.sum((1, 2, 3)),
        material=material @ SHARES if materials.is_codoped else material,
        ess=float(posterior.sum((0, 2, 3)).square().sum().reciprocal()),
        cells=cells,
        weight=weight,
        classes=classify(cells, weight, materials, sites),
    )


def _joint(
    table: Table,
    features: Tensor,
    materials: Materials,
    possible: Tensor,
    sites: SitePrior,
    correlation: float,
) -> tuple[Tensor, Tensor, int]:
    """Log prior and tempered log evidence (assignment, draw, host, composition), sites used."""
    num = len(features)
    most = min(num, EVIDENCE_SITES)
    chosen = torch.arange(num) if num == most else torch.linspace(0, num - 1, most).long()
    given = table, features[chosen], sites.take(chosen)
    evidence = log_evidence(*given, is_codoped=materials.is_codoped)
    by_assignment = sum(
        evidence[g, sites.assignments[:, g]] for g in range(sites.assignments.shape[1])
    )
    log_prior = (materials.host_weight[:, None] * materials.composition_weight).log()
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


def log_density_of_kinds(found: ImagePosterior, sites: SitePrior) -> Tensor:
    """Log density of the contrast of every site for each kind that it may be of.

    Parameters
    ----------
    found : ImagePosterior
        Of the image; its most probable combination of context and material is taken.
    sites : SitePrior
        Gives the abundances expected on each kind of site.

    Returns
    -------
    Tensor, shape (patch, kind)
        Up to a constant of the site.
    """
    density, _ = found.cells.density(found.weight.argmax()[None])
    return (density[0] @ sites.mean.T + FLOOR).log()


def log_evidence(
    table: Table, features: Tensor, sites: SitePrior, *, is_codoped: bool = False
) -> Tensor:
    """Log evidence for every kind of site on every sublattice.

    Parameters
    ----------
    table : Table, shape (draw, host, ...)
        The tabulated likelihood.
    features : Tensor, shape (patch, feature)
        Contrast features.
    sites : SitePrior
        Sublattices, and the abundances expected on each kind of site.
    is_codoped : bool
        Whether both dopants of the table are in the same crystal.

    Returns
    -------
    Tensor, shape (sublattice, kind, draw, host, composition)
        Sum over the patches of a sublattice of the log density of their contrast.
    """
    mean, total = sites.mean, 0
    for rows in torch.arange(len(features)).split(max(1, BUDGET // _size(table))):
        density, peak = table.density(features[rows])
        density = mix_dopants(density) if is_codoped else density
        same = density[..., :NUM_PLAIN] @ mean[:, PLAIN_CLASSES].T  # (patch, draw, host, kind)
        # (patch, draw, host, kind, composition)
        own = density[..., None, NUM_PLAIN:] * mean[:, DOPED_CLASS, None]
        log_density = (same[..., None] + own + FLOOR).log() + peak[:, None, None, None, None]
        num_sublattices = sites.assignments.shape[1]
        member = torch.nn.functional.one_hot(sites.sublattice[rows], num_sublattices).to(features)
        total = total + torch.einsum("pg,pjhkd->gkjhd", member, log_density)
    return total


def _size(table: Table) -> int:
    """Numbers in the table for each patch."""
    return torch.Size(table.shape).numel()


def _represent(posterior: Tensor, most: int) -> tuple[Tensor, Tensor]:
    """Represent a posterior by some of its cells: their indices, (cell, 4), and weights."""
    by_material = posterior.permute(2, 3, 0, 1)
    mass, order = by_material.flatten().double().sort(descending=True)
    count = int((mass.cumsum(0) < KEPT_MASS * mass.sum()).sum()) + 1
    mass, order = mass[:count], order[:count]
    if count > most:
        # without bias: large cells keep their weight, the others are drawn at a common weight
        # (Fearnhead and Clifford, J. R. Stat. Soc. B 65, 887, 2003)
        rest = mass.flip(0).cumsum(0).flip(0)
        common = rest / (most - torch.arange(count)).clamp(min=1)
        large = int((mass > common)[:most].long().cumprod(0).sum())
        size = rest[large] / (most - large)
        # in order of the materials, so that each gets its part of these draws but for one
        at, by = order[large:].sort()
        edges = mass[large:][by].cumsum(0)
        place = (torch.arange(most - large) + 0.5) * size
        drawn = torch.searchsorted(edges, place).clamp(max=count - large - 1)
        order = torch.cat([order[:large], at[drawn]])
        mass = torch.cat([mass[:large], size.expand(most - large)])
    host, dopant, assignment, draw = torch.unravel_index(order, by_material.shape)
    index = torch.stack([assignment, draw, host, dopant], -1)
    return index, (mass / mass.sum()).to(posterior)
