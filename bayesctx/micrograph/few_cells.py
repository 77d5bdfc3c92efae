"""Lattices of so few cells that their power spectrum has no peaks of its own."""

from __future__ import annotations

import math

import numpy as np

from .cell import MIN_CELLS, SHELLS

__all__ = ["first_order_share", "search_few_cells"]

SIDE = 48  # px, to which an image is reduced: eight a cell
FEWEST, STEP = 2.2, 0.2  # cells along the shorter side
TURN_STEP = 0.25  # cycles over the image, at the first order
# share of the variance, and best over median of the turns: no noise reaches both, crystals of more
# than three cells give 0.05 to 0.9 and 8 to 200
MIN_SHARE, MIN_CONTRAST = 0.03, 7.0


def search_few_cells(flat: np.ndarray) -> float:
    """Fit the first order of a hexagonal lattice of some two to six cells to an image.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        Image of zero median, zero where a pixel is not valid.

    Returns
    -------
    float
        Lattice constants along the shorter side, 0 if there is no such lattice.
    """
    small = _reduce(flat)
    best = (0.0, 0.0)
    for num_cells in np.arange(FEWEST, MIN_CELLS + STEP / 2, STEP):
        radius = 2 / math.sqrt(3) * num_cells / min(small.shape)
        num_turns = math.ceil(radius * min(small.shape) * (math.pi / 3) / TURN_STEP)
        angles = np.arange(num_turns) * (math.pi / 3 / num_turns) + [[0], [2 * math.pi / 3]]
        bases = radius * np.stack([np.sin(angles), np.cos(angles)], -1).swapaxes(0, 1)
        shares = np.array([_share(small, basis) for basis in bases])
        if shares.max() > max(best[1], MIN_SHARE, MIN_CONTRAST * np.median(shares)):
            best = (float(num_cells), float(shares.max()))
    return best[0]


def first_order_share(flat: np.ndarray, basis: np.ndarray) -> float:
    """Measure how much of the variance of an image its first-order reflections are.

    Parameters
    ----------
    flat : ndarray, shape (y, x)
        Image of zero median, zero where a pixel is not valid.
    basis : ndarray, shape (2, 2)
        Reciprocal vectors as rows (y, x) in cycles per px.

    Returns
    -------
    float
        Three times the geometric mean of the three, of the image reduced to 48 pixels a side.
    """
    small = _reduce(flat)
    return _share(small, basis * (min(flat.shape) // SIDE or 1))


def _reduce(flat: np.ndarray) -> np.ndarray:
    """Mean of square blocks of pixels, less a parabola, of unit variance."""
    step = min(flat.shape) // SIDE or 1
    height, width = (n // step for n in flat.shape)
    small = flat[: height * step, : width * step].reshape(height, step, width, step).mean((1, 3))
    y, x = (np.linspace(-1, 1, n) for n in small.shape)
    powers = [np.outer(y**i, x**j).ravel() for i in range(3) for j in range(3 - i)]
    plane = np.stack(powers, -1)
    rest = small.ravel() - plane @ np.linalg.lstsq(plane, small.ravel(), rcond=None)[0]
    return (rest / max(rest.std(), 1e-20)).reshape(small.shape)


def _share(small: np.ndarray, basis: np.ndarray) -> float:
    """Three times the geometric mean of the shares of the variance of three waves."""
    y, x = (np.arange(n) - (n - 1) / 2 for n in small.shape)
    waves = [
        np.outer(np.exp(2j * np.pi * q[0] * y), np.exp(2j * np.pi * q[1] * x)).ravel()
        for q in SHELLS[0] @ basis
    ]
    columns = np.stack([part for w in waves for part in (w.real, w.imag)], -1)
    columns = columns - columns.mean(0)
    normal = columns.T @ columns
    ridge = 1e-3 * np.trace(normal) / 6 * np.eye(6)
    found = np.linalg.solve(normal + ridge, columns.T @ small.ravel())
    power = (found.reshape(3, 2) ** 2).sum(-1) / 2
    return float(3 * np.exp(np.log(power + 1e-12).mean()))
