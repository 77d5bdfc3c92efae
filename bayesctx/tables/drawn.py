"""What all tables read of a result: its sites, their kinds, and the joint draws."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import xarray as xr

from ..context import NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import DEFECTS, FIRST_SITE, SITES

__all__ = [
    "KINDS",
    "KIND_OF_CLASS",
    "Worlds",
    "check_result",
    "crystal_of",
    "kinds_of",
    "read_worlds",
    "sampling_of",
]

KINDS = tuple(SITES)
GROUPS = ("posterior", "class_posterior", "constant_data")
KIND_OF_CLASS = np.array([KINDS.index(FIRST_SITE[d]) for d in DEFECTS], np.int8)


def check_result(result: object, *, micrograph: bool = False) -> None:
    """Raise for what ``infer`` did not return.

    Parameters
    ----------
    result : object
        What should be a result.
    micrograph : bool
        Whether it should be of a micrograph, the sites of which have positions.

    Raises
    ------
    TypeError
        If it is no DataTree.
    ValueError
        If a group is missing, or it is of patches where a micrograph is needed.
    """
    if not isinstance(result, xr.DataTree):
        raise TypeError(
            f"a DataTree was expected, got {type(result).__name__}; pass what infer returned"
        )
    absent = [g for g in GROUPS if g not in result.children]
    if absent or "defect" not in result["class_posterior"]:
        what = f"the group {absent[0]}" if absent else "class_posterior.defect"
        raise ValueError(
            f"a result of infer was expected, got a DataTree without {what}; pass it as it is"
        )
    if micrograph and "site_x" not in result["constant_data"]:
        raise ValueError(
            "a result of a micrograph was expected, got one of patches, whose sites have no "
            "positions; infer the whole image (y, x)"
        )


def crystal_of(result: xr.DataTree) -> np.ndarray:
    """Return which sites lie on crystal, and not in vacuum or in a hole.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    ndarray of bool, shape (..., patch)
        ``constant_data.crystal``; True where it is absent.
    """
    shape, constants = result["class_posterior"].defect.shape[:-1], result["constant_data"]
    crystal = constants.crystal.values if "crystal" in constants else True
    return np.broadcast_to(crystal, shape).astype(bool)


def kinds_of(result: xr.DataTree) -> np.ndarray | None:
    """Return the kind of every site under every assignment.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    ndarray of int, shape (assignment_class, patch), or None
        Index into ``KINDS``; None for patches, whose kind of site is inferred with their class.
    """
    classes = result["class_posterior"].to_dataset()
    if "assignment" not in classes or "sublattice" not in result["constant_data"]:
        return None
    names = [str(n).split("-") for n in classes.assignment_class.values]
    table = np.array([[KINDS.index(site) for site in sites] for sites in names], np.int8)
    return table[:, result["constant_data"].sublattice.values.astype(int)]


def sampling_of(result: xr.DataTree) -> float:
    """Return the pixel size of a micrograph.

    Parameters
    ----------
    result : DataTree
        From ``infer``.

    Returns
    -------
    float
        In Å; where it is inferred, its posterior median.
    """
    return float(np.median(_sampling_draws(result)))


def _sampling_draws(result: xr.DataTree) -> np.ndarray:
    """Draws of the pixel size in Å, or its value; not a number for patches."""
    for group in ("posterior", "constant_data"):
        if "sampling" in result[group]:
            return result[group].sampling.values.ravel().astype(float)
    return np.array([np.nan])


@dataclass(frozen=True, eq=False)
class Worlds:
    """Joint draws of the sites with crystal; each draw is one world.

    Attributes
    ----------
    defect : ndarray of int, shape (sample, site)
        Class, an index into ``DEFECTS``.
    kind : ndarray of int, shape (sample, site)
        Kind of site, an index into ``KINDS``.
    host, dopant : ndarray of int, shape (sample, site)
        Index into ``HOSTS`` and ``METALS``; -1 for the dopant of an undoped crystal, and of a
        co-doped one where the site holds none.
    sampling : ndarray, shape (sample,) or (1,)
        Pixel size in Å; not a number for patches.
    site : ndarray of int, shape (site,)
        Position of the sites among all sites of the result.
    ess : float
        Effective number of draws of the context.
    """

    defect: np.ndarray
    kind: np.ndarray
    host: np.ndarray
    dopant: np.ndarray
    sampling: np.ndarray
    site: np.ndarray
    ess: float


def read_worlds(result: xr.DataTree) -> Worlds:
    """Read the joint draws of a result.

    Parameters
    ----------
    result : DataTree
        From ``infer``. Draws of independent images are independent, so that one draw of each image
        is a joint draw of all.

    Returns
    -------
    Worlds
        Without the sites that have no crystal.

    Raises
    ------
    ValueError
        If there are no draws.
    """
    crystal = crystal_of(result)
    site = np.flatnonzero(crystal)
    defect = _samples(result["posterior"].defect)
    if not defect.size:
        raise ValueError(
            "draws of the classes were expected in posterior.defect, got none; "
            "pass the result of infer as it is"
        )
    defect = defect.reshape(len(defect), -1)[:, site]
    kinds = kinds_of(result)
    if kinds is None:
        kind = KIND_OF_CLASS[defect]
    else:
        kind = kinds[_names(result, "assignment", range(len(kinds)))[:, 0]][:, site]
    each = site // crystal.shape[-1]  # image of every site
    host = _at_sites(_names(result, "host", HOSTS), each)
    if "dopant_at_site" in result["posterior"]:
        dopant = _samples(result["posterior"].dopant_at_site).astype(int)
        dopant = dopant.reshape(len(defect), -1)[:, site]
    else:
        dopant = _at_sites(_names(result, "dopant", METALS), each)
    ess = float(np.min(result["sample_stats"].ess.values)) if "sample_stats" in result else np.nan
    return Worlds(defect, kind, host, dopant, _sampling_draws(result), site, ess)


def _at_sites(found: np.ndarray, each: np.ndarray) -> np.ndarray:
    """Values of an image at all of its sites, shape (sample, site)."""
    shape = len(found), len(each)
    return np.broadcast_to(found, shape) if found.shape[1] == 1 else found[:, each]


def _samples(draws: xr.DataArray) -> np.ndarray:
    """Draws of all chains along one first axis."""
    return draws.values.reshape(-1, *draws.shape[2:])


def _names(result: xr.DataTree, name: str, names: object) -> np.ndarray:
    """Index of what is enumerated, shape (sample or 1, image or 1); -1 for no dopant."""
    if name in result["posterior"]:
        found = _samples(result["posterior"][name]).astype(int)
        return found.reshape(len(found), -1)
    num = _samples(result["posterior"].defect).shape[0]
    constants = result["constant_data"]
    if name in constants:
        order = list(names)
        given = np.atleast_1d(constants[name].values).tolist()
        index = [-1 if n == NO_DOPANT else order.index(n) for n in given]
    else:  # one value is left, which has all of the probability
        index = np.atleast_1d(result["class_posterior"][name].values.argmax(-1)).tolist()
    return np.broadcast_to(np.array(index, int), (num, len(index)))
