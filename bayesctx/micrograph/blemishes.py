"""Pixels that are no measurement: areas of one value, hot pixels, scale bars."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from .intensities import thin_out

__all__ = ["find_constant", "find_hot_pixels", "find_overlay"]

CHANCE = 1e-6  # of a window of one value where pixels are independent
SMALLEST = 5  # px, side of a window of one value
MOST = 0.98  # of the pixels that may be part of such areas
TAILS = (0.02, 0.002)  # of the pixels, from which the ends of their distribution are continued
STEEPEST = 0.25  # of the distance of the second tail, a decade of probability at the least
SPARSE = 0.1  # of the pixels above half of that distance: less than columns fill
SHARP = 3.0  # times the height of the third highest of the square of pixels around a hot one
SHADE = 0.06  # of the range of the intensities: a bar that was compressed is not of one value
LONGER = 1 / 12  # of the image: a scale bar is longer than a column is wide
SHADED = 0.2  # of the pixels that may be in this range
OBLONG, FULL = 3.0, 0.85  # ratio of the sides and filled part of a scale bar
RING_SHARE = 0.35  # of the pixels around it that may have its intensity


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


def find_hot_pixels(image: np.ndarray) -> np.ndarray:
    """Find single pixels far outside of the range of the others: hot, dead, hit by a cosmic ray.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, NaN where a pixel is not valid.

    Returns
    -------
    ndarray of bool, shape (y, x)
        True at pixels that the tails of the distribution, continued exponentially, do not reach
        once in a thousand images, and that are three times as far from the median as their
        neighbours: what is imaged is wider than a pixel.
    """
    good = thin_out(image[np.isfinite(image)])
    decades = math.log10(TAILS[1] * image.size * 1e3)
    middle = np.median(good)
    found = np.zeros(image.shape, bool)
    for sign in (1, -1):
        above = np.nan_to_num(sign * (image - middle), nan=0.0)
        near, far = np.quantile(sign * (good - middle), [1 - tail for tail in TAILS])
        # where few electrons are counted the tail is one of steps
        sparse = np.mean(sign * (good - middle) > far / 2) < SPARSE
        reach = far + decades * max(far - near, STEEPEST * (1 + sparse) * far)
        for y, x in np.argwhere(above > reach) if far > 0 else ():
            around = above[max(y - 1, 0) : y + 2, max(x - 1, 0) : x + 2].ravel()
            # one neighbour may be hot as well
            found[y, x] = len(around) > 3 and above[y, x] > SHARP * np.sort(around)[-3]
    return found


def find_overlay(image: np.ndarray) -> np.ndarray:
    """Find a scale bar that was drawn into an image, and the text beside it.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, NaN where a pixel is not valid.

    Returns
    -------
    ndarray of bool, shape (y, x)
        True at bars, rectangles of the highest or lowest intensity that are longer than 1/12 of
        the image and three times as long as wide, at what has the same intensity nearby, and two
        pixels around.
    """
    found = np.zeros(image.shape, bool)
    low, high = np.nanmin(image), np.nanmax(image)
    long = max(2, round(LONGER * min(image.shape)))
    for end in (image >= high - SHADE * (high - low), image <= low + SHADE * (high - low)):
        if end.mean() > SHADED:  # of one value then
            end &= (image == high) | (image == low)
        share = min(float(end.mean()), MOST)
        least = math.log(CHANCE / 1e2) / math.log(share)
        for line in (np.ones((1, long)), np.ones((long, 1))):
            labels, _ = ndimage.label(ndimage.binary_opening(end, line))
            for number, box in enumerate(ndimage.find_objects(labels), 1):
                if _is_bar(image, end, labels == number, box, least):
                    longest = max(part.stop - part.start for part in box)
                    wide = tuple(slice(max(p.start - longest, 0), p.stop + longest) for p in box)
                    found[wide] |= end[wide]
    return ndimage.binary_dilation(found, iterations=2) if found.any() else found


def _is_bar(
    image: np.ndarray, end: np.ndarray, part: np.ndarray, box: tuple[slice, slice], least: float
) -> bool:
    """Whether a part of the highest or lowest intensity is a bar, and too large for chance."""
    sides = [p.stop - p.start for p in box]
    size = np.count_nonzero(part[box])
    if min(sides) < 2 or max(sides) < OBLONG * min(sides):
        return False
    if size < max(least, FULL * sides[0] * sides[1]):
        return False
    if np.ptp(image[part]) == 0 and size > 3 * least:
        return True
    ring = tuple(slice(max(p.start - 1, 0), p.stop + 1) for p in box)
    return end[ring].sum() - size < RING_SHARE * (end[ring].size - size)
