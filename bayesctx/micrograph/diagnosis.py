"""Plain causes of a bad fit: what was done to an image before it came here."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from .cell import MIN_CELLS, SHELLS, largest_stretch
from .intensities import find_constant, standardize, thin_out
from .lattice import Lattice
from .regions import fold_cell, repeat_cell
from .spectrum import flatten

__all__ = ["Contrast", "Finding", "diagnose", "find_blemishes", "measure_contrast"]

DARK, SIGNIFICANT = -0.3, 4.0  # polarity of dark columns; simulated crystals stay above 0.4
LESS = -0.1  # log ratio of the noise of bright and dark parts: more where it is dark
MIN_PADDING = 0.005  # of the pixels
PILE, PILED = 0.001, 5.0  # of the pixels at one end, and times those of the levels beside it
BESIDE = 0.05  # of the range of the intensities
FEW_LEVELS = 8  # below the median
COMPRESSED = 0.08  # log ratio of the noise of bright and dark parts; linear images stay above 0.14
NOISY = 4.0  # times the differences of neighbouring pixels in the perfect crystal
FEWEST = 4000  # pixels with valid neighbours, for a log ratio good to 0.08
MILD_STRETCH = 1.08  # of a cell: strain and drift stay below
CHANCE = 1e-8  # of a bar where pixels are independent
MOST = 0.98  # share of the highest or lowest intensities
TAILS = (0.02, 0.002)  # of the pixels, from which the ends of their distribution are continued
STEEPEST = 0.25  # of the distance of the second tail, a decade of probability at the least
SPARSE = 0.1  # of the pixels above half of that distance: less than columns fill
SHARP = 3.0  # times the height of the third highest of the square of pixels around a hot one
SHADE = 0.06  # of the range of the intensities: a bar that was compressed is not of one value
LONGER = 1 / 8  # of the image: a scale bar is longer than two columns side by side
SHADED = 0.2  # of the pixels that may be in this range
OBLONG, FULL = 3.0, 0.85  # ratio of the sides and filled part of a scale bar
RING_SHARE = 0.35  # of the pixels around it that may have its intensity


@dataclass(frozen=True, eq=False)
class Finding:
    """Something that was done to an image and that is no matter of the crystal or the microscope.

    Attributes
    ----------
    name : str
        One of "inverted", "hot pixels", "scale bar", "padding", "clipped", "display", "gamma",
        "stretched".
    message : str
        What was expected, what came, and what to do.
    pixels : ndarray of bool, shape (y, x), or None
        Pixels that are no measurement and can be left out; None if it concerns the whole image.
    """

    name: str
    message: str
    pixels: np.ndarray | None = None


@dataclass(frozen=True)
class Contrast:
    """Whether columns are bright, and how noise goes with brightness.

    Attributes
    ----------
    polarity : float
        1 if columns are bright, -1 if they are dark.
    significance : float
        Of the reflections that tell, in standard deviations of the noise.
    scatter : float
        Log ratio of the variance about the mean cell in its brightest and darkest 15 %.
    noise : float
        The same for the variance between neighbouring pixels; NaN if they differ by the crystal
        more than by noise.
    """

    polarity: float
    significance: float
    scatter: float
    noise: float


def find_blemishes(image: np.ndarray) -> list[Finding]:
    """Find pixels that are no measurement: hot pixels, padding, a scale bar.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, from ``standardize``.

    Returns
    -------
    list of Finding
        Empty for ordinary images; each has the ``pixels`` to leave out.
    """
    return list(_find_pixels(image))


def diagnose(
    values: np.ndarray, valid: np.ndarray | None = None, lattice: Lattice | None = None
) -> list[Finding]:
    """Look for what was done to a whole image before it came here.

    Parameters
    ----------
    values : ndarray or masked array, shape (y, x)
        Intensities as they were recorded.
    valid : ndarray of bool, shape (y, x), optional
        False at pixels to leave out, such as those of ``find_blemishes``.
    lattice : Lattice, optional
        Of the image; without it inverted and compressed grey scales are not found.

    Returns
    -------
    list of Finding
        Empty for ordinary images; what spoils most comes first.

    Raises
    ------
    TypeError, ValueError
        See ``check_image``.
    """
    image = standardize(values, valid)
    contrast = [] if lattice is None else _find_contrast(image, lattice)
    return [*contrast, *_find_levels(np.asarray(values)[np.isfinite(image)])]


def measure_contrast(image: np.ndarray, lattice: Lattice) -> Contrast:
    """Measure whether columns are bright, and how noise goes with brightness.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, from ``standardize``.
    lattice : Lattice
        Of the image.

    Returns
    -------
    Contrast
        Of the image.

    Notes
    -----
    In the second shell of reflections the three sublattices have one phase, whatever they hold: it
    is that of bright columns in a dark-field image. Only a defocus beyond some 100 Å turns it
    around. Where atoms are, in dark field, counts and defects scatter most.
    """
    flat, valid = flatten(image), np.isfinite(image)
    amplitudes, index = fold_cell(flat, valid, lattice)
    perfect = repeat_cell(amplitudes, index)
    second = amplitudes.reshape(SHELLS.shape[:2])[1]
    rest = np.where(valid, flat - perfect, 0)
    noise = math.sqrt(float((rest**2).sum()) / max(np.count_nonzero(valid), 1) ** 2)
    rest = rest - ndimage.gaussian_filter(rest, 0.35 * lattice.lattice_constant)
    between = _differences(flat)
    whole = valid[1:, 1:] & valid[:-1, :-1] & valid[1:, :-1] & valid[:-1, 1:]
    is_noisy = (between**2).mean() > NOISY * (_differences(perfect) ** 2).mean()
    is_noisy &= np.count_nonzero(whole) > FEWEST
    return Contrast(
        float(second.real.sum() / max(np.abs(second).sum(), 1e-12)),
        float(abs(second.real.sum()) / max(noise * math.sqrt(len(second) / 2), 1e-12)),
        _log_ratio(rest[valid], perfect[valid]),
        _log_ratio(between[whole], perfect[1:, 1:][whole]) if is_noisy else math.nan,
    )


def _differences(flat: np.ndarray) -> np.ndarray:
    """Differences of neighbouring pixels, of which a plane has none."""
    return (flat[1:, 1:] + flat[:-1, :-1] - flat[1:, :-1] - flat[:-1, 1:]) / 2


def _log_ratio(rest: np.ndarray, perfect: np.ndarray) -> float:
    """Log ratio of the mean squares in the brightest and in the darkest parts of the cell."""
    dark, bright = np.quantile(perfect, (0.15, 0.85))
    low, high = ((rest[part] ** 2).mean() for part in (perfect <= dark, perfect >= bright))
    return float(np.log(max(high, 1e-12) / max(low, 1e-12)))


def _find_contrast(image: np.ndarray, lattice: Lattice) -> Iterator[Finding]:
    """What the cell tells."""
    contrast = measure_contrast(image, lattice)
    is_dark = contrast.polarity < DARK and contrast.significance > SIGNIFICANT
    # near the defocus at which the second shell turns around, noise tells
    is_dark |= contrast.polarity < 0 and max(contrast.scatter, contrast.noise) < LESS
    if is_dark:
        cause = "an inverted grey scale" if contrast.scatter < 0 else "a defocus beyond 100 Å"
        yield Finding(
            "inverted",
            "columns brighter than their surroundings were expected, got darker ones, as of "
            f"bright field or of {cause}; pass the dark-field image as it was recorded",
        )
    elif contrast.polarity > -DARK and contrast.noise < COMPRESSED:
        yield Finding(
            "gamma",
            "noise that grows with the intensity was expected, got less noise where it is "
            "bright, as of a compressed grey scale (gamma); pass the recorded counts",
        )
    ratio, angle = largest_stretch(lattice.vectors)
    if ratio > MILD_STRETCH:
        yield Finding(
            "stretched",
            f"a hexagonal cell was expected, got one stretched {ratio:.2f} times at {angle:.0f} "
            "degrees to the x axis; check that pixels are square, and the scan",
        )


def _find_pixels(image: np.ndarray) -> Iterator[Finding]:
    """Pixels that are no measurement."""
    hot = _find_hot_pixels(image)
    if hot.any():
        y, x = np.argwhere(hot)[0]
        yield Finding(
            "hot pixels",
            f"intensities of a probe wider than a pixel were expected, got {hot.sum()} single "
            f"pixels far outside of their range, as at y = {y}, x = {x}; they are left out",
            hot,
        )
    rest = np.where(hot, np.float32(np.nan), image)
    side = min(image.shape) / 2 / MIN_CELLS
    padding = find_constant(rest, side) | _find_frame(rest)
    if padding.any():  # and its corners, which are narrower
        near = ndimage.maximum_filter(padding, 4 * math.ceil(side))
        near &= np.isin(rest, np.unique(rest[padding]))
        padding = ndimage.binary_propagation(padding, mask=near)
        rest[padding] = np.nan
    if padding.mean() > MIN_PADDING:
        y, x = np.argwhere(padding).mean(0)
        yield Finding(
            "padding",
            "an intensity of its own in every pixel was expected, got one and the same in "
            f"{100 * padding.mean():.1f} % of the image, around y = {y:.0f}, x = {x:.0f}, as of "
            "padding or saturation; these pixels are left out",
            padding,
        )
    overlay = _find_overlay(rest)
    if overlay.any():
        y, x = np.argwhere(overlay).mean(0)
        yield Finding(
            "scale bar",
            "an image as it was recorded was expected, got a scale bar or text around "
            f"y = {y:.0f}, x = {x:.0f}; these pixels are left out",
            overlay,
        )


def _find_frame(image: np.ndarray) -> np.ndarray:
    """Rows and columns of one value along the border."""
    frame = np.zeros(image.shape, bool)
    for lines, marks in ((image, frame), (image.T, frame.T)):
        same = (lines == lines[:, :1]).all(1)
        first, last = np.argmin(same), np.argmin(same[::-1])
        marks[:first] = True
        marks[len(same) - last :] = True
    return frame


def _find_levels(values: np.ndarray) -> Iterator[Finding]:
    """What the levels of the intensity tell."""
    levels, counts = np.unique(values, return_counts=True)
    if len(levels) < 2 * FEW_LEVELS:
        return
    piled = []
    for name, order in (("highest", slice(None, None, -1)), ("lowest", slice(None))):
        # half of them: the difference of two doubles may overflow
        level, count = levels[order].astype(float) / 2, counts[order]
        away = np.abs(level - level[0])
        beside = count[1 : max(4, np.searchsorted(away, BESIDE * away[-1]))]
        # where few electrons are counted, many pixels have none
        below = np.searchsorted(np.cumsum(count), len(values) / 2)
        if below >= FEW_LEVELS and count[0] > max(PILE * len(values), PILED * beside.mean()):
            piled.append(f"{100 * count[0] / len(values):.1f} % at the {name}")
    if piled:
        yield Finding(
            "clipped",
            "intensities that spread to their ends were expected, got "
            f"{' and '.join(piled)} value, as of a clipped grey scale or a saturated detector; "
            "pass the recorded counts",
        )
    if levels[0] == 0 and levels[-1] == 255 and (levels == np.rint(levels)).all():
        yield Finding(
            "display",
            "recorded counts were expected, got whole numbers from 0 to 255, as of a picture "
            "for display; pass the data of the detector",
        )


def _find_hot_pixels(image: np.ndarray) -> np.ndarray:
    """Single pixels far outside of the range of the others: hot, dead, hit by a cosmic ray.

    The tails of the distribution, continued exponentially, do not reach them once in a thousand
    images, and they are three times as far from the median as their neighbours: what is imaged
    is wider than a pixel.
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


def _find_overlay(image: np.ndarray) -> np.ndarray:
    """A scale bar that was drawn into an image, the text beside it, and two pixels around.

    Bars are rectangles of the highest or lowest intensity that are longer than 1/8 of the image
    and three times as long as wide.
    """
    found = np.zeros(image.shape, bool)
    if not np.isfinite(image).any():
        return found
    low, high = np.nanmin(image), np.nanmax(image)
    long = round(LONGER * min(image.shape)) | 1
    for end in (image >= high - SHADE * (high - low), image <= low + SHADE * (high - low)):
        if end.mean() > SHADED:  # of one value then
            end &= (image == high) | (image == low)
        share = min(float(end.mean()), MOST)
        least = math.log(CHANCE) / math.log(share)
        for axis in (1, 0):
            # the opening by a line, in a time that does not depend on its length
            middles = ndimage.minimum_filter1d(end, long, axis, mode="constant")
            if not middles.any():
                continue
            labels, _ = ndimage.label(ndimage.maximum_filter1d(middles, long, axis))
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
