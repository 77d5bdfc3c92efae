"""Intensities of an image: which pixels are valid, areas of one value, and a unit of its own."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from .cell import MIN_CELLS

__all__ = ["check_image", "find_constant", "spread", "standardize", "thin_out"]

SMALLEST_CELL = 5  # px
LARGEST = (
    1e6  # of the standardised intensity: its square is far from the limits of single precision
)
AT_MOST = 2**16  # pixels that quantiles are taken of
CHANCE = 1e-6  # of a window of one value where pixels are independent
SMALLEST = 5  # px, side of a window of one value
MOST = 0.98  # of the pixels that may be part of such areas


def check_image(values: np.ndarray, valid: np.ndarray | None = None) -> None:
    """Check that an array can be an annular dark-field image.

    Parameters
    ----------
    values : ndarray or masked array, shape (y, x)
        Intensities in any unit.
    valid : ndarray of bool, shape (y, x), optional
        False at pixels to leave out, as the mask of a masked array, NaN and infinity are as well.

    Raises
    ------
    TypeError
        If the values are not real numbers, or ``valid`` is not boolean.
    ValueError
        If they are not one image, too few of them are valid, or all valid ones are equal.
    """
    _check_shape(np.asarray(values), valid)
    good = np.asarray(values)[_find_valid(values, valid)]
    least = (SMALLEST_CELL * MIN_CELLS) ** 2
    if len(good) < least:
        raise ValueError(
            f"at least {least} valid pixels were expected, got {len(good)} of {np.size(values)} "
            "that are not masked, NaN or infinite; check the mask and the file"
        )
    if (good == good[0]).all():
        raise ValueError(
            f"an image was expected, got {good[0]} in every pixel; check the detector and the file"
        )


def standardize(values: np.ndarray, valid: np.ndarray | None = None) -> np.ndarray:
    """Bring an image to zero median and unit spread, whatever its unit, offset and kind of number.

    Parameters
    ----------
    values : ndarray or masked array, shape (y, x)
        Intensities in any unit.
    valid : ndarray of bool, shape (y, x), optional
        False at pixels to leave out.

    Returns
    -------
    ndarray of float32, shape (y, x)
        NaN where a pixel is masked, not valid or not finite. Median and spread are those of the
        other pixels in double precision (integers: exact), and robust to outliers; what is a
        million times the spread away from the median is cut off there.

    Raises
    ------
    TypeError, ValueError
        See ``check_image``.
    """
    check_image(values, valid)
    valid = _find_valid(values, valid)
    good = _to_double(np.asarray(values)[valid])
    sample = thin_out(good)
    good = ((good - np.median(sample)) / spread(sample)).clip(-LARGEST, LARGEST)
    standard = np.full(valid.shape, np.nan, np.float32)
    standard[valid] = good
    return standard


def find_constant(image: np.ndarray, side: float) -> np.ndarray:
    """Find areas in which all pixels have one value: padding, saturation.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, NaN where a pixel is not valid.
    side : float
        Of the smallest square of one value that counts, in px: larger than a column of atoms, whose
        height may be cut off.

    Returns
    -------
    ndarray of bool, shape (y, x)
        True in squares of one value; larger ones are asked for where counts are so few that many
        pixels are zero.
    """
    same = (image[1:] == image[:-1])[:, 1:] & (image[:, 1:] == image[:, :-1])[1:]
    same &= image[1:, 1:] == image[:-1, 1:]
    share = min(float(same.mean()), MOST)  # four equal pixels
    if share == 0:
        return np.zeros(image.shape, bool)
    size = math.ceil(max(SMALLEST, side, 2 * math.sqrt(math.log(CHANCE) / math.log(share)))) | 1
    windows = ndimage.minimum_filter(same, size - 1, mode="constant", cval=0)
    windows = np.pad(windows, ((0, 1), (0, 1)))
    return ndimage.maximum_filter(windows, size, mode="constant", cval=0)


def thin_out(values: np.ndarray) -> np.ndarray:
    """Thin out values of which quantiles are taken.

    Parameters
    ----------
    values : ndarray, shape (value,)
        Any number of them.

    Returns
    -------
    ndarray, shape (value,)
        At most 65 536 of them.
    """
    # an odd step visits all columns of an image
    return values[:: -(-len(values) // AT_MOST) | 1]


def spread(values: np.ndarray) -> float:
    """Measure the standard deviation of values by quantiles, so that outliers do not count.

    Parameters
    ----------
    values : ndarray, shape (value,)
        Not all equal.

    Returns
    -------
    float
        Half of the distance of the quantiles at one standard deviation on either side; where more
        than two thirds of the values are equal, of those further out; at last by the squares.
    """
    for tail, distance in ((0.1587, 2.0), (0.0228, 4.0), (0.00135, 6.0)):
        low, high = np.quantile(values, (tail, 1 - tail))
        if high > low:
            return float((high - low) / distance)
    return float(values.std()) or 1.0


def _check_shape(values: np.ndarray, valid: np.ndarray | None) -> None:
    """Raise an error if values are not the pixels of one image."""
    if values.dtype.kind not in "iuf":
        raise TypeError(
            f"an image of real numbers was expected, got an array of {values.dtype}; "
            "pass the recorded counts"
        )
    if values.ndim == 3 and (values.shape[-1] in (3, 4) or values.shape[0] in (3, 4)):
        raise ValueError(
            f"an image (y, x) was expected, got shape {values.shape}, as of colours; "
            "pass the data of one detector"
        )
    if values.ndim != 2:
        raise ValueError(
            f"an image (y, x) was expected, got shape {values.shape}; "
            "pass one frame of one detector"
        )
    if min(values.shape) < SMALLEST_CELL * MIN_CELLS:
        raise ValueError(
            f"{SMALLEST_CELL * MIN_CELLS} pixels a side or more were expected, got {values.shape}; "
            "pass an image, not a patch"
        )
    if valid is None:
        return
    if np.asarray(valid).dtype != bool:
        raise TypeError(
            f"valid was expected to be boolean, got an array of {np.asarray(valid).dtype}; "
            "True marks the pixels to use"
        )
    if np.shape(valid) != values.shape:
        raise ValueError(
            f"valid was expected to have the shape {values.shape} of the image, "
            f"got {np.shape(valid)}; pass one flag a pixel"
        )


def _find_valid(values: np.ndarray, valid: np.ndarray | None) -> np.ndarray:
    """Pixels that are finite, not masked and not ruled out."""
    found = np.isfinite(np.asarray(values)) & ~np.ma.getmaskarray(values)
    return found if valid is None else found & valid


def _to_double(values: np.ndarray) -> np.ndarray:
    """Values as doubles, less an offset if they are integers, times a power of two otherwise."""
    if values.dtype.kind in "iu":
        # the difference of two integers of 64 bits is exact modulo 2**64
        unsigned = values.astype(np.uint64)
        return (unsigned - np.uint64(int(values.min()) % 2**64)).astype(np.float64)
    values = values.astype(np.float64)
    # neither the difference of two values nor a square can overflow then
    return np.ldexp(values, -1 - int(np.frexp(np.abs(values).max())[1]))
