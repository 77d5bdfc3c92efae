"""Joint posterior of the abundances and the classes of the sites of one image."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..abundance import Abundance
from ..crystal import HOSTS, METALS, MONOLAYER_1H
from ..defects import DEFECTS, DOPED, FIRST_SITE, SITES
from ..model import NUM_PLAIN, Materials, SitePrior, Table
from ..model.mixing import EDGES, SHARES, mix_dopants
from .patches import BUDGET
from .quadrature import FLOOR, NODES, class_probabilities, draw_abundances

__all__ = ["Cells", "ClassProbabilities", "classify", "draw_dopants", "draw_worlds"]

SMALLEST = 1e-38
DOPED_CLASS = DEFECTS.index(DOPED)
PLAIN_CLASSES = [i for i in range(len(DEFECTS)) if i != DOPED_CLASS]
# the abundance of a class is its share on the first kind of site that can hold it
KIND_OF_CLASS = [MONOLAYER_1H.sites.index(FIRST_SITE[d]) for d in DEFECTS]
SAME_KIND = np.array([[d in SITES[MONOLAYER_1H.sites[k]] for d in DEFECTS] for k in KIND_OF_CLASS])


@dataclass(frozen=True, eq=False)
class Cells:
    """Likelihood of the sites of one image under some combinations of what is enumerated.

    Attributes
    ----------
    index : Tensor of int, shape (cell, 4)
        Combinations (assignment, draw, host, composition); the last is one of the dopants, or of
        a co-doped crystal one of ``mixing.SHARES``.
    table : Table, shape (row, 1, ...)
        The likelihood under the pairs (draw, host) that occur.
    row : Tensor of int, shape (cell,)
        Row of the table of every combination.
    features : Tensor, shape (patch, feature)
        Contrast features of the sites.
    power : float
        Power of the likelihood of a site in the posterior of the abundances.
    is_codoped : bool
        Whether both dopants of the table are in the same crystal.
    """

    index: Tensor
    table: Table
    row: Tensor
    features: Tensor
    power: float
    is_codoped: bool = False

    @classmethod
    def of(
        cls, table: Table, index: Tensor, features: Tensor, power: float, is_codoped: bool = False
    ) -> Cells:
        """Select the rows of a table that are needed.

        Parameters
        ----------
        table : Table, shape (draw, host, ...)
            The tabulated likelihood.
        index : Tensor of int, shape (cell, 4)
            Combinations (assignment, draw, host, composition).
        features : Tensor, shape (patch, feature)
            Contrast features of the sites.
        power : float
            Power of the likelihood of a site in the posterior of the abundances.
        is_codoped : bool
            Whether both dopants of the table are in the same crystal.

        Returns
        -------
        Cells
            Of these combinations.
        """
        pairs, row = index[:, 1:3].unique(dim=0, return_inverse=True)
        own = table[pairs[:, 0], pairs[:, 1]][:, None]
        return cls(index, own, row, features, power, is_codoped)

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
            found = mix_dopants(found) if self.is_codoped else found
            found = found[:, :, 0].transpose(0, 1)  # (row, patch, outcome)
            density[:, at[:, None], PLAIN_CLASSES] = found[which][..., :NUM_PLAIN]
            density[:, at, DOPED_CLASS] = found[which, :, dopant]
            peak[:, at] = log_scale
        best = density.amax(-1, keepdim=True).clamp(min=SMALLEST)
        return density.div_(best), peak + best[..., 0].log()

    def dopants(self, chosen: Tensor) -> Tensor:
        """Probability of both dopants of a co-doped crystal on a site that holds one of them.

        Parameters
        ----------
        chosen : Tensor of int, shape (chosen,)
            Positions of some combinations.

        Returns
        -------
        Tensor, shape (chosen, patch, dopant)
            Of every site.
        """
        rows, which = self.row[chosen].unique(return_inverse=True)
        table, found = self.table[rows], []
        size = max(1, BUDGET // torch.Size(table.shape).numel())
        for at in torch.arange(len(self.features)).split(size):
            doped = table.density(self.features[at])[0][:, :, 0, NUM_PLAIN:].transpose(0, 1)
            found.append(doped[which])
        share = SHARES[self.index[chosen, 3]][:, None]
        # the prior where neither explains the site
        density = (torch.cat(found, 1) + SMALLEST) * share
        return density / density.sum(-1, keepdim=True)


@dataclass(frozen=True, eq=False)
class ClassProbabilities:
    """Probabilities of the classes of the sites of one image, joint with the material.

    Attributes
    ----------
    with_host : Tensor, shape (patch, defect_class, host_class)
        Of class and host.
    dopant_at_site : Tensor, shape (patch, dopant_class)
        That the site holds a dopant which is a certain metal.
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
    p(a | c) ~ p(a) prod_i (sum_k a_k p(contrast_i | k, c))^power with a generalised Dirichlet
    distribution p(a), see ``Abundance``, and the classes of the sites are independent given a and
    c. The integral over a is a quadrature, see ``quadrature.py``. With one site and power 1 it is
    exact. A class whose share is 0 has the probability 0.
    """
    shape = len(cells.features), len(DEFECTS)
    with_host = weight.new_zeros(len(HOSTS), *shape)
    at_site = weight.new_zeros(len(METALS), shape[0])
    log_likelihood = weight.new_empty(len(cells.index), shape[0])
    for chosen, r in _batches(cells, torch.arange(len(cells.index)), len(sites.mean)):
        density, peak = cells.density(chosen)
        expected, probability = torch.empty_like(peak), torch.zeros_like(density)
        for k, own, held, prior in _kinds(sites, r):
            of_kind = density[:, own[:, None], held]
            expected[:, own] = of_kind @ sites.mean[k, held]
            found = class_probabilities(of_kind, prior, cells.power)
            probability[:, own[:, None], held] = found.mul_(weight[chosen, None, None])
        log_likelihood[chosen] = expected.clamp_(min=SMALLEST).log_().add_(peak)
        host, dopant = cells.index[chosen, 2], cells.index[chosen, 3]
        with_host.index_add_(0, materials.host[host], probability)
        doped = probability[..., DOPED_CLASS]
        if cells.is_codoped:
            each = (doped[..., None] * cells.dopants(chosen)).unbind(-1)
            for own, metal in zip(each, materials.dopant[host].unbind(-1), strict=True):
                at_site.index_add_(0, metal, own)
        else:
            at_site.index_add_(0, materials.dopant[host, dopant], doped)
    return ClassProbabilities(with_host.permute(1, 2, 0), at_site.T, log_likelihood)


def _batches(cells: Cells, chosen: Tensor, num_kinds: int) -> Iterator[tuple[Tensor, int]]:
    """Some of the chosen combinations with one assignment at a time, and this assignment."""
    size = max(1, BUDGET * num_kinds // (NODES * len(cells.features)))
    for r in cells.index[chosen, 0].unique().tolist():
        mine = chosen[cells.index[chosen, 0] == r]
        for part in mine[cells.row[mine].argsort(stable=True)].split(size):
            yield part, r


def _kinds(sites: SitePrior, assignment: int) -> Iterator[tuple[int, Tensor, Tensor, Abundance]]:
    """Every kind of site, its sites, the classes that it can hold, and their abundance."""
    every = sites.abundance
    for k, mean in enumerate(every.mean.gather(-1, every.order)):
        used = mean > 0
        held, fraction, strength = (
            v[k, used] for v in (every.order, every.fraction, every.strength)
        )
        prior = Abundance(torch.arange(len(held)), fraction, strength)
        yield k, (sites.kinds[assignment] == k).nonzero()[:, 0], held, prior


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
    See ``classify`` for the distribution, and ``quadrature.draw_abundances`` for the draws.
    """
    defect = np.empty((len(drawn), len(cells.features)), np.int8)
    abundance = np.zeros((len(drawn), *sites.mean.shape), np.float32)
    occurring = torch.from_numpy(np.unique(drawn))
    for chosen, r in _batches(cells, occurring, len(sites.mean)):
        kinds = list(_kinds(sites, r))
        for cell, density in zip(chosen.tolist(), cells.density(chosen)[0], strict=True):
            at = np.flatnonzero(drawn == cell)
            for k, own, held, prior in kinds:
                likelihood = density[own[:, None], held]
                found = draw_abundances(likelihood, prior, cells.power, len(at), rng)
                abundance[np.ix_(at, [k], held)] = found[:, None]
                classes = _draw_classes(likelihood, torch.from_numpy(found), rng)
                defect[np.ix_(at, own)] = held.numpy()[classes]
    return defect, _by_class(abundance, sites.mean.double().numpy())


def draw_dopants(
    cells: Cells,
    drawn: np.ndarray,
    defect: np.ndarray,
    materials: Materials,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw which dopant of a co-doped crystal every site holds, and the shares of both.

    Parameters
    ----------
    cells : Cells
        Combinations of what is enumerated.
    drawn : ndarray of int, shape (draw,)
        Position of the combination of every draw.
    defect : ndarray of int, shape (draw, patch)
        Classes of the sites.
    materials : Materials, shapes (host, ...)
        Hosts and dopants that are enumerated.
    rng : Generator
        Source of randomness.

    Returns
    -------
    dopant : ndarray of int8, shape (draw, patch)
        Index into ``METALS``; -1 where the class is not that of the dopant.
    share : ndarray, shape (draw, 2)
        Of both dopants among the sites that hold one: uniform between the edges around the node
        of the combination, so that their prior is uniform.
    """
    dopant = np.full(defect.shape, -1, np.int8)
    metals = materials.dopant[cells.index[:, 2]].numpy()
    for cell in np.unique(drawn).tolist():
        at = np.flatnonzero(drawn == cell)
        second = cells.dopants(torch.tensor([cell]))[0, :, 1].numpy()
        chosen = (rng.random((len(at), len(second)), np.float32) < second).astype(int)
        dopant[at] = np.where(defect[at] == DOPED_CLASS, metals[cell][chosen], -1)
    node, edges = cells.index[drawn, 3].numpy(), EDGES.numpy()
    low, high = edges[node], edges[node + 1]
    share = low + (high - low) * rng.random(len(drawn), np.float32)
    return dopant, np.stack([1 - share, share], -1).astype(np.float32)


def _draw_classes(density: Tensor, abundance: Tensor, rng: np.random.Generator) -> np.ndarray:
    """Draw classes of sites of one kind given drawn abundances, shape (draw, patch)."""
    drawn = []
    for part in abundance.split(max(1, BUDGET // max(1, density.numel()))):
        edges = ((density + FLOOR) * part[:, None]).cumsum(-1)
        # below one after rounding, which would give a class that the site cannot hold
        u = torch.from_numpy(rng.random(edges.shape[:-1], np.float32))[..., None] * (1 - 1e-6)
        drawn.append((u * edges[..., -1:] >= edges[..., :-1]).sum(-1, dtype=torch.int8))
    return torch.cat(drawn).numpy()


def _by_class(abundance: np.ndarray, mean: np.ndarray) -> np.ndarray:
    """Share of every class on its kind of site, from shares on all kinds, (draw, defect_class)."""
    # patches of unknown site have one kind, which holds every class
    kind, at = np.minimum(KIND_OF_CLASS, len(mean) - 1), np.arange(len(DEFECTS))
    total = (abundance[:, kind] * SAME_KIND).sum(-1)
    # the prior where a draw has no class of the kind, zero where the prior has none
    expected = mean[kind, at] / np.maximum((mean[kind] * SAME_KIND).sum(-1), SMALLEST)
    shares = np.where(total > 0, abundance[:, kind, at] / np.where(total > 0, total, 1), expected)
    return shares.astype(np.float32)
