"""Fourier analysis of an image: its background, power spectrum and local amplitudes of waves."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from scipy import fft, ndimage
from scipy.interpolate import RectBivariateSpline

from .cell import MIN_CELLS
from .intensities import thin_out

__all__ = [
    "TILE",
    "Spectrum",
    "count_nodes",
    "flatten",
    "lock_in",
    "measure_spectrum",
    "node_coordinates",
    "on_pixels",
    "splines",
]

TILE = 512  # px, largest side of the tiles whose power spectra are averaged: eight cells of 60 px
WINDOWS = 12  # over a tile: standard deviation of the window in which a background is smooth
CUT = 2.0  # times the distance of the quantiles at 2 and 98 %: where outliers are cut off
RING = 1.3  # ratio of the radii of a ring of the spectrum
PEAKS_PER_RING = 24  # strongest over the background


@dataclass(frozen=True, eq=False)
class Spectrum:
    """Power spectrum of an image, zero frequency in the middle.

    Attributes
    ----------
    power : ndarray, shape (side, side)
        Mean over the tiles of an image.
    background : ndarray, shape (side, side)
        Expected power of the noise.
    highest : ndarray, shape (side, side)
        Power of the highest of a bin and its eight neighbours.
    peaks : ndarray, shape (peak, 2)
        Maxima (y, x) in bins from zero frequency, to a fraction of a bin.
    """

    power: np.ndarray
    background: np.ndarray
    highest: np.ndarray
    peaks: np.ndarray


def flatten(image: np.ndarray) -> np.ndarray:
    """Remove what is smooth over a cell, and outliers.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        From ``standardize``, NaN where a pixel is not valid.

    Returns
    -------
    ndarray of float32, shape (y, x)
        Of unit variance, zero where a pixel is not valid.
    """
    valid = np.isfinite(image)
    every = valid.all()
    flat = _cut_outliers(np.where(valid, image, np.float32(0)), valid)
    width = min(*image.shape, TILE) / WINDOWS
    nodes = count_nodes(image.shape, width)
    smooth = lock_in(flat, np.zeros(2), nodes, width).real
    if not every:
        share = lock_in(valid.astype(np.float32), np.zeros(2), nodes, width).real
        smooth = smooth / np.maximum(share, 1e-6)
    flat = flat - on_pixels(smooth[None], image.shape)[0]
    if not every:
        flat[~valid] = 0
    flat = _cut_outliers(flat, valid)
    # far more zeros than counts have no quantiles
    for _ in range(4):
        scale = math.sqrt(float((flat**2).sum(dtype=np.float64)) / np.count_nonzero(valid))
        flat = np.clip(flat / max(scale, 1e-20), -8, 8)
    return flat


def measure_spectrum(flat: np.ndarray) -> Spectrum:
    """Measure the power spectrum of an image and find its peaks.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.

    Returns
    -------
    Spectrum
        Of tiles of at most 512 pixels a side.
    """
    power = _power_spectrum(flat)
    background = _estimate_background(power)
    peaks = _find_peaks(power / background)
    return Spectrum(power, background, ndimage.maximum_filter(power, 3), peaks)


def _cut_outliers(flat: np.ndarray, valid: np.ndarray) -> np.ndarray:
    """Cut off what is far outside of the range of the valid pixels."""
    low, high = np.quantile(thin_out(flat[valid]), (0.02, 0.98))
    reach = CUT * (high - low)
    return np.clip(flat, low - reach, high + reach) if reach > 0 else flat


def _power_spectrum(flat: np.ndarray) -> np.ndarray:
    """Mean power of square tiles that overlap by half, zero frequency in the middle."""
    side = min(*flat.shape, TILE) // 2 * 2
    window = np.hanning(side + 1)[:-1].astype(np.float32)
    starts = [
        np.linspace(0, n - side, math.ceil(2 * (n - side) / side) + 1).astype(int)
        for n in flat.shape
    ]
    tiles = (
        flat[y : y + side, x : x + side] * window * window[:, None]
        for y in starts[0]
        for x in starts[1]
    )
    half = sum(np.abs(fft.rfft2(tile)) ** 2 for tile in tiles)
    # the other half is that of opposite frequencies
    other = np.roll(half[::-1, -2:0:-1], 1, 0)
    return fft.fftshift(np.concatenate([half, other], 1)).astype(np.float64)


def _radius(side: int) -> np.ndarray:
    """Distances from the middle of a spectrum in bins."""
    bins = np.arange(side) - side // 2
    return np.hypot(bins[:, None], bins)


def _estimate_background(power: np.ndarray) -> np.ndarray:
    """Power of the noise at every spatial frequency."""
    radius = _radius(len(power))
    ring = np.rint(radius).astype(int)
    # the other half of the plane is the same; a low quantile, since six peaks of a small image
    # fill much of their ring; speckle is exponential
    half = slice(len(power) // 2, None)
    log = np.log(power[half] + 1e-30)
    step = log.max() - log.min() + 1
    ranked = np.sort((ring[half] * step + log - log.min()).ravel())
    counts = np.bincount(ring[half].ravel())
    quartile = ranked[np.cumsum(counts) - counts + counts // 4]
    quartile = np.exp(quartile - np.arange(len(counts)) * step + log.min())
    smooth = ndimage.median_filter(quartile, 5, mode="nearest")
    # a blurred image has no noise at high frequency, only rounding errors
    smooth = np.maximum(smooth, 3e-4 * power.mean())
    background = np.exp(np.interp(radius, np.arange(len(counts)), np.log(smooth)))
    for axis in (0, 1):  # offsets of scan lines are a streak along an axis
        background = np.maximum(background, np.quantile(power, 0.25, axis=axis, keepdims=True))
    return background / -math.log(0.75)


def _find_peaks(snr: np.ndarray) -> np.ndarray:
    """Strongest peaks of every ring of a spectrum, shape (peak, 2), (y, x) in bins."""
    radius, half = _radius(len(snr)), len(snr) // 2
    is_peak = (
        (snr == ndimage.maximum_filter(snr, 3)) & (radius > MIN_CELLS / 2) & (radius < half - 1)
    )
    # where an image has little noise, higher orders rise further above the background than the
    # first: they compete with their like only
    ring = (np.log(radius[is_peak]) / math.log(RING)).astype(int)
    order = np.lexsort((-snr[is_peak], ring))
    first = np.searchsorted(ring[order], ring[order])
    peaks = np.argwhere(is_peak)[order[np.arange(len(order)) - first < PEAKS_PER_RING]]
    log = np.log(snr + 1e-9)
    shift = []
    for step in np.eye(2, dtype=int):
        before, at, after = (log[tuple((peaks + k * step).T)] for k in (-1, 0, 1))
        shift.append((before - after) / np.minimum(2 * (before - 2 * at + after), -1e-6))
    return peaks - half + np.stack(shift, -1).clip(-0.5, 0.5)


def count_nodes(shape: tuple[int, int], spacing: float) -> tuple[int, int]:
    """Count the nodes along each side of an image: enough for a cubic spline.

    Parameters
    ----------
    shape : tuple of int
        Pixels (y, x) of the image.
    spacing : float
        Largest distance of two nodes in px.

    Returns
    -------
    tuple of int
        Along y and x.
    """
    return tuple(max(3, math.ceil((n - 1) / spacing)) + 1 for n in shape)


def node_coordinates(
    shape: tuple[int, int], num_nodes: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """List where the nodes are.

    Parameters
    ----------
    shape : tuple of int
        Pixels (y, x) of the image.
    num_nodes : tuple of int
        From ``count_nodes``.

    Returns
    -------
    tuple of ndarray
        Along y and x in px.
    """
    return tuple(np.linspace(0, n - 1, num) for n, num in zip(shape, num_nodes, strict=True))


def splines(values: np.ndarray, shape: tuple[int, int]) -> list[RectBivariateSpline]:
    """Interpolate values on the nodes by cubic splines.

    Parameters
    ----------
    values : ndarray, shape (component, node, node)
        Of the field.
    shape : tuple of int
        Pixels (y, x) of the image.

    Returns
    -------
    list of RectBivariateSpline
        One per component, of (y, x) in px.
    """
    return [RectBivariateSpline(*node_coordinates(shape, v.shape), v) for v in values]


def on_pixels(values: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Interpolate values on the nodes to the pixels of an image.

    Parameters
    ----------
    values : ndarray, shape (component, node, node)
        Of the field.
    shape : tuple of int
        Pixels (y, x) of the image.

    Returns
    -------
    ndarray of float32, shape (component, y, x)
        The field.
    """
    return np.stack(
        [spline(*map(np.arange, shape)).astype(np.float32) for spline in splines(values, shape)]
    )


def lock_in(
    flat: np.ndarray, wave: np.ndarray, num_nodes: tuple[int, int], width: float
) -> np.ndarray:
    """Measure the complex amplitude of a wave in a Gaussian window around every node.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        Image without background.
    wave : ndarray, shape (2,)
        Spatial frequency (y, x) in cycles per px.
    num_nodes : tuple of int
        From ``count_nodes``.
    width : float
        Standard deviation of the window in px.

    Returns
    -------
    ndarray of complex64, shape (node, node)
        The amplitude.
    """
    windows = []
    for n, q, centre in zip(flat.shape, wave, node_coordinates(flat.shape, num_nodes), strict=True):
        weights = np.exp(-((np.arange(n) - centre[:, None]) ** 2) / (2 * width**2))
        weights = weights / weights.sum(-1, keepdims=True) * np.exp(-2j * np.pi * q * np.arange(n))
        windows.append(weights.astype(np.complex64))
    return windows[0] @ flat @ windows[1].T
