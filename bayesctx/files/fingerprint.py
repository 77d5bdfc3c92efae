"""Whether an image is still the one that was read: a sum of frames has the dose of all of them."""

from __future__ import annotations

import json

import numpy as np
import xarray as xr

from .record import parse_record, with_dose_of_frame

__all__ = ["is_as_read", "with_fingerprint", "without_old_dose"]

REQUIRED = "has_fingerprint"
LAYOUTS = (("y", "x"), ("detector", "y", "x"))
SIDE = 32  # pixels along y and x whose intensities are kept
LEAST = 9  # of these in a part of the image, to tell whether it has changed
# one minus the correlation of intensities: between the rounding of grey values to 8 bits, and the
# noise that another frame adds even at high dose
DIFFERENT = 1e-4
SAME_PLACE = 1e-3  # of the distance of the pixels that are kept


def with_fingerprint(image: xr.DataArray) -> xr.DataArray:
    """Keep some intensities of an image that was read with a dose, and where they are.

    Parameters
    ----------
    image : DataArray
        With a recorded context.

    Returns
    -------
    DataArray
        With the attribute ``fingerprint``, JSON; others, and patches, as they are.
    """
    record = parse_record(image.attrs)
    if image.dims not in LAYOUTS or not isinstance(record.get("dose"), dict):
        return image
    at = {a: np.unique(np.linspace(0, image.sizes[a] - 1, SIDE).astype(int)) for a in "yx"}
    values = [_rounded(plane) for plane in _planes(image.isel(at))]
    kept = {a: image[a].values[k].tolist() for a, k in at.items()} | {"intensity": values}
    # where two images are added, xarray drops attributes in which they differ
    record["dose"] = {**record["dose"], REQUIRED: True}
    return image.assign_attrs(
        context=json.dumps(record, ensure_ascii=False), fingerprint=json.dumps(kept)
    )


def is_as_read(image: xr.DataArray) -> bool:
    """Whether an image is a part of the one that was read, in any unit.

    Parameters
    ----------
    image : DataArray
        Perhaps with a fingerprint.

    Returns
    -------
    bool
        False if intensities, beyond scale and offset, or their places have changed, or if too few
        that were kept are in the image to tell. True of an image that never had a fingerprint.

    Notes
    -----
    The dose does not change where an image is cropped, converted or scaled. Where frames are
    summed, averaged or filtered the noise changes, and with it the correlation with the
    intensities that were kept.
    """
    if "fingerprint" not in image.attrs:
        dose = parse_record(image.attrs).get("dose")
        return not (isinstance(dose, dict) and dose.get(REQUIRED))
    try:
        kept = json.loads(image.attrs["fingerprint"])
        found = {a: _find(image[a].values, np.array(kept[a], float)) for a in "yx"}
        here = {a: own for a, (own, _) in found.items()}
        rows, columns = (among for _, among in found.values())
        intensity = np.array(kept["intensity"], float)[:, rows][:, :, columns]
        planes = _planes(image.isel(here))
    except (KeyError, TypeError, ValueError, IndexError):
        return False
    return all(any(_are_scaled(own, before) for before in intensity) for own in planes)


def without_old_dose(image: xr.DataArray) -> xr.DataArray:
    """Take the dose of an image that has changed since it was read for that of one frame.

    Parameters
    ----------
    image : DataArray
        With a recorded context.

    Returns
    -------
    DataArray
        The same, or with ``dose_of_frame`` instead of ``dose`` in its record.
    """
    if is_as_read(image):
        return image
    record = with_dose_of_frame(parse_record(image.attrs))
    kept = {n: v for n, v in image.attrs.items() if n != "fingerprint"}
    kept["context"] = json.dumps(record, ensure_ascii=False)
    return image.drop_attrs(deep=False).assign_attrs(kept)


def _planes(image: xr.DataArray) -> np.ndarray:
    """Images of all detectors, shape (detector, y, x), in double precision."""
    values = image.transpose(..., "y", "x").values
    return values.reshape(-1, *values.shape[-2:]).astype(float)


def _rounded(plane: np.ndarray) -> list:
    """Intensities of six digits; None where they are not finite."""
    return [[float(f"{v:.6g}") if np.isfinite(v) else None for v in row] for row in plane]


def _find(places: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Positions of wanted places among those of an image, and which of them it has."""
    distance = abs(places.astype(float)[:, None] - wanted)
    limit = SAME_PLACE * abs(np.diff(wanted)).min(initial=1.0)
    among = np.flatnonzero(distance.min(0) <= limit)
    return distance.argmin(0)[among], among


def _are_scaled(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether intensities are equal but for scale and offset."""
    finite = np.isfinite(one) & np.isfinite(other)
    if finite.sum() < LEAST:
        return False
    one, other = one[finite], other[finite]
    if not np.ptp(one) or not np.ptp(other):
        return np.ptp(one) == np.ptp(other)
    return bool(np.corrcoef(one, other)[0, 1] > 1 - DIFFERENT)
