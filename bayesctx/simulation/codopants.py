"""Which of two dopants the sites of a simulated co-doped crystal hold, and names of all columns."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..context import NO_DOPANT
from ..crystal import HOSTS, METALS
from ..defects import CODOPED_SPECIES, DOPED_SPECIES, SPECIES
from ..evidence import Codoped
from ..prior import Prior
from .scene import name_species

__all__ = ["check_one_dopant", "describe_columns", "draw_codopants"]


def check_one_dopant(prior: Prior) -> None:
    """Raise for a prior of co-doped crystals, of which no patches are simulated.

    Parameters
    ----------
    prior : Prior
        Of the patches.

    Raises
    ------
    ValueError
        If it is one.
    """
    if prior.is_codoped:
        raise ValueError(
            "a prior with one dopant in each crystal was expected for patches, got a co-doped one; "
            "simulate_micrograph simulates co-doped crystals, and networks are trained without"
        )


def draw_codopants(
    rng: np.random.Generator, species: Tensor, image: Mapping[str, Tensor]
) -> Tensor:
    """Draw which sites that hold a dopant of a co-doped crystal hold the second one.

    Parameters
    ----------
    rng : Generator
        Source of randomness; that of a crystal with one dopant is left as it was.
    species : Tensor of int, shape (site,)
        Index into ``SPECIES``.
    image : mapping of str to Tensor, shape (1,)
        From ``draw_images``.

    Returns
    -------
    Tensor of int, shape (site,)
        With ``CODOPED_SPECIES`` for the second dopant.
    """
    if "codopant" not in image:
        return species
    u = torch.from_numpy(rng.random(len(species), np.float32))
    is_second = (species == DOPED_SPECIES) & (u < image["share_codopant"])
    return torch.where(is_second, CODOPED_SPECIES, species)


def describe_columns(
    prior: Prior, image: Mapping[str, Tensor], species: np.ndarray
) -> tuple[dict[str, object], dict[str, list[str]]]:
    """Names of what the sites of a micrograph hold, and of its material.

    Parameters
    ----------
    prior : Prior
        Of the micrograph.
    image : mapping of str to Tensor, shape (1,)
        From ``draw_images``.
    species : ndarray of int, shape (site,)
        Index into ``SPECIES``, or ``CODOPED_SPECIES``.

    Returns
    -------
    variables : dict
        Of a Dataset: ``defect`` and ``species`` over the dimension patch, ``host`` and ``dopant``,
        and of a co-doped crystal ``dopant_share`` over the dimension codopant.
    coordinates : dict
        ``codopant``, the names of both dopants of a co-doped crystal.
    """
    host, dopant = list(HOSTS)[int(image["host"])], METALS[int(image["dopant"])]
    metals, label = np.full(len(species), dopant), dopant if prior.is_doped else NO_DOPANT
    variables, coordinates = {}, {}
    if "codopant" in image:
        both = Codoped(dopant, METALS[int(image["codopant"])])
        other = METALS[int(image["codopant"])]
        metals = np.where(species == CODOPED_SPECIES, other, metals)
        species = np.where(species == CODOPED_SPECIES, DOPED_SPECIES, species)
        second = float(image["share_codopant"])
        shares = {dopant: 1 - second, other: second}
        coordinates = {"codopant": list(both.metals)}
        variables["dopant_share"] = "codopant", [shares[m] for m in both.metals], {"units": "1"}
        label = str(both) if prior.is_doped else NO_DOPANT
    return {
        "defect": ("patch", np.array([SPECIES[k].defect for k in species])),
        "species": ("patch", name_species(species, np.full(len(species), host), metals)),
        "host": host,
        "dopant": label,
    } | variables, coordinates
