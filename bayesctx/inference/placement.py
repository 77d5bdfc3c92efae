"""Where the sites of a micrograph are, and what of the image is left out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..micrograph import (
    Finding,
    Lattice,
    Region,
    diagnose,
    extend_image,
    extract_patches,
    find_blemishes,
    find_crystal,
    find_sites,
    fit_lattice,
    has_own_pixels,
    label_grains,
    patch_margin,
    standardize,
)
from ..prior import Prior
from ..storage import warn
from .domains import Domains

__all__ = ["Placement", "cut_patches", "place_sites"]

AT_ONCE = 256  # patches whose layers stay in the cache: twice as fast as 1024
NAMED = 3  # regions without crystal that a warning describes


@dataclass(frozen=True, eq=False)
class Placement:
    """The sites of a micrograph.

    Attributes
    ----------
    image : ndarray of float32, shape (y, x)
        Intensities of zero median and unit spread, NaN where a pixel is left out or without
        crystal.
    lattice : Lattice
        Fitted to the image.
    positions : ndarray, shape (patch, 2)
        Sites (y, x) in px.
    sublattice : ndarray of int, shape (patch,)
        Sublattice of every site.
    crystal : ndarray of bool, shape (patch,)
        Whether there is crystal at the site.
    doubts : tuple of str
        What was done to the image, as far as it is usable: see ``diagnose``.
    unit : float
        Counts, as they were handed in, per unit of ``image``.
    domains : Domains or None
        By which the sublattices are named, if the crystal has several.
    """

    image: np.ndarray
    lattice: Lattice
    positions: np.ndarray
    sublattice: np.ndarray
    crystal: np.ndarray
    doubts: tuple[str, ...] = ()
    unit: float = 1.0
    domains: Domains | None = None


def place_sites(values: np.ndarray, valid: np.ndarray) -> list[Placement]:
    """Fit the lattice of one scan on several detectors and list its sites.

    Parameters
    ----------
    values : ndarray, shape (detector, y, x)
        Intensities in any unit, as they were recorded.
    valid : ndarray of bool, shape (y, x)
        Pixels that are part of the image.

    Returns
    -------
    list of Placement
        One for each detector, with the lattice and the sites of all of them together. Pixels that
        are no measurement on one are left out on all.

    Raises
    ------
    ValueError
        If there is no hexagonal lattice in the image, see ``fit_lattice``; if columns are dark; or
        if no site is left.

    Warns
    -----
    UserWarning
        If pixels are no measurement and are left out, the grey scale was changed, or there are
        regions without crystal.
    """
    images = np.stack([standardize(own, valid) for own in values])
    for own in images:
        for blemish in find_blemishes(own):
            warn(blemish.message)
            own[blemish.pixels] = np.nan
    images[:, np.isnan(images).any(0)] = np.nan
    image = images.mean(0)
    lattice = _fit(values, image)
    positions, sublattice = find_sites(lattice, image.shape, margin=0)
    own = has_own_pixels(image, lattice, positions)
    if not own.any():
        raise ValueError(
            "sites with valid pixels of their own were expected, got none; mask fewer pixels"
        )
    positions, sublattice = positions[own], sublattice[own]
    found = find_crystal(image, lattice, positions)
    if not found.present.any():
        raise ValueError(
            "crystal was expected at some site, got none; crop the image to the crystal"
        )
    if not found.present.all():
        _warn_of_regions(found.regions, found.present)
        _warn_of_grains(image, lattice)
        images[:, ~found.pixels] = np.nan
    sites = lattice, positions, sublattice, found.present
    return [
        Placement(image, *sites, _doubts(own, image, lattice), _unit_of(own, image))
        for own, image in zip(values, images, strict=True)
    ]


def _unit_of(values: np.ndarray, image: np.ndarray) -> float:
    """Counts per unit of a standardized image, by the slope of one against the other."""
    kept = np.isfinite(image)
    return float(np.polyfit(image[kept].astype(float), values[kept].astype(float), 1)[0])


def _fit(values: np.ndarray, image: np.ndarray) -> Lattice:
    """Lattice of an image; where there is none, what was done to the image comes first."""
    try:
        return fit_lattice(image)
    except ValueError as error:
        causes = [c for own in values for c in diagnose(own, np.isfinite(image))]
        if not causes:
            raise
        raise ValueError(f"{_joined(causes)}; and {error}") from error


def _doubts(values: np.ndarray, image: np.ndarray, lattice: Lattice) -> tuple[str, ...]:
    """Names of what was done to an image, which is also said; dark columns are refused."""
    findings = diagnose(values, np.isfinite(image), lattice)
    inverted = [f for f in findings if f.name == "inverted"]
    if inverted:
        raise ValueError(_joined(inverted))
    for finding in findings:
        warn(finding.message)
    return tuple(f.name for f in findings)


def _joined(findings: Sequence[Finding]) -> str:
    """Messages of findings in one line."""
    return "; ".join(f.message for f in findings)


def _warn_of_regions(regions: Sequence[Region], present: np.ndarray) -> None:
    """Warn of the regions without crystal."""
    listed = ", ".join(
        f"{r.area:.0f} px² around y = {r.centre[0]:.0f}, x = {r.centre[1]:.0f}"
        for r in regions[:NAMED]
    )
    more = f" and in {len(regions) - NAMED} smaller ones" if len(regions) > NAMED else ""
    warn(
        f"crystal at every site was expected, got none at {np.count_nonzero(~present)} of "
        f"{len(present)}, in {listed}{more}; these sites are left out of counts and "
        "evidence (constant_data.crystal)"
    )


def _warn_of_grains(image: np.ndarray, lattice: Lattice) -> None:
    """Warn of other grains, of which no site is read."""
    label, lattices = label_grains(image, lattice)
    if len(lattices) > 1:
        sizes = [np.count_nonzero(label == k + 1) for k in range(len(lattices))]
        areas = " and ".join(f"{size} px²" for size in sizes)
        warn(
            f"one lattice was expected, got {len(sizes)} grains of {areas}; one is read: call "
            "infer for each with valid=(find_grains(image) == k).values, k = 1, 2 ..."
        )


def cut_patches(placement: Placement, sampling: float, prior: Prior) -> Iterator[Tensor]:
    """Cut the patches around the sites with crystal, on the pixels of the model.

    Parameters
    ----------
    placement : Placement
        The sites.
    sampling : float
        Size of a pixel in Å.
    prior : Prior
        Gives the pixels of a patch.

    Yields
    ------
    Tensor, shape (patch, y, x)
        Some patches at a time.

    Raises
    ------
    ValueError
        If the image is smaller than two patches.
    """
    size = {"target_sampling": prior.sampling, "num_pixels": prior.num_pixels}
    margin = math.ceil(patch_margin(sampling, **size))
    shape = placement.image.shape
    if min(shape) <= 2 * margin:
        raise ValueError(
            f"an image wider than two patches of {prior.num_pixels * prior.sampling:g} Å was "
            f"expected, got {shape} pixels of {sampling:.3g} Å; record a larger field of view"
        )
    # beside masked pixels and vacuum as well: patches of the model are of crystal everywhere
    extended = torch.from_numpy(extend_image(placement.image, placement.lattice, margin))
    positions = placement.positions[placement.crystal]
    for centres in torch.from_numpy(positions + margin).split(AT_ONCE):
        yield extract_patches(extended, centres, sampling=sampling, **size)
