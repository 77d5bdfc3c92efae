"""The cell of a lattice from the power spectrum of its image."""

from __future__ import annotations

import math

import numpy as np
from scipy import ndimage

from .fields import count_nodes, lock_in, on_pixels

__all__ = ["MIN_CELLS", "REFLECTIONS", "SHELLS", "TILE", "flatten", "search_spectrum"]

# shells of the reciprocal lattice; in each, every reflection is the one before it turned by 120 degrees
SHELLS = np.array(
    [[(1, 0), (0, 1), (-1, -1)], [(1, -1), (1, 2), (-2, -1)], [(2, 0), (0, 2), (-2, -2)]]
)
REFLECTIONS = SHELLS.reshape(-1, 2)

MIN_CELLS = 6  # along each side of the image
TILE = 512  # px, largest side of the tiles whose power spectra are averaged: eight cells of 60 px
NUM_PEAKS = 40  # strongest peaks of the spectrum, two of which span the lattice
NOISE = 10.0  # times the background: what the strongest of all speckles reaches
MIN_SIGNAL_TO_NOISE = 14.0  # white noise stays below 9, any other noise below 13
MIN_COMPACT = 3.0  # first order over the strongest power on a circle around it; streaks give 1, lattices 6 and more
MIN_FIRST_ORDER = 0.05  # power of the first order over the strongest beyond it; superstructures give less, lattices 0.2


def search_spectrum(flat: np.ndarray) -> tuple[np.ndarray, float]:
    """Find the lattice in the power spectrum.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.

    Returns
    -------
    basis : ndarray, shape (2, 2)
        Reciprocal vectors as rows (y, x) in cycles per px, 120 degrees apart.
    signal_to_noise : float
        Power of the first-order reflections over the background around them.

    Raises
    ------
    ValueError
        If nothing in the spectrum is a hexagonal lattice.
    """
    power = _power_spectrum(flat)
    background = _estimate_background(power)
    peaks = _find_peaks(power / background)
    plane = peaks @ [1j, 1]
    ratio = plane / plane[:, None]
    # p, q and q - p are the first order of a lattice that may be strained by several per cent
    hexagon = np.abs(np.angle(ratio, deg=True) - 60) < 10
    for length in (np.abs(ratio), np.abs(ratio - 1)):
        hexagon &= (length > 0.82) & (length < 1.22)
    first, second = np.nonzero(hexagon)
    candidates = np.stack([peaks[first], peaks[second] - peaks[first]], 1)
    score, signal_to_noise = _score(candidates, peaks, power, background)
    best = int(np.argmax(score)) if len(score) else -1
    if best < 0 or signal_to_noise[best] < MIN_SIGNAL_TO_NOISE:
        found = (
            f"one of {signal_to_noise[best]:.1f}"
            if best >= 0 and signal_to_noise[best] > 0
            else "none"
        )
        raise ValueError(
            f"a hexagonal lattice with a signal-to-noise ratio of {MIN_SIGNAL_TO_NOISE:g} in the power spectrum was expected, "
            f"got {found}; check that columns of atoms 5 to 60 px apart can be seen, and crop the image to the crystal"
        )
    return candidates[best] / len(power), float(signal_to_noise[best])


def flatten(image: np.ndarray) -> np.ndarray:
    """Remove what is smooth over a cell, and hot pixels.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities in any unit.

    Returns
    -------
    ndarray of float32, shape (y, x)
        Of unit variance.
    """
    # integers of any kind and huge floats would overflow in what follows
    flat = image.astype(np.float64)
    flat = (flat / np.abs(flat).max()).astype(np.float32)
    width = min(*image.shape, TILE) / 12
    smooth = lock_in(flat, np.zeros(2), count_nodes(image.shape, width), width)
    flat = flat - on_pixels(smooth.real[None], image.shape)[0]
    for _ in range(4):
        flat = np.clip(flat / max(flat.std(), 1e-20), -8, 8)
    return flat


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
    return np.fft.fftshift(sum(np.abs(np.fft.fft2(tile)) ** 2 for tile in tiles))


def _radius(side: int) -> np.ndarray:
    """Distances from the middle of a spectrum in bins."""
    bins = np.arange(side) - side // 2
    return np.hypot(bins[:, None], bins)


def _estimate_background(power: np.ndarray) -> np.ndarray:
    """Power of the noise at every spatial frequency."""
    radius = _radius(len(power))
    ring = np.rint(radius).astype(int).ravel()
    ranked = power.ravel()[np.lexsort((power.ravel(), ring))]
    counts = np.bincount(ring)
    # a low quantile, since six peaks of a small image fill much of their ring; speckle is exponential
    quartile = ranked[np.cumsum(counts) - counts + counts // 4]
    smooth = ndimage.median_filter(quartile, 5, mode="nearest")
    # a blurred image has no noise at high frequency, only rounding errors
    smooth = np.maximum(smooth, 3e-4 * power.mean())
    background = np.exp(np.interp(radius, np.arange(len(counts)), np.log(smooth)))
    for axis in (0, 1):  # offsets of scan lines are a streak along an axis
        background = np.maximum(background, np.quantile(power, 0.25, axis=axis, keepdims=True))
    return background / -math.log(0.75)


def _find_peaks(snr: np.ndarray) -> np.ndarray:
    """Strongest peaks of a spectrum to a fraction of a bin, shape (peak, 2), (y, x) in bins."""
    radius, half = _radius(len(snr)), len(snr) // 2
    is_peak = (
        (snr == ndimage.maximum_filter(snr, 3)) & (radius > MIN_CELLS / 2) & (radius < half - 1)
    )
    peaks = np.argwhere(is_peak)[np.argsort(snr[is_peak])[-NUM_PEAKS:]]
    log = np.log(snr + 1e-9)
    shift = []
    for step in np.eye(2, dtype=int):
        before, at, after = (log[tuple((peaks + k * step).T)] for k in (-1, 0, 1))
        shift.append((before - after) / np.minimum(2 * (before - 2 * at + after), -1e-6))
    return peaks - half + np.stack(shift, -1).clip(-0.5, 0.5)


def _score(
    candidates: np.ndarray, peaks: np.ndarray, power: np.ndarray, background: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """How well candidates, shape (candidate, 2, 2) in bins, explain a spectrum, and their signal-to-noise ratio."""
    half = len(power) // 2

    def look_up(values: np.ndarray, bins: np.ndarray) -> np.ndarray:
        y, x = np.moveaxis(np.rint(bins).astype(int).clip(-half, half - 1) + half, -1, 0)
        return values[y, x]

    bins = (REFLECTIONS @ candidates).reshape(-1, *SHELLS.shape)
    # the peaks of a higher order may lie a bin off
    highest = ndimage.maximum_filter(power, 3)
    height = np.where((np.abs(bins) < half - 0.5).all(-1), look_up(highest, bins), 0.0)
    snr = (height / look_up(background, bins)).clip(min=1.0)
    evidence = np.log(snr / NOISE)
    score = evidence[:, 0].sum(-1) + evidence[:, 1:].clip(min=0).sum((-1, -2))
    # a single strong peak, from a stripe, makes no lattice
    strength = np.minimum(snr[:, 0], 3 * np.median(snr[:, 0], -1, keepdims=True))
    # a superstructure is weaker than the lattice further out
    length = np.linalg.norm(bins[:, 0], axis=-1)
    further = np.linalg.norm(peaks, axis=-1) > 0.8 * length.max(-1, keepdims=True)
    rejected = height[:, 0].mean(-1) < MIN_FIRST_ORDER * (further * look_up(highest, peaks)).max(-1)
    # the streak of an edge has no peaks
    turns = np.stack([f(2 * np.pi * np.arange(16) / 16) for f in (np.sin, np.cos)], -1)
    circle = bins[:, 0, :, None] + (0.4 * length).clip(max=5.0)[..., None, None] * turns
    rejected |= np.median(height[:, 0] / look_up(power, circle).max(-1), -1) < MIN_COMPACT
    return np.where(rejected, -np.inf, score), np.where(
        rejected, 0.0, np.exp(np.log(strength).mean(-1))
    )
