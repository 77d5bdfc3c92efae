"""find_grains(): which pixels of a micrograph belong to which grain."""

from __future__ import annotations

import numpy as np
import xarray as xr

from ..micrograph import label_grains, standardize
from .inputs import read_inputs

__all__ = ["find_grains"]


def find_grains(image: object, valid: object = None) -> xr.DataArray:
    """Find the grains of a polycrystal, each of which ``infer`` reads by itself.

    Parameters
    ----------
    image : DataArray, ndarray, masked array or Tensor, shape (y, x) or (detector, y, x)
        A micrograph, as ``infer`` takes it.
    valid : array of bool, shape (y, x), optional
        False at pixels to leave out.

    Returns
    -------
    DataArray, shape (y, x)
        0 without crystal and at pixels that are left out, otherwise the number of the grain: 1 is
        the largest. Coordinates are those of the image.

    Raises
    ------
    TypeError, ValueError
        If the image is no micrograph, or there is no hexagonal lattice in it.

    Notes
    -----
    ``infer`` reads one lattice: that of the grain of which there is most. Domains in which one
    lattice goes on, as across a 60° boundary, are one grain here, and ``infer`` finds them. Grains
    have at least 36 cells, and lattice constants that agree to 5 %.

    Examples
    --------
    >>> grain = bc.find_grains(image)  # doctest: +SKIP
    >>> results = {k: bc.infer(image, context, valid=(grain == k).values)
    ...            for k in range(1, int(grain.max()) + 1)}  # doctest: +SKIP
    """
    inputs = read_inputs(image, valid, 1.0, 1, None)
    if inputs.valid is None:
        raise ValueError(
            f"a micrograph (y, x) or (detector, y, x) was expected, got dimensions {inputs.dims}; "
            "pass one image"
        )
    standard = np.mean([standardize(own, inputs.valid) for own in inputs.values], 0)
    label, _ = label_grains(standard)
    given = image.coords if isinstance(image, xr.DataArray) else {}
    coords = {n: given[n] for n in ("y", "x") if n in given}
    described = {"long_name": "grain", "flag_meanings": "0: no crystal, 1: the largest grain"}
    return xr.DataArray(label, coords, ("y", "x"), name="grain", attrs=described)
