"""Domains of a crystal: regions whose sublattices hold other kinds of site than those around."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import coo_array, csr_array
from scipy.sparse.csgraph import breadth_first_order, connected_components, maximum_flow
from scipy.spatial import cKDTree

__all__ = ["Domains", "find_domains"]

BOUNDARY = 2.0  # nats, of every pair of neighbours on the two sides of a boundary
LARGEST = 6.0  # nats, of one site: a defect is no domain
LEAST_GAIN = 40.0  # nats, of a region
MOST_REGIONS = 16
NEIGHBOURS = 1.4  # distance over that of the nearest neighbours
SCALE = 1000  # capacities are whole numbers of 1/SCALE nats


@dataclass(frozen=True, eq=False)
class Domains:
    """Regions of a micrograph that differ in the kinds of site of their sublattices.

    Attributes
    ----------
    positions : ndarray, shape (patch, 2)
        Sites of the lattice.
    sublattice : ndarray of int, shape (patch,)
        Of every site by the lattice, the same in all domains.
    label : ndarray of int, shape (patch,)
        Domain of every site; 0 is the largest one.
    turned : ndarray of int, shape (domain, sublattice)
        Sublattice of the first domain whose kind each sublattice of a domain has.
    """

    positions: np.ndarray
    sublattice: np.ndarray
    label: np.ndarray
    turned: np.ndarray

    def relabel(self, positions: np.ndarray, sublattice: np.ndarray) -> np.ndarray:
        """Name sublattices by those of the first domain whose kind they have.

        Parameters
        ----------
        positions : ndarray, shape (site, 2)
            Sites, also beyond the border; each is of the domain of the nearest known one.
        sublattice : ndarray of int, shape (site,)
            By the lattice.

        Returns
        -------
        ndarray of int, shape (site,)
            One assignment then holds for the whole image.
        """
        _, nearest = cKDTree(self.positions).query(positions)
        return self.turned[self.label[nearest], sublattice]


def find_domains(
    positions: np.ndarray,
    sublattice: np.ndarray,
    log_density: np.ndarray,
    assignments: np.ndarray,
    crystal: np.ndarray,
) -> Domains | None:
    """Find regions in which another assignment explains the sites better.

    Parameters
    ----------
    positions : ndarray, shape (patch, 2)
        Sites of a lattice in any unit.
    sublattice : ndarray of int, shape (patch,)
        Of every site.
    log_density : ndarray, shape (crystal_patch, kind)
        Log density of the pixels of the sites with crystal, for every kind of site.
    assignments : ndarray of int, shape (assignment, sublattice)
        Kind of every sublattice, each a permutation.
    crystal : ndarray of bool, shape (patch,)
        Sites with crystal.

    Returns
    -------
    Domains or None
        None where one assignment holds everywhere.

    Notes
    -----
    Mirror domains of a hexagonal monolayer, whose lattice goes on across the boundary, differ in
    which of the three positions of the cell are metal, chalcogen and hollow. Each other assignment
    is compared with that of the rest by the minimum cut of a graph of neighbours, in which a
    boundary costs ``BOUNDARY`` for every pair that it separates. Single sites count for at most
    ``LARGEST``, and regions that gain less than ``LEAST_GAIN`` are left out.

    References
    ----------
    Greig, Porteous and Seheult, J. R. Stat. Soc. B 51, 271 (1989),
    doi:10.1111/j.2517-6161.1989.tb01764.x.
    """
    places, own = positions[crystal], sublattice[crystal]
    by_assignment = log_density[np.arange(len(own)), assignments[:, own]]  # (assignment, site)
    clipped = np.clip(by_assignment - by_assignment.mean(0), -LARGEST, LARGEST)
    first = int(clipped.sum(1).argmax())
    pairs = _neighbours(places)
    label = np.full(len(own), first)
    for _ in range(MOST_REGIONS):
        now = by_assignment[label, np.arange(len(own))]
        gains = np.clip(by_assignment - now, -LARGEST, LARGEST)
        regions = [_region(gain, pairs) for gain in gains]
        best = int(np.argmax([gain for gain, _ in regions]))
        if regions[best][0] <= LEAST_GAIN:
            break
        label[regions[best][1]] = best
    if (label == first).all():
        return None
    found = [first, *(a for a in np.unique(label) if a != first)]
    kinds = np.argsort(assignments[first])  # sublattice of the first domain, by kind
    _, nearest = cKDTree(places).query(positions)
    whole = label[nearest]
    return Domains(
        positions=positions,
        sublattice=sublattice,
        label=np.array([found.index(a) for a in whole]),
        turned=np.stack([kinds[assignments[a]] for a in found]),
    )


def _neighbours(places: np.ndarray) -> np.ndarray:
    """Pairs of sites next to each other, shape (pair, 2)."""
    tree = cKDTree(places)
    nearest = np.median(tree.query(places, 2)[0][:, 1]) if len(places) > 1 else 1.0
    return tree.query_pairs(NEIGHBOURS * nearest, output_type="ndarray").reshape(-1, 2)


def _region(gain: np.ndarray, pairs: np.ndarray) -> tuple[float, np.ndarray]:
    """What the best region gains in nats, less its boundary, and whether sites are in it."""
    num = len(gain)
    source, sink = num, num + 1
    whole = np.round(SCALE * np.abs(gain)).astype(np.int32)
    rises = np.flatnonzero(gain > 0)
    falls = np.flatnonzero(gain < 0)
    price = np.full(len(pairs), round(SCALE * BOUNDARY), np.int32)
    rows = [np.full(len(rises), source), falls, pairs[:, 0], pairs[:, 1]]
    columns = [rises, np.full(len(falls), sink), pairs[:, 1], pairs[:, 0]]
    capacity = np.concatenate([whole[rises], whole[falls], price, price])
    place = np.concatenate(rows), np.concatenate(columns)
    graph = csr_array(coo_array((capacity, place), shape=(num + 2, num + 2)))
    flow = maximum_flow(graph, source, sink).flow
    left = graph - flow
    left.eliminate_zeros()
    reached = breadth_first_order(left, source, return_predecessors=False)
    inside = np.zeros(num, bool)
    inside[reached[reached < num]] = True
    return _best_part(inside, gain, pairs)


def _best_part(inside: np.ndarray, gain: np.ndarray, pairs: np.ndarray) -> tuple[float, np.ndarray]:
    """The connected part of a region that gains most."""
    joined = pairs[inside[pairs].all(1)]
    graph = coo_array((np.ones(len(joined)), joined.T), shape=(len(gain), len(gain)))
    _, part = connected_components(graph, directed=False)
    crossed = pairs[inside[pairs].sum(1) == 1]
    edge = np.where(inside[crossed[:, 0]], crossed[:, 0], crossed[:, 1])
    total = np.bincount(part, gain) - BOUNDARY * np.bincount(part[edge], minlength=part.max() + 1)
    total[np.bincount(part, inside) == 0] = 0.0
    best = int(total.argmax())
    return float(total[best]), inside & (part == best)
