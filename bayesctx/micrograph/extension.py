"""The crystal where its image has no pixels: beyond the border and where pixels are not valid."""

from __future__ import annotations

import numpy as np
from scipy import ndimage

from .lattice import Lattice

__all__ = ["extend_image", "has_own_pixels"]

OWN_WIDTH = 0.18  # lattice constants, standard deviation of the window of a site's own pixels
MIN_OWN = 0.7  # of the window's weight


def extend_image(image: np.ndarray, lattice: Lattice, margin: int) -> np.ndarray:
    """Continue a crystal beyond the border of its image and where pixels are not valid.

    Sites at the border, and beside pixels that are not valid, have whole patches then.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, NaN where a pixel is not valid.
    lattice : Lattice
        Of the image.
    margin : int
        Pixels to add on every side; pixels that are not valid are filled as far away from valid
        ones.

    Returns
    -------
    ndarray of float32, shape (y + 2 margin, x + 2 margin)
        Beyond the border stands a copy of what lies one translation of the lattice further in; a
        pixel that is not valid is taken from the nearest translation at which the image is. What
        no translation reaches has the median intensity.
    """
    extended = _fill(np.asarray(image, np.float32), lattice, margin)
    translations = _translations(lattice, 64)
    for axis, size in enumerate(image.shape):
        along, across = translations[:, axis], np.abs(translations[:, 1 - axis])
        # past the strip, and as straight inwards as the lattice goes
        shift = translations[np.argmin(np.where(along > margin, along + 2 * across, np.inf))]
        strips = []
        for start, sign in ((-margin, 1), (size, -1)):
            ranges = [np.arange(n, dtype=float) for n in extended.shape]
            ranges[axis] = start + np.arange(margin, dtype=float)
            inside = np.stack(np.meshgrid(*ranges, indexing="ij")) + (sign * shift)[:, None, None]
            strips.append(ndimage.map_coordinates(extended, inside, order=1, mode="reflect"))
        extended = np.concatenate([strips[0], extended, strips[1]], axis)
    return extended


def has_own_pixels(image: np.ndarray, lattice: Lattice, positions: np.ndarray) -> np.ndarray:
    """Tell which sites have valid pixels of their own, not only those of their surroundings.

    Parameters
    ----------
    image : ndarray, shape (y, x)
        Intensities, NaN where a pixel is not valid.
    lattice : Lattice
        Of the image.
    positions : ndarray, shape (site, 2)
        (y, x) in px.

    Returns
    -------
    ndarray of bool, shape (site,)
        Whether 70 % of the pixels at the site, weighted by a Gaussian of the size of a column, are
        valid; the border of the image does not count against a site.
    """
    valid = np.isfinite(image)
    if valid.all():
        return np.ones(len(positions), bool)
    width = OWN_WIDTH * lattice.lattice_constant
    share = ndimage.gaussian_filter(valid.astype(np.float32), width, mode="nearest")
    return ndimage.map_coordinates(share, positions.T, order=1, mode="nearest") >= MIN_OWN


def _translations(lattice: Lattice, reach: int) -> np.ndarray:
    """Translations of a lattice in px, shape (translation, 2)."""
    steps = np.stack(np.meshgrid(*[np.arange(-reach, reach + 1)] * 2), -1).reshape(-1, 2)
    return steps @ lattice.vectors


def _fill(image: np.ndarray, lattice: Lattice, margin: int) -> np.ndarray:
    """Pixels that are not valid, from the nearest translation of the lattice at which they are."""
    valid = np.isfinite(image)
    if valid.all():
        return image
    filled = np.where(valid, image, np.median(image[valid]))
    # a value between four pixels, all of which must be valid
    pairs = valid[1:] & valid[:-1]
    whole = np.pad(pairs[:, 1:] & pairs[:, :-1], ((0, 1), (0, 1)))
    rows = np.argwhere(~valid & (ndimage.distance_transform_edt(~valid) <= margin + 1))
    translations = _translations(lattice, 16)
    length = np.linalg.norm(translations, axis=-1)
    near = (length > 0) & (length < margin + 4 * lattice.lattice_constant)
    for shift in translations[near][np.argsort(length[near], kind="stable")]:
        if not len(rows):
            break
        corner = np.floor(shift).astype(int)
        source = rows + corner
        inside = ((source >= 0) & (source < image.shape)).all(-1)
        inside[inside] = whole[tuple(source[inside].T)]
        (y, x), (b, a) = source[inside].T, shift - corner
        filled[tuple(rows[inside].T)] = (1 - b) * ((1 - a) * image[y, x] + a * image[y, x + 1]) + (
            b * ((1 - a) * image[y + 1, x] + a * image[y + 1, x + 1])
        )
        rows = rows[~inside]
    return filled
