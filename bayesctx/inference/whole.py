"""Posterior of a micrograph: each detector by the network, then all of them by their pixels."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..model import PatchModel, SitePrior
from .arrays import Alternative, Posterior, describe_image, latent_names, with_conflict
from .cases import group_images, tabulate
from .choice import Way, check_detectors, is_by_pixels, refuse_pixels
from .conflict import conflict_with, warn_of_conflict
from .detectors import Rings
from .image import one_image
from .inputs import Inputs
from .placement import Placement, cut_patches, place_sites
from .scales import Scale, candidate_scales, conflict_of_size
from .tree import Sites, add_absent_sites
from .worlds import solve_by_pixels

__all__ = ["encode_patches", "solve_micrograph"]


@dataclass(frozen=True, eq=False)
class _Reading:
    """What the network says of the image on one detector."""

    alternatives: list[Alternative]
    posterior: Posterior
    scale: Scale
    surprise: np.ndarray | None
    conflict: dict[str, float]


def encode_patches(
    patches: Iterable[Tensor], model: PatchModel
) -> tuple[Tensor, np.ndarray | None]:
    """Features and surprise of patches that come some at a time.

    Parameters
    ----------
    patches : iterable of Tensor, shape (patch, y, x)
        On the pixels of the model.
    model : PatchModel
        The model.

    Returns
    -------
    features : Tensor, shape (patch, feature)
        Of all patches.
    surprise : ndarray, shape (patch,), or None
        In nats.
    """
    features, surprise = zip(*map(model.encode, patches), strict=True)
    return torch.cat(features), None if surprise[0] is None else torch.cat(surprise).numpy()


def solve_micrograph(
    inputs: Inputs, rings: Rings, model: PatchModel, num_draws: int, seed: int, way: Way
) -> tuple[Posterior, np.ndarray | None, Sites]:
    """Posterior of every site of a micrograph, over the pixel sizes that the hosts imply.

    Parameters
    ----------
    inputs : Inputs
        The image, or those of several detectors.
    rings : Rings
        What is known.
    model : PatchModel
        The model.
    num_draws, seed : int
        Draws, and their seed.
    way : Way
        How the micrograph is read.

    Returns
    -------
    posterior : Posterior
        Of all sites.
    surprise : ndarray, shape (1, patch) or (1, detector, patch), or None
        In nats.
    sites : Sites
        Where they are.

    Raises
    ------
    ValueError
        If an array is given in the context, or several detectors are not to be read by the
        simulator.
    """
    known = rings.shared
    arrays = [n for own in rings.own for n, v in own.items() if isinstance(v, np.ndarray)]
    if arrays:
        raise ValueError(
            f"one value for the micrograph was expected for {arrays[0]}, got an array; call "
            "infer for each image"
        )
    check_detectors(way.likelihood, rings.names)
    placements = place_sites(inputs.values, inputs.valid)
    placement = placements[0]
    sublattice = torch.from_numpy(placement.sublattice).long()
    every = SitePrior.of_lattice(model.prior, sublattice).given(model.prior, known)
    present = placement.crystal
    crystal = every.take(torch.from_numpy(present))
    readings = [
        _read(p, own, crystal, inputs.sampling, model, num_draws, seed)
        for p, own in zip(placements, rings.own, strict=True)
    ]
    posterior = readings[0].posterior
    if rings.names or is_by_pixels(way.likelihood, posterior, known):
        network = [r.alternatives for r in readings]
        given = placements, network, posterior, every, rings, inputs.sampling, model.prior
        try:
            posterior = solve_by_pixels(*given, num_draws, seed, progress=way.progress)
        except torch.linalg.LinAlgError as error:
            refuse_pixels(way, error, must=bool(rings.names))
    sites = Sites(
        positions=placement.positions,
        sublattice=placement.sublattice,
        crystal=present,
        sampling=readings[0].scale.sampling,
        assignments=MONOLAYER_1H.assignments,
    )
    surprise = None
    if readings[0].surprise is not None:
        surprise = np.stack([r.surprise for r in readings])
        surprise = surprise[None] if rings.names else surprise
    posterior = with_conflict(posterior, _conflicts(readings, bool(rings.names)))
    return *add_absent_sites(posterior, surprise, present, every, seed), sites


def _read(
    placement: Placement,
    known: Mapping[str, object],
    crystal: SitePrior,
    stated: float | None,
    model: PatchModel,
    num_draws: int,
    seed: int,
) -> _Reading:
    """Read the image on one detector by the network."""
    scales = candidate_scales(placement.lattice, known, stated, model.prior)
    encoded = [
        encode_patches(cut_patches(placement, s.sampling, model.prior), model) for s in scales
    ]
    alternatives = [
        _weigh_scale(scale, features, crystal, known, model, num_draws, seed)
        for scale, (features, _) in zip(scales, encoded, strict=True)
    ]
    posterior = describe_image(alternatives, crystal, latent_names(known), num_draws, seed)
    best = max(range(len(scales)), key=lambda k: alternatives[k].log_posterior)
    features, surprise = encoded[best]
    conflict = conflict_with(known, features, crystal, model, seed)
    if "host" in conflict:
        conflict["host"] += conflict_of_size(placement.lattice, known, stated, model.prior)
    limit = float(model.card.get("conflict_limit", math.inf))
    warn_of_conflict(conflict, known, limit, placement.doubts)
    return _Reading(alternatives, posterior, scales[best], surprise, conflict)


def _conflicts(readings: Sequence[_Reading], several: bool) -> dict[str, object]:
    """Evidence against each claim, of each detector where there are several."""
    if not several:
        return readings[0].conflict
    names = dict.fromkeys(n for r in readings for n in r.conflict)
    return {n: [r.conflict.get(n, math.nan) for r in readings] for n in names}


def _weigh_scale(
    scale: Scale,
    features: Tensor,
    sites: SitePrior,
    known: Mapping[str, object],
    model: PatchModel,
    num_draws: int,
    seed: int,
) -> Alternative:
    """Posterior of a micrograph given that its host is one of those that imply a pixel size."""
    (case,) = group_images(model.prior, {**known, "host": scale.hosts}, 1, num_draws, seed)
    enumerated = case.materials.row(0), case.possible[0]
    found = one_image(tabulate(model, case), features, *enumerated, sites, float(model.correlation))
    return Alternative(case, found, scale.log_weight, scale.sampling)
