"""Distances between the sites of a micrograph in units of its own, perhaps strained, lattice."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.spatial import Delaunay, QhullError

__all__ = ["SHELLS", "Spacing", "measure_spacing", "shell_of"]

SHELLS = (1, 3, 4, 7, 9, 12, 13, 16, 19, 21, 25, 27, 28, 31, 36, 37, 39, 43, 48, 49)
"""Squared distances between the sites of a triangular lattice, in nearest distances."""

LONG = 1.4  # median lengths: an edge along the border of the image, or across a gap


@dataclass(frozen=True, eq=False)
class Spacing:
    """The lattice of all sites, which is triangular but for a strain.

    Attributes
    ----------
    metric : ndarray, shape (2, 2)
        Squared length of a displacement d in px is d·metric·d, in units of the distance of
        neighbouring sites.
    """

    metric: np.ndarray

    @property
    def area(self) -> float:
        """Area of a site in px²."""
        return float(np.sqrt(3) / 2 / np.sqrt(np.linalg.det(self.metric)))

    @property
    def neighbour(self) -> float:
        """Mean distance of neighbouring sites in px."""
        return float(np.linalg.det(self.metric) ** -0.25)


def measure_spacing(positions: np.ndarray) -> Spacing:
    """Fit the metric in which all neighbours have a distance of one.

    Parameters
    ----------
    positions : ndarray, shape (site, 2)
        All sites of a micrograph in px, those of hollows and those without crystal included.

    Returns
    -------
    Spacing
        Of the least squares of d·metric·d - 1 over the edges d of a Delaunay triangulation.

    Raises
    ------
    ValueError
        If fewer than three sites, or sites on a line, have no triangulation.
    """
    try:
        triangles = Delaunay(positions).simplices
    except (QhullError, ValueError) as error:
        raise ValueError(
            f"sites that span an area were expected, got {len(positions)} on a point or line; "
            "pass the result of a whole micrograph"
        ) from error
    pairs = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = positions[pairs[:, 0]] - positions[pairs[:, 1]]
    length = np.linalg.norm(edges, axis=-1)
    x, y = edges[length < LONG * np.median(length)].T
    xx, yy, xy = np.linalg.lstsq(
        np.stack([x * x, y * y, 2 * x * y], -1), np.ones(len(x)), rcond=None
    )[0]
    return Spacing(np.array([[xx, xy], [xy, yy]]))


def shell_of(squared: np.ndarray, is_same: np.ndarray) -> np.ndarray:
    """Assign pairs of sites to shells.

    Parameters
    ----------
    squared : ndarray, shape (pair,)
        Squared distances in the metric of ``Spacing``.
    is_same : ndarray of bool, shape (pair,)
        Whether both sites are of one sublattice, which only every third squared distance connects.

    Returns
    -------
    ndarray of int, shape (pair,)
        Index into ``SHELLS``: the nearest that can be; -1 beyond the last.
    """
    found = np.full(len(squared), -1)
    for same in (False, True):
        index = np.array([k for k, n in enumerate(SHELLS) if (n % 3 == 0) == same])
        reach = np.sqrt(np.array(SHELLS)[index])
        limits = np.append((reach[1:] + reach[:-1]) / 2, reach[-1] + 0.25)
        at = np.searchsorted(limits, np.sqrt(squared))
        here = (is_same == same) & (at < len(index))
        found[here] = index[at[here]]
    return found
