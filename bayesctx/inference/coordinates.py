"""The pixel size that the coordinates of an image state."""

from __future__ import annotations

import math

import numpy as np
import xarray as xr

from ..context import CONTEXT
from ..storage import warn

__all__ = ["pixel_size"]

UNEQUAL = 0.002  # relative difference of two spacings that rounding does not explain
ANGSTROM = {
    "å": 1.0, "a": 1.0, "ang": 1.0, "angstrom": 1.0, "angstroms": 1.0, "ångström": 1.0,
    "nm": 10.0, "nanometer": 10.0, "nanometre": 10.0, "pm": 0.01, "um": 1e4, "µm": 1e4, "μm": 1e4,
    "micrometer": 1e4, "mm": 1e7, "m": 1e10,
}  # fmt: skip
"""Units of length that coordinates are read in, in Å."""
PIXEL_UNITS = ("", "1", "px", "pixel", "pixels", "index")


def pixel_size(image: xr.DataArray) -> float | None:
    """Read the size of a pixel off the coordinates y and x.

    Parameters
    ----------
    image : DataArray
        Its coordinates may have an attribute ``units``.

    Returns
    -------
    float or None
        In Å; None where there are no coordinates, or positions in pixels.

    Raises
    ------
    ValueError
        If the coordinates are not numbers, not equally spaced, of another unit than of length, or
        not those of square pixels of a size that the package covers.

    Warns
    -----
    UserWarning
        If the spacing is not one, and there is no unit.
    """
    found = [_spacing(image, a) for a in ("y", "x") if a in image.coords and image.sizes[a] > 1]
    if not found:
        return None
    sizes, units = zip(*found, strict=True)
    if len(set(units)) > 1 or max(sizes) > (1 + UNEQUAL) * min(sizes):
        text = " and ".join(f"{size:g} {unit}" for size, unit in found)
        raise ValueError(f"square pixels were expected, got {text}; resample the image")
    size, unit = found[0]
    if unit in PIXEL_UNITS:
        if unit == "" and not math.isclose(size, 1.0, rel_tol=UNEQUAL):
            warn(
                f"the coordinates of the image have a spacing of {size:g} and no unit, so they are "
                "not used; set their attribute 'units' or give sampling [Å/px]"
            )
        return None
    if unit not in ANGSTROM:
        raise ValueError(
            f"coordinates in a unit of length were expected, got {unit[:40]!r}; known are "
            f"{', '.join(ANGSTROM)}"
        )
    low, high = CONTEXT["sampling"].domain
    sampling = size * ANGSTROM[unit]
    if not low * (1 - UNEQUAL) <= sampling <= high * (1 + UNEQUAL):
        raise ValueError(
            f"pixels of {low:g} to {high:g} Å were expected, the coordinates state {size:g} "
            f"{unit}; check their unit"
        )
    return sampling


def _spacing(image: xr.DataArray, axis: str) -> tuple[float, str]:
    """Spacing of a coordinate and its unit in lower case."""
    places = np.asarray(image[axis].values)
    if places.dtype.kind not in "iuf":
        raise ValueError(
            f"coordinates that are numbers were expected along {axis}, got values of "
            f"{places.dtype}; drop the coordinate or write positions"
        )
    places = places.astype(np.float64)
    if not np.isfinite(places).all():
        raise ValueError(
            f"finite coordinates were expected along {axis}, got some that are not; "
            "drop the coordinate"
        )
    step = np.diff(places)
    mean = abs(step.mean())
    if not 0 < mean < np.inf or np.ptp(step) > UNEQUAL * mean:
        raise ValueError(
            f"equally spaced coordinates were expected along {axis}, got steps from "
            f"{step.min():g} to {step.max():g}; resample the image or drop the coordinate"
        )
    return float(mean), str(image[axis].attrs.get("units", "")).strip().lower()
