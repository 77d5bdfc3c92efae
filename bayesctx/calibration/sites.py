"""Which sites of a micrograph that was simulated are which true ones."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy.spatial import cKDTree

__all__ = ["MATCH", "match_sites"]

MATCH = 0.7  # Å, a third of the distance between neighbouring sites


def match_sites(data: xr.Dataset, result: xr.DataTree) -> tuple[np.ndarray, np.ndarray]:
    """Find the true class of the sites of a micrograph.

    Parameters
    ----------
    data : Dataset
        From ``simulate_micrograph``.
    result : DataTree
        From ``infer``.

    Returns
    -------
    matched : ndarray of bool, shape (patch,)
        Sites of the result that lie within ``MATCH`` Å of a true one.
    truth : ndarray of str, shape (matched patch,)
        Classes there.
    """
    sites = result["constant_data"]
    distance, nearest = cKDTree(np.stack([data.site_x, data.site_y], -1)).query(np.stack([sites.site_x, sites.site_y], -1))
    matched = distance * float(data.sampling) < MATCH
    return matched, data.defect.values[nearest[matched]]
