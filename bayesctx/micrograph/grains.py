"""Crystals of one kind that are turned against each other in an image."""

from __future__ import annotations

import numpy as np

from .lattice import Lattice, fit_lattice
from .regions import find_crystal
from .sites import find_sites, has_own_pixels

__all__ = ["label_grains"]

LEAST_CELLS = 36  # of a grain: below, what is left of one crystal is fitted as another
SAME = 0.05  # relative difference of the lattice constants of grains of one crystal
MOST = 8  # grains of an image


def label_grains(
    image: np.ndarray, lattice: Lattice | None = None
) -> tuple[np.ndarray, list[Lattice]]:
    """Find which pixels belong to which grain of a polycrystal.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, from ``standardize``.
    lattice : Lattice, optional
        Of the image, if it has been fitted.

    Returns
    -------
    label : ndarray of int, shape (y, x)
        0 without crystal, then the number of the grain, the largest first.
    lattices : list of Lattice
        Of each.

    Raises
    ------
    ValueError
        If there is no hexagonal lattice in the image, see ``fit_lattice``.

    Notes
    -----
    The lattice of the whole image is that of the grain of which there is most; ``find_crystal``
    says where it is. What is left is looked at in the same way, as long as it has a lattice of the
    same size. Domains in which one lattice goes on, as across a 60° boundary, are one grain.
    """
    lattice = lattice or fit_lattice(image)
    label, lattices = np.zeros(image.shape, int), []
    while True:
        pixels = _pixels_of(image, lattice)
        if lattices and pixels.sum() < LEAST_CELLS * _area(lattice):
            break
        lattices.append(lattice)
        label[pixels] = len(lattices)
        image = np.where(label > 0, np.float32(np.nan), image)
        left = np.isfinite(image).sum()
        if len(lattices) == MOST or left < LEAST_CELLS * _area(lattice):
            break
        try:
            lattice = fit_lattice(image)
        except ValueError:  # no lattice in what is left
            break
        if abs(lattice.lattice_constant / lattices[0].lattice_constant - 1) > SAME:
            break
    order = np.argsort(-np.bincount(label.flat, minlength=len(lattices) + 1)[1:], kind="stable")
    rank = np.concatenate([[0], 1 + np.argsort(order)])
    return rank[label], [lattices[k] for k in order]


def _pixels_of(image: np.ndarray, lattice: Lattice) -> np.ndarray:
    """Where a crystal is, shape (y, x)."""
    positions, _ = find_sites(lattice, image.shape, margin=0)
    positions = positions[has_own_pixels(image, lattice, positions)]
    return find_crystal(image, lattice, positions).pixels & np.isfinite(image)


def _area(lattice: Lattice) -> float:
    """Of a cell, in px²."""
    return abs(float(np.linalg.det(lattice.vectors)))
