"""The mean cell of a crystal, and how strongly it is there in every part of an image."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .cell import REFLECTIONS
from .fields import on_pixels
from .lattice import Lattice

__all__ = ["fit_amplitude", "fold_cell", "repeat_cell"]

BINS = 24  # along each lattice vector; the third shell has 12 bins a period
BLOCKS = 5  # in a lattice constant: where the amplitude is measured
LEAST = 0.3  # of a window that must be valid


def fold_cell(
    flat: np.ndarray, valid: np.ndarray, lattice: Lattice
) -> tuple[np.ndarray, np.ndarray]:
    """Average an image over its cells.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.
    valid : ndarray of bool, shape (y, x)
        Pixels to use.
    lattice : Lattice
        Of the image.

    Returns
    -------
    amplitudes : ndarray of complex, shape (reflection,)
        Fourier amplitudes of the mean cell about the origin of the lattice, at ``REFLECTIONS``.
    index : ndarray of int, shape (y, x)
        Place in the cell of every pixel: see ``repeat_cell``.
    """
    y, x = (np.arange(n, dtype=np.float32) for n in flat.shape)
    field = on_pixels(lattice.displacement, lattice.shape)
    away_y = y[:, None] - field[0] - np.float32(lattice.origin[0])
    away_x = x - field[1] - np.float32(lattice.origin[1])
    inverse = np.linalg.inv(lattice.vectors).astype(np.float32) * BINS
    bins = [
        np.rint(away_y * inverse[0, k] + away_x * inverse[1, k]).astype(np.int32) % BINS
        for k in (0, 1)
    ]
    index = bins[0] * BINS + bins[1]
    counts = np.bincount(index[valid], minlength=BINS**2)
    sums = np.bincount(index[valid], flat[valid], minlength=BINS**2)
    cell = np.fft.fft2((sums / np.maximum(counts, 1)).reshape(BINS, BINS)) / BINS**2
    return cell[tuple(REFLECTIONS.T % BINS)], index


def repeat_cell(amplitudes: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Repeat the mean cell over the image.

    Parameters
    ----------
    amplitudes : ndarray of complex, shape (reflection,)
        Of the mean cell.
    index : ndarray of int, shape (y, x)
        From ``fold_cell``.

    Returns
    -------
    ndarray of float32, shape (y, x)
        The image of the perfect crystal: the reflections of the first three shells.
    """
    places = np.stack(np.meshgrid(*[np.arange(BINS) / BINS] * 2, indexing="ij"), -1).reshape(-1, 2)
    cell = 2 * (np.exp(2j * np.pi * places @ REFLECTIONS.T) @ amplitudes).real
    return cell.astype(np.float32)[index]


def fit_amplitude(
    flat: np.ndarray, valid: np.ndarray, perfect: np.ndarray, step: int, width: float
) -> tuple[np.ndarray, np.ndarray]:
    """Fit the image of the perfect crystal to an image in a Gaussian window around every point.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        From ``flatten``.
    valid : ndarray of bool, shape (y, x)
        Pixels to use.
    perfect : ndarray, shape (y, x)
        From ``repeat_cell``.
    step : int
        Pixels between the points, along each side.
    width : float
        Standard deviation of the window in px.

    Returns
    -------
    amplitude : ndarray, shape (point, point)
        Factor of the perfect crystal, beside a constant: zero where it is not there.
    covered : ndarray of bool, shape (point, point)
        Whether 30 % of the window is valid.
    """
    weight = valid.astype(np.float32)
    known, model = flat * weight, perfect * weight

    def window(values: np.ndarray) -> np.ndarray:
        height, length = (n // step * step for n in values.shape)
        blocks = values[:height, :length].reshape(height // step, step, length // step, step)
        return ndimage.gaussian_filter(blocks.mean((1, 3)), width / step, mode="constant")

    share, mean, middle = window(weight), window(known), window(model)
    whole = window(np.ones_like(weight))
    share = np.maximum(share, 1e-6)
    together = window(known * perfect) / share - mean * middle / share**2
    power = window(model * perfect) / share - (middle / share) ** 2
    return together / np.maximum(power, 1e-9), share > LEAST * whole
