"""The sites of a lattice, the patches around them, and the crystal where there are no pixels."""

from __future__ import annotations

import math

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

from ..tensors import interpolation_matrix
from .cell import SUBLATTICES
from .lattice import Lattice

__all__ = ["extend_image", "extract_patches", "find_sites", "has_own_pixels", "patch_margin"]

OWN_WIDTH = 0.18  # lattice constants, standard deviation of the window of a site's own pixels
MIN_OWN = 0.7  # of the window's weight


def find_sites(
    lattice: Lattice, shape: tuple[int, int], *, margin: float
) -> tuple[np.ndarray, np.ndarray]:
    """List the sites of a lattice in an image, occupied or not.

    Parameters
    ----------
    lattice : Lattice
        See ``fit_lattice``.
    shape : tuple of int
        Pixels (y, x) of the image.
    margin : float
        Smallest distance from the centres of the outermost pixels in px; see ``patch_margin``.

    Returns
    -------
    positions : ndarray, shape (site, 2)
        (y, x) in px.
    sublattice : ndarray of int, shape (site,)
        0, 1 or 2: the three 3-fold axes of the cell, at 0, 1/3 and 2/3 of its diagonal.
    """
    reach = np.abs(lattice.displacement).max() - margin + 1
    low, high = np.array([-reach, -reach]), np.array(shape) - 1 + reach
    corners = np.array([(y, x) for y in (low[0], high[0]) for x in (low[1], high[1])])
    indices = (corners - lattice.origin) @ np.linalg.inv(lattice.vectors)
    ranges = (
        np.arange(a, b)
        for a, b in zip(np.floor(indices.min(0)) - 1, np.ceil(indices.max(0)) + 1, strict=True)
    )
    cells = np.stack(np.meshgrid(*ranges, indexing="ij"), -1).reshape(-1, 1, 2)
    ideal = ((cells + SUBLATTICES[:, None]) @ lattice.vectors + lattice.origin).reshape(-1, 2)
    near = ((ideal >= low) & (ideal <= high)).all(-1)
    ideal, sublattice = ideal[near], np.tile(np.arange(len(SUBLATTICES)), len(cells))[near]
    positions = ideal
    for _ in range(3):  # the field holds where the sites are, not where they would be: r = R + u(r)
        positions = ideal + lattice.displacement_at(positions)
    inside = ((positions >= margin) & (positions <= np.array(shape) - 1 - margin)).all(-1)
    return positions[inside], sublattice[inside]


def patch_margin(sampling: float, target_sampling: float, num_pixels: int) -> float:
    """How far from the border of an image the centre of a patch must stay, in px of the image.

    Parameters
    ----------
    sampling, target_sampling : float
        Pixels of the image and of the patch in Å.
    num_pixels : int
        Pixels along each side of a patch.

    Returns
    -------
    float
        Half a patch and the reach of the interpolation.
    """
    ratio = target_sampling / sampling
    return (num_pixels - 1) / 2 * ratio + 2 * max(ratio, 1.0)


def extract_patches(
    image: Tensor, positions: Tensor, *, sampling: float, target_sampling: float, num_pixels: int
) -> Tensor:
    """Cut out patches around sites and bring them to the pixels of the model.

    Parameters
    ----------
    image : Tensor, shape (y, x)
        Intensities.
    positions : Tensor, shape (site, 2)
        Centres (y, x) in px, between pixels as well.
    sampling, target_sampling : float
        Pixels of the image and of the patches in Å.
    num_pixels : int
        Pixels along each side of a patch.

    Returns
    -------
    Tensor, shape (site, num_pixels, num_pixels)
        Interpolated, or averaged where the image is finer: intensities keep their scale.

    Raises
    ------
    ValueError
        If a patch reaches over the border of the image.
    """
    margin = patch_margin(sampling, target_sampling, num_pixels)
    last = torch.tensor(image.shape).to(positions) - 1
    if ((positions < margin - 1e-3) | (positions > last - margin + 1e-3)).any():
        raise ValueError(
            f"sites {margin:.1f} px inside the image were expected, got some nearer to its border; "
            "see patch_margin"
        )
    image = image if image.is_floating_point() else image.float()
    ratio = target_sampling / sampling
    offset = (torch.arange(num_pixels).to(positions) - (num_pixels - 1) / 2) * ratio
    num_native = math.ceil(2 * margin) + 1
    window = torch.arange(num_native, device=positions.device)
    chunk = max(1, 4_000_000 // num_native**2)
    patches = image.new_empty(len(positions), num_pixels, num_pixels)
    for start in range(0, len(positions), chunk):
        centre = positions[start : start + chunk]
        corner = (centre - margin).floor()
        weights = interpolation_matrix((centre - corner)[..., None] + offset, num_native, ratio).to(
            image
        )
        # the outermost row may lie one beyond the border, where its weight is zero
        y, x = ((corner[:, k, None].long() + window).clamp(0, image.shape[k] - 1) for k in (0, 1))
        patches[start : start + chunk] = (
            weights[:, 0] @ image[y[:, :, None], x[:, None, :]] @ weights[:, 1].mT
        )
    return patches


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
