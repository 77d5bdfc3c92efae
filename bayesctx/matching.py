"""Matching of the sites of a result to known sites, one to one by position."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

__all__ = ["MATCH", "match_sites", "pair_positions", "positions_of"]

MATCH = 0.7  # Å, about a third of the distance between neighbouring sites


def pair_positions(
    first: np.ndarray, second: np.ndarray, tolerance: float
) -> tuple[np.ndarray, np.ndarray]:
    """Match two sets of positions one to one, nearest pairs first.

    Parameters
    ----------
    first, second : ndarray, shape (number, 2)
        Positions, in one unit.
    tolerance : float
        Largest distance of a pair, in the same unit.

    Returns
    -------
    in_first, in_second : ndarray of int, shape (pair,)
        Index of each partner, in the order of ``first``.
    """
    if not len(first) or not len(second):
        return np.zeros(0, int), np.zeros(0, int)
    near = cKDTree(first).sparse_distance_matrix(
        cKDTree(second), tolerance, output_type="coo_matrix"
    )
    order = np.lexsort((near.col, near.row, near.data))
    partner = np.full(len(first), -1)
    is_taken = np.zeros(len(second), bool)
    for i, j in zip(near.row[order].tolist(), near.col[order].tolist(), strict=True):
        if partner[i] < 0 and not is_taken[j]:
            partner[i], is_taken[j] = j, True
    in_first = np.flatnonzero(partner >= 0)
    return in_first, partner[in_first]


def positions_of(sites: Mapping[str, object] | xr.Dataset) -> np.ndarray:
    """Return the positions of the sites of a Dataset or table.

    Parameters
    ----------
    sites : Dataset, DataFrame or mapping
        With ``site_x`` and ``site_y``, or ``x_px`` and ``y_px``, in px.

    Returns
    -------
    ndarray, shape (site, 2)
        (x, y) in px.

    Raises
    ------
    ValueError
        If it has neither.
    """
    for names in (("site_x", "site_y"), ("x_px", "y_px")):
        if all(n in sites for n in names):
            return np.stack([np.asarray(sites[n], float).ravel() for n in names], -1)
    raise ValueError(
        "positions site_x and site_y, or x_px and y_px, in px were expected, got neither; "
        "name the columns so"
    )


def match_sites(data: xr.Dataset, result: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Match the sites of a result to the true sites of a simulated micrograph.

    Parameters
    ----------
    data : Dataset
        From ``simulate_micrograph``.
    result : DataTree
        From ``infer`` on ``data.intensity``.

    Returns
    -------
    matched : ndarray of bool, shape (patch,)
        Sites of the result with a true site within ``MATCH`` Å, matched one to one.
    truth : ndarray of str, shape (matched patch,)
        True classes of the matched sites.
    """
    found = positions_of(result["constant_data"])
    tolerance = MATCH / float(data.sampling)
    in_result, in_truth = pair_positions(found, positions_of(data), tolerance)
    matched = np.zeros(len(found), bool)
    matched[in_result] = True
    return matched, np.asarray(data.defect.values)[in_truth]
