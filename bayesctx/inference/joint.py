"""Joint posterior of the abundances and the classes of the sites of one image."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from scipy.special import gammaincinv, gammaln, softmax
from scipy.stats import qmc
from torch import Tensor

from ..crystal import HOSTS, METALS, MONOLAYER_1H
from ..defects import CLASSES, DEFECTS, DOPED, SITES
from ..model import NUM_PLAIN, Materials, SitePrior, Table
from .patches import BUDGET

__all__ = ["Cells", "ClassProbabilities", "classify", "draw_worlds"]

FLOOR = 1e-6  # of the density of the best class; where no class explains a site the prior remains
SMALLEST = 1e-38
NODES = 128  # of the quadrature over the abundances of each kind of site
COUNTS = 4.0  # independent sites of a kind that draws from the prior are weighed by
WIDER, LEAST = 0.8, 0.1  # proposals are wider than the posterior, and have its tails
RAKED = 100  # times that the means of the nodes are corrected
# candidates for the abundances, of which those that are drawn are chosen by their weight
FEWEST, FOR_EACH, MOST = 64, 4, 2048
DOPED_CLASS = DEFECTS.index(DOPED)
PLAIN_CLASSES = [i for i in range(len(DEFECTS)) if i != DOPED_CLASS]
# the abundance of a class is its share on the first kind of site that can hold it
KIND_OF_CLASS = [MONOLAYER_1H.sites.index(c.columns[0][0]) for c in CLASSES]
SAME_KIND = np.array([[d in SITES[MONOLAYER_1H.sites[k]] for d in DEFECTS] for k in KIND_OF_CLASS])


@dataclass(frozen=True, eq=False)
class Cells:
    """Likelihood of the sites of one image under some combinations of what is enumerated.

    Attributes
    ----------
    index : Tensor of int, shape (cell, 4)
        Combinations (assignment, draw, host, dopant).
    table : Table, shape (row, 1, ...)
        The likelihood under the pairs (draw, host) that occur.
    row : Tensor of int, shape (cell,)
        Row of the table of every combination.
    features : Tensor, shape (patch, feature)
        Contrast features of the sites.
    power : float
        Power of the likelihood of a site in the posterior of the abundances.
    """

    index: Tensor
    table: Table
    row: Tensor
    features: Tensor
    power: float

    @classmethod
    def of(cls, table: Table, index: Tensor, features: Tensor, power: float) -> Cells:
        """Select the rows of a table that are needed.

        Parameters
        ----------
        table : Table, shape (draw, host, ...)
            The tabulated likelihood.
        index : Tensor of int, shape (cell, 4)
            Combinations (assignment, draw, host, dopant).
        features : Tensor, shape (patch, feature)
            Contrast features of the sites.
        power : float
            Power of the likelihood of a site in the posterior of the abundances.

        Returns
        -------
        Cells
            Of these combinations.
        """
        pairs, row = index[:, 1:3].unique(dim=0, return_inverse=True)
        return cls(index, table[pairs[:, 0], pairs[:, 1]][:, None], row, features, power)

    def density(self, chosen: Tensor) -> tuple[Tensor, Tensor]:
        """Density of the contrast of every site under every class.

        Parameters
        ----------
        chosen : Tensor of int, shape (chosen,)
            Positions of some combinations.

        Returns
        -------
        density : Tensor, shape (chosen, patch, defect_class)
            Relative to that of the best class.
        peak : Tensor, shape (chosen, patch)
            Log density under the best class.
        """
        rows, which = self.row[chosen].unique(return_inverse=True)
        table = self.table[rows]
        dopant = NUM_PLAIN + self.index[chosen, 3]
        density = self.features.new_empty(len(chosen), len(self.features), len(DEFECTS))
        peak = self.features.new_empty(density.shape[:2])
        size = max(1, BUDGET // torch.Size(table.shape).numel())
        for at in torch.arange(len(self.features)).split(size):
            found, log_scale = table.density(self.features[at])
            found = found[:, :, 0].transpose(0, 1)  # (row, patch, outcome)
            density[:, at[:, None], PLAIN_CLASSES] = found[which][..., :NUM_PLAIN]
            density[:, at, DOPED_CLASS] = found[which, :, dopant]
            peak[:, at] = log_scale
        best = density.amax(-1, keepdim=True).clamp(min=SMALLEST)
        return density.div_(best), peak + best[..., 0].log()


@dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """Probabilities of the classes of the sites of one image, joint with the material.

    Attributes
    ----------
    with_host : Tensor, shape (patch, defect_class, host_class)
        Of class and host.
    dopant_at_site : Tensor, shape (patch, dopant_class)
        That the site holds the dopant, and the dopant is a certain metal.
    log_likelihood : Tensor, shape (cell, patch)
        Log density of the contrast under every combination, at the expected abundances.
    """

    with_host: Tensor
    dopant_at_site: Tensor
    log_likelihood: Tensor

    @property
    def defect(self) -> Tensor:
        """Class probabilities, shape (patch, defect_class)."""
        return self.with_host.sum(-1)


def classify(
    cells: Cells, weight: Tensor, materials: Materials, sites: SitePrior
) -> ClassProbabilities:
    """Probabilities of the classes of the sites.

    Parameters
    ----------
    cells : Cells
        Combinations of what is enumerated.
    weight : Tensor, shape (cell,)
        Their probabilities.
    materials : Materials, shapes (host, ...)
        Hosts and dopants that are enumerated.
    sites : SitePrior
        Sublattices, their assignments, and the prior of the abundances.

    Returns
    -------
    ClassProbabilities
        Of all sites.

    Notes
    -----
    In a combination c the abundances a of one kind of site have the posterior
    p(a | c) ~ Dirichlet(a; alpha) prod_i (sum_k a_k p(contrast_i | k, c))^power, and the classes of
    the sites are independent given a and c. The integral over a is a quadrature over quasi-random
    draws from a Dirichlet distribution, whose means are corrected: that of the prior, or where the
    sites weigh more than ``COUNTS`` independent ones, one near the posterior. With one site and
    power 1 it is exact.
    """
    shape = len(cells.features), len(DEFECTS)
    with_host = weight.new_zeros(len(HOSTS), *shape)
    at_site = weight.new_zeros(len(METALS), shape[0])
    log_likelihood = weight.new_empty(len(cells.index), shape[0])
    for chosen, r in _batches(cells, torch.arange(len(cells.index)), len(sites.alpha)):
        density, peak = cells.density(chosen)
        expected, probability = torch.empty_like(peak), torch.zeros_like(density)
        for k, own, held in _kinds(sites, r):
            of_kind = density[:, own[:, None], held]
            expected[:, own] = of_kind @ sites.mean[k, held]
            found = _probabilities(of_kind, sites.alpha[k, held], cells.power)
            probability[:, own[:, None], held] = found.mul_(weight[chosen, None, None])
        log_likelihood[chosen] = expected.clamp_(min=SMALLEST).log_().add_(peak)
        host, dopant = cells.index[chosen, 2], cells.index[chosen, 3]
        with_host.index_add_(0, materials.host[host], probability)
        at_site.index_add_(0, materials.dopant[host, dopant], probability[..., DOPED_CLASS])
    return ClassProbabilities(with_host.permute(1, 2, 0), at_site.T, log_likelihood)


def _batches(cells: Cells, chosen: Tensor, num_kinds: int) -> Iterator[tuple[Tensor, int]]:
    """Some of the chosen combinations with one assignment at a time, and this assignment."""
    size = max(1, BUDGET * num_kinds // (NODES * len(cells.features)))
    for r in cells.index[chosen, 0].unique().tolist():
        mine = chosen[cells.index[chosen, 0] == r]
        for part in mine[cells.row[mine].argsort(stable=True)].split(size):
            yield part, r


def _kinds(sites: SitePrior, assignment: int) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Every kind of site, the sites that are of it, and the classes that these can hold."""
    for k, alpha in enumerate(sites.alpha):
        yield k, (sites.kinds[assignment] == k).nonzero()[:, 0], (alpha > 0).nonzero()[:, 0]


def _proposal(density: Tensor, alpha: Tensor, power: float) -> Tensor:
    """Dirichlet parameters near the posterior of the abundances, shape (..., class)."""
    num = density.shape[-2]
    near, doublings = alpha, math.log2(max(power * num, 1.0) / COUNTS)
    # the posteriors of twice as many counts overlap, so that nodes of one describe the next
    for step in range(math.ceil(max(doublings, 0.0))):
        nodes = _nodes(near)
        tempered = COUNTS * 2**step / num * _log_product(_mixed(density, nodes))
        weight = _log_weight(tempered, nodes, alpha, near).softmax(-1)[..., None]
        mean = (weight * nodes).sum(-2)
        spread = (weight * (nodes - mean[..., None, :]).square()).sum((-2, -1)) + SMALLEST
        total = (1 - mean.square().sum(-1)) / spread - 1
        total = total.clamp(min=float(alpha.sum()), max=float(alpha.sum()) + num)
        near = (WIDER * total[..., None] * mean).maximum(LEAST * alpha)
    return near


@functools.lru_cache(maxsize=16)
def _prior_nodes(alpha: tuple[float, ...]) -> Tensor:
    """Nodes for one Dirichlet distribution, shape (node, class), that must not be changed."""
    return _nodes(torch.tensor(alpha, dtype=torch.float64))


def _nodes(alpha: Tensor) -> Tensor:
    """Nodes of a quadrature over Dirichlet distributions, shape (..., node, class)."""
    alpha = alpha.double().numpy()[..., None, :]
    u = qmc.Sobol(alpha.shape[-1], scramble=False).random(NODES) + 0.5 / NODES
    gamma = gammaincinv(alpha, u)
    # quantiles that underflow, of small parameters
    small = (np.log(u) + gammaln(alpha + 1)) / alpha
    nodes = softmax(np.where(gamma > 1e-300, np.log(np.maximum(gamma, 1e-300)), small), -1)
    mean = alpha / alpha.sum(-1, keepdims=True)
    for _ in range(RAKED):
        nodes *= mean / np.maximum(nodes.mean(-2, keepdims=True), SMALLEST)
        nodes /= nodes.sum(-1, keepdims=True)
    return torch.from_numpy(nodes.astype(np.float32))


def _mixed(density: Tensor, abundance: Tensor) -> Tensor:
    """Density of sites under abundances, shape (..., patch, node)."""
    # the floor is added here, since the abundances sum to one
    return (density @ abundance.mT).add_(FLOOR)


def _log_product(mixed: Tensor) -> Tensor:
    """Log of the product over sites, shape (..., node)."""
    # one logarithm for four sites: their product does not underflow, each is above the floor
    count = mixed.shape[-2] // 4
    one, two, three, four = mixed[..., : 4 * count, :].unflatten(-2, (4, count)).unbind(-3)
    total = (one * two).mul_(three).mul_(four).log_().sum(-2)
    return total + mixed[..., 4 * count :, :].log().sum(-2)


def _log_weight(log_likelihood: Tensor, abundance: Tensor, alpha: Tensor, near: Tensor) -> Tensor:
    """Log weights of abundances from a Dirichlet distribution near the posterior, (..., node)."""
    excess = abundance.clamp(min=SMALLEST).log() * (alpha - near)[..., None, :]
    return log_likelihood + excess.sum(-1)


def _probabilities(density: Tensor, alpha: Tensor, power: float) -> Tensor:
    """Class probabilities of sites of one kind, shape (cell, patch, class)."""
    near = _proposal(density, alpha, power)
    nodes = _prior_nodes(tuple(alpha.tolist())) if near is alpha else _nodes(near)
    mixed = _mixed(density, nodes)
    weight = _log_weight(power * _log_product(mixed), nodes, alpha, near).softmax(-1)
    return (density + FLOOR) * (mixed.reciprocal_() @ (weight[..., None] * nodes))


def draw_worlds(
    cells: Cells, drawn: np.ndarray, sites: SitePrior, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the abundances, and the classes of all sites, given the combinations.

    Parameters
    ----------
    cells : Cells
        Combinations of what is enumerated.
    drawn : ndarray of int, shape (draw,)
        Position of the combination of every draw.
    sites : SitePrior
        Sublattices, their assignments, and the prior of the abundances.
    rng : Generator
        Source of randomness.

    Returns
    -------
    defect : ndarray of int8, shape (draw, patch)
        Classes of the sites.
    abundance : ndarray, shape (draw, defect_class)
        Share of every class on the first kind of site that can hold it.

    Notes
    -----
    The abundances are chosen among draws from their prior by their weights (sampling, importance
    resampling), see ``classify`` for the distribution.

    References
    ----------
    Rubin, Bayesian Statistics 3 (1988).
    """
    defect = np.empty((len(drawn), len(cells.features)), np.int8)
    abundance = np.zeros((len(drawn), *sites.alpha.shape), np.float32)
    occurring = torch.from_numpy(np.unique(drawn))
    for chosen, r in _batches(cells, occurring, len(sites.alpha)):
        kinds = list(_kinds(sites, r))
        for cell, density in zip(chosen.tolist(), cells.density(chosen)[0], strict=True):
            at = np.flatnonzero(drawn == cell)
            for k, own, held in kinds:
                likelihood = density[own[:, None], held]
                given = likelihood, sites.alpha[k, held], cells.power
                found = _draw_abundances(*given, len(at), rng)
                abundance[np.ix_(at, [k], held)] = found[:, None]
                classes = _draw_classes(likelihood, torch.from_numpy(found), rng)
                defect[np.ix_(at, own)] = held.numpy()[classes]
    return defect, _by_class(abundance, sites.alpha.double().numpy())


def _draw_abundances(
    density: Tensor, alpha: Tensor, power: float, num: int, rng: np.random.Generator
) -> np.ndarray:
    """Draw abundances of one kind of site given the density of the sites, shape (draw, class)."""
    near = _proposal(density, alpha, power)
    num_tried = min(max(FEWEST, FOR_EACH * num), MOST)
    tried = rng.dirichlet(near.double(), num_tried).astype(np.float32)
    candidates = torch.from_numpy(tried)
    parts = density.split(max(1, BUDGET // num_tried))
    log_likelihood = power * sum(_log_product(_mixed(p, candidates)).double() for p in parts)
    weight = _log_weight(log_likelihood, candidates, alpha, near).softmax(0).numpy()
    return tried[rng.choice(num_tried, num, p=weight)]


def _draw_classes(density: Tensor, abundance: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Draw classes of sites of one kind given drawn abundances, shape (draw, patch)."""
    drawn = []
    for part in abundance.split(max(1, BUDGET // max(1, density.numel()))):
        edges = ((density + FLOOR) * part[:, None]).cumsum(-1)
        # below one after rounding, which would give a class that the site cannot hold
        u = torch.from_numpy(rng.random(edges.shape[:-1], np.float32))[..., None] * (1 - 1e-6)
        drawn.append((u * edges[..., -1:] >= edges[..., :-1]).sum(-1, dtype=torch.int8))
    return torch.cat(drawn).numpy()


def _by_class(abundance: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Share of every class on its kind of site, from shares on all kinds, (draw, defect_class)."""
    # patches of unknown site have one kind, which holds every class
    kind, at = np.minimum(KIND_OF_CLASS, len(alpha) - 1), np.arange(len(DEFECTS))
    total = (abundance[:, kind] * SAME_KIND).sum(-1)
    expected = alpha[kind, at] / (alpha[kind] * SAME_KIND).sum(-1)
    shares = np.where(total > 0, abundance[:, kind, at] / np.where(total > 0, total, 1), expected)
    return shares.astype(np.float32)
