"""Posterior of a micrograph, by patches or by all pixels, and evidence against its claims."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..crystal import MONOLAYER_1H
from ..model import PatchModel, SitePrior
from ..scan import Weight, weigh_scan
from .arrays import Alternative, Posterior, describe_image, latent_names, with_conflict
from .candidates import list_candidates
from .cases import encode, group_images, tabulate
from .choice import Way, is_by_pixels, refuse_pixels
from .claims import conflict_by_pixels, warn_of_claims, weigh_lattices
from .conflict import conflict_with, warn_of_conflict
from .image import one_image
from .inputs import Inputs
from .placement import Placement, cut_patches, place_sites
from .scales import Scale, candidate_scales, conflict_of_size
from .tree import Sites, add_absent_sites
from .worlds import solve_by_pixels

__all__ = ["Micrograph", "solve_micrograph"]

MOST_OPEN = 4  # pairs of host and assignment, of a context whose claims are left open


def solve_micrograph(
    inputs: Inputs,
    known: Mapping[str, object],
    model: PatchModel,
    num_draws: int,
    seed: int,
    way: Way,
) -> tuple[Posterior, np.ndarray | None, Sites]:
    """Posterior of every site of a micrograph, over the pixel sizes that the hosts imply.

    Parameters
    ----------
    inputs : Inputs
        The image.
    known : mapping
        The checked context.
    model : PatchModel
        The network, and the prior of both ways.
    num_draws, seed : int
        Of the draws.
    way : Way
        By patches or by all pixels.

    Returns
    -------
    posterior : Posterior
        Also of the sites without crystal.
    surprise : ndarray, shape (1, patch), or None
        Of every site.
    sites : Sites
        Where they are.

    Raises
    ------
    ValueError
        If the context has arrays, or the image has no crystal.

    Warns
    -----
    UserWarning
        If the image speaks against the context, or chains have not mixed.
    """
    arrays = [n for n, v in known.items() if isinstance(v, np.ndarray)]
    if arrays:
        raise ValueError(
            f"one value for the micrograph was expected for {arrays[0]}, got an array; call "
            "infer for each image"
        )
    image = Micrograph.of(inputs, known, model, num_draws, seed)
    placement, every = image.placement, image.every
    readings = image.by_patches(known)
    alternatives = [reading.alternative for reading in readings]
    posterior = describe_image(alternatives, image.crystal, latent_names(known), num_draws, seed)
    best = max(readings, key=lambda reading: reading.alternative.log_posterior)
    conflict = conflict_with(known, best.features, image.crystal, model, seed)
    if "host" in conflict:
        conflict["host"] += conflict_of_size(placement.lattice, known, inputs.sampling, model.prior)
    by_pixels = None
    if is_by_pixels(way.likelihood, posterior, known):
        by_pixels = image.by_pixels(known, alternatives, posterior, way)
    if by_pixels is None:
        limit = float(model.card.get("conflict_limit", math.inf))
        warn_of_conflict(conflict, known, limit, placement.doubts)
    else:
        posterior, found = by_pixels
        warn_of_claims(found, known, placement.doubts)
        conflict |= found
    sites = Sites(
        positions=placement.positions,
        sublattice=placement.sublattice,
        crystal=placement.crystal,
        sampling=best.alternative.sampling,
        assignments=MONOLAYER_1H.assignments,
    )
    surprise = None if best.surprise is None else best.surprise[None]
    posterior = with_conflict(posterior, conflict)
    return *add_absent_sites(posterior, surprise, placement.crystal, every, seed), sites


@dataclass(frozen=True, eq=False)
class _Reading:
    """Posterior of a micrograph by patches, given its pixel size, and what patches show."""

    alternative: Alternative
    features: Tensor
    surprise: np.ndarray | None


@dataclass(frozen=True, eq=False)
class Micrograph:
    """A micrograph, which is read under one context or another.

    Attributes
    ----------
    placement : Placement
        Its sites.
    every : SitePrior
        Prior of all of them.
    stated : float or None
        Size of a pixel in Å by the coordinates of the image.
    model : PatchModel
        The network, and the prior of both ways.
    num_draws, seed : int
        Of draws.
    """

    placement: Placement
    every: SitePrior
    stated: float | None
    model: PatchModel
    num_draws: int
    seed: int

    @classmethod
    def of(
        cls,
        inputs: Inputs,
        known: Mapping[str, object],
        model: PatchModel,
        num_draws: int,
        seed: int,
    ) -> Micrograph:
        """Place the sites of an image.

        Parameters
        ----------
        inputs : Inputs
            The image.
        known : mapping
            The checked context, of which the abundances are always taken.
        model : PatchModel
            The network.
        num_draws, seed : int
            Of draws.

        Returns
        -------
        Micrograph
            Its sites, with their prior.
        """
        placement = place_sites(inputs.values, inputs.valid)
        sublattice = torch.from_numpy(placement.sublattice).long()
        every = SitePrior.of_lattice(model.prior, sublattice).given(model.prior, known)
        return cls(placement, every, inputs.sampling, model, num_draws, seed)

    @property
    def crystal(self) -> SitePrior:
        """Prior of the sites with crystal."""
        return self.every.take(torch.from_numpy(self.placement.crystal))

    def by_patches(self, known: Mapping[str, object]) -> list[_Reading]:
        """Read by patches.

        Parameters
        ----------
        known : mapping
            The checked context.

        Returns
        -------
        list of _Reading
            At the pixel sizes that the hosts imply.
        """
        scales = candidate_scales(self.placement.lattice, known, self.stated, self.model.prior)
        return [self._read_at(scale, known) for scale in scales]

    def _read_at(self, scale: Scale, known: Mapping[str, object]) -> _Reading:
        """Posterior given that the host is one of those that imply a pixel size."""
        model, seed = self.model, self.seed
        features, surprise = encode(cut_patches(self.placement, scale.sampling, model.prior), model)
        context = {**known, "host": scale.hosts}
        (case,) = group_images(model.prior, context, 1, self.num_draws, seed)
        enumerated, table = (case.materials.row(0), case.possible[0]), tabulate(model, case)
        found = one_image(table, features, *enumerated, self.crystal, float(model.correlation))
        alternative = Alternative(case, found, scale.log_weight, scale.sampling)
        return _Reading(alternative, features, surprise)

    def by_pixels(
        self,
        known: Mapping[str, object],
        alternatives: Sequence[Alternative],
        posterior: Posterior,
        way: Way,
    ) -> tuple[Posterior, dict[str, float]] | None:
        """Read by all pixels.

        Parameters
        ----------
        known : mapping
            The checked context.
        alternatives, posterior : sequence of Alternative, Posterior
            By patches.
        way : Way
            Whether progress is shown.

        Returns
        -------
        posterior : Posterior
            By all pixels.
        conflict : dict of str to float
            Evidence against claims, see ``conflict_by_pixels``. Instead of both None if the
            simulator cannot be fitted.
        """
        given = self.placement, alternatives, posterior, self.every, known, self.stated
        try:
            solved, weight = solve_by_pixels(
                *given, self.model.prior, self.num_draws, self.seed, progress=way.progress
            )
            return solved, conflict_by_pixels(known, weight, self.weigh)
        except torch.linalg.LinAlgError as error:
            refuse_pixels(way, error)
            return None

    def weigh(self, known: Mapping[str, object], *near: Mapping[str, float]) -> Weight:
        """Weigh a context by the pixels in the middle of the image.

        Parameters
        ----------
        known : mapping
            The checked context.
        *near : mapping of str to float
            Values of the shared variables, at which the search also begins.

        Returns
        -------
        Weight
            In nats, up to a constant of the image.
        """
        alternatives = [reading.alternative for reading in self.by_patches(known)]
        given = self.placement, alternatives, self.every, known, self.stated
        lattices = list_candidates(*given, self.model.prior, self.seed, MOST_OPEN, near)
        return weigh_lattices(lattices, weigh_scan(lattices.candidates, seed=self.seed))
