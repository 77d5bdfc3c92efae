"""The sites of a lattice and the patches around them."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from ..tensors import interpolation_matrix
from .cell import SUBLATTICES
from .lattice import Lattice

__all__ = ["extract_patches", "find_sites", "patch_margin"]


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
