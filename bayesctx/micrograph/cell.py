"""The cell of the crystal: its reflections, its 3-fold axes, and how its image is oriented."""

from __future__ import annotations

import math

import numpy as np

__all__ = [
    "MIN_CELLS",
    "NESTED",
    "REFLECTIONS",
    "SHELLS",
    "SUBLATTICES",
    "cell_constant",
    "find_axis",
    "largest_stretch",
    "orient",
    "stretch",
]

# Everything that holds for the 1H structure and its hexagonal cell alone stands here.

MIN_CELLS = 6  # along each side of the image

# shells of the reciprocal lattice; in each, every reflection is the one before it turned by 120
# degrees, and the basis vectors are 120 degrees apart
SHELLS = np.array(
    [[(1, 0), (0, 1), (-1, -1)], [(1, -1), (1, 2), (-2, -1)], [(2, 0), (0, 2), (-2, -2)]]
)
REFLECTIONS = SHELLS.reshape(-1, 2)

SUBLATTICES = np.arange(3) / 3
"""The three 3-fold axes of the cell, in fractions of its long diagonal."""

NESTED = {
    3: np.array([(2, 1), (-1, 1)]) / 3,
    4: np.eye(2) / 2,
    7: np.array([(3, 1), (-1, 2)]) / 7,
    -7: np.array([(2, -1), (1, 3)]) / 7,
}
"""Reciprocal bases of hexagonal cells 3, 4 and 7 times as large, in terms of the basis."""

TURN = np.array([(1, 1), (-1, 0)])  # of the reciprocal basis by 60 degrees


def cell_constant(vectors: np.ndarray) -> float:
    """Edge of the hexagonal cell of the area of a cell.

    Parameters
    ----------
    vectors : ndarray, shape (2, 2)
        Lattice vectors as rows.

    Returns
    -------
    float
        In the unit of the vectors.
    """
    return math.sqrt(abs(np.linalg.det(vectors)) * 2 / math.sqrt(3))


def stretch(vectors: np.ndarray) -> np.ndarray:
    """Deformation that turns a perfect hexagonal cell of the same area into the given one.

    Parameters
    ----------
    vectors : ndarray, shape (2, 2)
        Lattice vectors as rows (y, x), about 60 degrees apart.

    Returns
    -------
    ndarray, shape (2, 2)
        Symmetric (y, x), of determinant one.
    """
    perfect = np.array([(1.0, 0.5), (0.5, 1.0)]) * cell_constant(vectors) ** 2
    square = vectors.T @ np.linalg.inv(perfect) @ vectors
    lengths, axes = np.linalg.eigh(square)
    return axes * np.sqrt(lengths) @ axes.T


def largest_stretch(vectors: np.ndarray) -> tuple[float, float]:
    """How far a cell is from a hexagonal one.

    Parameters
    ----------
    vectors : ndarray, shape (2, 2)
        Lattice vectors as rows (y, x), about 60 degrees apart.

    Returns
    -------
    ratio : float
        Largest over smallest stretch.
    angle : float
        Of the largest stretch to the x axis, in degrees from 0 to 180.
    """
    lengths, axes = np.linalg.eigh(stretch(vectors))
    return float(lengths[1] / lengths[0]), math.degrees(math.atan2(*axes[:, 1])) % 180


def orient(basis: np.ndarray, amplitudes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Turn a basis by 60 degrees until the first lattice vector is within 30 degrees of x.

    Parameters
    ----------
    basis : ndarray, shape (2, 2)
        Reciprocal vectors as rows (y, x), 120 degrees apart.
    amplitudes : ndarray, shape (reflection,)
        Of ``REFLECTIONS``.

    Returns
    -------
    basis, amplitudes : ndarray
        Of the same lattice.
    """
    for _ in range(5):
        y, x = np.linalg.inv(basis).T[0]
        if abs(math.atan2(y, x)) <= math.pi / 6:
            break
        # a turn by 60 degrees is one by -120, the next in the shell, and an inversion, which
        # conjugates the amplitude
        basis = TURN @ basis
        amplitudes = np.roll(amplitudes.reshape(-1, 3), 1, axis=1).conj().ravel()
    return basis, amplitudes


def find_axis(amplitudes: np.ndarray) -> tuple[np.ndarray, float]:
    """Find the brightest 3-fold axis of a cell.

    Parameters
    ----------
    amplitudes : ndarray, shape (reflection,)
        Fourier amplitudes of the cell at ``REFLECTIONS``.

    Returns
    -------
    axis : ndarray, shape (2,)
        In fractions of the lattice vectors.
    symmetry : float
        How symmetric the cell is about the axis; 1 if perfect.
    """
    orbits = amplitudes.reshape(SHELLS.shape[:2])
    products = orbits * np.roll(orbits, -1, axis=1).conj()
    differences = SHELLS - np.roll(SHELLS, -1, axis=1)

    def symmetry(axes: np.ndarray) -> np.ndarray:
        return (
            products * np.exp(2j * np.pi * np.einsum("ai,oji->aoj", axes, differences))
        ).real.sum((-1, -2))

    best = np.zeros(2)
    for reach in (0.5, 0.5 / 24, 0.5 / 24**2):
        ticks = np.linspace(-reach, reach, 49)
        axes = best + np.stack(np.meshgrid(ticks, ticks), -1).reshape(-1, 2)
        best = axes[np.argmax(symmetry(axes))]
    axes = best + SUBLATTICES[:, None]
    brightness = (amplitudes * np.exp(2j * np.pi * axes @ REFLECTIONS.T)).real.sum(-1)
    power = (np.abs(orbits) ** 2).sum()
    return axes[np.argmax(brightness)], float(symmetry(best[None])[0] / power)
